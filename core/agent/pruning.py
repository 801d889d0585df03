"""Which runs of the search are hopeless before their end: a pure rule over looks at snapshots, and what it compares.

Called by campaign.py when a run stands still for a look. Promises: a run is ended only for being further behind the
current code, at the same share of the budget and with the same seed, than most proposals before it *and* than noise and
the changes of rank up to the end explain. Nothing is ever kept for a look, and runs of the calibration, of the current
code, of placebos, claims and finish are never ended by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from ..contracts import Status
from ..recipe import Recipe
from ..train.device import Machine
from .gate import rounded
from .planner import PLACEBO, calibration_runs, head_run_for
from .state import CampaignState, ExperimentRecord, RunRecord

SHARES = (0.125, 0.25)
"""Of the budget, at which a run shows its model."""
MARGINS = {0.125: 1.5, 0.25: 1.0}
"""Spreads that a run must be behind to be ended: one that starts slowly has until the second look to catch up."""
FEWEST_EARLIER = 5
"""Looks at earlier proposals, at the same share, before any run is ended."""
SHORTEST_AUTO_SECONDS = 60.0
"""prune = "auto": from this budget on, two looks cost about 3 % of it or less (docs/gate.md)."""
LOOKED_AT = frozenset({"calibrate", "window", "search"})
"""Roles whose runs show snapshots: proposals, and what they are compared with."""


@dataclass(frozen=True, slots=True)
class Past:
    """What earlier runs of a campaign showed at one share of the budget, in bits per byte of the sample."""

    behind: tuple[float, ...]
    """Of every proposal looked at: its score minus that of the code it edits, with the same seed; positive is worse."""
    surprises: tuple[float, ...]
    """Of those that were trained to the end: how far behind they were at the end minus how far behind here."""
    noise: float
    """Standard deviation over seeds of a look at the starting code; 0 when it was not looked at twice."""

    @property
    def spread(self) -> float:
        """By how much a difference between two looks may miss the difference at the end: noise and changes of rank."""
        surprise = math.fsum(value * value for value in self.surprises) / max(1, len(self.surprises))
        return math.sqrt(2.0 * self.noise**2 + surprise)


def is_hopeless(share: float, behind: float, past: Past) -> bool:
    """Whether a run that is `behind` its rival at `share` of the budget is ended.

    At least FEWEST_EARLIER proposals must have been looked at there, some noise must have been seen, and a number that
    is not finite ends nothing.
    """
    if len(past.behind) < FEWEST_EARLIER or not math.isfinite(behind) or past.spread <= 0 or share not in MARGINS:
        return False
    return behind > median(past.behind) and behind > MARGINS[share] * past.spread


def prunes(recipe: Recipe, machine: Machine) -> bool:
    """Whether this campaign's runs are looked at, by `[budget] prune`.

    With a [metric] never: the sample measures bits per byte, and that is not what such a campaign lowers. "auto" asks
    for a budget by the clock on a CPU that is long enough; what a stopped process has queued on a GPU goes on there.
    """
    asked, budget = recipe.budget.prune, recipe.budget
    if recipe.metric is not None or asked is False:
        return False
    if asked == "auto":
        return machine.device == "cpu" and budget.seconds is not None and budget.seconds >= SHORTEST_AUTO_SECONDS
    return True


def past_looks(state: CampaignState, share: float) -> Past:
    """What the journal holds of looks at `share`. Placebos and disturbed runs are left out."""
    behind, surprises = [], []
    for item in state.experiments:
        run = item.run
        if run is None or item.proposer == PLACEBO or run.outcome.disturbance:
            continue
        rival = rival_of(state, item, run.seed)
        own, other = look_at(run, share), look_at(rival, share) if rival is not None else None
        if own is None or other is None:
            continue
        behind.append(own - other)
        if run.dev is not None and item.head_score is not None:
            surprises.append(run.dev.judged - item.head_score - (own - other))
    noise = [look for run in calibration_runs(state) if (look := look_at(run, share)) is not None]
    return Past(tuple(behind), tuple(surprises), _deviation(noise))


def share_used(state: CampaignState) -> float:
    """Mean share of its budget that a judged proposal used; 1 as long as none was ended early."""
    used = [
        item.run.looks[-1][0] if item.status is Status.PRUNED and item.run.looks else 1.0
        for item in state.experiments
        if item.run is not None
    ]
    return math.fsum(used) / len(used) if used else 1.0


def rival_of(state: CampaignState, item: ExperimentRecord, seed: int) -> RunRecord | None:
    """The run, with the same seed, of the code that an experiment edits."""
    rival = head_run_for(replace(state, head=item.parent), seed)
    return rival if rival is not None and not rival.outcome.disturbance else None


def look_at(run: RunRecord, share: float) -> float | None:
    """Bits per byte of the sample that a run showed at `share` of its budget."""
    return dict(run.looks).get(share)


def verdict(state: CampaignState, item: ExperimentRecord, seed: int, share: float, look: float) -> str:
    """Why the run of an open experiment is ended at this look; empty when it goes on.

    The numbers in it are rounded like a dev score, because the proposer reads reasons.
    """
    rival = rival_of(state, item, seed)
    other = look_at(rival, share) if rival is not None else None
    if item.proposer == PLACEBO or other is None:
        return ""
    past = past_looks(state, share)
    behind = look - other
    if not is_hopeless(share, behind, past):
        return ""
    return (
        f"hopeless after {_SHARE_WORDS[share]} of its budget: {rounded(behind, state.sigma or 0.0):.4f} {state.unit} "
        f"behind the current code, and further behind than most of {len(past.behind)} earlier ideas"
    )


_SHARE_WORDS = {0.125: "an eighth", 0.25: "a quarter"}


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
