"""What a practitioner would use instead of a model: baselines on the questions that models are asked.

Called by prepare and the report. Every baseline learns from the examples of train (answers.py) and answers the very
spans that models answer, so its TaskScore can be set beside theirs, with a paired interval. Promises: deterministic;
no baseline sees anything behind its answer; a baseline that cannot be fitted is left out.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..contracts import Task, TaskAnswer, TaskScore
from ..errors import DataError
from ..prepare.answers import (
    ANSWERS_FILE,
    MOST_GENERATED,
    MOST_QUESTIONS,
    AnswerSlices,
    Question,
    TrainExample,
    choose_questions,
    example_of,
    fill_choices,
    number,
    read_answers,
)
from ..prepare.heldout import HeldDocument
from ..prepare.manifest import PreparedData
from .metrics import LOG_LOSS, make_score, rated_by
from .record_fields import MOST_LAGS, FieldTable, record_fields, series_before

LEAST_PROBABILITY = 1e-6
MOST_FEATURES = 50_000
STRENGTHS = (0.1, 1.0, 10.0)
"""Inverse strengths of regularisation (C of scikit-learn) that are tried; without enough examples the last one."""
FEWEST_TRIED = 50
BOOSTING_TREES = 1600
"""Trees of a boosted classifier, shared among its classes."""
MOST_ROUNDS = 200
WORD = re.compile(r"\w+", re.UNICODE)

MOST_FREQUENT, MEDIAN, LAST_VALUE, LAST_MEAN = "most frequent answer", "median", "last value", "mean of the last 8"
WORDS, BOOSTING, NEAREST = "TF-IDF + logistic regression", "gradient boosting", "nearest neighbour"


@runtime_checkable
class BaselineAdapter(Protocol):
    """An adapter that knows what people in its domain would write without a model (tasks of kind generate)."""

    def baseline_answers(
        self, task: str, train: Sequence[tuple[str, str]], prompts: Sequence[str]
    ) -> Mapping[str, Sequence[str]]:
        """Name of a baseline -> one answer per prompt; `train` holds (prompt, answer)."""
        ...


class Guess(NamedTuple):
    """One answer of a baseline; `shares` are its probabilities per class, empty when it has none."""

    answer: str
    shares: Mapping[str, float] = MappingProxyType({})


Baseline = Callable[[Task, Sequence[TrainExample], Sequence[TrainExample]], list[Guess] | None]
"""(task, train, asked) -> one guess for each asked, or None when it cannot be used."""


def measure_baselines(
    tasks: Sequence[Task],
    examples: Sequence[TrainExample],
    documents: Sequence[HeldDocument],
    split: str,
    adapter: object = None,
    answer_slices: AnswerSlices | None = None,
    limit: int = MOST_QUESTIONS,
) -> dict[str, dict[str, TaskScore]]:
    """Task -> baseline -> its score on the questions of `documents`; tasks without questions or examples are absent."""
    measured: dict[str, dict[str, TaskScore]] = {}
    for task in (fill_choices(task, examples) for task in tasks):
        train = [example for example in examples if example.task == task.name]
        most = min(limit, MOST_GENERATED) if task.kind == "generate" else limit
        questions = choose_questions(documents, task, most, answer_slices)
        if train and questions:
            measured[task.name] = _measure_task(task, train, questions, split, adapter)
    return measured


def baseline_texts(data: PreparedData, task: Task, adapter: object, prompts: Sequence[str]) -> dict[str, Sequence[str]]:
    """What the adapter's own baselines write after `prompts`; empty when it has none."""
    if not isinstance(adapter, BaselineAdapter):
        return {}
    examples = read_answers(data.folder / ANSWERS_FILE)
    pairs = [(example.prompt_line, example.answer) for example in examples if example.task == task.name]
    return dict(adapter.baseline_answers(task.name, pairs, prompts))


