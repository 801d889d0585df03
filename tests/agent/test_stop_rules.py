"""How a night ends by the clock, by money or by a server that is gone: with its proof, its reason, and no work lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_campaign import OUTCOME, RATES, WORKS, FakeExecutor, FakeRun, Scripted, kinds, opened
from toys import toy_recipe

from slm_ar.core.agent import calibrator, night, running
from slm_ar.core.agent import campaign as campaign_module
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.night import Limits, proof_seconds, run_seconds
from slm_ar.core.agent.replay import replay
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Proposal, ResearchContext, Status
from slm_ar.core.errors import ProposerError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text
from slm_ar.core.train.device_lock import take_device
from slm_ar.core.train.smoke import Smoke
from slm_ar.core.train.training_run import TrainJob

RUN_SECONDS = 10.0
REASON = "the time is up: until 07:00 (--until)"


class Timed(FakeExecutor):
    """Every run takes RUN_SECONDS of a clock that nothing else moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.began: list[float] = []

    def submit(self, job: TrainJob, folder: Path) -> FakeRun:
        self.began.append(self.now)
        self.now += RUN_SECONDS
        super().submit(job, folder)
        return FakeRun(replace(OUTCOME, wall_seconds=RUN_SECONDS))


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Timed:
    timed = Timed()
    for module in (campaign_module, night):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: timed.now))
    return timed


def limits(seconds: float) -> Limits:
    return Limits(1000.0 + seconds, REASON, started=1000.0)


def many(count: int) -> list[dict[str, Any]]:
    return [{"MATRIX_LR": round(0.04 + number / 1000, 3)} for number in range(count)]


RECIPE = toy_recipe(gate={"claim_every": 50})
CALIBRATION, PROOF = 3 * RUN_SECONDS, 6 * RUN_SECONDS


