"""The optimiser of `search` and `hybrid`: CMA-ES draws candidates around the code, a Gaussian process picks one.

Called by search.py; `optimiser_state` tells a language model what it knows. Promises: a function of the space; no point
is asked for twice, and none whose size was too much before; well under a second per question.

A night is 20 to 100 noisy experiments over 10 to 15 knobs. CMA-ES alone (Hansen 2016, arXiv 1604.00772) would spend it
on a handful of generations, and TPE half of it on finding out where the code already stands; the process makes each
result count everywhere at once. Which of them does better, and by how much, is what benchmarks/search.py measures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...contracts import KnobValue, Proposal, ResearchContext, Status
from .gaussian import GaussianProcess
from .space import Assignment, Space, Trial, is_word, place_of, shown, value_at

if TYPE_CHECKING:
    from .gaussian import Floats

_GENERATION = 6
"""Results per step of CMA-ES: small, because a night has few."""
_STEP = 0.15
"""First standard deviation of CMA-ES, in ranges of a knob."""
_FARTHEST = 1.5
"""How far, in deviations that are usual for a point of that many axes, a told point may lie from the mean (Hansen 2011,
"Injecting external solutions into CMA-ES"): most results were not drawn by CMA-ES."""
_DRAWN, _STEPPED, _SCATTERED = 150, 300, 50
"""Candidates: of CMA-ES, steps along few knobs from the best points, and anywhere."""
_BEST = 3
_FEWEST = 3
"""Scores before the process is asked; until then the first candidate of CMA-ES is taken."""
_FOREIGN_DOUBT = 4.0
"""Noise of a result from before an edit of the code, in units of the others'."""
_MOST = 150
"""Results that the process is given: its time grows with their cube."""
_PRUNED_QUANTILE = 0.8
"""Where a pruned run stands among the losses that are known."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A point to try next, and what the model says of it."""

    assignment: Assignment
    seen: int
    """Past results behind it."""


def ask(space: Space) -> Proposal | None:
    """The optimiser's next proposal; None where it has nothing new."""
    suggestion = suggest(space)
    if suggestion is None:
        return None
    changes = space.changes(suggestion.assignment)
    more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
    return space.proposal(
        suggestion.assignment,
        f"follow the optimiser: {', '.join(changes[:4])}{more}",
        f"The optimiser's model of {suggestion.seen} past results expects more here than elsewhere.",
        "a better dev score, by the optimiser's model",
    )


def suggest(space: Space) -> Suggestion | None:
    """The untried candidate of which the model expects most; None when there is none."""
    trials = _known(space)
    rng = np.random.default_rng(space.random().getrandbits(63))
    losses = _losses(trials)
    candidates = [*_candidates(space, trials, losses, rng)]
    if not candidates:
        return None
    if sum(trial.loss is not None for trial in trials) < _FEWEST:
        return Suggestion(candidates[0], len(space.trials))
    chosen = _telling(trials, losses)
    model, best = _model(space, [trials[index] for index in chosen], losses[chosen])
    gains = model.expected_improvement(_points(space, candidates), best)
    return Suggestion(candidates[int(np.argmax(gains))], len(space.trials))


# --- what it is told ------------------------------------------------------------------------


def _known(space: Space) -> list[Trial]:
    head = space.head_trial
    return [*space.trials, *([head] if head is not None else [])]


def _losses(trials: Sequence[Trial]) -> Floats:
    """[n] losses on a scale that shows small differences near the best: failures as the worst, pruned runs as bad."""
    scored = np.array([trial.loss for trial in trials if trial.loss is not None] or [0.0])
    scored = scored - scored.min()
    scale = float(np.median(scored)) or float(scored.max()) or 1.0
    known = np.log1p(scored / scale)
    pruned, failed = float(np.quantile(known, _PRUNED_QUANTILE)), float(known.max()) + 0.2
    ordered = iter(known)
    return np.array(
        [
            float(next(ordered)) if trial.loss is not None else pruned if trial.status is Status.PRUNED else failed
            for trial in trials
        ]
    )


