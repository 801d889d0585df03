"""The space that a train.py spans with its knobs, and what the history says about it. Called by the offline proposers.

Promises: all of it is a function of the context; no assignment is proposed twice; what was learnt before an edit of the
code is carried over as far as the knobs are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ...contracts import Knob, KnobValue, PastExperiment, Proposal, ResearchContext, Status
from ...errors import TrainingError
from ..edits import canonical_value, parse_knobs, revision_digest, round_significant, set_knobs, template_digest
from ..level import TAKEN_BACK

Assignment = Mapping[str, KnobValue]
"""A value for every knob of a train.py, in the order of declaration."""

SCORED = frozenset({Status.KEPT, Status.REVERTED, Status.DISTURBED})
FAILED = frozenset({Status.INVALID, Status.CRASHED, Status.TIMEOUT, Status.OOM, Status.QUOTA, Status.PRUNED})
TOO_MUCH = frozenset({Status.TIMEOUT, Status.OOM})
"""Failures that a larger size can only repeat."""
SIZES = ("TARGET_PARAMS_M", "BATCH_TOKENS", "CONTEXT", "DEPTH", "LAYERS", "WIDTH")
"""Knobs of which more needs more memory and time, where they are numbers."""

_DRAWS = 1000
_COUNTABLE = 100_000
"""Spaces up to this size are gone through to the last assignment."""


# --- one knob -------------------------------------------------------------------------------


def fitted(knob: Knob, value: float) -> KnobValue:
    """`value` inside the knob's range, of its type, with 3 significant digits."""
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return int(min(max(round(value), knob.low), knob.high))
    return min(max(round_significant(value, 3), knob.low), knob.high)


def ranked(knob: Knob) -> list[KnobValue]:
    """The choices of a knob in order: numbers by size, words as they are declared."""
    return list(knob.choices) if isinstance(knob.choices[0], str) else sorted(knob.choices, key=float)


def is_word(knob: Knob) -> bool:
    """Whether the knob chooses among words, which have no order."""
    return knob.kind == "choice" and isinstance(knob.choices[0], str)


def place_of(knob: Knob, value: KnobValue) -> float:
    """Where `value` lies between the ends of the knob's range, 0..1; choices lie at even distances."""
    if knob.kind == "choice":
        return ranked(knob).index(value) / (len(knob.choices) - 1)
    assert knob.low is not None and knob.high is not None
    low, high, number = float(knob.low), float(knob.high), float(value)
    if knob.log:
        low, high, number = math.log(low), math.log(high), math.log(number)
    return (number - low) / (high - low)


def value_at(knob: Knob, place: float) -> KnobValue:
    """The value at a place of the knob's range; the inverse of `place_of`, up to rounding."""
    place = min(max(place, 0.0), 1.0)
    if knob.kind == "choice":
        return ranked(knob)[round(place * (len(knob.choices) - 1))]
    assert knob.low is not None and knob.high is not None
    if knob.log:
        return fitted(knob, math.exp(math.log(knob.low) + place * (math.log(knob.high) - math.log(knob.low))))
    return fitted(knob, knob.low + place * (knob.high - knob.low))


def _all_values(knob: Knob) -> tuple[KnobValue, ...] | range | None:
    if knob.kind == "choice":
        return knob.choices
    assert knob.low is not None and knob.high is not None
    return range(int(knob.low), int(knob.high) + 1) if knob.kind == "int" else None


def _random_value(knob: Knob, rng: random.Random) -> KnobValue:
    if knob.kind == "choice":
        return rng.choice(knob.choices)
    assert knob.low is not None and knob.high is not None
    # Half a step beyond each end of an int range, so that its ends are as likely as the rest.
    margin = 0.5 if knob.kind == "int" else 0.0
    low, high = knob.low - margin, knob.high + margin
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if knob.log else rng.uniform(low, high)
    return fitted(knob, value)


