"""What the tests of studies share: a space with a known best point, rows of a recorder, a world to search."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.contracts import KnobValue, Proposal, Rate, ResearchContext, Status
from slm_ar.core.study.crew import Crew, Order
from slm_ar.core.study.loop import Measured
from slm_ar.core.study.space import Space, Tried, draw
from slm_ar.core.study.training import Trained

TRAIN_PY = '''"""A toy."""

SIZE = 8.0  # knob: float log 0.05..200
STEP = 0.02  # knob: float log 1e-4..1e-1
SHARE = 0.5  # knob: float 0..1
LAYERS = 6  # knob: int 1..32
BATCH = 1024  # knob: choice 256 512 1024 2048
KIND = "relu"  # knob: choice relu gelu swish
'''
CODE = f"""{TRAIN_PY}

def build_model(config):
    pass


def main():
    pass


if __name__ == "__main__":
    main()
"""
SPACE = Space(parse_knobs(TRAIN_PY))
FACTS: dict[str, Any] = {
    "recipe": {"budget": {"seconds": None, "steps": 8}},
    "data": "0123456789abcdef",
    "train_py": "fedcba",
    "harness": [1, "0"],
    "torch": "2",
    "device": "cpu",
    "machine": "test machine",
    "cores": 2,
    "threads": 1,
    "precision": "float32",
    "seed": 0,
}


def bowl(values: Mapping[str, KnobValue]) -> float:
    """Smooth in the logarithms, lowest (1.0) at SIZE 0.7, STEP 0.005, LAYERS 3, SHARE 0.2, any BATCH, gelu."""
    return (
        1.0
        + 0.03 * math.log2(float(values["SIZE"]) / 0.7) ** 2
        + 0.02 * math.log2(float(values["STEP"]) / 0.005) ** 2
        + 0.2 * (float(values["SHARE"]) - 0.2) ** 2
        + 0.01 * (float(values["LAYERS"]) - 3) ** 2 / 10
        + 0.02 * (values["KIND"] != "gelu")
    )


def is_too_large(values: Mapping[str, KnobValue]) -> bool:
    return float(values["SIZE"]) > 60


def table_rows(count: int, repeats: int = 6, sigma: float = 0.01, seed: int = 0) -> list[dict[str, Any]]:
    """What a recorder would have written of the bowl, where large sizes do not fit into memory."""
    luck = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        drawn = draw(SPACE, number, seed, [Tried(row["knobs"], row["score"]) for row in rows])
        assert drawn is not None
        rows.append(_row(number, 0, *drawn, luck, sigma))
    for row in [row for row in rows if row["status"] is None][:repeats]:
        rows += [_row(row["configuration"], repeat, row["origin"], row["knobs"], luck, sigma) for repeat in (1, 2)]
    return rows


def _row(
    number: int, repeat: int, origin: str, knobs: Mapping[str, KnobValue], luck: random.Random, sigma: float
) -> dict[str, Any]:
    fails = is_too_large(knobs)
    return {
        "configuration": number,
        "repeat": repeat,
        "origin": origin,
        "seed": luck.getrandbits(31),
        "knobs": dict(knobs),
        "status": "oom" if fails else None,
        "reason": "used too much" if fails else "",
        "score": None if fails else bowl(knobs) + luck.gauss(0.0, sigma),
        "seconds": 2.0 if fails else 10.0,
        "train_seconds": 9.0,
        "steps": 8,
        "disturbance": "",
    }


class BowlWorld:
    """Measures the bowl with noise; every training takes ten seconds, one that fails two."""

    program = ""
    start = TRAIN_PY
    hardware: Mapping[str, Any] = {"device": "cpu"}
    budget: Mapping[str, Any] = {"steps": 8}
    rates: tuple[Rate, ...] = ()
    rates_seconds = 0.0
    form = "portable"

    def __init__(self, sigma: float = 0.02) -> None:
        self.sigma = sigma
        self.asked: list[tuple[str, int]] = []

    def measure(self, train_py: str, seed: int) -> Measured | str:
        self.asked.append((train_py, seed))
        if "def " in train_py:
            return "an edit of the code"
        values = {knob.name: knob.value for knob in parse_knobs(train_py)}
        if is_too_large(values):
            return Measured(Status.OOM, None, 2.0)
        luck = random.Random(f"{seed} {sorted(values.items())}")
        return Measured(None, bowl(values) + luck.gauss(0.0, self.sigma), 10.0)

    def value(self, train_py: str) -> float:
        return bowl({knob.name: knob.value for knob in parse_knobs(train_py)})


class Guesser:
    """Draws at random from a share of the space; the smaller the share, the nearer to the best point it lies."""

    def __init__(self, name: str, share: float, shift: int = 0) -> None:
        self.name, self.share, self.shift = name, share, shift
        self.contexts: list[ResearchContext] = []

    def propose(self, context: ResearchContext) -> Proposal | None:
        self.contexts.append(context)
        luck = random.Random(f"{self.shift} {context.seed} {len(context.history)}")
        best = SPACE.point({"SIZE": 0.7, "STEP": 0.005, "SHARE": 0.2, "LAYERS": 3, "BATCH": 512, "KIND": "gelu"})
        point = [(1 - self.share) * middle + self.share * luck.random() for middle in best]
        values = SPACE.values(point)
        return Proposal(f"guess {luck.random()}", "", set_knobs(context.train_py, values), values)


class Coder:
    """Edits the code every other time."""

    name = "coder"

    def __init__(self) -> None:
        self._guesser = Guesser("coder", 1.0)

    def propose(self, context: ResearchContext) -> Proposal | None:
        proposal = self._guesser.propose(context)
        assert proposal is not None
        if len(context.history) % 2:
            return proposal
        return replace(proposal, train_py=f"{proposal.train_py}\n\ndef f{len(context.history)}():\n    pass\n")


class Scripted:
    """Proposes given knob values, one set after the other."""

    name = "scripted"

    def __init__(self, script: Sequence[Mapping[str, KnobValue]]) -> None:
        self._script = script

    def propose(self, context: ResearchContext) -> Proposal | None:
        place = len(context.history)
        if place == len(self._script):
            return None
        return Proposal(f"script {place}", "", set_knobs(context.train_py, self._script[place]))


class Killed(Exception):
    """Stands for kill -9."""


class FakeCrew(Crew):
    """Trains in no time; dies after a number of trainings. The newest of two busy orders ends first."""

    def __init__(self, places: int, lives: int = 10**6) -> None:
        self.places, self.busy, self.lives = places, [], lives
        self.done: list[Order] = []

    def start(self, order: Order) -> None:
        assert len(self.busy) < self.places
        self.busy.append(order)

    def next(self) -> tuple[Order, Trained]:
        if self.lives == 0:
            raise Killed
        self.lives -= 1
        order = self.busy.pop()
        self.done.append(order)
        values = {knob.name: knob.value for knob in parse_knobs(order.train_py)}
        status = Status.OOM if is_too_large(values) else None
        score = None if status else bowl(values) + self.luck(order)
        return order, Trained(status, "", score, 1.5, 1.0, 8, 100, 10, 5.0, (), "", False, 1, 0.0)

    def luck(self, order: Order) -> float:
        """What the seed adds to a score."""
        return order.seed % 7 / 1000

    def close(self) -> None:
        pass
