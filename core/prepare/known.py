"""Which documents were prepared before: so that newer data are scored without what a model has read or is held out.

Called by `slm-ar eval`. Train is compared by token sequences, because the shards are all that is kept of it (eight
bytes of memory per document); the held-out parts are compared by their texts, over every preparation of a workspace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .heldout import held_folder, read_split, text_digest
from .manifest import MANIFEST_FILE, PreparedData
from .shards import OFFSETS_FILE, TOKENS_FILE
from .split import HELD_OUT, MIX


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


def held_digests(data_root: Path) -> frozenset[bytes]:
    """`text_digest` of every held-out document of all that was prepared below `data_root` (WORKSPACE/.slm/data).

    What an older slm-ar prepared counts too: hidden and test must not be opened because a recipe was changed. A private
    part that is gone opens nothing and is passed over.
    """
    names = set()
    for path in data_root.glob(f"*/{MANIFEST_FILE}"):
        try:
            names.add(str(json.loads(path.read_text(encoding="utf-8"))["held_digest"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a manifest: it names no private part
    parts = [(held_folder(name), split) for name in sorted(names) for split in (MIX, *HELD_OUT)]
    return frozenset(
        text_digest(held.document.text)
        for folder, split in parts
        if (folder / f"{split}.jsonl").is_file()
        for held in read_split(folder, split)
    )


def _digest(ids: np.ndarray[Any, Any]) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "big"))
