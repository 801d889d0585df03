"""GTFS-realtime snapshots, made here, joined to the static feed beside them; and files that only pretend to be one."""

from __future__ import annotations

import sys
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import Document, SourceOptions, SplitRule
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

FEED = {
    "agency.txt": "agency_name,agency_timezone\nCity,Europe/Zurich\n",
    "stops.txt": "stop_id,stop_name\nA,Harbour\nB,Old Mill\nC,Market\n",
    "routes.txt": "route_id,route_short_name,route_type\nR1,1,3\n",
    "trips.txt": "route_id,service_id,trip_id,trip_headsign\nR1,s,t1,West\nR1,s,night,East\n",
    "stop_times.txt": (
        "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
        "t1,8:00:00,8:00:00,A,1\nt1,8:10:00,8:11:00,B,2\nt1,8:20:00,8:20:00,C,3\n"
        "night,25:30:00,25:30:00,A,1\nnight,25:40:00,25:40:00,B,2\n"
    ),
}
ZONE = ZoneInfo("Europe/Zurich")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp())


def message(stamp: int = 1) -> Any:
    bindings = pytest.importorskip("google.transit.gtfs_realtime_pb2")
    made = bindings.FeedMessage()
    made.header.gtfs_realtime_version = "2.0"
    made.header.timestamp = stamp
    return made


def add_trip(made: Any, trip_id: str, **descriptor: Any) -> Any:
    entity = made.entity.add()
    entity.id = str(len(made.entity))
    entity.trip_update.trip.trip_id = trip_id
    for name, value in descriptor.items():
        setattr(entity.trip_update.trip, name, value)
    return entity.trip_update


def add_stop(update: Any, stop_id: str, sequence: int | None = None, **event: int) -> Any:
    stop = update.stop_time_update.add()
    stop.stop_id = stop_id
    if sequence is not None:
        stop.stop_sequence = sequence
    for name, value in event.items():
        setattr(stop.arrival, name, value)
    return stop


