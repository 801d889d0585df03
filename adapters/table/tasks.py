"""What the label of a table asks: which kind of task it is, its candidate answers, and the text of each answer.

Called by the table adapter, which reads the label of every row once to find the task.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ...core.contracts import Task
from ...core.errors import DataError, did_you_mean
from ...core.sources import Notices
from .cells import amount_text, any_amount, label_text
from .settings import Settings

CLASSIFICATION, REGRESSION, SERIES, NONE = "classification", "regression", "series", "none"
LABEL_TASK = Task("label", kind="choice", metric="accuracy", direction="max", min_effect=0.005)
"""Its kind is `value` when the label is an amount: `find_tasks` tells."""
NEXT_TASK = Task("next", kind="value", metric="wape", direction="min", min_effect=0.002)

MAX_CHOICES = 64
RARE_SHARE = 0.2
"""A class of two with a smaller share is what matters: accuracy would reward never naming it."""
FEW_NUMBERS = 20
FEW_FRACTIONS = 10
"""More different numbers than this are amounts, fewer are grades and flags."""
SURVEYED_ROWS = 10_000
"""Rows whose labels tell classification from regression."""
EFFECT_SHARE = 0.005
"""A gain of this part of the label's standard deviation is worth claiming."""
ALERT = "alert"
MAX_REJECTED_SHARE = 0.2
EARLY_ROWS = 1000


class LabelSurvey:
    """Counts what the label column holds. Memory: at most MAX_CHOICES + 1 different answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.answers: Counter[str] = Counter()
        self.count = self.numbers = self.amounts = 0
        """Labels, those of them that are numbers, and those of them that are small enough to be answers."""
        self.has_fractions = False
        self._mean = self._squares = 0.0

    def add(self, raw: str) -> None:
        """Look at one row's label; missing ones do not count."""
        answer = class_answer(raw, self._settings)
        if not answer:
            return
        self.count += 1
        if answer in self.answers or len(self.answers) <= MAX_CHOICES:
            self.answers[answer] += 1
        number = any_amount(raw, self._settings.style)
        if number is None:
            return
        self.numbers += 1
        self.has_fractions |= "." in number
        if amount_text(raw, self._settings.style) is None:
            return
        self.amounts += 1
        value = float(number)
        before = value - self._mean
        self._mean += before / self.amounts
        self._squares += before * (value - self._mean)

    @property
    def kind(self) -> str:
        """Regression when every label is a number and there are many different ones."""
        few = min(FEW_FRACTIONS, self.count // 2) if self.has_fractions else FEW_NUMBERS
        return REGRESSION if self.numbers == self.count and len(self.answers) > few else CLASSIFICATION

    @property
    def deviation(self) -> float:
        """Standard deviation of the labels that are amounts."""
        return math.sqrt(self._squares / self.amounts) if self.amounts else 0.0


def class_answer(raw: str, settings: Settings) -> str:
    """The answer of a row as text; "" when it is missing."""
    answer = label_text(raw, settings.style)
    return ALERT if settings.normal and answer and answer != settings.normal else answer


def class_task(survey: LabelSurvey, settings: Settings) -> Task:
    """The choice among the answers that occur, most frequent first. Raises DataError when it is no fair choice."""
    label, answers = settings.wanted.label, survey.answers
    if len(answers) > MAX_CHOICES:
        numeric = survey.numbers == survey.count
        advice = (
            'Its values are numbers: [data.options] task = "regression" predicts them as amounts.'
            if numeric
            else "Name a coarser column, or join the rare answers to one (other) before. A column of texts is no label."
        )
        raise DataError(f"the label '{label}' has more than {MAX_CHOICES} different answers", advice)
    _check_answers(label, answers, settings)
    ranked = sorted(answers, key=lambda answer: (-answers[answer], answer))
    positive = ALERT if settings.normal else settings.positive
    if not positive and len(ranked) == 2 and answers[ranked[1]] < RARE_SHARE * survey.count:
        positive = ranked[1]
    metric = "accuracy"
    if positive:
        metric = "pr_auc"
    elif len(ranked) > 2 and answers[ranked[0]] > survey.count / 2:
        metric = "macro_f1"
    return Task(
        LABEL_TASK.name,
        kind="choice",
        metric=metric,
        direction="max",
        min_effect=LABEL_TASK.min_effect,
        choices=tuple(ranked),
        positive=positive,
    )


def _check_answers(label: str, answers: Counter[str], settings: Settings) -> None:
    known = list(answers)
    for option, value in (("normal", settings.normal), ("positive", settings.positive)):
        if value and value not in answers and not (option == "positive" and settings.normal):
            raise DataError(
                f"[data.options] {option} = '{value}' is no answer of the label '{label}'", did_you_mean(value, known)
            )
    if len(answers) < 2:
        only = f"only the answer '{known[0]}'" if known else "no answer in any row"
        raise DataError(
            f"the label '{label}' has {only}: there is nothing to tell apart",
            "Name another label, or remove it: then only bits per byte count.",
        )


def value_task(survey: LabelSurvey, settings: Settings) -> Task:
    """The number in the label. Raises DataError when none of them is a number."""
    if not survey.amounts:
        raise DataError(
            f"the label '{settings.wanted.label}' holds no numbers",
            'Write [data.options] task = "classification", or decimal = "," when 1,5 means one and a half.',
        )
    effect = float(f"{EFFECT_SHARE * survey.deviation:.2g}")
    return Task(LABEL_TASK.name, kind="value", metric="mae", direction="min", min_effect=effect)


# --- rows that cannot be used -------------------------------------------------------------------


@dataclass
class Rejects:
    """Counts the rows of one file in which a column cannot be read, and refuses the file when they are too many."""

    name: str
    column: str
    what: str
    """What the cells should be, such as "a date"."""
    advice: str
    notices: Notices
    rows: int = 0
    rejected: int = 0
    _first: str = ""

    def add(self, cell: str) -> None:
        """A cell that cannot be read."""
        self.rejected += 1
        self._first = self._first or f"row {self.rows}: '{cell[:40]}'"
        if self.rows >= EARLY_ROWS:
            self._refuse_many()

    def finish(self) -> None:
        """At the end of the file: a notice, or DataError."""
        self._refuse_many()
        if self.rejected:
            what = f"rows skipped, '{self.column}' is not {self.what} (first: {self._first})"
            self.notices.count(self.name, what, self.rejected)

    def _refuse_many(self) -> None:
        if self.rejected > MAX_REJECTED_SHARE * self.rows:
            raise DataError(
                f"{self.name}: '{self.column}' is not {self.what} in {self.rejected:,} of {self.rows:,} rows "
                f"({self._first})",
                self.advice,
            )


DATE_ADVICE = (
    'For dates like 03/04/2024 say which comes first: [data.options] date_order = "dmy" or "mdy". '
    "Otherwise name another column as time."
)
NUMBER_ADVICE = (
    'Write [data.options] decimal = "," when 1,5 means one and a half, or task = "classification". '
    "Numbers from 1e15 on are no amounts."
)


def date_rejects(name: str, column: str, notices: Notices) -> Rejects:
    """Of a time column."""
    return Rejects(name, column, "a date", DATE_ADVICE, notices)


def number_rejects(name: str, column: str, notices: Notices) -> Rejects:
    """Of a label or a series that must be numbers."""
    return Rejects(name, column, "a number", NUMBER_ADVICE, notices)
