"""Whatever stands in the cells of a feed or a log, or in a snapshot: documents or a DataError, and spans on numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.errors import DataError

TIME = st.sampled_from(["", "5:30:00", "25:00:00", "99:99", "-1:00:00", "08:00", "noon", "1e9"])
ID = st.sampled_from(["", "A", "B", " A ", "t1", "\x1f", "é|", '"', "9" * 400])
PLACE = st.sampled_from(["", "1", "2.0", "-3", "nan", "1e400", "٣", "999999999999999999"])
FEED = {
    "trips.txt": (
        ("route_id", "trip_id", "service_id", "trip_headsign", "direction_id"),
        st.tuples(ID, ID, ID, ID, ID),
    ),
    "stop_times.txt": (
        ("trip_id", "stop_id", "stop_sequence", "arrival_time", "departure_time"),
        st.tuples(ID, ID, PLACE, TIME, TIME),
    ),
    "frequencies.txt": (("trip_id", "start_time", "end_time", "headway_secs"), st.tuples(ID, TIME, TIME, PLACE)),
    "stops.txt": (("stop_id", "stop_name", "parent_station"), st.tuples(ID, ID, ID)),
    "routes.txt": (("route_id", "route_short_name", "route_long_name", "route_type"), st.tuples(ID, ID, ID, PLACE)),
    "calendar_dates.txt": (("service_id", "date", "exception_type"), st.tuples(ID, TIME, PLACE)),
}
MOMENT = st.one_of(TIME, st.sampled_from(["2024-01-02", "20240102", "2024-01-02T05:00:00Z", "0001-01-01 00:00", "-1"]))
MOMENTS = st.one_of(MOMENT, st.integers(-(10**20), 10**20).map(str))
TRIP_LOG = (
    ("service_date", "trip_id", "line", "stop", "scheduled", "actual", "delay", "stop_sequence"),
    st.tuples(MOMENT, ID, ID, ID, MOMENTS, MOMENTS, PLACE, PLACE),
)
POSITION_LOG = (
    ("vehicle", "lat", "lon", "timestamp", "route", "speed"),
    st.tuples(ID, PLACE, PLACE, MOMENTS, ID, PLACE),
)


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    path.write_text(text.getvalue(), encoding="utf-8")


def check_source(source: Path) -> None:
    """Read it all; a DataError is an answer too."""
    adapter = TransitAdapter()
    try:
        for document in adapter.documents(source, SourceOptions()):
            raw = document.text.encode()
            assert document.group and "\t" not in document.text
            for span in document.spans:
                float(raw[span.start : span.end])
                assert set(adapter.answer_slices(document, span)) >= {"line", "hour"}
    except DataError as error:
        assert str(source) in str(error)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_feeds(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("feed")
    for name, (header, row) in FEED.items():
        write_table(folder / name, header, data.draw(st.lists(row, max_size=5)))
    check_source(folder)


@settings(max_examples=25, deadline=None)
@given(trips=st.lists(TRIP_LOG[1], max_size=5), positions=st.lists(POSITION_LOG[1], max_size=5))
def test_logs(
    trips: list[tuple[str, ...]], positions: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    write_table(folder / "trips.csv", TRIP_LOG[0], trips)
    check_source(folder / "trips.csv")
    write_table(folder / "positions.csv", POSITION_LOG[0], positions)
    check_source(folder / "positions.csv")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_snapshots(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    bindings = pytest.importorskip("google.transit.gtfs_realtime_pb2")
    message = bindings.FeedMessage()
    message.header.gtfs_realtime_version = "2.0"
    whole = st.integers(-(2**31), 2**31 - 1)
    for number in range(data.draw(st.integers(0, 4))):
        entity = message.entity.add()
        entity.id = str(number)
        update = entity.trip_update
        update.trip.trip_id = data.draw(st.text(max_size=4))
        update.trip.start_date = data.draw(st.sampled_from(["", "20240102", "2024", "99999999"]))
        stop = update.stop_time_update.add()
        stop.stop_id = data.draw(st.text(max_size=4))
        if data.draw(st.booleans()):
            stop.arrival.delay = data.draw(whole)
        if data.draw(st.booleans()):
            stop.departure.time = data.draw(st.integers(-(2**63), 2**63 - 1))
        entity.vehicle.position.latitude = data.draw(st.floats(width=32))
        entity.vehicle.position.longitude = data.draw(st.floats(width=32))
        entity.vehicle.timestamp = data.draw(st.integers(0, 2**64 - 1))
    path = tmp_path_factory.mktemp("snapshots") / "a.pb"
    content = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    check_source(path)
