"""The text adapter: plain text, logs, and the text column of a table, cut into documents by lines, blocks or files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random

from ..core.contracts import Document, DuplicatePolicy, SourceOptions, SplitRule, Task
from ..core.errors import DataError, did_you_mean
from ..core.sources import TABLE_SUFFIXES, Notices, Table, list_files, open_text, read_table, strip_gz, zip_members

BOUNDARY = "<|endoftext|>"
UNITS = ("auto", "line", "lines", "block", "file")
OPTIONS = {
    "unit": 'How text files are cut into documents: "auto" (default), "line", "lines", "block" or "file".',
    "lines_per_document": 'Lines of one document when unit = "lines"; default 32.',
    "column": "Column of a table that holds the text; found by name when there is an obvious one.",
    "group": 'Column whose equal values never straddle two splits; default "document": every document by itself.',
}
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".log")
OBVIOUS_COLUMNS = ("text", "content", "body")
DEFAULT_LINES = 32
PEEKED_CHARACTERS = 1 << 20
PEEKED_ROWS = 100
MAX_DOCUMENT_CHARACTERS = 64 << 20

_NO_TEXT = re.compile(r"[\s\d.,:;+\-/TZ%$€£]*|true|false|none|null|nan", re.IGNORECASE)
"""Cells of numbers, dates and flags."""


@dataclass(frozen=True, slots=True)
class _Settings:
    unit: str
    lines_per_document: int
    column: str | None
    group: str
    """A column's name, or "document"."""


class TextAdapter:
    """Documents from text files and from text columns. See `describe`."""

    name = "text"
    version = 1
    split = SplitRule.GROUP
    duplicates = DuplicatePolicy.EXACT
    tasks: tuple[Task, ...] = ()
    slice_keys: tuple[str, ...] = ()
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Documents yielded so far by the last call of `documents`."""
        self._counts = Notices()

    @property
    def notices(self) -> list[str]:
        """What the last call of `documents` skipped or tolerated; complete when it is exhausted."""
        return self._counts.lines()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """Documents in order of file and line. Raises DataError naming the file and the reason.

        Every document ends with one newline and has none at its start; its id is `path:line` (tables: `path:row`).
        """
        self.record_count, self._counts = 0, Notices()
        settings = _settings(options)
        for name, path, member in self._inputs(source):
            if strip_gz(name).endswith(TABLE_SUFFIXES):
                found = self._table_documents(name, path, member, settings)
            else:
                found = self._text_documents(name, path, member, settings)
            for document in found:
                self.record_count += 1
                yield document
        if not self.record_count:
            endings = " ".join((*TEXT_SUFFIXES, *TABLE_SUFFIXES, ".zip"))
            raise DataError(f"{source}: holds no text", f"Read are files ending in {endings} (and .gz of these).")

    def slices(self, document: Document) -> Mapping[str, str]:
        """Plain text has no slices."""
        return {}

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Plain text. A document is a line, a group of lines, a block between blank lines, a whole file, or one "
            "cell of a table's text column, as recipe.toml says under [data.options]. It ends with a newline. "
            "There are no answers to extract: what counts is bits per byte."
        )

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of made-up paragraphs with a small grammar."""
        random = Random(f"text {seed}")
        total, number = 0, 0
        while total < size:
            number += 1
            text = _paragraph(random)
            total += len(text.encode())
            yield Document(id=f"sample.txt:{number}", text=text, group=f"sample.txt:{number}")

    # --- files ----------------------------------------------------------------------------------

    def _inputs(self, source: Path) -> Iterator[tuple[str, Path, str]]:
        """(name for ids, file, member of the zip) of everything readable."""
        suffixes = (*TEXT_SUFFIXES, *TABLE_SUFFIXES)
        for path in list_files(source, (*suffixes, ".zip")):
            name = path.name if path == source else path.relative_to(source).as_posix()
            if path.suffix.lower() == ".zip":
                for member in zip_members(path, suffixes):
                    yield f"{name}/{member}", path, member
            elif path != source and path.stat().st_size == 0:
                self._counts.count(str(path), "empty files, skipped")
            else:
                yield name, path, ""

    def _text_documents(self, name: str, path: Path, member: str, settings: _Settings) -> Iterator[Document]:
        if settings.group != "document":
            raise DataError(
                f"{path}: [data.options] group = '{settings.group}' names a column, but this is plain text",
                'Write group = "document", or name a table (csv, tsv, jsonl, parquet) as the source.',
            )
        lines = open_text(path, member=member, notices=self._counts)
        unit = settings.unit
        if unit == "auto":
            peeked = _peek(lines)
            unit, lines = _natural_unit(peeked), chain(peeked, lines)
        previous, repeat = 0, 0
        for number, text in _cut(name, lines, unit, settings.lines_per_document):
            repeat = repeat + 1 if number == previous else 1
            previous = number
            identity = f"{name}:{number}" if repeat == 1 else f"{name}:{number}.{repeat}"
            yield Document(id=identity, text=text, group=identity)

    def _table_documents(self, name: str, path: Path, member: str, settings: _Settings) -> Iterator[Document]:
        if settings.unit not in ("auto", "line"):
            raise DataError(
                f"{path}: [data.options] unit = '{settings.unit}' is for text files; in a table a row is a document",
                'Remove unit or write unit = "auto".',
            )
        table = read_table(path, member=member, notices=self._counts)
        peeked = list(islice(table.rows, PEEKED_ROWS))
        column = _text_column(table, settings.column, peeked)
        group = None if settings.group == "document" else _known_column(table, settings.group, "group")
        for number, row in enumerate(chain(peeked, table.rows), start=1):
            pieces = [piece for piece in row.get(column, "").split(BOUNDARY) if piece.strip()]
            if not pieces:
                self._counts.count(table.name, f"rows without text in '{column}', skipped")
            for part, piece in enumerate(pieces, start=1):
                identity = f"{name}:{number}" if part == 1 else f"{name}:{number}.{part}"
                text = piece.replace("\r\n", "\n").strip("\n") + "\n"
                yield Document(id=identity, text=text, group=(row.get(group, "").strip() if group else "") or identity)


