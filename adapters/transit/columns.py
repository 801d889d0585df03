"""Which column of a log means what: alias tables, detection of the kind of log, and help for unknown columns."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...core.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class Field:
    """One of our fields with the column names that publishers use for it."""

    name: str
    aliases: tuple[str, ...]
    needed: bool = True


@dataclass(frozen=True, slots=True)
class LogKind:
    """A kind of log: its fields, and what people call it."""

    name: str
    fields: tuple[Field, ...]
    answers: tuple[str, ...]
    """Fields that only tell the answer: a file of questions may lack them."""
    either: tuple[str, ...] = ()
    """Fields of which one is enough."""
    least_share: float = 0.5
    """Part of the needed fields from which on a file is taken for one with renamed columns, not for something else."""

    @property
    def title(self) -> str:
        """With its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def needed(self) -> tuple[Field, ...]:
        return tuple(each for each in self.fields if each.needed)


INCIDENTS = LogKind(
    "incident log",
    (
        Field("date", ("Date", "Report Date", "Service Date", "Incident Date")),
        Field("time", ("Time", "Report Time", "Incident Time")),
        Field("line", ("Line", "Route", "Route Name", "Route Number")),
        Field("station", ("Station", "Location", "Stop", "Stop Name")),
        Field("code", ("Code", "Incident", "Incident Code", "Delay Code", "Cause", "Reason")),
        Field("delay", ("Min Delay", "Delay", "Delay Minutes", "Minutes Delay")),
        Field("gap", ("Min Gap", "Gap", "Gap Minutes"), needed=False),
        Field("direction", ("Bound", "Direction"), needed=False),
        Field("vehicle", ("Vehicle", "Vehicle Number", "Vehicle ID", "Train Number"), needed=False),
    ),
    answers=("delay",),
)

ARRIVALS = LogKind(
    "arrival log",
    (
        Field("service_day", ("BETRIEBSTAG", "service_date", "operating_day", "trip_date")),
        Field("line", ("LINIEN_TEXT", "Linie", "line_text", "route_short_name", "line", "route")),
        Field("stop", ("HALTESTELLEN_NAME", "stop_name", "station_name", "stop")),
        Field("scheduled", ("ANKUNFTSZEIT", "scheduled_arrival", "arrival_scheduled", "planned_arrival")),
        Field("actual", ("AN_PROGNOSE", "actual_arrival", "arrival_actual", "observed_arrival")),
        Field("line_id", ("LINIEN_ID", "line_id", "route_id"), needed=False),
        Field("product", ("PRODUKT_ID", "product"), needed=False),
        Field("block", ("UMLAUF_ID", "block_id"), needed=False),
        Field("destination", ("destination", "headsign", "trip_headsign"), needed=False),
        Field("departure", ("ABFAHRTSZEIT", "scheduled_departure", "planned_departure"), needed=False),
        Field("cancelled", ("FAELLT_AUS_TF", "cancelled", "canceled"), needed=False),
    ),
    answers=("actual",),
)

