"""Stops every process of a training run for a moment and takes a copy of the model that it handed over.

Used by training_run.py for a look at a run before its end. Promises: while `freeze` holds nothing of the run computes,
or `Frozen.trespass` says that it did; what is copied are regular files within the caps of a checkpoint, never a link
or a pipe. A stopped process dies of the incubator's sweep like any other, so a harness that is killed here leaves none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import CHECKPOINT_FILE, CONFIG_FILE, LARGEST_CHECKPOINT_BYTES, inspect_checkpoint
from .files import CONFIG_BYTES
from .sandbox.area import empty_folder

SNAPSHOT_FILE, SNAPSHOT_CONFIG = "snapshot.safetensors", "snapshot.json"
"""What runtime.py writes into the run's private folder before it asks for a look."""
FREEZE_SECONDS = 5.0
_STILL = frozenset("TtZX")
"""States of a thread that does not run: stopped, traced (its tracer is stopped too), dead."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A run whose processes are all stopped."""

    parent: Any
    """psutil.Process of the incubator, which is not stopped itself."""
    members: frozenset[int]
    wakings: dict[tuple[int, str], int]
    """How often each thread had been put on a core and taken off it: what is stopped is not."""

    def trespass(self) -> str:
        """What the run did although it was stopped; empty when it did nothing."""
        found = _members(self.parent)
        if _pids(found) - self.members:
            return "a process appeared in it while it was stopped for a look"
        # Not processor time: a timer of the system can wake a process, and what its children spend is nobody's once
        # they have ended unseen. Whoever wakes up to start them is counted here.
        if any(count != self.wakings.get(thread) for thread, count in _wakings(found).items()):
            return "it ran while it was stopped for a look"
        return ""

    def thaw(self) -> None:
        """Let all of them go on."""
        for process in _members(self.parent):
            with contextlib.suppress(Exception):
                process.send_signal(signal.SIGCONT)


def freeze(pid: int) -> Frozen | None:
    """Stop everything below the incubator of the candidate `pid`; None when something cannot be stopped, or is gone.

    A process that is born while the list is read is in the next list: two equal ones in a row, in which nothing runs,
    are the whole run. What ends between them stays in the list, because only the sweep reaps it.
    """
    import psutil

    try:
        parent = psutil.Process(pid).parent()
    except psutil.Error:
        return None
    if parent is None:
        return None
    before: frozenset[int] = frozenset()
    limit = time.monotonic() + FREEZE_SECONDS
    while time.monotonic() < limit:
        found = _members(parent)
        running = [process for process in found if not _is_still(process)]
        if not running and _pids(found) == before != frozenset():
            return Frozen(parent, before, _wakings(found))
        before = frozenset() if running else _pids(found)
        for process in running:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGSTOP)
        if running:
            time.sleep(0.002)
    Frozen(parent, before, {}).thaw()
    return None


def copy_snapshot(work: Path, target: Path, train_py: str) -> str:
    """Copy the snapshot that lies in `work` into the emptied folder `target`, as a checkpoint that may be served.

    Returns why there is none (empty: there is one). To be called while the run is stopped.
    """
    files = ((SNAPSHOT_FILE, CHECKPOINT_FILE, LARGEST_CHECKPOINT_BYTES), (SNAPSHOT_CONFIG, CONFIG_FILE, CONFIG_BYTES))
    try:
        empty_folder(target)
        # Not by its path: where landlock is missing, a run could have put a link in the place of its folder.
        folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for source, name, most_bytes in files:
                _copy_regular(folder, source, target / name, most_bytes)
            for source, _, _ in files:
                os.unlink(source, dir_fd=folder)  # it would count as the run's own, and be kept with it
        finally:
            os.close(folder)
        (target / "train.py").write_text(train_py, encoding="utf-8")
    except OSError as error:
        return f"the snapshot cannot be read: {error}"
    return inspect_checkpoint(target)[1]


def _copy_regular(folder: int, source: str, target: Path, most_bytes: int) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(f"{source} is not a regular file")
        room = min(most_bytes, shutil.disk_usage(target.parent).free // 2)
        if facts.st_size > room:
            raise OSError(f"{source} has {facts.st_size:,} bytes, at most {room:,} are read")
        with target.open("xb") as copy:
            left = facts.st_size
            while left and (block := file.read(min(left, 1 << 20))):
                copy.write(block)
                left -= len(block)


def _members(parent: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = parent.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _pids(processes: list[Any]) -> frozenset[int]:
    return frozenset(process.pid for process in processes)


def _is_still(process: Any) -> bool:
    """Whether no thread of it runs: the first one may be dead while others go on."""
    import psutil

    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error):
            return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return True
    try:
        threads = list(Path(f"/proc/{process.pid}/task").iterdir())
    except OSError:
        return True
    return all(_thread_state(thread) in _STILL for thread in threads)


def _thread_state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "X"


def _wakings(processes: list[Any]) -> dict[tuple[int, str], int]:
    """(process, thread) -> switches to and from it; outside Linux per process."""
    import psutil

    found: dict[tuple[int, str], int] = {}
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if sys.platform != "linux":
                found[process.pid, ""] = sum(process.num_ctx_switches())
                continue
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                lines = (thread / "status").read_text(encoding="utf-8", errors="replace").splitlines()
                counts = [int(line.split()[1]) for line in lines if "voluntary_ctxt_switches:" in line]
                found[process.pid, thread.name] = sum(counts)
    return found
