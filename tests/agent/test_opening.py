"""Opening a campaign: begun anew, gone on with or reopened, and what a hidden split remembers through all of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_campaign import OUTCOME, RATES, FakeExecutor, Scripted, kinds, night, opened
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe, with_main

from slm_ar.core.agent import ledger
from slm_ar.core.agent.edits import revision_digest, set_knobs
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.opening import campaign_identity, ensure_campaign
from slm_ar.core.agent.replay import replay, replay_all
from slm_ar.core.contracts import Status
from slm_ar.core.errors import JournalError, TrainingError, UsageError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import Recipe
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text

BROKEN = with_main("raise ValueError('no luck')")
OTHER = {"budget": {"steps": 9}}


def ensure(
    journal: Journal,
    data: PreparedData,
    recipe: Recipe | None = None,
    train_py: str = TINY_TRAIN_PY,
    may_start: bool = True,
) -> str | None:
    return ensure_campaign(journal, recipe or toy_recipe(), data, toy_machine(), train_py, may_start)


def bodies(journal: Journal, kind: str) -> list[Any]:
    return [event.body for event in journal.events if event.kind == kind]


def fails_calibration(workspace: Path, journal: Journal, data: PreparedData) -> None:
    """A campaign that starts from a train.py which cannot be measured."""
    broken = replace(OUTCOME, status=Status.CRASHED, reason="ValueError: no luck")
    ensure(journal, data, train_py=BROKEN)
    campaign = opened_as(BROKEN, workspace, journal, data, FakeExecutor(lambda job: broken))
    with pytest.raises(TrainingError, match="cannot be measured"):
        night(campaign, Scripted(*RATES))


def opened_as(
    train_py: str, workspace: Path, journal: Journal, data: PreparedData, executor: FakeExecutor | None = None
) -> Any:
    from slm_ar.core.agent.campaign import Campaign
    from slm_ar.core.report.terminal import QuietDisplay

    ensure(journal, data, train_py=train_py)
    fake: Any = executor or FakeExecutor()
    return Campaign(workspace, toy_recipe(), journal, fake, QuietDisplay(), "program")


# --- a start that did not work --------------------------------------------------------------


def test_a_campaign_that_never_calibrated_is_begun_again_with_the_mended_code(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    fails_calibration(workspace, journal, tiny_data)
    assert ensure(journal, tiny_data) is not None
    assert kinds(journal).count("campaign_started") == 2
    state = replay(journal.events)
    assert state is not None
    assert state.baseline == state.head == state.rung == revision_digest(TINY_TRAIN_PY)
    assert state.runs == () and state.open_run is None and state.stop_reason is None
    assert state.identity == campaign_identity(toy_recipe(), tiny_data, toy_machine())
    campaign = opened(workspace, journal, tiny_data)
    assert night(campaign, Scripted(*RATES)) == "planned experiments done"
    assert len([run for run in campaign.state.runs if run.role == "calibrate"]) == 3
    assert {item.proposer for item in campaign.state.experiments} == {"scripted"}
    assert ensure(journal, tiny_data) is None


def test_unmended_code_goes_on_with_the_same_campaign(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    fails_calibration(workspace, journal, tiny_data)
    assert ensure(journal, tiny_data, train_py=BROKEN) is None
    assert kinds(journal).count("campaign_started") == 1


def test_what_is_told_of_a_mended_start_is_train_py(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    """Neither the recipe nor the scoring changed: it is the starting code."""
    fails_calibration(workspace, journal, tiny_data)
    why = ensure(journal, tiny_data)
    assert why is not None
    assert "scoring" not in why
    assert "mended" in why or "starting code" in why or "changed: train.py" in why


def test_code_that_cannot_work_is_refused_before_anything_is_written(journal: Journal, tiny_data: PreparedData) -> None:
    with pytest.raises(TrainingError):
        ensure(journal, tiny_data, train_py="print('hello')\n")
    assert kinds(journal) == []


def test_once_calibrated_another_train_py_is_no_reason_for_another_campaign(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    night(opened(workspace, journal, tiny_data), Scripted(*RATES))
    assert ensure(journal, tiny_data, train_py=set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.2})) is None
    assert ensure(journal, tiny_data, train_py="def main(:") is None
    assert kinds(journal).count("campaign_started") == 1


# --- there and back -------------------------------------------------------------------------


def test_a_changed_recipe_starts_a_campaign_and_changing_it_back_reopens_the_old_one(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    first = opened(workspace, journal, tiny_data)
    night(first, Scripted(*RATES))
    before = first.state
    why = ensure(journal, tiny_data, toy_recipe(**OTHER))
    assert why is not None and "this changed: the recipe" in why
    other = replay(journal.events)
    assert other is not None and other.experiments == () and other.identity != before.identity

    why = ensure(journal, tiny_data)
    assert why is not None and why.startswith(f"back in the campaign of {before.started_at[:16]}")
    assert kinds(journal)[-1] == "campaign_reopened"
    assert kinds(journal).count("campaign_started") == 2
    after = replay(journal.events)
    assert after is not None
    for name in ("identity", "baseline", "head", "rung", "revisions", "runs", "experiments", "claims", "sigma"):
        assert getattr(after, name) == getattr(before, name), name
    assert ensure(journal, tiny_data) is None, "it is open already"
    assert list(replay_all(journal.events))[-1] == before.identity


def test_a_reopened_campaign_counts_the_claims_of_its_new_night_from_the_start(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    """Claim ids go on, so that their seeds stay fresh; what counts against the alpha of this night starts again."""
    night(opened(workspace, journal, tiny_data), Scripted(*RATES))
    ensure(journal, tiny_data, toy_recipe(**OTHER))
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES, {"MATRIX_LR": 0.16}, {"MATRIX_LR": 0.2}), 2)
    state = campaign.state
    assert len(state.experiments) == 6
    assert [claim.id for claim in state.claims] == [1, 2]
    assert state.facts["claims_before"] == 1
    old, new = ({run.seed for run in state.runs if run.claim == claim.id} for claim in state.claims)
    assert old and new and not old & new
    assert state.claims[1].alpha < state.claims[0].alpha


def test_a_run_that_a_kill_left_open_is_closed_after_there_and_back(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    facts = {"role": "calibrate", "revision": campaign.state.baseline, "seed": 1, "attempt": 1}
    journal.append("run_started", {**facts, "experiment": None, "claim": None})
    ensure(journal, tiny_data, toy_recipe(**OTHER))
    campaign = opened(workspace, journal, tiny_data)
    assert campaign.state.open_run is not None
    night(campaign, Scripted(*RATES))
    assert kinds(journal).count("run_interrupted") == 1
    assert campaign.state.open_run is None


def test_reopening_what_never_was_is_a_damaged_journal(journal: Journal, tiny_data: PreparedData) -> None:
    ensure(journal, tiny_data)
    journal.append("campaign_reopened", {"identity": "unknown", "night": 0})
    with pytest.raises(JournalError, match="another version"):
        replay(journal.events)


# --- only an existing campaign will do ------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "machine", "named"),
    [
        (OTHER, {}, "the recipe"),
        ({}, {"torch": "9.9"}, "torch"),
        ({}, {"threads": 7}, "threads"),
        ({}, {"precision": "bfloat16"}, "precision"),
        (OTHER, {"device": "cuda"}, "device, the recipe"),
    ],
)
def test_where_nothing_may_start_what_changed_is_named(
    journal: Journal, tiny_data: PreparedData, recipe: dict[str, Any], machine: dict[str, Any], named: str
) -> None:
    ensure(journal, tiny_data)
    with pytest.raises(UsageError) as error:
        ensure_campaign(
            journal, toy_recipe(**recipe), tiny_data, toy_machine(**machine), TINY_TRAIN_PY, may_start=False
        )
    assert error.value.message.endswith(f"because this changed: {named}")
    assert "slm-ar run" in error.value.hint
    assert kinds(journal) == ["campaign_started"]


def test_changed_data_are_named(journal: Journal, tiny_data: PreparedData) -> None:
    ensure(journal, tiny_data)
    other = replace(tiny_data, manifest=replace(tiny_data.manifest, shard_digest="0" * 64))
    with pytest.raises(UsageError, match=r"this changed: the prepared data\n"):
        ensure_campaign(journal, toy_recipe(), other, toy_machine(), TINY_TRAIN_PY, may_start=False)


def test_where_nothing_may_start_an_existing_campaign_is_gone_on_with(
    journal: Journal, tiny_data: PreparedData
) -> None:
    with pytest.raises(UsageError, match="would be a new campaign"):
        ensure(journal, tiny_data, may_start=False)
    ensure(journal, tiny_data)
    assert ensure(journal, tiny_data, may_start=False) is None
    ensure(journal, tiny_data, toy_recipe(**OTHER))
    why = ensure(journal, tiny_data, may_start=False)
    assert why is not None and why.startswith("back in the campaign")


# --- nights on one hidden split -------------------------------------------------------------


def there_and_back(workspace: Path, journal: Journal, data: PreparedData) -> list[float]:
    """The alpha of the first claim of each of four nights, two campaigns in turn, all on one hidden split."""
    alphas = []
    more = [{"MATRIX_LR": rate} for rate in (0.16, 0.18, 0.2, 0.22, 0.24, 0.26)]
    for tables, count in (({}, 4), (OTHER, 4), ({}, 6), (OTHER, 6)):
        seen = len(bodies(journal, "claim_opened"))
        campaign = opened(workspace, journal, data, recipe=toy_recipe(**tables))
        night(campaign, Scripted(*RATES, *more[: count - 4]), 4 if count == 4 else 2)
        alphas.append(bodies(journal, "claim_opened")[seen]["alpha"])
    return alphas


def test_alpha_that_was_spent_is_never_given_back(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    alphas = there_and_back(workspace, journal, tiny_data)
    assert len(alphas) == 4
    for before, after in pairwise(alphas):
        assert after <= before / 2 * (1 + 1e-9)


def test_every_night_halves_alpha_once(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    """Coming back is one night, not two: no proof is made harder than the rule says."""
    alphas = there_and_back(workspace, journal, tiny_data)
    assert alphas == pytest.approx([alphas[0] / 2**number for number in range(4)])


def test_nights_without_a_claim_cost_nothing(journal: Journal, tiny_data: PreparedData) -> None:
    for tables in ({}, OTHER, {}, OTHER, {}):
        ensure(journal, tiny_data, toy_recipe(**tables))
    assert {body["night"] for body in bodies(journal, "campaign_reopened")} == {0}
    assert {body["facts"]["night"] for body in bodies(journal, "campaign_started")} == {0}


def test_another_hidden_split_has_its_whole_alpha(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    night(opened(workspace, journal, tiny_data), Scripted(*RATES))
    fresh = replace(tiny_data, manifest=replace(tiny_data.manifest, held_digest="f" * 16))
    ensure(journal, fresh)
    state = replay(journal.events)
    assert state is not None and state.facts["night"] == 0
    ensure(journal, tiny_data)
    state = replay(journal.events)
    assert state is not None and state.facts["night"] == 1


def test_nights_are_counted_over_all_workspaces_with_the_same_hidden_split(
    tmp_path: Path, tiny_data: PreparedData
) -> None:
    """Also when a workspace is begun anew in the same place: forgetting the journal gives no alpha back."""
    alphas = []
    for name in ("one", "two", "three", "two"):
        folder = tmp_path / name / f".slm{len(alphas)}"
        folder.mkdir(parents=True)
        with Journal(folder) as journal:
            for _ in range(1 + (name == "one")):  # a night that is gone on with is still the same night
                campaign = opened(folder, journal, tiny_data)
                night(campaign, Scripted(*RATES))
            (claim,) = bodies(journal, "claim_opened")
            alphas.append((claim["alpha"], claim["night"]))
            summary = summarise(campaign.state)
    assert alphas == [(pytest.approx(alphas[0][0] / 2**number), number) for number in range(4)]
    assert "3 nights before asked it too" in summary.asked
    assert "asked:" in status_text(summary)


def test_asking_a_split_again_and_again_is_told(
    workspace: Path, journal: Journal, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    campaign = opened(workspace, journal, tiny_data)
    hidden = ledger.hidden_name(campaign.state)
    for number in range(ledger.MANY_NIGHTS):
        assert ledger.count_night(hidden, f"night-{number}") == number
    assert ledger.nights_before(hidden, "night-2") == 2
    assert ledger.nights_before(hidden, "tonight") == ledger.MANY_NIGHTS
    monkeypatch.setattr(campaign.display, "note", told.append, raising=False)
    night(campaign, Scripted(*RATES))
    assert any("newer data would prove more" in note for note in told)
    assert "nearly used up" in summarise(campaign.state).asked
