"""Paired comparison of proposers with a reference: differences, intervals, tests, and how much sooner one is there.

Called by page.py. Pure arithmetic on traces. Promises: searches are paired by corpus and search seed and have had equal
seconds; a difference is a proposer's minus the reference's, negative is better; the same traces give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .loop import SHARES, Trace, failed_share

Vector = npt.NDArray[np.float64]

RESAMPLES, CURVE_RESAMPLES = 10_000, 2_000
LEVEL = 0.05
FEWEST_PAIRS = 6
"""With fewer, no outcome of a two-sided rank test is below LEVEL."""
GRID = 400
"""Points in time at which mean curves are compared."""
CLAIMED_RATIO = 0.7
"""A speed ratio is claimed only when its upper bound is below this."""
AHEAD, NOT_BEHIND, BEHIND, UNTOLD = "ahead", "not behind", "behind", "cannot be told"


@dataclass(frozen=True, slots=True)
class Difference:
    """A proposer against the reference at one share of the seconds."""

    share: float
    mean: float
    low: float
    high: float
    """Bootstrap 95 % interval of the mean paired difference, by resampling search seeds."""
    p: float
    """Two-sided Wilcoxon signed-rank test of the paired differences."""
    seeds: int
    value: float
    """Mean true value of the proposer."""
    verdict: str


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds until the mean true value reaches the reference's final one, over the reference's own."""

    ratio: float
    """Infinite when it never gets there."""
    low: float
    high: float
    """Ends of the bootstrap 95 % interval."""

    @property
    def is_claimed(self) -> bool:
        return self.high < CLAIMED_RATIO


@dataclass(frozen=True, slots=True)
class Comparison:
    """One proposer on one corpus."""

    corpus: str
    proposer: str
    differences: tuple[Difference, ...]
    """One per share; of the reference itself all zero."""
    speed: Speed | None
    """None for the reference, where only the values at SHARES are known, and where nothing may be claimed."""
    failed_share: float
    """Share of the seconds that went into proposals without a score."""
    mean_experiments: float
    propose_milliseconds: float
    """Mean time of one proposal."""
    skipped: float
    """Mean number of proposals of a search that could not be measured."""
    exhausted: int
    """Searches that ended because the proposer had nothing more."""


def compare(
    traces: Sequence[Trace],
    reference: str,
    margins: Mapping[str, float],
    knows_all: bool = True,
    weak: Collection[str] = (),
    seed: int = 0,
) -> list[Comparison]:
    """Every proposer of every corpus against `reference`. `margins`: corpus -> what still counts as not behind.

    `knows_all`: whether the traces value all that a search ever held, which speed needs; else only that at SHARES.
    `weak`: corpora of which nothing may be claimed, whatever the numbers are.

    Raises ValueError when traces do not pair: a seed that one has and the other has not, or unequal seconds.
    """
    found = []
    for corpus in dict.fromkeys(trace.corpus for trace in traces):
        own = [trace for trace in traces if trace.corpus == corpus]
        rivals = _by_seed(own, reference)
        for name in dict.fromkeys(trace.proposer for trace in own):
            pairs = paired(_by_seed(own, name), rivals)
            with_speed = knows_all and name != reference and corpus not in weak
            item = _comparison(corpus, name, pairs, margins[corpus], seed, with_speed)
            if corpus in weak:
                told_nothing = (replace(difference, verdict=UNTOLD) for difference in item.differences)
                item = replace(item, differences=tuple(told_nothing))
            found.append(item)
    return found


def paired(own: Mapping[int, Trace], rivals: Mapping[int, Trace]) -> list[tuple[Trace, Trace]]:
    """(proposer's, reference's) searches with equal seeds, in the order of the seeds. Raises ValueError."""
    if own.keys() != rivals.keys():
        raise ValueError(f"search seeds without a partner: {sorted(own.keys() ^ rivals.keys())}")
    pairs = [(own[seed], rivals[seed]) for seed in sorted(own)]
    for one, other in pairs:
        if one.seconds != other.seconds:
            raise ValueError(f"seed {one.search_seed}: {one.seconds} s against {other.seconds} s")
    return pairs


def _by_seed(traces: Sequence[Trace], name: str) -> dict[int, Trace]:
    return {trace.search_seed: trace for trace in traces if trace.proposer == name}


def _comparison(
    corpus: str, name: str, pairs: list[tuple[Trace, Trace]], margin: float, seed: int, with_speed: bool
) -> Comparison:
    own = [one for one, _ in pairs]
    asked = sum(trace.proposals for trace in own)
    return Comparison(
        corpus=corpus,
        proposer=name,
        differences=tuple(_difference(pairs, share, margin, seed) for share in SHARES),
        speed=speed(pairs, seed) if with_speed else None,
        failed_share=failed_share(own),
        mean_experiments=sum(_experiments(trace) for trace in own) / len(own),
        propose_milliseconds=1000 * sum(trace.propose_seconds for trace in own) / max(1, asked),
        skipped=sum(step.status == "skipped" for trace in own for step in trace.steps) / len(own),
        exhausted=sum(trace.is_exhausted for trace in own),
    )


