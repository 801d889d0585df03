"""What pairs of runs measure: differences, their noise over seeds and over groups, and Student's quantiles.

Read by gate.py, which turns it into verdicts. Pure arithmetic; units are bits per byte, a difference is always current
code (head) minus proven code (rung), and the order in which runs or groups arrive never matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..contracts import GroupScore

FEW_PAIRS = 3
"""With fewer pairs than this the pairs say nothing about their own noise, so the borrowed noise gets a wide margin."""
FEW_PAIRS_MARGIN = 5.0
"""Standard errors that a claim must reach with fewer than FEW_PAIRS pairs."""
LARGEST = 1e100
"""No score, in any unit, is larger than this; what is, is an error and is refused."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What is known about seed noise. Variances in (bits per byte) squared."""

    run_variance: float
    """Variance over seeds of one run."""
    difference_variance: float
    """Variance over seeds of one paired difference."""
    degrees: int
    """Degrees of freedom behind `difference_variance`."""

    def __post_init__(self) -> None:
        require_finite((self.run_variance, self.difference_variance))
        if self.run_variance < 0 or self.difference_variance < 0 or self.degrees < 1:
            raise ValueError("noise needs variances of at least 0 and at least one degree of freedom")

    @property
    def sigma(self) -> float:
        """Standard deviation of one run over seeds, in bits per byte."""
        return math.sqrt(self.run_variance)

    def pooled_with(self, pair_deltas: Sequence[float]) -> Noise:
        """This noise plus the scatter of one claim's paired differences (bits per byte) about their own mean.

        Feed the pairs of every *closed* claim through this once; `judge_claim` adds the open claim's pairs itself.
        """
        if len(pair_deltas) < 2:
            return self
        require_finite(pair_deltas)
        degrees = self.degrees + len(pair_deltas) - 1
        squares = self.difference_variance * self.degrees + sum_of_squares(pair_deltas)
        return Noise(self.run_variance, squares / degrees, degrees)

    def no_calmer_than(self, placebo_differences: Sequence[float]) -> Noise:
        """This noise, or a larger one when unchanged code differed by more from itself with the same seed.

        What pairing cannot take away from equal codes it cannot take away from different ones. The placebos lend no
        degrees of freedom: they may be calmer than pairs of different codes.
        """
        if not placebo_differences:
            return self
        require_finite(placebo_differences)
        squares = self.difference_variance * self.degrees + math.fsum(value * value for value in placebo_differences)
        variance = squares / (self.degrees + len(placebo_differences))
        return Noise(self.run_variance, max(self.difference_variance, variance), self.degrees)


