"""What leaves this machine: a ledger of every request that carries something away, and a lock that lets none out.

Called by whatever speaks to another machine (the hub's reader today), and by the command line, which locks where the
recipe says `offline = true` or the environment SLM_AR_OFFLINE. Promises: nothing is sent that is not recorded first,
and the record holds what was sent; with the lock no connection of this process leaves the loopback interface.
The lock is for our own code and the libraries that it calls. What stops hostile code is the sandbox.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import UsageError

LEDGER_FILE = "egress.jsonl"
BODIES_FOLDER = "egress"
OFFLINE_VARIABLE = "SLM_AR_OFFLINE"
_CONNECTING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_RESOLVING = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_NAMING = "socket.getnameinfo"
"""Asks the name server for the name of an address, which is a tuple here."""

_locked_by = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: when, to whom, what for, and what it held (the SHA-256 of a file in the ledger's folder)."""

    at: str
    host: str
    purpose: str
    byte_count: int
    digest: str


class Ledger:
    """The requests of one workspace, oldest first, in `folder`/egress.jsonl; their bodies lie in `folder`/egress/."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / LEDGER_FILE
        self._bodies = folder / BODIES_FOLDER

    def record(self, host: str, purpose: str, body: bytes) -> None:
        """Write down what is about to be sent; on return it is on the disk. Raises OSError: then do not send."""
        sent = Sent(
            datetime.now(UTC).isoformat(timespec="seconds"), host, purpose, len(body), hashlib.sha256(body).hexdigest()
        )
        self._bodies.mkdir(parents=True, exist_ok=True)
        _write_through(self._bodies / sent.digest, body, "wb")
        # A line cut short by a power failure must not swallow this one.
        begin = b"" if self._ends_well() else b"\n"
        _write_through(self._file, begin + json.dumps(asdict(sent)).encode() + b"\n", "ab")

    def _ends_well(self) -> bool:
        try:
            with self._file.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) == b"\n"
        except OSError:  # none yet, or an empty one
            return True

    def entries(self) -> Iterator[Sent]:
        """All that was recorded; a line cut short by a power failure was never sent and is passed over."""
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield Sent(**json.loads(line))
            except (ValueError, TypeError):
                continue

    def summary(self) -> str:
        """One line for people and reports."""
        requests: Counter[tuple[str, str]] = Counter()
        sizes: Counter[tuple[str, str]] = Counter()
        for sent in self.entries():
            requests[sent.host, sent.purpose] += 1
            sizes[sent.host, sent.purpose] += sent.byte_count
        if not requests:
            return "nothing"
        return "; ".join(
            f"{sizes[key]:,} bytes in {count:,} request{'s' * (count > 1)} to {key[0]} ({key[1]})"
            for key, count in sorted(requests.items())
        )


def _write_through(path: Path, content: bytes, mode: str) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def refuse_connections(reason: str) -> None:
    """From now on no connection of this process leaves the loopback interface; it cannot be undone.

    What tries gets a UsageError that says `reason`, such as the recipe's line.
    """
    global _locked_by
    if not _locked_by:
        _locked_by = reason
        sys.addaudithook(_refuse)


def is_offline() -> bool:
    """Whether this process may not speak to other machines."""
    return bool(_locked_by)


def refusal(host: str) -> UsageError:
    """The error for a person who asks for `host` while offline."""
    return UsageError(
        f"{host} is not asked: {_locked_by}",
        "take that out to allow it, or work with local files",
    )


def lock_if_asked(offline: bool, recipe: Path | None = None) -> None:
    """Lock when the recipe or the environment says so."""
    if offline:
        refuse_connections(f"offline = true in [privacy] of {recipe}")
    elif os.environ.get(OFFLINE_VARIABLE, "") not in ("", "0"):
        refuse_connections(f"the environment says {OFFLINE_VARIABLE}={os.environ[OFFLINE_VARIABLE]}")


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _CONNECTING or event == _NAMING:
        address = arguments[-1]
        # Addresses of unix sockets are texts; a sendmsg on a connected socket names none.
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise refusal(str(address[0]))
    elif event in _RESOLVING and not is_loopback(arguments[0]):
        raise refusal(str(arguments[0]))


def is_loopback(host: object) -> bool:
    """Whether a name or an address is this very machine, so that nothing sent there leaves it."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    if host is None or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False
