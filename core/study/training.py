"""One real training for a study, from a train.py and a seed to a score on dev; here or in a helper process.

Called by record.py and live.py. Promises: the training goes the way of a campaign's runs (sandbox, clock, probes of the
score); a failure is a result with its status; a run on a machine that was not quiet is repeated twice at most.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from ..agent import pruning
from ..agent.edits import revision_digest
from ..agent.opening import HARNESS, train_job
from ..agent.planner import MOST_ATTEMPTS
from ..agent.running import Look, watched
from ..agent.state import BITS_PER_BYTE
from ..contracts import BITS_WITH_NGRAM, Display, Status, TrainOutcome
from ..errors import SlmArError, TrainingError, UsageError
from ..prepare.pipeline import PreparedData
from ..recipe import Recipe
from ..tasks.objective import Objective
from ..train.checkpoint import InvalidCheckpointError
from ..train.device import Machine, usable_cores
from ..train.device_lock import device_lock
from ..train.executor import LocalExecutor
from ..train.mixing import NO_MIXTURE
from ..train.preview import preview_score
from ..train.smoke import Smoke
from ..train.training_run import Snapshot, TrainJob

ENDING_SECONDS = 10.0
"""What an idle helper process may take to end."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the trainings of one corpus need."""

    name: str
    recipe: Recipe
    data: PreparedData
    machine: Machine
    train_py: str
    program: str
    runs_folder: Path
    objective: Objective | None = None
    allow_unsafe: bool = False
    longest_seconds: float = 300.0
    """A training by steps that takes longer is ended and counts as too slow."""

    @property
    def facts(self) -> dict[str, Any]:
        """What makes scores and seconds of two trainings comparable; no path, no name of a person's machine."""
        tables = {"data", "tokenizer", "budget", "model", "machine", "evaluation", "metric"}
        recipe = self.recipe.content(tables)
        recipe["data"].pop("source")
        for name in ("experiments", "hours", "prune"):
            recipe["budget"].pop(name)
        machine = self.machine
        return {
            "recipe": recipe,
            "data": self.data.digest,
            "train_py": revision_digest(self.train_py),
            "harness": [HARNESS, version("slm-ar")],
            "torch": machine.torch,
            "device": machine.device,
            "machine": machine.name,
            "cores": len(usable_cores()),
            "threads": machine.threads,
            "precision": machine.precision,
            "longest_seconds": self.longest_seconds if self.recipe.budget.steps is not None else None,
        }

    @property
    def unit(self) -> str:
        """What its scores count, in words."""
        if self.objective is not None:
            return self.objective.dev_unit
        return BITS_PER_BYTE if self.recipe.evaluation.mixture == NO_MIXTURE else BITS_WITH_NGRAM

    def executor(self) -> LocalExecutor:
        mixture = self.recipe.evaluation.mixture
        return LocalExecutor(self.machine, self.data, self.objective, self.allow_unsafe, mixture)


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training gave. `status` is None when there is a score."""

    status: Status | None
    reason: str
    score: float | None
    """On dev, in the unit of the recipe."""
    seconds: float
    """Start-up and training: what the run held the machine for, without its scoring. Where a try ended it, the try."""
    train_seconds: float
    steps: int
    tokens: int
    parameters: int
    peak_memory_mb: float
    looks: tuple[tuple[float, float], ...]
    """(share of the budget, bits per byte of a small sample of dev)"""
    disturbance: str
    is_tried_only: bool
    """Whether two steps on made-up data showed that it does not work, so that it was not trained."""
    attempts: int
    load: float
    """Load average of the last minute when the run began."""

    def to_json(self) -> dict[str, Any]:
        """As a row of a store."""
        return {**asdict(self), "status": self.status.value if self.status is not None else None}


def takes_looks(bench: Bench, asked: bool | str) -> bool:
    """Whether runs are looked at on the way; "auto" does what a campaign on this machine would do."""
    return pruning.prunes(bench.recipe, bench.machine) if asked == "auto" else bool(asked)


def train_once(
    executor: LocalExecutor, bench: Bench, train_py: str, seed: int, folder: Path, display: Display, looks: bool
) -> Trained:
    """Train and score; disturbed runs again, as a campaign would. Leaves no checkpoint behind."""
    load = round(os.getloadavg()[0], 2)
    spent: Trained | None = None
    for attempt in range(1, MOST_ATTEMPTS + 1):
        spent = replace(_attempt(executor, bench, train_py, seed, folder, display, looks), attempts=attempt, load=load)
        if not spent.disturbance:
            break
    assert spent is not None
    return spent


def _attempt(
    executor: LocalExecutor, bench: Bench, train_py: str, seed: int, folder: Path, display: Display, looks: bool
) -> Trained:
    job = train_job(bench.recipe, bench.machine, train_py, seed)
    shown: list[tuple[float, float]] = []
    context = bench.recipe.evaluation.context

    def look(snapshot: Snapshot) -> str:
        score = preview_score(executor, snapshot.folder, context)
        if score is not None and math.isfinite(score):
            shown.append((snapshot.share, score))
        return ""

    if looks:
        job = replace(job, snapshots=pruning.SHARES)
    # Beside a run that is budgeted by the clock nothing else may compute.
    by_clock = job.budget_seconds is not None
    try:
        with device_lock(bench.machine.device, display.note) if by_clock else nullcontext():
            smoke = executor.smoke(job, folder, context=context)
            if smoke.is_failure:
                return _not_trained(smoke)
            if by_clock:
                outcome = watched(executor, job, folder, display, folder.name, look if looks else None)
            else:
                outcome = _ended_in_time(executor, bench, job, folder, display, look)
        score = None
        if outcome.status is None:
            outcome, score = _scored(executor, outcome, folder, context)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Trained(
        status=outcome.status,
        reason=outcome.reason,
        score=score,
        seconds=round(outcome.startup_seconds + outcome.train_seconds, 3),
        train_seconds=outcome.train_seconds,
        steps=outcome.steps,
        tokens=outcome.tokens,
        parameters=outcome.parameters,
        peak_memory_mb=outcome.peak_memory_mb,
        looks=tuple(shown),
        disturbance=outcome.disturbance,
        is_tried_only=False,
        attempts=1,
        load=0.0,
    )


def _not_trained(smoke: Smoke) -> Trained:
    """What is known of a train.py that a try ended: a campaign spends nothing else on it either."""
    return Trained(
        status=smoke.status,
        reason=smoke.reason,
        score=None,
        seconds=round(smoke.wall_seconds, 3),
        train_seconds=0.0,
        steps=0,
        tokens=0,
        parameters=smoke.parameters,
        peak_memory_mb=smoke.peak_memory_mb,
        looks=(),
        disturbance="",
        is_tried_only=True,
        attempts=1,
        load=0.0,
    )


def _ended_in_time(
    executor: LocalExecutor, bench: Bench, job: TrainJob, folder: Path, display: Display, look: Look
) -> TrainOutcome:
    """Train by steps, but for `longest_seconds` at most."""
    display.run_started(folder.name, 0.0)
    run = executor.submit(job, folder)
    try:
        while (outcome := run.poll()) is None:
            progress = run.progress
            display.tick(progress.train_seconds, f"{progress.phase}, {progress.steps:,} steps")
            if progress.train_seconds > bench.longest_seconds:
                run.prune(f"not at its end after {bench.longest_seconds:g} s")
            elif run.snapshot is not None:
                look(run.snapshot)
                run.go_on()
    except BaseException:
        run.cancel()
        raise
    return replace(outcome, status=Status.TIMEOUT) if outcome.status is Status.PRUNED else outcome


def _scored(
    executor: LocalExecutor, outcome: TrainOutcome, folder: Path, context: int
) -> tuple[TrainOutcome, float | None]:
    try:
        score = executor.score(folder, "dev", context).judged
    except InvalidCheckpointError as error:
        return replace(outcome, status=Status.INVALID, reason=error.message), None
    if not math.isfinite(score):
        return replace(outcome, status=Status.INVALID, reason="its score is not a number"), None
    return outcome, score


# --- several at a time ------------------------------------------------------------------------


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
