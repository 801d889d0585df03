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
import signal
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch

PR_SET_PDEATHSIG = 1
ALIGNMENT = 64


class Crew:
    """A model in this process and `count - 1` forked ones, which follow its weights, buffers, modes and what is frozen.

    Other attributes are those of the moment when they were forked, at the first batch.
    """

    def __init__(self, model: torch.nn.Module, count: int, backward: Callable[[torch.nn.Module, Any], object]) -> None:
        self._model, self._count, self._backward = model, count, backward
        self._workers: list[Connection] = []
        self._processes: list[int] = []
        self._gradients: list[list[torch.Tensor]] = []
        self._forked_as: tuple[Any, ...] = ()

    def add_gradients(self, parts: Iterable[Any]) -> None:
        if not self._workers or self._state() != self._forked_as:
            self._fork()
        dealt = list(parts)
        buffers = list(self._model.buffers())
        for number, worker in enumerate(self._workers, 1):
            with contextlib.suppress(OSError):  # one that has died is told from its answer
                worker.send_bytes(_packed((buffers, dealt[number :: self._count])))
        try:
            for part in dealt[:: self._count]:
                self._backward(self._model, part)
        finally:
            answers = [_answer(worker) for worker in self._workers]
        for gradients, (filled, error) in zip(self._gradients, answers, strict=True):
            if error:
                self._dismiss()
                raise RuntimeError(f"a process that computes gradients failed:\n{error}")
            for parameter, gradient, is_filled in zip(self._model.parameters(), gradients, filled, strict=True):
                if is_filled and parameter.grad is None:
                    parameter.grad = gradient.clone()
                elif is_filled:
                    parameter.grad.add_(gradient)  # type: ignore[union-attr]

    def _state(self) -> tuple[Any, ...]:
        """What the others cannot see from where they are: they are forked anew when it has changed."""
        parameters = tuple((id(one), one.data_ptr(), one.requires_grad) for one in self._model.parameters())
        return parameters, tuple(module.training for module in self._model.modules())

    def _fork(self) -> None:
        self._dismiss()
        parameters = list(self._model.parameters())
        for parameter, shared in zip(parameters, _shared_like(parameters), strict=True):
            parameter.data = shared.copy_(parameter.data)
        self._gradients = [_shared_like(parameters) for _ in range(self._count - 1)]
        for gradients in self._gradients:
            seed = int(torch.randint(1 << 62, ()))  # so that no two draw the same numbers in forward()
            mine, theirs = Pipe()
            parent = os.getpid()
            with warnings.catch_warnings():  # Python 3.12 warns of threads; those of torch are not used by the child
                warnings.simplefilter("ignore", DeprecationWarning)
                process = os.fork()
            if process == 0:
                try:
                    _become_worker(parent, [mine, *self._workers])
                    torch.manual_seed(seed)
                    _work(theirs, self._model, self._backward, gradients)
                finally:
                    os._exit(1)
            theirs.close()
            self._workers.append(mine)
            self._processes.append(process)
        self._forked_as = self._state()

    def _dismiss(self) -> None:
        for worker, process in zip(self._workers, self._processes, strict=True):
            worker.close()
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # somebody has waited for it already
                os.kill(process, signal.SIGKILL)  # it has nothing to lose, and may be in the middle of something
                os.waitpid(process, 0)
        self._workers.clear()
        self._processes.clear()


def _become_worker(parent: int, not_mine: Sequence[Connection]) -> None:
    """Dies with its parent, leaves Ctrl-C to it, and holds no end of a line that is another's."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before it was asked for
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for connection in not_mine:
        connection.close()
    torch.set_num_threads(1)


def _work(
    orders: Connection,
    model: torch.nn.Module,
    backward: Callable[[torch.nn.Module, Any], object],
    gradients: Sequence[torch.Tensor],
) -> None:
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = None
    while True:
        try:
            order = orders.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        filled, error = [False] * len(parameters), ""
        try:
            buffers, parts = pickle.loads(order)
            for mine, new in zip(model.buffers(), buffers, strict=True):
                mine.copy_(new)
            for part in parts:
                backward(model, part)
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                if parameter.grad is not None:
                    gradient.copy_(parameter.grad)
                    filled[place], parameter.grad = True, None
        except BaseException:
            error = traceback.format_exc()
        orders.send_bytes(pickle.dumps((filled, error)))


def _answer(worker: Connection) -> tuple[list[bool], str]:
    try:
        filled, error = pickle.loads(worker.recv_bytes())
        return filled, error
    except (EOFError, OSError):
        return [], "it has ended; if the system killed it, memory ran out"


def _shared_like(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of these types and shapes, in memory that is shared with whoever is forked later; zero."""
    starts, end = [], 0
    for tensor in tensors:
        starts.append(end)
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    block = mmap.mmap(-1, max(end, ALIGNMENT))
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
        if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.dtype in known:
            return torch.from_numpy, (value.detach().numpy(),)
        return NotImplemented


def _packed(value: object) -> bytes:
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()
