"""Which column of a log means what: alias tables, detection of the kind of log, and help for unknown columns."""

from __future__ import annotations

import difflib
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
)

ARRIVALS = LogKind(
    "arrival log",
    (
        Field("service_day", ("BETRIEBSTAG", "service_date", "operating_day", "trip_date")),
        Field("line", ("LINIEN_TEXT", "line_text", "route_short_name", "line", "route")),
        Field("stop", ("HALTESTELLEN_NAME", "stop_name", "station_name", "stop")),
        Field("scheduled", ("ANKUNFTSZEIT", "scheduled_arrival", "arrival_scheduled", "planned_arrival")),
        Field("actual", ("AN_PROGNOSE", "actual_arrival", "arrival_actual", "observed_arrival")),
        Field("line_id", ("LINIEN_ID", "line_id", "route_id"), needed=False),
        Field("block", ("UMLAUF_ID", "block_id"), needed=False),
        Field("destination", ("destination", "headsign", "trip_headsign"), needed=False),
        Field("departure", ("ABFAHRTSZEIT", "scheduled_departure", "planned_departure"), needed=False),
        Field("cancelled", ("FAELLT_AUS_TF", "cancelled", "canceled"), needed=False),
    ),
)

LEAST_LIKENESS = 0.3
"""Of a column's name to one that is known, to be offered as a guess."""

KINDS = (INCIDENTS, ARRIVALS)
FIELD_NAMES = tuple(dict.fromkeys(each.name for kind in KINDS for each in kind.fields))


@dataclass(frozen=True, slots=True)
class Match:
    """How a file's columns answer the fields of a kind of log."""

    kind: LogKind
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field name -> the file's column."""

    @property
    def missing(self) -> tuple[Field, ...]:
        return tuple(each for each in self.kind.needed if each.name not in self.columns)

    @property
    def share(self) -> float:
        """Part of the needed fields that was found."""
        return 1 - len(self.missing) / len(self.kind.needed)


def plain(name: str) -> str:
    """Letters and digits only, lower case: ' Min Delay' and 'MIN_DELAY' are one name."""
    return "".join(character for character in name.lower() if character.isalnum())


def match_kind(columns: Sequence[str], kind: LogKind, chosen: Mapping[str, str]) -> Match:
    """Match by the user's [data.columns] first, then by alias."""
    by_plain_name = {plain(column): column for column in reversed(columns)}
    found: dict[str, str] = {}
    for each in kind.fields:
        wanted = chosen.get(each.name)
        names = ([wanted] if wanted is not None else []) + list(each.aliases)
        column = next((by_plain_name[plain(name)] for name in names if plain(name) in by_plain_name), None)
        if column is not None:
            found[each.name] = column
    return Match(kind, found)


def best_match(columns: Sequence[str], chosen: Mapping[str, str]) -> Match:
    """The kind of log whose needed fields are covered best."""
    return max((match_kind(columns, kind, chosen) for kind in KINDS), key=lambda match: match.share)


def looks_like_a_log(match: Match, chosen: Mapping[str, str]) -> bool:
    """Half of the needed fields are there, or most of the columns that the user named."""
    named = sum(match.columns.get(name) == column for name, column in chosen.items())
    return match.share >= 0.5 or named * 2 > len(chosen) > 0


def missing_columns_error(name: str, columns: Sequence[str], match: Match) -> DataError:
    """What is missing, and a [data.columns] table to paste."""
    fields = ", ".join(each.name for each in match.missing)
    return DataError(
        f"{name}: looks like an {match.kind.name}, but no column is known for: {fields}",
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
