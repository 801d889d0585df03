"""Proposers on made-up landscapes, without training: how good is the code that a night of 10 to 40 experiments keeps?

    python -m benchmarks.search [--seeds 20] [--first 0] [--names search tpe] [--workers 2] [--json OUT.json]

Each landscape is drawn from a seed over the knobs of the shipped train.py: where the optimum lies (on either side of
the start, so that no move is right by construction), how much each knob matters, how knobs depend on each other, and
where training fails. Scores are noisy and rounded as in a campaign, and a proposal is kept when it scores lower than
the current code did. The figure is the true loss of the kept code above the optimum, 1 where the night began; means
over landscapes and a bootstrap interval of the difference to plain TPE, paired by landscape. No landscape says what a
corpus would: this tells proposers apart that waste experiments from those that do not.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slm_ar import program_templates
from slm_ar.core.agent.edits import parse_knobs, revision_digest, template_digest
from slm_ar.core.agent.gate import rounded
from slm_ar.core.agent.proposers import OFFLINE, make_proposer
from slm_ar.core.agent.proposers.space import place_of
from slm_ar.core.contracts import KnobValue, PastExperiment, ResearchContext, Status

from .common import facts, parser, write

BUDGETS = (10, 20, 40)
LOWEST, GAP = 1.5, 0.1
"""Bits per byte at the optimum, and how much more the start has: what tuning gained on the corpora of the docs."""
NOISE = 0.006
"""Standard deviation of a score, in bits per byte: what two runs of 60 s on two cores differ by."""
RESAMPLES = 2000


def knob_lines() -> str:
    """The knobs of the shipped train.py, as a file of their own: no rewrite of the code applies to it."""
    path = Path(str(program_templates.__file__)).with_name("train.py")
    return "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if "  # knob: " in line) + "\n"


START = knob_lines()
KNOBS = parse_knobs(START)
NAMES = tuple(knob.name for knob in KNOBS)


# --- landscapes -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape:
    """True losses over the knobs; `fails` says where there is none."""

    shape: str
    optimum: np.ndarray
    bends: np.ndarray
    """[knobs, knobs], positive definite: the loss rises as a quadratic form of the distances, and slower far away."""
    ripples: float
    """Height of the dents."""
    scale: float
    """Makes the start GAP worse than the optimum."""
    ceiling: float
    """Sum of the places of model, batch and context above which memory runs out."""
    fastest: float
    """Place of MATRIX_LR above which training diverges."""

    def loss(self, values: Mapping[str, KnobValue]) -> float:
        places = np.array([place_of(knob, values[knob.name]) for knob in KNOBS])
        away = places - self.optimum
        rise = float(away @ self.bends @ away)
        ripple = self.ripples * float(np.mean(1 - np.cos(9 * away)))
        return LOWEST + self.scale * (rise / (1 + 0.5 * rise) + ripple)

    def failure(self, values: Mapping[str, KnobValue]) -> Status | None:
        places = dict(zip(NAMES, (place_of(knob, values[knob.name]) for knob in KNOBS), strict=True))
        if places["TARGET_PARAMS_M"] + places["BATCH_TOKENS"] + places["CONTEXT"] > self.ceiling:
            return Status.OOM
        return Status.CRASHED if places["MATRIX_LR"] > self.fastest else None


SHAPES = ("bowl", "sparse", "leaning", "failing", "rippled", "anywhere")


def landscape(shape: str, seed: int) -> Landscape:
    """A landscape that is a function of its shape and seed.

    bowl: all knobs matter somewhat; sparse: three do; leaning: knobs depend on each other; failing: half of the ranges
    fails; rippled: many shallow dents; anywhere: a bowl whose start is no better a guess than any other point.
    """
    rng = np.random.default_rng([SHAPES.index(shape), seed])
    start = np.array([place_of(knob, knob.value) for knob in KNOBS])
    optimum = np.clip(start + rng.normal(scale=0.22, size=len(KNOBS)), 0.0, 1.0)
    if shape == "anywhere":
        optimum = rng.random(len(KNOBS))
    weights = rng.lognormal(mean=-1.5, sigma=1.0, size=len(KNOBS))
    if shape == "sparse":
        weights[rng.permutation(len(KNOBS))[3:]] *= 0.03
    bends = np.diag(weights)
    if shape == "leaning":
        lean = np.eye(len(KNOBS)) + np.tril(rng.normal(scale=0.5, size=bends.shape), -1)
        bends = lean @ bends @ lean.T
    room = float(sum(start[NAMES.index(name)] for name in ("TARGET_PARAMS_M", "BATCH_TOKENS", "CONTEXT")))
    fails = shape == "failing"
    if fails:  # an optimum that cannot be reached would only add a constant
        optimum = np.minimum(optimum, start + 0.08)
    raw = Landscape(
        shape, optimum, bends, 0.2 * float(weights.mean()) if shape == "rippled" else 0.0, 1.0,
        room + 0.25 if fails else 9.0, start[NAMES.index("MATRIX_LR")] + 0.15 if fails else 9.0,
    )  # fmt: skip
    return replace(raw, scale=GAP / (raw.loss({knob.name: knob.value for knob in KNOBS}) - LOWEST))


# --- a night --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Night:
    """What one proposer made of one landscape."""

    left: dict[int, float]
    """Experiments -> true loss of the kept code above the optimum, as a share of what it was at the start."""
    failed: int
    slowest_seconds: float


def night(name: str, shape: str, seed: int, experiments: int) -> Night:
    """A campaign in small, from the shipped values of the knobs."""
    world, proposer, luck = landscape(shape, seed), make_proposer(name), random.Random(seed)
    head, history = START, list[PastExperiment]()
    values = {knob.name: knob.value for knob in KNOBS}
    first = world.loss(values)
    current, noisy = first, first + luck.gauss(0, NOISE)
    left, slowest = dict[int, float](), 0.0
    for count in range(1, experiments + 1):
        context = ResearchContext("", head, revision_digest(head), tuple(history), {}, {}, seed, NOISE)
        started = time.perf_counter()
        proposal = proposer.propose(context)
        slowest = max(slowest, time.perf_counter() - started)
        if proposal is not None:
            status = world.failure(proposal.knobs)
            score = None
            if status is None:
                true = world.loss(proposal.knobs)
                measured = true + luck.gauss(0, NOISE)
                status = Status.KEPT if measured < noisy else Status.REVERTED
                score = rounded(measured, NOISE)
            history.append(
                PastExperiment(
                    count,
                    revision_digest(proposal.train_py),
                    revision_digest(head),
                    name,
                    proposal.hypothesis,
                    status,
                    score,
                    proposal.knobs,
                    template_digest(proposal.train_py),
                )
            )
            if status is Status.KEPT:
                head, current, noisy = proposal.train_py, true, measured
        if count in BUDGETS:
            left[count] = (current - LOWEST) / GAP
    failed = sum(past.dev_score is None for past in history)
    return Night(left, failed, slowest)


# --- the table ------------------------------------------------------------------------------


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    values = np.array(differences)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def table(nights: Mapping[tuple[str, str, int], Night], names: list[str]) -> str:
    """Rows per proposer and budget, over all shapes and for each, and the paired difference to plain TPE."""
    worlds = sorted({key[1:] for key in nights})
    lines = [f"{len(worlds)} landscapes; share of the loss above the optimum that is left (less is better)"]
    lines.append(
        f"{'proposer':<14}{'after':>6}{'all':>8}" + "".join(f"{shape:>9}" for shape in SHAPES) + "   minus tpe"
    )
    for budget in BUDGETS:
        for name in names:
            row = [nights[name, *world].left[budget] for world in worlds]
            cells = [statistics.mean(nights[name, *world].left[budget] for world in worlds if world[0] == shape)
                     for shape in SHAPES]  # fmt: skip
            line = f"{name:<14}{budget:>6}{statistics.mean(row):>8.3f}" + "".join(f"{cell:>9.3f}" for cell in cells)
            if "tpe" in names and name != "tpe":
                pairs = [nights[name, *world].left[budget] - nights["tpe", *world].left[budget] for world in worlds]
                low, high = interval(pairs)
                line += f"   {statistics.mean(pairs):+.3f} ({low:+.3f} to {high:+.3f})"
            lines.append(line)
    for name in names:
        own = [item for key, item in nights.items() if key[0] == name]
        share = sum(item.failed for item in own) / (len(own) * BUDGETS[-1])
        slowest = max(item.slowest_seconds for item in own)
        lines.append(f"{name}: {share:.1%} of the experiments failed; slowest proposal {slowest:.2f} s")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, default=20, help="landscapes per shape")
    options.add_argument("--first", type=int, default=0, help="first of these seeds")
    options.add_argument("--names", nargs="+", default=list(OFFLINE), choices=OFFLINE)
    options.add_argument("--workers", type=int, default=2)
    arguments = options.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    keys = [(name, shape, seed) for name in arguments.names for shape in SHAPES for seed in seeds]
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads for matrices of this size only take cores from each other
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(arguments.workers, context) as pool:
        done = list(pool.map(_night, keys, chunksize=4))
    nights = dict(zip(keys, done, strict=True))
    print(table(nights, arguments.names))
    if arguments.json:
        rows = [{"proposer": key[0], "shape": key[1], "seed": key[2], **item.left} for key, item in nights.items()]
        write(arguments.json, {**facts(), "nights": rows})


def _night(key: tuple[str, str, int]) -> Night:
    return night(*key, BUDGETS[-1])


if __name__ == "__main__":
    main()
