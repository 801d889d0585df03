"""Safe reading of a person's files, for adapters: text, tables, archives, and grouping beyond memory.

Promises: streams only; a stable order; every oddity that is tolerated is counted in a `Notices`; every file ends as
rows or as one DataError that names the file, the reason and the next step. All cells are strings.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import (
    BOUNDARY,
    MOST_NAMES,
    Notices,
    label,
    list_files,
    marked_pieces,
    open_bytes,
    open_text,
    strip_gz,
    zip_members,
)
from .spilling import group_spilling

__all__ = [
    "BOUNDARY",
    "JSON_SUFFIXES",
    "MOST_NAMES",
    "TABLE_SUFFIXES",
    "WORKBOOK_SUFFIXES",
    "Dialect",
    "Notices",
    "Table",
    "group_spilling",
    "label",
    "list_files",
    "marked_pieces",
    "open_bytes",
    "open_text",
    "read_table",
    "strip_gz",
    "zip_members",
]

DELIMITERS = ",;\t|"
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES, ".parquet")
WORKBOOK_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".ods")
MAX_FIELD_CHARACTERS = 64 << 20
MAX_JSON_ARRAY_BYTES = 256 << 20
UNCLOSED_QUOTE_LINES = 20
"""A row of more lines than this that has the wrong number of cells, or no end, comes from an unclosed quote."""
PEEKED_ROWS = 100
PEEKED_LINES = 20
SNIFFED_CHARACTERS = 1 << 18
MAX_COLUMNS = 20_000
FEWEST_MISFITS = 20
"""So many rows that do not fit the header, and more than those that do: then the first line is no header."""
MAX_NESTING = 8
PARQUET_BATCH_ROWS = 2048
LONGEST_WHOLE = 4000
"""Digits of a JSON number; Python refuses to convert more than 4,300."""
OUT_OF_RANGE = "<value out of range"
"""How Arrow writes a time that no calendar has."""

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


def read_table(
    path: Path, *, member: str = "", notices: Notices | None = None, dialect: Dialect | None = None
) -> Table:
    """Open a csv, tsv, jsonl, json or parquet file (the text ones also as .gz or as a member of a .zip).

    Delimited text: the delimiter is found from the header, header names are stripped, blank lines are skipped, quoted
    cells may hold newlines, ragged rows are filled or cut and counted. Missing values are "". Raises DataError.
    """
    name = label(path, member)
    notices = notices if notices is not None else Notices()
    dialect = dialect if dialect is not None else Dialect()
    plain_name = strip_gz(member or path.name)
    if plain_name.endswith(WORKBOOK_SUFFIXES):
        raise DataError(f"{name}: is a workbook, which is not read", "Save its sheet as CSV (UTF-8), or as Parquet.")
    if plain_name.endswith(".parquet"):
        return _read_parquet(path, member, notices)
    lines = open_text(path, member=member, notices=notices)
    lead = _first_line(name, lines)
    if plain_name.endswith(JSON_SUFFIXES):
        return _read_json(name, chain([lead], lines), notices, dialect.nested)
    return _read_delimited(name, lead, lines, notices, dialect)


def _first_line(name: str, lines: Iterator[str]) -> str:
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


# --- delimited text ---------------------------------------------------------------------------


def _read_delimited(name: str, lead: str, lines: Iterator[str], notices: Notices, dialect: Dialect) -> Table:
    # The limit is process-wide and its default of 128 kB is less than one long text cell.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD_CHARACTERS))
    delimiter = dialect.delimiter
    if told := _TOLD_DELIMITER.fullmatch(lead.strip()):  # the line that Excel writes and reads
        delimiter, lead = delimiter or told[1], _first_line(name, lines)
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
            self.notices.count(self.name, f"rows with more or fewer than {width} cells")
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


# --- JSON -------------------------------------------------------------------------------------


def _read_json(name: str, lines: Iterator[str], notices: Notices, nested: bool) -> Table:
    rows = _json_rows(name, lines, notices, nested)
    peeked = list(islice(rows, PEEKED_ROWS))
    if not peeked:
        raise DataError(f"{name}: holds no JSON objects", 'It needs one object per line, like {"text": "..."}.')
    columns = tuple(dict.fromkeys(key for row in peeked for key in row))
    return Table(name, columns, chain(peeked, _told_keys(name, rows, columns, notices)))


def _told_keys(name: str, rows: Iterator[Row], columns: Sequence[str], notices: Notices) -> Iterator[Row]:
    """The rows; keys that none of the first ones had are no columns, which is told at the end."""
    known = set(columns)
    later: list[str] = []
    for row in rows:
        if not row.keys() <= known and len(later) < MAX_COLUMNS:
            new = [key for key in row if key not in known]
            known.update(new)
            later += new
        yield row
    if later:
        told = ", ".join(later[:MOST_NAMES]) + ", ..." * (len(later) > MOST_NAMES)
        notices.count(name, f"keys that none of the first {PEEKED_ROWS} objects has, not read ({told})", len(later))


def _json_rows(name: str, lines: Iterator[str], notices: Notices, nested: bool) -> Iterator[Row]:
    good = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not good and line.lstrip().startswith("["):
            yield from _json_array(name, chain([line], lines), notices, nested)
            return
        try:
            row = _json_row(_parsed(line), nested)
        except (ValueError, RecursionError) as error:
            if not good:
                raise DataError(
                    f"{name}: line {number} is not JSON ({error})",
                    "One JSON object per line is needed, or one array of objects. If it is CSV, rename it to .csv.",
                ) from error
            row = None
        if row is None:
            notices.count(name, "lines that are not JSON objects, skipped")
        else:
            good = True
            yield row


def _json_array(name: str, lines: Iterable[str], notices: Notices, nested: bool) -> Iterator[Row]:
    parts: list[str] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MAX_JSON_ARRAY_BYTES:
            raise DataError(
                f"{name}: is one JSON array of more than {MAX_JSON_ARRAY_BYTES:,} characters",
                "Write it as JSON lines: jq -c '.[]' FILE > FILE.jsonl",
            )
    try:
        items = _parsed("".join(parts))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: is not valid JSON ({error})", "Export it again.") from error
    for item in items:
        row = _json_row(item, nested)
        if row is None:
            notices.count(name, "array items that are not JSON objects, skipped")
        else:
            yield row


def _parsed(text: str) -> Any:
    """The JSON value; whole numbers of more digits than Python converts stay text. Raises ValueError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(text, parse_int=lambda digits: digits if len(digits) > LONGEST_WHOLE else int(digits))


