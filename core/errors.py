"""Every error a person can meet, in one tree, with an exit code per class.

SlmArError (1)
|-- UsageError (2)            the command line or the state of the workspace does not allow this
|-- RecipeError (3)           recipe.toml is invalid, or an optional extra is missing
|-- DataError (4)             the source or an adapter: missing, unreadable, too small, leaking
|-- TrainingError (5)         train.py cannot be run or scored
|-- ProposerError (6)         the proposer or its backend failed
|-- BudgetError (7)           disk, memory or campaign budget exhausted
|-- WorkspaceBusyError (2)    another loop holds this workspace
`-- JournalError (1)          the journal is damaged

130 is Ctrl-C (state saved). The same table stands in docs/errors.md.
The command line prints `message` and `hint` and no traceback.
"""

from __future__ import annotations

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when the disk has no room left, or this person's share of it has none."""


class SlmArError(Exception):
    """Base class. `message` says what and where; `hint` is the command or edit that repairs it."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(SlmArError):
    """The command cannot be used like this or here."""

    exit_code = 2


class RecipeError(SlmArError):
    """The recipe is invalid, or it needs an extra that is not installed."""

    exit_code = 3


class DataError(SlmArError):
    """The source cannot become documents, or the documents cannot become honest splits."""

    exit_code = 4


class TrainingError(SlmArError):
    """train.py could not be started, trained or scored."""

    exit_code = 5


class ProposerError(SlmArError):
    """The proposer has nothing valid to propose, or its backend failed."""

    exit_code = 6


class BudgetError(SlmArError):
    """Disk space, memory or the campaign's own budget is exhausted."""

    exit_code = 7


class WorkspaceBusyError(SlmArError):
    """Another loop holds this workspace; `message` names its process."""

    exit_code = 2


class JournalError(SlmArError):
    """The journal's hash chain is broken or the file cannot be read."""

    exit_code = 1


def did_you_mean(word: str, known: list[str]) -> str:
    """A sentence with the nearest known name, or the list of all; empty when nothing is known."""
    import difflib

    if not known:
        return ""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"Did you mean '{near[0]}'?"
    return "Known: " + ", ".join(sorted(known)) + "."
