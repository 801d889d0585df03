"""[[data.extra]]: auxiliary text joins train, in the stated amount, and never brings in what is held out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import ToyAdapter, log_documents, toy_recipe_text

from slm_ar.core.contracts import Document
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import extra, pipeline
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import PreparedData, prepare
from slm_ar.core.prepare.shards import BYTES_FILE, OFFSETS_FILE, TOKENS_FILE
from slm_ar.core.prepare.tokenizer import load_tokenizer
from slm_ar.core.recipe import parse_recipe

HELD = ("mix", "dev", "hidden", "test")
NOTES = [
    f"Note {number}: the depot keeps {number * 7 % 31} buses and {number * 5 % 17} vans ready.\n"
    for number in range(40)
]


@pytest.fixture(autouse=True)
def no_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


def prepared(tmp_path: Path, texts: list[str] | None, weight: float = 1, **data: Any) -> PreparedData:
    """The toy corpus with `texts` as auxiliary lines beside it, named relative to the workspace."""
    workspace = tmp_path / "workspace"
    (workspace / "notes").mkdir(parents=True, exist_ok=True)
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    (source / "days.txt").write_text("day\n", encoding="utf-8")
    text = toy_recipe_text(data=data)
    if texts is not None:
        (workspace / "notes" / "notes.txt").write_text("\n".join(texts), encoding="utf-8")
        table = (
            f'[[data.extra]]\nadapter = "text"\nsource = "notes"\nweight = {weight}\noptions = {{ unit = "block" }}\n'
        )
        text += table
    return prepare(
        parse_recipe(text, "toy"), ToyAdapter(log_documents(60)), source, workspace / ".slm" / "data", lambda line: None
    )


def train_texts(data: PreparedData) -> list[str]:
    tokens = np.fromfile(data.folder / TOKENS_FILE, data.manifest.token_dtype)
    offsets = np.fromfile(data.folder / OFFSETS_FILE, "<i8")
    tokenizer = load_tokenizer(data.folder / pipeline.TOKENIZER_FILE)
    return [
        tokenizer.decode(tokens[start + 1 : end - 1].tolist(), skip_special_tokens=False)
        for start, end in pairwise(offsets)
    ]


def test_auxiliary_text_stands_in_train_alone(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", None)
    data = prepared(tmp_path / "more", NOTES)
    assert train_texts(data) == [*train_texts(plain), *NOTES]
    assert data.manifest.held_digest == plain.manifest.held_digest, "the same campaign: the held-out parts are equal"
    assert data.manifest.splits == plain.manifest.splits
    (size,) = data.manifest.extra
    assert (size.adapter, size.documents, size.repeated, size.held_out) == ("text", 40, 0, 0)
    assert size.byte_count == sum(len(note.encode()) for note in NOTES)
    sizes = np.fromfile(data.folder / BYTES_FILE, "<i8")
    assert sizes.sum() == data.manifest.splits["train"].byte_count + size.byte_count
    assert data.manifest.bytes_per_token == pytest.approx(sizes.sum() / data.manifest.train_tokens, abs=1e-3)


def test_a_whole_weight_repeats(tmp_path: Path) -> None:
    data = prepared(tmp_path, NOTES, weight=3)
    assert train_texts(data)[-120:] == NOTES * 3
    assert (data.manifest.extra[0].documents, data.manifest.extra[0].weight) == (40, 3)


def test_a_weight_below_one_is_a_share(tmp_path: Path) -> None:
    notes = [f"{note[:-1]} Number {copy}.\n" for note in NOTES for copy in range(10)]
    (size,) = prepared(tmp_path, notes, weight=0.25).manifest.extra
    assert size.documents + size.sampled_out == 400
    assert 60 < size.documents < 140


def test_what_is_held_out_never_comes_in_by_this_door(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", None)
    held = [item.document.text for name in HELD for item in read_split(plain.held_folder, name)]
    nearly = [text.replace("day ", "On day ", 1) for text in held]
    data = prepared(tmp_path / "more", [*held, *nearly, *NOTES])
    (size,) = data.manifest.extra
    assert (size.held_out, size.documents) == (2 * len(held), 40)
    assert not set(train_texts(data)) & {*held, *nearly}


def test_documents_cut_in_another_way_bring_nothing_in_that_is_held_out(tmp_path: Path) -> None:
    """Held out are days; the auxiliary documents are weeks of such days, or single lines of them."""
    plain = prepared(tmp_path / "plain", None)
    held = [item.document.text for name in HELD for item in read_split(plain.held_folder, name)]
    weeks = ["".join([*NOTES[7 * n : 7 * n + 3], held[n], *NOTES[7 * n + 3 : 7 * n + 7]]) for n in range(5)]
    lines = [text.split("\n")[3] + "\n" for text in held]
    data = prepared(tmp_path / "more", [*weeks, *lines, *NOTES])
    assert (data.manifest.extra[0].held_out, data.manifest.extra[0].documents) == (5 + len(lines), 40)
    assert data.manifest.overlap["test"].ngram_percent == plain.manifest.overlap["test"].ngram_percent


def test_the_overlap_counts_auxiliary_text(tmp_path: Path) -> None:
    """Half of a held-out day may come in, and the report says so."""
    plain = prepared(tmp_path / "plain", None)
    (held, *_) = [item.document.text for item in read_split(plain.held_folder, "test")]
    half = held[: len(held) // 2] + "".join(NOTES[:30])
    data = prepared(tmp_path / "more", [half])
    assert data.manifest.extra[0].documents == 1
    assert data.manifest.overlap["test"].ngram_percent > plain.manifest.overlap["test"].ngram_percent + 2


@pytest.mark.parametrize("rule", ["group", "time"])
def test_documents_of_held_out_groups_and_times_stay_out(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The auxiliary text comes through the adapter of the corpus, so its groups are the same ones."""
    plain = prepared(tmp_path / "plain", None, split=rule)
    held = {item.document.group for name in HELD for item in read_split(plain.held_folder, name)}
    groups = {document.group: document.time for document in log_documents(60)}
    remarks = [
        Document(f"remark {group}", f"Remark on {group}. {note}", group, time)
        for (group, time), note in zip(groups.items(), NOTES + NOTES, strict=False)
    ]
    late = Document("late", "A remark of another group: the depot closes for good after all.\n", "new", "2031-01-01")
    monkeypatch.setattr(extra, "load_adapter", lambda name, base: ToyAdapter([*remarks, late]))
    data = prepared(tmp_path / "more", NOTES, split=rule)
    came = [text for text in train_texts(data) if "emark" in text]
    assert not [text for text in came for group in held if f"Remark on {group}." in text]
    assert len(came) == 60 - len(held) + (rule == "group")
    assert data.manifest.extra[0].held_out == len(held) + (rule == "time")


