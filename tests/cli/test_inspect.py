"""`slm-ar inspect` tells what data are worth, and keeps nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands_in_process import Command, told
from data_workspaces import ADAPTER_FILE, make_row_workspace, write_rows

from slm_ar.core.prepare.heldout import private_root
from slm_ar.core.train.device_lock import device_lock
from slm_ar.core.train.training_run import TrainingRun


def test_a_page_of_facts(slm_ar: Command, tmp_path: Path, private_folder: Path) -> None:
    source = write_rows(tmp_path / "data" / "rows.csv", 9000, seed=5)
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = slm_ar("inspect", str(source), "--adapter", "table", "--option", "label=letter")
    assert ended.code == 0, ended.text
    for part in ("What is there", "How it was split", "What has to be beaten", "tokens per second", "9,000 documents"):
        assert part in ended.out, part
    assert "'serial' hardly ever repeats" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not private_folder.exists() or not list(private_folder.rglob("*.jsonl"))


def test_json_and_a_source_too_small_to_split(slm_ar: Command, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("One line, mail me at a.b@example.org, and no more.\n")
    ended = slm_ar("inspect", str(tmp_path / "note.txt"), "--json")
    assert ended.code == 0, ended.text
    facts = json.loads(ended.out)
    assert facts["adapter"] == "text" and facts["manifest"] is None and facts["refusal"]
    assert facts["facts"]["personal"] == {"e-mail addresses": 1}


def test_what_was_tolerated_is_told_also_without_a_split(slm_ar: Command, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("city,price,late\nRome,3,no\nOslo,4\nKyoto,5,yes\n", encoding="utf-8")
    for more in ((), ("--fast",), ("--json",)):
        ended = slm_ar("inspect", str(path), "--adapter", "table", *more)
        assert "rows with more or fewer than 3 cells: 1" in ended.out, ended.text


def test_the_pace_is_measured_alone_and_given_up_cleanly(
    slm_ar: Command, tmp_path: Path, private_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "data" / "rows.csv", 3000, seed=5)
    source.write_text(source.read_text().replace("serial", "ser\x1b[2Jial", 1))
    events: list[object] = []

    @contextmanager
    def recorded_lock(device: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        events.append(private_root())
        with device_lock(device, on_wait):
            yield
        events.append("free again")

    monkeypatch.setattr("slm_ar.core.train.device_lock.device_lock", recorded_lock)
    monkeypatch.setattr("slm_ar.core.cli.data.PACE_SECONDS", 0.5)
    asked = ("inspect", str(source), "--adapter", "table", "--option", "label=letter")
    ended = slm_ar(*asked)
    assert ended.code == 0, ended.text
    assert events == [private_folder, "free again"]  # the lock of this person, not one inside the temporary folder
    # What the data hold cannot drive the terminal.
    assert "<U+001B>" in ended.out and "\x1b" not in ended.out

    def interrupted(self: TrainingRun, seconds: float = 0.25) -> None:
        raise KeyboardInterrupt

    cancel = TrainingRun.cancel
    monkeypatch.setattr(TrainingRun, "poll", interrupted)
    monkeypatch.setattr(TrainingRun, "cancel", lambda self: events.append("cancelled") or cancel(self))
    ended = slm_ar(*asked)
    assert ended.code == 130 and "cancelled" in events
    assert "slm-ar: interrupted\n" in ended.error and "the same command goes on" not in ended.error


def test_what_an_adapter_raises_is_told_as_its_own(slm_ar: Command, tmp_path: Path) -> None:
    root = make_row_workspace(tmp_path, rows=20)
    module = root / ADAPTER_FILE
    mark = '    """What comes before the answer, and the answer.'
    text = module.read_text()
    assert mark in text
    module.write_text(text.replace(mark, f"    1 / 0\n{mark}"))
    number = 1 + module.read_text().splitlines().index("    1 / 0")
    place = f"failed at {module}:{number}: ZeroDivisionError"
    told(slm_ar("inspect", str(tmp_path / "source"), "--adapter", str(module)), 4, place)
    told(slm_ar("prepare", "--quiet", folder=root), 4, place, ADAPTER_FILE)


@pytest.mark.parametrize("name", ["empty.txt", "nothing.bin"])
def test_what_cannot_be_read_says_what_every_adapter_said(slm_ar: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name == "empty.txt" else bytes(range(256)) * 4)
    ended = slm_ar("inspect", str(tmp_path / name))
    assert ended.code == 4 and "no adapter can read" in ended.error and "text: " in ended.error
