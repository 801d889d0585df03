"""Documents between the adapter and their split: read once, counted, and kept on disk in the private scratch folder.

Called by the pipeline. Promises: one pass over the adapter; copies are dropped (or counted) here, before any split;
what can no longer matter is not kept in memory; held-out text is never written outside the private folder.
"""

from __future__ import annotations

import re
import shutil
import sys
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..contracts import Adapter, Document, DuplicatePolicy, SourceOptions, SplitRule
from ..errors import BudgetError, DataError
from ..registry import adapter_mistakes, careful
from .groups import GroupTable
from .heldout import HeldDocument, from_json, text_digest, to_json
from .joints import Joints
from .manifest import Progress, SplitSize
from .near import find_near_duplicates, normalised_digest
from .split import HELD_OUT, MIX, TRAIN

REPORT_EVERY = 50_000
COMPACT_BYTES = 256 << 20
"""From this size on the file is written again without what was given up, whenever it has doubled."""
MOST_OF_A_GROUP = 4
"""A group of more than so many times what all splits may hold is refused before it fills the disk."""
LEAST_FREE_BYTES = 512 << 20

_DAY = re.compile(r"\d{4}(-\d\d(-\d\d)?)?")


class Spool:
    """Documents of one source in order of arrival; a document has a number, counted from 0.

    What becomes of a text that was there before is the policy's to say, and the split's: see docs/prepare.md.
    """

    def __init__(self, scratch: Path, table: GroupTable, policy: DuplicatePolicy, rule: SplitRule) -> None:
        self.dropped = self.kept = 0
        """Documents whose text was there before."""
        self.near_duplicates = 0
        """Documents that differ from an earlier one in a few words."""
        self.notices: list[str] = []
        self.joints = Joints() if policy is DuplicatePolicy.REPORT and rule is SplitRule.GROUP else None
        """Groups that hold equal texts, where those are kept and must not straddle two splits."""
        self._scratch, self._table, self._policy = scratch, table, policy
        self._path = scratch / "documents.jsonl"
        self._starts = array("q")
        """Where a document begins in the file; -1 once it was given up with its group."""
        self._groups: list[str] = []
        self._is_dropped = bytearray()
        self._first: dict[bytes, int] = {}
        """Digest of a text -> the number of the document that had it first."""
        self._copies = array("q")
        """Number of a copy, number of the document that it is a copy of, and so on."""
        # By time a text that comes back in another period is no copy, so its group counts too.
        recurs = policy is DuplicatePolicy.EXACT and rule is SplitRule.TIME
        self._in_group: set[bytes] | None = set() if recurs else None

    def digest(self, text: str) -> bytes:
        """Equal for texts that are one and the same under the policy."""
        return normalised_digest(text) if self._policy is DuplicatePolicy.NEAR else text_digest(text)

    def has(self, digest: bytes) -> bool:
        """Whether a text with this digest was read or noted."""
        return digest in self._first

    def note(self, digest: bytes) -> None:
        """Remember the digest of a text that is kept elsewhere."""
        self._first.setdefault(digest, -1)

    def read(self, adapter: Adapter, source: Path, options: SourceOptions, progress: Progress) -> None:
        """Take in the adapter's documents. Raises DataError when there are none, BudgetError when the disk is full."""
        position = offered = dated = 0
        limit = COMPACT_BYTES
        file = self._path.open("wb")
        try:
            for document in read_documents(adapter, source, options):
                if not document.text.strip() or not is_within(document, options):
                    continue
                offered += 1
                dated += document.time is not None
                if offered % REPORT_EVERY == 0:
                    progress(f"reading the source: {offered:,} documents")
                line = self._taken(document, adapter)
                if not line:
                    continue
                self._starts.append(position)
                position += file.write(line)
                if position > limit:
                    file.close()
                    position = self._compact()
                    limit = max(COMPACT_BYTES, 2 * position)
                    self._check_room(source, position)
                    file = self._path.open("ab")
        finally:
            file.close()
        if not offered:
            raise DataError(
                f"{source} gave no documents through the adapter '{adapter.name}'",
                "check [data] in recipe.toml: source, since, until and [data.options]",
            )
        if not dated and (options.since or options.until):
            self.notices.append(
                f"the documents of adapter '{adapter.name}' carry no time: since and until are left to it"
            )
        self._bring_back()

    def _taken(self, document: Document, adapter: Adapter) -> bytes:
        """The line to keep; empty when the document does not matter. What is kept has the next number."""
        size = len(document.text.encode("utf-8"))
        group = sys.intern(document.group)
        if not self._table.wants(group, document.time, size):
            return b""
        number = len(self._starts)
        first = self._first.setdefault(self.digest(document.text), number)
        is_copy = first != number
        if self._in_group is not None:
            pair = _in_group_digest(group, document.text)
            if pair in self._in_group:
                self.dropped += 1
                return b""
            self._in_group.add(pair)
        if is_copy and (self._in_group is not None or self._policy is DuplicatePolicy.REPORT):
            self.kept += 1
            is_copy = False
        if self.joints is not None:
            self.joints.look(document)
        if is_copy:
            self.dropped += 1
            self._copies.extend((number, first))
        else:
            self._table.add(group, document.time, size)
        self._groups.append(group)
        self._is_dropped.append(is_copy)
        with adapter_mistakes(adapter):
            slices = adapter.slices(document)
        return to_json(HeldDocument(document, slices)).encode("utf-8") + b"\n"

    def _bring_back(self) -> None:
        """A copy stands for its original when that was left out with its group after the copy was read."""
        stands: dict[int, int] = {}
        for number, first in zip(self._copies[::2], self._copies[1::2], strict=True):
            if self._groups[stands.get(first, first)] in self._table or self._starts[number] < 0:
                continue
            document = self._document(number)
            if self._table.restore(self._groups[number], document.time, len(document.text.encode("utf-8"))):
                stands[first] = number
                self._is_dropped[number] = False
                self.dropped -= 1

    def _compact(self) -> int:
        """Write the file again without the documents of groups that were left out; returns its size."""
        if self._in_group is not None:
            return self._forget()
        position = 0
        smaller = self._path.with_suffix(".new")
        with smaller.open("wb") as file:
            for number, line in self._lines():
                if self._groups[number] in self._table or self._may_come_back(number, line):
                    self._starts[number] = position
                    position += file.write(line)
                else:
                    self._starts[number] = -1
        smaller.replace(self._path)
        return position

    def _forget(self) -> int:
        """As `_compact`, and give their numbers and digests up too, so that memory does not grow with the source.

        By time alone: no document stands for another there, and nothing of a group that was left out is taken again.
        """
        starts, groups, position = array("q"), list[str](), 0
        self._first, self._in_group = {}, set()
        smaller = self._path.with_suffix(".new")
        with smaller.open("wb") as file:
            for number, line in self._lines():
                group = self._groups[number]
                if group in self._table:
                    text = from_json(line).document.text
                    self._first.setdefault(self.digest(text), len(starts))
                    self._in_group.add(_in_group_digest(group, text))
                    starts.append(position)
                    groups.append(group)
                    position += file.write(line)
        smaller.replace(self._path)
        self._starts, self._groups, self._is_dropped = starts, groups, bytearray(len(starts))
        return position

    def _may_come_back(self, number: int, line: bytes) -> bool:
        """Whether it is a copy of a group that holds nothing else so far."""
        return bool(self._is_dropped[number]) and self._table.may_hold(
            self._groups[number], from_json(line).document.time
        )

    def _check_room(self, source: Path, size: int) -> None:
        """Raises DataError when one group outgrows all that the recipe asks for, BudgetError when the disk is short."""
        name, largest = self._table.largest()
        if largest > MOST_OF_A_GROUP * self._table.need_bytes + COMPACT_BYTES:
            raise DataError(
                f"{source}: group '{name}' alone holds more than {largest:,} bytes, many times what max_train_mb and "
                "the held-out parts ask for",
                "groups are dealt whole: make them smaller (a day, a file, a chapter), or raise max_train_mb in [data]",
            )
        free = shutil.disk_usage(self._scratch).free
        if free < max(LEAST_FREE_BYTES, size):
            raise BudgetError(
                f"{source}: the disk of {self._scratch} is nearly full: {free:,} bytes are free, and the documents "
                f"that were read so far take {size:,}",
                "free some space, set SLM_AR_PRIVATE to a folder on a larger disk, or lower max_train_mb in [data]",
            )

    def find_near_duplicates(self) -> None:
        """Drop (policy near) or count (policy report) what differs from an earlier document in a few words."""
        if self._policy is DuplicatePolicy.EXACT:
            return
        numbers = array("q")

        def texts() -> Iterator[str]:
            for number, line in self._lines():
                if self._groups[number] in self._table and not self._is_dropped[number]:
                    numbers.append(number)
                    yield from_json(line).document.text

        found = find_near_duplicates(texts(), lambda place: self._document(numbers[place]).text, self._scratch)
        if self._policy is DuplicatePolicy.REPORT:
            self.near_duplicates = max(0, len(found) - self.kept)
            return
        self.near_duplicates = len(found)
        for place in found:
            number = numbers[place]
            self._table.remove(self._groups[number], len(self._document(number).text.encode("utf-8")))
            self._is_dropped[number] = True

    def sort_out(self, dealt: dict[str, str], roots: Mapping[str, str], parts: Path) -> dict[str, SplitSize]:
        """Write each split's documents to `parts`/SPLIT.jsonl and remove the spool; returns what each split holds.

        `roots` names the group that a joined group is now part of.
        """
        counts = {name: [0, 0, 0] for name in (TRAIN, MIX, *HELD_OUT)}
        files = {name: (parts / f"{name}.jsonl").open("wb") for name in counts}
        try:
            for number, line in self._lines():
                group = self._groups[number]
                where = dealt.get(group)
                if where is None or self._is_dropped[number]:
                    continue
                held = from_json(line)
                document = held.document
                if group in roots:
                    line = to_json(replace(held, document=replace(document, group=roots[group]))).encode() + b"\n"
                files[where].write(line)
                count = counts[where]
                count[0] += 1
                count[1] += len(document.text.encode("utf-8"))
                count[2] += sum(1 for text in document.text.split("\n") if text.strip())
        finally:
            for file in files.values():
                file.close()
        self._path.unlink()
        whole = [where for name, where in dealt.items() if roots.get(name, name) == name]
        return {name: SplitSize(whole.count(name), *count) for name, count in counts.items()}

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(number, line) of the documents that were not given up; their order is that of the file."""
        with self._path.open("rb") as file:
            for number, start in enumerate(self._starts):
                if start >= 0:
                    yield number, file.readline()

    def _document(self, number: int) -> Document:
        with self._path.open("rb") as file:
            file.seek(self._starts[number])
            return from_json(file.readline()).document


def _in_group_digest(group: str, text: str) -> bytes:
    return text_digest(f"{group}\0{text}")


def read_documents(adapter: Adapter, source: Path, options: SourceOptions) -> Iterator[Document]:
    """The adapter's documents; what it raises by mistake becomes a DataError that names it and the line."""
    return careful(adapter, lambda: adapter.documents(source, options))


def is_within(document: Document, options: SourceOptions) -> bool:
    """Whether the document's day, if it has one, lies between since and until; adapters bound their reading as well."""
    day = (document.time or "")[:10]
    if not _DAY.fullmatch(day):
        return True
    return not (
        (options.since is not None and day < options.since[: len(day)])
        or (options.until is not None and day > options.until[: len(day)])
    )
