"""Proposers that `search` has to beat: random draws, plain TPE, and TPE after the same playbook. Offline, like it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...contracts import Knob, KnobValue, Proposal, ResearchContext
from .moves import next_move
from .playbook import playbook
from .rates import next_promise
from .space import Assignment, Space, draw, fitted, is_word, ranked

if TYPE_CHECKING:
    import optuna

_ASKS = 8


class RandomProposer:
    """Uniform draws over the declared ranges."""

    name = "random"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """A random untried assignment; None when there is none left, or when train.py declares no knobs."""
        space = Space(context)
        return draw(space, "the yardstick for other proposers") if space.knobs else None


class TpeProposer:
    """TPE as Optuna ships it (Bergstra et al. 2011), ten random draws first. It starts from the ranges alone."""

    name = "tpe"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next point of the study that the history makes; None when train.py declares no knobs."""
        space = Space(context)
        return _tpe(space) or draw(space, "TPE only repeats itself") if space.knobs else None


class TpePlaybookProposer:
    """The playbook of `search` first, all of it, then TPE: what the optimiser of `search` adds is the difference."""

    name = "tpe-playbook"
    wants_rates = True

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next promise or move, or else the next point; None where there is none, or train.py has no knobs."""
        space = Space(context)
        if not space.knobs:
            return None
        proposal = next_promise(space) or next_move(space, playbook(context.form))
        return proposal or _tpe(space) or draw(space, "TPE only repeats itself")


def make_yardstick(name: str) -> RandomProposer | TpeProposer | TpePlaybookProposer:
    """The yardstick called `name`."""
    return {kind.name: kind for kind in (RandomProposer, TpeProposer, TpePlaybookProposer)}[name]()


def _tpe(space: Space) -> Proposal | None:
    """What TPE asks for after all that was tried; None when it only repeats itself."""
    rationale = f"TPE's model of {len(space.trials)} past results expects more here than elsewhere."
    for attempt in range(_ASKS):
        assignment = _asked(space, space.random(attempt).getrandbits(31))
        changes = space.changes(assignment)
        more = f" and {len(changes) - 4} more" if len(changes) > 4 else ""
        hypothesis = f"follow TPE: {', '.join(changes[:4])}{more}"
        proposal = space.proposal(assignment, hypothesis, rationale, "a better dev score, by TPE's model")
        if proposal is not None:
            return proposal
    return None


def _asked(space: Space, seed: int) -> Assignment:
    import optuna

    axes = {knob.name: _axis(knob) for knob in space.knobs}
    with _quiet():
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), direction="minimize")
        for trial in space.trials:
            # TPE ignores trials of the state FAIL. One that was pruned before its first report ranks below all others,
            # and so the model learns where train.py crashes or runs out of memory.
            state = optuna.trial.TrialState.PRUNED if trial.loss is None else optuna.trial.TrialState.COMPLETE
            places = {knob.name: _place(knob, trial.assignment[knob.name]) for knob in space.knobs}
            study.add_trial(optuna.trial.create_trial(params=places, distributions=axes, value=trial.loss, state=state))
        places = study.ask(axes).params
    return {knob.name: _at(knob, places[knob.name]) for knob in space.knobs}


def _axis(knob: Knob) -> optuna.distributions.BaseDistribution:
    """Choices among numbers are an axis of ranks, so that the optimiser knows that 512 lies between 256 and 1024."""
    import optuna

    if knob.kind == "choice":
        if is_word(knob):
            return optuna.distributions.CategoricalDistribution(knob.choices)
        return optuna.distributions.IntDistribution(0, len(knob.choices) - 1)
    assert knob.low is not None and knob.high is not None
    if knob.kind == "int":
        return optuna.distributions.IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)


def _place(knob: Knob, value: KnobValue) -> KnobValue:
    """Where `value` lies on the knob's axis."""
    return ranked(knob).index(value) if knob.kind == "choice" and not is_word(knob) else value


def _at(knob: Knob, place: Any) -> KnobValue:
    """The value at a place of the knob's axis."""
    if knob.kind != "choice":
        return fitted(knob, place)
    return str(place) if is_word(knob) else ranked(knob)[place]


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
