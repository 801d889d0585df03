"""What [data] and [data.options] tell the text adapter: every key checked once, before any file is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ...core.contracts import SourceOptions
from ...core.errors import DataError, did_you_mean

UNITS = ("auto", "line", "lines", "block", "file")
OPTIONS = {
    "unit": 'How text files are cut into documents: "auto" (default), "line", "lines", "block" or "file".',
    "lines_per_document": 'Lines of one document when unit = "lines"; default 32.',
    "suffixes": 'Endings of the files that are read, such as ".py .md"; default: text, source code and tables.',
    "column": "Column of a table that holds the text; found by name when there is an obvious one.",
    "group": 'Column whose equal values never straddle two splits; default "document": every document by itself.',
    "time": "Column with the date of a row; with it the newest rows are held out, and since and until work.",
    "window": 'Logs: one document per time window, such as "15m", "1h", "1d" or "1w"; the newest are held out.',
    "keep_dates": "Logs with a window: true leaves the dates in the lines; default false: only the clock time stays.",
    "year": "Logs with a window whose lines tell no year: the year of a file's first line; default 2000.",
}
COLUMN_OPTIONS = ("column", "group", "time")
FIELDS = {"text": "column", "group": "group", "time": "time"}
"""Names in [data.columns] and the options that mean the same."""
DEFAULT_LINES = 32
ASSUMED_YEAR = 2000
"""A leap year, so that 29 February of a log without years is a date."""

_WINDOW = re.compile(r"(\d{1,3})\s?([mhdw])")
_WINDOW_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True)
class Period:
    """The times that a recipe wants. Both ends belong to it; an end that is a day is the whole day."""

    since: datetime | None = None
    before: datetime | None = None
    """The first moment that is too late."""

    def holds(self, moment: datetime) -> bool:
        return (self.since is None or moment >= self.since) and (self.before is None or moment < self.before)

    def __bool__(self) -> bool:
        return self.since is not None or self.before is not None


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked options."""

    unit: str
    lines_per_document: int
    suffixes: tuple[str, ...]
    """Empty: all that the adapter knows."""
    column: str | None
    group: str | None
    """None: every document by itself."""
    time: str | None
    window: timedelta | None
    keep_dates: bool
    year: int | None
    period: Period

    @property
    def dated(self) -> bool:
        """Whether documents have times."""
        return self.window is not None or self.time is not None


def read_settings(options: SourceOptions) -> Settings:
    """Raises DataError that names the key and what is allowed."""
    given = options.options
    _refuse_unknown(options)
    columns: dict[str, str] = {
        option: options.columns[field] for field, option in FIELDS.items() if field in options.columns
    }
    for key in COLUMN_OPTIONS:
        if key in given:
            columns[key] = _text(given, key, "a column's name")
    group = columns.get("group", "document")
    settings = Settings(
        unit=_unit(given),
        lines_per_document=_whole_number(given, "lines_per_document", DEFAULT_LINES, 1),
        suffixes=_suffixes(given),
        column=columns.get("column"),
        group=None if group == "document" else group,
        time=columns.get("time"),
        window=_window(given),
        keep_dates=_flag(given, "keep_dates"),
        year=_whole_number(given, "year", 0, 1970) or None,
        period=_period(options),
    )
    _refuse_contradictions(settings)
    return settings


def _refuse_unknown(options: SourceOptions) -> None:
    for name in options.options:
        if name not in OPTIONS:
            raise DataError(
                f"the text adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    for name in options.columns:
        if name not in FIELDS:
            raise DataError(f"[data.columns] has no field '{name}'", did_you_mean(name, list(FIELDS)))


def _refuse_contradictions(settings: Settings) -> None:
    if settings.period and not settings.dated:
        raise DataError(
            "since and until need dated documents, plain text has none",
            'Remove them from [data], or date the documents: [data.options] window = "1d" (logs) or time = "COLUMN".',
        )
    if settings.window is not None and settings.unit != "auto":
        raise DataError(f"[data.options] window and unit = '{settings.unit}' exclude each other", "Remove one of them.")
    if settings.time is not None and settings.group is not None:
        raise DataError(
            "[data.options] time and group exclude each other: a group would have many times",
            "Remove time to split by group, or group to split by time.",
        )


def _text(given: Mapping[str, object], key: str, what: str) -> str:
    value = given[key]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"[data.options] {key} = {value!r} must be {what}", f'Write {key} = "NAME".')
    return value


def _unit(given: Mapping[str, object]) -> str:
    unit = given.get("unit", "auto")
    if unit not in UNITS:
        raise DataError(f"[data.options] unit = '{unit}' is unknown", did_you_mean(str(unit), list(UNITS)))
    return str(unit)


def _whole_number(given: Mapping[str, object], key: str, default: int, least: int) -> int:
    value = given.get(key, default)
    if key in given and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise DataError(
            f"[data.options] {key} = {value!r} must be a whole number from {least}", f"Try {default or 2024}."
        )
    return value if isinstance(value, int) else default


def _flag(given: Mapping[str, object], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise DataError(f"[data.options] {key} = {value!r} must be true or false", f"Write {key} = true.")
    return value


def _suffixes(given: Mapping[str, object]) -> tuple[str, ...]:
    if "suffixes" not in given:
        return ()
    words = _text(given, "suffixes", 'endings of file names, such as ".py .md"').replace(",", " ").split()
    return tuple(dict.fromkeys("." + word.lower().lstrip("*").lstrip(".") for word in words))


def _window(given: Mapping[str, object]) -> timedelta | None:
    if "window" not in given:
        return None
    value = given["window"]
    match = _WINDOW.fullmatch(value.strip()) if isinstance(value, str) else None
    length = timedelta(**{_WINDOW_UNITS[match[2]]: int(match[1])}) if match else timedelta(0)
    if not length:
        raise DataError(
            f"[data.options] window = {value!r} is not a length of time", 'Write for example "15m", "1h", "1d" or "1w".'
        )
    return length


def _period(options: SourceOptions) -> Period:
    since, until = _limit("since", options.since), _limit("until", options.until)
    if until is None:
        return Period(since, None)
    whole_day = len(options.until or "") <= len("2024-12-31")
    step = timedelta(days=1) if whole_day else timedelta(microseconds=1)
    return Period(since, until + step if until < datetime.max - step else None)


def _limit(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        # Logs hardly ever say their zone: times are compared as they are written.
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise DataError(f"[data] {name} = '{text}' is not a date", f'Write it as {name} = "2024-12-31".') from None
