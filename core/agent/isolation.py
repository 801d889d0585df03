"""Under which walls a campaign's code ran: noted in the journal, and never weaker than before without a word.

Called by the command line once the executor has proved its sandbox and before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..train.sandbox.choice import REPAIR, Isolation, NoSandboxError
from ..train.sandbox.plans import best_level
from .journal import Event, Journal
from .replay import replay


def refuse_weaker(journal: Journal, isolation: Isolation, may_be_weaker: bool) -> None:
    """Called before a campaign is opened: another recipe begins a new one, which has had no walls yet.

    Raises NoSandboxError when less was proved than when the workspace was last worked in.
    """
    if not may_be_weaker:
        _refuse("the last campaign run here was", last_walls(journal.events), isolation)


def hold_isolation(journal: Journal, isolation: Isolation, may_be_weaker: bool) -> None:
    """Note what was proved. Raises NoSandboxError when it is less than what the campaign has had."""
    state = replay(journal.events)
    before = str(state.facts.get("isolation", "none")) if state is not None else "none"
    if not may_be_weaker:
        _refuse("this campaign ran", before, isolation)
    facts = isolation.to_json()
    if facts != _last_noted(journal):
        journal.append("sandbox", facts)


def _refuse(what: str, before: str, isolation: Isolation) -> None:
    if isolation.level >= level_of(before):
        return
    reasons = "; ".join(f"{plan.name}: {reason}" for plan, reason in isolation.passed_over)
    raise NoSandboxError(
        f"{what} under {before}; now only {isolation.words} holds ({reasons})",
        REPAIR if isolation.level == 0 else "`slm-ar doctor` shows how to mend it; --allow-unsafe accepts it",
    )


def last_walls(events: Sequence[Event]) -> str:
    """Under what the workspace was last worked in, in the words of `Isolation.words`; "none" before the first note."""
    noted = next((event.body for event in reversed(events) if event.kind == "sandbox"), None)
    return f"level {noted['level']} ({noted['name']})" if noted is not None and noted["level"] else "none"


def weaker_line(isolation: Isolation, last: str) -> str:
    """Told where there are no walls, or weaker ones than this system can have, or than `last_walls`; else empty."""
    if isolation.level >= max(1, best_level(), level_of(last)):
        return ""
    return isolation.line + (f"; last time it was {last}" if isolation.level < level_of(last) else "")


def level_of(words: str) -> int:
    """The level in what `Isolation.words` says; 0 for "none" and for what no version of slm-ar wrote."""
    found = re.match(r"level (\d)", words)
    return int(found[1]) if found else 0


def _last_noted(journal: Journal) -> Mapping[str, Any] | None:
    """The newest note of the campaign that is open."""
    noted: Mapping[str, Any] | None = None
    for event in journal.events:
        if event.kind in ("campaign_started", "campaign_reopened"):
            noted = None
        elif event.kind == "sandbox":
            noted = event.body
    return noted
