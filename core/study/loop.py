"""One search: propose, measure, keep or drop, until equal seconds are spent. The same loop on a surrogate and live.

Called by replay.py and live.py. Promises: a proposer sees what a campaign would show it (rounded scores, statuses, the
current code); the current code moves and is taken back by the shipped rule (level.Window) and is measured again with a
fresh seed every planner.WINDOW proposals, as in a campaign; nothing that ends after the seconds are spent counts.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..agent import edits, gate, level
from ..agent.planner import WINDOW
from ..contracts import PastExperiment, Proposal, Proposer, Rate, ResearchContext, Status
from ..errors import TrainingError

MOST_UNUSABLE = 50
"""Proposals in a row that could not be measured; then the search has nothing more."""
SHARES = (0.25, 0.5, 1.0)
"""Of the seconds of a search, at which the returned configuration is compared."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one training of a search gave. `status` is None when there is a score."""

    status: Status | None
    score: float | None
    seconds: float
    reason: str = ""


class World(Protocol):
    """Where a search measures: a surrogate, or this machine."""

    start: str
    """The train.py that every search begins with."""
    program: str
    sigma: float
    """Noise of one run, by which shown scores are rounded."""
    hardware: Mapping[str, Any]
    budget: Mapping[str, Any]
    rates: tuple[Rate, ...]
    """What was timed for proposers that want it."""
    rates_seconds: float
    """What that took."""
    form: str
    """The recipe's: portable or best."""

    def measure(self, train_py: str, seed: int) -> Measured | str:
        """Train `train_py` with `seed`, or say why this cannot be measured here: that costs nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One training of a search, or a proposal that could not be measured."""

    number: int
    role: str
    """start | rates (timing of settings, where the proposer wants it) | proposal | window"""
    status: str
    """kept, reverted, measured (no proposal), a failure, or skipped"""
    seconds: float
    spent: float
    """Seconds of the search at its end."""
    score: float | None
    returned: str
    """Revision that the search would return now."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One whole search."""

    corpus: str
    proposer: str
    search_seed: int
    seconds: float
    """What it was given."""
    steps: tuple[Step, ...]
    texts: Mapping[str, str] = field(repr=False)
    """Revision -> train.py, of all that it ever would have returned."""
    propose_seconds: float
    proposals: int
    is_exhausted: bool
    values: Mapping[str, float] = field(default_factory=dict)
    """Revision -> true value, of those that were valued."""

    def returned_at(self, share: float) -> str:
        """The revision that the search would have returned after this share of its seconds."""
        limit = share * self.seconds * (1 + 1e-12)
        done = [step for step in self.steps if step.spent <= limit]
        return (done[-1] if done else self.steps[0]).returned

    @property
    def failed_seconds(self) -> float:
        """Seconds spent on proposals that gave no score."""
        return sum(step.seconds for step in self.steps if step.role == "proposal" and step.score is None)


