"""Under which walls a campaign's code ran: noted in the journal, and never weaker than before without a word.

Called by the command line once the executor has proved its sandbox and before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..train.sandbox.choice import REPAIR, Isolation, NoSandboxError
from .journal import Journal
from .replay import replay


def hold_isolation(journal: Journal, isolation: Isolation, may_be_weaker: bool) -> None:
    """Note what was proved. Raises NoSandboxError when it is less than what the campaign has had."""
    state = replay(journal.events)
    before = str(state.facts.get("isolation", "none")) if state is not None else "none"
    if isolation.level < level_of(before) and not may_be_weaker:
        reasons = "; ".join(f"{plan.name}: {reason}" for plan, reason in isolation.passed_over)
        raise NoSandboxError(
            f"this campaign ran under {before}; now only {isolation.words} holds ({reasons})",
            REPAIR if isolation.level == 0 else "`slm-ar doctor` shows how to mend it; --allow-unsafe accepts it",
        )
    facts = isolation.to_json()
    if facts != _last_noted(journal):
        journal.append("sandbox", facts)


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
