"""The proposers that need no language model: `search` (known good moves, then TPE) and `random` (its yardstick).

The campaign calls them through `make_proposer`. A proposal is a function of the context alone, so replaying a journal
gives the same proposals again, and it is never one that the history holds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ...contracts import Knob, KnobValue, PastExperiment, Proposal, ResearchContext, Status
from ...errors import TrainingError
from ..edits import canonical_value, parse_knobs, revision_digest, round_significant, set_knobs, template_digest

if TYPE_CHECKING:
    import optuna

Assignment = Mapping[str, KnobValue]
"""A value for every knob of a train.py, in the order of declaration."""

_SCORED = frozenset({Status.KEPT, Status.REVERTED, Status.DISTURBED})
_FAILED = frozenset({Status.INVALID, Status.CRASHED, Status.TIMEOUT, Status.OOM, Status.QUOTA, Status.PRUNED})
_ASKS = 8
_DRAWS = 1000
_COUNTABLE = 100_000
"""Spaces up to this size are gone through to the last assignment."""
_SETBACKS = 2


# --- the opening ----------------------------------------------------------------------------


def _times(factor: float) -> Callable[[float], float]:
    return lambda value: value * factor


def _to(target: float) -> Callable[[float], float]:
    return lambda value: target


@dataclass(frozen=True, slots=True)
class Move:
    """A change to the head that is known to pay often. It turns all the knobs whose names match, together."""

    title: str
    """Opens the hypothesis, by which the move is recognised in the history: unique, and never changed."""
    pattern: str
    """Glob over knob names."""
    transform: Callable[[float], float]
    reason: str
    unit: str = ""


OPENING: tuple[Move, ...] = (
    Move("halve the model", "TARGET_PARAMS_M", _times(0.5), "a smaller model sees more text", "M parameters"),
    Move("double the model", "TARGET_PARAMS_M", _times(2), "this machine may have room for more model", "M parameters"),
    Move("halve the batch", "BATCH_TOKENS", _times(0.5), "small machines gain from more updates", "tokens per step"),
    Move("double the learning rates", "*LR", _times(2), "short runs want large steps"),
    Move("halve the learning rates", "*LR", _times(0.5), "the steps may be too large for this model"),
    Move("widen the model", "ASPECT_RATIO", _times(2), "fewer, wider layers run faster", "units of width per layer"),
    Move("deepen the model", "ASPECT_RATIO", _times(0.5), "more layers may learn more", "units of width per layer"),
    Move("use fewer layers", "DEPTH", _times(0.5), "a shallow model sees more text", "layers"),
    Move("use more layers", "DEPTH", _times(1.5), "this machine may have room for more layers", "layers"),
    Move("halve the context", "CONTEXT", _times(0.5), "short contexts make cheap steps", "tokens"),
    Move("drop the dropout", "DROPOUT", _to(0.0), "text that is seen only a few times needs none"),
    Move("shrink the feed-forward layers", "MLP_RATIO", _times(0.75), "cheap layers see more text", "times the width"),
    Move("shorten the warm-up", "WARMUP", _times(0.5), "a short run has no steps to spare", "of the run"),
    Move("lengthen the cool-down", "COOLDOWN", _times(1.5), "much is learnt while the rate falls", "of the run"),
    Move("shorten the cool-down", "COOLDOWN", _times(0.5), "more steps at the full rate", "of the run"),
    Move("halve the heads' width", "HEAD_DIM", _times(0.5), "more heads can look at more places", "dimensions"),
    Move("halve the weight decay", "WEIGHT_DECAY", _times(0.5), "a short run hardly overfits"),
    Move("double the batch", "BATCH_TOKENS", _times(2), "fast machines gain from full batches", "tokens per step"),
    Move("double the context", "CONTEXT", _times(2), "longer contexts predict better", "tokens"),
)  # fmt: skip


def moved(knob: Knob, transform: Callable[[float], float]) -> KnobValue:
    """The knob's value after `transform`: clamped to its range, or the nearest choice that way; perhaps unchanged."""
    if isinstance(knob.value, str):
        return knob.value
    target = transform(knob.value)
    if knob.kind == "choice":
        # The nearest choice on the target's side of the value, so that a coarse grid still lets the move through.
        choices = [choice for choice in knob.choices if not isinstance(choice, str)]
        beyond = [choice for choice in choices if (choice - knob.value) * (target - knob.value) > 0]
        return min(beyond, key=lambda choice: (abs(choice - target), choice), default=knob.value)
    if knob.kind == "int" and target != knob.value:
        target = max(round(target), knob.value + 1) if target > knob.value else min(round(target), knob.value - 1)
    return _fitted(knob, target)


def _fitted(knob: Knob, value: float) -> KnobValue:
    """`value` inside the knob's range, of its type, with 3 significant digits."""
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return int(min(max(value, knob.low), knob.high))
    return min(max(round_significant(value, 3), knob.low), knob.high)


