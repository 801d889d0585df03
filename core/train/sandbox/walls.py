"""The walls that a candidate's process puts around itself on Linux before any candidate code runs.

Called by incubator.py in the forked child with what plans.py wrote down. Order matters: limits, landlock, capabilities,
filter; after the last one nothing of this can be taken back, also not by programs that the candidate starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import seccomp

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE, IOCTL_DEVICE = 1 << 14, 1 << 15
_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""Landlock ABI -> number of file-system rights that it knows (later ones know what 5 knows)."""
SCOPED_SIGNALS_ABI = 6
STARTS_A_PROCESS = frozenset({"os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"})
"""Events of Python."""


def put_up(spec: Mapping[str, Any]) -> None:
    """Close this process in as `spec` says; see plans.walls_for. Raises OSError where a wall is refused."""
    _limit(spec["limits"])
    if spec["landlock"] is None and spec["sockets"] is None:
        return
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    abi = landlock_abi()
    if spec["landlock"] is not None and abi:
        _landlock(abi, spec["landlock"]["read"], spec["landlock"]["write"])
    _drop_capabilities()
    own_signals = spec["landlock"] is None or abi < SCOPED_SIGNALS_ABI
    seccomp.install(spec["sockets"] == "unix", own_signals, spec["memory_files"], spec["processes"])
    if not spec["processes"]:
        sys.addaudithook(_tell_of_processes)


def _tell_of_processes(event: str, _: tuple[object, ...]) -> None:
    """Nothing is stopped here: the filter does that. It only has no words."""
    if event in STARTS_A_PROCESS:
        raise PermissionError(errno.EPERM, "a model that is served may start threads, but no processes")


def landlock_abi() -> int:
    """The landlock version of this kernel; 0 where there is none."""
    if platform.system() != "Linux":
        return 0
    version = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, 1)
    return max(0, int(version))


def hide_memory(is_hidden: bool) -> None:
    """Whether processes of the same user may look into this one (PR_SET_DUMPABLE)."""
    if platform.system() == "Linux":
        _prctl(PR_SET_DUMPABLE, int(not is_hidden))


def _limit(limits: Mapping[str, int | None]) -> None:
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _lower(resource.RLIMIT_NPROC, limits["processes"])


def _lower(kind: int, value: int | None) -> None:
    import resource

    if value is not None:
        hard = resource.getrlimit(kind)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))


def _landlock(abi: int, read: list[str], write: list[str]) -> None:
    """Only `read` can be read and run, only `write` also written; TCP, signals and abstract sockets stay inside."""
    handled = (1 << _RIGHTS_BY_ABI[min(abi, 5)]) - 1
    network = 3 if abi >= 4 else 0
    scopes = 3 if abi >= SCOPED_SIGNALS_ABI else 0
    attributes = struct.pack("=QQQ", handled, network, scopes)
    size = 24 if abi >= SCOPED_SIGNALS_ABI else 16 if abi >= 4 else 8
    ruleset = _syscall(_CREATE_RULESET, attributes, size, 0)
    try:
        for path in read:
            _add_rule(ruleset, path, handled & (EXECUTE | READ_FILE | READ_DIR))
        for path in write:
            _add_rule(ruleset, path, handled & ~EXECUTE if path.startswith("/dev") else handled)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _add_rule(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    try:
        if not Path(path).is_dir():
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
        _syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _drop_capabilities() -> None:
    """A candidate of root is nobody's superuser."""
    with contextlib.suppress(OSError):
        _prctl(PR_CAP_AMBIENT, 4)
    for capability in range(64):
        with contextlib.suppress(OSError):
            _prctl(PR_CAPBSET_DROP, capability)
    numbers = seccomp.MACHINES[platform.machine()][1]
    _syscall(numbers["capset"], struct.pack("=Ii", 0x20080522, 0), bytes(24))


def _prctl(option: int, value: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} was refused")


def _syscall(number: int, *arguments: Any) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number} was refused")
    return result
