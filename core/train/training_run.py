"""One training run under the parent's clock, from start-up to a checkpoint that may be scored.

Made by LocalExecutor.submit, moved on by its caller. Promises: the budget starts when the data are handed over and is
measured here; a checkpoint that is late, missing or too large is no checkpoint; memory and disk are capped; no process
survives. Nothing that train.py prints or reports is believed: its step and token counts, and what it says of an
accelerator's memory (candidate.py caps that), are shown, never scored. A run may be asked for snapshots of its model:
at each of them it stands still (pause.py) until its caller lets it go on or ends it, and that time is no part of any
budget.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts import Status, TrainOutcome
from ..environment import usable_cores
from ..prepare.pipeline import TOKENIZER_FILE, PreparedData
from ..prepare.shards import TOKENS_FILE
from .accelerator import OUT_OF_MEMORY_MARKS
from .checkpoint import inspect_checkpoint
from .disturbance import LATE, Watch, may_be_own_doing
from .files import last_line, log_tail
from .pause import Frozen, copy_snapshot, freeze
from .process import Child, process_count, tree_memory_mb
from .sandbox.area import byte_count, empty_folder
from .speed import machine_speed

LARGEST_RUN_BYTES = 4 << 30
LONGEST_STEPS_RUN_SECONDS = 4 * 3600.0
LATEST_SHARE = 0.05
"""How much of the budget later than asked for a snapshot may come and still be looked at."""
DISK_LOOK_SECONDS = 1.0
FREE_DISK_BYTES = 512 << 20
MOST_PROCESSES, MOST_PROCESSES_PER_CORE = 64, 4
"""Beside each other, for replicas and loaders. To look at many takes long, and a run that is looked at goes on."""
LATE_SECONDS, LATE_SHARE = 0.25, 0.02
"""A checkpoint that comes later than the larger of the two (the second is a share of the budget) stamps its run."""
NO_CHECKPOINT = "train.py ended without a checkpoint"
_TRACEBACK_LINE = re.compile(r'^ *File "(?:[^"\n]*/)?train\.py", line ([0-9]{1,6}),', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run: code, seed and budget (seconds or steps, exactly one)."""

    train_py: str
    seed: int
    budget_seconds: float | None
    budget_steps: int | None
    startup_seconds: float
    memory_mb: float
    snapshots: tuple[float, ...] = ()
    """Shares of the budget, ascending, at which the run shall stand still and show its model."""
    form: str = "portable"
    """portable or best: the recipe's, in [model]."""
    device_memory_mb: float | None = None
    """What it may allocate on an accelerator; None: what is free there, short of the last bit."""

    @property
    def wall_seconds(self) -> float:
        """Longest time from handing over the data to a complete checkpoint."""
        if self.budget_seconds is None:
            return LONGEST_STEPS_RUN_SECONDS
        return self.budget_seconds + max(1.0, 0.02 * self.budget_seconds)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the terminal shows while a run goes on; counts are the candidate's own words."""

    phase: str
    """starting | training"""
    train_seconds: float
    steps: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The model of a run that stands still, copied: `folder` may be served like a checkpoint."""

    share: float
    """Of the budget, as asked for in the job."""
    folder: Path
    disturbance: str
    """Why the machine was not quiet up to here; empty when it was."""


class TrainingRun:
    """A submitted run; `poll` moves it on and gives its outcome when there is one.

    When `snapshot` is set after a poll, the run stands still: answer with `go_on` or `prune`. The next poll lets it go
    on if nobody did.
    """

    snapshot: Snapshot | None = None

    def __init__(self, job: TrainJob, folder: Path, child: Child, data: PreparedData, incubator_pid: int) -> None:
        self.job, self.folder = job, folder
        self._child, self._data = child, data
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._machine_speed = 0.0
        self._saved: float | None = None
        self._watch: Watch | None = None
        self._incubator_pid = incubator_pid
        self._steps = self._tokens = 0
        self._peak_mb = 0.0
        self._has_device = child.incubator.device != "cpu"
        self._device_mb = 0.0
        self._disk_looked = 0.0
        self._disk_cap = min(LARGEST_RUN_BYTES, shutil.disk_usage(folder).free // 2)
        self._ended_by: tuple[Status, str] | None = None
        self._shares = list(job.snapshots)
        self._is_look_due = False
        self._frozen: Frozen | None = None
        self._stopped_at = self._paused = 0.0

    @property
    def progress(self) -> Progress:
        seconds = self._trained(time.monotonic()) if self._started is not None else 0.0
        return Progress("starting" if self._started is None else "training", seconds, self._steps, self._tokens)

    def poll(self, seconds: float = 0.25) -> TrainOutcome | None:
        """Wait up to `seconds` for news; the outcome once the run has ended and left no process."""
        if self._frozen is not None and self._ended_by is None:
            self.go_on()
        if self._ended_by is not None:
            return self._finish()
        message = self._child.wait(min(seconds, self._seconds_left()))
        while message is not None:  # all that was said before now counts before any limit is looked at
            self._hear(message)
            message = self._child.wait(0)
        if self._watch is not None:
            self._watch.tick()
        self._enforce()
        if self._is_look_due and self._child.ended is None and self._ended_by is None and self._saved is None:
            self._look()
        if self._child.ended is None and self._ended_by is None and not self._is_done_saving():
            return None
        return self._finish()

    def go_on(self) -> None:
        """Let a run that stands still train on; the time that it stood is added to its deadline."""
        assert self._frozen is not None
        self._drop_snapshot()
        trespass = self._frozen.trespass()
        if self._watch is not None:
            self._watch.go_on()
        if trespass:
            self._ended_by = (Status.INVALID, trespass)  # it dies as it stands
            return
        self._paused += time.monotonic() - self._stopped_at
        self._answer()
        self._frozen.thaw()
        self._frozen = None

    def prune(self, reason: str) -> None:
        """End a run that stands still; the next poll gives its outcome."""
        self._ended_by = (Status.PRUNED, reason)

    def cancel(self) -> None:
        """End the run without an outcome."""
        self._child.end()
        self._drop_snapshot()

    def _seconds_left(self) -> float:
        return max(0.005, self._limit() - time.monotonic())

    def _limit(self) -> float:
        if self._started is None:
            return self._submitted + self.job.startup_seconds
        if self._saved is not None:
            # What would be done behind a save is no part of a budget by the clock.
            return self._saved + (0.5 if self.job.budget_seconds is None else 0.0)
        return self._started + self._paused + self._most_seconds()

    def _most_seconds(self) -> float:
        """Longest time from handing over the data to a complete checkpoint."""
        return self.job.wall_seconds

    def _trained(self, now: float) -> float:
        """Seconds from handing over the data to `now`, without those that the run stood still."""
        assert self._started is not None
        standing = now - self._stopped_at if self._frozen is not None else 0.0
        return now - self._started - self._paused - standing

    def _is_done_saving(self) -> bool:
        return self._saved is not None and time.monotonic() >= self._limit()

    def _hear(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event == "ready" and self._started is None:
            self._hand_over_data()
        elif event == "progress":
            self._steps = _count(message.get("steps"), self._steps)
            self._tokens = _count(message.get("tokens"), self._tokens)
            if self._has_device:
                self._device_mb = _amount(message.get("device_mb"), self._device_mb)
        elif event == "saved" and self._started is not None and self._saved is None:
            self._saved = time.monotonic()
            if self.job.budget_seconds is not None:  # at once: whatever is looked at first is time to train on
                self._child.end()
        elif event == "snapshot" and self._started is not None and self._shares:
            self._is_look_due = True

    def _look(self) -> None:
        """Stop the run and take its snapshot. One that cannot be read, or comes at another time, is passed over."""
        self._is_look_due = False
        share = self._shares.pop(0)
        if not self._is_on_time(share):
            self._answer()
            return
        frozen = freeze(self._child.pid)
        if frozen is None:
            if (message := self._child.wait(0.1)) is not None:  # it may have ended by itself
                self._hear(message)
            if self._child.ended is None:
                self._ended_by = (Status.INVALID, "its processes could not be stopped for a look at its model")
            return
        self._frozen, self._stopped_at = frozen, time.monotonic()
        disturbance = ""
        if self._watch is not None and self.job.budget_seconds is not None:
            disturbance = self._watch.verdict()
            self._watch.rest()
        self.snapshot = Snapshot(share, self._snapshot_folder, disturbance)
        if copy_snapshot(self._child.area.work, self._snapshot_folder, self.job.train_py):
            self.go_on()

    def _is_on_time(self, share: float) -> bool:
        """Models are compared at one progress of their schedules; a run by steps has nobody's word but its own."""
        if self.job.budget_seconds is None:
            return True
        spent = self._trained(time.monotonic()) / self.job.budget_seconds
        return share - 0.01 <= spent <= share + LATEST_SHARE

    def _answer(self) -> None:
        seconds = self.job.budget_seconds
        assert self._started is not None
        deadline = self._started + self._paused + seconds if seconds is not None else None
        go = {"event": "go", "deadline": deadline, "paused": self._paused}
        with contextlib.suppress(OSError):
            self._child.control.socket.sendall(json.dumps(go).encode())

    @property
    def _snapshot_folder(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-snapshot")

    def _drop_snapshot(self) -> None:
        self.snapshot = None
        if self.job.snapshots:
            shutil.rmtree(self._snapshot_folder, ignore_errors=True)

    def _hand_over_data(self) -> None:
        """Start the budget, with the shards of train."""
        shards = self._data.folder / TOKENS_FILE
        with contextlib.suppress(OSError):  # nobody may open them for writing through the descriptor
            shards.chmod(0o400)
        if self.job.budget_seconds is not None:  # the candidate waits, so that the machine is quiet
            self._machine_speed = machine_speed()
        self._begin(shards, {"snapshots": self.job.snapshots})

    def _begin(self, shards: Path, facts: Mapping[str, Any]) -> None:
        """Open the shards for the candidate; this instant starts the budget."""
        descriptor = os.open(shards, os.O_RDONLY)
        self._watch = Watch([os.getpid()], self._incubator_pid)
        self._started = time.monotonic()
        seconds = self.job.budget_seconds
        deadline = self._started + seconds if seconds is not None else None
        go = {"event": "go", "deadline": deadline, **facts}
        try:
            with contextlib.suppress(OSError):
                socket.send_fds(self._child.control.socket, [json.dumps(go).encode()], [descriptor])
        finally:
            os.close(descriptor)

    def _enforce(self) -> None:
        """Time, memory and disk caps."""
        now = time.monotonic()
        if self._ended_by is not None or self._child.ended is not None:
            return
        if self._saved is None and now > self._limit():
            if self._started is None:
                reason = f"not ready within {self.job.startup_seconds:.0f} s of start-up"
            else:
                reason = f"no complete checkpoint {self._most_seconds():.1f} s after the clock started"
            self._ended_by = (Status.TIMEOUT, reason)
            return
        memory = tree_memory_mb(self._child.pid)
        self._peak_mb = max(self._peak_mb, memory)
        if memory > self.job.memory_mb:
            self._ended_by = (Status.OOM, f"used {memory:,.0f} MB, the cap is {self.job.memory_mb:,.0f} MB")
        elif now - self._disk_looked > DISK_LOOK_SECONDS:
            self._disk_looked = now
            if byte_count(self.folder) + self._child.area.byte_count() > self._disk_cap:
                self._ended_by = (Status.QUOTA, f"wrote more than {self._disk_cap / 1e9:.1f} GB or 100,000 files")
            elif shutil.disk_usage(self.folder).free < FREE_DISK_BYTES:
                self._ended_by = (Status.QUOTA, f"less than {FREE_DISK_BYTES >> 20} MB are free on the disk")
            elif process_count(self._child.pid) > (most := _most_processes()):
                self._ended_by = (Status.QUOTA, f"started more than {most} processes")

    def _finish(self) -> TrainOutcome:
        now = time.monotonic()
        train_seconds = self._trained(self._saved or now) if self._started is not None else 0.0
        ended = self._child.end()
        self._drop_snapshot()
        self._restore_ours()
        status, reason = self._judge(ended)
        parameters = 0
        if status is None:
            status, reason, parameters = inspect_checkpoint(self.folder)
        started = self._started if self._started is not None else now
        disturbance = ""
        if self._watch is not None and self.job.budget_seconds is not None:
            self._watch.go_on()
            disturbance = self._watch.verdict()
            if not disturbance or may_be_own_doing(disturbance):
                disturbance = self._lateness() or disturbance
        return TrainOutcome(
            status=status,
            reason=reason,
            train_seconds=round(train_seconds, 3),
            startup_seconds=round(started - self._submitted, 3),
            wall_seconds=round(now - self._submitted, 3),
            peak_memory_mb=round(self._device_mb or self._peak_mb, 1),
            steps=self._steps,
            tokens=self._tokens,
            parameters=parameters,
            log_tail=log_tail(self.folder),
            disturbance=disturbance,
            machine_speed=round(max(self._machine_speed, machine_speed()), 1) if self._machine_speed else 0.0,
        )

    def _lateness(self) -> str:
        """Whether the time for saving may have been used to train: such a run is never certified."""
        seconds = self.job.budget_seconds
        if seconds is None or self._started is None or self._saved is None:
            return ""
        late = self._trained(self._saved) - seconds
        if late <= max(LATE_SECONDS, LATE_SHARE * seconds):
            return ""
        return f"{LATE} {late:.1f} s after the budget ended"

    def _restore_ours(self) -> None:
        """What is scored, shown and exported is the code and the tokenizer that the journal knows."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            empty_folder(self.folder)
        tokenizer = (self._data.folder / TOKENIZER_FILE).read_bytes()
        for name, content in (("train.py", self.job.train_py.encode()), (TOKENIZER_FILE, tokenizer)):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(content)

    def _judge(self, ended: dict[str, Any]) -> tuple[Status | None, str]:
        if ended.get("survivors"):
            return Status.INVALID, f"{ended['survivors']} of its processes could not be ended"
        if refusal := self._child.control.refusal:
            return Status.INVALID, refusal
        if self._ended_by is not None:
            return self._ended_by
        if self._saved is not None:
            return None, ""
        tail = log_tail(self.folder)
        if any(mark in tail for mark in OUT_OF_MEMORY_MARKS):
            peak = f" (its tensors had {self._device_mb:,.0f} MB)" if self._device_mb else ""
            return Status.OOM, f"out of memory: {error_words(tail)}{peak}"
        if ended.get("status") == -9:
            return Status.CRASHED, "killed from outside (by the system, if memory ran out)"
        if self._started is None and ended.get("status") == 0:
            return Status.CRASHED, "train.py ended without asking for data; does main() call run.batches()?"
        if ended.get("status") == 0:
            return Status.CRASHED, f"{NO_CHECKPOINT}; does main() call run.save()?"
        return Status.CRASHED, error_words(tail) or f"train.py ended with exit code {ended.get('status')}"


def _most_processes() -> int:
    return MOST_PROCESSES + MOST_PROCESSES_PER_CORE * len(usable_cores())


def error_words(log: str) -> str:
    """The last line of a log, and where train.py stood when a traceback ends in it."""
    words, lines = last_line(log), _TRACEBACK_LINE.findall(log)
    return f"{words} (train.py line {lines[-1]})" if words and lines else words


def _count(value: Any, before: int) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and before <= value < 1 << 53 else before


def _amount(value: Any, before: float) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and before <= value < 1e9 else before
