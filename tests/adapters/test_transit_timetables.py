"""Static GTFS feeds with the quirks of real publishers: folder and zip, blank times, frequencies, odd files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.adapters.transit.clock import parse_service_time, service_clock
from slm_ar.adapters.transit.feed import feed_part
from slm_ar.core.contracts import Document, SourceOptions, SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

STOPS = "stop_id,stop_name,parent_station\nA,Harbour,\nB,Old Mill,\nC,Café Corner,\nC1,,C\nD,,\n"
ROUTES = (
    "route_id,route_short_name,route_long_name,route_type\n1,1,Harbour Line,3\n2,,Night Line,900\n3,7,7 Express,2\n"
)
TRIPS = """route_id,service_id,trip_id,trip_headsign,direction_id
1,week,t1,West,0
1,week,t2,West,0
1,sun,t3,West,0
1,week,t4,West,0
2,week,t5,,1
"""
TIMES = """trip_id,arrival_time,departure_time,stop_id,stop_sequence
t1,5:30:00,5:30:00,A,1
t1,5:34:00,5:36:00,B,2
t1,,,C1,3
t1,5:45:00,5:45:00,D,4
t2,10:00:00,10:00:00,A,1
t2,10:04:00,10:06:00,B,2
t2,,,C1,3
t2,10:15:00,10:15:00,D,4

t3,25:39:00,25:39:00,A,10
t3,25:43:00,25:45:00,B,20
t3,,,C1,30
t3,25:54:00,25:54:00,D,40
t4,07:00:00,07:00:00,A,1
t4,07:09:00,07:09:00,B,2
t4,,,C1,3
t4,07:20:00,07:20:00,D,4
t5,23:50:00,23:50:00,B,2
t5,23:40:00,23:40:00,A,1
"""
CALENDAR = (
    "service_id,monday,tuesday,wednesday,thursday,friday,saturday,sunday,start_date,end_date\n"
    "week,1,1,1,1,1,0,0,20240101,20241231\n"
)
DATES = "service_id,date,exception_type\nsun,20240107,1\nsun,20240108,2\nweek,20240101,2\n\n"
WEST = """bus 1 Harbour Line > West | MTWTF-S | 3 trips 05:30-25:39
Harbour
Old Mill | +4 wait 2
Café Corner | +?
D | +9
"""


def feed_files(**changes: str) -> dict[str, str]:
    files = {
        "stops.txt": STOPS,
        "routes.txt": ROUTES,
        "trips.txt": TRIPS,
        "stop_times.txt": TIMES,
        "calendar.txt": CALENDAR,
        "calendar_dates.txt": DATES,
    }
    return files | {name.replace("__", "."): text for name, text in changes.items()}


def write_feed(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def read(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().documents(source, SourceOptions(options=options)))


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    return write_feed(tmp_path / "feed", feed_files())


def test_trips_that_differ_in_the_hour_only_are_one_document(feed: Path) -> None:
    adapter = TransitAdapter()
    documents = list(adapter.documents(feed, SourceOptions()))
    texts = [document.text for document in documents]
    assert WEST in texts and len(texts) == 3
    slow = "bus 1 Harbour Line > West | MTWTF-- | 1 trip 07:00\nHarbour\nOld Mill | +9\nCafé Corner | +?\nD | +11\n"
    assert slow in texts
    assert "tram Night Line > direction 1 | MTWTF-- | 1 trip 23:40\nHarbour\nOld Mill | +10\n" in texts
    one, other = (document for document in documents if "West" in document.text)
    assert one.group == other.group and one.id != other.id
    assert len({document.group for document in documents}) == 2
    raw = documents[texts.index(WEST)].text.encode()
    spans = documents[texts.index(WEST)].spans
    assert [(raw[span.start : span.end], span.task) for span in spans] == [(b"+4", "next_stop"), (b"+9", "next_stop")]
    assert adapter.slices(documents[texts.index(WEST)]) == {"mode": "bus", "line": "1", "month": "any"}
    assert adapter.answer_slices(documents[texts.index(WEST)], spans[0]) == {"line": "1", "hour": "any"}
    assert adapter.notices == [
        f"{feed}: holds 1 static GTFS feed",
        f"{feed}: trips of the static GTFS feed read: 5",
    ]


def test_timetables_are_split_by_pattern_and_logs_by_time(feed: Path, tmp_path: Path) -> None:
    adapter = TransitAdapter()
    assert adapter.split_rule(feed, SourceOptions()) is SplitRule.GROUP
    assert [task.name for task in adapter.find_tasks(feed, SourceOptions())] == ["next_stop"]
    (tmp_path / "bus.csv").write_text("Date,Time,Line,Station,Code,Delay\n2024-01-02,06:10,1,X,Y,5\n", encoding="utf-8")
    assert adapter.split_rule(tmp_path, SourceOptions()) is SplitRule.TIME
    assert [task.name for task in adapter.find_tasks(tmp_path, SourceOptions())] == ["delay"]
    assert [document.id for document in adapter.documents(tmp_path, SourceOptions())] == ["2024-01-02/bus"]
    assert "lies beside logs" in "\n".join(adapter.notices)
    schedule = SourceOptions(options={"kind": "schedule"})
    assert adapter.split_rule(tmp_path, schedule) is SplitRule.GROUP
    assert read(tmp_path, kind="schedule") == read(feed)


class SplitByGroup(TransitAdapter):
    """As prepare sees the adapter of a timetable: with the rule that `split_rule` gave."""

    split = SplitRule.GROUP


def test_a_timetable_conforms(feed: Path) -> None:
    assert check_adapter(SplitByGroup(), feed) == []


def test_folder_and_zip_and_a_folder_in_a_zip_are_the_same(feed: Path, tmp_path: Path) -> None:
    for name, inner in (("one.zip", ""), ("other-name.zip", "gtfs/")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path in sorted(feed.iterdir(), reverse=True):
                archive.write(path, inner + path.name)
        assert read(tmp_path / name) == read(feed)


def test_line_ends_marks_encodings_order_and_extra_files_change_nothing(feed: Path, tmp_path: Path) -> None:
    expected = read(feed)
    odd = write_feed(tmp_path / "odd", {name: text.replace("\n", "\r\n") for name, text in feed_files().items()})
    (odd / "trips.txt").write_bytes(("\ufeff" + TRIPS).encode())
    (odd / "stops.txt").write_bytes(STOPS.encode("cp1252"))
    header, *rows = TIMES.strip().splitlines()
    shuffled = [header, "", *sorted(rows, key=lambda row: row[::-1]), "", ""]
    (odd / "stop_times.txt").write_text("\n".join(shuffled), encoding="utf-8")
    (odd / "shapes.txt").write_bytes(b"\x00\x01 not read")
    (odd / "realtime_routes.txt").write_text("route_id,realtime_enabled\n1,1\n", encoding="utf-8")
    (odd / "frequencies.txt").write_text("", encoding="utf-8")
    (odd / "transfers.txt").write_text("\n\n", encoding="utf-8")
    adapter = TransitAdapter()
    assert list(adapter.documents(odd, SourceOptions())) == expected
    notices = "\n".join(adapter.notices)
    assert (
        "read as Windows-1252" in notices and "frequencies.txt: empty files of a feed, taken as missing: 1" in notices
    )


def test_trips_by_frequency_are_counted_and_marked(tmp_path: Path) -> None:
    frequencies = "trip_id,start_time,end_time,headway_secs\nt1,6:00:00,7:00:00,720\nt1,07:00:00,24:30:00,1800\n"
    source = write_feed(tmp_path / "feed", feed_files(frequencies__txt=frequencies + "t2,x,08:00:00,600\n"))
    adapter = TransitAdapter()
    documents = list(adapter.documents(source, SourceOptions()))
    (document,) = (each for each in documents if "every" in each.text)
    # 5 from 06:00 to 06:48 and 35 from 07:00 to 24:00, beside t2 and t3, which run once.
    assert document.text.splitlines()[0] == (
        "bus 1 Harbour Line > West | MTWTF-S | 42 trips 06:00-25:39 every 12-30 min"
    )
    assert f"{source}: unreadable frequencies, left out: 1" in adapter.notices


def test_seconds_are_tenths_of_minutes_and_profiles_do_not_depend_on_the_start(tmp_path: Path) -> None:
    trips = "route_id,service_id,trip_id,trip_headsign\n9,s,a,X\n9,s,b,X\n"
    times = """trip_id,arrival_time,departure_time,stop_id,stop_sequence
