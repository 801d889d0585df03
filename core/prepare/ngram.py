"""A token n-gram with modified Kneser-Ney smoothing: sorted arrays of numpy, built and asked in bulk.

Called by `floors` (what it reaches alone) and by train/mixing.py (beside a neural model). Promises: probabilities over
the whole vocabulary sum to 1 in every context, a document's beginning is seen as BOS, nothing reaches across documents;
memory and time are bounded by the caps below, whatever the corpus.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1999), section 3, in its
interpolated form; n-grams that begin a document keep their plain counts in lower orders, because nothing precedes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .shards import OFFSETS_FILE, TOKENS_FILE
from .tokenizer import BOS

ORDER = 5
MOST_TOKENS = 6_000_000
"""Of a larger corpus whole documents are taken, evenly over it: building stays at half a GB, the model at 80 MB."""
PRUNED_FROM = 4
"""From this order on, n-grams that occur once are left out: a third of the memory, 0.1 % more bits (plays) or 0.3 %
fewer (service logs)."""
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where too few n-grams occur one to four times to estimate the discounts."""

Ids = NDArray[Any]
Floats = NDArray[np.float64]
Contexts = NDArray[np.int32]
"""[tokens, levels - 1]: where what stands before a token is found among the n-grams of each order but the highest; -1
where it is not."""


@dataclass(frozen=True, slots=True)
class Level:
    """All n-grams of one order, sorted by context, then by token."""

    keys: NDArray[np.int64]
    """Place of the first n - 1 tokens in the level below, times vocab_size, plus the last token. Empty for order 1."""
    shares: NDArray[np.float32]
    """Of the last token in its context, after the discount. Order 1: its whole probability, for every token."""
    backoffs: NDArray[np.float32]
    """What the n-gram, as a context, leaves to the order below; 1 where nothing is known to follow it."""


