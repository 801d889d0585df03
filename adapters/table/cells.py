"""Cells of a table as text: missing values, rounded numbers, and moments in the spellings that tables mix.

Called by the table adapter. Every function is pure and gives None, or the missing mark, for what it cannot read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

from ...core.errors import DataError

MISSING = "?"
MISSING_WORDS = frozenset({"", "?", "na", "n/a", "n.a.", "nan", "nat", "null", "none", "#n/a", "<na>"})
MISSING_LABELS = frozenset({"", "?", "nan", "nat", "null", "#n/a", "<na>"})
"""Fewer than in other columns: "none" and "na" are answers often enough."""
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CACHED_CHARACTERS = 40
"""Cells longer than this are not remembered: they rarely come back, and memory must stay flat."""
MAX_EXACT = 1e15
PERIODS = ("day", "month", "year", "hour", "minute", "second")


@dataclass(frozen=True, slots=True, eq=False)
class Style:
    """How cells are written. Compared by identity, which makes it a fast key of the caches below."""

    digits: int = 4
    """Significant digits of numbers with a fraction."""
    decimal: str = "."
    separator: str = " | "
    names: bool = True
    """Whether `column: ` stands before each value."""
    date_order: str = ""

    @property
    def bar(self) -> str:
        """What a cell may not hold, because it would look like the separator."""
        return self.separator.strip()


# --- values -----------------------------------------------------------------------------------

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]{1,3})?")
_COMMA_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)(?:,[0-9]+)?")
_AMOUNT = re.compile(r"([+-]?)\s*[$€£¥₹]?\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)\s*[%$€£¥₹]?")


def number_text(text: str, digits: int, decimal: str = ".") -> str | None:
    """The shortest spelling of a number, or None for anything else.

    Fractions are rounded to `digits` significant digits. Whole numbers stay exact, because they are codes as often as
    amounts; what begins with a zero, like 007, is a code and no number.
    """
    if decimal == "," and _COMMA_NUMBER.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match.lastindex is None:  # neither fraction nor exponent
        plain = text.removeprefix("+")
        return "0" if plain == "-0" else plain
    value = float(text)
    if value in (float("inf"), float("-inf")):
        return None
    if not value.is_integer():
        short = f"{value:.{digits}g}"
        if "e" not in short:
            return short
        value = float(short)
    return str(int(value)) if value.is_integer() and abs(value) < MAX_EXACT else repr(value)


def amount_text(text: str, style: Style) -> str | None:
    """`any_amount` below MAX_EXACT: errors are computed with floats, which know of larger numbers no last digit."""
    plain = any_amount(text, style)
    return plain if plain is not None and abs(float(plain)) < MAX_EXACT else None


def any_amount(text: str, style: Style) -> str | None:
    """`number_text` of an answer, which may also carry a currency, a percent sign or thousands separators."""
    text = " ".join(text.split())
    plain = number_text(text, style.digits, style.decimal)
    if plain is None and style.decimal == "." and (match := _AMOUNT.fullmatch(text)):
        plain = number_text(match[1] + match[2].replace(",", ""), style.digits)
    return plain


def cell_text(raw: str, style: Style) -> str:
    """A cell on one line, without the separator; numbers as by `number_text`, missing values as `?`."""
    return _short_cell(raw, style) if len(raw) <= CACHED_CHARACTERS else _cell(raw, style, MISSING_WORDS)


def label_text(raw: str, style: Style) -> str:
    """As `cell_text`, for the answer of a row; "" when it has none."""
    text = _cell(raw, style, MISSING_LABELS)
    return "" if text == MISSING else text


@lru_cache(maxsize=1 << 15)
def _short_cell(raw: str, style: Style) -> str:
    return _cell(raw, style, MISSING_WORDS)


def _cell(raw: str, style: Style, missing: frozenset[str]) -> str:
    text = " ".join(raw.split())
    if text.casefold() in missing:
        return MISSING
    number = number_text(text, style.digits, style.decimal)
    if number is not None:
        return number
    return text.replace(style.bar, "\\" if style.bar == "/" else "/") if style.bar else text


@lru_cache(maxsize=1 << 10)
def name_text(name: str, style: Style) -> str:
    """A column's name as it stands in the text."""
    text = " ".join(name.split())
    return text.replace(style.bar, "\\" if style.bar == "/" else "/") if style.bar else text


# --- moments ----------------------------------------------------------------------------------

