"""Whole files as three agencies publish them, made up here with their quirks: what tests of the transit adapter read.

Each writer returns what must come of the rows: the answers, as numbers, that the documents have to ask.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

RAIL_COLUMNS = (
    *("date", "train_id", "stop_sequence", "from", "from_id", "to", "to_id", "scheduled_time", "actual_time"),
    *("delay_minutes", "status", "line", "type"),
)
BUS_COLUMNS = (
    *("service_date", "route_id", "direction_id", "half_trip_id", "stop_id", "time_point_id", "time_point_order"),
    *("point_type", "standard_type", "scheduled", "actual", "scheduled_headway", "headway"),
)
POSITION_COLUMNS = (
    *("RecordedAtTime", "DirectionRef", "PublishedLineName", "OriginName", "OriginLat", "OriginLong"),
    *("DestinationName", "VehicleRef", "VehicleLocation.Latitude", "VehicleLocation.Longitude", "NextStopPointName"),
    *("ArrivalProximityText", "DistanceFromStop", "ExpectedArrivalTime", "ScheduledArrivalTime"),
)
STATIONS = ("Trenton", "Hamilton", "Princeton Jct", "New Brunswick", "Metropark", "Rahway", "Newark", "New York")


def write_rail_months(folder: Path, days: int, trains: int) -> list[float]:
    """Calls of a commuter railroad, a file per month, with rows of another one that tell neither schedule nor delay.

    Sequences are fractions, early trains count as on time, some stops are cancelled, and some delays are left out of
    rows that have both times. Returns the delays.
    """
    pick = random.Random("rail")
    months: dict[str, list[list[str]]] = {}
    delays: list[float] = []
    for place in range(days):
        day = datetime(2020, 2, 20) + timedelta(days=place)
        rows = months.setdefault(f"{day:%Y_%m}", [])
        for train in range(trains):
            late = max(0, round(pick.gauss(2, 4) * 60))
            leaves = day + timedelta(minutes=320 + train * (1150 // trains))  # the last ones run past midnight
            for number, station in enumerate(STATIONS, start=1):
                planned = leaves + timedelta(minutes=11 * number)
                late = max(0, late + pick.randrange(-40, 60))
                before = STATIONS[max(0, number - 2)]
                names = [f"{day:%Y-%m-%d}", f"{3800 + train}", f"{number}.0", before, str(number), station, str(number)]
                status = pick.choices(("departed", "estimated", "cancelled"), (90, 8, 2))[0]
                if status == "cancelled":
                    rows.append([*names, f"{planned}", "", "", status, "Northeast Corrdr", "NJ Transit"])
                    continue
                told = "" if pick.random() < 0.02 else f"{late / 60}"
                delays.append(late / 60)
                actual = f"{planned + timedelta(seconds=late)}"
                rows.append([*names, f"{planned}", actual, told, status, "Northeast Corrdr", "NJ Transit"])
        for number in (1, 2, 3):
            seen = f"{day + timedelta(hours=7, minutes=31 * number)}"
            stations = [STATIONS[number - 1], str(number), STATIONS[number], str(number + 1)]
            rows.append([f"{day:%Y-%m-%d}", "A2151", "", *stations, "", seen, "", "departed", "Amtrak", "Amtrak"])
    for month, rows in months.items():
        _write(folder / f"{month}.csv", RAIL_COLUMNS, rows)
    return delays


def write_bus_arrivals(path: Path, days: int, trips: int) -> list[float]:
    """Timepoints of buses: times of day that a spreadsheet dated 1900, the next day after midnight, "NA" for a bus that
    did not show up, and the rows of all days in one file that is not in order. Returns the delays in minutes.
    """
    pick = random.Random("bus")
    rows: list[list[str]] = []
    delays: list[float] = []
    for place in range(days):
        day = datetime(2023, 4, 1) + timedelta(days=place)
        for trip in range(trips):
            starts = datetime(1900, 1, 1, 5) + timedelta(minutes=trip * (1180 // trips))
            for order, stop in enumerate(("110", "67", "72", "2168"), start=1):
                planned = starts + timedelta(minutes=9 * order)
                late = round(pick.gauss(60, 150))
                missing = pick.random() < 0.05
                actual = "NA" if missing else f"{planned + timedelta(seconds=late):%Y-%m-%dT%H:%M:%SZ}"
                if not missing:
                    delays.append(late / 60)
                kind = "Startpoint" if order == 1 else "Endpoint" if order == 4 else "Midpoint"
                names = [f"{day:%Y-%m-%d}", "01", "Inbound", f"{5000 + trip}", stop, f"tp{order}", str(order), kind]
                rows.append([*names, "Schedule", f"{planned:%Y-%m-%dT%H:%M:%SZ}", actual, "NA", ""])
    pick.shuffle(rows)
    _write(path, BUS_COLUMNS, rows)
    return delays


def write_bus_positions(path: Path, hours: int, vehicles: int) -> list[float]:
    """Reports of buses every half minute with the stop that each heads for: names with commas, vehicles that report
    twice at once, schedules past 24:00. Returns the minutes that each report was from its stop.
    """
    pick = random.Random("positions")
    rows: list[list[str]] = []
    minutes: list[float] = []
    for vehicle in range(vehicles):
        moment = datetime(2017, 6, 1, 6) + timedelta(seconds=vehicle)
        north = 40.6 + vehicle / 100
        for number in range(hours * 8):
            waits = pick.randrange(3, 9)
            stop = f"AV {number % 30}, {'EAST' if number % 2 else 'WEST'} ST"
            for step in range(waits + 1):
                north += 0.0004
                arrived = step == waits
                if not arrived:
                    minutes.append((waits - step) / 2)
                text = "at stop" if arrived else f"{(waits - step) * 0.1:.1f} miles away"
                names = [f"{moment}", str(vehicle % 2), f"B{vehicle}", "4 AV, 1 ST", "40.6", "-73.9", "END"]
                place = [f"NYCT_{400 + vehicle}", f"{north:.6f}", "-73.960803", stop, text, "NA", "", "24:06:14"]
                rows += [[*names, *place]] * (2 if pick.random() < 0.05 else 1)
                moment += timedelta(seconds=30)
    rows.sort(key=lambda row: row[0])
    _write(path, POSITION_COLUMNS, rows)
    return minutes


def _write(path: Path, columns: Sequence[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
