"""An idea that one run lost by chance is tried once more, in the code that is current by then."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_campaign import FakeExecutor, Scripted, StopError, dies_at, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent import planner
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.merging import merged, missing_names, stands
from slm_ar.core.agent.second_chance import FEWEST_IDEAS, SECOND_CHANCE, second_chance
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Proposal, ResearchContext, SplitScore, Status
from slm_ar.core.prepare.pipeline import PreparedData

RECIPE = toy_recipe(gate={"claim_every": 16})
"""Windows of sixteen."""
FILLERS = [{"MATRIX_LR": 0.001 + 0.0001 * step} for step in range(40)]
"""Each of them far behind."""


class Unlucky(FakeExecutor):
    """A batch of 512 gains 0.01 bits per byte (five sigma), but for the seeds of unlucky windows: there it loses."""

    def __init__(self, *unlucky_seeds: int) -> None:
        super().__init__()
        self.unlucky = unlucky_seeds

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        score = super().score(folder, split, context)
        knobs = {knob.name: knob.value for knob in parse_knobs((folder / "train.py").read_text(encoding="utf-8"))}
        if knobs["BATCH_TOKENS"] != 512:
            return score
        is_unlucky = int((folder / "seed").read_text(encoding="utf-8")) in self.unlucky
        mates = folder.parent / "mates"  # the same run of the code without the larger batch
        mates.mkdir(exist_ok=True)
        text = set_knobs((folder / "train.py").read_text(encoding="utf-8"), {"BATCH_TOKENS": 256})
        (mates / "train.py").write_text(text, encoding="utf-8")
        (mates / "seed").write_text((folder / "seed").read_text(encoding="utf-8"), encoding="utf-8")
        level = super().score(mates, split, context)
        change = 0.001 if is_unlucky else -0.01
        groups = tuple(replace(group, nats=group.nats + change * math.log(2) * 1000) for group in level.groups)
        return replace(level, bits_per_byte=level.bits_per_byte + change, groups=groups)


def played(
    root: Path, journal: Journal, data: PreparedData, changes: list[dict[str, Any]], count: int, unlucky: int = 1
) -> Campaign:
    """A night in which a larger batch has bad luck in the first `unlucky` windows."""
    executor = Unlucky()
    campaign = opened(root, journal, data, executor, RECIPE)
    executor.unlucky = tuple(planner.window_seed(campaign.state, window) for window in range(unlucky))
    night(campaign, Scripted(*changes), count)
    return campaign


def again(state: CampaignState) -> list[Any]:
    return [item for item in state.experiments if item.proposer == SECOND_CHANCE]


def test_what_was_lost_by_chance_is_found_in_the_next_window(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    changes = [{"MATRIX_LR": 0.002}, {"BATCH_TOKENS": 512}, *FILLERS]
    state = played(workspace, journal, tiny_data, changes, 20).state
    lost = next(item for item in state.experiments if item.hypothesis == "set {'BATCH_TOKENS': 512}")
    assert (lost.status, lost.window) == (Status.REVERTED, 0)
    (item,) = again(state)
    assert (item.status, item.window) == (Status.KEPT, 1)
    assert item.hypothesis == "once more: set {'BATCH_TOKENS': 512}" and f"Experiment {lost.id} " in item.rationale
    assert item.id in (17, 18), "the first proposal of its window that is no placebo"
    assert dict(item.knobs)["BATCH_TOKENS"] == 512


def test_it_is_put_into_what_is_current_by_then(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    changes = [{"BATCH_TOKENS": 512}, {"MATRIX_LR": 0.0215}, *FILLERS]
    state = played(workspace, journal, tiny_data, changes, 20).state
    (item,) = again(state)
    knobs = dict(item.knobs)
    assert (knobs["BATCH_TOKENS"], knobs["MATRIX_LR"], item.status) == (512, 0.0215, Status.KEPT)
    assert state.revisions[item.parent] == set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.0215})
    assert item.revision not in {other.revision for other in state.experiments if other.id != item.id}


def test_there_is_no_third_chance(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    state = played(workspace, journal, tiny_data, [{"BATCH_TOKENS": 512}, *FILLERS], 40, unlucky=3).state
    (item,) = again(state)
    assert (item.window, item.status) == (1, Status.REVERTED), "and no other idea was near enough in window 1"


def test_what_was_far_behind_does_not_come_back(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    state = played(workspace, journal, tiny_data, FILLERS, 20).state
    assert again(state) == []
    assert [item.hypothesis for item in state.experiments if item.proposer == "scripted"] == [
        f"set {change}" for change in FILLERS[:19]
    ]


def test_where_new_ideas_pay_they_come_first(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    state = played(workspace, journal, tiny_data, [{"BATCH_TOKENS": 512}, {"MATRIX_LR": 0.16}, *FILLERS], 16).state
    assert second_chance(state, 1) is None, "0.15 bits per byte are far more than four sigma"
    assert second_chance(replace(state, sigma=0.05), 1) is not None


def state_after_a_window(workspace: Path, journal: Journal, data: PreparedData) -> CampaignState:
    state = played(workspace, journal, data, [{"BATCH_TOKENS": 512}, *FILLERS], 16).state
    found = second_chance(state, 1)
    assert found is not None and found.hypothesis == "set {'BATCH_TOKENS': 512}"
    return state


def test_disturbed_guarded_and_colliding_ideas_stay_dropped(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    state = state_after_a_window(workspace, journal, tiny_data)

    def with_batch(**changes: Any) -> CampaignState:
        known = [item for item in state.experiments if item.hypothesis != "set {'BATCH_TOKENS': 512}"]
        (lost,) = (item for item in state.experiments if item.hypothesis == "set {'BATCH_TOKENS': 512}")
        return replace(state, experiments=(*known, replace(lost, **changes)))

    assert second_chance(with_batch(), 1) is not None
    for changes in (
        {"reason": "a disturbed run: other programs"},
        {"status": Status.PRUNED},
        {"status": Status.CRASHED},
        {"head_score": None},
        {"proposer": SECOND_CHANCE},
        {"run": None},
    ):
        assert second_chance(with_batch(**changes), 1) is None, changes
    head = set_knobs(TINY_TRAIN_PY, {"BATCH_TOKENS": 128})
    assert second_chance(replace(state, head="other", revisions={**state.revisions, "other": head}), 1) is None
    assert second_chance(state, 2) is None, "it belongs to the window that follows"
    assert second_chance(replace(state, experiments=state.experiments[: FEWEST_IDEAS - 1]), 1) is None
    hand = replace(state.experiments[0], window=1, proposer="human")
    assert second_chance(replace(state, experiments=(*state.experiments, hand)), 1) is not None
    other = replace(hand, proposer="scripted")
    assert second_chance(replace(state, experiments=(*state.experiments, other)), 1) is None


def test_a_code_never_gets_two_parents(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    """An idea that takes back what was kept leads to the starting code: as a kept one it would be its own ancestor."""
    state = state_after_a_window(workspace, journal, tiny_data)
    (lost,) = (item for item in state.experiments if item.hypothesis == "set {'BATCH_TOKENS': 512}")
    rate = set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.16})
    back = replace(lost, parent="rate", revision=state.baseline)
    state = replace(state, head="rate", revisions={**state.revisions, "rate": rate})
    known = tuple(item for item in state.experiments if item.id != lost.id)
    assert second_chance(replace(state, experiments=(*known, back)), 1) is None


@pytest.mark.parametrize("at_job", [1, 2, 3])
def test_cut_off_in_its_run_or_beside_it_the_night_goes_on_alike(
    tmp_path: Path, tiny_data: PreparedData, at_job: int
) -> None:
    changes = [{"MATRIX_LR": 0.002}, {"BATCH_TOKENS": 512}, *FILLERS]
    told = []
    for root in (tmp_path / "whole", tmp_path / "cut"):
        with Journal(root / ".slm") as journal:
            campaign = played(root, journal, tiny_data, changes, 16)
            executor = campaign.executor
            assert isinstance(executor, Unlucky)
            if root.name == "cut":
                executor.happens = dies_at(at_job)
                with pytest.raises(StopError):
                    night(campaign, Scripted(*changes), 4)
                campaign = opened(root, journal, tiny_data, executor, RECIPE)
            night(campaign, Scripted(*changes), None if root.name == "cut" else 4)
            told.append([(item.revision, item.proposer, item.status) for item in campaign.state.experiments])
    assert told[0] == told[1] and len(told[0]) == 20
    assert [proposer for _, proposer, _ in told[0]].count(SECOND_CHANCE) == 1


def test_a_proposer_is_told_of_it_like_of_any_idea(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    changes = [{"BATCH_TOKENS": 512}, *FILLERS]
    executor = Unlucky()
    campaign = opened(workspace, journal, tiny_data, executor, RECIPE)
    executor.unlucky = (planner.window_seed(campaign.state, 0),)
    seen: list[ResearchContext] = []

    class Watching(Scripted):
        def propose(self, context: ResearchContext) -> Proposal | None:
            seen.append(context)
            return super().propose(context)

    night(campaign, Watching(*changes), 20)
    assert any(past.hypothesis.startswith("once more: ") for past in seen[-1].history)


def test_a_merge_that_leaves_a_name_undefined_does_not_stand() -> None:
    base = "A = 1\nB = 2\nC = A\nD = 4\n"
    assert (
        merged(base, base.replace("D = 4", "D = 5"), base.replace("A = 1", "A = 7")) == "A = 7\nB = 2\nC = A\nD = 5\n"
    )
    assert merged(base, base.replace("D = 4", "D = 5"), base.replace("D = 4", "D = 6")) is None
    assert not stands(TINY_TRAIN_PY + "print(nowhere)\n", missing_names(TINY_TRAIN_PY))
    assert stands(TINY_TRAIN_PY, missing_names(TINY_TRAIN_PY)) and not stands(None, frozenset())
