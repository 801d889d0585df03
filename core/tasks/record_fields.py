"""The fields of a record as columns: what tabular baselines see of the line that an answer stands in.

Called by baselines.py. Works on any line of fields: ` | ` or tabs between them, `column: value` or position, and a
leading clock time as the hour. Nothing behind the answer is ever looked at.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..prepare.answers import TrainExample, number

if TYPE_CHECKING:
    import numpy as np

SEPARATOR = re.compile(r" \| |\t")
NAMED = re.compile(r"([^:|]{1,60}): (.*)", re.DOTALL)
CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::\d{2})?\b\s*")
HEADER_WORDS = 3
"""So many from the front and from the back of a document's header are columns."""
MOST_CATEGORIES = 254
"""What scikit-learn's histograms can hold."""
NUMERIC_SHARE = 0.9
FREE_TEXT_SHARE = 0.5
PREVIOUS = "answer before"
MISSING = ("", "?")
"""How a cell says that its value is not known."""
FEWEST_VALUES = 3
"""So many numbers side by side in one field are a series."""
MOST_LAGS = 8


def record_fields(example: TrainExample) -> dict[str, str]:
    """Name -> text of each field before the answer; fields without a name are called by their position."""
    fields: dict[str, str] = {}
    words = example.header.split()
    for place, word in enumerate(words[:HEADER_WORDS], 1):
        fields[f"header {place}"] = word
    for place, word in enumerate(reversed(words[-HEADER_WORDS:]), 1):
        fields[f"header -{place}"] = word
    for place, cell in enumerate(SEPARATOR.split(example.prompt_line), 1):
        text = cell.strip()
        clock = CLOCK.match(text) if place == 1 else None
        if clock is not None:
            fields["hour"] = f"{int(clock[1]) + int(clock[2]) / 60:.3f}"
            text = text[clock.end() :]
        named = NAMED.fullmatch(text)
        name, value = (named[1].strip(), named[2].strip()) if named else (f"field {place}", text)
        if value not in MISSING:
            fields[name] = value
    return fields


def series_before(example: TrainExample) -> list[float]:
    """The values of a series that the record shows before the answer, oldest first; empty when it shows none."""
    for cell in reversed(example.prompt_line.split(" | ")):
        _, _, text = cell.rpartition(": ")
        words = [word for word in re.split(r"[\s,;]+", text.removesuffix("=> ").strip()) if word not in MISSING]
        values = [value for word in words if (value := number(word)) is not None]
        if len(values) == len(words) >= FEWEST_VALUES:
            return values
    return []


class FieldTable:
    """Learns columns and categories from examples, then turns any examples into a matrix.

    A column is a number where at least NUMERIC_SHARE of its values are, else a category; columns that never change, and
    free text, are dropped. What is missing is NaN, and so is a category that was not seen or is a rare one.
    """

    def __init__(self, examples: Sequence[TrainExample]) -> None:
        values: dict[str, Counter[str]] = {}
        for example in examples:
            for name, value in self._fields(example).items():
                values.setdefault(name, Counter())[value] += 1
        self.columns = sorted(name for name, counts in values.items() if len(counts) > 1 and not _is_free_text(counts))
        self._codes: dict[str, dict[str, int]] = {}
        for name in self.columns:
            counts = values[name]
            if not _is_numeric(counts):
                ranked = sorted(counts, key=lambda value: (-counts[value], value))[:MOST_CATEGORIES]
                self._codes[name] = {value: code for code, value in enumerate(ranked)}
        self.is_categorical = [name in self._codes for name in self.columns]

    def matrix(self, examples: Sequence[TrainExample]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 [examples, columns]."""
        import numpy as np

        table = np.full((len(examples), len(self.columns)), np.nan)
        for row, example in enumerate(examples):
            fields = self._fields(example)
            for column, name in enumerate(self.columns):
                value = fields.get(name)
                if value is None:
                    continue
                code: float | None = self._codes[name].get(value) if name in self._codes else number(value)
                if code is not None:
                    table[row, column] = code
        return table

    def _fields(self, example: TrainExample) -> dict[str, str]:
        fields = record_fields(example)
        for lag, value in enumerate(reversed(series_before(example)[-MOST_LAGS:]), 1):
            fields[f"{lag} before"] = repr(value)
        if example.previous_answer is not None:
            fields[PREVIOUS] = example.previous_answer
        return fields


def _is_numeric(counts: Counter[str]) -> bool:
    return sum(n for value, n in counts.items() if number(value) is not None) >= NUMERIC_SHARE * counts.total()


def _is_free_text(counts: Counter[str]) -> bool:
    """Whether hardly any value comes back: a message or a title, which is no category."""
    return not _is_numeric(counts) and len(counts) > FREE_TEXT_SHARE * counts.total()
