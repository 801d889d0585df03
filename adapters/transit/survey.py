"""Finds out what a source holds: logs by their columns, static feeds and realtime snapshots by their names.

Every header is looked at before any row is read, so that a source that cannot work is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...core.errors import DataError, did_you_mean
from ...core.sources import MOST_NAMES, TABLE_SUFFIXES, Notices, label, list_files, read_table, strip_gz, zip_members
from . import columns as log_columns
from .feed import ROUTES, STOP_TIMES, STOPS, TRIPS, Feed, feed_part
from .incidents import mode_of
from .snapshots import SUFFIXES as SNAPSHOT_SUFFIXES
from .snapshots import Snapshot

SUFFIXES = (*TABLE_SUFFIXES, *SNAPSHOT_SUFFIXES, ".txt", ".zip", ".xlsx", ".md")
"""More than can be read, so that what is left out can be named in the notices."""
MAX_SKIPPED_NAMED = 40
ASKABLE = "incident log, arrival log, trip log or GTFS-realtime snapshot"
READABLE = "incident log, arrival log, trip log, position log, GTFS-realtime snapshot or static GTFS feed"


@dataclass(frozen=True, slots=True)
class Log:
    """One file, or one member of a zip archive, that is a log."""

    path: Path
    member: str
    match: log_columns.Match
    columns: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """What the file's name tells."""
        return mode_of(self.file_name)

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name or self.path.name


