"""Rows and their order: every token once per epoch, the order that old journals know, documents in one piece."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.prepare.tokenizer import BOS
from slm_ar.core.train.loader import Align, PlainFeed, Reader, epochs_of, newest_part, row_order, row_width
from slm_ar.core.train.packing import document_starts, pack, positions_of

Array = np.ndarray[Any, Any]


def order_of_old(token_count: int, context: int, seed: int) -> Iterator[int]:
    """Row starts one by one, as the first version of the runtime drew them: journals hold what came of that."""
    generator = np.random.default_rng([seed, 0x51A7])
    rows = -(-token_count // context)
    while True:
        phase = int(generator.integers(context))
        yield from ((generator.permutation(rows) * context + phase) % token_count).tolist()


def rows_of(tokens: Array, rows: int, context: int, seed: int, align: Align, cuts: tuple[int, ...] = ()) -> Array:
    """Inputs and targets [rows, 2, context] of a run, read in batches whose sizes `cuts` repeats."""
    reader = Reader(epochs_of(tokens, context, seed, align))
    found: list[Array] = []
    while sum(map(len, found)) < rows:
        size = cuts[len(found) % len(cuts)] if cuts else rows
        ids = np.full((size, row_width(context, align)), -1, np.int64)
        reader.fill(ids)
        found.append(np.stack([ids[:, :context], ids[:, -context:]], 1))
    return np.concatenate(found)[:rows]


def corpus(seed: int, token_count: int, document_tokens: int) -> Array:
    """Every id but BOS stands for its place, so that it can be found again."""
    tokens = np.arange(1, token_count + 1, dtype=np.uint16)
    tokens[np.random.default_rng(seed).integers(document_tokens, size=token_count) == 0] = BOS
    return tokens


shapes = given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 90), st.integers(0, 10))


@given(st.integers(2, 300), st.integers(1, 70), st.integers(0, 10))
@settings(max_examples=100, deadline=None)
def test_the_order_of_rows_is_that_of_old(token_count: int, context: int, seed: int) -> None:
    rows = 3 * -(-token_count // context)
    now = np.concatenate(list(islice(row_order(token_count, context, seed), 3)))
    assert now.tolist() == list(islice(order_of_old(token_count, context, seed), rows))


@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 10), st.lists(st.integers(1, 9), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_the_ids_are_those_of_old(token_count: int, context: int, seed: int, cuts: list[int]) -> None:
    tokens = corpus(seed, token_count, 20)
    rows = 2 * -(-token_count // context) + 1
    starts = np.array(list(islice(order_of_old(token_count, context, seed), rows)))
    expected = tokens[(starts[:, None] + np.arange(context + 1)) % token_count].astype(np.int64)
    found = rows_of(tokens, rows, context, seed, "stream", tuple(cuts))
    assert np.array_equal(found[:, 0], expected[:, :-1])
    assert np.array_equal(found[:, 1], expected[:, 1:])


@shapes
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("align", ["stream", "documents"])
def test_every_token_is_a_target_once_per_epoch(
    align: Align, token_count: int, context: int, document_tokens: int, seed: int
) -> None:
    tokens = np.arange(token_count, dtype=np.uint16)  # each its own id, and 0 is BOS
    starts = np.random.default_rng(seed).integers(document_tokens, size=token_count) == 0
    epochs = epochs_of(tokens, context, seed, align)
    if align == "documents":
        epochs = _epochs_with_starts(tokens, starts, context, seed)
    for epoch in islice(epochs, 2):
        assert len(epoch) == -(-token_count // context)
        ids = np.full((len(epoch), row_width(context, align)), -1, np.int64)
        epoch.gather(0, ids)
        targets = ids[:, -context:]
        assert np.array_equal(targets, (ids[:, :context] + 1) % token_count), "each is told by the token before it"
        counts = np.bincount(targets.ravel(), minlength=token_count)
        assert counts.min() >= 1
        assert counts.sum() - token_count < context, "only what fills up the last row comes again"


def _epochs_with_starts(tokens: Array, starts: Array, context: int, seed: int) -> Any:
    from slm_ar.core.train.loader import DocumentEpoch

    generator = np.random.default_rng(seed)
    places = np.flatnonzero(starts | (np.arange(len(tokens)) == 0))
    while True:
        yield DocumentEpoch(tokens, pack(places, len(tokens), context, generator))


@shapes
@settings(max_examples=200, deadline=None)
def test_a_packed_row_begins_with_a_document_if_one_begins_in_it(
    token_count: int, context: int, document_tokens: int, seed: int
) -> None:
    tokens = corpus(seed, token_count, document_tokens)
    tokens[0] = BOS
    rows = rows_of(tokens, -(-token_count // context), context, seed, "documents")[:, 0]
    begins = rows == BOS
    assert np.array_equal(begins[:, 0], begins.any(1))


@shapes
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("align", ["stream", "documents"])
def test_the_batch_size_only_cuts_the_same_rows_differently(
    align: Align, token_count: int, context: int, document_tokens: int, seed: int
) -> None:
    tokens = corpus(seed, token_count, document_tokens)
    rows = 2 * -(-token_count // context) + 3
    whole = rows_of(tokens, rows, context, seed, align)
    assert np.array_equal(rows_of(tokens, rows, context, seed, align, (1, 4, 2)), whole)


def test_another_seed_and_another_epoch_pack_other_rows() -> None:
    tokens = corpus(0, 5000, 20)
    rows = -(-5000 // 50)
    two = rows_of(tokens, 2 * rows, 50, 0, "documents")
    assert not np.array_equal(two[:rows], two[rows:])
    assert not np.array_equal(two[:rows], rows_of(tokens, rows, 50, 1, "documents"))


@pytest.mark.parametrize(("document_tokens", "most_cut"), [(40, 0.01), (120, 0.01), (250, 0.05)])
def test_hardly_a_document_that_fits_into_a_row_is_cut(document_tokens: int, most_cut: float) -> None:
    context = 256
    lengths = np.random.default_rng(1).lognormal(np.log(document_tokens), 0.6, 3000).astype(np.int64) + 3
    starts = np.cumsum(lengths) - lengths
    count = int(lengths.sum())
    packing = pack(starts, count, context, np.random.default_rng(2))
    positions = positions_of(packing.pieces(0, len(packing)))
    inside = np.zeros(count, bool)  # whether a token is followed, in its row, by the one that comes next
    follows = (np.diff(positions) == 1) & (np.arange(1, len(positions)) % context != 0)
    inside[positions[:-1][follows]] = True
    short = np.flatnonzero(lengths <= context)
    is_cut = [not inside[starts[one] : starts[one] + lengths[one] - 1].all() for one in short]
    cut_by_the_stream = (starts[short] // context != (starts[short] + lengths[short] - 1) // context).mean()
    assert np.mean(is_cut) <= most_cut < cut_by_the_stream


def test_text_before_the_first_document_mark_is_a_document_too() -> None:
    assert document_starts(np.array([5, 6, BOS, 7, BOS], np.uint16)).tolist() == [0, 2, 4]
    assert document_starts(np.array([BOS, 6, 7], np.uint16)).tolist() == [0]
    assert document_starts(np.array([3, 6, 7], np.uint16)).tolist() == [0]


def test_batches_own_their_memory() -> None:
    tokens = corpus(0, 500, 20)
    feed = PlainFeed(torch.device("cpu"), (2, row_width(16, "stream")), 16)
    feed.start(Reader(epochs_of(tokens, 16, 0, "stream")))
    first, _ = feed.take()
    before = first.clone()
    feed.take()
    assert torch.equal(first, before)


@given(st.integers(2, 300), st.floats(0.001, 1.0), st.integers(1, 40))
def test_the_newest_part_is_the_end_of_the_corpus_and_holds_a_row(count: int, share: float, context: int) -> None:
    tokens = np.arange(count)
    part = newest_part(tokens, share, context)
    assert part.tolist() == tokens[count - len(part) :].tolist()
    assert len(part) == min(count, max(math.ceil(share * count), context + 1))
    assert newest_part(tokens, 1.0, context).tolist() == tokens.tolist()
