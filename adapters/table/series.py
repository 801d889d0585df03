"""Series in a table, long or wide, as windows: what is known of the series, its last values, and the next one.

Called by the table adapter. Long tables may come in any order: they are sorted on disk, so memory stays flat.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter

from ...core.contracts import Document, Span
from ...core.sources import Notices, Table, group_spilling
from .cells import MISSING, Moment, amount_text, cell_text, index_moment, name_text, parse_moment
from .columns import Layout
from .settings import Settings
from .tasks import NEXT_TASK, date_rejects, number_rejects

SEPARATOR = "\x1f"
"""Between the parts of a record that waits on disk; cells never hold it, because it counts as white space."""
LAST, NEXT = "last", "next"
BETWEEN_VALUES = "\t"
"""Tokens never reach across a tab, so every value is one token. With blanks, neighbours merge into tokens such as
`12 11 14`: on weekly sales a small model then reached 0.88 instead of 0.79 bits per byte in the same time, and
2.170 instead of 2.162 nats per next value (means of two seeds)."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a series."""

    header: tuple[str, ...]
    """Cells of the series' key columns."""
    extra: tuple[str, ...]
    """Cells that are known before the value, such as a promotion; from [data.options] columns."""
    moment: Moment
    period: str
    """Name of the period, which is what a split by time deals."""
    time: str
    """ISO text of the period."""
    value: str
    """MISSING when it is not known."""
    name: str
    """Of the series and the point: unique in the source."""


Prompt = Callable[[Point, list[str]], str]


def prompt_writer(layout: Layout, settings: Settings) -> Prompt:
    """A function that writes all that stands before the next value."""
    style = settings.style
    keys = [name_text(name, style) for name, _ in (*layout.series, *layout.fields)]
    date_name = name_text(settings.wanted.time or "date", style)

    def prompt(point: Point, history: list[str]) -> str:
        pairs = list(zip(keys, (*point.header, *point.extra), strict=True))
        if point.moment.title:
            pairs.append((date_name, point.moment.title))
        pairs.append((LAST, BETWEEN_VALUES.join(history)))
        if not style.names:
            return style.separator.join(cell for _, cell in pairs) + " => "
        return style.separator.join([*(f"{name}: {cell}" for name, cell in pairs), f"{NEXT}: "])

    return prompt


