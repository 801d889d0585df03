"""Documents that repeat an earlier one but for a few words, found by MinHash and locality-sensitive hashing.

Called by the pipeline before the split. Promises: the same answer on every machine; nothing is called a near duplicate
whose Jaccard similarity was not computed; memory that grows by bytes, not by texts, with the number of documents.

Source: Broder, "On the resemblance and containment of documents" (1997); banding after Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3. With 20 bands of 6 rows a pair of similarity 0.8 is looked at with probability
0.998, one of 0.5 with 0.27.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

SHINGLE_WORDS = 5
NEAR = 0.8
"""Jaccard similarity of the sets of word 5-grams from which on two documents are near duplicates."""
BANDS, ROWS = 20, 6
CANDIDATES = 8
"""Earlier documents that one is compared with, those first that share most bands."""
WORDS_REMEMBERED = 500_000
SHINGLES_REMEMBERED = 4_000_000

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

_WORD = re.compile(r"\w+")
_ASCII_WORDS = {code: chr(code).lower() if _WORD.fullmatch(chr(code)) else " " for code in range(128)}
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NO_HASHES: Hashes = np.empty(0, np.uint64)


def words_of(text: str) -> list[str]:
    """The words of a text without regard to case, blanks and punctuation; digits count."""
    if text.isascii():  # the same, three times as fast
        return text.translate(_ASCII_WORDS).split()
    return _WORD.findall(text.casefold())


def normalised_digest(text: str) -> bytes:
    """16 bytes, equal for texts of the same words; texts without a word are told apart by their characters."""
    words = words_of(text)
    return hashlib.blake2b((" ".join(words) if words else text.strip()).encode("utf-8"), digest_size=16).digest()


class WordHasher:
    """Hashes words and runs of words to 64 bits; the same on every machine."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def words(self, text: str) -> Hashes:
        """One hash per word, in order."""
        return self.words_of_all([text])[0]

    def words_of_all(self, texts: Iterable[str]) -> tuple[Hashes, list[int]]:
        """One hash per word of all texts, in order, and the number of words of each text."""
        words: list[str] = []
        lengths: list[int] = []
        for text in texts:
            found = words_of(text)
            words += found
            lengths.append(len(found))
        known = self._known
        if len(known) > WORDS_REMEMBERED:
            known.clear()
        for word in set(words).difference(known):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
        return np.fromiter(map(known.__getitem__, words), np.uint64, len(words)), lengths


def shingles_of(words: Hashes) -> Hashes:
    """The set of a text's word 5-grams, sorted; a shorter text is one shingle."""
    return np.unique(ngrams(words, min(SHINGLE_WORDS, len(words))))


def ngrams(words: Hashes, size: int) -> Hashes:
    """One hash per run of `size` words; empty when there are fewer words."""
    count = len(words) - size + 1
    if size == 0 or count <= 0:
        return _NO_HASHES
    total = np.full(count, size, np.uint64)
    for start in range(size):
        total = (total * _STEP) ^ words[start : start + count]
        total ^= total >> np.uint64(29)
    return _mixed(total)


def _mixed(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def jaccard(first: Hashes, second: Hashes) -> float:
    """Similarity of two sorted sets of shingles; 0 when both are empty."""
    smaller, larger = sorted((len(first), len(second)))
    if smaller == 0 or smaller < NEAR * larger:
        return 0.0  # whatever they share, it is not enough
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (smaller + larger - common)


# --- MinHash ------------------------------------------------------------------------------------

_FACTORS = _mixed(np.arange(1, BANDS * ROWS + 1, dtype=np.uint64) * _STEP) | np.uint64(1)
_SHINGLES_AT_ONCE = 4096


def band_keys(shingles: Hashes) -> Hashes:
    """One key per band: equal keys make two documents candidates. `shingles` is not empty."""
    least = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(shingles), _SHINGLES_AT_ONCE):
        # Multiplying by a different odd number each time orders the shingles anew each time.
        products = shingles[start : start + _SHINGLES_AT_ONCE, None] * _FACTORS[None, :]
        np.minimum(least, (products ^ (products >> np.uint64(32))).min(axis=0), out=least)
    return _mixed((least.reshape(BANDS, ROWS) * _FACTORS[:ROWS]).sum(axis=1, dtype=np.uint64))


def find_near_duplicates(texts: Iterable[str], text_of: Callable[[int], str], scratch: Path) -> list[int]:
    """Positions, rising, of those of `texts` that are near duplicates of an earlier one that is not.

    `text_of` gives a text again by its position. A file of 160 bytes per text is written into `scratch`.
    """
    hasher = WordHasher()
    keys_file, numbers = scratch / "bands", []
    with keys_file.open("wb") as file:
        for number, text in enumerate(texts):
            shingles = shingles_of(hasher.words(text))
            if len(shingles):
                file.write(band_keys(shingles).tobytes())
                numbers.append(number)
    try:
        return _verified(np.array(numbers, np.int64), keys_file, text_of, hasher) if len(numbers) > 1 else []
    finally:
        keys_file.unlink()


def _verified(
    numbers: np.ndarray[Any, np.dtype[np.int64]], keys_file: Path, text_of: Callable[[int], str], hasher: WordHasher
) -> list[int]:
    previous = _previous_in_bands(keys_file, len(numbers))
    shingles = _Remembered(lambda place: shingles_of(hasher.words(text_of(int(numbers[place])))))
    stands_for: dict[int, int] = {}
    """Place of a near duplicate -> place of the earlier document that is kept."""
    for place in np.flatnonzero((previous >= 0).any(axis=1)).tolist():
        earlier = Counter(stands_for.get(other, other) for other in previous[place].tolist() if other >= 0)
        for other, _ in earlier.most_common(CANDIDATES):
            if jaccard(shingles(place), shingles(other)) >= NEAR:
                stands_for[place] = other
                break
    return [int(numbers[place]) for place in sorted(stands_for)]


def _previous_in_bands(keys_file: Path, count: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """For each document and band the last document before it with the same key, or -1."""
    keys = np.memmap(keys_file, np.uint64, "r", shape=(count, BANDS))
    previous = np.full((count, BANDS), -1, np.int32)
    for band in range(BANDS):
        column = np.array(keys[:, band])
        order = np.argsort(column, kind="stable").astype(np.int32)
        same = column[order[1:]] == column[order[:-1]]
        previous[order[1:][same], band] = order[:-1][same]
    return previous


class _Remembered:
    """The shingles of the documents asked for last, up to SHINGLES_REMEMBERED of them."""

    def __init__(self, compute: Callable[[int], Hashes]) -> None:
        self._compute = compute
        self._known: OrderedDict[int, Hashes] = OrderedDict()
        self._size = 0

    def __call__(self, place: int) -> Hashes:
        if place in self._known:
            self._known.move_to_end(place)
            return self._known[place]
        found = self._known[place] = self._compute(place)
        self._size += len(found)
        while self._size > SHINGLES_REMEMBERED and len(self._known) > 1:
            self._size -= len(self._known.popitem(last=False)[1])
        return found
