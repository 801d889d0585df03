"""Which proposals are tried for two steps before their first training run, and what campaigns tell of it. Pure.

Called by campaign.py and the reports. The rule: every code whose template was never seen to work, and every setting of
knobs that makes a model, a batch or a context larger than was seen to work; a try costs about a second on a CPU
(docs/proposers.md), which the other proposals, rates for example, would not repay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from ..contracts import KnobValue, Status
from ..errors import TrainingError
from . import edits
from .planner import PLACEBO
from .state import CampaignState, ExperimentRecord

COSTLY_WORDS = frozenset(
    {"PARAMS", "SIZE", "WIDTH", "HIDDEN", "EMBD", "DEPTH", "LAYER", "LAYERS", "BLOCKS", "HEADS", "EXPERTS"}
    | {"BATCH", "CONTEXT", "LENGTH"}
)
"""A knob with one of these in its name decides what a step takes; more of it takes more."""
FAILED = frozenset({Status.CRASHED, Status.TIMEOUT, Status.OOM, Status.QUOTA, Status.INVALID})
"""Ends of a proposal that gave no score and taught little."""


def needs_smoke(state: CampaignState, experiment: ExperimentRecord) -> bool:
    """Whether a proposal is tried before its run."""
    if experiment.proposer == PLACEBO or any(run.experiment == experiment.id for run in state.runs):
        return False
    worked = _worked(state, experiment.template)
    return not any(_covers(knobs, experiment.knobs) for knobs in worked)


def failed_before_training(experiment: ExperimentRecord) -> bool:
    """Whether a try ended an experiment, so that no training second was spent on it."""
    return experiment.smoke is not None and experiment.smoke.is_failure and experiment.run is None


def failed_share(state: CampaignState) -> float | None:
    """Share of the training seconds of proposals that went into those that failed; None before the first second."""
    runs = [run for run in state.runs if run.role == "search"]
    total = math.fsum(run.outcome.train_seconds for run in runs)
    if not total:
        return None
    return math.fsum(run.outcome.train_seconds for run in runs if run.outcome.status in FAILED) / total


def _worked(state: CampaignState, template: str) -> list[Mapping[str, KnobValue]]:
    """Knob settings of a template that gave a score, or were tried and worked."""
    scored = {run.revision for run in state.runs if run.is_scored}
    found = [
        item.knobs
        for item in state.experiments
        if item.template == template
        and (item.revision in scored or (item.smoke is not None and item.smoke.status is None))
    ]
    if state.baseline in scored:
        known = _template_and_knobs(state.revisions[state.baseline])
        if known is not None and known[0] == template:
            found.append(known[1])
    return found


def _covers(worked: Mapping[str, KnobValue], wanted: Mapping[str, KnobValue]) -> bool:
    """Whether a setting that worked is at least as costly as another one, knob by knob."""
    for name, value in wanted.items():
        if COSTLY_WORDS.isdisjoint(name.upper().split("_")):
            continue
        known = worked.get(name)
        is_number = isinstance(value, int | float) and isinstance(known, int | float)
        if known != value and not (is_number and known > value):  # type: ignore[operator]
            return False
    return True


@lru_cache(maxsize=8)
def _template_and_knobs(text: str) -> tuple[str, Mapping[str, KnobValue]] | None:
    try:
        return edits.template_digest(text), {knob.name: knob.value for knob in edits.parse_knobs(text)}
    except TrainingError:
        return None
