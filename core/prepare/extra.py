"""Auxiliary text from [[data.extra]]: it joins train, and nothing of it may stand in what is held out.

Called by the pipeline after the split. Promises: documents that equal or nearly equal a held-out one, hold one, stand
in one or belong to its group or period are dropped, and so are copies of what train has; train stays below
max_train_mb; the rest is told in the manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..contracts import Document, SourceOptions
from ..recipe import ExtraTable
from ..registry import load_adapter
from .heldout import CHUNK_CHARACTERS, HeldDocument, from_json, to_json
from .inputs import extra_source
from .manifest import ExtraSize
from .overlap import HeldIndex
from .spool import Spool, read_documents

_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeldGroups:
    """Which groups of the main source are held out, and from when on."""

    adapter: str
    """Name of the adapter whose groups they are: another one's names mean something else."""
    names: frozenset[str]
    since: str | None
    """The oldest held-out time when the split is by time; None otherwise."""

    def hold(self, document: Document, adapter: str) -> bool:
        """Whether a document of `adapter` belongs to a held-out group, or to the time that is held out."""
        if adapter == self.adapter and document.group in self.names:
            return True
        if self.since is None or document.time is None:
            return False
        # The times of two adapters compare when both are ISO days.
        comparable = adapter == self.adapter or bool(_DAY.match(self.since) and _DAY.match(document.time))
        return comparable and document.time >= self.since


class Extra:
    """The documents of one table, waiting in a file."""

    def __init__(self, table: ExtraTable, path: Path) -> None:
        self.table, self.path = table, path
        self.notices: tuple[str, ...] = ()

    def read(self, workspace: Path, spool: Spool, index: HeldIndex, groups: HeldGroups, room: int) -> ExtraSize:
        """Take in what may join train, `room` bytes at most with repeats; returns what became of the documents.

        What is taken in is noted in `index`.
        """
        table = self.table
        adapter = load_adapter(table.adapter, workspace)
        options = SourceOptions(columns=table.columns, options=table.options)
        documents = byte_count = repeated = held_out = sampled_out = used = 0
        is_cut = False
        taken: list[str] = []
        characters = 0
        with self.path.open("w", encoding="utf-8") as file:
            for document in read_documents(adapter, extra_source(table, workspace), options):
                if not document.text.strip():
                    continue
                digest = spool.digest(document.text)
                if groups.hold(document, adapter.name) or _stands_in(index, document.text):
                    held_out += 1
                elif spool.has(digest):
                    repeated += 1
                elif table.weight < 1 and _share_of(digest) >= table.weight:
                    sampled_out += 1
                else:
                    size = len(document.text.encode("utf-8"))
                    used += size * self.copies
                    if used > room:
                        is_cut = True
                        break
                    spool.note(digest)
                    documents += 1
                    byte_count += size
                    file.write(to_json(HeldDocument(document, {})) + "\n")
                    taken.append(document.text)
                    characters += len(document.text)
                    if characters > CHUNK_CHARACTERS:
                        index.note_train(taken)
                        taken, characters = [], 0
        index.note_train(taken)
        self.notices = tuple(f"{table.source}: {line}" for line in getattr(adapter, "notices", ()))
        return ExtraSize(adapter.name, table.weight, documents, byte_count, repeated, held_out, sampled_out, is_cut)

    @property
    def copies(self) -> int:
        """How often train holds each document."""
        return max(1, int(self.table.weight))

    def documents(self) -> Iterator[HeldDocument]:
        """All documents, `copies` times over."""
        for _ in range(self.copies):
            with self.path.open("rb") as lines:
                yield from map(from_json, lines)


def _stands_in(index: HeldIndex, text: str) -> bool:
    return any(find(text) is not None for find in (index.equal, index.near, index.inside))


def _share_of(digest: bytes) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(b"slm-ar extra " + digest).digest()[:8], "big") / 2**64
