"""The optimiser behind `search`: its surface, what failures teach it, and what it tells a language model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_search import REVERTED, UNKNOWN, context_of, play, toy, toy_with_crashes, values_of

from slm_ar.core.agent.proposers.gaussian import GaussianProcess
from slm_ar.core.agent.proposers.optimiser import optimiser_state, suggest
from slm_ar.core.agent.proposers.space import Space
from slm_ar.core.contracts import Status


def sampled(count: int, axes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points and a smooth value that the first two axes decide, one of them twice as much."""
    points = np.random.default_rng(seed).random((count, axes))
    return points, (points[:, 0] - 0.3) ** 2 + 4 * (points[:, 1] - 0.6) ** 2


def test_the_surface_predicts_what_it_has_not_seen() -> None:
    points, values = sampled(60, 6)
    model = GaussianProcess(points, values, np.ones(60))
    others, truth = sampled(200, 6, seed=1)
    mean, spread = model.predict(others)
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.2 * truth.std()
    assert np.mean(np.abs(mean - truth) < 3 * spread + 0.02) > 0.95


def test_axes_that_do_not_matter_get_long_lengths() -> None:
    points, values = sampled(60, 6)
    lengths = GaussianProcess(points, values, np.ones(60)).lengths
    assert max(lengths[:2]) < 0.5 * min(lengths[2:])


def test_the_gradient_of_the_fit_is_that_of_its_cost() -> None:
    points, values = sampled(15, 3)
    model = GaussianProcess(points, values, np.ones(15))
    settings = np.array([0.2, -0.4, 1.0, 0.3, -2.0])
    _, gradient = model._cost(settings)
    for axis in range(5):
        step = np.zeros(5)
        step[axis] = 1e-5
        slope = (model._cost(settings + step)[0] - model._cost(settings - step)[0]) / 2e-5
        assert gradient[axis] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_what_is_doubted_moves_the_surface_less() -> None:
    points, values = np.array([[0.1], [0.5], [0.9]]), np.array([0.0, 1.0, 0.0])
    believed = GaussianProcess(points, values, np.ones(3)).predict(points)[0][1]
    doubted = GaussianProcess(points, values, np.array([1.0, 100.0, 1.0])).predict(points)[0][1]
    assert doubted < believed


def test_equal_values_make_a_flat_surface() -> None:
    points = np.random.default_rng(0).random((8, 3))
    mean, _ = GaussianProcess(points, np.full(8, 2.0), np.ones(8)).predict(points)
    assert np.allclose(mean, 2.0)


def test_values_that_only_rounding_keeps_apart_are_equal() -> None:
    points = np.random.default_rng(0).random((7, 3))
    values = np.full(7, 0.1 + 0.2)
    values[3] = 0.3
    mean, spread = GaussianProcess(points, values, np.ones(7)).predict(points)
    assert np.allclose(mean, 0.3) and spread.min() > 1e-3  # nothing is known for certain of seven noisy values


def test_one_point_many_times_is_no_trouble() -> None:
    points, values = np.full((30, 4), 0.5), np.random.default_rng(0).normal(size=30)
    mean, spread = GaussianProcess(points, values, np.ones(30)).predict(points[:1])
    assert mean[0] == pytest.approx(values.mean(), abs=0.2) and np.isfinite(spread).all()


def test_more_is_expected_of_lower_means_and_of_the_unknown() -> None:
    points, values = np.array([[0.0], [0.4], [1.0]]), np.array([1.0, 0.2, 1.0])
    model = GaussianProcess(points, values, np.ones(3))
    gains = model.expected_improvement(np.array([[0.0], [0.41], [0.5]]), 0.2)
    assert gains.min() >= 0
    assert gains[2] > gains[0]


def test_a_region_that_fails_is_left() -> None:
    """The same history, once with the far side failed: the next suggestions lie on the near side."""
    _, history = play("random", UNKNOWN, toy, 20)
    middle = math.sqrt(0.05 * 200)
    fallen = [
        replace(entry, status=Status.CRASHED, dev_score=None) if float(entry.knobs["SIZE"]) > middle else entry
        for entry in history
    ]
    sizes = []
    for seed in range(5):
        suggestion = suggest(Space(context_of(UNKNOWN, fallen, seed)))
        assert suggestion is not None
        sizes.append(float(suggestion.assignment["SIZE"]))
    assert max(sizes) < middle * 1.5


