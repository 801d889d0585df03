"""Incident logs in the form of the Toronto Transit Commission: one row per incident, columns renamed every few years.

A document is one service day of one mode:

    bus Mon Dec 30
    05:50 35 | JANE STATION | N | Mechanical | 10 | 20 | 8194

The delay stands before gap and vehicle, because the gap nearly gives it away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from ...core.sources import Table
from .clock import day_title, parse_day, parse_number, parse_time
from .pages import Entry, Page
from .rows import Asking, Tally, Window, clean, told

MODES = ("bus", "streetcar", "subway", "tram", "train", "rail", "metro", "ferry")
_MODE = re.compile(r"(?<![a-z])(" + "|".join(MODES) + r")(?![a-z])")
_NUMBER_AND_NAME = re.compile(r"(\d+[A-Z]?) [A-Z].*")
_NO_DIRECTION = frozenset({"", "none", "nan", "null", "n/a", "-"})


def mode_of(file_name: str) -> str:
    """The mode that a file name tells, or "line"."""
    match = _MODE.search(file_name.lower())
    return match[1] if match else "line"


@lru_cache(maxsize=1 << 12)
def line_number(text: str) -> str:
    """`102 MARKHAM ROAD` as `102`: the log changed its spelling on 2025-01-01."""
    text = clean(text)
    match = _NUMBER_AND_NAME.fullmatch(text)
    return match[1] if match else text


@lru_cache(maxsize=1 << 10)
def _direction(text: str) -> str:
    return "" if text.strip().lower() in _NO_DIRECTION else clean(text)


@lru_cache(maxsize=1 << 14)
def _quantity(text: str) -> str:
    """`20.0` and `20` are one number; what is no number stays as it is."""
    return parse_number(text) or clean(text)


def incident_records(
    table: Table, columns: Mapping[str, str], mode: str, tally: Tally, window: Window, asking: Asking | None = None
) -> Iterator[tuple[str, str]]:
    """(sort key, serialised line) of every sound row inside the window.

    With `asking`, a row without a delay is sound too; a tab and its origin stand at the end of its line.
    """
    date, time, line = columns["date"], columns["time"], columns["line"]
    station, code, delay = columns["station"], columns["code"], columns.get("delay", "")
    gap, direction, vehicle = (columns.get(name, "") for name in ("gap", "direction", "vehicle"))
    order, name_line = window.date_order, line_number if window.line_numbers else clean
    for row in table:
        tally.row_count += 1
        cell = told(row.get(delay, ""))
        day, clock, minutes = parse_day(row[date], order), parse_time(row[time]), parse_number(cell)
        origin = ""
        if asking is not None and not cell:
            minutes, origin = "", "\t" + asking.origin(tally.row_count)
        elif not cell:
            tally.skip("no delay")
            continue
        if day is None or clock is None or minutes is None:
            tally.reject(row, columns, ("date", "time", "delay"))
        elif window.holds(day):
            place = f"{clock} {name_line(row[line])} | {clean(row[station])} | {_direction(row.get(direction, ''))}"
            rest = f"{_quantity(row.get(gap, ''))} | {_quantity(row.get(vehicle, ''))}"
            yield f"{day}\tincidents\t{mode}", f"{place} | {clean(row[code])} | {minutes} | {rest}{origin}"
    tally.finish()


def incident_page(day: str, mode: str, lines: Iterable[str]) -> Page:
    """The day's incidents by time, then by order of arrival."""
    entries = []
    for line in sorted(lines, key=_clock):
        text, _, origin = line.partition("\t")
        lead, minutes, gap, vehicle = text.rsplit(" | ", 3)
        entries.append(Entry(f"{lead} | ", minutes, f" | {gap} | {vehicle}", origin))
    return Page(f"{day}/{mode}", day, day, f"{mode} {day_title(day)}", "delay", entries)


def _clock(line: str) -> str:
    return line[:5]
