"""One real training for a study, from a train.py and a seed to a score on dev; here or in a helper process.

Called by record.py and live.py. Promises: the training goes the way of a campaign's runs (sandbox, clock, probes of the
score); a failure is a result with its status; a run on a machine that was not quiet is repeated twice at most.
"""

from __future__ import annotations

import math
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..agent import pruning
from ..agent.edits import revision_digest
from ..agent.opening import HARNESS, train_job
from ..agent.planner import MOST_ATTEMPTS
from ..agent.running import Look, watched
from ..contracts import Display, Status, TrainOutcome, text_unit
from ..environment import usable_cores
from ..prepare.pipeline import PreparedData
from ..recipe import Recipe
from ..tasks.objective import Objective
from ..train.checkpoint import InvalidCheckpointError
from ..train.device import Machine
from ..train.device_lock import device_lock
from ..train.executor import LocalExecutor
from ..train.preview import preview_score
from ..train.smoke import Smoke
from ..train.training_run import Snapshot, TrainJob


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
        return text_unit(self.recipe.evaluation.mixture)

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
