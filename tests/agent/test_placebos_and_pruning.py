"""A whole campaign with placebos, and its prune pass: identical edits prove nothing, and a kill changes nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_campaign import LEVEL, OUTCOME, RATES, FakeExecutor, Scripted, StopError, dies_at, kinds, luck, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent import planner
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs
from slm_ar.core.agent.finish import final_pair, final_test, prune_edits
from slm_ar.core.agent.held import campaign_noise
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.night import plan_night
from slm_ar.core.contracts import Decision, GroupScore, Proposal, ResearchContext, SplitScore, Status, TrainOutcome
from slm_ar.core.errors import TrainingError
from slm_ar.core.prepare.heldout import private_root
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import GateTable
from slm_ar.core.report.experiments import kept_in_chain
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text
from slm_ar.core.train.training_run import TrainJob


class SameCode:
    """Proposes the same code again and again, told apart by a comment alone."""

    name = "same"

    def propose(self, context: ResearchContext) -> Proposal:
        return Proposal("nothing", "", f"{TINY_TRAIN_PY}# try {len(context.history)}\n")


class Luck(FakeExecutor):
    """Every code is worth the same; a run's score is luck, half of it of the seed and half of the run alone."""

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        seed = (folder / "seed").read_text(encoding="utf-8")
        bits = LEVEL[split] + 0.002 * (luck(seed, split) + luck(seed, folder.name, split))
        groups = tuple(
            GroupScore(f"g{n}", (bits + 0.01 * luck(n, split)) * math.log(2) * 1000, 1000) for n in range(30)
        )
        return SplitScore(split, bits, groups, 9000, 500, 0.01)


# --- placebos -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_twenty_identical_edits_get_no_certificate(tmp_path: Path, tiny_data: PreparedData, seed: int) -> None:
    recipe = toy_recipe(budget={"experiments": 20}, proposer={"seed": seed}, gate=GateTable().model_dump(mode="json"))
    with Journal(tmp_path / ".slm") as journal:
        campaign = opened(tmp_path, journal, tiny_data, Luck(), recipe)
        night(campaign, SameCode())
        state = campaign.state
    assert len(state.experiments) == 20
    assert any(item.status is Status.KEPT for item in state.experiments), "luck keeps some of them for now"
    assert not any(claim.verdict and claim.verdict.decision is Decision.CERTIFY for claim in state.claims)
    assert state.rung == state.baseline
    assert sum(item.proposer == planner.PLACEBO for item in state.experiments) == 1


