"""The harness's side of the incubator: start a candidate process, listen to it, end it with all its descendants.

Used by executor.py and scorer.py through sandbox/choice.py. Promises: the launcher, the incubator and its candidates
get an allow-listed environment; a candidate works in a private folder that nothing of an earlier run is left in; no
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from .lines import Lines
from .sandbox.area import Area, keep_log, make_log, open_log
from .sandbox.plans import Plan, child_launcher, launcher, process_cap, walls_for

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
PRIVATE_FOLDER_VARIABLES = ("HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "HF_HOME")
HATCH_SECONDS = 120
ANSWER_SECONDS = 15
"""How long an incubator may take to end a run; then it is ended itself."""
FORCE_SECONDS = 5


def candidate_environment(threads: int, spin_count: int | None) -> dict[str, str]:
    """The environment of launcher, incubator and candidate: allow-listed names and thread counts, nothing else."""
    environment = {name: os.environ[name] for name in ALLOWED_VARIABLES if name in os.environ}
    environment |= {
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        # glibc would hand freed tensors back to the kernel and fault the same pages in again, thousands in each step
        "MALLOC_MMAP_THRESHOLD_": str(2**25),  # the most that every glibc takes; one that it refuses makes things worse
        "MALLOC_TRIM_THRESHOLD_": str(2**32),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "USER": "slm-ar",
    }
    if spin_count is not None:
        environment["GOMP_SPINCOUNT"] = str(spin_count)
    return environment


def tree_memory_mb(pid: int) -> float:
    """Resident memory of a candidate, all its descendants and all that left it, in MB; 0 when it is gone.

    What several processes share is counted once, where the system tells it.
    """
    members = run_processes(pid)
    share = _resident_share if len(members) > 1 else _resident_bytes
    return sum(share(member) for member in members) / 1e6


def process_count(pid: int) -> int:
    """Processes of the candidate's run; 0 when it is gone."""
    return len(run_processes(pid))


def run_processes(pid: int) -> list[Any]:
    """The psutil.Process of everything below the candidate's incubator, to which also its daemons come back."""
    import psutil

    try:
        parent = psutil.Process(pid).parent()
        return parent.children(recursive=True) if parent is not None else []
    except psutil.Error:
        return []


def _resident_share(process: Any) -> int:
    """Its pages, each divided by how many processes have it (Pss)."""
    for memory in _memories(process.pid):
        with contextlib.suppress(OSError, StopIteration, ValueError):
            lines = (memory / "smaps_rollup").read_text(encoding="ascii").splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return _resident_bytes(process)


def _resident_bytes(process: Any) -> int:
    import psutil

    for memory in _memories(process.pid):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if pages := int((memory / "statm").read_text(encoding="ascii").split()[1]):
                return pages * os.sysconf("SC_PAGE_SIZE")
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _memories(pid: int) -> Iterator[Path]:
    """Where Linux tells of a process's memory: in its own folder and, for one whose first thread has ended, only in
    those of its other threads."""
    yield Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        yield from sorted(Path(f"/proc/{pid}/task").iterdir())


def _is_living(process: Any) -> bool:
    """Also one whose first thread has ended while others go on."""
    import psutil

    try:
        is_over = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not is_over or process.num_threads() > 1
    except psutil.Error:
        return False


