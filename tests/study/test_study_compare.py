"""Pairing, intervals, verdicts and speed: what is claimed, and what is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_toys import BowlWorld, Guesser

from slm_ar.core.study.compare import (
    AHEAD,
    BEHIND,
    NOT_BEHIND,
    UNTOLD,
    Speed,
    bootstrap_interval,
    compare,
    paired,
    speed,
    verdict,
    wilcoxon_p,
)
from slm_ar.core.study.loop import SHARES, Step, Trace
from slm_ar.core.study.replay import Replay, replay_all

MARGIN = {"c": 0.01}


def trace(name: str, seed: int, values: list[float], seconds: float = 100.0) -> Trace:
    """A search that holds the given values one after the other, evenly spaced; the last one from its end on."""
    steps = tuple(
        Step(index, "proposal", "kept", seconds / len(values), seconds * (index + 1) / len(values), value, str(index))
        for index, value in enumerate(values)
    )
    return Trace("c", name, seed, seconds, steps, {}, 0.1, 10, False, {str(i): v for i, v in enumerate(values)})


def study(first: Guesser, second: Guesser, seeds: int, runs: int = 15, start: int = 0) -> list[Trace]:
    makers = {first.name: first, second.name: second}
    replay = Replay("c", BowlWorld(0.02), runs * 10.0, "")  # type: ignore[arg-type]
    return replay_all([replay], list(makers), range(start, start + seeds), 1, make=makers.__getitem__)


def test_a_proposer_that_is_better_by_construction_is_ahead() -> None:
    traces = study(Guesser("near", 0.3), Guesser("wide", 1.0), 20)
    _, near = sorted(compare(traces, "wide", MARGIN), key=lambda item: item.proposer == "near")
    for difference in near.differences:
        assert difference.verdict == AHEAD and difference.high < 0 and difference.p < 0.01
        assert difference.seeds == 20
    assert near.speed is not None and near.speed.is_claimed and near.speed.high < 0.5
    turned = compare(traces, "near", MARGIN)
    (wide,) = (item for item in turned if item.proposer == "wide")
    assert all(item.verdict == BEHIND and item.low > 0 for item in wide.differences)
    assert wide.speed is not None and not wide.speed.is_claimed
    assert wide.failed_share > near.failed_share == 0.0


def test_equal_proposers_are_told_apart_in_few_studies() -> None:
    """Two proposers that differ in their luck alone, in 20 studies of eight seeds."""
    claims = sooner = 0
    for number in range(20):
        traces = study(Guesser("one", 1.0), Guesser("other", 1.0, shift=1), 8, runs=4, start=8 * number)
        (one,) = (item for item in compare(traces, "other", MARGIN) if item.proposer == "one")
        claims += one.differences[-1].verdict in (AHEAD, BEHIND)
        sooner += one.speed is not None and one.speed.is_claimed
    assert claims <= 2 and sooner <= 2


def test_chance_alone_makes_few_verdicts() -> None:
    """Studies of eight and of 24 pairs in which nothing differs; interval and test have to agree."""
    luck = np.random.default_rng(5)
    for pairs in (8, 24):
        claims = 0
        for number in range(150):
            deltas = luck.standard_normal(pairs) * luck.exponential()
            low, high = bootstrap_interval(deltas, number)
            claims += verdict(low, high, wilcoxon_p(deltas), 1e-9) in (AHEAD, BEHIND)
        assert claims <= 0.05 * 150 + 2


def test_few_pairs_have_intervals_as_long_as_they_should_be() -> None:
    luck = np.random.default_rng(3)
    held = 0
    for number in range(300):
        low, high = bootstrap_interval(luck.standard_normal(6), number)
        held += low <= 0 <= high
    assert held >= 0.93 * 300


def test_the_same_proposer_under_two_names_differs_by_nothing() -> None:
    traces = study(Guesser("one", 1.0), Guesser("other", 1.0), 6)
    (one,) = (item for item in compare(traces, "other", MARGIN) if item.proposer == "one")
    for difference in one.differences:
        assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1.0)
        assert difference.verdict == NOT_BEHIND
    assert one.speed is not None and one.speed.ratio == 1.0 and not one.speed.is_claimed


def test_of_a_weak_surrogate_nothing_is_claimed() -> None:
    traces = study(Guesser("near", 0.3), Guesser("wide", 1.0), 8, runs=8)
    (near,) = (item for item in compare(traces, "wide", MARGIN, weak=["c"]) if item.proposer == "near")
    assert {item.verdict for item in near.differences} == {UNTOLD} and near.speed is None
    assert all(item.high < 0 for item in near.differences)


def test_few_pairs_never_tell() -> None:
    traces = study(Guesser("near", 0.05), Guesser("wide", 1.0), 5)
    (near,) = (item for item in compare(traces, "wide", MARGIN) if item.proposer == "near")
    assert {item.verdict for item in near.differences} == {UNTOLD}


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (-0.03, -0.01, 0.01, AHEAD),
        (-0.03, -0.01, 0.2, NOT_BEHIND),
        (0.01, 0.03, 0.01, BEHIND),
        (0.002, 0.005, 0.01, BEHIND),
        (-0.02, 0.005, 0.5, NOT_BEHIND),
        (-0.02, 0.02, 0.5, UNTOLD),
        (0.01, 0.03, 0.3, UNTOLD),
    ],
)
def test_verdicts_in_words(low: float, high: float, p: float, expected: str) -> None:
    assert verdict(low, high, p, 0.01) == expected


# --- pairing ---


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_pairs_have_equal_seeds_whatever_the_order(first: list[int], second: list[int]) -> None:
    own = {seed: trace("a", seed, [float(seed)]) for seed in first}
    rivals = {seed: trace("b", seed, [float(seed)]) for seed in second}
    pairs = paired(own, rivals)
    assert [(one.search_seed, other.search_seed) for one, other in pairs] == [(seed, seed) for seed in range(8)]
    assert {one.proposer for one, _ in pairs} == {"a"}


def test_what_does_not_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="without a partner"):
        compare([trace("a", 0, [1.0]), trace("b", 1, [1.0])], "b", MARGIN)
    with pytest.raises(ValueError, match="against"):
        compare([trace("a", 0, [1.0]), trace("b", 0, [1.0], seconds=90)], "b", MARGIN)


@settings(max_examples=4)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=20), st.floats(0.01, 0.5))
def test_a_constant_shift_moves_the_difference_by_itself(values: list[float], shift: float) -> None:
    traces = [trace("a", seed, [value - shift]) for seed, value in enumerate(values)]
    traces += [trace("b", seed, [value]) for seed, value in enumerate(values)]
    (own,) = (item for item in compare(traces, "b", MARGIN, knows_all=False) if item.proposer == "a")
    for difference in own.differences:
        assert difference.low == pytest.approx(-shift) and difference.high == pytest.approx(-shift)
        assert difference.verdict == AHEAD


# --- speed ---


def curves(own: list[float], rival: list[float], spread: float = 0.0, seeds: int = 20) -> Speed:
    luck = np.random.default_rng(1)
    pairs = []
    for seed in range(seeds):
        shift = spread * luck.standard_normal()
        pairs.append((trace("a", seed, [value + shift for value in own]), trace("b", seed, rival)))
    return speed(pairs, 0)


def test_speed_is_seconds_to_what_the_reference_ends_with() -> None:
    slow = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    fast = [5.0, 3.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    assert curves(fast, slow).ratio == pytest.approx(0.3, abs=0.01)
    assert curves(fast, slow).is_claimed
    assert curves(slow, slow).ratio == 1.0
    assert math.isinf(curves(slow, fast).ratio) and not curves(slow, fast).is_claimed


def test_a_ratio_is_claimed_by_its_upper_bound_alone() -> None:
    slow = [5.0, 4.0, 3.0, 2.0, 1.5, 1.4, 1.3, 1.2, 1.1, 1.0]
    fast = [5.0, 4.0, 2.0, 1.5, 1.2, 0.99, 0.98, 0.98, 0.98, 0.98]
    sure, unsure = curves(fast, slow), curves(fast, slow, spread=0.3)
    assert sure.ratio < 0.7 and sure.is_claimed
    assert not unsure.is_claimed and unsure.high >= 0.7
    assert unsure.low <= unsure.ratio <= unsure.high or unsure.ratio > unsure.low


def test_shares_are_those_of_the_issue() -> None:
    assert SHARES == (0.25, 0.5, 1.0)
    one = trace("a", 0, [4.0, 3.0, 2.0, 1.0])
    assert [one.values[one.returned_at(share)] for share in SHARES] == [4.0, 3.0, 1.0]
