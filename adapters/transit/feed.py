"""Static GTFS feeds: their tables, names, service days and trips, for `schedule`, `realtime` and logs with ids.

A feed is a folder or an archive (or a folder in one) whose files may share a prefix, such as `vta_Static_stops.txt`.
stop_times.txt is joined to trips.txt by sorting, so memory does not grow with the feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, tzinfo
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zoneinfo import ZoneInfo

from ...core.errors import DataError
from ...core.sources import Notices, label, open_bytes, read_table
from .clock import parse_day, parse_float, parse_service_time
from .columns import plain
from .rows import clean

TRIPS, STOP_TIMES, STOPS, ROUTES, AGENCY = "trips.txt", "stop_times.txt", "stops.txt", "routes.txt", "agency.txt"
CALENDAR, CALENDAR_DATES, FREQUENCIES = "calendar.txt", "calendar_dates.txt", "frequencies.txt"
TABLES = (TRIPS, STOP_TIMES, STOPS, ROUTES, AGENCY, CALENDAR, CALENDAR_DATES, FREQUENCIES)
WEEK = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
WEEK_LETTERS = "MTWTFSS"
MODES = {0: "tram", 1: "subway", 2: "train", 3: "bus", 4: "ferry", 5: "tram", 11: "bus", 12: "train"}
EXTENDED_MODES = {1: "train", 2: "bus", 4: "subway", 7: "bus", 8: "bus", 9: "tram", 10: "ferry"}
"""By the hundreds of the extended route types, such as 700 for buses."""
MAX_DEPARTURES = 24 * 3600
"""Of one trip by frequency: one a second, for a day."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A static feed, or the tables of one that are there."""

    name: str
    folder: Path
    """Where it lies: logs and snapshots in the same folder belong to it."""
    tables: Mapping[str, tuple[Path, str]]
    """Name of the table -> file and member."""

    @property
    def is_timetable(self) -> bool:
        return TRIPS in self.tables and STOP_TIMES in self.tables

    def rows(
        self, table: str, columns: Sequence[str], notices: Notices | None = None, needed: int = 1
    ) -> Iterator[tuple[str, ...]]:
        """Cleaned cells of `columns` ("" for a column that is not there); nothing when the table is missing.

        Raises DataError when one of the first `needed` columns is missing.
        """
        if table not in self.tables:
            return
        path, member = self.tables[table]
        if table not in (TRIPS, STOP_TIMES) and _is_empty(path, member):
            if notices is not None:
                notices.count(label(path, member), "empty files of a feed, taken as missing")
            return
        rows = read_table(path, member=member, notices=notices)
        known = {plain(column): column for column in reversed(rows.columns)}
        named = [known.get(plain(column), "") for column in columns]
        for column, found in zip(columns[:needed], named, strict=False):
            if not found:
                raise DataError(
                    f"{rows.name}: has no column '{column}', which a static GTFS feed needs",
                    "Its columns are: " + ", ".join(rows.columns)[:300],
                )
        for row in rows:
            yield tuple(clean(row.get(column, "")) for column in named)


def _is_empty(path: Path, member: str) -> bool:
    with open_bytes(path, member) as stream:
        return not stream.read(64).strip()


def feed_part(name: str) -> tuple[str, str] | None:
    """(prefix, table) of a file that may belong to a feed: `vta_Static_stops.txt` is ("vta_static_", "stops.txt")."""
    lower = PurePosixPath(name).name.lower()
    for table in sorted(TABLES, key=len, reverse=True):
        prefix = lower.removesuffix(table)
        if prefix != lower and not prefix[-1:].isalnum():
            return prefix, table
    return None


# --- names ------------------------------------------------------------------------------------


class Route(NamedTuple):
    """What people call a route."""

    line: str
    title: str
    """Short and long name."""
    mode: str


@dataclass(frozen=True, slots=True)
class Names:
    """What ids mean."""

    stops: Mapping[str, str] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)

    @property
    def lines(self) -> dict[str, str]:
        """Route id -> line."""
        return {route_id: route.line for route_id, route in self.routes.items()}

    def route(self, route_id: str) -> Route:
        """A route that the feed does not know is called by its id."""
        return self.routes.get(route_id) or Route(route_id, route_id, "line")


def read_names(feed: Feed, notices: Notices | None = None) -> Names:
    """Names of stops and routes. A stop without a name has that of its station, else its id."""
    stops: dict[str, str] = {}
    parents: dict[str, str] = {}
    for stop_id, name, parent in feed.rows(STOPS, ("stop_id", "stop_name", "parent_station"), notices):
        stops[stop_id] = name
        if not name and parent:
            parents[stop_id] = parent
    for stop_id, parent in parents.items():
        stops[stop_id] = stops.get(parent, "")
    routes = {}
    columns = ("route_id", "route_short_name", "route_long_name", "route_type")
    for route_id, short, long, kind in feed.rows(ROUTES, columns, notices):
        title = long if short in long.split() else f"{short} {long}".strip()
        routes[route_id] = Route(short or long or route_id, title or route_id, _mode(kind))
    return Names({stop_id: name or stop_id for stop_id, name in stops.items()}, routes)


