"""The transit adapter on small made-up logs, on the synthetic city, and (when at hand) on the real archives."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.adapters.transit.city import write_city
from slm_ar.adapters.transit.clock import parse_day, parse_moment, parse_number, parse_time
from slm_ar.adapters.transit.incidents import incident_page, mode_of
from slm_ar.adapters.transit.pages import page_document
from slm_ar.core.contracts import Document, SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter

OLD_BUS = """Report Date,Route,Time,Day,Location,Incident, Min Delay,Min Gap,Direction,Vehicle
2024-01-02 00:00:00,35,06:10,Tuesday,JANE STATION,Mechanical,10,20,N,8194
2024-01-02 00:00:00,7,05:50,Tuesday,"BATHURST | KING
EAST",Diversion,131,161,,0
"""
NEW_BUS = """_id,Date,Line,Time,Day,Station,Code,Min Delay,Min Gap,Bound,Vehicle
1,2025-01-01T00:00:00,102 MARKHAM ROAD,02:15,Wednesday,WARDEN STATION,MFESA,20.0,40,None,3442
2,2025-01-01T00:00:00,65 PARLIAMENT,02:15,Wednesday,KIPLING STATION,MFUS,0,0,S,
"""
SUBWAY = """Date;Time;Day;Station;Code;Delay;Min Gap;Bound;Line;Vehicle
02.01.2024;1:07 PM;Tuesday;CAFÉ STATION;MUSC;3;7;S;YU;5986
"""
ARRIVALS = """BETRIEBSTAG;LINIEN_ID;LINIEN_TEXT;UMLAUF_ID;FAELLT_AUS_TF;HALTESTELLEN_NAME;ANKUNFTSZEIT;AN_PROGNOSE;\
ABFAHRTSZEIT
2024-01-02;85:3;3;31;False;Thun, Bahnhof;2024-01-03 00:10:00;2024-01-03 00:09:57;
2024-01-02;85:3;3;31;False;Thun, Bahnhof;2024-01-02 05:54:00;02.01.2024 05:54:12;
2024-01-02;85:3;3;31;True;Thun, Bahnhof;2024-01-02 06:54:00;2024-01-02 06:54:12;
2024-01-02;85:3;3;31;False;Thun, Bahnhof;2024-01-02 07:54:00;;
2024-01-02;85:1;1;serial-number-77;False;Thun, Bahnhof;2024-01-02 05:59:00;2024-01-02 06:01:30;02.01.2024 06:02
2024-01-02;85:1;1;10;False;Thun, Lauitor;2024-01-02 06:00:00;2024-01-02 06:00:00;02.01.2024 06:02
"""


def read(source: Path, **options: object) -> list[Document]:
    return list(TransitAdapter().documents(source, SourceOptions(**options)))  # type: ignore[arg-type]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Incidents of three spellings, arrivals, and files that are no logs."""
    source = tmp_path / "mixed"
    source.mkdir()
    (source / "ttc-bus-2024.csv").write_text(OLD_BUS, encoding="utf-8")
    (source / "ttc-bus-2025.csv.gz").write_bytes(gzip.compress(NEW_BUS.encode("utf-8-sig")))
    (source / "ttc-subway.csv").write_bytes(SUBWAY.encode("cp1252"))
    (source / "thun.csv").write_text(ARRIVALS, encoding="utf-8")
    (source / "code-descriptions.csv").write_text("_id,CODE,DESCRIPTION\n1,EUAC,AIR\n", encoding="utf-8")
    (source / "README.md").write_text("hello", encoding="utf-8")
    (source / "settings.json").write_text('{\n"a": 1}', encoding="utf-8")
    return source


