"""Answers in documents: which spans are asked, and the examples of train that baselines learn from.

Called by prepare (writes answers.jsonl, train alone), by the baselines and by the scorer of tasks. Promises: the same
documents give the same questions and examples, whatever their order; memory is bounded; a gold answer of a value task
is a number, or a DataError names the document.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..contracts import Document, Span, Task
from ..errors import DataError
from .heldout import HeldDocument

ANSWERS_FILE = "answers.jsonl"
MOST_QUESTIONS = 500
"""Spans that are asked per task and split."""
MOST_GENERATED = 64
"""The same for tasks of kind generate, where each answer costs many steps."""
MOST_EXAMPLES = 20_000
"""Examples of train that are kept per task."""
MOST_CHOICES = 64
LONGEST_PROMPT = 2000
"""Characters of a prompt that an example keeps: the last ones."""
LONGEST_HEADER = 200
TAIL_BYTES = 16
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

AnswerSlices = Callable[[Document, Span], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class TrainExample:
    """An answer with what a practitioner's model would be given for it."""

    task: str
    prompt_line: str
    """The record as far as the answer; for kind generate the whole prompt. At most LONGEST_PROMPT characters."""
    answer: str
    previous_answer: str | None
    """The answer before it in the same document and task."""
    header: str = ""
    """The first line of the document, when the record is another line."""


@dataclass(frozen=True, slots=True)
class Question:
    """A span of a held-out document that is put to a model."""

    document: Document
    index: int
    """Which span of the document, counted from 0."""
    slices: Mapping[str, str]

    @property
    def span(self) -> Span:
        return self.document.spans[self.index]

    @property
    def gold(self) -> str:
        return _bytes(self.document.text)[self.span.start : self.span.end].decode("utf-8")

    @property
    def prompt(self) -> str:
        return _bytes(self.document.text)[: self.span.start].decode("utf-8")

    @property
    def tail(self) -> str:
        """The beginning of what follows the answer; "" at the end of the document."""
        return _bytes(self.document.text)[self.span.end :][:TAIL_BYTES].decode("utf-8", "ignore")

    @property
    def is_last_text(self) -> bool:
        """Whether nothing but blank text follows the answer."""
        return not _bytes(self.document.text)[self.span.end :].strip()


@lru_cache(maxsize=4)
def _bytes(text: str) -> bytes:
    """A long document may hold thousands of answers: it is encoded once for all that come in a row."""
    return text.encode("utf-8")


def number(text: str) -> float | None:
    """The finite number that `text` is, or None: digits with an optional sign, point and exponent, nothing else."""
    stripped = text.strip()
    if not NUMBER.fullmatch(stripped):
        return None
    value = float(stripped)
    return value if math.isfinite(value) else None


def choose_questions(
    documents: Iterable[HeldDocument],
    task: Task,
    limit: int = MOST_QUESTIONS,
    answer_slices: AnswerSlices | None = None,
) -> list[Question]:
    """At most `limit` spans of `task`, chosen by hash of (document id, span index), in the order of the documents.

    Raises DataError when a gold answer of a value task is no number.
    """
    asked: list[tuple[bytes, int, HeldDocument, int]] = []
    for place, held in enumerate(documents):
        for index in _spans_of(held.document, task.name):
            heapq.heappush(asked, (_reversed_rank(held.document.id, index), place, held, index))
            if len(asked) > limit:
                heapq.heappop(asked)
    questions = []
    for _, _, held, index in sorted(asked, key=lambda entry: (entry[1], entry[3])):
        slices = dict(held.slices)
        if answer_slices is not None:
            slices.update(answer_slices(held.document, held.document.spans[index]))
        questions.append(Question(held.document, index, slices))
        _check_gold(task, held.document, index, questions[-1].gold)
    return questions


def _spans_of(document: Document, task: str) -> list[int]:
    return [index for index, span in enumerate(document.spans) if span.task == task]


