"""prepare: what it promises about duplicates, leaks, privacy and repetition, on a corpus of a few kilobytes."""

from __future__ import annotations

import inspect
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from toys import ToyAdapter, log_documents, toy_recipe

from slm_ar.core.contracts import Document, DuplicatePolicy, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import pipeline
from slm_ar.core.prepare.heldout import HeldDocument, from_json, private_root, read_split, to_json
from slm_ar.core.prepare.inputs import input_key
from slm_ar.core.prepare.pipeline import PreparedData, newest_prepared, open_prepared, prepare
from slm_ar.core.prepare.shards import BYTES_FILE, OFFSETS_FILE, TOKENS_FILE, token_dtype
from slm_ar.core.prepare.tokenizer import BOS, EOS, load_tokenizer
from slm_ar.core.recipe import ExtraTable, Recipe

pytestmark = pytest.mark.usefixtures("no_floors")

HELD = ("mix", "dev", "hidden", "test")


def prepared(
    source: Path, documents: list[Document], recipe: Recipe | None = None, duplicates: str = "exact"
) -> PreparedData:
    adapter = ToyAdapter(documents)
    adapter.duplicates = DuplicatePolicy(duplicates)  # type: ignore[misc]
    return prepare(recipe or toy_recipe(), adapter, source, workspace_data(source), lambda line: None)


def workspace_data(source: Path) -> Path:
    return source.parent / "workspace" / ".slm" / "data"


def held(data: PreparedData, split: str) -> list[HeldDocument]:
    return list(read_split(data.held_folder, split))


def train_documents(data: PreparedData) -> list[str]:
    """The documents in the shards, decoded."""
    tokens = np.fromfile(data.folder / TOKENS_FILE, data.manifest.token_dtype)
    offsets = np.fromfile(data.folder / OFFSETS_FILE, "<i8")
    tokenizer = load_tokenizer(data.folder / pipeline.TOKENIZER_FILE)
    texts = []
    for start, end in pairwise(offsets):
        assert tokens[start] == BOS
        assert tokens[end - 1] == EOS
        inside = tokens[start + 1 : end - 1].tolist()
        assert not {BOS, EOS} & set(inside)
        texts.append(tokenizer.decode(inside, skip_special_tokens=False))
    assert offsets[-1] == len(tokens) == data.manifest.train_tokens
    return texts


def test_the_shards_hold_exactly_the_train_documents_in_order(source: Path) -> None:
    documents = log_documents(60)
    data = prepared(source, documents)
    outside = {item.document.id for split in HELD for item in held(data, split)}
    expected = [document.text for document in documents if document.id not in outside]
    assert train_documents(data) == expected
    sizes = np.fromfile(data.folder / BYTES_FILE, "<i8")
    assert sizes.tolist() == [len(text.encode()) for text in expected]
    assert sizes.sum() == data.manifest.splits["train"].byte_count


def test_every_document_is_in_exactly_one_split_and_is_kept_as_it_was(source: Path) -> None:
    documents = log_documents(60)
    data = prepared(source, documents)
    private = [item.document for split in HELD for item in held(data, split)]
    assert len(private) + len(train_documents(data)) == 60
    assert {document.id: document for document in private}.items() <= {d.id: d for d in documents}.items()
    sizes = data.manifest.splits
    assert sum(size.documents for size in sizes.values()) == 60
    assert sum(size.byte_count for size in sizes.values()) == sum(len(d.text.encode()) for d in documents)
    assert sum(size.groups for size in sizes.values()) == 60
    assert sum(size.record_count for size in sizes.values()) == 60 * 21


def test_duplicates_are_dropped_before_the_split_so_none_can_straddle_it(source: Path) -> None:
    originals = log_documents(60)
    copies = [replace(d, id=f"copy of {d.id}", group=f"copy {d.group}") for d in originals[40:]]
    third = [replace(copy, id=f"third {copy.id}", group=f"third {copy.group}") for copy in copies]
    data = prepared(source, [*originals, *copies, *third], toy_recipe(data={"split": "group"}))
    assert data.manifest.duplicates_dropped == 40
    assert sum(size.documents for size in data.manifest.splits.values()) == 60
    texts = train_documents(data)
    assert not {item.document.text for split in HELD for item in held(data, split)} & set(texts)


