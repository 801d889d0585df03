"""The parent of everything that runs candidate code: starts it, outlives it, and leaves no process behind.

Started by process.py as `python -m slm_ar.core.train.incubator FD MODE`; never runs candidate code itself. In mode
"warm" (Linux, CPU) it has imported torch and forks, which saves the import; in mode "cold" every child is a fresh
interpreter (macOS, CUDA: a forked child may not use the GPU). One child at a time.

It is the subreaper of its descendants (Linux), so a double-forked daemon comes back to it and is killed. When its
socket closes, because the harness ended or was killed, it kills everything and ends.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LOG_FILE = "log.txt"


def main(descriptor: int, mode: str) -> None:
    harness = socket.socket(fileno=descriptor)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    if mode == "warm":
        import safetensors.torch  # noqa: F401
        import torch._dynamo  # noqa: F401  (the first optimiser of a process imports it, which takes a second)

        from . import logits_server, runtime  # noqa: F401
    _send(harness, {"event": "hatched", "pid": os.getpid()})
    while True:
        message, descriptors = _receive(harness)
        if message is None:
            os._exit(0)
        if message["order"] == "start":
            child = _start(message, descriptors[0], mode, harness)
            _send(harness, {"event": "started", "pid": child})
            _attend(child, harness)


def _attend(child: int, harness: socket.socket) -> None:
    """Wait for the child's end, or for the order to end it; then sweep."""
    status: int | None = None
    while status is None:
        readable, _, _ = select.select([harness], [], [], 0.02)
        if readable:
            message, _ = _receive(harness)
            if message is None or message["order"] == "kill":
                _kill_session(child)
                _sweep()
                if message is None:
                    os._exit(0)
                _send(harness, {"event": "ended", "status": None, "survivors": 0})
                return
        ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(wait_status)
    survivors = _sweep()
    _send(harness, {"event": "ended", "status": status, "survivors": survivors})


def _kill_session(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _sweep() -> int:
    """Kill and reap all descendants; returns how many were still alive besides the child."""
    import psutil

    count = 0
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        descendants = psutil.Process().children(recursive=True)
        if not descendants:
            break
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                count += process.status() != psutil.STATUS_ZOMBIE
                process.kill()
        time.sleep(0.005)
    return count


def _start(message: dict[str, Any], control: int, mode: str, harness: socket.socket) -> int:
    child = os.fork()
    if child:
        os.close(control)
        return child
    try:
        harness.close()
        os.setsid()
        if sys.platform == "linux":
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text("500")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        folder = message["folder"]
        os.chdir(folder)
        log = _open_log()
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.clear()
        os.environ.update(message["environment"])
        if mode == "cold":
            os.set_inheritable(control, True)
            program = [sys.executable, "-E", "-P", "-m", "slm_ar.core.train.candidate", message["role"], str(control)]
            os.execve(program[0], program, dict(os.environ))
        from .candidate import run_candidate

        run_candidate(message["role"], control)
        _exit_quietly(0)
    except BaseException as error:  # the child must never return into the incubator's loop
        _report_and_exit(error)
    return 0


def _open_log() -> int:
    """The run's log for appending; what an earlier candidate of this folder put in its place is removed."""
    path = Path(LOG_FILE)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)


def _report_and_exit(error: BaseException) -> None:
    import traceback

    code = 1
    if not isinstance(error, SystemExit):
        traceback.print_exc()
    elif error.code is None or isinstance(error.code, int):
        code = error.code or 0
    else:
        print(error.code, file=sys.stderr)
    _exit_quietly(code)


def _exit_quietly(code: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _send(harness: socket.socket, message: dict[str, Any]) -> None:
    try:
        harness.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)


def _receive(harness: socket.socket) -> tuple[dict[str, Any] | None, array.array[int] | list[int]]:
    """One order; None when the harness is gone. Orders are small and wait for answers, so they arrive whole."""
    try:
        data, descriptors, _, _ = socket.recv_fds(harness, 65536, 4)
    except OSError:
        return None, []
    return (json.loads(data), descriptors) if data else (None, [])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