@dataclass(frozen=True, slots=True)
class PairScore:
    """One pair of runs of a claim: proven code (rung) and current code (head) with one seed, scored on one split."""

    rung: tuple[GroupScore, ...]
    head: tuple[GroupScore, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the pairs say, before any rule is applied."""

    delta: float
    pair_deltas: tuple[float, ...]
    group_variance: float
    """Group-clustered variance of `delta`: what another draw of groups would change."""
    floor: float
    """Mean delete-one-group jackknife variance of a single pair's difference."""
    group_count: int
    ignores_seed: bool
    """Two seeds gave the head the very same scores: a seed that is hard-coded, possibly a lucky one."""


def noise_from_calibration(scores: Sequence[float]) -> Noise:
    """The noise known after calibration: K0 scores (bits per byte) of the same code with different seeds.

    A paired difference starts at twice the variance of a run, as if pairing gained nothing, with K0 - 1 degrees of
    freedom; closed claims correct that through `Noise.pooled_with`.
    """
    if len(scores) < 2:
        raise ValueError(f"the noise of a run needs at least two calibration scores, not {len(scores)}")
    require_finite(scores)
    variance = sum_of_squares(scores) / (len(scores) - 1)
    return Noise(variance, 2.0 * variance, len(scores) - 1)


def paired_differences(pairs: Sequence[PairScore]) -> tuple[float, ...]:
    """Head minus rung in bits per byte, one number per pair: what `Noise.pooled_with` wants of a closed claim."""
    return measure(pairs).pair_deltas


def group_variance(pairs: Sequence[PairScore]) -> float:
    """Omega squared, (bits per byte) squared: how much another draw of groups would move the difference."""
    return measure(pairs).group_variance


# --- from scores to a measurement -----------------------------------------------------------


def measure(pairs: Sequence[PairScore]) -> Measured:
    """Difference, scatter over groups and floor of a claim's pairs. Raises ValueError for scores that do not match."""
    if not pairs:
        raise ValueError("a claim needs at least one pair")
    sizes = _byte_counts(pairs[0].rung)
    nats = [_differences(pair, sizes) for pair in pairs]
    total = sum(sizes.values())
    pair_deltas = tuple(math.fsum(row) / (math.log(2) * total) for row in nats)
    delta = math.fsum(pair_deltas) / len(pairs)
    means = [math.fsum(column) / len(pairs) for column in zip(*nats, strict=True)]
    counts = list(sizes.values())
    floor = math.fsum(_jackknife_variance(row, counts) for row in nats) / len(pairs)
    heads = {tuple(sorted((score.group, score.nats) for score in pair.head)) for pair in pairs}
    return Measured(
        delta=delta,
        pair_deltas=pair_deltas,
        group_variance=_clustered_variance(means, counts),
        floor=floor,
        group_count=len(counts),
        ignores_seed=len(heads) < len(pairs),
    )


def seed_variance(measured: Measured, noise: Noise) -> float:
    """Variance of the mean difference over seeds.

    `noise` holds the claim's own pairs already. From FEW_PAIRS pairs on, their own scatter counts alone when it is the
    larger one: a head that is noisier than the code that was calibrated must not borrow calm. The jackknife floor
    keeps equal calibration scores, such as those of a majority guesser, from making everything certain.
    """
    count = len(measured.pair_deltas)
    variance = max(noise.difference_variance, measured.floor)
    if count >= FEW_PAIRS:
        variance = max(variance, sum_of_squares(measured.pair_deltas) / (count - 1))
    return variance / count


def degrees_of(seed_variance: float, seed_degrees: int, group_variance: float, group_count: int) -> float:
    """Degrees of freedom of the sum of both variances, after F. E. Satterthwaite, Biometrics Bulletin 2 (1946).

    Never fewer than the smaller of the two, nor more than both together.
    """
    groups = max(1, group_count - 1)
    total = seed_variance + group_variance
    if total <= 0:
        return float(min(seed_degrees, groups))
    seeds, rest = seed_variance / total, group_variance / total
    return 1.0 / (seeds * seeds / seed_degrees + rest * rest / groups)


def critical(alpha: float, degrees: float, pairs: int) -> float:
    """Standard errors that a gain must reach: one-sided Student-t, wider while there are few pairs."""
    quantile = student_quantile(degrees, alpha)
    return quantile if pairs >= FEW_PAIRS else max(quantile, FEW_PAIRS_MARGIN)


def _clustered_variance(nats: Sequence[float], byte_counts: Sequence[int]) -> float:
    """Variance of sum(nats) / (ln 2 * sum(bytes)) over groups: linearised ratio estimator, times G / (G - 1)."""
    groups = len(nats)
    if groups < 2:
        return 0.0
    total = sum(byte_counts)
    ratio = math.fsum(nats) / total
    residuals = math.fsum((value - ratio * size) ** 2 for value, size in zip(nats, byte_counts, strict=True))
    return groups / (groups - 1) * residuals / (math.log(2) * total) ** 2


def _jackknife_variance(nats: Sequence[float], byte_counts: Sequence[int]) -> float:
    """Delete-one-group jackknife variance of sum(nats) / (ln 2 * sum(bytes))."""
    groups = len(nats)
    if groups < 2:
        return 0.0
    sum_of_nats, total = math.fsum(nats), sum(byte_counts)
    left_out = [
        (sum_of_nats - value) / (math.log(2) * (total - size)) for value, size in zip(nats, byte_counts, strict=True)
    ]
    return (groups - 1) / groups * sum_of_squares(left_out)


def _byte_counts(scores: Iterable[GroupScore]) -> dict[str, int]:
    """Group -> raw bytes, in the order of the names, so that the order of arrival cannot matter."""
    listed = sorted((score.group, score.byte_count) for score in scores)
    sizes = dict(listed)
    if not sizes or len(sizes) != len(listed) or min(sizes.values()) <= 0:
        raise ValueError("a split needs groups with distinct names and at least one byte each")
    return sizes


def _differences(pair: PairScore, sizes: Mapping[str, int]) -> list[float]:
    """Head minus rung in nats, in the group order of `sizes`."""
    if _byte_counts(pair.rung) != sizes or _byte_counts(pair.head) != sizes:
        raise ValueError("all runs of a claim must be scored on the same groups with the same byte counts")
    rung = {score.group: score.nats for score in pair.rung}
    head = {score.group: score.nats for score in pair.head}
    require_finite((*rung.values(), *head.values()))
    return [head[group] - rung[group] for group in sizes]


def sum_of_squares(values: Sequence[float]) -> float:
    """Squared deviations from the mean, summed exactly so that the order of values cannot matter."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)


def require_finite(values: Iterable[float]) -> None:
    """Refuse NaN, infinities and numbers so large that their squares would overflow."""
    if not all(abs(value) <= LARGEST for value in values):
        raise ValueError("a score or difference is not a finite number of sensible size")


@lru_cache(maxsize=4096)
def student_quantile(degrees: float, upper_tail: float) -> float:
    """The value that a Student-t variable exceeds with probability `upper_tail`."""
    # Imported late: scipy takes a third of a second, and most commands never judge anything.
    from scipy.special import stdtrit

    return float(-stdtrit(degrees, upper_tail))
