"""Which columns of a table hold the text, the group and the time."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime

from ...core.errors import DataError, did_you_mean
from ...core.sources import Table
from .stamps import find_format, read_stamp

OBVIOUS_COLUMNS = ("text", "content", "body")

_NO_TEXT = re.compile(r"[\s\d.,:;+\-/TZ%$€£]*|true|false|none|null|nan", re.IGNORECASE)
"""Cells of numbers, dates and flags."""


def text_column(table: Table, wanted: str | None, rows: list[dict[str, str]]) -> str:
    """The column that holds the text. Raises DataError that asks for it when more than one could."""
    if wanted is not None:
        return known_column(table, wanted, "column")
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
        'Say so in recipe.toml, or leave such files out of a folder with, for example, suffixes = ".txt .md":\n'
        f"[data.options]\ncolumn = {json.dumps(longest, ensure_ascii=False)}",
    )


def known_column(table: Table, wanted: str, option: str) -> str:
    """`wanted`, when the table has it. Raises DataError."""
    if wanted not in table.columns:
        raise DataError(
            f"{table.name}: has no column '{wanted}' ([data.options] {option})",
            did_you_mean(wanted, list(table.columns)),
        )
    return wanted


class TimeReader:
    """Reads the cells of a time column: ISO 8601 dates and times, or one of the spellings of logs."""

    def __init__(self, table: Table, wanted: str, rows: Sequence[dict[str, str]]) -> None:
        self.column = known_column(table, wanted, "time")
        cells = [cell for row in rows if (cell := row.get(self.column, "").strip())]
        self._format = find_format(cells)
        if cells and all(self.read(cell) is None for cell in cells):
            raise DataError(
                f"{table.name}: the column '{self.column}' holds no times, such as: {cells[0][:40]}",
                "Times are written 2024-12-31, 2024-12-31 23:59 or as seconds since 1970.",
            )

    def read(self, cell: str) -> datetime | None:
        """The moment, without its zone; None when the cell tells none."""
        try:
            return datetime.fromisoformat(cell.strip()).replace(tzinfo=None)
        except ValueError:
            match = self._format.find(cell.strip()) if self._format is not None and self._format.has_year else None
            return read_stamp(match, 0) if match is not None else None
