"""One row per experiment, for every rendering: what was changed, what became of it, in people's words. Pure.

Called by summary.py. Also answers which code stands in which chain, and what dev says of a revision.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean

from ..agent.edits import parse_knobs
from ..agent.level import chain, taken_back
from ..agent.smoking import failed_before_training
from ..agent.state import CampaignState, ExperimentRecord, RunRecord
from ..contracts import KnobValue, Status
from ..errors import TrainingError
from .words import number, status_word, visible

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
    proven = lineage(state, state.rung) - {state.baseline}
    current = lineage(state, state.head) | lineage(state, state.rung)
    gone = taken_back(state)
    best = _best_by_revision(state)
    knobs = _knobs_by_revision(state)
    rows = []
    for item in state.experiments:
        words = status_word(item.status)
        said, meaning, tone = words.short, words.meaning, words.tone
        placebo = is_placebo(item)
        if failed_before_training(item):
            said, meaning = f"{said}, before training", f"{meaning}: two steps on made-up data showed it"
        if item.status is Status.KEPT and not placebo:
            if item.revision in proven:
                said, meaning = "proven", "part of the code that a proof on unseen text confirmed"
            elif item.id in gone:
                said, meaning, tone = "kept, taken back", "what was tried after it did not score better", "quiet"
            elif item.revision not in current:
                said, meaning, tone = "kept, taken back", "looked better on dev; the proof did not confirm it", "quiet"
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
                status="waiting" if item.status is None else item.status.value,
                words=said,
                meaning=meaning,
                tone=tone,
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
                is_placebo=placebo,
                diff=diff_text(state.revisions.get(item.parent, ""), state.revisions.get(item.revision, "")),
            )
        )
    return tuple(rows)


def is_placebo(item: ExperimentRecord) -> bool:
    """Whether the experiment was the unchanged code under another name, run to see what luck alone keeps."""
    return item.revision == item.parent or item.proposer == "placebo"


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


def counts_by_status(experiments: Iterable[ExperimentRecord]) -> dict[str, int]:
    """How often each status occurred, in the order of the enum, those that occurred only; then what waits."""
    items = list(experiments)
    counts: dict[str, int] = {status.value: sum(item.status is status for item in items) for status in Status}
    counts["waiting"] = sum(item.status is None for item in items)
    return {name: count for name, count in counts.items() if count}
