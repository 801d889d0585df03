"""Quirks of logs and feeds of many agencies, each made small here: cells, columns and files as they also look."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.errors import DataError


def read(source: Path, **options: object) -> dict[str, str]:
    documents = TransitAdapter().documents(source, SourceOptions(**options))  # type: ignore[arg-type]
    return {document.id: document.text for document in documents}


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NULL", "None", "-"])
def test_words_for_a_missing_value_are_no_times(tmp_path: Path, missing: str) -> None:
    head = "service_date,half_trip_id,route_id,stop_id,time_point_order,scheduled,actual\n"
    rows = f"2025-01-01,5001,1,A,1,05:05:00,05:06:30\n2025-01-01,5001,1,B,2,05:09:00,{missing}\n"
    assert read(write(tmp_path / "log", bus__csv=head + rows)) == {
        "2025-01-01/trips 1": "line 1 Wed Jan 01\ntrip 5001\n05:05 A | +1.5\n"
    }
    swiss = "BETRIEBSTAG;LINIEN_TEXT;HALTESTELLEN_NAME;ANKUNFTSZEIT;AN_PROGNOSE\n"
    rows = f"2024-01-02;3;Thun;2024-01-02 05:54;2024-01-02 05:55\n2024-01-02;3;Thun;2024-01-02 06:54;{missing}\n"
    assert read(write(tmp_path / "swiss", thun__csv=swiss + rows)) == {
        "2024-01-02/line 3": "line 3 Thun Tue Jan 02\n05:54 | +1.0\n"
    }
    (question,) = TransitAdapter().questions(tmp_path / "swiss", SourceOptions())
    assert question.text == "line 3 Thun Tue Jan 02\n05:54 | +1.0\n06:54 | "


@pytest.mark.parametrize("missing", ["", "nan", "None"])
def test_incidents_whose_delay_is_not_known_yet_are_skipped_and_asked(tmp_path: Path, missing: str) -> None:
    head, row = "Date,Line,Time,Station,Code,Min Delay\n", "2025-01-02,35,06:10,JANE,MFESA,"
    source = write(tmp_path / "log", bus__csv=f"{head}2025-01-02,7,05:50,KING,MFUS,5\n{row}{missing}\n")
    adapter = TransitAdapter()
    (document,) = adapter.documents(source, SourceOptions())
    assert document.text == "bus Thu Jan 02\n05:50 7 | KING |  | MFUS | 5 |  | \n"
    assert any("rows skipped, no delay: 1" in notice for notice in adapter.notices)
    (question,) = adapter.questions(source, SourceOptions())
    assert question.text == "bus Thu Jan 02\n05:50 7 | KING |  | MFUS | 5 |  | \n06:10 35 | JANE |  | MFESA | "


def test_delays_in_words_of_trains_without_a_line(tmp_path: Path) -> None:
    text = (
        "train_id,direction,next_station,date,status,timeStamp\n"
        "778,N,Elm,2016-03-23,1 min,2016-03-23 08:01:00\n"
        "778,N,Oak,2016-03-23,On Time,2016-03-23 08:10:00\n"
        "778,N,Ash,2016-03-23,3 Minutes,2016-03-23 08:23:00\n"
    )
    source = write(tmp_path / "rail", otp__csv=text)
    with pytest.raises(DataError, match="looks like a trip log, but no column is known for: actual") as caught:
        read(source)
    assert 'actual = "timeStamp"' in caught.value.hint
    assert read(source, columns={"delay": "status", "actual": "timeStamp"}) == {
        "2016-03-23/trips unknown": (
            "line unknown Wed Mar 23\ntrip 778\n08:00 Elm | +1.0\n08:10 Oak | +0.0\n08:20 Ash | +3.0\n"
        )
    }


def test_trains_of_a_swiss_line_are_one_line_and_its_columns_may_have_blanks(tmp_path: Path) -> None:
    head = "Betriebstag;Produkt ID;Linien ID;Linie;Haltestellen Name;Ankunftszeit;An Prognose;Faellt aus TF\n"
    rows = "".join(
        f"2023-03-10;{product};{number};{line};Basel;2023-03-10T{hour}:53:00+01:00;2023-03-10T{hour}:54:30+01:00;false\n"
        for product, number, line, hour in (
            ("Zug", "1007", "IC61", "06"),
            ("Zug", "1009", "IC61", "07"),
            ("Bus", "85:1:3", "3", "08"),
            ("Bus", "85:2:3", "3", "09"),
        )
    )
    assert read(write(tmp_path / "sbb", basel__csv=head + rows)) == {
        "2023-03-10/line IC61": "line IC61 Basel Fri Mar 10\n06:53 | +1.5\n07:53 | +1.5\n",
        "2023-03-10/line 3 (85:1:3)": "line 3 Basel Fri Mar 10\n08:53 | +1.5\n",
        "2023-03-10/line 3 (85:2:3)": "line 3 Basel Fri Mar 10\n09:53 | +1.5\n",
    }


@pytest.mark.parametrize(("words", "answered"), [("at stop", True), ("STOPPED_AT", True), ("1", True), ("far", False)])
def test_a_position_log_may_say_that_a_vehicle_has_arrived(tmp_path: Path, words: str, answered: bool) -> None:
    text = (
        "RecordedAtTime,PublishedLineName,VehicleRef,VehicleLocation.Latitude,VehicleLocation.Longitude,"
        "NextStopPointName,ArrivalProximityText\n"
        "2017-06-01 00:03:30,B8,430,40.6352,-73.9608,FOSTER AV,approaching\n"
        f"2017-06-01 00:05:00,B8,430,40.6362,-73.9608,FOSTER AV,{words}\n"
    )
    (text,) = read(write(tmp_path / "bus", june__csv=text)).values()
    first = "positions B8 Thu Jun 01\nvehicle 430\n00:03:30 40.6352 -73.9608 near FOSTER AV"
    assert text == first + (" | +1.5\n+90 +10 +0 at FOSTER AV\n" if answered else "\n+90 +10 +0 to FOSTER AV\n")


def test_blanks_before_times_and_a_loop_that_is_timed_at_its_end_alone(tmp_path: Path) -> None:
    feed = {
        "stops__txt": 'stop_id,stop_name\r\n1,Station\r\n2,"Alton, at ""Main"""\r\n',
        "routes__txt": "route_id,route_short_name,route_type\r\nR,IC,3\r\n",
        "trips__txt": "route_id,service_id,trip_id\r\nR,s,7\r\n",
        "frequencies__txt": "trip_id,start_time,end_time,headway_secs\r\n7,06:30:00, 7:30:00,1200\r\n",
        "stop_times__txt": (
            "trip_id,arrival_time,departure_time,stop_id,stop_sequence\r\n"
            "7, 0:00:00, 0:00:00,1,1\r\n7,,,2,2\r\n7,01:40:00,01:40:00,1,77\r\n"
        ),
    }
    (text,) = read(write(tmp_path / "loop", **feed)).values()
    assert text == (
        'bus IC | ------- | 3 trips 06:30-07:10 every 20 min\nStation\nAlton, at "Main" | +?\nStation | +100\n'
    )


