"""The gate, as a person who doubts it would check it: properties, one example by hand, and simulated nights."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slm_ar.core.agent import gate, simulate
from slm_ar.core.agent.gate import GatePolicy, Noise, PairScore, judge_claim
from slm_ar.core.agent.pairs import degrees_of
from slm_ar.core.contracts import Decision, GroupScore

POLICY = GatePolicy(alpha=0.04, looks=(1, 2, 3, 5), alpha_split=(0.1, 0.2, 0.3, 0.4))
NOISE = Noise(run_variance=1e-4, difference_variance=2e-4, degrees=4)  # sigma 0.01, hence eta 0.005
CALM = Noise(run_variance=1e-6, difference_variance=2e-6, degrees=200)  # sigma 0.001, hence eta min_effect
ALPHA = 0.04
LN2 = math.log(2)


def make_pairs(deltas, groups=30, spread=0.0, seed=0):
    """Pairs with these differences in bits per byte (negative is better) over unequal groups.

    `spread` is the standard deviation over groups, the same in every pair, with a byte-weighted mean of zero.
    """
    source = random.Random(seed)
    sizes = [source.randrange(500, 1500) for _ in range(groups)]
    tilt = [source.gauss(0.0, spread) for _ in range(groups)]
    mean = sum(value * size for value, size in zip(tilt, sizes, strict=True)) / sum(sizes)
    return [
        make_pair(sizes, [2.0 + source.gauss(0, 0.1) for _ in sizes], [delta + value - mean for value in tilt])
        for delta in deltas
    ]


def make_pair(sizes, levels, differences):
    rung = [level * LN2 * size for level, size in zip(levels, sizes, strict=True)]
    head = [nats + value * LN2 * size for nats, value, size in zip(rung, differences, sizes, strict=True)]
    return PairScore(group_scores(rung, sizes), group_scores(head, sizes))


def group_scores(nats, sizes):
    return tuple(
        GroupScore(f"day {index}", value, size) for index, (value, size) in enumerate(zip(nats, sizes, strict=True))
    )


def with_head(pair, **changes):
    return replace(pair, head=(replace(pair.head[0], **changes), *pair.head[1:]))


@st.composite
def claims(draw, low=-0.2, high=0.2):
    """Pairs at one of the looks, with anything between no and much noise."""
    count = draw(st.sampled_from(POLICY.looks))
    centre = draw(st.floats(low, high))
    scatter = draw(st.sampled_from([1e-6, 0.003, 0.03]))
    source = random.Random(draw(st.integers(0, 2**20)))
    deltas = [centre + source.gauss(0, scatter) for _ in range(count)]
    return make_pairs(deltas, draw(st.integers(2, 40)), draw(st.sampled_from([0.0, 0.01, 0.1])), source.random())


noises = st.builds(
    lambda run, ratio, degrees: Noise(run, ratio * run, degrees),
    st.floats(0, 1e-2),
    st.floats(0, 3),
    st.integers(1, 30),
)


# --- properties -----------------------------------------------------------------------------


@given(claims(low=0.0), noises)
def test_a_worse_head_is_never_certified(pairs, noise):
    assume(judge_claim(pairs, noise, POLICY, ALPHA).delta >= 0)
    assert judge_claim(pairs, noise, POLICY, ALPHA).decision is Decision.REJECT


@given(claims(), noises)
def test_identical_scores_are_never_certified(pairs, noise):
    same = [PairScore(pair.rung, pair.rung) for pair in pairs]
    assert judge_claim(same, noise, POLICY, ALPHA).decision is Decision.REJECT


@given(claims(), noises, st.floats(1e-6, 0.1))
def test_a_larger_gain_is_never_judged_worse(pairs, noise, gain):
    rank = [Decision.REJECT, Decision.UNCLEAR, Decision.MORE_PAIRS, Decision.CERTIFY]
    better = [
        PairScore(pair.rung, tuple(replace(s, nats=s.nats - gain * LN2 * s.byte_count) for s in pair.head))
        for pair in pairs
    ]
    before, after = (judge_claim(these, noise, POLICY, ALPHA).decision for these in (pairs, better))
    assert rank.index(after) >= rank.index(before)


@given(claims(), noises, st.randoms(use_true_random=False))
def test_order_of_pairs_and_groups_does_not_matter(pairs, noise, source):
    shuffled = [
        PairScore(tuple(source.sample(pair.rung, len(pair.rung))), tuple(source.sample(pair.head, len(pair.head))))
        for pair in source.sample(pairs, len(pairs))
    ]
    assert judge_claim(shuffled, noise, POLICY, ALPHA) == judge_claim(pairs, noise, POLICY, ALPHA)


@given(claims(), noises, st.floats(1, 100))
def test_more_noise_never_certifies_what_less_noise_did_not(pairs, noise, factor):
    noisier = Noise(noise.run_variance * factor, noise.difference_variance * factor, noise.degrees)
    before = judge_claim(pairs, noise, POLICY, ALPHA)
    after = judge_claim(pairs, noisier, POLICY, ALPHA)
    assert after.standard_error >= before.standard_error * (1 - 1e-12)
    assert after.decision is not Decision.CERTIFY or before.decision is Decision.CERTIFY
    assert before.decision is not Decision.REJECT or after.decision is Decision.REJECT


@given(claims(), noises, st.floats(1e-6, 1.0))
def test_less_alpha_never_certifies_more(pairs, noise, share):
    strict = judge_claim(pairs, noise, POLICY, ALPHA * share).decision
    assert strict is not Decision.CERTIFY or judge_claim(pairs, noise, POLICY, ALPHA).decision is Decision.CERTIFY


@given(claims(), noises, st.booleans())
def test_every_number_of_a_verdict_is_finite(pairs, noise, more_allowed):
    verdict = judge_claim(pairs, noise, POLICY, ALPHA, more_allowed=more_allowed)
    numbers = (verdict.delta, verdict.standard_error, verdict.threshold, verdict.eta, verdict.alpha)
    assert all(map(math.isfinite, numbers)) and verdict.reasons
    assert more_allowed or verdict.decision is not Decision.MORE_PAIRS


@given(claims(), st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308]))
@settings(max_examples=25)
def test_numbers_that_are_no_scores_are_refused(pairs, bad):
    with pytest.raises(ValueError, match="finite"):
        judge_claim([with_head(pairs[0], nats=bad), *pairs[1:]], NOISE, POLICY, ALPHA)


@given(st.floats(-10, 10), st.floats(0, 1))
def test_rounding_moves_a_score_by_at_most_a_quarter_sigma(score, sigma):
    assert abs(gate.rounded(score, sigma) - score) <= sigma / 4 + 1e-9
    assert gate.rounded(gate.rounded(score, sigma), sigma) == pytest.approx(gate.rounded(score, sigma))


# --- one claim by hand ----------------------------------------------------------------------


def test_three_pairs_by_hand():
    """The same numbers by another road: matrices, and the quantile from scipy.stats."""
    stats = pytest.importorskip("scipy.stats")
    pairs = make_pairs([-0.05, -0.07, -0.045], groups=12, spread=0.02, seed=3)
    sizes = np.array([score.byte_count for score in pairs[0].rung])
    nats = np.array([[h.nats - r.nats for r, h in zip(pair.rung, pair.head, strict=True)] for pair in pairs])
    per_pair = nats.sum(axis=1) / np.log(2) / sizes.sum()
    mean = nats.mean(axis=0)
    residual = mean / np.log(2) - per_pair.mean() * sizes
    omega_squared = 12 / 11 * (residual**2).sum() / sizes.sum() ** 2
    pooled = (4 * 2e-4 + ((per_pair - per_pair.mean()) ** 2).sum()) / 6
    seed_part = max(pooled, per_pair.var(ddof=1)) / 3
    expected_error = math.sqrt(seed_part + omega_squared)
    degrees = (seed_part + omega_squared) ** 2 / (seed_part**2 / 6 + omega_squared**2 / 11)
    quantile = stats.t.ppf(1 - 0.04 * 0.3, df=degrees)

    verdict = judge_claim(pairs, NOISE, POLICY, ALPHA)

    assert verdict.delta == pytest.approx(-0.055, abs=1e-9)
    assert verdict.standard_error == pytest.approx(expected_error, abs=1e-9)
    assert verdict.threshold == pytest.approx(-quantile * expected_error, abs=1e-9)
    assert verdict.eta == pytest.approx(0.005, abs=1e-12)
    assert (verdict.pairs, verdict.group_count, verdict.alpha) == (3, 12, pytest.approx(0.012))
    assert verdict.decision is Decision.CERTIFY


def test_final_interval_by_hand():
    pairs = make_pairs([-0.05, -0.07, -0.045, -0.06, -0.05], groups=40, spread=0.02)
    deltas = gate.paired_differences(pairs)
    error = math.sqrt(statistics.variance(deltas) / 5 + gate.group_variance(pairs))
    delta, low, high = gate.final_interval(pairs)
    assert delta == pytest.approx(-0.055, abs=1e-9)
    assert high - delta == pytest.approx(2.7764451052 * error, rel=1e-9)  # Student-t, 4 degrees, 97.5 %
    assert delta - low == pytest.approx(high - delta)
    assert gate.final_interval(pairs, 0.5)[1] > low
    with pytest.raises(ValueError, match="two pairs"):
        gate.final_interval(pairs[:1])
    with pytest.raises(ValueError, match="confidence"):
        gate.final_interval(pairs, 95)


def test_noise_is_pooled_by_degrees_of_freedom():
    noise = gate.noise_from_calibration([1.00, 1.02, 0.98, 1.01, 0.99])
    assert noise.run_variance == pytest.approx(2.5e-4)
    assert (noise.difference_variance, noise.degrees) == (pytest.approx(5e-4), 4)
    pooled = noise.pooled_with([-0.1, -0.12, -0.11])
    assert pooled.difference_variance == pytest.approx((4 * 5e-4 + 2e-4) / 6)
    assert (pooled.degrees, pooled.run_variance) == (6, noise.run_variance)
    assert noise.pooled_with([-0.1]) is noise
    with pytest.raises(ValueError, match="two calibration scores"):
        gate.noise_from_calibration([1.0])
    with pytest.raises(ValueError, match="finite"):
        gate.noise_from_calibration([1.0, math.nan])


def test_smallest_provable_gain_is_the_bar_of_the_last_look():
    pairs = make_pairs([-0.02] * 5, groups=200, spread=0.01)
    prior = Noise(1e-4, 2e-4, 4)
    verdict = judge_claim(pairs, prior, POLICY, ALPHA)
    planned = gate.smallest_provable_gain(Noise(1e-4, 1e-4, 4), gate.group_variance(pairs), POLICY, ALPHA)
    # equal pairs halve the pooled variance (4 of 8 degrees); the plan does not know that there are 200 groups
    assert planned == pytest.approx(-verdict.threshold, rel=1e-3)
    assert gate.smallest_provable_gain(CALM, 0.0, replace(POLICY, min_effect=1.0), ALPHA) == 1.0


# --- decisions ------------------------------------------------------------------------------


def test_few_pairs_need_five_standard_errors():
    error = math.sqrt(CALM.difference_variance)
    assert judge_claim(make_pairs([-4.9 * error]), CALM, POLICY, ALPHA).decision is Decision.MORE_PAIRS
    assert judge_claim(make_pairs([-5.1 * error]), CALM, POLICY, ALPHA).decision is Decision.CERTIFY


def test_own_scatter_counts_when_it_is_the_larger_one():
    deltas = [-0.004, -0.02, -0.06]
    verdict = judge_claim(make_pairs(deltas), CALM, POLICY, ALPHA)
    assert verdict.standard_error == pytest.approx(math.sqrt(statistics.variance(deltas) / 3), rel=1e-6)
    assert verdict.decision is Decision.MORE_PAIRS


def test_between_looks_more_pairs_are_asked_for():
    pairs = make_pairs([-0.5, -0.51, -0.49, -0.52])
    assert judge_claim(pairs, NOISE, POLICY, ALPHA).decision is Decision.MORE_PAIRS
    assert judge_claim(pairs, NOISE, POLICY, ALPHA, more_allowed=False).decision is Decision.UNCLEAR
    explored = make_pairs([-0.5, -0.51, -0.49, -0.52], groups=5)
    assert judge_claim(explored, NOISE, POLICY, ALPHA).decision is Decision.MORE_PAIRS


def test_the_last_look_ends_in_unclear():
    pairs = make_pairs([-0.009, -0.02, -0.008, -0.004, -0.002])
    assert judge_claim(pairs, NOISE, POLICY, ALPHA).decision is Decision.UNCLEAR
    assert judge_claim(pairs[:3], NOISE, POLICY, ALPHA).decision is Decision.MORE_PAIRS
    assert judge_claim(pairs[:3], NOISE, POLICY, ALPHA, more_allowed=False).decision is Decision.UNCLEAR


def test_few_groups_lend_few_degrees_of_freedom():
    """Where nearly all of the uncertainty comes from twelve groups, many seeds do not help."""
    pairs = make_pairs([-0.0300, -0.0301, -0.0299], groups=12, spread=0.1)
    verdict = judge_claim(pairs, CALM, replace(POLICY, alpha_split=(0.25,) * 4), ALPHA)
    quantile = -verdict.threshold / verdict.standard_error
    seeds = judge_claim(make_pairs([-0.03] * 3, groups=12), CALM, replace(POLICY, alpha_split=(0.25,) * 4), ALPHA)
    # Student-t, 99 %: 2.718 with 11 degrees, 2.345 with the 202 of the seeds; in between, as both parts count
    assert 2.5 < quantile < 2.718
    assert -seeds.threshold / seeds.standard_error == pytest.approx(2.345, abs=0.001)


@given(st.floats(0, 1), st.integers(1, 50), st.floats(0, 1), st.integers(2, 50))
def test_degrees_lie_between_the_smaller_and_the_sum(seeds, seed_degrees, groups, group_count):
    degrees = degrees_of(seeds, seed_degrees, groups, group_count)
    low, high = min(seed_degrees, group_count - 1), seed_degrees + group_count - 1
    assert low * (1 - 1e-9) <= degrees <= high * (1 + 1e-9)


def test_a_claim_ends_early_when_its_last_look_is_out_of_reach():
    noise = Noise(1e-4, 2e-4, 4)
    weak = make_pairs([-0.008, -0.009, -0.0085])  # eta is 0.005, the last look asks for about 0.014
    assert judge_claim(weak, noise, POLICY, ALPHA).decision is Decision.UNCLEAR
    assert "left to prove it" in judge_claim(weak, noise, POLICY, ALPHA).reasons[0]
    assert judge_claim(weak[:2], noise, POLICY, ALPHA).decision is Decision.MORE_PAIRS, "not before three pairs"
    strong = make_pairs([-0.016, -0.017])
    assert judge_claim(strong, noise, POLICY, ALPHA).decision is Decision.MORE_PAIRS


def test_a_gain_below_eta_is_rejected_by_two_pairs_and_what_is_no_better_by_one():
    assert judge_claim(make_pairs([-0.0049]), NOISE, POLICY, ALPHA).decision is Decision.MORE_PAIRS
    assert judge_claim(make_pairs([-0.0049, -0.0048]), NOISE, POLICY, ALPHA).decision is Decision.REJECT
    assert judge_claim(make_pairs([0.0001]), NOISE, POLICY, ALPHA).decision is Decision.REJECT


@pytest.mark.parametrize(
    ("groups", "decision", "reason"),
    [
        (1, Decision.UNCLEAR, "explore only"),
        (9, Decision.UNCLEAR, "explore only"),
        (10, Decision.CERTIFY, "warning: only 10 groups"),
        (29, Decision.CERTIFY, "warning: only 29 groups"),
        (30, Decision.CERTIFY, "larger than chance"),
    ],
)
def test_few_groups_certify_with_a_warning_or_not_at_all(groups, decision, reason):
    verdict = judge_claim(make_pairs([-0.2, -0.21, -0.19], groups, spread=0.01), NOISE, POLICY, ALPHA)
    assert verdict.decision is decision
    assert reason in " ".join(verdict.reasons)
    assert (groups < 30) == any("explore" in text or "warning" in text for text in verdict.reasons)


def test_equal_calibration_scores_do_not_make_everything_certain():
    """A majority guesser scores the same with every seed; the groups still say how uncertain a difference is."""
    noise = gate.noise_from_calibration([0.7] * 5)
    (pair,) = make_pairs([-0.03], groups=30, spread=0.1)
    sizes = np.array([score.byte_count for score in pair.rung])
    nats = np.array([h.nats - r.nats for r, h in zip(pair.rung, pair.head, strict=True)])
    without = (nats.sum() - nats) / (LN2 * (sizes.sum() - sizes))
    jackknife = 29 / 30 * ((without - without.mean()) ** 2).sum()
    verdict = judge_claim([pair], noise, POLICY, ALPHA)
    assert noise.difference_variance == 0
    assert verdict.standard_error == pytest.approx(math.sqrt(jackknife + gate.group_variance([pair])), rel=1e-9)
    assert verdict.decision is Decision.MORE_PAIRS


def test_no_noise_at_all_proves_nothing():
    noise = gate.noise_from_calibration([0.7] * 5)
    verdict = judge_claim(make_pairs([-0.3] * 5), noise, POLICY, ALPHA)
    assert verdict.decision is Decision.UNCLEAR
    assert "no noise at all" in verdict.reasons[0]


def test_a_head_that_ignores_its_seed_is_not_certified():
    pairs = make_pairs([-0.2, -0.21, -0.19])
    stuck = [PairScore(pair.rung, pairs[0].head) for pair in pairs]
    verdict = judge_claim(stuck, NOISE, POLICY, ALPHA)
    assert verdict.decision is Decision.UNCLEAR
    assert "identical scores with different seeds" in verdict.reasons[0]


def test_a_metric_to_maximise_is_judged_the_other_way_round():
    highest = replace(POLICY, direction="max")
    gain, loss = make_pairs([0.2, 0.21, 0.19]), make_pairs([-0.2, -0.21, -0.19])
    assert judge_claim(gain, NOISE, highest, ALPHA).decision is Decision.CERTIFY
    assert judge_claim(gain, NOISE, highest, ALPHA).threshold > 0
    assert judge_claim(loss, NOISE, highest, ALPHA).decision is Decision.REJECT
    assert gate.keeps(0.9, 0.8, 1, 1, "max") and not gate.keeps(0.8, 0.9, 1, 1, "max")


def test_runs_on_different_text_are_refused():
    pairs = make_pairs([-0.2, -0.21, -0.19])
    with pytest.raises(ValueError, match="same groups"):
        judge_claim([with_head(pairs[0], byte_count=7), *pairs[1:]], NOISE, POLICY, ALPHA)
    with pytest.raises(ValueError, match="same groups"):
        judge_claim([*pairs[:2], with_head(pairs[2], group="another day")], NOISE, POLICY, ALPHA)
    with pytest.raises(ValueError, match="distinct"):
        judge_claim([PairScore(pairs[0].rung * 2, pairs[0].head * 2)], NOISE, POLICY, ALPHA)
    with pytest.raises(ValueError, match="distinct"):
        judge_claim([PairScore((), ())], NOISE, POLICY, ALPHA)
    empty = (GroupScore("a quiet day", 0.0, 0),)
    with pytest.raises(ValueError, match="at least one byte"):
        judge_claim([PairScore((*pairs[0].rung, *empty), (*pairs[0].head, *empty))], NOISE, POLICY, ALPHA)


def test_impossible_claims_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        judge_claim([], NOISE, POLICY, ALPHA)
    with pytest.raises(ValueError, match="last look"):
        judge_claim(make_pairs([-0.1] * 6), NOISE, POLICY, ALPHA)
    with pytest.raises(ValueError, match="alpha"):
        judge_claim(make_pairs([-0.1]), NOISE, POLICY, 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.0},
        {"looks": (2, 1, 3, 5)},
        {"looks": ()},
        {"alpha_split": (0.5, 0.5)},
        {"alpha_split": (0.5, 0.5, 0.5, 0.5)},
        {"min_effect": math.nan},
        {"patience": -1},
        {"direction": "up"},
    ],
)
def test_policies_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError):
        replace(POLICY, **changes)


@pytest.mark.parametrize("numbers", [(-1.0, 1.0, 4), (1.0, math.nan, 4), (1.0, 1.0, 0)])
def test_noise_that_makes_no_sense_is_refused(numbers):
    with pytest.raises(ValueError):
        Noise(*numbers)


# --- search tier, alpha ---------------------------------------------------------------------


def test_search_keeps_what_is_better_or_equal_with_less_code():
    assert gate.keeps(1.9, 2.0, 99, 10)
    assert gate.keeps(2.0, 2.0, 9, 10)
    assert not gate.keeps(2.0, 2.0, 10, 10)
    assert not gate.keeps(2.1, 2.0, 1, 10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_search_never_keeps_what_is_not_a_number(bad):
    assert not gate.keeps(bad, 2.0, 1, 10)
    assert not gate.keeps(2.0, bad, 1, 10)


def test_rounding_without_noise_leaves_the_score():
    assert gate.rounded(1.2345, 0.0) == 1.2345
    with pytest.raises(ValueError, match="finite"):
        gate.rounded(math.nan, 0.1)


def test_alpha_is_bounded_over_any_number_of_claims_and_nights():
    first = [gate.claim_alpha(POLICY, 0, claim) for claim in range(200)]
    assert first[: gate.NIGHT_CLAIMS] == [pytest.approx(gate.CLAIM_SHARE * POLICY.alpha)] * gate.NIGHT_CLAIMS
    assert first[6] == pytest.approx(first[5] / 2)
    assert gate.claim_alpha(POLICY, 2, 0) == pytest.approx(first[0] / 4)
    total = sum(gate.claim_alpha(POLICY, night, claim) for night in range(60) for claim in range(60))
    assert sum(first) <= (gate.NIGHT_CLAIMS + 1) * gate.CLAIM_SHARE * POLICY.alpha
    assert total <= 2 * (gate.NIGHT_CLAIMS + 1) * gate.CLAIM_SHARE * POLICY.alpha
    with pytest.raises(ValueError, match="count from 0"):
        gate.claim_alpha(POLICY, 0, -1)


def test_patience_ends_after_two_more_windows():
    assert [gate.goes_on(POLICY, count) for count in range(5)] == [True, True, True, False, False]


# --- whole nights, with the shipped functions -----------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_null_nights_stay_within_the_bound(correlation):
    nights = simulate.simulate_nights(simulate.Condition(correlation=correlation), 1000, seed=5)
    assert nights.rate(nights.false_nights)[2] <= 0.08
    assert nights.true_gain == nights.naive_gain == 0.0


def test_unequal_noise_and_drift_stay_within_their_bounds():
    unequal = simulate.simulate_nights(simulate.Condition(unequal=0.4), 2000, seed=5)
    assert unequal.rate(unequal.false_nights)[2] <= 0.12
    drift = simulate.simulate_nights(simulate.Condition(drift=1.0), 600, seed=5)
    assert drift.rate(drift.false_nights)[2] <= 0.08


def test_a_true_gain_of_three_sigma_is_found_and_proven():
    """At the seed correlation that was measured; docs/gate.md has the conditions that miss the bound."""
    world = simulate.Condition(simulate.ONE_GAIN, interaction=0.06, correlation=0.6)
    nights = simulate.simulate_nights(world, 200, seed=5)
    assert nights.rate(nights.certified_nights)[1] >= 0.85
    mixed = simulate.simulate_nights(replace(world, interaction=0.3), 200, seed=5)
    assert mixed.rate(mixed.certified_nights)[1] >= 0.75


def test_late_nights_prove_most_of_what_naive_search_gains():
    nights = simulate.simulate_nights(simulate.Condition(simulate.LATE, correlation=0.6), 200, seed=5)
    assert nights.true_gain >= 0.75 * nights.naive_gain
    assert nights.coverage >= 0.95
    assert abs(nights.over_claim[0]) <= 0.3  # two standard errors of 200 nights; docs/gate.md measures it closer


def test_nights_are_a_function_of_their_seed():
    world = simulate.Condition(simulate.EARLY)
    assert simulate.simulate_nights(world, 3, seed=1) == simulate.simulate_nights(world, 3, seed=1)
    assert simulate.simulate_nights(world, 3, seed=1) != simulate.simulate_nights(world, 3, seed=2)


def test_nights_are_judged_by_the_shipped_gate(monkeypatch):
    """A gate that certifies everything must show up as false claims: the simulation has no rule of its own."""

    def certify(*arguments):
        return replace(judge_claim(*arguments), decision=Decision.CERTIFY)

    monkeypatch.setattr(gate, "judge_claim", certify)
    nights = simulate.simulate_nights(simulate.Condition(), 20, seed=1)
    assert nights.false_nights == 20


def test_binomial_bounds_are_exact():
    assert simulate.clopper_pearson(0, 10) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
    assert simulate.clopper_pearson(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1.0)
    low, high = simulate.clopper_pearson(5, 100)
    assert (low, high) == (pytest.approx(0.01643, abs=1e-5), pytest.approx(0.11283, abs=1e-5))


@pytest.mark.parametrize(
    ("now", "before", "fallen"),
    [
        ([2.0], [2.0], False),
        ([2.4, 2.4], [2.0, 2.0], True),
        ([2.3], [2.0], False),
        ([1.0, 1.0], [2.0, 2.0], False),
        ([9.0], [], False),
        ([], [2.0], False),
    ],
)
def test_a_code_has_fallen_when_it_is_worse_than_its_earlier_runs_by_more_than_chance(now, before, fallen):
    assert gate.has_fallen(now, before, 0.1) is fallen