TRIPS = LogKind(
    "trip log",
    (
        Field("service_day", ("service_date", "service_day", "start_date", "operating_day", "trip_date", "date")),
        Field(
            "trip",
            ("trip_id", "train_id", "trip", "half_trip_id", "journey_id", "run_id", "trip_number", "train_number"),
        ),
        Field(
            "line",
            ("route_short_name", "line_name", "line", "route_name", "route", "route_id", "route_id_x"),
            needed=False,
        ),
        Field("stop", ("stop_name", "station_name", "to", "station", "stop", "stop_id", "next_station")),
        Field(
            "scheduled",
            (
                *("scheduled_time", "scheduled_arrival_sec", "scheduled_arrival", "scheduled_arrival_time"),
                *("planned_arrival", "arrival_time", "scheduled", "planned", "time"),
            ),
            needed=False,
        ),
        Field(
            "actual",
            (
                *("actual_time", "actual_arrival_time", "actual_arrival", "observed_arrival", "arr_time"),
                *("predicted_arrival", "actual", "observed"),
            ),
            needed=False,
        ),
        Field("actual_departure", ("actual_departure_time", "actual_departure", "dep_time"), needed=False),
        Field("delay", ("delay_minutes", "minutes_late", "delay"), needed=False),
        Field("delay_seconds", ("computed_delay_sec", "delay_seconds", "delay_sec", "arr_delay_s"), needed=False),
        Field("sequence", ("stop_sequence", "sequence", "stop_number", "time_point_order"), needed=False),
        Field("headsign", ("trip_headsign", "headsign", "destination"), needed=False),
        Field("status", ("status", "trip_status", "schedule_relationship"), needed=False),
        Field("seen", ("pulled_at_utc", "fetched_at", "snapshot_time"), needed=False),
    ),
    answers=("actual", "actual_departure", "delay", "delay_seconds"),
    either=("actual", "delay", "delay_seconds"),
    least_share=0.75,
)

POSITIONS = LogKind(
    "position log",
    (
        Field("vehicle", ("vehicle_id", "bus_id", "vehicle", "vehicle_ref", "vehicle_number", "train_id", "unit_id")),
        Field("latitude", ("latitude", "lat", "vehicle_lat", "position_latitude", "vehicle_location.latitude")),
        Field("longitude", ("longitude", "lon", "lng", "long", "position_longitude", "vehicle_location.longitude")),
        Field(
            "moment",
            (
                *("timestamp", "time", "datetime", "date_time", "recorded_at", "recorded_at_time", "reported_at"),
                *("gps_time", "vehicle_timestamp"),
            ),
        ),
        Field(
            "line",
            ("route_short_name", "published_line_name", "line", "route", "route_id", "line_id", "line_ref"),
            needed=False,
        ),
        Field("direction", ("direction_id", "direction", "direction_ref", "bound"), needed=False),
        Field("speed", ("speed", "speed_mps", "speed_kmh", "speed_mph"), needed=False),
        Field("proximity", ("arrival_proximity_text", "current_status", "vehicle_stop_status"), needed=False),
        Field(
            "next_stop",
            ("next_stop_name", "next_stop", "next_stop_point_name", "next_stop_id", "stop_name", "stop_id"),
            needed=False,
        ),
    ),
    answers=(),
    least_share=1.0,
)

LEAST_LIKENESS = 0.3
"""Of a column's name to one that is known, to be offered as a guess."""

KINDS = (INCIDENTS, ARRIVALS, TRIPS, POSITIONS)
FIELD_NAMES = tuple(dict.fromkeys(each.name for kind in KINDS for each in kind.fields))


@dataclass(frozen=True, slots=True)
class Match:
    """How a file's columns answer the fields of a kind of log."""

    kind: LogKind
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field name -> the file's column."""

    asking: bool = False
    """Whether the file holds questions, so that the answers may be missing."""

    @property
    def missing(self) -> tuple[Field, ...]:
        """The needed fields that no column answers; for a choice of which one is enough, its first."""
        optional = self.kind.answers if self.asking else ()
        absent = [each for each in self.kind.needed if each.name not in self.columns and each.name not in optional]
        enough = (*self.kind.either, "scheduled") if self.asking else self.kind.either
        if self.kind.either and not any(name in self.columns for name in enough):
            absent += [each for each in self.kind.fields if each.name == self.kind.either[0]]
        return tuple(absent)

    @property
    def share(self) -> float:
        """Part of the needed fields that was found."""
        return 1 - len(self.missing) / (len(self.kind.needed) + bool(self.kind.either))


@functools.lru_cache(maxsize=4096)  # a folder of a thousand daily files has a thousand times the same header
def plain(name: str) -> str:
    """Letters and digits only, lower case: ' Min Delay' and 'MIN_DELAY' are one name."""
    return "".join(character for character in name.lower() if character.isalnum())


