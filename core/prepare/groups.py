"""The table of groups while the source is read: what each holds, and which can no longer matter.

Called by the spool. Promises: memory bounded by what the recipe's caps can hold, not by the source, for groups dealt by
hash or time; and the groups that stay are dealt as they would be among all.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from dataclasses import dataclass

import numpy as np

from ..contracts import SplitRule
from .split import HELD_OUT, MOST_PASSED, MOST_SKIPPED, GroupInfo, hash_rank, time_of

LARGE_GROUPS = 2 * len(HELD_OUT) + MOST_PASSED + MOST_SKIPPED
"""Groups that may each be larger than the cap they fall under."""
COUNTER_BITS = 1 << 23

_Key = tuple[str, int]


@dataclass(slots=True)
class _Group:
    byte_count: int
    time: str | None
    order: int


class DistinctCounter:
    """How many different names were added: linear counting (Whang et al. 1990), within 0.1 % up to ten million."""

    def __init__(self) -> None:
        self._seen = np.zeros(COUNTER_BITS // 8, np.uint8)

    def add(self, name: str) -> None:
        place = _name_number(name) % COUNTER_BITS
        self._seen[place >> 3] |= np.uint8(1 << (place & 7))

    def count(self) -> int:
        empty = COUNTER_BITS - int(np.bitwise_count(self._seen).sum())
        return round(-COUNTER_BITS * math.log(max(1, empty) / COUNTER_BITS))


class GroupTable:
    """Bytes, time and order of every group that may still be dealt to a split.

    `need_bytes` is what all splits together may hold. A group is left out when the groups that are dealt before it (by
    hash the lower ones, by time the newer ones) hold more than that, with room to spare for large groups. With `sample`
    it is left out instead when that many groups have a lower hash of another kind.
    """

    def __init__(self, rule: SplitRule, need_bytes: int, sample: int | None) -> None:
        self.total_bytes = 0
        """Bytes of the corpus, also of groups left out for want of room (but not of those outside the sample)."""
        self.need_bytes = need_bytes
        self._rule, self._sample = rule, sample
        self._groups: dict[str, _Group] = {}
        self._kept_bytes = self._largest = self._arrived = 0
        self._last_dealt: list[tuple[_Key, str]] = []
        self._last_sampled: list[tuple[int, str]] = []
        self._cut: _Key | None = None
        self._sample_cut: int | None = None
        self._left_out = DistinctCounter()
        self._gone: set[int] = set()
        """Names left out by time: a later document of theirs must not bring them back."""

    def wants(self, name: str, time: str | None, byte_count: int) -> bool:
        """Whether a document of this group may still matter. Raises DataError when a time is needed and missing."""
        if name in self._groups:
            return True
        if self._sample_cut is not None and -_sample_rank(name) <= self._sample_cut:
            self._left_out.add(name)
            return False
        if not self.may_hold(name, time):
            self._left_out.add(name)
            self.total_bytes += byte_count
            return False
        return True

    def add(self, name: str, time: str | None, byte_count: int) -> None:
        """Count a document of a group that `wants` let in; the group's time is that of its first document."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(0, time, self._arrived)
            if self._sample is None:
                heapq.heappush(self._last_dealt, (self._key(name, time), name))
            else:
                heapq.heappush(self._last_sampled, (-_sample_rank(name), name))
            self._arrived += 1
        group.byte_count += byte_count
        self.total_bytes += byte_count
        self._kept_bytes += byte_count
        self._largest = max(self._largest, group.byte_count)
        self._leave_out()

    def restore(self, name: str, time: str | None, byte_count: int) -> bool:
        """Count another document, once all are read; False when its group was left out."""
        if name not in self._groups:
            if not self.may_hold(name, time):
                return False
            self._groups[name] = _Group(0, time, self._arrived)
            self._arrived += 1
        self._groups[name].byte_count += byte_count
        self._kept_bytes += byte_count
        self.total_bytes += byte_count
        return True

    def may_hold(self, name: str, time: str | None) -> bool:
        """Whether a group is here or was never left out."""
        if name in self._groups:
            return True
        if self._sample_cut is not None and -_sample_rank(name) <= self._sample_cut:
            return False
        key = self._key(name, time)  # also tells that a time is missing
        return (self._cut is None or key > self._cut) and not (self._gone and _name_number(name) in self._gone)

    def largest(self) -> tuple[str, int]:
        """Name and bytes of the largest group."""
        sizes = ((name, group.byte_count) for name, group in self._groups.items())
        return max(sizes, key=lambda entry: entry[1], default=("", 0))

    def remove(self, name: str, byte_count: int) -> None:
        """Take a document back, once all are read; a group that holds nothing more is no group."""
        group = self._groups[name]
        group.byte_count -= byte_count
        self._kept_bytes -= byte_count
        self.total_bytes -= byte_count
        if group.byte_count <= 0:
            del self._groups[name]

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    @property
    def left_out(self) -> int:
        """How many groups were left out."""
        return self._left_out.count()

    def groups(self) -> list[GroupInfo]:
        return [GroupInfo(name, group.byte_count, group.time, group.order) for name, group in self._groups.items()]

    def _key(self, name: str, time: str | None) -> _Key:
        """Sorts the group that is dealt last to the front."""
        if self._rule is SplitRule.GROUP:
            return "", -int.from_bytes(hash_rank(name), "big")
        return time_of(GroupInfo(name, 0, time, 0), self._rule), self._arrived

    def _leave_out(self) -> None:
        if self._sample is not None:
            while len(self._groups) > self._sample:
                self._sample_cut, name = heapq.heappop(self._last_sampled)
                self.total_bytes -= self._groups[name].byte_count
                self._drop(name)
            return
        while self._last_dealt:
            key, name = self._last_dealt[0]
            group = self._groups[name]
            if self._kept_bytes - group.byte_count <= self.need_bytes + LARGE_GROUPS * self._largest:
                return
            heapq.heappop(self._last_dealt)
            self._cut = key
            self._drop(name)
            if self._rule is not SplitRule.GROUP:
                self._gone.add(_name_number(name))

    def _drop(self, name: str) -> None:
        self._kept_bytes -= self._groups.pop(name).byte_count
        self._left_out.add(name)


def _sample_rank(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest(), "big")


def _name_number(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")
