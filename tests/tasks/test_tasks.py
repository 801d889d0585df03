"""Tasks through logits: every number is checked against models whose probabilities are written down here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer
from toys import TABLE_PY, log_documents

from slm_ar.core.contracts import Document, Span, Task, TaskScore
from slm_ar.core.errors import DataError
from slm_ar.core.prepare.answers import Question, choose_questions
from slm_ar.core.prepare.heldout import HeldDocument, read_split
from slm_ar.core.prepare.tokenizer import BOS, EOS, PAD, encode_texts, train_tokenizer
from slm_ar.core.tasks.asking import AnswerForm, Row, ask, encode_prompts, ending_ids, ends_of, terminators, token_bytes
from slm_ar.core.tasks.generate import generate_answers, generate_text
from slm_ar.core.tasks.numbers import MOST_EXPANSIONS, Decoded, NumberTree, decode_numbers, weighted_median
from slm_ar.core.tasks.scoring import CandidateTree, answer_questions, score_likelihood, score_tasks
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor

CONTEXT = 16


@cache
def letters() -> Tokenizer:
    """One token per byte."""
    return train_tokenizer(iter(()), 259, "words")


@cache
def words() -> Tokenizer:
    return train_tokenizer((document.text for document in log_documents(30)), 400, "fields")


def token(text: str) -> int:
    (ids,) = encode_texts(letters(), [[text]])
    (only,) = ids
    return only


Next = Callable[[tuple[int, ...]], Mapping[int, float]]


def opened(source: Any) -> Callable[[], Any]:
    """What opens `source`; the tests' models remember nothing, so it is the same one each time."""
    return lambda: nullcontext(source)


class Model:
    """Answers with probabilities that `following` gives for the ids so far; every other token is all but impossible.

    Takes rows of one width only, and few of them, as a careless candidate might.
    """

    def __init__(self, following: Next, vocab_size: int = 259, context: int = CONTEXT, most_rows: int = 7) -> None:
        self.following, self.vocab_size = following, vocab_size
        self.context, self.most_rows = context, most_rows
        self.rows_asked = 0

    def rows_per_request(self, length: int) -> int:
        assert length == self.context
        return self.most_rows

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        assert ids.shape == (len(positions), self.context)
        assert ids.dtype == np.int32
        assert len(positions) <= self.most_rows
        self.rows_asked += len(positions)
        found = []
        for row, (start, end) in zip(ids.tolist(), positions, strict=True):
            for position in range(start, end):
                assert PAD not in row[: position + 1]
                logits = torch.full((self.vocab_size,), -60.0)
                for following, probability in self.following(tuple(row[: position + 1])).items():
                    logits[following] = math.log(probability)
                found.append(logits)
        return torch.stack(found)


class Uniform(Model):
    def __init__(self, vocab_size: int = 259, context: int = CONTEXT) -> None:
        super().__init__(lambda ids: {}, vocab_size, context)

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        return torch.zeros_like(super().logits(ids, positions))


class Bigram(Model):
    """Random logits that depend on the last token alone, so windows and batches must not matter."""

    def __init__(self, vocab_size: int, context: int = CONTEXT, most_rows: int = 7) -> None:
        super().__init__(lambda ids: {}, vocab_size, context, most_rows)
        self.table = torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(1)) * 2

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        super().logits(ids, positions)
        last = [ids[row, at] for row, (start, end) in enumerate(positions) for at in range(start, end)]
        return self.table[torch.tensor(np.array(last, np.int64))]

    def log_probability(self, before: int, after: Sequence[int]) -> float:
        return float(self.table[before].double().log_softmax(0)[list(after)].logsumexp(0))


