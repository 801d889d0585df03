"""What a GTFS-realtime snapshot leaves open becomes questions, written as training documents are up to the answer."""

from __future__ import annotations

import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import Document, SourceOptions
from slm_ar.core.errors import DataError

FEED = {
    "agency.txt": "agency_name,agency_timezone\nCity,Europe/Zurich\n",
    "stops.txt": "stop_id,stop_name\nA,Harbour\nB,Old Mill\nC,Market\nD,North Gate\n",
    "routes.txt": "route_id,route_short_name,route_type\nR1,1,3\n",
    "trips.txt": "route_id,service_id,trip_id,trip_headsign\nR1,s,t1,West\nR1,s,t2,West\n",
    "stop_times.txt": "trip_id,arrival_time,departure_time,stop_id,stop_sequence\n"
    + "".join(
        f"{trip},{hour}:{minute:02d}:00,{hour}:{minute:02d}:00,{stop},{place}\n"
        for trip, hour in (("t1", 8), ("t2", 9))
        for place, (stop, minute) in enumerate(zip("ABCD", (0, 10, 20, 30), strict=True), start=1)
    ),
}
NO_DATA, SKIPPED, CANCELED = 2, 1, 3


def at(text: str) -> int:
    return int(datetime.fromisoformat(f"2024-01-02 {text}").replace(tzinfo=ZoneInfo("Europe/Zurich")).timestamp())


def snapshot(made: str, *trips: tuple[str, list[tuple[str, dict[str, int]]]], relationship: int = 0) -> Any:
    """Trips with (stop, what its arrival tells); `relation` of a stop and of all trips as the protocol numbers them."""
    bindings = pytest.importorskip("google.transit.gtfs_realtime_pb2")
    message = bindings.FeedMessage()
    message.header.gtfs_realtime_version = "2.0"
    message.header.timestamp = at(made)
    for trip_id, stops in trips:
        entity = message.entity.add()
        entity.id = trip_id
        entity.trip_update.trip.trip_id = trip_id
        entity.trip_update.trip.schedule_relationship = relationship
        for stop_id, told in stops:
            stop = entity.trip_update.stop_time_update.add()
            stop.stop_id = stop_id
            stop.schedule_relationship = told.get("relation", 0)
            for name in {"time", "delay"} & told.keys():
                setattr(stop.arrival, name, told[name])
    return message


