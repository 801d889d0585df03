"""The table adapter on small made-up tables: text, tasks, splits, and files that are not what they should be."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.table import TableAdapter
from slm_ar.core.contracts import Document, Questioner, SourceOptions, SplitRule, Task, TaskFinder
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

ORDERS = """id, item ,price,city,day,late
1,lamp,12.3456,Köln,2024-03-01,no
2,chair,,Rome,2024-03-02,yes
3,"garden
gate | big",5,N.A.,2024-03-03,no
"""


def options(**given: object) -> SourceOptions:
    return SourceOptions(options=given)


def read(source: Path, **given: object) -> list[Document]:
    return list(TableAdapter().documents(source, options(**given)))


def texts(source: Path, **given: object) -> list[str]:
    return [document.text for document in read(source, **given)]


def answers(documents: list[Document]) -> list[str]:
    return [document.text.encode()[document.spans[0].start : document.spans[0].end].decode() for document in documents]


def task(source: Path, **given: object) -> Task:
    (found,) = TableAdapter().find_tasks(source, options(**given))
    return found


def notices(source: Path, **given: object) -> str:
    adapter = TableAdapter()
    list(adapter.documents(source, options(**given)))
    return "\n".join(adapter.notices)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text(ORDERS, encoding="utf-8")
    return path


def labelled(path: Path, labels: list[str]) -> Path:
    path.write_text("text,label\n" + "".join(f"row {n},{label}\n" for n, label in enumerate(labels)), encoding="utf-8")
    return path


# --- text -------------------------------------------------------------------------------------


def test_a_row_is_a_line_with_the_answer_last(orders: Path) -> None:
    documents = read(orders, label="late")
    assert [document.text for document in documents] == [
        "id: 1 | item: lamp | price: 12.35 | city: Köln | day: 2024-03-01 | late: no\n",
        "id: 2 | item: chair | price: ? | city: Rome | day: 2024-03-02 | late: yes\n",
        "id: 3 | item: garden gate / big | price: 5 | city: ? | day: 2024-03-03 | late: no\n",
    ]
    assert answers(documents) == ["no", "yes", "no"]
    assert [document.id for document in documents] == ["orders.csv:1", "orders.csv:2", "orders.csv:3"]
    assert [document.group for document in documents] == [document.id for document in documents]


def test_columns_drop_names_separator_and_digits(orders: Path) -> None:
    assert texts(orders, label="late", columns="price, item")[0] == "price: 12.35 | item: lamp | late: no\n"
    assert texts(orders, label="late", drop="id,day")[0] == "item: lamp | price: 12.35 | city: Köln | late: no\n"
    assert texts(orders, label="late", columns="item", names=False)[0] == "lamp => no\n"
    assert texts(orders, label="late", columns="item,city", separator=" / ")[2] == (
        "item: garden gate | big / city: ? / late: no\n"
    )
    assert texts(orders, columns="price", digits=5) == ["price: 12.346\n", "price: ?\n", "price: 5\n"]


def test_groups_and_renamed_columns(orders: Path) -> None:
    found = TableAdapter().documents(orders, SourceOptions(columns={"label": "late", "group": "city", "thing": "item"}))
    documents = list(found)
    assert documents[0].text == "id: 1 | thing: lamp | price: 12.35 | day: 2024-03-01 | label: no\n"
    assert [document.group for document in documents] == ["Köln", "Rome", "N.A."]


def test_time_shows_what_can_come_back(orders: Path) -> None:
    given = {"label": "late", "time": "day", "columns": "item, day"}
    documents = read(orders, **given)
    assert documents[0].text == "item: lamp | day: Fri Mar 01 | late: no\n"
    assert [(document.group, document.time) for document in documents] == [(f"2024-03-0{n}",) * 2 for n in (1, 2, 3)]
    assert {document.group for document in read(orders, **given, period="month")} == {"2024-03-01"}
    assert "fall into 3 day(s), too few" in notices(orders, **given)
    inside = TableAdapter().documents(orders, SourceOptions(options=given, since="2024-03-02", until="2024-03-02"))
    assert [document.id for document in inside] == ["orders.csv:2"]


def test_split_rule(orders: Path) -> None:
    adapter = TableAdapter()
    assert adapter.split_rule(orders, options(label="late", group="city")) is SplitRule.GROUP
    assert adapter.split_rule(orders, options(label="late", time="day")) is SplitRule.TIME
    assert adapter.split_rule(orders, options(series="city", wide=True)) is SplitRule.TIME


def test_slices_are_read_from_the_text(orders: Path) -> None:
    for names in (True, False):
        adapter = TableAdapter()
        given = options(label="late", columns="item,city", slice="city", names=names)
        document = next(adapter.documents(orders, given))
        assert adapter.slice_keys == ("city",)
        assert adapter.slices(document) == adapter.answer_slices(document, document.spans[0]) == {"city": "Köln"}
    assert dict(TableAdapter().slices(document)) == {}
    with pytest.raises(DataError, match=r"slice = 'id' is no column of the text\nThe text has: item, city"):
        read(orders, label="late", columns="item,city", slice="id")


def test_questions_are_the_prompts_of_documents(orders: Path, tmp_path: Path) -> None:
    given = options(label="late", columns="item, price", group="city", time="")
    new = tmp_path / "new.csv"
    new.write_text(ORDERS.replace(",late", "").replace(",no\n", "\n").replace(",yes\n", "\n"), encoding="utf-8")
    known = list(TableAdapter().documents(orders, given))
    asked = list(TableAdapter().questions(new, given))
    for document, question in zip(known, asked, strict=True):
        size = len(question.text.encode())
        assert document.text.encode()[: document.spans[0].start].decode() == question.text
        assert [(span.start, span.end, span.task) for span in question.spans] == [(size, size, "label")]
    assert [question.id for question in asked] == ["new.csv:1", "new.csv:2", "new.csv:3"]
    with pytest.raises(DataError, match="no question to ask"):
        list(TableAdapter().questions(new, options()))
    with pytest.raises(DataError, match=r"no column 'item'(.|\n)*Did you mean 'time'"):
        new.write_text("time,price\n1,2\n", encoding="utf-8")
        list(TableAdapter().questions(new, given))


# --- tasks ------------------------------------------------------------------------------------


def test_a_choice_among_the_answers_that_occur(tmp_path: Path) -> None:
    found = task(labelled(tmp_path / "t.csv", ["b", "a", "b", "c", "", "a"]), label="label")
    assert (found.name, found.kind, found.metric, found.direction) == ("label", "choice", "accuracy", "max")
    assert found.choices == ("a", "b", "c")
    lopsided = task(labelled(tmp_path / "t.csv", ["a"] * 8 + ["b", "c"]), label="label")
    assert (lopsided.metric, lopsided.positive) == ("macro_f1", "")


def test_rare_answers_get_pr_auc(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv", ["ham"] * 9 + ["spam"])
    assert (task(path, label="label").metric, task(path, label="label").positive) == ("pr_auc", "spam")
    assert task(path, label="label", positive="ham").positive == "ham"
    even = labelled(tmp_path / "u.csv", ["ham"] * 5 + ["spam"] * 5)
    assert (task(even, label="label").metric, task(even, label="label").positive) == ("accuracy", "")
    with pytest.raises(DataError, match=r"positive = 'spma' is no answer.*\nDid you mean 'spam'"):
        task(path, label="label", positive="spma")


def test_one_normal_answer_and_alerts(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv", ["-", "-", "DISK", "FAN", "-"])
    assert answers(read(path, label="label", normal="-")) == ["-", "-", "alert", "alert", "-"]
    found = task(path, label="label", normal="-")
    assert (found.choices, found.positive, found.metric) == (("-", "alert"), "alert", "pr_auc")
    with pytest.raises(DataError, match="normal = 'ok' is no answer"):
        task(path, label="label", normal="ok")


def test_amounts(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv", [f"{number * 1.37:.4f}" for number in range(40)] + ["", "cheap"])
    found = task(path, label="label", task="regression")
    assert (found.kind, found.metric, found.direction) == ("value", "mae", "min")
    assert 0.05 < found.min_effect < 0.1  # half a percent of a standard deviation of 15.8
    documents = read(path, label="label", task="regression")
    assert answers(documents)[:4] == ["0", "1.37", "2.74", "4.11"]
    told = notices(path, label="label", task="regression")
    assert "rows without an answer in 'label', skipped: 1" in told
    assert "'label' is not a number (first: row 42: 'cheap'): 1" in told


def test_labels_beyond_all_amounts_are_rejected_and_told(tmp_path: Path) -> None:
    labels = ["1e200", "9" * 401, "-1e15", "1e14", *(str(number * 7) for number in range(60))]
    path = labelled(tmp_path / "t.csv", labels)
    found = task(path, label="label")
    assert found.kind == "value" and 0 < found.min_effect < float("inf")
    assert answers(read(path, label="label")) == ["100000000000000", *labels[4:]]
    assert "'label' is not a number (first: row 1: '1e200'): 3" in notices(path, label="label")
    with pytest.raises(DataError, match="holds no numbers"):
        task(labelled(tmp_path / "u.csv", ["1e200", "1e201"]), label="label", task="regression")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["0", "1"] * 30, "choice"),
        ([str(number % 5) for number in range(60)], "choice"),
        ([str(number) for number in range(60)], "value"),
        ([f"{number % 12}.5" for number in range(60)], "value"),
        (["1.0", "0.0"] * 30, "choice"),
        ([*(str(number) for number in range(59)), "none"], "choice"),
    ],
)
def test_the_look_of_the_label_tells_the_task(tmp_path: Path, labels: list[str], kind: str) -> None:
    assert task(labelled(tmp_path / "t.csv", labels), label="label").kind == kind


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        ([f"name {n}" for n in range(65)], {}, r"more than 64 different answers\nName a coarser column"),
        ([str(n) for n in range(65)], {"task": "classification"}, r'more than 64 .*\n.*task = "regression"'),
        (["a"] * 9, {}, r"only the answer 'a': there is nothing to tell apart"),
        ([""] * 9, {}, "is empty in every row"),
        (["a", "b"], {"task": "regression"}, "holds no numbers"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, labels: list[str], given: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task(labelled(tmp_path / "t.csv", labels), label="label", **given)


def test_without_a_label_there_are_no_tasks(orders: Path) -> None:
    adapter = TableAdapter()
    assert adapter.find_tasks(orders, options()) == ()
    assert [document.spans for document in adapter.documents(orders, options())] == [()] * 3
    assert "no label" in "\n".join(adapter.notices)
    assert isinstance(adapter, TaskFinder) and isinstance(adapter, Questioner)


def test_finding_tasks_leaves_the_notices_alone(orders: Path) -> None:
    adapter = TableAdapter()
    list(adapter.documents(orders, options()))
    told = adapter.notices
    adapter.find_tasks(orders, options(label="late"))
    assert adapter.notices == told != []


# --- advice -----------------------------------------------------------------------------------


def test_columns_that_teach_nothing_are_told(tmp_path: Path) -> None:
    rows = []
    for n in range(200):
        day = f"2024-{n % 12 + 1:02d}-{n % 28 + 1:02d}"
        rows.append(f"{n},{n % 7},a{n * 7919:x},{day},,{'AB'[n % 2]}{n % 4},{n * 0.37},{'xy'[n % 2]}")
    path = tmp_path / "t.csv"
    path.write_text("row,kind,serial,when,gone,code,amount,label\n" + "\n".join(rows), encoding="utf-8")
    assert notices(path, label="label").splitlines() == [
        "column 'row' counts the rows",
        "column 'serial' has another value in every row, like a serial number",
        "column 'when' holds dates, which never come back after a split",
        "column 'gone' is empty",
        "column 'code' gives the answer away: each of its values goes with one answer only",
        'to leave them out: [data.options] drop = "row, serial, when, gone, code"',
    ]
    assert notices(path, label="label", drop="row, serial, when, gone, code") == ""


def test_advice_sees_the_rest_of_sorted_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"{n // 5000 + 10},w{n % 50},{1_600_000_000 + 7 * n},{'abcd'[n // 5000]}\n" for n in range(20_000))
    path.write_text("code,word,clock,label\n" + rows, encoding="utf-8")
    assert notices(path, label="label").splitlines() == [
        "column 'code' gives the answer away: each of its values goes with one answer only",
        "column 'clock' only grows, like a clock or a serial number",
        'to leave them out: [data.options] drop = "code, clock"',
    ]


def test_a_first_line_that_is_a_row_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{n}.5,{'xyz'[n % 3]},some text {n}\n" for n in range(100)), encoding="utf-8")
    assert "looks like a row" in notices(path)
    assert "looks like a row" not in notices(path, header=False)


def test_unnamed_columns_hold_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(",Unnamed: 0,text,label\n0,0,a,x\n1,1,b,y\n", encoding="utf-8")
    assert texts(path, label="label") == ["text: a | label: x\n", "text: b | label: y\n"]


# --- sets of files ----------------------------------------------------------------------------


def test_a_folder_and_its_zip_are_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.csv").write_text("text,label\nä,x\n", encoding="utf-8-sig")
    (folder / "b.csv").write_bytes("label;text\ny;Zürich\n".encode("cp1252"))
    (folder / "sub" / "c.tsv").write_text("text\tlabel\tmore\nq, r\tx\t1\n", encoding="utf-8")
    (folder / "sub" / "d.jsonl").write_text('\n{"label": "y", "text": "z"}\n', encoding="utf-8")
    archive_path = tmp_path / "set.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, path.relative_to(folder))
    (folder / "empty.csv").write_bytes(b"")
    (folder / "notes.md").write_text("no table", encoding="utf-8")
    (folder / "book.xlsx").write_bytes(b"PK")
    documents = read(folder, label="label")
    assert [(document.id, document.text) for document in documents] == [
        ("a.csv:1", "text: ä | label: x\n"),
        ("b.csv:1", "text: Zürich | label: y\n"),
        ("sub/c.tsv:1", "text: q, r | label: x\n"),
        ("sub/d.jsonl:1", "text: z | label: y\n"),
    ]
    assert read(archive_path, label="label") == documents
    told = notices(folder, label="label")
    assert "b.csv: lines that are not UTF-8, read as Windows-1252: 1" in told
    assert "c.tsv: columns that the first file has not, left out (more): 1" in told
    assert "empty.csv: empty files, skipped: 1" in told and "book.xlsx: workbooks, skipped" in told
    assert texts(folder, label="label", files="sub/*.tsv") == ["text: q, r | more: 1 | label: x\n"]
    assert texts(folder, label="label", files="*.jsonl") == ["text: z | label: y\n"]
    assert check_adapter(TableAdapter(), folder, options(label="label")) == []


def test_columns_renamed_within_a_set(tmp_path: Path) -> None:
    (tmp_path / "2023.csv").write_text("Min Delay,Station,code\n1,A,x\n", encoding="utf-8")
    (tmp_path / "2024.csv").write_text("Min Delay,Stations,code\n2,B,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"2024\.csv: has no column 'Station' \(the first file has one\)") as caught:
        read(tmp_path, label="code")
    assert '"Station" = "Station | Stations"' in caught.value.hint
    renamed = SourceOptions(columns={"Station": "Station | Stations"}, options={"label": "code"})
    assert [document.text for document in TableAdapter().documents(tmp_path, renamed)] == [
        "Min Delay: 1 | Station: A | code: x\n",
        "Min Delay: 2 | Station: B | code: y\n",
    ]
    clash = SourceOptions(columns={"code": "Station"})
    with pytest.raises(DataError, match="would both be called 'code'"):
        list(TableAdapter().documents(tmp_path, clash))


def test_sections_and_files_of_any_ending(tmp_path: Path) -> None:
    (tmp_path / "NAV.txt").write_text("code;name\r\n \r\nDebt\r\n\r\nAda\r\n1;x\r\n2;y\r\nBob\r\n3;z\r\n", "utf-8")
    given = {"files": "*.txt", "section": "category, house", "label": "category", "columns": "name", "group": "house"}
    documents = read(tmp_path, **given)
    assert [(document.text, document.group) for document in documents] == [
        ("name: x | category: Debt\n", "Ada"),
        ("name: y | category: Debt\n", "Ada"),
        ("name: z | category: Debt\n", "Bob"),
    ]


def test_headerless_messages(tmp_path: Path) -> None:
    path = tmp_path / "Collection"
    path.write_text('ham\tOk "lar, one\nspam\tFree, now\nham\tOk "lar, one\n', encoding="utf-8")
    given = SourceOptions(columns={"label": "column_1", "text": "column_2"}, options={"header": "false"})
    assert [document.text for document in TableAdapter().documents(path, given)] == [
        'text: Ok "lar, one | label: ham\n',
        "text: Free, now | label: spam\n",
        'text: Ok "lar, one | label: ham\n',
    ]


def test_nested_json_and_parquet_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"user": {"age": 3, "tags": []}, "ok": True}) + "\n", encoding="utf-8")
    assert texts(path, label="ok") == ["user.age: 3 | user.tags: [] | ok: True\n"]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from datetime import datetime

    table = {"n": [1.5, None], "at": [datetime(2024, 1, 2), None], "label": ["x", "y"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    assert texts(tmp_path / "t.parquet", label="label") == [
        "n: 1.5 | at: 2024-01-02 00:00:00 | label: x\n",
        "n: ? | at: ? | label: y\n",
    ]


# --- recipes and files that cannot work ---------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lable": "late"}, r"no option 'lable' in \[data.options\]\nDid you mean 'label'"),
        ({"label": "lat"}, r"orders\.csv: has no column 'lat' \(\[data.options\] label\)\nDid you mean 'late'"),
        ({"label": "late", "drop": "idd"}, r"no column 'idd' .*drop\)\nDid you mean 'id'"),
        ({"label": "late", "columns": "item,item"}, "columns names 'item' twice"),
        ({"label": "late", "columns": "late"}, "no column is left for the text beside 'late'"),
        ({"task": "clasification"}, "task = 'clasification' is unknown\nDid you mean 'classification'"),
        ({"task": "regression"}, "needs the column with the answer"),
        ({"label": "late", "task": "regression"}, r"'late' is not a number in 3 of 3 rows \(row 1: 'no'\)"),
        ({"label": "late", "time": "item"}, r"'item' is not a date in 3 of 3 rows \(row 1: 'lamp'\)(.|\n)*date_order"),
        ({"label": "late", "group": "city", "time": "day"}, "group and time exclude each other"),
        ({"label": "late", "digits": 0}, "digits = 0 must be a whole number from 1"),
        ({"label": "late", "digits": True}, "digits = True must be a whole number"),
        ({"label": "late", "names": "maybe"}, "names = 'maybe' must be true or false"),
        ({"label": "late", "separator": "\n"}, "must not hold a line end"),
        ({"label": "late", "delimiter": "::"}, "is not one character"),
        ({"label": "late", "quotes": "none"}, "quotes = 'none' is unknown"),
        ({"label": True}, "label = True must be a text"),
        ({"label": "late", "delimiter": ";"}, "is no table: its first line has one cell"),
        ({"delimiter": ";"}, r"is no table: its first line has one cell, 'id, item ,price(.|\n)*text adapter"),
        ({"series": "city"}, "a series needs its value and its time"),
        ({"task": "series"}, "a series needs the columns that name it"),
        ({"series": "city", "label": "price", "time": "day", "task": "regression"}, "contradicts series"),
        ({"series": "city", "wide": True}, "no three columns differ in a number only"),
        ({"label": "late", "files": "*.txt"}, None),
    ],
)
def test_recipes_that_cannot_work(orders: Path, given: dict[str, object], message: str | None) -> None:
    if message is None:  # a pattern chooses from folders; the file that is the source is always read
        assert len(read(orders, **given)) == 3
        return
    with pytest.raises(DataError, match=message) as caught:
        read(orders, **given)
    assert caught.value.hint


def test_limits_need_a_time(orders: Path) -> None:
    with pytest.raises(DataError, match="since and until need dated rows"):
        list(TableAdapter().documents(orders, SourceOptions(since="2024-01-01")))


def test_ambiguous_dates_need_an_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("day,label\n01/02/2024,x\n03/04/2024,y\n", encoding="utf-8")
    with pytest.raises(DataError, match="date_order"):
        read(path, label="label", time="day", columns="day")
    documents = read(path, label="label", time="day", columns="day", date_order="dmy")
    assert [document.time for document in documents] == ["2024-02-01", "2024-04-03"]


def test_mixed_dates_are_read_and_a_few_bad_ones_counted(tmp_path: Path) -> None:
    days = ["2024-01-31", "31.01.2024", "01/31/2024", "31-Jan-2024 10:00", "20240131", "Jan 31, 2024", "soon"]
    path = tmp_path / "t.csv"
    path.write_text("day,label\n" + "".join(f'"{day}",x\n' for day in days), encoding="utf-8")
    assert {document.group for document in read(path, label="label", time="day")} == {"2024-01-31"}
    assert "'day' is not a date (first: row 7: 'soon'): 1" in notices(path, label="label", time="day")


def workbook() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"\n \n", "blank lines"),
        ("t.csv", b"text,label\n", "no row became a document"),
        ("t.csv", b"\n<!DOCTYPE html><html>", "is a web page"),
        ("t.csv", workbook(), "Excel workbook"),
        ("t.xlsx", workbook(), "is a workbook"),
        ("t.csv", b"text,label\n\0\0", "binary"),
        ("t.csv", b"text,label\n1,x\n" * 5 + b'2,"oops\n' + b"1,x\n" * 60, "quote"),
        ("t.csv", gzip.compress(b"text,label\n"), "gzip-compressed although"),
        ("t.csv.gz", gzip.compress(b"text,label\n" + bytes(range(32, 127)) * 999)[:-9], "cut off"),
        ("t.parquet", b"PAR1" + b"\0" * 50, "cut off"),
        ("t.parquet", b"text,label\n", "not a Parquet file"),
        ("t.json", b'{"text": "a"', "is not JSON"),
        ("t.json", b'{\n"text": 1}\n', "is not JSON"),
        ("t.zip", b"PK\x03\x04", "not a readable zip"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_files_that_are_no_tables(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for source in (path, tmp_path):
        if source == tmp_path and not content:
            reason = "holds no table"  # an empty file in a folder is skipped
        with pytest.raises(DataError, match=f"(?s){reason}") as caught:
            read(source, label="label")
        assert caught.value.hint


def test_a_folder_without_tables(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds no table\nRead are files ending in .csv"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"holds no table named like '\*\.dat'"):
        read(tmp_path, files="*.dat")


# --- size -------------------------------------------------------------------------------------


def test_one_huge_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\n{'x' * 5_000_000},a\n", encoding="utf-8")
    (document,) = read(path, label="label")
    assert len(document.text) == 5_000_000 + len("text:  | label: a\n")


def test_one_row_and_nothing_but_repetition(tmp_path: Path) -> None:
    path = labelled(tmp_path / "t.csv", ["x"])
    assert texts(path, label="label") == ["text: row 0 | label: x\n"]
    path.write_text("text,label\n" + "a,x\n" * 100, encoding="utf-8")
    assert set(texts(path, label="label")) == {"text: a | label: x\n"}


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.csv"
        path.write_text(
            "text,label\n" + "".join(f"some words and {n} more words for a line {n},{n % 3}\n" for n in range(rows)),
            encoding="utf-8",
        )
        tracemalloc.start()
        assert sum(1 for _ in TableAdapter().documents(path, options(label="label"))) == rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1_000)  # fills the caches
    assert peak(8_000) < peak(2_000) + 500_000


# --- the contract -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"label": "late"},
        {"label": "late", "group": "city"},
        {"label": "late", "time": "day", "slice": "city"},
        {"label": "price", "task": "regression", "names": False},
        {"label": "late", "positive": "yes"},
    ],
)
def test_the_adapter_conforms(orders: Path, given: dict[str, object]) -> None:
    assert check_adapter(TableAdapter(), orders, options(**given)) == []


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=15)


@settings(max_examples=60)
@given(rows=st.lists(st.tuples(CELL, CELL, st.sampled_from(["yes", "no", "ümlaut | x"])), min_size=1, max_size=8))
def test_spans_hold_the_answers_whatever_the_cells_say(
    rows: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("first", "second", "label"), *rows])
    path = tmp_path_factory.mktemp("cells") / "t.csv"
    path.write_bytes(text.getvalue().encode())
    documents = read(path, label="label")
    assert answers(documents) == [row[2].replace("|", "/") for row in rows]
    for document in documents:
        assert document.text.count("\n") == 1 and document.text.endswith("\n")
        assert document.text.count(" | ") == 2
        assert len(document.text.splitlines()) == 1
