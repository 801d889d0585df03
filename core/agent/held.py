"""What runs scored on hidden and test text: read from private records, for claims and the final test alone.

Called by campaign.py and finish.py. None of these numbers may reach a proposer, a log or a report.
"""

from __future__ import annotations

import math

from ..contracts import SplitScore
from . import gate, planner
from .journal import get_private
from .replay import score_from_json
from .state import CampaignState, RunRecord


def held_score(run: RunRecord, split: str) -> SplitScore:
    """The hidden or test score of a run, from its private record."""
    assert run.held_digest is not None
    return score_from_json(get_private(run.held_digest)[split])


def hidden_level(state: CampaignState) -> float:
    """Mean cost of the starting code on hidden, in the unit of the recipe's [metric]."""
    scores = [held_score(run, "hidden").judged for run in planner.calibration_runs(state)]
    return math.fsum(scores) / max(1, len(scores))


def campaign_noise(state: CampaignState) -> gate.Noise:
    """Noise from the calibration, sharpened by every closed claim's pairs, and no calmer than the placebos."""
    scores = planner.calibration_scores(state)
    if state.facts.get("metric"):
        scores = [held_score(run, "hidden").judged for run in planner.calibration_runs(state)]
    noise = gate.noise_from_calibration(scores)
    for claim in state.claims:
        if claim.private is not None:
            noise = noise.pooled_with(get_private(claim.private)["pair_deltas"])
    if not state.facts.get("metric"):  # else placebos are measured in another unit than claims
        noise = noise.no_calmer_than(planner.placebo_differences(state))
    return noise


def rung_has_fallen(state: CampaignState, step: planner.LookStep) -> bool:
    """Whether the proven code scores worse in this claim than in those before."""
    runs = [pair[0] for pair in step.pairs]
    earlier = [
        run
        for run in state.runs
        if run.role == "claim" and run.claim != step.claim.id and run.revision == step.claim.rung
        if run.is_scored and not run.outcome.disturbance
    ]
    now, before = ([held_score(run, "hidden").judged for run in found] for found in (runs, earlier))
    return gate.has_fallen(now, before, campaign_noise(state).sigma)
