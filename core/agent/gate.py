"""The judge of a campaign: from measurements to "proven", "not better" or "not yet proven". Pure arithmetic, no I/O.

The rule is section 2.2 of the project's trust reference; docs/gate.md says it in plain words and holds what a
simulation of this very code measured. What pairs of runs measure is pairs.py. Two tiers: `keeps` compares two runs of
the search on dev (level.py builds its rule on that), `judge_claim` is the strict one (fresh paired runs of proven and
current code, on the hidden split). Units are bits per byte unless said otherwise, and a difference is always current
code (head) minus proven code (rung).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..contracts import Decision, Verdict
from .pairs import (
    FEW_PAIRS,
    Measured,
    Noise,
    PairScore,
    critical,
    degrees_of,
    group_variance,
    measure,
    noise_from_calibration,
    paired_differences,
    require_finite,
    seed_variance,
    student_quantile,
    sum_of_squares,
)

__all__ = [
    "GatePolicy",
    "Noise",
    "PairScore",
    "claim_alpha",
    "final_interval",
    "goes_on",
    "group_variance",
    "has_fallen",
    "judge_claim",
    "keeps",
    "noise_from_calibration",
    "paired_differences",
    "rounded",
    "smallest_provable_gain",
]

FALLEN = 3.0
"""Standard errors by which a proven code may score worse than when it was proven, before a proof says so."""
FULL_GROUPS = 30
"""From this many groups on, a certificate carries no warning."""
FEWEST_GROUPS = 10
"""With fewer groups nothing is certified: explore only."""
HOPELESS_SHARE = 0.7
"""From FEW_PAIRS pairs on, a claim ends when its gain is below this share of what its last look would ask for."""
CLAIM_SHARE = 0.7
"""Share of a night's alpha that each of its first NIGHT_CLAIMS claims may spend; see `claim_alpha`."""
NIGHT_CLAIMS = 4
"""Claims of a usual night: about 100 proposals, one claim every 32, and one for what is left at its end."""
RESOLUTION = 1e-9
"""Bits per byte. A standard error below this is rounding, not measured noise, and proves nothing."""


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """The constants of the claim tier, from the recipe; what they mean is written in docs/gate.md."""

    alpha: float
    """Probability of a false claim that the first night on a hidden split may spend."""
    looks: tuple[int, ...]
    """Numbers of pairs at which a claim is judged, ascending."""
    alpha_split: tuple[float, ...]
    """Share of a claim's alpha for each look; at most 1 in sum."""
    min_effect: float = 0.001
    """Smallest difference worth a claim, in the unit of the metric (bits per byte)."""
    patience: int = 2
    """How many times a chain that is not yet proven may go on before it goes back to the rung."""
    direction: str = "min"
    """"min" when a lower score is better, "max" when a higher one is."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 0.5:
            raise ValueError(f"alpha must lie between 0 and 0.5, not {self.alpha}")
        if not self.looks or self.looks[0] < 1 or list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks must be ascending pair counts, not {self.looks}")
        if len(self.alpha_split) != len(self.looks) or min(self.alpha_split) <= 0:
            raise ValueError("alpha_split needs one positive share per look")
        if math.fsum(self.alpha_split) > 1.0 + 1e-9:
            raise ValueError(f"alpha_split adds up to more than 1: {self.alpha_split}")
        if not (math.isfinite(self.min_effect) and self.min_effect >= 0 and self.patience >= 0):
            raise ValueError("min_effect and patience must be finite and not negative")
        if self.direction not in ("min", "max"):
            raise ValueError(f'direction must be "min" or "max", not {self.direction!r}')


@dataclass(frozen=True, slots=True)
class _Bars:
    """Gains that a claim must reach: to be worth claiming, to be certified now, and probably at its last look."""

    smallest: float
    now: float
    last: float


# --- search tier ----------------------------------------------------------------------------


def keeps(
    candidate_score: float, head_score: float, candidate_lines: int, head_lines: int, direction: str = "min"
) -> bool:
    """Whether the search keeps a candidate for now: better on dev than the head's own run, or equal with less code.

    Never reported as a gain. A score that is not a finite number never keeps, whatever it is compared with.
    """
    if not (math.isfinite(candidate_score) and math.isfinite(head_score)):
        return False
    if candidate_score == head_score:
        return candidate_lines < head_lines
    return (candidate_score < head_score) == (direction == "min")


def rounded(score: float, sigma: float) -> float:
    """A dev score as the proposer may see it: the nearest multiple of half a sigma (same unit as `score`).

    A sigma of zero, or below the precision of a float, leaves the score as it is: there is no noise to hide behind.
    """
    require_finite((score, sigma))
    step = sigma / 2.0
    return step * round(score / step) if step > 1e-15 * abs(score) else score


# --- claim tier -----------------------------------------------------------------------------


def claim_alpha(policy: GatePolicy, night: int, claim: int) -> float:
    """What claim number `claim` of night number `night` may spend in all its looks; both count from 0.

    A night counts on the same hidden split, and halves what the one before had. Within a night the first
    NIGHT_CLAIMS claims may spend CLAIM_SHARE of the night's alpha each, every later one half of the one before, so that
    the sum over any number of claims stays finite. That sum exceeds `alpha`; the share was chosen by simulation, where
    nights with a false claim stay below 8 % (most false hopes are rejected at their first look). Shares that add up to
    `alpha` leave half of all gains of three sigma unproven. docs/gate.md has both.
    """
    if night < 0 or claim < 0:
        raise ValueError("nights and claims count from 0")
    return policy.alpha * CLAIM_SHARE * 0.5 ** (night + max(0, claim - NIGHT_CLAIMS + 1))


def goes_on(policy: GatePolicy, unclear_claims: int) -> bool:
    """Whether a chain that was found not yet proven `unclear_claims` times in a row goes on, or returns to the rung."""
    return unclear_claims <= policy.patience


def judge_claim(
    pairs: Sequence[PairScore],
    noise: Noise,
    policy: GatePolicy,
    claim_alpha: float,
    *,
    more_allowed: bool = True,
    obstacle: str = "",
) -> Verdict:
    """Judge head against rung on all pairs measured so far: the one way from measurements to a verdict.

    `noise` is what was known before this claim, `claim_alpha` what this claim may spend in all its looks, and
    `more_allowed` is False when no further pair will be run, and `obstacle` says why nothing can be certified whatever
    the pairs show (empty: nothing stands in the way). Between two looks the verdict carries the threshold of the
    coming one. `delta` is a hidden score: a proposer may see the decision, never the verdict. Raises ValueError for
    numbers that are not finite, groups that differ between runs, and more pairs than the last look.
    """
    if not 0.0 < claim_alpha < 0.5:
        raise ValueError(f"a claim's alpha must lie between 0 and 0.5, not {claim_alpha}")
    if len(pairs) > policy.looks[-1]:
        raise ValueError(f"{len(pairs)} pairs, but the last look is at {policy.looks[-1]}")
    measured = measure(pairs)
    noise_then = noise.pooled_with(measured.pair_deltas)
    variance = seed_variance(measured, noise_then)
    error = math.sqrt(variance + measured.group_variance)
    look = next(index for index, count in enumerate(policy.looks) if count >= len(pairs))
    alpha = claim_alpha * policy.alpha_split[look]
    eta = _smallest_effect(noise, policy)
    degrees = degrees_of(variance, noise_then.degrees, measured.group_variance, measured.group_count)
    needed = max(eta, critical(alpha, degrees, len(pairs)) * error)
    last = max(eta, _bar_of_last_look(measured, noise_then, policy, claim_alpha))
    gain = -measured.delta if policy.direction == "min" else measured.delta
    decision, reasons = _decide(measured, policy, gain, _Bars(eta, needed, last), error, more_allowed, obstacle)
    return Verdict(
        decision=decision,
        delta=measured.delta,
        standard_error=error,
        threshold=-needed if policy.direction == "min" else needed,
        eta=eta,
        pairs=len(pairs),
        alpha=alpha,
        group_count=measured.group_count,
        reasons=reasons,
    )


def smallest_provable_gain(noise: Noise, group_variance: float, policy: GatePolicy, alpha: float) -> float:
    """The gain (bits per byte, positive) that a claim with `alpha` just proves at its last look, for the plan.

    A true gain of this size is proven about every second time. `group_variance` is omega squared, in (bits per byte)
    squared; enough groups are assumed.
    """
    count = policy.looks[-1]
    variance = noise.difference_variance / count
    degrees = degrees_of(variance, noise.degrees + count - 1, group_variance, FULL_GROUPS)
    quantile = critical(alpha * policy.alpha_split[-1], degrees, count)
    return max(_smallest_effect(noise, policy), quantile * math.sqrt(variance + group_variance))


def final_interval(pairs: Sequence[PairScore], confidence: float = 0.95) -> tuple[float, float, float]:
    """(difference, low, high) in bits per byte of final minus baseline code: the only numbers fit for a headline.

    Two-sided Student-t interval: the variance over paired seeds divided by their number, plus the group-clustered
    variance, with the smaller of (pairs - 1) and (groups - 1) degrees of freedom. Nothing is borrowed from the
    campaign, so nothing that the campaign selected can bias it. Needs two pairs and two groups.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    measured = measure(pairs)
    if len(pairs) < 2 or measured.group_count < 2:
        raise ValueError("an interval needs at least two pairs and two groups")
    variance = sum_of_squares(measured.pair_deltas) / (len(pairs) - 1) / len(pairs)
    degrees = min(len(pairs), measured.group_count) - 1
    half = student_quantile(degrees, (1.0 - confidence) / 2.0) * math.sqrt(variance + measured.group_variance)
    return measured.delta, measured.delta - half, measured.delta + half


