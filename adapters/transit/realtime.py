"""GTFS-realtime snapshots: trip updates and vehicle positions, joined to the static feed that lies beside them.

Several snapshots of one trip tell one thing: what was reported last. The join is a sort, so memory does not grow with
the number of snapshots or with the feed. Needs the extra `transit` (gtfs-realtime-bindings).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta, tzinfo
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import DataError
from ...core.sources import Notices, group_spilling, label, open_bytes
from .clock import DAY_SECONDS, UNKNOWN_ZONE, local_moment, parse_day, parse_service_time, service_start
from .feed import Feed, Names, Trip, TripBuilder, TripRows, feed_zone, read_names
from .positions import Fix, position_key, position_steps, speed_text
from .rows import Window, clean, short_id
from .trips import MAX_DELAY_MINUTES, Call, signed, trip_key

MAX_SNAPSHOT_BYTES = 256 << 20
SUFFIXES = (".pb", ".pbf", ".protobuf", ".gtfsrt")
_WHERE = "realtime snapshots"
_CANCELLED_TRIPS = (3, 7)
"""CANCELED and DELETED of TripDescriptor.ScheduleRelationship."""
_UNTOLD_STOPS = (1, 2)
"""SKIPPED and NO_DATA of StopTimeUpdate.ScheduleRelationship."""
_STATUS_WORDS = ("near", "at", "to")
"""INCOMING_AT, STOPPED_AT and IN_TRANSIT_TO of VehiclePosition.VehicleStopStatus."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file, or a member of an archive, that should be a GTFS-realtime message."""

    path: Path
    member: str

    @property
    def name(self) -> str:
        return label(self.path, self.member)


class Update(NamedTuple):
    """What a snapshot says of one stop of one trip, as it travels through the join."""

    stamp: str
    day: str
    start: str
    """Second of the service day at which this run of a trip by frequency starts; empty when not told."""
    route_id: str
    place: str
    stop_id: str
    time: str
    delay: str


class Position(NamedTuple):
    """What a snapshot says of one vehicle."""

    stamp: str
    route_id: str
    vehicle: str
    direction: str
    north: str
    east: str
    speed: str
    stop_id: str
    status: str


def require_bindings(name: str) -> Any:
    """The module that reads the protobuf of `name`. Raises DataError when the extra is not installed."""
    try:
        from google.transit import gtfs_realtime_pb2
    except ImportError as error:
        raise DataError(
            f"{name}: GTFS-realtime needs the package gtfs-realtime-bindings",
            "pip install 'slm-ar[transit]', or move the snapshots out of the source.",
        ) from error
    return gtfs_realtime_pb2


def read_snapshot(snapshot: Snapshot) -> Any:
    """The FeedMessage of a file. Raises DataError when it is none, cut off or too large, or the extra is missing."""
    bindings = require_bindings(snapshot.name)
    decode_error = import_module("google.protobuf.message").DecodeError  # it comes without types
    with open_bytes(snapshot.path, snapshot.member) as stream:
        content = stream.read(MAX_SNAPSHOT_BYTES + 1)
    if not content:
        raise DataError(f"{snapshot.name}: the file is empty (0 bytes)", "Download it again or remove it.")
    if len(content) > MAX_SNAPSHOT_BYTES:
        raise DataError(f"{snapshot.name}: is larger than {MAX_SNAPSHOT_BYTES:,} bytes", "That is no single snapshot.")
    if content.lstrip()[:1] in (b"<", b"{"):
        raise DataError(
            f"{snapshot.name}: is text (a web page or JSON) under the name of a protobuf",
            "The download probably answered with an error page, or with JSON: download it again as protobuf.",
        )
    try:
        message = bindings.FeedMessage.FromString(content)
    except decode_error as error:
        raise DataError(
            f"{snapshot.name}: is not a whole GTFS-realtime message ({len(content):,} bytes, cut off)",
            "Download it again or remove it.",
        ) from error
    if not message.IsInitialized():
        raise DataError(
            f"{snapshot.name}: is a protobuf, but no GTFS-realtime message", "Download it again or remove it."
        )
    return message


