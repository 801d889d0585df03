"""`slm-ar study` from a study file to a page, through the real pipeline at toy scale, in processes of its own."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest
from commands import call, kill, start, survivors
from toys import make_toy_workspace

from slm_ar.core.study.store import TABLE, read_store


@pytest.fixture
def environment(command_environment: dict[str, str], private_folder: Path) -> dict[str, str]:
    return command_environment | {"SLM_AR_TEST_MARK": str(private_folder)}


def rows_of(path: Path) -> int:
    try:
        return len(read_store(path, TABLE)[1])
    except Exception:  # not written yet
        return 0


def test_record_killed_resumed_then_searched_on(tmp_path: Path, study: Path, environment: dict[str, str]) -> None:
    make_toy_workspace(tmp_path / "toy")
    table = tmp_path / "study" / "toy.table.jsonl"
    process = start(tmp_path, environment, "study", "STUDY.toml", "--mode", "record", "--quiet")
    limit = time.monotonic() + 200
    while time.monotonic() < limit and process.poll() is None and rows_of(table) < 2:
        time.sleep(0.02)
    assert survivors(kill(process)) == []
    first = table.read_bytes()
    assert rows_of(table) >= 2

    out, _ = call(tmp_path, environment, "study", "STUDY.toml", "--mode", "record", "--quiet", "--json")
    assert "6 trainings" in json.loads(out.splitlines()[-1])["toy"]
    assert table.read_bytes().startswith(first[: first.rfind(b"\n") + 1]), "what was recorded stays"
    _, rows = read_store(table, TABLE)
    assert len({(row["configuration"], row["repeat"]) for row in rows}) == 6
    assert all(row["score"] > 0 and row["steps"] == 8 and row["seconds"] > 0 for row in rows)
    assert rows[0]["origin"] == "start" and not (tmp_path / "toy" / ".slm" / "runs" / "study 1").exists()

    out, _ = call(tmp_path, environment, "study", "STUDY.toml", "--jobs", "1")
    assert "toy, search against random: cannot be told at 25 %, cannot be told at 50 %, cannot be told at 100 %" in out
    folder = tmp_path / "study" / "surrogate"
    with (folder / "results.csv").open(newline="") as file:
        results = list(csv.DictReader(file))
    assert {row["proposer"] for row in results} == {"search", "random"}
    assert {row["search_seed"] for row in results} == {str(seed) for seed in range(6)}
    assert all(float(row["value_returned"]) > 0 for row in results)
    page = (folder / "study.md").read_text(encoding="utf-8")
    assert "**Caution:** only 4 configurations" in page and "## Conditions of this study" in page
    assert str(tmp_path) not in page + (folder / "summary.json").read_text()


@pytest.mark.slow
def test_two_at_a_time_and_live(tmp_path: Path, study: Path, environment: dict[str, str]) -> None:
    make_toy_workspace(tmp_path / "toy")
    study.write_text(study.read_text(encoding="utf-8").replace("runs = 4", "runs = 2"), encoding="utf-8")
    out, _ = call(tmp_path, environment, "study", "STUDY.toml", "--mode", "live", "--json", "--quiet")
    assert json.loads(out.splitlines()[-1])["toy, search against random"].count("cannot be told") == 3
    runs = (tmp_path / "study" / "toy.live.jsonl").read_bytes()
    page = (tmp_path / "study" / "live" / "study.md").read_text(encoding="utf-8")
    assert "Real trainings; 1 search seeds" in page and "Its speed is not judged" in page
    csv_before = (tmp_path / "study" / "live" / "results.csv").read_bytes()
    call(tmp_path, environment, "study", "STUDY.toml", "--mode", "live", "--quiet")
    assert (tmp_path / "study" / "toy.live.jsonl").read_bytes() == runs, "every training was on disk"
    assert (tmp_path / "study" / "live" / "results.csv").read_bytes() == csv_before

    call(tmp_path, environment, "study", "STUDY.toml", "--mode", "record", "--jobs", "2", "--quiet")
    assert rows_of(tmp_path / "study" / "toy.table.jsonl") == 6
