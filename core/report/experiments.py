"""One row per experiment, for every rendering: what was changed, what became of it, in people's words. Pure.

Called by summary.py. Also answers which code stands in which chain, and what dev says of a revision.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

from ..agent.edits import parse_knobs
from ..agent.level import chain
from ..agent.planner import PLACEBO
from ..agent.smoking import failed_before_training
from ..agent.state import CampaignState, ExperimentRecord, RunRecord
from ..contracts import KnobValue, Status
from ..errors import TrainingError
from .words import LUCKY_PLACEBO, PROVEN, TAKEN_BACK, StatusWord, number, status_word, visible

_COMPARABLE_ROLES = frozenset({"calibrate", "search", "window", "claim"})
_DIFF_LINES = 160
_LINE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class KnobChange:
    """One tunable that differs from the parent; `before` or `after` is "-" where the other side has no such knob."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """One experiment as it is shown. `delta` is its dev score minus the current code's own run with the same seed."""

    id: int
    revision: str
    parent: str
    proposer: str
    hypothesis: str
    rationale: str
    status: str
    words: str
    meaning: str
    tone: str
    reason: str
    changes: tuple[KnobChange, ...]
    dev_score: float | None
    delta: float | None
    best_before: float | None
    """Best dev score of the code it started from: the step line of the chart."""
    train_seconds: float | None
    steps: int | None
    tokens: int | None
    parameters: int | None
    disturbance: str
    is_placebo: bool
    diff: str


@dataclass(frozen=True, slots=True)
class DevScore:
    """Mean dev score of one revision over its undisturbed runs."""

    revision: str
    score: float | None
    runs: int


def scored_runs(state: CampaignState) -> tuple[RunRecord, ...]:
    """Every run that has a dev score comparable with the others', in order of id."""
    known = {run.id: run for run in state.runs}
    known |= {experiment.run.id: experiment.run for experiment in state.experiments if experiment.run is not None}
    return tuple(
        run
        for _, run in sorted(known.items())
        if run.role in _COMPARABLE_ROLES and run.is_scored and run.dev is not None and not run.outcome.disturbance
    )


def dev_score(state: CampaignState, revision: str) -> DevScore:
    """What dev says of a revision. The baseline is read from its calibration runs alone where there are any."""
    runs = [run for run in scored_runs(state) if run.revision == revision]
    if revision == state.baseline:
        runs = [run for run in runs if run.role == "calibrate"] or runs
    values = (number(run.dev.judged) for run in runs if run.dev is not None)
    scores = [value for value in values if value is not None]
    return DevScore(visible(revision, 128, single_line=True), fmean(scores) if scores else None, len(scores))


def dev_bits_per_byte(state: CampaignState, revision: str) -> float | None:
    """Mean bits per byte of a revision on dev, whatever the campaign lowers; None before its first run."""
    runs = [run for run in scored_runs(state) if run.revision == revision]
    values = [value for run in runs if run.dev is not None and (value := number(run.dev.bits_per_byte)) is not None]
    return fmean(values) if values else None


def lineage(state: CampaignState, revision: str) -> frozenset[str]:
    """The revision and all kept ancestors that it was built from, back to the baseline."""
    return frozenset({revision, *(item.parent for item in chain(state, revision))})


def kept_in_chain(state: CampaignState, newest: str, proven: str) -> tuple[ExperimentRecord, ...]:
    """The kept experiments that lead from `proven` to `newest`, in order; placebos changed nothing."""
    out: tuple[int, ...] = ()
    if state.prune is not None and newest == state.prune.revision:
        newest, out = state.prune.code, state.prune.out
    before = lineage(state, proven)
    return tuple(item for item in chain(state, newest) if item.revision not in before and item.id not in out)


