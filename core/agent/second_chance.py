"""Which idea of the window before is tried once more: one run each is a small sample, and luck loses ideas too.

Called by campaign.py at the first proposal of a window; simulate.py plays the same rule. A pure function of the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..contracts import Status
from .edits import revision_digest
from .merging import merged, missing_names, stands
from .planner import PLACEBO
from .state import CampaignState, ExperimentRecord

SECOND_CHANCE = "second chance"
"""The proposer's name of an idea that is tried once more."""
MOST_BEHIND = 1.0
"""Sigmas that it may have been behind the current code."""
MOST_GAIN = 4.0
"""Sigmas that the window before may have gained: chance alone gains two, and where new ideas pay they come first."""
FEWEST_IDEAS = 16
"""A window with fewer experiments gives none: too large a share of the next would be spent on old ideas."""


@dataclass(frozen=True, slots=True)
class SecondChance:
    """An idea, put into the current code."""

    experiment: int
    """The one that did not keep it."""
    hypothesis: str
    train_py: str


def second_chance(state: CampaignState, window: int) -> SecondChance | None:
    """What the window before did not keep, was least behind, and fits into the current code; once per window."""
    here = [item for item in state.experiments if item.window == window]
    before = [item for item in state.experiments if item.window == window - 1]
    if len(before) < FEWEST_IDEAS or any(item.proposer not in (PLACEBO, "human") for item in here):
        return None
    if state.sigma is None or _gain(before) > MOST_GAIN * state.sigma:
        return None
    head = state.revisions[state.head]
    known = missing_names(head)
    behind = {item.id: found for item in before if (found := _behind(state, item)) is not None}
    for item in sorted((item for item in before if item.id in behind), key=lambda item: behind[item.id]):
        text = merged(state.revisions[item.parent], head, state.revisions[item.revision])
        if text is None or not stands(text, known):
            continue
        # Twice in the tree of revisions, a code would have two parents.
        taken = {state.baseline} | {other.revision for other in state.experiments if other.id != item.id}
        if revision_digest(text) not in taken:
            return SecondChance(item.id, item.hypothesis, text)
    return None


def _gain(window: Sequence[ExperimentRecord]) -> float:
    """How far the current code's score fell within a window."""
    level = next((item.head_score for item in window if item.head_score is not None), math.nan)
    kept = [item.dev_score for item in window if item.status is Status.KEPT and item.dev_score is not None]
    return level - min(kept) if kept else 0.0


def _behind(state: CampaignState, item: ExperimentRecord) -> float | None:
    """How far an idea that may come back was behind; None for every other experiment."""
    # A reason says that something else than its score spoke against it: a disturbed run, the guard of a metric.
    if item.status is not Status.REVERTED or item.reason or item.proposer in (PLACEBO, SECOND_CHANCE):
        return None
    if item.dev_score is None or item.head_score is None or state.sigma is None:
        return None
    behind = item.dev_score - item.head_score
    return behind if behind <= MOST_BEHIND * state.sigma else None