# --- what is known --------------------------------------------------------------------------


class _Search:
    """The head's knobs and what the history says about them."""

    def __init__(self, context: ResearchContext) -> None:
        self.context = context
        self.knobs = parse_knobs(context.train_py)
        self.head: Assignment = {knob.name: knob.value for knob in self.knobs}
        template = template_digest(context.train_py)
        self.own = [past for past in context.history if past.template == template]
        self.others = [past for past in context.history if past.template != template]
        self._revisions = {context.revision, revision_digest(context.train_py)}
        self._revisions.update(revision for past in context.history for revision in (past.revision, past.parent))
        known = (self.conform(past.knobs) for past in self.own)
        self._assignments = {self._key(assignment) for assignment in (self.head, *known) if assignment is not None}

    def conform(self, values: Mapping[str, KnobValue]) -> Assignment | None:
        """`values` as an assignment of this train.py; None when it has other knobs or other ranges."""
        if values.keys() != self.head.keys():
            return None
        try:
            return {knob.name: canonical_value(knob, values[knob.name]) for knob in self.knobs}
        except TrainingError:
            return None

    def random(self, attempt: int = 0) -> random.Random:
        """Randomness that depends on the campaign's seed, on how far it has come and on the attempt."""
        key = f"{self.context.seed}/{len(self.context.history)}/{attempt}"
        return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))

    def proposal(self, assignment: Assignment, hypothesis: str, rationale: str, effect: str) -> Proposal | None:
        """The proposal of `assignment`; None when it has been tried. Assignments are compared first, being cheap."""
        if self._key(assignment) in self._assignments:
            return None
        text = set_knobs(self.context.train_py, assignment)
        if revision_digest(text) in self._revisions:
            return None
        return Proposal(hypothesis, rationale, text, dict(assignment), effect)

    def changes(self, assignment: Assignment) -> list[str]:
        """The differences from the head in words: `DEPTH 4 -> 6`."""
        return [
            f"{name} {_shown(self.head[name])} -> {_shown(value)}"
            for name, value in assignment.items()
            if value != self.head[name]
        ]

    def _key(self, assignment: Assignment) -> tuple[KnobValue, ...]:
        return tuple(assignment[knob.name] for knob in self.knobs)