def _mode(route_type: str) -> str:
    number = parse_float(route_type)
    if number is None:
        return "line"
    return MODES.get(int(number)) or EXTENDED_MODES.get(int(number) // 100) or "line"


def feed_zone(feed: Feed) -> tzinfo | None:
    """The feed's timezone, if it tells one that is known here."""
    for (name,) in feed.rows(AGENCY, ("agency_timezone",), needed=0):
        zone = zone_named(name)
        if zone is not None:
            return zone
    return None


def zone_named(name: str) -> tzinfo | None:
    """The timezone of an IANA name such as Europe/Zurich; None when there is none."""
    try:
        return ZoneInfo(name) if name else None
    except (KeyError, OSError, ValueError):  # unknown, the name of a folder of zones, not a name at all
        return None


def service_days(feed: Feed, notices: Notices | None = None) -> dict[str, str]:
    """Service id -> its weekdays, like `MTWTF--`. Services without any in calendar.txt get those of their dates."""
    days: dict[str, list[bool]] = {}
    for service, *flags in feed.rows(CALENDAR, ("service_id", *WEEK), notices):
        days[service] = [flag == "1" for flag in flags]
    dated: dict[str, list[bool]] = {}
    for service, day, exception in feed.rows(CALENDAR_DATES, ("service_id", "date", "exception_type"), notices):
        iso = parse_day(day)
        if iso is not None and exception != "2" and not any(days.get(service, ())):
            dated.setdefault(service, [False] * 7)[date.fromisoformat(iso).weekday()] = True
    return {service: week_text(flags) for service, flags in {**days, **dated}.items()}


def week_text(flags: Iterable[bool]) -> str:
    return "".join(letter if flag else "-" for letter, flag in zip(WEEK_LETTERS, flags, strict=True))


# --- trips ------------------------------------------------------------------------------------


class StopTime(NamedTuple):
    """A stop of a trip; seconds of the service day, None when blank."""

    place: float
    stop_id: str
    arrival: int | None
    departure: int | None
    headsign: str


class Frequency(NamedTuple):
    """A span of the day in which a trip runs every `headway` seconds."""

    start: int
    end: int
    headway: int


@dataclass(frozen=True, slots=True)
class Trip:
    """A trip with its stops in order."""

    route_id: str
    service_id: str
    headsign: str
    direction: str
    windows: tuple[Frequency, ...]
    stops: tuple[StopTime, ...]


class TripRows:
    """The rows of a feed as records to be grouped by trip id. `has_seconds` is known when all were read."""

    def __init__(self, feed: Feed, number: int, notices: Notices) -> None:
        self.feed, self.number, self.notices = feed, number, notices
        self.has_seconds = False
        self.trip_count = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        lead = f"{self.number}\t"
        trip_columns = ("trip_id", "route_id", "service_id", "trip_headsign", "direction_id")
        for trip_id, *cells in self.feed.rows(TRIPS, trip_columns, self.notices, needed=2):
            self.trip_count += 1
            yield trip_id, "\t".join((f"{lead}trip", *cells))
        window_columns = ("trip_id", "start_time", "end_time", "headway_secs")
        for trip_id, *cells in self.feed.rows(FREQUENCIES, window_columns, self.notices, needed=4):
            yield trip_id, "\t".join((f"{lead}window", *cells))
        stop_columns = ("trip_id", "stop_id", "stop_sequence", "arrival_time", "departure_time", "stop_headsign")
        for trip_id, *cells in self.feed.rows(STOP_TIMES, stop_columns, self.notices, needed=3):
            for time in cells[2:4]:
                if not self.has_seconds and (parse_service_time(time) or 0) % 60:
                    self.has_seconds = True
            yield trip_id, "\t".join((f"{lead}stop", *cells))


class TripBuilder:
    """Collects the records of one trip id, of one feed or of several that use the same id."""

    def __init__(self, name: str, notices: Notices) -> None:
        self._name, self._notices = name, notices
        self._trips: dict[int, list[str]] = {}
        self._windows: dict[int, list[Frequency]] = {}
        self._stops: dict[int, list[StopTime]] = {}

    def add(self, number: int, kind: str, cells: Sequence[str]) -> None:
        """Take one record that `TripRows` wrote."""
        if kind == "trip":
            if number in self._trips:
                self._count("trips with an id that occurs twice, the first one was taken")
            self._trips.setdefault(number, list(cells))
        elif kind == "window":
            self._add_window(number, cells)
        else:
            self._add_stop(number, cells)

    def _add_window(self, number: int, cells: Sequence[str]) -> None:
        start, end, headway = parse_service_time(cells[0]), parse_service_time(cells[1]), parse_float(cells[2])
        if start is None or end is None or end <= start or headway is None or headway < 1:
            self._count("unreadable frequencies, left out")
        else:
            self._windows.setdefault(number, []).append(Frequency(start, end, int(headway)))

    def _add_stop(self, number: int, cells: Sequence[str]) -> None:
        stop_id, place, arrival, departure, headsign = cells
        number_of_place = parse_float(place)
        times = [parse_service_time(cell) for cell in (arrival, departure)]
        if any(cell and time is None for cell, time in zip((arrival, departure), times, strict=True)):
            self._count("unreadable times, taken as blank")
        if number_of_place is None or not stop_id:
            self._count("stop times without a stop or its place in the trip, left out")
            return
        self._stops.setdefault(number, []).append(StopTime(number_of_place, stop_id, times[0], times[1], headsign))

    def trips(self) -> dict[int, Trip]:
        """The trips of this id by the number of their feed."""
        found = {}
        for number, stops in self._stops.items():
            if number not in self._trips:
                self._count("trips of stop_times.txt that trips.txt does not know, left out")
                continue
            stops.sort(key=lambda stop: stop.place)
            route_id, service_id, headsign, direction = self._trips[number]
            windows = tuple(sorted(self._windows.get(number, ())))
            found[number] = Trip(route_id, service_id, headsign, direction, windows, tuple(stops))
        if any(number not in self._stops for number in self._trips):
            self._count("trips without stop times, left out")
        return found

    def _count(self, what: str) -> None:
        self._notices.count(self._name, what)