def test_a_text_that_differs_only_at_its_blank_end_is_a_duplicate(source: Path) -> None:
    documents = log_documents(60)
    data = prepared(source, [*documents, replace(documents[0], id="again", text=documents[0].text + "\n \n")])
    assert data.manifest.duplicates_dropped == 1


@pytest.mark.parametrize("policy", ["exact", "report"])
def test_by_time_a_text_that_comes_back_in_another_period_stays_and_is_told(source: Path, policy: str) -> None:
    originals = log_documents(60)
    back = replace(originals[-1], id="the same again", group="an old group", time="2020-01-01")
    twice = replace(originals[-1], id="read twice")
    data = prepared(source, [*originals, back, twice], duplicates=policy)
    kept = 62 if policy == "report" else 61
    assert sum(size.documents for size in data.manifest.splits.values()) == kept, "exact drops it in one period"
    assert (data.manifest.duplicates_dropped, data.manifest.duplicates_kept) == (62 - kept, kept - 60)
    found = data.manifest.overlap["test"]
    assert (found.exact, found.near) == (kept - 60, kept - 60)
    (line,) = [line for line in data.manifest.warnings if "of test stand word for word in train" in line]
    assert "repeat themselves" in line


def test_kept_duplicates_are_dealt_together_when_groups_are_dealt_by_hash(source: Path) -> None:
    originals = log_documents(60)
    copies = [replace(d, id=f"copy of {d.id}", group=f"copy {d.group}") for d in originals]
    data = prepared(source, [*originals, *copies], toy_recipe(data={"split": "group"}), duplicates="report")
    assert (data.manifest.duplicates_dropped, data.manifest.duplicates_kept) == (0, 60)
    assert sum(size.documents for size in data.manifest.splits.values()) == 120
    assert sum(size.groups for size in data.manifest.splits.values()) == 60
    assert {(item.exact, item.elsewhere) for item in data.manifest.overlap.values()} == {(0, 0)}
    assert {item.document.group for item in held(data, "dev")} < {document.group for document in originals}


def test_kept_duplicates_inside_train_are_counted(source: Path) -> None:
    originals = log_documents(60)
    again = replace(originals[0], id="again", group="old", time="2020-01-01")
    data = prepared(source, [*originals, again], duplicates="report")
    assert (data.manifest.duplicates_dropped, data.manifest.duplicates_kept) == (0, 1)
    assert data.manifest.splits["train"].documents + data.manifest.splits["mix"].documents >= 40


def test_the_tokenizer_saw_train_only(source: Path) -> None:
    """A word that stands hundreds of times in the newest days, and only there, must not have become a token."""
    documents = log_documents(60)
    marked = [replace(d, text=d.text + "Qwyjibo " * 25 + f"{d.id}\n", spans=()) for d in documents[-12:]]
    data = prepared(source, [*documents[:-12], *marked], toy_recipe(tokenizer={"vocab_size": 1000}))
    assert all("Qwyjibo" not in text for text in train_documents(data))
    assert any("Qwyjibo" in item.document.text for item in held(data, "hidden"))
    vocabulary = load_tokenizer(data.folder / pipeline.TOKENIZER_FILE).get_vocab()
    assert not [token for token in vocabulary if "wy" in token or "jib" in token]


def test_equal_inputs_touch_nothing(source: Path) -> None:
    first = prepared(source, log_documents(60))
    before = snapshot(source.parent) | snapshot(private_root())
    second = prepared(source, log_documents(60))
    assert second == first
    assert snapshot(source.parent) | snapshot(private_root()) == before


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [folder, *folder.rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in paths}


def test_a_changed_source_gets_another_key_and_the_old_data_stay(source: Path) -> None:
    first = prepared(source, log_documents(60))
    (source / "days.txt").write_text("another day\n", encoding="utf-8")
    second = prepared(source, log_documents(61))
    assert second.manifest.key != first.manifest.key
    assert second.digest != first.digest
    assert open_prepared(workspace_data(source), first.manifest.key) == first
    assert newest_prepared(workspace_data(source)) == second


@pytest.mark.parametrize(
    "change", [{"tokenizer": {"vocab_size": 300}}, {"data": {"dev_kb": 1}}, {"data": {"mix_percent": 1.0}}]
)
def test_a_changed_recipe_gets_another_key(source: Path, change: dict[str, dict[str, float]]) -> None:
    first = prepared(source, log_documents(60))
    assert prepared(source, log_documents(60), toy_recipe(**change)).manifest.key != first.manifest.key


