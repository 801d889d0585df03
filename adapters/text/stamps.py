"""Time stamps of logs: finds out which spelling a file uses, reads it, and takes the date out of a line.

Called by `windows` for logs and by `adapter` for the time column of a table. The spellings are those of the LogHub
collection (Zhu et al., ISSRE 2023), ISO 8601, syslog, and web servers. Zones are ignored: times stay as written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
SEARCHED_CHARACTERS = 200
"""A stamp stands at the beginning of a line; a date further on is part of the message."""
FEWEST_STAMPED = 0.1
"""Share of the first lines that must carry a stamp; stack traces and wrapped lines carry none."""

FIRST_YEAR = 1900
"""No log is older; 0001-01-01 is how some programs write that they know no time."""

_MONTH = r"(?P<name>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?!\d)"
_YMD = r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})"


@dataclass(frozen=True, slots=True)
class StampFormat:
    """One spelling. The pattern names year, month (or name), day, hour, minute, second, or epoch.

    What it names `date` and `tail` can be cut out and leaves the clock time.
    """

    title: str
    pattern: re.Pattern[str]
    repeated: re.Pattern[str] | None = None
    """Other spellings of the same date that stand in the same line."""

    @property
    def has_year(self) -> bool:
        return bool({"year", "epoch"} & self.pattern.groupindex.keys())

    def find(self, line: str) -> re.Match[str] | None:
        return self.pattern.search(line, 0, SEARCHED_CHARACTERS)


def _format(title: str, pattern: str, repeated: str = "") -> StampFormat:
    return StampFormat(
        title, re.compile(pattern, re.IGNORECASE | re.ASCII), re.compile(repeated, re.ASCII) if repeated else None
    )


FORMATS = (
    _format(
        "2005-06-03-15.42.50 (BGL)",
        r"(?P<date>(?<!\d)(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)-)"
        r"(?P<hour>\d\d)\.(?P<minute>\d\d)\.(?P<second>\d\d)(?!\d)",
        repeated=r"(?<!\d)\d{10} \d{4}\.\d\d\.\d\d ",
    ),
    _format("2024-12-31 23:59:59 (ISO 8601)", rf"(?P<date>(?<!\d){_YMD}[T ]\s?){_CLOCK}"),
    _format(
        "20171223-22:15:29 (HealthApp)",
        r"(?P<date>(?<!\d)(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)[-T ])"
        r"(?P<hour>\d{1,2}):(?P<minute>\d{1,2}):(?P<second>\d{1,2})(?!\d)",
    ),
    _format(
        "081109 203615 (HDFS)",
        r"^(?P<date>(?P<year>\d\d)(?P<month>\d\d)(?P<day>\d\d) )(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?!\d)",
    ),
    _format("17/06/09 20:10:40 (Spark)", rf"^\W?(?P<date>(?P<year>\d\d)/(?P<month>\d\d)/(?P<day>\d\d) ){_CLOCK}"),
    _format(
        "10/Oct/2024:13:55:36 (web server)",
        rf"\[(?P<date>(?P<day>\d{{1,2}})/{_MONTH}/(?P<year>\d{{4}}):){_CLOCK}",
    ),
    _format(
        "Sun Dec 04 04:47:44 2005 (asctime)",
        rf"(?P<date>\b[a-z]{{3}},? {_MONTH} +(?P<day>\d{{1,2}}) ){_CLOCK}(?:\.\d+)?(?P<tail> (?P<year>\d{{4}})(?!\d))",
    ),
    _format(
        "Jun 14 2005 15:16:01 (syslog)", rf"(?P<date>\b{_MONTH} +(?P<day>\d{{1,2}}),? (?P<year>\d{{4}}),? ){_CLOCK}"
    ),
    _format("Jun 14 15:16:01 (syslog)", rf"^(?:<\d{{1,3}}>)?(?P<date>{_MONTH} +(?P<day>\d{{1,2}}) ){_CLOCK}"),
    _format("03-17 16:13:38 (Android)", rf"^\W?(?P<date>(?P<month>\d\d)[-.](?P<day>\d\d) ){_CLOCK}"),
    _format("1117838570 (seconds since 1970)", r"(?<![\w.:/-])(?P<date>(?P<epoch>1\d{9}))(?:\.\d+)?(?![\w:/-])"),
)


def find_format(lines: Sequence[str]) -> StampFormat | None:
    """The spelling that most of these lines use; None when hardly any line carries a time."""
    counts = [
        sum((match := known.find(line)) is not None and read_stamp(match, 2000) is not None for line in lines)
        for known in FORMATS
    ]
    best = max(range(len(FORMATS)), key=lambda position: counts[position])  # of equals the first: the more exact one
    return FORMATS[best] if counts[best] and counts[best] >= FEWEST_STAMPED * len(lines) else None


def read_stamp(match: re.Match[str], year: int) -> datetime | None:
    """The moment of a stamp; `year` is for spellings without one. None when there is no such moment."""
    part = match.groupdict()
    try:
        if part.get("epoch"):
            return datetime.fromtimestamp(int(part["epoch"]), UTC).replace(tzinfo=None)
        if part.get("year"):
            year = int(part["year"])
            if len(part["year"]) == 2:
                year += 2000 if year < 70 else 1900
        month = MONTHS.index(part["name"].lower()) + 1 if part.get("name") else int(part["month"])
        if year < FIRST_YEAR:
            return None
        hour, minute, second = (int(part.get(unit) or 0) for unit in ("hour", "minute", "second"))
        return datetime(year, month, int(part["day"]), hour, minute, second)
    except ValueError:
        return None


def without_date(line: str, match: re.Match[str], known: StampFormat, moment: datetime) -> str:
    """The line with the clock time alone: a date cannot recur once it is held out, so it could only be memorised."""
    part = match.groupdict()
    if part.get("tail"):
        line = line[: match.start("tail")] + line[match.end("tail") :]
    clock = moment.strftime("%H:%M:%S") if part.get("epoch") else ""
    line = line[: match.start("date")] + clock + line[match.end("date") :]
    return known.repeated.sub("", line, count=1) if known.repeated is not None else line


class YearCounter:
    """Follows the years of a log whose lines tell none: a month far below the last one begins another year."""

    def __init__(self, first_year: int) -> None:
        self._year = first_year
        self._month = 0

    def read(self, match: re.Match[str]) -> datetime | None:
        moment = read_stamp(match, self._year)
        if moment is None:
            return None
        ahead = moment.month - self._month if self._month else 0
        if ahead > 6:  # a line of last December that arrived in January
            return read_stamp(match, self._year - 1)
        if ahead < -6:
            self._year += 1
            moment = read_stamp(match, self._year)
        self._month = moment.month if moment is not None else self._month
        return moment
