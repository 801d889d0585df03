"""The verdict of a campaign in plain words, and what to do next. Pure; called by summary.py.

Both ends are normal: "proven" and "not proven tonight". Only the final test gives a headline number; without a proved
sandbox nothing is called proven. No sentence here is derived from a hidden score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..agent.state import CampaignState, FinalRecord
from ..contracts import Status
from .experiments import is_placebo, kept_in_chain
from .words import EXPLORED_STAMP, plural, signed

_SETTLE_STANDARD_ERRORS = 2.5
"""About the t quantile that a claim test asks for after a few pairs."""
_SMALLEST_PROOF_PAIRS = 3
_MOST_SETTLING_RUNS = 200


@dataclass(frozen=True, slots=True)
class VerdictWords:
    """`kind`: empty, calibrating, calibrated, proven, explored or not_proven. `lines` follow the headline."""

    kind: str
    headline: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NextStep:
    """A command and why a person would type it now."""

    command: str
    why: str


def verdict_words(state: CampaignState, *, certified: bool, more_runs: int | None, note: str) -> VerdictWords:
    """What a person may believe of the campaign so far.

    `more_runs` overrides the estimate of the runs that would settle what is not yet proven; `note` is a sentence of
    the caller's that is added to it.
    """
    if state.sigma is None and not state.experiments and state.final is None:
        return _before_the_search(state)
    if not state.experiments and state.final is None:
        return VerdictWords(
            "calibrated",
            "Ready: the noise of this machine is known, no edit has been tried yet.",
            (f"Two runs of the same code differ by about {state.sigma or 0:.4f} bits per byte by luck alone.",),
        )
    lines: list[str] = []
    if state.final is not None:
        kind, headline = _final_headline(state.final, certified)
        lines.append(final_sentence(state.final))
    elif state.rung != state.baseline and certified:
        edits = plural(len(kept_in_chain(state, state.rung, state.baseline)), "edit")
        kind = "proven"
        headline = f"Proven: the code with {edits} beats where it began, on text that nobody looked at."
        lines.append("How much it gains is measured once, by slm-ar finish; until then there is no headline number.")
    elif not certified and state.head != state.baseline:
        kind, headline = "explored", _explored_headline(state)
    else:
        kind, headline = "not_proven", _not_proven_headline(state, more_runs)
    promising = kept_in_chain(state, state.head, state.rung)
    if promising and state.final is None and kind == "proven":
        lines.append(f"{_looks_promising(len(promising))} on top of it, not yet proven.")
    if promising and note and state.final is None:
        lines.append(note)
    lines += _alarms(state)
    if not certified:
        lines.append(EXPLORED_STAMP[0].upper() + EXPLORED_STAMP[1:] + ".")
    return VerdictWords(kind, headline, tuple(lines))


def _before_the_search(state: CampaignState) -> VerdictWords:
    done = sum(run.role == "calibrate" and run.is_scored for run in state.runs)
    if done == 0:
        return VerdictWords("empty", "Nothing measured yet.", ("The first runs measure the noise of this machine.",))
    return VerdictWords(
        "calibrating",
        f"Measuring the noise of this machine: {plural(done, 'run')} so far.",
        ("No edit is tried before it is known how much luck alone moves the score.",),
    )


def _final_headline(final: FinalRecord, certified: bool) -> tuple[str, str]:
    gain = -final.delta
    if final.final == final.baseline:
        return "not_proven", "Not proven tonight: the code is still the one it began with."
    if final.is_proven and certified:
        if final.delta_high < 0:
            return "proven", f"Proven: {gain:.4f} bits per byte better than where it began, on the final test."
        return (
            "not_proven",
            "Proven on unseen text, but the final test cannot tell the gain from zero: take it as not proven.",
        )
    if final.delta_high < 0 and not certified:
        return "explored", f"Explored: {gain:.4f} bits per byte better on the final test, without certificate."
    return "not_proven", "Not proven tonight: the final test alone is no proof of a gain."


def final_sentence(final: FinalRecord) -> str:
    """The opening of test in one sentence."""
    return (
        f"On the final test, opened once: {final.baseline_bpb:.4f} -> {final.final_bpb:.4f} bits per byte "
        f"({signed(final.delta)}; 95 % interval {signed(final.delta_low)} to {signed(final.delta_high)}; "
        f"{plural(final.pairs, 'pair')} of runs), {final.baseline_bits_per_record:.1f} -> "
        f"{final.final_bits_per_record:.1f} bits per record."
    )


def _explored_headline(state: CampaignState) -> str:
    kept = len(kept_in_chain(state, state.head, state.baseline))
    return f"Explored: {_looks_promising(kept)} on dev; nothing here can be called proven."


def _not_proven_headline(state: CampaignState, more_runs: int | None) -> str:
    promising = kept_in_chain(state, state.head, state.rung)
    if not promising:
        tried = sum(item.status is not None and not is_placebo(item) for item in state.experiments)
        return f"Not proven tonight: none of {plural(tried, 'edit')} is better than where it began."
    runs = more_runs if more_runs is not None else settling_runs(state)
    if runs is None:
        return f"Not proven tonight: {_looks_promising(len(promising))}, too little to settle in one more night."
    return f"Not proven tonight: {_looks_promising(len(promising))}; {plural(runs, 'more run')} would settle it."


def _looks_promising(count: int) -> str:
    return f"{plural(count, 'edit')} {'looks' if count == 1 else 'look'} promising"


def settling_runs(state: CampaignState) -> int | None:
    """Runs (two per pair) after which a gain as large as dev shows would stand clear of the noise.

    From dev and the calibration alone, so it says nothing of a hidden score. None when there is nothing to settle,
    the noise is unknown, or it would take more than a night.
    """
    promising = kept_in_chain(state, state.head, state.rung)
    gain = sum(
        item.head_score - item.dev_score
        for item in promising
        if item.dev_score is not None and item.head_score is not None
    )
    if not promising or state.sigma is None or gain <= 0:
        return None
    # a pair of runs differs by sqrt(2) sigma; k pairs by sqrt(2 / k) sigma
    pairs = max(_SMALLEST_PROOF_PAIRS, math.ceil(2 * (_SETTLE_STANDARD_ERRORS * state.sigma / gain) ** 2))
    return 2 * pairs if 2 * pairs <= _MOST_SETTLING_RUNS else None


def _alarms(state: CampaignState) -> list[str]:
    invalid = sum(item.status is Status.INVALID for item in state.experiments)
    if not invalid:
        return []
    return [f"Attention: {plural(invalid, 'edit')} failed the integrity check; look at what {_they(invalid)} changed."]


def _they(count: int) -> str:
    return "it" if count == 1 else "they"


def next_steps(state: CampaignState, *, certified: bool) -> tuple[NextStep, ...]:
    """The commands that make sense now, the most useful first."""
    steps: list[NextStep] = []
    promising = state.head != state.rung
    proven = certified and state.rung != state.baseline
    if not certified:
        steps.append(NextStep("slm-ar doctor", "see why no sandbox could be proved here, and how to get one"))
    if state.final is not None:
        steps.append(NextStep("slm-ar generate", "read what the model writes"))
        steps.append(NextStep("slm-ar export", "make a folder that other programs can load"))
    elif proven:
        steps.append(NextStep("slm-ar finish", "open the final test once and train the proven code for longer"))
    if proven:
        steps.append(NextStep("slm-ar adopt", "bring the proven train.py into the workspace"))
    if state.final is None:
        why = "settle what is not yet proven, and try more edits" if promising else "try edits"
        steps.append(NextStep("slm-ar run", "go on where this stopped" if state.open_run is not None else why))
    return tuple(steps)
