"""What a candidate could do from where it runs: tried in its place, by the same Python, in the same process tree.

`answer` is the role "probe" of candidate.py. It is told the places of canaries that the harness has laid out
(canaries.py) and says what it reached. The harness believes what it can see for itself: whether a file changed,
whether somebody connected, whether a process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

DAEMON_SECONDS = 60
CHANGED_TIME = 1_000_000_000
"""What a probe sets the time of a file to, in nanoseconds."""


def answer(control_descriptor: int) -> None:
    """Receive the places, try everything, tell, and leave a daemon behind that holds the line open."""
    control = socket.socket(fileno=control_descriptor)
    data, descriptors, _, _ = socket.recv_fds(control, 65536, 4)
    places = json.loads(data)
    attempts: dict[str, Callable[[], str]] = {
        "read a private file": lambda: _read(places["private"]),
        "list the private folder": lambda: str(list(Path(places["private"]).parent.iterdir())),
        "see the name of a private file": lambda: str(Path(places["private"]).stat().st_size),
        "read another run": lambda: _read(places["other_run"]),
        "write outside": lambda: _write(places["outside"]),
        "change a file outside": lambda: _truncate(places["other_run"]),
        "change the time of a file outside": lambda: _set_time(places["timed"]),
        "change what was handed over for reading": lambda: _reopen(descriptors[0]),
        "connect by TCP": lambda: _connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", places["tcp"])),
        "send by UDP": lambda: _send(("127.0.0.1", places["udp"]), places["token"]),
        "connect to an abstract socket": lambda: _connect(
            socket.AF_UNIX, socket.SOCK_STREAM, "\0" + places["abstract"]
        ),
        "connect to a socket file": lambda: _connect(socket.AF_UNIX, socket.SOCK_STREAM, places["socket_file"]),
        "read an environment": lambda: _environments(places),
        "see the harness": lambda: _is_there(places["harness"]),
        "signal the harness": lambda: _signal(places["harness"]),
        "signal its parent": lambda: _signal(os.getppid()),
        "choose the cores of the harness": lambda: _choose_cores(places["harness"]),
        "look into its parent": lambda: _memory(os.getppid()),
    }
    reached = {name: _tried(attempt) for name, attempt in attempts.items()}
    works = {
        "write its own folder": _tried(lambda: _own_files(places["writable"])),
        "compute on the device": _tried(lambda: _compute(str(places["device"]))),
    }
    message = {"event": "probed", "reached": reached, "works": works}
    control.sendall(json.dumps(message).encode() + b"\n")
    _leave_a_daemon()


def _tried(attempt: Callable[[], str]) -> list[Any]:
    """[whether it went through, what came of it]."""
    try:
        return [True, attempt()[:200]]
    except Exception as error:  # every way to be stopped is an answer
        return [False, f"{type(error).__name__}: {error}"[:200]]


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def _write(path: str) -> str:
    Path(path).write_text("was here", encoding="utf-8")
    return path


def _truncate(path: str) -> str:
    os.truncate(path, 0)
    return path


def _set_time(path: str) -> str:
    os.utime(path, ns=(CHANGED_TIME, CHANGED_TIME))
    if Path(path).stat().st_mtime_ns != CHANGED_TIME:  # a sandbox may say yes and do nothing
        raise PermissionError("the time of the file is what it was")
    return path


def _reopen(descriptor: int) -> str:
    with contextlib.suppress(OSError):
        os.fchmod(descriptor, 0o600)
    os.truncate(os.open(f"/dev/fd/{descriptor}", os.O_RDWR), 0)
    return "opened for writing"


def _connect(family: int, kind: int, address: Any) -> str:
    with socket.socket(family, kind) as line:
        line.settimeout(1)
        line.connect(address)
    return str(address)


def _send(address: Any, token: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.sendto(token.encode(), address)
    return str(address)


def _environments(places: Mapping[str, Any]) -> str:
    """Any process's environment but our own in which a name stands that no candidate gets."""
    numbers = {places["harness"], os.getppid(), 1}
    with contextlib.suppress(OSError):
        numbers |= {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
    for number in sorted(numbers - {os.getpid()}):
        try:
            content = Path(f"/proc/{number}/environ").read_bytes()
        except OSError:
            continue
        names = {entry.partition(b"=")[0].decode("utf-8", "replace") for entry in content.split(b"\0") if entry}
        foreign = names - set(places["known_variables"])
        if number == places["harness"] or foreign:
            return f"process {number}: {', '.join(sorted(foreign)[:3])}"
    import psutil

    with contextlib.suppress(psutil.Error):  # systems without /proc
        return f"process {places['harness']}: {len(psutil.Process(places['harness']).environ())} variables"
    raise PermissionError("no environment of another process could be read that holds more than our own")


def _signal(pid: int) -> str:
    os.kill(pid, 0)
    return str(pid)


def _choose_cores(pid: int) -> str:
    """Those that it has already."""
    cores = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, cores)
    return str(sorted(cores))


def _is_there(pid: int) -> str:
    with contextlib.suppress(PermissionError):
        os.getpgid(pid)  # a refused signal would say nothing
    return str(pid)


def _memory(pid: int) -> str:
    with Path(f"/proc/{pid}/mem").open("rb") as file:
        return str(file.fileno())


def _own_files(folders: list[str]) -> str:
    for folder in folders:
        path = Path(folder) / "probe"
        path.write_text("x", encoding="utf-8")
        path.read_text(encoding="utf-8")
    return "yes"


def _compute(name: str) -> str:
    import torch

    device = torch.device(name)
    square = torch.eye(8, device=device) @ torch.ones(8, 8, device=device)
    if float(square.sum().cpu()) != 64:
        raise ValueError("a matrix product came out wrong")
    return name


def _leave_a_daemon() -> None:
    """A process that has left its session and its parent, and goes on; it inherits the control line."""
    with contextlib.suppress(OSError):  # where nothing may fork, nothing can be left
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(DAEMON_SECONDS)
            os._exit(0)
        os.wait()
