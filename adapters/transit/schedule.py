"""Timetables: a static GTFS feed as documents, one per line, headsign, stop pattern and run-time profile.

Trips that differ only in the time of day are one document with their number, so that repeats do not swamp the score.
The answer is the minutes from the stop before, to the minute, or to a tenth where the feed tells seconds:

    bus 1 Florida Avenue > North to University Area | MTWTF-- | 14 trips 05:30-19:00
    Marion Transit Center
    Marion St @ Estelle St | +1.1
    Florida Av @ Scott St | +?
    Yukon Transfer Center | +4.0 wait 3.0

`+?` is a blank time: the next one counts from the last that is known. `wait` is the time until the vehicle leaves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...core.sources import Notices, group_spilling
from .clock import service_clock
from .feed import MAX_DEPARTURES, Feed, Names, Trip, TripBuilder, TripRows, read_names, service_days, week_text
from .pages import Entry, Page

ROW_SEPARATOR, CELL_SEPARATOR = "\x1e", "\x1f"
NO_DAYS = "-" * 7


class Wishes(NamedTuple):
    """How a person wants timetables to be written."""

    stop_ids: bool
    """Ids of stops in place of their names."""
    seconds: bool
    """Tenths of minutes where the feed tells seconds."""


class Runs(NamedTuple):
    """When the trips of one document run, as it travels through the sort."""

    first: int
    last: int
    """First and last departure in seconds of the service day."""
    trips: int
    days: str
    headways: tuple[int, int] | None
    """Shortest and longest, in seconds, of trips by frequency."""


def schedule_pages(feed: Feed, number: int, wishes: Wishes, notices: Notices) -> Iterator[Page]:
    """The pages of feed `number` of the source, sorted by line, headsign, pattern and profile."""
    names = read_names(feed, notices)
    days = service_days(feed, notices)
    rows = TripRows(feed, number, notices)
    profiles = _profiles(rows, names, days, wishes, notices)
    for key, payloads in group_spilling(profiles):
        line, headsign, title, pattern, _, mode = key.split("\t")
        body, runs = _merge(payloads)
        prefix = "timetable" if number == 0 else f"timetable {number + 1}"
        destination = f" > {headsign}" if headsign else ""
        yield Page(
            id=f"{prefix}/{_digest(key)}/{line}",
            group=f"{line} {pattern}",
            time=None,
            header=f"{mode} {title}{destination} | {runs.days} | {_runs_text(runs)}",
            task="next_stop",
            entries=[_entry(row) for row in body.split(ROW_SEPARATOR)],
        )
    notices.count(feed.name, "trips of the static GTFS feed read", rows.trip_count)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


# --- from trips to profiles -------------------------------------------------------------------


def _profiles(
    rows: TripRows, names: Names, days: Mapping[str, str], wishes: Wishes, notices: Notices
) -> Iterator[tuple[str, str]]:
    """(line, headsign, title, pattern, profile, mode) and the packed runs and rows of every trip."""
    where = rows.feed.name
    for _, payloads in group_spilling(rows):
        builder = TripBuilder(where, notices)
        for payload in payloads:
            feed_number, kind, *cells = payload.split("\t")
            builder.add(int(feed_number), kind, cells)
        for trip in builder.trips().values():
            body = _body(trip, names, 6 if wishes.seconds and rows.has_seconds else 60, wishes.stop_ids, notices, where)
            runs = _runs(trip, days)
            if len(trip.stops) < 2 or runs is None:
                notices.count(where, "trips without times or with fewer than two stops, left out")
                continue
            route = names.route(trip.route_id)
            headsign = trip.headsign or next((stop.headsign for stop in trip.stops if stop.headsign), "")
            if not headsign and trip.direction:
                headsign = f"direction {trip.direction}"
            stops = ROW_SEPARATOR.join(row.partition(CELL_SEPARATOR)[0] for row in body)
            text = ROW_SEPARATOR.join(body)
            key = (route.line, headsign, route.title, _digest(stops), _digest(text), route.mode)
            yield "\t".join(key), "\t".join((*map(str, runs[:3]), runs.days, _packed(runs.headways), text))


def _body(trip: Trip, names: Names, unit: int, stop_ids: bool, notices: Notices, where: str) -> list[str]:
    """Name, steps of `unit` seconds since the stop before ("?" when blank, "" at the first), and steps of waiting."""
    start = next((time for stop in trip.stops for time in (stop.departure, stop.arrival) if time is not None), 0)
    rows: list[str] = []
    left: int | None = None
    for stop in trip.stops:
        arrival = stop.arrival if stop.arrival is not None else stop.departure
        departure = stop.departure if stop.departure is not None else stop.arrival
        name = stop.stop_id if stop_ids else names.stops.get(stop.stop_id, "")
        if not name:
            notices.count(where, "stop times at a stop that stops.txt does not know, called by its id")
            name = stop.stop_id
        if arrival is None or departure is None:
            rows.append(CELL_SEPARATOR.join((name, "?" if rows else "", "0")))
            continue
        reached, leaves = ((time - start + unit // 2) // unit for time in (arrival, departure))
        if left is None:
            step = "?" if rows else ""
        else:
            step = str(reached - left)
            if reached < left:
                notices.count(where, "stop times before that of the stop before")
        waiting = leaves - reached if rows else 0
        rows.append(CELL_SEPARATOR.join((name, _minutes(step, unit), _minutes(str(waiting), unit))))
        left = leaves
    return rows


def _minutes(steps: str, unit: int) -> str:
    """Steps of six seconds as tenths of minutes, steps of sixty as minutes."""
    if not steps.lstrip("-").isdecimal():
        return steps
    return steps if unit == 60 else f"{int(steps) / 10:.1f}"


def _runs(trip: Trip, days: Mapping[str, str]) -> Runs | None:
    """When the trip leaves its first stop; every departure of a trip by frequency counts."""
    week = days.get(trip.service_id, NO_DAYS)
    if trip.windows:
        counts = [min(MAX_DEPARTURES, -(-(each.end - each.start) // each.headway)) for each in trip.windows]
        last = max(each.start + (n - 1) * each.headway for each, n in zip(trip.windows, counts, strict=True))
        headways = [each.headway for each in trip.windows]
        return Runs(trip.windows[0].start, last, sum(counts), week, (min(headways), max(headways)))
    times = [time for stop in trip.stops for time in (stop.departure, stop.arrival) if time is not None]
    return Runs(times[0], times[0], 1, week, None) if times else None


def _packed(headways: tuple[int, int] | None) -> str:
    return "" if headways is None else f"{headways[0]} {headways[1]}"


# --- from profiles to text --------------------------------------------------------------------


def _merge(payloads: Iterable[str]) -> tuple[str, Runs]:
    """The rows, and the runs of all trips that share them."""
    body = ""
    merged: Runs | None = None
    for payload in payloads:
        first, last, count, days, headways, body = payload.split("\t")
        shortest, _, longest = headways.partition(" ")
        pair = (int(shortest), int(longest)) if headways else None
        runs = Runs(int(first), int(last), int(count), days, pair)
        merged = runs if merged is None else _union(merged, runs)
    if merged is None:
        raise ValueError("a group has no payloads")
    return body, merged


def _union(one: Runs, other: Runs) -> Runs:
    week = week_text(left != "-" or right != "-" for left, right in zip(one.days, other.days, strict=True))
    pairs = [pair for pair in (one.headways, other.headways) if pair is not None]
    headways = (min(pair[0] for pair in pairs), max(pair[1] for pair in pairs)) if pairs else None
    return Runs(min(one.first, other.first), max(one.last, other.last), one.trips + other.trips, week, headways)


def _runs_text(runs: Runs) -> str:
    first, last = service_clock(runs.first), service_clock(runs.last)
    words = ["1 trip" if runs.trips == 1 else f"{runs.trips} trips", first if first == last else f"{first}-{last}"]
    if runs.headways is not None:
        shortest, longest = (f"{seconds / 60:.3g}" for seconds in runs.headways)
        words.append(f"every {shortest if shortest == longest else f'{shortest}-{longest}'} min")
    return " ".join(words)


def _entry(row: str) -> Entry:
    name, step, waiting = row.split(CELL_SEPARATOR)
    rest = "" if float(waiting) == 0 else f" wait {waiting}"
    if not step:
        return Entry(f"{name}{rest}")
    if step == "?":
        return Entry(f"{name} | +?{rest}")
    return Entry(f"{name} | ", step if step.startswith("-") else f"+{step}", rest)
