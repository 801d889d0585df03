"""The table of `slm-ar simulate-gate`: what the shipped gate delivers, beside what it must deliver.

Called by the command line; docs/gate.md holds its output. Promises: every figure comes with exact or 95 % bounds, and
a row is called met or missed only when the bounds leave no doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .simulate import EARLY, LATE, ONE_GAIN, SMALL, Condition, NightStatistics, clopper_pearson, simulate_nights
from .simulate_metric import MetricCondition, MetricStatistics, simulate_metric

FALSE_NIGHTS, FALSE_NIGHTS_UNEQUAL, POWER, LATE_RATIO, EARLY_RATIO, OVER_CLAIM = 0.08, 0.12, 0.85, 0.75, 1.0, 0.1
METRIC_SHARE = 5
"""A night of task metrics takes several times as long, so that many times fewer are played."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `value`, `low` and `high` are shares, or sigmas for the over-claim; `bound` None: shown only."""

    what: str
    world: str
    nights: int
    value: float
    low: float
    high: float
    bound: float | None
    is_upper: bool = True

    @property
    def verdict(self) -> str:
        """Whether the bound is met: yes, no, or not decided by so few nights."""
        if self.bound is None:
            return ""
        inside, outside = (self.high, self.low) if self.is_upper else (-self.low, -self.high)
        bound = self.bound if self.is_upper else -self.bound
        return "met" if inside <= bound else "missed" if outside > bound else "open"

    def markdown(self) -> str:
        """The line of the table."""
        figures = [f"{100 * number:.1f} %" for number in (self.value, self.low, self.high)]
        bound = "" if self.bound is None else f"{'at most' if self.is_upper else 'at least'} {100 * self.bound:g} %"
        if self.what == "over-claim":
            figures = [f"{number:+.3f} σ" for number in (self.value, self.low, self.high)]
            bound = "" if self.bound is None else f"at most {self.bound:g} σ"
        interval = f"{figures[1]} to {figures[2]}" if math.isfinite(self.low) else "-"
        return (
            f"| {self.what} | {self.world} | {self.nights:,} | {figures[0]} | {interval} | {bound} | {self.verdict} |"
        )


HEADER = """| measured | world | nights | value | 95 % bounds | required | |
|---|---|---|---|---|---|---|"""

_Play = Callable[[int, int], Iterator[Row]]


def gate_rows(nights: int, seed: int) -> Iterator[Row]:
    """Every row of the table, as soon as it is measured."""
    for play in _plays():
        yield from play(nights, seed)


def _plays() -> Iterator[_Play]:
    worlds = [(omega, rho) for omega in (0.06, 0.3, 1.0) for rho in (0.0, 0.6)]
    for omega, rho in worlds:
        yield _null(Condition(interaction=omega, correlation=rho), f"omega {omega:g}, rho {rho:g}")
    for rho in (0.0, 0.6):
        yield _null(Condition(correlation=rho, drift=1.0), f"drift of 1 sigma, rho {rho:g}")
        yield _null(Condition(correlation=rho, unequal=0.4), f"unequal noise, rho {rho:g}", FALSE_NIGHTS_UNEQUAL)
    yield _null(Condition(group_count=10), "10 groups, rho 0")
    yield _null(Condition(calibration_runs=3), "3 calibration runs, rho 0")
    for omega, rho in [*worlds, (0.3, 0.3)]:
        yield _power(Condition(ONE_GAIN, interaction=omega, correlation=rho), f"omega {omega:g}, rho {rho:g}")
    for rho in (0.0, 0.6):
        yield _gain(Condition(LATE, correlation=rho), f"late, rho {rho:g}", LATE_RATIO)
        yield _gain(Condition(EARLY, correlation=rho), f"early, rho {rho:g}", EARLY_RATIO)
    for rho in (0.6, 0.9, 0.99):
        yield _gain(Condition(SMALL, interaction=0.06, correlation=rho), f"small gains, omega 0.06, rho {rho:g}")
    yield from _plays_that_prune()
    for metric in ("accuracy", "macro_f1", "pr_auc", "mae"):
        yield _metric_null(MetricCondition(metric))
    for metric in ("accuracy", "macro_f1", "pr_auc", "mae"):
        for gain in (0.1, 0.2):
            yield _metric_power(MetricCondition(metric, gain))