def write(folder: Path, **snapshots: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for name, message in snapshots.items():
        (folder / f"{name}.pb").write_bytes(message.SerializeToString())
    with zipfile.ZipFile(folder / "static.zip", "w") as archive:
        for name, text in FEED.items():
            archive.writestr(name, text)
    return folder


def ask(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().questions(source, SourceOptions(options=options)))


def test_stops_that_are_not_told_ask(tmp_path: Path) -> None:
    """Without time and delay, marked as without data, passed over by the update, or behind its last stop."""
    told = [("A", {"time": at("08:01:30")}), ("B", {"relation": NO_DATA}), ("D", {})]
    source = write(tmp_path / "now", now=snapshot("08:05", ("t1", told)))
    questions = ask(source)
    assert [question.id for question in questions] == [
        "now.pb trip t1 sequence 2 stop B",
        "now.pb trip t1 sequence 3 stop C",
        "now.pb trip t1 sequence 4 stop D",
    ]
    before = "line 1 Tue Jan 02\ntrip t1 > West\n08:00 Harbour | +1.5\n"
    assert [question.text.removeprefix(before) for question in questions] == [
        "08:10 Old Mill | ",
        "08:20 Market | ",
        "08:30 North Gate | ",
    ]
    for question in questions:
        end = len(question.text.encode())
        assert [(span.start, span.end, span.task) for span in question.spans] == [(end, end, "delay")]
        assert question.time == question.group == "2024-01-02"


def test_a_trip_without_any_prediction_asks_at_every_stop(tmp_path: Path) -> None:
    source = write(tmp_path / "now", now=snapshot("08:55", ("t2", []), ("t1", [("D", {"delay": 120})])))
    questions = ask(source)
    assert [question.id[-6:] for question in questions] == ["stop A", "stop B", "stop C", "stop D"]
    # t1 is told at its last stop only: what it passed before is over.
    assert questions[0].text == (
        "line 1 Tue Jan 02\ntrip t1 > West\n08:30 North Gate | +2.0\ntrip t2 > West\n09:00 Harbour | "
    )


def test_skipped_stops_and_cancelled_trips_ask_nothing(tmp_path: Path) -> None:
    told = [("A", {"time": at("08:00:00")}), *((stop, {"relation": SKIPPED}) for stop in "BCD")]
    source = write(tmp_path / "now", now=snapshot("08:05", ("t1", told)))
    with pytest.raises(DataError, match=r"no row waits for an answer\n(.*\n)*.*--option ask=ahead"):
        ask(source)
    write(source, now=snapshot("08:05", ("t1", []), relationship=CANCELED))
    with pytest.raises(DataError, match="no row waits"):
        ask(source)


def test_a_prompt_is_the_beginning_of_the_training_document(tmp_path: Path) -> None:
    known = [(stop, {"delay": 60 * place}) for place, stop in enumerate("ABCD")]
    whole = write(tmp_path / "whole", now=snapshot("09:00", ("t1", known), ("t2", known)))
    (document,) = TransitAdapter().documents(whole, SourceOptions())
    for count in range(1, 4):
        part = write(tmp_path / str(count), now=snapshot("09:00", ("t1", known), ("t2", known[:count])))
        question = ask(part)[0]
        assert document.text.startswith(question.text)


def test_predictions_of_the_publisher_are_asked_again_when_wanted(tmp_path: Path) -> None:
    told = [("A", {"time": at("08:01:00")}), ("B", {"time": at("08:13:00")}), ("C", {"delay": 240}), ("D", {})]
    source = write(tmp_path / "now", now=snapshot("08:05", ("t1", told)))
    assert len(ask(source)) == 1
    questions = ask(source, ask="ahead")
    assert [question.id[-6:] for question in questions] == ["stop B", "stop C", "stop D"]
    assert all("| +1.0\n" in question.text and "+3.0" not in question.text for question in questions)
    with pytest.raises(DataError, match="ask = 'behind' is unknown"):
        ask(source, ask="behind")


def test_trips_of_which_nothing_is_known_are_not_shown(tmp_path: Path) -> None:
    source = write(tmp_path / "now", now=snapshot("07:00", ("t1", []), ("t2", [])))
    questions = ask(source)
    assert len(questions) == 8
    assert questions[-1].text == "line 1 Tue Jan 02\ntrip t2 > West\n09:30 North Gate | "


def test_what_a_later_snapshot_tells_is_not_asked(tmp_path: Path) -> None:
    first = snapshot("08:05", ("t1", [("A", {"delay": 60})]))
    second = snapshot("08:25", ("t1", [("B", {"delay": 120}), ("C", {"delay": 180})]))
    source = write(tmp_path / "two", a=first, b=second)
    (question,) = ask(source)
    assert question.id == "b.pb trip t1 sequence 4 stop D"
    assert question.text.endswith("08:20 Market | +3.0\n08:30 North Gate | ")


def test_without_the_static_feed_no_schedule_is_known(tmp_path: Path) -> None:
    source = write(tmp_path / "now", now=snapshot("08:05", ("t1", [("A", {"time": at("08:01:00")}), ("B", {})])))
    (source / "static.zip").unlink()
    adapter = TransitAdapter()
    with pytest.raises(DataError, match=r"no row waits(.*\n)*.*put the static feed \(zip\) beside it"):
        list(adapter.questions(source, SourceOptions()))
    assert any("open stops without a schedule, not asked: 1" in notice for notice in adapter.notices)


def test_a_broken_snapshot_is_told(tmp_path: Path) -> None:
    path = tmp_path / "broken.pb"
    path.write_bytes(b"\x0a\x0a\x0a")
    with pytest.raises(DataError, match=r"broken\.pb: is not a whole GTFS-realtime message"):
        ask(path)
