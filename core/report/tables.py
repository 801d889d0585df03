"""Plain renderings of a campaign: results.tsv for other programs, and the lines of `slm-ar status`."""

from __future__ import annotations

import textwrap

from ..agent.state import CampaignState
from ..contracts import BITS_WITH_NGRAM
from .experiments import DevScore, ExperimentRow, standings
from .summary import Summary
from .words import counted, figure, number, plural, signed, visible

_COLUMNS = (
    "id",
    "revision",
    "parent",
    "proposer",
    "status",
    "dev_score",
    "delta",
    "seconds",
    "steps",
    "hypothesis",
    "unit",
)
_FORMULA_STARTS = ("=", "+", "-", "@")
_LAST_EXPERIMENTS = 5
_LAST_CLAIMS = 3
_WIDTH = 80
_LABEL_WIDTH = 10


def results_tsv(state: CampaignState) -> str:
    """One line per experiment under a header; a field that has no value is empty.

    `status` is "taken back" for a kept edit that did not stay: see experiments.standings.
    `delta` is the dev score minus the current code's own run with the same seed; `unit` is what both count. Tabs, line
    ends and control characters in texts are neutralised, and a text that a spreadsheet would take for a formula gets a
    leading apostrophe.
    """
    lines, stands = ["\t".join(_COLUMNS)], standings(state)
    for item in state.experiments:
        outcome = item.run.outcome if item.run is not None else None
        score = number(item.dev_score)
        delta = score - item.head_score if score is not None and item.head_score is not None else None
        fields = (
            str(item.id),
            _cell(item.revision),
            _cell(item.parent),
            _cell(item.proposer),
            stands[item.id],
            "" if score is None else f"{score:.6f}",
            "" if delta is None else f"{delta:+.6f}",
            "" if outcome is None else f"{outcome.train_seconds:.1f}",
            "" if outcome is None else str(outcome.steps),
            _cell(item.hypothesis),
            _cell(state.unit),
        )
        lines.append("\t".join(fields))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    cell = visible(text, single_line=True)
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def status_text(summary: Summary, *, is_end: bool = False, folder: str = "") -> str:
    """Plain lines of at most 80 columns for a terminal or a pipe, the verdict first: no control codes, no colour.

    `is_end` leaves out the newest experiments, which a display has just shown; `folder` is where the next commands
    are typed, when that is not here.
    """
    lines = _wrapped(summary.verdict.headline)
    if summary.stamp:
        lines += _wrapped(f"[{summary.stamp}]")
    for sentence in summary.verdict.lines:
        lines += _wrapped(sentence)
    if summary.compressor is not None:
        lines += _wrapped(summary.compressor.sentence)
    lines.append("")
    setting = ", ".join(part for part in (summary.recipe_name, summary.device, summary.budget) if part)
    for label, text in (
        ("recipe", setting),
        ("now", summary.doing),
        ("stopped", summary.stop_reason),
        ("noise", f"{summary.sigma:.4f} {summary.unit} between runs of the same code" if summary.sigma else ""),
        ("provable", summary.provable),
        ("start", _score(summary.baseline, summary.unit)),
        ("proven", _score(summary.proven, summary.unit) if summary.proven is not None else ""),
        ("current", _score(summary.current, summary.unit)),
        (summary.text_words, _as_text(summary)),
        ("tried", _tried(summary)),
        ("spent", summary.spent),
        ("asked", summary.asked),
    ):
        if text:
            lines += _wrapped(f"{label + ':':<{_LABEL_WIDTH}}{text}", _LABEL_WIDTH)
    if not is_end:
        lines += [_experiment_line(row) for row in summary.experiments[-_LAST_EXPERIMENTS:]]
    for row in summary.exam:
        lines += _wrapped(f"{row.task}: {row.metric} {figure(row.model)} on {summary.exam_split}", _LABEL_WIDTH)
        lines += [f"  {entry.name:<30} {figure(entry.value):>9}  {entry.words}" for entry in row.baselines]
    for claim in summary.claims[-_LAST_CLAIMS:]:
        pairs = f", {plural(claim.pairs, 'pair')} of runs" if claim.pairs is not None else ""
        lines += _wrapped(f"proof {claim.id}: {claim.words}{pairs}", _LABEL_WIDTH)
    if summary.next_steps:
        lines += ["", f"Next, in {folder}:" if folder else "Next:"]
        width = max(len(step.command) for step in summary.next_steps)
        for step in summary.next_steps:
            lines += _wrapped(f"  {step.command:<{width}}  {step.why}", width + 4)
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: int = 0) -> list[str]:
    """Lines of at most 80 columns, all but the first indented; a word that is longer stays whole."""
    return textwrap.wrap(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _experiment_line(row: ExperimentRow) -> str:
    delta = f" ({signed(row.delta)})" if row.delta is not None else ""
    score = f" {figure(row.dev_score)}{delta}" if row.dev_score is not None else ""
    return visible(f"{row.id:>5}  {row.words}{score}  {row.hypothesis}", _WIDTH)


def _score(found: DevScore, unit: str) -> str:
    return f"{figure(found.score)} {unit} on dev, {plural(found.runs, 'run')}" if found.score is not None else ""


def _as_text(summary: Summary) -> str:
    """Bits per byte beside another metric."""
    if summary.text_start is None or summary.text_current is None:
        return ""
    whose = "bits per byte of the model alone" if summary.unit == BITS_WITH_NGRAM else "bits per byte"
    return f"{figure(summary.text_start)} -> {figure(summary.text_current)} {whose} on dev, start and current"


def _tried(summary: Summary) -> str:
    if not summary.experiments:
        return ""
    planned = f" of {summary.experiments_planned}" if summary.experiments_planned else ""
    placebos = f"; {summary.placebos_kept} of {plural(summary.placebos, 'placebo')} kept" if summary.placebos else ""
    failed = f"; {summary.failed_words}" if summary.failed_words else ""
    counts = ", ".join(counted(summary.counts)) or "no edit"
    return f"{len(summary.experiments)}{planned} experiments: {counts}{placebos}{failed}"
