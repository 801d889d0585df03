"""`slm-ar inspect` tells what data are worth, and keeps nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands_in_process import Command
from data_workspaces import write_rows


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


@pytest.mark.parametrize("name", ["empty.txt", "nothing.bin"])
def test_what_cannot_be_read_says_what_every_adapter_said(slm_ar: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"" if name == "empty.txt" else bytes(range(256)) * 4)
    ended = slm_ar("inspect", str(tmp_path / name))
    assert ended.code == 4 and "no adapter can read" in ended.error and "text: " in ended.error
