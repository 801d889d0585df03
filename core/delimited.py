"""Delimited text (csv, tsv and their kin) as rows that fit their columns: called by core.sources alone.

Promises: streams; finds the delimiter; rows that do not fit are filled or cut and counted; what is no table, or has a
quote that is never closed, is one DataError with its line.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from .errors import DataError
from .files import Notices

DELIMITERS = ",;\t|"
MAX_FIELD_CHARACTERS = 64 << 20
UNCLOSED_QUOTE_LINES = 20
"""A row of more lines than this that has the wrong number of cells, or no end, comes from an unclosed quote."""
PEEKED_LINES = 20
SNIFFED_CHARACTERS = 1 << 18
MAX_COLUMNS = 20_000
FEWEST_MISFITS = 20
"""So many rows that do not fit the header, and more than those that do: then the first line is no header."""

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file. Iterate it once; `columns` are known before the first row."""

    name: str
    columns: tuple[str, ...]
    rows: Iterator[Row]

    def __iter__(self) -> Iterator[Row]:
        return self.rows


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a table's text does not tell by itself, and a person may know."""

    header: bool = True
    """Whether the first line of delimited text names the columns; else they are column_1, column_2 ..."""
    delimiter: str = ""
    """One character; found from the first lines when empty."""
    quotes: bool | None = None
    """Whether \" encloses cells; None: yes, except in tab-separated text without a header."""
    sections: tuple[str, ...] = ()
    """Columns, outermost first, that are set by lines of a single cell which stand above the rows they describe."""
    nested: bool = False
    """Whether the keys of nested JSON objects become columns of their own, like `user.name`."""


def first_line(name: str, lines: Iterator[str]) -> str:
    """The first line that is not blank, refused when it opens a web page."""
    lead = next((line for line in lines if line.strip()), "")
    if not lead:
        raise DataError(f"{name}: holds nothing but blank lines", "Download it again or remove it.")
    if lead.lstrip().lower().startswith(("<!doctype", "<!--", "<html", "<?xml", "<head", "<body", "<table")):
        raise DataError(
            f"{name}: is a web page (HTML or XML) saved under the name of a table",
            "The download probably answered with an error or a login page: open the file in a browser, download again.",
        )
    return lead


