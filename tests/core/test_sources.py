"""Reading files safely: every file ends as rows or as one DataError that names file, reason and next step."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from itertools import groupby
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core import files, spilling
from slm_ar.core.errors import BudgetError, DataError
from slm_ar.core.sources import Notices, group_spilling, list_files, open_text, read_table, zip_members


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- listing ----------------------------------------------------------------------------------


def test_list_files_is_sorted_and_skips_hidden_and_foreign(tmp_path: Path) -> None:
    for name in ("b.csv", "a/z.csv.gz", "a/B.TSV", ".hidden.csv", ".git/x.csv", "__MACOSX/y.csv", "notes.doc", "a.zip"):
        write(tmp_path / name, "x")
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path, (".csv", ".tsv", ".zip"))]
    assert found == ["a/B.TSV", "a/z.csv.gz", "a.zip", "b.csv"]


def test_list_files_of_a_file_is_that_file(tmp_path: Path) -> None:
    path = write(tmp_path / "anything", "x")
    assert list_files(path, (".csv",)) == [path]


def test_what_is_no_ordinary_file_is_skipped_and_told(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "x")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    notices = Notices()
    assert [path.name for path in list_files(tmp_path, (".csv",), notices)] == ["a.csv", "link.csv"]
    assert sorted(notices.lines()) == [
        f"{tmp_path / 'gone.csv'}: a link that leads nowhere, skipped: 1",
        f"{tmp_path / 'loop.csv'}: a link that leads nowhere, skipped: 1",
        f"{tmp_path / 'pipe.csv'}: no ordinary file (a pipe or a device), skipped: 1",
    ]
    assert len(list_files(tmp_path, (".csv",))) == 2


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.csv")
    try:
        write(path, "x")
    except OSError:
        pytest.skip("this file system takes no such names")
    for source in (tmp_path, path):
        with pytest.raises(DataError, match=r"not UTF-8: 'caf\\udce9\.csv'") as caught:
            list_files(source, (".csv",))
        str(caught.value).encode()


def test_missing_source_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "incidents.csv", "x")
    with pytest.raises(DataError, match=r"Did you mean .*incidents\.csv"):
        list_files(tmp_path / "incident.csv", (".csv",))


# --- text -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "ä\nb\n".encode(),
        "ä\nb\n".encode("utf-8-sig"),
        "ä\nb\n".encode("utf-16"),
        "\ufeffä\nb\n".encode("utf-16-be"),
        gzip.compress("ä\nb\n".encode()),
    ],
    ids=["utf8", "utf8-bom", "utf16", "utf16-be", "gzip"],
)
def test_open_text_reads_every_encoding(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / ("t.txt.gz" if content[:2] == b"\x1f\x8b" else "t.txt"), content)
    notices = Notices()
    assert list(open_text(path, notices=notices)) == ["ä\n", "b\n"]
    assert notices.lines() == []


def test_lines_that_are_not_utf8_are_read_as_windows_1252_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "ä\n".encode() + "Zürich – 5 €\n".encode("cp1252") + b"\x81\n")
    notices = Notices()
    assert list(open_text(path, notices=notices)) == ["ä\n", "Zürich – 5 €\n", "\x81\n"]
    assert notices.lines() == [f"{path}: lines that are not UTF-8, read as Windows-1252: 2"]


def test_lines_survive_block_edges(tmp_path: Path) -> None:
    lines = [("é" * (number % 997)) + "\n" for number in range(2000)]
    path = write(tmp_path / "t.txt", "".join(lines))
    assert list(open_text(path)) == lines
    path.write_text("".join(lines), encoding="utf-16")
    assert list(open_text(path)) == lines


def test_a_huge_line_is_read_and_an_endless_one_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.txt", "x" * 3_000_000 + "\nend")
    assert [len(line) for line in open_text(path)] == [3_000_001, 3]
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"t\.txt.*byte 0.*longer than"):
        list(open_text(path))
    wide = write(tmp_path / "u.txt", ("a\n" * 9 + "x" * 3_000_000 + "\nend").encode("utf-16"))
    with pytest.raises(DataError, match=r"u\.txt.*a line at byte .*longer than"):
        list(open_text(wide))
    monkeypatch.undo()
    assert [len(line) for line in open_text(wide)] == [2] * 9 + [3_000_001, 3]


def test_utf16_without_a_mark_and_old_line_ends_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"t\.csv: looks like UTF-16 text without a byte order mark") as error:
        list(open_text(path))
    assert "iconv" in error.value.hint
    with pytest.raises(DataError, match=r"m\.csv: its lines end in a carriage return alone") as error:
        read_table(write(tmp_path / "m.csv", "a,b\r1,2\r3,4\r"))
    assert "tr '" in error.value.hint


def test_broken_utf16_names_the_offset(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", "abc\n".encode("utf-16") + b"\x00")
    with pytest.raises(DataError, match=r"t\.txt: is not valid UTF-16 near byte \d+"):
        list(open_text(path))


# --- files that are not what their name says ----------------------------------------------------

CSV = b"a,b\n" + b"1,2\n" * 5000


def truncated_gzip() -> bytes:
    return gzip.compress(Random(0).randbytes(200_000).hex().encode(), mtime=0)[:100_000]


def damaged_gzip() -> bytes:
    raw = bytearray(gzip.compress(CSV, mtime=0))
    raw[len(raw) // 2] ^= 0xFF
    return bytes(raw)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("page.csv", b"\n <!DOCTYPE html><html><body>Login</body></html>", "web page"),
        ("page.jsonl", b"<html><body>404</body></html>", "web page"),
        ("a.csv", gzip.compress(CSV), "gzip-compressed although"),
        ("a.csv.gz", CSV, "not gzip-compressed"),
        ("a.csv", b"PK\x03\x04\x14\x00[Content_Types].xml....", "Excel workbook"),
        ("a.csv", b"PK\x03\x04\x14\x00data.csv....", "zip archive under another name"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        ("a.csv", b"PAR1....PAR1", "Parquet file under another name"),
        ("a.csv", b"%PDF-1.7", "PDF"),
        ("a.csv", b"a,b\n\x00\x01\x02", "binary.*offset 4"),
        ("a.csv", b"", "empty"),
        ("a.csv.gz", b"", "empty"),
        ("a.csv.gz", gzip.compress(b""), "empty"),
        ("a.csv", b"\n \n\n", "blank lines"),
        ("a.csv.gz", truncated_gzip(), "cut off"),
        ("a.csv.gz", damaged_gzip(), "damaged"),
        ("a.parquet", b"", "empty"),
        ("a.parquet", b"PAR1" + b"\0" * 100, "cut off"),
        ("a.parquet", CSV, "not a Parquet file"),
        ("a.parquet", b"PAR1" + b"\0" * 100 + b"PAR1", "not a readable Parquet"),
        ("a.jsonl", CSV, "line 1 is not JSON"),
        ("a.jsonl", b"[[1, 2], 3]", "no JSON objects"),
        ("a.json", b'[{"a": 1},', "not valid JSON"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=f"(?s){name}.*{reason}") as caught:
        list(read_table(path))
    assert caught.value.hint


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x" * 100] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: is cut off"):
        read_table(path)


# --- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found_from_the_header(tmp_path: Path, delimiter: str) -> None:
    text = delimiter.join(("\ufeff Name ", ' "Min, Delay"'.strip(), "c")) + "\r\n\r\n" + delimiter.join("123") + "\r\n"
    table = read_table(write(tmp_path / "t.csv", "\n" + text if delimiter != "," else text))
    assert [list(row.values()) for row in table] == [["1", "2", "3"]]
    assert [column.strip("\ufeff ") for column in table.columns] == ["Name", "Min, Delay", "c"]


def test_ragged_blank_and_quoted_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a, b ,b,\n1,"two\nlines",3,4\n\n,,,\n1\n1,2,3,4,5\n')
    notices = Notices()
    table = read_table(path, notices=notices)
    assert table.columns == ("a", "b", "b_3", "column_4")
    rows = [tuple(row.values()) for row in table]
    assert rows == [("1", "two\nlines", "3", "4"), ("1", "", "", ""), ("1", "2", "3", "4")]
    lone, ragged = notices.lines()
    assert lone.startswith(f"{path}: lines of one cell; if they are headings") and 'section = "NAME"' in lone
    assert lone.endswith(": 1") and ragged == f"{path}: rows with more or fewer than 4 cells: 1"


def test_an_unclosed_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n" + "1,2\n" * 10 + '1,"oops\n' + "1,2\n" * 100)
    with pytest.raises(DataError, match=r"quote.*line 12"):
        list(read_table(path))


@pytest.mark.parametrize("last", [2600, 2979, 2999])
def test_stray_quotes_do_not_swallow_the_rows_between_them(tmp_path: Path, last: int) -> None:
    rows = [f"{number},name {number},{number * 7}\n" for number in range(3000)]
    for number in (500, 1500, 1600, last):
        rows[number] = '"' + rows[number]
    path = write(tmp_path / "t.csv", "id,name,value\n" + "".join(rows))
    with pytest.raises(DataError, match=r"quote.*line 502"):
        list(read_table(path))
    rows[500] = rows[1500] = rows[1600] = "1,2,3\n"
    rows[900] = '"' + rows[900]
    path = write(tmp_path / "u.csv", "id,name,value\n" + "".join(rows[: last + 1]))
    with pytest.raises(DataError, match=r"quote.*line 902"):
        list(read_table(path))


def test_long_texts_in_cells_are_no_stray_quotes(tmp_path: Path) -> None:
    letter = "\n".join(["Dear all,", "as I said, twice, nothing came", "", "and so, well", "I left"] * 20)
    path = write(tmp_path / "t.csv", "id,text,stars\n" + f'1,"{letter}",5\n' * 3)
    assert [row["text"] for row in read_table(path)] == [letter] * 3
    path = write(tmp_path / "u.csv", f'text\n"{letter}"\n')
    assert [row["text"] for row in read_table(path)] == [letter]


def test_a_cell_longer_than_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", f'a,b\n1,"{"x" * 500_000}"\n')
    assert len(next(iter(read_table(path)))["b"]) == 500_000


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    rows = [{"text": "ä", "n": 1, "tags": ["x"], "none": None}, {"text": "\ud800!", "other": True}]
    path = write(tmp_path / "t.jsonl", "\n".join([json.dumps(rows[0]), "", "{broken", "3", json.dumps(rows[1])]))
    notices = Notices()
    expected = [{"text": "ä", "n": "1", "tags": '["x"]', "none": ""}, {"text": "?!", "other": "True"}]
    table = read_table(path, notices=notices)
    assert list(table) == expected
    assert table.columns == ("text", "n", "tags", "none", "other")
    assert notices.lines() == [f"{path}: lines that are not JSON objects, skipped: 2"]
    assert list(read_table(write(tmp_path / "t.json", json.dumps(rows, indent=1)))) == expected
    assert list(read_table(write(tmp_path / "s.jsonl.gz", gzip.compress(b'"one"\n"two"\n')))) == [
        {"text": "one"},
        {"text": "two"},
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_a_whole_number_of_thousands_of_digits_is_text(tmp_path: Path, name: str) -> None:
    digits = "7" * 5000
    row = f'{{"a": {digits}, "b": 12}}'
    path = write(tmp_path / name, f"{row}\n" if name.endswith("l") else f"[{row}]")
    assert list(read_table(path)) == [{"a": digits, "b": "12"}]


def test_parquet_with_times_that_python_has_not(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    columns = {
        "day": arrow.array([3_000_000, None], arrow.date32()),
        "at": arrow.array([2**60, 0], arrow.timestamp("us")),
        "zone": arrow.array([1_700_000_000_000, None], arrow.timestamp("ms", tz="Nowhere/City")),
        "n": arrow.array([1, 2]),
    }
    parquet.write_table(arrow.table(columns), path)
    notices = Notices()
    first, second = read_table(path, notices=notices)
    assert (first["day"], second["day"], first["n"]) == ("10183-09-21", "", "1")
    assert (first["at"], second["at"][:10]) == ("", "1970-01-01")
    assert (first["zone"][:19], second["zone"]) == ("2023-11-14 22:13:20", "")
    assert notices.lines() == [f"{path}: dates that Python has no calendar or time zone for, read as text: 6"]


def test_parquet_with_nulls_and_timestamps(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from datetime import datetime

    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", None], "at": [datetime(2024, 1, 2), None]}), path)
    table = read_table(path)
    assert table.columns == ("text", "at")
    assert list(table) == [{"text": "a", "at": "2024-01-02 00:00:00"}, {"text": "", "at": ""}]


# --- zip --------------------------------------------------------------------------------------


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_zip_members_are_allow_listed(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "a.zip", {"b.csv": CSV, "a/x.csv": CSV, "in.zip": b"", "__MACOSX/c.csv": b"", "d.exe": b""}
    )
    assert zip_members(path, (".csv",)) == ["a/x.csv", "b.csv"]
    assert len(list(read_table(path, member="b.csv"))) == 5000
    with pytest.raises(DataError, match="no such member"):
        list(read_table(path, member="nowhere.csv"))


@pytest.mark.parametrize("name", ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "C:/evil.csv", "..\\evil.csv"])
def test_zip_with_unsafe_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="unsafe name"):
        zip_members(make_zip(tmp_path / "a.zip", {name: b"x"}), (".csv",))


def test_a_zip_packed_in_a_way_that_is_not_read(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.csv": CSV})
    raw = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        raw[raw.index(magic) + place] = 9  # Deflate64
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.zip!a\.csv: is packed in a way that is not read") as caught:
        list(read_table(path, member="a.csv"))
    assert "Unpack it" in caught.value.hint


def test_zip_bombs_and_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = make_zip(tmp_path / "bomb.zip", {"a.csv": b"0" * 30_000_000})
    with pytest.raises(DataError, match="300 times"):
        zip_members(bomb, (".csv",))
    monkeypatch.setattr(files, "MAX_ZIP_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to"):
        zip_members(bomb, (".csv",))
    monkeypatch.setattr(files, "MAX_ZIP_ENTRIES", 0)
    with pytest.raises(DataError, match="entries"):
        zip_members(bomb, (".csv",))
    with pytest.raises(DataError, match="not a readable zip"):
        zip_members(write(tmp_path / "cut.zip", bomb.read_bytes()[:200]), (".csv",))


# --- grouping beyond memory -------------------------------------------------------------------

RECORDS = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=6)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, memory_bytes=st.sampled_from([1, 600, 1 << 20]))
def test_group_spilling_equals_a_stable_sort(records: list[tuple[str, str]], memory_bytes: int) -> None:
    expected = [
        (key, [payload for _, payload in group])
        for key, group in groupby(sorted(records, key=lambda record: record[0]), key=lambda record: record[0])
    ]
    found = [(key, list(group)) for key, group in group_spilling(iter(records), memory_bytes=memory_bytes)]
    assert found == expected


def test_group_spilling_merges_many_runs_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "MAX_OPEN_RUNS", 3)
    monkeypatch.setattr(spilling, "BLOCK_RECORDS", 7)
    records = [(f"{number * 7919 % 101:03d}", str(number)) for number in range(2000)]
    groups = group_spilling(records, memory_bytes=5000, folder=tmp_path)
    key, payloads = next(groups)
    assert (key, list(payloads)) == ("000", [str(number) for number in range(0, 2000, 101)])
    assert any(tmp_path.iterdir())
    assert sum(len(list(payloads)) for _, payloads in groups) == 2000 - 20
    assert not any(tmp_path.iterdir())


def test_group_spilling_keeps_its_files_where_prepare_says(tmp_path: Path) -> None:
    records = [(str(number), "x" * 50) for number in range(500)]
    with spilling.spilling_into(tmp_path):
        groups = group_spilling(records, memory_bytes=2000)
        next(groups)
        assert len(list(tmp_path.iterdir())) == 1
        groups.close()
    assert not list(tmp_path.iterdir())
    elsewhere = group_spilling(records, memory_bytes=2000)
    next(elsewhere)
    assert not list(tmp_path.iterdir())
    elsewhere.close()


def test_group_spilling_cleans_up_when_closed_early(tmp_path: Path) -> None:
    groups = group_spilling([(str(number), "x" * 50) for number in range(500)], memory_bytes=2000, folder=tmp_path)
    next(groups)
    groups.close()  # type: ignore[attr-defined]
    assert not any(tmp_path.iterdir())


def test_group_spilling_says_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(block: object, run: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spilling, "marshal", SimpleNamespace(dump=full))
    with pytest.raises(BudgetError, match="No space left"):
        list(group_spilling([("a", "b")] * 9, memory_bytes=1, folder=tmp_path))


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf_32_is_told_not_read_as_utf_16(tmp_path: Path, encoding: str) -> None:
    mark = b"\xff\xfe\x00\x00" if encoding.endswith("le") else b"\x00\x00\xfe\xff"
    (tmp_path / "a.txt").write_bytes(mark + "one\ntwo\n".encode(encoding))
    with pytest.raises(DataError, match=r"a\.txt: is UTF-32 text"):
        list(open_text(tmp_path / "a.txt"))


def test_a_path_in_a_recipe_counts_from_its_folder_or_from_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    base = tmp_path / "workspace"
    assert files.named_path("data/a.txt", base) == base / "data" / "a.txt"
    assert files.named_path("/data/a.txt", base) == Path("/data/a.txt")
    assert files.named_path("~/a.txt", base) == tmp_path / "home" / "a.txt"
    assert files.named_path("~nobody-has-this-name/a.txt", base) == base / "~nobody-has-this-name" / "a.txt"
