"""A synthetic city: a timetable, weather, incidents and late vehicles, written in the formats of real publishers.

It serves the demo and the tests, needs no network, and is a function of its seed. What can be learned: rush hours,
weekdays, slow lines and stops, bad days (the weather has a memory), knock-on from stop to stop and from trip to trip,
and incidents that delay what follows. The rest is noise.
"""

from __future__ import annotations

import csv
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from random import Random

FIRST_DAY = "2023-01-02"
DEFAULT_DAYS = 400
STOP_PLACE = (46.75, 7.62)
ZIP_TIME = (2023, 1, 1, 0, 0, 0)
"""Fixed, so that the same seed gives the same bytes."""
SERVICES = {"weekday": (0, 1, 2, 3), "friday": (4,), "saturday": (5,), "sunday": (6,)}
LONG_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the city. Times are minutes."""

    number: str
    mode: str
    stops: tuple[str, ...]
    hops: tuple[int, ...]
    """Scheduled minutes from the first departure to each stop."""
    offset: int
    """Minutes by which its timetable is shifted."""
    weather_minutes: float
    """Delay that a unit of bad weather adds per stop."""
    rush_minutes: float
    stop_minutes: tuple[float, ...]
    """Delay that each stop adds on an ordinary day."""


LINES = (
    Line(
        "1",
        "bus",
        ("Harbour", "Old Mill", "Market Square", "North Gate"),
        (0, 9, 15, 24),
        0,
        0.5,
        1.1,
        (0, 0.3, 0.8, 0.2),
    ),
    Line(
        "4",
        "bus",
        ("University", "Market Square", "Café Corner", "West Park"),
        (0, 7, 12, 21),
        11,
        0.3,
        0.7,
        (0, 0.6, 0, 0),
    ),
    Line(
        "12",
        "streetcar",
        ("Central", "Nordbrücke", "Stadium", "Lake View"),
        (0, 6, 14, 20),
        4,
        0.7,
        0.4,
        (0, 0, 0.9, 0.1),
    ),
)

WEEKDAY_STARTS = (365, 440, 475, 620, 790, 970, 1015, 1200)
WEEKEND_STARTS = (440, 650, 830, 1010, 1180)
NIGHT_START = 1425
"""The last trip of line 12 on Friday and Saturday runs past midnight and stays on its service day."""

CAUSES = {
    "bus": (
        ("Mechanical", 12, 5),
        ("Operations", 10, 4),
        ("Diversion", 34, 1),
        ("Security", 8, 2),
        ("Collision", 21, 1),
    ),
    "streetcar": (
        ("Mechanical", 9, 4),
        ("Operations", 8, 4),
        ("Held By", 26, 1),
        ("Overhead", 18, 1),
        ("Security", 7, 2),
    ),
}
"""Per mode: cause, usual delay in minutes, weight."""
WEATHER_CAUSES = frozenset({"Diversion", "Collision", "Overhead"})
"""These are three times as likely on a bad day."""
HOUR_WEIGHTS = (1, 0, 0, 0, 0, 2, 4, 7, 8, 5, 4, 4, 5, 5, 6, 8, 9, 8, 6, 4, 3, 3, 2, 1)


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident of a service day; `minute` counts from midnight."""

    line: Line
    minute: int
    stop: str
    bound: str
    cause: str
    delay: int
    gap: int
    vehicle: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """One arrival; `seconds` is the delay."""

    line: Line
    trip: int
    stop: int
    minute: int
    seconds: int


def write_city(
    folder: Path, *, seed: int = 0, days: int = DEFAULT_DAYS, start: str = FIRST_DAY, lines: int = len(LINES)
) -> None:
    """Write gtfs.zip, arrivals/ (ist-daten csv, one file per service day) and incidents/ (TTC csv) into `folder`.

    `lines` takes the first one, two or three lines. The default serialises to about 1.2 MB, 3 kB a service day.
    """
    served = LINES[:lines]
    (folder / "arrivals").mkdir(parents=True, exist_ok=True)
    (folder / "incidents").mkdir(parents=True, exist_ok=True)
    _write_gtfs(folder / "gtfs.zip", served)
    logs: dict[str, list[str]] = {}
    for day, incidents, arrivals in _service_days(Random(f"city {seed}"), date.fromisoformat(start), days, served):
        _write_arrivals(folder / "arrivals" / f"{day.isoformat()}_city.csv", day, arrivals)
        for incident in incidents:
            name = f"city-{incident.line.mode}-delay-data-{day.year}.csv"
            log = logs.setdefault(name, [_incident_header(day)])
            log.append(_incident_row(day, incident, len(log)))
    for name, rows in logs.items():
        (folder / "incidents" / name).write_text("".join(rows), encoding="utf-8")


