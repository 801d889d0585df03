"""Groups that hold equal texts, to be dealt as one where copies are kept. Called by the spool and the pipeline.

Promises: nothing that is rare stands in two splits; what repeats so often that its groups would fill a held-out part
is a recurrence of the data, is dealt apart, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..contracts import Document
from .heldout import text_digest
from .split import GroupInfo

WISHED_GROUPS = 30
"""Groups that a held-out part should hold: fewer carry no good interval."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Groups as they are dealt."""

    groups: list[GroupInfo]
    roots: dict[str, str]
    """Group -> the group that it is now part of, for every member of one that was joined, also the one it is named
    after."""
    apart: int
    """Groups that share texts with others and were left apart."""


class Joints:
    """Which groups share a text, found while documents arrive (disjoint sets with path halving)."""

    def __init__(self) -> None:
        self._holder: dict[bytes, str] = {}
        """Digest -> the first group that held it."""
        self._parents: dict[str, str] = {}

    def look(self, document: Document) -> None:
        """Join the document's group with those that held the same before."""
        first = self._holder.setdefault(text_digest(asked_text(document)), document.group)
        if first != document.group:
            self._parents[self._root(document.group)] = self._root(first)

    def join(self, groups: Sequence[GroupInfo], smallest_cap: int) -> Joined:
        """`groups` with those joined that share texts; `smallest_cap` is the size of the smallest held-out part."""
        members: dict[str, list[GroupInfo]] = {}
        for group in groups:
            members.setdefault(self._root(group.name), []).append(group)
        joined: list[GroupInfo] = []
        roots: dict[str, str] = {}
        apart = 0
        for found in members.values():
            size = sum(group.byte_count for group in found)
            if len(found) > WISHED_GROUPS and size * WISHED_GROUPS > smallest_cap:
                joined += found
                apart += len(found)
                continue
            first = found[0]
            joined.append(GroupInfo(first.name, size, first.time, first.order))
            if len(found) > 1:
                roots |= {group.name: first.name for group in found}
        return Joined(joined, roots, apart)

    def _root(self, name: str) -> str:
        parents = self._parents
        while (parent := parents.get(name, name)) != name:
            parents[name] = parents.get(parent, parent)
            name = parent
        return name


def asked_text(document: Document) -> str:
    """What makes two documents the same here: of one that ends with its only answer all before it, else the text.

    Two rows that differ in the answer alone would otherwise be dealt to two splits, and train would hold the one
    answer wherever dev asks for the other.
    """
    if len(document.spans) == 1:
        raw, (span,) = document.text.encode("utf-8"), document.spans
        if raw[: span.start].strip() and not raw[span.end :].strip():
            return raw[: span.start].decode("utf-8")
    return document.text