def _json_row(value: object, nested: bool) -> Row | None:
    if isinstance(value, str):
        return {"text": _cell(value)}
    if isinstance(value, dict):
        return dict(_nested_cells("", value, MAX_NESTING if nested else 1))
    return None


def _nested_cells(prefix: str, value: dict[str, Any], depth: int) -> Iterator[tuple[str, str]]:
    """The cells of an object and, down to `depth` levels, of the objects in it, under names joined by dots."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner and depth > 1:
            yield from _nested_cells(f"{prefix}{_cell(key)}.", inner, depth - 1)
        else:
            yield f"{prefix}{_cell(key)}", _cell(inner)


def _cell(value: object) -> str:
    """Any JSON or Parquet value as text; None is "" and nested values are compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        # An unpaired surrogate, legal in JSON escapes, cannot be written as UTF-8.
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (dict, list)):
        return _cell(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


# --- Parquet ----------------------------------------------------------------------------------


def _read_parquet(path: Path, member: str, notices: Notices) -> Table:
    name = label(path, member)
    if member or path.name.lower().endswith(".gz"):
        raise DataError(f"{name}: Parquet is read from plain files only", "Unpack it first.")
    _check_parquet(path)
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name}: is not a readable Parquet file ({_brief(error)})", "Download it again.") from error

    def rows() -> Iterator[Row]:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                    for record in _records(name, batch, notices):
                        yield {key: _cell(value) for key, value in record.items()}
        except (arrow.ArrowException, OSError, OverflowError, ValueError) as error:
            raise DataError(f"{name}: is damaged inside ({_brief(error)})", "Download it again.") from error

    return Table(name, columns, rows())


def _records(name: str, batch: Any, notices: Notices) -> list[dict[str, Any]]:
    """The rows of a batch. Dates beyond the year 9999 and unknown time zones become what Arrow writes for them."""
    import pyarrow as arrow

    try:
        records: list[dict[str, Any]] = batch.to_pylist()
    except (arrow.ArrowException, KeyError, OverflowError, ValueError):
        kinds = arrow.types
        columns = []
        for column in batch.columns:
            if kinds.is_temporal(column.type):
                notices.count(name, "dates that Python has no calendar or time zone for, read as text", len(column))
                if kinds.is_timestamp(column.type) and column.type.tz is not None:
                    column = column.cast(arrow.timestamp(column.type.unit))  # in UTC: the zone may be unknown
                cells = column.cast(arrow.string()).to_pylist()
                column = arrow.array([None if str(cell).startswith(OUT_OF_RANGE) else cell for cell in cells])
            columns.append(column)
        records = arrow.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()
    return records


def _check_parquet(path: Path) -> None:
    with open_bytes(path) as stream:
        head = stream.read(4)
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 4))
        tail = stream.read(4)
    if not head:
        raise DataError(f"{path}: the file is empty (0 bytes)", "Download it again or remove it.")
    if head != b"PAR1":
        raise DataError(f"{path}: is named .parquet but is not a Parquet file", "Check what it is: file FILE")
    if tail != b"PAR1" or size < 12:
        raise DataError(f"{path}: is cut off, the end of the Parquet file is missing", "Download or copy it again.")


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
