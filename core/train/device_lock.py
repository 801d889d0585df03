"""One timed run at a time: whoever trains or times something on a device holds its lock.

Used by the commands and the campaign. Promises: two workspaces of a person never train on one device at once, each of
the two runs would be void; who waits is told for whom, and need not wait longer than it has time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, overload

from ..prepare.heldout import ensure_private, private_root

POLL_SECONDS = 0.05


@contextmanager
def device_lock(device: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold this machine's device for runs budgeted by the clock: two of them at once would both be void."""
    with take_device(device, on_wait):
        yield


@overload
def take_device(device: str, on_wait: Callable[[str], None]) -> TextIO: ...
@overload
def take_device(device: str, on_wait: Callable[[str], None], stop_at: float | None) -> TextIO | None: ...
def take_device(device: str, on_wait: Callable[[str], None], stop_at: float | None = None) -> TextIO | None:
    """The lock of the device, held until it is closed; None when it is not free before the `stop_at` of
    time.monotonic()."""
    file = _lock_file(device).open("a+")
    try:
        if not _is_taken(file):
            on_wait(_waiting_words(device, file))
            if stop_at is None:
                fcntl.flock(file, fcntl.LOCK_EX)
            while stop_at is not None and not _is_taken(file):
                if time.monotonic() > stop_at:
                    file.close()
                    return None
                time.sleep(POLL_SECONDS)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def _lock_file(device: str) -> Path:
    return ensure_private(private_root()) / f"{device}.lock"


def _is_taken(file: TextIO) -> bool:
    """Take the lock if nobody has it; closing the file gives it back."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _waiting_words(device: str, file: TextIO) -> str:
    file.seek(0)
    return f"waiting for the {device}: process {file.read().strip() or '?'} is training on it"
