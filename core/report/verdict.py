"""The verdict of a campaign in plain words, and what to do next. Pure; called by summary.py.

Both ends are normal: "proven" and "not proven tonight". Proven is what the claim test says, and only the final test
gives a headline number; whether a sandbox was proved is another matter, which the summary's stamp tells. No sentence
here is derived from a hidden score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ..agent.state import CampaignState, ExperimentRecord, FinalRecord
from ..contracts import BITS_PER_BYTE, BITS_WITH_NGRAM, Status
from .experiments import is_placebo, kept_in_chain
from .words import plural, signed

_SETTLE_STANDARD_ERRORS = 2.5
"""About the t quantile that a claim test asks for after a few pairs."""
_SMALLEST_PROOF_PAIRS = 3
_MOST_SETTLING_RUNS = 200


@dataclass(frozen=True, slots=True)
class VerdictWords:
    """`kind`: empty, calibrating, calibrated, proven or not_proven. `lines` follow the headline."""

    kind: str
    headline: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NextStep:
    """A command and why a person would type it now."""

    command: str
    why: str


def verdict_words(state: CampaignState, *, more_runs: int | None, note: str) -> VerdictWords:
    """What a person may believe of the campaign so far.

    `more_runs` overrides the estimate of the runs that would settle what is not yet proven; `note` is a sentence of
    the caller's that is added to it.
    """
    final = state.final
    if not state.experiments and final is None:
        return _before_the_search(state)
    is_proven = state.rung != state.baseline
    kind, headline = _proven_headline(state) if is_proven else ("not_proven", _not_proven_headline(state, more_runs))
    lines = [final_sentence(final, state.claim_unit)] if final is not None else []
    lines += _prune_words(state)
    promising = len(kept_in_chain(state, state.head, state.rung))
    if is_proven:
        if final is None:
            lines.append(
                "How much it gains is measured once, by slm-ar finish; until then there is no headline number."
            )
        elif final.final != state.proven_code:
            lines.append("The final test was opened for other code than what is proven now.")
        if promising:
            lines.append(f"{_looks_promising(promising)} on top of it, not yet proven.")
    elif final is not None and final.final != final.baseline:
        lines.append("The final test is no claim: no proof confirmed these edits, and luck favours what was picked.")
    if promising and note and final is None:
        lines.append(note)
    return VerdictWords(kind, headline, (*lines, *_alarms(state)))


def _before_the_search(state: CampaignState) -> VerdictWords:
    if state.sigma is not None:
        return VerdictWords(
            "calibrated",
            "Ready: the noise of this machine is known, no edit has been tried yet.",
            (f"Two runs of the same code differ by about {state.sigma:.4f} {state.unit} by luck alone.",),
        )
    done = sum(run.role == "calibrate" and run.is_scored for run in state.runs)
    if done == 0:
        return VerdictWords("empty", "Nothing measured yet.", ("The first runs measure the noise of this machine.",))
    return VerdictWords(
        "calibrating",
        f"Measuring the noise of this machine: {plural(done, 'run')} so far.",
        ("No edit is tried before it is known how much luck alone moves the score.",),
    )


def _proven_headline(state: CampaignState) -> tuple[str, str]:
    """Kind and headline of a campaign whose claim test passed."""
    final = state.final
    if final is None or final.final != state.proven_code:
        edits = plural(len(kept_in_chain(state, state.rung, state.baseline)), "edit")
        return "proven", f"Proven: the code with {edits} beats where it began, on text that nobody looked at."
    if final.delta_high < 0:
        return "proven", f"Proven: {-final.delta:.4f} {state.claim_unit} better than where it began, on the final test."
    return (
        "not_proven",
        "Proven on unseen text, but the final test cannot tell the gain from zero: take it as not proven.",
    )


def _prune_words(state: CampaignState) -> list[str]:
    """What the prune pass took out, in one sentence."""
    record = state.prune
    if record is None or record.revision is None:
        return []
    tried = plural(len(record.edits), "kept edit")
    if not record.out:
        return [f"The prune pass looked at {tried} one by one and took none out."]
    return [f"The prune pass took out {len(record.out)} of {tried}: on dev they did not help."]


def final_sentence(final: FinalRecord, unit: str) -> str:
    """The opening of test in one sentence; bits per byte and per record always stand in it."""
    opened = "opened once" if final.opening == 1 else f"opened {final.opening} times, so no longer unseen"
    as_text = ""
    if unit != BITS_PER_BYTE:
        as_text = "the model alone " if unit == BITS_WITH_NGRAM else ""
        as_text += f"{final.baseline_bits_per_byte:.4f} -> {final.final_bits_per_byte:.4f} {BITS_PER_BYTE}, "
    return (
        f"On the final test, {opened}: {final.baseline_score:.4f} -> {final.final_score:.4f} {unit} "
        f"({signed(final.delta)}; 95 % interval {signed(final.delta_low)} to {signed(final.delta_high)}; "
        f"{plural(final.pairs, 'pair')} of runs), {as_text}{final.baseline_bits_per_record:.1f} -> "
        f"{final.final_bits_per_record:.1f} bits per record."
    )


def _not_proven_headline(state: CampaignState, more_runs: int | None) -> str:
    final = state.final
    if final is not None and final.final != final.baseline:
        count = len(kept_in_chain(state, final.final, final.baseline))
        return (
            f"Not proven tonight: {_looks_promising(count)}; the final test, opened once, shows {signed(final.delta)} "
            f"(95 % interval {signed(final.delta_low)} to {signed(final.delta_high)}) for {_them(count)}."
        )
    promising = kept_in_chain(state, state.head, state.rung)
    if not promising:
        judged = (item for item in state.experiments if item.status not in (None, Status.SKIPPED))
        tried = sum(not is_placebo(item) for item in judged)
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
    gain = _gain_on_dev(promising)
    if not promising or state.sigma is None or gain <= 0:
        return None
    # a pair of runs differs by sqrt(2) sigma; k pairs by sqrt(2 / k) sigma
    pairs = max(_SMALLEST_PROOF_PAIRS, math.ceil(2 * (_SETTLE_STANDARD_ERRORS * state.sigma / gain) ** 2))
    return 2 * pairs if 2 * pairs <= _MOST_SETTLING_RUNS else None


def _gain_on_dev(chain: Sequence[ExperimentRecord]) -> float:
    """How much better the end of a chain scored than its beginning, both with the seed of the window they stand in.

    Windows are added up: each begins with the code that the one before ended with, measured again with a new seed.
    """
    gain = 0.0
    for _, window in groupby(chain, key=lambda item: item.window):
        items = list(window)
        first, last = items[0].head_score, items[-1].dev_score
        gain += first - last if first is not None and last is not None else 0.0
    return gain


def _alarms(state: CampaignState) -> list[str]:
    invalid = sum(item.status is Status.INVALID for item in state.experiments)
    if not invalid:
        return []
    return [f"Attention: {plural(invalid, 'edit')} failed the integrity check; look at what {_they(invalid)} changed."]


def _they(count: int) -> str:
    return "it" if count == 1 else "they"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


def next_steps(state: CampaignState) -> tuple[NextStep, ...]:
    """The commands that make sense now, the most useful first."""
    steps: list[NextStep] = []
    is_proven = state.rung != state.baseline
    if state.final is not None:
        steps.append(NextStep("slm-ar generate --prompt TEXT", "read what the model writes"))
    elif is_proven:
        steps.append(NextStep("slm-ar finish", "open the final test once, train the proven code for longer"))
    if is_proven:
        steps.append(NextStep("slm-ar adopt", "bring the proven train.py into the workspace"))
    if state.final is None or not is_proven:
        why = "settle what is not yet proven, and try more edits" if state.head != state.rung else "try edits"
        steps.append(NextStep("slm-ar run", "go on where this stopped" if state.open_run is not None else why))
    if state.experiments:
        steps.append(NextStep("slm-ar report", "write report.html anew, with every diff"))
    return tuple(steps)
