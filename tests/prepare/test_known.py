"""Which documents stand in train."""

from __future__ import annotations

from toys import log_documents

from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.known import train_digests
from slm_ar.core.prepare.manifest import TOKENIZER_FILE, PreparedData
from slm_ar.core.prepare.tokenizer import cut_at_spans, encode_texts, load_tokenizer


def test_train_is_known_and_nothing_else(tiny_data: PreparedData) -> None:
    tokenizer = load_tokenizer(tiny_data.folder / TOKENIZER_FILE)
    digests = train_digests(tiny_data)
    parts = ("mix", "dev", "hidden", "test")
    held = {item.document.id for part in parts for item in read_split(tiny_data.held_folder, part)}
    known = 0
    for document in log_documents(140):
        ids = encode_texts(tokenizer, [cut_at_spans(document.text, document.spans)])[0]
        known += digests.holds(ids)
        assert digests.holds(ids) == (document.id not in held)
        assert not digests.holds([*ids, ids[-1]])
    assert known == tiny_data.manifest.splits["train"].documents > 0
    assert not digests.holds([])
