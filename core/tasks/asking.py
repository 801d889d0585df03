"""Puts rows of token ids to a loaded candidate and gives log-probabilities back; knows what may end an answer.

Called by tasks, numbers and generate. Promises: every row has the width of the context (padded on the right), because
a model may know no other, unless the caller says otherwise; no request is larger than the client takes; normalising
happens here, over the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..contracts import Task
from ..prepare.answers import Question
from ..prepare.tokenizer import BOS, EOS, PAD, SPECIAL_TOKENS, cut_at_spans, encode_texts

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

Ids = NDArray[np.int32]
Logs = NDArray[np.float32]

SEPARATORS = (" | ", "\t", "\n")
WIDTH_STEP = 16
"""Rows are padded to a multiple of this many tokens, not to the model's whole window: most prompts are short."""
LEAST_EXAMPLES = 30
LEAST_TERMINATOR_SHARE = 0.02
"""Of the questions of a task that a terminator must follow, to count as one."""


class LogitsSource(Protocol):
    """What logits_client.LogitsClient offers."""

    @property
    def vocab_size(self) -> int: ...

    def logits(self, ids: NDArray[Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        """float32 [sum of positions, vocab_size] for ids int32 [rows, length]."""
        ...

    def rows_per_request(self, length: int) -> int:
        """Most rows of `length` ids in one request."""
        ...


OpenSource = Callable[[], AbstractContextManager[LogitsSource]]
"""Opens a fresh process with the same model: one that remembers what it was shown must gain nothing by it."""


class Row(NamedTuple):
    """At most `context` ids; what the model predicts after each of the positions [start, end) is wanted."""

    ids: Ids
    start: int
    end: int


def ask(source: LogitsSource, rows: Iterable[Row], context: int, width_step: int | None = None) -> Iterator[Logs]:
    """Log-probabilities [end - start, vocab_size] of each row, in order, in requests as large as the source takes.

    Raises InvalidCheckpointError where the logits are no probabilities.
    With `width_step` requests are only as wide as their longest row, rounded up to a multiple of it: for a model that
    is known to take any width. Long rows first makes them few.
    """
    for batch, width in _batches(source, rows, context, width_step):
        ids = np.full((len(batch), width), PAD, np.int32)
        for number, row in enumerate(batch):
            ids[number, : len(row.ids)] = row.ids
        logs = _log_softmax(source.logits(ids, [(row.start, row.end) for row in batch]).numpy())
        at = 0
        for row in batch:
            yield logs[at : at + row.end - row.start]
            at += row.end - row.start


def _batches(
    source: LogitsSource, rows: Iterable[Row], context: int, width_step: int | None
) -> Iterator[tuple[list[Row], int]]:
    batch: list[Row] = []
    width = 0
    for row in rows:
        wanted = context if width_step is None else min(context, -(-len(row.ids) // width_step) * width_step)
        if batch and (wanted > width or len(batch) >= source.rows_per_request(width)):
            yield batch, width
            batch = []
        if not batch:
            width = wanted
        batch.append(row)
    if batch:
        yield batch, width


def _log_softmax(logits: Logs) -> Logs:
    with np.errstate(over="ignore"):
        shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    if not np.isfinite(normalised).all():
        from ..train.checkpoint import InvalidCheckpointError

        # Finite logits may still lie further apart than a float reaches; no score may come of that.
        raise InvalidCheckpointError("the model's logits are too far apart to be probabilities")
    return normalised


def encode_prompts(tokenizer: Tokenizer, questions: Sequence[Question], context: int) -> list[Ids]:
    """Of each question BOS and its prompt, at most the last `context` ids, cut at all span edges as in training.

    `questions` come in the order of their documents; each document is encoded once, all of them in one go.
    """
    cut: list[list[str]] = []
    for place, question in enumerate(questions):
        if not place or question.document is not questions[place - 1].document:
            cut.append(cut_at_spans(question.document.text, question.document.spans))
    encoded = iter(encode_texts(tokenizer, [[piece] for pieces in cut for piece in pieces]))
    documents = iter(cut)
    prompts: list[Ids] = []
    for place, question in enumerate(questions):
        if not place or question.document is not questions[place - 1].document:
            pieces = [(len(piece.encode("utf-8")), next(encoded)) for piece in next(documents)]
        prompts.append(_prompt(pieces, question.span.start, context))
    return prompts


def _prompt(pieces: Sequence[tuple[int, list[int]]], byte_count: int, context: int) -> Ids:
    """BOS and the ids of the pieces that make up the first `byte_count` bytes; the last `context` of them."""
    ids = [BOS]
    for size, piece in pieces:
        if byte_count <= 0:
            break
        byte_count -= size
        ids.extend(piece)
    return np.array(ids[-context:], np.int32)


class AnswerForm(NamedTuple):
    """What answers of a task look like: the texts that may end them and, for numbers, examples of them."""

    ends: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


def form_of(task: Task, questions: Sequence[Question]) -> AnswerForm:
    """The form of the answers of `task`, read off questions whose answers are known, of all together.

    A few numbers do not show what numbers look like: then there are no examples.
    """
    has_examples = task.kind == "value" and len(questions) >= LEAST_EXAMPLES
    examples = {question.gold for question in questions} if has_examples else set()
    return AnswerForm(ends_of(task, questions), tuple(sorted(examples)))


def ends_of(task: Task, questions: Sequence[Question]) -> tuple[str, ...]:
    """What ends the answers of `task`, read off questions whose answers are known; the document's end always does.

    Kind generate: a blank line where one follows every answer, else the terminators, but nothing that stands inside a
    true answer; answers that run to the end of their document end there alone.
    """
    if task.kind != "generate":
        return terminators(questions)
    inner = [question for question in questions if not question.is_last_text]
    is_blank_line = bool(inner) and all(question.tail.startswith("\n\n") for question in inner)
    ends = ("\n\n",) if is_blank_line else terminators(inner)
    return tuple(end for end in ends if not any(end in question.gold for question in questions))


def terminators(questions: Sequence[Question]) -> tuple[str, ...]:
    """The texts that end the answers of a task: separators, else the character that follows.

    Read off the format of all questions together, never of one alone, so that what follows an answer in truth does not
    help to find it. The end of a document ends every answer and is not listed.
    """
    if not questions:
        return ()
    counts = Counter(_terminator(question.tail) for question in questions)
    return tuple(sorted(end for end, n in counts.items() if end and n >= LEAST_TERMINATOR_SHARE * len(questions)))


def _terminator(tail: str) -> str:
    return next((separator for separator in SEPARATORS if tail.startswith(separator)), tail[:1])


def token_bytes(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every id of a byte-level tokenizer; special tokens have none."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    byte_of = {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
    pieces = [b""] * tokenizer.get_vocab_size()
    for text, token in tokenizer.get_vocab().items():
        if token >= len(SPECIAL_TOKENS):
            pieces[token] = bytes(byte_of[character] for character in text)
    return pieces


def ending_ids(pieces: Sequence[bytes], ends: Sequence[str]) -> NDArray[np.int64]:
    """The ids that may follow a complete answer: EOS, and each token that begins a terminator or begins with one.

    A token may reach beyond its terminator (" | 20" is one), so the end of an answer is a set of tokens, whose
    probabilities add up.
    """
    marks = [end.encode("utf-8") for end in ends]
    found = [
        token
        for token, piece in enumerate(pieces)
        if piece and any(piece.startswith(mark) or mark.startswith(piece) for mark in marks)
    ]
    return np.array([EOS, *found], np.int64)
