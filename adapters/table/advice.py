"""Looks at the first rows of a table for columns that teach nothing, and says so. Called by the table adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .cells import MISSING, parse_moment

WATCHED_ROWS = 2000
FIRST_STRIDE, ROWS_PER_STRIDE = 16, 500
"""After WATCHED_ROWS every 16th row is watched, then every 32nd and so on: sorted tables show their rest late."""
FEWEST_ROWS = 50
NEARLY_ALL = 0.95
LONGEST_KEY = 200
DAYS_OF_MONTH = 31
"""More different dates than this are days of a calendar, not a handful of batches."""


class _Column:
    """What the first rows of one column look like."""

    def __init__(self) -> None:
        self.filled = self.steps = self.rises = self.dates = self.solid = 0
        self.values: dict[str, str] = {}
        """Value -> its label, or "" once it had two."""
        self._last: int | None = None

    def look(self, cell: str, label: str, in_order: bool) -> None:
        if cell == MISSING:
            return
        self.filled += 1
        self.solid += " " not in cell
        cell = cell[:LONGEST_KEY]
        self.values[cell] = label if self.values.setdefault(cell, label) == label else ""
        number = int(cell) if cell.isdecimal() and len(cell) < 18 else None
        if in_order and number is not None and self._last is not None:
            self.steps += number - 1 == self._last
            self.rises += number >= self._last
        self._last = number
        if number is None:
            moment = parse_moment(cell)
            self.dates += moment is not None and moment.unit in ("day", "clock")

    def problem(self, rows_in_order: int, label_count: int) -> str:
        """Why the column is better left out; "" when nothing speaks against it."""
        different = len(self.values)
        if not self.filled:
            return "is empty"
        if self.steps >= NEARLY_ALL * (rows_in_order - 1):
            return "counts the rows"
        if self.rises >= NEARLY_ALL * (rows_in_order - 1) and different > self.filled / 2:
            return "only grows, like a clock or a serial number"
        if self.dates >= NEARLY_ALL * self.filled and different > DAYS_OF_MONTH:
            return "holds dates, which never come back after a split"
        if different == self.filled == self.solid and not _is_number(next(iter(self.values))):
            return "has another value in every row, like a serial number"
        if label_count >= 2 and 2 <= different <= self.filled / 5 and "" not in self.values.values():
            return "gives the answer away: each of its values goes with one answer only"
        return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Advice:
    """Watches the first rows; `lines` are notices with the option to write."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._columns = [_Column() for _ in names]
        self._labels: set[str] = set()
        self._rows = 0
        """Rows that were watched."""
        self._wait, self._stride = 0, FIRST_STRIDE

    def look(self, cells: Sequence[str], label: str) -> None:
        """Every row, as it stands in the text; `label` is "" unless it is one of a few answers."""
        if self._wait:
            self._wait -= 1
            return
        self._rows += 1
        in_order = self._rows <= WATCHED_ROWS
        if not in_order:
            self._wait = self._stride - 1
            self._stride *= 2 if self._rows % ROWS_PER_STRIDE == 0 else 1
        self._labels.add(label)
        for column, cell in zip(self._columns, cells, strict=True):
            column.look(cell, label, in_order)

    def lines(self) -> list[str]:
        """One sentence per column, and the line for recipe.toml."""
        if self._rows < FEWEST_ROWS:
            return []
        labels, rows_in_order = len(self._labels - {""}), min(self._rows, WATCHED_ROWS)
        columns = list(zip(self._names, self._columns, strict=True))
        if any(name in column.values for name, column in columns):
            return ["the first line looks like a row and not like a header: then [data.options] header = false"]
        found = [(name, problem) for name, column in columns if (problem := column.problem(rows_in_order, labels))]
        if not found:
            return []
        names = ", ".join(f'"{name}"' if "," in name else name for name, _ in found)
        told = [f"column '{name}' {problem}" for name, problem in found]
        return [*told, f"to leave them out: [data.options] drop = {json.dumps(names, ensure_ascii=False)}"]
