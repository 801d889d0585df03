"""Arrival logs in the form of the Swiss ist-daten: one row per arrival, with scheduled and actual time.

A document is one service day of one line. What is the same for the whole day (the stop, whether the line ends there)
stands in the header; each line ends with the delay in minutes, the answer:

    line 3 Thun, Bahnhof ends Thu Aug 15
    05:54 31 | +0.1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...core.sources import Table
from .clock import day_title, parse_day, parse_moment
from .pages import Entry, Page
from .rows import Asking, Tally, Window, clean, short_id, told

MAX_DELAY_MINUTES = 24 * 60
_TRAINS = frozenset({"zug", "train", "rail"})
_TRUE = frozenset({"true", "1", "yes", "ja", "wahr"})


class Arrival(NamedTuple):
    """One arrival, as it travels through the sort. `moment` is the full scheduled time, so 00:15 sorts last."""

    moment: str
    clock: str
    stop: str
    destination: str
    block: str
    ends: str
    delay: str
    origin: str = ""


def arrival_records(
    table: Table, columns: Mapping[str, str], tally: Tally, window: Window, asking: Asking | None = None
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Arrival) of every sound row inside the window.

    With `asking`, a row without the actual time is sound too and carries its origin.
    """
    service_day, line, stop = columns["service_day"], columns["line"], columns["stop"]
    scheduled, actual = columns["scheduled"], columns.get("actual", "")
    line_id = columns.get("line_id", line)
    cancelled, departure, product = (columns.get(name, "") for name in ("cancelled", "departure", "product"))
    block, destination = columns.get("block", ""), columns.get("destination", "")
    order = window.date_order
    for row in table:
        tally.row_count += 1
        day = parse_day(row[service_day], order)
        if day is not None and not window.holds(day):
            continue
        observed, due = told(row.get(actual, "")), told(row[scheduled])
        asks = asking is not None and not observed
        if reason := _useless(due, row.get(cancelled, ""), observed, asks):
            tally.skip(reason)
            continue
        planned, delay = _delay(due, due if asks else observed, order)
        if day is None or planned is None:
            tally.reject(row, columns, ("service_day", "scheduled", "actual"))
            continue
        arrival = Arrival(
            moment=planned,
            clock=planned[11:16],
            stop=clean(row[stop]),
            destination=clean(row.get(destination, "")),
            block=short_id(clean(row.get(block, ""))),
            ends="ends" if departure and not told(row[departure]) else "",
            delay="" if asks else delay,
            origin=asking.origin(tally.row_count) if asking is not None and asks else "",
        )
        name = clean(row[line])
        # The line id of a Swiss train is its number: every train would be a line of its own.
        identity = name if row.get(product, "").strip().lower() in _TRAINS else clean(row[line_id])
        yield f"{day}\tarrivals\t{name}\t{identity}", "\t".join(arrival)
    tally.finish()


def _useless(scheduled: str, cancelled: str, observed: str, asks: bool) -> str:
    """Why a sound row tells no delay; empty when it does, or when it asks for one."""
    if not scheduled:
        return "no scheduled arrival (the trip starts there)"
    if cancelled.strip().lower() in _TRUE:
        return "cancelled"
    return "no actual arrival time" if not asks and not observed else ""


def _delay(scheduled: str, actual: str, order: str) -> tuple[str | None, str]:
    """The scheduled time in ISO form and the signed delay; None when one of the two cannot be read."""
    planned, observed = parse_moment(scheduled, order), parse_moment(actual, order)
    if planned is None or observed is None or (planned.tzinfo is None) != (observed.tzinfo is None):
        return None, ""
    minutes = (observed - planned).total_seconds() / 60
    if abs(minutes) > MAX_DELAY_MINUTES:
        return None, ""
    return planned.isoformat(), f"{round(minutes, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into +0.0


def arrival_page(day: str, line: str, line_id: str, packed: Iterable[str]) -> Page:
    """Sort the day's arrivals by scheduled time and move what is constant into the header."""
    arrivals = sorted((Arrival(*each.split("\t")) for each in packed), key=lambda arrival: arrival.moment)
    first = arrivals[0]
    one_stop = all(arrival.stop == first.stop for arrival in arrivals)
    one_destination = all(arrival.destination == first.destination for arrival in arrivals)
    one_ending = all(arrival.ends == first.ends for arrival in arrivals)
    header = ["line", line]
    if one_stop:
        header.append(first.stop)
    if one_destination and first.destination:
        header += [">", first.destination]
    if one_stop and one_ending:
        header.append(first.ends)
    header.append(day_title(day))
    entries: list[Entry] = []
    for arrival in arrivals:
        words = [arrival.clock]
        if not one_stop:
            words.append(arrival.stop)
        if not one_destination:
            words += [">", arrival.destination]
        words.append(arrival.block)
        if one_stop and not one_ending:  # with several stops, the stop already tells where the line ends
            words.append(arrival.ends)
        lead = " ".join(word for word in words if word) + " | "
        entries.append(Entry(lead, arrival.delay, origin=arrival.origin))
    suffix = "" if line_id == line else f" ({line_id})"
    title = " ".join(word for word in header if word)
    return Page(f"{day}/line {line}{suffix}", day, day, title, "delay", entries)