def _measure_task(
    task: Task, train: Sequence[TrainExample], questions: Sequence[Question], split: str, adapter: object
) -> dict[str, TaskScore]:
    asked = [example_of(question.document, question.index, task.kind) for question in questions]
    scores = {}
    for name, guesses in _all_guesses(task, train, asked, adapter).items():
        answers = [_answer(task, question, guess, adapter) for question, guess in zip(questions, guesses, strict=True)]
        scores[name] = make_score(task, split, answers, questions)
    return scores


def _all_guesses(
    task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample], adapter: object
) -> dict[str, list[Guess]]:
    found: dict[str, list[Guess]] = {}
    for name, baseline in BASELINES[task.kind].items():
        guesses = baseline(task, train, asked)
        if guesses is not None:
            found[name] = guesses
    if task.kind == "generate" and isinstance(adapter, BaselineAdapter):
        pairs = [(example.prompt_line, example.answer) for example in train]
        offered = adapter.baseline_answers(task.name, pairs, [example.prompt_line for example in asked])
        for name, answers in offered.items():
            if len(answers) != len(asked):
                raise DataError(
                    f"baseline_answers gave {len(answers)} answers for {len(asked)} prompts under '{name}'",
                    "the adapter must return one answer per prompt",
                )
            found[name] = [Guess(answer) for answer in answers]
    return found


def _answer(task: Task, question: Question, guess: Guess, adapter: object) -> TaskAnswer:
    gold = question.gold
    rated: dict[str, float] = {}
    probability = None
    if guess.shares:
        probability = guess.shares.get(task.positive or guess.answer, 0.0)
        rated[LOG_LOSS] = _log_loss(guess, gold)
    rated.update(rated_by(adapter, task, question, guess.answer))
    document = question.document
    return TaskAnswer(document.id, question.index, document.group, gold, guess.answer, probability, rated=rated)


# --- without features -------------------------------------------------------------------------


def most_frequent(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess]:
    """The commonest answer of train, for every question; its shares are those of train, one added to each choice."""
    counts = Counter(example.answer for example in train)
    best = min(counts, key=lambda answer: (-counts[answer], answer))
    shares: dict[str, float] = {}
    if task.kind == "choice":
        classes = {*counts, *task.choices}
        shares = {answer: (counts[answer] + 1) / (len(train) + len(classes)) for answer in classes}
    return [Guess(best, shares)] * len(asked)


def train_median(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess]:
    """The (lower) median of train: the constant with the least mean error."""
    return [Guess(_median_text(train))] * len(asked)


def _median_text(train: Sequence[TrainExample]) -> str:
    return repr(median_low(_value(example.answer) for example in train))


