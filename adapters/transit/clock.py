"""Days, times and numbers in the spellings that transit logs mix. Each parser gives None for what it cannot read."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache

from ...core.errors import DataError

WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LAST_HOUR = 29
"""Service days run past midnight: 25:39 is 01:39 of the next calendar day."""
DAY_SECONDS = 24 * 3600
LONGEST_SERVICE_DAYS = 4
"""Ferries and night trains count their hours up to here."""
LEAST_EPOCH = 100_000_000
"""A number from here on counts seconds from 1970, a smaller one from midnight."""
LEAST_EPOCH_MILLISECONDS = 100_000_000_000
SPREADSHEET_DAY = datetime(1900, 1, 1)
LAST_YEAR = 9999
UNKNOWN_ZONE = (
    "times in seconds from 1970 written as UTC, since no timezone is known "
    '([data.options] timezone = "America/New_York" names one)'
)
"""A notice."""

_TAIL = r"(?:[T ].*)?"
_YEAR_FIRST = re.compile(rf"(\d{{4}})[-/.]?(\d{{1,2}})[-/.]?(\d{{1,2}}){_TAIL}", re.DOTALL)
_DOTTED = re.compile(rf"(\d{{1,2}})\.(\d{{1,2}})\.(\d{{4}}){_TAIL}", re.DOTALL)
_SLASHED = re.compile(rf"(\d{{1,2}})[/-](\d{{1,2}})[/-](\d{{4}}){_TAIL}", re.DOTALL)
_NAMED = re.compile(rf"(\d{{1,2}})[- ]([A-Za-z]{{3}})[a-z]*[- ](\d{{4}}){_TAIL}", re.DOTALL)
_DATE_BEFORE = r"(?:\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}[T ]+)?"
_TIME = re.compile(_DATE_BEFORE + r"(\d{1,2}):(\d{2})(?::\d{2}(?:\.\d+)?)?\s*([AaPp]\.?[Mm]\.?)?")
_NUMBER = re.compile(r"[+-]?\d{1,6}(?:\.\d+)?")
_LONG_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d*)?", re.ASCII)
_SERVICE_TIME = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?")


@lru_cache(maxsize=1 << 14)
def parse_day(text: str, date_order: str = "") -> str | None:
    """ISO date of `2024-01-31`, `20240131`, `31.01.2024`, `31-Jan-2024`, `01/31/2024`, with or without a time after it.

    `date_order` ("dmy" or "mdy") says how slashes are meant; without it `01/02/2024` is refused as ambiguous.
    """
    text = text.strip()
    if match := _YEAR_FIRST.fullmatch(text):
        return _iso(match[1], match[2], match[3])
    if match := _DOTTED.fullmatch(text):
        return _iso(match[3], match[2], match[1])
    if match := _NAMED.fullmatch(text):
        name = match[2].title()
        return _iso(match[3], str(MONTHS.index(name) + 1), match[1]) if name in MONTHS else None
    if match := _SLASHED.fullmatch(text):
        first, second = int(match[1]), int(match[2])
        if date_order == "dmy" or (not date_order and first > 12) or first == second:
            return _iso(match[3], match[2], match[1])
        if date_order == "mdy" or second > 12:
            return _iso(match[3], match[1], match[2])
    return None


def _iso(year: str, month: str, day: str) -> str | None:
    try:
        return date(int(year), int(month), int(day)).isoformat()
    except ValueError:
        return None


@lru_cache(maxsize=1 << 14)
def parse_time(text: str) -> str | None:
    """`HH:MM` of `2:15`, `02:15:30`, `2:15 PM`, with or without a date before it, for logs with both in one column.

    Hours up to 29 stay, they belong to the service day before.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    hour, minute = int(match[1]), int(match[2])
    if match[3]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[3][0] in "Pp" else 0)
    return f"{hour:02d}:{minute:02d}" if hour <= LAST_HOUR and minute < 60 else None