def test_one_proposal_in_sixteen_is_a_placebo_that_nobody_is_told_of(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    proposer = Scripted(*({"MATRIX_LR": 0.02 - 0.0005 * step} for step in range(1, 38)))
    night(campaign, proposer, 39)
    state = campaign.state
    placebos = [item for item in state.experiments if item.proposer == planner.PLACEBO]
    assert [(item.id - 1) // 16 for item in placebos] == [0, 1], "the third block of sixteen is not full"
    assert all(item.revision == item.parent for item in placebos)
    assert all(item.run is not None and item.run.experiment == item.id for item in placebos), "trained like any other"
    assert all(past.proposer != planner.PLACEBO for context in proposer.contexts for past in context.history)
    assert len(proposer.contexts[-1].history) == 36
    assert "0 of 2 placebos kept" in status_text(summarise(state))


def test_a_kept_placebo_is_counted_and_changes_nothing(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    recipe = toy_recipe(budget={"experiments": 16})
    campaign = opened(workspace, journal, tiny_data, Luck(), recipe)
    for seed in range(40):  # until a placebo is lucky
        with Journal(workspace / f"{seed}") as other:
            campaign = opened(workspace, other, tiny_data, Luck(), toy_recipe(proposer={"seed": seed}))
            night(campaign, SameCode(), 16)
            state = campaign.state
        (placebo,) = (item for item in state.experiments if item.proposer == planner.PLACEBO)
        if placebo.status is Status.KEPT:
            break
    assert placebo.status is Status.KEPT
    assert summarise(state).placebos_kept == 1
    assert placebo not in kept_in_chain(state, placebo.revision, state.baseline)


def test_placebos_raise_the_noise_and_never_lower_it(
    workspace: Path, journal: Journal, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*({"MATRIX_LR": 0.02 - 0.0005 * step} for step in range(1, 16))), 16)
    state = campaign.state
    assert planner.placebo_differences(state) == [0.0], "this executor repeats a run exactly"
    calm = campaign_noise(state)
    monkeypatch.setattr(planner, "placebo_differences", lambda state: [0.05, -0.05])
    loud = campaign_noise(state)
    squares = calm.difference_variance * calm.degrees + 2 * 0.05**2
    assert loud.difference_variance == pytest.approx(squares / (calm.degrees + 2))
    assert (loud.degrees, loud.run_variance) == (calm.degrees, calm.run_variance)


def test_a_lucky_run_of_the_current_code_is_no_measure_for_placebos(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    """The current code was kept for its run with the window's seed: a placebo is bound to look worse beside it."""
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*({"MATRIX_LR": 0.02 * 1.1**step} for step in range(1, 16))), 16)
    state = campaign.state
    place = next(item.id for item in state.experiments if item.proposer == planner.PLACEBO)
    assert place == 1 or planner.placebo_differences(state) == []


# --- prune pass -----------------------------------------------------------------------------

BATCHES = {"BATCH_TOKENS": 512}
NARROW = {"WIDTH": 8}
FILLERS = [{"MATRIX_LR": 0.001 + 0.0001 * step} for step in range(30)]


class ThreeKnobs(FakeExecutor):
    """The learning rate helps; a larger batch helps on the window's seeds only; a narrow model does nothing at all."""

    lucky_seeds: frozenset[int] = frozenset()

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        score = super().score(folder, split, context)
        knobs = {knob.name: knob.value for knob in parse_knobs((folder / "train.py").read_text(encoding="utf-8"))}
        change = 0.0
        if knobs["BATCH_TOKENS"] == 512:
            change += -0.02 if int((folder / "seed").read_text(encoding="utf-8")) in self.lucky_seeds else 0.01
        if knobs["WIDTH"] == 8:
            change += 0.004
        groups = tuple(replace(group, nats=group.nats + change * math.log(2) * 1000) for group in score.groups)
        return replace(score, bits_per_byte=score.bits_per_byte + change, groups=groups)


def reopened(root: Path, journal: Journal, data: PreparedData, happens: Any = None) -> Campaign:
    """The claim sees one luck, the prune pass another."""
    executor = ThreeKnobs(happens)
    campaign = opened(root, journal, data, executor)
    state = campaign.state
    executor.lucky_seeds = frozenset(planner.window_seed(state, window) for window in range(9))
    return campaign


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory, tiny_data: PreparedData) -> Path:
    """A workspace whose campaign proved three edits of which one helps, and its private folder; to be copied."""
    base = tmp_path_factory.mktemp("proven")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_AR_PRIVATE", str(base / "private"))
        with Journal(base / "toy" / ".slm") as journal:
            campaign = reopened(base / "toy", journal, tiny_data)
            night(campaign, Scripted({"MATRIX_LR": 0.16}, BATCHES, *FILLERS), 26)
    return base


def copy_of(proven: Path, root: Path) -> Path:
    shutil.copytree(proven / "toy", root)
    shutil.copytree(proven / "private", private_root(), dirs_exist_ok=True)
    return root


@pytest.fixture
def three_edits(proven: Path, tmp_path: Path, tiny_data: PreparedData) -> Iterator[Campaign]:
    """A campaign with everything proven that there is, before its prune pass."""
    root = copy_of(proven, tmp_path / "toy")
    with Journal(root / ".slm") as journal:
        yield reopened(root, journal, tiny_data)


def test_the_prune_pass_takes_out_what_does_not_help(three_edits: Campaign) -> None:
    campaign = three_edits
    state = campaign.state
    assert state.rung != state.baseline and state.rung == state.head
    kept = kept_in_chain(state, state.rung, state.baseline)
    assert [item.hypothesis for item in kept] == ["set {'MATRIX_LR': 0.16}", "set {'BATCH_TOKENS': 512}"]
    prune_edits(campaign)
    record = campaign.state.prune
    assert record is not None and record.revision is not None
    assert (record.edits, record.out) == ((kept[0].id, kept[1].id), (kept[1].id,))
    wanted = set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.16})
    assert campaign.state.revisions[record.revision] == wanted
    assert record.effects[kept[0].id] == pytest.approx(-0.15, abs=0.01)
    assert final_pair(campaign.state) == (state.baseline, record.revision)
    assert campaign.state.proven_code == state.rung, "what is handed out changes with the final test, not before"

    final = final_test(campaign, 3)
    assert final.is_proven and final.final == record.revision
    state = campaign.state
    assert state.proven_code == record.revision
    assert campaign.newest_checkpoint(record.revision) is not None
    text = " ".join(status_text(summarise(state), is_end=True).split())
    assert "took out 1 of 2 kept edits" in text and "better than where it began, on the final test" in text
    events = len(campaign.journal.events)
    prune_edits(campaign)
    assert len(campaign.journal.events) == events, "once test is open nothing is pruned any more"


