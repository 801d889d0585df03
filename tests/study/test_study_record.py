"""The recorder: what it trains next, how it goes on after a kill, and what it refuses to mix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_toys import CODE, SPACE, FakeCrew, Killed
from toys import toy_machine, toy_recipe, with_main

from slm_ar.core.agent.edits import parse_knobs
from slm_ar.core.contracts import Display
from slm_ar.core.errors import TrainingError, UsageError, WorkspaceBusyError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.study import record
from slm_ar.core.study.crew import Crew, refuse_jobs
from slm_ar.core.study.plan import RecordTable
from slm_ar.core.study.record import next_request, record_table, to_repeat
from slm_ar.core.study.space import Space
from slm_ar.core.study.store import TABLE, Store, read_store
from slm_ar.core.study.training import Bench

SMALL = RecordTable(configurations=12, repeats=3, seeds=3)


@pytest.fixture
def bench(tiny_data: PreparedData, tmp_path: Path) -> Bench:
    return Bench("toy", toy_recipe(), tiny_data, toy_machine(), CODE, "", tmp_path / "runs")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study" / "toy.table.jsonl"


@pytest.fixture
def display() -> Display:
    from slm_ar.core.report.terminal import QuietDisplay

    return QuietDisplay()


def use(monkeypatch: pytest.MonkeyPatch, crew: FakeCrew) -> FakeCrew:
    @contextmanager
    def fake(*_: Any) -> Iterator[Crew]:
        yield crew

    monkeypatch.setattr(record, "trainings", fake)
    return crew


def names(rows: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(row["configuration"], row["repeat"]) for row in rows]


def test_a_table_holds_every_configuration_and_the_repeats(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakeCrew(1))
    rows = record_table(path, bench, SMALL, 60, 1, display)
    assert names(rows)[:12] == [(number, 0) for number in range(12)]
    assert len(rows) == 12 + 3 * 2
    assert (0, 2) in names(rows), "the start is one of those with several seeds"
    assert len({row["seed"] for row in rows}) == len(rows)
    assert {row["status"] for row in rows} <= {None, "oom"}
    header, read = read_store(path, TABLE)
    assert read == rows and header["train_py"] == CODE and header["score"] == "bits per byte"
    assert str(path.parent) not in path.read_text(), "no path of a person stands in a table that may be shown"

    longer = record_table(path, bench, RecordTable(configurations=15, repeats=3, seeds=3), 60, 1, display)
    assert longer[: len(rows)] == rows
    assert names(longer)[len(rows) : len(rows) + 3] == [(12, 0), (13, 0), (14, 0)]


def test_a_killed_recording_goes_on_and_ends_with_the_same_table(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, FakeCrew(1))
    whole = record_table(tmp_path / "whole.jsonl", bench, SMALL, 60, 1, display)
    trained = 0
    for lives in (1, 4, 9, 100):
        crew = use(monkeypatch, FakeCrew(1, lives))
        if lives == 100:
            rows = record_table(path, bench, SMALL, 60, 1, display)
        else:
            with pytest.raises(Killed):
                record_table(path, bench, SMALL, 60, 1, display)
            with path.open("ab") as file:
                file.write(b'{"configuration": 3, "rep')  # a line that the kill cut off
        trained += len(crew.done)
    strip = [{name: value for name, value in row.items() if name != "at"} for row in rows]
    assert strip == [{name: value for name, value in row.items() if name != "at"} for row in whole]
    assert trained == len(rows), "nothing was trained twice"


def test_two_trainings_at_a_time_record_the_same_configurations_once(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakeCrew(2))
    monkeypatch.setattr("slm_ar.core.study.crew.usable_cores", lambda: {0, 1})
    rows = record_table(path, bench, SMALL, 60, 2, display)
    assert len(set(names(rows))) == len(rows) == 18
    assert len({SPACE.key(row["knobs"]) for row in rows if row["repeat"] == 0}) == 12


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"recipe": toy_recipe(budget={"steps": 9})}, "the recipe"),
        ({"machine": toy_machine(threads=2)}, "the number of threads"),
        ({"longest_seconds": 9.0}, "longest_seconds of the corpus"),
        ({"machine": toy_machine(name="another")}, "the machine"),
        ({"train_py": CODE.replace("0.5", "0.6")}, "train.py"),
    ],
)
def test_rows_of_something_else_are_refused(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], told: str
) -> None:
    use(monkeypatch, FakeCrew(1))
    record_table(path, bench, SMALL, 60, 1, display)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"changed: {told};") as caught:
        record_table(path, replace(bench, **change), SMALL, 60, 1, display)
    assert "table" in caught.value.hint
    with pytest.raises(UsageError, match="the seed of the drawing"):
        record_table(path, bench, RecordTable(seed=1), 60, 1, display)
    assert path.read_bytes() == before


def test_another_prepared_corpus_is_refused(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {**bench.facts, "seed": 0}
    Store(path, TABLE, {**facts, "data": "other"}, {}).__exit__()
    use(monkeypatch, FakeCrew(1))
    with pytest.raises(UsageError, match="changed: the prepared data;"):
        record_table(path, bench, SMALL, 60, 1, display)


def test_a_file_that_is_no_table_is_left_alone(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, FakeCrew(1))
    path.parent.mkdir()
    for content, told in (
        (b"my notes", "not a table"),
        (b"my notes\nmore\n", "line 1"),
        (b'{"kind": "x"}\n', "not a table"),
        (b'{"kind": "table", "format": 7, "facts": {}}\n', "another slm-ar"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=told):
            record_table(path, bench, SMALL, 60, 1, display)
        assert path.read_bytes() == content


def test_two_recorders_do_not_write_one_table(bench: Bench, path: Path) -> None:
    facts = {**bench.facts, "seed": 0}
    with Store(path, TABLE, facts, {}), pytest.raises(WorkspaceBusyError):
        Store(path, TABLE, facts, {})


def test_a_start_that_fails_ends_the_recording_at_once(
    bench: Bench, path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = use(monkeypatch, FakeCrew(1))
    broken = replace(bench, train_py=CODE.replace("SIZE = 8.0", "SIZE = 150.0"))
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"starting train\.py gave no score: oom"):
            record_table(path, broken, SMALL, 60, 1, display)
    assert len(crew.done) == 1
    with pytest.raises(TrainingError, match="no knobs"):
        no_knobs = replace(bench, train_py=with_main("pass").replace("knob:", ""))
        record_table(path.with_name("b"), no_knobs, SMALL, 60, 1, display)


def test_jobs_beside_each_other_are_for_steps_and_free_cores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slm_ar.core.study.crew.usable_cores", lambda: {0, 1})
    refuse_jobs(bench, 2)
    for other in (
        replace(bench, recipe=toy_recipe(budget={"steps": None, "seconds": 5})),
        replace(bench, machine=toy_machine(threads=2)),
        replace(bench, machine=toy_machine(device="cuda")),
    ):
        refuse_jobs(other, 1)
        with pytest.raises(UsageError) as caught:
            refuse_jobs(other, 2)
        assert "--jobs 1" in caught.value.hint


def test_repeats_spread_over_the_ranks() -> None:
    rows = [
        {"configuration": number, "repeat": 0, "status": None if number != 5 else "oom", "score": float(number % 10)}
        for number in range(20)
    ]
    chosen = to_repeat(rows, 4)
    assert len(chosen) == 4 and 0 in {row["configuration"] for row in chosen}
    assert max(row["score"] for row in chosen) == 9.0
    assert to_repeat(rows[:3], 4) == rows[:3]


def test_nothing_is_repeated_before_all_have_a_score() -> None:
    rows = [
        {"configuration": number, "repeat": 0, "knobs": SPACE.start, "status": None, "score": 1.0, "origin": "space"}
        for number in range(3)
    ]
    busy = {(3, 0): {"configuration": 3, "repeat": 0, "knobs": SPACE.start}}
    table = RecordTable(configurations=4, repeats=2, seeds=2)
    assert next_request(SPACE, rows, table, busy) is None
    request = next_request(SPACE, [*rows, {**rows[0], "configuration": 3}], table, {})
    assert request is not None and request.repeat == 1


def test_what_is_being_trained_is_not_drawn_again() -> None:
    space = Space(parse_knobs("A = 1  # knob: int 1..2\n"))
    rows = [{"configuration": 0, "repeat": 0, "knobs": {"A": 1}, "status": None, "score": 1.0, "origin": "start"}]
    table = RecordTable(configurations=4, repeats=2, seeds=2)
    only = next_request(space, rows, table, {})
    assert only is not None and only.values == {"A": 2}
    assert next_request(space, rows, table, {(1, 0): {"configuration": 1, "repeat": 0, "knobs": {"A": 2}}}) is None


def test_rows_are_plain_json(bench: Bench, path: Path) -> None:
    with Store(path, TABLE, bench.facts, {}) as store, pytest.raises(ValueError, match="JSON"):
        store.append({"score": float("nan")})
    with Store(path, TABLE, bench.facts, {}) as store:
        assert store.rows == []
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [TABLE]