_CLOCK = (
    r"(?:[T ,\-]+(\d{1,2})[:.](\d{2})(?:[:.](\d{2}))?(?:[.,:]\d+)?\s*([AaPp]\.?[Mm]\.?)?\s*(?:Z|UTC|[+-]\d\d:?\d\d)?)?"
)
_YEAR_FIRST = re.compile(rf"(\d{{4}})(?P<mark>[-/.]?)(\d{{1,2}})(?P=mark)(\d{{1,2}}){_CLOCK}", re.ASCII)
_DOTTED = re.compile(rf"(\d{{1,2}})\.(\d{{1,2}})\.(\d{{4}}|\d\d){_CLOCK}", re.ASCII)
_SLASHED = re.compile(rf"(\d{{1,2}})[/-](\d{{1,2}})[/-](\d{{4}}|\d\d){_CLOCK}", re.ASCII)
_NAMED = re.compile(rf"(\d{{1,2}})[- ]([A-Za-z]{{3}})[a-z]*\.?[-, ]+(\d{{4}}|\d\d){_CLOCK}", re.ASCII)
_NAMED_FIRST = re.compile(rf"([A-Za-z]{{3}})[a-z]*\.? (\d{{1,2}}),? (\d{{4}}){_CLOCK}", re.ASCII)
_MONTH = re.compile(r"(\d{4})[-/.]?(\d{1,2})", re.ASCII)
_QUARTER = re.compile(r"(\d{4})[- ]?[Qq]([1-4])", re.ASCII)
_DIGITS = re.compile(r"\d{1,13}(?:\.0+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as a table gives it."""

    when: datetime
    unit: str
    """How exact it is: "clock", "day", "month", "year", or "index" for a bare number of a period."""

    @property
    def title(self) -> str:
        """What of it can come back after a split by time: `Sun Mar 25 14:05`, `Mar`, or nothing. Never the year."""
        month = MONTHS[self.when.month - 1]
        if self.unit in ("year", "index"):
            return ""
        if self.unit == "month":
            return month
        day = f"{WEEKDAYS[self.when.weekday()]} {month} {self.when.day:02d}"
        return f"{day} {self.when:%H:%M}" if self.unit == "clock" else day

    def period(self, unit: str) -> str:
        """ISO text of the start of the period of that unit, one of PERIODS; also the name of its group."""
        if unit == "year":
            return date(self.when.year, 1, 1).isoformat()
        if unit == "month":
            return date(self.when.year, self.when.month, 1).isoformat()
        if unit == "day":
            return self.when.date().isoformat()
        return self.when.isoformat(timespec={"hour": "hours", "minute": "minutes"}.get(unit, "seconds"))


def parse_moment(text: str, date_order: str = "") -> Moment | None:
    """ISO, `31.01.2024`, `01/31/2024 2:15 PM`, `16-May-2025`, `2024-Q1`, `2024`, epoch seconds, or a period's number.

    `date_order` ("dmy" or "mdy") says how slashes are meant; without it `01/02/2024` is refused as ambiguous.
    """
    return _parse_moment(text.strip(), date_order) if len(text) <= CACHED_CHARACTERS else None


@lru_cache(maxsize=1 << 14)
def _parse_moment(text: str, date_order: str) -> Moment | None:
    if _DIGITS.fullmatch(text):
        return _from_digits(text.partition(".")[0])
    if match := _YEAR_FIRST.fullmatch(text):
        return _moment((match[1], match[3], match[4]), match.groups()[4:])
    if match := _DOTTED.fullmatch(text):
        return _moment((match[3], match[2], match[1]), match.groups()[3:])
    if match := _NAMED.fullmatch(text):
        return _moment((match[3], _month_number(match[2]), match[1]), match.groups()[3:])
    if match := _NAMED_FIRST.fullmatch(text):
        return _moment((match[3], _month_number(match[1]), match[2]), match.groups()[3:])
    if match := _SLASHED.fullmatch(text):
        return _slashed(match, date_order)
    if match := _MONTH.fullmatch(text):
        return _moment((match[1], match[2], "1"), (), "month")
    if match := _QUARTER.fullmatch(text):
        return _moment((match[1], str(3 * int(match[2]) - 2), "1"), (), "month")
    return _from_iso(text)


def _from_digits(text: str) -> Moment | None:
    number = int(text)
    if len(text) == 4 and 1900 <= number <= 2100:
        return _moment((text, "1", "1"), (), "year")
    if len(text) == 6 and 190001 <= number <= 210012 and 1 <= number % 100 <= 12:
        return _moment((text[:4], text[4:], "1"), (), "month")
    if len(text) == 8:
        return _moment((text[:4], text[4:6], text[6:]), ())
    if len(text) in (9, 10, 13):
        seconds = number / 1000 if len(text) == 13 else number
        return Moment(datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None), "clock")
    return index_moment(number) if len(text) <= 6 else None


def index_moment(number: int) -> Moment:
    """The moment of a period that is only numbered: as many days after the first day of the calendar."""
    return Moment(datetime(1, 1, 1) + timedelta(days=number), "index")


def _slashed(match: re.Match[str], date_order: str) -> Moment | None:
    first, second = int(match[1]), int(match[2])
    if date_order == "dmy" or (not date_order and first > 12) or first == second:
        return _moment((match[3], match[2], match[1]), match.groups()[3:])
    if date_order == "mdy" or second > 12:
        return _moment((match[3], match[1], match[2]), match.groups()[3:])
    return None


def _month_number(name: str) -> str:
    name = name.title()
    return str(MONTHS.index(name) + 1) if name in MONTHS else "0"


def _moment(day: tuple[str, str, str], clock: tuple[str | None, ...], unit: str = "") -> Moment | None:
    year = int(day[0])
    if len(day[0]) == 2:
        year += 1900 if year >= 69 else 2000
    hour, minute, second, half = (*clock, None, None, None, None)[:4]
    try:
        when = datetime(year, int(day[1]), int(day[2]), int(hour or 0), int(minute or 0), int(second or 0))
    except ValueError:
        return None
    if half and hour:
        if not 1 <= when.hour <= 12:
            return None
        when = when.replace(hour=when.hour % 12 + (12 if half[0] in "Pp" else 0))
    if unit:
        return Moment(when, unit)
    return Moment(when, "clock" if hour and (when.hour or when.minute or when.second) else "day")


def _from_iso(text: str) -> Moment | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    when = when.replace(tzinfo=None)  # the clock on the wall is what recurs
    return Moment(when, "clock" if when.time().isoformat() != "00:00:00" else "day")


def limit_of(name: str, text: str | None) -> str | None:
    """A recipe's `since` or `until` as an ISO day. Raises DataError."""
    if text is None:
        return None
    moment = parse_moment(text)
    if moment is None or moment.unit == "index":
        raise DataError(f"[data] {name} = '{text}' is not a date", f'Write it as {name} = "2024-12-31".')
    return moment.period("day")
