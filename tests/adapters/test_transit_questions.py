"""Rows whose delay is not known become prompts, written as training documents are up to the answer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import Document, Questioner, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

BUS = """Date,Line,Time,Station,Code,Min Delay,Min Gap,Bound,Vehicle
2025-01-02,35,06:10,JANE,MFESA,,20,N,8194
2025-01-01,102,02:15,WARDEN,MFUS,20,40,,3442
2025-01-02,7,05:50,KING,MFUS,5,10,S,1
2025-01-02,8,23:50,KING,MFUS,,,S,
2025-01-02,9,24:10,CAFÉ,MFUS,7,9,S,2
"""
ARRIVALS = """BETRIEBSTAG;LINIEN_ID;LINIEN_TEXT;HALTESTELLEN_NAME;ANKUNFTSZEIT;AN_PROGNOSE;FAELLT_AUS_TF
2024-01-02;85:3;3;Thun;2024-01-02 06:54:00;;False
2024-01-02;85:3;3;Thun;2024-01-02 05:54:00;2024-01-02 05:54:12;False
2024-01-02;85:3;3;Thun;2024-01-02 07:54:00;;True
"""


def ask(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().questions(source, SourceOptions(**options)))  # type: ignore[arg-type]


def test_incidents(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    path.write_text(BUS, encoding="utf-8")
    adapter = TransitAdapter()
    assert isinstance(adapter, Questioner)
    first, second = adapter.questions(path, SourceOptions())
    assert (first.id, first.group, first.time) == ("bus.csv row 1", "2025-01-02", "2025-01-02")
    assert first.text == "bus Thu Jan 02\n05:50 7 | KING | S | MFUS | 5 | 10 | 1\n06:10 35 | JANE | N | MFESA | "
    assert second.id == "bus.csv row 4"
    assert second.text == ("bus Thu Jan 02\n05:50 7 | KING | S | MFUS | 5 | 10 | 1\n23:50 8 | KING | S | MFUS | ")
    end = len(second.text.encode())
    assert [(span.start, span.end, span.task) for span in second.spans] == [(end, end, "delay")]


def test_a_prompt_is_the_beginning_of_the_training_document(tmp_path: Path) -> None:
    """Up to 20 lines before it, and cut at the answer: the same text, byte for byte."""
    random.seed(0)
    rows = [f"2025-01-0{n % 3 + 1},{n},{n % 20:02d}:{n % 60:02d},S{n % 4},C,{n % 9}," for n in range(60)]
    random.shuffle(rows)
    header = "Date,Line,Time,Station,Code,Min Delay,Min Gap\n"
    known, asked = tmp_path / "known" / "bus.csv", tmp_path / "asked" / "bus.csv"
    for path in (known, asked):
        path.parent.mkdir()
    known.write_text(header + "\n".join(rows) + "\n", encoding="utf-8")
    open_rows = [rows[40].rsplit(",", 2)[0] + ",,", *rows[:40], *rows[41:]]
    asked.write_text(header + "\n".join(open_rows) + "\n", encoding="utf-8")
    (question,) = ask(asked)
    (document,) = (each for each in TransitAdapter().documents(known, SourceOptions()) if each.group == question.group)
    day, *lines = question.text.split("\n")
    assert document.text.startswith(day + "\n") and "\n".join(lines) in document.text
    assert 1 <= len(lines) <= 21


def test_only_twenty_lines_are_shown(tmp_path: Path) -> None:
    rows = "".join(f"2025-01-01,1,{hour:02d}:{minute:02d},S,C,3\n" for hour in range(5) for minute in range(9))
    path = tmp_path / "bus.csv"
    path.write_text("Date,Line,Time,Station,Code,Delay\n2025-01-01,1,23:00,S,C,\n" + rows, encoding="utf-8")
    (question,) = ask(path)
    assert question.text.count("\n") == 21
    assert question.text.startswith("bus Wed Jan 01\n02:07 1 | ")


def test_a_file_without_the_delay_column(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    path.write_text("Date,Line,Time,Station,Code\n2025-01-02,35,06:10,JANE,MFESA\n", encoding="utf-8")
    (question,) = ask(path)
    assert question.text == "bus Thu Jan 02\n06:10 35 | JANE |  | MFESA | "
    with pytest.raises(DataError, match="looks like an incident log, but no column is known for: delay"):
        list(TransitAdapter().documents(path, SourceOptions()))


@pytest.mark.parametrize("column", ["AN_PROGNOSE", "something_else"])
def test_arrivals(tmp_path: Path, column: str) -> None:
    path = tmp_path / "thun.csv"
    path.write_text(ARRIVALS.replace("AN_PROGNOSE", column), encoding="utf-8")
    questions = ask(path)
    if column == "AN_PROGNOSE":
        (question,) = questions
        assert question.text == "line 3 Thun Tue Jan 02\n05:54 | +0.2\n06:54 | "
    else:
        assert [question.text for question in questions] == [
            "line 3 Thun Tue Jan 02\n06:54 | ",
            "line 3 Thun Tue Jan 02\n05:54 | ",
        ]


def test_trips_keep_their_heading(tmp_path: Path) -> None:
    head = "service_date,train_id,line,to,scheduled_time,actual_time,stop_sequence\n"
    rows = [f"2024-01-02,12,N,S{n},05:{n:02d}:00,05:{n + 1:02d}:00,{n}\n" for n in range(30)]
    path = tmp_path / "rail.csv"
    path.write_text(head + "".join(rows) + "2024-01-02,12,N,END,05:40:00,,31\n", encoding="utf-8")
    (question,) = ask(path)
    lines = question.text.split("\n")
    assert lines[:2] == ["line N Tue Jan 02", "trip 12"] and lines[-1] == "05:40 END | "
    assert len(lines) == 1 + 1 + 20 + 1


def test_files_keep_their_order_and_names(tmp_path: Path) -> None:
    for name in ("b.csv", "a-bus.csv"):
        (tmp_path / name).write_text(BUS, encoding="utf-8")
    identities = [question.id for question in ask(tmp_path)]
    assert identities == ["a-bus.csv row 1", "a-bus.csv row 4", "b.csv row 1", "b.csv row 4"]


def test_nothing_to_ask(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    path.write_text("Date,Line,Time,Station,Code,Delay\n2025-01-02,35,06:10,JANE,X,5\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no row waits for an answer\n(.*\n)?.*slm-ar eval"):
        ask(path)
    path.write_text("stop_id,name\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no incident log"):
        ask(path)


def test_unreadable_rows_are_counted_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    header = "Date,Line,Time,Station,Code,Delay\n"
    path.write_text(header + "2025-01-02,35,06:10,JANE,X,\n" * 9 + "2025-13-02,35,06:10,JANE,X,\n", encoding="utf-8")
    adapter = TransitAdapter()
    assert len(list(adapter.questions(path, SourceOptions()))) == 9
    assert "unreadable date, time or number" in adapter.notices[-1]
    path.write_text(header + "2025-13-02,35,06:10,JANE,X,\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 of 1 rows"):
        ask(path)


def test_a_log_with_open_rows_conforms(tmp_path: Path) -> None:
    source = tmp_path / "log"
    source.mkdir()
    rows = "".join(f"2025-01-0{n % 3 + 1},{n},0{n % 10}:10,S,C,{n}\n" for n in range(20))
    text = "Date,Line,Time,Station,Code,Delay\n" + rows + "2025-01-02,35,06:10,JANE,X,\n"
    (source / "bus.csv").write_text(text, encoding="utf-8")
    assert check_adapter(TransitAdapter(), source) == []
