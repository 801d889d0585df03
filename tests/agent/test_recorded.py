"""Replay: a recorded campaign is proposed again in its order; what cannot be read is told by file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_campaign import RATES, Scripted, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent.edits import revision_digest, set_knobs
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.contracts import PastExperiment, ResearchContext, Status
from slm_ar.core.errors import JournalError, ProposerError, UsageError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import ProposerTable

START = revision_digest(TINY_TRAIN_PY)
CONTEXT = ResearchContext("p", TINY_TRAIN_PY, START, (), {}, {}, 0, 0.01)
TEXTS = [set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": rate}) for rate in (0.04, 0.01, 0.08)]


def proposed(text: str, **body: Any) -> dict[str, Any]:
    facts = {
        "revision": revision_digest(text),
        "parent": START,
        "proposer": "claude",
        "hypothesis": "h\x1b",
        "train_py": text,
    }
    return {"kind": "proposed", "body": {**facts, "rationale": "r", **body}}


def write_rendered(path: Path, *events: dict[str, Any]) -> Path:
    lines = [json.dumps({"number": place, "at": "", "hash": "", **event}) for place, event in enumerate(events, 1)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def replay_of(recording: object, workspace: Path) -> Any:
    table = ProposerTable.model_validate({"name": "replay", "recording": str(recording)})
    return make_proposer("replay", Setting(table, workspace / ".slm", "toy"))


EVENTS = (
    {"kind": "campaign_started", "body": {}},
    proposed(TEXTS[0]),
    {"kind": "judged", "body": {}},
    proposed(TINY_TRAIN_PY, proposer="placebo"),
    proposed(TINY_TRAIN_PY),  # an experiment without an edit
    proposed(TEXTS[1]),
    proposed(TEXTS[0], proposer="human"),  # once more
    proposed(TEXTS[2]),
)


def test_recorded_experiments_in_order_without_placebos_and_repetitions(tmp_path: Path) -> None:
    replay = replay_of(write_rendered(tmp_path / "journal.jsonl", *EVENTS), tmp_path)
    assert "3 recorded experiments" in replay.opening_line
    context, found = CONTEXT, []
    while (proposal := replay.propose(context)) is not None:
        found.append(proposal.train_py)
        assert (proposal.hypothesis, proposal.unusable) == ("h", "") and "claude" in proposal.rationale
        past = PastExperiment(
            len(found), revision_digest(proposal.train_py), START, "replay", "h", Status.KEPT, 1.0, {}, "t"
        )
        context = replace(context, history=(*context.history, past))
    assert found == TEXTS


def test_what_the_campaign_holds_is_passed_over(tmp_path: Path) -> None:
    replay = replay_of(write_rendered(tmp_path / "journal.jsonl", *EVENTS), tmp_path)
    at_first = replace(CONTEXT, train_py=TEXTS[0], revision=revision_digest(TEXTS[0]))
    assert replay.propose(at_first).train_py == TEXTS[1]


def test_a_relative_recording_counts_from_the_workspace(tmp_path: Path) -> None:
    write_rendered(tmp_path / "journal.jsonl", *EVENTS)
    assert replay_of("journal.jsonl", tmp_path).propose(CONTEXT) is not None


@pytest.mark.parametrize("name", ["", ".slm"])
def test_a_campaign_is_replayed_from_its_workspace(
    name: str, workspace: Path, tmp_path: Path, tiny_data: PreparedData
) -> None:
    recipe = toy_recipe(gate={"claim_every": 50})
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data, recipe=recipe)
        night(campaign, Scripted(*RATES), 4)
        recorded = [(item.hypothesis, item.revision, item.status) for item in campaign.state.experiments]
    again = tmp_path / "again"
    again.mkdir()
    with Journal(again / ".slm") as journal:
        campaign = opened(again, journal, tiny_data, recipe=recipe)
        night(campaign, replay_of(workspace / name, again), 4)
        replayed = [(item.hypothesis, item.revision, item.status) for item in campaign.state.experiments]
        assert {item.proposer for item in campaign.state.experiments} == {"replay"}
    assert replayed == recorded


Break = Callable[[list[str]], object]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines.insert(2, "{half"), "line 3: it is no JSON"),
        (lambda lines: lines.insert(2, "[1]"), "line 3: it is no event"),
        (lambda lines: lines.insert(2, '{"number": 3}'), "line 3: it is no event"),
        (lambda lines: lines.insert(2, "[" * 100_000), "line 3: "),
        (lambda lines: lines.pop(2), "line 3: it holds event 4, so lines are missing"),
        (lambda lines: lines.insert(2, "\udcff"), "line "),
        (
            lambda lines: lines.__setitem__(1, lines[1].replace("0.04", "0.05")),
            "line 2: the recorded train.py is not the",
        ),
        (lambda lines: lines.clear(), "holds no experiment"),
    ],
)
def test_a_broken_recording_is_told_with_file_and_line(tmp_path: Path, change: Break, words: str) -> None:
    path = write_rendered(tmp_path / "journal.jsonl", *EVENTS)
    lines = path.read_text(encoding="utf-8").splitlines()
    change(lines)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ProposerError) as failure:
        replay_of(path, tmp_path)
    assert (
        words in failure.value.message and str(path) in failure.value.message and "journal.jsonl" in failure.value.hint
    )


def test_a_recorded_code_that_cannot_work_is_refused(tmp_path: Path) -> None:
    path = write_rendered(tmp_path / "journal.jsonl", proposed("import os\n"))
    with pytest.raises(ProposerError, match=r"line 1: the recorded train.py cannot be used: .*no function build_model"):
        replay_of(path, tmp_path)


def test_what_is_no_recording(tmp_path: Path, workspace: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    none, pipe = tmp_path / "none.jsonl", tmp_path / "pipe"
    for path in (none, pipe, "/dev/null", "x" * 5000, "a\0b", "~nobody-here/x", tmp_path):
        with pytest.raises(ProposerError, match=r"cannot be read: \w|no recorded campaign"):
            replay_of(path, tmp_path)
    (workspace / ".slm").mkdir()
    (workspace / ".slm" / "journal.db").write_bytes(b"nonsense" * 1000)
    with pytest.raises(JournalError, match="damaged"):
        replay_of(workspace, tmp_path)
    with pytest.raises(UsageError, match="needs a recording"):
        make_proposer("replay", Setting(ProposerTable(name="replay"), tmp_path / ".slm", "toy"))


def test_human_waits_for_nobody(workspace: Path, tiny_data: PreparedData) -> None:
    """A hand edit is an experiment; without another one the night ends and says what to do."""
    told: list[str] = []
    human = make_proposer("human", Setting(ProposerTable(name="human"), workspace / ".slm", "toy", told.append))
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data)
        (workspace / "train.py").write_text(TEXTS[0], encoding="utf-8")
        assert "there was no new edit of train.py to try" in night(campaign, human, 3)
        assert [item.proposer for item in campaign.state.experiments] == ["human"]
        assert campaign.state.claims and campaign.state.claims[0].verdict is not None
    assert len(told) == 1 and f"change {workspace / 'train.py'}" in told[0] and campaign.state.head[:8] in told[0]
