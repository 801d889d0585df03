"""Position logs: where vehicles were, from AVL exports or GTFS-realtime vehicle positions.

A document is one day of one line, vehicle by vehicle. The first fix of a vehicle is absolute; those after it tell the
seconds and the ten-thousandths of a degree (north, east; about 11 m) since the one before. Then comes the speed as it
was written, if any. What is asked depends on what the log tells. With the stop that a vehicle heads for, the minutes
until the log shows it there or past it:

    positions 1 Tue Jan 02
    vehicle 42
    08:05:00 46.7500 7.6200 to Old Mill | +1.5
    +31 +12 -3 8.1 to Old Mill | +1.0

Without stops there is no arrival to ask for: the places of stops, if a feed gives them, do not tell which of them a
line serves, or on which side of the street. Then the answer is how far the vehicle came since the line before, in
metres; it stands before the steps that would give it away:

    +31 | 140 | +12 -3 8.1
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, tzinfo
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple

from ...core.sources import Notices, Table
from .clock import LEAST_EPOCH, UNKNOWN_ZONE, day_title, is_epoch, local_moment, parse_float, parse_moment, place_time
from .pages import Entry, Page
from .rows import Tally, Window, clean, short_id, told

STEPS_PER_DEGREE = 10_000
METRES_PER_STEP = 11.12
"""Along a meridian."""
LONGEST_GAP_SECONDS = 300
"""Between two fixes, for an arrival to have been seen; the same for how far a vehicle came."""
AT_STOP = "at"
_STATUS_WORDS = MappingProxyType(
    {
        "at stop": "at",
        "stopped at": "at",
        "1": "at",
        "approaching": "near",
        "incoming at": "near",
        "0": "near",
    }
)


class Fix(NamedTuple):
    """One position, as it travels through the sort."""

    vehicle: str
    direction: str
    second: str
    """Of the calendar day."""
    north: str
    east: str
    """In steps of a ten-thousandth of a degree."""
    speed: str
    status: str = ""
    """`to`, `near` or `at` the stop."""
    stop: str = ""


def position_records(
    table: Table,
    columns: Mapping[str, str],
    tally: Tally,
    window: Window,
    zone: tzinfo | None,
    names: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Fix) of every sound row inside the window. `names` of stops and of routes by their ids.

    Without a `zone`, seconds from 1970 are taken for UTC, and counted.
    """
    vehicle, moment = columns["vehicle"], columns["moment"]
    latitude, longitude = columns["latitude"], columns["longitude"]
    line, direction, speed, stop = (columns.get(name, "") for name in ("line", "direction", "speed", "next_stop"))
    proximity = columns.get("proximity", "")
    stops, routes = names
    for row in table:
        tally.row_count += 1
        when = _when(row[moment], zone or UTC, window.date_order)
        if zone is None and is_epoch(row[moment]):
            tally.notices.count(tally.name, UNKNOWN_ZONE)
        steps = position_steps(parse_float(row[latitude]), parse_float(row[longitude]))
        if when is None or steps is None:
            tally.reject(row, columns, ("moment", "latitude", "longitude"))
            continue
        if not window.holds(when[0]):
            continue
        name, heads_for = clean(row.get(line, "")), told(clean(row.get(stop, "")))
        fix = Fix(
            vehicle=clean(row[vehicle]),
            direction=clean(row.get(direction, "")),
            second=str(when[1]),
            north=str(steps[0]),
            east=str(steps[1]),
            speed=speed_text(parse_float(row.get(speed, ""))),
            status=_status(row.get(proximity, "")) if heads_for else "",
            stop=stops.get(heads_for, heads_for),
        )
        yield position_key(when[0], routes.get(name, name)), "\t".join(fix)
    tally.finish()


def _status(text: str) -> str:
    """`to`, `near` or `at`, of what SIRI and GTFS-realtime call it."""
    return _STATUS_WORDS.get(text.strip().lower().replace("_", " "), "to")


def position_key(day: str, line: str) -> str:
    """The sort key that the adapter groups fixes by."""
    return f"{day}\tpositions\t{line}"


def _when(text: str, zone: tzinfo, date_order: str) -> tuple[str, int] | None:
    number = parse_float(text)
    if number is not None:
        return local_moment(number, zone) if number >= LEAST_EPOCH else None
    moment = parse_moment(text.strip(), date_order)
    if moment is None:
        return None
    moment = place_time(moment, zone)
    return moment.date().isoformat(), moment.hour * 3600 + moment.minute * 60 + moment.second


