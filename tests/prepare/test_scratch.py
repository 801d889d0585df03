"""Where documents wait while prepare works: never in the workspace, never longer than needed; and when it is redone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import ToyAdapter, log_documents, toy_recipe

from slm_ar.core.contracts import Document, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.prepare import pipeline
from slm_ar.core.prepare.heldout import private_root, private_scratch, read_split
from slm_ar.core.prepare.pipeline import (
    PUBLIC_FILES,
    SHARD_FILES,
    PreparedData,
    newest_prepared,
    open_prepared,
    prepare,
)

pytestmark = pytest.mark.usefixtures("no_floors")

HELD = ("mix", "dev", "hidden", "test")


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / ".slm" / "data"


def scratch() -> Path:
    return private_root() / "scratch"


def lines_below(folder: Path, texts: list[str]) -> list[str]:
    """Those documents of `texts` of which a whole line stands in a file below `folder`."""
    content = b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
    return [text for text in texts if any(line.encode() in content for line in text.splitlines()[1:])]


def held_texts(data: PreparedData) -> list[str]:
    return [held.document.text for name in HELD for held in read_split(data.held_folder, name)]


def unlike_each_other(count: int) -> list[Document]:
    """Documents of which no line is part of another one's."""
    return [
        Document(d.id, "".join(f"{d.group}: {line}\n" for line in d.text.splitlines()), d.group, d.time)
        for d in log_documents(count)
    ]


class Watching(ToyAdapter):
    """Looks into the workspace each time that it gives a document."""

    def __init__(self, documents: list[Document], workspace: Path) -> None:
        super().__init__(documents)
        self.workspace = workspace
        self.seen: list[str] = []
        self.modes: set[int] = set()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        texts = [document.text for document in self.given]
        for number, document in enumerate(self.given):
            if number >= len(self.given) // 2:
                self.look(texts)
            yield document
        self.look(texts)

    def look(self, texts: list[str]) -> None:
        self.seen += lines_below(self.workspace, texts)
        self.modes |= {stat.S_IMODE(path.stat().st_mode) for path in scratch().iterdir()}


class FailingError(Exception):
    """Stands for anything that ends a preparation."""


class Failing(ToyAdapter):
    """Gives half of its documents and fails."""

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        yield from self.given[: len(self.given) // 2]
        raise FailingError


# --- during the work ------------------------------------------------------------------------


def test_no_document_stands_in_the_workspace_while_the_source_is_read(source: Path, data_root: Path) -> None:
    """Large enough that every buffer has been written to disk before the last look."""
    adapter = Watching(unlike_each_other(140), data_root.parents[1])
    data = prepare(toy_recipe(), adapter, source, data_root, lambda line: None)
    assert adapter.seen == []
    assert adapter.modes == {0o700}
    assert len(held_texts(data)) > 20


def test_no_held_out_text_stands_in_the_workspace_at_any_step(source: Path, data_root: Path) -> None:
    documents = unlike_each_other(140)
    texts = [document.text for document in documents]
    workspace = data_root.parents[1]
    seen: list[tuple[str, list[str]]] = []
    data = prepare(
        toy_recipe(),
        ToyAdapter(documents),
        source,
        data_root,
        lambda step: seen.append((step, lines_below(workspace, texts))),
    )
    private = set(held_texts(data))
    assert len(seen) >= 5
    for step, found in seen:
        assert not private & set(found), step
    assert not private & set(lines_below(workspace, texts))


def test_the_compressors_are_given_only_train_inside_the_workspace(
    source: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = unlike_each_other(140)
    texts = [document.text for document in documents]
    seen: list[str] = []

    def looks(train: Path, dev: Path) -> dict[str, float]:
        assert train.stat().st_size > 0
        assert dev.is_relative_to(private_root())
        seen.extend(lines_below(data_root.parents[1], texts))
        return {"ppmd-6": 2.0}

    monkeypatch.setattr(pipeline, "measure_floors", looks)
    data = prepare(toy_recipe(), ToyAdapter(documents), source, data_root, lambda line: None)
    assert seen
    assert not set(seen) & set(held_texts(data))


# --- after the work -------------------------------------------------------------------------


def test_nothing_is_left_after_a_preparation(source: Path, data_root: Path) -> None:
    data = prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, data_root, lambda line: None)
    assert list(scratch().iterdir()) == []
    assert [path.name for path in data_root.iterdir()] == [data.folder.name]
    assert sorted(path.name for path in data.folder.iterdir()) == sorted([*PUBLIC_FILES, "manifest.json"])


def test_nothing_is_left_after_a_failure(source: Path, data_root: Path) -> None:
    with pytest.raises(DataError, match="FailingError"):
        prepare(toy_recipe(), Failing(log_documents(60)), source, data_root, lambda line: None)
    assert list(scratch().iterdir()) == []
    assert list(data_root.iterdir()) == []
    assert prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, data_root, lambda line: None).folder.is_dir()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, FailingError, MemoryError])
