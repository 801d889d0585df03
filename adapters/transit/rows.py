"""What the row readers share: cleaning of cells, the window of days, names of open rows, the tally of bad ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ...core.errors import DataError
from ...core.sources import Notices

MAX_MALFORMED_SHARE = 0.2
MISSING_WORDS = frozenset({"na", "n/a", "nan", "nat", "none", "null", "-"})
MAX_ID_CHARACTERS = 4
"""Longer ids of blocks, trips and vehicles are serial numbers: they would never recur after the split."""


@lru_cache(maxsize=1 << 15)
def clean(text: str) -> str:
    """One line without the field separator."""
    return " ".join(text.replace("|", "/").split())


def told(text: str) -> str:
    """The stripped cell; empty where it holds one of the words by which exports say that a value is missing."""
    text = text.strip()
    return "" if text.lower() in MISSING_WORDS else text


def short_id(text: str) -> str:
    """The id when it is short enough to recur, else nothing."""
    return text if len(text) <= MAX_ID_CHARACTERS else ""


@dataclass(frozen=True, slots=True)
class Window:
    """The days that a recipe wants, both ends included, and how it wants cells to be read."""

    since: str | None
    until: str | None
    date_order: str
    """"dmy", "mdy", or "" when dates with slashes are refused as ambiguous."""
    line_numbers: bool
    """Whether the line `102 MARKHAM ROAD` is written as `102`."""

    def holds(self, day: str) -> bool:
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


@dataclass(frozen=True, slots=True)
class Asking:
    """Which file's rows without an answer are asked about."""

    number: int
    """The file's place in the source, from 0."""
    name: str

    def origin(self, row: int) -> str:
        """Sorts by file and row; `question_id` reads it."""
        return f"{self.number:06d}{row:012d}{self.name} row {row}"

    def trip(self, place: int) -> str:
        """The beginning of `call_origin` for the trip update at `place` of a snapshot."""
        return f"{self.number:06d}{place:08d}{self.name}"


def call_origin(asked: str, index: int, words: str) -> str:
    """The origin of a question about stop `index` of the trip that `asked` (Asking.trip) names."""
    return f"{asked[:14]}{min(index, 9999):04d}{asked[14:]} {words}"


def question_id(origin: str) -> str:
    """`bus.csv row 17`, rows counted from 1 after the header; `updates.pb trip 7 sequence 2 stop B`."""
    return origin[18:]


class Tally:
    """Counts the rows of one file and refuses the file when too many are malformed."""

    def __init__(self, name: str, notices: Notices) -> None:
        self.name = name
        self.notices = notices
        self.row_count = 0
        self.malformed = 0
        self._example = ""

    def reject(self, row: Mapping[str, str], columns: Mapping[str, str], fields: tuple[str, ...]) -> None:
        """Count a malformed row; the first one is remembered for the error message."""
        self.malformed += 1
        if not self._example:
            named = [columns[name] for name in fields if name in columns]
            cells = ", ".join(f"{column} = '{row.get(column, '')[:40]}'" for column in named)
            self._example = f"row {self.row_count}: {cells}"

    def skip(self, reason: str) -> None:
        """Count a row that is sound but of no use."""
        self.notices.count(self.name, f"rows skipped, {reason}")

    def finish(self) -> None:
        """Put the count into the notices, or raise DataError when the file is mostly not what it seems."""
        if not self.malformed:
            return
        if self.malformed > MAX_MALFORMED_SHARE * self.row_count:
            raise DataError(
                f"{self.name}: {self.malformed:,} of {self.row_count:,} rows have an unreadable date, time or number "
                f"({self._example})",
                "Check the columns in [data.columns]. For dates like 03/04/2024 say which comes first: "
                '[data.options] date_order = "dmy" or "mdy".',
            )
        self.notices.count(
            self.name,
            f"rows skipped, unreadable date, time or number (first: {self._example})",
            self.malformed,
        )
