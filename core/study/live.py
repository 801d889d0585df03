"""Searches with real trainings, and the true values of what they returned.

Called by `slm-ar study --mode live`. Promises: every training is a row on disk before anything follows from it, so that
a killed study goes on where it was; a training that two searches ask for, same code and same seed, is done once and
counts for both. The true value of a returned configuration is the mean of fresh trainings, scored on dev, with seeds
that no search used: other ones for each search seed, the same for all proposers; hidden stays closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..agent.edits import check_train_py, revision_digest
from ..agent.gate import noise_from_calibration
from ..contracts import Display, Proposer, Status
from ..errors import TrainingError
from .crew import Crew, Order, trainings
from .loop import SHARES, Measured, Step, Trace, search, training_seed
from .store import RUNS, Store, identity_of
from .timing import allowed_seconds, is_missing, rates_of, timed_row, trainings_of
from .training import Bench

CALIBRATION_RUNS = 5


class LiveWorld:
    """A corpus as a search sees it, measured by training."""

    def __init__(self, bench: Bench, store: Store, crew: Crew, runs: int) -> None:
        """Trains the starting code CALIBRATION_RUNS times first, which no search pays for."""
        self.start, self.program = bench.train_py, bench.program
        self.form: str = bench.recipe.model.form
        machine, budget = bench.machine, bench.recipe.budget
        self.hardware: Mapping[str, Any] = {
            "device": machine.device,
            "threads": machine.threads,
            "precision": machine.precision,
        }
        self.budget: Mapping[str, Any] = {"seconds": budget.seconds, "steps": budget.steps}
        self.title = "measuring the noise"
        self._bench, self._store, self._crew = bench, store, crew
        self._identity = identity_of(bench.facts)
        self.rates, self.rates_seconds = rates_of(store.rows, allowed_seconds(runs, budget.seconds))
        self._known = {(row["revision"], row["seed"]): row for row in trainings_of(store.rows)}
        measured = [self.trained(self.start, self.seed("calibrate", index)) for index in range(CALIBRATION_RUNS)]
        scores = [row["score"] for row in measured if row["status"] is None]
        if len(scores) < CALIBRATION_RUNS:
            failed = next(row for row in measured if row["status"] is not None)
            raise TrainingError(
                f"corpus {bench.name}: the starting train.py gave no score: {failed['status']}: {failed['reason']}",
                "mend it; `slm-ar train` tries it alone",
            )
        self.sigma = noise_from_calibration(scores).sigma
        self.seconds_of_start = math.fsum(row["seconds"] for row in measured) / len(measured)

    def seed(self, *parts: object) -> int:
        """A seed for train.py that depends on the campaign's facts and on `parts`."""
        return training_seed(self._identity, *parts)

    def measure(self, train_py: str, seed: int) -> Measured | str:
        """The score of a real training. Seeds are those of the search, made the corpus's own."""
        row = self.trained(train_py, self.seed(seed))
        status = Status(row["status"]) if row["status"] is not None else None
        return Measured(status, row["score"], row["seconds"], row["reason"])

    def value(self, train_py: str, search_seed: int, seeds: int) -> float | None:
        """Mean of `seeds` fresh trainings; None when one of them failed.

        Each search seed has fresh ones of its own: with the same for all, two proposers that return the same two
        configurations in every search would differ by the same luck in every pair, and no interval would show it.
        """
        rows = [self.trained(train_py, self.seed("value", search_seed, index)) for index in range(seeds)]
        if any(row["status"] is not None for row in rows):
            return None
        return math.fsum(row["score"] for row in rows) / seeds

    def trained(self, train_py: str, seed: int) -> dict[str, Any]:
        """The row of this training, which is done now unless the file holds it."""
        key = (revision_digest(train_py), seed)
        if key not in self._known:
            self._crew.start(Order(train_py, seed, f"{self._bench.name}: {self.title}", {}))
            _, result = self._crew.next()
            at = datetime.now(UTC).isoformat(timespec="seconds")
            self._store.append({"revision": key[0], "seed": seed, **result.to_json(), "at": at})
            self._known[key] = self._store.rows[-1]
        return self._known[key]


def live_corpus(
    path: Path,
    bench: Bench,
    proposers: Sequence[str],
    seeds: Iterable[int],
    runs: int,
    value_seeds: int,
    display: Display,
    make: Callable[[str], Proposer],
) -> tuple[list[Trace], LiveWorld]:
    """All searches on one corpus, and the world they searched in. The rows lie in the file at `path`."""
    check_train_py(bench.train_py)
    traces = []
    with ExitStack() as stack:
        store = stack.enter_context(Store(path, RUNS, bench.facts, {"corpus": bench.name}))
        if store.was_torn:
            display.note(f"{path}: a line that was cut off is dropped; that training is done again")
        if is_missing(bench, store.rows, runs):
            store.append(timed_row(bench, runs, training_seed("rates", identity_of(bench.facts)), display))
        crew = stack.enter_context(trainings(bench, 1, display, looks=False))
        world = LiveWorld(bench, store, crew, runs)
        seconds = runs * world.seconds_of_start
        for seed in seeds:  # seed by seed, so that a study that ends early holds whole pairs
            for name in proposers:
                display.phase(f"{bench.name}: {name}, search seed {seed}")
                world.title = f"{name}, seed {seed}"
                trace = search(bench.name, name, make(name), world, seed, seconds, _teller(display, seconds))
                traces.append(_valued(trace, world, value_seeds))
    return traces, world


def _teller(display: Display, seconds: float) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        score = f"{step.score:.4f}" if step.score is not None else "no score"
        line = f"{step.number:>3}  {step.status}  {score}  {100 * step.spent / seconds:.0f} % of the seconds"
        display.judged(line, step.status == Status.KEPT.value)

    return tell


def _valued(trace: Trace, world: LiveWorld, seeds: int) -> Trace:
    """The trace with the true value of what it returns at each of SHARES; one that fails then is worth the start."""
    world.title = f"{trace.proposer}, seed {trace.search_seed}: true value"
    start = revision_digest(world.start)
    values: dict[str, float] = {}
    for revision in dict.fromkeys(trace.returned_at(share) for share in SHARES):
        value = world.value(trace.texts[revision], trace.search_seed, seeds)
        if value is None:
            value = world.value(trace.texts[start], trace.search_seed, seeds)
        if value is None:
            raise TrainingError("the starting train.py failed with a fresh seed", "mend it; `slm-ar train` tries it")
        values[revision] = value
    return replace(trace, values=values, texts={})
