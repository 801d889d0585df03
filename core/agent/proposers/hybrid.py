"""The proposer `hybrid`: an optimiser turns the knobs, and on about a third of the turns a language model is asked.

The campaign calls it through `make_proposer`. The language model (`with` in [proposer]: claude, local or cli:NAME) is
shown the optimiser's state, so that it proposes what an optimiser cannot, or moves it elsewhere. The division is that
of Ferreira et al. 2026 (arXiv 2603.24647: CMA-ES, and a language model on 30 % of the trials). Whose turn it is depends
on the campaign's seed and on how far it has come, so that a campaign goes on after a kill as it would have. When the
model gives no edit that can be used, the optimiser takes that turn; when it cannot be asked any more, all of them, and
that is said once. Where the optimiser has nothing to turn, the model gets its turns.
"""

from __future__ import annotations

import math
import random
from dataclasses import fields, replace

from ...contracts import Proposal, Proposer, ResearchContext
from ...errors import ProposerError, UsageError
from ...recipe import ProposerTable
from . import ASKING
from .calls import Setting
from .prompt import NotedContext
from .search import SearchProposer

FIRST_TURNS = 6
"""Turns of the optimiser before the language model's first: until then there is no state worth showing."""


class HybridProposer:
    """Divides the turns between the optimiser and a language model."""

    def __init__(self, setting: Setting, partner: Proposer) -> None:
        self.name = "hybrid"
        self._setting, self._partner = setting, partner
        self._optimiser: Proposer = SearchProposer()
        self._is_alone = False

    @property
    def wants_rates(self) -> bool:
        """Whether the optimiser wants to know, before it begins, how fast sizes train on this machine."""
        return bool(getattr(self._optimiser, "wants_rates", False))

    @property
    def why_nothing(self) -> str:
        """Why the last `propose` gave nothing: what the optimiser says, where it says something."""
        return str(getattr(self._optimiser, "why_nothing", ""))

    @property
    def opening_line(self) -> str:
        """How the turns are divided, and what the partner says."""
        share = self._setting.table.share
        words = f"hybrid: {self._partner.name} on {share:.0%} of the turns, the optimiser on the others"
        more = getattr(self._partner, "opening_line", "")
        return f"{words}. {more}" if more else words

    @property
    def closing_line(self) -> str:
        """What the partner has taken."""
        return str(getattr(self._partner, "closing_line", ""))

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The proposal of the one whose turn it is, or of the other where that one has none; None when both have none.

        `name` says afterwards whose it is.
        """
        unusable: Proposal | None = None
        is_partners = is_partners_turn(context, self._setting.table.share)
        if is_partners and not self._is_alone:
            self.name = f"hybrid:{self._partner.name}"
            proposal = self._asked(context)
            if proposal is not None and not proposal.unusable:
                return proposal
            unusable = proposal
        self.name = "hybrid:search"
        proposal = self._optimiser.propose(context)
        if proposal is not None and unusable is not None:
            # Not an experiment of its own: the history would not grow, and the same turn would come again.
            self._setting.tell(f"{self._partner.name}: {unusable.unusable}; the optimiser takes the turn")
        if proposal is not None or self._is_alone:
            return proposal
        # No knobs, or none that are untried: the model may still have ideas.
        self.name = f"hybrid:{self._partner.name}"
        return unusable if is_partners else self._asked(context)

    def _asked(self, context: ResearchContext) -> Proposal | None:
        from .optimiser import optimiser_state

        known = {field.name: getattr(context, field.name) for field in fields(ResearchContext)}
        why = "it proposes nothing more"
        try:
            proposal = self._partner.propose(NotedContext(**known, note=optimiser_state(context)))
        except ProposerError as error:
            proposal, why = None, f"{error.message} ({error.hint})" if error.hint else error.message
        if proposal is None:
            self._is_alone = True
            why = getattr(self._partner, "why_nothing", "") or why
            self._setting.tell(f"{self._partner.name} is not asked any more: {why}. The optimiser goes on alone")
        return proposal


def is_partners_turn(context: ResearchContext, share: float) -> bool:
    """Whether the language model is asked: `share` of the turns after the first, spread evenly, their phase by seed."""
    turn = len(context.history) - FIRST_TURNS
    if turn < 0:
        return False
    phase = random.Random(f"hybrid/{context.seed}").random()
    return math.floor((turn + 1) * share + phase) > math.floor(turn * share + phase)


def partners_setting(setting: Setting) -> Setting:
    """The setting of the language model that a recipe's hybrid asks. Raises UsageError where it names none."""
    return replace(setting, table=partners_table(setting.table))


def partners_table(table: ProposerTable) -> ProposerTable:
    """[proposer] as its `with` would have it alone. Raises UsageError."""
    name, known = table.partner, 'with = "claude", "local" or "cli:NAME"'
    if name is None:
        raise UsageError("proposer hybrid needs to know which language model to ask", f"set {known} in [proposer]")
    if name not in ASKING and not name.startswith("cli:"):
        raise UsageError(f"proposer hybrid cannot work with '{name}'", f"set {known} in [proposer]")
    return table.model_copy(update={"name": name})