def _reversed_rank(document: str, index: int) -> bytes:
    """Hash of a span, complemented: a heap that drops its smallest entry keeps the smallest hashes."""
    digest = hashlib.sha256(f"slm-ar question {document}\0{index}".encode()).digest()[:16]
    return bytes(255 - byte for byte in digest)


def _check_gold(task: Task, document: Document, index: int, gold: str) -> None:
    if task.kind == "value" and number(gold) is None:
        raise DataError(
            f"the answer of task '{task.name}' in document '{document.id}' (span {index}) is no number",
            "the adapter must mark numbers only, such as 12, -0.5 or 1e-3, or give the task the kind choice",
        )


def example_of(document: Document, index: int, kind: str) -> TrainExample:
    """What a baseline sees of one span, and its gold answer."""
    raw, span = _bytes(document.text), document.spans[index]
    line_start = raw.rfind(b"\n", 0, span.start) + 1
    if kind == "generate":
        line_start = 0
    elif not raw[line_start : span.start].strip():
        # The answer opens its line: what it answers stands on the line before.
        line_start = raw.rfind(b"\n", 0, len(raw[:line_start].rstrip())) + 1
    header = raw[: raw.find(b"\n")] if line_start else b""
    before = next((other for other in document.spans[:index][::-1] if other.task == span.task), None)
    return TrainExample(
        task=span.task,
        prompt_line=raw[line_start : span.start].decode("utf-8")[-LONGEST_PROMPT:],
        answer=raw[span.start : span.end].decode("utf-8"),
        previous_answer=raw[before.start : before.end].decode("utf-8") if before is not None else None,
        header=header.decode("utf-8")[:LONGEST_HEADER],
    )


def collect_examples(documents: Iterable[Document], tasks: Sequence[Task]) -> list[TrainExample]:
    """At most MOST_EXAMPLES examples per task, chosen by hash, in one pass. Raises DataError for a gold no number."""
    kept: dict[str, list[tuple[bytes, int, int, TrainExample]]] = {task.name: [] for task in tasks}
    known = {task.name: task for task in tasks}
    for place, document in enumerate(documents):
        for index, span in enumerate(document.spans):
            task = known.get(span.task)
            if task is None:
                continue
            heap = kept[span.task]
            rank = _reversed_rank(document.id, index)
            if len(heap) >= MOST_EXAMPLES and rank < heap[0][0]:
                continue
            example = example_of(document, index, task.kind)
            _check_gold(task, document, index, example.answer)
            heapq.heappush(heap, (rank, place, index, example))
            if len(heap) > MOST_EXAMPLES:
                heapq.heappop(heap)
    entries = (sorted(kept[task.name], key=lambda entry: entry[1:3]) for task in tasks)
    return [example for heap in entries for _, _, _, example in heap]


def write_answers(path: Path, documents: Iterable[Document], tasks: Sequence[Task]) -> int:
    """Write the examples of `documents` (train alone: the file is public) as JSON lines; returns how many."""
    examples = collect_examples(documents, tasks)
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(asdict(example), ensure_ascii=False) + "\n")
    return len(examples)


def read_answers(path: Path) -> tuple[TrainExample, ...]:
    """What `write_answers` wrote. Raises DataError when the file is missing or damaged."""
    try:
        with path.open(encoding="utf-8") as lines:
            return tuple(TrainExample(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"{path}: the answers of train cannot be read ({reason})"
        raise DataError(message, "run `slm-ar prepare` again") from error


def fill_choices(task: Task, examples: Iterable[TrainExample]) -> Task:
    """A choice task without `choices` gets the most frequent answers of train, its positive one among them."""
    if task.kind != "choice" or task.choices:
        return task
    counts = Counter(example.answer for example in examples if example.task == task.name)
    ranked = sorted(counts, key=lambda answer: (answer != task.positive, -counts[answer], answer))[:MOST_CHOICES]
    return replace(task, choices=tuple(sorted(ranked, key=lambda answer: (-counts[answer], answer))))
