"""Proposals that are tried before they are trained: which ones, what a failure costs, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_campaign import OUTCOME, RATES, WORKS, FakeExecutor, Scripted, StopError, kinds, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent import smoking
from slm_ar.core.agent.campaign import MOST_FAILURES_IN_A_ROW
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.opening import research_context
from slm_ar.core.agent.replay import replay
from slm_ar.core.agent.running import SMOKE_FOLDER
from slm_ar.core.contracts import Proposal, ResearchContext, Status, TrainOutcome
from slm_ar.core.errors import TrainingError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.html import render_html
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text
from slm_ar.core.train.device_lock import take_device
from slm_ar.core.train.smoke import Smoke
from slm_ar.core.train.training_run import TrainJob

CRASH = Smoke(Status.CRASHED, "ValueError: no (train.py line 9)", 0.0, 0, 0, 80.0, 0.2)
BUSY = Smoke(Status.DISTURBED, "no complete checkpoint; other programs", 0.0, 0, 0, 80.0, 60.0)
NO_CLAIMS = toy_recipe(gate={"claim_every": 50})


class Edits:
    """Proposes texts, in order."""

    name = "edits"

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def propose(self, context: ResearchContext) -> Proposal | None:
        if len(context.history) >= len(self.texts):
            return None
        number = len(context.history)
        return Proposal(f"edit {number + 1}", "", self.texts[number])


def edited(number: int) -> str:
    """The toy with another template, and a rate that is not better."""
    return TINY_TRAIN_PY.replace("* 0.1)", f"* 0.1{number})").replace("MATRIX_LR = 0.02", "MATRIX_LR = 0.01")


# --- which ----------------------------------------------------------------------------------


def test_rates_are_not_tried_and_larger_batches_and_models_are(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    """The last two are no larger, in every respect, than something that worked."""
    changes: list[dict[str, Any]] = [
        {"MATRIX_LR": 0.01},
        {"WIDTH": 32},
        {"BATCH_TOKENS": 512},
        {"BATCH_TOKENS": 128, "CONTEXT": 16, "WIDTH": 8},
        {"WIDTH": 32, "CONTEXT": 16, "MATRIX_LR": 0.005},
    ]
    changes = [{"MATRIX_LR": 0.009, **change} for change in changes]
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(gate={"claim_every": 50}))
    night(campaign, Scripted(*changes), 5)
    assert [item.smoke is not None for item in campaign.state.experiments] == [False, True, True, False, False]
    assert len(executor.tried) == 2
    assert executor.windows == 2 * [campaign.recipe.evaluation.context]
    assert not (workspace / ".slm" / "runs" / SMOKE_FOLDER).exists()


def test_a_code_of_another_shape_is_tried_until_it_was_scored(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor, NO_CLAIMS)
    same = edited(1).replace("MATRIX_LR = 0.01", "MATRIX_LR = 0.011")
    night(campaign, Edits(edited(1), same, edited(2)), 3)
    assert [item.smoke is not None for item in campaign.state.experiments] == [True, False, True]
    assert executor.tried[0].train_py == edited(1)
    search = [run.seed for run in campaign.state.runs if run.role == "search"]
    assert executor.tried[0].seed == search[0]


def test_what_was_tried_and_failed_is_tried_again_with_other_knobs(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    executor.smokes = lambda job: CRASH
    campaign = opened(workspace, journal, tiny_data, executor, NO_CLAIMS)
    night(campaign, Edits(edited(1), edited(1).replace("= 0.01 ", "= 0.012 ")), 2)
    assert len(executor.tried) == 2


@pytest.mark.parametrize(
    ("worked", "wanted", "covers"),
    [
        ({"WIDTH": 16, "LR": 0.1}, {"WIDTH": 16, "LR": 0.2}, True),
        ({"WIDTH": 16}, {"WIDTH": 32}, False),
        ({"TARGET_PARAMS_M": 2.0, "CONTEXT": 256}, {"TARGET_PARAMS_M": 0.5, "CONTEXT": 512}, False),
        ({"TARGET_PARAMS_M": 2.0, "CONTEXT": 256}, {"TARGET_PARAMS_M": 0.5, "CONTEXT": 128}, True),
        ({"LAYERS": 4}, {"DEPTH": 2}, False),
        ({"BATCH_TOKENS": "big"}, {"BATCH_TOKENS": "small"}, False),
        ({}, {"LR": 0.1}, True),
    ],
)
def test_a_setting_covers_what_is_no_larger(worked: dict[str, Any], wanted: dict[str, Any], covers: bool) -> None:
    assert smoking._covers(worked, wanted) is covers


# --- what a failure is ----------------------------------------------------------------------


def test_a_failure_is_judged_at_once_and_costs_no_budget(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    executor.smokes = lambda job: CRASH if job.train_py == edited(1) else WORKS
    campaign = opened(workspace, journal, tiny_data, executor, NO_CLAIMS)
    assert night(campaign, Edits(edited(1), edited(2)), 2) == "planned experiments done"
    state = campaign.state
    failed, fine = state.experiments
    assert (failed.status, failed.reason, failed.run) == (Status.CRASHED, CRASH.reason, None)
    assert fine.status is Status.REVERTED and fine.run is not None
    assert edited(1) not in [job.train_py for job in executor.jobs]
    assert state.head == state.baseline
    history = research_context(state, "p", campaign.recipe, executor.machine).history
    assert (history[0].status, history[0].reason) == (Status.CRASHED, CRASH.reason)
    assert replay(journal.events) == state
    text = status_text(summarise(state))
    assert "crashed, before training  edit 1" in text
    assert "1 failed before training" in " ".join(text.split())
    assert summarise(state).failed_share == 0
    assert "two steps on made-up data" in render_html(summarise(state), state)


def test_on_a_busy_machine_the_run_decides(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    executor = FakeExecutor()
    executor.smokes = lambda job: BUSY
    campaign = opened(workspace, journal, tiny_data, executor, NO_CLAIMS)
    night(campaign, Edits(edited(1)), 1)
    (item,) = campaign.state.experiments
    assert item.status is Status.REVERTED and item.run is not None
    assert not smoking.failed_before_training(item)
    assert len(executor.tried) == 1


def test_failures_of_runs_count_in_the_share(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    def late(job: TrainJob) -> TrainOutcome:
        if job.train_py == edited(2):
            return replace(OUTCOME, status=Status.TIMEOUT, reason="no complete checkpoint", train_seconds=0.3)
        return OUTCOME

    campaign = opened(workspace, journal, tiny_data, FakeExecutor(late), NO_CLAIMS)
    assert smoking.failed_share(campaign.state) is None
    night(campaign, Edits(edited(1), edited(2)), 2)
    assert smoking.failed_share(campaign.state) == pytest.approx(0.75)
    pruned = [replace(run, outcome=replace(run.outcome, status=Status.PRUNED)) for run in campaign.state.runs]
    assert smoking.failed_share(replace(campaign.state, runs=tuple(pruned))) == 0, "a hopeless idea is no failure"
    assert "75.0 % of the training time went into failures" in " ".join(status_text(summarise(campaign.state)).split())


def test_failures_in_a_row_end_the_night_also_before_training(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    executor.smokes = lambda job: CRASH
    campaign = opened(workspace, journal, tiny_data, executor, NO_CLAIMS)
    with pytest.raises(TrainingError, match="in a row failed"):
        night(campaign, Edits(*(edited(number) for number in range(1, 20))), 15)  # no placebo, which would not fail
    assert len(campaign.state.experiments) == MOST_FAILURES_IN_A_ROW
    assert {run.role for run in campaign.state.runs} == {"calibrate"}


def test_the_start_placebos_and_claims_are_not_tried(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor)
    night(campaign, Scripted(*RATES))
    assert {run.role for run in campaign.state.runs} >= {"calibrate", "search", "claim"}
    assert executor.tried == []


def is_free(device: str) -> bool:
    lock = take_device(device, lambda words: None, stop_at=0.0)
    if lock is not None:
        lock.close()
    return lock is not None


@pytest.mark.parametrize(("budget", "is_held"), [({"steps": None, "seconds": 30.0}, True), ({}, False)])
def test_by_the_clock_nothing_is_timed_beside_a_try(
    workspace: Path,
    journal: Journal,
    tiny_data: PreparedData,
    budget: dict[str, Any],
    is_held: bool,
) -> None:
    held: list[bool] = []
    executor = FakeExecutor()

    def smoke(job: TrainJob) -> Smoke:
        held.append(not is_free(executor.machine.device))
        return CRASH

    executor.smokes = smoke
    recipe = toy_recipe(gate={"claim_every": 50}, budget=budget)
    night(opened(workspace, journal, tiny_data, executor, recipe), Edits(edited(1)), 1)
    assert held == [is_held]
    assert is_free(executor.machine.device)


# --- kills ----------------------------------------------------------------------------------


def test_killed_in_a_try_the_night_tries_again(workspace: Path, tiny_data: PreparedData) -> None:
    def killed(job: TrainJob) -> Smoke:
        raise StopError

    executor = FakeExecutor()
    executor.smokes = killed
    with Journal(workspace / ".slm") as journal, pytest.raises(StopError):
        night(opened(workspace, journal, tiny_data, executor, NO_CLAIMS), Edits(edited(1)), 1)
    with Journal(workspace / ".slm") as journal:
        assert "smoked" not in kinds(journal)
        assert not (workspace / ".slm" / "runs" / SMOKE_FOLDER).exists()
        campaign = opened(workspace, journal, tiny_data, FakeExecutor(), NO_CLAIMS)
        assert night(campaign, Edits(edited(1))) == "planned experiments done"
        assert len(campaign.state.experiments) == 1 and kinds(journal).count("smoked") == 1


@pytest.mark.parametrize("smoke", [WORKS, CRASH])
def test_what_a_try_said_outlives_a_kill(
    workspace: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch, smoke: Smoke
) -> None:
    """Killed between the try and what follows from it: nothing is tried twice."""
    executor = FakeExecutor()
    executor.smokes = lambda job: smoke
    with Journal(workspace / ".slm") as journal:
        append = journal.append

        def dies(kind: str, body: Any) -> Any:
            written = append(kind, body)
            if kind == "smoked":
                raise StopError
            return written

        monkeypatch.setattr(journal, "append", dies)
        with pytest.raises(StopError):
            night(opened(workspace, journal, tiny_data, executor, NO_CLAIMS), Edits(edited(1)), 1)
    with Journal(workspace / ".slm") as journal:
        again = FakeExecutor()
        campaign = opened(workspace, journal, tiny_data, again, NO_CLAIMS)
        night(campaign, Edits(edited(1)))
        (item,) = campaign.state.experiments
        assert item.smoke == smoke and item.status is (smoke.status or Status.REVERTED)
        assert again.tried == []
