"""Several trainings of a study, one after the other in this process or beside each other in helper processes.

Called by record.py and live.py. Promises: results come in the order in which trainings end; no process outlives the
command, also when it is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from ..contracts import Display
from ..environment import usable_cores
from ..errors import SlmArError, TrainingError, UsageError
from .training import Bench, Trained, train_once

ENDING_SECONDS = 10.0
"""What an idle helper process may take to end."""


@dataclass(frozen=True, slots=True)
class Order:
    """A training to do; `row` is what the caller wants to find beside the result."""

    train_py: str
    seed: int
    title: str
    row: Mapping[str, Any]


def refuse_jobs(bench: Bench, jobs: int) -> None:
    """Raises UsageError where trainings beside each other would change what is measured."""
    if jobs == 1:
        return
    where = f"corpus {bench.name}"
    if bench.recipe.budget.steps is None:
        raise UsageError(f"{where}: trainings by the clock cannot share a machine", "record with --jobs 1")
    if bench.objective is not None:
        raise UsageError(f"{where}: a recipe with a [metric] is recorded one training at a time", "use --jobs 1")
    if bench.machine.device != "cpu" or jobs * bench.machine.threads > len(usable_cores()):
        raise UsageError(
            f"{where}: {jobs} trainings of {bench.machine.threads} threads each do not fit this machine",
            "use --jobs 1, or set [machine] threads = 1 in the workspace's recipe",
        )


@contextmanager
def trainings(bench: Bench, jobs: int, display: Display, looks: bool) -> Iterator[Crew]:
    """A crew that does up to `jobs` trainings at once; no process outlives it."""
    bench.runs_folder.mkdir(parents=True, exist_ok=True)
    crew = _Alone(bench, display, looks) if jobs == 1 else _Helpers(bench, jobs, display, looks)
    try:
        yield crew
    finally:
        crew.close()


class Crew(Protocol):
    """Takes orders while it has a free place, and gives their results in the order in which they end."""

    places: int
    busy: list[Order]

    def start(self, order: Order) -> None:
        """Begin an order. Call only while fewer than `places` are busy."""
        ...

    def next(self) -> tuple[Order, Trained]:
        """The next result; at least one order must be busy. Raises what the training could not cope with."""
        ...

    def close(self) -> None:
        """End everything."""
        ...


class _Alone(Crew):
    """Trains in this process, with its progress on the display."""

    def __init__(self, bench: Bench, display: Display, looks: bool) -> None:
        self.places, self.busy = 1, []
        self._bench, self._display, self._looks = bench, display, looks
        self._executor = bench.executor()
        try:
            display.note(self._executor.isolation(bench.runs_folder).line)
        except BaseException:
            self.close()
            raise

    def start(self, order: Order) -> None:
        self.busy.append(order)

    def next(self) -> tuple[Order, Trained]:
        order = self.busy.pop()
        folder = self._bench.runs_folder / "study 1"
        display = _Titled(self._display, order.title)
        return order, train_once(self._executor, self._bench, order.train_py, order.seed, folder, display, self._looks)

    def close(self) -> None:
        self._executor.__exit__(None, None, None)


class _Helpers(Crew):
    """Trains in helper processes, each with a sandbox of its own."""

    def __init__(self, bench: Bench, jobs: int, display: Display, looks: bool) -> None:
        self.places, self.busy = jobs, []
        self._free: list[Connection] = []
        self._working: dict[Connection, Order] = {}
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for number in range(1, jobs + 1):
            ours, theirs = context.Pipe()
            process = context.Process(target=_help, args=(theirs, bench, number, looks), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._free.append(ours)
        display.note(f"{jobs} trainings at a time")

    def start(self, order: Order) -> None:
        helper = self._free.pop()
        helper.send((order.train_py, order.seed))
        self._working[helper] = order
        self.busy.append(order)

    def next(self) -> tuple[Order, Trained]:
        (helper, *_) = wait(list(self._working))
        assert isinstance(helper, Connection)
        order = self._working.pop(helper)
        self.busy.remove(order)
        try:
            answer = helper.recv()
        except EOFError:
            raise TrainingError("a helper process of the recording died", "the same command goes on") from None
        if isinstance(answer, SlmArError):
            raise answer
        self._free.append(helper)
        return order, answer

    def close(self) -> None:
        for helper in (*self._free, *self._working):
            helper.close()  # an idle helper ends by itself, and its sandbox with it
        for process in self._processes:
            process.join(0 if self._working else ENDING_SECONDS)
            process.terminate()
            process.join()


def _help(connection: Connection, bench: Bench, number: int, looks: bool) -> None:
    """A helper: trains what it is told until nobody tells it any more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = bench.runs_folder / f"study {number}"
    try:
        with bench.executor() as executor:
            while True:
                train_py, seed = connection.recv()
                connection.send(train_once(executor, bench, train_py, seed, folder, _Silent(), looks))
    except SlmArError as error:
        connection.send(type(error)(error.message, error.hint))
    except (EOFError, KeyboardInterrupt):
        pass


def _end_with_parent() -> None:
    """A command that is killed takes its trainings with it: the incubator ends when this process does."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Silent:
    """A display that says nothing."""

    def campaign(self, plan_lines: list[str]) -> None: ...
    def phase(self, name: str) -> None: ...
    def run_started(self, title: str, budget_seconds: float) -> None: ...
    def tick(self, elapsed: float, state_word: str) -> None: ...
    def run_finished(self, title: str, line: str) -> None: ...
    def judged(self, line: str, good: bool) -> None: ...
    def note(self, line: str) -> None: ...
    def close(self) -> None: ...


class _Titled(_Silent):
    """Shows a run under the order's title."""

    def __init__(self, display: Display, title: str) -> None:
        self._display, self._title = display, title

    def run_started(self, title: str, budget_seconds: float) -> None:
        self._display.run_started(self._title, budget_seconds)

    def tick(self, elapsed: float, state_word: str) -> None:
        self._display.tick(elapsed, state_word)

    def note(self, line: str) -> None:
        self._display.note(line)
