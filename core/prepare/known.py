"""What of newer data was prepared before, and how they differ from it: equal documents, near copies, new values.

Called by `slm-ar eval`, so that newer data are scored without what a model has read or is held out. Equal documents of
train are told by token sequences (eight bytes of memory per document), because the shards are all that is kept of it;
the held-out parts are compared by their texts, over every preparation of a workspace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .drift import REFERENCE_BYTES, drift_notices
from .heldout import HeldDocument, held_folder, read_split, text_digest
from .manifest import MANIFEST_FILE, PreparedData
from .overlap import HeldIndex
from .shards import OFFSETS_FILE, TOKENS_FILE
from .split import HELD_OUT, MIX, TRAIN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DECODED_TOKENS = 500_000
"""How many tokens of train are decoded at once."""
USUAL_PART = 4
"""One document of train in this many shows how many values are new among documents of its own period."""


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


def differences(data: PreparedData, tokenizer: Tokenizer, documents: Sequence[HeldDocument]) -> list[str]:
    """Sentences on near copies of train among `documents`, and on fields whose values train does not show."""
    index = HeldIndex(("new", held.document.id, held.document.text) for held in documents)
    for texts in _train_texts(data, tokenizer, lambda number: True):
        index.note_train(texts)
    near = index.report()["new"].near
    notices = (
        [f"{near:,} of them stand in train with a few words changed: the score rests on these too"] if near else []
    )
    step = 1 + data.manifest.splits[TRAIN].byte_count // REFERENCE_BYTES

    def part(is_usual: bool) -> Iterator[str]:
        def wanted(number: int) -> bool:
            return number // USUAL_PART % step == 0 and (number % USUAL_PART == 0) is is_usual

        return (text for texts in _train_texts(data, tokenizer, wanted) for text in texts)

    new = {"the new data": (held.document.text for held in documents)}
    return notices + drift_notices(part(False), part(True), new, "a part of train held against the rest")


def _train_texts(data: PreparedData, tokenizer: Tokenizer, wanted: Callable[[int], bool]) -> Iterator[list[str]]:
    """The documents of train with the wanted numbers, decoded again, many at once."""
    tokens = np.memmap(data.folder / TOKENS_FILE, data.manifest.token_dtype, "r")
    offsets = np.fromfile(data.folder / OFFSETS_FILE, np.uint64).tolist()
    waiting: list[list[int]] = []
    size = 0
    for number, (first, end) in enumerate(pairwise(offsets)):
        if wanted(number):
            waiting.append(tokens[first + 1 : end - 1].tolist())  # without BOS and EOS
            size += end - first
        if waiting and (size >= DECODED_TOKENS or number == len(offsets) - 2):
            yield tokenizer.decode_batch(waiting, skip_special_tokens=False)
            waiting, size = [], 0


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