def test_an_edited_adapter_of_ones_own_gets_another_key(source: Path) -> None:
    """Nobody raises the version of an adapter while it is being written."""
    workspace = workspace_data(source).parents[1]
    workspace.mkdir()
    code = workspace / "mine.py"
    recipe = toy_recipe(data={"adapter": "./mine.py:Mine"})
    code.write_text("# first\n", encoding="utf-8")
    first = prepared(source, log_documents(60), recipe)
    assert prepared(source, log_documents(60), recipe) == first
    code.write_text("# second\n", encoding="utf-8")
    assert prepared(source, log_documents(60), recipe).manifest.key != first.manifest.key


def test_an_edited_adapter_of_extra_data_gets_another_key(source: Path, tmp_path: Path) -> None:
    code = Path(inspect.getfile(ToyAdapter))
    own = tmp_path / "extra_toys.py"
    own.write_text(code.read_text(encoding="utf-8"), encoding="utf-8")
    recipe = toy_recipe()
    table = {"adapter": f"{own}:ToyAdapter", "source": str(source)}
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"extra": (ExtraTable(**table),)})})
    keys = set()
    for _ in range(2):
        keys.add(input_key(recipe, ToyAdapter([]), source, tmp_path))
        own.write_text(own.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert len(keys) == 2


@pytest.mark.parametrize("method", ["documents", "slices"])
def test_a_mistake_of_the_adapter_is_told_as_its_own(source: Path, method: str) -> None:
    class Mistaken(ToyAdapter):
        def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
            for number, document in enumerate(super().documents(source, options)):
                yield document if method == "slices" or number < 5 else {}["no such field"]

        def slices(self, document: Document) -> dict[str, str]:
            return {"weekday": "Mon"} if method == "documents" else {}["no such field"]

    with pytest.raises(DataError, match=r"the adapter 'toy' failed at .*test_pipeline\.py:\d+: KeyError") as caught:
        prepare(toy_recipe(), Mistaken(log_documents(60)), source, workspace_data(source), lambda line: None)
    assert isinstance(caught.value.__cause__, KeyError)
    assert not list(workspace_data(source).iterdir())


def test_what_concerns_training_alone_keeps_the_key(source: Path) -> None:
    first = prepared(source, log_documents(60))
    other = toy_recipe(budget={"steps": 99}, gate={"alpha": 0.01})
    assert prepared(source, log_documents(60), other).manifest.key == first.manifest.key


def test_the_same_documents_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    first = prepared(source, log_documents(60))
    again = prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, tmp_path / "elsewhere", lambda line: None)
    assert again.digest == first.digest
    for name in (TOKENS_FILE, OFFSETS_FILE, BYTES_FILE, pipeline.TOKENIZER_FILE):
        assert (again.folder / name).read_bytes() == (first.folder / name).read_bytes()


@pytest.mark.parametrize("damage", ["garbage", "empty", "unknown key", "cut tokens", "no tokens"])
def test_damaged_or_older_prepared_data_are_made_again(source: Path, damage: str) -> None:
    first = prepared(source, log_documents(60))
    manifest, tokens = first.folder / pipeline.MANIFEST_FILE, first.folder / TOKENS_FILE
    good = manifest.read_text(encoding="utf-8")
    if damage == "garbage":
        manifest.write_text("{", encoding="utf-8")
    elif damage == "empty":
        manifest.write_text("", encoding="utf-8")
    elif damage == "unknown key":
        manifest.write_text(json.dumps({**json.loads(good), "from the future": 1}), encoding="utf-8")
    elif damage == "cut tokens":
        tokens.write_bytes(tokens.read_bytes()[:-2])
    else:
        tokens.unlink()
    assert open_prepared(workspace_data(source), first.manifest.key) is None
    assert prepared(source, log_documents(60)) == first
    assert manifest.read_text(encoding="utf-8") == good