def window_documents(
    points: Iterable[Point], prompt: Prompt, settings: Settings, notices: Notices
) -> Iterator[Document]:
    """One document for each value of one series that has at least half a window of known ones before it."""
    history: deque[str] = deque(maxlen=settings.window)
    fewest = max(1, settings.window // 2)
    given = 0
    for point in points:
        inside = settings.holds(point.moment)
        known = len(history) - history.count(MISSING)
        if point.value != MISSING and known >= fewest and inside:
            start = prompt(point, list(history))
            size = len(start.encode())
            span = Span(size, size + len(point.value.encode()), NEXT_TASK.name)
            yield Document(point.name, f"{start}{point.value}\n", point.period, point.time, (span,))
            given += 1
        history.append(point.value)
    if not given:
        notices.count("series", f"left out, without a value after {fewest} others")


def window_questions(points: Iterable[Point], prompt: Prompt, window: int) -> Iterator[Document]:
    """One question for each missing value after the first known one; without any, one for the period after the last."""
    history: deque[str] = deque(maxlen=window)
    before: Point | None = None
    last: Point | None = None
    asked = False
    for point in points:
        if point.value == MISSING and any(value != MISSING for value in history):
            yield _question(point, history, prompt)
            asked = True
        history.append(point.value)
        before, last = last, point
    if last is not None and not asked:
        yield _question(_following(before, last), history, prompt)


def _question(point: Point, history: Iterable[str], prompt: Prompt) -> Document:
    text = prompt(point, list(history))
    size = len(text.encode())
    return Document(point.name, text, point.period, point.time, (Span(size, size, NEXT_TASK.name),))


def _following(before: Point | None, last: Point) -> Point:
    """The period after the last one, at the distance of the last two."""
    try:
        moment = Moment(_next_time(before.moment if before is not None else None, last.moment), last.moment.unit)
    except (OverflowError, ValueError):  # beyond the calendar
        moment = last.moment
    name = f"{last.name} and then"
    return Point(last.header, last.extra, moment, f"after {last.period}", moment.period("day"), MISSING, name)


def _next_time(before: Moment | None, last: Moment) -> datetime:
    """As long after the last moment as that is after the one before it; months and years have no fixed length."""
    if before is None:
        return last.when + timedelta(days=1)
    start, end = before.when, last.when
    months = 12 * (end.year - start.year) + end.month - start.month
    is_calendar = last.unit != "index" and (start.day, start.time()) == (end.day, end.time()) and end.day <= 28
    if not is_calendar or months < 1:
        return end + (end - start)
    years, month = divmod(end.month - 1 + months, 12)
    return end.replace(year=end.year + years, month=month + 1)


# --- wide tables ------------------------------------------------------------------------------


def wide_series(table: Table, layout: Layout, name: str, settings: Settings, notices: Notices) -> Iterator[list[Point]]:
    """The points of each row of the file called `name`, in the order of time."""
    style = settings.style
    values, moments = _in_order(layout.values, style.date_order)
    dealt = [_period(moment, column, settings) for moment, column in zip(moments, values, strict=True)]
    rejects = number_rejects(table.name, f"{values[0]} ... {values[-1]}", notices)
    for number, row in enumerate(table.rows, start=1):
        header = tuple(cell_text(row.get(column, ""), style) for _, column in layout.series)
        extra = tuple(cell_text(row.get(column, ""), style) for _, column in layout.fields)
        points = []
        for column, moment, (period, time) in zip(values, moments, dealt, strict=True):
            rejects.rows += 1
            raw = row.get(column, "")
            value = _value(raw, settings, rejects.add)
            points.append(Point(header, extra, moment, period, time, value, f"{name}:{number} @ {column}"))
        yield points
    rejects.finish()


def _in_order(names: Sequence[str], date_order: str) -> tuple[list[str], list[Moment]]:
    """The columns in order of time and their moments: dates when all the names are dates, else places.

    Names such as W2 are in order of the number that differs; where more than one does (Q1 23), as the file has them.
    """
    found = [parse_moment(name, date_order) for name in names]
    dated = [moment for moment in found if moment is not None and moment.unit != "index"]
    if len(dated) == len(names):
        pairs = sorted(zip(names, dated, strict=True), key=lambda pair: pair[1].when)
        return [name for name, _ in pairs], [moment for _, moment in pairs]
    places = zip(*(map(_size, _NUMBER.findall(name)) for name in names), strict=False)
    differing = [sizes for sizes in places if len(set(sizes)) > 1]
    if len(differing) == 1:
        names = [name for _, name in sorted(zip(differing[0], names, strict=True))]
    return list(names), [index_moment(position) for position in range(len(names))]


def _size(digits: str) -> tuple[int, str]:
    """Sorts like the number, however long it is."""
    significant = digits.lstrip("0")
    return len(significant), significant


def _value(raw: str, settings: Settings, reject: Callable[[str], None]) -> str:
    """The number, or MISSING; what is neither is told to `reject`."""
    number = amount_text(raw, settings.style)
    if number is None and cell_text(raw, settings.style) != MISSING:
        reject(raw)
    return number if number is not None else MISSING


def _period(moment: Moment, name: str, settings: Settings) -> tuple[str, str]:
    """(group, time) of a moment."""
    if moment.unit == "index":
        return " ".join(name.split()), moment.period("day")
    start = moment.period(settings.period)
    return start, start


# --- long tables ------------------------------------------------------------------------------


def long_records(table: Table, layout: Layout, settings: Settings, notices: Notices) -> Iterator[tuple[str, str]]:
    """(sort key, payload) of each row: the key is the series and the time, the payload all that the text needs."""
    style = settings.style
    dates = date_rejects(table.name, layout.time, notices)
    numbers = number_rejects(table.name, layout.label, notices)
    for row in table.rows:
        dates.rows += 1
        numbers.rows += 1
        moment = parse_moment(row.get(layout.time, ""), style.date_order)
        if moment is None:
            dates.add(row.get(layout.time, ""))
            continue
        header = [cell_text(row.get(column, ""), style) for _, column in layout.series]
        extra = [cell_text(row.get(column, ""), style) for _, column in layout.fields]
        value = _value(row.get(layout.label, ""), settings, numbers.add)
        when = moment.when.isoformat(timespec="seconds")
        yield (
            SEPARATOR.join([*header, when]),
            SEPARATOR.join([str(table_number(moment)), moment.unit, value, *extra]),
        )
    dates.finish()
    numbers.finish()


def table_number(moment: Moment) -> int:
    """The number of a period that is only numbered, as the file has it."""
    return (moment.when - index_moment(0).when).days


def long_series(records: Iterable[tuple[str, str]], settings: Settings, notices: Notices) -> Iterator[Iterator[Point]]:
    """The series of a long table in the order of their names, each with its points in order of time."""

    def points() -> Iterator[Point]:
        for key, payloads in group_spilling(records):
            *header, when = key.split(SEPARATOR)
            last = next(payloads)
            for later in payloads:
                last = later
                notices.count("series", "values replaced by a later one of the same time")
            number, unit, value, *extra = last.split(SEPARATOR)
            moment = Moment(datetime.fromisoformat(when), unit)
            period, time = _period(moment, number, settings)
            exact = number if unit == "index" else when.removesuffix("T00:00:00")
            name = f"{settings.style.separator.join(header)} @ {exact}"
            yield Point(tuple(header), tuple(extra), moment, period, time, value, name)

    for _, series in groupby(points(), key=attrgetter("header")):
        yield series
