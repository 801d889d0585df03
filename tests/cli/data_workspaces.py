"""A workspace over a small table, trained by the toy train.py: for the tests of the commands that use a model."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from toys import TINY_TRAIN_PY, remember_machine, toy_recipe_text

SHOPS = ("north", "south", "east")
ADAPTER_FILE = "rows_adapter.py"


def write_rows(path: Path, count: int, seed: int, answered: bool = True) -> Path:
    """Rows whose last column follows from the one before it: there is something to learn."""
    pick = random.Random(seed)
    rows = [
        [f"r{serial:05d}", pick.choice(SHOPS), (size := pick.choice(("small", "large"))), size[:1]]
        for serial in pick.sample(range(100_000), count)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["serial", "shop", "size", "letter"])
        csv.writer(file).writerows(row if answered else [*row[:3], ""] for row in rows)
    return path


def make_row_workspace(folder: Path, rows: int = 3000, **tables: Mapping[str, Any]) -> Path:
    """A workspace that reads rows.csv through the adapter that `slm-ar adapters new` writes; nothing is trained."""
    source = write_rows(folder / "source" / "rows.csv", rows, seed=1)
    root = folder / "rows"
    root.mkdir()
    code = resources.files("slm_ar.program_templates").joinpath("adapter.py").read_text(encoding="utf-8")
    (root / ADAPTER_FILE).write_text(code, encoding="utf-8")
    data = {"adapter": ADAPTER_FILE, "source": str(source), "dev_kb": 8, "hidden_kb": 8, "test_kb": 8}
    data |= tables.pop("data", {})
    budget = {"steps": 150, "experiments": 2}
    text = toy_recipe_text(data=data, budget=budget, **tables)
    (root / "recipe.toml").write_text(text, encoding="utf-8")
    (root / "train.py").write_text(TINY_TRAIN_PY, encoding="utf-8")
    (root / "program.md").write_text("# rows\n", encoding="utf-8")
    remember_machine(root)
    return root
