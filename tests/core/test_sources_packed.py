"""Packed files that are not read are told with their names, whatever adapter reads what lies beside them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from slm_ar.core.contracts import SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.registry import load_adapter
from slm_ar.core.sources import PEEKED_ROWS, Notices, list_files, open_text, read_table, zip_members

TABLE = "name,price\nlamp,3\n"
INCIDENTS = "Date,Time,Line,Station,Code,Min Delay\n" + "".join(
    f"2024-01-{day:02d},10:0{day % 10},29,MAIN,MUSC,{day}\n" for day in range(1, 20)
)
CONTENTS = {
    "table": ("rows.csv", TABLE),
    "text": ("rows.txt", "some words\n"),
    "tinystories": ("rows.txt", "Once upon a time. The end.<|endoftext|>\n"),
    "query_expansion": ("rows.jsonl", json.dumps({"query": "tea", "output": [["lex", "green tea"]]}) + "\n"),
    "transit": ("rows.csv", INCIDENTS),
}


def packed_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", TABLE)
    return file.getvalue()


def write_tar(path: Path) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = len(TABLE)
        archive.addfile(entry, io.BytesIO(TABLE.encode()))
    return path


@pytest.mark.parametrize("adapter_name", sorted(CONTENTS))
def test_every_adapter_tells_what_it_does_not_unpack(adapter_name: str, tmp_path: Path) -> None:
    name, text = CONTENTS[adapter_name]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_text(text, encoding="utf-8")
    write_tar(folder / "2023.tar.gz")
    write_tar(folder / "2022.tgz")
    (folder / "2021.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    adapter = load_adapter(adapter_name)
    read = [document.text for document in adapter.documents(folder, SourceOptions())]
    told = "\n".join(adapter.notices)  # type: ignore[attr-defined]
    assert f"{folder}: packed files that are not read (2021.7z, 2022.tgz, 2023.tar.gz); unpack them there: 3" in told

    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr(name, text)
        archive.writestr("old/inner.zip", packed_zip())
        archive.writestr(f"old/{name}.gz", gzip.compress(text.encode()))
    assert [document.text for document in adapter.documents(outer, SourceOptions())] == read
    told = "\n".join(adapter.notices)  # type: ignore[attr-defined]
    names = f"old/inner.zip, old/{name}.gz"
    assert f"{outer}: archives and packed files inside it, not read ({names}); unpack it, and name the" in told


def test_names_are_few_and_short(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}{'x' * 200}.rar").write_bytes(b"Rar!\x1a\x07")
    notices = Notices()
    assert list_files(tmp_path, (".csv",), notices) == []
    (line,) = notices.lines()
    assert line.endswith(", ...); unpack them there: 9") and len(line) < 700


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.csv"])
def test_a_tar_archive_as_the_source_is_named(name: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / name)
    with pytest.raises(DataError, match=r"is a tar archive\nUnpack it \(tar -xf FILE\)"):
        list(open_text(path))


def test_packed_members_are_never_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a.csv", "b.csv.gz", "c.zip", "d.tar"):
            archive.writestr(name, TABLE)
    assert zip_members(path, ("",)) == ["a.csv"]


def test_keys_that_come_late_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"a": number} for number in range(PEEKED_ROWS)] + [{"a": 1, "b": 2}, {"c": 3}, {"b": 4}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    notices = Notices()
    table = read_table(path, notices=notices)
    assert table.columns == ("a",) and len(list(table)) == len(rows)
    assert notices.lines() == [f"{path}: keys that none of the first 100 objects has, not read (b, c): 2"]
