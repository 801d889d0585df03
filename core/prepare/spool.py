"""Documents between the adapter and their split: read once, counted, and kept on disk in the private scratch folder.

Called by the pipeline. Promises: one pass over the adapter; copies are dropped (or counted) here, before any split;
what can no longer matter is not kept in memory; held-out text is never written outside the private folder.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from ..contracts import Adapter, Document, DuplicatePolicy, SourceOptions
from ..errors import DataError
from ..registry import adapter_mistakes
from .groups import GroupTable
from .heldout import HeldDocument, from_json, text_digest, to_json
from .manifest import Progress, SplitSize
from .near import find_near_duplicates, normalised_digest
from .split import HELD_OUT, MIX, TRAIN

REPORT_EVERY = 50_000

_DAY = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


class Spool:
    """Documents of one source in order of arrival; a document has a number, counted from 0."""

    def __init__(self, scratch: Path, table: GroupTable, policy: DuplicatePolicy) -> None:
        self.seen: set[bytes] = set()
        """Digests of all texts, by `digest`."""
        self.duplicates = 0
        self.near_duplicates = 0
        """Documents that differ from an earlier one in a few words."""
        self.notices: list[str] = []
        self._scratch, self._table, self._policy = scratch, table, policy
        self._path = scratch / "documents.jsonl"
        self._starts = array("q")
        self._dropped: set[int] = set()

    def digest(self, text: str) -> bytes:
        """Equal for texts that are one and the same under the policy."""
        return normalised_digest(text) if self._policy is DuplicatePolicy.NEAR else text_digest(text)

    def read(self, adapter: Adapter, source: Path, options: SourceOptions, progress: Progress) -> None:
        """Take in the adapter's documents. Raises DataError when there are none."""
        position = offered = dated = 0
        with self._path.open("wb") as file:
            for document in read_documents(adapter, source, options):
                if not document.text.strip() or not is_within(document, options):
                    continue
                offered += 1
                dated += document.time is not None
                if offered % REPORT_EVERY == 0:
                    progress(f"reading the source: {offered:,} documents")
                size = len(document.text.encode("utf-8"))
                if not self._table.wants(document.group, document.time, size) or self._is_copy(document):
                    continue
                self._table.add(document.group, document.time, size)
                with adapter_mistakes(adapter):
                    slices = adapter.slices(document)
                line = to_json(HeldDocument(document, slices)).encode("utf-8") + b"\n"
                self._starts.append(position)
                position += file.write(line)
        if not offered:
            raise DataError(
                f"{source} gave no documents through the adapter '{adapter.name}'",
                "check [data] in recipe.toml: source, since, until and [data.options]",
            )
        if not dated and (options.since or options.until):
            self.notices.append(
                f"the documents of adapter '{adapter.name}' carry no time: since and until are left to it"
            )

    def _is_copy(self, document: Document) -> bool:
        """Whether to drop it as a copy; copies are counted in any case."""
        digest = self.digest(document.text)
        if digest not in self.seen:
            self.seen.add(digest)
            return False
        self.duplicates += 1
        return self._policy is not DuplicatePolicy.REPORT

    def find_near_duplicates(self) -> None:
        """Drop (policy near) or count (policy report) what differs from an earlier document in a few words."""
        if self._policy is DuplicatePolicy.EXACT:
            return
        numbers = array("q")

        def texts() -> Iterator[str]:
            for number, line in self._lines():
                document = from_json(line).document
                if document.group in self._table:
                    numbers.append(number)
                    yield document.text

        found = find_near_duplicates(texts(), lambda place: self._document(numbers[place]).text, self._scratch)
        if self._policy is DuplicatePolicy.REPORT:
            self.near_duplicates = max(0, len(found) - self.duplicates)
            return
        self.near_duplicates = len(found)
        for place in found:
            document = self._document(numbers[place])
            self._table.remove(document.group, len(document.text.encode("utf-8")))
            self._dropped.add(numbers[place])

    def sort_out(self, dealt: dict[str, str], parts: Path) -> dict[str, SplitSize]:
        """Write each split's documents to `parts`/SPLIT.jsonl and remove the spool; returns what each split holds."""
        counts = {name: [0, 0, 0] for name in (TRAIN, MIX, *HELD_OUT)}
        files = {name: (parts / f"{name}.jsonl").open("wb") for name in counts}
        try:
            for number, line in self._lines():
                document = from_json(line).document
                where = dealt.get(document.group)
                if where is None or number in self._dropped:
                    continue
                files[where].write(line)
                count = counts[where]
                count[0] += 1
                count[1] += len(document.text.encode("utf-8"))
                count[2] += sum(1 for text in document.text.split("\n") if text.strip())
        finally:
            for file in files.values():
                file.close()
        self._path.unlink()
        group_counts = {name: sum(1 for where in dealt.values() if where == name) for name in counts}
        return {name: SplitSize(group_counts[name], *count) for name, count in counts.items()}

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with self._path.open("rb") as file:
            yield from enumerate(file)

    def _document(self, number: int) -> Document:
        with self._path.open("rb") as file:
            file.seek(self._starts[number])
            return from_json(file.readline()).document


def read_documents(adapter: Adapter, source: Path, options: SourceOptions) -> Iterator[Document]:
    """The adapter's documents; what it raises by mistake becomes a DataError that names it and the line."""
    with adapter_mistakes(adapter):
        documents = iter(adapter.documents(source, options))
    while True:
        with adapter_mistakes(adapter):
            document = next(documents, None)
        if document is None:
            return
        yield document


def is_within(document: Document, options: SourceOptions) -> bool:
    """Whether the document's day, if it has one, lies between since and until; adapters bound their reading as well."""
    day = (document.time or "")[:10]
    if not _DAY.fullmatch(day):
        return True
    return not (
        (options.since is not None and day < options.since[: len(day)])
        or (options.until is not None and day > options.until[: len(day)])
    )
