"""Proposers: each turns a ResearchContext into the next Proposal. `make_proposer` finds one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ...contracts import Proposer
    from .calls import Setting

OFFLINE = ("search", "random")
ASKING = ("claude", "local")
"""Those that ask a language model, and need a setting."""


def make_proposer(name: str, setting: Setting | None = None) -> Proposer:
    """The proposer called `name`. Nothing is sent. Raises UsageError for an unknown name.

    Proposers that ask a language model need `setting`; they raise UsageError and ProposerError where it, or the
    environment, cannot work: no key, a key for another host, offline.
    """
    if name == "search":
        from .search import SearchProposer

        return SearchProposer()
    if name == "random":
        from .search import RandomProposer

        return RandomProposer()
    if name in ASKING:
        from .messages import MessagesProposer

        if setting is None:
            raise UsageError(f"Proposer {name} works inside a campaign only.", "start one with `slm-ar run`")
        return MessagesProposer(setting)
    raise UsageError(f"There is no proposer '{name}'.", did_you_mean(name, [*OFFLINE, *ASKING]))
