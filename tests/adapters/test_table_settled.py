"""Later files of a table keep to the columns of training, in their order, whatever order they have themselves."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from slm_ar.adapters.table import TableAdapter
from slm_ar.core.contracts import Settler, SourceOptions
from slm_ar.core.errors import DataError

COLUMNS = ["city", "item", "price", "day", "late"]
ROWS = [
    ["Köln", "lamp", "12.5", "2024-03-01", "no"],
    ["Rome", "chair, red", "", "2024-03-02", "yes"],
    ["Oslo", "clock", "7", "2024-03-03", "no"],
]


def write(path: Path, columns: list[str], also: dict[str, str] | None = None) -> Path:
    """The rows with these columns in this order, and others that hold one value in every row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *(also or {})])
        for row in ROWS:
            by_name = dict(zip(COLUMNS, row, strict=True))
            writer.writerow([*(by_name[name] for name in columns), *(also or {}).values()])
    return path


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return write(tmp_path / "known.csv", COLUMNS)


def settled_by(known: Path, options: dict[str, Any]) -> SourceOptions:
    adapter = TableAdapter()
    assert isinstance(adapter, Settler)
    return SourceOptions(options=options, settled=adapter.settle(known, SourceOptions(options=options)))


def prompts(source: Path, options: SourceOptions) -> tuple[list[str], str]:
    adapter = TableAdapter()
    return [question.text for question in adapter.questions(source, options)], "\n".join(adapter.notices)


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("columns", ["", "price, city"])
def test_the_order_of_the_file_does_not_matter(known: Path, tmp_path: Path, names: bool, columns: str) -> None:
    options = settled_by(known, {"label": "late", "names": names, "columns": columns})
    trained = [
        document.text.encode()[: document.spans[0].start].decode()
        for document in TableAdapter().documents(known, SourceOptions(options=options.options))
    ]
    for seed in range(4):
        shuffled = random.Random(seed).sample(COLUMNS, len(COLUMNS))
        texts, notices = prompts(write(tmp_path / "new.csv", shuffled), options)
        assert texts == trained
        assert "columns" not in notices
    evaluated = TableAdapter().documents(write(tmp_path / "new.csv", COLUMNS[::-1]), options)
    assert [document.text for document in evaluated] == [
        document.text for document in TableAdapter().documents(known, SourceOptions(options=options.options))
    ]


def test_without_the_facts_of_training_the_order_is_told(known: Path) -> None:
    _, notices = prompts(known, SourceOptions(options={"label": "late"}))
    assert "columns stand in the order of this file" in notices


def test_missing_columns_are_explicit_and_new_ones_are_left_out_and_told(known: Path, tmp_path: Path) -> None:
    options = settled_by(known, {"label": "late", "drop": "day"})
    new = write(tmp_path / "new.csv", ["price", "city", "day"], {"weather": "rain", "": "0"})
    texts, notices = prompts(new, options)
    assert texts[0] == "city: Köln | item: ? | price: 12.5 | late: "
    assert f"{new}: columns of training that are not here, written as missing (item): 1" in notices
    assert f"{new}: columns that training has not, left out (weather): 1" in notices


def test_a_renamed_column_is_not_taken_for_a_missing_one(known: Path, tmp_path: Path) -> None:
    options = settled_by(known, {"label": "late"})
    new = tmp_path / "new.csv"
    new.write_text("city,Item,price,day\nRome,chair,3,2024-03-05\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no column 'item' \(training has one\)\nDid you mean 'Item'(.|\n)*Item"):
        prompts(new, options)
    renamed = SourceOptions({"item": "item | Item"}, options=options.options, settled=options.settled)
    assert prompts(new, renamed)[0][0].startswith("city: Rome | item: chair | price: 3")


def test_another_table_is_refused(known: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("name,price,street\nRome,3,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="has 1 of the 4 columns of training, missing are 'city', 'item', 'day'"):
        prompts(new, settled_by(known, {"label": "late"}))


def test_objects_leave_out_what_they_have_not(known: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.jsonl"
    new.write_text('{"price": 3, "colour": "red"}\n', encoding="utf-8")
    texts, notices = prompts(new, settled_by(known, {"label": "late"}))
    assert texts == ["city: ? | item: ? | price: 3 | day: ? | late: "]
    assert "(city, item, day): 3" in notices and "left out (colour): 1" in notices


def test_series_settle_nothing(tmp_path: Path) -> None:
    options = {"label": "price", "time": "day", "series": "city"}
    assert TableAdapter().settle(write(tmp_path / "t.csv", COLUMNS), SourceOptions(options=options)) == {}
