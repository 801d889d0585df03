"""Processes that each compute the gradients of some rows of a batch with one model: what replicas.py takes on Linux.

Promises: weights lie in memory that all share, so that every process computes with those of the moment; gradients are
added up in one order, so that equal seeds give equal numbers, drawn ones in forward() too; an error in one process is
raised in the first one when the others have ended; no process outlives the first one.

Two threads of one interpreter take its lock in turn, hundreds of times in a step of a small model; processes do not.
They are forked, so nothing is loaded or copied for them, and each must be content with one thread, because a pool of
threads does not survive the fork.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import mmap
import os
import pickle
import random
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

PR_SET_PDEATHSIG = 1
ALIGNMENT = 64


class Crew:
    """A model in this process and `count - 1` forked ones, which follow its weights, buffers, modes and what is frozen.

    Weights move to shared memory when this is made; one that is exchanged later is copied there before each batch. All
    else is as it was when the others were forked: at the first batch, and anew when a parameter was added or frozen or
    a mode was switched.
    """

    def __init__(self, model: torch.nn.Module, count: int, backward: Callable[[torch.nn.Module, Any], object]) -> None:
        self._model, self._count, self._backward = model, count, backward
        self._workers: list[Connection] = []
        self._processes: list[int] = []
        self._gradients: list[list[torch.Tensor]] = []
        self._forked_as: tuple[Any, ...] = ()
        self._forks = 0
        self._weights = _shared_like(list(model.parameters()))
        for parameter, shared in zip(model.parameters(), self._weights, strict=True):
            parameter.data = shared.copy_(parameter.data)

    def add_gradients(self, parts: Iterable[Any]) -> None:
        if not self._workers or self._state() != self._forked_as:
            self._fork()
        for parameter, shared in zip(self._model.parameters(), self._weights, strict=True):
            if parameter.data_ptr() != shared.data_ptr():
                shared.copy_(parameter.data)
        dealt = list(parts)
        buffers = list(self._model.buffers())
        orders = [_packed((buffers, dealt[number :: self._count])) for number in range(1, self._count)]
        answers: list[tuple[list[bool], str]] = []
        try:
            for worker, order in zip(self._workers, orders, strict=True):
                with contextlib.suppress(OSError):  # one that has died is told from its answer
                    worker.send_bytes(order)
            for part in dealt[:: self._count]:
                self._backward(self._model, part)
            answers = [_answer(worker) for worker in self._workers]
        finally:
            if len(answers) < len(orders) or any(error for _, error in answers):
                self._dismiss()  # what they would say later belongs to this batch
        if errors := [error for _, error in answers if error]:
            raise RuntimeError(f"a process that computes gradients failed:\n{errors[0]}")
        for gradients, (filled, _) in zip(self._gradients, answers, strict=True):
            for parameter, gradient, is_filled in zip(self._model.parameters(), gradients, filled, strict=True):
                if is_filled and parameter.grad is None:
                    parameter.grad = gradient.clone()
                elif is_filled and parameter.grad.is_sparse:  # type: ignore[union-attr]
                    parameter.grad = parameter.grad.to_dense().add_(gradient)  # type: ignore[union-attr]
                elif is_filled:
                    parameter.grad.add_(gradient)  # type: ignore[union-attr]

    def _state(self) -> tuple[Any, ...]:
        """What the others cannot see from where they are: they are forked anew when it has changed."""
        parameters = tuple((id(one), one.shape, one.dtype, one.requires_grad) for one in self._model.parameters())
        return parameters, tuple(module.training for module in self._model.modules())

    def _fork(self) -> None:
        """Raises MemoryError where the system has no room for one more process."""
        self._dismiss()
        parameters = list(self._model.parameters())
        if [(one.shape, one.dtype) for one in parameters] != [(one.shape, one.dtype) for one in self._weights]:
            self._weights = _shared_like(parameters)
        self._gradients = [_shared_like(parameters) for _ in range(self._count - 1)]
        for number, gradients in enumerate(self._gradients, 1):
            self._forks += 1
            mine, theirs = Pipe()
            parent = os.getpid()
            try:
                with warnings.catch_warnings():  # Python 3.12 warns of threads; the child does not use those of torch
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process = os.fork()
            except OSError as error:
                self._dismiss()  # half a crew would be out of step
                raise MemoryError(f"replica {number} could not be started: {error}") from error
            if process == 0:
                try:
                    _become_worker(parent, [mine, *self._workers], torch.initial_seed() + self._forks)
                    _work(theirs, self._model, self._backward, self._weights, gradients)
                finally:
                    os._exit(1)
            theirs.close()
            self._workers.append(mine)
            self._processes.append(process)
        self._forked_as = self._state()

    def _dismiss(self) -> None:
        """End the others, in whatever they are: an empty order, where the sandbox lets nobody be killed."""
        for worker, process in zip(self._workers, self._processes, strict=True):
            with contextlib.suppress(OSError):
                worker.send_bytes(b"")
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
            worker.close()
            with contextlib.suppress(OSError):  # somebody has waited for it already
                os.waitpid(process, 0)
        self._workers.clear()
        self._processes.clear()


def _become_worker(parent: int, not_mine: Sequence[Connection], seed: int) -> None:
    """Dies with its parent, leaves Ctrl-C to it, holds no end of a line that is another's, and draws other numbers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was asked for
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for connection in not_mine:
        connection.close()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def _work(
    orders: Connection,
    model: torch.nn.Module,
    backward: Callable[[torch.nn.Module, Any], object],
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
) -> None:
    parameters = list(model.parameters())
    for parameter, shared in zip(parameters, weights, strict=True):
        parameter.data = shared
    while True:
        try:
            order = orders.recv_bytes()
        except (EOFError, OSError):
            order = b""
        if not order:
            os._exit(0)
        filled, error = [False] * len(parameters), ""
        try:
            for parameter in parameters:
                parameter.grad = None
            buffers, parts = pickle.loads(order)
            for mine, new in zip(model.buffers(), buffers, strict=True):
                mine.copy_(new)
            for part in parts:
                backward(model, part)
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                if parameter.grad is not None:
                    gradient.copy_(parameter.grad.to_dense())
                    filled[place] = True
        except BaseException:
            error = traceback.format_exc()
        orders.send_bytes(pickle.dumps((filled, error)))


def _answer(worker: Connection) -> tuple[list[bool], str]:
    try:
        filled, error = pickle.loads(worker.recv_bytes())
        return filled, error
    except (EOFError, OSError):
        return [], "it has ended; if the system killed it, out of memory"


def _shared_like(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of these types and shapes, in memory that is shared with whoever is forked later; zero.

    Raises MemoryError where there is not so much of it.
    """
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    try:
        block = mmap.mmap(-1, max(end, ALIGNMENT))
    except OSError as error:
        raise MemoryError(f"no {end / 1e6:,.0f} MB of shared memory: {error}") from error
    return [
        torch.frombuffer(block, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
        if tensor.numel()
        else torch.empty_like(tensor)
        for start, tensor in zip(starts, tensors, strict=True)
    ]


class _Pickler(pickle.Pickler):
    """Dense numbers go as they lie in memory, which takes a tenth of the time that torch's own way takes."""

    def reducer_override(self, value: Any) -> Any:
        known = (torch.int64, torch.int32, torch.float32)
        if isinstance(value, torch.Tensor) and value.layout is torch.strided and value.dtype in known:
            return torch.from_numpy, (value.detach().numpy(),)
        return NotImplemented


def _packed(value: object) -> bytes:
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()
