"""The text adapter: plain text, code, logs, and the text column of a table, cut into documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from random import Random

from ...core.contracts import Document, DuplicatePolicy, SourceOptions, SplitRule, Task
from ...core.errors import DataError
from ...core.sources import BOUNDARY, Notices, open_text, read_table
from .columns import TimeReader, known_column, text_column
from .cutting import cut, natural_unit, peek
from .inputs import CODE_SUFFIXES, Input, find_inputs, known_suffixes, refuse_web_page
from .settings import OPTIONS, Settings, read_settings
from .windows import LogFile, window_documents

PEEKED_ROWS = 100


class TextAdapter:
    """Documents from text files and from text columns. See `describe`."""

    name = "text"
    version = 2
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

    def split_rule(self, source: Path, options: SourceOptions) -> SplitRule:
        """By time when the documents have times (a window or a time column), else by group."""
        return SplitRule.TIME if read_settings(options).dated else SplitRule.GROUP

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """Documents in order of file and line, or of time. Raises DataError naming the file and the reason.

        Every document ends with one newline and has none at its start; its id is `path:line` (tables: `path:row`,
        windows: `path@time`).
        """
        self.record_count, self._counts = 0, Notices()
        settings = read_settings(options)
        inputs = find_inputs(source, settings, self._counts)
        if settings.window is not None:
            logs = (self._log(file, settings) for file in inputs)
            found = window_documents(logs, settings, self._counts)
        else:
            found = chain.from_iterable(self._file_documents(file, settings) for file in inputs)
        for document in found:
            self.record_count += 1
            yield document
        if not self.record_count:
            raise _nothing_found(source, settings)

    def slices(self, document: Document) -> Mapping[str, str]:
        """Plain text has no slices."""
        return {}

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Plain text. A document is a line, a group of lines, a block between blank lines, a whole file (source "
            "code), the lines of one time window of a log, or one cell of a table's text column, as recipe.toml says "
            "under [data.options]. It ends with a newline. Log lines keep their clock time and lose their date. "
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

    def _file_documents(self, file: Input, settings: Settings) -> Iterator[Document]:
        return self._table_documents(file, settings) if file.is_table else self._text_documents(file, settings)

    def _open(self, file: Input) -> tuple[list[str], Iterator[str]]:
        """The first lines of a text file and the rest of them."""
        lines = open_text(file.path, member=file.member, notices=self._counts)
        peeked = peek(lines)
        refuse_web_page(file, peeked)
        return peeked, lines

    def _log(self, file: Input, settings: Settings) -> LogFile:
        if file.is_table:
            raise DataError(
                f"{file.label}: is a table, and [data.options] window is for logs",
                'Read the logs alone, for example with suffixes = ".log"; or read the table with time = "COLUMN".',
            )
        if settings.column or settings.group or settings.time:
            raise _column_of_plain_text(file, settings)
        peeked, lines = self._open(file)
        return LogFile(file.name, file.label, peeked, lines)

    def _text_documents(self, file: Input, settings: Settings) -> Iterator[Document]:
        if settings.group or settings.time:
            raise _column_of_plain_text(file, settings)
        peeked, rest = self._open(file)
        unit = settings.unit
        if unit == "auto":
            unit = "file" if file.is_code else natural_unit(peeked)
        previous, repeat = 0, 0
        for number, text in cut(file.name, chain(peeked, rest), unit, settings.lines_per_document):
            repeat = repeat + 1 if number == previous else 1
            previous = number
            identity = f"{file.name}:{number}" if repeat == 1 else f"{file.name}:{number}.{repeat}"
            yield Document(id=identity, text=text, group=identity)

    def _table_documents(self, file: Input, settings: Settings) -> Iterator[Document]:
        if settings.unit not in ("auto", "line"):
            raise DataError(
                f"{file.label}: [data.options] unit = '{settings.unit}' is for text files; in a table a row is a "
                "document",
                'Remove unit or write unit = "auto".',
            )
        try:
            table = read_table(file.path, member=file.member, notices=self._counts)
            peeked = list(islice(table.rows, PEEKED_ROWS))
            column = text_column(table, settings.column, peeked)
        except DataError:
            if file.may_be_settings and settings.column is None:
                self._counts.count(file.label, "JSON files that are no tables of texts, skipped")
                return
            raise
        group = None if settings.group is None else known_column(table, settings.group, "group")
        times = None if settings.time is None else TimeReader(table, settings.time, peeked)
        for number, row in enumerate(chain(peeked, table.rows), start=1):
            time = None
            if times is not None:
                moment = times.read(row.get(times.column, ""))
                if moment is None:
                    self._counts.count(table.name, f"rows without a readable time in '{times.column}', skipped")
                    continue
                if not settings.period.holds(moment):
                    continue
                time = moment.isoformat()
            pieces = [piece for piece in row.get(column, "").split(BOUNDARY) if piece.strip()]
            if not pieces:
                self._counts.count(table.name, f"rows without text in '{column}', skipped")
            for part, piece in enumerate(pieces, start=1):
                identity = f"{file.name}:{number}" if part == 1 else f"{file.name}:{number}.{part}"
                text = piece.replace("\r\n", "\n").strip("\n") + "\n"
                yield Document(identity, text, (row.get(group, "").strip() if group else "") or identity, time)


def _column_of_plain_text(file: Input, settings: Settings) -> DataError:
    key, value = ("group", settings.group) if settings.group else ("time", settings.time)
    if key == "time" and not value:
        key, value = "column", settings.column
    return DataError(
        f"{file.label}: [data.options] {key} = '{value}' names a column, but this is plain text",
        f"Remove {key}, or name a table (csv, tsv, jsonl, parquet) as the source.",
    )


def _nothing_found(source: Path, settings: Settings) -> DataError:
    if settings.period:
        return DataError(f"{source}: holds no text between since and until", "Check both in the recipe's [data] table.")
    if settings.suffixes:
        endings = " ".join(settings.suffixes)
        return DataError(f"{source}: holds no text in files ending in {endings}", "Check suffixes in [data.options].")
    endings = " ".join((*(suffix for suffix in known_suffixes(settings) if suffix not in CODE_SUFFIXES), ".zip"))
    return DataError(
        f"{source}: holds no text", f"Read are files ending in {endings} (and .gz of these), and source code."
    )


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
