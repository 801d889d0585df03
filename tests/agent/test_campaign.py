"""The loop with an executor made of numbers: what it writes down, what it hides, and how each way out ends."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe

from slm_ar.core.agent import opening
from slm_ar.core.agent.campaign import MOST_FAILURES_IN_A_ROW, Campaign
from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs
from slm_ar.core.agent.finish import final_pair, final_test
from slm_ar.core.agent.held import held_score
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.night import Limits, plan_night
from slm_ar.core.agent.opening import campaign_identity, ensure_campaign, research_context
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.replay import GrowingReplay, replay, replay_all
from slm_ar.core.contracts import GroupScore, Proposal, ResearchContext, SplitScore, Status, TrainOutcome
from slm_ar.core.errors import TrainingError, UsageError
from slm_ar.core.prepare.heldout import private_root
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import Recipe
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.smoke import Smoke
from slm_ar.core.train.training_run import TrainJob

OUTCOME = TrainOutcome(None, "", 0.1, 0.1, 0.2, 90.0, 8, 2048, 1000, "")
WORKS = Smoke(None, "", 0.01, 256, 1000, 90.0, 0.2)
LEVEL = {"dev": 2.0, "hidden": 2.1, "test": 2.2}


def luck(*parts: object) -> float:
    return random.Random(repr(parts)).gauss(0, 1)


class FakeRun:
    progress = SimpleNamespace(phase="training", train_seconds=0.0, steps=0)

    def __init__(self, outcome: TrainOutcome) -> None:
        self.outcome = outcome

    def poll(self) -> TrainOutcome:
        return self.outcome

    def cancel(self) -> None:
        pass


class FakeExecutor:
    """Scores a train.py by its learning rate: each doubling gains 0.05 bits per byte; sigma is 0.002."""

    def __init__(self, happens: Callable[[TrainJob], TrainOutcome] | None = None) -> None:
        self.machine = toy_machine()
        self.jobs: list[TrainJob] = []
        self.scored: list[str] = []
        self.tried: list[TrainJob] = []
        self.windows: list[int] = []
        self.smokes: Callable[[TrainJob], Smoke] = lambda job: WORKS
        self.happens = happens or (lambda job: OUTCOME)
        self.renewed: list[int] = []
        """How many jobs were before each renewal of the sandboxes."""

    def renew_sandboxes(self, place: Path) -> None:
        self.renewed.append(len(self.jobs))

    def submit(self, job: TrainJob, folder: Path) -> FakeRun:
        self.jobs.append(job)
        folder.mkdir(parents=True)
        (folder / "train.py").write_text(job.train_py, encoding="utf-8")
        (folder / "seed").write_text(str(job.seed), encoding="utf-8")
        (folder / "model.safetensors").touch()
        return FakeRun(self.happens(job))

    def smoke(self, job: TrainJob, folder: Path, steps: int = 2, context: int = 16) -> Smoke:
        self.tried.append(job)
        self.windows.append(context)
        folder.mkdir(parents=True, exist_ok=True)
        return self.smokes(job)

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        self.scored.append(split)
        text = (folder / "train.py").read_text(encoding="utf-8")
        seed = int((folder / "seed").read_text(encoding="utf-8"))
        rate = {knob.name: knob.value for knob in parse_knobs(text)}["MATRIX_LR"]
        assert isinstance(rate, float)
        bits = LEVEL[split] - 0.05 * math.log2(rate / 0.02) + 0.002 * luck(seed, revision_digest(text), split)
        groups = tuple(GroupScore(f"g{n:02d}", bits * math.log(2) * 1000, 1000) for n in range(30))
        return SplitScore(split, bits, groups, 9000, 500, 0.01)


class Scripted:
    """Proposes what it was given, in order."""

    name = "scripted"

    def __init__(self, *changes: dict[str, Any]) -> None:
        self.changes = list(changes)
        self.contexts: list[ResearchContext] = []

    def propose(self, context: ResearchContext) -> Proposal | None:
        self.contexts.append(context)
        if len(context.history) >= len(self.changes):
            return None
        change = self.changes[len(context.history)]
        return Proposal(f"set {change}", "", set_knobs(context.train_py, change))


RATES = [{"MATRIX_LR": rate} for rate in (0.04, 0.01, 0.08, 0.03)]


def opened(
    workspace: Path,
    journal: Journal,
    data: PreparedData,
    executor: FakeExecutor | None = None,
    recipe: Recipe | None = None,
) -> Campaign:
    recipe = recipe or toy_recipe()
    ensure_campaign(journal, recipe, data, toy_machine(), TINY_TRAIN_PY)
    return Campaign(workspace, recipe, journal, executor or FakeExecutor(), QuietDisplay(), "program")  # type: ignore[arg-type]


def night(campaign: Campaign, proposer: Any, experiments: int | None = None) -> str:
    """What `slm-ar run` does once the campaign is open."""
    plan = plan_night(campaign.state, campaign.recipe, experiments)
    if plan.is_new:
        campaign.journal.append("planned", {"experiments": plan.target, "plan": plan.counts})
    return campaign.run(proposer, plan.target, Limits())


def kinds(journal: Journal) -> list[str]:
    return [event.kind for event in journal.events]


# --- a night --------------------------------------------------------------------------------


def test_a_night_keeps_what_is_better_and_proves_it(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data)
    assert night(campaign, Scripted(*RATES)) == "planned experiments done"
    state = campaign.state
    assert [item.status for item in state.experiments] == [
        Status.KEPT, Status.REVERTED, Status.KEPT, Status.REVERTED,
    ]  # fmt: skip
    assert state.head == state.rung == state.experiments[2].revision
    assert state.claims[0].verdict is not None
    assert state.claims[0].verdict.pairs == 3
    assert state.stop_reason == "planned experiments done"


def test_every_run_of_a_claim_has_sandboxes_of_its_own(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor)
    night(campaign, Scripted(*RATES))
    claimed = [number for number, run in enumerate(campaign.state.runs) if run.role == "claim"]
    assert len(claimed) == 6
    assert executor.renewed == claimed


def test_a_journal_read_as_it_grows_says_the_same_as_one_read_at_once(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    night(opened(workspace, journal, tiny_data), Scripted(*RATES))
    growing = GrowingReplay()
    for count in range(len(journal.events) + 1):
        assert growing.state(journal.events[:count]) == replay(journal.events[:count])


def test_no_hidden_score_stands_in_the_journal(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES))
    hidden = [held_score(run, "hidden") for run in campaign.state.runs if run.role == "claim"]
    assert len(hidden) == 6
    text = json.dumps([event.body for event in journal.events])
    for score in hidden:
        assert f"{score.bits_per_byte:.17g}"[:9] not in text
        assert f"{score.groups[0].nats:.17g}"[:9] not in text
    assert all(run.dev is None for run in campaign.state.runs if run.role == "claim")
    assert "deltas" not in text


def test_the_proposer_learns_rounded_dev_scores_and_nothing_of_claims(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    proposer = Scripted(*RATES)
    night(campaign, proposer)
    night(campaign, proposer, 1)
    context = research_context(campaign.state, "program", campaign.recipe, campaign.executor.machine)
    sigma = campaign.state.sigma
    assert sigma is not None and sigma > 0
    for past, item in zip(context.history, campaign.state.experiments, strict=True):
        assert past.dev_score is not None and item.dev_score is not None
        assert abs(past.dev_score - item.dev_score) <= sigma / 2
        assert past.dev_score != item.dev_score
    shown = repr(context)
    for run in campaign.state.runs:
        if run.held_digest is not None:
            assert run.held_digest not in shown
            assert f"{held_score(run, 'hidden').bits_per_byte:.6f}" not in shown
    assert "toy" not in repr(context.hardware)


def test_test_is_never_scored_before_the_finish(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor)
    night(campaign, Scripted(*RATES))
    assert set(executor.scored) == {"dev", "hidden"}


def test_equal_campaigns_have_equal_histories(tmp_path: Path, tiny_data: PreparedData) -> None:
    """The proposer is a function of journal and seed, and so is everything else that is judged."""
    histories = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        forget_nights()
        with Journal(tmp_path / name / ".slm") as journal:
            campaign = opened(tmp_path / name, journal, tiny_data, recipe=toy_recipe(budget={"experiments": 8}))
            night(campaign, make_proposer("search"))
            histories.append([(event.kind, event.body) for event in journal.events])
    assert histories[0] == histories[1]


def forget_nights() -> None:
    """As if no workspace had asked this hidden split before."""
    shutil.rmtree(private_root() / "nights", ignore_errors=True)


def test_a_run_on_a_machine_that_became_slow_is_repeated(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    jobs = 0

    def heats_up(job: TrainJob) -> TrainOutcome:
        nonlocal jobs
        jobs += 1
        return replace(OUTCOME, machine_speed=500.0 if jobs == 5 else 1000.0 + jobs)

    campaign = opened(workspace, journal, tiny_data, FakeExecutor(heats_up))
    assert night(campaign, Scripted(*RATES)) == "planned experiments done"
    runs = campaign.state.runs
    slow = [run for run in runs if run.outcome.disturbance]
    assert ["50 % slower" in run.outcome.disturbance for run in slow] == [True]
    again = runs[runs.index(slow[0]) + 1]
    assert (again.role, again.seed, again.experiment) == (slow[0].role, slow[0].seed, slow[0].experiment)
    assert (slow[0].attempt, again.attempt) == (1, 2)


def test_a_machine_that_stays_slow_is_the_machine_that_there_is(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    jobs = 0

    def unplugged(job: TrainJob) -> TrainOutcome:
        nonlocal jobs
        jobs += 1
        return replace(OUTCOME, machine_speed=1000.0 if jobs < 5 else 500.0)

    campaign = opened(workspace, journal, tiny_data, FakeExecutor(unplugged))
    night(campaign, Scripted(*RATES))
    outcomes = [run.outcome.disturbance for run in campaign.state.runs]
    assert any(outcomes)
    assert not any(outcomes[-4:])


# --- ways out -------------------------------------------------------------------------------


class StopError(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def dies_at(at_job: int) -> Callable[[TrainJob], TrainOutcome]:
    """What happens in an executor that is killed in its run number `at_job`, counted from 1."""
    jobs = itertools.count(1)

    def happens(job: TrainJob) -> TrainOutcome:
        if next(jobs) == at_job:
            raise StopError
        return OUTCOME

    return happens


@pytest.mark.parametrize("at_job", range(1, 15))
def test_cut_off_at_any_run_a_night_goes_on_where_it_was(tmp_path: Path, tiny_data: PreparedData, at_job: int) -> None:
    whole = tmp_path / "whole"
    cut = tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    with Journal(whole / ".slm") as journal:
        undisturbed = opened(whole, journal, tiny_data)
        night(undisturbed, Scripted(*RATES))
        expected = judged(undisturbed)
        runs = len(undisturbed.state.runs)
    forget_nights()
    dies = dies_at(at_job)
    with Journal(cut / ".slm") as journal:
        if at_job <= runs:
            with pytest.raises(StopError):
                night(opened(cut, journal, tiny_data, FakeExecutor(dies)), Scripted(*RATES))
        else:
            night(opened(cut, journal, tiny_data, FakeExecutor(dies)), Scripted(*RATES))
    with Journal(cut / ".slm") as journal:
        resumed = opened(cut, journal, tiny_data, FakeExecutor())
        if at_job <= runs:
            assert night(resumed, Scripted(*RATES)) == "planned experiments done"
            assert kinds(journal).count("run_interrupted") == 1
        assert judged(resumed) == expected
        assert kinds(journal).count("planned") == 1


def judged(campaign: Campaign) -> object:
    state = campaign.state
    experiments = [(item.revision, item.status, item.dev_score, item.head_score) for item in state.experiments]
    claims = [(claim.head, claim.rung, claim.alpha, claim.verdict, claim.private) for claim in state.claims]
    return experiments, claims, state.head, state.rung, state.sigma


def test_ctrl_c_is_written_down_and_the_run_is_done_again(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    def interrupts(job: TrainJob) -> TrainOutcome:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        night(opened(workspace, journal, tiny_data, FakeExecutor(interrupts)), Scripted(*RATES))
    assert kinds(journal)[-1] == "run_interrupted"
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES))
    seeds = [run.seed for run in campaign.state.runs if run.role == "calibrate"]
    assert len(seeds) == len(set(seeds)) == 3
    assert kinds(journal).count("campaign_started") == 1


def test_a_start_that_does_not_work_stops_the_campaign_with_the_reason(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    broken = replace(OUTCOME, status=Status.CRASHED, reason="ValueError: no luck")
    with pytest.raises(TrainingError, match="no luck") as error:
        night(opened(workspace, journal, tiny_data, FakeExecutor(lambda job: broken)), Scripted(*RATES))
    assert "slm-ar train" in error.value.hint
    assert kinds(journal)[-1] == "stopped"


def test_ten_failures_in_a_row_stop_the_campaign(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    def crashes(job: TrainJob) -> TrainOutcome:
        is_start = job.train_py == TINY_TRAIN_PY
        return OUTCOME if is_start else replace(OUTCOME, status=Status.CRASHED, reason="broken")

    campaign = opened(workspace, journal, tiny_data, FakeExecutor(crashes), toy_recipe(gate={"claim_every": 50}))
    changes = [{"MATRIX_LR": round(0.03 + n / 1000, 3)} for n in range(20)]
    with pytest.raises(TrainingError, match="in a row failed"):
        night(campaign, Scripted(*changes), 15)  # no full block, so no placebo, which would not fail
    assert len(campaign.state.experiments) == MOST_FAILURES_IN_A_ROW
    assert {item.status for item in campaign.state.experiments} == {Status.CRASHED}


def test_a_checkpoint_that_cannot_be_scored_is_an_invalid_experiment(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    class Picky(FakeExecutor):
        def score(self, folder: Path, split: str, context: int) -> SplitScore:
            if "MATRIX_LR = 0.04" in (folder / "train.py").read_text(encoding="utf-8"):
                raise InvalidCheckpointError("forward gave logits that are not finite")
            return super().score(folder, split, context)

    campaign = opened(workspace, journal, tiny_data, Picky())
    night(campaign, Scripted(*RATES))
    first = campaign.state.experiments[0]
    assert (first.status, first.reason) == (Status.INVALID, "forward gave logits that are not finite")
    assert first.dev_score is None


def test_when_the_proposer_is_exhausted_the_night_ends_early(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    assert night(campaign, Scripted(*RATES[:1])) == "the proposer has nothing left to try"
    assert campaign.state.claims, "what was kept is still put to the proof"
    assert night(campaign, Scripted(*RATES)) == "planned experiments done"
    assert len(campaign.state.experiments) == 4


def test_after_its_end_another_night_is_planned(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES))
    night(campaign, Scripted(*RATES, {"MATRIX_LR": 0.2}, {"MATRIX_LR": 0.25}), 2)
    state = campaign.state
    assert len(state.experiments) == 6
    assert kinds(journal).count("planned") == 2
    assert state.claims[1].alpha < state.claims[0].alpha, "a second night on the same hidden split gets less alpha"


def test_disk_holds_only_the_checkpoints_that_are_still_needed(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES))
    assert len(list(campaign.runs_folder.iterdir())) <= 4
    for revision in (campaign.state.baseline, campaign.state.head):
        assert campaign.newest_checkpoint(revision) is not None


# --- a person's hand ------------------------------------------------------------------------


def test_a_hand_edit_is_tried_once_before_the_proposer_is_asked(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    (workspace / "train.py").write_text(set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.05}), encoding="utf-8")
    night(campaign, Scripted(*RATES))
    assert [item.proposer for item in campaign.state.experiments] == ["human", "scripted", "scripted", "scripted"]
    assert campaign.state.experiments[0].status is Status.KEPT


@pytest.mark.parametrize("content", [b"def main(:", b"caf\xe9 = 1\n"])
def test_a_hand_edit_that_cannot_work_yet_does_not_stop_the_night(
    workspace: Path, journal: Journal, tiny_data: PreparedData, content: bytes
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    (workspace / "train.py").write_bytes(content)
    night(campaign, Scripted(*RATES))
    assert {item.proposer for item in campaign.state.experiments} == {"scripted"}


# --- identity -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"budget": {"steps": 9}},
        {"tokenizer": {"vocab_size": 330}},
        {"evaluation": {"context": 64}},
        {"gate": {"alpha": 0.1}},
        {"data": {"dev_kb": 9}},
        {"proposer": {"seed": 1}},
    ],
)
def test_what_changes_scores_starts_a_new_campaign(
    journal: Journal, tiny_data: PreparedData, change: dict[str, Any]
) -> None:
    assert ensure_campaign(journal, toy_recipe(), tiny_data, toy_machine(), TINY_TRAIN_PY)
    assert not ensure_campaign(journal, toy_recipe(), tiny_data, toy_machine(), TINY_TRAIN_PY)
    assert ensure_campaign(journal, toy_recipe(**change), tiny_data, toy_machine(), TINY_TRAIN_PY)


@pytest.mark.parametrize(
    "change", [{"torch": "9.9"}, {"device": "cuda"}, {"threads": 7}, {"precision": "bfloat16"}, {"name": "other"}]
)
def test_another_machine_is_another_campaign(tiny_data: PreparedData, change: dict[str, Any]) -> None:
    here = campaign_identity(toy_recipe(), tiny_data, toy_machine())
    assert campaign_identity(toy_recipe(), tiny_data, toy_machine(**change)) != here


def test_where_the_data_lie_and_how_many_ideas_are_tried_change_nothing(tiny_data: PreparedData) -> None:
    here = campaign_identity(toy_recipe(), tiny_data, toy_machine())
    other = toy_recipe(data={"source": "/elsewhere"}, budget={"experiments": 50, "hours": 2.0})
    assert campaign_identity(other, tiny_data, toy_machine()) == here


def test_a_mixture_is_a_metric_of_its_own_so_another_campaign(journal: Journal, tiny_data: PreparedData) -> None:
    mixed = toy_recipe(evaluation={"mixture": "ngram"})
    assert campaign_identity(mixed, tiny_data, toy_machine()) != campaign_identity(
        toy_recipe(), tiny_data, toy_machine()
    )
    units = []
    for recipe in (toy_recipe(), mixed, toy_recipe(evaluation={"mixture": "none"})):
        ensure_campaign(journal, recipe, tiny_data, toy_machine(), TINY_TRAIN_PY)
        state = replay(journal.events)
        assert state is not None
        units.append((state.unit, state.claim_unit))
    assert units == [("bits per byte",) * 2, ("bits per byte with n-gram",) * 2, ("bits per byte",) * 2]
    assert len(replay_all(journal.events)) == 2


def test_a_new_harness_is_a_new_campaign(tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    here = campaign_identity(toy_recipe(), tiny_data, toy_machine())
    monkeypatch.setattr(opening, "HARNESS", 1000)
    assert campaign_identity(toy_recipe(), tiny_data, toy_machine()) != here


def test_a_new_campaign_on_the_same_hidden_split_keeps_its_spent_alpha(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    first = opened(workspace, journal, tiny_data)
    night(first, Scripted(*RATES))
    second = opened(workspace, journal, tiny_data, recipe=toy_recipe(budget={"steps": 9}))
    night(second, Scripted(*RATES))
    assert second.state.identity != first.journal.events[0].body["identity"]
    assert second.state.claims[0].alpha == pytest.approx(first_alpha(journal) / 2)


def first_alpha(journal: Journal) -> float:
    return next(float(event.body["alpha"]) for event in journal.events if event.kind == "claim_opened")


# --- the finish -----------------------------------------------------------------------------


def test_the_final_test_says_so_before_it_looks_and_looks_once(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor)
    night(campaign, Scripted(*RATES))
    record = final_test(campaign, 2)
    order = kinds(journal)
    first_final = next(
        event.number for event in journal.events if event.kind == "run_started" and event.body["role"] == "final"
    )
    assert order.index("final_opened") + 1 < first_final
    assert record.pairs == 2
    assert record.is_proven
    assert record.delta == pytest.approx(-0.1, abs=0.02)
    assert record.delta_low < record.delta < record.delta_high
    tested = executor.scored.count("test")
    assert tested == 4
    assert final_test(campaign, 2) == record
    assert executor.scored.count("test") == tested


def test_test_stays_with_the_pair_that_it_was_opened_for(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    def dies_in_final(job: TrainJob) -> TrainOutcome:
        if executor.scored.count("test") == 1:
            raise StopError
        return OUTCOME

    executor = FakeExecutor()
    campaign = opened(workspace, journal, tiny_data, executor)
    night(campaign, Scripted(*RATES))
    executor.happens = dies_in_final
    with pytest.raises(StopError):
        final_test(campaign, 2)
    pair = final_pair(campaign.state)
    executor.happens = lambda job: OUTCOME
    night(campaign, Scripted(*RATES, {"MATRIX_LR": 0.2}), 1)
    assert campaign.state.head != pair[1]
    record = final_test(campaign, 2)
    assert (record.baseline, record.final) == pair
    assert kinds(journal).count("final_opened") == 1


def test_before_calibration_there_is_nothing_to_finish(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    with pytest.raises(UsageError, match="nothing to finish"):
        final_test(opened(workspace, journal, tiny_data), 2)
    assert "final_opened" not in kinds(journal)
