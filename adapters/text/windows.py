"""Logs cut by time: the lines of one window of one file are a document, the window is its group.

Called by `adapter` when the recipe sets a window. Lines may come out of order and files may overlap in time: a spilling
group-by brings each window together, so memory stays flat and documents come in order of time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from ...core.contracts import Document
from ...core.errors import DataError
from ...core.sources import Notices, group_spilling
from .settings import ASSUMED_YEAR, Settings
from .stamps import FORMATS, StampFormat, YearCounter, find_format, without_date

ANCHOR = datetime(2001, 1, 1)
"""A Monday at midnight, so that windows of days begin at midnight and weeks on Monday."""
CHUNK_CHARACTERS = 1 << 11
"""Lines that travel together through the group-by, which holds a thousand records of each of its temporary files."""
DOCUMENT_CHARACTERS = 1 << 20
"""A window with more text becomes several documents of the same group."""
KEY_SEPARATOR = "\t"


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file, or one member of a zip archive: its name for ids, its label for notices, and its lines."""

    name: str
    label: str
    peeked: list[str]
    """The first lines, which tell how times are written."""
    lines: Iterator[str]


def window_documents(files: Iterable[LogFile], settings: Settings, notices: Notices) -> Iterator[Document]:
    """One document per window and file (more when it is long), by time and name. Raises DataError."""
    chunks = chain.from_iterable(_chunks(file, settings, notices) for file in files)
    for key, payloads in group_spilling(chunks):
        window, _, name = key.partition(KEY_SEPARATOR)
        for part, text in enumerate(_bounded(payloads), start=1):
            identity = f"{name}@{window}" if part == 1 else f"{name}@{window}.{part}"
            yield Document(id=identity, text=text, group=window, time=window)


def _bounded(chunks: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for chunk in chunks:
        if held and size + len(chunk) > DOCUMENT_CHARACTERS:
            yield "".join(held)
            held, size = [], 0
        held.append(chunk)
        size += len(chunk)
    if held:
        yield "".join(held)


def _chunks(file: LogFile, settings: Settings, notices: Notices) -> Iterator[tuple[str, str]]:
    """(window and name, some lines): consecutive lines of one window travel together, which spares the sorting."""
    held: list[str] = []
    current, size = "", 0
    for window, line in _windowed_lines(file, settings, notices):
        if held and (window != current or size >= CHUNK_CHARACTERS):
            yield f"{current}{KEY_SEPARATOR}{file.name}", "".join(held)
            held, size = [], 0
        current = window
        held.append(line)
        size += len(line)
    if held:
        yield f"{current}{KEY_SEPARATOR}{file.name}", "".join(held)


def _windowed_lines(file: LogFile, settings: Settings, notices: Notices) -> Iterator[tuple[str, str]]:
    """(window, line) of every filled line that the recipe's period holds, with \\n as its end."""
    known = _format_of(file, settings, notices)
    years = YearCounter(settings.year or ASSUMED_YEAR)
    assert settings.window is not None
    window, wanted = "", True
    waiting: list[str] = []
    for line in chain(file.peeked, file.lines):
        plain = line.rstrip("\r\n") + "\n"
        if plain == "\n" or plain.isspace():
            continue
        match = known.find(plain)
        moment = years.read(match) if match is not None else None
        if match is not None and moment is not None:
            window, wanted = window_of(moment, settings.window), settings.period.holds(moment)
            if not settings.keep_dates:
                plain = without_date(plain, match, known, moment)
        else:
            notices.count(file.label, "lines without a readable time, kept with the line before")
        if not window:
            waiting.append(plain)  # a heading; `_format_of` saw that a time follows soon
            continue
        if wanted:
            yield from ((window, earlier) for earlier in waiting)
            yield window, plain
        waiting = []


def window_of(moment: datetime, length: timedelta) -> str:
    """The beginning of the moment's window, to the minute: 2005-06-03T15:00."""
    start = ANCHOR + (moment - ANCHOR) // length * length
    return start.isoformat(timespec="minutes")


def _format_of(file: LogFile, settings: Settings, notices: Notices) -> StampFormat:
    filled = [line for line in file.peeked if line.strip()]
    known = find_format(filled)
    if known is None:
        example = filled[0].strip()[:80] if filled else ""
        raise DataError(
            f"{file.label}: no time was recognised in its lines, such as: {example}",
            "Remove window from [data.options], or leave the file out with suffixes. Times that are recognised: "
            + ", ".join(each.title for each in FORMATS),
        )
    notices.count(file.label, f"files with times like {known.title}")
    if not known.has_year and settings.year is None:
        if settings.period:
            raise DataError(
                f"{file.label}: its lines tell no year, so since and until cannot be applied",
                "Say the year of its first line: [data.options] year = 2024",
            )
        notices.count(file.label, f"files whose lines tell no year, counted from {ASSUMED_YEAR} ([data.options] year)")
    return known
