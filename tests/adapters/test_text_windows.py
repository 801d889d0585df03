"""The text adapter on logs: how times are written, windows, what becomes of dates, and splits by time."""

from __future__ import annotations

import gzip
import os
import zipfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.adapters.text import TextAdapter
from slm_ar.adapters.text.stamps import FORMATS, YearCounter, find_format, read_stamp, without_date
from slm_ar.adapters.text.windows import window_of
from slm_ar.core.contracts import Document, SourceOptions, SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

REAL_DATA = Path(os.environ.get("SLM_AR_REAL_DATA", "/nonexistent"))


def read(source: Path, *, since: str | None = None, until: str | None = None, **options: object) -> list[Document]:
    return list(TextAdapter().documents(source, SourceOptions(since=since, until=until, options=options)))


@pytest.fixture
def access_log(tmp_path: Path) -> Path:
    path = tmp_path / "access.log"
    path.write_text(
        "server started\n"
        "2024-02-28T22:59:58Z GET /a\n"
        "2024-02-28T23:00:01Z GET /b\n"
        "  while reading a header\n"
        "\n"
        "2024-02-29T00:10:00Z GET /c\n"
        "2024-02-28T23:59:59Z late line\n"
        "2024-02-29T00:20:00Z GET /d\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize(
    ("line", "moment", "left"),
    [
        (
            "- 1117838570 2005.06.03 R02-M1 2005-06-03-15.42.50.675872 R02-M1 RAS KERNEL",
            "2005-06-03T15:42:50",
            "- R02-M1 15.42.50.675872 R02-M1 RAS KERNEL",
        ),
        ("081109 203615 148 INFO dfs.DataNode", "2008-11-09T20:36:15", "203615 148 INFO dfs.DataNode"),
        ("20171223-22:15:29:606|Step|3", "2017-12-23T22:15:29", "22:15:29:606|Step|3"),
        ("20171224-0:7:1:3|Step|3", "2017-12-24T00:07:01", "0:7:1:3|Step|3"),
        ("Jun 14 15:16:01 combo sshd[1]: x", "2000-06-14T15:16:01", "15:16:01 combo sshd[1]: x"),
        ("<34>Oct  1 22:14:15 host su: x", "2000-10-01T22:14:15", "<34>22:14:15 host su: x"),
        ("Jun 14 2005 15:16:01 fw %ASA", "2005-06-14T15:16:01", "15:16:01 fw %ASA"),
        ("2015-07-29 17:41:41,536 - INFO", "2015-07-29T17:41:41", "17:41:41,536 - INFO"),
        ("[2024-01-02T03:04:05.678+01:00] x", "2024-01-02T03:04:05", "[03:04:05.678+01:00] x"),
        ("2005/06/09 06:07 notice", "2005-06-09T06:07:00", "06:07 notice"),
        ("17/06/09 20:10:40 INFO executor", "2017-06-09T20:10:40", "20:10:40 INFO executor"),
        (
            '1.2.3.4 - - [10/Oct/2024:13:55:36 -0700] "GET /"',
            "2024-10-10T13:55:36",
            '1.2.3.4 - - [13:55:36 -0700] "GET /"',
        ),
        ("[Sun Dec 04 04:47:44 2005] [error] x", "2005-12-04T04:47:44", "[04:47:44] [error] x"),
        ("03-17 16:13:38.811  1702 D x", "2000-03-17T16:13:38", "16:13:38.811  1702 D x"),
        ("134681 node-246 unix.hw 1077804742 1 up", "2004-02-26T14:12:22", "134681 node-246 unix.hw 14:12:22 1 up"),
    ],
)
def test_every_spelling_of_a_time_is_read_and_loses_its_date(line: str, moment: str, left: str) -> None:
    known = find_format([line + "\n"])
    assert known is not None
    match = known.find(line)
    assert match is not None
    found = read_stamp(match, 2000)
    assert found is not None and found.isoformat() == moment
    assert without_date(line, match, known, found) == left


def test_the_spelling_is_that_of_most_lines() -> None:
    lines = ["Jun 14 15:16:01 a", "2015-07-29 17:41:41 b", "2015-07-29 17:41:42 c", "wrapped"]
    known = find_format(lines)
    assert known is not None and "ISO" in known.title
    assert find_format(["no time here", "nor 12 apples here", "at 10.251.73.220:50010"]) is None
    assert find_format([]) is None


def test_impossible_moments_are_no_times() -> None:
    for line in (
        "0001-01-01 00:00:00 x",
        "2024-02-30 10:00:00 x",
        "2024-13-01 10:00:00 x",
        "Feb 30 10:00:00 x",
        "2024-01-01 25:00:00 x",
    ):
        assert find_format([line]) is None


