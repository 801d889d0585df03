"""Dealing groups to splits: whole groups, in time order, under the caps, whatever the corpus looks like."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slm_ar.core.contracts import SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.prepare.split import (
    DEV,
    FEWEST_GROUPS,
    HELD_OUT,
    HIDDEN,
    LARGEST_SHARE,
    MIX,
    TEST,
    TRAIN,
    GroupInfo,
    SplitSizes,
    deal,
    hash_rank,
)

SIZES = SplitSizes(dev=3000, hidden=3000, test=3000, mix=2000, mix_share=0.05, train=10**9)


@st.composite
def corpora(draw: st.DrawFn) -> list[GroupInfo]:
    byte_counts = draw(st.lists(st.integers(1, 5000), min_size=FEWEST_GROUPS, max_size=80))
    days = draw(st.lists(st.integers(1, 28), min_size=len(byte_counts), max_size=len(byte_counts)))
    return [
        GroupInfo(f"g{index}", count, f"2024-03-{day:02d}", index)
        for index, (count, day) in enumerate(zip(byte_counts, days, strict=True))
    ]


size_tables = st.builds(
    SplitSizes,
    dev=st.integers(1, 20_000),
    hidden=st.integers(1, 20_000),
    test=st.integers(1, 20_000),
    mix=st.integers(0, 20_000),
    mix_share=st.floats(0, 0.5),
    train=st.integers(1, 200_000),
)
rules = st.sampled_from(SplitRule)


def dealt_or_skip(groups: list[GroupInfo], rule: SplitRule, sizes: SplitSizes) -> dict[str, str]:
    try:
        return deal(groups, rule, sizes)
    except DataError:
        assume(False)
        raise


def names_of(dealt: dict[str, str], split: str) -> set[str]:
    return {name for name, where in dealt.items() if where == split}


@given(corpora(), rules, size_tables)
@settings(max_examples=150, deadline=None)
def test_every_group_lands_in_at_most_one_split_and_no_part_is_empty(
    groups: list[GroupInfo], rule: SplitRule, sizes: SplitSizes
) -> None:
    dealt = dealt_or_skip(groups, rule, sizes)
    assert set(dealt) <= {group.name for group in groups}
    assert set(dealt.values()) >= {TRAIN, *HELD_OUT}
    assert set(dealt.values()) <= {TRAIN, MIX, *HELD_OUT}


@given(corpora(), rules)
@settings(max_examples=100, deadline=None)
def test_no_group_is_lost_while_train_has_room(groups: list[GroupInfo], rule: SplitRule) -> None:
    dealt = dealt_or_skip(groups, rule, SIZES)
    assert set(dealt) == {group.name for group in groups}


@given(corpora(), rules, size_tables)
@settings(max_examples=150, deadline=None)
def test_a_held_out_part_stays_below_its_cap_unless_two_groups_are_larger(
    groups: list[GroupInfo], rule: SplitRule, sizes: SplitSizes
) -> None:
    dealt = dealt_or_skip(groups, rule, sizes)
    bytes_of = {group.name: group.byte_count for group in groups}
    total = sum(bytes_of.values())
    for split in HELD_OUT:
        inside = names_of(dealt, split)
        cap = min(getattr(sizes, split), LARGEST_SHARE * total)
        assert len(inside) == 2 or sum(bytes_of[name] for name in inside) <= cap


@given(corpora(), rules, size_tables)
@settings(max_examples=150, deadline=None)
def test_train_and_mix_stay_below_their_caps(groups: list[GroupInfo], rule: SplitRule, sizes: SplitSizes) -> None:
    dealt = dealt_or_skip(groups, rule, sizes)
    bytes_of = {group.name: group.byte_count for group in groups}
    train, mix = (sum(bytes_of[name] for name in names_of(dealt, split)) for split in (TRAIN, MIX))
    kept = names_of(dealt, TRAIN) | names_of(dealt, MIX)
    assert len(kept) == 1 or train + mix <= sizes.train
    assert mix <= sizes.mix
    assert mix <= sizes.mix_share * (train + mix)


@given(corpora(), size_tables)
@settings(max_examples=150, deadline=None)
def test_by_time_train_is_oldest_and_test_is_newest(groups: list[GroupInfo], sizes: SplitSizes) -> None:
    dealt = dealt_or_skip(groups, SplitRule.TIME, sizes)
    time_of = {group.name: (group.time or "", group.order) for group in groups}
    train = [time_of[name] for split in (TRAIN, MIX) for name in names_of(dealt, split)]
    middle = [time_of[name] for split in (DEV, HIDDEN) for name in names_of(dealt, split)]
    test = [time_of[name] for name in names_of(dealt, TEST)]
    assert max(train) < min(middle)
    assert max(middle) < min(test)


@given(corpora())
@settings(max_examples=50, deadline=None)
def test_by_order_the_order_of_arrival_is_the_time(groups: list[GroupInfo]) -> None:
    dealt = dealt_or_skip(groups, SplitRule.ORDER, SIZES)
    order_of = {group.name: group.order for group in groups}
    train = [order_of[name] for split in (TRAIN, MIX) for name in names_of(dealt, split)]
    middle = [order_of[name] for split in (DEV, HIDDEN) for name in names_of(dealt, split)]
    assert max(train) < min(middle)
    assert max(middle) < min(order_of[name] for name in names_of(dealt, TEST))


def test_dev_and_hidden_alternate_over_one_period() -> None:
    groups = [GroupInfo(f"g{index:02d}", 1000, f"2024-01-{index + 1:02d}", index) for index in range(28)]
    dealt = deal(groups, SplitRule.TIME, SIZES)
    middle = [dealt[name] for name in sorted(dealt) if dealt[name] in (DEV, HIDDEN)]
    assert len(middle) == 6
    assert all(earlier != later for earlier, later in pairwise(middle))


@given(corpora(), rules, size_tables, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_result_does_not_depend_on_the_order_of_the_list(
    groups: list[GroupInfo], rule: SplitRule, sizes: SplitSizes, random: object
) -> None:
    dealt = dealt_or_skip(groups, rule, sizes)
    shuffled = list(groups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert deal(shuffled, rule, sizes) == dealt


def test_by_hash_a_group_stays_where_it_was_when_others_are_added() -> None:
    """The hash decides the rank, so a corpus that grows a little keeps most of its held-out groups."""
    groups = [GroupInfo(f"g{index}", 1000, None, index) for index in range(100)]
    before = deal(groups, SplitRule.GROUP, SIZES)
    after = deal([*groups, GroupInfo("new", 10, None, 100)], SplitRule.GROUP, SIZES)
    moved = [name for name in before if before[name] != after.get(name)]
    assert len(moved) <= 6


def test_beyond_the_train_cap_the_oldest_are_left_out() -> None:
    groups = [GroupInfo(f"g{index:02d}", 1000, f"2024-01-{index + 1:02d}", index) for index in range(28)]
    sizes = SplitSizes(dev=1000, hidden=1000, test=1000, mix=0, mix_share=0.0, train=5000)
    dealt = deal(groups, SplitRule.TIME, sizes)
    assert sorted(names_of(dealt, TRAIN)) == [f"g{index}" for index in range(17, 22)]
    assert "g00" not in dealt


def test_by_hash_one_group_larger_than_the_room_does_not_end_train() -> None:
    ranked = sorted((f"g{index}" for index in range(60)), key=hash_rank)
    sizes = SplitSizes(dev=2000, hidden=2000, test=2000, mix=0, mix_share=0.0, train=40_000)
    large = ranked[10]
    groups = [GroupInfo(name, 39_500 if name == large else 1000, "2024-01-01", n) for n, name in enumerate(ranked)]
    dealt = deal(groups, SplitRule.GROUP, sizes)
    assert large not in dealt and len(names_of(dealt, TRAIN)) == 40
    # By order what is older than the large group stays out with it: train has no gap.
    by_order = deal([replace(group, order=-group.order) for group in groups], SplitRule.ORDER, sizes)
    assert len(names_of(by_order, TRAIN)) == 10 - len(names_of(by_order, TEST)) - 4


def test_by_hash_groups_that_would_fill_a_held_out_part_many_times_go_to_train() -> None:
    """Three huge files and many small ones: the first by hash are huge, and test still holds small ones."""
    small = [GroupInfo(f"s{n}", 10, None, n) for n in range(200)]
    huge = [GroupInfo(f"h{n}", 700, None, 200 + n) for n in range(40)]
    first = sorted(huge, key=lambda group: hash_rank(group.name))[:3]
    groups = sorted([*small, *first], key=lambda group: hash_rank(group.name))
    assert any(group in first for group in groups[:60]), "else the test shows nothing"
    sizes = SplitSizes(dev=60, hidden=60, test=60, mix=0, mix_share=0, train=1500)
    dealt = deal(groups, SplitRule.GROUP, sizes)
    assert {dealt.get(group.name, "left out") for group in first} <= {"train", "left out"}
    assert sum(dealt.get(group.name) == "train" for group in first) == 2, "two fit, and the third ends nothing"
    for part in HELD_OUT:
        assert sum(group.byte_count for group in groups if dealt.get(group.name) == part) == 60
    eight = [GroupInfo(f"e{n}", 1000, None, n) for n in range(8)]
    assert Counter(deal(eight, SplitRule.GROUP, sizes).values()) == {"test": 2, "hidden": 2, "dev": 2, "train": 1}


@pytest.mark.parametrize("count", [0, 1, FEWEST_GROUPS - 1])
def test_too_few_groups_are_refused_with_their_number(count: int) -> None:
    groups = [GroupInfo(f"g{index}", 100, None, index) for index in range(count)]
    with pytest.raises(DataError, match=f"too small to split: {count} group") as error:
        deal(groups, SplitRule.GROUP, SIZES)
    assert "add data" in error.value.hint


def test_a_group_without_time_is_named_when_the_split_is_by_time() -> None:
    groups = [GroupInfo(f"g{index}", 100, None if index == 5 else "2024-01-01", index) for index in range(20)]
    with pytest.raises(DataError, match="'g5' has no time"):
        deal(groups, SplitRule.TIME, SIZES)
