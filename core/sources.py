"""Safe reading of a person's files, for adapters: text, tables, archives, and grouping beyond memory.

Promises: streams only; a stable order; every oddity that is tolerated is counted in a `Notices`; every file ends as
rows or as one DataError that names the file, the reason and the next step. All cells are strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from .delimited import MAX_COLUMNS, Dialect, Row, Table, first_line, read_delimited
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

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv", *JSON_SUFFIXES, ".parquet")
WORKBOOK_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".ods")
MAX_JSON_ARRAY_BYTES = 256 << 20
PEEKED_ROWS = 100
MAX_NESTING = 8
PARQUET_BATCH_ROWS = 2048
LONGEST_WHOLE = 4000
"""Digits of a JSON number; Python refuses to convert more than 4,300."""
OUT_OF_RANGE = "<value out of range"
"""How Arrow writes a time that no calendar has."""


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
    lead = first_line(name, lines)
    if plain_name.endswith(JSON_SUFFIXES):
        return _read_json(name, chain([lead], lines), notices, dialect.nested)
    return read_delimited(name, lead, lines, notices, dialect)


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
