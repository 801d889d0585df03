"""Early stopping, replayed on recorded curves: what the shipped rule saves and what it costs. B10 of `make bench`."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slm_ar.core.agent import pruning as rule
from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.agent.running import watched
from slm_ar.core.errors import TrainingError
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.study.space import Space, Tried, draw, origin_of
from slm_ar.core.train.preview import preview_score
from slm_ar.core.train.training_run import Snapshot

from .common import Opened, Run, Settings, clocked_job, executor_for, prepared, significant, workspace_of

LABEL = "B10"
TITLE = "Early stopping"
WHAT = (
    "Configurations around the start of the shipped train.py, each trained once to its end with a look at an eighth "
    "and at a quarter of the budget, all with one seed; the start with several seeds, for its noise. Then the shipped "
    "rule (docs/gate.md) goes through them in random orders as a search would, keeping what scores lower. Regret is "
    "the score it ends with minus the lowest one of all."
)
ORDERS = 400
SEED = 0


def name(settings: Settings) -> str:
    return f"pruning-{settings.text_name}"


def asked(settings: Settings) -> dict[str, Any]:
    text = settings.text.name if settings.text else "the synthetic city of the demo"
    constants = dict(settings.constants)
    return {"text": text, "seconds": settings.seconds, "changes": dict(settings.changes), "constants": constants}


def keys(settings: Settings) -> list[str]:
    """As many starts as half the seeds, and configurations enough for the rule to stop some of them."""
    starts, configurations = (1, 1) if settings.is_quick else (max(2, (settings.seeds + 1) // 2), 3 * settings.seeds)
    return [f"start {n}" for n in range(starts)] + [f"configuration {n}" for n in range(configurations)]


def seconds(settings: Settings) -> float:
    return 20 + len(keys(settings)) * (settings.seconds + 6)


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    workspace = workspace_of(settings, folder)
    data = prepared(workspace, folder)
    machine = workspace.machine()
    context = workspace.recipe.evaluation.context
    drawn = configurations(workspace.train_py, len(keys(settings)))
    with executor_for(workspace, data, machine) as executor:

        def measure(key: str) -> Run:
            kind, _, number = key.rpartition(" ")
            seed = int(number) if kind == "start" else SEED
            knobs = {} if kind == "start" else drawn[int(number)]
            looks: dict[str, float] = {}

            def look(snapshot: Snapshot) -> str:
                found = preview_score(executor, snapshot.folder, context)
                if found is not None:
                    looks[f"{snapshot.share:g}"] = found
                return ""

            job = clocked_job(workspace, machine, seed, settings.seconds)
            job = replace(job, train_py=set_knobs(job.train_py, knobs), snapshots=rule.SHARES)
            outcome = watched(executor, job, folder / "run", QuietDisplay(), "", look)
            run: Run = {"knobs": knobs, "looks": looks, "steps": outcome.steps, "void": outcome.disturbance}
            if outcome.status is not None and kind == "start":
                raise TrainingError(
                    f"the start gave no checkpoint: {outcome.status}: {outcome.reason}", "mend train.py"
                )
            if outcome.status is not None:  # a search meets such ones too; they have no curve
                return {**run, "status": outcome.status.value, "reason": outcome.reason, "void": ""}
            return run | {"bpb": executor.score(folder / "run", "dev", context).judged}

        yield Opened({"threads": machine.threads, "precision": machine.precision}, measure)


def configurations(train_py: str, count: int) -> list[dict[str, Any]]:
    """Settings of the knobs around the start, no two alike."""
    space = Space(parse_knobs(train_py))
    found: list[dict[str, Any]] = []
    for number in itertools.count(1):
        if len(found) == count:
            return found
        if origin_of(number) == "near":
            drawn = draw(space, number, SEED, [Tried(values, None) for values in found])
            if drawn is None:
                return found
            found.append(drawn[1])
    raise AssertionError("unreachable")


# --- the replay -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """What one training showed: bits per byte at shares of its budget, and at its end."""

    looks: Mapping[float, float]
    score: float


@dataclass(frozen=True)
class Night:
    """What became of one order."""

    spent: float
    """Trainings, in whole ones."""
    stopped: int
    score: float
    """Of the code kept at the end."""


def night(start: Curve, noise: Mapping[float, float], curves: Sequence[Curve]) -> Night:
    """Go through `curves` as a campaign would. `noise`: deviation over seeds of a look at the start, by share."""
    head, spent, stopped = start, 0.0, 0
    behind: dict[float, list[float]] = {share: [] for share in rule.SHARES}
    surprises: dict[float, list[float]] = {share: [] for share in rule.SHARES}
    for curve in curves:
        now: dict[float, float] = {}
        for share in rule.SHARES:
            if share not in curve.looks or share not in head.looks:
                continue
            now[share] = curve.looks[share] - head.looks[share]
            past = rule.Past(tuple(behind[share]), tuple(surprises[share]), noise.get(share, 0.0))
            behind[share].append(now[share])
            if rule.is_hopeless(share, now[share], past):
                spent, stopped = spent + share, stopped + 1
                break
        else:
            spent += 1.0
            for share, distance in now.items():
                surprises[share].append(curve.score - head.score - distance)
            head = curve if curve.score < head.score else head
    return Night(spent, stopped, head.score)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The rule over random orders, and how well looks foretell the end."""
    curves = {
        run["key"]: Curve({float(share): look for share, look in run["looks"].items()}, run["bpb"])
        for run in runs
        if "bpb" in run
    }
    starts = [curve for key, curve in curves.items() if key.startswith("start ")]
    others = [curve for key, curve in curves.items() if not key.startswith("start ")]
    if "start 0" not in curves or not others:
        return {"configurations": len(others)}
    start = curves["start 0"]
    noise = {}
    for share in rule.SHARES:
        seen = [curve.looks[share] for curve in starts if share in curve.looks]
        noise[share] = statistics.stdev(seen) if len(seen) > 1 else 0.0
    best = min(curve.score for curve in [start, *others])
    pick = random.Random(SEED)
    nights = [night(start, noise, pick.sample(others, len(others))) for _ in range(ORDERS)]
    regrets = [night.score - best for night in nights]
    return {
        "configurations": len(others),
        "spread_bpb": significant(max(curve.score for curve in others) - best),
        "noise_of_a_look": {f"{share:g}": significant(value) for share, value in noise.items()},
        "rank_correlation": {f"{share:g}": rank_correlation(others, share) for share in rule.SHARES},
        "orders": ORDERS,
        "stopped_per_order": significant(statistics.fmean(night.stopped for night in nights)),
        "time_saved": significant(1 - statistics.fmean(night.spent for night in nights) / len(others)),
        "orders_without_regret": significant(statistics.fmean(regret <= 0 for regret in regrets)),
        "mean_regret_bpb": significant(statistics.fmean(regrets)),
        "largest_regret_bpb": significant(max(regrets)),
    }


