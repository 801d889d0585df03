"""A model of a table is used on files that are not quite like that of training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from commands_in_process import Command, last
from data_workspaces import write_rows
from toys import TINY_TRAIN_PY, remember_machine, toy_recipe_text


def write_columns(source: Path, out: Path, names: list[str], also: str = "") -> Path:
    """The file with these columns in this order."""
    with source.open(newline="", encoding="utf-8") as file, out.open("w", newline="", encoding="utf-8") as new:
        writer = csv.writer(new)
        writer.writerow([*names, also] if also else names)
        for row in csv.DictReader(file):
            cells = [row[name] for name in names]
            writer.writerow([*cells, "x"] if also else cells)
    return out


def answers(path: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "document": ""} for line in path.read_text().splitlines()]


def test_a_shuffled_file_gets_the_same_answers(slm_ar: Command, private_folder: Path, tmp_path: Path) -> None:
    known = write_rows(tmp_path / "known.csv", 1500, seed=1)
    root = tmp_path / "work"
    root.mkdir()
    data = {"adapter": "table", "source": str(known), "dev_kb": 8, "hidden_kb": 8, "test_kb": 8}
    text = toy_recipe_text(data=data, budget={"steps": 20, "experiments": 2})
    (root / "recipe.toml").write_text(text + '\n[data.options]\nlabel = "letter"\ndrop = "serial"\n')
    (root / "train.py").write_text(TINY_TRAIN_PY)
    (root / "program.md").write_text("# rows\n")
    remember_machine(root)
    assert slm_ar("train", "--json", folder=root).code == 0
    asked = write_rows(tmp_path / "asked.csv", 60, seed=9, answered=False)
    plain = write_columns(asked, tmp_path / "plain.csv", ["serial", "shop", "size"])
    shuffled = write_columns(asked, tmp_path / "shuffled.csv", ["size", "serial", "shop"], also="weather")
    for source in (plain, shuffled):
        ended = slm_ar("predict", "--input", str(source), "--out", f"{source.stem}.jsonl", "--json", folder=root)
        assert ended.code == 0, ended.text
    assert last(ended)["notices"] == [f"{shuffled}: columns that training has not, left out (weather): 1"]
    assert answers(root / "shuffled.jsonl") == answers(root / "plain.jsonl")
    # What the model sees in another order is another text: the test would notice.
    changed = ("--option", "columns=size,shop")
    slm_ar("predict", "--input", str(plain), "--out", "other.jsonl", *changed, folder=root)
    assert answers(root / "other.jsonl") != answers(root / "plain.jsonl")
