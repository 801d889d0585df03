"""What the search believes of the current code within one window: which proposals it keeps, and which it takes back.

Called by the campaign, the searches of a study and the simulation. Pure arithmetic. A proposal that is kept because its
run was lucky sets a bar that a better one may miss, and rides along in a claim. But the proposals that are made from it
are runs of nearly the same code: where they score no better than those before it, the keep was luck. All scores here
are dev scores with the seed of the window, lower is better; nothing of this is a claim.

What matters within a window is how far apart two runs with one seed lie. That may be as much as two seeds do (sigma of
the calibration), or a tenth of it where a run is hardly more than its seed; it is learned from how scores surprise.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from . import gate
from .state import CampaignState, ExperimentRecord, RunRecord

Code = TypeVar("Code")

BETTER = 0.8
"""Noises below the level of the current code from which a proposal is kept whatever the current code's own run says."""
CONFIRMED = 0.5
"""Noises by which the level must have fallen since an edit was kept."""
FOLLOWERS = 2
"""Readings of the level of a code before it decides: keeps what its own run would not, or takes the edit back."""
OUTLIER = 3.0
"""Standard deviations beyond which a score tells of the proposal, and not of the code that it edits."""
MOST_LUCK = 1.0
"""Noises by which the level of a kept proposal is believed to be worse than its score, at most."""
STEP_VARIANCE = 1.0
"""Variance, in noises squared, of what an edit changes, before its run."""
MEDIAN = 0.6745
"""Median distance of a normal deviate from its mean, in standard deviations."""
CALIBRATION_WEIGHT = 2
"""How many surprises the sigma of the calibration is worth."""
LUCKY_BAR = "the current code's own run was lucky: this is clearly better than its level"
TAKEN_BACK = "taken back: what was tried after it scored no better than before it"


@dataclass(frozen=True, slots=True)
class WindowNoise:
    """Standard deviation of one run around its code's level with that seed: `value`, in the unit of the scores.

    The median of all surprises of the campaign, which edits that help or harm move little; never more than `sigma`.
    """

    sigma: float
    """Of one run over seeds, from the calibration."""
    surprises: tuple[float, ...] = ()
    """How far each judged proposal lay from the level of the code that it edits, as of one run; ascending."""

    @property
    def value(self) -> float:
        if not self.surprises:
            return self.sigma
        expected = MEDIAN * self.sigma
        place = bisect_left(self.surprises, expected)
        all_of_them = (*self.surprises[:place], *[expected] * CALIBRATION_WEIGHT, *self.surprises[place:])
        middle = len(all_of_them) // 2
        median = (all_of_them[middle] + all_of_them[-1 - middle]) / 2
        return min(self.sigma, median / MEDIAN)

    def surprised(self, by: float) -> WindowNoise:
        place = bisect_left(self.surprises, abs(by))
        return replace(self, surprises=(*self.surprises[:place], abs(by), *self.surprises[place:]))


@dataclass(frozen=True, slots=True)
class Window(Generic[Code]):
    """The current code, its level, and what it was before each edit that was kept in this window.

    The level is a Kalman filter (R. E. Kalman, Journal of Basic Engineering 82, 1960) over runs: the code stands still
    while proposals are dropped, and moves by an unknown step when one is kept.
    """

    noise: WindowNoise
    code: Code
    score: float
    """Of the current code's own run with the seed of the window."""
    mean: float
    """The level: what a run of the current code is believed to score with this seed."""
    variance: float = 1.0
    """Of the level, in noises squared."""
    followers: int = 0
    """Readings of the level since this code became the current one; those under a later kept edit do not count."""
    before: Window[Code] | None = None
    """What an edit that is not confirmed goes back to."""

    @classmethod
    def opened(cls, noise: WindowNoise, code: Code, score: float) -> Window[Code]:
        """A new window, in which only the current code's own run is known."""
        return cls(noise, code, score, score)

    def keeps(self, score: float, lines: int, code_lines: int) -> bool:
        """Whether a proposal is kept for now; between equal scores the `lines` of code decide."""
        if gate.keeps(score, self.score, lines, code_lines):
            return True
        is_known = self.followers >= FOLLOWERS and score != self.score
        return is_known and math.isfinite(score) and score < self.mean - BETTER * self.noise.value

    def kept(self, code: Code, score: float) -> Window[Code]:
        """The window after a proposal was kept."""
        if score == self.score:  # the same with less code: there is no gain that could be confirmed
            return replace(self, code=code)
        noise = self._surprised(score)
        variance = self.variance + STEP_VARIANCE
        weight = variance / (variance + 1.0)
        mean = min(self.mean + weight * (score - self.mean), score + MOST_LUCK * noise.value)
        return Window(noise, code, score, mean, (1.0 - weight) * variance, before=self)

    def dropped(self, score: float) -> Window[Code]:
        """The window after a proposal was scored and not kept, and after a placebo."""
        if score == self.score or not math.isfinite(score):  # the same run once more, where runs repeat exactly
            return self
        noise, surprise = self._surprised(score), score - self.mean
        if abs(surprise) > OUTLIER * noise.value * math.sqrt(self.variance + 1.0):
            return replace(self, noise=noise)
        weight = self.variance / (self.variance + 1.0)
        mean, variance = self.mean + weight * surprise, (1.0 - weight) * self.variance
        return replace(self, noise=noise, mean=mean, variance=variance, followers=self.followers + 1)

    def _surprised(self, score: float) -> WindowNoise:
        return self.noise.surprised((score - self.mean) / math.sqrt(self.variance + 1.0))

    @property
    def is_unconfirmed(self) -> bool:
        """Whether the newest kept edit had its chance, and the level says that it was luck."""
        if self.before is None or self.followers < FOLLOWERS:
            return False
        return self.mean > self.before.mean - CONFIRMED * self.noise.value

    def taken_back(self) -> Window[Code]:
        """The window without the newest kept edit. What its followers taught about level and noise stays."""
        assert self.before is not None
        return replace(self.before, noise=self.noise, mean=self.mean, variance=self.variance)