class AnyWidth(Bigram):
    """Takes rows of any width, and remembers them."""

    def __init__(self, vocab_size: int, context: int = CONTEXT) -> None:
        super().__init__(vocab_size, context, most_rows=64)
        self.widths: list[int] = []

    def rows_per_request(self, length: int) -> int:
        return max(1, 64 // length)

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        self.context = ids.shape[1]
        assert len(ids) <= self.rows_per_request(self.context)
        self.widths.append(self.context)
        return super().logits(ids, positions)


def writes(texts: Mapping[str, float], prompt: str, end: str = "\n") -> Next:
    """A model that continues any window ending in `prompt` with one of `texts`, then `end`, at these probabilities."""
    endings = {text + end: share for text, share in texts.items()}

    def following(ids: tuple[int, ...]) -> Mapping[int, float]:
        text = letters().decode(list(ids), skip_special_tokens=False)
        written = text[text.rindex(prompt) + len(prompt) :]
        reachable = {text: share for text, share in endings.items() if text.startswith(written) and text != written}
        total = sum(reachable.values())
        shares: dict[int, float] = {}
        for text, share in reachable.items():
            next_token = token(text[len(written)])
            shares[next_token] = shares.get(next_token, 0.0) + share / total
        return shares or {EOS: 1.0}

    return following


def held(identity: str, text: str, *golds: str, task: str = "t", group: str = "") -> HeldDocument:
    """A document whose answers are the given texts, each found behind the one before and behind a "=" sign."""
    raw, spans, at = text.encode(), [], 0
    for gold in golds:
        start = raw.index(b"=" + gold.encode(), at) + 1
        at = start + len(gold.encode())
        spans.append(Span(start, at, task))
    document = Document(identity, text, group or identity, None, tuple(spans))
    return HeldDocument(document, {"half": "first" if identity < "m" else "second"})


def only(scores: tuple[TaskScore, ...]) -> TaskScore:
    (score,) = scores
    return score


def questions_of(documents: Sequence[HeldDocument], task: Task) -> list[Question]:
    return choose_questions(documents, task)


CHOICE = Task("t", "choice", "accuracy", "max", choices=("cat", "dog"))
VALUE = Task("t", "value", "mae", "min")
TEXT = Task("t", "generate", "exact_match", "max")


# --- choice -----------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_gives_each_candidate_its_share() -> None:
    documents = [held("a", "x=cat\n", "cat"), held("z", "yy=dog\n", "dog")]
    score = only(score_tasks(opened(Uniform()), letters(), "dev", documents, [CHOICE], CONTEXT))
    assert [answer.answer for answer in score.answers] == ["cat", "cat"]
    assert [answer.probability for answer in score.answers] == pytest.approx([0.5, 0.5])
    assert score.metrics["accuracy"] == 0.5
    assert score.metrics["log_loss"] == pytest.approx(math.log(2))
    # Three tokens of 259, then a line end or the document's end.
    nats = 4 * math.log(259) - math.log(2)
    assert [answer.loss for answer in score.answers] == pytest.approx([nats, nats])
    assert score.metrics["bits_per_answer"] == pytest.approx(nats / math.log(2))
    assert score.slices == {"half": {"first": 1.0, "second": 0.0}}


def test_a_candidate_that_begins_another_is_scored_with_its_end() -> None:
    model = Model(writes({"1": 0.18, "10": 0.42, "2": 0.4}, "="))
    task = Task("t", "choice", "accuracy", "max", choices=("1", "2", "10"))
    score = only(score_tasks(opened(model), letters(), "dev", [held("a", "x=10\n", "10")], [task], CONTEXT))
    (answer,) = score.answers
    assert answer.answer == "10"  # the first token alone would say 1, at 0.6
    assert answer.probability == pytest.approx(0.42, abs=1e-5)
    assert answer.rated["log_loss"] == pytest.approx(-math.log(0.42), abs=1e-5)
    assert answer.loss == pytest.approx(-math.log(0.42), abs=1e-5)


def test_the_end_of_a_candidate_leaves_out_what_goes_on_to_a_longer_one() -> None:
    """A blank ends an answer here, and also leads from "new" to "new york"."""
    model = Model(writes({"new york": 0.6, "new": 0.3, "old": 0.1}, "=", end=" "), context=32)
    task = Task("t", "choice", "accuracy", "max", choices=("new", "new york", "old"))
    score = only(score_tasks(opened(model), letters(), "dev", [held("a", "x=new york is", "new york")], [task], 32))
    assert score.answers[0].answer == "new york"
    # Behind "new" the blank is not its end; EOS is, and the model never writes that. Nor does the model of this test
    # write anything but "york" behind "new ", so all of the mass on "new" goes on.
    assert score.answers[0].probability == pytest.approx(0.9, abs=1e-4)


def test_probability_is_that_of_the_positive_answer() -> None:
    model = Model(writes({"ham": 0.8, "spam": 0.2}, "="))
    task = Task("t", "choice", "pr_auc", "max", choices=("ham", "spam"), positive="spam")
    documents = [held("a", "x=spam\n", "spam"), held("b", "x=ham\n", "ham")]
    score = only(score_tasks(opened(model), letters(), "dev", documents, [task], CONTEXT))
    assert [answer.probability for answer in score.answers] == pytest.approx([0.2, 0.2], abs=1e-5)
    assert score.metrics["pr_auc"] == pytest.approx(0.5)
    assert score.metrics["f1"] == 0


def test_a_true_answer_that_is_no_candidate_is_wrong_and_costs_its_nats() -> None:
    documents = [held("a", "x=cow\n", "cow")]
    (answer,) = only(score_tasks(opened(Uniform()), letters(), "dev", documents, [CHOICE], CONTEXT)).answers
    assert answer.answer in CHOICE.choices
    assert answer.rated["log_loss"] == answer.loss > 3 * math.log(200)


candidate_sets = st.lists(st.text("ab1", max_size=4), min_size=1, max_size=8, unique=True)


@given(candidate_sets, st.integers(1, 9))
@settings(max_examples=30)
def test_the_tree_gives_each_candidate_what_a_row_of_its_own_would(candidates: list[str], most_rows: int) -> None:
    task = Task("t", "choice", "accuracy", "max", choices=tuple(candidates))
    model = Bigram(259, most_rows=most_rows)
    documents = [held("a", f"x={candidates[0]}\n", candidates[0])]
    (answer,) = only(score_tasks(opened(model), letters(), "dev", documents, [task], CONTEXT)).answers
    paths = [encode_texts(letters(), [[candidate]])[0] for candidate in candidates]
    ends = {EOS, token("\n")}
    scores_ends = any(one != other and other[: len(one)] == one for one in paths for other in paths)
    logs = []
    for path in paths:
        before = [token("="), *path]
        log = sum(model.log_probability(one, [other]) for one, other in zip(before, path, strict=False))
        logs.append(log + (model.log_probability(before[-1], sorted(ends)) if scores_ends else 0.0))
    shares = torch.tensor(logs, dtype=torch.float64).softmax(0).tolist()
    assert candidates.index(answer.answer) == int(np.argmax(shares))
    assert answer.probability == pytest.approx(max(shares), rel=1e-4)
    assert answer.rated["log_loss"] == pytest.approx(-math.log(shares[0]), rel=1e-4, abs=1e-4)


def test_what_candidates_share_is_asked_once() -> None:
    ends = np.array([EOS])
    assert CandidateTree([(3,), (4,), (5,)], ends).leaves == [()]
    assert CandidateTree([(3, 4), (3, 5), (6,)], ends).leaves == [(3,)]
    nested = CandidateTree([(3,), (3, 5), (6,)], ends)
    assert nested.scores_ends
    assert nested.leaves == [(3, 5), (6,)]


# --- windows and prompts ----------------------------------------------------------------------


def test_the_window_keeps_the_end_of_a_long_prompt() -> None:
    seen: list[str] = []

    def following(ids: tuple[int, ...]) -> Mapping[int, float]:
        seen.append(letters().decode(list(ids), skip_special_tokens=False))
        return {token("c"): 0.5, token("d"): 0.5}

    text = "the beginning is far away " * 4 + "x=cat\n"
    score_tasks(opened(Model(following)), letters(), "dev", [held("a", text, "cat")], [CHOICE], CONTEXT)
    # Two of the three letters of a candidate need room; what follows the third is not asked.
    assert text[: text.index("cat")][-CONTEXT + 2 :] in seen
    assert all(len(window) <= CONTEXT for window in seen)


def test_prompts_are_cut_at_all_span_edges() -> None:
    """As in training, so that the model sees the tokens that it learned."""
    document = log_documents(1)[0]
    raw = document.text.encode()
    later = raw.index(b"|", document.spans[0].end + 20) + 2
    spans = (*document.spans, Span(later, later + 3, "cause"))
    document = Document(document.id, document.text, document.group, None, spans)
    task = Task("cause", "generate", "exact_match", "max")
    questions = questions_of([HeldDocument(document, {})], task)
    prompts = encode_prompts(words(), questions, 512)
    first = document.spans[0]
    pieces = [raw[: first.start], raw[first.start : first.end], raw[first.end : later]]
    expected = [[BOS, *encode_texts(words(), [[piece.decode() for piece in pieces[:n]]])[0]] for n in (1, 3)]
    assert [prompt.tolist() for prompt in prompts] == expected
    assert [prompt.tolist() for prompt in encode_prompts(words(), questions, 9)] == [ids[-9:] for ids in expected]


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40])
def test_every_token_of_an_answer_costs_once_however_long_it_is(length: int) -> None:
    gold = ("abcdefgh" * 5)[:length]
    documents = [held("a", f"what is it? x={gold}\n", gold)]
    model = Bigram(259, context=8)
    score = score_likelihood(model, letters(), "dev", documents, TEXT, 8)
    ids = [token("="), *encode_texts(letters(), [[gold]])[0]]
    nats = -sum(model.log_probability(one, [other]) for one, other in pairwise(ids))
    nats -= model.log_probability(ids[-1], [EOS, token("\n")])
    assert score.answers[0].loss == pytest.approx(nats, rel=1e-5)
    assert score.metrics == {"bits_per_answer": pytest.approx(nats / math.log(2), rel=1e-5)}


