"""Answers to questions whose truth is not known: what `slm-ar predict` writes.

Promises: one answer per question, in the order of the questions, whatever their lengths; memory is that of a few
thousand rows; a short prompt is never padded to the model's whole window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from ..contracts import Document, Task, TaskAnswer
from ..errors import DataError
from ..prepare.answers import Question, choose_questions
from ..prepare.heldout import HeldDocument
from .asking import WIDTH_STEP, AnswerForm, form_of
from .scoring import answer_questions

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .asking import LogitsSource

CHUNK_QUESTIONS = 4096


def answer_forms(documents: Sequence[HeldDocument], tasks: Iterable[Task]) -> dict[str, AnswerForm]:
    """Task -> the form of its answers, read off documents whose answers are known."""
    return {task.name: form_of(task, choose_questions(documents, task)) for task in tasks}


def predict(
    source: LogitsSource,
    tokenizer: Tokenizer,
    context: int,
    documents: Iterable[Document],
    tasks: Mapping[str, Task],
    forms: Mapping[str, AnswerForm],
) -> Iterator[tuple[str, TaskAnswer]]:
    """(task, answer) for the one (empty) span of each document. Raises DataError for a task that the model has not."""
    waiting = iter(documents)
    while chunk := list(islice(waiting, CHUNK_QUESTIONS)):
        by_task: dict[str, list[int]] = {}
        for place, document in enumerate(chunk):
            by_task.setdefault(_task_of(document, tasks), []).append(place)
        answers: dict[int, tuple[str, TaskAnswer]] = {}
        for name, places in by_task.items():
            questions = [Question(chunk[place], 0, {}) for place in places]
            form = forms.get(name, AnswerForm())
            found = answer_questions(source, tokenizer, tasks[name], questions, context, form, WIDTH_STEP)
            answers.update((place, (name, answer)) for place, answer in zip(places, found, strict=True))
        yield from (answers[place] for place in range(len(chunk)))


def _task_of(document: Document, tasks: Mapping[str, Task]) -> str:
    name = document.spans[0].task if document.spans else ""
    if name not in tasks:
        raise DataError(
            f"'{document.id}' asks for '{name}', which the model was not trained to answer ({', '.join(tasks)})",
            "choose one with --task, or prepare and train with data that hold these answers",
        )
    return name