@dataclass(frozen=True, slots=True)
class NGram:
    """A model of `levels` (order 1 first) over `vocab_size` tokens."""

    vocab_size: int
    levels: tuple[Level, ...]

    @property
    def byte_count(self) -> int:
        """Memory of its arrays."""
        return sum(array.nbytes for level in self.levels for array in (level.keys, level.shares, level.backoffs))

    def ask(self, documents: Sequence[Ids]) -> Floats:
        """How likely each token of all documents is, one after the other, given those before it in its document.

        Documents come without BOS and EOS.
        """
        tokens, ages = _with_beginnings(documents)
        found = self.levels[0].shares[tokens].astype(np.float64)
        for order, contexts, places in self._walk(tokens, ages):
            left = _taken(self.levels[order - 2].backoffs, contexts, 1.0)
            found = _taken(self.levels[order - 1].shares, places, 0.0) + left * found
        return found[ages > 0]

    def contexts(self, documents: Sequence[Ids]) -> Contexts:
        """The context of each token of all documents, which come without BOS and EOS, one after the other."""
        tokens, ages = _with_beginnings(documents)
        found: Contexts = self._contexts(tokens, ages)[ages > 0]
        return found

    def contexts_after(self, histories: Sequence[Ids]) -> Contexts:
        """The context of what follows each history: at least one token, at the beginning of a document that is BOS."""
        recent = [np.append(history[-len(self.levels) :], BOS).astype(np.int64) for history in histories]
        ages = np.concatenate([np.arange(len(history)) for history in recent])
        last = np.cumsum([len(history) for history in recent]) - 1
        found: Contexts = self._contexts(np.concatenate(recent), ages)[last]
        return found

    def probabilities(self, contexts: Contexts) -> NDArray[np.float32]:
        """What follows each context: float32 [contexts, vocab_size], positive, rows that sum to 1."""
        kept = np.ones((len(self.levels), len(contexts)), np.float32)  # of a share, behind what higher orders take
        for number, level in reversed(list(enumerate(self.levels[:-1]))):
            kept[number] = kept[number + 1] * _taken(level.backoffs, contexts[:, number], 1.0)
        found: NDArray[np.float32] = kept[0][:, None] * self.levels[0].shares
        for number, level in enumerate(self.levels[1:]):
            rows = np.flatnonzero(contexts[:, number] >= 0)
            own = contexts[rows, number].astype(np.int64)
            firsts = np.searchsorted(level.keys, own * self.vocab_size)
            counts = np.searchsorted(level.keys, (own + 1) * self.vocab_size) - firsts
            followers = np.arange(counts.sum()) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
            at = level.keys[followers] + np.repeat((rows - own) * self.vocab_size, counts)
            found.reshape(-1)[at] += level.shares[followers] * np.repeat(kept[number + 1][rows], counts)
        return found

    def _contexts(self, tokens: NDArray[np.int64], ages: NDArray[np.int64]) -> Contexts:
        columns = [contexts for _, contexts, _ in self._walk(tokens, ages)]
        return np.stack(columns, 1).astype(np.int32) if columns else np.empty((len(tokens), 0), np.int32)

    def _walk(
        self, tokens: NDArray[np.int64], ages: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """(order, place of each token's context in the level below, place of the n-gram that ends there), -1 for none.

        From order 2 on; places of one order are the contexts of the next token in the next one.
        """
        places = tokens
        for order, level in enumerate(self.levels[1:], 2):
            contexts = _contexts(places, ages)
            places = _places(level.keys, contexts * self.vocab_size + tokens, contexts >= 0)
            yield order, contexts, places


def _with_beginnings(documents: Sequence[Ids]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All documents as one array, each behind a BOS, and the place of every token in its document (BOS: 0)."""
    parts: list[Ids] = []
    for document in documents:
        parts += [np.array([BOS]), np.asarray(document, np.int64)]
    sizes = np.array([len(document) + 1 for document in documents], np.int64)
    firsts = np.cumsum(sizes) - sizes
    tokens = np.concatenate([*parts, np.zeros(0, np.int64)]).astype(np.int64)
    return tokens, np.arange(len(tokens)) - np.repeat(firsts, sizes)


def _contexts(places: NDArray[Any], ages: NDArray[Any]) -> NDArray[np.int64]:
    """The place of what ends before each token; -1 at the beginning of a document."""
    contexts = np.empty(len(places), np.int64)
    contexts[:1], contexts[1:] = -1, places[:-1]
    contexts[ages == 0] = -1
    return contexts


def _places(keys: NDArray[np.int64], wanted: NDArray[np.int64], is_asked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where each wanted key stands in `keys`; -1 where it does not, or is not asked for."""
    found = np.full(len(wanted), -1, np.int64)
    if len(keys):
        asked = np.flatnonzero(is_asked)
        at = np.minimum(np.searchsorted(keys, wanted[asked]), len(keys) - 1)
        is_there = keys[at] == wanted[asked]
        found[asked[is_there]] = at[is_there]
    return found


def _taken(values: NDArray[np.float32], places: NDArray[Any], otherwise: float) -> NDArray[np.float32]:
    """The values at `places`; `otherwise` where the place is -1."""
    found = np.full(len(places), otherwise, np.float32)
    found[places >= 0] = values[places[places >= 0]]
    return found


# --- building -----------------------------------------------------------------------------------


def build(
    tokens: Ids, starts: Ids, vocab_size: int, order: int = ORDER, pruned_from: int | None = PRUNED_FROM
) -> NGram:
    """Count `tokens`, in which a document begins with BOS at each of `starts` (ascending, the first one 0).

    From order `pruned_from` on, n-grams that occur once are left out after the discounts were taken. At order 5 it
    takes about a second and 85 MB per million tokens, and leaves 9 to 13 MB of them.
    """
    starts = np.asarray(starts, np.int64)
    sizes = np.diff(np.append(starts, len(tokens)))
    ages = (np.arange(len(tokens)) - np.repeat(starts, sizes)).astype(np.int32)
    places = np.asarray(tokens).astype(np.int32)
    keys = np.zeros(0, np.int64)
    counts = np.bincount(places, minlength=vocab_size)
    counts[BOS] = 0  # it is given, never asked for
    is_first = np.zeros(vocab_size, bool)
    kept = np.arange(vocab_size)
    levels: list[Level] = []
    for n in range(1, order + 1):
        if n < order:
            next_keys, next_counts, examples, next_places = _distinct(places, ages, tokens, vocab_size, n)
            followed = np.bincount(places[examples], minlength=len(counts))
            adjusted = np.where(is_first, counts, followed)
        else:
            adjusted = counts
        if n == 1:
            shares = _unigrams(adjusted)
        else:
            shares = _discounted(adjusted, keys // vocab_size)
            is_kept = counts > (pruned_from is not None and n >= pruned_from)
            keys, shares, kept = _finished(levels, keys, shares, is_kept, kept, vocab_size)
        levels.append(Level(keys, shares.astype(np.float32), np.ones(len(shares), np.float32)))
        if n < order:
            keys, counts, places = next_keys, next_counts, next_places
            is_first = ages[examples] == n
    return NGram(vocab_size, tuple(levels))


def _distinct(
    places: NDArray[np.int32], ages: NDArray[np.int32], tokens: Ids, vocab_size: int, age: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The n-grams one longer than those at `places`: keys, counts, where each one ends once, and their own places."""
    ends = np.flatnonzero(ages >= age).astype(np.int32)
    found = places[ends - 1].astype(np.int64)
    found *= vocab_size  # in place, here and below: arrays of the corpus's length are what memory goes into
    found += tokens[ends]
    by_key = np.argsort(found)
    found = found[by_key]
    ends = ends[by_key]
    is_new = np.empty(len(found), bool)
    is_new[:1], is_new[1:] = True, found[1:] != found[:-1]
    firsts = np.flatnonzero(is_new)
    numbers = np.cumsum(is_new, dtype=np.int32)
    numbers -= 1
    longer = np.full(len(places), -1, np.int32)
    longer[ends] = numbers
    return found[firsts], np.diff(np.append(firsts, len(found))), ends[firsts], longer


def _finished(
    levels: list[Level],
    keys: NDArray[np.int64],
    shares: Floats,
    is_kept: NDArray[np.bool_],
    kept: NDArray[np.int64],
    vocab_size: int,
) -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """The n-grams that are kept, their contexts numbered as in the level below, which learns what it leaves to others.

    `kept` are the new places of that level's n-grams; what is given back as the third are those of these. An n-gram
    that occurs twice has a context that does so too, so no kept one loses its context.
    """
    contexts = kept[keys[is_kept] // vocab_size]
    shares = shares[is_kept]
    below = levels[-1].backoffs
    below[:] = 1 - np.bincount(contexts, weights=shares, minlength=len(below))
    return contexts * vocab_size + keys[is_kept] % vocab_size, shares, np.cumsum(is_kept) - 1


def _discounts(counts: NDArray[np.int64]) -> Floats:
    """What is taken from counts of 0, 1, 2 and more (Chen and Goodman, equation 26)."""
    ones, twos, threes, fours = (int((counts == times).sum()) for times in range(1, 5))
    if min(ones, twos, threes, fours) == 0:
        return np.array([0, *FALLBACK_DISCOUNTS])
    share = ones / (ones + 2 * twos)
    found = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
    is_usable = all(0 < value < times for times, value in enumerate(found, 1))
    return np.array([0, *(found if is_usable else FALLBACK_DISCOUNTS)])


def _discounted(counts: NDArray[np.int64], contexts: NDArray[np.int64]) -> Floats:
    """The discounted share of each n-gram in its context."""
    totals = np.bincount(contexts, weights=counts)
    shares: Floats = (counts - _discounts(counts)[np.minimum(counts, 3)]) / totals[contexts]
    return shares


def _unigrams(counts: NDArray[np.int64]) -> Floats:
    """Probabilities of all tokens: discounted, what that leaves dealt evenly."""
    total = max(1, int(counts.sum()))
    shares = (counts - _discounts(counts)[np.minimum(counts, 3)]) / total
    found: Floats = shares + (1 - shares.sum()) / len(counts)
    return found


# --- corpora ------------------------------------------------------------------------------------


def of_shards(folder: Path, dtype: str, vocab_size: int, order: int = ORDER) -> NGram:
    """The model of the train shards in `folder`; of more than MOST_TOKENS, whole documents evenly over them."""
    tokens: Ids = np.memmap(folder / TOKENS_FILE, np.dtype(dtype).newbyteorder("<"), mode="r")
    offsets = np.fromfile(folder / OFFSETS_FILE, "<u8").astype(np.int64)
    return build(*evenly(tokens, offsets), vocab_size, order)


def evenly(tokens: Ids, offsets: Ids, most: int | None = None) -> tuple[Ids, Ids]:
    """(tokens, starts) of documents evenly over all of them, `most` tokens at most (MOST_TOKENS).

    `offsets` are the starts of all documents and, last, the end. Where those are short beside the others, further ones
    follow until `most` is reached; the last one is cut.
    """
    most = MOST_TOKENS if most is None else most
    if len(tokens) <= most:
        return np.asarray(tokens), offsets[:-1]
    marks = np.floor(np.arange(len(offsets)) * (most / len(tokens)))
    is_chosen = np.diff(marks) > 0
    by_turn = np.concatenate([np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)])
    sizes = np.diff(offsets)
    before = np.cumsum(sizes[by_turn]) - sizes[by_turn]
    taken = np.zeros(len(sizes), np.int64)
    taken[by_turn] = np.clip(most - before, 0, sizes[by_turn])
    chosen = np.flatnonzero(taken)
    parts = [tokens[offsets[place] : offsets[place] + taken[place]] for place in chosen.tolist()]
    return np.concatenate(parts), np.cumsum(taken[chosen]) - taken[chosen]
