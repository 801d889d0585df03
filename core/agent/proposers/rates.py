"""What measured step rates promise: which size, batch and context to try first on this machine and corpus. Pure.

Called by `search` at its beginning, and by calibrator.py, which measures. Promises: a function of the rates; a promise
is an experiment like any other, so where the rule is wrong it costs that one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from ...contracts import Knob, KnobValue, Proposal, Rate, Status
from ..edits import parse_knobs
from .moves import moved, times
from .space import Space, is_word, shown

FACTORS: Mapping[str, tuple[float, ...]] = {
    "TARGET_PARAMS_M": (1.0, 0.5, 2.0, 0.25, 4.0),
    "BATCH_TOKENS": (1.0, 0.5, 2.0, 0.25, 4.0),
    "CONTEXT": (1.0, 0.5),
}
"""What is measured, of the knobs among these that train.py has: multiples of their values."""
TITLE = "fit the size to this machine"
"""Opens the hypothesis of a promise, by which it is recognised in the history."""
MOST_PROMISES = 3
SMALLEST_GAIN = 0.02
"""Predicted bits per byte below which a setting is no promise: what a third more speed would promise, and a few steps
are not timed much better than that."""
MOST_PASSES = 4.0
"""Text counts fully up to so many passes and hardly beyond (Muennighoff et al. 2023, arXiv 2305.16264)."""
TOKENS_PER_PARAMETER = 4.0
"""Of all parameters, embeddings included: what the best models of a minute on two cores had."""
ENOUGH_UPDATES = 1000.0
PER_TOKENS, PER_UPDATES, PER_TOO_SMALL, PER_TOO_LARGE, PER_CONTEXT = 0.05, 0.06, 0.045, 0.02, 0.02
"""Bits per byte per unit of a logarithm: natural ones, for the context of base 2. Chosen so that the models of a minute
on one core that the rule was made from come out in their order (docs/proposers.md); what a shorter context costs is a
guess."""


def size_knobs(text: str) -> list[Knob]:
    """The knobs of a train.py that are measured: those that are named for a size and are a number."""
    return [knob for knob in parse_knobs(text) if knob.name in FACTORS and not is_word(knob)]


def settings(text: str) -> Iterator[Mapping[str, KnobValue]]:
    """Settings of the size knobs that a train.py has: its own first, then those that differ least."""
    knobs = size_knobs(text)
    ways = sorted(
        itertools.product(*(FACTORS[knob.name] for knob in knobs)),
        key=lambda factors: sum(abs(math.log2(factor)) for factor in factors),
    )
    seen: set[tuple[KnobValue, ...]] = set()
    for factors in ways:
        values = tuple(moved(knob, times(factor)) for knob, factor in zip(knobs, factors, strict=True))
        if values not in seen:
            seen.add(values)
            yield {knob.name: value for knob, value in zip(knobs, values, strict=True)}


def promises(rates: Sequence[Rate]) -> tuple[Mapping[str, KnobValue], ...]:
    """The settings to try first, most promising first, each of another model size; none that the current one equals.

    `rates[0]` is the current setting: where the machine was too busy to time it, nothing is promised.
    """
    usable = [rate for rate in rates if rate.status is None and rate.updates > 0]
    if not usable or rates[0].status is Status.DISTURBED:
        return ()
    own = rates[0]
    bar = predicted(own, own) - SMALLEST_GAIN if own in usable else math.inf
    ranked = sorted((rate for rate in usable if rate != own), key=lambda rate: predicted(rate, own))
    chosen: list[Rate] = []
    for rate in ranked:
        if predicted(rate, own) < bar and all(rate.parameters != other.parameters for other in chosen):
            chosen.append(rate)
    return tuple(rate.knobs for rate in chosen[:MOST_PROMISES])


def predicted(rate: Rate, own: Rate) -> float:
    """How a setting should do, in bits per byte and up to a constant: lower is better.

    More text read is better until it repeats; the model should be as large as that text can fill and no larger; and a
    batch is too large when it leaves too few updates.
    """
    tokens = rate.tokens_per_step * rate.updates
    if rate.passes > MOST_PASSES:
        tokens *= MOST_PASSES / rate.passes
    fitting = max(1.0, tokens / TOKENS_PER_PARAMETER)
    misfit = math.log(max(1, rate.parameters) / fitting)
    shorter = math.log2(max(1.0, float(own.knobs.get("CONTEXT", 1)) / float(rate.knobs.get("CONTEXT", 1))))
    return (
        -PER_TOKENS * math.log(max(1.0, tokens))
        + (PER_TOO_LARGE * misfit if misfit > 0 else -PER_TOO_SMALL * misfit)
        + PER_UPDATES * max(0.0, math.log(ENOUGH_UPDATES / rate.updates))
        + PER_CONTEXT * shorter
    )


def next_promise(space: Space) -> Proposal | None:
    """The first promise that was not tried; None when there is none, or no rates."""
    names = {knob.name for knob in space.knobs}
    for setting in promises(space.context.rates):
        opening = f"{TITLE}: {setting_words(setting)};"
        assignment = space.conform({**space.head, **setting}) if setting.keys() <= names else None
        if assignment is None or any(past.hypothesis.startswith(opening) for past in space.context.history):
            continue
        proposal = space.proposal(
            assignment,
            f"{opening} predicted from steps that were timed here",
            "What it reads within the budget, how often it updates, and how large a model that text can fill.",
            "a better dev score within the same budget",
        )
        if proposal is not None:
            return proposal
    return None


def setting_words(setting: Mapping[str, KnobValue]) -> str:
    """A setting as hypotheses and notes name it."""
    return ", ".join(f"{name} {shown(value)}" for name, value in setting.items())
