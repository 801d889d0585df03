"""What the journal keeps of the sandbox: noted when it changes, never weaker than before without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_ar.core.agent.isolation import hold_isolation, last_walls, level_of, refuse_weaker, weaker_line
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.replay import replay
from slm_ar.core.cli.unsafe import walls_line
from slm_ar.core.train.sandbox import plans
from slm_ar.core.train.sandbox.canaries import Outcome, Proof
from slm_ar.core.train.sandbox.choice import Isolation, NoSandboxError, repair_lines

BETTER = ((plans.BUBBLEWRAP, "bwrap: setting up uid map: Permission denied"),)


def proved(plan: plans.Plan, passed_over: tuple[tuple[plans.Plan, str], ...] = ()) -> Isolation:
    return Isolation(Proof(plan, (Outcome("read a private file", plan.is_isolated, ""),), ""), passed_over)


def journal_with(folder: Path, isolation: Isolation) -> Journal:
    journal = Journal(folder)
    facts = {"isolation": isolation.words}
    journal.append("campaign_started", {"identity": "a", "facts": facts, "baseline": "b", "train_py": "pass"})
    hold_isolation(journal, isolation, may_be_weaker=False)
    return journal


def isolation_of(journal: Journal) -> str:
    state = replay(journal.events)
    assert state is not None
    return str(state.facts["isolation"])


def test_equal_nights_are_noted_once_and_changes_each_time(tmp_path: Path) -> None:
    with journal_with(tmp_path, proved(plans.LANDLOCK)) as journal:
        for plan in (plans.LANDLOCK, plans.BUBBLEWRAP, plans.BUBBLEWRAP):
            hold_isolation(journal, proved(plan), may_be_weaker=False)
        noted = [event.body["level"] for event in journal.events if event.kind == "sandbox"]
        assert noted == [1, 3]
        assert isolation_of(journal) == "level 1 (landlock and seccomp)"


@pytest.mark.parametrize("now", [plans.LANDLOCK, plans.NONE])
def test_less_than_before_is_refused_with_the_reason_and_accepted_when_asked_for(
    tmp_path: Path, now: plans.Plan
) -> None:
    with journal_with(tmp_path, proved(plans.BUBBLEWRAP)) as journal:
        with pytest.raises(NoSandboxError, match=r"ran under level 3 \(bubblewrap\); now only .* uid map") as caught:
            hold_isolation(journal, proved(now, BETTER), may_be_weaker=False)
        assert "--allow-unsafe" in caught.value.hint
        assert isolation_of(journal) == "level 3 (bubblewrap)"
        hold_isolation(journal, proved(now, BETTER), may_be_weaker=True)
        assert isolation_of(journal) == proved(now).words


def test_another_campaign_of_the_workspace_is_no_way_around_its_walls(tmp_path: Path) -> None:
    with journal_with(tmp_path, proved(plans.BUBBLEWRAP)) as journal:
        with pytest.raises(NoSandboxError, match=r"last campaign run here was under level 3 \(bubblewrap\); now only"):
            refuse_weaker(journal, proved(plans.LANDLOCK, BETTER), may_be_weaker=False)
        refuse_weaker(journal, proved(plans.BUBBLEWRAP), may_be_weaker=False)
        refuse_weaker(journal, proved(plans.LANDLOCK, BETTER), may_be_weaker=True)
        facts = {"isolation": "level 1 (landlock and seccomp)"}
        journal.append("campaign_started", {"identity": "b", "facts": facts, "baseline": "b", "train_py": "pass"})
        assert last_walls(journal.events) == "level 3 (bubblewrap)"
        hold_isolation(journal, proved(plans.LANDLOCK, BETTER), may_be_weaker=True)
        assert last_walls(journal.events) == "level 1 (landlock and seccomp)", "what was accepted once is the last time"
        refuse_weaker(journal, proved(plans.LANDLOCK, BETTER), may_be_weaker=False)
    with Journal(tmp_path / "new") as journal:
        refuse_weaker(journal, proved(plans.LANDLOCK), may_be_weaker=False)
        assert last_walls(journal.events) == "none"


@pytest.mark.parametrize(
    ("system", "now", "last", "words"),
    [
        ("Linux", plans.BUBBLEWRAP, "level 3 (bubblewrap)", ""),
        ("Linux", plans.BUBBLEWRAP, "none", ""),
        ("Linux", plans.LANDLOCK, "level 1 (landlock and seccomp)", "sandbox: level 1 (landlock and seccomp): train"),
        ("Linux", plans.LANDLOCK, "level 3 (bubblewrap)", "; last time it was level 3 (bubblewrap)"),
        ("Linux", plans.NONE, "level 1 (landlock and seccomp)", "no sandbox: not isolated"),
        ("Linux", plans.LANDLOCK, "none", "sandbox: level 1 (landlock and seccomp): training code"),
        ("Darwin", plans.SEATBELT, "level 2 (Seatbelt)", ""),
        ("Darwin", plans.SEATBELT, "none", ""),
        ("Darwin", plans.SEATBELT, "level 3 (bubblewrap)", "; last time it was level 3 (bubblewrap)"),
        ("Darwin", plans.NONE, "none", "no sandbox: not isolated"),
        ("Windows", plans.NONE, "none", "no sandbox: not isolated"),
    ],
)
def test_weak_walls_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, system: str, now: plans.Plan, last: str, words: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    line = weaker_line(proved(now), last)
    assert last != "none" or walls_line(proved(now), None) == line
    assert words in line and bool(line) == bool(words) and "\n" not in line
    assert ("last time" in line) == (now.level < level_of(last))


def test_nothing_raises_a_campaign_that_once_ran_without_walls(tmp_path: Path) -> None:
    with journal_with(tmp_path, proved(plans.NONE)) as journal:
        hold_isolation(journal, proved(plans.BUBBLEWRAP), may_be_weaker=False)
        assert isolation_of(journal) == "none"


@pytest.mark.parametrize(
    ("words", "level"),
    [("none", 0), ("", 0), ("level 1 (landlock and seccomp)", 1), ("level 3 (bubblewrap)", 3), ("namespaces", 0)],
)
def test_levels_are_read_from_words(words: str, level: int) -> None:
    assert level_of(words) == level


def test_every_way_to_a_better_level_is_one_line_that_fits_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ((plans.BUBBLEWRAP, plans.NO_BUBBLEWRAP),)
    for system, isolation, said in (
        ("Linux", proved(plans.BUBBLEWRAP), ""),
        ("Linux", proved(plans.LANDLOCK, missing), "apt install bubblewrap"),
        ("Linux", proved(plans.LANDLOCK, BETTER), "AppArmor"),
        ("Linux", None, "AppArmor"),
        ("Darwin", proved(plans.SEATBELT), ""),
        ("Darwin", proved(plans.NONE), "Seatbelt did not hold"),
        ("Windows", proved(plans.NONE), "WSL2"),
    ):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        lines = repair_lines(isolation)
        assert bool(lines) is bool(said)
        assert said in "\n".join(lines)
