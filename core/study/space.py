"""The typed space of a train.py's knobs as a unit cube, and the configurations that a table records.

Called by record.py and surrogate.py. Promises: what is drawn is allowed by the declarations, and configuration number
`i` depends on the seed, on `i` and, for those that follow the results, on the results that are there, never on how many
configurations are planned: a table can grow.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..agent.edits import canonical_value, round_significant
from ..contracts import Knob, KnobValue

Values = Mapping[str, KnobValue]
Point = tuple[float, ...]

CYCLE = ("space", "near", "space", "search", "space", "near", "best", "space", "near", "search")
"""Where each of ten configurations in a row comes from; the very first one is the start."""
NEAR_STEP, BEST_STEP = 0.15, 0.07
"""Standard deviations of a step from the start and from one of the best, in widths of a knob's range."""
BEST = 10
TURNED_SHARE = 0.5
MOST_ATTEMPTS = 100


@dataclass(frozen=True, slots=True)
class Tried:
    """A configuration that was trained. `score` is None when that failed; lower is better."""

    values: Values
    score: float | None


class Space:
    """The knobs of one train.py. A point has one coordinate in [0, 1] per knob, in the order of declaration."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self.knobs = tuple(knobs)

    @property
    def start(self) -> dict[str, KnobValue]:
        return {knob.name: knob.value for knob in self.knobs}

    def key(self, values: Values) -> tuple[KnobValue, ...]:
        """The values in the order of declaration."""
        return tuple(values[knob.name] for knob in self.knobs)

    def point(self, values: Values) -> Point:
        """Where `values` lie: on a logarithmic axis where the knob says so; choices in their order, by cells."""
        return tuple(_place(knob, values[knob.name]) for knob in self.knobs)

    def values(self, point: Sequence[float]) -> dict[str, KnobValue]:
        """The allowed values nearest to a point, floats with 3 significant digits."""
        return {knob.name: _value(knob, place) for knob, place in zip(self.knobs, point, strict=True)}

    def features(self, values: Values) -> list[float]:
        """The point as a model reads it: knobs whose choices are words have a column per word."""
        columns: list[float] = []
        for knob in self.knobs:
            if _is_word(knob):
                columns += [float(values[knob.name] == choice) for choice in knob.choices]
            else:
                columns.append(_place(knob, values[knob.name]))
        return columns


def _is_word(knob: Knob) -> bool:
    return knob.kind == "choice" and isinstance(knob.choices[0], str)


def _ordered(knob: Knob) -> list[KnobValue]:
    return list(knob.choices) if _is_word(knob) else sorted(knob.choices, key=float)


def _place(knob: Knob, value: KnobValue) -> float:
    if knob.kind == "choice":
        return (_ordered(knob).index(value) + 0.5) / len(knob.choices)
    low, high = _ends(knob)
    number = float(value)
    return (math.log(number / low) / math.log(high / low)) if knob.log else (number - low) / (high - low)


def _value(knob: Knob, place: float) -> KnobValue:
    place = min(max(place, 0.0), 1.0)
    if knob.kind == "choice":
        return _ordered(knob)[min(int(place * len(knob.choices)), len(knob.choices) - 1)]
    assert knob.low is not None and knob.high is not None
    low, high = _ends(knob)
    number = low * (high / low) ** place if knob.log else low + (high - low) * place
    if knob.kind == "int":
        return int(min(max(round(number), knob.low), knob.high))
    return canonical_value(knob, min(max(round_significant(number, 3), knob.low), knob.high))


def _ends(knob: Knob) -> tuple[float, float]:
    """The ends of the axis: half a step beyond those of whole numbers, which are then as likely as the rest."""
    assert knob.low is not None and knob.high is not None
    margin = 0.5 if knob.kind == "int" else 0.0
    return knob.low - margin, knob.high + margin


# --- drawing --------------------------------------------------------------------------------


def origin_of(number: int) -> str:
    """Where configuration `number` comes from: start | space | near | search | best."""
    return "start" if number == 0 else CYCLE[number % len(CYCLE)]


def draw(space: Space, number: int, seed: int, tried: Sequence[Tried]) -> tuple[str, dict[str, KnobValue]] | None:
    """(origin, values) of configuration `number`, one that was not tried; None when none was found.

    Four in ten fill the whole space (a scrambled Sobol sequence), three lie around the start, where every search
    begins, two are what TPE asks for after the results so far, one lies around one of the ten best. Without the last
    three the region where searches end would hold almost no point, and a surrogate would invent it.
    """
    origin = origin_of(number)
    known = {space.key(item.values) for item in tried}
    if origin == "start":
        return origin, space.start
    for attempt in range(MOST_ATTEMPTS):
        pick = random.Random(_digest(f"{seed} {number} {attempt}"))
        if attempt:  # a space of few configurations is searched for those that are left
            values = space.values([pick.random() for _ in space.knobs])
        elif origin == "space":
            values = space.values(_sobol_point(len(space.knobs), number, seed))
        elif origin == "near":
            values = _around(space, space.start, NEAR_STEP, pick)
        elif origin == "best":
            scored = sorted((item for item in tried if item.score is not None), key=_score)[:BEST]
            values = _around(space, pick.choice(scored).values if scored else space.start, BEST_STEP, pick)
        else:
            values = _asked(space, tried, pick.getrandbits(31))
        if space.key(values) not in known:
            return (origin if attempt == 0 else "space"), values
    return None


def _score(item: Tried) -> float:
    assert item.score is not None
    return item.score


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _sobol_point(dimensions: int, number: int, seed: int) -> Point:
    from torch.quasirandom import SobolEngine

    engine: Any = SobolEngine(dimensions, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    engine.fast_forward(number)
    return tuple(float(place) for place in engine.draw(1)[0])


def _around(space: Space, centre: Values, step: float, pick: random.Random) -> dict[str, KnobValue]:
    """A neighbour: about half of the knobs, and at least one, moved by a normal step that bounces off the ends."""
    point = list(space.point(centre))
    turned = [index for index in range(len(point)) if pick.random() < TURNED_SHARE]
    for index in turned or [pick.randrange(len(point))]:
        knob = space.knobs[index]
        if _is_word(knob):
            point[index] = pick.random()
            continue
        # A choice among few would hardly ever move by a step that suits a continuous knob.
        width = max(step, 1.0 / len(knob.choices)) if knob.kind == "choice" else step
        moved = abs(point[index] + pick.gauss(0.0, width)) % 2.0
        point[index] = min(moved, 2.0 - moved)
    return space.values(point)


def _asked(space: Space, tried: Sequence[Tried], seed: int) -> dict[str, KnobValue]:
    """What TPE (Bergstra et al. 2011, Optuna's) asks for after `tried`."""
    import optuna

    axes: dict[str, optuna.distributions.BaseDistribution] = {
        knob.name: optuna.distributions.CategoricalDistribution(list(knob.choices))
        if _is_word(knob)
        else optuna.distributions.FloatDistribution(0.0, 1.0)
        for knob in space.knobs
    }
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
            for item in tried:
                point = dict(zip(axes, space.point(item.values), strict=True))
                places = {knob.name: item.values[knob.name] if _is_word(knob) else point[knob.name]
                          for knob in space.knobs}  # fmt: skip
                # A pruned trial without a value ranks below all others: TPE learns where trainings fail.
                state = optuna.trial.TrialState.PRUNED if item.score is None else optuna.trial.TrialState.COMPLETE
                study.add_trial(
                    optuna.trial.create_trial(params=places, distributions=axes, value=item.score, state=state)
                )
            asked = study.ask(axes).params
    finally:
        optuna.logging.set_verbosity(verbosity)
    drawn = space.values([0.0 if _is_word(knob) else asked[knob.name] for knob in space.knobs])
    return {knob.name: asked[knob.name] if _is_word(knob) else drawn[knob.name] for knob in space.knobs}
