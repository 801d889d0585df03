"""Rows per second of `slm-ar predict` with the demo's model: made-up tables of short rows, and the demo's own arrivals.

    python -m benchmarks.predict [--rows 10000] [--seconds 6] [--json results.json]

Trains the demo's model on each and answers new rows through the command itself, start-up included and apart.
Figures are only worth quoting from an idle machine.
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .common import facts, parser, private_in, tell

TRAIN_ROWS = 20_000
RECIPE = """
name = "predict-benchmark"
description = "The demo's model on rows to answer."
[data]
adapter = "{adapter}"
source = "{source}"
dev_kb = 80
hidden_kb = 120
test_kb = 80
{options}
[tokenizer]
vocab_size = 1024
[budget]
seconds = {seconds}
[evaluation]
context = 256
"""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--seconds", type=float, default=6)
    arguments = options.parse_args()
    result = {**facts(), "rows": arguments.rows}
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as folder, private_in(Path(folder)):
        root = Path(folder)
        for label in ("late", "delay"):
            known, asked = root / f"{label}.csv", root / f"{label}-new.csv"
            write_rows(known, label, TRAIN_ROWS, seed=1, with_answer=True)
            write_rows(asked, label, arguments.rows, seed=2, with_answer=False)
            recipe = RECIPE.format(
                adapter="table", source=known, seconds=arguments.seconds, options=f'[data.options]\nlabel = "{label}"'
            )
            result["choice" if label == "late" else "value"] = measured(root / label, recipe, asked)
        city, asked = root / "city", root / "city-new"
        write_city(city, asked)
        recipe = RECIPE.format(adapter="transit", source=city, seconds=arguments.seconds, options="")
        result["demo arrivals"] = measured(root / "demo", recipe, asked)
    tell(result, arguments.json)


def write_rows(file: Path, label: str, rows: int, seed: int, with_answer: bool) -> None:
    """Arrivals as short rows; their delay depends on weather and hour."""
    rng = random.Random(seed)
    names = ["line", "hour", "weather", "stop", "load", label]
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(names if with_answer else names[:-1])
        for _ in range(rows):
            hour, weather = rng.randrange(5, 24), rng.choice(["dry", "rain", "snow"])
            mean = {"dry": 2, "rain": 5, "snow": 9}[weather] + 3 * (hour in (8, 17))
            delay = max(0, round(rng.gauss(mean, 3)))
            answer = delay if label == "delay" else "yes" if delay > 5 else "no"
            line, stop = rng.choice(["501", "504", "29", "7", "85"]), rng.choice(["King", "Queen", "Bloor", "Union"])
            row = [line, hour, weather, stop, rng.randrange(100), answer]
            writer.writerow(row if with_answer else row[:-1])


def write_city(folder: Path, asked: Path) -> None:
    """The demo's arrivals; the last day once more, every third row without what tells its delay."""
    from slm_ar.core.registry import load_adapter

    writer: Any = load_adapter("transit")
    writer.write_sample_source(folder, 0)
    asked.mkdir()
    last = max((folder / "arrivals").glob("*.csv"))
    with last.open(encoding="utf-8") as given, (asked / last.name).open("w", encoding="utf-8") as written:
        for place, line in enumerate(given):
            cells = line.rstrip("\n").split(";")
            if place and place % 3 == 0:
                cells[15] = cells[18] = cells[21] = ""
            written.write(";".join(cells) + "\n")


def measured(root: Path, recipe: str, asked: Path) -> dict[str, Any]:
    from slm_ar.core.cli.workspace import create_workspace

    file = root.with_suffix(".toml")
    file.write_text(recipe, encoding="utf-8")
    create_workspace(root, str(file), {})
    trained = command(root, "train", "--json", "--allow-unsafe")
    answered = command(
        root, "predict", "--allow-unsafe", "--input", str(asked), "--out", str(root / "answers.jsonl"), "--json"
    )
    return {
        "parameters": trained["parameters"],
        "sandbox": trained["isolation"],
        **{key: value for key, value in answered.items() if key != "out"},
    }


def command(folder: Path, *arguments: str) -> dict[str, Any]:
    ended = subprocess.run(
        [Path(sys.executable).with_name("slm-ar"), *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