def test_a_pruned_run_is_worse_than_most_and_better_than_a_failure() -> None:
    """Only the order matters here: what a crash says is not said by a run that was ended for being behind."""
    from slm_ar.core.agent.proposers.optimiser import _losses

    _, history = play("random", UNKNOWN, toy, 12)
    ends = {3: Status.PRUNED, 5: Status.CRASHED}
    odd = [
        replace(entry, status=ends[place], dev_score=None) if place in ends else entry
        for place, entry in enumerate(history)
    ]
    losses = _losses(Space(context_of(UNKNOWN, odd)).trials)
    scored = [loss for place, loss in enumerate(losses) if place not in ends]
    assert np.median(scored) <= losses[3] < losses[5]
    assert losses[5] > max(scored)


def test_suggestions_are_new_and_a_function_of_the_context() -> None:
    _, history = play("random", UNKNOWN, toy_with_crashes, 20)
    one, same, other = (suggest(Space(context_of(UNKNOWN, history, seed))) for seed in (3, 3, 4))
    assert one == same and one is not None and other is not None
    assert Space(context_of(UNKNOWN, history)).is_new(one.assignment)


def test_few_results_are_enough_to_suggest_something() -> None:
    for rounds in (0, 1, 2, 3):
        _, history = play("random", UNKNOWN, toy, rounds)
        assert suggest(Space(context_of(UNKNOWN, history))) is not None
    one = "SIZE = 1.0  # knob: float 0..2\n"
    assert suggest(Space(context_of(one))) is not None


def test_of_many_results_the_best_and_the_newest_are_used() -> None:
    """The time that the process takes grows with the cube of what it is given."""
    from slm_ar.core.agent.proposers import optimiser

    _, history = play("random", UNKNOWN, toy, 1)
    statuses = [Status.CRASHED if number % 5 == 0 else REVERTED for number in range(500)]
    many = [
        replace(history[0], status=status, dev_score=None if status is Status.CRASHED else 9.0 - number % 250)
        for number, status in enumerate(statuses)
    ]
    trials = Space(context_of(UNKNOWN, many)).trials
    losses = optimiser._losses(trials)
    chosen = optimiser._telling(trials, losses)
    assert len(chosen) == len(set(chosen)) == optimiser._MOST and chosen == sorted(chosen)
    scored = [index for index in range(500) if trials[index].loss is not None]
    assert set(sorted(scored, key=lambda index: losses[index])[: optimiser._MOST // 2]) <= set(chosen)
    assert 485 in chosen and 486 in chosen  # a failure and a score, both new
    assert optimiser._telling(trials[:60], losses[:60]) == list(range(60))


# --- for language models ---


def test_the_state_tells_the_best_points_the_good_region_and_the_next_one() -> None:
    head, history = play("random", UNKNOWN, toy_with_crashes, 24)
    text = optimiser_state(context_of(head, history))
    lines = text.split("\n")
    assert lines[0].startswith("24 past results over 6 knobs")
    assert lines[1].startswith("loss 0.0000: ")
    assert [line for line in lines if line.startswith("it would try next: ")] == [lines[-1]]
    assert "failed or were ended early" in text
    for name in values_of(UNKNOWN):
        assert any(line.startswith(f"  {name}: ") for line in lines)
    assert text == optimiser_state(context_of(head, history))
    assert len(text) < 4000 and all(line.isprintable() for line in lines)


def test_the_state_of_a_young_campaign_says_little_and_does_not_fail() -> None:
    assert "no knobs" in optimiser_state(context_of("DEPTH = 4\n"))
    assert optimiser_state(context_of(UNKNOWN)).startswith("0 past results")
    one = [replace(entry, status=REVERTED) for entry in play("search", UNKNOWN, toy, 1)[1]]
    assert "good region" not in optimiser_state(context_of(UNKNOWN, one))
    full = "A = 1  # knob: int 0..1\n"
    _, history = play("search", full, lambda values: 1.0, 5)
    assert "no untried point" in optimiser_state(context_of(full, history))
