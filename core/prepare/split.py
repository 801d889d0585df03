"""Deals groups of documents to train, mix, dev, hidden and test. Called by the pipeline; pure.

Promises: whole groups only; the result is a function of the arguments; by time, everything in train is older than
dev and hidden, which alternate group by group over one period, and test is the newest part.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..contracts import SplitRule
from ..errors import DataError

TRAIN, MIX, DEV, HIDDEN, TEST = "train", "mix", "dev", "hidden", "test"
HELD_OUT = (DEV, HIDDEN, TEST)
LARGEST_SHARE = 0.12
"""No held-out part takes more than this share of the corpus, whatever its byte cap says."""
HUGE_SHARE = 0.3
"""A held-out part that one group makes larger than this share is refused."""
FEWEST_GROUPS = 8
LARGE = 0.5
"""By hash a group of more than this share of a held-out part is left to train."""
MOST_PASSED = 6
"""Groups that are left to train for their size. `groups.LARGE_GROUPS` keeps so many more, one for MOST_SKIPPED, and two
for each held-out part, so that what it leaves out changes nothing here."""
MOST_SKIPPED = 1
"""Other groups that find no room in train before it counts as full."""


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One group: its bytes of raw text, its (sortable) time or None, and its place in the order of arrival."""

    name: str
    byte_count: int
    time: str | None
    order: int


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """Byte caps of the recipe."""

    dev: int
    hidden: int
    test: int
    mix: int
    mix_share: float
    train: int


def deal(
    groups: Sequence[GroupInfo], rule: SplitRule, sizes: SplitSizes, total_bytes: int | None = None
) -> dict[str, str]:
    """Group name -> split name. Groups beyond the train cap (the oldest, or by hash) are absent.

    `total_bytes` is the size of the corpus when `groups` are only those of it that can be dealt. Raises DataError when
    the corpus has too few groups or a part would stay empty.
    """
    total = sum(group.byte_count for group in groups) if total_bytes is None else total_bytes
    if len(groups) < FEWEST_GROUPS:
        raise DataError(
            f"the corpus is too small to split: {len(groups)} group(s), {total:,} bytes; "
            f"at least {FEWEST_GROUPS} groups are needed",
            'add data, or make documents smaller (text adapter: [data.options] unit = "block" or "lines")',
        )
    caps = part_caps(sizes, total)
    if rule is SplitRule.GROUP:
        ranked = sorted(groups, key=lambda group: hash_rank(group.name))
        dealt, rest, passed = _deal_by_hash(ranked, caps, MOST_PASSED)
        if _missing(Counter(dealt.values())):
            dealt, rest, passed = _deal_by_hash(ranked, caps, 0)
        may_skip = MOST_SKIPPED + passed
    else:
        ranked = sorted(groups, key=lambda group: (time_of(group, rule), group.order), reverse=True)
        dealt, rest = _deal_by_time(ranked, caps)
        may_skip = 0
    dealt.update(_deal_rest(rest, may_skip, sizes))
    _refuse_empty(dealt, total)
    _refuse_huge(dealt, groups, total)
    return dealt


def part_caps(sizes: SplitSizes, total_bytes: int) -> dict[str, int]:
    """Held-out part -> the bytes that it may hold."""
    return {name: min(getattr(sizes, name), int(total_bytes * LARGEST_SHARE)) for name in HELD_OUT}


def hash_rank(name: str) -> bytes:
    """Groups are dealt by hash in this order: test, hidden, dev, then train."""
    return _rank("split", name)


def _rank(salt: str, name: str) -> bytes:
    return hashlib.sha256(f"slm-ar {salt} {name}".encode()).digest()


def time_of(group: GroupInfo, rule: SplitRule) -> str:
    """What groups are sorted by, before their order of arrival. Raises DataError when a time is needed and missing."""
    if rule is SplitRule.ORDER:
        return ""
    if group.time is None:
        raise DataError(
            f"group '{group.name}' has no time, so the corpus cannot be split by time",
            'set [data] split = "group" or "order" in recipe.toml',
        )
    return group.time


