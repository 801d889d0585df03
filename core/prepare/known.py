"""Which documents stand in train: so that newer data can be scored without what the model has already read.

Called by `slm-ar eval`. Compares token sequences, because the shards are all that is kept of train; memory is eight
bytes per document of train.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .manifest import PreparedData
from .shards import OFFSETS_FILE, TOKENS_FILE


@dataclass(frozen=True, slots=True)
class TrainDigests:
    """Sorted digests of the documents of train."""

    digests: np.ndarray[Any, np.dtype[np.uint64]]
    token_dtype: str

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether a document of exactly these tokens stands in train (wrong once in 2^64 / documents)."""
        digest = _digest(np.asarray(ids, self.token_dtype))
        place = int(np.searchsorted(self.digests, digest))
        return place < len(self.digests) and self.digests[place] == digest


def train_digests(data: PreparedData) -> TrainDigests:
    """Read the shards once."""
    dtype = data.manifest.token_dtype
    tokens = np.memmap(data.folder / TOKENS_FILE, dtype, "r")
    offsets = np.fromfile(data.folder / OFFSETS_FILE, np.uint64)
    digests = np.empty(max(0, len(offsets) - 1), np.uint64)
    for number in range(len(digests)):
        first, end = int(offsets[number]) + 1, int(offsets[number + 1]) - 1  # without BOS and EOS
        digests[number] = _digest(tokens[first:end])
    digests.sort()
    return TrainDigests(digests, dtype)


def _digest(ids: np.ndarray[Any, Any]) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "big"))