def test_groups_of_another_adapter_mean_something_else() -> None:
    groups = extra.HeldGroups("toy", frozenset(["day 1"]), "2024-03-01")
    assert groups.hold(Document("d", "text", "day 1", "2024-01-01"), "toy")
    assert not groups.hold(Document("d", "text", "day 1", "2024-01-01"), "text")
    assert groups.hold(Document("d", "text", "day 9", "2024-03-01 07:00"), "text"), "but days are days"
    assert not groups.hold(Document("d", "text", "day 9", "W99"), "text")
    assert not groups.hold(Document("d", "text", "day 9"), "toy")


def test_copies_of_train_and_of_each_other_are_dropped(tmp_path: Path) -> None:
    plain = prepared(tmp_path / "plain", None)
    data = prepared(tmp_path / "more", [*train_texts(plain), *NOTES, *NOTES])
    (size,) = data.manifest.extra
    assert (size.repeated, size.documents) == (len(train_texts(plain)) + 40, 40)


def test_train_stays_below_its_cap(tmp_path: Path) -> None:
    data = prepared(tmp_path, NOTES, weight=2, max_train_mb=0.036)
    (size,) = data.manifest.extra
    assert size.is_cut and 0 < size.documents < 40
    assert np.fromfile(data.folder / BYTES_FILE, "<i8").sum() <= 36_000
    assert any("auxiliary text from notes was cut" in line for line in data.manifest.warnings)


def test_another_auxiliary_text_is_another_key(tmp_path: Path) -> None:
    first = prepared(tmp_path, NOTES)
    assert prepared(tmp_path, NOTES).manifest.key == first.manifest.key
    assert prepared(tmp_path, NOTES[:-1]).manifest.key != first.manifest.key
    assert prepared(tmp_path, NOTES, weight=2).manifest.key != first.manifest.key


def test_a_missing_auxiliary_source_is_named_with_its_table(tmp_path: Path) -> None:
    prepared(tmp_path, NOTES)
    (tmp_path / "workspace" / "notes" / "notes.txt").unlink()
    (tmp_path / "workspace" / "notes").rmdir()
    recipe = parse_recipe(toy_recipe_text() + '[[data.extra]]\nadapter = "text"\nsource = "notes"\n', "toy")
    root = tmp_path / "workspace" / ".slm" / "data"
    with pytest.raises(DataError, match="does not exist") as error:
        prepare(recipe, ToyAdapter(log_documents(60)), tmp_path / "source", root, lambda line: None)
    assert "[[data.extra]]" in error.value.hint
