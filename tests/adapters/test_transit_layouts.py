"""Files of a few thousand rows as three agencies publish them: every answer of every row is asked, and no other."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import pytest
from transit_layouts import write_bus_arrivals, write_bus_positions, write_rail_months

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.core.contracts import Document, SourceOptions

FEWEST_ROWS = 2000


def asked(documents: list[Document], task: str) -> list[float]:
    found = []
    for document in documents:
        raw = document.text.encode()
        found += [float(raw[span.start : span.end]) for span in document.spans if span.task == task]
    return sorted(found)


def read(source: Path) -> tuple[list[Document], str]:
    adapter = TransitAdapter()
    documents = list(adapter.documents(source, SourceOptions()))
    return documents, "\n".join(adapter.notices)


def test_months_of_a_railroad(tmp_path: Path) -> None:
    folder = tmp_path / "rail"
    folder.mkdir()
    delays = write_rail_months(folder, days=30, trains=12)
    assert len(delays) > FEWEST_ROWS
    documents, notices = read(folder)
    assert asked(documents, "delay") == pytest.approx(sorted(delays), abs=0.051)
    assert len(asked(documents, "next_stop")) == 30 * 2  # the other railroad's trains, from their second stop on
    assert "rows skipped, cancelled" in notices
    days = {document.group for document in documents}
    assert len(days) == 30 and all(document.time == document.group for document in documents)
    # A train that runs past midnight stays on its service day.
    assert any("\n00:" in document.text or "\n24:" in document.text for document in documents)
    archive = tmp_path / "rail.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, path.name)
    assert read(archive)[0] == documents


def test_a_month_of_bus_timepoints(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    delays = write_bus_arrivals(path, days=12, trips=50)
    assert len(delays) > FEWEST_ROWS
    documents, _ = read(path)
    assert asked(documents, "delay") == pytest.approx(sorted(delays), abs=0.051)
    assert {document.group for document in documents} == {f"2023-04-{day:02d}" for day in range(1, 13)}
    assert all("1900" not in document.text for document in documents)
    trips = Counter(line for document in documents for line in document.text.splitlines() if line.startswith("trip"))
    assert set(trips.values()) == {12}


def test_a_day_of_bus_positions(tmp_path: Path) -> None:
    path = tmp_path / "june.csv"
    minutes = write_bus_positions(path, hours=6, vehicles=10)
    assert len(minutes) > FEWEST_ROWS
    documents, _ = read(path)
    assert asked(documents, "next_stop") == pytest.approx(sorted(minutes), abs=0.051)
    assert all("4 AV" not in document.text and "24:06" not in document.text for document in documents)