@pytest.mark.parametrize("task", [CHOICE, VALUE])
def test_likelihood_alone_gives_the_nats_of_the_whole_score(task: Task) -> None:
    golds = ("cat", "dog") if task is CHOICE else ("12", "-7")
    documents = [held(str(n), f"{n} x={gold}\n", gold) for n, gold in enumerate(golds * 5)]
    quick = score_likelihood(Bigram(259), letters(), "dev", documents, task, CONTEXT)
    whole = only(score_tasks(opened(Bigram(259, most_rows=3)), letters(), "dev", documents, [task], CONTEXT))
    assert [answer.loss for answer in quick.answers] == pytest.approx([answer.loss for answer in whole.answers])
    assert quick.metrics["bits_per_answer"] == pytest.approx(whole.metrics["bits_per_answer"])


# --- what ends an answer ----------------------------------------------------------------------


def test_terminators_come_from_the_format_of_all_questions() -> None:
    texts = [(f"x=5{tail}", "5") for tail in (" | 3\n", " | 4\n", "\n", "")]
    documents = [held(str(n), text, gold) for n, (text, gold) in enumerate(texts)]
    assert terminators(questions_of(documents, VALUE)) == ("\n", " | ")
    rare = [held(f"r{n}", "x=5\n", "5") for n in range(99)] + [held("z", "x=5q", "5")]
    assert terminators(questions_of(rare, VALUE)) == ("\n",)