def test_the_last_proof_fits_before_the_end(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    assert campaign.run(Scripted(*many(40)), 40, limits(300)) == REASON
    state = campaign.state
    assert state.claims[-1].verdict is not None and state.head == state.rung != state.baseline
    assert max(executor.began) < 1300 - RUN_SECONDS
    assert 1300 - executor.now <= 3 * RUN_SECONDS, "nor is much of the time left unused"
    assert state.stop_reason == REASON
    assert f"stopped:  {REASON}" in status_text(summarise(state))
    assert replay(journal.events) == state


@pytest.mark.parametrize("seconds", [5, 15, 45, 75, 100, 135, 160])
def test_no_run_begins_after_the_end_and_the_same_command_goes_on(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed, seconds: float
) -> None:
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    reason = campaign.run(Scripted(*many(40)), 40, limits(seconds))
    assert reason.startswith(REASON)
    assert max(executor.began) <= 1000 + seconds
    before = len(campaign.state.experiments)
    claims = len(campaign.state.claims)
    campaign.run(Scripted(*many(40)), before + 1, Limits())
    state = campaign.state
    assert all(claim.verdict is not None for claim in state.claims) and len(state.claims) <= claims + 1
    assert [item.id for item in state.experiments] == list(range(1, before + 2))


def test_a_proof_that_is_cut_off_is_told(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(gate={"claim_every": 1}))  # type: ignore[arg-type]
    reason = campaign.run(Scripted(*RATES[:1]), 1, limits(CALIBRATION + RUN_SECONDS + PROOF / 2))
    assert reason == f"{REASON}; a proof is half done, the same command goes on with it"
    assert campaign.state.claims[-1].verdict is None
    assert campaign.run(Scripted(*RATES[:1]), 1, Limits()) == "planned experiments done"
    assert campaign.state.claims[-1].verdict is not None and len(campaign.state.claims) == 1


def test_what_is_planned_and_done_is_no_matter_of_time(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    assert campaign.run(Scripted(*many(3)), 3, limits(10_000)) == "planned experiments done"


def test_the_time_of_a_run_is_measured_and_known_before_from_the_recipe(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    assert run_seconds(campaign.state, RECIPE) == 0
    by_clock = toy_recipe(budget={"steps": None, "seconds": 60.0})
    assert 60 < run_seconds(campaign.state, by_clock) < 70
    campaign.run(Scripted(*many(2)), 2, Limits())
    assert run_seconds(campaign.state, RECIPE) == pytest.approx(RUN_SECONDS, abs=0.1)
    assert proof_seconds(campaign.state, RECIPE) == 6 * run_seconds(campaign.state, RECIPE)


def test_no_run_begins_when_the_end_came_in_a_try(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    def slow(job: TrainJob) -> Smoke:
        executor.now += 500
        return WORKS

    executor.smokes = slow
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    wider = [{"WIDTH": 32, "MATRIX_LR": 0.04}]
    assert campaign.run(Scripted(*wider), 1, limits(300)) == REASON
    assert campaign.state.experiments[0].smoke == WORKS and campaign.state.experiments[0].status is None
    assert max(executor.began) <= 1300
    assert campaign.run(Scripted(*wider), 1, Limits()) == "planned experiments done"
    assert len(executor.tried) == 1 and campaign.state.experiments[0].status is not None


def test_the_time_may_be_up_while_another_campaign_trains(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(device: str, tell: Callable[[str], None], stop_at: float | None) -> None:
        assert stop_at == 1300
        executor.now = 1301

    recipe = toy_recipe(gate={"claim_every": 50}, budget={"steps": None, "seconds": 5})
    monkeypatch.setattr(running, "take_device", busy)
    campaign = opened(workspace, journal, tiny_data, executor, recipe)  # type: ignore[arg-type]
    assert campaign.run(Scripted(*many(4)), 4, limits(300)) == REASON
    assert executor.began == [], "no run begins behind the end"
    by_steps = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    assert not by_steps.waits_in_vain(1000.0), "who counts steps may share the machine"


def test_a_device_that_was_waited_for_is_kept_for_the_run(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    class Held(FakeExecutor):
        def submit(self, job: TrainJob, folder: Path) -> FakeRun:
            free.append(is_free())
            return super().submit(job, folder)

    def is_free() -> bool:
        lock = take_device(executor.machine.device, lambda words: None, stop_at=0.0)
        if lock is not None:
            lock.close()
        return lock is not None

    free: list[bool] = []
    executor = Held()
    recipe = toy_recipe(gate={"claim_every": 50}, budget={"steps": None, "seconds": 5})
    campaign = opened(workspace, journal, tiny_data, executor, recipe)
    assert not campaign.waits_in_vain(None)
    assert not is_free(), "nobody comes in between"
    campaign.give_back_device()
    assert is_free()
    campaign.run(Scripted(*many(2)), 2, Limits())
    assert free and not any(free)
    assert is_free(), "while nothing trains, others may"


def test_nothing_is_asked_for_when_the_end_came_while_sizes_were_timed(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Scripted):
        wants_rates = True

        def propose(self, context: ResearchContext) -> Proposal | None:
            raise AssertionError("asked after the end")

    def slow(runs: Campaign, state: CampaignState, left: float | None) -> None:
        assert left is not None and 0 < left <= 300
        executor.now += 500
        journal.append("rates_measured", {"template": "", "rates": []})

    monkeypatch.setattr(calibrator, "is_due", lambda runs, state, left: state.rates is None)
    monkeypatch.setattr(calibrator, "measure_rates", slow)
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    assert campaign.run(Asked(), 1, limits(300)) == REASON


# --- a proposer that gives nothing ----------------------------------------------------------


class Gone(Scripted):
    """Cannot be asked any more after its changes."""

    name = "gone"

    def propose(self, context: ResearchContext) -> Proposal | None:
        proposal = super().propose(context)
        if proposal is None:
            raise ProposerError("nothing answers at http://host", "start it")
        return proposal


class Capped(Scripted):
    why_nothing = "the next call may cost $0.31; $1.80 of this night's $2.00 (--budget-usd) are spent"


def test_a_server_that_is_gone_costs_no_proof(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data, FakeExecutor(), RECIPE)
    with pytest.raises(ProposerError, match="nothing answers"):
        campaign.run(Gone(RATES[0]), 4, Limits())
    state = campaign.state
    assert [item.status for item in state.experiments] == [Status.KEPT]
    assert len(state.claims) == 1 and state.claims[0].verdict is not None
    assert state.stop_reason == "gone cannot be asked: nothing answers at http://host"
    assert campaign.run(Scripted(*RATES), 4, Limits()) == "planned experiments done"
    assert len(state.experiments) < len(campaign.state.experiments) == 4
    assert kinds(journal).count("stopped") == 2


def test_a_server_that_is_gone_is_told_also_when_the_time_is_up_in_the_last_proof(
    workspace: Path, journal: Journal, tiny_data: PreparedData, executor: Timed
) -> None:
    class GoneSlowly(Gone):
        def propose(self, context: ResearchContext) -> Proposal | None:
            if context.history:
                executor.now = 1280
            return super().propose(context)

    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)  # type: ignore[arg-type]
    with pytest.raises(ProposerError, match="nothing answers"):
        campaign.run(GoneSlowly(RATES[0]), 4, limits(300))
    assert campaign.state.stop_reason == f"{REASON}; a proof is half done, the same command goes on with it"


def test_a_cap_is_named(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data, FakeExecutor(), RECIPE)
    assert campaign.run(Capped(RATES[0]), 4, Limits()) == Capped.why_nothing
    assert campaign.state.stop_reason == Capped.why_nothing


def test_ideas_that_ran_out_are_named(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data, FakeExecutor(), RECIPE)
    assert campaign.run(Scripted(RATES[0]), 4, Limits()) == "the proposer has nothing left to try"
