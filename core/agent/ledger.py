"""What a project has asked of its held-out text, over all workspaces: openings of test, nights with claims on hidden.

Called by the campaign, the plan of a night and `finish`. Promises: the same text has the same ledger wherever it was
prepared, because ledgers are named by what the text is; who asked before keeps its number.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path

from ..prepare.heldout import ensure_private, private_root
from .state import CampaignState

MANY_NIGHTS = 5
"""After so many nights on one hidden split a claim has a thirtieth of the first night's alpha left."""


def count_opening(held_digest: str, identity: str) -> int:
    """Write down that a campaign opens this test split; which opening of it that is, counted from 1."""
    return _written(_ledger("openings", held_digest), identity) + 1


def count_night(held_digest: str, night: str) -> int:
    """Write down that `night` claims on this hidden split; how many other nights did so before it."""
    return _written(_ledger("nights", held_digest), night)


def nights_before(held_digest: str, night: str) -> int:
    """What `count_night` would say, without writing."""
    entries = _entries(_ledger("nights", held_digest))
    return entries.index(night) if night in entries else len(entries)


def hidden_name(state: CampaignState) -> str:
    """Names the text of hidden alone: another dev or test around it makes it no younger."""
    return str(state.facts.get("hidden_digest") or state.facts["held_digest"])


def name_of_test(state: CampaignState) -> str:
    """The same for test."""
    return str(state.facts.get("test_digest") or state.facts["held_digest"])


def night_name(workspace: Path, state: CampaignState) -> str:
    """Names tonight among all nights of all workspaces; a night that is gone on with keeps its name."""
    parts = (workspace.resolve(), state.identity, state.started_at, state.facts.get("night", 0))
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:16]


def _ledger(kind: str, held_digest: str) -> Path:
    return ensure_private(private_root() / kind) / f"{held_digest}.txt"


def _entries(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def _written(path: Path, entry: str) -> int:
    """The place of `entry` in the ledger, counted from 0; added at the end and on disk when it was not there."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # two workspaces that ask at once must not have the same number
        entries = _entries(path)
        if entry not in entries:
            file.write(entry + "\n")
            file.flush()
            os.fsync(file.fileno())
            entries.append(entry)
    return entries.index(entry)
