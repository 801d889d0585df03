"""What an experiment costs beside its training, and how many fit into an hour: B6, a part of `make bench`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .common import (
    Opened,
    Run,
    Settings,
    city_workspace,
    clocked_job,
    executor_for,
    many,
    median_of,
    prepared,
    significant,
    train,
)

LABEL = "B6"
TITLE = "Overhead"
WHAT = (
    "Experiments of the demo (a synthetic city, 80 kB of dev), one after the other through the real executor: start, "
    "training, scoring with its probes; the first of a command, which hatches its processes, is left out. Overhead is "
    "all that is not training. The try of two steps that a search makes before a run is told apart. Targets: at most "
    "2 s of overhead, at least 240 experiments per hour of 10 s each, on two cores."
)


def name(settings: Settings) -> str:
    return "overhead"


def asked(settings: Settings) -> dict[str, Any]:
    return {"seconds": 0.5 if settings.is_quick else 10.0}


def keys(settings: Settings) -> list[str]:
    return [str(number) for number in range(settings.seeds)]


def seconds(settings: Settings) -> float:
    return 20 + (settings.seeds + 1) * (float(asked(settings)["seconds"]) + 7)


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    budget = asked(settings)["seconds"]
    workspace = city_workspace(folder)
    data = prepared(workspace, folder)
    machine = workspace.machine()
    context = workspace.recipe.evaluation.context
    with executor_for(workspace, data, machine) as executor:

        def measure(key: str) -> Run:
            job = clocked_job(workspace, machine, int(key), budget)
            began = time.monotonic()
            executor.smoke(job, folder / "tried", context=context)
            submitted = time.monotonic()
            outcome = train(executor, job, folder / "run")
            trained = time.monotonic()
            executor.score(folder / "run", "dev", context)
            ended = time.monotonic()
            return {
                "overhead_seconds": round(ended - submitted - outcome.train_seconds, 3),
                "startup_seconds": outcome.startup_seconds,
                "scoring_seconds": round(ended - trained, 3),
                "wall_seconds": round(ended - submitted, 3),
                "tried_seconds": round(submitted - began, 3),
                "void": outcome.disturbance,
            }

        measure("0")  # the first of a command
        facts = {"device": machine.device, "threads": machine.threads, "precision": machine.precision}
        yield Opened({**facts, "sandbox": executor.isolation(folder).words}, measure)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    names = ("overhead_seconds", "startup_seconds", "scoring_seconds", "wall_seconds", "tried_seconds")
    found = {name: median_of(runs, name) for name in names}
    wall, tried = found["wall_seconds"], found["tried_seconds"]
    if wall and tried is not None:
        found |= {"per_hour": significant(3600 / wall), "per_hour_with_try": significant(3600 / (wall + tried))}
    return found


def lines(record: Mapping[str, Any]) -> list[str]:
    found, facts = record["summary"], record["facts"]
    if not found.get("per_hour"):
        return []
    return [
        f"Budget {record['asked']['seconds']:g} s, {many(facts['threads'], 'thread')}, sandbox: {facts['sandbox']}.",
        "",
        "| overhead | of it start-up | of it scoring | experiments per hour | with a try before each |",
        "| --- | --- | --- | --- | --- |",
        f"| {found['overhead_seconds']:.2f} s | {found['startup_seconds']:.2f} s | {found['scoring_seconds']:.2f} s | "
        f"{found['per_hour']:.0f} | {found['per_hour_with_try']:.0f} |",
    ]
