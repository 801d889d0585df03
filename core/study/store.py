"""Append-only JSON lines on disk: a table of trained configurations, and the runs of a live study.

Written by record.py and live.py, read by replay.py. Promises: a line that was written is on the disk; a line that a
kill left torn is dropped when the file is opened for writing; rows of another recipe, corpus, machine or harness never
enter the same file; one process at a time writes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

from ..errors import UsageError, WorkspaceBusyError

FORMAT = 1
TABLE, RUNS = "table", "live run"
"""What a file may hold: recorded configurations, or the trainings of live searches."""

FACT_WORDS = MappingProxyType(
    {
        "recipe": "the recipe",
        "data": "the prepared data",
        "train_py": "train.py",
        "harness": "the harness",
        "torch": "torch",
        "device": "the device",
        "machine": "the machine",
        "cores": "the number of processor cores",
        "threads": "the number of threads",
        "precision": "the precision",
        "longest_seconds": "longest_seconds of the corpus",
        "seed": "the seed of the drawing",
    }
)
"""What must not change within one file, and how it is said."""


def identity_of(facts: Mapping[str, Any]) -> str:
    """Names what must not change within one file."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class Store:
    """Rows of one file, open for writing. Use as a context manager."""

    def __init__(self, path: Path, kind: str, facts: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Open or begin the file. `facts` must equal those of its first line; `more` is only written.

        Raises UsageError for another file and for one with other facts, WorkspaceBusyError when somebody writes it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: IO[bytes] = path.open("a+b")
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceBusyError(f"{path} is being written by another study", "wait for its end") from None
            self.was_torn = self._drop_torn_line()
            if path.stat().st_size == 0:
                self.rows: list[dict[str, Any]] = []
                self._write(
                    {"kind": kind, "format": FORMAT, "identity": identity_of(facts), "facts": dict(facts), **more}
                )
            else:
                header, self.rows = read_store(path, kind)
                _refuse_other_facts(path, header["facts"], facts)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; it is on the disk when this returns."""
        self.rows.append(self._write(row))

    def _write(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as it is read again later."""
        line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode("utf-8", "replace")
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        found: dict[str, Any] = json.loads(line)
        return found

    def _drop_torn_line(self) -> bool:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole == len(content) or not content.startswith(b'{"kind"'):
            return False  # whole, or somebody else's file, which read_store refuses
        self._file.truncate(whole)
        return True


def read_store(path: Path, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, rows) of a file. A torn last line is passed over. Raises UsageError for anything else."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path} is missing", "record it with `slm-ar study STUDY.toml --mode record`") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "name the file of a recorded table") from error
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, line {number}: this is no JSON object", "restore the file, or remove it")
        rows.append(row)
    if not rows or rows[0].get("kind") != kind or not isinstance(rows[0].get("facts"), dict):
        raise UsageError(f"{path} is not a {kind} of slm-ar study", "name another file, or remove this one")
    if rows[0].get("format") != FORMAT:
        raise UsageError(f"{path} was written by another slm-ar", "record it again under another name")
    return rows[0], rows[1:]


def _refuse_other_facts(path: Path, known: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    changed = [FACT_WORDS.get(name, name) for name in {**known, **facts} if known.get(name) != facts.get(name)]
    if changed:
        raise UsageError(
            f"{path} was recorded before this changed: {', '.join(changed)}; its scores cannot stand beside new ones",
            "undo the change, or give the corpus another `table` (or the study another `folder`)",
        )
