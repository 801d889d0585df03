"""The transit adapter: finds out what a folder holds and turns logs into documents of one service day each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...core.contracts import Document, DuplicatePolicy, SourceOptions, SplitRule, Task
from ...core.errors import DataError, did_you_mean
from ...core.sources import (
    TABLE_SUFFIXES,
    Notices,
    group_spilling,
    label,
    list_files,
    read_table,
    strip_gz,
    zip_members,
)
from . import columns as log_columns
from .arrivals import arrival_document, arrival_records
from .clock import parse_limit
from .incidents import incident_document, incident_records, mode_of
from .rows import Tally, Window

GTFS_FILES = frozenset({"trips.txt", "stop_times.txt"})
SUFFIXES = (*TABLE_SUFFIXES, ".txt", ".zip", ".pb", ".xlsx", ".md")
"""More than can be read, so that what is left out can be named in the notices."""
OPTIONS = {
    "date_order": '"dmy" or "mdy", when dates such as 03/04/2024 do not tell it themselves.',
    "line_numbers": 'true writes the line "102 MARKHAM ROAD" as "102"; default false.',
}
SAMPLE_BYTES_PER_DAY = 2600


@dataclass(frozen=True, slots=True)
class _Log:
    """One file, or one member of a zip archive, that is a log."""

    path: Path
    member: str
    match: log_columns.Match

    @property
    def mode(self) -> str:
        return mode_of(PurePosixPath(self.member).name or self.path.name)


class TransitAdapter:
    """Incident logs and arrival logs, alone or mixed in one folder or zip. See `describe`."""

    name = "transit"
    version = 1
    split = SplitRule.TIME
    duplicates = DuplicatePolicy.EXACT
    tasks: tuple[Task, ...] = (Task("delay", kind="value", metric="mae", direction="min", min_effect=0.005),)
    slice_keys: tuple[str, ...] = ("mode", "month")
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Incidents and arrivals serialised so far by the last call of `documents`."""
        self._skipped: list[str] = []
        self._counts = Notices()

    @property
    def notices(self) -> list[str]:
        """What the last call of `documents` skipped or tolerated; complete when it is exhausted."""
        return self._skipped + self._counts.lines()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per service day and mode (incidents) or line (arrivals), by day. Raises DataError."""
        self.record_count, self._skipped, self._counts = 0, [], Notices()
        window = _window(options)
        logs = self._plan(source, options.columns)
        records = (record for log in logs for record in self._records(log, window))
        empty = True
        for key, payloads in group_spilling(records):
            day, kind, *names = key.split("\t")
            if kind == "incidents":
                document = incident_document(day, names[0], payloads)
            else:
                document = arrival_document(day, names[0], names[1], payloads)
            self.record_count += len(document.spans)
            empty = False
            yield document
        if empty:
            first, last = window.since or "the start", window.until or "the end"
            raise DataError(
                f"{source}: no incident or arrival between {first} and {last}",
                "Check since and until in the recipe's [data] table.",
            )

    def slices(self, document: Document) -> Mapping[str, str]:
        """The mode (`line` for arrivals) and the month, like 2024-12."""
        return {"mode": document.text.partition(" ")[0], "month": document.group[:7]}

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Public transport logs. A document is one service day: a header (mode or line, weekday, month, day) and "
            "one line per event in order of time.\n"
            "Incidents: `05:50 35 | JANE STATION | N | Mechanical | 10 | 20 | 8194` is time and line, place, "
            "direction, cause, delay in minutes, gap in minutes, vehicle.\n"
            "Arrivals: `05:54 31 | +0.3` is scheduled time, stop and vehicle block where they vary, and the delay in "
            "signed minutes.\n"
            "The delay is the answer that counts. Fields are words: ` | ` and newlines separate them. Delays follow "
            "the hour, the weekday, the line, the place, the cause, and the delays just before."
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

    # --- what the source holds ----------------------------------------------------------------

    def _plan(self, source: Path, chosen: Mapping[str, str]) -> list[_Log]:
        """Look at every header; refuse the source before any row is read when it cannot work."""
        log_columns.check_chosen(chosen)
        files = list_files(source, SUFFIXES)
        feeds = {path for path in files if path.name == "trips.txt"}
        logs: list[_Log] = []
        headers: list[tuple[str, tuple[str, ...]]] = []
        for path in files:
            if path.suffix.lower() == ".zip":
                members = zip_members(path, SUFFIXES)
                if {PurePosixPath(member).name for member in members} >= GTFS_FILES:
                    self._skip_feed(path)
                    continue
            elif path.suffix.lower() == ".txt" and path.parent / "trips.txt" in feeds:
                if path in feeds:
                    self._skip_feed(path)
                continue
            else:
                members = [""]
            for member in members:
                self._look_at(path, member, chosen, logs, headers)
        if not logs:
            raise self._nothing_usable(source, headers, chosen)
        _check_columns_exist(chosen, headers)
        return logs

    def _look_at(
        self,
        path: Path,
        member: str,
        chosen: Mapping[str, str],
        logs: list[_Log],
        headers: list[tuple[str, tuple[str, ...]]],
    ) -> None:
        name = label(path, member)
        if not strip_gz(member or path.name).endswith(TABLE_SUFFIXES):
            self._skipped.append(f"{name}: skipped, neither csv, tsv, json lines nor parquet")
            return
        try:
            columns = read_table(path, member=member).columns
        except DataError:
            if name.lower().endswith(".json"):  # settings and snapshots often lie beside logs
                self._skipped.append(f"{name}: skipped, its JSON is not a table")
                return
            raise
        headers.append((name, columns))
        match = log_columns.best_match(columns, chosen)
        if not match.missing:
            logs.append(_Log(path, member, match))
        elif log_columns.looks_like_a_log(match, chosen):
            raise log_columns.missing_columns_error(name, columns, match)
        else:
            self._skipped.append(f"{name}: skipped, neither an incident log nor an arrival log")

    def _skip_feed(self, path: Path) -> None:
        member = ""
        if path.suffix.lower() == ".zip":
            member = next(name for name in zip_members(path, (".txt",)) if PurePosixPath(name).name == "trips.txt")
        trips = sum(1 for _ in read_table(path, member=member, notices=self._counts))
        name = str(path) if member else str(path.parent)
        self._skipped.append(f"{name}: static GTFS feed, {trips:,} trips (not serialised by this version)")

    def _nothing_usable(
        self, source: Path, headers: list[tuple[str, tuple[str, ...]]], chosen: Mapping[str, str]
    ) -> DataError:
        seen = "\n".join(self._skipped[:8]) or "The folder holds no csv, tsv, json lines or parquet file."
        if not headers:
            return DataError(f"{source}: holds no incident log and no arrival log", seen)
        name, columns = max(headers, key=lambda header: log_columns.best_match(header[1], chosen).share)
        match = log_columns.best_match(columns, chosen)
        table = log_columns.columns_table(columns, match)
        return DataError(
            f"{source}: holds no incident log and no arrival log that could be recognised",
            f"{seen}\nIf {name} is an {match.kind.name}, name its columns in recipe.toml:\n{table}",
        )

    def _records(self, log: _Log, window: Window) -> Iterator[tuple[str, str]]:
        table = read_table(log.path, member=log.member, notices=self._counts)
        tally = Tally(table.name, self._counts)
        if log.match.kind is log_columns.INCIDENTS:
            return incident_records(table, log.match.columns, log.mode, tally, window)
        return arrival_records(table, log.match.columns, tally, window)


def _window(options: SourceOptions) -> Window:
    for name in options.options:
        if name not in OPTIONS:
            raise DataError(
                f"the transit adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    order = options.options.get("date_order", "")
    if order not in ("", "dmy", "mdy"):
        raise DataError(f"[data.options] date_order = '{order}' is unknown", 'Write "dmy" or "mdy".')
    line_numbers = options.options.get("line_numbers", False)
    if not isinstance(line_numbers, bool):
        raise DataError("[data.options] line_numbers must be true or false", 'true writes "102 MARKHAM ROAD" as "102".')
    since, until = parse_limit("since", options.since), parse_limit("until", options.until)
    return Window(since, until, order, line_numbers)


def _check_columns_exist(chosen: Mapping[str, str], headers: list[tuple[str, tuple[str, ...]]]) -> None:
    known = {log_columns.plain(column): column for _, columns in headers for column in columns}
    for name, column in chosen.items():
        if log_columns.plain(column) not in known:
            raise DataError(
                f"[data.columns] {name} = '{column}': no file of the source has such a column",
                did_you_mean(column, list(known.values())),
            )
