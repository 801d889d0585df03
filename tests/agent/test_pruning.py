"""Hopeless runs end early: what the rule may never do, and a campaign with real training in which it does its work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_campaign import Scripted, StopError, night
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe

from slm_ar.core.agent import planner, pruning, running
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.night import plan_night
from slm_ar.core.agent.opening import campaign_identity, ensure_campaign, research_context
from slm_ar.core.agent.pruning import FEWEST_EARLIER, MARGINS, SHARES, Past, is_hopeless, prunes
from slm_ar.core.contracts import SplitScore, Status
from slm_ar.core.errors import RecipeError
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import Recipe
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import results_tsv, status_text
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train.executor import LocalExecutor, window_context
from slm_ar.core.train.scorer import score_split

numbers = st.floats(-5, 5)
pasts = st.builds(
    Past, st.lists(numbers, max_size=20).map(tuple), st.lists(numbers, max_size=20).map(tuple), st.floats(0, 2)
)
shares = st.sampled_from(SHARES)


# --- the rule -------------------------------------------------------------------------------


@given(shares, st.floats(), pasts)
def test_only_what_is_far_behind_and_behind_most_is_ended(share: float, behind: float, past: Past) -> None:
    if is_hopeless(share, behind, past):
        assert behind > 0
        assert behind > median(past.behind)
        assert behind > MARGINS[share] * past.spread
        assert len(past.behind) >= FEWEST_EARLIER


@given(shares, numbers, st.floats(0, 5), pasts)
def test_being_further_behind_never_helps(share: float, behind: float, more: float, past: Past) -> None:
    assert is_hopeless(share, behind + more, past) >= is_hopeless(share, behind, past)


@given(numbers, pasts)
def test_the_first_look_is_the_milder_one(behind: float, past: Past) -> None:
    assert is_hopeless(SHARES[0], behind, past) <= is_hopeless(SHARES[1], behind, past)


@given(shares, st.sampled_from([0.5, 2.0, 16.0]), numbers, pasts)
def test_the_unit_does_not_matter(share: float, factor: float, behind: float, past: Past) -> None:
    def scaled(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(factor * value for value in values)

    larger = Past(scaled(past.behind), scaled(past.surprises), factor * past.noise)
    if past.spread > 1e-100:
        assert is_hopeless(share, factor * behind, larger) == is_hopeless(share, behind, past)


@given(shares, st.floats(0, 5), pasts, numbers)
def test_a_code_that_came_from_behind_widens_the_bar(share: float, behind: float, past: Past, surprise: float) -> None:
    """What was far behind here and caught up teaches that ranks change after this share."""
    rms = math.sqrt(math.fsum(value**2 for value in past.surprises) / max(1, len(past.surprises)))
    if abs(surprise) >= rms:
        taught = replace(past, surprises=(*past.surprises, surprise))
        assert is_hopeless(share, behind, taught) <= is_hopeless(share, behind, past) or not past.surprises


def test_without_noise_or_with_nonsense_nothing_is_ended() -> None:
    calm = Past((0.0,) * 9, (), 0.0)
    assert not is_hopeless(0.25, 1.0, calm)
    loud = replace(calm, noise=0.01)
    assert is_hopeless(0.25, 1.0, loud)
    assert not any(is_hopeless(0.25, value, loud) for value in (math.nan, -math.inf, math.inf, 0.0))
    assert not is_hopeless(0.5, 1.0, loud)


def test_whether_a_campaign_looks_at_its_runs() -> None:
    by_clock: dict[str, Any] = {"steps": None, "seconds": 60.0}
    cases = [
        (toy_recipe(), "cpu", False),
        (toy_recipe(budget={"prune": True}), "cpu", True),
        (toy_recipe(budget={"prune": True}), "cuda", True),
        (toy_recipe(budget=by_clock), "cpu", True),
        (toy_recipe(budget=by_clock), "cuda", False),
        (toy_recipe(budget={**by_clock, "seconds": 6.0}), "cpu", False),
        (toy_recipe(budget={**by_clock, "prune": False}), "cpu", False),
        (toy_recipe(budget={**by_clock, "prune": True}, metric={"task": "cause"}), "cpu", False),
    ]
    for recipe, device, expected in cases:
        assert prunes(recipe, toy_machine(device=device)) is expected
    with pytest.raises(RecipeError):
        toy_recipe(budget={"prune": "always"})


def test_the_key_is_no_part_of_a_campaign_s_identity(tiny_data: PreparedData) -> None:
    """What is ended early has no score, so all scores stay comparable."""
    on, off = (toy_recipe(budget={"prune": value}) for value in (True, False))
    assert campaign_identity(on, tiny_data, toy_machine()) == campaign_identity(off, tiny_data, toy_machine())


# --- a campaign with real training ----------------------------------------------------------

SHOWN = TINY_TRAIN_PY.replace("run.batches(BATCH_TOKENS, CONTEXT)", "run.batches(BATCH_TOKENS, CONTEXT, model, config)")
MILD = [{"MATRIX_LR": rate} for rate in (0.021, 0.019, 0.022)]
HOPELESS, HONEST = {"MATRIX_LR": 0.001}, {"MATRIX_LR": 0.024}
RECIPE = toy_recipe(budget={"steps": 40, "prune": True}, gate={"claim_every": 40})


def opened(root: Path, journal: Journal, executor: LocalExecutor, recipe: Recipe = RECIPE) -> Campaign:
    root.mkdir(exist_ok=True)
    (root / "train.py").write_text(SHOWN, encoding="utf-8")
    ensure_campaign(journal, recipe, executor.data, executor.machine, SHOWN)
    return Campaign(root, recipe, journal, executor, QuietDisplay(), "program")


def played(root: Path, executor: LocalExecutor, *changes: dict[str, Any]) -> Campaign:
    with Journal(root / ".slm") as journal:
        campaign = opened(root, journal, executor)
        night(campaign, Scripted(*changes), len(changes))
        campaign.state  # noqa: B018  (read while the journal is open)
        return campaign


def test_a_hopeless_edit_is_ended_and_an_honest_one_is_not(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "FEWEST_EARLIER", 3)
    with Journal(tmp_path / ".slm") as journal:
        campaign = opened(tmp_path, journal, executor)
        night(campaign, Scripted(*MILD, HOPELESS, HONEST), 5)
        state = campaign.state
        more = plan_night(state, campaign.recipe, 10)
        context = research_context(state, "program", RECIPE, executor.machine)
    *mild, hopeless, honest = state.experiments
    assert hopeless.status is Status.PRUNED and hopeless.run is not None
    assert "hopeless after" in hopeless.reason and "most of 3 earlier ideas" in hopeless.reason
    assert hopeless.dev_score is None
    assert hopeless.run.outcome.steps < 40 and hopeless.run.looks
    assert {item.status for item in (*mild, honest)} <= {Status.KEPT, Status.REVERTED}
    assert all(run.outcome.status is None for run in state.runs if run.role != "search")
    looked = {run.role for run in state.runs if run.looks}
    assert looked <= {"calibrate", "window", "search"} and "claim" not in looked
    assert all([share for share, _ in run.looks] == list(SHARES) for run in state.runs if run.role == "calibrate")
    shown = repr(context)
    for run in state.runs:
        assert not any(f"{score:.6f}" in shown for _, score in run.looks), "a look is told rounded, like a dev score"
    assert "stopped early" in status_text(summarise(state))
    assert "pruned" in results_tsv(state)
    share = hopeless.run.looks[-1][0]
    assert pruning.share_used(state) == pytest.approx((4 + share) / 5)
    assert f"saves about {10 * (1 - share) / 5:.0f} of the 10 idea runs" in " ".join(more.lines)


def plain_score(executor: LocalExecutor, folder: Path, split: str, context: int) -> SplitScore:
    """A score without the probes, which take most of its time and are tested elsewhere."""
    window = window_context(folder, context)
    documents = list(read_split(executor.data.held_folder, split))
    with executor.client(folder, window) as client:
        return score_split(client, executor.tokenizer, split, documents, window)


def test_cut_off_in_a_look_a_night_goes_on_where_it_was(
    tmp_path: Path, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExecutor, "score", plain_score)
    changes = [{"MATRIX_LR": 0.021}]
    at_look = 2 * 3 + 2  # the second one of the proposal
    whole = judged(played(tmp_path / "whole", executor, *changes), tmp_path / "whole")
    calls = 0
    score = running.preview_score

    def dies(*args: Any) -> float | None:
        nonlocal calls
        calls += 1
        if calls == at_look:
            raise StopError
        return score(*args)

    with monkeypatch.context() as patch:
        patch.setattr(running, "preview_score", dies)
        with pytest.raises(StopError):
            played(tmp_path / "cut", executor, *changes)
    assert judged(played(tmp_path / "cut", executor, *changes), tmp_path / "cut") == whole


def judged(campaign: Campaign, root: Path) -> object:
    with Journal(root / ".slm", read_only=True) as journal:
        state = replace_journal(campaign, journal).state
    return [(item.revision, item.status, item.dev_score, item.run and item.run.looks) for item in state.experiments]


def replace_journal(campaign: Campaign, journal: Journal) -> Campaign:
    campaign.journal = journal
    return campaign


# --- what is compared -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, executor: LocalExecutor) -> Callable[[], Any]:
    """The state of a campaign with three proposals that all went to their end."""
    root = tmp_path_factory.mktemp("searched")
    patch = pytest.MonkeyPatch()
    patch.setenv("SLM_AR_PRIVATE", str(root / "private"))
    patch.setattr(LocalExecutor, "score", plain_score)
    with Journal(root / ".slm") as journal:
        campaign = opened(root, journal, executor)
        night(campaign, Scripted(*MILD), 3)
        state = campaign.state
    patch.undo()
    return lambda: state


def test_placebos_disturbed_runs_and_foreign_journals_are_left_out(searched: Callable[[], Any]) -> None:
    state = searched()
    past = pruning.past_looks(state, 0.25)
    assert len(past.behind) == len(past.surprises) == 3
    assert past.noise > 0
    first, *rest = state.experiments
    placebo = replace(first, proposer=planner.PLACEBO)
    assert len(pruning.past_looks(replace(state, experiments=(placebo, *rest)), 0.25).behind) == 2
    assert first.run is not None
    loud = replace(first.run, outcome=replace(first.run.outcome, disturbance="another program"))
    disturbed = replace(first, run=loud)
    assert len(pruning.past_looks(replace(state, experiments=(disturbed, *rest)), 0.25).behind) == 2
    older = replace(state, runs=tuple(replace(run, looks=()) for run in state.runs))
    assert pruning.past_looks(older, 0.25).noise == 0


def test_placebos_and_codes_without_a_rival_s_look_are_never_ended(searched: Callable[[], Any]) -> None:
    """A placebo that could be ended would leave only those that noise was kind to, and noise would look small."""
    state = searched()
    experiments = tuple(replace(item, run=item.run) for item in state.experiments)
    many = replace(state, experiments=experiments * 3)
    item = state.experiments[0]
    assert item.run is not None
    seed = item.run.seed
    assert pruning.verdict(many, item, seed, 0.25, 99.0)
    assert not pruning.verdict(many, replace(item, proposer=planner.PLACEBO), seed, 0.25, 99.0)
    assert not pruning.verdict(many, item, seed + 1, 0.25, 99.0), "the current code has no run with this seed"
    assert not pruning.verdict(many, item, seed, 0.25, 0.5), "better than the current code"
    assert not pruning.verdict(state, item, seed, 0.25, 99.0), "three earlier ideas are too few"
