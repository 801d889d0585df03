"""Reads rows with a query, and with its expansion where there is one, from JSON, TSV, CSV and Parquet files.

Called by the adapter. Promises: files and rows in a stable order, lazily; every file ends as rows, as a notice (in a
folder that holds other files too), or as one DataError that names file, line and the repair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ...core.errors import DataError, did_you_mean
from ...core.sources import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    Notices,
    list_files,
    read_table,
    zip_members,
)
from .records import File, Record, json_records, numbered_lines, value_at

SOURCE_NAMES = ("query", "source", "src", "input", "question", "prompt", "original", "raw_utterance", "q")
TARGET_NAMES = (
    *("output", "expansion", "expansions", "expanded", "target", "tgt", "rewrite", "rewritten", "reformulation"),
    *("completion", "answer", "manual_rewritten_utterance"),
)
TEXT_SUFFIXES = (".txt", ".text", "")
PEEKED_ROWS = 20
MAX_LISTED_KEYS = 12


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the fields as the person gave them, or "". In JSON a name may be a path such as turn[].text."""

    source: str = ""
    target: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    name: str
    """The file, relative to the source."""
    place: str
    """Line, row or item, counted from 1; inside nested lists `item.number`."""
    source: Any
    target: Any
    group: str
    """Rows with the same value belong together; "" when nothing says so."""


class NoSuchColumns(DataError):
    """A readable file without the wanted fields: fatal alone, a notice in a folder with files that have them."""


def read_rows(
    source: Path, columns: Columns, notices: Notices, *, paired: bool = True, skip: Sequence[str] = ()
) -> Iterator[Row]:
    """The rows of a file or folder. Without `paired` a row needs no target, and text files hold a query a line.

    `skip` holds names or patterns of files to leave out. Raises DataError.
    """
    problem: NoSuchColumns | None = None
    found = False
    for file in _files(source, notices, skip, texts=not paired):
        try:
            for row in _file_rows(file, columns, notices, paired):
                found = True
                yield row
        except NoSuchColumns as error:
            if file.path == source and not file.member:
                raise
            notices.count(file.label, f"files without the wanted columns ({error.message.partition(': ')[2]}), skipped")
            problem = problem or error
    if not found:
        if problem is not None:
            raise problem
        what = "pairs of a query and its expansion" if paired else "queries"
        endings = " ".join((*(() if paired else TEXT_SUFFIXES[:-1]), *TABLE_SUFFIXES, ".zip"))
        raise DataError(f"{source}: holds no {what}", f"Read are files ending in {endings} (and .gz of these).")


def _files(source: Path, notices: Notices, skip: Sequence[str], texts: bool) -> Iterator[File]:
    suffixes = (*TABLE_SUFFIXES, *(TEXT_SUFFIXES[:-1] if texts else ()))
    for path in list_files(source, (*suffixes, ".zip"), notices):
        name = path.name if path == source else path.relative_to(source).as_posix()
        if any(fnmatch(name, pattern) for pattern in skip):
            continue
        if path.suffix.lower() == ".zip":
            for member in zip_members(path, suffixes, notices):
                yield File(f"{name}/{member}", path, member)
        elif path != source and path.stat().st_size == 0:
            notices.count(str(path), "empty files, skipped")
        else:
            yield File(name, path, "")


def _file_rows(file: File, columns: Columns, notices: Notices, paired: bool) -> Iterator[Row]:
    plain_name = file.plain_name
    if plain_name.endswith(JSON_SUFFIXES):
        return _json_rows(file, columns, notices, paired)
    if plain_name.endswith((".csv", ".parquet")):
        return _table_rows(file, columns, notices, paired)
    if plain_name.endswith(".tsv"):
        return _tsv_rows(file, columns, notices, paired)
    if Path(plain_name).suffix not in TEXT_SUFFIXES:
        raise DataError(
            f"{file.label}: files ending in {Path(plain_name).suffix} are not read",
            f"Export it as one of these: {' '.join(TABLE_SUFFIXES)}",
        )
    if paired:
        return _paired_text(file, columns, notices)
    return _query_lines(file, notices)


# --- text and tables ----------------------------------------------------------------------------


def _peek(file: File) -> list[str]:
    """The first lines that are not blank; what is odd in them is counted by the reading that follows."""
    return [line for _, line in islice(numbered_lines(file, Notices()), PEEKED_ROWS)]


def _query_lines(file: File, notices: Notices) -> Iterator[Row]:
    """A query a line; blank lines and lines that start with "# " are comments."""
    for number, line in numbered_lines(file, notices):
        text = line.strip()
        if text != "#" and not text.startswith("# "):
            yield Row(file.name, str(number), text, "", "")


def _paired_text(file: File, columns: Columns, notices: Notices) -> Iterator[Row]:
    if not any("\t" in line for line in _peek(file)):
        raise NoSuchColumns(
            f"{file.label}: holds lines without a tab, so there are queries but no expansions",
            'A pair is written QUERY<tab>EXPANSION, or {"query": "...", "output": [["lex", "..."]]} in a .jsonl file.',
        )
    yield from _tsv_rows(file, columns, notices, paired=True)


def _table_rows(file: File, columns: Columns, notices: Notices, paired: bool) -> Iterator[Row]:
    table = read_table(file.path, member=file.member, notices=notices)
    pick = _Picker(file.label, table.columns, columns, paired)
    for number, fields in enumerate(table.rows, start=1):
        yield pick.row(file.name, Record(str(number), fields))