def realtime_records(
    snapshots: Sequence[Snapshot],
    feeds: Sequence[Feed],
    window: Window,
    zone: tzinfo | None,
    notices: Notices,
    *,
    alone: bool,
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Call or Fix) of what the snapshots tell. `zone` overrules the feeds'.

    A damaged snapshot is left out and counted. Raises DataError when they are `alone`, without logs, and none can be
    read.
    """
    joins = [_Side(feed, zone) for feed in feeds]
    rows = [TripRows(side.feed, number, notices) for number, side in enumerate(joins)]
    names = ", ".join(feed.name for feed in feeds)
    for trip_id, payloads in group_spilling(chain(*rows, _reports(snapshots, notices, alone))):
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
                notices.count(_WHERE, "reports with ids in place of names, no static feed lies beside them")
                if zone is None:
                    notices.count(_WHERE, UNKNOWN_ZONE)
            record: tuple[str, str] | None
            if kind == "update":
                record = _call(trip_id, Update(*cells), trips, joins, window, zone or UTC, notices)
            else:
                record = _fix(Position(*cells), trips, joins, window, zone or UTC, notices)
            if record is not None:
                yield record


class _Side:
    """What the join needs of a feed."""

    def __init__(self, feed: Feed, zone: tzinfo | None) -> None:
        self.feed = feed
        self.names: Names = read_names(feed)
        self.zone: tzinfo = zone or feed_zone(feed) or UTC


# --- from snapshots to reports ------------------------------------------------------------------


def _reports(snapshots: Sequence[Snapshot], notices: Notices, alone: bool) -> Iterator[tuple[str, str]]:
    """(trip id, packed Update or Position) of every snapshot that can be read. See `realtime_records`."""
    first_error: DataError | None = None
    good = damaged = 0
    for snapshot in snapshots:
        try:
            message = read_snapshot(snapshot)
        except DataError as error:
            first_error = first_error or error
            damaged += 1
            continue
        good += 1
        yield from _entities(message, notices)
    if first_error is not None:
        if alone and not good:
            raise first_error
        notices.count(_WHERE, f"left out (first: {first_error.message})", damaged)
    notices.count(_WHERE, "read", good)


def _entities(message: Any, notices: Notices) -> Iterator[tuple[str, str]]:
    for entity in message.entity:
        if entity.HasField("trip_update"):
            yield from _updates(entity.trip_update, message.header.timestamp, notices)
        if entity.HasField("vehicle"):
            yield from _positions(entity.vehicle, message.header.timestamp, notices)
        if entity.HasField("alert"):
            notices.count(_WHERE, "alerts, which are not serialised")


def _updates(update: Any, stamp: int, notices: Notices) -> Iterator[tuple[str, str]]:
    trip = update.trip
    if trip.schedule_relationship in _CANCELLED_TRIPS:
        notices.count(_WHERE, "cancelled trips, left out")
        return
    notices.count(_WHERE, "trip updates")
    start = parse_service_time(_text(trip.start_time))
    for stop in update.stop_time_update:
        told = [event for event in (stop.arrival, stop.departure) if event.HasField("time") or event.HasField("delay")]
        if stop.schedule_relationship in _UNTOLD_STOPS or not told:
            notices.count(_WHERE, "stops that are skipped or without data, left out")
            continue
        event = told[0]
        report = Update(
            stamp=f"{update.timestamp or stamp:020d}",
            day=parse_day(_text(trip.start_date)) or "",
            start="" if start is None else str(start),
            route_id=_text(trip.route_id),
            place=f"{stop.stop_sequence:012.2f}" if stop.HasField("stop_sequence") else "",
            stop_id=_text(stop.stop_id),
            time=str(event.time) if event.HasField("time") else "",
            delay=str(event.delay) if event.HasField("delay") else "",
        )
        yield _text(trip.trip_id), "\t".join(("", "update", *report))


def _text(value: str | bytes) -> str:
    """A cleaned text; the bindings give bytes for one that is not UTF-8."""
    return clean(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)


def _positions(vehicle: Any, stamp: int, notices: Notices) -> Iterator[tuple[str, str]]:
    position = vehicle.position
    steps = position_steps(position.latitude, position.longitude) if vehicle.HasField("position") else None
    if steps is None:
        notices.count(_WHERE, "vehicles without a position, left out")
        return
    notices.count(_WHERE, "vehicle positions")
    report = Position(
        stamp=str(vehicle.timestamp or stamp),
        route_id=_text(vehicle.trip.route_id),
        vehicle=_text(vehicle.vehicle.id or vehicle.vehicle.label or vehicle.trip.trip_id),
        direction=str(vehicle.trip.direction_id) if vehicle.trip.HasField("direction_id") else "",
        north=str(steps[0]),
        east=str(steps[1]),
        speed=speed_text(position.speed) if position.HasField("speed") else "",
        stop_id=_text(vehicle.stop_id),
        status=_STATUS_WORDS[vehicle.current_status],
    )
    yield _text(vehicle.trip.trip_id), "\t".join(("", "position", *report))


# --- from reports to records ----------------------------------------------------------------------


def _call(
    trip_id: str,
    update: Update,
    trips: Mapping[int, Trip],
    joins: Sequence[_Side],
    window: Window,
    zone: tzinfo,
    notices: Notices,
) -> tuple[str, str] | None:
    """One stop of a trip with its delay, if it can be told; the delay that the publisher states comes first."""
    number = _matching(update, trips)
    trip = trips.get(number)
    side = joins[number] if trip is not None else _knowing(update.stop_id, joins)
    names = side.names if side is not None else Names()
    zone = side.zone if side is not None else zone
    stop_id, planned, headsign = _scheduled(update, trip)
    time = int(update.time) if update.time else None
    delay = int(update.delay) if update.delay else None
    if time is None and planned is None:
        notices.count(_WHERE, "stops with a delay but neither a time nor a schedule, left out")
        return None
    day = update.day or _service_day(time, planned, zone)
    if day is None or not window.holds(day):
        return None
    if time is None and planned is not None and delay is not None:
        time = int(service_start(day, zone)) + planned + delay
    if time is None:
        return None
    seen = time - service_start(day, zone)
    if delay is not None:
        planned = int(seen) - delay
    if planned is None:
        notices.count(_WHERE, "stops without a delay whose trip no static feed knows; only the time is used")
    minutes = None if planned is None else (seen - planned) / 60
    if abs(seen) > 4 * DAY_SECONDS or (minutes is not None and abs(minutes) > MAX_DELAY_MINUTES):
        notices.count(_WHERE, "stops more than a day from their schedule, left out")
        return None
    route = names.route(update.route_id or (trip.route_id if trip is not None else ""))
    if trip is None and joins:
        notices.count(_WHERE, "stops of trips that the static feed does not know")
    call = Call(
        trip=f"{trip_id} {update.start}" if trip_id else f"{update.route_id} {update.start}",
        order=update.place,
        moment=str(int(seen) if planned is None else planned),
        stop=names.stops.get(stop_id, stop_id),
        delay="" if minutes is None else signed(minutes),
        seen=str(int(seen)),
        label=short_id(trip_id),
        headsign=headsign,
        stamp=update.stamp,
    )
    return trip_key(day, route.line), "\t".join(call)


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


def _scheduled(update: Update, trip: Trip | None) -> tuple[str, int | None, str]:
    """Stop id, scheduled second of the service day and headsign; by place in the trip first, then by stop."""
    if trip is None:
        return update.stop_id, None, ""
    stops = [stop for stop in trip.stops if update.place and f"{stop.place:012.2f}" == update.place]
    stops += [stop for stop in trip.stops if stop.stop_id == update.stop_id]
    stop = next((stop for stop in stops if not update.stop_id or stop.stop_id == update.stop_id), None)
    headsign = trip.headsign or next((each.headsign for each in trip.stops if each.headsign), "")
    if stop is None:
        return update.stop_id, None, headsign
    planned = stop.arrival if stop.arrival is not None else stop.departure
    if planned is not None and trip.windows and update.start:  # the times of a trip by frequency only tell distances
        first = trip.stops[0].departure if trip.stops[0].departure is not None else trip.stops[0].arrival
        planned += int(update.start) - (first or 0)
    return stop.stop_id, planned, headsign


def _service_day(time: int | None, planned: int | None, zone: tzinfo) -> str | None:
    """The calendar day of an event, or the day before when its schedule (25:39) says so."""
    moment = None if time is None else local_moment(time, zone)
    if time is None or moment is None:
        return None
    if planned is None:
        return moment[0]
    days = [(date.fromisoformat(moment[0]) + timedelta(days=shift)).isoformat() for shift in (0, -1, 1)]
    return min(days, key=lambda day: abs(service_start(day, zone) + planned - time))


def _fix(
    position: Position,
    trips: Mapping[int, Trip],
    joins: Sequence[_Side],
    window: Window,
    zone: tzinfo,
    notices: Notices,
) -> tuple[str, str] | None:
    number = next(iter(trips), -1) if len(trips) == 1 else -1
    side = joins[number] if number >= 0 else _knowing(position.stop_id, joins)
    names = side.names if side is not None else Names()
    moment = local_moment(int(position.stamp), side.zone if side is not None else zone)
    if moment is None or not int(position.stamp):
        notices.count(_WHERE, "vehicles without a time, left out")
        return None
    if not window.holds(moment[0]):
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
        place=f"{position.status} {stop}" if stop else "",
    )
    return position_key(moment[0], route.line), "\t".join(fix)