def test_years_are_counted_where_lines_tell_none() -> None:
    known = next(known for known in FORMATS if known.title.startswith("Jun 14 15"))
    years = YearCounter(2023)
    found = []
    for day in ("Nov 30", "Dec 31", "Jan 01", "Dec 31", "Feb 29", "Jun 01", "Dec 24", "Jan 02"):
        match = known.find(f"{day} 12:00:00 x")
        assert match is not None
        moment = years.read(match)
        assert moment is not None
        found.append(moment.date().isoformat())
    assert found == [
        "2023-11-30",
        "2023-12-31",
        "2024-01-01",
        "2023-12-31",
        "2024-02-29",
        "2024-06-01",
        "2024-12-24",
        "2025-01-02",
    ]


def test_windows_gather_their_lines_in_order_of_time(access_log: Path) -> None:
    documents = read(access_log, window="1h")
    assert [(document.id, document.time, document.text) for document in documents] == [
        ("access.log@2024-02-28T22:00", "2024-02-28T22:00", "server started\n22:59:58Z GET /a\n"),
        (
            "access.log@2024-02-28T23:00",
            "2024-02-28T23:00",
            "23:00:01Z GET /b\n  while reading a header\n23:59:59Z late line\n",
        ),
        ("access.log@2024-02-29T00:00", "2024-02-29T00:00", "00:10:00Z GET /c\n00:20:00Z GET /d\n"),
    ]
    assert all(document.group == document.time for document in documents)
    assert [document.time for document in read(access_log, window="1d")] == ["2024-02-28T00:00", "2024-02-29T00:00"]
    assert "2024-02-28T22:59:58Z GET /a" in read(access_log, window="1h", keep_dates=True)[0].text


def test_notices_tell_what_was_assumed(access_log: Path) -> None:
    adapter = TextAdapter()
    list(adapter.documents(access_log, SourceOptions(options={"window": "1h"})))
    assert adapter.notices == [
        f"{access_log}: files with times like 2024-12-31 23:59:59 (ISO 8601): 1",
        f"{access_log}: lines without a readable time, kept with the line before: 2",
    ]


def test_since_and_until_include_both_days(access_log: Path) -> None:
    texts = [document.text for document in read(access_log, window="1h", since="2024-02-29", until="2024-02-29")]
    assert texts == ["00:10:00Z GET /c\n00:20:00Z GET /d\n"]
    assert len(read(access_log, window="1h", until="2024-02-28T23:00:01")) == 2
    assert len(read(access_log, window="1h", until="9999-12-31")) == 3
    with pytest.raises(DataError, match=r"access\.log: holds no text between since and until"):
        read(access_log, window="1h", since="2025-01-01")
    with pytest.raises(DataError, match="since = 'soon' is not a date"):
        read(access_log, window="1h", since="soon")


def test_logs_of_one_time_share_a_group(tmp_path: Path) -> None:
    source = tmp_path / "logs"
    source.mkdir()
    (source / "a.log").write_text("2024-01-01 10:00:00 a\n2024-01-01 11:00:00 a\n", encoding="utf-8")
    (source / "b.log.gz").write_bytes(gzip.compress(b"Jan  1 10:30:00 b\n"))
    with zipfile.ZipFile(source / "c.zip", "w") as archive:
        archive.writestr("in/c.log", "1704106200 c\n")
    (source / "empty.log").write_bytes(b"")
    options = SourceOptions(options={"window": "1h", "year": 2024})
    documents = list(TextAdapter().documents(source, options))
    assert [(document.id, document.group) for document in documents] == [
        ("a.log@2024-01-01T10:00", "2024-01-01T10:00"),
        ("b.log.gz@2024-01-01T10:00", "2024-01-01T10:00"),
        ("c.zip/in/c.log@2024-01-01T10:00", "2024-01-01T10:00"),
        ("a.log@2024-01-01T11:00", "2024-01-01T11:00"),
    ]
    assert check_adapter(TextAdapter(), source, options) == []


def test_a_long_window_becomes_several_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.adapters.text.windows.CHUNK_CHARACTERS", 50)
    monkeypatch.setattr("slm_ar.adapters.text.windows.DOCUMENT_CHARACTERS", 100)
    path = tmp_path / "a.log"
    path.write_text("".join(f"2024-01-01 10:00:{second:02d} event\n" for second in range(40)), encoding="utf-8")
    documents = read(path, window="1d")
    assert [document.id for document in documents[:2]] == ["a.log@2024-01-01T00:00", "a.log@2024-01-01T00:00.2"]
    assert {document.group for document in documents} == {"2024-01-01T00:00"}
    assert "".join(document.text for document in documents).count("event\n") == 40
    assert check_adapter(TextAdapter(), path, SourceOptions(options={"window": "1d"})) == []