def _deal_by_hash(
    ranked: Sequence[GroupInfo], caps: dict[str, int], may_pass: int
) -> tuple[dict[str, str], list[GroupInfo], int]:
    """(group -> held-out part, the other groups in their order, how many of these were passed over)."""
    dealt: dict[str, str] = {}
    passed: list[GroupInfo] = []
    position = 0
    for split in (TEST, HIDDEN, DEV):
        filled = taken = 0
        while position < len(ranked):
            group = ranked[position]
            if group.byte_count > LARGE * caps[split] and len(passed) < may_pass:
                passed.append(group)
                position += 1
                continue
            if taken >= 2 and filled + group.byte_count > caps[split]:
                break
            dealt[group.name] = split
            filled += group.byte_count
            taken += 1
            position += 1
    return dealt, [*passed, *ranked[position:]], len(passed)


def _deal_by_time(newest_first: Sequence[GroupInfo], caps: dict[str, int]) -> tuple[dict[str, str], list[GroupInfo]]:
    """Test from the newest end, then hidden and dev in turn; a part that is full leaves the turn to the other."""
    dealt: dict[str, str] = {}
    filled: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    position = 0

    def has_room(split: str, group: GroupInfo) -> bool:
        return taken[split] < 2 or filled[split] + group.byte_count <= caps[split]

    while position < len(newest_first) and has_room(TEST, newest_first[position]):
        group = newest_first[position]
        dealt[group.name] = TEST
        filled[TEST] += group.byte_count
        taken[TEST] += 1
        position += 1
    turn, other = HIDDEN, DEV
    while position < len(newest_first):
        group = newest_first[position]
        split = turn if has_room(turn, group) else other
        if not has_room(split, group):
            break
        dealt[group.name] = split
        filled[split] += group.byte_count
        taken[split] += 1
        turn, other = other, turn
        position += 1
    return dealt, list(newest_first[position:])


def _deal_rest(rest: Sequence[GroupInfo], may_skip: int, sizes: SplitSizes) -> dict[str, str]:
    """Train and mix from what is left; `rest` comes with the groups to keep first.

    By hash groups that are too large are left out alone, `may_skip` of them; by time train has no gap, so it begins
    after such a group. A train of one group alone may be larger than its cap: there would be none otherwise.
    """
    kept: list[GroupInfo] = []
    train_bytes = 0
    for group in rest:
        if train_bytes + group.byte_count > sizes.train and (kept or may_skip):
            if not may_skip or train_bytes >= sizes.train:
                break
            may_skip -= 1
            continue
        kept.append(group)
        train_bytes += group.byte_count
    kept = kept or list(rest[:1])
    mix_cap = min(sizes.mix, int(train_bytes * sizes.mix_share))
    dealt = {group.name: TRAIN for group in kept}
    mix_bytes = 0
    for group in sorted(kept, key=lambda group: _rank("mix", group.name)):
        if mix_bytes + group.byte_count > mix_cap:
            break
        dealt[group.name] = MIX
        mix_bytes += group.byte_count
    return dealt


def _missing(counts: Counter[str]) -> list[str]:
    """Held-out parts with too few groups: one group has no variance, so its part could carry no interval."""
    return [split for split in HELD_OUT if counts[split] < 2]


def _refuse_huge(dealt: dict[str, str], groups: Sequence[GroupInfo], total: int) -> None:
    for group in groups:
        if dealt.get(group.name) in HELD_OUT and group.byte_count > HUGE_SHARE * total:
            raise DataError(
                f"group '{group.name}' alone is {group.byte_count / total:.0%} of the corpus and would be all of "
                f"{dealt[group.name]}",
                "make groups smaller: a group is what must not stand in two splits (a day, a story, a file)",
            )


def _refuse_empty(dealt: dict[str, str], total: int) -> None:
    counts = Counter(dealt.values())
    missing = ([] if counts[TRAIN] else [TRAIN]) + _missing(counts)
    if missing:
        raise DataError(
            f"the corpus is too small to split: {total:,} bytes in {len(dealt)} groups leave too little for "
            + ", ".join(missing),
            "add data, make documents smaller, or lower dev_kb, hidden_kb and test_kb in [data] of recipe.toml",
        )
