"""Measures how fast settings of model size, batch and context train on this machine: proposers/rates.py reads them.

Called by the campaign before the first proposal of a night, for proposers that say `wants_rates`, and by studies.
Promises: no text of the corpus is read and nothing is scored, only steps on made-up data are timed; at most about a
twentieth of the night's training goes into it; it is done once per campaign, and what was measured is one event of the
journal.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts import KnobValue, Rate, Status
from ..recipe import Recipe
from ..train.device_lock import take_device
from ..train.executor import LocalExecutor
from . import edits, planner
from .opening import train_job
from .proposers.rates import promises, setting_words, settings, size_knobs

if TYPE_CHECKING:
    from .running import Runs
    from .state import CampaignState

MOST_SETTINGS = 24
STEPS = 4
FEWEST_EXPERIMENTS = 10
"""In a shorter night the first experiments find out as much."""
SHARE = 0.05
"""Of the training seconds of the experiments that this night has planned, and of what is left of it, at most."""
SHORTEST_SECONDS = 10.0
"""With less time than this, too few settings would be measured to promise anything."""
FOLDER = "rates"


def is_due(runs: Runs, state: CampaignState, seconds_left: float | None = None) -> bool:
    """Whether rates are still to be measured: once per campaign, by the clock, when the night is long enough."""
    if state.rates is not None or allowed_seconds(runs, state, seconds_left) < SHORTEST_SECONDS:
        return False
    return bool(size_knobs(state.revisions[state.head]))


def allowed_seconds(runs: Runs, state: CampaignState, seconds_left: float | None = None) -> float:
    """What measuring may cost; 0 where the budget counts steps, to which speed makes no difference.

    `seconds_left`: until nothing new is proposed, where the night has an end.
    """
    experiments = int(state.facts.get("experiments_planned") or 0) - int(state.facts.get("plan", {}).get("from", 0))
    seconds = runs.recipe.budget.seconds
    if seconds is None or experiments < FEWEST_EXPERIMENTS:
        return 0.0
    planned = experiments * seconds
    return SHARE * (planned if seconds_left is None else min(planned, seconds_left))


def measure_rates(runs: Runs, state: CampaignState, seconds_left: float | None = None) -> None:
    """Time the settings around the current code, nearest first, and write down what came of it.

    An interrupt leaves nothing behind, and they are measured again. Nothing is measured when others train on the device
    until too little is left of `seconds_left`.
    """
    runs.display.phase("timing sizes of model, batch and context")
    text, seed = state.revisions[state.head], planner.window_seed(state, 0)
    stop_at = None if seconds_left is None else time.monotonic() + seconds_left
    lock = take_device(runs.executor.machine.device, runs.display.note, stop_at)
    if lock is None:
        return
    with lock:  # beside a timed run nothing may compute
        left = None if stop_at is None else stop_at - time.monotonic()
        if not is_due(runs, state, left):
            return
        allowed = allowed_seconds(runs, state, left)
        timed = time_settings(runs.executor, runs.recipe, text, seed, runs.runs_folder / FOLDER, allowed)
    rates = [rate for rate, _ in timed]
    runs.journal.append(
        "rates_measured", {"template": edits.template_digest(text), "rates": [asdict(rate) for rate in rates]}
    )
    found = promises(rates)
    words = "; to be tried first: " + " or ".join(setting_words(setting) for setting in found) if found else ""
    runs.display.note(f"timed {len(rates)} settings of size, batch and context{words}")


def time_settings(
    executor: LocalExecutor, recipe: Recipe, train_py: str, seed: int, folder: Path, allowed: float
) -> list[tuple[Rate, float]]:
    """(rate, seconds that it took) of settings around those of `train_py`, nearest first, in about `allowed` seconds.

    Uses `folder` meanwhile, and the device: hold its lock. Settings above one that ran out of memory or time are left
    out.
    """
    budget_seconds = recipe.budget.seconds or 0.0
    train_tokens = executor.data.manifest.train_tokens
    timed: list[tuple[Rate, float]] = []
    spent = 0.0
    try:
        for setting in itertools.islice(settings(train_py), MOST_SETTINGS):
            if _is_too_much(setting, [rate for rate, _ in timed]):
                continue
            started = time.monotonic()
            job = train_job(recipe, executor.machine, edits.set_knobs(train_py, setting), seed)
            smoke = executor.smoke(job, folder, STEPS, recipe.evaluation.context)
            updates = budget_seconds / smoke.step_seconds if smoke.step_seconds > 0 else 0.0
            passes = updates * smoke.tokens_per_step / max(1, train_tokens)
            took = time.monotonic() - started
            rate = Rate(setting, smoke.status, smoke.tokens_per_step, smoke.parameters, updates, passes)
            timed.append((rate, took))
            spent += took
            if spent + took > allowed:
                break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return timed


def _is_too_much(setting: Mapping[str, KnobValue], rates: Sequence[Rate]) -> bool:
    """Whether a setting that is smaller everywhere ran out of memory or time."""
    failed = [rate.knobs for rate in rates if rate.status in (Status.OOM, Status.TIMEOUT)]
    return any(all(float(setting[name]) >= float(value) for name, value in knobs.items()) for knobs in failed)