def read_delimited(name: str, lead: str, lines: Iterator[str], notices: Notices, dialect: Dialect) -> Table:
    """The table whose first line that is not blank is `lead` and whose others are `lines`. Raises DataError."""
    # The limit is process-wide and its default of 128 kB is less than one long text cell.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    delimiter = dialect.delimiter
    if told := _TOLD_DELIMITER.fullmatch(lead.strip()):  # the line that Excel writes and reads
        delimiter, lead = delimiter or told[1], first_line(name, lines)
    peeked = [lead] if dialect.header else [lead, *islice(lines, PEEKED_LINES)]
    tail = _Tail(chain(peeked, lines))
    try:
        delimiter = delimiter or _sniff_delimiter([line[:SNIFFED_CHARACTERS] for line in peeked])
        quotes = dialect.quotes if dialect.quotes is not None else dialect.header or delimiter != "\t"
        reader = csv.reader(tail, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        first = next(reader, [])
    except csv.Error as error:
        if "\r" in lead.rstrip("\r\n"):
            raise DataError(
                f"{name}: its lines end in a carriage return alone, as old Macintosh files do",
                "Write ordinary line ends: tr '\\r' '\\n' < FILE > NEW",
            ) from error
        raise DataError(f"{name}: its header cannot be read ({error})", "Save it again as CSV (UTF-8).") from error
    if len(first) > MAX_COLUMNS:
        raise DataError(
            f"{name}: its first line has {len(first):,} cells, at most {MAX_COLUMNS:,} columns are read",
            "Is the whole file one line? Write it with a line for each row.",
        )
    columns = _column_names(first if dialect.header else [""] * len(first))
    for section in dialect.sections:
        if section in columns:
            raise DataError(f"{name}: has a column '{section}' already", "Give the section lines another name.")
    fitting = _Fitting(name, columns, dialect.sections, notices)
    rows = _delimited_rows(name, reader, [] if dialect.header else first, fitting, tail)
    return Table(name, columns + dialect.sections, rows)


_TOLD_DELIMITER = re.compile(r"\ufeff?sep=(.)", re.IGNORECASE)


def _sniff_delimiter(lines: Sequence[str]) -> str:
    """The candidate that cuts every line into most fields, best into equally many; the comma when none does."""

    def quality(delimiter: str) -> tuple[bool, int, bool]:
        widths = [len(cells) for cells in csv.reader(filter(str.strip, lines), delimiter=delimiter)]
        fewest = min(widths, default=0)
        # A tab is never an accident, a comma often is.
        return 1 < fewest == max(widths, default=0), fewest, delimiter == "\t" and fewest > 1

    return max(DELIMITERS, key=quality)


def _column_names(header: list[str]) -> tuple[str, ...]:
    """Stripped names; blank ones become column_3, repeated ones get a number."""
    names: dict[str, None] = {}
    for position, cell in enumerate(header, start=1):
        name = cell.strip() or f"column_{position}"
        while name in names:
            name = f"{name}_{position}"
        names[name] = None
    return tuple(names)


class _Tail:
    """Passes lines on and remembers the last one."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.last = line
            yield line


_RAGGED = "rows with more or fewer than {} cells"
_LONE = (
    'lines of one cell; if they are headings of the rows below them: [data.options] section = "NAME" of the table '
    "adapter makes a column of them"
)


class _Fitting:
    """Turns the cells of one file's rows into rows that fit its columns; holds what the section lines said last."""

    def __init__(self, name: str, columns: tuple[str, ...], sections: tuple[str, ...], notices: Notices) -> None:
        self.name, self.columns, self.notices = name, columns, notices
        self._sections = sections
        self._said = dict.fromkeys(sections, "")
        self._open: list[str] = []
        """Section lines since the last row."""
        self._fits = self._misfits = 0

    def row(self, cells: list[str], line: int) -> Row | None:
        """The row, or None for a blank or a section line. Raises DataError when most rows do not fit the columns."""
        width = len(self.columns)
        if self._sections and not any(cells[1:]):
            if cells and cells[0].strip():
                self._open.append(" ".join(cells[0].split()))
            return None
        if len(cells) != width:
            if not any(cell.strip() for cell in cells):
                return None
            self.notices.count(self.name, _LONE if len(cells) == 1 < width - 1 else _RAGGED.format(width))
            self._count_misfit(line, len(cells) == 1 or any(cells[width:]), len(cells))
            cells = cells + [""] * (width - len(cells))
        elif any(cells):
            self._fits += 1
        else:
            return None
        row = dict(zip(self.columns, cells, strict=False))
        return self._with_sections(row) if self._sections else row

    def _count_misfit(self, line: int, serious: bool, found: int) -> None:
        """Rows that end early are common; text beyond the last column, or none that is cut, is not."""
        if serious:
            self._misfits += 1
            if self._misfits >= FEWEST_MISFITS and self._misfits > self._fits:
                raise _no_table(self.name, len(self.columns), line, found)
        else:
            self._fits += 1

    def _with_sections(self, row: Row) -> Row:
        if self._open:
            # Fewer lines than names change the innermost ones: a new house below the same category.
            count = min(len(self._open), len(self._sections))
            self._said |= dict(zip(self._sections[-count:], self._open[-count:], strict=True))
            self._open = []
        return row | self._said


def _no_table(name: str, width: int, line: int, found: int) -> DataError:
    return DataError(
        f"{name}: most rows have not the {width} cells of its first line (line {line} has {found})",
        "Is its first line the header, and what separates its cells? Logs and texts are read by the text adapter.",
    )


def _delimited_rows(name: str, reader: Any, first: list[str], fitting: _Fitting, tail: _Tail) -> Iterator[Row]:
    width = len(fitting.columns)
    start = span = reader.line_num
    try:
        for cells in chain([first] if first else [], reader):
            span = reader.line_num - start
            if span > UNCLOSED_QUOTE_LINES and (len(cells) != width or _swallows_rows(cells, reader.dialect.delimiter)):
                raise _unclosed_quote(name, start)
            row = fitting.row(cells, start + 1)
            if row is not None:
                yield row
            start = reader.line_num
        # The last row ran to the end of the file, and its last line does not close the quote.
        if span > UNCLOSED_QUOTE_LINES and '"' not in tail.last:
            raise _unclosed_quote(name, start - span)
    except csv.Error as error:
        raise DataError(
            f"{name}: row near line {reader.line_num} cannot be read ({error})",
            "Save it again as CSV (UTF-8) with ordinary line ends.",
        ) from error


def _swallows_rows(cells: list[str], delimiter: str) -> bool:
    """Whether most lines within the cells of a row look like rows: then two stray quotes enclose what lies between.

    With two columns a line of prose has as many commas as a row often enough, so more lines must have them.
    """
    if len(cells) < 2:
        return False
    lines = [line for cell in cells for line in cell.split("\n")[1:-1] if line.strip()]
    alike = sum(line.count(delimiter) == len(cells) - 1 for line in lines)
    return alike > (0.8 if len(cells) == 2 else 0.5) * max(1, len(lines))


def _unclosed_quote(name: str, line: int) -> DataError:
    return DataError(
        f'{name}: a quote (") that opens near line {line + 1} is not closed in its row',
        'Remove or double that quote in the file. The table adapter also takes [data.options] quotes = "literal".',
    )