@dataclass
class Survey:
    """What a source holds, each in a stable order, and what was left out."""

    source: Path
    logs: list[Log] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Notices."""
    headers: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    """Name and columns of every table."""

    @property
    def timetables(self) -> list[Feed]:
        return [feed for feed in self.feeds if feed.is_timetable]

    def reads_schedule(self, kind: str) -> bool:
        """Whether the documents are timetables. Logs come first where a source holds both."""
        return kind == "schedule" or (kind == "auto" and not self.logs and not self.snapshots and bool(self.timetables))

    def feeds_of(self, path: Path) -> list[Feed]:
        """The feeds that describe a log or a snapshot: those in its folder, else all."""
        return [feed for feed in self.feeds if feed.folder == path.parent] or self.feeds

    def notices(self, seen: Mapping[str, Sequence[str]] | None = None) -> list[str]:
        """What there is, and what was left out: the first files by name. `seen` is what `columns` said of training."""
        skipped = [*self.skipped, *self._new_columns(seen or {})]
        more = len(skipped) - MAX_SKIPPED_NAMED
        rest = [f"{self.source}: {more:,} more files skipped"] if more > 0 else []
        return [self.summary(), *skipped[:MAX_SKIPPED_NAMED], *rest]

    def columns(self) -> dict[str, list[str]]:
        """Kind of log -> the columns that its files have, as plain words."""
        found: dict[str, dict[str, None]] = {}
        for log in self.logs:
            found.setdefault(log.match.kind.name, {}).update(dict.fromkeys(map(log_columns.plain, log.columns)))
        return {kind: list(columns) for kind, columns in found.items()}

    def _new_columns(self, seen: Mapping[str, Sequence[str]]) -> Iterator[str]:
        """A notice for each log with columns that are not read, and that no log of its kind had before it."""
        known = {kind: set(columns) for kind, columns in seen.items()}
        for log in self.logs:
            kind, read = log.match.kind.name, set(log.match.columns.values())
            before = known.setdefault(kind, set(map(log_columns.plain, log.columns)))
            new = [each for each in log.columns if each not in read and log_columns.plain(each) not in before]
            before.update(map(log_columns.plain, log.columns))
            if new:
                told = ", ".join(new[:MOST_NAMES]) + ", ..." * (len(new) > MOST_NAMES)
                name = label(log.path, log.member)
                yield f"{name}: columns that no earlier {kind} has, not read ({told}): {len(new)}"

    def summary(self) -> str:
        """`SOURCE: holds 2 incident logs, 1 static GTFS feed`."""
        counts: dict[str, int] = {}
        for log in self.logs:
            counts[log.match.kind.name] = counts.get(log.match.kind.name, 0) + 1
        if self.snapshots:
            counts["GTFS-realtime snapshot"] = len(self.snapshots)
        if self.timetables:
            counts["static GTFS feed"] = len(self.timetables)
        partial = len(self.feeds) - len(self.timetables)
        if partial:
            counts["part of a static GTFS feed (names only)"] = partial
        words = (
            f"{count:,} {name}{'s' if count > 1 and not name.endswith(')') else ''}" for name, count in counts.items()
        )
        return f"{self.source}: holds {', '.join(words)}"


def look_at(source: Path, chosen: Mapping[str, str], kind: str, asking: bool = False) -> Survey:
    """Survey a source. `asking`: logs of questions may lack the column of the answer. Raises DataError."""
    log_columns.check_chosen(chosen)
    survey = Survey(source)
    packed = Notices()
    entries = list(_entries(source, packed))
    survey.skipped += packed.lines()
    in_feeds = _find_feeds(entries, survey)
    for path, member in entries:
        name = strip_gz(member or path.name)
        if name.endswith(SNAPSHOT_SUFFIXES):
            survey.snapshots.append(Snapshot(path, member))
        elif not (name.endswith(".txt") and _home(path, member) in in_feeds) and kind != "schedule":
            _look_at_table(path, member, chosen, asking, survey)
    if kind == "logs" or (kind == "auto" and (survey.logs or survey.snapshots)):
        usable = bool(survey.logs or survey.snapshots)
    else:
        usable = bool(survey.timetables) and not asking
    if not usable:
        raise _nothing_usable(survey, chosen, kind, asking)
    _check_columns_exist(chosen, survey.headers)
    return survey


def _entries(source: Path, notices: Notices) -> Iterator[tuple[Path, str]]:
    """(file, "") or (archive, member) of everything that may be worth a look."""
    for path in list_files(source, SUFFIXES, notices):
        if path.suffix.lower() == ".zip":
            for member in zip_members(path, SUFFIXES, notices):
                yield path, member
        else:
            yield path, ""


def _home(path: Path, member: str) -> tuple[Path, str]:
    """The folder of a file, inside an archive too."""
    return (path, str(PurePosixPath(member).parent)) if member else (path.parent, "")


def _find_feeds(entries: list[tuple[Path, str]], survey: Survey) -> set[tuple[Path, str]]:
    """Put the feeds into the survey; returns the folders whose other .txt files are theirs."""
    found: dict[tuple[Path, str, str], dict[str, tuple[Path, str]]] = {}
    for path, member in entries:
        part = feed_part(member or path.name)
        if part is not None:
            found.setdefault((*_home(path, member), part[0]), {})[part[1]] = (path, member)
    whole = {(home, inner) for (home, inner, _), tables in found.items() if {TRIPS, STOP_TIMES} <= tables.keys()}
    for (home, inner, prefix), tables in found.items():
        archived = any(member for _, member in tables.values())
        name = label(home, inner if archived and inner != "." else "")
        feed = Feed(name, home.parent if archived else home, tables)
        if feed.is_timetable:
            survey.feeds.append(feed)
        elif (home, inner) not in whole:  # beside a whole feed it is one of its extra files
            names = ", ".join(sorted(prefix + table for table in tables))
            use = "not used"
            if not {STOPS, ROUTES}.isdisjoint(tables):
                survey.feeds.append(feed)
                use = "used for names of stops and lines"
            survey.skipped.append(f"{name}: part of a static GTFS feed without a timetable, {use}: {names}")
    return {(home, inner) for home, inner, _ in found}


def feed_notice(feed: Feed) -> str:
    """What is said of a feed that lies beside logs."""
    path, member = feed.tables[TRIPS]
    trips = sum(1 for _ in read_table(path, member=member))
    return (
        f"{feed.name}: static GTFS feed, {trips:,} trips: lies beside logs, so it only gives names and times to "
        'them; [data.options] kind = "schedule" makes documents of it'
    )


def _look_at_table(path: Path, member: str, chosen: Mapping[str, str], asking: bool, survey: Survey) -> None:
    name = label(path, member)
    if name.lower().endswith(".xlsx"):
        survey.skipped.append(f"{name}: skipped, a workbook: save its sheet as CSV (UTF-8)")
        return
    if not strip_gz(member or path.name).endswith(TABLE_SUFFIXES):
        survey.skipped.append(f"{name}: skipped, neither csv, tsv, json lines nor parquet")
        return
    try:
        columns = read_table(path, member=member).columns
    except DataError:
        if name.lower().endswith(".json"):  # settings and renderings of snapshots often lie beside logs
            survey.skipped.append(f"{name}: skipped, its JSON is not a table")
            return
        raise
    survey.headers.append((name, columns))
    match = log_columns.best_match(columns, chosen, asking)
    if not match.missing:
        survey.logs.append(Log(path, member, match, columns))
    elif log_columns.looks_like_a_log(match, chosen):
        raise log_columns.missing_columns_error(name, columns, match)
    else:
        survey.skipped.append(f"{name}: skipped, not a log of incidents, arrivals, trips or positions")


def _nothing_usable(survey: Survey, chosen: Mapping[str, str], kind: str, asking: bool) -> DataError:
    source = survey.source
    seen = "\n".join(survey.skipped[:8]) or "The folder holds no csv, tsv, json lines or parquet file."
    if kind == "schedule":
        return DataError(f"{source}: holds no static GTFS feed (trips.txt and stop_times.txt)", survey.summary())
    if asking and survey.feeds:
        return DataError(f"{source}: holds no {ASKABLE} to ask about", seen)
    if kind == "logs" and survey.timetables:
        return DataError(
            f"{source}: holds no incident log or other log, only a static GTFS feed",
            'Remove kind = "logs" from [data.options] to read the timetable.',
        )
    if not survey.headers:
        if "part of a static GTFS feed" in seen:
            seen += "\nA timetable is trips.txt and stop_times.txt in one folder or zip: name that as the source."
        return DataError(f"{source}: holds no {READABLE}", seen)
    name, columns = max(survey.headers, key=lambda header: log_columns.best_match(header[1], chosen, asking).share)
    match = log_columns.best_match(columns, chosen, asking)
    table = log_columns.columns_table(columns, match)
    return DataError(
        f"{source}: holds no {READABLE} that could be recognised",
        f"{seen}\nIf {name} is {match.kind.title}, name its columns in recipe.toml:\n{table}",
    )


def _check_columns_exist(chosen: Mapping[str, str], headers: list[tuple[str, tuple[str, ...]]]) -> None:
    known = {log_columns.plain(column): column for _, columns in headers for column in columns}
    for name, column in chosen.items():
        if headers and log_columns.plain(column) not in known:
            raise DataError(
                f"[data.columns] {name} = '{column}': no file of the source has such a column",
                did_you_mean(column, list(known.values())),
            )