def match_kind(columns: Sequence[str], kind: LogKind, chosen: Mapping[str, str], asking: bool = False) -> Match:
    """Match by the user's [data.columns] first, then by alias. A column that the user gave to one field is its own."""
    by_plain_name = {plain(column): column for column in reversed(columns)}
    found: dict[str, str] = {}
    for each in kind.fields:
        wanted = chosen.get(each.name)
        taken = {plain(column) for name, column in chosen.items() if name != each.name}
        names = [plain(wanted)] if wanted is not None else []
        names += [name for alias in each.aliases if (name := plain(alias)) not in taken]
        column = next((by_plain_name[name] for name in names if name in by_plain_name), None)
        if column is not None:
            found[each.name] = column
    return Match(kind, found, asking)


def best_match(columns: Sequence[str], chosen: Mapping[str, str], asking: bool = False) -> Match:
    """The kind of log whose needed fields are all there, with most of the user's choices; else the nearest one."""

    def merit(match: Match) -> tuple[bool, int, bool, float]:
        complete = not match.missing
        hits = _chosen_count(match, chosen) if complete else 0
        return complete, hits, match.share >= match.kind.least_share, match.share

    return max((match_kind(columns, kind, chosen, asking) for kind in KINDS), key=merit)


def _chosen_count(match: Match, chosen: Mapping[str, str]) -> int:
    return sum(name in match.columns and plain(match.columns[name]) == plain(column) for name, column in chosen.items())


def looks_like_a_log(match: Match, chosen: Mapping[str, str]) -> bool:
    """Enough of the needed fields are there, or most of the columns that the user named."""
    return match.share >= match.kind.least_share or _chosen_count(match, chosen) * 2 > len(chosen) > 0


def missing_columns_error(name: str, columns: Sequence[str], match: Match) -> DataError:
    """What is missing, and a [data.columns] table to paste."""
    fields = ", ".join(each.name for each in match.missing)
    return DataError(
        f"{name}: looks like {match.kind.title}, but no column is known for: {fields}",
        "Paste this into recipe.toml and correct the guesses:\n" + columns_table(columns, match),
    )


def columns_table(columns: Sequence[str], match: Match) -> str:
    """A [data.columns] TOML table for the missing fields, guessed by likeness of the names."""
    free = [column for column in columns if column not in match.columns.values()]
    guesses = _guesses(match.missing, free)
    lines = [f"{each.name} = {json.dumps(guesses.get(each.name, ''), ensure_ascii=False)}" for each in match.missing]
    return "\n".join(["[data.columns]", *lines, "# the file's columns: " + ", ".join(columns).replace("\n", " ")])


def _guesses(fields: Sequence[Field], columns: Sequence[str]) -> dict[str, str]:
    """Pair fields with columns, most alike first, each column once."""
    pairs = sorted(
        ((_likeness(each, column), each.name, column) for each in fields for column in columns), reverse=True
    )
    found: dict[str, str] = {}
    for likeness, name, column in pairs:
        if likeness >= LEAST_LIKENESS and name not in found and column not in found.values():
            found[name] = column
    return found


def _likeness(wanted: Field, column: str) -> float:
    """1 for the same letters, 0.9 when a column's words include all words of a known name."""
    words = set(column.lower().replace("_", " ").split())
    names = (wanted.name, *wanted.aliases)
    if any(set(name.lower().replace("_", " ").split()) <= words for name in names):
        return 0.9
    return max(difflib.SequenceMatcher(None, plain(column), plain(name)).ratio() for name in names)


def check_chosen(chosen: Mapping[str, str]) -> None:
    """Refuse keys of [data.columns] that name no field of ours."""
    for name in chosen:
        if name not in FIELD_NAMES:
            raise DataError(f"[data.columns] has no field '{name}'", did_you_mean(name, list(FIELD_NAMES)))
