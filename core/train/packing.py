"""Packs documents into rows of one length, so that as few of them as possible are cut and no token is lost.

Used by loader.py. A row is made of pieces. What "aligned" means here:

- A document that is longer than a row is cut from its beginning on into full rows, and a tail.
- Shorter ones stay whole and share rows, the longest that still fits first (the idea is that of Ding et al. 2024, arXiv
  2404.10830).
- Holes are filled with tails. Where these do not suffice, the emptiest rows are given up, and their documents are cut
  to fill the holes of the others. Nothing is padded, so there are as few rows as without any alignment.
- Within a row the pieces that begin a document stand first: a row begins with a document's first token unless no
  document begins in it.

The packing searches among counts of lengths, not among documents. It takes about a second per million documents, under
the clock, at the beginning of every epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from ..prepare.tokenizer import BOS

Array = np.ndarray[Any, Any]


def document_starts(tokens: Array) -> Array:
    """int64 positions of the tokens that open a document; what stands before the first of them is one, too."""
    starts = np.flatnonzero(tokens == BOS)
    return starts if len(starts) and starts[0] == 0 else np.concatenate([np.zeros(1, np.int64), starts])


class Packing:
    """Rows of an epoch in their order; each is a run of `pieces`, int64 [count, 2] of first position and length."""

    def __init__(self, pieces: Array, first_pieces: Array) -> None:
        """`first_pieces`, int64 [rows + 1]: where each row begins in `pieces`, and their end."""
        self._pieces, self._first = pieces, first_pieces

    def __len__(self) -> int:
        return len(self._first) - 1

    def pieces(self, first: int, rows: int) -> Array:
        """int64 [count, 2]: position in the corpus and length of each piece of so many rows."""
        return self._pieces[self._first[first] : self._first[first + rows]]


def positions_of(pieces: Array) -> Array:
    """int64 [tokens]: the position in the corpus of every token of pieces, laid end to end."""
    lengths = pieces[:, 1]
    ends = np.cumsum(lengths)
    positions: Array = np.repeat(pieces[:, 0] - (ends - lengths), lengths)
    positions += np.arange(len(positions))
    return positions


def pack(starts: Array, token_count: int, context: int, generator: np.random.Generator) -> Packing:
    """One epoch of a corpus of `token_count` tokens, whose documents begin at `starts`, in rows of `context`.

    Which documents share a row, and the order of rows, are drawn from `generator`.
    """
    documents = np.stack([starts, np.diff(np.append(starts, token_count))], 1)
    documents = documents[generator.permutation(len(documents))]
    full, tails = np.divmod(documents[:, 1], context)
    full_rows, short = _full_rows(documents[:, 0], full, context), documents[full == 0]
    has_tail = (full > 0) & (tails > 0)
    filler = np.stack([documents[has_tail, 0] + full[has_tail] * context, tails[has_tail]], 1)
    pieces, rows, holes = _fill_rows(short, context)
    if spare := max(0, int(holes.sum() - filler[:, 1].sum())) // context:
        is_given_up = np.zeros(len(holes), bool)
        is_given_up[np.argsort(-holes, kind="stable")[:spare]] = True
        filler = np.concatenate([filler, pieces[is_given_up[rows]]])
        pieces, rows = pieces[~is_given_up[rows]], rows[~is_given_up[rows]]
        rows, holes = (np.cumsum(~is_given_up) - 1)[rows], holes[~is_given_up]
    missing = int(holes.sum() - filler[:, 1].sum())
    more = max(0, -(missing // context))
    holes = np.append(holes, np.full(more, context))  # rows for the tails that found no hole
    filler = np.concatenate([filler, _again(int(documents[0, 0]), token_count, missing + more * context)])
    cuts, cut_rows = _cut(filler, holes)
    rows = np.concatenate([np.arange(len(full_rows)), len(full_rows) + np.concatenate([rows, cut_rows])])
    nearest = np.searchsorted(starts, cuts[:, 0], side="right") - 1
    is_middle = np.concatenate([np.zeros(len(full_rows) + len(pieces), bool), starts[nearest] != cuts[:, 0]])
    pieces = np.concatenate([full_rows, pieces, cuts])
    count = len(full_rows) + len(holes)
    place = generator.permutation(count)[rows]
    order = np.argsort(2 * place + is_middle, kind="stable")
    return Packing(pieces[order], np.searchsorted(place[order], np.arange(count + 1)))


def _full_rows(starts: Array, counts: Array, context: int) -> Array:
    """Pieces [rows, 2] of `context` tokens: so many of each document, from its beginning on."""
    before = np.cumsum(counts) - counts
    begins = np.repeat(starts - before * context, counts) + np.arange(counts.sum()) * context
    return np.stack([begins, np.full(len(begins), context)], 1)


def _fill_rows(documents: Array, context: int) -> tuple[Array, Array, Array]:
    """Lay whole documents, [count, 2] of position and length below `context`, into rows: the longest that fits first.

    Rows that hold the same lengths are made together. Returns the documents in another order, the row of each, and the
    room that is left in every row.
    """
    by_length = documents[np.argsort(documents[:, 1], kind="stable")]
    lengths, first, counts = (
        part.tolist() for part in np.unique(by_length[:, 1], return_index=True, return_counts=True)
    )
    taken, rows, holes = [by_length[:0]], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    row = 0
    while lengths:
        room, at, pattern = context, len(lengths), []
        while (at := min(at, bisect_right(lengths, room)) - 1) >= 0:  # the longest that fits and has not been looked at
            copies = min(counts[at], room // lengths[at])
            pattern.append((at, copies))
            room -= copies * lengths[at]
        repeats = min(counts[at] // copies for at, copies in pattern)
        for at, copies in pattern:
            taken.append(by_length[first[at] : first[at] + repeats * copies])
            rows.append(np.repeat(np.arange(row, row + repeats), copies))
            first[at] += repeats * copies
            counts[at] -= repeats * copies
        holes.append(np.full(repeats, room))
        row += repeats
        for at, _ in pattern:  # from the longest down, so that places stay what they are
            if not counts[at]:
                del lengths[at], first[at], counts[at]
    return np.concatenate(taken), np.concatenate(rows), np.concatenate(holes)


def _again(begin: int, token_count: int, length: int) -> Array:
    """Pieces of `length` tokens in all, from `begin` on and around the end of the corpus: they come a second time."""
    pieces = []
    while length > 0:
        pieces.append((begin, min(length, token_count - begin)))
        length -= pieces[-1][1]
        begin = 0
    return np.array(pieces, np.int64).reshape(-1, 2)


def _cut(filler: Array, holes: Array) -> tuple[Array, Array]:
    """Cut pieces, laid end to end, at the edges of holes as long in all; the new pieces and the hole of each."""
    piece_ends, hole_ends = np.cumsum(filler[:, 1]), np.cumsum(holes)
    edges = np.unique(np.concatenate([np.zeros(1, np.int64), piece_ends, hole_ends]))
    begins, sizes = edges[:-1], np.diff(edges)
    piece = np.searchsorted(piece_ends, begins, side="right")
    places = filler[piece, 0] + begins - (piece_ends - filler[:, 1])[piece]
    return np.stack([places, sizes], 1), np.searchsorted(hole_ends, begins, side="right")