def test_what_ends_a_text_never_stands_inside_a_true_one() -> None:
    lines = [held("a", "x=a\nb\n", "a\nb"), held("b", "x=c\nd\nmore", "c\nd")]
    assert ends_of(TEXT, questions_of(lines, TEXT)) == ()
    assert terminators(questions_of(lines, TEXT)) == ("\n",)
    words = [held("a", "x=park.\n", "park"), held("b", "x=home.\n", "home")]
    assert ends_of(TEXT, questions_of(words, TEXT)) == (".",)
    blank = [held("a", "x=a\nb\n\ny", "a\nb"), held("b", "x=c\n", "c")]
    assert ends_of(TEXT, questions_of(blank, TEXT)) == ("\n\n",)


def test_a_token_that_reaches_beyond_a_terminator_ends_an_answer() -> None:
    pieces = [b"", b"", b"", b" ", b" |", b" | ", b" | 20", b" a", b"|", b"5"]
    assert ending_ids(pieces, (" | ",)).tolist() == [EOS, 3, 4, 5, 6]
    assert ending_ids(pieces, ()).tolist() == [EOS]


@pytest.mark.parametrize("tokenizer", [letters(), words()])
def test_the_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    pieces = token_bytes(tokenizer)
    for document in log_documents(3):
        ids = encode_texts(tokenizer, [[document.text]])[0]
        assert b"".join(pieces[each] for each in ids).decode() == document.text
    assert pieces[:3] == [b"", b"", b""]
    assert len(set(pieces)) == len(pieces) - 2


# --- value ------------------------------------------------------------------------------------


@cache
def number_words() -> Tokenizer:
    """Some numbers of two digits are one token, others are not."""
    return train_tokenizer(iter(["5", "12", "47"] * 20 + ["123"]), 261, "words")


def value_answer(model: Model, gold: str = "5") -> Any:
    (answer,) = only(
        score_tasks(opened(model), letters(), "dev", [held("a", f"x={gold}\n", gold)], [VALUE], CONTEXT)
    ).answers
    return answer


