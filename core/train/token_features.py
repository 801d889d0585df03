"""What the text of a token tells beside its id: the number in it, and its shape.

Used by runtime.py for train.py. Embeddings learn each row by itself; minutes, prices and vehicle numbers have too few
examples each for that, though what holds for one holds for its neighbours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

PERIODS = (10, 100, 1_000, 10_000)
COMMON = 4
"""Tokens that a shape must have to be told."""
MOST_SHAPES = 64
"""What a step pays for them grows with their number, and large vocabularies of codes have hundreds."""
_PART = "\ufffd"
"""Stands in texts for bytes that are no whole character."""
_ONE_NUMBER = re.compile(r"\D*(\d{1,4})\D*")


def token_features(texts: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """A row of features per token, float32 [tokens, features]; tokens of which nothing is known have zeros.

    A token with one number of up to four digits has its place on circles of 10, 100, 1,000 and 10,000 (Fourier number
    embedding: Zhou et al. 2025, arXiv 2502.09741), its share of the next power of ten, and a one. A token whose shape
    is that of at least four has a one in the column of that shape, where it is among the 64 most common. Parts of
    characters have none. Columns without any value are left out.
    """
    shapes = [shape_of(text) for text in texts]
    counts = Counter(shape for shape in shapes if _PART not in shape)
    common = sorted((shape for shape in counts if counts[shape] >= COMMON), key=lambda shape: (-counts[shape], shape))
    common = common[:MOST_SHAPES]
    of_number = 2 * len(PERIODS) + 2
    columns = {shape: of_number + place for place, shape in enumerate(common)}
    features = np.zeros((len(texts), of_number + len(common)), np.float32)
    for row, text, shape in zip(features, texts, shapes, strict=True):
        if shape in columns:
            row[columns[shape]] = 1
        if (found := _ONE_NUMBER.fullmatch(text)) is not None:
            angles = 2 * np.pi * int(found[1]) / np.array(PERIODS)
            row[:of_number] = (*np.cos(angles), *np.sin(angles), int(found[1]) / 10 ** len(found[1]), 1)
    return features[:, features.any(axis=0)]


def shape_of(text: str) -> str:
    """The text with digits as 0, runs of capitals as A and of other letters as a: " | KING 12:05" is " | A 00:00"."""
    marked = ("0" if c.isdecimal() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text)
    return re.sub(r"([Aa])\1+", r"\1", "".join(marked))
