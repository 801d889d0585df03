"""Series in tables: windows of long and wide tables, and the questions that follow them."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from slm_ar.adapters.table import TableAdapter
from slm_ar.core.contracts import Document, SourceOptions, SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

WIDE = "code,region,W0,W1,W2,W3,W4,note 7\nA,north,1,2,3,4,5,x\nB,south,0,0,,1,2,y\n"
LONG = [
    ("2024-01-21", "1", "soap", "7"),
    ("2024-01-07", "1", "soap", "5"),
    ("2024-01-14", "1", "soap", "6"),
    ("2024-01-07", "2", "tea", "1.23456"),
    ("2024-01-14", "2", "tea", "2"),
    ("2024-01-21", "2", "tea", ""),
]
LONG_OPTIONS = {"series": "shop, item", "label": "sold", "time": "week", "window": 2}


def read(source: Path, **given: object) -> list[Document]:
    return list(TableAdapter().documents(source, SourceOptions(options=given)))


def asked(source: Path, **given: object) -> list[Document]:
    return list(TableAdapter().questions(source, SourceOptions(options=given)))


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "wide.csv"
    path.write_text(WIDE, encoding="utf-8")
    return path


@pytest.fixture
def long(tmp_path: Path) -> Path:
    path = tmp_path / "long.csv"
    rows = [("week", "shop", "item", "sold"), *LONG]
    path.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_windows_of_a_wide_table(wide: Path) -> None:
    documents = read(wide, series="code", wide=True, window=2)
    assert [document.text for document in documents] == [
        "code: A | last: 1 | next: 2\n",
        "code: A | last: 1\t2 | next: 3\n",
        "code: A | last: 2\t3 | next: 4\n",
        "code: A | last: 3\t4 | next: 5\n",
        "code: B | last: 0 | next: 0\n",
        "code: B | last: 0\t? | next: 1\n",
        "code: B | last: ?\t1 | next: 2\n",
    ]
    assert [document.group for document in documents] == ["W1", "W2", "W3", "W4", "W1", "W3", "W4"]
    times = {document.group: document.time for document in documents}
    assert sorted(times, key=lambda group: times[group] or "") == ["W1", "W2", "W3", "W4"]
    with_region = read(wide, series="code", wide=True, columns="region", window=7)
    assert [document.text for document in with_region] == [
        "code: A | region: north | last: 1\t2\t3 | next: 4\n",
        "code: A | region: north | last: 1\t2\t3\t4 | next: 5\n",
        "code: B | region: south | last: 0\t0\t?\t1 | next: 2\n",
    ]


def test_dated_columns_show_their_date(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("item,2024-01-01,2024-02-01,2024-03-01\ntea,1,2,3\n", encoding="utf-8")
    documents = read(path, series="item", wide=True, window=2)
    assert [(document.text, document.time) for document in documents] == [
        ("item: tea | date: Thu Feb 01 | last: 1 | next: 2\n", "2024-02-01"),
        ("item: tea | date: Fri Mar 01 | last: 1\t2 | next: 3\n", "2024-03-01"),
    ]
    (later,) = TableAdapter().documents(
        path, SourceOptions(since="2024-02-15", options={"series": "item", "wide": True, "window": 2})
    )
    assert later.time == "2024-03-01"


def test_since_of_numbered_periods_is_refused_not_passed_over(wide: Path) -> None:
    options = SourceOptions(since="2024-02-15", options={"series": "code", "wide": True, "window": 2})
    with pytest.raises(DataError, match="only numbered") as error:
        list(TableAdapter().documents(wide, options))
    assert "Remove since and until" in error.value.hint


def test_windows_of_a_long_table_in_any_order(long: Path) -> None:
    documents = read(long, **LONG_OPTIONS)
    assert [document.text for document in documents] == [
        "shop: 1 | item: soap | week: Sun Jan 14 | last: 5 | next: 6\n",
        "shop: 1 | item: soap | week: Sun Jan 21 | last: 5\t6 | next: 7\n",
        "shop: 2 | item: tea | week: Sun Jan 14 | last: 1.235 | next: 2\n",
    ]
    assert [(document.group, document.time) for document in documents] == [
        (week, week) for week in ("2024-01-14", "2024-01-21", "2024-01-14")
    ]
    (span,) = documents[1].spans
    assert (documents[1].text[span.start : span.end], span.task) == ("7", "next")


def test_the_order_of_rows_does_not_matter(long: Path) -> None:
    expected = read(long, **LONG_OPTIONS)
    lines = long.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = lines[1:]
    Random(1).shuffle(rows)
    long.write_text(lines[0] + "".join(rows), encoding="utf-8")
    assert read(long, **LONG_OPTIONS) == expected


def test_several_values_a_day_and_equal_names_keep_their_ids_apart(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"2024-01-01 {hour:02d}:00,tea,{hour}\n" for hour in range(5))
    path.write_text("at,item,sold\n" + rows, encoding="utf-8")
    options = SourceOptions(options={"series": "item", "label": "sold", "time": "at", "window": 2})
    documents = list(TableAdapter().documents(path, options))
    assert documents[-1].text == "item: tea | at: Mon Jan 01 04:00 | last: 2\t3 | next: 4\n"
    assert {document.group for document in documents} == {"2024-01-01"}
    assert check_adapter(TableAdapter(), path, options) == []
    path.write_text("item,W1,W2,W3\ntea,1,2,3\ntea,1,2,3\n", encoding="utf-8")
    options = SourceOptions(options={"series": "item", "wide": True, "window": 2})
    assert check_adapter(TableAdapter(), path, options) == []


def test_a_later_row_of_the_same_time_wins_and_is_told(long: Path) -> None:
    with long.open("a", encoding="utf-8") as file:
        file.write("2024-01-21,1,soap,9\n")
    adapter = TableAdapter()
    documents = list(adapter.documents(long, SourceOptions(options=LONG_OPTIONS)))
    assert documents[1].text.endswith("next: 9\n")
    assert "series: values replaced by a later one of the same time: 1" in adapter.notices


def test_columns_that_are_known_before(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("day,item,promo,sold\n1,tea,no,5\n2,tea,yes,9\n3,tea,no,4\n", encoding="utf-8")
    documents = read(path, series="item", label="sold", time="day", columns="promo", window=2, slice="promo")
    assert documents[0].text == "item: tea | promo: yes | last: 5 | next: 9\n"
    assert [document.group for document in documents] == ["2", "3"]
    adapter = TableAdapter()
    options = SourceOptions(
        options={"series": "item", "label": "sold", "time": "day", "columns": "promo", "window": 2, "slice": "promo"}
    )
    assert [adapter.slices(document) for document in adapter.documents(path, options)] == [
        {"promo": "yes"},
        {"promo": "no"},
    ]


def test_the_task_and_the_split(wide: Path) -> None:
    options = SourceOptions(options={"series": "code", "wide": True})
    (task,) = TableAdapter().find_tasks(wide, options)
    assert (task.name, task.kind, task.metric, task.direction) == ("next", "value", "wape", "min")
    assert TableAdapter().split_rule(wide, options) is SplitRule.TIME


def test_questions_about_what_comes_next(wide: Path, long: Path) -> None:
    assert [(document.id, document.text) for document in asked(long, **LONG_OPTIONS)] == [
        ("1 | soap @ 2024-01-21 and then", "shop: 1 | item: soap | week: Sun Jan 28 | last: 6\t7 | next: "),
        ("2 | tea @ 2024-01-21", "shop: 2 | item: tea | week: Sun Jan 21 | last: 1.235\t2 | next: "),
    ]
    questions = asked(wide, series="code", wide=True, window=2)
    assert [document.text for document in questions] == [
        "code: A | last: 4\t5 | next: ",
        "code: B | last: 0\t0 | next: ",
    ]
    for document in questions:
        assert [(span.start, span.end) for span in document.spans] == [(len(document.text.encode()),) * 2]


def test_series_that_are_too_short_are_told(wide: Path) -> None:
    adapter = TableAdapter()
    with pytest.raises(DataError, match=r"no row became a document\nseries: left out, .* after 8 others: 2"):
        list(adapter.documents(wide, SourceOptions(options={"series": "code", "wide": True})))


def test_a_label_that_names_the_series_is_refused(long: Path) -> None:
    with pytest.raises(DataError, match="series names the label 'sold'") as caught:
        read(long, **{**LONG_OPTIONS, "series": "shop, sold"})
    assert "remove the label" in caught.value.hint


def test_values_beyond_all_amounts_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    values = ["1", "2", "1e200", "9" * 401, *map(str, range(40))]
    path.write_text(
        "".join(f"{n},tea,{v}\n" for n, v in [("day", "sold"), *enumerate(values)]).replace("day,tea", "day,item"),
        encoding="utf-8",
    )
    adapter = TableAdapter()
    options = SourceOptions(options={"series": "item", "label": "sold", "time": "day", "window": 2})
    assert "1e" not in "".join(document.text for document in adapter.documents(path, options))
    assert any("'sold' is not a number (first: row 3: '1e200'): 2" in line for line in adapter.notices)


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("item,W1,W2,W3\ntea,1,two,three\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'W1 \.\.\. W3' is not a number in 2 of 3 rows"):
        read(path, series="item", wide=True, window=1)


@pytest.mark.parametrize("kind", ["wide", "long"])
def test_the_adapter_conforms(kind: str, wide: Path, long: Path) -> None:
    source, given = (wide, {"series": "code", "wide": True, "window": 2}) if kind == "wide" else (long, LONG_OPTIONS)
    assert check_adapter(TableAdapter(), source, SourceOptions(options=given)) == []


@pytest.mark.parametrize(
    "names",
    [
        ["W1", "W2", "W9", "W10", "W11"],
        ["2023-11", "2023-12", "2024-01", "2024-02", "2024-03"],
        ["5 in 2023", "6 in 2023", "10 in 2023", "11 in 2023", "12 in 2023"],
    ],
)
def test_columns_of_periods_may_come_in_any_order(tmp_path: Path, names: list[str]) -> None:
    values = dict(zip(names, range(len(names)), strict=True))
    options = SourceOptions(options={"wide": True, "series": "shop", "window": 2})
    found = []
    for seed in range(4):
        order = Random(seed).sample(names, len(names)) if seed else names
        path = tmp_path / "wide.csv"
        cells = ",".join(str(values[name]) for name in order)
        path.write_text(f"{','.join(['shop', *order])}\nnorth,{cells}\n", encoding="utf-8")
        adapter = TableAdapter()
        read = [*adapter.documents(path, options), *adapter.questions(path, options)]
        found.append([(document.id, document.text) for document in read])
    assert found[0] == found[1] == found[2] == found[3]
    assert "last: 3\t4 | next: " in found[0][-1][1]


def test_periods_that_two_numbers_name_stay_as_the_file_has_them(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("shop,P3 a23,P4 a23,P1 a24\nnorth,1,2,3\n", encoding="utf-8")
    options = SourceOptions(options={"wide": True, "series": "shop", "window": 2})
    assert [document.text for document in TableAdapter().documents(path, options)][-1].endswith(
        "last: 1\t2 | next: 3\n"
    )


@pytest.mark.parametrize(
    ("dates", "following"),
    [
        (["2023-11", "2023-12"], "Jan"),
        (["2024-02", "2024-03"], "Apr"),
        (["2024-02-01", "2024-03-01"], "Mon Apr 01"),
        (["2024-01-30", "2024-01-31"], "Thu Feb 01"),
        (["2024-03-04", "2024-03-11"], "Mon Mar 18"),
        (["2024-Q3", "2024-Q4"], "Jan"),
    ],
)
def test_what_comes_next_has_the_date_of_the_next_period(tmp_path: Path, dates: list[str], following: str) -> None:
    path = tmp_path / "long.csv"
    path.write_text("shop,day,sold\n" + "".join(f"north,{day},5\n" for day in dates), encoding="utf-8")
    options = SourceOptions(options={"label": "sold", "time": "day", "series": "shop"})
    (question,) = TableAdapter().questions(path, options)
    assert f"day: {following} | last: 5\t5 | next: " in question.text


@pytest.mark.parametrize("renamed", ["sold", "day"])
def test_a_question_about_a_series_needs_its_values_and_times(tmp_path: Path, renamed: str) -> None:
    path = tmp_path / "long.csv"
    path.write_text("shop,day,sold\nnorth,2024-03-04,5\n".replace(renamed, renamed.title()), encoding="utf-8")
    options = SourceOptions(options={"label": "sold", "time": "day", "series": "shop"})
    line = rf'\[data.columns\]\n"{renamed}" = "{renamed} \| {renamed.title()}"'
    with pytest.raises(DataError, match=rf"no column '{renamed}'(.|\n)*{line}"):
        list(TableAdapter().questions(path, options))