def test_the_answer_of_a_value_task_is_the_median_of_what_the_model_expects() -> None:
    answer = value_answer(Model(writes({"5": 0.3, "12": 0.3, "40": 0.4}, "=")))
    assert (answer.answer, answer.probability) == ("12", pytest.approx(0.3, abs=1e-3))
    assert answer.loss == pytest.approx(-math.log(0.3), abs=1e-4)


def test_signs_points_and_exponents_are_read() -> None:
    assert value_answer(Model(writes({"-0.5": 0.4, "+1.25": 0.3, "3e2": 0.3}, "="))).answer == "+1.25"


def median_of(masses: Mapping[str, float]) -> Decoded:
    values = np.array([float(text) for text in masses])
    return weighted_median(list(masses), values, np.array(list(masses.values())))


def test_what_is_no_number_does_not_count() -> None:
    assert value_answer(Model(writes({"none": 0.9, "7": 0.1}, "="))).answer == "7"
    assert value_answer(Model(writes({"none": 0.5, "1.2.3": 0.4, "8": 0.1}, "="))).answer == "8"


def test_a_model_that_never_writes_a_number_answers_zero() -> None:
    assert median_of({}) == ("0", 0.0)


number_texts = st.one_of(st.integers(-999, 9999).map(str), st.decimals(0, 99, places=1).map(str))


