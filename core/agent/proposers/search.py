"""The proposer `search`: known good moves and an optimiser over the knobs, in turn. Needs no network and no key.

A proposal is a function of the context alone, so replaying a journal gives the same proposals again, and it is never
one that the history holds.
"""

from __future__ import annotations

from ...contracts import Proposal, ResearchContext, Status
from .moves import next_move
from .optimiser import ask
from .playbook import playbook
from .rates import next_promise
from .space import Space, draw

UNTRAINED = frozenset({Status.SKIPPED, Status.INTERRUPTED})
"""What ended so has taken no turn from anybody."""
OPENING_MOVES = 8
"""Experiments before the optimiser is asked for the first time: it needs some results to learn from."""
MOVE_EVERY = 2
"""From then on, one experiment in so many is a move, as long as one is left that has not failed."""
RETRY_EVERY = 6
"""One in so many is a move that failed once, where the code has changed since."""


class SearchProposer:
    """First what timed steps promise and the moves that pay most, then moves in turn with the optimiser."""

    name = "search"
    wants_rates = True

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next untried change; None when there is none left, or when train.py declares no knobs."""
        space = Space(context)
        if not space.knobs:
            return None
        moves = playbook(context.form)
        count = sum(past.status not in UNTRAINED for past in context.history)
        proposal = next_promise(space)
        if proposal is None and (count < OPENING_MOVES or count % MOVE_EVERY == 0):
            proposal = next_move(space, moves, setbacks=1)
        if proposal is None and count % RETRY_EVERY == 0:
            proposal = next_move(space, moves)
        return proposal or ask(space) or next_move(space, moves) or self._drawn(space)

    @staticmethod
    def _drawn(space: Space) -> Proposal | None:
        fits = (assignment for assignment in space.drawn() if not space.is_too_much(assignment))
        return draw(space, "the model had nothing new to say", fits)
