"""Scores tasks: what a model answers at the answer spans of held-out documents, and the nats of the true answers.

Called by the executor, for claims and reports, and by predict (`answer_questions`); the search uses `score_likelihood`
alone, one row per question. All of it goes through the same logits as bits per byte: the candidate's process sees token
ids and learns neither answers nor purpose. Promises: at most 500 questions per task (64 generated texts), chosen by
hash; the result does not depend on the batch size beyond float rounding.

Kind choice: the likelihood of each candidate, token by token, after the prompt; softmax over the candidates. When one
candidate's tokens begin another's ("1" and "10"), the end of every candidate is scored too: the mass of all tokens with
which a terminator begins, less those that go on to a longer candidate. Kind value: numbers.py. Kind generate: greedy.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..contracts import Rater, Task, TaskAnswer, TaskScore
from ..errors import DataError
from ..prepare.answers import MOST_GENERATED, MOST_QUESTIONS, AnswerSlices, Question, choose_questions
from ..prepare.heldout import HeldDocument
from ..prepare.tokenizer import encode_texts
from .asking import (
    AnswerForm,
    Ids,
    LogitsSource,
    Logs,
    OpenSource,
    Row,
    ask,
    encode_prompts,
    ending_ids,
    form_of,
    terminators,
    token_bytes,
)
from .metrics import LOG_LOSS, make_score, rated_by
from .numbers import NumberTree, decode_numbers

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Path = tuple[int, ...]
"""Token ids from the prompt to a place inside a candidate."""


def score_tasks(
    open_source: OpenSource,
    tokenizer: Tokenizer,
    split: str,
    documents: Sequence[HeldDocument],
    tasks: Sequence[Task],
    context: int,
    rater: Rater | None = None,
    answer_slices: AnswerSlices | None = None,
    limit: int = MOST_QUESTIONS,
) -> tuple[TaskScore, ...]:
    """The score of each task that has answer spans in `documents`.

    The questions go to one fresh process and the true answers to another, so a model that keeps what it was shown
    cannot give it back. A prompt holds the true answers before it in its document; those were asked earlier.
    Raises DataError for a choice task without choices (prepare fills them) and for gold answers of the wrong type.
    """
    scores = []
    for task in tasks:
        most = min(limit, MOST_GENERATED) if task.kind == "generate" else limit
        questions = choose_questions(documents, task, most, answer_slices)
        if not questions:
            continue
        form = form_of(task, questions)
        with open_source() as source:
            given = answer_questions(source, tokenizer, task, questions, context, form)
        with open_source() as source:
            nats = gold_nats(source, tokenizer, questions, context)
        answers = [
            _judged(task, question, answer, loss, rater)
            for question, answer, loss in zip(questions, given, nats, strict=True)
        ]
        scores.append(make_score(task, split, answers, questions))
    return tuple(scores)


def _judged(task: Task, question: Question, answer: TaskAnswer, nats: float, rater: Rater | None) -> TaskAnswer:
    """The answer with what the truth cost and, for numbers and texts, what the adapter makes of it."""
    rated = {**answer.rated, **rated_by(rater, task, question, answer.answer)}
    if task.kind == "choice":
        # A true answer that is no candidate costs what the model gave it among all texts.
        rated.setdefault(LOG_LOSS, nats)
    return replace(answer, loss=nats, rated=rated)


def answer_questions(
    source: LogitsSource,
    tokenizer: Tokenizer,
    task: Task,
    questions: Sequence[Question],
    context: int,
    form: AnswerForm,
    width_step: int | None = None,
) -> list[TaskAnswer]:
    """What the model answers, one for each question and in their order; the text behind a prompt is never looked at.

    `form` is that of answers known to be true (asking.form_of). With `width_step` short prompts go in narrow requests,
    for a model that takes any width: much faster where most are short. Raises DataError for a task without choices.
    """
    if task.kind not in _KINDS:
        raise DataError(f"task '{task.name}' has the unknown kind '{task.kind}'", "kinds are choice, value, generate")
    prompts = encode_prompts(tokenizer, questions, context)
    answers: dict[int, TaskAnswer] = {}
    for places in _rounds(questions):
        longest_first = sorted(places, key=lambda place: -len(prompts[place]))
        asked = _Asked(source, tokenizer, task, [prompts[place] for place in longest_first], context, form, width_step)
        for place, found in zip(longest_first, _KINDS[task.kind](asked), strict=True):
            question = questions[place]
            gold = question.gold
            rated = {LOG_LOSS: -found.log_shares[gold]} if gold in found.log_shares else {}
            answers[place] = TaskAnswer(
                question.document.id,
                question.index,
                question.document.group,
                gold,
                found.text.rstrip() if task.kind == "generate" else found.text,
                found.probability,
                rated=rated,
            )
    return [answers[place] for place in range(len(questions))]


def _rounds(questions: Sequence[Question]) -> list[list[int]]:
    """Places of the questions, the first of every document, then the second ...: never two of a document together.

    The prompt of a later question shows the true answers of those before it, so they must have been answered by then.
    """
    rounds: list[list[int]] = []
    seen: Counter[str] = Counter()
    for place in sorted(range(len(questions)), key=lambda place: questions[place].index):
        number = seen[questions[place].document.id]
        seen[questions[place].document.id] += 1
        if number == len(rounds):
            rounds.append([])
        rounds[number].append(place)
    return rounds


def score_likelihood(
    source: LogitsSource,
    tokenizer: Tokenizer,
    split: str,
    documents: Sequence[HeldDocument],
    task: Task,
    context: int,
    limit: int = MOST_QUESTIONS,
) -> TaskScore:
    """Only the nats of the true answers, as bits per answer: about one row per question, for every experiment.

    A smoother guide than accuracy or a mean error. The answers of the result are the true ones. Raises DataError when
    no document has an answer of the task.
    """
    questions = choose_questions(documents, task, limit)
    if not questions:
        raise DataError(f"the split '{split}' holds no answer of task '{task.name}'", "check the adapter's spans")
    nats = gold_nats(source, tokenizer, questions, context)
    answers = [
        TaskAnswer(
            question.document.id, question.index, question.document.group, question.gold, question.gold, loss=loss
        )
        for question, loss in zip(questions, nats, strict=True)
    ]
    measured = make_score(replace(task, metric="bits_per_answer", direction="min"), split, answers, questions)
    return replace(measured, metrics={"bits_per_answer": measured.metrics["bits_per_answer"]})


# --- the true answers -------------------------------------------------------------------------


def gold_nats(source: LogitsSource, tokenizer: Tokenizer, questions: Sequence[Question], context: int) -> list[float]:
    """Nats of each true answer and of its end."""
    ends = ending_ids(token_bytes(tokenizer), terminators(questions))
    prompts = encode_prompts(tokenizer, questions, context)
    golds = encode_texts(tokenizer, [[question.gold] for question in questions])
    wanted = [np.array(gold, np.int64) for gold in golds]
    rows: list[Row] = []
    owners: list[int] = []
    for owner, (prompt, gold) in enumerate(zip(prompts, wanted, strict=True)):
        mine = list(_rows_over(prompt, gold.astype(np.int32), context))
        rows += mine
        owners += [owner] * len(mine)
    nats = [0.0] * len(wanted)
    read = [0] * len(wanted)
    for owner, logs in zip(owners, ask(source, rows, context), strict=True):
        rest = wanted[owner][read[owner] : read[owner] + len(logs)]
        nats[owner] -= float(logs[np.arange(len(rest)), rest].sum(dtype=np.float64))
        read[owner] += len(rest)
        if len(rest) < len(logs):
            nats[owner] -= _log_mass(logs[-1], ends)
    return nats


def _rows_over(prompt: Ids, gold: Ids, context: int) -> Iterator[Row]:
    """Rows that predict every token of an answer once and then its end; long answers go on by half a window."""
    whole = np.concatenate([prompt, gold])
    step = max(1, context // 2)
    for begin in range(len(prompt) - 1, len(whole), step):
        end = min(begin + step, len(whole))
        left = max(0, end - context)
        yield Row(whole[left:end], begin - left, end - left)


def _log_mass(logs: NDArray[np.floating[Any]], ids: NDArray[np.int64]) -> float:
    """Log of the summed probability of `ids`, in float64."""
    values = logs[ids].astype(np.float64)
    top = float(values.max())
    return top + math.log(float(np.exp(values - top).sum()))


# --- the answers of the model -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """The prompts of one task, and how they are put to the model."""

    source: LogitsSource
    tokenizer: Tokenizer
    task: Task
    prompts: Sequence[Ids]
    context: int
    form: AnswerForm
    width_step: int | None


class _Found(NamedTuple):
    """An answer, its probability, and for kind choice the log-probability of every candidate."""

    text: str
    probability: float | None
    log_shares: Mapping[str, float]


# --- choice -----------------------------------------------------------------------------------


class CandidateTree:
    """The candidates' tokens as a tree, so that what they share is asked once.

    `leaves` are the fewest paths whose rows visit every place where a prediction is needed.
    """

    def __init__(self, candidates: Sequence[Path], ends: NDArray[np.int64]) -> None:
        self._candidates, self._ends = candidates, ends
        children: dict[Path, set[int]] = defaultdict(set)
        for ids in candidates:
            for depth, token in enumerate(ids):
                children[ids[:depth]].add(token)
        self.scores_ends = any(ids in children for ids in candidates)
        """Whether some candidate begins another."""
        self._children = {place: sorted(tokens) for place, tokens in children.items()}
        places = {*children, *candidates} if self.scores_ends else set(children)
        inner = {place[:depth] for place in places for depth in range(len(place))}
        self.leaves = sorted(places - inner) or [()]
        self.depth = max(len(leaf) for leaf in self.leaves)

    def log_likelihoods(self, rows: Sequence[Logs]) -> NDArray[np.float64]:
        """Per candidate; `rows` are the predictions along each leaf, from the prompt's last token on."""
        predictions = {
            leaf[:depth]: prediction
            for leaf, logs in zip(self.leaves, rows, strict=True)
            for depth, prediction in enumerate(logs)
        }
        totals = np.zeros(len(self._candidates))
        for number, ids in enumerate(self._candidates):
            totals[number] = sum(float(predictions[ids[:depth]][token]) for depth, token in enumerate(ids))
            if self.scores_ends:
                ends = np.setdiff1d(self._ends, self._children.get(ids, []))
                totals[number] += _log_mass(predictions[ids], ends)
        return totals