def write_feed(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in FEED.items():
            archive.writestr(name, text)


def read(source: Path, **options: object) -> dict[str, str]:
    return {document.id: document.text for document in documents_of(source, **options)}


def documents_of(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().documents(source, SourceOptions(**options)))  # type: ignore[arg-type]


@pytest.fixture
def snapshots(tmp_path: Path) -> Path:
    """Two snapshots, vehicle positions, an empty alerts feed, and the static feed."""
    source = tmp_path / "snapshots"
    source.mkdir()
    first, second, vehicles, alerts = message(100), message(200), message(300), message()
    update = add_trip(first, "t1", start_date="20240102")
    add_stop(update, "A", 1, time=at("2024-01-02 08:00:30"))
    add_stop(update, "B", 2, time=at("2024-01-02 08:11:00"))
    update = add_trip(second, "t1", start_date="20240102")
    add_stop(update, "B", 2, time=at("2024-01-02 08:12:00"))
    add_stop(update, "C", delay=90)
    add_stop(add_trip(second, "night"), "A", 1, time=at("2024-01-03 01:33:00"))
    add_stop(
        add_trip(second, "extra", route_id="R1", start_date="20240102"), "B", delay=60, time=at("2024-01-02 09:01:00")
    )
    add_stop(add_trip(second, "t1", start_date="20240102", schedule_relationship=3), "C", delay=999)
    add_stop(add_trip(second, "t1", start_date="20240102"), "C").schedule_relationship = 2
    entity = vehicles.entity.add()
    entity.id = "v"
    entity.vehicle.trip.trip_id = "t1"
    entity.vehicle.vehicle.id = "42"
    entity.vehicle.position.latitude, entity.vehicle.position.longitude = 46.75, 7.62
    entity.vehicle.timestamp = at("2024-01-02 08:05:00")
    entity.vehicle.stop_id = "B"
    for name, made in (("1", first), ("2", second), ("vehicles", vehicles), ("alerts", alerts)):
        (source / f"{name}.pb").write_bytes(made.SerializeToString())
    write_feed(source / "static.zip")
    return source


def test_updates_are_joined_to_the_feed_and_the_last_report_counts(snapshots: Path) -> None:
    adapter = TransitAdapter()
    documents = list(adapter.documents(snapshots, SourceOptions()))
    assert {document.id: document.text for document in documents} == {
        "2024-01-02/positions 1": "positions 1 Tue Jan 02\nvehicle 42\n08:05:00 46.7500 7.6200 to Old Mill\n",
        "2024-01-02/trips 1": (
            "line 1 Tue Jan 02\n"
            "trip t1 > West\n08:00 Harbour | +0.5\n08:10 Old Mill | +2.0\n08:20 Market | +1.5\n"
            "trip\n09:00 Old Mill | +1.0\n"
            "trip > East\n25:30 Harbour | +3.0\n"
        ),
    }
    assert adapter.split_rule(snapshots, SourceOptions()) is SplitRule.TIME
    notices = "\n".join(adapter.notices)
    for expected in (
        "holds 4 GTFS-realtime snapshots, 1 static GTFS feed",
        "realtime snapshots: read: 4",
        "realtime snapshots: vehicle positions: 1",
        "realtime snapshots: cancelled trips, left out: 1",
        "realtime snapshots: stops that are skipped or without data, left out: 1",
        "realtime snapshots: stops of trips that the static feed does not know: 1",
        "the last one was taken: 1",
    ):
        assert expected in notices


def test_vehicles_on_their_way_to_a_stop_are_followed_until_they_are_there(tmp_path: Path) -> None:
    source = tmp_path / "vehicles"
    source.mkdir()
    write_feed(source / "static.zip")
    for number, (clock, stop_id, status) in enumerate(
        [("08:07:00", "B", 2), ("08:09:00", "B", 0), ("08:11:00", "B", 1), ("08:12:00", "C", 2)]
    ):
        made = message(number)
        entity = made.entity.add()
        entity.id = "v"
        entity.vehicle.trip.trip_id = "t1"
        entity.vehicle.vehicle.id = "42"
        entity.vehicle.position.latitude, entity.vehicle.position.longitude = 46.75, 7.62
        entity.vehicle.timestamp = at(f"2024-01-02 {clock}")
        entity.vehicle.stop_id, entity.vehicle.current_status = stop_id, status
        (source / f"{number}.pb").write_bytes(made.SerializeToString())
    (document,) = documents_of(source)
    assert document.text == (
        "positions 1 Tue Jan 02\nvehicle 42\n08:07:00 46.7500 7.6200 to Old Mill | +4.0\n"
        "+120 +0 +0 near Old Mill | +2.0\n+120 +0 +0 at Old Mill\n+60 +0 +0 to Market\n"
    )


def test_snapshots_conform(snapshots: Path) -> None:
    assert check_adapter(TransitAdapter(), snapshots) == []


def test_the_window_of_days_holds(snapshots: Path) -> None:
    with pytest.raises(DataError, match="between 2024-01-03 and the end"):
        documents_of(snapshots, since="2024-01-03")


def test_an_unpacked_feed_and_a_feed_elsewhere_serve_as_well(snapshots: Path, tmp_path: Path) -> None:
    expected = read(snapshots)
    (tmp_path / "elsewhere").mkdir()
    (snapshots / "static.zip").rename(tmp_path / "elsewhere" / "static.zip")
    assert read(tmp_path) == expected
    (tmp_path / "elsewhere" / "static.zip").unlink()
    for name, text in FEED.items():
        (snapshots / name).write_text(text, encoding="utf-8")
    assert read(snapshots) == expected


def test_two_feeds_with_the_same_trip_id(snapshots: Path) -> None:
    other = {name: text.replace("A,", "X,").replace("B,", "Y,").replace("C,", "Z,") for name, text in FEED.items()}
    with zipfile.ZipFile(snapshots / "another.zip", "w") as archive:
        for name, text in other.items():
            archive.writestr(name, text.replace("R1,", "R9,").replace(",A,", ",X,").replace(",B,", ",Y,"))
    document = read(snapshots)["2024-01-02/trips 1"]
    assert "trip t1 > West\n08:00 Harbour | +0.5\n" in document


def test_without_a_feed_ids_and_stated_delays_are_used(tmp_path: Path) -> None:
    made = message(100)
    update = add_trip(made, "t1", route_id="R1", start_date="20240102")
    add_stop(update, "A", delay=-30, time=at("2024-01-02 08:00:30"))
    add_stop(update, "B", time=at("2024-01-02 08:10:30"))
    add_stop(update, "C", delay=30)
    path = tmp_path / "updates.pb"
    path.write_bytes(made.SerializeToString())
    adapter = TransitAdapter()
    (document,) = adapter.documents(path, SourceOptions())
    assert document.text == "line R1 Tue Jan 02\ntrip t1\n07:01 A | -0.5\n"
    notices = "\n".join(adapter.notices)
    assert "no static feed lies beside them: 3" in notices and "written as UTC" in notices
    assert "stops with a delay but neither a time nor a schedule, left out: 1" in notices
    zone = {"timezone": "Europe/Zurich"}
    assert read(path, options=zone)["2024-01-02/trips R1"].endswith("08:01 A | -0.5\n")


def test_times_without_delays_become_run_times(tmp_path: Path) -> None:
    made = message(100)
    update = add_trip(made, "t1", route_id="R1", start_date="20240102")
    add_stop(update, "A", time=at("2024-01-02 08:00:30"))
    add_stop(update, "B", time=at("2024-01-02 08:10:30"))
    path = tmp_path / "updates.pb"
    path.write_bytes(made.SerializeToString())
    (document,) = documents_of(path)
    assert document.text == "line R1 Tue Jan 02\ntrip t1\n07:00 A\nB | +10.0\n"
    assert [span.task for span in document.spans] == ["next_stop"]


def test_runs_of_a_trip_by_frequency_are_trips_of_their_own(snapshots: Path) -> None:
    with zipfile.ZipFile(snapshots / "static.zip", "a") as archive:
        archive.writestr("frequencies.txt", "trip_id,start_time,end_time,headway_secs\nt1,8:00:00,9:00:00,600\n")
    for path in snapshots.glob("*.pb"):
        path.unlink()
    made = message(100)
    for start in ("08:00:00", "08:10:00"):
        update = add_trip(made, "t1", start_date="20240102", start_time=start)
        add_stop(update, "B", 2, time=at("2024-01-02 08:21:00"))
    (snapshots / "1.pb").write_bytes(made.SerializeToString())
    assert read(snapshots) == {
        "2024-01-02/trips 1": (
            "line 1 Tue Jan 02\ntrip t1 > West\n08:10 Old Mill | +11.0\ntrip t1 > West\n08:20 Old Mill | +1.0\n"
        )
    }


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>no</html>", "is text"),
        (b'{"header": {}}', "is text"),
        (b"\x0a\x0a\x0a", "is not a whole GTFS-realtime message"),
        (b"\x12\x00", r"is not a whole GTFS-realtime message|no GTFS-realtime message"),
    ],
)
def test_what_is_no_snapshot_says_so(tmp_path: Path, snapshots: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.pb"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken\.pb: .*({reason})"):
        documents_of(path)
    expected = read(snapshots)
    path.rename(snapshots / "broken.pb")
    adapter = TransitAdapter()
    assert {document.id: document.text for document in adapter.documents(snapshots, SourceOptions())} == expected
    assert any("broken.pb" in notice and "left out" in notice for notice in adapter.notices)


def test_a_snapshot_that_is_cut_off(snapshots: Path) -> None:
    whole = (snapshots / "1.pb").read_bytes()
    path = snapshots / "1.pb"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"1\.pb: is not a whole GTFS-realtime message"):
        documents_of(path)


def test_nothing_but_alerts(tmp_path: Path) -> None:
    path = tmp_path / "alerts.pb"
    path.write_bytes(message().SerializeToString())
    with pytest.raises(DataError, match=r"holds nothing that becomes a document(\n.*)*read: 1"):
        documents_of(path)


def test_a_missing_extra_names_the_command(snapshots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.transit", None)
    with pytest.raises(DataError, match=r"needs the package gtfs-realtime-bindings\npip install 'slm-ar\[transit\]'"):
        documents_of(snapshots)
    adapter = TransitAdapter()
    assert list(adapter.documents(snapshots, SourceOptions(options={"kind": "schedule"})))  # needs no extra
    with pytest.raises(DataError, match="needs the package"):
        list(adapter.questions(snapshots, SourceOptions()))
