"""The harness's side of the incubator: start a candidate process, listen to it, end it with all its descendants.

Used by executor.py and scorer.py. Promises: candidates get an allow-listed environment and a private folder; no
process of a run survives `Child.end`, nor the death of the harness itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TrainingError

ALLOWED_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
)
HATCH_SECONDS = 120


def candidate_environment(threads: int, spin_count: int | None, folder: Path | None = None) -> dict[str, str]:
    """The whole environment of an incubator or candidate: allow-listed names, thread counts, private caches."""
    environment = {name: os.environ[name] for name in ALLOWED_VARIABLES if name in os.environ}
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if spin_count is not None:
        environment["GOMP_SPINCOUNT"] = str(spin_count)
    if folder is not None:
        private = folder / "tmp"
        private.mkdir(exist_ok=True)
        for name in ("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME"):
            environment[name] = str(private)
    return environment


def tree_memory_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants, in MB; 0 when it is gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0.0
    total = 0
    for member in family:
        with contextlib.suppress(psutil.Error):
            total += member.memory_info().rss
    return total / 1e6


class Incubator:
    """One incubator process; `start` gives one candidate at a time."""

    def __init__(self, mode: str, environment: Mapping[str, str]) -> None:
        self.mode = mode
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-E", "-P", "-m", "slm_ar.core.train.incubator", str(theirs.fileno()), mode],
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
        self._lines = Lines(ours)
        if self._lines.next(HATCH_SECONDS) is None:
            self.close()
            raise TrainingError(
                "the process that starts training did not come up", "run `slm-ar doctor`; the reason stands above"
            )

    def start(self, role: str, folder: Path, environment: Mapping[str, str]) -> Child:
        """Start `role` ("train" or "serve") in `folder`. Raises TrainingError when the incubator is gone."""
        ours, theirs = socket.socketpair()
        order = {"order": "start", "role": role, "folder": str(folder), "environment": dict(environment)}
        with theirs:
            try:
                socket.send_fds(self._lines.socket, [json.dumps(order).encode() + b"\n"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise TrainingError("the process that starts training has died", "run the command again") from error
        started = self._lines.next(30)
        if started is None or started.get("event") != "started":
            ours.close()
            raise TrainingError("the process that starts training has died", "run the command again")
        return Child(started["pid"], Lines(ours), self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the incubator; it takes all its descendants with it."""
        self._lines.socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class Child:
    """A running candidate: `control` speaks with it, `ended` fills once the incubator has seen and swept its end."""

    pid: int
    control: Lines
    incubator: Lines
    ended: dict[str, Any] | None = field(default=None)

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """The candidate's next message, or None after `seconds` or at its end."""
        limit = time.monotonic() + seconds
        while True:
            if (message := self.control.pending()) is not None:
                return message
            if self.ended is not None:
                return None
            left = limit - time.monotonic()
            if left <= 0:
                return None
            sockets = [lines.socket for lines in (self.control, self.incubator) if not lines.is_closed]
            readable, _, _ = select.select(sockets, [], [], left)
            if self.control.socket in readable:
                self.control.fill()
            elif self.incubator.socket in readable:
                self._see_end(self.incubator.next(1))

    def end(self) -> dict[str, Any]:
        """Kill the candidate and all its descendants, if that is still to do; returns how it ended."""
        if self.ended is None:
            try:
                self.incubator.socket.sendall(json.dumps({"order": "kill"}).encode() + b"\n")
                self._see_end(self.incubator.next(15))
            except OSError:
                self._see_end(None)
        self.control.socket.close()
        assert self.ended is not None
        return self.ended

    def _see_end(self, message: dict[str, Any] | None) -> None:
        self.ended = message or {"event": "ended", "status": -9, "survivors": 0}
        if not self.control.is_closed:  # what was said before the end is still in the socket
            while select.select([self.control.socket], [], [], 0)[0] and self.control.fill():
                pass


class Lines:
    """JSON lines read from a socket. A candidate can write nonsense: such lines are dropped, long ones end it."""

    LONGEST = 1 << 20

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.is_closed = False
        self._buffer = b""

    def pending(self) -> dict[str, Any] | None:
        """The next message that is already here."""
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                return message
        return None

    def fill(self) -> bool:
        """Read what has come; False when the other side is gone."""
        try:
            chunk = self.socket.recv(65536)
        except OSError:
            chunk = b""
        if not chunk or len(self._buffer) > self.LONGEST:
            self.is_closed = True
            return False
        self._buffer += chunk
        return True

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next message within `seconds`, or None (also when the other side is gone)."""
        limit = time.monotonic() + seconds
        while (message := self.pending()) is None:
            left = limit - time.monotonic()
            if self.is_closed or left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            self.fill()
        return message
