"""What lies between a coding agent and the campaign that it drives: one pending proposal, and one errand at a time.

Used by two threads: the protocol's (tools.py) puts proposals down, sends the campaign on an errand and looks whether
it is back; the campaign's, which is the main thread, runs the errands and takes the proposal. Promises: a proposal is
handed over once, and only to the code that it was made for; who stops waiting loses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ..contracts import Display, Proposal, ResearchContext
from ..errors import SlmArError

DRIVER = "mcp"
"""The proposer's name in journal and reports."""
RUN_WORDS = ("starting", "training", "scoring")
"""What a run does, of all that a display is told: how many steps it made, the code could have made up."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A proposal that was checked and not run yet."""

    base: str
    """Revision that its edits were made on."""
    revision: str
    """What they made of it."""
    train_py: str
    hypothesis: str
    rationale: str


@dataclass(slots=True)
class Errand:
    """From a call of run_experiment until there is nothing to do but wait for the next proposal."""

    campaign: str
    """Identity of the campaign when it began; empty when there was none."""
    judged_before: int
    """Experiments of it that were judged then."""
    claims_before: int
    """Claims of it that were closed then."""
    is_done: bool = False
    is_told: bool = False
    """Whether somebody waited for its end and was answered."""
    failure: SlmArError | None = None
    """Why the campaign had to stop."""
    refused: str = ""
    """Why the pending proposal was not run, in words for the agent."""


class HungUpError(Exception):
    """The client has left: there will be no proposal."""


class Desk:
    """See the module. All methods may be called from any thread; `wait_for_errand` waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: Pending | None = None
        self._errand: Errand | None = None
        self._is_closed = False
        self.progress = ""
        """What the campaign does, in words for the agent."""

    @property
    def pending(self) -> Pending | None:
        with self._changed:
            return self._pending

    @property
    def errand(self) -> Errand | None:
        """The errand that is going on, or has ended and was not told of."""
        with self._changed:
            return self._errand if self._errand is not None and not self._errand.is_told else None

    @property
    def is_working(self) -> bool:
        with self._changed:
            return self._errand is not None and not self._errand.is_done

    @property
    def is_closed(self) -> bool:
        with self._changed:
            return self._is_closed

    # --- the protocol's side ----------------------------------------------------------------

    def put(self, pending: Pending) -> bool:
        """Make this the pending proposal, unless an errand is going on; whether it is."""
        with self._changed:
            if self._errand is not None and not self._errand.is_done:
                return False
            self._pending = pending
            return True

    def send(self, campaign: str, judged: int, claims: int) -> Errand:
        """Send the campaign on an errand, or join the one that is going on."""
        with self._changed:
            if self._errand is None or self._errand.is_done:
                self._errand = Errand(campaign, judged, claims)
                self.progress = "opening the campaign"
                self._changed.notify_all()
            return self._errand

    def hang_up(self) -> bool:
        """The client has left; whether this is news to a campaign at work, which has to be interrupted."""
        with self._changed:
            is_news, self._is_closed = not self._is_closed, True
            self._changed.notify_all()
            return is_news and self._errand is not None and not self._errand.is_done

    # --- the campaign's side ----------------------------------------------------------------

    def wait_for_errand(self) -> bool:
        """Wait until there is something to do; False when the client has left."""
        with self._changed:
            while not self._is_closed and (self._errand is None or self._errand.is_done):
                self._changed.wait()
            return not self._is_closed

    def take(self, revision: str, tried: Collection[str]) -> Pending | None:
        """The pending proposal for this very code, if nobody `tried` it meanwhile.

        Where there is none, the errand ends and None is returned. Raises HungUpError.
        """
        with self._changed:
            if self._is_closed:
                raise HungUpError
            pending, self._pending = self._pending, None
            refused = _refusal(pending, revision, tried) if pending is not None else ""
            if pending is not None and not refused:
                return pending
            if self._errand is not None:
                self._errand.refused = refused
            self._end()
            return None

    def end_errand(self, failure: SlmArError | None = None) -> None:
        """There is nothing more to do, or nothing more that can be done."""
        with self._changed:
            self._end(failure)

    def _end(self, failure: SlmArError | None = None) -> None:
        if self._errand is not None and not self._errand.is_done:
            self._errand.failure = failure
            self._errand.is_done = True


def _refusal(pending: Pending, revision: str, tried: Collection[str]) -> str:
    """Why a proposal is not run although it was checked; between the two a person may have changed the campaign."""
    if pending.base != revision:
        return (
            f"The proposal was made on revision {pending.base}, and the current code is {revision} by now. "
            "Nothing was trained for it: read the current code and propose again."
        )
    if pending.revision in tried:
        return "The very train.py of the proposal was tried meanwhile. Nothing was trained for it: see `results`."
    return ""


class Driver:
    """The proposer that hands over what the agent proposed; `resting` surrounds its waiting for it."""

    name = DRIVER

    def __init__(self, desk: Desk, resting: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._desk, self._resting = desk, resting

    def propose(self, context: ResearchContext) -> Proposal:
        """Waits for a proposal. Raises HungUpError."""
        tried = {past.revision for past in context.history}
        while (pending := self._desk.take(context.revision, tried)) is None:
            with self._resting():
                self._desk.wait_for_errand()
        return Proposal(pending.hypothesis, pending.rationale, pending.train_py)


class DeskDisplay:
    """Passes on what the campaign says, and leaves on the desk what of it the agent may know meanwhile."""

    def __init__(self, desk: Desk, others: Display) -> None:
        self._desk, self._others = desk, others
        self._title = ""

    def campaign(self, plan_lines: list[str]) -> None:
        """Passed on."""
        self._others.campaign(plan_lines)

    def phase(self, name: str) -> None:
        """Passed on: preparing names files."""
        self._others.phase(name)

    def run_started(self, title: str, budget_seconds: float) -> None:
        """The run's title."""
        self._title = title
        self._desk.progress = title
        self._others.run_started(title, budget_seconds)

    def tick(self, elapsed: float, state_word: str) -> None:
        """Title, what the run does, and the seconds of its budget."""
        word = state_word.split(",")[0]
        if word in RUN_WORDS:
            self._desk.progress = f"{self._title}: {word}, {elapsed:.0f} s"
        self._others.tick(elapsed, state_word)

    def run_finished(self, title: str, line: str) -> None:
        """Passed on: the score in it is not rounded."""
        self._others.run_finished(title, line)

    def judged(self, line: str, good: bool) -> None:
        """Passed on: the score in it is not rounded."""
        self._others.judged(line, good)

    def note(self, line: str) -> None:
        """Passed on: it may name paths."""
        self._others.note(line)

    def close(self) -> None:
        """Passed on."""
        self._others.close()
