"""GTFS-realtime snapshots as files: what each says of stops, vehicles and, when asked, of stops that it leaves open.

Called by `realtime`, which joins the reports to a static feed. A snapshot that cannot be read is one DataError with its
name. Needs the extra `transit` (gtfs-realtime-bindings).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ...core.errors import DataError
from ...core.sources import Notices, label, open_bytes
from .clock import parse_day, parse_service_time
from .positions import position_steps, speed_text
from .rows import Asking, clean

MAX_SNAPSHOT_BYTES = 256 << 20
SUFFIXES = (".pb", ".pbf", ".protobuf", ".gtfsrt")
WHERE = "realtime snapshots"
"""What the notices about snapshots are called after."""
STOP_SEPARATOR, CELL_SEPARATOR = "\x1e", "\x1f"
_CANCELLED_TRIPS = (3, 7)
"""CANCELED and DELETED of TripDescriptor.ScheduleRelationship."""
_SKIPPED, _NO_DATA = 1, 2
"""Of StopTimeUpdate.ScheduleRelationship."""
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
    time: str = ""
    delay: str = ""
    asked: str = ""
    """Whose question this is (`rows.Asking.trip`), when the stop is open, or is if it lies ahead; else empty."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """How snapshots are asked about."""

    names: Sequence[Asking]
    """One per snapshot."""
    ahead: bool
    """Whether stops ask too that are predicted for a time after the snapshot was made."""


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


# --- from snapshots to reports ------------------------------------------------------------------


def read_reports(
    snapshots: Sequence[Snapshot], notices: Notices, alone: bool, inquiry: Inquiry | None
) -> Iterator[tuple[str, str]]:
    """(trip id, "\\t" and a kind and its packed cells) of every snapshot that can be read.

    The kinds are `update` (Update), `position` (Position; not for an `inquiry`) and, for an inquiry, `rest`: an Update
    and the stops of the trip that were named, for questions about those that were not. A damaged snapshot is left out
    and counted. Raises DataError when they are `alone`, without logs, and none can be read.
    """
    first_error: DataError | None = None
    good = damaged = 0
    for number, snapshot in enumerate(snapshots):
        try:
            message = read_snapshot(snapshot)
        except DataError as error:
            first_error = first_error or error
            damaged += 1
            continue
        good += 1
        if inquiry is None:
            yield from _entities(message, notices)
        else:
            yield from _open_entities(message, notices, inquiry.names[number], inquiry.ahead)
    if first_error is not None:
        if alone and not good:
            raise first_error
        notices.count(WHERE, f"left out (first: {first_error.message})", damaged)
    notices.count(WHERE, "read", good)


def _entities(message: Any, notices: Notices) -> Iterator[tuple[str, str]]:
    for entity in message.entity:
        if entity.HasField("trip_update"):
            yield from _updates(entity.trip_update, message.header.timestamp, notices)
        if entity.HasField("vehicle"):
            yield from _positions(entity.vehicle, message.header.timestamp, notices)
        if entity.HasField("alert"):
            notices.count(WHERE, "alerts, which are not serialised")


def _open_entities(message: Any, notices: Notices, asking: Asking, ahead: bool) -> Iterator[tuple[str, str]]:
    """The trip updates alone, each with what it leaves open."""
    for place, entity in enumerate(message.entity):
        if entity.HasField("trip_update"):
            asked = asking.trip(place)
            stamp = message.header.timestamp
            yield from _updates(entity.trip_update, stamp, notices, asked=asked, ahead=ahead)
            yield from _rest(entity.trip_update, stamp, asked)


def _updates(
    update: Any, stamp: int, notices: Notices, *, asked: str = "", ahead: bool = False
) -> Iterator[tuple[str, str]]:
    if update.trip.schedule_relationship in _CANCELLED_TRIPS:
        notices.count(WHERE, "cancelled trips, left out")
        return
    notices.count(WHERE, "trip updates")
    blank = _blank(update, stamp)
    for stop in update.stop_time_update:
        told = [event for event in (stop.arrival, stop.departure) if event.HasField("time") or event.HasField("delay")]
        is_open = stop.schedule_relationship == _NO_DATA or not told
        if stop.schedule_relationship == _SKIPPED or (is_open and not asked):
            notices.count(WHERE, "stops that are skipped or without data, left out")
            continue
        question = asked if is_open or ahead else ""
        report = blank._replace(place=_place(stop), stop_id=_text(stop.stop_id), asked=question)
        if not is_open:
            event = told[0]
            report = report._replace(
                time=str(event.time) if event.HasField("time") else "",
                delay=str(event.delay) if event.HasField("delay") else "",
            )
        yield _text(update.trip.trip_id), "\t".join(("", "update", *report))


def _rest(update: Any, stamp: int, asked: str) -> Iterator[tuple[str, str]]:
    """The stops that an update names, so that the join can ask about the others."""
    if update.trip.schedule_relationship in _CANCELLED_TRIPS:
        return
    named = [f"{_place(stop)}{CELL_SEPARATOR}{_text(stop.stop_id)}" for stop in update.stop_time_update]
    report = _blank(update, stamp)._replace(asked=asked)
    yield _text(update.trip.trip_id), "\t".join(("", "rest", *report, STOP_SEPARATOR.join(named)))


def _blank(update: Any, stamp: int) -> Update:
    """What all stops of an update share."""
    start = parse_service_time(_text(update.trip.start_time))
    return Update(
        stamp=f"{update.timestamp or stamp:020d}",
        day=parse_day(_text(update.trip.start_date)) or "",
        start="" if start is None else str(start),
        route_id=_text(update.trip.route_id),
        place="",
        stop_id="",
    )


def _place(stop: Any) -> str:
    return f"{stop.stop_sequence:012.2f}" if stop.HasField("stop_sequence") else ""


def _text(value: str | bytes) -> str:
    """A cleaned text; the bindings give bytes for one that is not UTF-8."""
    return clean(value.decode("utf-8", "replace") if isinstance(value, bytes) else value)


def _positions(vehicle: Any, stamp: int, notices: Notices) -> Iterator[tuple[str, str]]:
    position = vehicle.position
    steps = position_steps(position.latitude, position.longitude) if vehicle.HasField("position") else None
    if steps is None:
        notices.count(WHERE, "vehicles without a position, left out")
        return
    notices.count(WHERE, "vehicle positions")
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
