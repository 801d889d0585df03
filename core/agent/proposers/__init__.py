"""Proposers: each turns a ResearchContext into the next Proposal. `make_proposer` finds one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ...contracts import Proposer


def make_proposer(name: str) -> Proposer:
    """The proposer called `name`. Raises UsageError for an unknown name."""
    if name == "search":
        from .search import SearchProposer

        return SearchProposer()
    if name == "random":
        from .search import RandomProposer

        return RandomProposer()
    raise UsageError(f"There is no proposer '{name}'.", did_you_mean(name, ["search", "random"]))
