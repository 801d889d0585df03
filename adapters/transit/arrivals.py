"""Arrival logs in the form of the Swiss ist-daten: one row per arrival, with scheduled and actual time.

A document is one service day of one line. What is the same for the whole day (the stop, whether the line ends there)
stands in the header; each line ends with the delay in minutes, the answer:

    line 3 Thun, Bahnhof ends Thu Aug 15
    05:54 31 | +0.1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ...core.contracts import Document, Span
from ...core.sources import Table
from .clock import day_title, parse_day, parse_moment
from .rows import Tally, Window, clean

MAX_BLOCK_CHARACTERS = 4
"""Longer block ids are serial numbers: they would never recur after the split."""
MAX_DELAY_MINUTES = 24 * 60
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


def arrival_records(
    table: Table, columns: Mapping[str, str], tally: Tally, window: Window
) -> Iterator[tuple[str, str]]:
    """(sort key, packed Arrival) of every sound row inside the window."""
    service_day, line, stop = columns["service_day"], columns["line"], columns["stop"]
    scheduled, actual = columns["scheduled"], columns["actual"]
    line_id = columns.get("line_id", line)
    cancelled, departure = columns.get("cancelled", ""), columns.get("departure", "")
    block, destination = columns.get("block", ""), columns.get("destination", "")
    order = window.date_order
    for row in table:
        tally.row_count += 1
        day = parse_day(row[service_day], order)
        if day is not None and not window.holds(day):
            continue
        if not row[scheduled].strip():
            tally.skip("no scheduled arrival (the trip starts there)")
            continue
        if row.get(cancelled, "").strip().lower() in _TRUE:
            tally.skip("cancelled")
            continue
        if not row[actual].strip():
            tally.skip("no actual arrival time")
            continue
        planned, delay = _delay(row[scheduled], row[actual], order)
        if day is None or planned is None:
            tally.reject(row, columns, ("service_day", "scheduled", "actual"))
            continue
        arrival = Arrival(
            moment=planned,
            clock=planned[11:16],
            stop=clean(row[stop]),
            destination=clean(row.get(destination, "")),
            block=_short(clean(row.get(block, ""))),
            ends="ends" if departure and not row[departure].strip() else "",
            delay=delay,
        )
        yield f"{day}\tarrivals\t{clean(row[line])}\t{clean(row[line_id])}", "\t".join(arrival)
    tally.finish()


def _delay(scheduled: str, actual: str, order: str) -> tuple[str | None, str]:
    """The scheduled time in ISO form and the signed delay; None when one of the two cannot be read."""
    planned, observed = parse_moment(scheduled, order), parse_moment(actual, order)
    if planned is None or observed is None or (planned.tzinfo is None) != (observed.tzinfo is None):
        return None, ""
    minutes = (observed - planned).total_seconds() / 60
    if abs(minutes) > MAX_DELAY_MINUTES:
        return None, ""
    return planned.isoformat(), f"{round(minutes, 1) + 0.0:+.1f}"  # + 0.0 turns -0.0 into +0.0


def _short(block: str) -> str:
    return block if len(block) <= MAX_BLOCK_CHARACTERS else ""


def arrival_document(day: str, line: str, line_id: str, packed: Iterable[str]) -> Document:
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
    parts = [" ".join(word for word in header if word) + "\n"]
    offset = len(parts[0].encode())
    spans: list[Span] = []
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
        start = offset + len(lead.encode())
        spans.append(Span(start, start + len(arrival.delay), "delay"))
        parts.append(f"{lead}{arrival.delay}\n")
        offset = start + len(arrival.delay) + 1
    suffix = "" if line_id == line else f" ({line_id})"
    return Document(id=f"{day}/line {line}{suffix}", text="".join(parts), group=day, time=day, spans=tuple(spans))
