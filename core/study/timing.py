"""Times settings of model size, batch and context, for proposers that want that before their first proposal.

Called by record.py and live.py, read by replay.py. Promises: the settings, the steps and the share of the seconds are
those of a campaign (agent/calibrator.py); what the timing took is known, so that a search that uses it can pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..agent import calibrator
from ..agent.edits import parse_knobs
from ..agent.proposers.rates import FACTORS
from ..contracts import Display, Rate, Status
from ..train.device_lock import device_lock
from .training import Bench

FIELD = "rates"
"""What a row holds that is no training but the timing before all of them."""


def allowed_seconds(runs: int, seconds: float | None) -> float:
    """What timing may cost a search as long as `runs` trainings of `seconds`; 0 where a campaign would not do it."""
    if seconds is None or runs < calibrator.FEWEST_EXPERIMENTS:
        return 0.0
    allowed = calibrator.SHARE * runs * seconds
    return allowed if allowed >= calibrator.SHORTEST_SECONDS else 0.0


def is_missing(bench: Bench, rows: Sequence[Mapping[str, Any]], runs: int) -> bool:
    """Whether settings are still to be timed for searches of this length."""
    if not allowed_seconds(runs, bench.recipe.budget.seconds) or any(FIELD in row for row in rows):
        return False
    return any(knob.name in FACTORS for knob in parse_knobs(bench.train_py))


def timed_row(bench: Bench, runs: int, seed: int, display: Display) -> dict[str, Any]:
    """Time the settings around the starting code, nearest first: a row with each rate and what it took."""
    display.phase(f"{bench.name}: timing sizes of model, batch and context")
    allowed = allowed_seconds(runs, bench.recipe.budget.seconds)
    folder = bench.runs_folder / "study rates"
    with bench.executor() as executor, device_lock(bench.machine.device, display.note):
        timed = calibrator.time_settings(executor, bench.recipe, bench.train_py, seed, folder, allowed)
    return {FIELD: [{**asdict(rate), "seconds": round(took, 3)} for rate, took in timed]}


def trainings_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that are trainings."""
    return [row for row in rows if FIELD not in row]


def rates_of(rows: Sequence[Mapping[str, Any]], allowed: float) -> tuple[tuple[Rate, ...], float]:
    """(rates, what they took): those that fit into `allowed` seconds; none where none were timed."""
    rates: list[Rate] = []
    spent = 0.0
    for item in _timed(rows):
        if spent + item["seconds"] > allowed:
            break
        spent += item["seconds"]
        status = Status(item["status"]) if item["status"] is not None else None
        values = {name: item[name] for name in ("knobs", "tokens_per_step", "parameters", "updates", "passes")}
        rates.append(Rate(status=status, **values))
    return tuple(rates), spent


def _timed(rows: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    yield from next((row[FIELD] for row in rows if FIELD in row), ())
