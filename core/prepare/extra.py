"""Auxiliary text from [[data.extra]]: it joins train, and nothing of it may stand in what is held out.

Called by the pipeline after the split. Promises: documents that equal or nearly equal a held-out one are dropped, and
so are copies of what train has; train stays below max_train_mb; the rest is told in the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ..contracts import SourceOptions
from ..recipe import ExtraTable
from ..registry import load_adapter
from .heldout import HeldDocument, from_json, to_json
from .inputs import extra_source
from .manifest import ExtraSize
from .overlap import HeldIndex
from .spool import Spool


class Extra:
    """The documents of one table, waiting in a file."""

    def __init__(self, table: ExtraTable, path: Path) -> None:
        self.table, self.path = table, path
        self.notices: tuple[str, ...] = ()

    def read(self, workspace: Path, spool: Spool, index: HeldIndex, room: int) -> ExtraSize:
        """Take in what may join train, `room` bytes at most with repeats; returns what became of the documents."""
        table = self.table
        adapter = load_adapter(table.adapter, workspace)
        options = SourceOptions(columns=table.columns, options=table.options)
        documents = byte_count = repeated = held_out = sampled_out = used = 0
        is_cut = False
        with self.path.open("w", encoding="utf-8") as file:
            for document in adapter.documents(extra_source(table, workspace), options):
                if not document.text.strip():
                    continue
                digest = spool.digest(document.text)
                if index.equal(document.text) is not None or index.near(document.text) is not None:
                    held_out += 1
                elif digest in spool.seen:
                    repeated += 1
                elif table.weight < 1 and _share_of(digest) >= table.weight:
                    sampled_out += 1
                else:
                    size = len(document.text.encode("utf-8"))
                    used += size * self.copies
                    if used > room:
                        is_cut = True
                        break
                    spool.seen.add(digest)
                    documents += 1
                    byte_count += size
                    file.write(to_json(HeldDocument(document, {})) + "\n")
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


def _share_of(digest: bytes) -> float:
    """A number from 0 to 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(b"slm-ar extra " + digest).digest()[:8], "big") / 2**64