# --- what happens -------------------------------------------------------------------------------


def _service_days(
    random: Random, first: date, days: int, lines: Sequence[Line]
) -> Iterator[tuple[date, list[Incident], list[Arrival]]]:
    weather = 0.0
    for number in range(days):
        weather = 0.8 * weather + random.gauss(0.0, 0.7)
        day = first + timedelta(days=number)
        incidents = [incident for line in lines for incident in _incidents(random, line, day, weather)]
        arrivals = [arrival for line in lines for arrival in _arrivals(random, line, day, weather, incidents)]
        incidents.sort(key=lambda incident: incident.minute)
        arrivals.sort(key=lambda arrival: (arrival.minute, arrival.line.number, arrival.trip))
        yield day, incidents, arrivals


def _incidents(random: Random, line: Line, day: date, weather: float) -> Iterator[Incident]:
    expected = (1.0 if day.weekday() > 4 else 2.0) * math.exp(0.35 * weather)
    chance = random.expovariate(1.0)
    while chance < expected:  # arrivals of a Poisson process
        chance += random.expovariate(1.0)
        hour = random.choices(range(24), HOUR_WEIGHTS)[0]
        names = CAUSES[line.mode]
        weights = [weight * (3 if weather > 1 and name in WEATHER_CAUSES else 1) for name, _, weight in names]
        cause, usual, _ = random.choices(names, weights)[0]
        delay = 0 if random.random() < 0.2 else max(1, round(usual * math.exp(random.gauss(0.0, 0.35))))
        headway = 15 if 7 <= hour < 19 else 30
        yield Incident(
            line,
            hour * 60 + random.randrange(60),
            random.choice(line.stops),
            random.choice("NS" if line.mode == "bus" else "EW"),
            cause,
            delay,
            delay + headway if delay else 0,
            (8100 if line.mode == "bus" else 4500) + int(line.number) * 10 + random.randrange(6),
        )


def _starts(line: Line, weekday: int) -> list[int]:
    """Departures of the day's trips in minutes from midnight; Monday is 0."""
    starts = [line.offset + start for start in (WEEKEND_STARTS if weekday > 4 else WEEKDAY_STARTS)]
    return [*starts, NIGHT_START] if line.number == "12" and weekday in (4, 5) else starts


def _arrivals(
    random: Random, line: Line, day: date, weather: float, incidents: Sequence[Incident]
) -> Iterator[Arrival]:
    carried = [0.0, 0.0]  # lateness of the two vehicles, which take the trips in turn
    for trip, start in enumerate(_starts(line, day.weekday())):
        late = 0.5 * carried[trip % 2]
        rush = line.rush_minutes if day.weekday() < 5 and (420 <= start < 540 or 960 <= start < 1080) else 0.0
        for stop, hop in enumerate(line.hops):
            minute = start + hop
            struck = sum(
                0.12 * incident.delay * (1 - (minute - incident.minute) / 120)
                for incident in incidents
                if incident.line is line and 0 <= minute - incident.minute < 120
            )
            push = rush + line.stop_minutes[stop] + line.weather_minutes * max(0.0, weather) + struck
            noise = random.gauss(0.0, 0.45) + (random.expovariate(0.4) if random.random() < 0.04 else 0.0)
            late = max(-0.9, 0.8 * late + 0.45 * push + noise)
            yield Arrival(line, trip, stop, minute, round(late * 60))
        carried[trip % 2] = max(0.0, late)


# --- how publishers write it ----------------------------------------------------------------------

ARRIVAL_COLUMNS = (
    "BETRIEBSTAG;FAHRT_BEZEICHNER;BETREIBER_ID;BETREIBER_ABK;BETREIBER_NAME;PRODUKT_ID;LINIEN_ID;LINIEN_TEXT;"
    "UMLAUF_ID;VERKEHRSMITTEL_TEXT;ZUSATZFAHRT_TF;FAELLT_AUS_TF;BPUIC;HALTESTELLEN_NAME;ANKUNFTSZEIT;AN_PROGNOSE;"
    "AN_PROGNOSE_STATUS;ABFAHRTSZEIT;AB_PROGNOSE;AB_PROGNOSE_STATUS;DURCHFAHRT_TF;AN_VERSPAETUNG_MIN\n"
)


