"""The proposer `replay`: proposes what a recorded campaign proposed, in its order. For tests, documentation and demos.

The campaign calls it through `make_proposer`. A recording is a workspace, its .slm folder, or the journal.jsonl that
`slm-ar report` writes. Promises: a proposal is a function of recording and context, never one that the history holds;
placebos and experiments without an edit are passed over; nothing of the recorded scores is used. A recording that
cannot be read is refused, with file and line, before anything is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts import Proposal, ResearchContext
from ...errors import ProposerError, SlmArError, UsageError
from ...files import named_path
from ..edits import check_train_py, revision_digest
from ..journal import JOURNAL_FILE, Journal
from ..planner import PLACEBO
from .answers import LONGEST_RATIONALE, LONGEST_SENTENCE, one_line
from .calls import Setting

_HINT = "name a workspace, its .slm folder, or a journal.jsonl that `slm-ar report` has written"
_EVENT = {"number", "at", "kind", "hash", "body"}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One experiment of a recording that changed the code."""

    revision: str
    proposer: str
    hypothesis: str
    rationale: str
    train_py: str


class ReplayProposer:
    """Proposes recorded experiments."""

    name = "replay"

    def __init__(self, setting: Setting) -> None:
        """Raises UsageError where the recipe names no recording, ProposerError where it cannot be used."""
        if setting.table.recording is None:
            raise UsageError("proposer replay needs a recording", f'set recording = "PATH" in [proposer]: {_HINT}')
        self._path = named_path(setting.table.recording, setting.folder.parent)
        self._recorded = read_recording(self._path)
        self.why_nothing = ""
        """Why the last `propose` gave nothing, in words for the end of the night."""

    @property
    def opening_line(self) -> str:
        """What is replayed, for the person who starts the night."""
        count = len(self._recorded)
        return f"replay of {count} recorded experiment{'s' * (count != 1)} of {self._path}"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The first recorded experiment that the history does not hold; None after the last."""
        known = {context.revision, revision_digest(context.train_py)}
        known.update(digest for past in context.history for digest in (past.revision, past.parent))
        for item in self._recorded:
            if item.revision not in known:
                return Proposal(item.hypothesis, f"recorded of {item.proposer}. {item.rationale}", item.train_py)
        self.why_nothing = f"all that is recorded in {self._path} was proposed"
        return None


def read_recording(path: Path) -> tuple[Recorded, ...]:
    """The experiments of a recording, in order, each revision once. Raises ProposerError and JournalError."""
    try:
        folder = path / ".slm" if (path / ".slm").is_dir() else path
        is_folder, is_file = folder.is_dir(), path.is_file()
    except OSError as error:  # such as a name that is too long
        raise _unreadable(path, error.strerror) from None
    if is_folder:
        if not (folder / JOURNAL_FILE).is_file():
            raise ProposerError(f"there is no recorded campaign in {path}", _HINT)
        with Journal(folder, read_only=True) as journal:
            bodies = [(f"event {event.number}", event.kind, event.body) for event in journal.events]
        found = _experiments(folder / JOURNAL_FILE, iter(bodies))
    elif is_file:
        found = _experiments(path, _rendered(path))
    else:  # a pipe, too, would be waited for
        raise _unreadable(path, "there is no such folder or file")
    first: dict[str, Recorded] = {}
    for item in found:
        first.setdefault(item.revision, item)
    if not first:
        raise ProposerError(f"{path} holds no experiment that changed train.py", _HINT)
    return tuple(first.values())


def _unreadable(path: Path, why: str | None) -> ProposerError:
    return ProposerError(f"the recording {one_line(str(path), 300)} cannot be read: {why}", _HINT)


def _rendered(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(place, kind, body) of each line of a journal.jsonl."""
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    with file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                event = json.loads(line)
                if not isinstance(event, dict) or not event.keys() >= _EVENT or not isinstance(event["body"], dict):
                    raise ValueError("it is no event of a journal")
                if event["number"] != number:
                    raise ValueError(f"it holds event {event['number']!r}, so lines are missing or moved")
                yield f"line {number}", str(event["kind"]), event["body"]
        except (ValueError, RecursionError) as error:  # also what is no UTF-8
            words = "it is no JSON" if isinstance(error, json.JSONDecodeError) else one_line(str(error), 120)
            place = number if not isinstance(error, UnicodeDecodeError) else number + 1
            raise ProposerError(f"{path}, line {place}: {words}", _HINT) from None


def _experiments(path: Path, events: Iterator[tuple[str, str, Mapping[str, Any]]]) -> Iterator[Recorded]:
    for place, kind, body in events:
        if kind != "proposed" or body.get("proposer") == PLACEBO or body.get("revision") == body.get("parent"):
            continue
        text = body.get("train_py")
        if not isinstance(text, str) or revision_digest(text) != body.get("revision"):
            raise ProposerError(f"{path}, {place}: the recorded train.py is not the one that was proposed", _HINT)
        try:
            check_train_py(text)
        except SlmArError as error:
            raise ProposerError(
                f"{path}, {place}: the recorded train.py cannot be used: {error.message}", _HINT
            ) from None
        yield Recorded(
            str(body["revision"]),
            one_line(str(body.get("proposer", "")), 60),
            one_line(str(body.get("hypothesis", "")), LONGEST_SENTENCE),
            one_line(str(body.get("rationale", "")), LONGEST_RATIONALE),
            text,
        )