def test_incidents_and_arrivals_are_serialised(mixed: Path) -> None:
    adapter = TransitAdapter()
    documents = {document.id: document for document in adapter.documents(mixed, SourceOptions())}
    assert {name: document.text for name, document in documents.items()} == {
        "2024-01-02/line 1 (85:1)": ("line 1 Tue Jan 02\n05:59 Thun, Bahnhof | +2.5\n06:00 Thun, Lauitor 10 | +0.0\n"),
        "2024-01-02/line 3 (85:3)": "line 3 Thun, Bahnhof ends Tue Jan 02\n05:54 31 | +0.2\n00:10 31 | -0.1\n",
        "2024-01-02/bus": (
            "bus Tue Jan 02\n"
            "05:50 7 | BATHURST / KING EAST |  | Diversion | 131 | 161 | 0\n"
            "06:10 35 | JANE STATION | N | Mechanical | 10 | 20 | 8194\n"
        ),
        "2024-01-02/subway": "subway Tue Jan 02\n13:07 YU | CAFÉ STATION | S | MUSC | 3 | 7 | 5986\n",
        "2025-01-01/bus": (
            "bus Wed Jan 01\n"
            "02:15 102 MARKHAM ROAD | WARDEN STATION |  | MFESA | 20 | 40 | 3442\n"
            "02:15 65 PARLIAMENT | KIPLING STATION | S | MFUS | 0 | 0 | \n"
        ),
    }
    bus = documents["2024-01-02/bus"]
    assert [bus.text.encode()[span.start : span.end] for span in bus.spans] == [b"131", b"10"]
    assert (bus.group, bus.time) == ("2024-01-02", "2024-01-02")
    assert adapter.slices(bus) == {"mode": "bus", "line": "all", "month": "2024-01"}
    assert adapter.answer_slices(bus, bus.spans[1]) == {"line": "35", "hour": "06"}
    tram = documents["2024-01-02/line 3 (85:3)"]
    assert adapter.slices(tram) == {"mode": "line", "line": "3", "month": "2024-01"}
    assert adapter.answer_slices(tram, tram.spans[0]) == {"line": "3", "hour": "05", "horizon": "first"}
    assert adapter.answer_slices(tram, tram.spans[1]) == {"line": "3", "hour": "00", "horizon": "30+ min"}
    assert adapter.record_count == 9
    assert adapter.notices[0] == f"{mixed}: holds 1 arrival log, 3 incident logs"
    notices = "\n".join(adapter.notices)
    for name in ("code-descriptions.csv: skipped", "README.md: skipped", "settings.json: skipped"):
        assert name in notices
    assert "ttc-subway.csv: lines that are not UTF-8, read as Windows-1252: 1" in notices
    assert "thun.csv: rows skipped, cancelled: 1" in notices
    assert "thun.csv: rows skipped, no actual arrival time: 1" in notices


def test_the_adapter_conforms(mixed: Path) -> None:
    assert check_adapter(TransitAdapter(), mixed) == []


def test_a_folder_and_its_zip_are_the_same(mixed: Path, tmp_path: Path) -> None:
    (mixed / "ttc-bus-2025.csv").write_text(NEW_BUS, encoding="utf-8")
    (mixed / "ttc-bus-2025.csv.gz").unlink()
    archive_path = tmp_path / "logs.zip"
    with zipfile.ZipFile(archive_path, "w") as archive:
        for path in mixed.iterdir():
            archive.write(path, path.name)
    assert read(archive_path) == read(mixed)


def test_since_and_until(mixed: Path) -> None:
    assert {document.group for document in read(mixed, since="2025-01-01")} == {"2025-01-01"}
    assert {document.group for document in read(mixed, until="31.12.2024")} == {"2024-01-02"}
    with pytest.raises(DataError, match="no incident, arrival or other record between 2026-01-01 and the end"):
        read(mixed, since="2026-01-01")
    with pytest.raises(DataError, match="since = 'soon' is not a date"):
        read(mixed, since="soon")


def test_line_numbers_bridge_the_renaming_of_2025(mixed: Path) -> None:
    text = read(mixed, options={"line_numbers": True})[-1].text
    assert text.startswith("bus Wed Jan 01\n02:15 102 | WARDEN") and "02:15 65 | " in text


