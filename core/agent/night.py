"""The plan of a night, made before it starts: how many runs of which kind, how long, and what they could prove."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from statistics import median

from ..recipe import Recipe
from . import planner, prune_pass, pruning
from .provable import provable_words
from .state import CampaignState

OVERHEAD_SECONDS = 2.0
"""Start-up, scoring and bookkeeping of one run on a laptop, for the estimate only."""


@dataclass(frozen=True, slots=True)
class Night:
    """`target` is the number of judged experiments to reach; `counts` are runs by kind; `lines` are for people."""

    target: int
    is_new: bool
    counts: dict[str, float]
    lines: list[str]


def plan_night(state: CampaignState, recipe: Recipe, experiments: int | None) -> Night:
    """Go on with the newest unfinished plan, or plan `experiments` (default: the recipe's) more."""
    judged = sum(1 for item in state.experiments if item.status is not None)
    planned = state.facts.get("experiments_planned")
    # A night that was killed during its last claim has all its experiments, and still a claim to close.
    is_unfinished = planned is not None and (planned > judged or state.stop_reason is None)
    base = int(state.facts["plan"]["from"]) if is_unfinished else judged
    if experiments is None and planned is not None and is_unfinished:
        target = int(planned)
    else:
        target = base + (experiments or recipe.budget.experiments)
    table = recipe.gate
    search = max(0, target - judged)
    calibrate = max(0, table.calibration_runs - len(planner.calibration_scores(state)))
    looks = tuple(table.looks)
    claims = math.ceil(search / table.claim_every)
    claim = claims * 2 * looks[len(looks) // 2]
    final = 2 * table.final_pairs
    prune = prune_pass.RUNS if target >= prune_pass.FEWEST_EXPERIMENTS else 0
    total = calibrate + search + claim + prune + final
    seconds = recipe.budget.seconds
    saved = 0.0 if recipe.budget.prune is False else search * (1.0 - pruning.share_used(state))
    minutes = ((total - saved) * seconds + total * OVERHEAD_SECONDS) / 60 if seconds is not None else 0.0
    has_claimed = len(state.claims) > int(state.facts.get("claims_before", 0))
    counts = {
        "from": base,
        "night": int(state.facts.get("night", 0)) + has_claimed,
        "calibrate": calibrate,
        "search": search,
        "claim": claim,
        "prune": prune,
        "final": final,
        "total": total,
        "minutes": round(minutes, 1),
    }
    time_words = f", about {minutes:.0f} minutes" if minutes else ""
    lines = [
        f"the plan: {total} runs{time_words}: {calibrate} for the noise, {search} ideas, about {claim} for proof, "
        + (f"{prune} to prune, " if prune else "")
        + f"{final} for the final test",
    ]
    if round(saved):
        lines.append(f"hopeless ideas end early, as so far: that saves about {saved:.0f} of the {search} idea runs")
    if words := provable_words(state):
        lines.append(f"what could be proven: {words}")
    return Night(target, not is_unfinished or target != planned, counts, lines)


def run_seconds(state: CampaignState, recipe: Recipe) -> float:
    """How long one training run takes, its start-up and its scoring included; 0 while nobody knows."""
    known = [run.outcome.wall_seconds + (run.dev.seconds if run.dev is not None else 0.0) for run in state.runs[-10:]]
    if known:
        return median(known)
    return recipe.budget.seconds + OVERHEAD_SECONDS if recipe.budget.seconds is not None else 0.0


def proof_seconds(state: CampaignState, recipe: Recipe) -> float:
    """How long a proof takes that needs as many pairs of runs as most do: what a night keeps for its last one."""
    looks = recipe.gate.looks
    return 2 * looks[len(looks) // 2] * run_seconds(state, recipe)


# --- its end ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop besides the plan; None where there is no limit."""

    stop_at: float | None = None
    """time.monotonic() of the moment after which no run begins."""
    reason: str = "the time is up"
    """What is said when it has come."""
    started: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Whether the time is up: a run that began before goes on to its end."""
        return self.stop_at is not None and time.monotonic() > self.stop_at

    def search_end(self, state: CampaignState, recipe: Recipe) -> float | None:
        """The moment after which nothing new is proposed: one more run and the last proof should fit behind it.

        They get half of the time at most: in a short night most proofs are left open for the next.
        """
        if self.stop_at is None:
            return None
        wanted = proof_seconds(state, recipe) + run_seconds(state, recipe)
        return self.stop_at - min(wanted, (self.stop_at - self.started) / 2)


def why_it_ends(state: CampaignState, step: planner.Step, experiments: int, limits: Limits, over: str) -> str:
    """Why the night ends before `step`, with what it leaves open; empty when it goes on."""
    if isinstance(step, planner.DoneStep):
        judged = sum(1 for item in state.experiments if item.status is not None)
        return "planned experiments done" if judged >= experiments else over
    if not limits.is_over or not isinstance(step, planner.TrainStep | planner.OpenClaimStep):
        return ""
    is_in_claim = bool(state.claims) and state.claims[-1].verdict is None
    return limits.reason + is_in_claim * "; a proof is half done, the same command goes on with it"