def _shown(value: KnobValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- proposers ------------------------------------------------------------------------------


class SearchProposer:
    """First the moves that pay most on small machines, then TPE over all knobs. Needs no network and no key."""

    name = "search"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next untried assignment; None when there is none left, or when train.py declares no knobs."""
        search = _Search(context)
        if not search.knobs:
            return None
        return _next_move(search) or _ask_optimiser(search) or _draw(search, "the model had nothing new to say")


class RandomProposer:
    """Uniform draws over the declared ranges: what any other proposer has to beat."""

    name = "random"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """A random untried assignment; None when there is none left, or when train.py declares no knobs."""
        search = _Search(context)
        return _draw(search, "the yardstick for other proposers") if search.knobs else None


def _next_move(search: _Search) -> Proposal | None:
    """The move to try now: first the one that was kept last, then those with fewest setbacks, in order."""
    for move in _in_order(search.own):
        turned = [knob for knob in search.knobs if fnmatchcase(knob.name, move.pattern)]
        after = {knob.name: moved(knob, move.transform) for knob in turned}
        assignment = {**search.head, **after}
        changes = search.changes(assignment)
        if len(changes) == 1:
            changes = [f"{changes[0].split(' ', maxsplit=1)[1]} {move.unit}".rstrip()]
        hypothesis = f"{move.title}: {', '.join(changes)}; {move.reason}"
        rationale = f"A move that often pays on small machines; it turns {', '.join(after)} and nothing else."
        proposal = search.proposal(assignment, hypothesis, rationale, "a better dev score within the same budget")
        if proposal is not None:
            return proposal
    return None


def _in_order(own: list[PastExperiment]) -> Iterator[Move]:
    """Moves worth a try in this template. A move has a setback when it failed, and when its opposite was kept."""
    setbacks = dict.fromkeys(OPENING, 0)
    last_kept: Move | None = None
    for past in own:
        move = next((move for move in OPENING if past.hypothesis.startswith(f"{move.title}:")), None)
        if past.status is Status.KEPT:
            last_kept = move
            for other in OPENING:
                if move is not None and other is not move and other.pattern == move.pattern:
                    setbacks[other] += 1
        elif move is not None and (past.status is Status.REVERTED or past.status in _FAILED):
            setbacks[move] += 1
    hopeful = [move for move in OPENING if setbacks[move] < _SETBACKS]
    yield from sorted(hopeful, key=lambda move: (move is not last_kept, setbacks[move]))


def _draw(search: _Search, why: str) -> Proposal | None:
    for assignment in _random_assignments(search):
        changes = ", ".join(search.changes(assignment))
        proposal = search.proposal(assignment, f"draw at random: {changes}", f"A random point: {why}.", "unknown")
        if proposal is not None:
            return proposal
    return None


def _random_assignments(search: _Search) -> Iterator[Assignment]:
    """Random assignments: every one there is, once, when they can be counted; else a fixed number of draws."""
    rng = search.random()
    values = [_all_values(knob) for knob in search.knobs]
    countable = [some for some in values if some is not None]
    if len(countable) == len(values) and math.prod(map(len, countable)) <= _COUNTABLE:
        everything = list(itertools.product(*countable))
        rng.shuffle(everything)
        for chosen in everything:
            yield {knob.name: value for knob, value in zip(search.knobs, chosen, strict=True)}
    else:
        for _ in range(_DRAWS):
            yield {knob.name: _random_value(knob, rng) for knob in search.knobs}


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
    return _fitted(knob, round(value) if knob.kind == "int" else value)


# --- TPE ------------------------------------------------------------------------------------


def _ask_optimiser(search: _Search) -> Proposal | None:
    """What TPE (Bergstra et al. 2011, Optuna's) asks for after all that was tried; None when it only repeats itself."""
    trials = _past_trials(search)
    rationale = f"The optimiser's model of {len(trials)} past results expects more here than elsewhere."
    for attempt in range(_ASKS):
        assignment = _asked(search, trials, search.random(attempt).getrandbits(31))
        changes = search.changes(assignment)
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        hypothesis = f"follow the optimiser: {', '.join(changes[:4])}{more}"
        proposal = search.proposal(assignment, hypothesis, rationale, "a better dev score, by the optimiser's model")
        if proposal is not None:
            return proposal
    return None


def _past_trials(search: _Search) -> list[tuple[Assignment, float | None]]:
    """Past assignments with their scores, relative to the best of their template; None stands for a failure.

    Other templates (the code was edited) come first as a warm start, where they have the same knobs.
    """
    pick_best = min if search.context.direction == "min" else max
    best: dict[str, float] = {}
    for past in (*search.others, *search.own):
        score = _score(past)
        if score is not None:
            best[past.template] = pick_best(score, best.get(past.template, score))
    trials: list[tuple[Assignment, float | None]] = []
    for past in (*search.others, *search.own):
        score, assignment = _score(past), search.conform(past.knobs)
        if assignment is None:
            continue
        if score is not None:
            trials.append((assignment, score - best[past.template]))
        elif past.status in _FAILED or past.status in _SCORED:  # interrupted and skipped ones say nothing
            trials.append((assignment, None))
    return trials


def _score(past: PastExperiment) -> float | None:
    """A pruned run's score is that of an unfinished training, and an invalid one is no score: neither is compared."""
    if past.status not in _SCORED or past.dev_score is None or not math.isfinite(past.dev_score):
        return None
    return past.dev_score


def _asked(search: _Search, trials: list[tuple[Assignment, float | None]], seed: int) -> Assignment:
    import optuna

    axes = {knob.name: _axis(knob) for knob in search.knobs}
    with _quiet():
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
        study = optuna.create_study(
            sampler=sampler, direction="minimize" if search.context.direction == "min" else "maximize"
        )
        for assignment, score in trials:
            # TPE ignores trials of the state FAIL. One that was pruned before its first report ranks below all others,
            # and so the model learns where train.py crashes or runs out of memory.
            state = optuna.trial.TrialState.PRUNED if score is None else optuna.trial.TrialState.COMPLETE
            places = {knob.name: _place(knob, assignment[knob.name]) for knob in search.knobs}
            study.add_trial(optuna.trial.create_trial(params=places, distributions=axes, value=score, state=state))
        places = study.ask(axes).params
    return {knob.name: _at(knob, places[knob.name]) for knob in search.knobs}


def _axis(knob: Knob) -> optuna.distributions.BaseDistribution:
    """Choices among numbers are an axis of ranks, so that the optimiser knows that 512 lies between 256 and 1024."""
    import optuna

    if knob.kind == "choice":
        if isinstance(knob.choices[0], str):
            return optuna.distributions.CategoricalDistribution(knob.choices)
        return optuna.distributions.IntDistribution(0, len(knob.choices) - 1)
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return optuna.distributions.IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)


def _ranked(knob: Knob) -> list[KnobValue]:
    return sorted(knob.choices, key=float)


def _place(knob: Knob, value: KnobValue) -> KnobValue:
    """Where `value` lies on the knob's axis."""
    return _ranked(knob).index(value) if knob.kind == "choice" and not isinstance(value, str) else value


def _at(knob: Knob, place: Any) -> KnobValue:
    """The value at a place of the knob's axis."""
    if knob.kind != "choice":
        return _fitted(knob, place)
    return str(place) if isinstance(place, str) else _ranked(knob)[place]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its log lines and without its notes that something is experimental."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