def test_the_split_rule_follows_the_times(access_log: Path) -> None:
    adapter = TextAdapter()
    assert adapter.split_rule(access_log, SourceOptions()) is SplitRule.GROUP
    assert adapter.split_rule(access_log, SourceOptions(options={"window": "1d"})) is SplitRule.TIME
    assert adapter.split_rule(access_log, SourceOptions(columns={"time": "when"})) is SplitRule.TIME


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "soon"}, "window = 'soon' is not a length of time\nWrite for example"),
        ({"window": "0h"}, "window = '0h' is not"),
        ({"window": 3600}, "window = 3600 is not"),
        ({"window": "1h", "unit": "lines"}, "window and unit = 'lines' exclude each other"),
        ({"window": "1h", "keep_dates": "yes"}, "keep_dates = 'yes' must be true or false"),
        ({"window": "1h", "year": 24}, "year = 24 must be a whole number from 1970"),
        ({"window": "1h", "column": "text"}, "column = 'text' names a column, but this is plain text"),
        ({"time": "when"}, "time = 'when' names a column, but this is plain text"),
        ({"time": "when", "group": "who"}, "time and group exclude each other"),
    ],
)
def test_bad_window_options(access_log: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(access_log, **options)


def test_a_log_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("It was a dark night.\nThe wind blew.\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"prose\.txt: no time was recognised .* It was a dark night\.\n") as caught:
        read(path, window="1d")
    assert "ISO 8601" in caught.value.hint


def test_since_needs_a_year(tmp_path: Path) -> None:
    path = tmp_path / "auth.log"
    path.write_text("Dec 31 10:00:00 a\nJan  1 10:00:00 b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"auth\.log: its lines tell no year"):
        read(path, window="1d", since="2024-01-01")
    assert [document.text for document in read(path, window="1d", year=2023, since="2024-01-01")] == ["10:00:00 b\n"]
    assert [document.time for document in read(path, window="1d")] == ["2000-12-31T00:00", "2001-01-01T00:00"]


def test_a_table_is_no_log(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\nx\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv: is a table"):
        read(path, window="1d")


# --- the time column of a table -----------------------------------------------------------------


def test_rows_with_times(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text(
        "when,text\n2024-01-02,first\n2024-01-01 10:30,second\nunknown,third\n2024-03-01T00:00:00Z,fourth\n",
        encoding="utf-8",
    )
    options = SourceOptions(columns={"time": "when"})
    adapter = TextAdapter()
    documents = list(adapter.documents(path, options))
    assert [(document.time, document.text) for document in documents] == [
        ("2024-01-02T00:00:00", "first\n"),
        ("2024-01-01T10:30:00", "second\n"),
        ("2024-03-01T00:00:00", "fourth\n"),
    ]
    assert adapter.notices == [f"{path}: rows without a readable time in 'when', skipped: 1"]
    assert check_adapter(TextAdapter(), path, options) == []
    assert [document.text for document in read(path, time="when", since="2024-01-02", until="2024-01-02")] == [
        "first\n"
    ]


def test_a_column_without_times_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("when,text\nmonday,first\ntuesday,second\n", encoding="utf-8")
    with pytest.raises(DataError, match="column 'when' holds no times, such as: monday"):
        read(path, time="when")
    with pytest.raises(DataError, match=r"no column 'wehn' .*time\)\nDid you mean 'when'"):
        read(path, time="wehn")


# --- properties ---------------------------------------------------------------------------------


@given(
    moments=st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2060, 1, 1)), min_size=1, max_size=30),
    hours=st.sampled_from([1, 6, 24, 168]),
)
def test_no_line_is_lost_and_each_lies_in_its_window(
    moments: list[datetime], hours: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    lines = [f"{moment:%Y-%m-%d %H:%M:%S} event {number}\n" for number, moment in enumerate(moments)]
    path.write_text("".join(lines), encoding="utf-8")
    documents = read(path, window=f"{hours // 24}d" if hours >= 24 else f"{hours}h", keep_dates=True)
    assert sorted("".join(document.text for document in documents).splitlines(keepends=True)) == sorted(lines)
    assert [document.time for document in documents] == sorted({document.group for document in documents})
    for document in documents:
        start = datetime.fromisoformat(document.group)
        for line in document.text.splitlines():
            assert start <= datetime.fromisoformat(line[:19]) < start + timedelta(hours=hours)


@given(moment=st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_windows_of_a_week_begin_on_monday(moment: datetime) -> None:
    assert datetime.fromisoformat(window_of(moment, timedelta(weeks=1))).weekday() == 0


# --- real logs ----------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="SLM_AR_REAL_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("BGL_2k.log", "BGL"),
        ("HDFS_2k.log", "HDFS"),
        ("HealthApp_2k.log", "HealthApp"),
        ("Linux_2k.log", "syslog"),
        ("OpenSSH_2k.log", "syslog"),
    ],
)
def test_real_logs(name: str, spelling: str) -> None:
    path = REAL_DATA / "logs" / name
    adapter = TextAdapter()
    documents = list(adapter.documents(path, SourceOptions(options={"window": "1h"})))
    assert any(spelling in notice for notice in adapter.notices)
    assert sum(document.text.count("\n") for document in documents) == 2000
    assert check_adapter(TextAdapter(), path, SourceOptions(options={"window": "1h"})) == []
