"""Which documents stand in train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toys import log_documents

from slm_ar.core.prepare.heldout import HeldDocument, read_split, text_digest, texts_digest
from slm_ar.core.prepare.known import differences, held_digests, train_digests
from slm_ar.core.prepare.manifest import MANIFEST_FILE, TOKENIZER_FILE, PreparedData
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


def test_near_copies_of_train_and_new_values_are_told(tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.core.prepare.drift.FEWEST_VALUES", 20)
    tokenizer = load_tokenizer(tiny_data.folder / TOKENIZER_FILE)
    digests = train_digests(tiny_data)
    learned = []
    for document in log_documents(140):
        if digests.holds(encode_texts(tokenizer, [cut_at_spans(document.text, document.spans)])[0]):
            learned.append(document)
    copies = [replace(document, text=f"{document.text}one more line at its end\n") for document in learned[:3]]
    (told,) = differences(tiny_data, tokenizer, [HeldDocument(each, {}) for each in copies])
    assert told.startswith("3 of them stand in train with a few words changed")
    other = [replace(document, text=document.text.replace(" | ", " | new ")) for document in log_documents(200)[140:]]
    found = differences(tiny_data, tokenizer, [HeldDocument(each, {}) for each in other])
    assert found and all("values that train never shows are 100% in the new data" in line for line in found)
    unseen = [HeldDocument(each, {}) for each in log_documents(200)[140:]]
    assert not any("values that train never shows" in line for line in differences(tiny_data, tokenizer, unseen))


def test_the_same_texts_have_the_same_digest_under_other_names(tiny_data: PreparedData, tmp_path: Path) -> None:
    lines = (tiny_data.held_folder / "hidden.jsonl").read_text(encoding="utf-8").splitlines()
    renamed = [json.dumps({**json.loads(line), "id": f"copy:{number}"}) for number, line in enumerate(lines)]
    (tmp_path / "hidden.jsonl").write_text("\n".join(reversed(renamed)) + "\n", encoding="utf-8")
    assert len(lines) > 1
    assert texts_digest(tmp_path, "hidden") == texts_digest(tiny_data.held_folder, "hidden")
    (tmp_path / "hidden.jsonl").write_text("\n".join(renamed[1:]) + "\n", encoding="utf-8")
    assert texts_digest(tmp_path, "hidden") != texts_digest(tiny_data.held_folder, "hidden")


def test_everything_held_out_of_every_preparation_is_known(
    tiny_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLM_AR_PRIVATE", str(tiny_data.held_folder.parents[1]))
    digests = held_digests(tiny_data.folder.parent)
    parts = ("mix", "dev", "hidden", "test")
    texts = {item.document.text for part in parts for item in read_split(tiny_data.held_folder, part)}
    assert digests == {text_digest(text) for text in texts} and texts
    # An older format counts too; a damaged manifest and a private part that is gone hold nothing.
    manifests = {"old": {"held_digest": tiny_data.manifest.held_digest}, "gone": {"held_digest": "0" * 16}, "bad": []}
    for name, facts in manifests.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST_FILE).write_text(json.dumps(facts))
    assert held_digests(tmp_path) == digests
    assert held_digests(tmp_path / "nowhere") == frozenset()