class Incubator:
    """One incubator process in its sandbox, for one role; `start` gives one candidate at a time, once it is hatched."""

    def __init__(
        self, role: str, mode: str, environment: Mapping[str, str], plan: Plan, place: Path, device: str
    ) -> None:
        """`role`: "train" (may write its folder) or "serve"; `place`: where the private folder may be made."""
        self.role, self.mode, self.plan, self.device = role, mode, plan, device
        self.is_spent = False
        """Something of a run could not be taken away: the sandbox must go with it."""
        self.area = Area(place)
        self._processes = process_cap()
        ours, theirs = socket.socketpair()
        program = [sys.executable, "-E", "-P", "-m", "slm_ar.core.train.incubator", str(theirs.fileno()), mode]
        log = open_log(self.area.root)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*launcher(plan, self.area, role, device), *program, _process_namespace()],
                    env=_with_private_folders(environment, self.area.tmps),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                )
            except OSError:
                self.area.remove()
                raise
            finally:
                os.close(log)
        self.lines = Lines(ours)

    def hatch(self) -> None:
        """Wait until it is ready. Raises TrainingError, with its reason, when it does not come up."""
        if self.lines.next(HATCH_SECONDS) is None:
            reason = self._last_words()
            self.close()
            raise TrainingError(f"the process that starts training did not come up: {reason}", "run `slm-ar doctor`")

    def start(self, role: str, folder: Path, environment: Mapping[str, str]) -> Child:
        """Start `role` ("train", "serve" or "probe") for the run in `folder`, which keeps its log.

        The candidate works on what Area.fill takes from `folder`; a "train" brings back what it wrote when it has
        ended. A "train" is the first to print; the others print into a log of their own, which joins the run's when
        they have ended. Raises TrainingError when the incubator is gone.
        """
        self.area.fill(role, folder, may_link=self.plan.is_isolated and self.role == "serve")
        ours, theirs = socket.socketpair()
        order = {
            "order": "start",
            "role": role,
            "folder": str(self.area.work),
            "environment": _with_private_folders(environment, self.area.tmp),
            "walls": walls_for(self.plan, self.area, self.role, self.device, self._processes),
            "launcher": child_launcher(self.plan, self.area, self.role),
        }
        log, own_log = (open_log(folder), None) if role == "train" else make_log(self.area)
        try:
            started = self._ordered(order, theirs, log)
        except TrainingError:
            ours.close()
            if own_log is not None:
                os.close(own_log)
            raise
        pid = self._pid_outside(started["pid"])
        return Child(pid, Lines(ours), self, folder, own_log)

    def _ordered(self, order: Mapping[str, Any], control: socket.socket, log: int) -> dict[str, Any]:
        """What the incubator answers to an order; both ends that it is handed are closed here."""
        try:
            socket.send_fds(self.lines.socket, [json.dumps(order).encode() + b"\n"], [control.fileno(), log])
            started = self.lines.next(30)
        except OSError:
            started = None
        finally:
            control.close()
            os.close(log)
        if started is None or started.get("event") != "started":
            raise TrainingError("the process that starts training has died", "run the command again")
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return not self.is_spent and self._process.poll() is None

    def kill(self) -> None:
        """End it by force when it does not answer, after all that lives below it; stopped processes die of this too."""
        import psutil

        limit = time.monotonic() + FORCE_SECONDS
        while time.monotonic() < limit:  # it goes last: until then a daemon comes back to it and is found
            with contextlib.suppress(psutil.Error):
                below = psutil.Process(self._process.pid).children(recursive=True)
                if living := [process for process in below if _is_living(process)]:
                    for process in living:
                        with contextlib.suppress(psutil.Error):
                            process.kill()
                    time.sleep(0.01)
                    continue
            break
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the incubator; it takes all its descendants with it."""
        self.lines.socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.returncode:
            self._kill_strays()
        self.area.remove()

    def _kill_strays(self) -> None:
        """What an incubator that died by force has left: daemons below nobody, known by their home or their folder."""
        import psutil

        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                home = process.environ().get("HOME", "")
                if any(Path(place).is_relative_to(self.area.root) for place in (home, process.cwd())):
                    process.kill()

    def _pid_outside(self, inside: int) -> int:
        """The number under which the harness sees a process of the sandbox."""
        if not self.plan.has_own_processes:
            return inside
        import psutil

        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(OSError, StopIteration):
                    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
                    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                    if numbers[-1] == str(inside):
                        return process.pid
        return inside if not psutil.pid_exists(inside) else _NO_PROCESS

    def _last_words(self) -> str:
        from .files import last_line, log_tail

        return last_line(log_tail(self.area.root)) or "it said nothing"


_NO_PROCESS = 1 << 30
"""Larger than any process number."""


def _with_private_folders(environment: Mapping[str, str], place: Path) -> dict[str, str]:
    return {**environment, **dict.fromkeys(PRIVATE_FOLDER_VARIABLES, str(place))}


def _process_namespace() -> str:
    """A name of the harness's own process namespace; empty where there is none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@dataclass(slots=True)
class Child:
    """A running candidate: `control` speaks with it, `ended` fills once the incubator has seen and swept its end."""

    pid: int
    control: Lines
    incubator: Incubator
    home: Path
    """The run's folder, for what it wrote."""
    own_log: int | None = None
    """What a process that does not train printed, to be read; None for one that trains, whose log lies in `home`."""
    ended: dict[str, Any] | None = field(default=None)

    @property
    def area(self) -> Area:
        """Where it works: its private folder, as long as it runs."""
        return self.incubator.area

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """The candidate's next message, or None after `seconds` or at its end."""
        limit = time.monotonic() + seconds
        lines = self.incubator.lines
        while True:
            if (message := self.control.pending()) is not None:
                return message
            if self.control.refusal:
                self.end()
            if self.ended is not None:
                return None
            left = limit - time.monotonic()
            if left <= 0:
                return None
            sockets = [line.socket for line in (self.control, lines) if not line.is_closed]
            readable, _, _ = select.select(sockets, [], [], left)
            if self.control.socket in readable:
                self.control.fill()
            elif lines.socket in readable:
                self._see_end(lines.next(1))

    def await_end(self, seconds: float) -> dict[str, Any]:
        """How it ended by itself; killed after `seconds`. The control line stays open."""
        limit = time.monotonic() + seconds
        while self.ended is None and (left := limit - time.monotonic()) > 0:
            self.wait(left)
        return self.ended if self.ended is not None else self.end()

    def end(self) -> dict[str, Any]:
        """Kill the candidate and all its descendants, if that is still to do; returns how it ended."""
        if self.ended is None:
            try:
                self.incubator.lines.socket.sendall(json.dumps({"order": "kill"}).encode() + b"\n")
                self._see_end(self.incubator.lines.next(ANSWER_SECONDS))
            except OSError:
                self._see_end(None)
        self.control.socket.close()
        assert self.ended is not None
        return self.ended

    def _see_end(self, message: dict[str, Any] | None) -> None:
        if message is None:  # nobody swept: without the incubator's word a process of the run may be left
            self.incubator.kill()
            message = {"event": "ended", "status": -9, "survivors": 1, "spent": True}
        self.ended = message
        if not self.control.is_closed:  # what was said before the end is still in the socket
            while select.select([self.control.socket], [], [], 0)[0] and self.control.fill():
                pass
        try:
            if self.own_log is None:
                self.area.collect(self.home)
            else:
                with contextlib.suppress(OSError):
                    keep_log(self.own_log, self.home)
                self.area.empty()
        except OSError:
            self.ended["spent"] = True  # the next run must not find it
        self.incubator.is_spent = bool(self.ended.get("spent"))