# --- options ------------------------------------------------------------------------------------


def _settings(options: SourceOptions) -> _Settings:
    given = options.options
    for name in given:
        if name not in OPTIONS:
            raise DataError(
                f"the text adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    for name in options.columns:
        if name not in ("text", "group"):
            raise DataError(f"[data.columns] has no field '{name}'", did_you_mean(name, ["text", "group"]))
    if options.since is not None or options.until is not None:
        raise DataError("since and until need dated documents, plain text has none", "Remove them from [data].")
    unit, count = given.get("unit", "auto"), given.get("lines_per_document", DEFAULT_LINES)
    if unit not in UNITS:
        raise DataError(f"[data.options] unit = '{unit}' is unknown", did_you_mean(str(unit), list(UNITS)))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise DataError(f"[data.options] lines_per_document = {count!r} must be a whole number from 1", "Try 32.")
    column, group = given.get("column", options.columns.get("text")), given.get("group", options.columns.get("group"))
    for key, value in (("column", column), ("group", group)):
        if value is not None and not isinstance(value, str):
            raise DataError(f"[data.options] {key} = {value!r} must be a column's name", f'Write {key} = "NAME".')
    return _Settings(unit, count, column, group if group is not None else "document")


# --- cutting text -------------------------------------------------------------------------------


def _peek(lines: Iterator[str]) -> list[str]:
    peeked: list[str] = []
    size = 0
    for line in lines:
        peeked.append(line)
        size += len(line)
        if size >= PEEKED_CHARACTERS:
            break
    return peeked


def _natural_unit(lines: list[str]) -> str:
    """Marked documents, else blocks when a blank line stands between lines of text, else groups of lines."""
    if any(BOUNDARY in line for line in lines):
        return "file"
    filled = [bool(line.strip()) for line in lines]
    if True not in filled:
        return "lines"
    last = len(filled) - filled[::-1].index(True)
    return "block" if False in filled[filled.index(True) : last] else "lines"


def _cut(name: str, lines: Iterable[str], unit: str, lines_per_document: int) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each document; `BOUNDARY` always ends one."""
    held: list[str] = []
    start, size = 0, 0
    for number, piece, ends in _pieces(lines):
        filled = bool(piece.strip())
        if filled or held:
            start = start if held else number
            held.append(piece)
            size += len(piece)
        if size > MAX_DOCUMENT_CHARACTERS:
            raise DataError(
                f"{name}: the document from line {start} on is longer than {MAX_DOCUMENT_CHARACTERS:,} characters",
                '[data.options] unit = "lines" cuts it into smaller ones.',
            )
        full = unit == "line" or (unit == "lines" and len(held) >= lines_per_document)
        if held and (ends or full or (unit == "block" and not filled)):
            yield start, "".join(held).strip("\n") + "\n"
            held, size = [], 0
    if held:
        yield start, "".join(held).strip("\n") + "\n"


def _pieces(lines: Iterable[str]) -> Iterator[tuple[int, str, bool]]:
    """(line number, text, whether a document ends here): lines, cut at `BOUNDARY`, with \\n as their end."""
    for number, line in enumerate(lines, start=1):
        plain = line[:-2] + "\n" if line.endswith("\r\n") else line
        if BOUNDARY in plain:
            *ended, rest = plain.split(BOUNDARY)
            for piece in ended:
                yield number, piece, True
            yield number, rest, False
        else:
            yield number, plain, False


# --- tables -------------------------------------------------------------------------------------


def _text_column(table: Table, wanted: str | None, rows: list[dict[str, str]]) -> str:
    if wanted is not None:
        return _known_column(table, wanted, "column")
    by_name = {column.lower(): column for column in reversed(table.columns)}
    for name in OBVIOUS_COLUMNS:
        if name in by_name:
            return by_name[name]
    texts = [name for name in table.columns if any(not _NO_TEXT.fullmatch(row.get(name, "")) for row in rows)]
    if len(texts) == 1:
        return texts[0]
    longest = max(texts, key=lambda name: sum(len(row.get(name, "")) for row in rows), default="NAME")
    raise DataError(
        f"{table.name}: which column holds the text? It has: {', '.join(table.columns)}",
        "Say so in recipe.toml (or move the file out of the source folder when it is no text):\n"
        f"[data.options]\ncolumn = {json.dumps(longest, ensure_ascii=False)}",
    )


def _known_column(table: Table, wanted: str, option: str) -> str:
    if wanted not in table.columns:
        raise DataError(
            f"{table.name}: has no column '{wanted}' ([data.options] {option})",
            did_you_mean(wanted, list(table.columns)),
        )
    return wanted


# --- sample -------------------------------------------------------------------------------------

_PEOPLE = ("Ada", "the miller", "Old Tom", "my sister", "the captain", "Yara", "a stranger", "the baker")
_VERBS = ("saw", "carried", "mended", "sold", "painted", "lost", "found", "remembered")
_THINGS = ("a lantern", "the blue boat", "three letters", "an apple", "the clock", "a map", "the garden gate", "a coat")
_PLACES = ("by the river", "at the market", "under the bridge", "in the café", "near the mill", "on the hill")


def _paragraph(random: Random) -> str:
    """Two to five sentences about one person, so that there is something to learn across sentences."""
    person, place = random.choice(_PEOPLE), random.choice(_PLACES)
    sentences = []
    for _ in range(random.randint(2, 5)):
        where = place if random.random() < 0.6 else random.choice(_PLACES)
        sentences.append(f"{person} {random.choice(_VERBS)} {random.choice(_THINGS)} {where}.")
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "\n"
