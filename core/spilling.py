"""A group-by for more records than fit into memory, by external merge sort. Part of `core.sources`.

Adapters call it; prepare says before where it may write (`spilling_into`): what is held out must not lie open in /tmp.
"""

from __future__ import annotations

import heapq
import marshal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

from .errors import BudgetError

Record = tuple[str, str]

RECORD_OVERHEAD_BYTES = 170
"""What CPython needs for a tuple of two strings, beside their characters."""
BLOCK_RECORDS = 1000
MAX_OPEN_RUNS = 64
"""Far below the 256 open files that macOS grants a process."""

_sort_key = itemgetter(0)
_folder: ContextVar[Path | None] = ContextVar("folder of temporary files", default=None)


@contextmanager
def spilling_into(folder: Path) -> Iterator[None]:
    """Inside, `group_spilling` keeps its files in `folder`, whoever calls it."""
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)


def group_spilling(
    records: Iterable[Record], *, memory_bytes: int = 32 << 20, folder: Path | None = None
) -> Iterator[tuple[str, Iterator[str]]]:
    """Group (sort key, payload) records by key, in sorted key order.

    Yields (key, payloads); payloads keep their order of arrival and must be used before the next group is asked for,
    as with itertools.groupby. About `memory_bytes` are held; the rest lies in a temporary folder (in `folder`, else
    that of `spilling_into`, else where the system keeps such), which is gone when the iterator ends or is closed.
    Strings sort by code point.
    Raises BudgetError when that disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="slm-ar-sort-", dir=folder or _folder.get()) as scratch:
        runs: list[Path] = []
        buffer: list[Record] = []
        size = 0
        created = 0
        for record in records:
            buffer.append(record)
            size += len(record[0]) + len(record[1]) + RECORD_OVERHEAD_BYTES
            if size >= memory_bytes:
                buffer.sort(key=_sort_key)
                created += 1
                runs.append(_write_run(Path(scratch, str(created)), buffer))
                buffer, size = [], 0
            if len(runs) == MAX_OPEN_RUNS:
                created += 1
                merged = _write_run(Path(scratch, str(created)), _merge(runs, []))
                for run in runs:
                    run.unlink()
                runs = [merged]
        buffer.sort(key=_sort_key)
        for key, group in groupby(_merge(runs, buffer) if runs else buffer, key=_sort_key):
            yield key, map(itemgetter(1), group)


def _merge(runs: list[Path], buffer: list[Record]) -> Iterator[Record]:
    """All records in key order. heapq.merge is stable, and runs are listed oldest first, so arrival order holds."""
    return heapq.merge(*(_read_run(run) for run in runs), buffer, key=_sort_key)


def _write_run(path: Path, records: Iterable[Record]) -> Path:
    """Write sorted records. marshal is safe here: only this process reads the files back."""
    iterator = iter(records)
    try:
        with path.open("wb") as run:
            while block := list(islice(iterator, BLOCK_RECORDS)):
                marshal.dump(block, run)
    except OSError as error:
        raise BudgetError(
            f"{path.parent}: cannot hold the temporary files for sorting ({error.strerror or error})",
            "Free some disk space, or set SLM_AR_PRIVATE (outside prepare: TMPDIR) to a folder on a larger disk.",
        ) from error
    return path


def _read_run(path: Path) -> Iterator[Record]:
    size = path.stat().st_size
    with path.open("rb") as run:
        while run.tell() < size:
            yield from marshal.load(run)
