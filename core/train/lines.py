"""JSON lines on a socket between the harness and a process of the sandbox: incubators and candidates.

Used by process.py. The other end is hostile: what it writes is bounded in length and number.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections import deque
from typing import Any


class Lines:
    """JSON lines read from a socket. A candidate can write nonsense: a few such lines are dropped, many or long ones
    end it."""

    LONGEST = 1 << 20
    MOST_NONSENSE = 256

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.is_closed = False
        self.refusal = ""
        """Why no more is read, though the other side may go on writing."""
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._nonsense = 0

    def pending(self) -> dict[str, Any] | None:
        """The next message that is already here."""
        while self._lines and not self.refusal:
            with contextlib.suppress(ValueError, RecursionError):
                message = json.loads(self._lines.popleft())
                if isinstance(message, dict):
                    return message
            self._nonsense += 1
            if self._nonsense > self.MOST_NONSENSE:
                self._refuse(f"it wrote more than {self.MOST_NONSENSE} lines that are no messages to the harness")
        return None

    def fill(self) -> bool:
        """Read what has come; False when the other side is gone, or is not listened to any more."""
        try:
            chunk = self.socket.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            self.is_closed = True
        elif len(self._rest) > self.LONGEST:
            self._refuse(f"it wrote a line of more than {self.LONGEST:,} bytes to the harness")
        if self.is_closed:
            return False
        *lines, last = chunk.split(b"\n")
        if lines:
            self._lines.append(self._rest + lines[0])
            self._lines.extend(lines[1:])
            self._rest = b""
        self._rest += last
        return True

    def _refuse(self, reason: str) -> None:
        self.refusal, self.is_closed = reason, True
        self._lines.clear()

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next message within `seconds`, or None (also when the other side is gone)."""
        limit = time.monotonic() + seconds
        while (message := self.pending()) is None:
            left = limit - time.monotonic()
            if self.is_closed or left <= 0 or not select.select([self.socket], [], [], left)[0]:
                return None
            self.fill()
        return message
