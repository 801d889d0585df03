"""Figures of task answers: accuracy, macro-F1, PR-AUC, errors of numbers, and paired intervals between two systems.

Called by the scorer of tasks and by the baselines. Pure. Every metric is a function of weights of the answers, so that
the number on the whole split (weights 1) and its bootstrap (weights drawn by group) come from the same few lines.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contracts import GroupScore, Rater, Task, TaskAnswer, TaskScore
from ..errors import DataError
from ..prepare.answers import Question, number

Array = NDArray[np.float64]

BITS_PER_ANSWER = "bits_per_answer"
LOG_LOSS = "log_loss"
"""Nats of the gold answer among the candidates; kind choice keeps it in `TaskAnswer.rated`."""


class PairedInterval(NamedTuple):
    """A difference of a metric, ours minus theirs, with its 95 % interval."""

    delta: float
    low: float
    high: float


def make_score(task: Task, split: str, answers: Sequence[TaskAnswer], questions: Sequence[Question]) -> TaskScore:
    """The metrics of `answers`, one per question in the same order, and the headline for every slice."""
    cells: dict[str, dict[str, list[TaskAnswer]]] = {}
    for answer, question in zip(answers, questions, strict=True):
        for key, value in question.slices.items():
            cells.setdefault(key, {}).setdefault(value, []).append(answer)
    slices: dict[str, dict[str, float]] = {}
    for key, values in cells.items():
        figures = {value: metric_value(task, task.metric, inside) for value, inside in sorted(values.items())}
        slices[key] = {value: figure for value, figure in figures.items() if math.isfinite(figure)}
    return TaskScore(task.name, split, measure(task, answers), tuple(answers), slices)


def measure(task: Task, answers: Sequence[TaskAnswer]) -> dict[str, float]:
    """Every metric of the task's kind that is defined for `answers`. The headline is always there: 0 if undefined."""
    figures = {name: metric_value(task, name, answers) for name in metric_names(task, answers)}
    defined = {name: figure for name, figure in figures.items() if math.isfinite(figure)}
    return {task.metric: 0.0, **defined}


def metric_names(task: Task, answers: Sequence[TaskAnswer]) -> list[str]:
    """What can be computed for these answers, the headline first."""
    names = [task.metric]
    if task.kind == "choice":
        names += ["accuracy", "macro_f1"]
        if task.positive:
            names += ["f1", "pr_auc"]
    elif task.kind == "value":
        names += ["mae", "wape"]
        names += ["clipped_mae"] if task.clip is not None else []
        names += ["accuracy", "macro_f1"] if task.bins else []
    else:
        names.append("exact_match")
    shared = set.intersection(*(set(answer.rated) for answer in answers)) if answers else set()
    names += sorted(shared | {name.partition("/")[0] for name in shared})
    if any(answer.loss for answer in answers):
        names.append(BITS_PER_ANSWER)
    return list(dict.fromkeys(names))


def metric_value(task: Task, metric: str, answers: Sequence[TaskAnswer]) -> float:
    """One metric over all answers; NaN when it is undefined (no positive answer, say)."""
    if not answers:
        return math.nan
    return float(weighted_metric(task, metric, answers, np.ones((1, len(answers))))[0])


def weighted_metric(task: Task, metric: str, answers: Sequence[TaskAnswer], weights: Array) -> Array:
    """The metric under each row of `weights` [rows, answers] -> [rows]; NaN where it is undefined."""
    if metric == "pr_auc":
        scores = np.array([_score_of_positive(task, answer) for answer in answers])
        positive = np.array([float(answer.gold == task.positive) for answer in answers])
        return _average_precision(scores, positive, weights)
    if metric in ("macro_f1", "f1"):
        golds, guesses = zip(*(_labels(task, answer) for answer in answers), strict=True)
        if metric == "f1":
            return _f1_per_label(golds, guesses, [task.positive], weights)[:, 0]
        labels = sorted({*golds, *guesses})
        per_label = _f1_per_label(golds, guesses, labels, weights)
        present = np.isfinite(per_label)
        return _ratio(np.where(present, per_label, 0.0).sum(1), present.sum(1).astype(np.float64))
    if metric == "wape":
        pairs = np.array([_numbers(answer) for answer in answers])
        return _ratio(weights @ np.abs(pairs[:, 1] - pairs[:, 0]), weights @ np.abs(pairs[:, 0]))
    if parts := _parts(metric, answers):
        figures = np.array([weighted_metric(task, part, answers, weights) for part in parts])
        defined = np.isfinite(figures)
        return _ratio(np.where(defined, figures, 0.0).sum(0), defined.sum(0).astype(np.float64))
    figures = np.array([_figure(task, metric, answer) for answer in answers])
    counted = np.isfinite(figures)
    return _ratio(weights @ np.where(counted, figures, 0.0), weights @ counted)