def _choose(asked: _Asked) -> Iterator[_Found]:
    task = asked.task
    if not task.choices:
        raise DataError(f"task '{task.name}' has no choices", "run `slm-ar prepare` again: it takes them from train")
    # A candidate longer than the window is told by its first tokens.
    encoded = encode_texts(asked.tokenizer, [[choice] for choice in task.choices])
    ends = ending_ids(token_bytes(asked.tokenizer), asked.form.ends)
    tree = CandidateTree([tuple(ids[: asked.context - 1]) for ids in encoded], ends)
    rows = (_leaf_row(prompt, leaf, tree.depth, asked.context) for prompt in asked.prompts for leaf in tree.leaves)
    predicted = ask(asked.source, rows, asked.context, asked.width_step)
    for _ in asked.prompts:
        logs = tree.log_likelihoods([next(predicted) for _ in tree.leaves])
        shares = (logs - _log_mass(logs, np.arange(len(logs)))).tolist()
        log_shares = dict(zip(task.choices, shares, strict=True))
        best = task.choices[int(logs.argmax())]
        yield _Found(best, math.exp(log_shares.get(task.positive or best, -math.inf)), log_shares)


def _leaf_row(prompt: Ids, leaf: Path, depth: int, context: int) -> Row:
    """All candidates see the same end of the prompt."""
    kept = prompt[-max(1, context - depth) :]
    return Row(np.concatenate([kept, np.array(leaf, np.int32)]), len(kept) - 1, len(kept) + len(leaf))


# --- value and generate -----------------------------------------------------------------------


def _decode(asked: _Asked) -> Iterator[_Found]:
    pieces = token_bytes(asked.tokenizer)
    ends = ending_ids(pieces, asked.form.ends)
    tree = NumberTree(asked.tokenizer, pieces, asked.form.examples)
    decoded = decode_numbers(asked.source, tree, asked.prompts, ends, asked.context, asked.width_step)
    for answer in decoded:
        yield _Found(answer.text, answer.probability, {})


def _write(asked: _Asked) -> Iterator[_Found]:
    from .generate import generate_answers

    pieces = token_bytes(asked.tokenizer)
    texts = generate_answers(
        asked.source, pieces, asked.prompts, asked.form.ends, asked.context, width_step=asked.width_step
    )
    for text in texts:
        yield _Found(text, None, {})


_KINDS: Mapping[str, Callable[[_Asked], Iterator[_Found]]] = {"choice": _choose, "value": _decode, "generate": _write}
