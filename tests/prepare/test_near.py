"""Near duplicates: found when they are, never claimed when they are not, and the same every time."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.prepare import near
from slm_ar.core.prepare.near import (
    NEAR,
    WordHasher,
    find_near_duplicates,
    jaccard,
    ngrams,
    normalised_digest,
    shingles_of,
    words_of,
)


def story(seed: int, words: int = 120) -> list[str]:
    pick = random.Random(f"story {seed}")
    return ["".join(pick.choices("abcdefghij", k=4)) for _ in range(words)]


def changed(words: list[str], places: list[int]) -> list[str]:
    return ["other" if place in places else word for place, word in enumerate(words)]


def found(texts: list[str], scratch: Path) -> list[int]:
    return find_near_duplicates(iter(texts), texts.__getitem__, scratch)


def true_jaccard(first: str, second: str) -> float:
    """The definition, on the words themselves."""

    def shingles(text: str) -> set[tuple[str, ...]]:
        words = words_of(text)
        size = min(5, len(words))
        return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)} if words else set()

    one, two = shingles(first), shingles(second)
    return len(one & two) / len(one | two) if one and two else 0.0


def test_a_copy_with_a_few_other_words_is_found_and_points_back_only(tmp_path: Path) -> None:
    texts = [" ".join(story(number)) for number in range(60)]
    texts.append(" ".join(changed(story(7), [50])))
    texts.append(" ".join(story(20)).upper().replace(" ", ",\n"))
    texts.append(" ".join(changed(story(3), list(range(0, 120, 6)))))  # a sixth of the words: not nearly the same
    assert found(texts, tmp_path) == [60, 61]
    assert list(tmp_path.iterdir()) == []


def test_a_chain_of_small_changes_is_measured_against_what_is_kept(tmp_path: Path) -> None:
    """Every link is close to the one before; what is dropped must be close to a document that stays."""
    texts = [" ".join(changed(story(1), list(range(0, 4 * step, 4)))) for step in range(12)]
    dropped = found(texts, tmp_path)
    kept = [number for number in range(len(texts)) if number not in dropped]
    assert dropped and len(kept) > 1
    for number in dropped:
        assert max(true_jaccard(texts[number], texts[other]) for other in kept if other < number) >= NEAR


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=14).map(" ".join), max_size=25))
@settings(max_examples=100, deadline=None)
def test_nothing_is_dropped_without_a_near_document_before_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    dropped = found(texts, tmp_path_factory.mktemp("near"))
    kept = [number for number in range(len(texts)) if number not in dropped]
    for number in dropped:
        assert any(true_jaccard(texts[number], texts[other]) >= NEAR for other in kept if other < number)
    # Equal texts share every band, so of these none is overlooked.
    for number in kept:
        if words_of(texts[number]):
            assert all(words_of(texts[other]) != words_of(texts[number]) for other in kept if other < number)


def test_most_pairs_at_the_limit_are_found(tmp_path: Path) -> None:
    texts = []
    for number in range(150):
        words = story(number, 200)
        texts += [" ".join(words), " ".join(changed(words, [20, 60, 100, 140]))]  # 196 shingles, 20 of them changed
    pairs = {2 * number + 1 for number in range(150)}
    dropped = set(found(texts, tmp_path))
    assert dropped <= pairs
    assert len(dropped) >= 0.97 * len(pairs)


def test_documents_that_are_all_alike_take_linear_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = near.jaccard
    monkeypatch.setattr(near, "jaccard", lambda one, two: compared.append(1) or real(one, two))
    texts = [" ".join([*story(0), f"row{number}"]) for number in range(300)]
    assert found(texts, tmp_path) == list(range(1, 300))
    assert len(compared) <= 300 * near.CANDIDATES


def test_texts_without_words_are_never_near_each_other(tmp_path: Path) -> None:
    assert found(["...", "!!!", "...", "", "  "], tmp_path) == []
    assert found([], tmp_path) == []


@given(st.text("ab c", max_size=40), st.text("ab c", max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_hashed_similarity_is_the_true_one(first: str, second: str) -> None:
    hasher = WordHasher()
    one, two = (shingles_of(hasher.words(text)) for text in (first, second))
    expected = true_jaccard(first, second)
    # Below the limit the comparison may stop early with 0.
    assert jaccard(one, two) == pytest.approx(expected) or (expected < NEAR and jaccard(one, two) == 0)


def test_normalised_keys_ignore_case_blanks_and_punctuation_and_no_digits() -> None:
    assert normalised_digest("Hello,  World\n") == normalised_digest("hello world")
    assert normalised_digest("platform 3") != normalised_digest("platform 4")
    assert normalised_digest("...") != normalised_digest("!!!")
    assert normalised_digest("...") == normalised_digest(" ...\n")


def test_hashes_are_the_same_on_every_machine_and_after_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = WordHasher()
    first = ngrams(hasher.words("one two three four five six"), 5)
    assert first.tolist() == EXPECTED_HASHES
    monkeypatch.setattr(near, "WORDS_REMEMBERED", 2)
    assert np.array_equal(ngrams(hasher.words("one two three four five six"), 5), first)


EXPECTED_HASHES = [13223946704541316912, 388394992586564124]


@given(st.text(st.characters(max_codepoint=300), max_size=40))
@settings(max_examples=200, deadline=None)
def test_words_are_the_same_by_either_way(text: str) -> None:
    assert words_of(text) == re.findall(r"\w+", text.casefold())
