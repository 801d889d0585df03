"""Trip logs and position logs: columns of several publishers, clocks, missing delays, names from a feed beside them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.adapters.transit.clock import local_moment, parse_float, seconds_of_service
from slm_ar.adapters.transit.columns import ARRIVALS, INCIDENTS, POSITIONS, TRIPS, best_match
from slm_ar.adapters.transit.feed import zone_named
from slm_ar.core.contracts import Document, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

RAIL = """date,train_id,stop_sequence,from,from_id,to,to_id,scheduled_time,actual_time,delay_minutes,status,line,type
2020-03-02,3845,1.0,Trenton,148,Trenton,148,2020-03-02 05:54:00,2020-03-02 05:54:20,0.33,departed,NEC,NJ Transit
2020-03-02,3845,2.0,Trenton,148,Hamilton,32905,2020-03-02 06:01:00,2020-03-02 06:02:09,1.15,departed,NEC,NJ Transit
2020-03-02,3801,1.0,Dover,35,Dover,35,2020-03-02 23:50:00,2020-03-02 23:50:00,0.0,departed,NEC,NJ Transit
2020-03-02,3801,2.0,Dover,35,Denville,34,2020-03-03 00:05:00,2020-03-03 00:07:00,,estimated,NEC,NJ Transit
2020-03-02,3801,3.0,Dover,35,Newark,34,2020-03-03 00:15:00,,,cancelled,NEC,NJ Transit
2020-03-02,A2151,,Boston,1,New York,2,,2020-03-02 07:00:00,,departed,Amtrak,Amtrak
2020-03-02,A2151,,New York,2,Trenton,3,,2020-03-02 07:48:30,,departed,Amtrak,Amtrak
2020-03-02,A2152,,New York,2,Trenton,3,,2020-03-02 09:48:30,,departed,Amtrak,Amtrak
"""
CALLS = """pulled_at_utc,trip_id,route_id,start_date,stop_id,stop_sequence,arr_time,arr_delay_s,dep_time,dep_delay_s
2026-03-31T05:24:51,3916424,200,20260330,1,1,,,1774935540.0,
2026-03-31T05:24:51,3916424,200,20260330,2,2,1774935602.0,,1774935602.0,
2026-03-31T05:24:51,3916424,200,20260330,3,3,1774935700.0,,,
2026-03-31T05:26:51,3916424,200,20260330,3,3,1774935660.0,,,
2026-03-31T05:26:51,77,200,20260330,3,1,1774935660.0,,,
"""
POSITION_ROWS = """bus_id,trip_id,route_id,lat,lon,time,speed,direction
0130,3926108,200,37.29328155517578,-121.9500503540039,1774486047,0.024,1
0130,3926108,200,37.29448155517578,-121.9503503540039,1774486078,8.09,1
0130,3926108,200,37.29448155517578,-121.9503503540039,1774486078,8.09,1
0130,3926108,200,37.29448155517578,-121.9503503540039,1774486178,0,0
90131,3926114,Rapid 5,37.41,-121.89,1774486047,,1
90132,3926114,Rapid 5,0,0,1774486047,,1
90133,3926114,Rapid 5,37.42,-121.88,1774486047,,1
90134,3926114,Rapid 5,37.43,-121.87,1774486047,,1
"""
STOPS = "stop_id,stop_name\n1,Baypointe\n2,Tasman\n3,Champion\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def read(source: Path, **options: object) -> dict[str, str]:
    return {document.id: document.text for document in documents_of(source, **options)}


def documents_of(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().documents(source, SourceOptions(**options)))  # type: ignore[arg-type]


def test_trips_with_and_without_a_schedule(tmp_path: Path) -> None:
    source = write(tmp_path / "rail", march__csv=RAIL)
    adapter = TransitAdapter()
    documents = list(adapter.documents(source, SourceOptions()))
    assert {document.id: document.text for document in documents} == {
        "2020-03-02/trips Amtrak": "line Amtrak Mon Mar 02\ntrip\n07:00 New York\nTrenton | +48.5\n",
        "2020-03-02/trips NEC": (
            "line NEC Mon Mar 02\ntrip 3845\n05:54 Trenton | +0.3\n06:01 Hamilton | +1.1\n"
            "trip 3801\n23:50 Dover | +0.0\n24:05 Denville | +2.0\n"
        ),
    }
    amtrak, nec = documents
    assert [span.task for span in amtrak.spans] == ["next_stop"]
    assert {span.task for span in nec.spans} == {"delay"}
    assert adapter.slices(nec) == {"mode": "line", "line": "NEC", "month": "2020-03"}
    assert adapter.answer_slices(nec, nec.spans[0]) == {"line": "NEC", "hour": "05", "horizon": "first"}
    assert adapter.answer_slices(nec, nec.spans[1]) == {"line": "NEC", "hour": "06", "horizon": "06-10 min"}
    assert adapter.answer_slices(nec, nec.spans[-1]) == {"line": "NEC", "hour": "00", "horizon": "15-30 min"}
    assert [task.name for task in adapter.find_tasks(source, SourceOptions())] == ["delay", "next_stop"]
    notices = "\n".join(adapter.notices)
    assert f"{source}: holds 1 trip log" in notices
    assert "march.csv: rows skipped, cancelled: 1" in notices
    assert "trips left out, without a delay and seen at fewer than two stops: 1" in notices
    assert check_adapter(TransitAdapter(), source) == []


def test_times_seen_become_run_times_with_names_and_clocks_from_beside(tmp_path: Path) -> None:
    source = write(tmp_path / "avl", pull__csv=CALLS, vta_stops__txt=STOPS)
    assert read(source, options={"timezone": "America/Los_Angeles"}) == {
        "2026-03-30/trips 200": "line 200 Mon Mar 30\ntrip\n22:39 Baypointe\nTasman | +1.0\nChampion | +1.0\n"
    }
    adapter = TransitAdapter()
    (document,) = adapter.documents(source, SourceOptions())
    assert "29:39 Baypointe" in document.text
    notices = "\n".join(adapter.notices)
    assert "written as UTC, since no timezone is known" in notices
    assert "reports of the same stop of the same trip, the last one was taken: 1" in notices
    assert "vta_stops.txt" in notices


def test_a_delay_is_worth_more_than_a_later_report_without_one(tmp_path: Path) -> None:
    joined = (
        "trip_id,route_id_x,start_date,stop_id,stop_sequence,arrival_time,actual_arrival_time,computed_delay_sec,"
        "stop_name\n3916424,200,20260330,2,2,22:40:00,2026-03-30 22:40:02-07:00,2.0,Tasman\n"
        "3916424,200,20260330,3,3,24:41:00,2026-03-31 00:40:30-07:00,,Champion\n"
    )
    source = write(tmp_path / "avl", a__csv=joined, b__csv=CALLS, vta_stops__txt=STOPS)
    assert read(source, options={"timezone": "America/Los_Angeles"}) == {
        "2026-03-30/trips 200": "line 200 Mon Mar 30\ntrip\n22:40 Tasman | +0.0\n24:41 Champion | -0.5\n"
    }


def test_positions(tmp_path: Path) -> None:
    source = write(tmp_path / "avl", positions__csv=POSITION_ROWS)
    adapter = TransitAdapter()
    options = SourceOptions(options={"timezone": "America/Los_Angeles"})
    assert {document.id: document.text for document in adapter.documents(source, options)} == {
        "2026-03-25/positions 200": (
            "positions 200 Wed Mar 25\nvehicle 0130 to 1\n17:47:27 37.2933 -121.9501 0.0\n+31 | 140 | +12 -3 8.1\n"
            "vehicle 0130 to 0\n17:49:38 37.2945 -121.9504 0.0\n"
        ),
        "2026-03-25/positions Rapid 5": (
            "positions Rapid 5 Wed Mar 25\nvehicle to 1\n17:47:27 37.4100 -121.8900\n"
            "vehicle to 1\n17:47:27 37.4200 -121.8800\nvehicle to 1\n17:47:27 37.4300 -121.8700\n"
        ),
    }
    assert [task.name for task in adapter.find_tasks(source, options)] == ["moved"]
    notices = "\n".join(adapter.notices)
    assert "fixes of the same vehicle and second, one was taken: 1" in notices
    assert "rows skipped, unreadable date, time or number (first: row 6: time = '1774486047', lat = '0'" in notices
    assert check_adapter(TransitAdapter(), source) == []
    with pytest.raises(DataError, match="no incident, arrival or other record between 2030-01-01"):
        documents_of(source, since="2030-01-01")


HEADING = """vehicle,timestamp,lat,lon,route,next_stop
1,2024-01-02 08:00:00,46.7500,7.6200,3,B
1,2024-01-02 08:01:00,46.7510,7.6200,3,B
1,2024-01-02 08:02:30,46.7520,7.6200,3,C
1,2024-01-02 08:12:30,46.7530,7.6200,3,C
1,2024-01-02 08:13:00,46.7540,7.6200,3,D
1,2024-01-02 08:13:30,46.7550,7.6200,3,
"""


def test_positions_that_tell_the_next_stop_ask_for_the_minutes_to_it(tmp_path: Path) -> None:
    """Until it is first seen past the stop; not over a gap of ten minutes, and not where the stop is not told."""
    source = write(tmp_path / "avl", positions__csv=HEADING, stops__txt="stop_id,stop_name\nB,Old Mill\nC,Market\n")
    adapter = TransitAdapter()
    (document,) = adapter.documents(source, SourceOptions())
    assert document.text == (
        "positions 3 Tue Jan 02\nvehicle 1\n08:00:00 46.7500 7.6200 to Old Mill | +2.5\n+60 +10 +0 to Old Mill | +1.5\n"
        "+90 +10 +0 to Market\n+600 +10 +0 to Market | +0.5\n+30 +10 +0 to D\n+30 +10 +0\n"
    )
    assert {span.task for span in document.spans} == {"next_stop"} and len(document.spans) == 3
    assert [task.name for task in adapter.find_tasks(source, SourceOptions())] == ["next_stop", "moved"]
    raw, span = document.text.encode(), document.spans[0]
    rated = adapter.rate("next_stop", raw[: span.start].decode(), "+2.5", "+2.0")
    assert rated["eta_accuracy/00-03 min"] == 1.0
    assert adapter.rate("moved", "positions 3 Tue Jan 02\nvehicle 1\n+31 | ", "140", "0") == {}
    assert check_adapter(TransitAdapter(), source) == []
    with pytest.raises(DataError, match=r"no row waits for an answer\nPosition logs ask nothing"):
        list(adapter.questions(source, SourceOptions()))


def test_renamed_columns_of_a_trip_log_give_a_table_to_paste(tmp_path: Path) -> None:
    text = RAIL.replace("train_id", "Zugnummer")
    source = write(tmp_path / "rail", march__csv=text)
    with pytest.raises(
        DataError, match=r"march\.csv: looks like a trip log, but no column is known for: trip"
    ) as caught:
        documents_of(source)
    table = tomllib.loads(caught.value.hint.partition("\n")[2])["data"]["columns"]
    assert list(table) == ["trip"]
    assert read(source, columns={"trip": "Zugnummer"}) == read(write(tmp_path / "plain", march__csv=RAIL))


def test_the_kind_of_a_log_is_told_by_its_columns() -> None:
    arrivals = ("service_date", "trip_id", "line", "stop_name", "scheduled_arrival", "actual_arrival")
    incidents = ("Date", "Time", "Line", "Station", "Code", "Min Delay", "Vehicle")
    assert best_match(RAIL.splitlines()[0].split(","), {}).kind is TRIPS
    assert best_match(CALLS.splitlines()[0].split(","), {}).kind is TRIPS
    assert best_match(POSITION_ROWS.splitlines()[0].split(","), {}).kind is POSITIONS
    assert best_match(incidents, {}).kind is INCIDENTS
    assert best_match(arrivals, {}).kind is ARRIVALS
    assert best_match(arrivals, {"trip": "trip_id"}).kind is TRIPS  # who names the trip wants it
    assert (
        best_match((*RAIL.splitlines()[0].split(","), "x"), {"delay_seconds": "delay_minutes"}).columns["delay_seconds"]
        == "delay_minutes"
    )


def test_times_alone_that_a_spreadsheet_dated_1900(tmp_path: Path) -> None:
    text = (
        "service_date,route_id,direction_id,half_trip_id,stop_id,time_point_order,scheduled,actual\n"
        "2024-01-02,01,Inbound,5001,110,1,1900-01-01T05:05:00Z,1900-01-01T05:06:30Z\n"
        "2024-01-02,01,Inbound,5001,67,2,1900-01-02T00:05:00Z,1900-01-02T00:03:00Z\n"
        "2024-01-02,01,Inbound,5001,68,3,1900-01-02T00:09:00Z,\n"
    )
    source = write(tmp_path / "bus", january__csv=text)
    expected = {"2024-01-02/trips 01": "line 01 Tue Jan 02\ntrip 5001\n05:05 110 | +1.5\n24:05 67 | -2.0\n"}
    assert read(source) == expected == read(source, options={"timezone": "America/New_York"})


def test_positions_with_the_columns_of_a_stop_monitoring_export(tmp_path: Path) -> None:
    text = (
        "RecordedAtTime,DirectionRef,PublishedLineName,VehicleRef,VehicleLocation.Latitude,VehicleLocation.Longitude\n"
        "2017-06-01 00:03:34,0,B8,NYCT_430,40.635170,-73.960803\n"
    )
    source = write(tmp_path / "bus", june__csv=text)
    assert read(source) == {
        "2017-06-01/positions B8": "positions B8 Thu Jun 01\nvehicle to 0\n00:03:34 40.6352 -73.9608\n"
    }


def test_seconds_of_the_service_day_in_every_spelling() -> None:
    zone = zone_named("America/Los_Angeles")
    assert zone is not None
    good = {
        "22:40:00": 81600,
        "25:10": 90600,
        "81600": 81600,
        "1774935602.0": 81602,
        "1774935602000": 81602,
        "2026-03-30 22:40:02-07:00": 81602,
        "2026-03-31T00:10:00": 87000,
        "31.03.2026 00:10": 87000,
        "2026-03-31T05:40:02Z": 81602,
        "1900-01-02T00:10:00Z": 87000,
    }
    assert {text: seconds_of_service(text, "2026-03-30", zone) for text in good} == good
    for text in ("", "soon", "1e9", "2020-01-01 10:00:00", "-400000"):
        assert seconds_of_service(text, "2026-03-30", zone) is None
    assert zone_named("America") is None and zone_named("../etc") is None and zone_named("") is None
    assert local_moment(1774486047000, zone) == local_moment(1774486047, zone) == ("2026-03-25", 64047)
    assert local_moment(1e30, zone) is None
    assert [parse_float(text) for text in ("1_0", "inf", "1e3", "٣", "-1.5")] == [None, None, None, None, -1.5]


def test_a_service_day_is_as_long_as_its_clocks_say(tmp_path: Path) -> None:
    zone = zone_named("America/Los_Angeles")
    assert zone is not None
    # On 2026-03-08 the clocks went forward at 02:00, so 10:00 is nine hours after midnight, and 10:00 in GTFS.
    assert seconds_of_service("1772989200", "2026-03-08", zone) == 36000


CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='",'), max_size=9)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL, st.integers(0, 86399), st.integers(-600, 6000)), min_size=1, max_size=9)
)
def test_every_delay_is_a_span_whatever_the_other_cells_say(
    rows: list[tuple[str, str, str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = ["service_date,trip_id,line,stop_name,scheduled,delay_seconds,stop_sequence"]
    for number, (trip, line, stop, second, delay) in enumerate(rows):
        lines.append(f"2024-01-02,{trip},{line},{stop},{second},{delay},{number}")
    source = write(tmp_path_factory.mktemp("trips"), log__csv="\n".join(lines) + "\n")
    documents = documents_of(source, columns={"scheduled": "scheduled"})
    found = []
    for document in documents:
        raw = document.text.encode()
        found += [float(raw[span.start : span.end]) for span in document.spans]
    assert sorted(found) == sorted(round(delay / 60, 1) for *_, delay in rows)
