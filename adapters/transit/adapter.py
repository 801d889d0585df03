"""The transit adapter: turns logs, realtime snapshots and timetables into documents, and open rows into questions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any

from ...core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule, Task
from ...core.errors import DataError
from ...core.sources import Notices, group_spilling, label, read_table
from . import columns as log_columns
from .arrivals import arrival_page, arrival_records
from .eta import accuracies, horizon, minute_of, step_of
from .feed import Feed, Names, feed_zone, read_names
from .incidents import incident_page, incident_records
from .pages import Page, page_document, page_questions
from .positions import position_page, position_records
from .realtime import realtime_records
from .rows import Asking, Tally, clean, question_id
from .schedule import schedule_pages
from .settings import OPTIONS, Settings, read_settings
from .snapshots import Inquiry, Snapshot, require_bindings
from .survey import Log, Survey, feed_notice, look_at
from .trips import trip_page, trip_records

DELAY = Task(
    "delay", kind="value", metric="mae", direction="min", min_effect=0.005, bins=(1.0, 5.0, 10.0, 20.0), clip=60.0
)
NEXT_STOP = Task(
    "next_stop",
    kind="value",
    metric="mae",
    direction="min",
    min_effect=0.005,
    bins=(1.0, 2.0, 3.0, 4.0, 5.0, 10.0),
    clip=60.0,
)
MOVED = Task(
    "moved",
    kind="value",
    metric="mae",
    direction="min",
    min_effect=0.5,
    bins=(20.0, 100.0, 200.0, 400.0),
    clip=2000.0,
)
"""Metres since the fix before."""
SAMPLE_BYTES_PER_DAY = 2600


class TransitAdapter:
    """Logs of incidents, arrivals, trips and positions, realtime snapshots, and timetables. See `describe`."""

    name = "transit"
    version = 2
    split = SplitRule.TIME
    duplicates = DuplicatePolicy.EXACT
    tasks: tuple[Task, ...] = (DELAY, NEXT_STOP, MOVED)
    slice_keys: tuple[str, ...] = ("mode", "line", "month")
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Incidents, calls at stops and positions serialised so far by the last call of `documents`."""
        self._found: list[str] = []
        self._counts = Notices()

    @property
    def notices(self) -> list[str]:
        """What the last call found, skipped or tolerated; complete when it is exhausted."""
        return self._found + self._counts.lines()

    def split_rule(self, source: Path, options: SourceOptions) -> SplitRule:
        """Logs by time, whole service days; timetables by group, whole stop patterns. Raises DataError."""
        settings = read_settings(options)
        survey = look_at(source, options.columns, settings.kind)
        return SplitRule.GROUP if survey.reads_schedule(settings.kind) else SplitRule.TIME

    def find_tasks(self, source: Path, options: SourceOptions) -> tuple[Task, ...]:
        """Delays for logs, minutes to the next stop for timetables, both for calls.

        Positions ask for the minutes to the stop that a vehicle heads for, else for how far it came.
        """
        settings = read_settings(options)
        survey = look_at(source, options.columns, settings.kind)
        if survey.reads_schedule(settings.kind):
            return (NEXT_STOP,)
        kinds = {log.match.kind.name for log in survey.logs}
        positions = [log for log in survey.logs if log.match.kind is log_columns.POSITIONS]
        tasks = []
        if survey.snapshots or kinds - {log_columns.POSITIONS.name}:
            tasks.append(DELAY)
        has_stops = any("next_stop" in log.match.columns for log in positions)
        if survey.snapshots or log_columns.TRIPS.name in kinds or has_stops:
            tasks.append(NEXT_STOP)
        if survey.snapshots or positions:
            tasks.append(MOVED)
        return tuple(tasks)

    def settle(self, source: Path, options: SourceOptions) -> Mapping[str, Any]:
        """The columns of the logs, so that what a later log has beside them is told."""
        survey = look_at(source, options.columns, read_settings(options).kind)
        return {"columns": survey.columns()}

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per service day and mode or line, by day; or one per run-time profile. Raises DataError."""
        settings = self._start(options)
        survey = look_at(source, options.columns, settings.kind)
        self._found = survey.notices(options.settled.get("columns"))
        if survey.reads_schedule(settings.kind):
            pages = self._timetable_pages(survey, settings)
        else:
            self._found += [feed_notice(feed) for feed in survey.timetables]
            pages = self._day_pages(_records(survey, settings, self._counts, asking=False))
        empty = True
        for page in pages:
            document = page_document(page)
            self.record_count += len(document.spans) or len(page.entries)
            empty = False
            yield document
        if empty:
            raise self._nothing_left(survey, settings)

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per row, or stop of a snapshot, without its answer, in the order of files. Raises DataError.

        The text is the header of the row's day, up to 20 lines before it whose answers are known, and the row up to
        its answer.
        """
        settings = self._start(options)
        survey = look_at(source, options.columns, settings.kind, asking=True)
        self._found = survey.notices(options.settled.get("columns"))
        pages = self._day_pages(_records(survey, settings, self._counts, asking=True))
        prompts = (
            (origin, f"{page.group}\t{page.task}\t{text}") for page in pages for origin, text in page_questions(page)
        )
        empty = True
        for origin, payloads in group_spilling(prompts):
            for payload in payloads:
                day, task, text = payload.split("\t", 2)
                end = len(text.encode())
                empty = False
                yield Document(question_id(origin), text, group=day, time=day, spans=(Span(end, end, task),))
        if empty:
            raise _nothing_asked(survey)

    def slices(self, document: Document) -> Mapping[str, str]:
        """The mode (`line` for arrivals and calls), the line where a document is of one, the month (2024-12)."""
        mode = document.text.partition(" ")[0]
        month = document.time[:7] if document.time is not None else "any"
        return {"mode": mode, "line": _line_of(document) or "all", "month": month}

    def answer_slices(self, document: Document, span: Span) -> Mapping[str, str]:
        """Line and hour of the record in which an answer stands; `any` where a record has no hour.

        Delays of arrivals and calls also tell the horizon: how long before the true arrival the last event was, in the
        steps by which agencies judge their predictions (eta.py).
        """
        raw = document.text.encode()
        start = raw.rfind(b"\n", 0, span.start) + 1
        record = raw[start : span.start].decode("utf-8", "replace")
        minute = minute_of(record)
        line = _line_of(document)
        slices = {
            "line": line or record[6:].partition(" | ")[0] or "all",
            "hour": "any" if minute is None else f"{minute // 60 % 24:02d}",
        }
        if line and minute is not None:
            gold = raw[span.start : span.end].decode("utf-8", "replace")
            minutes = horizon(raw[: span.start].decode("utf-8", "replace"), gold)
            slices["horizon"] = "first" if minutes is None else "passed" if minutes < 0 else step_of(minutes)
        return slices

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        """Whether the arrival came inside the window of its horizon, as the ETA Accuracy Benchmark has it (eta.py)."""
        return {} if task == MOVED.name else accuracies(prompt, gold, answer)

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Public transport logs or timetables. A document of a log is one service day: a header (mode or line, "
            "weekday, month, day) and one line per event in order of time.\n"
            "Incidents: `05:50 35 | JANE STATION | N | Mechanical | 10 | 20 | 8194` is time and line, place, "
            "direction, cause, delay in minutes, gap in minutes, vehicle.\n"
            "Arrivals: `05:54 31 | +0.3` is scheduled time, stop and vehicle block where they vary, and the delay in "
            "signed minutes.\n"
            "Calls of a trip stand together below a line `trip 3845 > New York`: `05:54 Trenton | +0.3`.\n"
            "Positions: `+31 +12 -3 8.1 to Old Mill | +1.0` is seconds, ten-thousandths of a degree north and east "
            "since the line before, speed, and the minutes to the stop, the answer; without stops "
            "`+31 | 140 | +12 -3 8.1` has the metres since the line before as the answer.\n"
            "The delay is the answer that counts. Fields are words: ` | ` and newlines separate them. Delays follow "
            "the hour, the weekday, the line, the place, the cause, and the delays just before.\n"
            "Timetables: a document is one line, headsign, stop pattern and run-time profile; `Marion St | +1.1` is "
            "the minutes since the stop before, the answer. Whole stop patterns are held out."
        )

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of a synthetic city, read back through the same code as real files."""
        from .city import write_city

        with tempfile.TemporaryDirectory(prefix="slm-ar-city-") as scratch:
            write_city(Path(scratch), seed=seed, days=max(2, size // SAMPLE_BYTES_PER_DAY + 2))
            total = 0
            for document in TransitAdapter().documents(Path(scratch), SourceOptions()):
                if total >= size:
                    return
                total += len(document.text.encode())
                yield document

    def write_sample_source(self, folder: Path, seed: int) -> None:
        """Write the files of a synthetic city into `folder`: what the demo reads as if it were real."""
        from .city import write_city

        write_city(folder, seed=seed)

    # --- from records to pages ----------------------------------------------------------------

    def _start(self, options: SourceOptions) -> Settings:
        self.record_count, self._found, self._counts = 0, [], Notices()
        return read_settings(options)

    def _timetable_pages(self, survey: Survey, settings: Settings) -> Iterator[Page]:
        if settings.window.since is not None or settings.window.until is not None:
            self._found.append(f"{survey.source}: since and until do not apply to a timetable")
        for number, feed in enumerate(survey.timetables):
            yield from schedule_pages(feed, number, settings.wishes, self._counts)

    def _day_pages(self, records: Iterable[tuple[str, str]]) -> Iterator[Page]:
        for key, payloads in group_spilling(records):
            day, kind, *names = key.split("\t")
            page: Page | None
            if kind == "incidents":
                page = incident_page(day, names[0], payloads)
            elif kind == "arrivals":
                page = arrival_page(day, names[0], names[1], payloads)
            elif kind == "positions":
                page = position_page(day, names[0], payloads, self._counts)
            else:
                page = trip_page(day, names[0], payloads, self._counts)
            if page is not None:
                yield page

    def _nothing_left(self, survey: Survey, settings: Settings) -> DataError:
        if survey.reads_schedule(settings.kind):
            return DataError(f"{survey.source}: no trip of the timetable can be used", "\n".join(self.notices[:8]))
        since, until = settings.window.since, settings.window.until
        if since is None and until is None:
            return DataError(f"{survey.source}: holds nothing that becomes a document", "\n".join(self.notices[:12]))
        return DataError(
            f"{survey.source}: no incident, arrival or other record between {since or 'the start'} "
            f"and {until or 'the end'}",
            "Check since and until in the recipe's [data] table.",
        )


def _nothing_asked(survey: Survey) -> DataError:
    source = survey.source
    hints = []
    if survey.logs and all(log.match.kind is log_columns.POSITIONS for log in survey.logs):
        hints.append("Position logs ask nothing: they tell where a vehicle was, and the model is scored on that.")
    elif survey.logs or not survey.snapshots:
        hints.append("Leave the delay (or the actual time) of the rows to predict empty.")
    if survey.snapshots and not survey.timetables:
        hints.append("A stop of a snapshot is asked about with its schedule: put the static feed (zip) beside it.")
    elif survey.snapshots:
        hints.append(
            "A snapshot asks about the stops that it gives no time for; with --option ask=ahead also about those whose "
            "time it predicts."
        )
    hints.append(f"To compare with delays that are known: slm-ar eval --source {source}")
    return DataError(f"{source}: no row waits for an answer", "\n".join(hints))


def _line_of(document: Document) -> str:
    """The line of a document that is of one line; empty for a mode's incidents."""
    head, _, name = document.id.partition("/")
    if head.startswith("timetable"):
        return name.partition("/")[2]
    kind, _, line = name.partition(" ")
    if kind == "line":
        return line.rpartition(" (")[0] if line.endswith(")") and " (" in line else line
    return line if kind in ("trips", "positions") else ""


