"""The table adapter on real tables, when SLM_AR_REAL_DATA names the folder that holds them."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from slm_ar.adapters.table import TableAdapter
from slm_ar.core.contracts import Document, SourceOptions, Task
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

pytestmark = pytest.mark.realdata


@pytest.fixture
def real_data() -> Path:
    named = os.environ.get("SLM_AR_REAL_DATA", "")
    if not named or not Path(named, "products").is_dir():
        pytest.skip("SLM_AR_REAL_DATA does not name a folder that holds products/")
    return Path(named)


def read(source: Path, options: SourceOptions) -> tuple[list[Document], Task, list[str]]:
    """Documents, the task and the notices; the conformance suite on the way."""
    adapter = TableAdapter()
    documents = list(adapter.documents(source, options))
    told = adapter.notices
    (task,) = adapter.find_tasks(source, options)
    assert check_adapter(TableAdapter(), source, options) == []
    return documents, task, told


def test_product_titles(real_data: Path) -> None:
    given = {"label": "Category Label", "columns": "Product Title", "group": "Cluster ID", "names": False}
    source = real_data / "products" / "pricerunner_aggregate.csv.gz"
    documents, task, told = read(source, SourceOptions(options=given))
    assert (len(documents), len({document.group for document in documents}), told) == (35_311, 13_233, [])
    assert documents[0].text == "apple iphone 8 plus 64gb silver => Mobile Phones\n"
    assert (task.kind, task.metric, len(task.choices)) == ("choice", "accuracy", 10)


def test_messages(real_data: Path) -> None:
    columns = {"label": "column_1", "text": "column_2"}
    options = SourceOptions(columns=columns, options={"header": False})
    documents, task, _ = read(real_data / "messages" / "SMSSpamCollection", options)
    assert (len(documents), len({document.text for document in documents})) == (5_574, 5_160)
    assert (task.metric, task.positive, task.choices) == ("pr_auc", "spam", ("ham", "spam"))


def test_weekly_sales(real_data: Path) -> None:
    given = {"series": "Product_Code", "wide": True, "window": 8}
    documents, task, _ = read(real_data / "demand" / "Sales_Transactions_Weekly.csv", SourceOptions(options=given))
    assert len(documents) == 811 * 48
    error = total = mean_error = 0.0
    for document in documents:
        if document.group in {f"W{week}" for week in range(44, 52)}:
            history, gold = document.text.rpartition("last: ")[2].strip().split(" | next: ")
            values = [int(value) for value in history.split()]
            error += abs(values[-1] - int(gold))
            mean_error += abs(sum(values) / len(values) - int(gold))
            total += int(gold)
    assert (round(error / total, 3), round(mean_error / total, 3)) == (0.317, 0.264)
    assert (task.kind, task.metric) == ("value", "wape")


def test_avocado_prices(real_data: Path) -> None:
    given = {"label": "AveragePrice", "time": "Date", "series": "region, type", "window": 8}
    documents, _, _ = read(real_data / "demand" / "avocado.csv", SourceOptions(options=given))
    assert len({document.text.partition(" | Date")[0] for document in documents}) == 108
    late = [document for document in documents if document.time and document.time >= "2018-01-01"]
    assert len(late) == 1_296
    errors = []
    for document in late:
        history, gold = document.text.rpartition("last: ")[2].strip().split(" | next: ")
        errors.append(abs(float(history.split()[-1]) - float(gold)))
    assert round(sum(errors) / len(errors), 3) == 0.119


def test_fund_categories(real_data: Path) -> None:
    given = {"section": "category, house", "label": "category", "columns": "Scheme Name", "group": "house"}
    documents, task, _ = read(real_data / "funds" / "NAVAll.txt", SourceOptions(options=given))
    assert (len(documents), len(task.choices)) == (14_025, 50)
    assert len({document.group for document in documents}) == 47


def test_alerts_in_a_log(real_data: Path) -> None:
    given = {"label": "Label", "normal": "-", "time": "Timestamp", "columns": "Timestamp, Component, Level, Content"}
    source = real_data / "logs" / "BGL_2k.log_structured.csv"
    documents, task, _ = read(source, SourceOptions(options=given))
    answers = Counter(document.text.strip().rpartition("Label: ")[2] for document in documents)
    assert answers == {"-": 1_857, "alert": 143}
    assert (task.metric, task.positive) == ("pr_auc", "alert")


def test_what_is_no_table(real_data: Path) -> None:
    for name in ("BGL", "HDFS", "Linux", "OpenSSH"):
        with pytest.raises(DataError, match=r"_2k\.log: (most rows have not the 2 cells|is no table)"):
            list(TableAdapter().documents(real_data / "logs" / f"{name}_2k.log", SourceOptions()))
    adapter = TableAdapter()
    assert len(list(adapter.documents(real_data / "logs" / "HealthApp_2k.log", SourceOptions()))) == 1_999
    assert "header = false" in adapter.notices[-1]
    with pytest.raises(DataError, match="has no column 'label'"):
        list(TableAdapter().documents(real_data / "messages", SourceOptions(options={"label": "label"})))
