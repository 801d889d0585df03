"""Keeps the machine, but not its display, from falling asleep while a command works; warns of a battery.

Used by the commands that train for long. Promises: the hold ends with this process, however it ends; where nothing can
hold the machine awake, that is said, and a run that was suspended is repeated anyway.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from ..environment import without_secrets

ANSWER_SECONDS = 5.0


@contextlib.contextmanager
def kept_awake(say: Callable[[str], None]) -> Iterator[None]:
    """Hold the machine awake inside the block; what cannot be had is told through `say`."""
    if _is_on_battery():
        say("on battery: the machine may slow down or stop; plug it in for a night")
    command = _command()
    holder = _start(command) if command else None
    if holder is None:
        say("nothing holds this machine awake; a run that is suspended is repeated")
    try:
        yield
    finally:
        if holder is not None:
            _end(holder)


def _command() -> list[str]:
    """A program that holds the machine awake until the program that it starts has ended; empty if there is none."""
    shell = shutil.which("sh")
    if shell is None:
        return []
    # The line says that the hold is there. It lasts until our end of the pipe is closed, whatever closes it.
    waits = [shell, "-c", "echo held; exec cat"]
    if sys.platform == "darwin" and (program := shutil.which("caffeinate")):
        return [program, "-i", *waits]
    if program := shutil.which("systemd-inhibit"):
        return [program, "--what=sleep:idle", "--mode=block", "--who=slm-ar", "--why=training", *waits]
    return []


def _start(command: list[str]) -> subprocess.Popen[bytes] | None:
    """The running program, or None when it gave up (no login manager, no permission) or did not answer."""
    try:
        holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=without_secrets(os.environ),
            start_new_session=True,  # Ctrl-C is for the campaign
        )
    except OSError:
        return None
    assert holder.stdin is not None and holder.stdout is not None
    if select.select([holder.stdout], [], [], ANSWER_SECONDS)[0] and holder.stdout.read1(16):
        return holder
    _end(holder)
    return None


def _end(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None and holder.stdout is not None
    with contextlib.suppress(OSError):
        holder.stdin.close()
    holder.terminate()
    holder.wait()
    holder.stdout.close()


def _is_on_battery() -> bool:
    import psutil

    read = getattr(psutil, "sensors_battery", None)
    if read is None:  # not on every system
        return False
    try:
        battery = read()
    except (OSError, RuntimeError):
        return False
    return battery is not None and battery.power_plugged is False
