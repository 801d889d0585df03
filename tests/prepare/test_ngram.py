"""The n-gram against a slow one of dictionaries, and what it promises in every context."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.prepare import ngram
from slm_ar.core.prepare.shards import ShardWriter
from slm_ar.core.prepare.tokenizer import BOS, EOS, PAD

VOCABULARY = 8
Documents = list[list[int]]

texts = st.lists(st.lists(st.integers(PAD + 1, VOCABULARY - 1), max_size=12), min_size=1, max_size=12)


def flat(documents: Documents) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    stored = [[BOS, *document, EOS] for document in documents]
    starts = np.cumsum([0, *(len(document) for document in stored[:-1])])
    return np.array([token for document in stored for token in document], np.uint16), starts


def built(documents: Documents, order: int, pruned_from: int | None = None) -> ngram.NGram:
    return ngram.build(*flat(documents), VOCABULARY, order, pruned_from)


class Slow:
    """Chen and Goodman's modified Kneser-Ney, word for word, in dictionaries."""

    def __init__(self, documents: Documents, order: int, pruned_from: int | None) -> None:
        self.order = order
        stored = [(BOS, *document, EOS) for document in documents]
        plain: dict[tuple[int, ...], int] = defaultdict(int)
        before: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for document in stored:
            for n in range(1, order + 2):
                for end in range(max(n, 2), len(document) + 1):
                    gram = document[end - n : end]
                    if n <= order:
                        plain[gram] += 1
                    before[gram[1:]].add(gram[0])
        self.counts: dict[tuple[int, ...], int] = {
            gram: times if len(gram) == order or gram[0] == BOS else len(before[gram]) for gram, times in plain.items()
        }
        self.discounts = {n: self._discounts(n) for n in range(1, order + 1)}
        self.pruned = {gram for gram, times in plain.items() if pruned_from and len(gram) >= pruned_from and times == 1}

    def _discounts(self, n: int) -> tuple[float, ...]:
        having = [sum(c == times for gram, c in self.counts.items() if len(gram) == n) for times in range(1, 5)]
        if 0 in having:
            return (0, *ngram.FALLBACK_DISCOUNTS)
        share = having[0] / (having[0] + 2 * having[1])
        found = tuple(k - (k + 1) * share * later / earlier for k, (earlier, later) in enumerate(pairwise(having), 1))
        is_usable = all(0 < value < k for k, value in enumerate(found, 1))
        return (0, *(found if is_usable else ngram.FALLBACK_DISCOUNTS))

    def probability(self, context: tuple[int, ...], token: int) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        n = len(context) + 1
        follow = {gram[-1]: c for gram, c in self.counts.items() if len(gram) == n and gram[:-1] == context}
        lower = self.probability(context[1:], token) if context else 1 / VOCABULARY
        total = sum(follow.values())
        if not total:
            return lower
        shares = {
            last: (c - self.discounts[n][min(c, 3)]) / total
            for last, c in follow.items()
            if (*context, last) not in self.pruned
        }
        return shares.get(token, 0.0) + (1 - sum(shares.values())) * lower


