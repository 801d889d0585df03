"""Bring your own baseline: a file of answers (a vendor's, a large model's, a paper's) scored on the same questions.

Called for each line of the recipe's [baselines] table. Promises: a file that does not fit is refused with one DataError
that counts every problem, shows the first examples and says what a right line looks like; lines about documents of
other splits are no problem, because nobody is told which document is in which split.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts import Rater, Task, TaskAnswer, TaskScore
from ..errors import DataError, did_you_mean
from ..prepare.answers import MOST_GENERATED, MOST_QUESTIONS, AnswerSlices, Question, choose_questions, number
from ..prepare.heldout import HeldDocument
from ..sources import Notices, read_table
from .metrics import make_score, rated_by

DOCUMENT_COLUMNS = ("document", "id")
EXAMPLES = 3
LARGEST_STRANGE_SHARE = 0.5
"""Answers outside the choices of a task are wrong answers; when more than this share are, it is another vocabulary."""

Key = tuple[str, int]


@dataclass(slots=True)
class _Given:
    """One line of the file, counted without header and blank lines."""

    row_number: int
    answer: str
    probability: float | None


@dataclass(slots=True)
class _Reading:
    """The file's answers so far, and everything that is wrong with it."""

    answers: dict[Key, _Given] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    """Documents that this split does not hold, as often as they occur."""
    other_tasks: list[str] = field(default_factory=list)
    """Tasks of lines about other tasks, as often as they occur."""
    strange_count: int = 0
    """Answers that are none of the task's choices."""
    problems: dict[str, list[str]] = field(default_factory=dict)
    """Kind of problem -> examples, as often as it occurs."""

    def wrong(self, kind: str, example: str) -> None:
        self.problems.setdefault(kind, []).append(_shown(example))


def read_predictions(
    path: Path,
    documents: Sequence[HeldDocument],
    task: Task,
    split: str,
    rater: Rater | None = None,
    answer_slices: AnswerSlices | None = None,
    notices: Notices | None = None,
    limit: int = MOST_QUESTIONS,
) -> TaskScore:
    """Score the answers of `path` (jsonl, csv, tsv or parquet) to the questions of `task` in `documents`.

    Columns: document (or id), answer; span (counted from 0 among all answers of the document) where a document has
    several answers of the task; probability, of the positive answer or of the one given; task, where the file answers
    several tasks. Raises DataError.
    """
    most = min(limit, MOST_GENERATED) if task.kind == "generate" else limit
    questions = choose_questions(documents, task, most, answer_slices)
    if not questions:
        raise DataError(f"the split '{split}' holds no answer of task '{task.name}'", f"remove {path} from [baselines]")
    reading = _read(path, documents, task)
    _check_complete(reading, questions, task)
    if reading.problems:
        raise _refusal(path, reading, questions, task, split)
    if notices is not None:
        _count_tolerated(notices, path, reading, split)
    return make_score(task, split, [_answer(question, reading, task, rater) for question in questions], questions)


def _count_tolerated(notices: Notices, path: Path, reading: _Reading, split: str) -> None:
    for what, number_of in (
        (f"lines about documents that are not in {split}, ignored", len(reading.strangers)),
        ("lines about other tasks, ignored", len(reading.other_tasks)),
        ("answers that are none of the choices, counted as wrong", reading.strange_count),
    ):
        if number_of:
            notices.count(str(path), what, number_of)


def _read(path: Path, documents: Iterable[HeldDocument], task: Task) -> _Reading:
    spans = {
        held.document.id: [index for index, span in enumerate(held.document.spans) if span.task == task.name]
        for held in documents
    }
    notices = Notices()
    table = read_table(path, notices=notices)
    identity = next((name for name in DOCUMENT_COLUMNS if name in table.columns), "")
    if not identity or "answer" not in table.columns:
        missing = "document" if not identity else "answer"
        raise DataError(
            f"{path}: has no column {missing}; its columns are {_shown(', '.join(table.columns[:12]))}",
            'Each line needs "document" and "answer", like {"document": "2024-12-30/bus", "answer": "5"}',
        )
    reading = _Reading()
    for row_number, row in enumerate(table, start=1):
        _take(reading, row_number, row.get(identity, ""), row.get("span", ""), row, spans, task)
    for notice in notices.lines():
        reading.wrong("damaged lines", notice.removeprefix(f"{path}: "))
    return reading


