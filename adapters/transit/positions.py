"""Position logs: where vehicles were, from AVL exports or GTFS-realtime vehicle positions. They answer no task.

A document is one day of one line, vehicle by vehicle. The first fix of a vehicle is absolute; those after it tell the
seconds and the ten-thousandths of a degree (north, east; about 11 m) since the one before. Then comes the speed as it
was written, if any, and the stop if it is known:

    positions 60 Wed Mar 25
    vehicle 0130 to 1
    17:47:27 37.2933 -121.9501 0.0
    +31 +12 -3 8.1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, tzinfo
from itertools import groupby
from typing import NamedTuple

from ...core.sources import Notices, Table
from .clock import LEAST_EPOCH, UNKNOWN_ZONE, day_title, is_epoch, local_moment, parse_float, parse_moment, place_time
from .pages import Entry, Page
from .rows import Tally, Window, clean, short_id

STEPS_PER_DEGREE = 10_000


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
    place: str


def position_records(
    table: Table,
    columns: Mapping[str, str],
    tally: Tally,
    window: Window,
    zone: tzinfo | None,
    routes: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Fix) of every sound row inside the window. `routes` gives line names for route ids.

    Without a `zone`, seconds from 1970 are taken for UTC, and counted.
    """
    vehicle, moment = columns["vehicle"], columns["moment"]
    latitude, longitude = columns["latitude"], columns["longitude"]
    line, direction, speed = (columns.get(name, "") for name in ("line", "direction", "speed"))
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
        name = clean(row.get(line, ""))
        fix = Fix(
            vehicle=clean(row[vehicle]),
            direction=clean(row.get(direction, "")),
            second=str(when[1]),
            north=str(steps[0]),
            east=str(steps[1]),
            speed=speed_text(parse_float(row.get(speed, ""))),
            place="",
        )
        yield position_key(when[0], routes.get(name, name)), "\t".join(fix)
    tally.finish()


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
    entries: list[Entry] = []
    for vehicle, group in groupby(fixes, key=lambda fix: fix.vehicle):
        last: Fix | None = None
        for fix in group:
            if last is not None and fix.second == last.second:
                notices.count("position logs", "fixes of the same vehicle and second, one was taken")
                continue
            if last is None or fix.direction != last.direction:
                words = ("vehicle", short_id(vehicle), fix.direction and f"to {fix.direction}")
                entries.append(Entry(" ".join(word for word in words if word)))
                last = None
            entries.append(Entry(_line(fix, last)))
            last = fix
    title = " ".join(word for word in ("positions", line, day_title(day)) if word)
    return Page(f"{day}/positions {line}", day, day, title, "delay", entries)


def _line(fix: Fix, last: Fix | None) -> str:
    north, east = int(fix.north), int(fix.east)
    if last is None:
        hours, rest = divmod(int(fix.second), 3600)
        clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
        words = [clock, f"{north / STEPS_PER_DEGREE:.4f}", f"{east / STEPS_PER_DEGREE:.4f}"]
    else:
        words = [
            f"+{int(fix.second) - int(last.second)}",
            f"{north - int(last.north):+d}",
            f"{east - int(last.east):+d}",
        ]
    words += [fix.speed, fix.place]
    return " ".join(word for word in words if word)
