"""GTFS-realtime snapshots joined to the static feed that lies beside them: calls with delays, positions, questions.

Several snapshots of one trip tell one thing: what was reported last. The join is a sort, so memory does not grow with
the number of snapshots or with the feed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta, tzinfo
from itertools import chain
from typing import NamedTuple

from ...core.sources import Notices, group_spilling
from .clock import DAY_SECONDS, UNKNOWN_ZONE, local_moment, service_clock, service_start
from .feed import Feed, Names, StopTime, Trip, TripBuilder, TripRows, feed_zone, read_names
from .positions import Fix, position_key
from .rows import Window, call_origin, short_id
from .snapshots import CELL_SEPARATOR, STOP_SEPARATOR, WHERE, Inquiry, Position, Snapshot, Update, read_reports
from .trips import MAX_DELAY_MINUTES, Call, signed, trip_key

_TIMELESS = "stops with a delay but neither a time nor a schedule, left out"


def realtime_records(
    snapshots: Sequence[Snapshot],
    feeds: Sequence[Feed],
    window: Window,
    zone: tzinfo | None,
    notices: Notices,
    *,
    alone: bool,
    inquiry: Inquiry | None = None,
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Call or Fix) of what the snapshots tell. `zone` overrules the feeds'.

    With an `inquiry` there are no fixes, and a call carries its origin where the snapshots leave it open: a stop of an
    update without time and delay, or one that the update passes over, as long as its schedule is known.

    A damaged snapshot is left out and counted. Raises DataError when they are `alone`, without logs, and none can be
    read.
    """
    join = _Join([_Side(feed, zone) for feed in feeds], window, zone or UTC, notices)
    rows = [TripRows(side.feed, number, notices) for number, side in enumerate(join.sides)]
    names = ", ".join(feed.name for feed in feeds)
    for trip_id, payloads in group_spilling(chain(*rows, read_reports(snapshots, notices, alone, inquiry))):
        builder = TripBuilder(names, Notices())  # trips that no snapshot names are none of our business
        trips: Mapping[int, Trip] | None = None
        for payload in payloads:
            number, kind, *cells = payload.split("\t")
            if number:
                builder.add(int(number), kind, cells)
                continue
            if trips is None:
                trips = builder.trips() if trip_id else {}
            if not feeds:
                notices.count(WHERE, "reports with ids in place of names, no static feed lies beside them")
                if zone is None:
                    notices.count(WHERE, UNKNOWN_ZONE)
            yield from join.records(kind, cells, trip_id, trips)


class _Side:
    """What the join needs of a feed."""

    def __init__(self, feed: Feed, zone: tzinfo | None) -> None:
        self.feed = feed
        self.names: Names = read_names(feed)
        self.zone: tzinfo = zone or feed_zone(feed) or UTC


@dataclass(frozen=True, slots=True)
class _Join:
    """The feeds, and how a report becomes a record."""

    sides: Sequence[_Side]
    window: Window
    zone: tzinfo
    """Where no feed tells one."""
    notices: Notices

    def records(
        self, kind: str, cells: Sequence[str], trip_id: str, trips: Mapping[int, Trip]
    ) -> Iterator[tuple[str, str]]:
        """The records of one report."""
        if kind == "position":
            records = [self._fix(Position(*cells), trips)]
        elif kind == "update":
            records = [self._call(trip_id, Update(*cells), trips)]
        else:
            records = [
                self._call(trip_id, each, trips) for each in self._passed_over(Update(*cells[:-1]), cells[-1], trips)
            ]
        yield from (record for record in records if record is not None)

    def _call(self, trip_id: str, update: Update, trips: Mapping[int, Trip]) -> tuple[str, str] | None:
        """One stop of a trip with its delay, if it can be told; the delay that the publisher states comes first."""
        number = _matching(update, trips)
        trip = trips.get(number)
        side = self.sides[number] if trip is not None else _knowing(update.stop_id, self.sides)
        names = side.names if side is not None else Names()
        stop, planned, headsign = _scheduled(update, trip)
        stop_id = update.stop_id if stop is None else stop.stop_id
        times = self._times(update, planned, side.zone if side is not None else self.zone)
        if times is None:
            return None
        route = names.route(update.route_id or (trip.route_id if trip is not None else ""))
        if trip is None and self.sides:
            self.notices.count(WHERE, "stops of trips that the static feed does not know")
        minutes = None if times.planned is None or times.seen is None else (times.seen - times.planned) / 60
        known = times.planned if times.planned is not None else times.seen
        call = Call(
            trip=f"{trip_id} {update.start}" if trip_id else f"{update.route_id} {update.start}",
            order=update.place if stop is None else f"{stop.place:012.2f}",
            moment=str(known),
            stop=names.stops.get(stop_id, stop_id),
            delay="" if minutes is None else signed(minutes),
            seen="" if times.seen is None else str(times.seen),
            label=short_id(trip_id),
            headsign=headsign,
            stamp=update.stamp,
            origin=_origin(trip_id, update, trip, stop) if times.seen is None else "",
        )
        return trip_key(times.day, route.line), "\t".join(call)

    def _times(self, update: Update, planned: int | None, zone: tzinfo) -> _Times | None:
        """When a stop was scheduled and when the vehicle was there; None, and counted, where that cannot be told."""
        time = int(update.time) if update.time else None
        delay = int(update.delay) if update.delay else None
        is_open = time is None and delay is None
        if time is None and planned is None:
            what = "open stops without a schedule, not asked" if is_open else _TIMELESS
            self.notices.count(WHERE, what)
            return None
        day = update.day or _service_day(int(update.stamp) if time is None else time, planned, zone)
        if day is None:
            self.notices.count(WHERE, "stops whose day is told neither by the trip nor by a clock, left out")
        if day is None or not self.window.holds(day):
            return None
        start = service_start(day, zone)
        if time is None and planned is not None and delay is not None:
            time = int(start) + planned + delay
        if time is None:
            return _Times(day, planned, None)
        seen = int(time - start)
        if delay is not None:
            planned = seen - delay
        if abs(seen) > 4 * DAY_SECONDS or (planned is not None and abs(seen - planned) > 60 * MAX_DELAY_MINUTES):
            self.notices.count(WHERE, "stops more than a day from their schedule, left out")
            return None
        if planned is None:
            self.notices.count(WHERE, "stops without a delay whose trip no static feed knows; only the time is used")
        elif update.asked and time > int(update.stamp):
            return _Times(day, planned, None)
        return _Times(day, planned, seen)

    def _passed_over(self, update: Update, named: str, trips: Mapping[int, Trip]) -> Iterator[Update]:
        """The stops of a trip that its update does not name, after the first that it does; all when it names none."""
        stops = [stop.split(CELL_SEPARATOR) for stop in named.split(STOP_SEPARATOR)] if named else []
        probe = update._replace(stop_id=stops[0][1]) if stops else update
        trip = trips.get(_matching(probe, trips))
        if trip is None:
            self.notices.count(WHERE, "trips that no static feed knows, asked about no further stops")
            return
        found = [_find_stop(trip, place, stop_id) for place, stop_id in stops]
        places = {stop.place for stop in found if stop is not None}
        for stop in trip.stops:
            if stop.place not in places and (not places or stop.place > min(places)):
                yield update._replace(place=f"{stop.place:012.2f}", stop_id=stop.stop_id)

    def _fix(self, position: Position, trips: Mapping[int, Trip]) -> tuple[str, str] | None:
        number = next(iter(trips), -1) if len(trips) == 1 else -1
        side = self.sides[number] if number >= 0 else _knowing(position.stop_id, self.sides)
        names = side.names if side is not None else Names()
        moment = local_moment(int(position.stamp), side.zone if side is not None else self.zone)
        if moment is None or not int(position.stamp):
            self.notices.count(WHERE, "vehicles without a time, left out")
            return None
        if not self.window.holds(moment[0]):
            return None
        route = names.route(position.route_id or (trips[number].route_id if number >= 0 else ""))
        stop = names.stops.get(position.stop_id, position.stop_id)
        fix = Fix(
            vehicle=position.vehicle,
            direction=position.direction,
            second=str(moment[1]),
            north=position.north,
            east=position.east,
            speed=position.speed,
            status=position.status if stop else "",
            stop=stop,
        )
        return position_key(moment[0], route.line), "\t".join(fix)