def _take(
    reading: _Reading,
    row_number: int,
    document: str,
    span: str,
    row: dict[str, str],
    spans: dict[str, list[int]],
    task: Task,
) -> None:
    """File one line under its question, or under what is wrong with it."""
    if row.get("task") and row["task"] != task.name:
        reading.other_tasks.append(row["task"])
        return
    known = spans.get(document)
    if known is None:
        reading.strangers.append(document)
        return
    if span == "" and len(known) > 1:
        reading.wrong("lines without a span", f"row {row_number}: document '{document}' has {len(known)} answers")
        return
    index = _span_number(span) if span else next(iter(known), None)
    if index not in known:
        where = f"row {row_number}: document '{document}' has no answer {span}"
        reading.wrong("spans that do not exist", where.rstrip())
        return
    answer, probability = _cleaned(row.get("answer"), task), number(row.get("probability", ""))
    if answer is None:
        reading.wrong("lines without an answer", f"row {row_number}: document '{document[:60]}'")
    elif task.kind == "value" and number(answer) is None:
        reading.wrong("answers that are no numbers", f"row {row_number}: '{answer[:40]}'")
    elif row.get("probability", "") and (probability is None or not 0 <= probability <= 1):
        reading.wrong("probabilities outside 0 to 1", f"row {row_number}: '{row['probability'][:40]}'")
    elif (document, index) in reading.answers:
        first = reading.answers[document, index].row_number
        reading.wrong("questions answered twice", f"rows {first} and {row_number}: document '{document}'")
    else:
        reading.answers[document, index] = _Given(row_number, answer, probability)


def _cleaned(answer: str | None, task: Task) -> str | None:
    """The answer as it is compared: blanks around a number or a choice mean nothing, around a text they may."""
    if answer is None or task.kind == "generate" or answer in task.choices:
        return answer
    return answer.strip()


def _span_number(text: str) -> int | None:
    """3 for "3" and "3.0", as tables write it."""
    value = number(text)
    return int(value) if value is not None and value.is_integer() else None


def _check_complete(reading: _Reading, questions: Sequence[Question], task: Task) -> None:
    """Every question has an answer, all or none have a probability, and the answers speak of the task's choices."""
    given = [reading.answers.get((question.document.id, question.index)) for question in questions]
    for question, found in zip(questions, given, strict=True):
        if found is None:
            reading.wrong("questions without an answer", f"document '{question.document.id}' span {question.index}")
    answered = [found for found in given if found is not None]
    unsure = [found for found in answered if found.probability is None]
    if 0 < len(unsure) < len(answered):
        for found in unsure:
            reading.wrong("lines without a probability, where others have one", f"row {found.row_number}")
    if task.choices:
        strange = [found for found in answered if found.answer not in task.choices]
        reading.strange_count = len(strange)
        if len(strange) > LARGEST_STRANGE_SHARE * len(answered):
            for found in strange:
                near = did_you_mean(found.answer, list(task.choices)) if len(task.choices) <= 12 else ""
                where = f"row {found.row_number}: '{found.answer[:40]}' {near}"
                reading.wrong("answers that are none of the choices", where)


def _refusal(path: Path, reading: _Reading, questions: Sequence[Question], task: Task, split: str) -> DataError:
    problems = dict(reading.problems)
    if reading.strangers and "questions without an answer" in problems:
        problems["lines about unknown documents"] = [f"'{_shown(document[:60])}'" for document in reading.strangers]
    if reading.other_tasks and "questions without an answer" in problems:
        problems["lines about other tasks"] = [f"'{_shown(name[:60])}'" for name in reading.other_tasks]
    lines = [
        f"  {len(examples):,} {kind}: {'; '.join(example.strip() for example in examples[:EXAMPLES])}"
        + (" ..." if len(examples) > EXAMPLES else "")
        for kind, examples in problems.items()
    ]
    example = questions[0]
    right: dict[str, str | int] = {"document": example.document.id, "span": example.index, "answer": _sample(task)}
    return DataError(
        f"{path} does not answer the {len(questions)} questions of task '{task.name}' in {split}:\n" + "\n".join(lines),
        f"Every question needs one line like {_shown(json.dumps(right, ensure_ascii=False))}; "
        "lines about other documents do no harm, so answer all that you have",
    )


def _shown(text: str) -> str:
    """Text of a stranger's file, harmless in a terminal: escape sequences and marks of direction become visible."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _sample(task: Task) -> str:
    """What an answer may look like; never a true one."""
    return {"value": "12.5", "choice": task.choices[0] if task.choices else "yes"}.get(task.kind, "some text")


def _answer(question: Question, reading: _Reading, task: Task, rater: Rater | None) -> TaskAnswer:
    document = question.document
    found = reading.answers[document.id, question.index]
    answer = found.answer
    rated = rated_by(rater, task, question, answer)
    return TaskAnswer(
        document.id, question.index, document.group, question.gold, answer, found.probability, rated=rated
    )