a,08:00:00,08:00:00,A,1
a,08:01:04,08:01:04,B,2
a,08:02:00,08:02:00,C,3
b,09:00:40,09:00:40,A,1
b,09:01:44,09:01:44,B,2
b,09:02:40,09:02:40,C,3
"""
    source = write_feed(tmp_path / "feed", feed_files(trips__txt=trips, stop_times__txt=times))
    (document,) = read(source)
    head = "line 9 > X | ------- | 2 trips 08:00-09:00\nHarbour\n"
    assert document.text == head + "Old Mill | +1.1\nCafé Corner | +0.9\n"
    (document,) = read(source, seconds=False)
    assert document.text == head + "Old Mill | +1\nCafé Corner | +1\n"
    (document,) = read(source, stop_ids=True)
    assert document.text.splitlines()[1:] == ["A", "B | +1.1", "C | +0.9"]


def test_two_feeds_keep_their_patterns_in_one_group(feed: Path, tmp_path: Path) -> None:
    write_feed(tmp_path / "later", feed_files(trips__txt=TRIPS.replace("sun,t3", "week,t3")))
    documents = read(tmp_path)
    assert len(documents) == 6 == len({document.id for document in documents})
    assert {document.group for document in documents} == {document.group for document in read(feed)}
    assert check_adapter(SplitByGroup(), tmp_path) == []


def test_what_does_not_fit_together_is_counted(tmp_path: Path) -> None:
    times = TIMES + "t9,08:00:00,08:00:00,A,1\nt1,08:00,bad,A,9\nt2,10:20:00,10:20:00,Z,9\nt3,1:00:00,1:00:00,A,\n"
    trips = TRIPS + "1,week,t8,West,0\n1,week,t1,West,0\n"
    source = write_feed(tmp_path / "feed", feed_files(trips__txt=trips, stop_times__txt=times))
    adapter = TransitAdapter()
    assert list(adapter.documents(source, SourceOptions()))
    notices = "\n".join(adapter.notices)
    for expected in (
        "trips of stop_times.txt that trips.txt does not know, left out: 1",
        "trips without stop times, left out: 1",
        "trips with an id that occurs twice, the first one was taken: 1",
        "unreadable times, taken as blank: 1",
        "stop times without a stop or its place in the trip, left out: 1",
        "stop times at a stop that stops.txt does not know, called by its id: 1",
    ):
        assert expected in notices


def test_a_feed_that_cannot_work_says_why(tmp_path: Path) -> None:
    source = write_feed(tmp_path / "feed", feed_files(stop_times__txt=TIMES.replace("stop_sequence", "order")))
    with pytest.raises(DataError, match=r"stop_times\.txt: has no column 'stop_sequence'"):
        read(source)
    (source / "stop_times.txt").write_text("<html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"stop_times\.txt: is a web page"):
        read(source)
    (source / "stop_times.txt").write_text(TIMES.splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no trip of the timetable can be used(\n.*)*trips without stop times"):
        read(source)
    (source / "stop_times.txt").unlink()
    with pytest.raises(DataError, match=r"holds no .*static GTFS feed(\n.*)*part of a static GTFS feed"):
        read(source)
    with pytest.raises(DataError, match="holds no static GTFS feed"):
        read(source, kind="schedule")


def test_options_are_checked(feed: Path) -> None:
    with pytest.raises(DataError, match="kind = 'timetable' is unknown"):
        read(feed, kind="timetable")
    with pytest.raises(DataError, match=r"only a static GTFS feed\nRemove kind"):
        read(feed, kind="logs")
    with pytest.raises(DataError, match="stop_ids must be true or false"):
        read(feed, stop_ids="yes")
    with pytest.raises(DataError, match="timezone = 'Mars/Olympus' is unknown"):
        read(feed, timezone="Mars/Olympus")


def test_since_does_not_apply(feed: Path) -> None:
    adapter = TransitAdapter()
    assert list(adapter.documents(feed, SourceOptions(since="2030-01-01")))
    assert f"{feed}: since and until do not apply to a timetable" in adapter.notices


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stops.txt", ("", "stops.txt")),
        ("gtfs/Stop_Times.txt", ("", "stop_times.txt")),
        ("vta_Static_stops.txt", ("vta_static_", "stops.txt")),
        ("calendar_dates.txt", ("", "calendar_dates.txt")),
        ("bustrips.txt", None),
        ("stops.csv", None),
    ],
)
def test_files_of_a_feed(name: str, expected: tuple[str, str] | None) -> None:
    assert feed_part(name) == expected


def test_service_times() -> None:
    good = {"5:30:00": 19800, " 25:39:30 ": 92370, "05:30": 19800, "48:00:00": 172800}
    assert {text: parse_service_time(text) for text in good} == good
    assert [parse_service_time(text) for text in ("", "5:60:00", "99:00:00", "-1:00:00", "5h", "1:2:3")] == [None] * 6
    assert [service_clock(seconds) for seconds in (0, 19859, 92370, -60)] == ["00:00", "05:30", "25:39", "23:59"]


@settings(max_examples=30, deadline=None)
@given(
    hops=st.lists(st.one_of(st.none(), st.integers(0, 40 * 60)), min_size=1, max_size=8),
    start=st.integers(0, 26 * 3600),
    seconds=st.booleans(),
)
def test_the_steps_add_up_to_the_whole_ride(
    hops: list[int | None], start: int, seconds: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, now = [f"t,{clock(start)},{clock(start)},A,0"], start
    for place, hop in enumerate(hops, start=1):
        now += hop or 0
        rows.append(f"t,{clock(now)},{clock(now)},B,{place}" if hop is not None else f"t,,,B,{place}")
    files = feed_files(
        trips__txt="route_id,service_id,trip_id\n1,s,t\n",
        stop_times__txt="trip_id,arrival_time,departure_time,stop_id,stop_sequence\n" + "\n".join(rows) + "\n",
    )
    (document,) = read(write_feed(tmp_path_factory.mktemp("ride"), files), seconds=seconds)
    raw = document.text.encode()
    steps = [float(raw[span.start : span.end]) for span in document.spans]
    assert len(steps) == sum(hop is not None for hop in hops)
    assert document.text.count("+?") == sum(hop is None for hop in hops)
    assert abs(sum(steps) - (now - start) / 60) <= 0.51


def clock(seconds: int) -> str:
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
