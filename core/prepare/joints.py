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
LARGEST_JOINT = 0.5
"""A chain of many groups that is more than this share of a held-out part is left apart."""


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
    """Which groups share a text, noted while documents arrive."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        """Digest -> the first group that held it."""
        self._shared: dict[bytes, tuple[int, list[str]]] = {}
        """Digest -> (bytes of the text, groups that held it), of those that several did."""

    def look(self, document: Document) -> None:
        """Note what the document's group holds."""
        text = asked_text(document)
        digest = text_digest(text)
        first = self._first.setdefault(digest, document.group)
        if first == document.group:
            return
        _, holders = self._shared.setdefault(digest, (len(text.encode("utf-8")), [first]))
        if holders[-1] != document.group:
            holders.append(document.group)

    def join(self, groups: Sequence[GroupInfo], smallest_cap: int) -> Joined:
        """`groups` with those joined that share texts; `smallest_cap` is the size of the smallest held-out part.

        A text is common when more than WISHED_GROUPS groups hold it and it takes more than their share of that part:
        common texts join nothing.
        """
        present = {group.name for group in groups}
        parents: dict[str, str] = {}
        apart: set[str] = set()
        for size, holders in self._shared.values():
            here = [name for name in holders if name in present]
            if len(here) > WISHED_GROUPS and size * len(here) * WISHED_GROUPS > smallest_cap:
                apart.update(here)
                continue
            for name in here[1:]:
                parents[_root(parents, name)] = _root(parents, here[0])
        members: dict[str, list[GroupInfo]] = {}
        for group in groups:
            members.setdefault(_root(parents, group.name), []).append(group)
        joined: list[GroupInfo] = []
        roots: dict[str, str] = {}
        for found in members.values():
            size = sum(group.byte_count for group in found)
            if len(found) > WISHED_GROUPS and size > LARGEST_JOINT * smallest_cap:
                joined += found
                apart.update(group.name for group in found)
                continue
            first = found[0]
            joined.append(GroupInfo(first.name, size, first.time, first.order))
            if len(found) > 1:
                roots |= {group.name: first.name for group in found}
        return Joined(joined, roots, len(apart))


def _root(parents: dict[str, str], name: str) -> str:
    """What `name` is joined with, after halving the path to it (disjoint sets, Tarjan 1975)."""
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