def _parts(metric: str, answers: Sequence[TaskAnswer]) -> list[str]:
    """The figures `metric/PART` whose mean, each counting the same, is the metric; empty when it has none."""
    return sorted(name for name in answers[0].rated if name.startswith(f"{metric}/"))


def rated_by(rater: object, task: Task, question: Question, answer: str) -> dict[str, float]:
    """What a Rater makes of a number or a text that was given as answer; nothing without one, and for choices."""
    if task.kind == "choice" or not isinstance(rater, Rater):
        return {}
    return dict(rater.rate(task.name, question.prompt, question.gold, answer))


def _figure(task: Task, metric: str, answer: TaskAnswer) -> float:
    """The contribution of one answer to a metric that is a mean."""
    if metric == "accuracy":
        gold, guess = _labels(task, answer)
        return float(gold == guess)
    if metric in ("mae", "clipped_mae"):
        gold_number, guess_number = _numbers(answer)
        error = abs(guess_number - gold_number)
        return min(error, task.clip) if metric == "clipped_mae" and task.clip is not None else error
    if metric == "exact_match":
        return float(answer.gold.strip() == answer.answer.strip())
    if metric == BITS_PER_ANSWER:
        return answer.loss / math.log(2)
    if metric not in answer.rated:
        known = ", ".join(sorted(answer.rated)) or "none"
        raise DataError(
            f"task '{task.name}' has no metric '{metric}'",
            f"the metric of an adapter's task is one of its kind, or a name that its rate() returns (here: {known})",
        )
    return answer.rated[metric]


def _labels(task: Task, answer: TaskAnswer) -> tuple[str, str]:
    """Gold and guess as classes: the buckets of a value task, else the texts."""
    if task.kind == "value":
        gold, guess = _numbers(answer)
        return str(bisect_right(task.bins, gold)), str(bisect_right(task.bins, guess))
    return answer.gold, answer.answer


def _numbers(answer: TaskAnswer) -> tuple[float, float]:
    gold, guess = number(answer.gold), number(answer.answer)
    if gold is None or guess is None:
        wrong = answer.gold if gold is None else answer.answer
        raise DataError(
            f"'{wrong[:60]}' in document '{answer.document}' (span {answer.span}) is no number",
            "answers of a value task are numbers such as 12, -0.5 or 1e-3",
        )
    return gold, guess


def _score_of_positive(task: Task, answer: TaskAnswer) -> float:
    """The probability of the positive answer; an answer without one is certain."""
    return float(answer.answer == task.positive) if answer.probability is None else answer.probability


def _f1_per_label(golds: Sequence[str], guesses: Sequence[str], labels: Sequence[str], weights: Array) -> Array:
    """[rows, labels]; NaN for a label that occurs in neither, 0 for one that is never right."""
    gold = np.array([[float(text == label) for label in labels] for text in golds])
    guess = np.array([[float(text == label) for label in labels] for text in guesses])
    return _ratio(2 * (weights @ (gold * guess)), weights @ gold + weights @ guess)


