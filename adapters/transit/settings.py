"""What a recipe's [data] table asks of the transit adapter, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any

from ...core.contracts import SourceOptions
from ...core.errors import DataError, did_you_mean
from .clock import parse_limit
from .feed import zone_named
from .rows import Window
from .schedule import Wishes

OPTIONS = {
    "kind": '"logs" or "schedule": what to read of a source that holds both; default "auto", logs before timetables.',
    "date_order": '"dmy" or "mdy", when dates such as 03/04/2024 do not tell it themselves.',
    "line_numbers": 'true writes the line "102 MARKHAM ROAD" as "102"; default false.',
    "timezone": 'where epoch seconds were noted, such as "America/New_York"; default: as the static feed says, or UTC.',
    "stop_ids": "true writes the stops of a timetable by id in place of name; default false.",
    "ask": '"ahead": predict also asks about stops that a snapshot predicts; default "untold", those without a time.',
    "seconds": "false writes a timetable that tells seconds in whole minutes; default true, in tenths.",
}
ASKED = ("untold", "ahead")
KINDS = ("auto", "logs", "schedule")


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one source."""

    kind: str
    window: Window
    zone: tzinfo | None
    wishes: Wishes
    asks_ahead: bool
    """Whether questions leave out what a snapshot predicts for a time after it was made."""


def read_settings(options: SourceOptions) -> Settings:
    """Raises DataError for an option that is unknown or has an impossible value."""
    given = options.options
    for name in given:
        if name not in OPTIONS:
            raise DataError(
                f"the transit adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    kind = given.get("kind", "auto")
    if kind not in KINDS:
        raise DataError(f"[data.options] kind = '{kind}' is unknown", 'Write "auto", "logs" or "schedule".')
    order = given.get("date_order", "")
    if order not in ("", "dmy", "mdy"):
        raise DataError(f"[data.options] date_order = '{order}' is unknown", 'Write "dmy" or "mdy".')
    ask = given.get("ask", "untold")
    if ask not in ASKED:
        raise DataError(f"[data.options] ask = '{ask}' is unknown", 'Write "untold" or "ahead".')
    timezone = given.get("timezone", "")
    zone = zone_named(timezone) if isinstance(timezone, str) else None
    if timezone != "" and zone is None:
        raise DataError(
            f"[data.options] timezone = '{timezone}' is unknown here",
            'Write it like "Europe/Zurich". On Windows: pip install tzdata',
        )
    since, until = parse_limit("since", options.since), parse_limit("until", options.until)
    window = Window(since, until, str(order), _truth(given, "line_numbers", False))
    wishes = Wishes(stop_ids=_truth(given, "stop_ids", False), seconds=_truth(given, "seconds", True))
    return Settings(str(kind), window, zone, wishes, asks_ahead=ask == "ahead")


def _truth(given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise DataError(f"[data.options] {name} must be true or false", OPTIONS[name])
    return value