def test_unknown_options_and_fields(mixed: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'date_order'"):
        read(mixed, options={"dateorder": "dmy"})
    with pytest.raises(DataError, match="date_order = 'ymd' is unknown"):
        read(mixed, options={"date_order": "ymd"})
    with pytest.raises(DataError, match="line_numbers must be true or false"):
        read(mixed, options={"line_numbers": "yes"})
    with pytest.raises(DataError, match="Did you mean 'station'"):
        read(mixed, columns={"staton": "Location"})
    with pytest.raises(DataError, match=r"no file of the source has such a column\nDid you mean 'Location'"):
        read(mixed, columns={"station": "Locatoin"})


def test_an_unknown_column_gives_a_table_to_paste(tmp_path: Path) -> None:
    text = OLD_BUS.replace("Report Date", "Calendar Date").replace("Incident", "Incident Kind").replace("Time", "When")
    path = tmp_path / "bus.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"looks like an incident log.*date, time, code") as caught:
        read(path)
    table = tomllib.loads(caught.value.hint.partition("\n")[2])["data"]["columns"]
    assert table == {"date": "Calendar Date", "time": table["time"], "code": "Incident Kind"}
    corrected = read(path, columns={**table, "time": "When"})
    assert corrected[0].text == read_text_of_old_bus(tmp_path / "plain")


def read_text_of_old_bus(folder: Path) -> str:
    folder.mkdir()
    (folder / "bus.csv").write_text(OLD_BUS, encoding="utf-8")
    return read(folder)[0].text


def test_nothing_usable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no incident log.*(\n.*)*no csv"):
        read(tmp_path)
    (tmp_path / "prices.csv").write_text("Datum,Preis\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"prices\.csv: skipped(.*\n)*\[data\.columns\]"):
        read(tmp_path)
    (tmp_path / "page.csv").write_text("<html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"page\.csv: is a web page"):
        read(tmp_path)


def test_malformed_rows_are_counted_and_too_many_refuse_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    rows = "".join(f"2024-01-02,35,06:{minute:02d},Tue,X,Y,5,9,N,1\n" for minute in range(20))
    bad = "2024-13-02,35,06:10,Tue,X,Y,5,9,N,1\n2024-01-02,35,noon,Tue,X,Y,5,9,N,1\n2024-01-02,35,06:10,Tue,X,Y,,,,\n"
    path.write_text(OLD_BUS.splitlines()[0] + "\n" + rows + bad, encoding="utf-8")
    adapter = TransitAdapter()
    (document,) = adapter.documents(path, SourceOptions())
    assert len(document.spans) == 20
    assert adapter.notices[1:] == [
        f"{path}: rows skipped, no delay: 1",
        f"{path}: rows skipped, unreadable date, time or number "
        "(first: row 21: Report Date = '2024-13-02', Time = '06:10', Min Delay = '5'): 2",
    ]
    path.write_text(OLD_BUS.splitlines()[0] + "\n" + bad + rows[: len(rows) // 4], encoding="utf-8")
    with pytest.raises(DataError, match=r"bus\.csv: 2 of 8 rows have an unreadable date.*row 1: Report Date"):
        read(path)


def test_date_and_time_in_one_column(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    path.write_text("Created,Line,Station,Code,Delay\n2024-01-02 06:10:00,35,X,Y,5\n", encoding="utf-8")
    (document,) = read(path, columns={"date": "Created", "time": "Created"})
    assert document.text == "bus Tue Jan 02\n06:10 35 | X |  | Y | 5 |  | \n"


def test_many_files_that_are_no_logs_do_not_flood_the_notices(tmp_path: Path) -> None:
    (tmp_path / "bus.csv").write_text(OLD_BUS, encoding="utf-8")
    for number in range(50):
        (tmp_path / f"{number}.json").write_text("{\n", encoding="utf-8")
    adapter = TransitAdapter()
    assert list(adapter.documents(tmp_path, SourceOptions()))
    assert len(adapter.notices) == 1 + 40 + 1
    assert adapter.notices[-1] == f"{tmp_path}: 10 more files skipped"


def test_a_workbook_is_named(tmp_path: Path) -> None:
    (tmp_path / "ttc-bus.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"ttc-bus\.xlsx: skipped, a workbook: save its sheet as CSV"):
        read(tmp_path)


def test_ambiguous_dates_need_an_order(tmp_path: Path) -> None:
    path = tmp_path / "bus.csv"
    path.write_text(OLD_BUS.replace("2024-01-02 00:00:00", "03/04/2024"), encoding="utf-8")
    with pytest.raises(DataError, match="date_order"):
        read(path)
    assert read(path, options={"date_order": "dmy"})[0].group == "2024-04-03"
    assert read(path, options={"date_order": "mdy"})[0].group == "2024-03-04"


# --- parsers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-31", "2024-01-31"),
        (" 2024-01-31T00:00:00 ", "2024-01-31"),
        ("2024/1/31 00:00", "2024-01-31"),
        ("20240131", "2024-01-31"),
        ("31.1.2024", "2024-01-31"),
        ("31-Jan-2024", "2024-01-31"),
        ("1 January 2024", "2024-01-01"),
        ("31/01/2024", "2024-01-31"),
        ("01/31/2024", "2024-01-31"),
        ("05/05/2024", "2024-05-05"),
        ("01/02/2024", None),
        ("2024-02-30", None),
        ("1 Foo 2024", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_parse_day(text: str, expected: str | None) -> None:
    assert parse_day(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2:15", "02:15"),
        ("2024-01-02T02:15:59", "02:15"),
        ("1/2/2024 2:15 PM", "14:15"),
        ("12:05 am", "00:05"),
        ("1:07 P.M.", "13:07"),
        ("25:39:00", "25:39"),
    ]
    + [(text, None) for text in ("", "24h", "30:00", "10:60", "13:00 PM", "0:10 AM")],
)
def test_parse_time(text: str, expected: str | None) -> None:
    assert parse_time(text) == expected


def test_parse_number_and_moment_and_mode() -> None:
    assert [parse_number(text) for text in ("5", " 5.0", "05", "-1.25", "999")] == ["5", "5", "5", "-1.2", "999"]
    assert [parse_number(text) for text in ("", "nan", "1e5", "5 min", "1234567", "inf")] == [None] * 6
    assert parse_moment("01.07.2024 05:59") == parse_moment("2024-07-01 05:59:00")
    assert parse_moment("01.07.2024 5:59:16 PM") == parse_moment("2024-07-01T17:59:16")
    assert [parse_moment(text) for text in ("", "01.07.2024", "01.07.2024 25:00", "x y")] == [None] * 4
    assert [mode_of(name) for name in ("TTC-Streetcar-2024.csv", "subway.csv", "busy.csv")] == [
        "streetcar",
        "subway",
        "line",
    ]


CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(CELL, CELL, CELL, st.integers(0, 999), CELL, st.integers(0, 23), st.integers(0, 59)),
        min_size=1,
        max_size=12,
    )
)
def test_spans_hold_the_delays_whatever_the_other_cells_say(
    rows: list[tuple[str, str, str, int, str, int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["Date", "Time", "Line", "Station", "Code", "Delay", "Vehicle"])
    for line, station, code, delay, vehicle, hour, minute in rows:
        writer.writerow(["2024-01-02", f"{hour}:{minute:02d}", line, station, code, delay, vehicle])
    path = tmp_path_factory.mktemp("spans") / "bus.csv"
    path.write_bytes(text.getvalue().encode().replace(b"\0", b""))
    (document,) = read(path)
    raw = document.text.encode()
    expected = [str(row[3]) for row in sorted(rows, key=lambda row: (row[5], row[6]))]
    assert [raw[span.start : span.end].decode() for span in document.spans] == expected


def test_spans_count_bytes_not_characters() -> None:
    document = page_document(incident_page("2024-01-02", "bus", ["06:10 é | ü | N | ß | 10 | 20 | 8194"]))
    (span,) = document.spans
    assert document.text.encode()[span.start : span.end] == b"10"


# --- the synthetic city -------------------------------------------------------------------------


def city_digest(folder: Path, seed: int) -> str:
    write_city(folder, seed=seed, days=5)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def test_the_city_is_a_function_of_its_seed(tmp_path: Path) -> None:
    first = city_digest(tmp_path / "a", 1)
    assert first == city_digest(tmp_path / "b", 1)
    assert first != city_digest(tmp_path / "c", 2)


def test_the_city_is_read_like_real_files(tmp_path: Path) -> None:
    write_city(tmp_path, seed=3, days=400)
    adapter = TransitAdapter()
    sizes: dict[str, int] = {}
    for document in adapter.documents(tmp_path, SourceOptions()):
        sizes[document.group] = sizes.get(document.group, 0) + len(document.text.encode())
    assert len(sizes) == 400
    assert 900_000 < sum(sizes.values()) < 1_500_000
    assert min(sizes.values()) > 1_000 and max(sizes.values()) < 5_000
    found, new, notice = adapter.notices
    assert "columns that no earlier incident log has, not read (_id): 1" in new
    assert found == f"{tmp_path}: holds 400 arrival logs, 4 incident logs, 1 static GTFS feed"
    assert "gtfs.zip: static GTFS feed, 80 trips: lies beside logs" in notice
    header = next((tmp_path / "arrivals").iterdir()).read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("BETRIEBSTAG;") and len(header.split(";")) == 22


def test_the_city_conforms(tmp_path: Path) -> None:
    write_city(tmp_path / "city", days=6, lines=2)
    assert check_adapter(TransitAdapter(), tmp_path / "city") == []


def test_an_unpacked_feed_is_recognised(tmp_path: Path) -> None:
    write_city(tmp_path, days=2)
    with zipfile.ZipFile(tmp_path / "gtfs.zip") as archive:
        archive.extractall(tmp_path / "feed")
    (tmp_path / "gtfs.zip").unlink()
    adapter = TransitAdapter()
    assert list(adapter.documents(tmp_path, SourceOptions()))
    assert adapter.notices[1].startswith(f"{tmp_path / 'feed'}: static GTFS feed, 80 trips: lies beside logs")


# --- real data ----------------------------------------------------------------------------------


@pytest.fixture
def real_data() -> Path:
    named = os.environ.get("SLM_AR_REAL_DATA", "")
    folder = Path(named, "transit")
    if not named or not folder.is_dir():
        pytest.skip("SLM_AR_REAL_DATA does not name a folder that holds transit/")
    return folder


@pytest.mark.realdata
def test_real_incidents(real_data: Path) -> None:
    adapter = TransitAdapter()
    started = time.perf_counter()
    blocks = [
        document.text
        for document in adapter.documents(real_data / "incidents", SourceOptions())
        if document.group <= "2024-12-30"
    ]
    assert time.perf_counter() - started < 60  # 6 s on an idle core
    assert adapter.record_count == 434_810
    (notice,) = adapter.notices[1:]
    assert "code-descriptions.csv: skipped" in notice
    benchmark = real_data.parent / "benchmark" / "ttc_days_9mb.txt.gz"
    if benchmark.is_file():
        assert "\n".join(blocks).encode()[-9_000_000:] == gzip.decompress(benchmark.read_bytes())


@pytest.mark.realdata
def test_real_arrivals(real_data: Path) -> None:
    adapter = TransitAdapter()
    documents = list(adapter.documents(real_data / "istdaten", SourceOptions()))
    assert (len(documents), adapter.record_count) == (533, 14_842)
    assert documents[1].text.startswith("line 2 Thun, Bahnhof ends Mon Jul 01\n07:25 24 | +0.8\n")


@pytest.mark.realdata
def test_the_whole_real_folder_is_read(real_data: Path) -> None:
    adapter = TransitAdapter()
    documents = list(adapter.documents(real_data, SourceOptions(since="2025-07-01")))
    incidents = [document for document in documents if document.id.endswith(("/bus", "/streetcar", "/subway"))]
    assert sum(len(document.spans) for document in incidents) > 1_000
    assert {document.id.partition("/")[2].partition(" ")[0] for document in documents} >= {"bus", "trips", "positions"}
    assert sum("static GTFS feed, " in notice and "trips: lies" in notice for notice in adapter.notices) == 9


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "trips"),
    [
        ("bart", 2525),
        ("cairns_gtfs", 1339),
        ("caltrain", 185),
        ("nyc_subway_gtfs", 1990),
        ("spo_gtfs", 36),
        ("trimet-2routes", 2341),
        ("hart", 14718),
    ],
)
def test_real_timetables(real_data: Path, tmp_path: Path, name: str, trips: int) -> None:
    archive = real_data / "gtfs" / f"{name}.zip"
    adapter = TransitAdapter()
    documents = list(adapter.documents(archive, SourceOptions()))
    counted = [int(document.text.split(" | ")[2].split(" ")[0]) for document in documents]
    if name == "spo_gtfs":  # every trip of it runs by frequency
        assert sum(counted) > 100 * trips and all(" min\n" in document.text for document in documents)
    else:
        assert sum(counted) == trips
    assert all(document.spans for document in documents)
    assert any(f"trips of the static GTFS feed read: {trips:,}" in notice for notice in adapter.notices)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    assert documents == list(TransitAdapter().documents(tmp_path, SourceOptions()))


@pytest.mark.realdata
def test_real_snapshots_and_positions(real_data: Path) -> None:
    adapter = TransitAdapter()
    documents = list(adapter.documents(real_data / "gtfs_rt", SourceOptions()))
    assert sum(len(document.spans) for document in documents) == 1060 + 220
    assert sum(document.id.partition("/")[2].startswith("positions") for document in documents) == 4
    options = SourceOptions(options={"timezone": "America/Los_Angeles"})
    documents = list(TransitAdapter().documents(real_data / "avl", options))
    assert {document.group for document in documents} == {"2026-03-25", "2026-03-30"}
    first = next(document for document in documents if document.id.startswith("2026-03-30"))
    positions = [document for document in documents if document.group == "2026-03-25"]
    assert {span.task for document in positions for span in document.spans} == {"moved"}
    assert first.text.startswith("line 200 Mon Mar 30\ntrip\n22:40 Tasman & 1st | +0.0\n")
