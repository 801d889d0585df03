"""Proposers: each turns a ResearchContext into the next Proposal. `make_proposer` finds one by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ...contracts import Proposer
    from .calls import Setting

OFFLINE = ("search", "tpe", "tpe-playbook", "random")
"""Those that need no language model: `search`, and the yardsticks that it has to beat."""
ASKING = ("claude", "local")
"""Those that ask a language model, and need a setting; so do cli:NAME, which start a program."""
PROGRAMS = ("cli:claude", "cli:codex", "cli:gemini", "cli:opencode")
"""Programs that are known; cli: and any other name takes its command from the recipe."""
OTHERS = ("hybrid", "human", "replay")
"""Those that propose what somebody else does; they need a setting too."""


def make_proposer(name: str, setting: Setting | None = None) -> Proposer:
    """The proposer called `name`. Nothing is sent. Raises UsageError for an unknown name.

    All but those of OFFLINE need `setting`; they raise UsageError and ProposerError where it, or the environment,
    cannot work: no key, a key for another host, no such program, no recording, offline.
    """
    if name == "search":
        from .search import SearchProposer

        return SearchProposer()
    if name in OFFLINE:
        from .yardsticks import make_yardstick

        return make_yardstick(name)
    if name not in (*ASKING, *OTHERS) and not name.startswith("cli:"):
        raise unknown_proposer(name)
    if setting is None:
        raise UsageError(f"Proposer {name} works inside a campaign only.", "start one with `slm-ar run`")
    return _with_setting(name, setting)


def _with_setting(name: str, setting: Setting) -> Proposer:
    if name in ASKING:
        from .messages import MessagesProposer

        return MessagesProposer(setting)
    if name == "hybrid":
        from .hybrid import HybridProposer, partners_setting

        partner = partners_setting(setting)
        return HybridProposer(setting, _with_setting(partner.table.name, partner))
    if name == "human":
        from .by_hand import HumanProposer

        return HumanProposer(setting)
    if name == "replay":
        from .recorded import ReplayProposer

        return ReplayProposer(setting)
    from .command import CommandProposer

    return CommandProposer(setting)


def unknown_proposer(name: str) -> UsageError:
    """The error for a name that no proposer has."""
    return UsageError(f"There is no proposer '{name}'.", did_you_mean(name, [*OFFLINE, *ASKING, *PROGRAMS, *OTHERS]))
