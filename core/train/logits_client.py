"""The harness's side of a logits server: a fresh process with a checkpoint, asked for logits, believed in nothing.

Opened by the executor and by the commands that use a model. Promises: what comes back is finite float32 of the asked
shape and a private copy; memory, patience and the work of the process are bounded (meter.py); leaving ends it.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from . import elementary
from .checkpoint import InvalidCheckpointError
from .files import last_line, log_tail
from .meter import Account, Allowance, TreeClock, WaitingClock
from .process import Child, Incubator, tree_memory_mb

LOGITS_BYTES = 64 << 20
IDS_BYTES = 4 << 20
PADDING_COLUMNS = 1024
"""A model may pad its vocabulary by up to this many columns; they are dropped."""
LOAD_SECONDS = 120
ANSWER_SECONDS = 300


class LogitsClient:
    """A loaded candidate that answers `logits(ids, spans)`; `with` ends its process."""

    def __init__(
        self,
        incubator: Incubator,
        folder: Path,
        environment: Mapping[str, str],
        device: str,
        vocab_size: int,
        context: int,
        memory_mb: float,
        answering_seconds: float = math.inf,
        allowance: Allowance | None = None,
    ) -> None:
        """`answering_seconds`: how long all its answers together may take; `allowance`: what its process may spend."""
        elementary.settle()  # costs are computed on this side
        self.vocab_size = vocab_size
        self._is_on_cpu = device == "cpu"
        self._seconds_left = answering_seconds
        self._allowance = allowance
        self._account = Account()
        self._rows_asked = self._tokens_asked = 0
        self._folder = folder
        self._memory_mb = memory_mb
        # Room for one whole window, however large the vocabulary is, with some padding columns.
        self._ids_at = max(LOGITS_BYTES, 4 * (vocab_size + PADDING_COLUMNS) * context)
        self._child: Child = incubator.start("serve", folder, environment)
        self._shared = _shared_file(self._ids_at + IDS_BYTES)
        self._clock: TreeClock | WaitingClock | None = None
        hello = json.dumps({"device": device}).encode() + b"\n"
        try:
            socket.send_fds(self._child.control.socket, [hello], [self._shared.fileno()])
            ready = self._answer(min(LOAD_SECONDS, answering_seconds))
            self._clock = TreeClock(self._child.pid) if device == "cpu" else WaitingClock()
            self._child.control.socket.sendall(b"!")
        except OSError:
            ready = None
        loaded = self._answer(min(LOAD_SECONDS, answering_seconds)) if ready is not None else None
        if loaded is None or loaded.get("event") != "loaded":
            self._refuse("the checkpoint cannot be loaded by its own train.py")
        assert self._clock is not None
        self._clock.answered()
        self._account.loaded(self._clock.seconds())
        self._check_work(True)

    def __enter__(self) -> LogitsClient:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._child.end()
        self._shared.close()
        if kind is None:
            self._check_work(True)

    @property
    def work_beyond_answering(self) -> float:
        """Seconds of its meter that plain answers do not explain, so far."""
        return self._account.extra

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        """float32 [sum of positions, vocab_size] for rows of ids int32 [rows, length]; padding columns dropped.

        Raises InvalidCheckpointError when the answer has the wrong shape, is not finite, or does not come.
        """
        answers: list[torch.Tensor] = []
        while not answers or len(ids):
            # The first rows go alone, then two, four ...: a model that works before its first answer has by then
            # answered next to nothing (meter.py).
            rows = self._rows_asked + 1
            answers.append(self._finite(self._received(self._send(ids[:rows], positions[:rows]))))
            ids, positions = ids[rows:], positions[rows:]
        return torch.cat(answers) if len(answers) > 1 else answers[0]

    def stream(
        self, requests: Iterable[tuple[np.ndarray[Any, Any], Sequence[tuple[int, int]]]]
    ) -> Iterator[torch.Tensor]:
        """`logits` of one request after the other; the model computes the next while the caller looks at the last.

        On a CPU the caller has one thread for that: two processes with as many threads as cores wait for each other.
        """
        threads = torch.get_num_threads()
        if self._is_on_cpu:
            torch.set_num_threads(1)
        try:
            yield from self._streamed(requests)
        finally:
            torch.set_num_threads(threads)

    def _streamed(
        self, requests: Iterable[tuple[np.ndarray[Any, Any], Sequence[tuple[int, int]]]]
    ) -> Iterator[torch.Tensor]:
        asked: int | None = None
        for ids, positions in requests:
            answer = None if asked is None else self._received(asked)
            asked = None
            is_begun = len(ids) <= self._rows_asked + 1
            if is_begun:
                asked = self._send(ids, positions)
            if answer is not None:
                yield self._finite(answer)
            if not is_begun:
                yield self.logits(ids, positions)
        if asked is not None:
            yield self._finite(self._received(asked))

    def _send(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> int:
        """Ask; returns how many positions were asked for."""
        rows, length = ids.shape
        os.pwrite(self._shared.fileno(), np.ascontiguousarray(ids, np.int32).tobytes(), self._ids_at)
        asked = sum(end - start for start, end in positions)
        self._rows_asked += rows
        self._tokens_asked = rows * length
        assert self._clock is not None
        self._clock.asked()
        request = {"rows": rows, "length": length, "ids_at": self._ids_at, "positions": [list(p) for p in positions]}
        try:
            self._child.control.socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            self._refuse("the model's process ended")
        return asked

    def _received(self, asked: int) -> torch.Tensor:
        """A copy of the answer to the last request, which the model's process cannot change any more."""
        started = time.monotonic()
        answer = self._answer(min(ANSWER_SECONDS, self._seconds_left))
        self._seconds_left -= time.monotonic() - started
        if self._seconds_left <= 0:
            self._refuse("the model took longer to answer than a score may take")
        if answer is None or answer.get("event") != "logits":
            self._refuse("the model failed while it computed logits")
        assert answer is not None and self._clock is not None
        self._clock.answered()
        self._account.answered(self._tokens_asked, self._clock.seconds())
        count, width = _extent(answer.get("count")), _extent(answer.get("width"))
        if count != asked or width < self.vocab_size or width * asked * 4 > self._ids_at:
            told = ", ".join("?" if number < 0 else str(number) for number in (count, width))
            self._refuse(f"forward gave logits of shape [{told}], asked [{asked}, >= {self.vocab_size}]")
        copied = np.empty((asked, width), np.float32)
        if not _read_all(self._shared.fileno(), copied.reshape(-1).view(np.uint8).data):
            self._refuse("the model cut off the file that its logits go through")
        return torch.from_numpy(copied)[:, : self.vocab_size]

    def _finite(self, logits: torch.Tensor) -> torch.Tensor:
        if not bool(torch.isfinite(logits).all()):
            self._refuse("forward gave logits that are not finite")
        return logits

    def rows_per_request(self, length: int) -> int:
        """Rows whose logits surely fit into the shared file, with room for padded vocabularies."""
        width = self.vocab_size + PADDING_COLUMNS
        return max(1, min(self._ids_at // (4 * width * length), IDS_BYTES // (4 * length), 16_384 // length))

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        """The server's next message; refuses one that takes more memory than training may, or works too long."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            message = self._child.wait(0.5)
            if message is not None or self._child.ended is not None:
                return message
            if tree_memory_mb(self._child.pid) > self._memory_mb:
                self._refuse(f"the model used more than {self._memory_mb:,.0f} MB")
            self._check_work()
        return None

    def _check_work(self, is_whole: bool = False) -> None:
        """Raises InvalidCheckpointError when its process did more than answer; `is_whole`: nothing is being computed.

        What an answer costs is only known at the end; its tokens are free from the start.
        """
        if self._allowance is None or self._clock is None:
            return
        spent = self._clock.seconds()
        extra = self._account.extra if is_whole else 0.0 if self._account.is_loaded else spent
        tokens = self._account.tokens + (0 if is_whole else self._tokens_asked)
        total = self._allowance.total + self._allowance.per_token * tokens
        if extra <= self._allowance.extra and spent <= total:
            return
        self._child.end()
        self._shared.close()
        if extra > self._allowance.extra:
            raise InvalidCheckpointError(
                f"the model worked {extra:.1f} s beyond answering while it was loaded and scored, "
                f"{self._allowance.extra:.1f} s are free: what trains, searches or imports much belongs into the budget"
            )
        raise InvalidCheckpointError(
            f"the model worked {spent:.0f} s to be scored, {total:.0f} s are free within this budget"
        )

    def _refuse(self, reason: str) -> None:
        self._child.end()
        self._shared.close()
        line = self._child.control.refusal or last_line(log_tail(self._folder))
        raise InvalidCheckpointError(f"{reason}: {line}" if line else reason)


def _extent(value: object) -> int:
    """What a model's process says that a shape is; -1 for what is none, or larger than any that could be read."""
    return value if type(value) is int and 0 <= value < 1 << 31 else -1


def _shared_file(size: int) -> IO[bytes]:
    """A file without a name that the model's process may write to: on Linux in memory, of a size that nobody changes.

    It is read and written, never mapped, on this side: a mapped file that the other side cuts off ends its reader.
    """
    if not hasattr(os, "memfd_create"):
        file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (the client closes it)
        file.truncate(size)
        return file
    descriptor = os.memfd_create("logits", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return os.fdopen(descriptor, "r+b", buffering=0)


def _read_all(descriptor: int, into: memoryview) -> bool:
    """Fill `into` from the start of the file; False where the file is shorter."""
    at = 0
    while at < len(into):
        count = os.preadv(descriptor, [into[at:]], at)  # one call reads 2 GiB at most
        if count == 0:
            return False
        at += count
    return True
