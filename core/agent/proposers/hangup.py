"""Ends a call when its time is over, whatever the server does meanwhile. Used by endpoint.py for every client.

A server that sends its headers sign by sign is never silent, so that no time-out for silence ends it, and its answer
has not begun, so that nobody counts. What is left is to close its line from beside: the reader meets a broken answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

GRACE_SECONDS = 1.0
"""So much later than the limits of silence and of an answer, which say in their own words what was wrong."""


class HangUp:
    """Closes the lines of one client `seconds` after `begin`, with some grace; harmless after `cancel`."""

    def __init__(self, seconds: float) -> None:
        self._timer = threading.Timer(max(0.0, seconds) + GRACE_SECONDS, self._hang_up)
        self._timer.daemon = True
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_over = False

    def begin(self) -> None:
        """Start the clock, once; later calls do nothing."""
        if self._timer.ident is None:
            self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()

    def heard(self, event: str, facts: Mapping[str, Any]) -> None:
        """What a request tells of itself (the extension `trace` of the HTTP library): remembers each new line."""
        if not event.endswith(("connect_tcp.complete", "start_tls.complete")):
            return
        line = facts["return_value"].get_extra_info("socket")
        with self._lock:
            self._lines.append(line)
            if self._is_over:
                _close(line)

    def _hang_up(self) -> None:
        with self._lock:
            self._is_over = True
            for line in self._lines:
                _close(line)


def _close(line: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed
        # Not through TLS, whose state belongs to the thread that reads.
        socket.socket.shutdown(line, socket.SHUT_RDWR)