def experiment_rows(state: CampaignState) -> tuple[ExperimentRow, ...]:
    """Rows of all experiments in order."""
    stands = standings(state)
    proven = frozenset(item.id for item in chain(state, state.rung))
    best = _best_by_revision(state)
    knobs = _knobs_by_revision(state)
    rows = []
    for item in state.experiments:
        words = _words(item, proven, stands[item.id])
        said, meaning = words.short, words.meaning
        if failed_before_training(item):
            said, meaning = f"{said}, before training", f"{meaning}: two steps on made-up data showed it"
        outcome = item.run.outcome if item.run is not None else None
        score = number(item.dev_score)
        rows.append(
            ExperimentRow(
                id=item.id,
                revision=visible(item.revision, 128, single_line=True),
                parent=visible(item.parent, 128, single_line=True),
                proposer=visible(item.proposer, 60, single_line=True),
                hypothesis=visible(item.hypothesis, 400, single_line=True),
                rationale=visible(item.rationale, 1200),
                status=stands[item.id],
                words=said,
                meaning=meaning,
                tone=words.tone,
                reason=visible(item.reason, 400, single_line=True),
                changes=_knob_changes(knobs.get(item.parent, {}), item.knobs),
                dev_score=score,
                delta=score - item.head_score if score is not None and item.head_score is not None else None,
                best_before=best.get(item.parent),
                train_seconds=outcome.train_seconds if outcome is not None else None,
                steps=outcome.steps if outcome is not None else None,
                tokens=outcome.tokens if outcome is not None else None,
                parameters=outcome.parameters if outcome is not None else None,
                disturbance=visible(outcome.disturbance, 200, single_line=True) if outcome is not None else "",
                is_placebo=is_placebo(item),
                diff=diff_text(state.revisions.get(item.parent, ""), state.revisions.get(item.revision, "")),
            )
        )
    return tuple(rows)


def _words(item: ExperimentRecord, proven: frozenset[int], standing: str) -> StatusWord:
    if item.status is Status.KEPT and is_placebo(item):
        return LUCKY_PLACEBO
    if standing == TAKEN_BACK.short:
        return TAKEN_BACK
    return PROVEN if item.id in proven else status_word(item.status)


def is_placebo(item: ExperimentRecord) -> bool:
    """Whether the experiment was the unchanged code under another name, run to see what luck alone keeps.

    A proposal without a usable edit has the text of its parent, too: the name alone tells.
    """
    return item.proposer == PLACEBO


def standings(state: CampaignState) -> dict[int, str]:
    """Experiment -> its status, "waiting", or "taken back": kept, and part of neither current nor proven code."""
    stay = {item.id for code in (state.head, state.rung) for item in chain(state, code)}
    found = {}
    for item in state.experiments:
        is_gone = item.is_kept_edit and not is_placebo(item) and item.id not in stay
        status = "waiting" if item.status is None else item.status.value
        found[item.id] = TAKEN_BACK.short if is_gone else status
    return found


def best_of_chain(state: CampaignState, revision: str) -> float | None:
    """Best dev score that the revision or one of its ancestors reached when it was kept."""
    return _best_by_revision(state).get(revision)


def _best_by_revision(state: CampaignState) -> Mapping[str, float]:
    best: dict[str, float] = {}
    baseline = dev_score(state, state.baseline).score
    if baseline is not None:
        best[state.baseline] = baseline
    for item in state.experiments:
        score = number(item.dev_score)
        if item.status is Status.KEPT and score is not None and item.revision != item.parent:
            best[item.revision] = min(score, best.get(item.parent, score))
    return best


def _knobs_by_revision(state: CampaignState) -> dict[str, Mapping[str, KnobValue]]:
    """Tunables of the experiments from the record, those of the baseline from its text."""
    knobs: dict[str, Mapping[str, KnobValue]] = {item.revision: item.knobs for item in state.experiments}
    with suppress(TrainingError):
        text = state.revisions.get(state.baseline, "")
        knobs[state.baseline] = {knob.name: knob.value for knob in parse_knobs(text)}
    return knobs


def _knob_changes(before: Mapping[str, KnobValue], after: Mapping[str, KnobValue]) -> tuple[KnobChange, ...]:
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        KnobChange(visible(name, 60), visible(str(before.get(name, "-")), 60), visible(str(after.get(name, "-")), 60))
        for name in names
        if before.get(name) != after.get(name)
    )


def diff_text(before: str, after: str) -> str:
    """A unified diff without file names, long diffs and long lines cut with a note; empty for equal texts."""
    if before == after:
        return ""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm=""))[2:]
    shown = [visible(line, _LINE_CHARACTERS) for line in lines[:_DIFF_LINES]]
    if len(lines) > _DIFF_LINES:
        shown.append(f"... {len(lines) - _DIFF_LINES} more lines; the journal holds the whole text")
    return "\n".join(shown)


def counts_by_standing(state: CampaignState) -> dict[str, int]:
    """How often each of `standings` occurred, those that occurred only: kept, taken back, the others. No placebos."""
    stands = standings(state)
    found = [stands[item.id] for item in state.experiments if not is_placebo(item)]
    order = [Status.KEPT.value, TAKEN_BACK.short, *(status.value for status in Status), "waiting"]
    return {name: found.count(name) for name in dict.fromkeys(order) if name in found}