def has_fallen(now: Sequence[float], before: Sequence[float], sigma: float) -> bool:
    """Whether a code scores clearly worse than its earlier runs did; scores of single runs, lower is better.

    A proven code that does is a low bar for the one that is compared with it: the machine is slower than it was, or
    the code does its work only sometimes.
    """
    if not now or not before:
        return False
    error = sigma * math.sqrt(1.0 / len(now) + 1.0 / len(before))
    return math.fsum(now) / len(now) - math.fsum(before) / len(before) > FALLEN * error


# --- the decision ---------------------------------------------------------------------------


def _decide(
    measured: Measured,
    policy: GatePolicy,
    gain: float,
    bars: _Bars,
    error: float,
    more_allowed: bool,
    obstacle: str,
) -> tuple[Decision, tuple[str, ...]]:
    """The decision and its reasons in plain words, for people. No reason holds a hidden score."""
    pairs = len(measured.pair_deltas)
    is_look = pairs in policy.looks
    may_wait = more_allowed and pairs < policy.looks[-1]
    if may_wait and not is_look:
        return Decision.MORE_PAIRS, ("the next judgement needs more pairs",)
    # One pair alone may be unlucky by more than a gain worth a claim: it rejects what is no better at all.
    if is_look and (gain < bars.smallest if pairs > 1 else gain <= 0):
        return Decision.REJECT, ("the current code is not better than the proven code by an amount worth a claim",)
    obstacles = ((f"not certifiable, {obstacle}",) if obstacle else ()) + _obstacles(measured)
    if obstacles:
        return Decision.UNCLEAR, obstacles
    if is_look and gain >= bars.now and error >= RESOLUTION:
        return Decision.CERTIFY, ("the gain is larger than chance explains", *_warnings(measured))
    if may_wait and pairs >= FEW_PAIRS and gain < HOPELESS_SHARE * bars.last:
        return Decision.UNCLEAR, ("it looks better, but too little for the pairs of runs that are left to prove it",)
    if may_wait:
        return Decision.MORE_PAIRS, ("promising, but not yet larger than chance explains",)
    if error < RESOLUTION:
        return Decision.UNCLEAR, ("not certifiable: no noise at all was measured, so chance cannot be ruled out",)
    return Decision.UNCLEAR, ("it looks better, but by no more than chance may explain",)


