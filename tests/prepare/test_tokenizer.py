"""The tokenizer: any text comes back, corpus text never becomes a special token, spans are cut before encoding."""

from __future__ import annotations

import random
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from toys import log_documents

from slm_ar.core.contracts import Span
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import tokenizer as tokenizer_module
from slm_ar.core.prepare.tokenizer import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    choose_split,
    cut_at_spans,
    encode_texts,
    load_tokenizer,
    train_tokenizer,
)


@cache
def trained(split: str, vocab_size: int = 400) -> Tokenizer:
    return train_tokenizer((document.text for document in log_documents(30)), vocab_size, split)


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    return str(tokenizer.decode(encode_texts(tokenizer, [[text]])[0], skip_special_tokens=False))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.mark.parametrize("split", ["words", "fields"])
@given(texts)
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_byte_for_byte(split: str, text: str) -> None:
    assert round_trip(trained(split), text) == text


@pytest.mark.parametrize("split", ["words", "fields"])
@pytest.mark.parametrize(
    "text", ["\x00\x01\x7f", "\r\n\r\n", "﻿x", "👩‍👩‍👧", "  a  ", "\t|\t", " | | ", "é", "\U0010ffff"]
)
def test_odd_texts_come_back(split: str, text: str) -> None:
    assert round_trip(trained(split), text) == text


@pytest.mark.parametrize("split", ["words", "fields"])
@pytest.mark.parametrize("literal", SPECIAL_TOKENS)
def test_the_name_of_a_special_token_in_text_stays_text(split: str, literal: str) -> None:
    tokenizer = trained(split)
    ids = encode_texts(tokenizer, [[f"a {literal} b"]])[0]
    assert not {BOS, EOS, PAD} & set(ids)
    assert round_trip(tokenizer, f"a {literal} b") == f"a {literal} b"


@pytest.mark.parametrize("split", ["words", "fields"])
def test_a_corpus_full_of_special_names_cannot_merge_into_one(split: str) -> None:
    """BPE gives a merge the id of an entry of the same name, so a frequent "<|bos|>" could become token 0."""
    pieces = [f"<|bos|> | <|eos|>\t<|pad|>\n{literal}\n" for literal in SPECIAL_TOKENS for _ in range(200)]
    tokenizer = train_tokenizer(iter(pieces), 600, split)
    for literal in SPECIAL_TOKENS:
        for text in (literal, f" | {literal}", f"\t{literal}", f"\n{literal}", f"{literal}{literal}"):
            ids = encode_texts(tokenizer, [[text]])[0]
            assert not {BOS, EOS, PAD} & set(ids), text
            assert round_trip(tokenizer, text) == text


def test_a_corpus_that_runs_out_of_merges_gives_the_actual_vocabulary() -> None:
    tokenizer = train_tokenizer(iter(["ab ab ab"]), 5000, "words")
    assert 259 < tokenizer.get_vocab_size() < 270
    assert max(encode_texts(tokenizer, [["ab zz é"]])[0]) < tokenizer.get_vocab_size()


def test_a_corpus_with_enough_merges_gives_the_asked_vocabulary() -> None:
    assert trained("words").get_vocab_size() == 400


def test_the_special_tokens_are_the_first_three_ids() -> None:
    vocabulary = trained("words").get_vocab()
    assert [vocabulary[name] for name in SPECIAL_TOKENS] == [BOS, EOS, PAD] == [0, 1, 2]


@pytest.mark.parametrize(("split", "mark"), [("words", ""), ("fields", " "), ("fields", "")])
def test_a_very_long_field_or_word_is_learned_in_pieces_and_encoded_whole(split: str, mark: str) -> None:
    """Uncut, each of these takes a quarter of a minute: the library's time grows with the square of the length."""
    pick = random.Random(1)
    text = mark.join("".join(pick.choices("abcdefgh", k=5)) for _ in range(40_000))
    begin = time.process_time()
    tokenizer = train_tokenizer(iter([text]), 400, split)
    assert time.process_time() - begin < 6
    assert tokenizer.get_vocab_size() == 400
    assert round_trip(tokenizer, text[:5000]) == text[:5000]
    assert "256" not in tokenizer.to_str().partition('"model"')[0], "how long a piece was learned from is not kept"


@pytest.mark.parametrize("split", ["words", "fields"])
def test_what_is_shorter_is_learned_from_as_it_is(split: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(split).to_str()
    monkeypatch.setattr(tokenizer_module, "LONGEST_LEARNED", 90_000)
    assert train_tokenizer((document.text for document in log_documents(30)), 400, split).to_str() == expected
    monkeypatch.setattr(tokenizer_module, "LONGEST_LEARNED", 2)
    assert train_tokenizer((document.text for document in log_documents(30)), 400, split).to_str() != expected


def test_merges_never_cross_a_field_separator() -> None:
    tokenizer = train_tokenizer(iter(["left | right\n" * 300]), 400, "fields")
    pieces = [tokenizer.decode([index]) for index in range(3, tokenizer.get_vocab_size())]
    assert not [piece for piece in pieces if " | " in piece[1:]]
    assert "left" in pieces


def test_text_is_encoded_piece_by_piece_at_span_edges() -> None:
    tokenizer = trained("fields")
    text = "12:00 | 504 | Harbour | late crew | 5 min\n"
    spans = (Span(text.index("ate"), text.index("ate") + 3, "task"),)
    pieces = cut_at_spans(text, spans)
    assert pieces == ["12:00 | 504 | Harbour | l", "ate", " crew | 5 min\n"]
    joined = encode_texts(tokenizer, [pieces])[0]
    assert joined == [token for piece in pieces for token in encode_texts(tokenizer, [[piece]])[0]]
    assert joined != encode_texts(tokenizer, [[text]])[0]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.data())
def test_pieces_between_spans_are_the_text(text: str, data: st.DataObject) -> None:
    edges = [0]
    for character in text:
        edges.append(edges[-1] + len(character.encode()))
    chosen = sorted(data.draw(st.sets(st.sampled_from(edges), max_size=6)))
    spans = tuple(Span(start, end, "t") for start, end in zip(chosen[::2], chosen[1::2], strict=False))
    pieces = cut_at_spans(text, spans)
    assert "".join(pieces) == text
    raw = text.encode()
    for span in spans:
        assert raw[span.start : span.end].decode() in pieces


def test_a_batch_encodes_each_document_as_if_it_were_alone() -> None:
    tokenizer = trained("words")
    documents = [["one"], ["two ", "three"], [""], ["four\n"]]
    assert encode_texts(tokenizer, documents) == [encode_texts(tokenizer, [pieces])[0] for pieces in documents]


def test_records_with_separators_are_fields_and_prose_is_words() -> None:
    assert choose_split(document.text for document in log_documents(5)) == "fields"
    assert choose_split(["a\tb\tc\n" * 10]) == "fields"
    assert choose_split(["It was a dark night. The wind blew.\n" * 10]) == "words"
    assert choose_split(["one | bar only\n" * 10]) == "words"
    assert choose_split([]) == "words"
    assert choose_split(["\n\n"]) == "words"


def test_a_damaged_tokenizer_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    for name in ("tokenizer.json", "missing.json"):
        with pytest.raises(DataError, match="cannot be read as a tokenizer") as error:
            load_tokenizer(tmp_path / name)
        assert "slm-ar prepare" in error.value.hint
