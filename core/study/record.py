"""Trains a table of configurations once, so that searches can be replayed on a model of it by the hundred.

Called by `slm-ar study --mode record`. Promises: what comes next is a function of the rows that are there, so that a
killed recording goes on where it was; failures are rows like any other; nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..agent.edits import check_train_py, parse_knobs, set_knobs
from ..contracts import Display, KnobValue
from ..errors import TrainingError
from .crew import Order, refuse_jobs, trainings
from .loop import training_seed
from .plan import RecordTable
from .space import Space, Tried, draw
from .store import TABLE, Store, identity_of
from .timing import is_missing, timed_row, trainings_of
from .training import Bench, takes_looks

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A training that a table lacks; `repeat` 0 is a configuration's first."""

    configuration: int
    repeat: int
    origin: str
    values: Mapping[str, KnobValue]


def record_table(
    path: Path, bench: Bench, table: RecordTable, runs: int, jobs: int, display: Display
) -> list[dict[str, Any]]:
    """Train what the table at `path` lacks, and return its trainings. `runs`: length of the searches to come.

    Raises UsageError, TrainingError and BudgetError.
    """
    refuse_jobs(bench, jobs)
    check_train_py(bench.train_py)
    space = Space(parse_knobs(bench.train_py))
    if not space.knobs:
        raise TrainingError("train.py declares no knobs, so there is nothing to draw", "see docs/study.md")
    facts = {**bench.facts, "seed": table.seed}
    looks = takes_looks(bench, table.looks)
    more = {
        "corpus": bench.name,
        "train_py": bench.train_py,
        "score": bench.unit,
    }
    with Store(path, TABLE, facts, more) as store:
        _tell_beginning(store, table, display)
        _refuse_broken_start(trainings_of(store.rows))
        if is_missing(bench, store.rows, runs):
            store.append(timed_row(bench, runs, training_seed("rates", identity_of(facts)), display))
        with trainings(bench, jobs, display, looks) as crew:
            while True:
                while len(crew.busy) < crew.places:
                    busy = {(order.row["configuration"], order.row["repeat"]): order.row for order in crew.busy}
                    request = next_request(space, trainings_of(store.rows), table, busy)
                    if request is None:
                        break
                    crew.start(_order(bench, request, facts, len(store.rows) + len(crew.busy)))
                if not crew.busy:
                    return trainings_of(store.rows)
                order, trained = crew.next()
                store.append({**order.row, **trained.to_json(), "at": datetime.now(UTC).isoformat(timespec="seconds")})
                display.run_finished(order.title, _line(store.rows[-1]))
                _refuse_broken_start(trainings_of(store.rows))


def next_request(
    space: Space, rows: Sequence[Row], table: RecordTable, busy: Mapping[tuple[int, int], Row]
) -> Request | None:
    """The next training that is missing; None when there is none, or none before a busy one has ended."""
    known = {(row["configuration"], row["repeat"]) for row in rows} | busy.keys()
    first = [row for row in rows if row["repeat"] == 0]
    drawn = [*first, *(row for (_, repeat), row in busy.items() if repeat == 0)]
    for number in range(table.configurations):
        if (number, 0) in known:
            continue
        # What is being trained has no score yet, but must not be drawn again.
        tried = [Tried(row["knobs"], row.get("score")) for row in first]
        waiting = [Tried(row["knobs"], None) for row in drawn[len(first) :]]
        found = draw(space, number, table.seed, [*tried, *waiting])
        if found is None:
            break  # every configuration that there is has been trained
        return Request(number, 0, found[0], found[1])
    if any(repeat == 0 for _, repeat in busy):
        return None  # which ones are repeated depends on all scores
    for row in to_repeat(first, table.repeats):
        for repeat in range(1, table.seeds):
            if (row["configuration"], repeat) not in known:
                return Request(row["configuration"], repeat, row["origin"], row["knobs"])
    return None


def to_repeat(first: Iterable[Row], count: int) -> list[Row]:
    """The start, and configurations spread evenly over the ranks of the scores: noise need not be the same for all."""
    scored = [row for row in first if row["status"] is None]
    scored.sort(key=lambda row: (row["score"], row["configuration"]))
    if len(scored) <= count:
        return scored
    chosen = {round(place * (len(scored) - 1) / (count - 1)) for place in range(count)}
    start = next((index for index, row in enumerate(scored) if row["configuration"] == 0), None)
    if start is not None and start not in chosen:
        nearest = min(chosen, key=lambda index: abs(index - start))
        chosen = (chosen - {nearest}) | {start}
    return [scored[index] for index in sorted(chosen)]


def _order(bench: Bench, request: Request, facts: Mapping[str, Any], place: int) -> Order:
    seed = training_seed("record", identity_of(facts), request.configuration, request.repeat)
    row = {
        "configuration": request.configuration,
        "repeat": request.repeat,
        "origin": request.origin,
        "seed": seed,
        "knobs": dict(request.values),
    }
    title = f"{bench.name}: training {place + 1}, configuration {request.configuration} ({request.origin})"
    return Order(set_knobs(bench.train_py, request.values), seed, title, row)


def _tell_beginning(store: Store, table: RecordTable, display: Display) -> None:
    planned = table.configurations + table.repeats * (table.seeds - 1)
    if store.was_torn:
        display.note(f"{store.path}: a line that was cut off is dropped; that training is done again")
    rows = trainings_of(store.rows)
    if rows:
        spent = sum(row["seconds"] for row in rows) / len(rows)
        display.note(f"{store.path} holds {len(rows)} of about {planned} trainings, {spent:.1f} s each without scoring")


def _refuse_broken_start(rows: Collection[Row]) -> None:
    """A starting code that does not train has nothing to be searched around."""
    for row in rows:
        if row["configuration"] == 0 and row["repeat"] == 0 and row["status"] is not None:
            raise TrainingError(
                f"the starting train.py gave no score: {row['status']}: {row['reason']}",
                "mend it (`slm-ar train` tries it alone), and record under another `table`",
            )


def _line(row: Row) -> str:
    if row["status"] is not None:
        return f"{row['status']}: {row['reason']}"
    note = f" (disturbed: {row['disturbance']})" if row["disturbance"] else ""
    return f"{row['score']:.4f} on dev, {row['steps']:,} steps in {row['train_seconds']:.1f} s{note}"
