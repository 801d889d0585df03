"""The table of groups: it forgets only what could not have been dealt to any split."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slm_ar.core.contracts import SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.prepare.groups import LARGE_GROUPS, DistinctCounter, GroupTable
from slm_ar.core.prepare.split import GroupInfo, SplitSizes, deal

SIZES = SplitSizes(dev=300, hidden=300, test=300, mix=100, mix_share=0.05, train=1500)
NEED = SIZES.dev + SIZES.hidden + SIZES.test + SIZES.train

documents = st.lists(st.tuples(st.integers(0, 150), st.integers(1, 90)), min_size=30, max_size=400)
"""(group, bytes) in order of arrival; a group's documents need not stand together."""


def filled(rule: SplitRule, arrivals: list[tuple[int, int]], sample: int | None = None) -> GroupTable:
    table = GroupTable(rule, NEED, sample)
    for group, size in arrivals:
        name, time = f"g{group}", f"2024-{1 + group * 7 % 12:02d}"
        if table.wants(name, time, size):
            table.add(name, time, size)
    return table


def all_groups(arrivals: list[tuple[int, int]]) -> list[GroupInfo]:
    found: dict[str, GroupInfo] = {}
    for group, size in arrivals:
        name = f"g{group}"
        old = found.get(name)
        order, before = (old.order, old.byte_count) if old else (len(found), 0)
        found[name] = GroupInfo(name, before + size, f"2024-{1 + group * 7 % 12:02d}", order)
    return list(found.values())


@pytest.mark.parametrize("rule", [SplitRule.GROUP, SplitRule.TIME])
@given(documents)
@settings(max_examples=150, deadline=None)
def test_the_split_is_that_of_all_groups(rule: SplitRule, arrivals: list[tuple[int, int]]) -> None:
    table = filled(rule, arrivals)
    everything = all_groups(arrivals)
    total = sum(group.byte_count for group in everything)
    assert table.total_bytes == total
    try:
        expected = deal(everything, rule, SIZES)
    except DataError:
        assume(False)
    found = deal(table.groups(), rule, SIZES, total)
    # Groups of equal time are ranked by arrival, and the table numbers only those that came in: compare by content.
    assert found == expected
    assert table.left_out + len(table.groups()) == len(everything)


@pytest.mark.parametrize("rule", list(SplitRule))
def test_the_table_stays_small_however_long_the_source_is(rule: SplitRule) -> None:
    table = GroupTable(rule, NEED, None)
    largest = 0
    for number in range(5000):
        name, time = f"g{number}", f"{number:06d}"
        if table.wants(name, time, 50):
            table.add(name, time, 50)
        largest = max(largest, len(table.groups()) if number % 50 == 0 else 0)
    assert largest <= (NEED + (LARGE_GROUPS + 1) * 50) / 50 + 1
    assert table.total_bytes == 5000 * 50
    assert abs(table.left_out - (5000 - len(table.groups()))) <= 3, "counted in a map of bits"


def test_by_time_the_newest_stay_whatever_the_order_of_arrival() -> None:
    arrivals = [(f"g{number}", f"{number:04d}") for number in range(300)]
    for order in (arrivals, arrivals[::-1]):
        table = GroupTable(SplitRule.TIME, NEED, None)
        for name, time in order:
            if table.wants(name, time, 50):
                table.add(name, time, 50)
        kept = {group.name for group in table.groups()}
        assert {f"g{number}" for number in range(300 - NEED // 50, 300)} <= kept
        assert "g0" not in kept


def test_a_group_left_out_does_not_come_back_with_a_later_document() -> None:
    table = GroupTable(SplitRule.ORDER, NEED, None)
    for number in range(200):
        table.add(f"g{number}", None, 50)
    assert "g0" not in table
    assert not table.wants("g0", None, 50)
    assert table.wants("new", None, 50)


@given(documents, st.integers(8, 60))
@settings(max_examples=80, deadline=None)
def test_a_sample_is_the_groups_of_lowest_hash(arrivals: list[tuple[int, int]], size: int) -> None:
    table = filled(SplitRule.TIME, arrivals, sample=size)
    everything = all_groups(arrivals)
    ranked = sorted(everything, key=lambda group: hashlib.sha256(group.name.encode()).digest())[:size]
    assert {group.name: group.byte_count for group in table.groups()} == {g.name: g.byte_count for g in ranked}
    assert table.total_bytes == sum(group.byte_count for group in ranked)
    assert table.left_out == len(everything) - len(ranked)


def test_taking_documents_back_removes_an_empty_group() -> None:
    table = GroupTable(SplitRule.GROUP, NEED, None)
    table.add("a", None, 10)
    table.add("a", None, 5)
    table.add("b", None, 7)
    table.remove("a", 10)
    assert table.total_bytes == 12 and "a" in table
    table.remove("a", 5)
    assert [group.name for group in table.groups()] == ["b"]


def test_a_group_without_time_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="'undated' has no time"):
        GroupTable(SplitRule.TIME, NEED, None).wants("undated", None, 10)


def test_distinct_names_are_counted() -> None:
    counter = DistinctCounter()
    assert counter.count() == 0
    for number in range(30_000):
        counter.add(f"name {number % 10_000}")
    assert abs(counter.count() - 10_000) < 50