class _Times(NamedTuple):
    """Seconds of the service day at a stop."""

    day: str
    planned: int | None
    seen: int | None
    """None for a stop that is asked about."""


def _origin(trip_id: str, update: Update, trip: Trip | None, stop: StopTime | None) -> str:
    """Sorts by snapshot, update and stop; the name holds what another program needs to find the stop again."""
    index = trip.stops.index(stop) if trip is not None and stop is not None else 0
    place = update.place if stop is None else f"{stop.place}"
    words = ["trip", trip_id]
    words += ["at", service_clock(int(update.start))] if update.start else []
    words += ["sequence", f"{float(place):g}"] if place else []
    words += ["stop", update.stop_id if stop is None else stop.stop_id]
    return call_origin(update.asked, index, " ".join(words))


def _matching(update: Update, trips: Mapping[int, Trip]) -> int:
    """The feed whose trip of this id serves the stop; ids such as "101" occur in several feeds. -1 for none."""
    for number, trip in trips.items():
        if update.route_id and trip.route_id != update.route_id:
            continue
        if not update.stop_id or any(stop.stop_id == update.stop_id for stop in trip.stops):
            return number
    return -1


def _knowing(stop_id: str, joins: Sequence[_Side]) -> _Side | None:
    """The one feed that there is, or the one that knows the stop."""
    found = joins if len(joins) == 1 else [side for side in joins if stop_id and stop_id in side.names.stops]
    return found[0] if len(found) == 1 else None


def _scheduled(update: Update, trip: Trip | None) -> tuple[StopTime | None, int | None, str]:
    """The stop of the trip, its scheduled second of the service day, and the headsign."""
    if trip is None:
        return None, None, ""
    stop = _find_stop(trip, update.place, update.stop_id)
    headsign = trip.headsign or next((each.headsign for each in trip.stops if each.headsign), "")
    if stop is None:
        return None, None, headsign
    planned = stop.arrival if stop.arrival is not None else stop.departure
    if planned is not None and trip.windows and update.start:  # the times of a trip by frequency only tell distances
        first = trip.stops[0].departure if trip.stops[0].departure is not None else trip.stops[0].arrival
        planned += int(update.start) - (first or 0)
    return stop, planned, headsign


def _find_stop(trip: Trip, place: str, stop_id: str) -> StopTime | None:
    """The stop of a trip by its place, else by its id; None when there is none, or another one in its place."""
    stops = [stop for stop in trip.stops if place and f"{stop.place:012.2f}" == place]
    stops += [stop for stop in trip.stops if stop.stop_id == stop_id]
    return next((stop for stop in stops if not stop_id or stop.stop_id == stop_id), None)


def _service_day(time: int | None, planned: int | None, zone: tzinfo) -> str | None:
    """The calendar day of an event, or the day before when its schedule (25:39) says so."""
    moment = None if time is None else local_moment(time, zone)
    if time is None or moment is None:
        return None
    if planned is None:
        return moment[0]
    days = [(date.fromisoformat(moment[0]) + timedelta(days=shift)).isoformat() for shift in (0, -1, 1)]
    return min(days, key=lambda day: abs(service_start(day, zone) + planned - time))