def _plays_that_prune() -> Iterator[_Play]:
    """Nights whose hopeless runs end early; naive gets what they cost."""
    yield _null(Condition(prunes=True), "omega 0.3, rho 0, runs ended early")
    yield _null(Condition(unequal=0.4, prunes=True), "unequal noise, rho 0, runs ended early", FALSE_NIGHTS_UNEQUAL)
    for rho in (0.0, 0.6):
        yield _power(Condition(ONE_GAIN, correlation=rho, prunes=True), f"omega 0.3, rho {rho:g}, runs ended early")
    for rho in (0.0, 0.6):
        for effects, name, bound in ((LATE, "late", LATE_RATIO), (EARLY, "early", EARLY_RATIO)):
            yield _gain(
                Condition(effects, correlation=rho, prunes=True), f"{name}, rho {rho:g}, runs ended early", bound
            )


def _null(condition: Condition, world: str, bound: float = FALSE_NIGHTS) -> _Play:
    def play(nights: int, seed: int) -> Iterator[Row]:
        found = simulate_nights(condition, nights, seed)
        yield Row("nights with a false claim", world, nights, *found.rate(found.false_nights), bound)

    return play


def _power(condition: Condition, world: str) -> _Play:
    def play(nights: int, seed: int) -> Iterator[Row]:
        found = simulate_nights(condition, nights, seed)
        yield Row("3 sigma kept by the search", world, nights, *found.rate(found.found_nights), None)
        yield Row("3 sigma proven", world, nights, *found.rate(found.certified_nights), POWER, is_upper=False)

    return play


def _gain(condition: Condition, world: str, bound: float | None = None) -> _Play:
    def play(nights: int, seed: int) -> Iterator[Row]:
        found: NightStatistics = simulate_nights(condition, nights, seed)
        yield Row("true gain, share of naive", world, nights, *found.ratio, bound, is_upper=False)
        if condition.prunes:
            share = found.ended_helpful
            yield Row("helpful edits ended early", world, nights, share, -math.inf, math.inf, None)
        pruned = tuple(bound * found.finished_gain / max(found.true_gain, 1e-9) for bound in found.ratio)
        yield Row("the same after the prune pass", world, nights, pruned[0], pruned[1], pruned[2], None)
        yield Row("over-claim", world, nights, *found.over_claim, OVER_CLAIM)
        rate = clopper_pearson(round(found.coverage * nights), nights)
        yield Row("final interval holds the truth", world, nights, found.coverage, *rate, None)

    return play


def _metric_null(condition: MetricCondition) -> _Play:
    def play(nights: int, seed: int) -> Iterator[Row]:
        found = simulate_metric(condition, -(-nights // METRIC_SHARE), seed)
        rate = found.certified_nights / found.nights, *clopper_pearson(found.certified_nights, found.nights)
        yield Row("nights with a false claim", f"{condition.metric}", found.nights, *rate, FALSE_NIGHTS)

    return play


def _metric_power(condition: MetricCondition) -> _Play:
    def play(nights: int, seed: int) -> Iterator[Row]:
        found = simulate_metric(condition, -(-nights // METRIC_SHARE), seed)
        rate = found.certified_claims / found.nights, *clopper_pearson(found.certified_claims, found.nights)
        yield Row("proven by one claim", _gain_words(condition, found), found.nights, *rate, None)

    return play


def _gain_words(condition: MetricCondition, found: MetricStatistics) -> str:
    if condition.metric == "mae":
        return f"mae {found.true_level:.2f}, {100 * found.true_gain / found.true_level:.1f} % less"
    return f"{condition.metric} {found.true_level:.2f}, {100 * found.true_gain:+.1f} points"
