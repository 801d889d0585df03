"""Trip logs: one row per stop of a vehicle trip, with the scheduled time, the time seen, the delay, or some of these.

Read from tables (NJ Transit, AVL exports) and, through `realtime`, from GTFS-realtime trip updates. A document is one
service day of one line, trip by trip; the delay in minutes is the answer:

    line NEC Mon Mar 02
    trip 3845 > New York
    05:54 Trenton | +0.3
    06:01 Hamilton | +1.2

Where a day of a line has no delay at all, the time seen at each stop is told instead, and the minutes since the stop
before are the answer:

    05:54 Trenton
    Hamilton | +6.9
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, tzinfo
from itertools import pairwise
from typing import NamedTuple

from ...core.sources import Notices, Table
from .clock import UNKNOWN_ZONE, day_title, is_epoch, parse_day, parse_float, seconds_of_service, service_clock
from .pages import Entry, Page
from .rows import Asking, Tally, Window, clean, short_id, told

MAX_DELAY_MINUTES = 24 * 60
_CANCELLED = frozenset({"cancelled", "canceled", "skipped", "deleted"})
_ON_TIME = frozenset({"on time", "on-time", "ontime"})
_UNIT = re.compile(r"\s*(?:min(?:ute)?s?|sec(?:ond)?s?)\.?$", re.IGNORECASE)
_WHERE = "trip logs"


class Call(NamedTuple):
    """One stop of one trip, as it travels through the sort."""

    trip: str
    order: str
    """Sortable place in the trip; empty when not known."""
    moment: str
    """Scheduled seconds of the service day, or seen ones where no schedule is known."""
    stop: str
    delay: str
    seen: str
    """Seconds of the service day at which the vehicle was there; empty when not known."""
    label: str
    headsign: str
    stamp: str
    """When this was reported: a later report of the same call replaces an earlier one."""
    origin: str = ""


def trip_records(
    table: Table,
    columns: Mapping[str, str],
    tally: Tally,
    window: Window,
    zone: tzinfo | None,
    names: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    asking: Asking | None = None,
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Call) of every sound row inside the window. `names` of stops and of routes by their ids.

    Without a `zone`, seconds from 1970 are taken for UTC, and counted. With `asking`, a row with a schedule and without
    a delay carries its origin.
    """
    order = window.date_order
    stops, routes = names
    service_day, trip_column, stop = (columns[name] for name in ("service_day", "trip", "stop"))
    optional = ("line", "status", "scheduled", "headsign", "seen", "sequence")
    line, status, scheduled, headsign, stamp, sequence = (columns.get(name, "") for name in optional)
    for row in table:
        tally.row_count += 1
        day = parse_day(row[service_day], order)
        if day is not None and not window.holds(day):
            continue
        if row.get(status, "").strip().lower() in _CANCELLED:
            tally.skip("cancelled")
            continue
        times = None if day is None else _times(row, columns, day, zone or UTC, order)
        if day is None or times is None:
            tally.reject(row, columns, ("service_day", "scheduled", "actual", "delay", "delay_seconds"))
            continue
        moment, delay, seen = times
        if moment is None:
            tally.skip("no time")
            continue
        asks = asking is not None and not delay and bool(told(row.get(scheduled, "")))
        if zone is None and any(is_epoch(row.get(columns.get(name, ""), "")) for name in ("scheduled", "actual")):
            tally.notices.count(tally.name, UNKNOWN_ZONE)
        trip, name = clean(row[trip_column]), clean(row[stop])
        call = Call(
            trip=trip,
            order=_place(row.get(sequence, "")),
            moment=f"{moment:.0f}",
            stop=stops.get(name, name),
            delay=delay,
            seen="" if seen is None else f"{seen:.0f}",
            label=short_id(trip),
            headsign=clean(row.get(headsign, "")),
            stamp=clean(row.get(stamp, "")),
            origin=asking.origin(tally.row_count) if asking is not None and asks else "",
        )
        name = told(clean(row.get(line, "")))
        yield trip_key(day, routes.get(name, name)), "\t".join(call)
    tally.finish()


def trip_key(day: str, line: str) -> str:
    """The sort key that the adapter groups calls by."""
    return f"{day}\ttrips\t{line or 'unknown'}"


def _place(text: str) -> str:
    number = parse_float(text)
    return "" if number is None else f"{number:012.2f}"