def _obstacles(measured: Measured) -> tuple[str, ...]:
    """Why no number of further pairs can turn these measurements into a certificate."""
    found = []
    if measured.group_count < FEWEST_GROUPS:
        found.append(
            f"not certifiable, explore only: {measured.group_count} groups in the hidden split, "
            f"at least {FEWEST_GROUPS} are needed"
        )
    if measured.ignores_seed:
        found.append("not certifiable: the current code gives identical scores with different seeds")
    return tuple(found)


def _warnings(measured: Measured) -> tuple[str, ...]:
    if measured.group_count >= FULL_GROUPS:
        return ()
    return (f"warning: only {measured.group_count} groups in the hidden split, {FULL_GROUPS} are advised",)


def _smallest_effect(noise: Noise, policy: GatePolicy) -> float:
    """eta: half the noise of a run, and never less than what the recipe calls worth a claim."""
    return max(noise.sigma / 2.0, policy.min_effect)


def _bar_of_last_look(measured: Measured, noise: Noise, policy: GatePolicy, claim_alpha: float) -> float:
    """What the last look will ask for when nothing changes but the number of pairs; `noise` holds the open claim's."""
    count = policy.looks[-1]
    pairs = len(measured.pair_deltas)
    variance = seed_variance(measured, noise) * pairs / count
    degrees = degrees_of(variance, noise.degrees + count - pairs, measured.group_variance, measured.group_count)
    alpha = claim_alpha * policy.alpha_split[-1]
    return critical(alpha, degrees, count) * math.sqrt(variance + measured.group_variance)