@pytest.mark.parametrize("split", HELD)
@pytest.mark.parametrize("damage", ["deleted", "cut", "edited"])
def test_a_damaged_private_part_is_made_again(source: Path, split: str, damage: str) -> None:
    first = prepared(source, log_documents(60))
    path = first.held_folder / f"{split}.jsonl"
    good = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(good[: len(good) // 2])
    else:
        path.write_bytes(good.replace(b"day", b"dav"))
    assert prepared(source, log_documents(60)) == first
    assert path.read_bytes() == good


def test_an_interrupted_prepare_leaves_nothing_and_is_begun_anew(source: Path) -> None:
    class Interrupted(ToyAdapter):
        def slices(self, document: Document) -> dict[str, str]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(toy_recipe(), Interrupted(log_documents(60)), source, workspace_data(source), lambda line: None)
    assert not list(workspace_data(source).iterdir())
    assert prepared(source, log_documents(60)).manifest.splits["train"].documents > 0


def test_the_private_part_is_outside_the_workspace_and_for_the_user_alone(source: Path) -> None:
    data = prepared(source, log_documents(60))
    workspace = source.parent / "workspace"
    assert not data.held_folder.is_relative_to(workspace)
    for folder in (private_root(), data.held_folder.parent, data.held_folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_no_held_out_text_lies_in_the_workspace(source: Path) -> None:
    documents = log_documents(60)
    marked = [replace(d, text=f"{d.text}held-out-marker-{d.id}\n") for d in documents]
    data = prepared(source, marked)
    secret = [item.document.text.splitlines()[-1].encode() for split in HELD for item in held(data, split)]
    assert len(secret) > 15
    public = b"".join(path.read_bytes() for path in (source.parent / "workspace").rglob("*") if path.is_file())
    assert not [line for line in secret if line + b'"' in public or line + b"\n" in public]
    assert {path.name for path in data.folder.iterdir()} == {*pipeline.PUBLIC_FILES, pipeline.MANIFEST_FILE}


def test_the_order_of_documents_in_a_group_split_by_hash_does_not_move_them(source: Path, tmp_path: Path) -> None:
    recipe = toy_recipe(data={"split": "group"})
    first = prepared(source, log_documents(60), recipe)
    other = prepare(recipe, ToyAdapter(log_documents(60)[::-1]), source, tmp_path / "other", lambda line: None)
    for split in HELD:
        assert {d.document.id for d in held(first, split)} == {d.document.id for d in held(other, split)}


def test_a_cap_on_train_leaves_old_groups_out_and_says_so(source: Path) -> None:
    data = prepared(source, log_documents(60), toy_recipe(data={"max_train_mb": 0.01}))
    assert data.manifest.groups_beyond_cap > 20
    total = data.manifest.splits["train"].byte_count + data.manifest.splits["mix"].byte_count
    assert total <= 10_000
    assert train_documents(data)


def test_sample_groups_bounds_the_corpus(source: Path) -> None:
    data = prepared(source, log_documents(60), toy_recipe(data={"sample_groups": 30}))
    assert sum(size.groups for size in data.manifest.splits.values()) == 30
    assert data.manifest.groups_beyond_cap == 30


def test_few_hidden_groups_and_a_short_vocabulary_are_warned_of(source: Path) -> None:
    data = prepared(source, log_documents(20), toy_recipe(tokenizer={"vocab_size": 60_000}))
    assert any("too few to certify" in warning for warning in data.manifest.warnings)
    assert any("ran out of merges" in warning for warning in data.manifest.warnings)
    assert 260 < data.manifest.vocab_size < 60_000


def test_token_ids_use_two_bytes_while_they_can() -> None:
    assert (token_dtype(1 << 16), token_dtype((1 << 16) + 1)) == ("uint16", "uint32")


def test_held_documents_survive_their_file() -> None:
    item = HeldDocument(log_documents(1)[0], {"weekday": "Mon\u2028\n"})
    assert "\n" not in to_json(item)
    assert from_json(to_json(item)) == item


@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_a_source_without_documents_is_refused(source: Path, texts: list[str]) -> None:
    documents = [Document(str(index), text, str(index), "2024-01-01") for index, text in enumerate(texts)]
    with pytest.raises(DataError, match="gave no documents through the adapter 'toy'"):
        prepared(source, documents)


def test_a_missing_and_an_empty_source_are_refused_by_name(source: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepared(source / "nowhere", [])
    (source / "days.txt").unlink()
    with pytest.raises(DataError, match="is empty"):
        prepared(source, [])


def test_a_workspace_inside_its_own_source_is_refused(tmp_path: Path) -> None:
    """Its report and its program.md would become training text, and every run would change the data."""
    (tmp_path / "days.txt").write_text("day\n", encoding="utf-8")
    data_root = tmp_path / "toy" / ".slm" / "data"
    with pytest.raises(DataError, match="inside the source"):
        prepare(toy_recipe(), ToyAdapter(log_documents(60)), tmp_path, data_root, lambda line: None)