# --- from the source to records -----------------------------------------------------------------


def _records(survey: Survey, settings: Settings, counts: Notices, *, asking: bool) -> Iterator[tuple[str, str]]:
    """The records of all logs, then of all snapshots. Positions ask nothing."""
    if survey.snapshots:
        require_bindings(survey.snapshots[0].name)  # before hours of reading, not after them
    sides: dict[tuple[str, ...], tuple[Names, tzinfo | None]] = {}
    for number, log in enumerate(survey.logs):
        kind = log.match.kind
        if kind in (log_columns.INCIDENTS, log_columns.ARRIVALS):
            side: tuple[Names, tzinfo | None] = (Names(), None)
        elif asking and kind is log_columns.POSITIONS:
            continue
        else:
            feeds = survey.feeds_of(log.path)
            key = tuple(feed.name for feed in feeds)
            if key not in sides:
                sides[key] = _side(feeds, settings)
            side = sides[key]
        asked = Asking(number, clean(_relative(log, survey.source))) if asking else None
        yield from _log_records(log, side, settings, counts, asked)
    places = {snapshot: len(survey.logs) + place for place, snapshot in enumerate(survey.snapshots)}
    for feeds, snapshots in _joins(survey):
        inquiry = None
        if asking:
            names = [Asking(places[each], clean(_relative(each, survey.source))) for each in snapshots]
            inquiry = Inquiry(names, settings.asks_ahead)
        window, zone = settings.window, settings.zone
        yield from realtime_records(snapshots, feeds, window, zone, counts, alone=not survey.logs, inquiry=inquiry)