def _average_precision(scores: Array, positive: Array, weights: Array) -> Array:
    """Sum over thresholds of (recall step) x precision, ties taken together, as in scikit-learn."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last_of_tie]
    seen = np.cumsum(weights[:, order], axis=1)[:, last_of_tie]
    precision = np.where(seen > 0, hits / np.where(seen > 0, seen, 1.0), 0.0)
    steps = np.diff(hits, axis=1, prepend=0.0)
    return _ratio((precision * steps).sum(1), hits[:, -1])


def _ratio(numerator: Array, denominator: Array) -> Array:
    safe = np.where(denominator > 0, denominator, 1.0)
    return np.where(denominator > 0, numerator / safe, np.nan)


def as_groups(task: Task, answers: Sequence[TaskAnswer], metric: str | None = None) -> tuple[GroupScore, ...]:
    """A metric in the form that the gate judges: sum(nats) / ln 2 / sum(byte_count) is the metric, and groups add up.

    Means and WAPE are exact, `byte_count` being the number of answers. Macro-F1, F1 and PR-AUC do not add up over
    groups: they come as jackknife pseudo-values (Tukey 1958), one per group with `byte_count` 1, whose mean is the
    metric less its bias and whose scatter is its jackknife variance. Where a group left out makes the metric undefined,
    it counts as 0.
    """
    name = metric or task.metric
    names, places = np.unique(np.array([answer.group for answer in answers]), return_inverse=True)
    membership = (places[None, :] == np.arange(len(names))[:, None]).astype(np.float64)
    if name in ("macro_f1", "f1", "pr_auc") or _parts(name, answers):
        everything, left_out = membership.sum(0, keepdims=True), 1 - membership
        whole = np.nan_to_num(weighted_metric(task, name, answers, everything))
        without = np.nan_to_num(weighted_metric(task, name, answers, left_out)) if len(names) > 1 else whole
        values, counts = len(names) * whole - (len(names) - 1) * without, np.ones(len(names))
    else:
        figures = np.array([_figure(task, "mae" if name == "wape" else name, answer) for answer in answers])
        if name == "wape":
            figures /= np.mean([abs(_numbers(answer)[0]) for answer in answers]) or 1.0
        counted = np.isfinite(figures)
        values, counts = membership @ np.where(counted, figures, 0.0), membership @ counted
    return tuple(
        GroupScore(str(group), float(value) * math.log(2), int(count))
        for group, value, count in zip(names, values, counts, strict=True)
    )


def paired_interval(
    task: Task,
    ours: TaskScore,
    theirs: TaskScore,
    metric: str | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> PairedInterval:
    """Ours minus theirs in `metric` (the headline if None) on the same questions, bootstrapped over groups.

    Groups are drawn with replacement and each keeps all its answers, so answers of one day may depend on each other
    (cluster bootstrap, percentiles 2.5 and 97.5). Fewer than two groups tell nothing: the interval is infinite.
    Raises DataError when the two answered different questions.
    """
    name = metric or task.metric
    first = {(answer.document, answer.span): answer for answer in ours.answers}
    second = {(answer.document, answer.span): answer for answer in theirs.answers}
    if first.keys() != second.keys():
        raise DataError(
            f"task '{task.name}': the two systems answered different questions "
            f"({len(first.keys() - second.keys())} only ours, {len(second.keys() - first.keys())} only theirs)",
            "score both on the same split",
        )
    keys = sorted(first)
    one, other = [first[key] for key in keys], [second[key] for key in keys]
    delta = metric_value(task, name, one) - metric_value(task, name, other)
    weights = _group_weights([answer.group for answer in one], seed, resamples)
    if weights is None or not math.isfinite(delta):
        return PairedInterval(delta, -math.inf, math.inf)
    deltas = weighted_metric(task, name, one, weights) - weighted_metric(task, name, other, weights)
    low, high = np.percentile(deltas[np.isfinite(deltas)], [2.5, 97.5])
    return PairedInterval(delta, float(low), float(high))


def _group_weights(groups: Sequence[str], seed: int, resamples: int) -> Array | None:
    """How often each answer occurs in each resample [resamples, answers]; None for fewer than two groups."""
    names, places = np.unique(np.array(groups), return_inverse=True)
    if len(names) < 2:
        return None
    shares = np.full(len(names), 1 / len(names))
    counts = np.random.default_rng(seed).multinomial(len(names), shares, size=resamples)
    return counts[:, places].astype(np.float64)
