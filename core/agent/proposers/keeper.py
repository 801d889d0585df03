"""Stands between the harness and an agent program: starts it, waits for its end, and leaves none of its processes.

Started by errand.py as `python -m slm_ar.core.agent.proposers.keeper CONTROL RESULT PROGRAM ARGUMENT...`, in the
program's environment and folder. It is the subreaper of all below it (Linux), so that a daemon comes back to it and is
killed; elsewhere a daemon is known by a variable that it has inherited. When CONTROL closes, because the time is up or
the harness has died, the program is ended with everything that it started; for a harness that has died it removes the
folder too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36
SWEEP_SECONDS = 5.0
MARK = "AGENT_FOLDER"
"""Variable of the program's environment that names its folder, and so all that it starts."""
NOT_STARTED = "not started"


def main(control: int, result: int, command: list[str]) -> None:
    harness, folder = os.getppid(), Path.cwd()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        _tell(result, {"code": None, NOT_STARTED: error.strerror or type(error).__name__})
        return
    while child.poll() is None and not select.select([control], [], [], 0.05)[0]:
        pass
    code = child.poll()
    if code is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    sweep(_left)
    if os.getppid() != harness:
        remove_folder(folder)
    _tell(result, {"code": code})


def _tell(result: int, facts: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the harness may be gone
        os.write(result, json.dumps(facts).encode() + b"\n")


def _left() -> list[Any]:
    """All processes that the program has left, as psutil's, those reaped that have ended."""
    import psutil

    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found: list[Any] = psutil.Process().children(recursive=True)
    if sys.platform != "linux" and MARK in os.environ:
        found += marked(os.environ[MARK])
    return found


def marked(folder: str) -> list[Any]:
    """All other processes that have inherited the mark of a program's folder, as psutil's."""
    import psutil

    mine = os.getpid()
    return [process for process in psutil.process_iter() if process.pid != mine and _is_marked(process, folder)]


def _is_marked(process: Any, folder: str) -> bool:
    import psutil

    try:
        return bool(process.environ().get(MARK) == folder)
    except (psutil.Error, OSError):  # of somebody else, or gone
        return False


def sweep(left: Callable[[], list[Any]]) -> None:
    """Kill what `left` finds until it finds nothing more, or the time for it is up."""
    import psutil

    limit = time.monotonic() + SWEEP_SECONDS
    while (alive := left()) and time.monotonic() < limit:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.005)


def remove_folder(folder: Path) -> None:
    """Remove what stands in a folder's place when its program has ended; what cannot be removed stays.

    shutil would stop at a link in its place, at folders that may not be read, and at a thousand within each other.
    """
    if folder.is_symlink() or not folder.is_dir():
        with contextlib.suppress(OSError):
            folder.unlink()
        return
    name = secrets.token_hex(8)
    flat = [folder]
    for place in flat:  # it grows: what lies deeper is moved up, so that no path gets too long
        for entry in _entries(place):
            with contextlib.suppress(OSError):
                if entry.is_dir() and not entry.is_symlink():
                    entry.chmod(0o700)  # one that may not be written cannot be moved
                    flat.append(entry.rename(folder / f"{name}{len(flat)}"))
                else:
                    entry.unlink()
    for place in reversed(flat):
        with contextlib.suppress(OSError):
            place.rmdir()


def _entries(folder: Path) -> list[Path]:
    try:
        folder.chmod(0o700)
        return list(folder.iterdir())
    except OSError:
        return []


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