@given(st.dictionaries(number_texts, st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=80)
def test_the_median_is_exact_for_few_numbers(shares: dict[str, int]) -> None:
    texts = {text: share / sum(shares.values()) for text, share in shares.items()}
    answer = value_answer(Model(writes(texts, "=")))
    exact = median_of(texts)
    below = sum(share for text, share in texts.items() if float(text) <= float(answer.answer))
    above = sum(share for text, share in texts.items() if float(text) >= float(answer.answer))
    # Where two neighbours are both medians, float rounding may choose either.
    assert float(answer.answer) == float(exact.text) or (below == pytest.approx(0.5) or above == pytest.approx(0.5))


@pytest.mark.parametrize(
    ("mean", "spread", "decimals", "off"), [(1, 1.0, 0, 0.0), (3, 1.0, 0, 0.0), (1, 0.7, 1, 0.0), (5.5, 1.0, 0, 0.12)]
)
def test_the_median_of_many_numbers_is_found(mean: float, spread: float, decimals: int, off: float) -> None:
    """Digit by digit, over thousands of numbers: the exact median, or nearly where hundreds are too many to look at."""
    drawn = np.random.default_rng(7).lognormal(mean, spread, 3000)
    texts, counts = np.unique([f"{value:.{decimals}f}" for value in drawn], return_counts=True)
    shares = {str(text): count / len(drawn) for text, count in zip(texts, counts, strict=True)}
    model = Model(writes(shares, "="))
    answer = float(value_answer(model).answer)
    assert answer == pytest.approx(float(median_of(shares).text), rel=off, abs=0)
    assert model.rows_asked <= MOST_EXPANSIONS + 2


def test_no_list_of_numbers_is_ever_gone_through() -> None:
    """Digits without end: so many looks, then the beginnings count as they stand."""
    digits = {token(str(digit)): 0.09 for digit in range(10)} | {token("\n"): 0.1}
    model = Model(lambda ids: digits)
    prompts = [np.array([BOS, token("=")], np.int32)] * 3
    tree = NumberTree(letters(), token_bytes(letters()))
    decoded = decode_numbers(model, tree, prompts, np.array([EOS, token("\n")]), CONTEXT)
    assert model.rows_asked <= 3 * MOST_EXPANSIONS
    assert len({answer.text for answer in decoded}) == 1


def test_a_settled_median_needs_few_looks() -> None:
    model = Model(writes({"5": 0.7, "123456": 0.3}, "="))
    assert value_answer(model).answer == "5"
    # One row for the true answer; the root, "5" and perhaps its neighbours for the median.
    assert model.rows_asked <= 1 + 1 + 4


def test_numbers_that_are_tokens_of_their_own_need_one_look() -> None:
    """The true answers show that nothing goes on behind their tokens; where one does, it is followed."""
    tokenizer = number_words()
    ids = {text: tokenizer.encode(text).ids for text in ("5", "12", "47", "123")}
    assert [len(each) for each in ids.values()] == [1, 1, 1, 2]
    numbers = {ids["12"][0]: 0.4, ids["47"][0]: 0.6}
    model = Model(lambda row: numbers if row[-1] == BOS else {EOS: 1.0}, tokenizer.get_vocab_size())
    prompts = [np.array([BOS], np.int32)] * 10
    for examples, looks in ((["5", "12", "47"], 10), (["5", "123"], 30)):
        model.rows_asked = 0
        tree = NumberTree(tokenizer, token_bytes(tokenizer), examples)
        decoded = decode_numbers(model, tree, prompts, np.array([EOS]), CONTEXT)
        assert {answer.text for answer in decoded} == {"47"}
        assert model.rows_asked == looks


def test_only_spellings_of_the_tokenizer_are_walked() -> None:
    tokenizer = number_words()
    tree = NumberTree(tokenizer, token_bytes(tokenizer))
    one = next(place for place in tree.after(tree.root).places if place.text == "1")
    reached = {place.text for place in tree.after(one).places}
    assert "12" not in reached  # a token of its own
    assert "19" in reached
    for place in tree.after(one).places:
        assert tuple(tokenizer.encode(place.text).ids) == place.ids


def test_bins_give_accuracy_beside_the_error() -> None:
    task = Task("t", "value", "mae", "min", bins=(0, 1, 5, 10, 20), clip=10)
    model = Model(writes({"7": 1.0}, "="))
    documents = [held("a", "x=9\n", "9"), held("b", "x=40\n", "40")]
    metrics = only(score_tasks(opened(model), letters(), "dev", documents, [task], CONTEXT)).metrics
    assert (metrics["mae"], metrics["clipped_mae"], metrics["accuracy"]) == (17.5, 6.0, 0.5)
    assert metrics["wape"] == pytest.approx(35 / 49)


# --- generate ---------------------------------------------------------------------------------


class Judge:
    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        assert prompt.endswith("=")
        return {"length": float(len(answer)), "same": float(answer == gold)}


def test_texts_are_generated_rated_and_compared() -> None:
    model = Model(writes({"one two": 1.0}, "=", end="\n"))
    documents = [held("a", "x=one two\n", "one two"), held("b", "y=three\n", "three")]
    score = only(score_tasks(opened(model), letters(), "dev", documents, [TEXT], CONTEXT, rater=Judge()))
    assert [answer.answer for answer in score.answers] == ["one two", "one two"]
    assert score.metrics["exact_match"] == 0.5
    assert (score.metrics["length"], score.metrics["same"]) == (7.0, 0.5)


def test_an_answer_ends_where_the_format_goes_on() -> None:
    model = Model(writes({"red": 1.0}, "=", end=" | and much more"), context=32)
    documents = [held("a", "x=red | more | y=red | end\n", "red", "red")]
    score = only(score_tasks(opened(model), letters(), "dev", documents, [TEXT], 32))
    assert [answer.answer for answer in score.answers] == ["red", "red"]


def test_lines_inside_an_answer_do_not_end_it() -> None:
    model = Model(writes({"a\nb": 1.0}, "=", end="\n"))
    score = only(score_tasks(opened(model), letters(), "dev", [held("a", "x=a\nb\n", "a\nb")], [TEXT], CONTEXT))
    assert score.answers[0].answer == "a\nb"
    documents = [held("a", "x=a\nb\n\ny=a\nb\n\nend", "a\nb", "a\nb")]
    model = Model(writes({"a\nb": 1.0}, "=", end="\n\nz"))
    score = only(score_tasks(opened(model), letters(), "dev", documents, [TEXT], CONTEXT))
    assert [answer.answer for answer in score.answers] == ["a\nb", "a\nb"]


def test_generation_stops_at_the_limit_and_never_writes_special_tokens() -> None:
    model = Model(lambda ids: {BOS: 0.5, PAD: 0.3, token("a"): 0.2})
    prompts = [np.array([BOS, token("=")], np.int32)] * 9
    assert generate_answers(model, token_bytes(letters()), prompts, (), CONTEXT, 20) == ["a" * 20] * 9


@pytest.mark.parametrize("most_rows", [1, 64])
def test_side_by_side_is_the_same_as_one_by_one(most_rows: int) -> None:
    model = Bigram(259, most_rows=most_rows)
    texts = ["abc", "zebra crossing the road", "", "1 2 3"]
    prompts = [np.array([BOS, *encode_texts(letters(), [[text]])[0]], np.int32) for text in texts]
    together = generate_answers(model, token_bytes(letters()), prompts, (), CONTEXT, 12)

    alone = [generate_text(AnyWidth(259), letters(), text, CONTEXT, 12, temperature=0) for text in texts]
    assert together == alone


# --- answers alone ----------------------------------------------------------------------------


def test_requests_may_be_as_narrow_as_their_longest_row() -> None:
    model = AnyWidth(259)
    rows = [Row(np.full(length, 5, np.int32), length - 1, length) for length in (16, 9, 8, 8, 3, 3, 9, 16)]
    wide = [logs.tolist() for logs in ask(Bigram(259), rows, CONTEXT)]
    assert [logs.tolist() for logs in ask(model, rows, CONTEXT, width_step=8)] == wide
    # A batch is as wide as its first row and ends before a wider one.
    assert model.widths == [16, 8, 16]
    assert [logs.tolist() for logs in ask(AnyWidth(259), rows[1:2], 12, width_step=8)] == wide[1:2]


@pytest.mark.parametrize(
    "task", [Task("t", "choice", "accuracy", "max", choices=("a", "bc", "b")), VALUE, TEXT], ids=lambda task: task.kind
)
def test_open_questions_are_answered_like_those_with_a_truth(task: Task) -> None:
    """What stands behind the prompt is never looked at, and neither order nor width matters."""
    prompts = ["x=", "a long prompt of many words =", "y=", "", "middle one ="]
    truth = "7" if task is VALUE else "b"
    form = AnswerForm(("\n",))
    known = [
        Question(Document(str(n), f"{text}{truth} and more", "g", None, (Span(len(text), len(text) + 1, "t"),)), 0, {})
        for n, text in enumerate(prompts)
    ]
    asked = [
        Question(Document(str(n), text, "g", None, (Span(len(text), len(text), "t"),)), 0, {})
        for n, text in enumerate(prompts)
    ]
    one = answer_questions(Bigram(259), letters(), task, known, CONTEXT, form)
    other = answer_questions(AnyWidth(259), letters(), task, asked, CONTEXT, form, width_step=8)
    assert [(answer.document, answer.answer) for answer in one] == [
        (answer.document, answer.answer) for answer in other
    ]
    assert [answer.probability for answer in one] == [answer.probability for answer in other]
    assert [answer.gold for answer in other] == [""] * 5
    assert all(answer.answer in task.choices for answer in one) or task.kind != "choice"


# --- which questions --------------------------------------------------------------------------


def test_questions_are_chosen_by_hash_whatever_the_order() -> None:
    documents = [held(f"d{n}", "x=1 | x=2 | x=3\n", "1", "2", "3") for n in range(40)]
    chosen = choose_questions(documents, VALUE, 20)
    shuffled = choose_questions(documents[::-1], VALUE, 20)
    assert len(chosen) == 20
    assert {(each.document.id, each.index) for each in chosen} == {(each.document.id, each.index) for each in shuffled}
    assert {each.index for each in chosen} == {0, 1, 2}
    fewer = {(each.document.id, each.index) for each in choose_questions(documents, VALUE, 10)}
    assert fewer < {(each.document.id, each.index) for each in chosen}


def test_answers_may_have_slices_of_their_own() -> None:
    documents = [held("a", "x=1 | x=2\n", "1", "2")]
    score = only(
        score_tasks(
            opened(Uniform()),
            letters(),
            "test",
            documents,
            [VALUE],
            CONTEXT,
            answer_slices=lambda document, span: {"place": "front" if span.start < 5 else "back"},
        )
    )
    assert set(score.slices) == {"half", "place"}
    assert set(score.slices["place"]) == {"front", "back"}
    assert (score.task, score.split) == ("t", "test")
    assert {answer.group for answer in score.answers} == {"a"}


def test_tasks_without_answers_in_the_split_are_left_out() -> None:
    other = Task("other", "value", "mae", "min")
    documents = [held("a", "x=1\n", "1")]
    assert [
        score.task for score in score_tasks(opened(Uniform()), letters(), "dev", documents, [other, VALUE], CONTEXT)
    ] == ["t"]
    with pytest.raises(DataError, match="holds no answer of task 'other'"):
        score_likelihood(Uniform(), letters(), "dev", documents, other, CONTEXT)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("t", "choice", "accuracy", "max"), "has no choices"),
        (Task("t", "value", "mae", "min"), "document 'a' \\(span 0\\) is no number"),
        (Task("t", "generate", "beauty", "max"), "has no metric 'beauty'"),
    ],
)
def test_tasks_that_cannot_be_scored_say_why(task: Task, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_tasks(opened(Uniform()), letters(), "dev", [held("a", "x=cat\n", "cat")], [task], CONTEXT)


def test_logits_that_are_no_probabilities_are_refused() -> None:
    """Finite, as the client demands, and yet an infinity apart."""

    class Extreme(Uniform):
        def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
            logits = super().logits(ids, positions)
            logits[:, 3], logits[:, 4] = 3e38, -3e38
            return logits

    with pytest.raises(InvalidCheckpointError, match="too far apart"):
        score_tasks(opened(Extreme()), letters(), "dev", [held("a", "x=cat\n", "cat")], [CHOICE], CONTEXT)


def test_a_checkpoint_in_its_own_process_scores_the_same(executor: LocalExecutor, tmp_path: Path) -> None:
    size = executor.data.manifest.vocab_size
    model = Bigram(size, 32, most_rows=64)
    (tmp_path / "train.py").write_text(TABLE_PY, encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size, "context": 32}), encoding="utf-8")
    save_file({"table": model.table}, str(tmp_path / "model.safetensors"))
    documents = tuple(read_split(executor.data.held_folder, "dev"))
    choices = ("signal failure", "late crew", "door fault", "traffic", "medical emergency", "weather")
    tasks = [
        Task("cause", "choice", "accuracy", "max", choices=choices),
        Task("cause", "generate", "exact_match", "max"),
    ]
    through = score_tasks(executor.opener(tmp_path, 32), executor.tokenizer, "dev", documents, tasks, 32)
    here = score_tasks(opened(model), executor.tokenizer, "dev", documents, tasks, 32)
    assert through == here
    assert len(through[0].answers) == len(documents)
    assert set(through[0].slices) == {"weekday"}


