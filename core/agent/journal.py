"""The journal: append-only events in SQLite, hash-chained, from which everything else is derived.

Written by the campaign, read by everyone. Promises: one transaction per event, durable when `append` returns (WAL,
synchronous FULL); rows cannot be changed or deleted through SQL; a broken chain is refused with the last good row;
hidden scores never stand in it, only the names of private records.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import BudgetError, JournalError, WorkspaceBusyError
from ..prepare.heldout import ensure_private, private_root

JOURNAL_FILE, LOCK_FILE = "journal.db", "lock"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
  number INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS events_are_final BEFORE UPDATE ON events
  BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_stay BEFORE DELETE ON events
  BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""


@dataclass(frozen=True, slots=True)
class Event:
    """One state change. `number` counts from 1 without gaps; `at` is UTC, for display only."""

    number: int
    at: str
    kind: str
    body: Mapping[str, Any]
    hash: str


class Journal:
    """The journal of one workspace. Raises JournalError when the file is damaged; use as a context manager."""

    def __init__(self, folder: Path, read_only: bool = False) -> None:
        self.path = folder / JOURNAL_FILE
        try:
            if not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            elif not self.path.exists():
                raise JournalError(f"there is no journal yet in {folder}", "start a campaign with `slm-ar run`")
            self._database = sqlite3.connect(self.path, isolation_level=None, timeout=20)
            try:
                if not read_only:
                    self._database.execute("PRAGMA journal_mode = WAL")
                    self._database.execute("PRAGMA synchronous = FULL")
                    self._database.executescript(_SCHEMA)
                self._events = list(self._verified())
            except BaseException:
                self._database.close()
                raise
        except sqlite3.OperationalError as error:
            raise JournalError(
                f"the journal {self.path} cannot be opened: {error}", "check that the folder may be written"
            ) from error
        except sqlite3.Error as error:
            raise _damaged(self.path, str(error)) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple(self._events)

    def append(self, kind: str, body: Mapping[str, Any]) -> Event:
        """Write one event; it is on disk when this returns. Raises BudgetError when the disk is full."""
        number = len(self._events) + 1
        at = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, sort_keys=True)
        # Half a surrogate pair in what a candidate said has no bytes; it must not end this night and each resumed one.
        text = text.encode("utf-8", "replace").decode("utf-8")
        chained = _chained(self._events[-1].hash if self._events else "", number, at, kind, text)
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", (number, at, kind, text, chained))
            self._database.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            self._rollback()
            raise JournalError(
                f"another process wrote to {self.path} meanwhile", "stop it, then run the command again"
            ) from error
        except sqlite3.OperationalError as error:
            self._rollback()
            if "full" in str(error) or "I/O" in str(error):
                raise BudgetError(
                    f"{self.path} cannot be written: {error}", "free some space; nothing that was recorded is lost"
                ) from error
            raise _damaged(self.path, str(error)) from error
        event = Event(number, at, kind, json.loads(text), chained)
        self._events.append(event)
        return event

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("ROLLBACK")

    def _verified(self) -> Iterator[Event]:
        before = ""
        if not self._database.execute("SELECT name FROM sqlite_master WHERE name = 'events'").fetchone():
            return  # made and not yet used
        rows = self._database.execute("SELECT number, at, kind, body, hash FROM events ORDER BY number")
        for expected, (number, at, kind, text, stored) in enumerate(rows, start=1):
            if number != expected or stored != _chained(before, number, at, kind, text):
                raise _damaged(self.path, f"the hash chain breaks at event {expected}; event {expected - 1} is good")
            before = stored
            yield Event(number, at, kind, json.loads(text), stored)


def _chained(before: str, number: int, at: str, kind: str, text: str) -> str:
    return hashlib.sha256("\0".join((before, str(number), at, kind, text)).encode()).hexdigest()


def _damaged(path: Path, why: str) -> JournalError:
    return JournalError(
        f"the journal {path} is damaged: {why}",
        f"copy it away (cp '{path}' somewhere), then move it out of the workspace to start a new campaign",
    )


# --- private records ------------------------------------------------------------------------


def put_private(record: Mapping[str, Any]) -> str:
    """Keep a record with hidden or test scores outside the workspace; returns the digest that names it."""
    text = json.dumps(record, allow_nan=False, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    folder = ensure_private(private_root() / "scores")
    path = folder / f"{digest}.json"
    if not path.exists():
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the name must survive a power cut as well
        finally:
            os.close(descriptor)
    return digest


def get_private(digest: str) -> dict[str, Any]:
    """The record that `put_private` named. Raises JournalError when it is gone or was changed."""
    path = private_root() / "scores" / f"{digest}.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise JournalError(
            f"a private score record is missing: {path}", "restore it, or start a new campaign"
        ) from error
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise JournalError(f"a private score record was changed: {path}", "restore it, or start a new campaign")
    return dict(json.loads(text))


# --- one loop per workspace -----------------------------------------------------------------


@contextlib.contextmanager
def workspace_lock(folder: Path) -> Iterator[None]:
    """Hold the workspace; freed by the system when the holder dies. Raises WorkspaceBusyError naming the holder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            raise WorkspaceBusyError(
                f"another slm-ar works in this workspace: {holder}", "wait for it, or stop it with Ctrl-C there"
            ) from None
        file.seek(0)
        file.truncate()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n")
        file.flush()
        yield