class _Night:
    """The growing state of one search."""

    def __init__(self, world: World, search_seed: int, seconds: float) -> None:
        self.world, self.search_seed, self.seconds = world, search_seed, seconds
        self.head_text = world.start
        self.head = edits.revision_digest(world.start)
        self.noise = level.WindowNoise(world.sigma)
        self.window: level.Window[str] | None = None
        self.texts = {self.head: world.start}
        self.history: list[PastExperiment] = []
        self.steps: list[Step] = []
        self.spent = 0.0
        self.number = self.trained = 0
        self.rates: tuple[Rate, ...] = ()

    def measure(self, text: str) -> Measured | str:
        return self.world.measure(text, training_seed("search", self.search_seed, self.number))

    def fits(self, seconds: float) -> bool:
        """Spend `seconds`; False when they reach beyond the end, where nothing counts any more."""
        self.spent += seconds
        return self.spent <= self.seconds * (1 + 1e-12)

    def note(self, role: str, status: str, measured: Measured | None) -> None:
        seconds = measured.seconds if measured is not None else 0.0
        score = measured.score if measured is not None else None
        self.steps.append(Step(len(self.steps), role, status, seconds, self.spent, score, self.head))

    def measure_head(self, role: str) -> bool:
        """Measure the current code with the window's seed; False when that was the end."""
        measured = self.measure(self.head_text)
        assert isinstance(measured, Measured), measured
        if not self.fits(measured.seconds) and role != "start":
            return False
        # A code is never kept because the one that it must beat failed with this seed.
        score = measured.score
        self.window = level.Window.opened(self.noise, self.head, score) if score is not None else None
        self.note(role, measured.status.value if measured.status is not None else "measured", measured)
        return True

    def context(self) -> ResearchContext:
        world = self.world
        return ResearchContext(
            program=world.program,
            train_py=self.head_text,
            revision=self.head,
            history=tuple(self.history),
            hardware=world.hardware,
            budget=world.budget,
            seed=self.search_seed,
            sigma=world.sigma,
            rates=self.rates,
            form=world.form,
        )

    def take_rates(self) -> bool:
        """Pay for the timing of settings, as a campaign does before its first proposal; False where none was timed."""
        self.rates = self.world.rates
        if not self.rates:
            return False
        self.fits(self.world.rates_seconds)
        self.steps.append(
            Step(len(self.steps), "rates", "measured", self.world.rates_seconds, self.spent, None, self.head)
        )
        return True

    def judge(self, proposer: str, proposal: Proposal, measured: Measured | str) -> bool:
        """Take one measured proposal into the history; False when it ended too late to count."""
        text, parent = proposal.train_py, self.head
        if isinstance(measured, str):
            self._remember(proposer, proposal, parent, Status.SKIPPED, None, measured)
            self.note("proposal", Status.SKIPPED.value, None)
            return True
        if not self.fits(measured.seconds):
            return False
        self.trained += 1
        status = measured.status
        if status is None:
            assert measured.score is not None
            status = self._follow(text, measured.score)
        self._remember(proposer, proposal, parent, status, measured.score, measured.reason)
        self.note("proposal", status.value, measured)
        return True

    def _follow(self, text: str, score: float) -> Status:
        """Move the current code by what a proposal scored."""
        before, revision = self.window, edits.revision_digest(text)
        if before is None:
            return Status.REVERTED
        is_kept = (
            before.keeps(score, edits.code_lines(text), edits.code_lines(self.head_text)) and revision != self.head
        )
        self.window = level.follow(before, revision, score, is_kept)
        self.noise = self.window.noise
        if is_kept:
            self.texts[revision] = text
        elif self.window.code != before.code:
            self._forget(self.window.code)
        self.head, self.head_text = self.window.code, self.texts[self.window.code]
        return Status.KEPT if is_kept else Status.REVERTED

    def _forget(self, back_to: str) -> None:
        """The newest kept edits, back to the code `back_to`, are told as what they were: no gain."""
        for index in reversed(range(len(self.history))):
            past = self.history[index]
            if past.status is Status.KEPT:
                self.history[index] = replace(past, status=Status.REVERTED, reason=level.TAKEN_BACK)
                if past.parent == back_to:
                    return

    def _remember(
        self, proposer: str, proposal: Proposal, parent: str, status: Status, score: float | None, reason: str
    ) -> None:
        text = proposal.train_py
        if edits.revision_digest(text) == parent:
            return  # as in a campaign: the current code itself teaches nothing
        past = PastExperiment(
            id=len(self.history) + 1,
            revision=edits.revision_digest(text),
            parent=parent,
            proposer=proposer,
            hypothesis=proposal.hypothesis,
            status=status,
            dev_score=gate.rounded(score, self.world.sigma) if score is not None else None,
            knobs={knob.name: knob.value for knob in edits.parse_knobs(text)},
            template=edits.template_digest(text),
            reason=reason,
        )
        self.history.append(past)


def search(
    corpus: str,
    name: str,
    proposer: Proposer,
    world: World,
    search_seed: int,
    seconds: float,
    tell: Callable[[Step], None] = lambda step: None,
) -> Trace:
    """Search for `seconds` of training. Raises TrainingError when the starting code gives no score."""
    night = _Night(world, search_seed, seconds)
    night.measure_head("start")
    if night.window is None:
        raise TrainingError(
            f"corpus {corpus}: the starting train.py gave no score: {night.steps[-1].status}",
            "mend it; `slm-ar train` tries it alone",
        )
    tell(night.steps[-1])
    if getattr(proposer, "wants_rates", False) and night.take_rates():
        tell(night.steps[-1])
    asked, asking, unusable = 0, 0.0, 0
    is_exhausted = False
    while night.spent < seconds:
        if night.number != night.trained // WINDOW:
            night.number = night.trained // WINDOW
            if not night.measure_head("window"):
                break
            tell(night.steps[-1])
        began = time.perf_counter()
        proposal = proposer.propose(night.context())
        asking += time.perf_counter() - began
        if proposal is None or unusable >= MOST_UNUSABLE:
            is_exhausted = True
            break
        asked += 1
        measured = proposal.unusable or night.measure(proposal.train_py)
        unusable = unusable + 1 if isinstance(measured, str) else 0
        if not night.judge(proposer.name, proposal, measured):
            break
        tell(night.steps[-1])
    return Trace(corpus, name, search_seed, seconds, tuple(night.steps), night.texts, asking, asked, is_exhausted)


def training_seed(*parts: object) -> int:
    """A seed for train.py that depends on all of `parts`."""
    text = " ".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def failed_share(traces: Sequence[Trace]) -> float:
    """Share of the seconds of all these searches that went into proposals without a score."""
    return sum(trace.failed_seconds for trace in traces) / sum(trace.seconds for trace in traces)
