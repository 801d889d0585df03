"""The text adapter on folders of code and on files that are not what they seem."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.text import TextAdapter
from slm_ar.core.contracts import Document, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

CODE = "import os\n\n\ndef main():\n    return os\n"


def read(source: Path, **options: object) -> list[Document]:
    return list(TextAdapter().documents(source, SourceOptions(options=options)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small project: code, prose, settings, other people's code, and things that are no text."""
    source = tmp_path / "project"
    for folder in ("src", "node_modules/left", "src/__pycache__", ".git", "docs"):
        (source / folder).mkdir(parents=True)
    (source / "src" / "main.py").write_text(CODE, encoding="utf-8")
    (source / "src" / "Main.JAVA").write_text("class Main {\r\n\r\n}\r\n", encoding="utf-8", newline="")
    (source / "src" / "empty.py").write_bytes(b"")
    (source / "src" / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (source / "src" / "__pycache__" / "main.py").write_text("x", encoding="utf-8")
    (source / "node_modules" / "left" / "pad.js").write_text("x", encoding="utf-8")
    (source / ".git" / "config.py").write_text("x", encoding="utf-8")
    (source / "docs" / "guide.md").write_text("# Guide\n\nRead the code.\n", encoding="utf-8")
    (source / "package.json").write_text('{\n  "name": "left",\n  "private": true\n}\n', encoding="utf-8")
    (source / "lock.json").write_text('{"name": "left", "version": "one"}\n', encoding="utf-8")
    (source / "Makefile").write_text("all:\n", encoding="utf-8")
    return source


def test_a_folder_of_code(project: Path) -> None:
    adapter = TextAdapter()
    documents = list(adapter.documents(project, SourceOptions()))
    assert [(document.id, document.text) for document in documents] == [
        ("docs/guide.md:1", "# Guide\n"),
        ("docs/guide.md:3", "Read the code.\n"),
        ("src/Main.JAVA:1", "class Main {\n\n}\n"),
        ("src/main.py:1", CODE),
    ]
    assert (
        adapter.notices
        == [
            f"{project}: files without an ending, not read: 1",
            f"{project}: files in node_modules folders, not read: 1",
            f"{project}: files in __pycache__ folders, not read: 1",
            f"{project / 'src' / 'empty.py'}: empty files, skipped: 1",
            f"{project}: files ending in .png, not read: 1",
            f"{project / 'lock.json'}: JSON files that are no tables of texts, skipped: 1",
            f"{project / 'package.json'}: JSON files that are no tables of texts, skipped: 1",
        ]
        or len(adapter.notices) == 7
    )
    assert check_adapter(TextAdapter(), project) == []


@pytest.mark.parametrize("suffixes", [".py", "py", "*.py", ".PY, .rs"])
def test_suffixes_choose_files(project: Path, suffixes: str) -> None:
    assert [document.id for document in read(project, suffixes=suffixes)] == ["src/main.py:1"]


def test_suffixes_may_be_unknown_to_us(project: Path) -> None:
    (project / "notes.foo").write_text("one\ntwo\n", encoding="utf-8")
    assert [document.text for document in read(project, suffixes=".foo", unit="line")] == ["one\n", "two\n"]
    with pytest.raises(DataError, match=r"project: holds no text in files ending in \.bar"):
        read(project, suffixes=".bar")
    with pytest.raises(DataError, match="suffixes = 3 must be endings of file names"):
        read(project, suffixes=3)


def test_a_zip_gives_the_documents_of_its_folder(project: Path, tmp_path: Path) -> None:
    archive_path = tmp_path / "project.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for path in sorted(project.rglob("*")):
            if path.is_file() and path.suffix != ".json":
                archive.write(path, path.relative_to(project).as_posix())
        archive.writestr("old.txt.gz", gzip.compress(b"packed"))
    for path in project.glob("*.json"):
        path.unlink()
    adapter = TextAdapter()
    zipped = [(document.id, document.text) for document in adapter.documents(archive_path, SourceOptions())]
    assert zipped == [(f"project.zip/{document.id}", document.text) for document in read(project)]
    told = "\n".join(adapter.notices)
    assert "archives and packed files inside it, not read (" in told and "old.txt.gz" in told
    assert check_adapter(TextAdapter(), archive_path) == []


def test_one_file_of_a_folder_in_another_encoding(tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    (source / "a.txt").write_text("\ufeffschön\n", encoding="utf-8")
    (source / "b.txt").write_bytes("schön\nund „gut“\n".encode("cp1252"))
    (source / "c.txt").write_bytes("schön\n".encode("utf-16"))
    adapter = TextAdapter()
    texts = [document.text for document in adapter.documents(source, SourceOptions())]
    assert texts == ["schön\n", "schön\nund „gut“\n", "schön\n"]
    assert adapter.notices == [f"{source / 'b.txt'}: lines that are not UTF-8, read as Windows-1252: 2"]


@pytest.mark.parametrize("name", ["page.txt", "page.log", "page.csv", "page.jsonl"])
def test_a_web_page_is_refused(tmp_path: Path, name: str) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    (source / "good.txt").write_text("text\n", encoding="utf-8")
    (source / name).write_text("\n<!DOCTYPE html>\n<html><body>404</body></html>\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name}.*(web page|not JSON)"):
        read(source)


def test_html_stands_freely_in_markdown(tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    (source / "a.md").write_text("<html>\nis how a page begins\n", encoding="utf-8")
    assert len(read(source)) == 1


def workbook() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return packed.getvalue()


@pytest.mark.parametrize("name", ["book.txt", "book.csv", "book.xlsx"])
def test_a_workbook_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(workbook())
    with pytest.raises(DataError, match=rf"{name}.*Excel"):
        read(path)


def test_a_workbook_in_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(workbook())
    (tmp_path / "a.txt").write_text("text\n", encoding="utf-8")
    adapter = TextAdapter()
    assert len(list(adapter.documents(tmp_path, SourceOptions()))) == 1
    assert adapter.notices == [f"{tmp_path}: files ending in .xlsx, not read: 1"]


@pytest.mark.parametrize("name", ["a.txt", "a.py", "a.md"])
def test_binary_data_under_the_name_of_a_text(tmp_path: Path, name: str) -> None:
    (tmp_path / "fine.txt").write_text("text\n", encoding="utf-8")
    (tmp_path / name).write_bytes(b"ELF\0\1\2")
    with pytest.raises(DataError, match=rf"{name}: is binary, not text"):
        read(tmp_path)


def test_a_file_without_an_ending_may_be_the_source(tmp_path: Path) -> None:
    path = tmp_path / "Collection"
    path.write_text("ham\tsee you\nspam\twin now\n", encoding="utf-8")
    assert [document.text for document in read(path, unit="line")] == ["ham\tsee you\n", "spam\twin now\n"]


@settings(max_examples=150)
@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")),
        st.sampled_from(
            [b"\xff\xfe\0", b"\xef\xbb\xbf", b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b'{"text": 1}', b"a,b\n1\n"]
        ),
    ),
    ending=st.sampled_from(
        [".txt", ".md", ".py", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt.gz", ".zip", ""]
    ),
    options=st.sampled_from([{}, {"window": "1d"}, {"unit": "file"}, {"column": "text"}, {"time": "when"}]),
)
def test_any_file_ends_as_documents_or_as_one_error_that_names_it(
    content: bytes, ending: str, options: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / f"file{ending}"
    path.write_bytes(content)
    try:
        documents = read(path, **options)
    except DataError as error:
        assert "file" in error.message
        assert error.hint
    else:
        assert documents
        assert all(document.text.strip() for document in documents)
