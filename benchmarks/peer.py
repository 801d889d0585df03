"""Another system on the same text for the same seconds: a command that the user gives, and a distrustful reading of it.

Used by quality.py. Promises: the command is run without a shell, ends with all its processes, and everything but one
finite positive number as its last line is told in plain words as a failure.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from slm_ar.core.errors import UsageError

from .common import Quiet, Run

SLACK_SECONDS, SLACK_FACTOR = 600.0, 2.0
"""A peer may take this much and this many times its training seconds, for its start, its tokenizer and its scoring."""
LAST_WORDS = 300


def named(peer: str) -> tuple[str, list[str]]:
    """(name, command) of `NAME=COMMAND` or `COMMAND`. Raises UsageError."""
    match = re.match(r"([\w.-]+)=(?=\S)", peer)
    name, text = (match[1], peer[match.end() :]) if match else ("peer", peer)
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the peer {peer!r} is no command: {error}", "quote it as in a shell") from None
    if not command:
        raise UsageError(f"the peer {peer!r} names no command", "give PEER='COMMAND' or PEER='NAME=COMMAND'")
    return name, command


def run(command: list[str], train: Path, dev: Path, seconds: float, seed: int, environment: Mapping[str, str]) -> Run:
    """One run: `bpb`, or `failure` in words; `void` when other programs computed beside it.

    The command gets three arguments: train file, dev file, seconds; and the environment variable SEED.
    """
    quiet, started = Quiet(), time.monotonic()
    limit = SLACK_FACTOR * seconds + SLACK_SECONDS
    # files, because a pipe stays open as long as any process that the command left behind
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        try:
            process = subprocess.Popen(
                [*command, str(train), str(dev), f"{seconds:g}"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                env={**os.environ, **environment, "SEED": str(seed)},
                start_new_session=True,
            )
        except OSError as problem:
            return {"failure": f"it cannot be started: {problem.strerror}: {command[0]}", "void": ""}
        late = False
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found: Run = {"wall_seconds": round(time.monotonic() - started, 1), "void": quiet.verdict()}
        if late:
            return found | {
                "failure": f"it had not ended {limit:.0f} s after its start ({seconds:g} s are for training)"
            }
        return found | read(process.returncode, _tail(out), _tail(error))


def _tail(file: object) -> str:
    file.seek(0, os.SEEK_END)  # type: ignore[attr-defined]
    file.seek(max(0, file.tell() - 65536))  # type: ignore[attr-defined]
    return str(file.read().decode("utf-8", errors="replace"))  # type: ignore[attr-defined]


def read(code: int, out: str, error: str) -> Run:
    """`bpb` of an ended command, or `failure` in words."""
    if code:
        last = (error.strip() or out.strip()).splitlines()[-1:] or ["it said nothing"]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return {"failure": f"it ended with {how}: {last[0][:LAST_WORDS]}"}
    lines = out.strip().splitlines()
    if not lines:
        return {"failure": "it printed nothing; its last line has to be its bits per byte of the dev file"}
    try:
        bits_per_byte = float(lines[-1])
    except ValueError:
        return {"failure": f"its last line is no number: {lines[-1][:LAST_WORDS]!r}"}
    if not math.isfinite(bits_per_byte) or bits_per_byte <= 0:
        return {"failure": f"{lines[-1].strip()} is no number of bits per byte"}
    return {"bpb": bits_per_byte}