@pytest.mark.parametrize(
    "step", ["checking that nothing held out", "training the tokenizer", "encoding train", "measuring what"]
)
def test_nothing_is_left_wherever_it_ends(source: Path, data_root: Path, step: str, kind: type[BaseException]) -> None:
    def ends(line: str) -> None:
        if line.startswith(step):
            raise kind

    with pytest.raises(kind):
        prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, data_root, ends)
    assert list(scratch().iterdir()) == []
    assert list(data_root.iterdir()) == []


# --- what killed ones left ------------------------------------------------------------------


def dead_pid() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    return process.pid


def test_scratch_of_dead_processes_is_removed_and_of_living_ones_kept() -> None:
    dead, living = scratch() / str(dead_pid()), scratch() / str(os.getppid())
    nonsense = scratch() / "not-a-number"
    for folder in (dead, living, nonsense):
        (folder / "held").mkdir(parents=True)
        (folder / "documents.jsonl").write_text("{}\n", encoding="utf-8")
    with private_scratch() as own:
        assert own.name == str(os.getpid())
        assert stat.S_IMODE(own.stat().st_mode) == stat.S_IMODE(scratch().stat().st_mode) == 0o700
        assert not dead.exists()
        assert not nonsense.exists()
        assert (living / "documents.jsonl").is_file()
    assert not own.exists()
    assert living.is_dir()


def test_own_scratch_of_a_process_with_the_same_number_is_empty() -> None:
    old = scratch() / str(os.getpid())
    old.mkdir(parents=True)
    (old / "documents.jsonl").write_text("old\n", encoding="utf-8")
    with private_scratch() as own:
        assert list(own.iterdir()) == []


def test_an_unfinished_folder_of_a_killed_preparation_is_removed(source: Path, data_root: Path) -> None:
    left = data_root / "unfinished-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "train.tokens").write_bytes(b"\0" * 100)
    prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, data_root, lambda line: None)
    assert not left.exists()


# --- when it works again --------------------------------------------------------------------


def again(source: Path, data_root: Path) -> tuple[PreparedData, list[str]]:
    lines: list[str] = []
    data = prepare(toy_recipe(), ToyAdapter(log_documents(60)), source, data_root, lines.append)
    return data, lines


@pytest.mark.parametrize("name", SHARD_FILES)
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_public_part_is_made_again(source: Path, data_root: Path, name: str, damage: str) -> None:
    first, _ = again(source, data_root)
    assert "unchanged: using what was prepared before" in again(source, data_root)[1]
    path = first.folder / name
    whole = path.read_bytes()
    if damage == "changed":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(whole[:-1])
    else:
        path.unlink()
    assert open_prepared(data_root, first.folder.name) is None
    assert newest_prepared(data_root) is None
    second, lines = again(source, data_root)
    assert "unchanged: using what was prepared before" not in lines
    assert second.digest == first.digest, "the same data: the campaign goes on"
    assert path.read_bytes() == whole
    assert "unchanged: using what was prepared before" in again(source, data_root)[1]


@pytest.mark.parametrize("split", HELD)
def test_a_damaged_private_part_is_made_again(source: Path, data_root: Path, split: str) -> None:
    first, _ = again(source, data_root)
    path = first.held_folder / f"{split}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"min", b"max", 1))
    second, lines = again(source, data_root)
    assert "unchanged: using what was prepared before" not in lines
    assert second.digest == first.digest
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"splits": {}}', '{"splits": []}', '{"splits": {"a": 1}}'])
def test_a_damaged_manifest_is_made_again(source: Path, data_root: Path, content: str) -> None:
    first, _ = again(source, data_root)
    whole = (first.folder / "manifest.json").read_text(encoding="utf-8")
    (first.folder / "manifest.json").write_text(content, encoding="utf-8")
    again(source, data_root)
    assert (first.folder / "manifest.json").read_text(encoding="utf-8") == whole