def rank_correlation(curves: Sequence[Curve], share: float) -> float | None:
    """Spearman's, of the looks at a share with the scores at the end; None where there are fewer than three."""
    pairs = [(curve.looks[share], curve.score) for curve in curves if share in curve.looks]
    if len(pairs) < 3:
        return None
    from scipy.stats import spearmanr

    return significant(float(spearmanr(*zip(*pairs, strict=True)).statistic), 3)


def lines(record: Mapping[str, Any]) -> list[str]:
    found, asked = record["summary"], record["asked"]
    if "time_saved" not in found:
        return []
    known = {share: value for share, value in found["rank_correlation"].items() if value is not None}
    ranks = ", ".join(f"{value:.2f} at {share}" for share, value in known.items()) or "not measured"
    return [
        f"**{asked['text']}**, {asked['seconds']:g} s each, {found['configurations']} configurations over "
        f"{found['spread_bpb']:.3f} bits per byte, {found['orders']} orders. Rank correlation with the end: {ranks}.",
        "",
        "| stopped per order | time saved | orders without regret | mean regret, bpb | largest regret, bpb |",
        "| --- | --- | --- | --- | --- |",
        f"| {found['stopped_per_order']:.1f} | {100 * found['time_saved']:.0f} % | "
        f"{100 * found['orders_without_regret']:.0f} % | {found['mean_regret_bpb']:.4f} | "
        f"{found['largest_regret_bpb']:.4f} |",
    ]
