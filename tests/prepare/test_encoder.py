"""The fast encoder: the library's ids whatever the text, and a cache that does not grow without end."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from toys import log_documents

from slm_ar.core.prepare import encoder
from slm_ar.core.prepare.encoder import cut_fields, cut_words, encode_flat, encode_pieces
from slm_ar.core.prepare.tokenizer import SPECIAL_TOKENS, encode_texts, train_tokenizer

PROSE = (
    "Once upon a time, there was a little girl named Lily. She didn't like rain!\n\nHer mom said:  \"Let's go,\" "
    "and they'd gone by 10:30 (12345 steps).\n\tdef f(x):\n\t\treturn x  \n"
)
SPLITS = ("words", "fields", "bytes")


@cache
def trained(split: str) -> Tokenizer:
    texts = [document.text for document in log_documents(20)] + [PROSE] * 20
    return train_tokenizer(iter(texts), 500, split)


def library(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
# White space, separators and what may stand beside them decide where text may be cut.
edges = st.text("ab1.,'|\"é中́\n\r\t\x0b\x00\x1f\x7f\x85\xa0\u2003\u2028\u200b  ", max_size=40)
words = st.lists(
    st.sampled_from(
        [
            *SPECIAL_TOKENS, " ", "  ", "\n", "\n\n", " \n", "\r\n", "\t", " | ", "|", " |", "| ", "a", "Lily", "don't",
            "'S", "12345", "...", "!\n", "é", "\0", "x.", "“Hi”", " | | ", "\n  b", "\n\tb", "\n \n",
        ]
    ),
    max_size=20,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("split", SPLITS)
@given(any_text | edges | words)
@settings(max_examples=400, deadline=None)
def test_the_ids_are_those_of_the_library(split: str, text: str) -> None:
    tokenizer = trained(split)
    for _ in range(2):  # the second time from the cache
        assert encode_texts(tokenizer, [[text]]) == [library(tokenizer, text)]


@pytest.mark.parametrize("split", SPLITS)
@given(st.lists(st.lists(words, max_size=3), max_size=4))
@settings(max_examples=60, deadline=None)
def test_documents_in_pieces_are_encoded_piece_by_piece(split: str, documents: list[list[str]]) -> None:
    tokenizer = trained(split)
    expected = [[token for piece in pieces for token in library(tokenizer, piece)] for pieces in documents]
    assert [ids.tolist() for ids in encode_pieces(tokenizer, documents)] == expected


@pytest.mark.parametrize("split", ["words", "fields"])
def test_longer_texts_of_every_kind(split: str) -> None:
    texts = [PROSE * 5, PROSE.replace(" ", "  "), "".join(d.text for d in log_documents(3)), " " * 50 + "x", "\n" * 9]
    tokenizer = trained(split)
    assert encode_texts(tokenizer, [[text] for text in texts]) == [library(tokenizer, text) for text in texts]


@cache
def merging_across_blanks() -> Tokenizer:
    """A vocabulary full of merges that cross blanks inside a field."""
    pieces = [
        "10:2 4 a 1 ba | 11 ba 2 | a 1\n",
        "b 1 b 2 12 | 22 1a\t12 a\n",
        "é 1 é 2 | 12 é\n",
        "124 | 241 | 1 2 4\n",
    ]
    return train_tokenizer(iter(pieces * 50), 350, "fields")


@given(st.text("1124   abé|:\n", max_size=40))
@settings(max_examples=800, deadline=None)
def test_merges_across_blanks_are_those_of_the_library(text: str) -> None:
    tokenizer = merging_across_blanks()
    assert encode_texts(tokenizer, [[text]]) == [library(tokenizer, text)]


@given(any_text | edges | words)
@settings(max_examples=200, deadline=None)
def test_cutting_loses_nothing(text: str) -> None:
    for cut in (cut_fields, cut_words):
        pieces = cut(text)
        assert "".join(pieces) == text
        assert all(pieces)


def test_text_is_cut_where_it_pays() -> None:
    assert cut_words("The cat's 2024.\n  It") == ["The", " cat", "'s", " ", "202", "4", ".\n", " ", " It"]
    assert cut_words("so the café was “here” and gone") == ["so", " the", " café was", " “here” and", " gone"]
    assert cut_words("é") == ["é"] and cut_words("a  é b c") == ["a", "  é b", " c"]
    assert cut_fields("a | b c\td\n\ne") == ["a", " | b c", "\td", "\n", "\ne"]


def test_our_tokenizers_are_recognised_and_others_are_left_to_the_library() -> None:
    """A silent fallback would cost the speed, a wrong recognition the equality."""
    kinds = [type(encoder._encoder_for(trained(split))).__name__ for split in SPLITS]
    assert kinds == ["PieceEncoder", "PieceEncoder", "ByteEncoder"]
    facts = json.loads(trained("words").to_str())
    changed = [
        {**facts, "normalizer": {"type": "Lowercase"}},
        {**facts, "pre_tokenizer": {"type": "Whitespace"}},
        {**facts, "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}},
        {**facts, "model": {**facts["model"], "ignore_merges": True}},
    ]
    for other in changed:
        tokenizer = Tokenizer.from_str(json.dumps(other))
        assert encoder._encoder_for(tokenizer) is None
        text = "The CAT didn't sleep"
        assert encode_flat(tokenizer, [text])[0].tolist() == library(tokenizer, text)


def test_two_tokenizers_do_not_share_a_cache() -> None:
    other = train_tokenizer(iter([PROSE] * 20), 300, "words")
    for tokenizer in (trained("words"), other, trained("words")):
        assert encode_texts(tokenizer, [[PROSE]]) == [library(tokenizer, PROSE)]


def test_the_cache_is_emptied_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "CACHE_BYTES", 5000)
    tokenizer = train_tokenizer(iter([PROSE] * 20), 300, "words")
    found = encoder._encoder_for(tokenizer)
    assert isinstance(found, encoder.PieceEncoder)
    for number in range(60):
        text = " ".join(f"word{number}x{index}" for index in range(10))
        assert [ids.tolist() for ids in found.encode([text])] == [library(tokenizer, text)]
        assert len(found._known) <= 40


def test_ids_of_bytes_are_in_the_vocabulary_and_come_back() -> None:
    tokenizer = trained("bytes")
    assert tokenizer.get_vocab_size() == 259
    text = "".join(map(chr, range(0x0, 0x800)))
    ids = encode_flat(tokenizer, [text])[0]
    assert len(ids) == len(text.encode())
    assert ids.min() >= len(SPECIAL_TOKENS) and ids.max() < 259
    assert ids.dtype == np.uint32
    assert tokenizer.decode(ids.tolist(), skip_special_tokens=False) == text