def _write_arrivals(path: Path, day: date, arrivals: Sequence[Arrival]) -> None:
    midnight = datetime(day.year, day.month, day.day)
    rows = [ARRIVAL_COLUMNS]
    for arrival in arrivals:
        line = arrival.line
        planned = midnight + timedelta(minutes=arrival.minute)
        observed = planned + timedelta(seconds=arrival.seconds)
        leaves, left, status = "", "", ""
        if arrival.stop < len(line.stops) - 1:
            leaves, status = planned.strftime("%d.%m.%Y %H:%M"), "REAL"
            left = (observed + timedelta(seconds=20)).strftime("%d.%m.%Y %H:%M:%S")
        stop, number = line.stops[arrival.stop], line.number
        block = int(number) * 2 + arrival.trip % 2
        rows.append(
            f"{day};99:1:{number}-{arrival.trip}-{day:%y%m%d};99:1;CITY;City Transit;Bus;99:1:{number};{number};"
            f"{block};B;False;False;{_stop_id(stop)};{stop};{planned};{observed};REAL;{leaves};{left};{status};False;"
            f"{arrival.seconds / 60}\n"
        )
    path.write_text("".join(rows), encoding="utf-8")


def _incident_header(day: date) -> str:
    """The real log changed its columns at the turn of a year; so does this one."""
    if day.year < 2024:
        return "Date,Route,Time,Day,Location,Incident,Min Delay,Min Gap,Direction,Vehicle\n"
    return "_id,Date,Line,Time,Day,Station,Code,Min Delay,Min Gap,Bound,Vehicle\n"


def _incident_row(day: date, incident: Incident, number: int) -> str:
    lead = f"{day} 00:00:00" if day.year < 2024 else f"{number},{day}T00:00:00"
    return (
        f"{lead},{incident.line.number},{incident.minute // 60:02d}:{incident.minute % 60:02d},"
        f"{LONG_WEEKDAYS[day.weekday()]},{incident.stop.upper()},{incident.cause},{incident.delay},{incident.gap},"
        f"{incident.bound},{incident.vehicle}\n"
    )


def _stop_id(stop: str) -> int:
    names = list(dict.fromkeys(name for line in LINES for name in line.stops))
    return 9900000 + names.index(stop)


def _write_gtfs(path: Path, lines: Sequence[Line]) -> None:
    """A minimal valid static feed: one service for Monday to Thursday, one for each other day."""
    names = sorted({stop for line in lines for stop in line.stops}, key=_stop_id)
    latitude, longitude = STOP_PLACE
    trips, stop_times = _timetable(lines)
    tables: dict[str, Sequence[Sequence[object]]] = {
        "agency.txt": [
            ("agency_id", "agency_name", "agency_url", "agency_timezone"),
            ("99", "City Transit", "https://example.org", "Europe/Zurich"),
        ],
        "stops.txt": [
            ("stop_id", "stop_name", "stop_lat", "stop_lon"),
            *(
                (_stop_id(name), name, f"{latitude + index * 0.004:.4f}", f"{longitude + index % 3 * 0.006:.4f}")
                for index, name in enumerate(names)
            ),
        ],
        "routes.txt": [
            ("route_id", "agency_id", "route_short_name", "route_long_name", "route_type"),
            *(
                (line.number, "99", line.number, f"{line.stops[0]} - {line.stops[-1]}", 3 if line.mode == "bus" else 0)
                for line in lines
            ),
        ],
        "calendar.txt": [
            ("service_id", *(name.lower() for name in LONG_WEEKDAYS), "start_date", "end_date"),
            *(
                (service, *(int(day in days) for day in range(7)), "20230101", "20301231")
                for service, days in SERVICES.items()
            ),
        ],
        "trips.txt": [("route_id", "service_id", "trip_id", "trip_headsign"), *trips],
        "stop_times.txt": [("trip_id", "arrival_time", "departure_time", "stop_id", "stop_sequence"), *stop_times],
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in tables.items():
            text = io.StringIO()
            csv.writer(text, lineterminator="\r\n").writerows(rows)
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), text.getvalue(), zipfile.ZIP_DEFLATED)


def _timetable(lines: Sequence[Line]) -> tuple[list[Sequence[object]], list[Sequence[object]]]:
    """The rows of trips.txt and of stop_times.txt."""
    trips: list[Sequence[object]] = []
    stop_times: list[Sequence[object]] = []
    for service, days in SERVICES.items():
        for line in lines:
            for number, start in enumerate(_starts(line, days[0])):
                trip = f"{line.number}-{service}-{number}"
                trips.append((line.number, service, trip, line.stops[-1]))
                for position, (stop, hop) in enumerate(zip(line.stops, line.hops, strict=True), start=1):
                    clock = f"{(start + hop) // 60:02d}:{(start + hop) % 60:02d}:00"
                    stop_times.append((trip, clock, clock, _stop_id(stop), position))
    return trips, stop_times
