"""Reads what candidate code wrote: regular files only, no links, no pipes, never more than a cap.

Used by the executor and the scorer. A candidate may have put anything where a file is expected.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

LOG_FILE = "log.txt"
LOG_TAIL_BYTES = 4096
LONGEST_KEY_BYTES = 512
CONFIG_BYTES = 1 << 20
_KEY = re.compile(r"\b(?:sk|hf|ghp|xox[abp])[-_][A-Za-z0-9_-]{6,}")
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD", re.IGNORECASE)


def read_candidate_file(path: Path, most_bytes: int, from_end: bool = False) -> bytes:
    """At most `most_bytes` of a regular file. Raises OSError for everything else, also for a larger one unless its
    end is asked for."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            if not from_end:
                raise _too_large(path, size, most_bytes)
            file.seek(size - most_bytes)
        return file.read(most_bytes)


def candidate_file_digest(path: Path, most_bytes: int) -> bytes:
    """SHA-256 of a regular file, which is never in memory as a whole. Raises OSError as read_candidate_file does."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise _too_large(path, size, most_bytes)
        return hashlib.file_digest(file, "sha256").digest()


def _opened(path: Path) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def _too_large(path: Path, size: int, most_bytes: int) -> OSError:
    return OSError(f"{path.name} has {size:,} bytes, at most {most_bytes:,} are read")


def read_config(path: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises OSError or ValueError."""
    try:
        config = json.loads(read_candidate_file(path, CONFIG_BYTES))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return config


def log_tail(folder: Path) -> str:
    """The end of a run's log without control characters and keys. Data, never instruction."""
    try:
        raw = read_candidate_file(folder / LOG_FILE, LOG_TAIL_BYTES + LONGEST_KEY_BYTES, from_end=True)
    except OSError:
        return ""
    text = raw.decode("utf-8", errors="replace")
    # Keys are blotted out before the cut, which could leave the rest of one without what it is known by.
    clean = without_keys("\n".join(printable(line) for line in text.split("\n")))
    return clean[-LOG_TAIL_BYTES:]


def printable(text: str) -> str:
    """`text` of a candidate as it may stand in a reason, a report or the journal: one line, nothing that a terminal or
    an encoder stumbles over (control characters, marks of direction, halves of surrogate pairs)."""
    return "".join(character for character in text if character.isprintable())


def last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else ""


def without_keys(text: str) -> str:
    """`text` with everything that looks like a key, or is the value of a secret variable of ours, blotted out."""
    secrets = [value for name, value in os.environ.items() if len(value) >= 8 and _SECRET_NAME.search(name)]
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "[key]")
    return _KEY.sub("[key]", text)