def _log_records(
    log: Log, side: tuple[Names, tzinfo | None], settings: Settings, counts: Notices, asked: Asking | None
) -> Iterator[tuple[str, str]]:
    table = read_table(log.path, member=log.member, notices=counts)
    tally, found, window = Tally(table.name, counts), log.match.columns, settings.window
    names, zone = side
    if log.match.kind is log_columns.INCIDENTS:
        return incident_records(table, found, log.mode, tally, window, asked)
    if log.match.kind is log_columns.ARRIVALS:
        return arrival_records(table, found, tally, window, asked)
    if log.match.kind is log_columns.TRIPS:
        return trip_records(table, found, tally, window, zone, (names.stops, names.lines), asked)
    return position_records(table, found, tally, window, zone, (names.stops, names.lines))


def _side(feeds: list[Feed], settings: Settings) -> tuple[Names, tzinfo | None]:
    """Names and timezone for a log with ids. Several feeds may use one id for two stops, so then there are no names."""
    if len(feeds) != 1:
        return Names(), settings.zone
    return read_names(feeds[0]), settings.zone or feed_zone(feeds[0])


def _joins(survey: Survey) -> Iterator[tuple[list[Feed], list[Snapshot]]]:
    """Snapshots that share their feeds."""
    groups: dict[tuple[str, ...], tuple[list[Feed], list[Snapshot]]] = {}
    for snapshot in survey.snapshots:
        feeds = [feed for feed in survey.feeds_of(snapshot.path) if feed.is_timetable]
        groups.setdefault(tuple(feed.name for feed in feeds), (feeds, []))[1].append(snapshot)
    yield from groups.values()


def _relative(file: Log | Snapshot, source: Path) -> str:
    path = file.path.name if file.path == source else file.path.relative_to(source).as_posix()
    return label(Path(path), file.member)