def shown(value: KnobValue) -> str:
    """A value as a hypothesis names it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- the whole space ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """A past experiment, or the current code, as a point of the space."""

    assignment: Assignment
    loss: float | None
    """By how much worse than the best of its template; None where there is no score."""
    status: Status
    is_own: bool
    """Whether it was measured with this very code, but for the values of its knobs."""


class Space:
    """The current code's knobs and what the history says about them."""

    def __init__(self, context: ResearchContext) -> None:
        self.context = context
        self.knobs = parse_knobs(context.train_py)
        self.head: Assignment = {knob.name: knob.value for knob in self.knobs}
        self._template = template_digest(context.train_py)
        self.own = [past for past in context.history if past.template == self._template]
        self.others = [past for past in context.history if past.template != self._template]
        self._first = {**self.head, **(self.own[0].knobs if self.own else {})}
        self._revisions = {context.revision, revision_digest(context.train_py)}
        self._revisions.update(revision for past in context.history for revision in (past.revision, past.parent))
        known = (self.conform(past.knobs) for past in self.own)
        self._assignments = {self._key(assignment) for assignment in (self.head, *known) if assignment is not None}

    def conform(self, values: Mapping[str, KnobValue]) -> Assignment | None:
        """`values` as an assignment of this train.py; None when most knobs are others, or a range has changed.

        A knob that an edit added since stands at what the edit gave it; one that is gone is left out.
        """
        if 2 * len(values.keys() & self.head.keys()) <= len(self.head):
            return None
        full = {**self._first, **values}
        try:
            return {knob.name: canonical_value(knob, full[knob.name]) for knob in self.knobs}
        except TrainingError:
            return None

    def random(self, attempt: int = 0) -> random.Random:
        """Randomness that depends on the campaign's seed, on how far it has come and on the attempt."""
        key = f"{self.context.seed}/{len(self.context.history)}/{attempt}"
        return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))

    def is_new(self, assignment: Assignment) -> bool:
        return self._key(assignment) not in self._assignments

    def is_new_text(self, text: str) -> bool:
        return revision_digest(text) not in self._revisions

    def proposal(self, assignment: Assignment, hypothesis: str, rationale: str, effect: str) -> Proposal | None:
        """The proposal of `assignment`; None when it has been tried. Assignments are compared first, being cheap."""
        if not self.is_new(assignment):
            return None
        return self.rewritten(set_knobs(self.context.train_py, assignment), hypothesis, rationale, effect)

    def rewritten(self, text: str, hypothesis: str, rationale: str, effect: str) -> Proposal | None:
        """The proposal of a whole train.py; None when it has been tried."""
        if not self.is_new_text(text):
            return None
        knobs = {knob.name: knob.value for knob in parse_knobs(text)}
        return Proposal(hypothesis, rationale, text, knobs, effect)

    def changes(self, assignment: Assignment) -> list[str]:
        """The differences from the head in words: `DEPTH 4 -> 6`."""
        return [
            f"{name} {shown(self.head[name])} -> {shown(value)}"
            for name, value in assignment.items()
            if value != self.head[name]
        ]

    def drawn(self) -> Iterator[Assignment]:
        """Random assignments: every one there is, once, when they can be counted; else a fixed number of draws."""
        rng = self.random()
        values = [_all_values(knob) for knob in self.knobs]
        countable = [some for some in values if some is not None]
        if len(countable) == len(values) and math.prod(map(len, countable)) <= _COUNTABLE:
            everything = list(itertools.product(*countable))
            rng.shuffle(everything)
            for chosen in everything:
                yield {knob.name: value for knob, value in zip(self.knobs, chosen, strict=True)}
        else:
            for _ in range(_DRAWS):
                yield {knob.name: _random_value(knob, rng) for knob in self.knobs}

    def _key(self, assignment: Assignment) -> tuple[KnobValue, ...]:
        return tuple(assignment[knob.name] for knob in self.knobs)

    # --- what was learnt ------------------------------------------------------------------------

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Past experiments as points, oldest first, with losses relative to the best of their template.

        Other templates (the code was edited) come first, as a warm start. Interrupted and skipped ones say nothing.
        """
        known = (*self.others, *self.own)
        best: dict[str, float] = {}
        for past in known:
            if (cost := self._cost(past)) is not None:
                best[past.template] = min(cost, best.get(past.template, cost))
        trials = []
        for past in known:
            assignment = self.conform(past.knobs) if past.status in SCORED | FAILED else None
            if assignment is not None:
                cost = self._cost(past)
                loss = None if cost is None else cost - best[past.template]
                trials.append(Trial(assignment, loss, past.status, past.template == self._template))
        return tuple(trials)

    @cached_property
    def head_trial(self) -> Trial | None:
        """The current code as a point, where it is no experiment: it has beaten every revision tried from it.

        But for an edit that was kept and taken back, whose lucky score was better.
        """
        if any(past.revision == self.context.revision for past in self.context.history):
            return None
        tried = (past for past in self.own if past.parent == self.context.revision)
        beaten = [past for past in tried if past.status is Status.REVERTED and past.reason != TAKEN_BACK]
        costs = [cost for past in beaten if (cost := self._cost(past)) is not None]
        best = min((cost for past in self.own if (cost := self._cost(past)) is not None), default=None)
        if not costs or best is None:
            return None
        return Trial(self.head, min(costs) - best, Status.KEPT, True)

    def is_too_much(self, assignment: Assignment) -> bool:
        """Whether sizes as large as these ran out of memory or time before, and none as large ever worked."""
        sizes = self._sizes(assignment)
        return any(_covers(sizes, limit) for limit in self._limits)

    @cached_property
    def _limits(self) -> frozenset[tuple[float, ...]]:
        """Sizes that were too much; none where nothing among the knobs is a size."""
        if not self._sizes(self.head):
            return frozenset()
        worked = {self._sizes(trial.assignment) for trial in self.trials if trial.loss is not None}
        worked.add(self._sizes(self.head))
        failed = {self._sizes(trial.assignment) for trial in self.trials if trial.status in TOO_MUCH}
        return frozenset(limit for limit in failed if not any(_covers(fine, limit) for fine in worked))

    def _sizes(self, assignment: Assignment) -> tuple[float, ...]:
        return tuple(float(assignment[knob.name]) for knob in self.knobs if knob.name in SIZES and not is_word(knob))

    def _cost(self, past: PastExperiment) -> float | None:
        """The score, lower is better. A pruned run's is that of an unfinished training, an invalid one is none."""
        if past.status not in SCORED or past.dev_score is None or not math.isfinite(past.dev_score):
            return None
        return past.dev_score if self.context.direction == "min" else -past.dev_score


def _covers(large: tuple[float, ...], small: tuple[float, ...]) -> bool:
    return all(more >= less for more, less in zip(large, small, strict=True))


def draw(space: Space, why: str, assignments: Iterable[Assignment] | None = None) -> Proposal | None:
    """The first untried one of random assignments; None when there is none left."""
    for assignment in space.drawn() if assignments is None else assignments:
        changes = ", ".join(space.changes(assignment))
        proposal = space.proposal(assignment, f"draw at random: {changes}", f"A random point: {why}.", "unknown")
        if proposal is not None:
            return proposal
    return None