def follow(window: Window[Code], code: Code, score: float, is_kept: bool) -> Window[Code]:
    """The window after a proposal was judged, or a placebo (never kept); what is not confirmed by now is taken back."""
    if is_kept:
        return window.kept(code, score)
    window = window.dropped(score)
    while window.is_unconfirmed:
        window = window.taken_back()
    return window


def window_of(state: CampaignState, number: int) -> Window[str] | None:
    """The window `number` as the journal tells it, from the last claim on; None before its first scored proposal."""
    return _told(state, number)[0]


def noise_of(state: CampaignState) -> WindowNoise:
    """What all judged proposals of the campaign tell about the noise within a window."""
    return _told(state, 0)[1]


def _told(state: CampaignState, number: int) -> tuple[Window[str] | None, WindowNoise]:
    """Window `number`, where it is the newest and no claim came since, and the noise."""
    noise, found, found_number = WindowNoise(state.sigma or 0.0), None, -1
    claims = {claim.after_experiments for claim in state.claims}
    for place, item in enumerate(state.experiments):
        score = item.dev_score
        if place in claims:
            found = None
        if item.status is None or score is None or item.head_score is None:
            continue
        if found is None or found_number != item.window or found.code != item.parent:
            found, found_number = Window.opened(noise, item.parent, item.head_score), item.window
        if is_reading(found, item.run, score, item.is_kept_edit, item.revision == item.parent):
            found = follow(found, item.revision, score, item.is_kept_edit)
        noise = found.noise
    is_open = found_number == number and len(state.experiments) not in claims
    return found if is_open else None, noise


def is_reading(window: Window[str], run: RunRecord | None, score: float, is_kept: bool, is_placebo: bool) -> bool:
    """Whether a judged run says something about the current code; a kept proposal always does.

    A disturbed run does not, nor one that was good enough and refused all the same, by the guard of a `[metric]`.
    """
    if is_kept:
        return True
    is_refused = not is_placebo and window.keeps(score, 1, 1)
    return not is_refused and (run is None or not run.outcome.disturbance)


def may_come_back(state: CampaignState) -> frozenset[str]:
    """Revisions that are current again when kept edits of the newest window are taken back."""
    found: set[str] = set()
    window = window_of(state, state.experiments[-1].window) if state.experiments else None
    while window is not None and window.before is not None:
        window = window.before
        found.add(window.code)
    return frozenset(found)


def taken_back(state: CampaignState) -> frozenset[int]:
    """Kept experiments that the search took back; those that a claim did not confirm are not among them."""
    gone: set[int] = set()
    for after_it in state.experiments:
        if after_it.back_to is None:
            continue
        for item in reversed(state.experiments[: after_it.id]):
            if item.is_kept_edit and item.id not in gone:
                gone.add(item.id)
                if item.parent == after_it.back_to:
                    break
    return frozenset(gone)


def chain(state: CampaignState, code: str) -> tuple[ExperimentRecord, ...]:
    """The kept edits that lead from the baseline to `code`, in order.

    Read backwards in time: a code may have been proposed, kept and taken back under another parent, too.
    """
    gone = taken_back(state)
    found: list[ExperimentRecord] = []
    for item in reversed(state.experiments):
        if code == state.baseline:
            break
        if item.is_kept_edit and item.revision == code and item.id not in gone:
            found.append(item)
            code = item.parent
    return tuple(reversed(found))
