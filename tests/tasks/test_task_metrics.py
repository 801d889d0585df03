"""Metrics of answers: the same numbers as scikit-learn, and intervals that know which answers belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.contracts import Document, Span, Task, TaskAnswer, TaskScore
from slm_ar.core.errors import DataError
from slm_ar.core.prepare.answers import Question
from slm_ar.core.tasks.metrics import (
    as_groups,
    make_score,
    measure,
    metric_value,
    paired_interval,
    weighted_metric,
)

LABELS = ("red", "green", "blue")
CHOICE = Task("t", "choice", "macro_f1", "max", choices=LABELS, positive="red")
VALUE = Task("t", "value", "mae", "min", bins=(0, 5, 10), clip=4)


def answers_of(pairs: Sequence[tuple[str, str]], probabilities: Sequence[float | None] = ()) -> list[TaskAnswer]:
    """One answer per (gold, guess), each in a document and a group of its own."""
    shares = probabilities or [None] * len(pairs)
    return [
        TaskAnswer(f"d{n:03}", 0, f"g{n:03}", gold, guess, share)
        for n, ((gold, guess), share) in enumerate(zip(pairs, shares, strict=True))
    ]


def score_of(task: Task, answers: Sequence[TaskAnswer]) -> TaskScore:
    return TaskScore(task.name, "dev", measure(task, answers), tuple(answers))


labels = st.sampled_from(LABELS)
pair_lists = st.lists(st.tuples(labels, labels), min_size=1, max_size=30)


@given(pair_lists)
@settings(max_examples=60)
def test_accuracy_and_f1_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    golds, guesses = [gold for gold, _ in pairs], [guess for _, guess in pairs]
    figures = measure(CHOICE, answers_of(pairs))
    assert figures["accuracy"] == pytest.approx(accuracy_score(golds, guesses))
    assert figures["macro_f1"] == pytest.approx(f1_score(golds, guesses, average="macro", zero_division=0))
    if "red" in golds or "red" in guesses:
        expected = f1_score(golds, guesses, labels=["red"], average="macro", zero_division=0)
        assert figures["f1"] == pytest.approx(expected)
    else:
        assert "f1" not in figures


@given(st.lists(st.tuples(labels, st.sampled_from((0.0, 0.1, 0.5, 0.9, 1.0))), min_size=1, max_size=30))
@settings(max_examples=60)
def test_pr_auc_is_the_average_precision_of_scikit_learn(rows: list[tuple[str, float]]) -> None:
    from sklearn.metrics import average_precision_score

    golds = [gold for gold, _ in rows]
    shares = [share for _, share in rows]
    value = metric_value(CHOICE, "pr_auc", answers_of([(gold, "red") for gold in golds], shares))
    if "red" in golds:
        assert value == pytest.approx(average_precision_score([gold == "red" for gold in golds], shares))
    else:
        assert math.isnan(value)


def test_a_hard_answer_counts_as_certain_in_pr_auc() -> None:
    pairs = [("red", "red"), ("blue", "red"), ("red", "blue"), ("blue", "blue")]
    assert metric_value(CHOICE, "pr_auc", answers_of(pairs)) == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)


finite = st.integers(-50, 50).map(str)


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
@settings(max_examples=60)
def test_errors_of_numbers(pairs: list[tuple[str, str]]) -> None:
    errors = [abs(int(gold) - int(guess)) for gold, guess in pairs]
    figures = measure(VALUE, answers_of(pairs))
    assert figures["mae"] == pytest.approx(sum(errors) / len(errors))
    assert figures["clipped_mae"] == pytest.approx(sum(min(4, error) for error in errors) / len(errors))
    total = sum(abs(int(gold)) for gold, _ in pairs)
    if total:
        assert figures["wape"] == pytest.approx(sum(errors) / total)
    else:
        assert "wape" not in figures


def test_buckets_have_lower_edges() -> None:
    pairs = [("0", "4.9"), ("5", "4.9"), ("10", "100"), ("-1", "-7")]
    figures = measure(VALUE, answers_of(pairs))
    assert figures["accuracy"] == 0.75
    # Bucket 0-5: f1 2/3; 5-10 is never right; the two others are perfect.
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 0 + 1 + 1) / 4)


def test_the_headline_is_always_there() -> None:
    task = Task("t", "choice", "pr_auc", "max", choices=LABELS, positive="red")
    assert measure(task, answers_of([("blue", "blue")], [0.2]))["pr_auc"] == 0


def test_rated_figures_are_means_and_losses_become_bits() -> None:
    task = Task("t", "generate", "recall", "max")
    answers = [
        TaskAnswer("a", 0, "a", "x", " x\n", loss=math.log(2), rated={"recall": 1.0, "odd": 1.0}),
        TaskAnswer("b", 0, "b", "x", "y", loss=3 * math.log(2), rated={"recall": 0.5}),
    ]
    figures = measure(task, answers)
    assert figures == {"recall": 0.75, "exact_match": 0.5, "bits_per_answer": pytest.approx(2)}


def test_what_is_no_number_or_no_metric_is_named() -> None:
    with pytest.raises(DataError, match="'many' in document 'd000'"):
        measure(VALUE, answers_of([("1", "many")]))
    with pytest.raises(DataError, match="no metric 'beauty'"):
        measure(Task("t", "generate", "beauty", "max"), answers_of([("a", "b")]))


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "f1", "pr_auc"])
@given(st.data())
@settings(max_examples=30)
def test_a_weight_is_a_repetition(metric: str, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(labels, labels), min_size=2, max_size=12))
    shares = data.draw(st.lists(st.sampled_from((0.1, 0.4, 0.8)), min_size=len(pairs), max_size=len(pairs)))
    weights = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)).filter(any))
    answers = answers_of(pairs, shares)
    repeated = [answer for answer, weight in zip(answers, weights, strict=True) for _ in range(weight)]
    (weighted,) = weighted_metric(CHOICE, metric, answers, np.array([weights], float))
    assert weighted == pytest.approx(metric_value(CHOICE, metric, repeated), nan_ok=True)


# --- slices -----------------------------------------------------------------------------------


def test_slices_hold_the_headline_where_it_is_defined() -> None:
    task = Task("t", "choice", "pr_auc", "max", choices=LABELS, positive="red")
    document = Document("d", "red green blue", "g", None, (Span(0, 3, "t"), Span(4, 9, "t"), Span(10, 14, "t")))
    months = ("may", "may", "june")
    questions = [Question(document, n, {"month": month}) for n, month in enumerate(months)]
    shares = (0.9, 0.2, 0.3)
    answers = [
        TaskAnswer("d", n, "g", question.gold, "red", share)
        for n, (question, share) in enumerate(zip(questions, shares, strict=True))
    ]
    score = make_score(task, "dev", answers, questions)
    assert score.slices == {"month": {"may": 1.0}}
    assert score.metrics["pr_auc"] == 1.0


# --- paired intervals -------------------------------------------------------------------------


def test_the_same_answers_differ_by_nothing() -> None:
    score = score_of(VALUE, answers_of([("1", "2"), ("5", "9"), ("3", "3")]))
    assert paired_interval(VALUE, score, score) == (0, 0, 0)


@pytest.mark.parametrize("metric", ["mae", "wape", "accuracy", "macro_f1", "clipped_mae"])
def test_a_real_difference_is_seen_and_repeats(metric: str) -> None:
    golds = [str(n % 12) for n in range(200)]
    good = score_of(VALUE, answers_of([(gold, gold) for gold in golds]))
    bad = score_of(VALUE, answers_of([(gold, str(int(gold) + 5)) for gold in golds]))
    delta, low, high = paired_interval(VALUE, good, bad, metric, resamples=300)
    assert low <= delta <= high
    assert (high < 0) if metric in ("mae", "wape", "clipped_mae") else (low > 0)
    assert paired_interval(VALUE, good, bad, metric, resamples=300) == (delta, low, high)
    assert paired_interval(VALUE, bad, good, metric, resamples=300).delta == pytest.approx(-delta)


def test_answers_of_one_group_come_and_go_together() -> None:
    """Ten groups of twenty alike answers say much less than two hundred answers."""
    golds = ["1"] * 200
    guesses = ["1" if n // 20 % 2 else "0" for n in range(200)]
    single = answers_of(list(zip(golds, guesses, strict=True)))
    grouped = [
        TaskAnswer(answer.document, 0, f"day {n // 20}", answer.gold, answer.answer) for n, answer in enumerate(single)
    ]
    other = answers_of([("1", "0.5")] * 200)
    regrouped = [
        TaskAnswer(answer.document, 0, f"day {n // 20}", answer.gold, answer.answer) for n, answer in enumerate(other)
    ]
    narrow = paired_interval(VALUE, score_of(VALUE, single), score_of(VALUE, other))
    wide = paired_interval(VALUE, score_of(VALUE, grouped), score_of(VALUE, regrouped))
    assert narrow.delta == wide.delta == 0
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    # The standard error of a mean of ten groups of sd 1/2.
    assert wide.high == pytest.approx(1.96 * 0.5 / math.sqrt(10), rel=0.2)


def test_one_group_tells_nothing() -> None:
    answers = [TaskAnswer("d", n, "g", "1", "2") for n in range(9)]
    score = score_of(VALUE, answers)
    assert paired_interval(VALUE, score, score) == (0, -math.inf, math.inf)


def test_different_questions_are_not_compared() -> None:
    one, other = answers_of([("1", "1"), ("2", "2")]), answers_of([("1", "1")])
    with pytest.raises(DataError, match=r"different questions \(1 only ours, 0 only theirs\)"):
        paired_interval(VALUE, score_of(VALUE, one), score_of(VALUE, other))


# --- what the gate judges ---------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["mae", "wape", "clipped_mae", "accuracy", "bits_per_answer"])
def test_groups_of_a_mean_add_up_to_the_metric(metric: str) -> None:
    golds = (3, 8, 0, 12, 5, 7, 1)
    answers = [TaskAnswer(f"d{n}", 0, f"g{n % 3}", str(gold), str(n), loss=n + 0.5) for n, gold in enumerate(golds)]
    groups = as_groups(VALUE, answers, metric)
    assert [(group.group, group.byte_count) for group in groups] == [("g0", 3), ("g1", 2), ("g2", 2)]
    total = sum(group.nats for group in groups) / math.log(2) / sum(group.byte_count for group in groups)
    assert total == pytest.approx(metric_value(VALUE, metric, answers))


@pytest.mark.parametrize("metric", ["macro_f1", "f1", "pr_auc"])
def test_groups_of_other_metrics_are_pseudo_values(metric: str) -> None:
    pick = np.random.default_rng(3)
    pairs = [(LABELS[gold], LABELS[guess]) for gold, guess in pick.integers(0, 3, (60, 2))]
    shares = pick.random(60).tolist()
    answers = [
        TaskAnswer(f"d{n}", 0, f"g{n % 12}", gold, guess, share)
        for n, ((gold, guess), share) in enumerate(zip(pairs, shares, strict=True))
    ]
    whole = metric_value(CHOICE, metric, answers)
    for group in as_groups(CHOICE, answers, metric):
        without = metric_value(CHOICE, metric, [answer for answer in answers if answer.group != group.group])
        assert group.nats / math.log(2) == pytest.approx(12 * whole - 11 * without)
        assert group.byte_count == 1
    (only,) = as_groups(CHOICE, [TaskAnswer("d", 0, "g", "red", "red", 0.9)], metric)
    assert only.nats / math.log(2) == 1
