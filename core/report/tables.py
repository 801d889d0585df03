"""Plain renderings of a campaign: results.tsv for other programs, and the lines of `slm-ar status`."""

from __future__ import annotations

from ..agent.state import CampaignState
from .summary import Summary
from .words import bpb, counted, number, plural, signed, visible

_COLUMNS = (
    "id",
    "revision",
    "parent",
    "proposer",
    "status",
    "dev_bpb",
    "delta",
    "seconds",
    "steps",
    "hypothesis",
)
_FORMULA_STARTS = ("=", "+", "-", "@")
_LAST_EXPERIMENTS = 5


def results_tsv(state: CampaignState) -> str:
    """One line per experiment under a header; a field that has no value is empty.

    `delta` is the dev score minus the current code's own run with the same seed. Tabs, line ends and control characters
    in texts are neutralised, and a text that a spreadsheet would take for a formula gets a leading apostrophe.
    """
    lines = ["\t".join(_COLUMNS)]
    for item in state.experiments:
        outcome = item.run.outcome if item.run is not None else None
        score = number(item.dev_score)
        delta = score - item.head_score if score is not None and item.head_score is not None else None
        fields = (
            str(item.id),
            _cell(item.revision),
            _cell(item.parent),
            _cell(item.proposer),
            "waiting" if item.status is None else item.status.value,
            "" if score is None else f"{score:.6f}",
            "" if delta is None else f"{delta:+.6f}",
            "" if outcome is None else f"{outcome.train_seconds:.1f}",
            "" if outcome is None else str(outcome.steps),
            _cell(item.hypothesis),
        )
        lines.append("\t".join(fields))
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    cell = visible(text, single_line=True)
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def status_text(summary: Summary) -> str:
    """Plain lines for `slm-ar status` and for everything that is no terminal: no control codes, no colour."""
    lines = [summary.verdict.headline, *summary.verdict.lines]
    if summary.compressor is not None:
        lines.append(summary.compressor.sentence)
    lines.append("")
    lines += _labelled(
        ("recipe", summary.recipe_name),
        ("device", ", ".join(part for part in (summary.device, summary.budget) if part)),
        ("now", summary.doing),
        ("stopped", summary.stop_reason),
        ("noise", f"{summary.sigma:.4f} bits per byte between runs of the same code" if summary.sigma else ""),
        ("start", _score(summary.baseline.bpb, summary.baseline.runs)),
        ("proven", _score(summary.proven.bpb, summary.proven.runs) if summary.proven is not None else ""),
        ("current", _score(summary.current.bpb, summary.current.runs)),
        ("tried", _tried(summary)),
        ("placebos", f"{summary.placebos_kept} of {summary.placebos} kept" if summary.placebos else ""),
    )
    for row in summary.experiments[-_LAST_EXPERIMENTS:]:
        delta = f" ({signed(row.delta)})" if row.delta is not None else ""
        score = f" {bpb(row.dev_bpb)}{delta}" if row.dev_bpb is not None else ""
        lines.append(f"  {row.id:>4}  {row.words}{score}  {visible(row.hypothesis, 70, single_line=True)}")
    for claim in summary.claims:
        pairs = f" ({plural(claim.pairs, 'pair')} of runs)" if claim.pairs is not None else ""
        lines.append(f"  proof {claim.id}: {claim.words}{pairs}")
    if summary.next_steps:
        lines += ["", "Next:"]
        width = max(len(step.command) for step in summary.next_steps)
        lines += [f"  {step.command:<{width}}  {step.why}" for step in summary.next_steps]
    return "\n".join(lines) + "\n"


def _labelled(*pairs: tuple[str, str]) -> list[str]:
    return [f"{label + ':':<10}{text}" for label, text in pairs if text]


def _score(value: float | None, runs: int) -> str:
    return f"{bpb(value)} bits per byte on dev, {plural(runs, 'run')}" if value is not None else ""


def _tried(summary: Summary) -> str:
    if not summary.experiments:
        return ""
    planned = f" of {summary.experiments_planned}" if summary.experiments_planned else ""
    return f"{len(summary.experiments)}{planned} experiments: " + ", ".join(counted(summary.counts))
