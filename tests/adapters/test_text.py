"""The text adapter: cutting into lines, groups of lines, blocks, files and table cells."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.text import TextAdapter
from slm_ar.core.contracts import Adapter, Document, SourceOptions, SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter


def read(source: Path, **options: object) -> list[Document]:
    return list(TextAdapter().documents(source, SourceOptions(options=options)))


def pairs(source: Path, **options: object) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read(source, **options)]


@pytest.fixture
def verses(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_bytes("\ufeff\none\r\ntwo\r\n\r\n \r\nthree\r\n  four".encode())
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"unit": "line"}, [(2, "one\n"), (3, "two\n"), (6, "three\n"), (7, "  four\n")]),
        ({"unit": "lines", "lines_per_document": 2}, [(2, "one\ntwo\n"), (6, "three\n  four\n")]),
        ({"unit": "block"}, [(2, "one\ntwo\n"), (6, "three\n  four\n")]),
        ({}, [(2, "one\ntwo\n"), (6, "three\n  four\n")]),
        ({"unit": "file"}, [(2, "one\ntwo\n\n \nthree\n  four\n")]),
    ],
)
def test_units(verses: Path, options: dict[str, object], expected: list[tuple[int, str]]) -> None:
    assert pairs(verses, **options) == [(f"verses.txt:{line}", text) for line, text in expected]


def test_auto_groups_lines_when_no_blank_line_separates_them(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("\n" + "event\n" * 70, encoding="utf-8")
    assert [text.count("\n") for _, text in pairs(path)] == [32, 32, 6]
    assert [text.count("\n") for _, text in pairs(path, lines_per_document=50)] == [50, 20]


@pytest.mark.parametrize("unit", ["auto", "file", "block", "line", "lines"])
def test_the_end_of_text_mark_is_always_a_boundary(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("a\n<|endoftext|>\nb<|endoftext|>c<|endoftext|>\n\n<|endoftext|>d\n", encoding="utf-8")
    assert pairs(path, unit=unit) == [
        ("stories.txt:1", "a\n"),
        ("stories.txt:3", "b\n"),
        ("stories.txt:3.2", "c\n"),
        ("stories.txt:5", "d\n"),
    ]


def test_marked_documents_keep_their_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("a\n\nb\n<|endoftext|>\nc\n", encoding="utf-8")
    assert [text for _, text in pairs(path)] == ["a\n\nb\n", "c\n"]


def test_a_folder_with_everything(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    (source / "sub").mkdir(parents=True)
    (source / "a.md").write_text("# title", encoding="utf-8")
    (source / "b.csv").write_text("id;Text\n1;hello\n2;\n", encoding="utf-8")
    (source / "empty.txt").write_bytes(b"")
    (source / "sub" / "c.txt.gz").write_bytes(gzip.compress("gänse\n".encode()))
    (source / "sub" / "d.jsonl").write_text('{"body": "x\\r\\ny", "n": 1}\n', encoding="utf-8")
    with zipfile.ZipFile(source / "e.zip", "w") as archive:
        archive.writestr("in/e.txt", "zipped")
    adapter = TextAdapter()
    assert [
        (document.id, document.text, document.group) for document in adapter.documents(source, SourceOptions())
    ] == [
        ("a.md:1", "# title\n", "a.md:1"),
        ("b.csv:1", "hello\n", "b.csv:1"),
        ("e.zip/in/e.txt:1", "zipped\n", "e.zip/in/e.txt:1"),
        ("sub/c.txt.gz:1", "gänse\n", "sub/c.txt.gz:1"),
        ("sub/d.jsonl:1", "x\ny\n", "sub/d.jsonl:1"),
    ]
    assert adapter.record_count == 5
    assert (
        adapter.notices
        == [
            f"{source / 'b.csv'}: rows without text in 'Text', skipped: 1",
            f"{source / 'empty.txt'}: empty files, skipped: 1",
        ]
        or sorted(adapter.notices) == adapter.notices
    )
    assert check_adapter(TextAdapter(), source) == []


def test_group_column_and_chosen_column(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("who\tsaid\tnote\nann\thi\tx\nbob\tho\ty\nann\tha\tz\n\thm\tw\n", encoding="utf-8")
    documents = read(path, column="said", group="who")
    assert [(document.text, document.group) for document in documents] == [
        ("hi\n", "ann"),
        ("ho\n", "bob"),
        ("ha\n", "ann"),
        ("hm\n", "t.tsv:4"),
    ]
    same = TextAdapter().documents(path, SourceOptions(columns={"text": "said", "group": "who"}))
    assert list(same) == documents


def test_the_only_string_column_is_found(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    table = {
        "n": [1, 2],
        "day": ["2024-01-02", "2024-01-03"],
        "ok": [True, None],
        "story": ["once<|endoftext|>twice", "x"],
    }
    parquet.write_table(pyarrow.table(table), path)
    assert pairs(path) == [("t.parquet:1", "once\n"), ("t.parquet:1.2", "twice\n"), ("t.parquet:2", "x\n")]


def test_a_huge_single_line(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("x" * 5_000_000, encoding="utf-8")
    (document,) = read(path)
    assert len(document.text) == 5_000_001


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "line"}, "no option 'units'.*\nDid you mean 'unit'"),
        ({"unit": "lins"}, "unit = 'lins' is unknown\nDid you mean 'line"),
        ({"lines_per_document": 0}, "whole number from 1"),
        ({"lines_per_document": True}, "whole number from 1"),
        ({"column": 3}, "column = 3 must be a column's name"),
        ({"group": "author"}, "names a column, but this is plain text"),
    ],
)
def test_bad_options(verses: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(verses, **options)


def test_bad_recipe_tables(verses: Path) -> None:
    with pytest.raises(DataError, match="has no field 'txt'\nDid you mean 'text'"):
        list(TextAdapter().documents(verses, SourceOptions(columns={"txt": "a"})))
    with pytest.raises(DataError, match="since and until need dated documents"):
        list(TextAdapter().documents(verses, SourceOptions(since="2024-01-01")))


def test_bad_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("title,story\nx,once upon a time\n", encoding="utf-8")
    with pytest.raises(DataError, match=r'which column holds the text\? It has: title, story(.|\n)*column = "story"'):
        read(path)
    with pytest.raises(DataError, match=r"no column 'storey'.*\nDid you mean 'story'"):
        read(path, column="storey")
    with pytest.raises(DataError, match=r"no column 'autor' .*group"):
        read(path, column="story", group="autor")
    with pytest.raises(DataError, match="in a table a row is a document"):
        read(path, column="story", unit="block")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\n\n", "holds no text"),
        ("a.txt", gzip.compress(b"x"), "gzip-compressed although"),
        ("a.txt", b"%PDF-1.4", "is a PDF"),
        ("a.txt", b"ab\0c", "is binary"),
        ("a.txt.gz", gzip.compress(b"abc" * 10_000)[:-9], "cut off"),
        ("a.csv", b"text\n", "holds no text"),
        ("a.csv", b"<!doctype html>", "web page"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_files_that_are_not_text(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{reason}") as caught:
        read(path)
    assert caught.value.hint


def test_a_folder_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.exe").write_bytes(b"x")
    with pytest.raises(DataError, match="holds no text"):
        read(tmp_path)


def test_a_document_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.adapters.text.cutting.MAX_DOCUMENT_CHARACTERS", 100)
    path = tmp_path / "a.txt"
    path.write_text("word\n" * 100, encoding="utf-8")
    with pytest.raises(DataError, match="document from line 1 on is longer than 100"):
        read(path, unit="block")
    assert len(read(path, unit="lines", lines_per_document=10)) == 10
    path.write_text("word " * 100, encoding="utf-8")
    with pytest.raises(DataError, match=r"longer than 100 characters\nIt is a single line"):
        read(path, unit="lines")


# --- properties -------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\ufeff"), max_size=200),
    unit=st.sampled_from(["line", "lines", "block", "file", "auto"]),
)
def test_no_text_is_lost_and_ids_are_unique(text: str, unit: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(("x\n" + text).encode())
    documents = read(path, unit=unit, lines_per_document=3)
    kept = [line for document in documents for line in document.text.split("\n") if line.strip()]
    assert kept == [line for line in ("x\n" + text).split("\n") if line.strip()]
    assert len({document.id for document in documents}) == len(documents)
    assert all(document.text.endswith("\n") and not document.text.startswith("\n") for document in documents)


# --- the conformance suite finds what is broken -------------------------------------------------


def test_the_adapter_conforms_on_a_file(verses: Path) -> None:
    adapter: Adapter = TextAdapter()
    assert check_adapter(adapter, verses) == []
    assert check_adapter(adapter, verses, SourceOptions(options={"unit": "line"})) == []


def test_conformance_problems_are_told(verses: Path) -> None:
    class Careless(TextAdapter):
        split = SplitRule.TIME
        calls = 0

        def split_rule(self, source: Path, options: SourceOptions) -> SplitRule:
            return self.split

        def documents(self, source: Path, options: SourceOptions):  # type: ignore[no-untyped-def]
            if not source.exists():
                raise FileNotFoundError(source)
            Careless.calls += 1
            (source.parent / source.name).write_text(f"one\n\ntwo {Careless.calls}\n", encoding="utf-8")
            for document in super().documents(source, options):
                yield replace(document, id="same", group="")

    kinds = {problem.partition(":")[0] for problem in check_adapter(Careless(), verses)}
    assert {"stable order", "time", "empty group", "errors", "writes"} <= kinds


def test_conformance_of_spans_and_slices(verses: Path) -> None:
    from slm_ar.core.contracts import Span, Task

    class Wrong(TextAdapter):
        tasks: tuple[Task, ...] = (Task("answer", kind="value", metric="mae", direction="min"),)
        slice_keys: tuple[str, ...] = ("month",)

        def documents(self, source: Path, options: SourceOptions):  # type: ignore[no-untyped-def]
            for document in super().documents(source, options):
                spans = (Span(1, 2, "answer"), Span(1, 1, "answer"), Span(2, 3, "other"), Span(0, 99, "answer"))
                yield replace(document, text="é" + document.text, spans=spans, time="soon")

    problems = check_adapter(Wrong(), verses)
    kinds = {problem.partition(":")[0] for problem in problems}
    assert {"spans", "span task", "span edges", "slices", "time"} <= kinds
    assert len([problem for problem in problems if problem.startswith("slices")]) <= 3


def test_conformance_of_attributes(verses: Path) -> None:
    class Nameless(TextAdapter):
        name = ""
        version = 0

        def __init__(self, needed: int) -> None:
            super().__init__()

    assert [problem.partition(":")[0] for problem in check_adapter(Nameless(1), verses)] == [
        "constructor",
        "attribute",
        "attribute",
    ]
    problems = check_adapter(object(), verses)  # type: ignore[arg-type]
    assert problems == ["protocol: object lacks a member of slm_ar.core.contracts.Adapter"]


def test_json_with_unpaired_surrogates_becomes_valid_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"text": "bad \ud83d half"}) + "\n", encoding="utf-8")
    (document,) = read(path)
    assert document.text.encode() == b"bad ? half\n"
