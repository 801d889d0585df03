"""An arrival log in the Swiss form: trained on one month, evaluated on one with other columns, lines and delays."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

from toys import TINY_TRAIN_PY, remember_machine, toy_recipe_text

COLUMNS = ("BETRIEBSTAG", "LINIEN_ID", "LINIEN_TEXT", "HALTESTELLEN_NAME", "ANKUNFTSZEIT", "AN_PROGNOSE")
PROGRAM = str(Path(sys.executable).with_name("slm-ar"))


def write_month(folder: Path, month: int, lines: tuple[str, ...], shift: float, more: str = "") -> Path:
    """One file per day; delays are about half a minute, `shift` more, with a rush hour. `more` is one column more."""
    pick = random.Random(month)
    folder.mkdir(parents=True)
    for number in range(24):
        day = date(2024, month, 1) + timedelta(number)
        rows = [";".join((*COLUMNS, *([more] if more else [])))]
        for line in lines:
            for hour in range(6, 22):
                minute = 60 * hour + 7 * len(rows) % 60
                delay = max(0.0, pick.gauss(0.5 + shift + 1.5 * (hour in (7, 17)), 0.4))
                planned, seen = (f"{day} {int(at) // 60:02d}:{int(at) % 60:02d}:00" for at in (minute, minute + delay))
                cells = (f"{day:%d.%m.%Y}", f"85:{line}", line, "Thun, Bahnhof", planned, seen)
                rows.append(";".join((*cells, *(["x"] if more else []))))
        (folder / f"{day}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def run(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "SLM_AR_PRIVATE": str(root.parent / "private")}
    ended = subprocess.run(
        [PROGRAM, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_one_month_is_learned_and_another_is_evaluated(tmp_path: Path) -> None:
    source = write_month(tmp_path / "july", 7, ("1", "3", "21"), shift=0.0)
    root = tmp_path / "thun"
    root.mkdir()
    data = {
        "adapter": "transit",
        "source": str(source),
        "dev_kb": 4,
        "hidden_kb": 4,
        "test_kb": 4,
        "mix_kb": 2,
        "max_overlap_percent": 100,
    }
    text = toy_recipe_text(data=data, budget={"steps": 150, "experiments": 2}, evaluation={"context": 64})
    (root / "recipe.toml").write_text(text, encoding="utf-8")
    (root / "train.py").write_text(TINY_TRAIN_PY, encoding="utf-8")
    (root / "program.md").write_text("# thun\n", encoding="utf-8")
    remember_machine(root)
    trained = json.loads(run(root, "train", "--json").splitlines()[-1])
    (task,) = trained["tasks"]
    assert (task["task"], task["metric"]) == ("delay", "mae")
    for figures in (task["model"], *task["baselines"].values()):
        assert 0 <= figures["eta_accuracy"] <= 1  # arrivals of a line are rated by their horizon, baselines too

    later = write_month(tmp_path / "september", 9, ("3", "21", "44"), shift=4.0, more="QUELLE")
    facts = json.loads(run(root, "eval", "--source", str(later), "--json").splitlines()[-1])
    assert facts["documents"] == 24 * 3 and facts["prepared_already"] == 0
    assert set(facts["slices"]["line"]) == {"3", "21", "44"}
    assert facts["slices"]["month"].keys() == {"2024-09"}
    assert any("values that train never shows are" in line and "in the new data" in line for line in facts["notices"])
    assert facts["bits_per_byte"] > 1.02 * facts["dev_bits_per_byte"]
    new, dev = (facts[name][0]["model"]["mae"] for name in ("tasks", "dev_tasks"))
    assert new > dev + 1  # the shift of four minutes
    words = run(root, "eval", "--source", str(later))
    assert "values that train never shows are" in words
    assert "drift: " in words and "more bits than on dev" in words
    assert "mae on dev was" in words and "by line: " in words and "44 " in words