def _telling(trials: Sequence[Trial], losses: Floats) -> list[int]:
    """Which results the process is given: all, or of many the best half and otherwise the newest, oldest first."""
    order = [int(index) for index in np.argsort(losses, kind="stable") if trials[index].loss is not None]
    best = set(order[: _MOST // 2])
    others = [index for index in range(len(trials)) if index not in best]
    return sorted(best.union(others[len(best) - _MOST :]))


def _points(space: Space, assignments: Sequence[Assignment]) -> Floats:
    """[n, axes] in 0..1: an axis per knob, and for a knob of words an axis per word."""
    rows = []
    for assignment in assignments:
        row: list[float] = []
        for knob in space.knobs:
            value = assignment[knob.name]
            row += [0.5 * (value == word) for word in knob.choices] if is_word(knob) else [place_of(knob, value)]
        rows.append(row)
    return np.array(rows)


def _model(space: Space, trials: Sequence[Trial], losses: Floats) -> tuple[GaussianProcess, float]:
    """The process of all results, and the lowest loss that it believes in among points of this very code."""
    points = _points(space, [trial.assignment for trial in trials])
    doubt = np.array([1.0 if trial.is_own else _FOREIGN_DOUBT for trial in trials])
    model = GaussianProcess(points, losses, doubt)
    own = [trial.is_own and trial.loss is not None for trial in trials]
    mean, _ = model.predict(points[own] if any(own) else points)
    return model, float(mean.min())


# --- candidates -----------------------------------------------------------------------------


def _candidates(
    space: Space, trials: Sequence[Trial], losses: Floats, rng: np.random.Generator
) -> Iterator[Assignment]:
    """Untried assignments, each once: of CMA-ES, steps from the best points along few knobs, and from anywhere."""
    seen: set[tuple[KnobValue, ...]] = set()
    for places in _places(space, trials, losses, rng):
        assignment = {knob.name: value_at(knob, place) for knob, place in zip(space.knobs, places, strict=True)}
        key = tuple(assignment.values())
        if key not in seen and space.is_new(assignment) and not space.is_too_much(assignment):
            seen.add(key)
            yield assignment


def _places(space: Space, trials: Sequence[Trial], losses: Floats, rng: np.random.Generator) -> Iterator[Floats]:
    axes = len(space.knobs)
    if axes > 1:
        yield from _drawn(space, trials, losses, rng)
    order = np.argsort(losses, kind="stable")
    best = [space.head, *(trials[index].assignment for index in order[:_BEST])]
    for count in range(_STEPPED):
        places = _cube(space, best[count % len(best)])
        turned = rng.permutation(axes)[: rng.integers(1, min(axes, 4) + 1)]
        steps = rng.normal(size=len(turned)) * 10 ** rng.uniform(-1.5, -0.3)
        places[turned] = _reflected(places[turned] + steps)
        # Knobs with few values would stay where they are.
        jumps = rng.random(axes) < 1 / (2 * axes)
        places[jumps] = rng.random(int(jumps.sum()))
        yield places
    for _ in range(_SCATTERED):
        yield rng.random(axes)


def _drawn(space: Space, trials: Sequence[Trial], losses: Floats, rng: np.random.Generator) -> Iterator[Floats]:
    """Draws of CMA-ES after all results, half of them around the current code instead of around its mean."""
    import cmaes

    head = _cube(space, space.head)
    told = [(_cube(space, trial.assignment), loss) for trial, loss in zip(trials, losses, strict=True)]
    optimiser = cmaes.CMA(mean=head.copy(), sigma=_STEP, seed=int(rng.integers(1 << 31)), population_size=_GENERATION)
    farthest = _FARTHEST * math.sqrt(len(head))
    for first in range(0, len(told) - _GENERATION + 1, _GENERATION):
        generation = []
        for point, loss in told[first : first + _GENERATION]:
            step = point - optimiser.mean
            reach = float(np.linalg.norm(step)) / (_STEP * farthest)
            generation.append((optimiser.mean + step / max(1.0, reach), loss))
        optimiser.tell(generation)
    for count in range(_DRAWN):
        point = optimiser.ask()
        yield _reflected(point if count % 2 else point - optimiser.mean + head)


def _cube(space: Space, assignment: Assignment) -> Floats:
    return np.array([place_of(knob, assignment[knob.name]) for knob in space.knobs])


def _reflected(places: Floats) -> Floats:
    """Places outside of 0..1 folded back in: clipping would pile candidates up at the ends."""
    folded: Floats = 1.0 - np.abs(1.0 - np.mod(places, 2.0))
    return folded


# --- for language models --------------------------------------------------------------------


def optimiser_state(context: ResearchContext) -> str:
    """What the optimiser knows, in plain lines for a language model: best points, the good region, its suggestion."""
    space = Space(context)
    if not space.knobs:
        return "train.py declares no knobs, so the optimiser has nothing to turn."
    scored = sorted((trial for trial in space.trials if trial.loss is not None), key=lambda trial: trial.loss or 0.0)
    lines = [f"{len(space.trials)} past results over {len(space.knobs)} knobs; losses are relative to the best, 0."]
    for trial in scored[:5]:
        code = "" if trial.is_own else " (before an edit of the code)"
        lines.append(f"loss {trial.loss:.4f}{code}: {_words(space, trial.assignment)}")
    failed = sum(trial.loss is None for trial in space.trials)
    if failed:
        lines.append(f"{failed} of them failed or were ended early; sizes that ran out of memory or time are left out.")
    if len(scored) >= _FEWEST:
        good = [trial.assignment for trial in scored[: max(3, len(scored) // 4)]]
        lines.append(f"the good region, from the best {len(good)} results (now | middle | spread):")
        for knob in space.knobs:
            middle = _middle(space, good, knob.name)
            lines.append(f"  {knob.name}: {shown(knob.value)} | {middle}")
    suggestion = suggest(space)
    if suggestion is None:
        lines.append("it has no untried point to suggest")
    else:
        lines.append(f"it would try next: {', '.join(space.changes(suggestion.assignment))}")
    return "\n".join(lines)


def _words(space: Space, assignment: Assignment) -> str:
    """The differences from the current code, or that there are none."""
    return ", ".join(space.changes(assignment)) or "the current values"


def _middle(space: Space, good: Sequence[Assignment], name: str) -> str:
    """Median and range of a knob's values in the good region; the most frequent one where they are words."""
    knob = next(knob for knob in space.knobs if knob.name == name)
    values = [assignment[name] for assignment in good]
    if is_word(knob):
        return f"{max(sorted(set(map(str, values))), key=values.count)} | {', '.join(sorted(set(map(str, values))))}"
    places = sorted(place_of(knob, value) for value in values)
    low, mid, high = (value_at(knob, places[index]) for index in (0, len(places) // 2, -1))
    return f"{shown(mid)} | {shown(low)} to {shown(high)}"