def parse_moment(text: str, date_order: str = "") -> datetime | None:
    """A date with a time, ISO or in any of the spellings of `parse_day` and `parse_time`."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    day_text, _, time_text = text.strip().partition(" ")
    day, time = parse_day(day_text, date_order), parse_time(time_text)
    if day is None or time is None or time >= "24":
        return None
    seconds = time_text.split(":")[2][:2] if time_text.count(":") == 2 else "00"
    try:
        return datetime.fromisoformat(f"{day} {time}:{seconds}")
    except ValueError:
        return None


@lru_cache(maxsize=1 << 14)
def parse_number(text: str) -> str | None:
    """The shortest spelling of a number of at most six digits: `5`, `5.0` and `05` are "5"."""
    text = text.strip()  # of more than float() takes off, such as the unit separator
    if not _NUMBER.fullmatch(text):
        return None
    value = round(float(text), 1)
    return str(int(value)) if value == int(value) else str(value)


def parse_float(text: str) -> float | None:
    """A plain decimal number, without exponent, infinity or underscores."""
    text = text.strip()
    return float(text) if _LONG_NUMBER.fullmatch(text) else None


def is_epoch(text: str) -> bool:
    """Whether a cell counts seconds or milliseconds from 1970."""
    number = parse_float(text)
    return number is not None and number >= LEAST_EPOCH


@lru_cache(maxsize=1 << 16)
def parse_service_time(text: str) -> int | None:
    """Seconds after the start of the service day of `5:30:00`, `25:39:00` or `05:30`."""
    match = _SERVICE_TIME.fullmatch(text.strip())
    if match is None:
        return None
    seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    return seconds if seconds < LONGEST_SERVICE_DAYS * DAY_SECONDS else None


def service_clock(seconds: float) -> str:
    """`HH:MM` of seconds after the start of the service day; hours beyond 24 stay, a time before it wraps."""
    minutes = int(seconds // 60)
    if minutes < 0:
        minutes += 24 * 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


@lru_cache(maxsize=1 << 12)
def service_start(day: str, zone: tzinfo) -> float:
    """Seconds from 1970 at which a service day starts: twelve hours before its noon, as GTFS defines it."""
    return datetime.fromisoformat(f"{day} 12:00").replace(tzinfo=zone).timestamp() - DAY_SECONDS / 2


def local_moment(epoch: float, zone: tzinfo) -> tuple[str, int] | None:
    """Calendar day and second of that day; None for a number that is no time of this or the next century."""
    if epoch >= LEAST_EPOCH_MILLISECONDS:
        epoch /= 1000
    if not 0 < epoch < LEAST_EPOCH_MILLISECONDS / 10:
        return None
    local = datetime.fromtimestamp(epoch, zone)
    return local.date().isoformat(), local.hour * 3600 + local.minute * 60 + local.second


def place_time(moment: datetime, zone: tzinfo) -> datetime:
    """The clock of the place, without offset: UTC is moved to `zone`, any other offset is the place's own."""
    if moment.utcoffset() == timedelta(0) and SPREADSHEET_DAY.year < moment.year < LAST_YEAR:
        moment = moment.astimezone(zone)
    return moment.replace(tzinfo=None)


def seconds_of_service(text: str, day: str, zone: tzinfo, date_order: str = "") -> float | None:
    """Seconds after the start of service day `day`, on the clocks of the place.

    Reads `22:40:00`, `25:10`, seconds after midnight, seconds or milliseconds from 1970 (for which `zone` is needed),
    and a date with a time. A date in 1900 stands for `day`: that is how spreadsheets write a time alone. None for
    anything else, and for what lies more than a few days from `day`.
    """
    seconds: float | None = parse_service_time(text)
    if seconds is not None:
        return seconds
    number = parse_float(text)
    if number is not None and number >= LEAST_EPOCH:
        epoch = number / 1000 if number >= LEAST_EPOCH_MILLISECONDS else number
        seconds = epoch - service_start(day, zone)
    elif number is not None:
        seconds = number
    else:
        moment = parse_moment(text, date_order)
        if moment is None:
            return None
        local = place_time(moment, zone)
        start = SPREADSHEET_DAY if local.year == SPREADSHEET_DAY.year else datetime.fromisoformat(day)
        seconds = (local - start).total_seconds()
    return seconds if abs(seconds) < LONGEST_SERVICE_DAYS * DAY_SECONDS else None


@lru_cache(maxsize=1 << 12)
def day_title(day: str) -> str:
    """`2024-12-30` as `Mon Dec 30`: no year, because a year never recurs after a split by time."""
    value = date.fromisoformat(day)
    return f"{WEEKDAYS[value.weekday()]} {MONTHS[value.month - 1]} {value.day:02d}"


def parse_limit(name: str, text: str | None) -> str | None:
    """A recipe's `since` or `until` as ISO date. Raises DataError."""
    if text is None:
        return None
    day = parse_day(text)
    if day is None:
        raise DataError(f"[data] {name} = '{text}' is not a date", f'Write it as {name} = "2024-12-31".')
    return day