def _times(
    row: Mapping[str, str], columns: Mapping[str, str], day: str, zone: tzinfo, order: str
) -> tuple[float | None, str, float | None] | None:
    """Moment, delay and time seen of a row; None when a cell that is not empty cannot be read."""
    planned: float | None = None
    seen: float | None = None
    if text := told(row.get(columns.get("scheduled", ""), "")):
        planned = seconds_of_service(text, day, zone, order)
        if planned is None:
            return None
    if text := next(
        (text for name in ("actual", "actual_departure") if (text := told(row.get(columns.get(name, ""), "")))), ""
    ):
        seen = seconds_of_service(text, day, zone, order)
        if seen is None:
            return None
    minutes: float | None = None
    for name, unit in (("delay", 1), ("delay_seconds", 60)):
        if minutes is None and (text := told(row.get(columns.get(name, ""), ""))):
            number = _spoken(text)
            if number is None:
                return None
            minutes = number / unit
    if minutes is None and planned is not None and seen is not None:
        minutes = (seen - planned) / 60
    if minutes is not None and abs(minutes) > MAX_DELAY_MINUTES:
        return None
    if planned is None and minutes is not None and seen is not None:
        planned = seen - 60 * minutes
    return planned if planned is not None else seen, "" if minutes is None else signed(minutes), seen


def _spoken(text: str) -> float | None:
    """A delay as a number or in words, such as `5 min` or `On Time`."""
    if text.lower() in _ON_TIME:
        return 0.0
    return parse_float(_UNIT.sub("", text))


def signed(minutes: float) -> str:
    """Minutes with sign and one decimal; never -0.0."""
    return f"{round(minutes, 1) + 0.0:+.1f}"


# --- pages ------------------------------------------------------------------------------------


def trip_page(day: str, line: str, packed: Iterable[str], notices: Notices) -> Page | None:
    """The day of a line, trip by trip in order of their first calls; None when it tells neither delay nor run time."""
    trips = _newest(packed, notices)
    ordered = sorted(trips.values(), key=lambda calls: (int(calls[0].moment), calls[0].trip))
    told = any(call.delay or call.origin for calls in ordered for call in calls)
    entries: list[Entry] = []
    for calls in ordered:
        entries += _delays(calls, notices) if told else _run_times(calls, notices)
    if not entries:
        return None
    task = "delay" if told else "next_stop"
    return Page(f"{day}/trips {line}", day, day, f"line {line} {day_title(day)}", task, entries)


def _newest(packed: Iterable[str], notices: Notices) -> dict[str, list[Call]]:
    """The calls of each trip in their order, each call as it was reported last with a delay, or else last."""
    newest: dict[tuple[str, str, str], Call] = {}
    for each in packed:
        call = Call(*each.split("\t"))
        key = (call.trip, call.order or call.moment, call.stop)
        known = newest.get(key)
        if known is not None:
            notices.count(_WHERE, "reports of the same stop of the same trip, the last one was taken")
        if known is None or (bool(call.delay), call.stamp) >= (bool(known.delay), known.stamp):
            newest[key] = call
    trips: dict[str, list[Call]] = {}
    for call in newest.values():
        trips.setdefault(call.trip, []).append(call)
    for calls in trips.values():
        if all(call.order for call in calls):
            calls.sort(key=lambda call: (call.order, int(call.moment)))
        else:
            calls.sort(key=lambda call: int(call.moment))
    return trips


def _heading(calls: list[Call]) -> Entry:
    label = next((call.label for call in calls if call.label), "")
    headsign = next((call.headsign for call in calls if call.headsign), "")
    return Entry(" ".join(word for word in ("trip", label, headsign and f"> {headsign}") if word))


def _delays(calls: list[Call], notices: Notices) -> list[Entry]:
    entries = []
    for call in calls:
        if call.delay or call.origin:
            lead = f"{service_clock(int(call.moment))} {call.stop} | "
            entries.append(Entry(lead, call.delay, origin=call.origin))
        else:
            notices.count(_WHERE, "stops left out, their delay is not known")
    return [_heading(calls), *entries] if entries else []


def _run_times(calls: list[Call], notices: Notices) -> list[Entry]:
    seen = [call for call in calls if call.seen]
    if len(seen) < 2:
        notices.count(_WHERE, "trips left out, without a delay and seen at fewer than two stops")
        return []
    entries = [_heading(calls), Entry(f"{service_clock(int(seen[0].seen))} {seen[0].stop}")]
    for before, call in pairwise(seen):
        entries.append(Entry(f"{call.stop} | ", signed((int(call.seen) - int(before.seen)) / 60)))
    return entries
