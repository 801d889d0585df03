"""What a person may say about a table, and files that are no tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm_ar.core.errors import DataError
from slm_ar.core.sources import Dialect, Notices, read_table


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_without_a_header_the_first_line_is_a_row(tmp_path: Path) -> None:
    text = 'ham\tOk, "lar, joking\nspam\tFree, entry, now\nham\t"unclosed\n'
    table = read_table(write(tmp_path / "messages", text), dialect=Dialect(header=False))
    assert table.columns == ("column_1", "column_2")
    assert [tuple(row.values()) for row in table] == [
        ("ham", 'Ok, "lar, joking'),
        ("spam", "Free, entry, now"),
        ("ham", '"unclosed'),
    ]


def test_quotes_and_delimiter_can_be_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'a,b\n"x,y",1\n')
    assert [dict(row) for row in read_table(path)] == [{"a": "x,y", "b": "1"}]
    assert [dict(row) for row in read_table(path, dialect=Dialect(quotes=False, delimiter=","))] == [
        {"a": '"x', "b": 'y"'}
    ]
    assert read_table(path, dialect=Dialect(delimiter=";")).columns == ("a,b",)


def test_the_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "\ufeffsep=;\na,b;c\n1;2\n"))
    assert (table.columns, [tuple(row.values()) for row in table]) == (("a,b", "c"), [("1", "2")])
    with pytest.raises(DataError):
        list(read_table(write(tmp_path / "u.csv", "sep=;\n")))


def test_section_lines_set_columns(tmp_path: Path) -> None:
    text = "code;name\n \nDebt\n\nAda House\n \n1;x\n2;y\n \nBob House\n3;z\nEquity;\nAda House\n4;w\n"
    notices = Notices()
    dialect = Dialect(sections=("category", "house"))
    table = read_table(write(tmp_path / "nav.txt", text), notices=notices, dialect=dialect)
    assert table.columns == ("code", "name", "category", "house")
    assert [tuple(row.values()) for row in table] == [
        ("1", "x", "Debt", "Ada House"),
        ("2", "y", "Debt", "Ada House"),
        ("3", "z", "Debt", "Bob House"),
        ("4", "w", "Equity", "Ada House"),
    ]
    assert notices.lines() == []
    with pytest.raises(DataError, match="has a column 'name' already"):
        read_table(tmp_path / "nav.txt", dialect=Dialect(sections=("name",)))


def test_nested_objects_become_columns(tmp_path: Path) -> None:
    row = {"id": 1, "user": {"name": "ä", "tags": ["x"], "home": {"city": "Rome"}}, "none": {}}
    path = write(tmp_path / "t.jsonl", json.dumps(row) + "\n")
    assert list(read_table(path, dialect=Dialect(nested=True))) == [
        {"id": "1", "user.name": "ä", "user.tags": '["x"]', "user.home.city": "Rome", "none": "{}"}
    ]
    assert json.loads(next(iter(read_table(path)))["user"]) == row["user"]


def test_very_deep_objects_stay_text_below_some_level(tmp_path: Path) -> None:
    value: object = 1
    for _ in range(30):
        value = {"a": value}
    path = write(tmp_path / "t.json", json.dumps([value]))
    (row,) = read_table(path, dialect=Dialect(nested=True))
    assert list(row) == [".".join("a" * 8)]


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.ods"])
def test_workbooks_are_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "PK")
    with pytest.raises(DataError, match=rf"{name}: is a workbook.*\nSave its sheet as CSV"):
        read_table(path)


def test_a_log_is_no_table(tmp_path: Path) -> None:
    lines = ["start, one", *(f"session {number} opened" for number in range(50))]
    with pytest.raises(DataError, match=r"app\.log: most rows have not the 2 cells .* \(line 21 has 1\)"):
        list(read_table(write(tmp_path / "app.log", "\n".join(lines))))


def test_rows_that_end_early_or_with_a_delimiter_are_rows(tmp_path: Path) -> None:
    notices = Notices()
    path = write(tmp_path / "t.csv", "a,b,c\n" + "1,2\n1,2,3,\n" * 100)
    assert len(list(read_table(path, notices=notices))) == 200
    assert notices.lines() == [f"{path}: rows with more or fewer than 3 cells: 200"]


def test_old_line_ends_are_an_error_and_no_crash(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv"):
        list(read_table(write(tmp_path / "t.csv", "a,b\r1,2\r3,4\r")))
    with pytest.raises(DataError, match=r"t\.csv"):
        list(read_table(tmp_path / "t.csv", dialect=Dialect(header=False)))


def test_columns_have_names_of_their_own(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "a_3,a, a ,,\n1,2,3,4,5\n"))
    assert table.columns == ("a_3", "a", "a_3_3", "column_4", "column_5")
    assert [list(row.values()) for row in table] == [list("12345")]


def test_a_file_that_is_one_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its first line has 30,000 cells.*\nIs the whole file one line"):
        read_table(write(tmp_path / "t.csv", ",".join(["x"] * 30_000)))