def last_value(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """Persistence: the answer before in the same document, or the last value of the series that the record shows.

    Without either, the best constant. None if no question has a value before it.
    """
    before = [_before(task, example) for example in asked]
    if not any(before):
        return None
    constant = _median_text(train) if task.kind == "value" else most_frequent(task, train, asked)[0].answer
    return [Guess(value or constant) for value in before]


def _before(task: Task, example: TrainExample) -> str:
    if example.previous_answer is not None:
        return example.previous_answer
    shown = series_before(example) if task.kind == "value" else []
    return repr(shown[-1]) if shown else ""


def mean_of_last(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """The mean of the last values (at most 8) of the series that each record shows. None unless all show one."""
    shown = [series_before(example)[-MOST_LAGS:] for example in asked]
    if not all(shown):
        return None
    return [Guess(repr(sum(values) / len(values))) for values in shown]


def _value(text: str) -> float:
    value = number(text)
    assert value is not None, "the answers of value tasks are checked when they are read"
    return value


# --- with features ----------------------------------------------------------------------------


def text_features(example: TrainExample) -> list[str]:
    """Words, pairs of neighbouring words, and the fields of the record, of what stands before an answer."""
    words = WORD.findall(f"{example.header} {example.prompt_line}".lower())
    pairs = [f"{one} {two}" for one, two in itertools.pairwise(words)]
    fields = [f"{name}={value}" for name, value in record_fields(example).items()]
    return [*words, *pairs, *fields] or ["nothing"]


def word_regression(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """TF-IDF over words, word pairs and fields, then multinomial logistic regression.

    How strongly it is held back is chosen as a practitioner would: by its log loss on every tenth example of train.
    """
    learned = [example for example in train if example.answer in set(task.choices)]
    labels = [example.answer for example in learned]
    if len(set(labels)) < 2:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer=text_features, max_features=MOST_FEATURES, sublinear_tf=True)
    known, strength = vectors.fit_transform(learned), STRENGTHS[-1]
    tried = [place for place in range(len(labels)) if place % 10 == 9]
    fitted = [place for place in range(len(labels)) if place % 10 != 9]
    golds = [labels[place] for place in tried]
    if len(tried) >= FEWEST_TRIED and len({labels[place] for place in fitted}) > 1:
        losses = {}
        for candidate in STRENGTHS:
            guesses = _regress(known[fitted], [labels[place] for place in fitted], known[tried], candidate)
            losses[candidate] = sum(_log_loss(guess, gold) for guess, gold in zip(guesses, golds, strict=True))
        strength = min(losses, key=lambda candidate: losses[candidate])
    return _regress(known, labels, vectors.transform(asked), strength)


def _regress(known: Any, labels: Sequence[str], asked: Any, strength: float) -> list[Guess]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(known, labels)
    return _classified(model.classes_.tolist(), model.predict_proba(asked))


def _log_loss(guess: Guess, gold: str) -> float:
    return -math.log(max(LEAST_PROBABILITY, guess.shares.get(gold, 0.0)))


def _classified(classes: Sequence[str], probabilities: Any) -> list[Guess]:
    guesses = []
    for row in probabilities:
        shares = {str(name): float(share) for name, share in zip(classes, row, strict=True)}
        guesses.append(Guess(max(shares, key=lambda name: shares[name]), shares))
    return guesses


def boosted_choice(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """Gradient boosted trees on the fields of the record, the header's words and the answer before."""
    learned = [example for example in train if example.answer in set(task.choices)]
    classes = {example.answer for example in learned}
    fields = FieldTable(learned)
    if len(classes) < 2 or not fields.columns:
        return None
    from sklearn.ensemble import HistGradientBoostingClassifier

    rounds = max(20, min(MOST_ROUNDS, BOOSTING_TREES // len(classes)))
    model = HistGradientBoostingClassifier(
        max_iter=rounds, categorical_features=fields.is_categorical, early_stopping=False, random_state=0
    )
    model.fit(fields.matrix(learned), [example.answer for example in learned])
    return _classified(model.classes_.tolist(), model.predict_proba(fields.matrix(asked)))


def boosted_value(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """The same with the absolute error as its loss, so that it too aims at the median."""
    fields = FieldTable(train)
    if not fields.columns:
        return None
    from sklearn.ensemble import HistGradientBoostingRegressor

    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=MOST_ROUNDS,
        categorical_features=fields.is_categorical,
        early_stopping=False,
        random_state=0,
    )
    model.fit(fields.matrix(train), [_value(example.answer) for example in train])
    return [Guess(repr(float(value))) for value in model.predict(fields.matrix(asked))]


def nearest_neighbour(task: Task, train: Sequence[TrainExample], asked: Sequence[TrainExample]) -> list[Guess] | None:
    """The answer to the most similar prompt of train (TF-IDF, cosine); the earlier one of two that are alike."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer=text_features, max_features=MOST_FEATURES, sublinear_tf=True)
    known = vectors.fit_transform(train)
    likeness = vectors.transform(asked) @ known.T
    return [Guess(train[int(row.argmax())].answer) for row in likeness]


BASELINES: dict[str, dict[str, Baseline]] = {
    "choice": {
        MOST_FREQUENT: most_frequent,
        LAST_VALUE: last_value,
        WORDS: word_regression,
        BOOSTING: boosted_choice,
    },
    "value": {MEDIAN: train_median, LAST_VALUE: last_value, LAST_MEAN: mean_of_last, BOOSTING: boosted_value},
    "generate": {MOST_FREQUENT: most_frequent, NEAREST: nearest_neighbour},
}
