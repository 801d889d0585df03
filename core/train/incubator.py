"""The parent of everything that runs candidate code: starts it, outlives it, and leaves no process behind.

Started by process.py, inside the sandbox where there is one, as `python -m slm_ar.core.train.incubator FD MODE
NAMESPACE`; never runs candidate code itself. In mode "warm" (Linux, CPU) it has imported torch and forks, which saves
the import; in mode "cold" every child is a fresh interpreter (macOS, CUDA: a forked child may not use the GPU). One
child at a time; before its code runs, the child puts up the walls of sandbox/walls.py around itself.

It is the subreaper of its descendants (Linux), so a double-forked daemon comes back to it and is killed. When its
socket closes, because the harness ended or was killed, it kills everything and ends. When a run has left something
behind that cannot be taken away, it says so ("spent") and is replaced.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .sandbox import walls

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SWEEP_SECONDS = 5.0
SHARED_MEMORY = "/dev/shm"


def main(descriptor: int, mode: str, namespace_of_harness: str) -> None:
    harness = socket.socket(fileno=descriptor)
    with contextlib.suppress(PermissionError):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    walls.hide_memory(True)
    is_alone = _is_other_namespace(namespace_of_harness)
    if mode == "warm":
        import safetensors.torch  # noqa: F401
        import torch._dynamo  # noqa: F401  (the first optimiser of a process imports it, which takes a second)

        from . import logits_server, runtime  # noqa: F401
    before = _traces(is_alone)
    _send(harness, {"event": "hatched", "pid": os.getpid()})
    while True:
        message, descriptors = _receive(harness)
        if message is None:
            os._exit(0)
        if message["order"] == "start":
            child = _start(message, descriptors[0], descriptors[1], mode, harness)
            _send(harness, {"event": "started", "pid": child})
            status, survivors = _attend(child, harness, is_alone)
            spent = survivors > 0 or _traces(is_alone) != before
            _send(harness, {"event": "ended", "status": status, "survivors": survivors, "spent": spent})
            if spent:
                os._exit(0)


def _attend(child: int, harness: socket.socket, is_alone: bool) -> tuple[int | None, int]:
    """Wait for the child's end, or for the order to end it; then sweep. (exit status, processes still alive)."""
    status: int | None = None
    while status is None:
        readable, _, _ = select.select([harness], [], [], 0.02)
        if readable:
            message, _ = _receive(harness)
            if message is None or message["order"] == "kill":
                _kill_session(child)
                survivors = _sweep(is_alone)
                if message is None:
                    os._exit(0)
                return None, survivors
        ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(wait_status)
    return status, _sweep(is_alone)


def _is_other_namespace(of_harness: str) -> bool:
    """Whether this process tree has a process namespace of its own, where "kill all" means the candidate's all."""
    try:
        return bool(of_harness) and str(Path("/proc/self/ns/pid").readlink()) != of_harness
    except OSError:
        return False


def _traces(is_alone: bool) -> tuple[Any, ...]:
    """What a candidate could change for those after it without writing a file of its run."""
    if sys.platform != "linux":
        return ()
    import resource

    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS)
    limits = tuple(resource.getrlimit(kind) for kind in (*kinds, resource.RLIMIT_NPROC, resource.RLIMIT_DATA))
    shared = tuple(path.name for path in Path(SHARED_MEMORY).iterdir()) if is_alone else ()
    return limits, os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0), shared


def _kill_session(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _sweep(is_alone: bool) -> int:
    """Kill and reap all descendants; returns how many are alive in spite of it."""
    import psutil

    alive = 0
    deadline = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < deadline:
        if is_alone:  # at once and together: no fork bomb outruns it
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        descendants = psutil.Process().children(recursive=True)
        alive = len(descendants)
        if not descendants:
            break
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.002)
    return alive


def _start(message: dict[str, Any], control: int, log: int, mode: str, harness: socket.socket) -> int:
    child = os.fork()
    if child:
        os.close(control)
        os.close(log)
        return child
    try:
        harness.close()
        os.setsid()
        walls.hide_memory(False)
        if sys.platform == "linux":
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError):
                Path("/proc/self/oom_score_adj").write_text("500", encoding="utf-8")
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.chdir(message["folder"])
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        os.closerange(3, control)
        os.closerange(control + 1, max(control + 2, 4096))
        os.environ.clear()
        os.environ.update(message["environment"])
        tempfile.tempdir = None  # what torch asked for before the fork is no folder of this process
        walls.put_up(message["walls"])
        if mode == "cold":
            os.set_inheritable(control, True)
            program = [sys.executable, "-E", "-P", "-m", "slm_ar.core.train.candidate", message["role"], str(control)]
            program = [*message["launcher"], *program]
            os.execve(program[0], program, dict(os.environ))
        from .candidate import run_candidate

        run_candidate(message["role"], control)
        _exit_quietly(0)
    except BaseException as error:  # the child must never return into the incubator's loop
        _report_and_exit(error)
    return 0


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
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
