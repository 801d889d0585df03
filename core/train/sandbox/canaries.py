"""Lays out canaries, lets a probe go for them from inside a sandbox, and says what the sandbox has proved.

Called by choice.py for every incubator that is started. Promises: a wall counts as standing only when the way through
it was open from outside at the same moment, and nothing that the probe says counts against what is seen from here.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...prepare.heldout import ensure_private, private_root
from ..process import PRIVATE_FOLDER_VARIABLES
from .plans import Plan
from .probes import CHANGED_TIME

if TYPE_CHECKING:
    from ..process import Incubator

PROBE_SECONDS = 60
SURVIVOR_SECONDS = 3.0
ALWAYS = (
    "read a private file",
    "list the private folder",
    "read another run",
    "write outside",
    "change a file outside",
    "change the time of a file outside",
    "change what was handed over for reading",
    "connect by TCP",
    "send by UDP",
    "connect to an abstract socket",
    "connect to a socket file",
    "read an environment",
    "signal the harness",
    "signal its parent",
    "look into its parent",
    "leave a process behind",
)
"""What every sandbox must stop."""
BY_LEVEL = {
    1: ("choose the cores of the harness",),
    3: ("choose the cores of the harness", "see the name of a private file", "see the harness"),
}
"""What a level must stop besides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that was tried from inside."""

    name: str
    is_stopped: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a sandbox was seen to stop; `failure` says in words why it does not hold what its plan promises."""

    plan: Plan
    outcomes: tuple[Outcome, ...]
    failure: str
    lost_device: str = ""
    """The device that computes outside and not inside."""


@dataclass(slots=True)
class Canaries:
    """Files, listeners and a descriptor that belong to the harness."""

    token: str
    folder: Path
    private: Path
    other_run: Path
    outside: Path
    handed: Path
    timed: Path
    tcp: socket.socket
    udp: socket.socket
    abstract: socket.socket | None
    socket_file: socket.socket
    socket_path: str

    def places(self, incubator: Incubator, known_variables: list[str]) -> dict[str, Any]:
        """What the probe is told."""
        area = incubator.area
        return {
            "writable": [str(area.tmp), *([str(area.work)] if incubator.role == "train" else [])],
            "device": incubator.device,
            "private": str(self.private),
            "other_run": str(self.other_run),
            "timed": str(self.timed),
            "outside": str(self.outside),
            "tcp": self.tcp.getsockname()[1],
            "udp": self.udp.getsockname()[1],
            "abstract": f"slm-ar-{self.token}",
            "socket_file": self.socket_path,
            "harness": os.getpid(),
            "token": self.token,
            "known_variables": known_variables,
        }

    def arrived(self) -> dict[str, bool]:
        """What is seen from here: name of the attempt -> it came through."""
        return {
            "write outside": self.outside.exists(),
            "change a file outside": self._is_changed(self.other_run),
            "change the time of a file outside": self.timed.stat().st_mtime_ns == CHANGED_TIME,
            "change what was handed over for reading": self._is_changed(self.handed),
            "connect by TCP": _was_connected(self.tcp),
            "send by UDP": _was_sent(self.udp),
            "connect to an abstract socket": self.abstract is not None and _was_connected(self.abstract),
            "connect to a socket file": _was_connected(self.socket_file),
        }

    def _is_changed(self, path: Path) -> bool:
        try:
            return path.read_text(encoding="utf-8") != self.token
        except OSError:
            return True


@contextlib.contextmanager
def canaries(place: Path) -> Iterator[Canaries]:
    """Lay them out beside the runs in `place` and in the private folder; all gone at the end."""
    token = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        own = ensure_private(private_root() / "canaries")
        private_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=own)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".canaries-", dir=place)))
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slm-ar-")))  # a short path
        private, other_run, handed = private_folder / "held.txt", folder / "run.txt", folder / "handed.txt"
        timed = folder / "timed.txt"
        for path in (private, other_run, handed, timed):
            path.write_text(token, encoding="utf-8")
        handed.chmod(0o400)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        abstract = None
        if os.uname().sysname == "Linux":
            abstract = stack.enter_context(_listener(f"\0slm-ar-{token}"))
        socket_path = str(sockets / "line")
        socket_file = stack.enter_context(_listener(socket_path))
        outside = folder / "written"
        files = (private, other_run, outside, handed, timed)
        yield Canaries(token, folder, *files, tcp, udp, abstract, socket_file, socket_path)


def prove(incubator: Incubator, environment: Mapping[str, str], place: Path) -> Proof:
    """Send a probe into `incubator`'s sandbox. Raises TrainingError when the incubator is gone."""
    plan = incubator.plan
    with canaries(place) as laid:
        child = incubator.start("probe", laid.folder, environment)
        try:
            known = [*environment, *PRIVATE_FOLDER_VARIABLES, "PWD", "LC_CTYPE"]
            with laid.handed.open("rb") as file, contextlib.suppress(OSError):
                message = json.dumps(laid.places(incubator, known)).encode()
                socket.send_fds(child.control.socket, [message], [file.fileno()])
            told = child.wait(PROBE_SECONDS)
            ended = child.await_end(PROBE_SECONDS)
            is_left = not _is_closed(child.control.socket)
        finally:
            child.end()
        arrived = laid.arrived()
        log = _log_line(laid.folder)
    if told is None or told.get("event") != "probed":
        return Proof(plan, (), f"the probe did not answer: {log or ended.get('status')}")
    return _judge(plan, told, arrived, is_left or bool(ended.get("survivors")))


def _judge(plan: Plan, told: Mapping[str, Any], arrived: Mapping[str, bool], is_left: bool) -> Proof:
    outcomes = []
    for name, (went_through, detail) in told["reached"].items():
        outcomes.append(Outcome(name, not went_through and not arrived.get(name, False), str(detail)))
    outcomes.append(Outcome("leave a process behind", not is_left, "a daemon outlived its run" if is_left else "swept"))
    works = {name: (bool(fine), str(detail)) for name, (fine, detail) in told["works"].items()}
    wanted = {*ALWAYS, *BY_LEVEL.get(plan.level, ())} if plan.is_isolated else set()
    open_ways = [item.name for item in outcomes if item.name in wanted and not item.is_stopped]
    missing = wanted - {item.name for item in outcomes}
    device_works, device_detail = works["compute on the device"]
    own_files, own_detail = works["write its own folder"]
    failure = ""
    if missing:
        failure = f"not tried: {', '.join(sorted(missing))}"
    elif open_ways:
        failure = f"code inside can {', '.join(open_ways)}"
    elif not own_files:
        failure = f"code inside cannot write its own folder: {own_detail}"
    elif not device_works:
        failure = f"the device does not compute inside: {device_detail}"
    return Proof(plan, tuple(outcomes), failure, "" if device_works else device_detail)


def _listener(address: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.bind(address)
    line.listen(4)
    return line


def _was_connected(listener: socket.socket) -> bool:
    listener.settimeout(0)
    try:
        listener.accept()[0].close()
    except OSError:
        return False
    return True


def _was_sent(receiver: socket.socket) -> bool:
    receiver.settimeout(0)
    try:
        return bool(receiver.recv(100))
    except OSError:
        return False


def _is_closed(line: socket.socket) -> bool:
    """Whether every process that held the other end is gone."""
    line.settimeout(SURVIVOR_SECONDS)
    try:
        while line.recv(65536):
            pass
    except OSError:
        return False
    return True


def _log_line(folder: Path) -> str:
    from ..files import last_line, log_tail

    return last_line(log_tail(folder))