def _tsv_rows(file: File, columns: Columns, notices: Notices, paired: bool) -> Iterator[Row]:
    """With a header as any table; without one the columns are called 1, 2, ... and quotes are text."""
    rows = [_cells(line) for line in _peek(file)]
    if _is_header(rows[0], columns, paired):
        yield from _table_rows(file, columns, notices, paired)
        return
    names = tuple(str(number) for number in range(1, len(rows[0]) + 1))
    if not columns.source and len(names) <= 2:
        ids = len(names) == 2 and _look_like_ids([row[0] for row in rows])
        if ids and paired:
            notices.count(file.label, 'first columns that look like ids ([data.options] source_column = "2"?)')
        columns = replace(columns, source="2" if ids and not paired else "1")
    pick = _Picker(file.label, names, columns, paired)
    for number, line in numbered_lines(file, notices):
        yield pick.row(file.name, Record(str(number), dict(zip(names, _cells(line), strict=False))))


def _cells(line: str) -> list[str]:
    return line.rstrip("\r\n").split("\t")


def _is_header(cells: list[str], columns: Columns, paired: bool) -> bool:
    names = {cell.strip().lower() for cell in cells}
    if any(wanted.lower() in names for wanted in (columns.source, columns.target) if wanted):
        return True
    return bool(names & set(SOURCE_NAMES)) and (not paired or bool(names & set(TARGET_NAMES)))


def _look_like_ids(cells: list[str]) -> bool:
    """Such as 31_1 or q17: a digit and no blank in every one, and no two the same."""
    return len(set(cells)) == len(cells) and all(
        " " not in cell.strip() and any(sign.isdigit() for sign in cell) for cell in cells
    )


# --- JSON ---------------------------------------------------------------------------------------


def _json_rows(file: File, columns: Columns, notices: Notices, paired: bool) -> Iterator[Row]:
    lists = _list_path(columns)
    records = json_records(file, lists, notices)
    peeked = list(islice(records, PEEKED_ROWS))
    if not peeked:
        raise NoSuchColumns(
            f"{file.label}: has no JSON objects" + (f" under {'[].'.join(lists)}[]" if lists else ""),
            'Write one object per line, such as {"query": "...", "output": [["lex", "..."]]}, or check the path.',
        )
    names = tuple(dict.fromkeys(key for record in peeked for key in record.fields))
    leaves = Columns(*(_leaf(column) for column in (columns.source, columns.target, columns.group)))
    examples = () if lists else tuple(dict.fromkeys(path for record in peeked for path in _paths(record.fields)))
    pick = _Picker(file.label, names, leaves, paired, examples)
    for record in chain(peeked, records):
        yield pick.row(file.name, record)


def _list_path(columns: Columns) -> list[str]:
    """The lists on the way to the fields: turn[].text -> ["turn"]."""
    given = [column for column in (columns.source, columns.target) if column]
    paths = {column.rpartition("[].")[0] for column in given}
    if len(paths) > 1:
        raise DataError(
            f"[data.options] source_column = '{columns.source}' and target_column = '{columns.target}' lie in "
            "different lists",
            "Both must begin with the same list, such as turn[].raw and turn[].rewritten.",
        )
    path = paths.pop() if paths else ""
    return path.split("[].") if path else []


def _leaf(column: str) -> str:
    return column.rpartition("[].")[2]


def _paths(fields: Mapping[str, Any]) -> Iterator[str]:
    """Names to choose from: the keys, and those one list of objects further down."""
    for key, value in fields.items():
        inner = value[0] if isinstance(value, list) and value else None
        if isinstance(inner, dict):
            yield from (f"{key}[].{each}" for each in inner)
        else:
            yield str(key)


# --- columns ------------------------------------------------------------------------------------


class _Picker:
    """Which fields of a file's rows hold query and expansion; decided once per file."""

    def __init__(
        self, name: str, known: Sequence[str], columns: Columns, paired: bool, examples: Sequence[str] = ()
    ) -> None:
        for column in (columns.source, columns.target, columns.group):
            if column and column not in known and column.split(".")[0] not in known:
                listed = ", ".join(known[:MAX_LISTED_KEYS])
                raise NoSuchColumns(
                    f"{name}: has no column '{column}'; it has: {listed}", did_you_mean(column, list(known))
                )
        self.source = columns.source or _by_name(known, SOURCE_NAMES if paired else (*SOURCE_NAMES, "text"))
        self.target = columns.target or _by_name(known, TARGET_NAMES)
        self.group = columns.group
        if len(known) == 1 and not paired:
            self.source = self.source or known[0]
        if not self.target and self.source in known and len(known) == 2:
            self.target = next(each for each in known if each != self.source)
        if not self.source or (paired and not self.target):
            raise _which_columns(name, examples or known, paired)

    def row(self, name: str, record: Record) -> Row:
        """The wanted fields of one record; None where it lacks them."""
        source, target, group = (
            value_at(record.fields, column) if column else None for column in (self.source, self.target, self.group)
        )
        return Row(name, record.place, source, target, record.group if group in (None, "") else str(group))


def _by_name(known: Sequence[str], names: Sequence[str]) -> str:
    by_name = {column.strip().lower(): column for column in reversed(known)}
    return next((by_name[name] for name in names if name in by_name), "")


def _which_columns(name: str, known: Sequence[str], paired: bool) -> NoSuchColumns:
    listed = ", ".join(known[:MAX_LISTED_KEYS]) + (", ..." if len(known) > MAX_LISTED_KEYS else "")
    example = [json.dumps(column, ensure_ascii=False) for column in (*known[-2:], "NAME", "NAME")]
    what = "the query and its expansion" if paired else "the query"
    lines = [f"source_column = {example[0]}", *([f"target_column = {example[1]}"] if paired else [])]
    return NoSuchColumns(
        f"{name}: which columns hold {what}? It has: {listed}",
        "Say so in recipe.toml:\n[data.options]\n" + "\n".join(lines),
    )