def test_a_small_campaign_and_a_single_edit_have_no_prune_pass(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    night(campaign, Scripted(*RATES))
    prune_edits(campaign)
    night(campaign, Scripted(*RATES, *FILLERS), 26)
    chain = kept_in_chain(campaign.state, campaign.state.rung, campaign.state.baseline)
    assert len(chain) == 2, "two moves of one knob: the first cannot be taken out alone"
    prune_edits(campaign)
    assert "prune_planned" not in kinds(journal)


def test_the_plan_of_a_night_counts_the_prune_pass(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = opened(workspace, journal, tiny_data)
    small, large = (plan_night(campaign.state, campaign.recipe, count) for count in (8, 24))
    assert (small.counts["prune"], large.counts["prune"]) == (0, 12)
    assert "prune" not in small.lines[0] and "12 to prune" in large.lines[0]
    assert large.counts["total"] == sum(
        large.counts[kind] for kind in ("calibrate", "search", "claim", "prune", "final")
    )


def finished(root: Path, data: PreparedData) -> tuple[Any, ...]:
    """What the prune pass and the final test of a campaign come to, begun or gone on with."""
    with Journal(root / ".slm") as journal:
        campaign = reopened(root, journal, data)
        prune_edits(campaign)
        final = final_test(campaign, 2)
        state = campaign.state
        runs = [(run.role, run.revision, run.seed) for run in state.runs if run.role in ("prune", "final")]
        assert kinds(journal).count("pruned") == kinds(journal).count("prune_planned") == 1
    return state.prune, runs, final.final, final.delta


@pytest.fixture(scope="module")
def undisturbed(proven: Path, tmp_path_factory: pytest.TempPathFactory, tiny_data: PreparedData) -> tuple[Any, ...]:
    base = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLM_AR_PRIVATE", str(base / "private"))
        return finished(copy_of(proven, base / "toy"), tiny_data)


@pytest.mark.parametrize("at_job", [1, 2, 6, 12, 13, 15])
def test_cut_off_at_any_run_the_prune_pass_goes_on_where_it_was(
    proven: Path, undisturbed: tuple[Any, ...], tmp_path: Path, tiny_data: PreparedData, at_job: int
) -> None:
    root = copy_of(proven, tmp_path / "toy")
    with Journal(root / ".slm") as journal:
        campaign = reopened(root, journal, tiny_data, dies_at(at_job))
        with pytest.raises(StopError):
            prune_edits(campaign)
            final_test(campaign, 2)
    assert finished(root, tiny_data) == undisturbed


def test_runs_that_cannot_tell_leave_the_code_as_it_is(three_edits: Campaign) -> None:
    campaign = three_edits
    executor = campaign.executor
    assert isinstance(executor, ThreeKnobs)
    whole = campaign.state.revisions[campaign.state.rung]

    def only_whole(job: TrainJob) -> TrainOutcome:
        is_whole = revision_digest(job.train_py) == revision_digest(whole)
        return OUTCOME if is_whole else replace(OUTCOME, status=Status.CRASHED, reason="a name is missing")

    executor.happens = only_whole
    prune_edits(campaign)
    record = campaign.state.prune
    assert record is not None and record.revision == record.code == campaign.state.rung
    assert (record.out, record.effects) == ((), {})
    assert "took none out" in " ".join(status_text(summarise(campaign.state)).split())


def test_after_a_better_proof_the_pass_is_made_again(three_edits: Campaign) -> None:
    campaign = three_edits
    prune_edits(campaign)
    first = campaign.state.prune
    known = len(campaign.state.experiments) - 1  # without the placebo
    night(campaign, Scripted(*[{}] * known, {"MATRIX_LR": 0.3}, *FILLERS[-3:]), 4)
    prune_edits(campaign)
    second = campaign.state.prune
    assert first is not None and second is not None and second.code == campaign.state.rung != first.code
    assert final_pair(campaign.state)[1] == second.revision


def test_a_broken_train_py_of_the_final_test_is_an_error_not_a_prune(three_edits: Campaign) -> None:
    campaign = three_edits
    executor = campaign.executor
    assert isinstance(executor, ThreeKnobs)
    executor.happens = lambda job: replace(OUTCOME, status=Status.CRASHED, reason="no luck")
    prune_edits(campaign)
    assert campaign.state.prune is not None and campaign.state.prune.out == ()
    with pytest.raises(TrainingError, match="fewer than two pairs"):
        final_test(campaign, 2)
