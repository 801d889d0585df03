"""Several replicas of a model that train on one batch, each on rows of its own: data parallelism on one machine.

Used by train.py through Run.replicas. Promises: every replica computes with the same weights and keeps its gradients to
itself until all are done, when they are added up in one order, so that a run with as many of them gives the same
numbers again; an error in one is raised when the others have ended. They are processes (crew.py) on Linux, when
train.py names its backward() beforehand and each has one thread of the run, and threads otherwise.

On a CPU that beats sharing every single operation out to all threads: the operations of a small model take some tens of
microseconds, hardly more than it takes to share them out, and a thread that another program holds up is waited for once
per step and not a thousand times.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from .crew import Crew

Part = TypeVar("Part")


class Replicas:
    """A model and copies of it that share its weights.

    Weights, buffers, what is frozen and train or eval mode follow the model; other attributes and hooks are copied
    once. In threads, random numbers drawn in forward() come in the order in which the threads happen to ask.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        count: int,
        threads: int,
        backward: Callable[[torch.nn.Module, Any], object] | None = None,
    ) -> None:
        """`threads`: how many the run may use; each replica's operations get an equal share of them."""
        each = max(1, threads // count)
        self._count, self._backward = count, backward
        is_forking = backward is not None and count > 1 and each == 1 and sys.platform == "linux"
        self._crew = Crew(model, count, backward) if is_forking and backward is not None else None
        self.models = [model, *(_twin(model) for _ in range(0 if self._crew else count - 1))]
        self._pool = ThreadPoolExecutor(count - 1, "replica", torch.set_num_threads, (each,)) if count > 1 else None
        if self._pool is not None:
            torch.set_num_threads(each)

    def __len__(self) -> int:
        return self._count

    def backward(self, parts: Iterable[Any]) -> None:
        """Call the `backward(replica, part)` that was named at first, for each part, on all replicas at the same time,
        and add the gradients up in the model's own.

        It adds to the gradients of the replica that it is given, and does nothing else that lasts. In a process of its
        own it sees the weights of the moment and what the part carries, and everything else as it was at the first
        batch.
        """
        if self._backward is None:
            raise TypeError("name it first: run.replicas(model, most, backward)")
        if self._crew is not None:
            self._crew.add_gradients(parts)
        else:
            self.add_gradients(self._backward, parts)

    def add_gradients(self, backward: Callable[[torch.nn.Module, Part], object], parts: Iterable[Part]) -> None:
        """The same with threads and another `backward`, which may be a new one for each batch."""
        if len(self.models) < len(self):  # until now the others were processes
            self.models += [_twin(self.models[0]) for _ in range(len(self) - 1)]
        model, *others = self.models
        for other in others:
            _follow(model, other)
        dealt = list(parts)

        def work(number: int) -> None:
            for part in dealt[number :: len(self.models)]:
                backward(self.models[number], part)

        self.at_once([lambda number=number: work(number) for number in range(len(self.models))])  # type: ignore[misc]
        for other in others:
            for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
                if mine.grad is None:
                    mine.grad = theirs.grad
                elif theirs.grad is not None:
                    mine.grad.add_(theirs.grad)
                theirs.grad = None

    def at_once(self, tasks: Sequence[Callable[[], object]]) -> None:
        """Call the tasks, which must not touch what another one writes, on all threads; the first on this one."""
        if self._pool is None or len(tasks) == 1:
            for task in tasks:
                task()
            return
        others = [self._pool.submit(task) for task in tasks[1:]]
        try:
            tasks[0]()
        finally:
            wait(others)
        for other in others:
            other.result()


def _twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with parameters of its own, which take no memory because they lie where the model's do."""
    shared = {id(one): torch.nn.Parameter(one.detach(), one.requires_grad) for one in model.parameters()}
    return copy.deepcopy(model, shared)


def _follow(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Each time anew, because a weight can have been exchanged and not only written to."""
    other.train(model.training)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        theirs.data, theirs.grad = mine.data, None
        theirs.requires_grad_(mine.requires_grad)
    for kept, copied in zip(model.buffers(), other.buffers(), strict=True):
        copied.copy_(kept)
