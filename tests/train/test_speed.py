"""A machine that slows down is noticed without asking the candidate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.train.speed import FEWEST_NEIGHBOURS, LARGEST_DROP, NEIGHBOURS, machine_speed, slower_words

speeds = st.floats(1, 1e5)


def test_the_speed_of_this_machine_is_a_sensible_number() -> None:
    assert 1 < machine_speed(0.01) < 1e6


def test_a_drop_is_told_with_its_size() -> None:
    words = slower_words(600, [1000, 1010, 990])
    assert "40 % slower" in words
    assert slower_words(1000 * (1 - LARGEST_DROP) + 1, [1000, 1010, 990]) == ""


@given(st.lists(speeds, max_size=30), speeds)
def test_a_faster_machine_is_never_slower(earlier: list[float], speed: float) -> None:
    assert slower_words(max([speed, *earlier]), earlier) == ""


@given(speeds, st.integers(0, FEWEST_NEIGHBOURS - 1))
def test_few_neighbours_say_nothing(speed: float, count: int) -> None:
    assert slower_words(speed, [1e9] * count) == ""


@given(st.lists(speeds, min_size=NEIGHBOURS, max_size=NEIGHBOURS), st.lists(speeds, max_size=20), speeds)
def test_only_the_newest_count(newest: list[float], older: list[float], speed: float) -> None:
    assert slower_words(speed, [*older, *newest]) == slower_words(speed, newest)


@pytest.mark.parametrize("speed", [0.0, -1.0])
def test_a_speed_that_was_not_measured_says_nothing(speed: float) -> None:
    assert slower_words(speed, [1000.0] * 5) == ""
    assert slower_words(10.0, [0.0] * 5) == ""
