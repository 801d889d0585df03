"""The result of an exam in plain lines: the model, the baselines, and who is better, with its interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .words import visible

if TYPE_CHECKING:
    from ..tasks.exam import TaskResult

METRIC_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "pr_auc": "area under precision and recall",
    "mae": "mean error",
    "clipped_mae": "mean error, clipped",
    "wape": "error as share of the total",
    "exact_match": "exact answers",
    "bits_per_answer": "bits per answer",
    "log_loss": "log loss",
}
MOST_SLICES = 8
MOST_LETTERS = 60
"""Of a slice's value, which comes from a person's data."""


def exam_lines(results: tuple[TaskResult, ...]) -> list[str]:
    """A block per task. Empty when the data ask no question."""
    lines: list[str] = []
    for result in results:
        lines += _task_lines(result)
    return lines


def exam_table(results: tuple[TaskResult, ...], split: str) -> dict[str, str]:
    """A line of the model's card per task; `split` is the one whose questions were answered."""
    table = {}
    for result in results:
        metric, best = result.task.metric, result.best_baseline
        words = f"{_figure(result.score.metrics[metric])}"
        if best is not None:
            words += f"; {best} {_figure(result.baselines[best].metrics[metric])}"
        table[f"{result.task.name}, {_words(metric)} on {split}"] = words
    return table


def _task_lines(result: TaskResult) -> list[str]:
    task, metrics = result.task, result.score.metrics
    head = f"task {task.name}: {_words(task.metric)} {_figure(metrics[task.metric])}"
    lines = [f"{head} over {len(result.score.answers):,} questions"]
    sign = 1 if task.direction == "min" else -1
    ranked = sorted(result.baselines, key=lambda name: sign * result.baselines[name].metrics[task.metric])
    for name in ranked:
        value = result.baselines[name].metrics[task.metric]
        lines.append(f"  {visible(name):<28} {_figure(value):>8}  {_comparison(result, name)}")
    for name, problem in result.problems.items():
        lines += visible(f"  {name:<28} {'-':>8}  no score: {problem}").split("\n")
    lines += _other_metrics(result, ranked)
    lines += [f"  note: {visible(notice)}" for notice in result.notices]
    best = result.best_baseline
    if best is not None and _is_better(result, best) is False:
        lines.append(f"  The baseline '{best}' is better than the model: use it, or train longer.")
    return lines


def _other_metrics(result: TaskResult, ranked: list[str]) -> list[str]:
    """A column for each metric beside the headline, the model first; parts of a metric (`NAME/PART`) stay in JSON."""
    rows = {"the model": result.score.metrics, **{visible(name): result.baselines[name].metrics for name in ranked}}
    known = dict.fromkeys(metric for metrics in rows.values() for metric in metrics)
    others = [metric for metric in known if metric != result.task.metric and "/" not in metric]
    if not others:
        return []
    widths = [max(8, len(_words(metric))) for metric in others]

    def line(name: str, cells: list[str]) -> str:
        padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        return f"  {name:<28} {'  '.join(padded)}"

    table = [line("", [_words(metric) for metric in others])]
    for name, metrics in rows.items():
        table.append(line(name, [_figure(metrics[metric]) if metric in metrics else "-" for metric in others]))
    return table


def _comparison(result: TaskResult, name: str) -> str:
    interval = result.differences[name]
    better = _is_better(result, name)
    words = "no clear difference" if better is None else ("the model is better" if better else "better than the model")
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return f"{words} (too few groups for an interval)"
    return f"{words} ({interval.delta:+.4g}, 95 % interval {interval.low:+.4g} to {interval.high:+.4g})"


def _is_better(result: TaskResult, name: str) -> bool | None:
    """Whether the model beats the baseline; None when the interval holds zero."""
    interval = result.differences[name]
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)) or interval.low <= 0 <= interval.high:
        return None
    return (interval.high < 0) == (result.task.direction == "min")


def slice_lines(result: TaskResult) -> list[str]:
    """The headline metric by slice, the widest keys last; at most MOST_SLICES values of a key."""
    lines = []
    for key, values in sorted(result.score.slices.items(), key=lambda item: len(item[1])):
        shown = list(values.items())[:MOST_SLICES]
        more = f", and {len(values) - len(shown)} more" if len(values) > len(shown) else ""
        figures = (f"{visible(value, MOST_LETTERS, single_line=True)} {_figure(figure)}" for value, figure in shown)
        lines.append(f"  by {visible(key)}: " + ", ".join(figures) + more)
    return lines


def _words(metric: str) -> str:
    return METRIC_WORDS.get(metric, metric.replace("_", " "))


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"
