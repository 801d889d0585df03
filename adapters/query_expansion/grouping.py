"""Groups of pairs when the person names a column for them: its values, joined where they share a query.

Called by the adapter before it yields anything. Promises: neither a value of the column nor a query, whatever its
order of words, mode and case, stands in two groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ...core.errors import DataError
from ...core.sources import Notices
from .words import group_key

FEWEST_VALUES = 8
"""Prepare deals at least so many groups."""
LARGEST_SHARE = 0.5
"""A group of more than this share of the pairs leaves nothing to split."""


def joined_groups(pairs: Iterable[tuple[str, str]], column: str, notices: Notices) -> dict[str, str]:
    """Value of the column -> its group, which is named after the first value of it.

    `pairs` are (value, query) of all rows. Raises DataError when nearly all are one group.
    """
    parents: dict[str, str] = {}
    holder: dict[str, str] = {}
    rows: Counter[str] = Counter()
    shared = set()

    def root(value: str) -> str:
        while (parent := parents[value]) != value:
            parents[value] = parents[parent]
            value = parent
        return value

    for value, query in pairs:
        rows[value] += 1
        parents.setdefault(value, value)
        first = holder.setdefault(group_key(query), value)
        if first != value:
            shared.add(value)
            parents[root(value)] = root(first)
    names: dict[str, str] = {}
    groups: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    for value in parents:  # in order of arrival
        groups[value] = names.setdefault(root(value), value)
        sizes[groups[value]] += rows[value]
    if shared:
        notices.count(
            f"group_column = '{column}'", "values that share a query with another, in one group with it", len(shared)
        )
    largest = max(sizes.values(), default=0)
    if len(parents) >= FEWEST_VALUES and largest > LARGEST_SHARE * rows.total():
        raise DataError(
            f"group_column = '{column}': its values share so many queries that {largest:,} of {rows.total():,} pairs "
            "would be one group, and a group never straddles two splits",
            "Remove group_column from [data.options]: equal queries are kept together without it.",
        )
    return groups
