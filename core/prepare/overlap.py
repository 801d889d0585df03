"""What train and the held-out splits have in common: equal documents, near duplicates, word 13-grams.

Called by the pipeline once groups are dealt, and for auxiliary text before it joins train. Promises: one pass over
train; memory in the size of the held-out parts alone; near duplicates are verified, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..contracts import SplitRule
from .heldout import text_digest
from .manifest import Overlap
from .near import NEAR, SHINGLE_WORDS, Hashes, WordHasher, jaccard, ngrams, shingles_of
from .split import HELD_OUT

NGRAM_WORDS = 13
"""Runs of 13 words are what published decontamination looks for (Brown et al. 2020)."""
MOST_COMPARED = 32
"""Held-out documents that one document is compared with, in a corpus whose documents are all alike."""
SIEVE_BITS = 22
NOTABLE_PERCENT = 5
"""From here on an overlap is a warning; the recipe's max_overlap_percent says where it ends."""
NOTABLE_NGRAM_PERCENT = 40
"""From here on shared word 13-grams are a warning when groups are dealt by hash: by time, what recurs may recur."""

_Places = np.ndarray[Any, np.dtype[np.int64]]


class HeldIndex:
    """All held-out documents, so that a document of train can be held against them at once."""

    def __init__(self, documents: Iterable[tuple[str, str, str]]) -> None:
        """`documents` are (split, id, text)."""
        self._hasher = WordHasher()
        self.ids: list[str] = []
        self.splits: list[str] = []
        self._by_digest: dict[bytes, int] = {}
        self._shingles: list[Hashes] = []
        runs: list[Hashes] = []
        first: list[int] = []
        for split, name, text in documents:
            place = len(self.ids)
            first.append(self._by_digest.setdefault(text_digest(text), place))
            self.ids.append(name)
            self.splits.append(split)
            words = self._hasher.words(text)
            # What is equal is found by its digest: of copies only the first one is looked up.
            self._shingles.append(shingles_of(words if first[place] == place else words[:0]))
            runs.append(ngrams(words, NGRAM_WORDS))
        self._first = np.array(first, np.int64)
        """Place of the first document with the same text, for each."""
        self._lookup = _Lookup(self._shingles)
        self._runs = runs
        self._run_values = np.unique(np.concatenate([np.empty(0, np.uint64), *runs]))
        self._run_sieve = _Sieve(self._run_values)
        self._run_seen = np.zeros(len(self._run_values), bool)
        self._near = np.zeros(len(self.ids), bool)
        self._exact = np.zeros(len(self.ids), bool)

    def equal(self, text: str) -> int | None:
        """Place of a held-out document with the same text."""
        return self._by_digest.get(text_digest(text))

    def near(self, text: str) -> int | None:
        """Place of a held-out document that `text` nearly is."""
        shingles = shingles_of(self._hasher.words(text))
        for place in self._lookup.candidates(shingles):
            if jaccard(shingles, self._shingles[place]) >= NEAR:
                return place
        return None

    def inside(self, text: str) -> int | None:
        """Place of a held-out document that mostly stands inside `text`, or of one inside which `text` mostly stands.

        Mostly is a share of NEAR of the word 5-grams of the smaller one. Held-out documents of fewer words are found
        when they are a line of `text`. So documents that are cut in another way than the held-out ones are seen too.
        """
        if "\n" in text.rstrip():
            for line in text.split("\n"):
                if line.strip() and (place := self.equal(line)) is not None:
                    return place
        words = self._hasher.words(text)
        if len(words) < SHINGLE_WORDS:
            return None
        shingles = shingles_of(words)
        shared = self._lookup.shared(shingles)
        if not len(shared):
            return None
        share = shared / np.maximum(1, np.minimum(self._lookup.sizes, len(shingles)))
        best = int(share.argmax())
        return best if share[best] >= NEAR else None

    def note_train(self, texts: Sequence[str]) -> None:
        """Mark what of the held-out documents stands in these documents of train; a megabyte at once is fastest."""
        for text in texts:
            equal = self.equal(text)
            if equal is not None:
                self._exact[equal] = self._near[equal] = True
        words, lengths = self._hasher.words_of_all(texts)
        ends = np.cumsum(np.array(lengths, np.int64))
        runs = self._run_sieve.passed(_within(ngrams(words, NGRAM_WORDS), ends, lengths, NGRAM_WORDS)[0])
        if len(runs):
            places = np.searchsorted(self._run_values, runs)
            places[places == len(self._run_values)] = 0
            self._run_seen[places[self._run_values[places] == runs]] = True
        shingles, owners = _within(ngrams(words, SHINGLE_WORDS), ends, lengths, SHINGLE_WORDS)
        hopeful = set(owners[self._lookup.sieve.lets_pass(shingles)].tolist())
        hopeful |= {place for place, length in enumerate(lengths) if 0 < length < SHINGLE_WORDS}
        for place in sorted(hopeful):
            self._mark_near(shingles_of(words[ends[place] - lengths[place] : ends[place]]))

    def _mark_near(self, shingles: Hashes) -> None:
        for place in self._lookup.candidates(shingles, without=self._near):
            if jaccard(shingles, self._shingles[place]) >= NEAR:
                self._near[place] = True

    def report(self) -> dict[str, Overlap]:
        """Split -> what was marked."""
        found: dict[str, Overlap] = {}
        splits = np.array(self.splits)
        elsewhere = self._elsewhere(splits)
        for split in dict.fromkeys(self.splits):
            mine = np.flatnonzero(splits == split)
            runs = np.concatenate([np.empty(0, np.uint64), *(self._runs[place] for place in mine)])
            seen = self._run_seen[np.searchsorted(self._run_values, runs)]
            found[split] = Overlap(
                documents=len(mine),
                exact=int(self._exact[self._first[mine]].sum()),
                near=int(self._near[self._first[mine]].sum()),
                ngram_percent=round(100 * float(seen.mean()), 2) if len(seen) else 0.0,
                elsewhere=int(elsewhere[mine].sum()),
            )
        return found

    def _elsewhere(self, splits: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether another one of dev, hidden and test holds the text too, for each document."""
        count = np.zeros(len(splits), np.int64)
        for split in HELD_OUT:
            holds = np.zeros(len(splits), bool)
            holds[self._first[splits == split]] = True
            count += holds
        several: np.ndarray[Any, np.dtype[np.bool_]] = count[self._first] > 1
        return several


def overlap_warnings(overlap: Mapping[str, Overlap], rule: SplitRule) -> Iterator[str]:
    """What a person should know of the overlap of each held-out part, in sentences."""
    for name, item in overlap.items():
        if item.exact_percent >= NOTABLE_PERCENT:
            yield (
                f"{item.exact_percent:.0f} % of the documents of {name} stand word for word in train: the data repeat "
                "themselves, and are kept as they are; scores measure what is known as well as what is new"
            )
        if item.elsewhere_percent >= NOTABLE_PERCENT:
            yield f"{item.elsewhere_percent:.0f} % of the documents of {name} stand in another held-out part too"
        if item.changed_percent >= NOTABLE_PERCENT:
            yield (
                f"{item.changed_percent:.0f} % of the documents of {name} differ from one of train in a few words "
                '(duplicates = "near" in [data] would drop such copies)'
            )
        if rule is SplitRule.GROUP and item.ngram_percent >= NOTABLE_NGRAM_PERCENT:
            yield (
                f"{item.ngram_percent:.0f} % of the word 13-grams of {name} stand in train: documents overlap, and "
                "scores measure copying in part; group what belongs together (see max_overlap_percent in [data])"
            )


def _within(hashes: Hashes, ends: _Places, lengths: list[int], size: int) -> tuple[Hashes, _Places]:
    """Those runs of `size` words of a chain of documents that lie within one document, and which one that is."""
    owners = np.repeat(np.arange(len(lengths)), lengths)[: len(hashes)]
    inside = np.arange(len(hashes)) + size <= ends[owners]
    return hashes[inside], owners[inside]


class _Sieve:
    """Lets all members of a set of hashes through and few others, in one look per hash."""

    def __init__(self, members: Hashes) -> None:
        self._holes = np.zeros(1 << SIEVE_BITS, bool)
        self._holes[members >> np.uint64(64 - SIEVE_BITS)] = True

    def lets_pass(self, hashes: Hashes) -> np.ndarray[Any, np.dtype[np.bool_]]:
        passed: np.ndarray[Any, np.dtype[np.bool_]] = self._holes[hashes >> np.uint64(64 - SIEVE_BITS)]
        return passed

    def passed(self, hashes: Hashes) -> Hashes:
        passed: Hashes = hashes[self.lets_pass(hashes)]
        return passed


class _Lookup:
    """Finds the sets that may be near duplicates of a given one, by its rarest members.

    A set of n shingles that has Jaccard similarity s with another one shares at least s * n of them. So the shingles
    that occur nowhere and, beyond them, the rarest ones together need to be only a little more than (1 - s) * n: one
    of those must be shared (prefix filtering, Chaudhuri, Ganti and Kaushik 2006).
    """

    def __init__(self, sets: list[Hashes]) -> None:
        values = np.concatenate([np.empty(0, np.uint64), *sets])
        owners = np.repeat(np.arange(len(sets)), [len(members) for members in sets])
        order = np.argsort(values, kind="stable")
        self._values, self._owners = values[order], owners[order]
        self.sizes = np.array([len(members) for members in sets], np.int64)
        self.sieve = _Sieve(values)

    def shared(self, shingles: Hashes) -> _Places:
        """How many of `shingles` each set has; empty when there are no sets."""
        passed = self.sieve.passed(shingles)
        first = np.searchsorted(self._values, passed, "left")
        count = np.searchsorted(self._values, passed, "right") - first
        # The places first, first + 1, ... of every shingle, chained.
        steps = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        return np.bincount(self._owners[np.repeat(first, count) + steps], minlength=len(self.sizes))

    def candidates(self, shingles: Hashes, without: np.ndarray[Any, np.dtype[np.bool_]] | None = None) -> Iterator[int]:
        """Places of sets to compare with, at most MOST_COMPARED, those first that share most rare shingles."""
        needed = len(shingles) - int(np.ceil(NEAR * len(shingles))) + 1
        passed = self.sieve.passed(shingles)
        if len(shingles) - len(passed) >= needed or not len(passed):
            return
        first = np.searchsorted(self._values, passed, "left")
        count = np.searchsorted(self._values, passed, "right") - first
        there = count > 0
        absent = len(shingles) - int(there.sum())
        if absent >= needed:
            return
        rarest = np.argsort(count[there], kind="stable")[: needed - absent]
        starts, counts = first[there][rarest], count[there][rarest]
        found = np.concatenate([self._owners[start : start + size] for start, size in zip(starts, counts, strict=True)])
        if without is not None:
            found = found[~without[found]]
        places, shared = np.unique(found, return_counts=True)
        yield from places[np.argsort(-shared, kind="stable")][:MOST_COMPARED].tolist()
