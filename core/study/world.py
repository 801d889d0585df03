"""A corpus as searches of a study see it, with the model of a recorded table in place of trainings.

Made by replay.py. Promises: equal questions get equal answers, whoever asks; a proposal that changes more than knobs is
told to be unusable, at no cost.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

from ..agent.edits import parse_knobs, template_digest
from ..contracts import Knob, Rate
from .loop import Measured
from .surrogate import Surrogate


class SurrogateWorld:
    """A corpus as a search sees it, with the surrogate in place of trainings.

    Its train.py is the knobs of the recorded one and nothing else: a structural move finds no place in it to change,
    and an edit of the code all the same is told to be unusable, at no cost.
    """

    program = ""
    form = "portable"
    """There is no model here that could lose its shape, nor code that a rewrite could change."""

    def __init__(
        self,
        surrogate: Surrogate,
        train_py: str,
        header: Mapping[str, Any],
        noise_seed: str,
        rates: tuple[Rate, ...] = (),
        rates_seconds: float = 0.0,
    ) -> None:
        self.surrogate = surrogate
        self.rates, self.rates_seconds = rates, rates_seconds
        self.sigma = surrogate.sigma
        self.start = knobs_alone(train_py)
        facts = header["facts"]
        self.hardware: Mapping[str, Any] = {name: facts[name] for name in ("device", "threads", "precision")}
        self.budget: Mapping[str, Any] = {name: facts["recipe"]["budget"][name] for name in ("seconds", "steps")}
        self._template = template_digest(self.start)
        self._noise_seed = noise_seed

    def measure(self, train_py: str, seed: int) -> Measured | str:
        """A score with the noise of one run, or a failure as likely as in the table.

        The same configuration with the same seed gives the same result, whoever proposes it.
        """
        if template_digest(train_py) != self._template:
            return "an edit of the code: a surrogate knows knobs alone"
        values = {knob.name: knob.value for knob in parse_knobs(train_py)}
        text = f"{self._noise_seed} {seed} {self.surrogate.space.key(values)}"
        luck = random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        is_start = values == self.surrogate.space.start  # recorded with a score, whatever its neighbours do
        if luck.random() < self.surrogate.failure(values) and not is_start:
            status, seconds = self.surrogate.failed_like(values)
            return Measured(status, None, seconds)
        score = self.surrogate.value(values) + luck.gauss(0.0, self.sigma)
        return Measured(None, score, self.surrogate.seconds(values))

    def value(self, train_py: str) -> float:
        """The surrogate's mean for a train.py of this world."""
        return self.surrogate.value({knob.name: knob.value for knob in parse_knobs(train_py)})


def knobs_alone(train_py: str) -> str:
    """The knobs that a train.py declares, in order, with the two functions that every train.py has."""
    declared = [f"{knob.name} = {knob.value!r}  # knob: {_declared(knob)}" for knob in parse_knobs(train_py)]
    return "\n".join([*declared, _REST])


_REST = """

def build_model(config):
    return None


def main():
    build_model(None)


if __name__ == "__main__":
    main()
"""


def _declared(knob: Knob) -> str:
    if knob.kind == "choice":
        return " ".join(["choice", *map(str, knob.choices)])
    scale = "log " if knob.log else ""
    return f"{knob.kind} {scale}{knob.low:.12g}..{knob.high:.12g}"