def test_a_real_tokenizer_and_real_records() -> None:
    documents = [HeldDocument(document, {}) for document in log_documents(12, first_seed=50)]
    choices = ("signal failure", "late crew", "door fault", "traffic", "medical emergency", "weather")
    task = Task("cause", "choice", "accuracy", "max", choices=choices)
    size = words().get_vocab_size()
    score = only(score_tasks(opened(Bigram(size, 32)), words(), "dev", documents, [task], 32))
    again = only(score_tasks(opened(Bigram(size, 32, most_rows=2)), words(), "dev", documents, [task], 32))
    assert len(score.answers) == 12
    assert all(answer.gold in choices and answer.answer in choices for answer in score.answers)
    assert [answer.loss for answer in score.answers] == pytest.approx([answer.loss for answer in again.answers])


# --- a model that remembers -------------------------------------------------------------------


class Memory(Model):
    """Gives back what it was shown: after every prefix that it has seen, the token that stood there."""

    def __init__(self) -> None:
        super().__init__(lambda ids: {}, context=CONTEXT)
        self.seen: dict[tuple[int, ...], int] = {}

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        found = []
        for row, (start, end) in zip(ids.tolist(), positions, strict=True):
            shown = [token for token in row if token != PAD]
            for place in range(1, len(shown)):
                self.seen.setdefault(tuple(shown[:place]), shown[place])
            for position in range(start, end):
                logits = torch.zeros(self.vocab_size)
                known = self.seen.get(tuple(row[: position + 1]))
                if known is not None:
                    logits[known] = 30.0
                found.append(logits)
        return torch.stack(found)


def test_a_model_that_remembers_gains_nothing() -> None:
    pairs = [("cat", "dog") if number % 2 else ("dog", "cat") for number in range(12)]
    documents = [held(f"d{n}", f"{n}{n}: x={one} | x={two}\n", one, two) for n, (one, two) in enumerate(pairs)]
    task = Task("t", "choice", "accuracy", "max", choices=("bird", "cat", "dog"))
    honest = only(score_tasks(lambda: nullcontext(Memory()), letters(), "dev", documents, [task], CONTEXT))
    assert len(honest.answers) == 24
    assert honest.metrics["accuracy"] == 0, "every question is asked before its answer is shown to the process"
    shared = Memory()
    score_likelihood(shared, letters(), "dev", documents, task, CONTEXT)
    cheated = only(score_tasks(lambda: nullcontext(shared), letters(), "dev", documents, [task], CONTEXT))
    assert cheated.metrics["accuracy"] == 1, "the model of this test does remember"