def position_steps(latitude: float | None, longitude: float | None) -> tuple[int, int] | None:
    """North and east in steps; None for what is no place, such as the 0, 0 of a receiver without signal."""
    if latitude is None or longitude is None or not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    if latitude == 0 and longitude == 0:
        return None
    return round(latitude * STEPS_PER_DEGREE), round(longitude * STEPS_PER_DEGREE)


def speed_text(speed: float | None) -> str:
    """One decimal, or nothing."""
    return "" if speed is None else f"{round(speed, 1) + 0.0:.1f}"


def position_page(day: str, line: str, packed: Iterable[str], notices: Notices) -> Page:
    """The fixes of a day and a line, vehicle by vehicle."""
    fixes = sorted((Fix(*each.split("\t")) for each in packed), key=lambda fix: (fix.vehicle, int(fix.second)))
    has_stops = any(fix.stop for fix in fixes)
    entries: list[Entry] = []
    for vehicle, group in groupby(fixes, key=lambda fix: fix.vehicle):
        run = _distinct(group, notices)
        arrivals = _arrivals(run) if has_stops else []
        last: Fix | None = None
        for place, fix in enumerate(run):
            if last is None or fix.direction != last.direction:
                words = ("vehicle", short_id(vehicle), fix.direction and f"to {fix.direction}")
                entries.append(Entry(" ".join(word for word in words if word)))
                last = None
            entries.append(_arriving(fix, last, arrivals[place]) if has_stops else _moving(fix, last))
            last = fix
    title = " ".join(word for word in ("positions", line, day_title(day)) if word)
    return Page(f"{day}/positions {line}", day, day, title, "next_stop" if has_stops else "moved", entries)


def _distinct(fixes: Iterable[Fix], notices: Notices) -> list[Fix]:
    """One fix per second."""
    run: list[Fix] = []
    for fix in fixes:
        if run and fix.second == run[-1].second:
            notices.count("position logs", "fixes of the same vehicle and second, one was taken")
        else:
            run.append(fix)
    return run


def _arrivals(run: Sequence[Fix]) -> list[str]:
    """Minutes from each fix until the vehicle is first seen at its stop or past it; empty where that was not seen."""
    found = [""] * len(run)
    reached: int | None = None
    """The second at which the stop of the fix behind is reached."""
    for place in range(len(run) - 2, -1, -1):
        fix, after = run[place], run[place + 1]
        if int(after.second) - int(fix.second) > LONGEST_GAP_SECONDS or fix.direction != after.direction:
            reached = None
        elif after.stop != fix.stop or after.status == AT_STOP:
            reached = int(after.second) if after.stop else None
        if fix.stop and fix.status != AT_STOP and reached is not None:
            found[place] = f"{(reached - int(fix.second)) / 60:+.1f}"
    return found


def _arriving(fix: Fix, last: Fix | None, minutes: str) -> Entry:
    """A fix with the stop that its vehicle heads for, and the minutes to it if they were seen."""
    seconds, steps = _clock_and_steps(fix, last)
    place = f"{fix.status} {fix.stop}" if fix.stop else ""
    text = " ".join(word for word in (seconds, steps, fix.speed, place) if word)
    return Entry(f"{text} | ", minutes) if minutes else Entry(text)


def _moving(fix: Fix, last: Fix | None) -> Entry:
    """A fix with the metres since the last one, to the next ten."""
    seconds, steps = _clock_and_steps(fix, last)
    if last is None or int(fix.second) - int(last.second) > LONGEST_GAP_SECONDS:
        return Entry(" ".join(word for word in (seconds, steps, fix.speed) if word))
    north, east = int(fix.north) - int(last.north), int(fix.east) - int(last.east)
    narrow = math.cos(math.radians(int(fix.north) / STEPS_PER_DEGREE))
    metres = METRES_PER_STEP * math.hypot(north, east * narrow)
    rest = " ".join(word for word in (steps, fix.speed) if word)
    return Entry(f"{seconds} | ", f"{10 * round(metres / 10)}", f" | {rest}")


def _clock_and_steps(fix: Fix, last: Fix | None) -> tuple[str, str]:
    """The clock and the place, or what changed of them since the last fix."""
    north, east = int(fix.north), int(fix.east)
    if last is None:
        hours, rest = divmod(int(fix.second), 3600)
        clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
        return clock, f"{north / STEPS_PER_DEGREE:.4f} {east / STEPS_PER_DEGREE:.4f}"
    steps = f"{north - int(last.north):+d} {east - int(last.east):+d}"
    return f"+{int(fix.second) - int(last.second)}", steps