def _experiments(trace: Trace) -> int:
    return sum(step.role == "proposal" and step.status != "skipped" for step in trace.steps)


def _difference(pairs: list[tuple[Trace, Trace]], share: float, margin: float, seed: int) -> Difference:
    values = np.array([[trace.values[trace.returned_at(share)] for trace in pair] for pair in pairs])
    deltas: Vector = values[:, 0] - values[:, 1]
    low, high = bootstrap_interval(deltas, seed)
    p = wilcoxon_p(deltas)
    return Difference(
        share=share,
        mean=float(deltas.mean()),
        low=low,
        high=high,
        p=p,
        seeds=len(deltas),
        value=float(values[:, 0].mean()),
        verdict=verdict(low, high, p, margin) if len(deltas) >= FEWEST_PAIRS else UNTOLD,
    )


def verdict(low: float, high: float, p: float, margin: float) -> str:
    """In words. Interval and rank test must agree before a difference is claimed either way."""
    if high < 0 and p < LEVEL:
        return AHEAD
    if low > 0 and p < LEVEL:
        return BEHIND
    return NOT_BEHIND if high < margin else UNTOLD


def bootstrap_interval(deltas: Vector, seed: int) -> tuple[float, float]:
    """95 % interval of the mean by resampling whole pairs: expanded percentile (Hesterberg 2015)."""
    if not deltas.any():
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    means = deltas[rng.integers(0, len(deltas), (RESAMPLES, len(deltas)))].mean(axis=1)
    low, high = np.quantile(means, _ends(len(deltas)))
    return float(low), float(high)


def _ends(count: int) -> tuple[float, float]:
    """Which shares of the resampled values bound a 95 % interval.

    Resampling few pairs gives intervals that are too short, as if their spread were known: the plain 2.5 and 97.5 %
    hold the truth in 88 % of studies with six pairs. What Student's interval has for that is put in here.
    """
    from scipy.special import ndtr, stdtrit

    if count < 2:
        return LEVEL / 2, 1 - LEVEL / 2
    tail = float(ndtr(math.sqrt(count / (count - 1)) * stdtrit(count - 1, LEVEL / 2)))
    return tail, 1 - tail


def wilcoxon_p(deltas: Vector) -> float:
    """Two-sided signed-rank test (Wilcoxon 1945); pairs without a difference are left out."""
    from scipy.stats import wilcoxon

    differing = deltas[deltas != 0]
    return float(wilcoxon(differing).pvalue) if len(differing) else 1.0


# --- speed ------------------------------------------------------------------------------------


def speed(pairs: Sequence[tuple[Trace, Trace]], seed: int) -> Speed:
    """How much sooner the mean curve of the proposer reaches what the reference ends with.

    Both are measured on mean curves over seeds: a single search may be at its end before the first experiment. The
    reference's own time is when its mean first reaches its final mean, which makes the ratio larger, never smaller.
    """
    curves = np.array([[_curve(trace) for trace in pair] for pair in pairs])
    count = len(curves)
    rng = np.random.default_rng(seed)
    chosen = rng.multinomial(count, np.full(count, 1.0 / count), CURVE_RESAMPLES)
    means = (chosen @ curves.reshape(count, -1) / count).reshape(-1, 2, GRID)
    low, high = np.quantile(_ratios(means), _ends(count), method="nearest")
    return Speed(float(_ratios(curves.mean(axis=0, keepdims=True))[0]), float(low), float(high))


def _curve(trace: Trace) -> Vector:
    """True value of what the search would return, at GRID points in time, the last one at its end."""
    curve = np.empty(GRID)
    times = trace.seconds * np.arange(1, GRID + 1) / GRID
    place = 0
    current = trace.values[trace.steps[0].returned]
    for index, time in enumerate(times):
        while place < len(trace.steps) and trace.steps[place].spent <= time * (1 + 1e-12):
            current = trace.values[trace.steps[place].returned]
            place += 1
        curve[index] = current
    return curve


def _ratios(curves: Vector) -> Vector:
    """Per sample: time of its first row over the time of its second, both to the end value of the second."""
    target = curves[:, 1, -1]
    target = target + 1e-12 * np.abs(target)
    reached = curves <= target[:, None, None]
    times = np.where(reached.any(axis=2), reached.argmax(axis=2) + 1.0, math.inf)
    ratios: Vector = times[:, 0] / times[:, 1]
    return ratios
