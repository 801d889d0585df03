"""From the token shards to batches: which rows an epoch has and in what order, and how they come to the device.

Used by runtime.py inside the training process. Promises: every token of the corpus is a target once per epoch (what
fills up the last row comes twice); rows and their order are a function of (tokens, seed, context), and a batch takes
the next ones; a batch owns its memory, so that it may be kept; on CUDA the next batch is on its way while a step runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
import torch

from .packing import Packing, document_starts, pack, positions_of

Array = np.ndarray[Any, Any]
Align = Literal["stream", "documents"]


class Epoch(Protocol):
    """The rows of one epoch, in the order in which they are trained on."""

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def gather(self, first: int, ids: Array) -> None:
        """Fill `ids`, int64 [rows, row_width], with the rows from `first` on."""
        ...


def row_width(context: int, align: Align) -> int:
    """Ids of a row: its inputs are the first `context` of them, its targets the last.

    A row of the stream has them in common but for one; in a packed row a piece is not followed by what comes next.
    """
    return context + 1 if align == "stream" else 2 * context


def newest_part(tokens: Array, share: float, context: int) -> Array:
    """The last `share` of the corpus, above 0 and at most 1; one whole row of it at least."""
    count = max(math.ceil(share * len(tokens)), context + 1)
    return tokens[max(0, len(tokens) - count) :]


def epochs_of(tokens: Array, context: int, seed: int, align: Align) -> Iterator[Epoch]:
    """The epochs of a run, without end."""
    if align == "documents":
        return _document_epochs(tokens, context, seed)
    return (StreamEpoch(tokens, starts, context) for starts in row_order(len(tokens), context, seed))


def row_order(token_count: int, context: int, seed: int) -> Iterator[Array]:
    """Start positions of the rows cut from the stream, one int64 array per epoch, without end: a random phase, then
    every row once in random order.

    Rows wrap around the end of the corpus, so no token is left out whatever the phase.
    """
    generator = np.random.default_rng([seed, 0x51A7])
    rows = -(-token_count // context)
    while True:
        phase = int(generator.integers(context))
        yield (generator.permutation(rows) * context + phase) % token_count


class StreamEpoch:
    """Rows of the continuous stream, which do not care where a document begins."""

    def __init__(self, tokens: Array, starts: Array, context: int) -> None:
        self._tokens, self._starts, self._context = tokens, starts, context
        # A view of every row that there could be: picking some of them copies each in one piece.
        is_long = len(tokens) > context
        self._windows = np.lib.stride_tricks.sliding_window_view(tokens, context + 1) if is_long else tokens[:0]
        self._wrapped: list[int] = np.flatnonzero(starts >= len(self._windows)).tolist()
        """Places of the rows, two at most, that go on at the beginning of the corpus."""

    def __len__(self) -> int:
        return len(self._starts)

    def gather(self, first: int, ids: Array) -> None:
        end = first + len(ids)
        starts = self._starts[first:end]
        if any(first <= place < end for place in self._wrapped):
            ids[:] = self._tokens[(starts[:, None] + np.arange(self._context + 1)) % len(self._tokens)]
        else:
            ids[:] = self._windows[starts]


def _document_epochs(tokens: Array, context: int, seed: int) -> Iterator[Epoch]:
    generator = np.random.default_rng([seed, 0xD0C5])
    starts = document_starts(tokens)
    while True:
        yield DocumentEpoch(tokens, pack(starts, len(tokens), context, generator))


class DocumentEpoch:
    """Rows packed from whole documents; see packing.py."""

    def __init__(self, tokens: Array, packing: Packing) -> None:
        self._tokens, self._packing = tokens, packing

    def __len__(self) -> int:
        return len(self._packing)

    def gather(self, first: int, ids: Array) -> None:
        context = ids.shape[1] // 2
        pieces = self._packing.pieces(first, len(ids))
        inputs = self._tokens.take(positions_of(pieces))
        targets = np.empty_like(inputs)
        targets[:-1] = inputs[1:]
        behind = pieces.sum(1)  # what comes next in the corpus, where something else comes next in the row
        behind[behind == len(self._tokens)] = 0
        targets[np.cumsum(pieces[:, 1]) - 1] = self._tokens[behind]
        ids[:, :context] = inputs.reshape(-1, context)
        ids[:, context:] = targets.reshape(-1, context)


class Reader:
    """Takes the next rows, whatever epoch they belong to."""

    def __init__(self, epochs: Iterator[Epoch]) -> None:
        self._epochs = epochs
        self._epoch = next(epochs)
        self._place = 0

    def fill(self, ids: Array) -> None:
        """Write the next rows into an int64 [rows, row_width] array."""
        done = 0
        while done < len(ids):
            if self._place == len(self._epoch):
                self._epoch, self._place = next(self._epochs), 0
            end = min(len(ids), done + len(self._epoch) - self._place)
            self._epoch.gather(self._place, ids[done:end])
            self._place += end - done
            done = end


# --- to the device --------------------------------------------------------------------------


class Feed(Protocol):
    """Gives the inputs and the targets of batches, int64 [rows, context] each, on the run's device."""

    def start(self, reader: Reader) -> None:
        """The data are here."""
        ...

    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The next batch."""
        ...

    def prepare(self) -> None:
        """A step has been launched: use the time that it takes."""
        ...


def make_feed(device: torch.device, rows: int, context: int, align: Align) -> Feed:
    """Call it before the clock starts: what is allocated once is allocated here."""
    kind = PinnedFeed if device.type == "cuda" else PlainFeed
    return kind(device, (rows, row_width(context, align)), context)


class PlainFeed:
    """Reads a batch when it is asked for. On Metal the copy waits: one that does not wait may still read its source
    after that has been freed, and then the ids are wrong without a word (pytorch issues 139550 and 189690)."""

    def __init__(self, device: torch.device, shape: tuple[int, int], context: int) -> None:
        self._device, self._shape, self._context = device, shape, context

    def start(self, reader: Reader) -> None:
        self._reader = reader

    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids = np.empty(self._shape, np.int64)
        self._reader.fill(ids)
        if self._device.type == "cpu":  # numpy cuts faster than torch
            return torch.from_numpy(ids[:, : self._context]), torch.from_numpy(ids[:, -self._context :])
        sent = torch.from_numpy(ids).to(self._device)
        return sent[:, : self._context], sent[:, -self._context :]

    def prepare(self) -> None:
        """Nothing: the processor is busy with the step itself."""


class PinnedFeed:
    """Keeps one batch ahead: read into one of two pinned buffers and copied on a stream of its own while a step runs.

    No thread is needed for it: the device works off a step that has been launched while this process reads the next
    batch. The ids are copied as int64, because half a megabyte a step beside the computation is cheaper than one more
    kernel in it.
    """

    def __init__(self, device: torch.device, shape: tuple[int, int], context: int) -> None:
        self._device, self._context = device, context
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._buffers = [torch.empty(shape, dtype=torch.int64, pin_memory=True) for _ in range(2)]
        self._copied = [_event(), _event()]
        self._turn = 0

    def start(self, reader: Reader) -> None:
        self._reader = reader
        self.prepare()

    def take(self) -> tuple[torch.Tensor, torch.Tensor]:
        ids, copied = self._ahead
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(copied)
        # The memory belongs to the copying stream, which may fill it again only when the step has read it.
        ids.record_stream(computing)
        return ids[:, : self._context], ids[:, -self._context :]

    def prepare(self) -> None:
        buffer, copied = self._buffers[self._turn], self._copied[self._turn]
        self._turn = 1 - self._turn
        copied.synchronize()  # the copy of the batch before last, out of the same buffer
        self._reader.fill(buffer.numpy())
        with torch.cuda.stream(self._stream):
            sent = buffer.to(self._device, non_blocking=True)
            copied.record(self._stream)
        self._ahead = sent, copied


class Launched:
    """Keeps the clock honest on a device that works behind the program's back.

    Launching a step on CUDA takes a fraction of the time of the step, so a loop that only launches would run past the
    deadline by a queue of steps, and what it measures would be no time of a step. `wait` is called when a step has been
    launched and returns when the one before it is done: at most two are under way, the device never runs dry, and from
    one return to the next it is the time of one step.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events = [_event(), _event()] if device.type == "cuda" else []
        self._turn = 0
        self.steps_to_come = 2 if self._events else 1
        """Step times from a return of `wait` until one more step would be done: that step, and what is still under
        way."""

    def wait(self) -> None:
        if self._events:
            self._events[self._turn].record(torch.cuda.current_stream(self._device))
            self._turn = 1 - self._turn
            self._events[self._turn].synchronize()
        else:
            finish_work(self._device)  # on Metal the copy of the next batch would wait for it anyway


def _event() -> torch.cuda.Event:
    """A mark in a stream; who waits for it sleeps."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


def finish_work(device: torch.device) -> None:
    """Wait until an accelerator has done all that it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