@settings(max_examples=40, deadline=None)
@given(texts, texts, st.integers(1, 4), st.sampled_from([None, 2, 3]))
def test_it_is_modified_kneser_ney(train: Documents, asked: Documents, order: int, pruned_from: int | None) -> None:
    model, slow = built(train, order, pruned_from), Slow(train, order, pruned_from)
    found = model.ask([np.array(document, np.int64) for document in asked])
    expected = [
        slow.probability((BOS, *document[:place]), token) for document in asked for place, token in enumerate(document)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(texts, texts, st.integers(1, 5), st.sampled_from([None, 3]))
def test_probabilities_sum_to_one_in_every_context(
    train: Documents, asked: Documents, order: int, pruned_from: int | None
) -> None:
    model = built(train, order, pruned_from)
    histories = [[BOS, *document[:place]] for document in asked for place in range(len(document) + 1)]
    rows = model.probabilities(model.contexts_after(histories))
    assert (rows > 0).all()
    np.testing.assert_allclose(rows.sum(axis=1, dtype=np.float64), 1, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(texts, texts, st.integers(1, 5))
def test_the_distribution_and_the_probability_of_a_token_agree(train: Documents, asked: Documents, order: int) -> None:
    model = built(train, order, 3)
    histories = [[BOS, *document[:place]] for document in asked for place in range(len(document))]
    documents = [np.array(document, np.int64) for document in asked]
    found, contexts = model.ask(documents), model.contexts(documents)
    assert contexts.shape == (len(histories), order - 1) and contexts.dtype == np.int32
    rows = model.probabilities(contexts)
    targets = [token for document in asked for token in document]
    np.testing.assert_allclose(rows[np.arange(len(targets)), targets], found, rtol=1e-4)
    if histories:
        assert model.contexts_after(histories).tolist() == contexts.tolist()


def test_documents_are_independent() -> None:
    model = built([[3, 4, 5], [5, 4, 3]] * 3, 3)
    alone = [model.ask([np.array(document)]) for document in ([3, 4], [5, 4])]
    together = model.ask([np.array([3, 4]), np.array([5, 4])])
    assert together.tolist() == np.concatenate(alone).tolist()
    [[beginning, longer]] = model.contexts([np.array([5])])
    assert beginning >= 0 and longer == -1  # the beginning of a document is a context that is known


def test_a_context_is_known_as_far_as_it_occurred() -> None:
    model = built([[3, 4, 5]] * 9 + [[6, 4, 7]], 3)
    sure, unsure = (model.contexts([np.array(document)]) >= 0 for document in ([3, 4, 5], [7, 6, 5]))
    assert sure.tolist() == [[True, False], [True, True], [True, True]]
    assert unsure.tolist() == [[True, False]] * 3  # "BOS 7" and "7 6" never occurred; 7 and 6 did


def test_rare_ngrams_of_high_orders_are_left_out() -> None:
    documents = [[3, 4, 5, 6], [3, 4, 5, 7], [7, 6, 5, 4]]
    whole, pruned = built(documents, 4), built(documents, 4, 3)
    assert [len(level.shares) for level in pruned.levels][:2] == [len(level.shares) for level in whole.levels][:2]
    assert len(pruned.levels[2].keys) == 2  # "BOS 3 4" and "3 4 5"
    assert pruned.byte_count < whole.byte_count


def test_a_vocabulary_of_65535_tokens_overflows_nothing() -> None:
    last = 65_534
    tokens = np.array([BOS, *[last, last - 1, last - 2] * 500, EOS], np.uint16)
    model = ngram.build(tokens, np.array([0]), last + 1, 5)
    asked = [np.array([last, last - 1, last - 2] * 2)]
    assert (model.contexts(asked) >= 0).sum(1).tolist() == [1, 2, 3, 3, 4, 4] and model.ask(asked)[-1] > 0.9


def test_train_shards_are_read(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "uint16") as shards:
        for document in ([3, 4, 5], [5, 4, 3], [3, 4, 5]):
            shards.append(document, 3)
    model = ngram.of_shards(tmp_path, "uint16", VOCABULARY, 3)
    expected = built([[3, 4, 5], [5, 4, 3], [3, 4, 5]], 3)
    for level, other in zip(model.levels, expected.levels, strict=True):
        assert level.keys.tolist() == other.keys.tolist() and level.shares.tolist() == other.shares.tolist()


def test_an_empty_corpus_knows_nothing() -> None:
    model = built([[]], 3)
    rows = model.probabilities(model.contexts_after([[BOS]]))
    assert rows.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("most", [1, 30, 47, 100, 399])
def test_of_a_large_corpus_whole_documents_are_taken_evenly(most: int) -> None:
    documents = [[3 + place // 25] * (place % 5) for place in range(100)]
    tokens, starts = flat(documents)
    offsets = np.append(starts, len(tokens))
    chosen, firsts = ngram.evenly(tokens, offsets, most)
    assert len(chosen) == min(most, len(tokens))
    assert (chosen[firsts] == BOS).all() and (chosen == BOS).sum() == len(firsts)
    if most == 100:
        places = np.flatnonzero(np.isin(chosen, [3, 4, 5, 6]))
        assert len(np.unique(chosen[places])) == 4  # from everywhere, not from one end


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_corpus_that_is_one_long_document_beside_short_ones_is_counted(place: int) -> None:
    documents = [[3, 4], [3, 4], [3, 4]]
    documents[place] = [5, 6] * 500
    tokens, starts = flat(documents)
    chosen, firsts = ngram.evenly(tokens, np.append(starts, len(tokens)), 300)
    assert len(chosen) == 300 and np.isin(chosen, [5, 6]).sum() >= 280
    assert (chosen[firsts] == BOS).all() and (chosen == BOS).sum() == len(firsts)