def test_columns_that_a_later_log_brings_are_told(tmp_path: Path) -> None:
    header = "Date,Time,Line,Station,Code,Min Delay,Note"
    row = "{day},10:0{n},29,MAIN,MUSC,{n},dry"
    for month in (1, 2, 3):
        rows = [row.format(day=f"2024-0{month}-{n:02d}", n=n) for n in range(1, 9)]
        also = month > 1
        lines = [header + ",Weather,NOTE 2" * also, *(line + ",rain,x" * also for line in rows)]
        (tmp_path / f"log-{month}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    adapter = TransitAdapter()
    list(adapter.documents(tmp_path, SourceOptions()))
    told = [line for line in adapter.notices if "no earlier" in line]
    where = f"{tmp_path / 'log-2.csv'}: columns that no earlier incident log has, not read (Weather, NOTE 2): 2"
    assert told == [where]
    # What comes after training is held against training.
    first, later = tmp_path / "log-1.csv", tmp_path / "log-3.csv"
    settled = adapter.settle(first, SourceOptions())
    list(adapter.documents(later, SourceOptions(settled=settled)))
    assert f"{later}: columns that no earlier incident log has, not read (Weather, NOTE 2): 2" in adapter.notices
    list(adapter.documents(later, SourceOptions(settled=adapter.settle(later, SourceOptions()))))
    assert not any("no earlier" in line for line in adapter.notices)
