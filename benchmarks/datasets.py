"""The table of docs/data.md: every data set at hand, how it is split, what has to be beaten, and what a model reached.

    python -m benchmarks.datasets DATA_FOLDER [--seconds 60] [--seeds 2] [--only NAME ...] [--json FILE] [--out FILE]
    python -m benchmarks.datasets DATA_FOLDER --only 'SMS spam' --json FILE        one set again, the others as they are

DATA_FOLDER holds one folder per domain (transit, tinystories, query_expansion, products, messages, demand, funds, logs,
benchmark); sets whose files are absent are left out and named. Each set is prepared with the shipped laptop recipe of
its adapter, trained for --seconds with each seed by the shipped train.py, and scored on dev, beside floors and
baselines. Lines that FILE holds already stay unless their set is measured again, and FILE is written after every set:
the table can be made in pieces. Figures are only worth quoting from an idle machine; a run that other programs
disturbed says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm_ar.core.cli.workspace import create_workspace, recipe_for
from slm_ar.core.errors import SlmArError
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.tasks.exam import sit_exam
from slm_ar.core.train.executor import window_context

from .common import clocked_job, executor_for, facts, parser, private_in, train, write


@dataclass(frozen=True)
class DataSet:
    """One line of the table; `changes` are recipe keys that differ from the shipped recipe."""

    name: str
    adapter: str
    path: str
    changes: dict[str, Any] = field(default_factory=dict)


SMALL = {"data.dev_kb": 60, "data.hidden_kb": 60, "data.test_kb": 60}
DATA_SETS = (
    DataSet("TTC incidents", "transit", "transit/incidents"),
    DataSet("STI arrivals, July", "transit", "transit/istdaten"),
    DataSet("VTA positions", "transit", "transit/avl", SMALL),
    DataSet("HART schedule", "transit", "transit/gtfs/hart.zip"),
    DataSet("BART schedule", "transit", "transit/gtfs/bart.zip", SMALL),
    DataSet("TinyStories, cased", "tinystories", "tinystories/tinystories_v1_cased.txt", SMALL),
    DataSet("qmd expansions", "query_expansion", "query_expansion", SMALL),
    DataSet(
        "PriceRunner titles",
        "table",
        "products/pricerunner_aggregate.csv.gz",
        {
            "data.options.columns": "Product Title",
            "data.options.label": "Category Label",
            "data.options.group": "Cluster ID",
        },
    ),
    DataSet(
        "SMS spam",
        "table",
        "messages/SMSSpamCollection",
        {**SMALL, "data.options.header": False, "data.options.label": "column_1", "data.options.positive": "spam"},
    ),
    DataSet("Avocado prices", "table", "demand/avocado.csv", {**SMALL, "data.options.label": "AveragePrice"}),
    DataSet(
        "Weekly sales",
        "table",
        "demand/Sales_Transactions_Weekly.csv",
        {**SMALL, "data.options.wide": True, "data.options.series": "Product_Code"},
    ),
    DataSet("BGL log", "text", "logs/BGL_2k.log", {"data.dev_kb": 20, "data.hidden_kb": 20, "data.test_kb": 20}),
    DataSet("TTC days, 9 MB", "text", "benchmark/ttc_days_9mb.txt.gz", {"data.split": "order"}),
    DataSet("Shakespeare", "text", "benchmark/tinyshakespeare.txt", {**SMALL, "data.split": "order"}),
)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("folder", type=Path)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--seeds", type=int, default=2)
    options.add_argument("--only", nargs="*", help="Names of data sets; without any, all of them.")
    options.add_argument("--out", type=Path, help="Markdown file to write.")
    arguments = options.parse_args()
    names = [chosen.name for chosen in DATA_SETS]
    if unknown := set(arguments.only or ()) - set(names):
        options.error(f"no data set is called {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    results = known_results(arguments.json)
    for chosen in DATA_SETS:
        if (arguments.only and chosen.name not in arguments.only) or not (arguments.folder / chosen.path).exists():
            continue
        print(f"== {chosen.name}", file=sys.stderr, flush=True)
        measured_with = {**facts(), "seconds": arguments.seconds, "seeds": arguments.seeds}
        try:
            found = measure(chosen, arguments)
        except SlmArError as error:
            found = {"name": chosen.name, "error": str(error)}
        results[chosen.name] = found | measured_with
        print(json.dumps(results[chosen.name]), file=sys.stderr, flush=True)
        write_all(results, arguments)
    write_all(results, arguments)
    print(page(in_order(results)))


def known_results(file: Path | None) -> dict[str, dict[str, Any]]:
    """Name of a set -> what an earlier call wrote of it; each says when, where and for how long it was measured."""
    if file is None or not file.exists():
        return {}
    record = json.loads(file.read_text(encoding="utf-8"))
    shared = {name: record[name] for name in ("at", "machine", "seconds", "seeds") if name in record}
    return {result["name"]: shared | result for result in record["results"]}


def in_order(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [results[chosen.name] for chosen in DATA_SETS if chosen.name in results]


def write_all(results: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        write(arguments.json, {"results": in_order(results)})
    if arguments.out is not None:
        write(arguments.out, page(in_order(results)))


def measure(chosen: DataSet, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prepare, train with every seed, score: one JSON-able record."""
    with tempfile.TemporaryDirectory(prefix="slm-ar-datasets-") as name, private_in(Path(name)):
        folder = Path(name)
        recipe = recipe_for(chosen.adapter)
        source = {"data.adapter": chosen.adapter, "data.source": str((arguments.folder / chosen.path).resolve())}
        workspace = create_workspace(folder / "work", recipe, {**source, **chosen.changes})
        adapter = workspace.adapter()
        data = workspace.prepared(lambda line: None)
        machine = workspace.machine()
        manifest = data.manifest
        documents = list(read_split(data.held_folder, "dev"))
        runs: list[dict[str, Any]] = []
        with executor_for(workspace, data, machine) as executor:
            sandbox = executor.isolation(folder).words
            for seed in range(arguments.seeds):
                outcome = train(executor, clocked_job(workspace, machine, seed, arguments.seconds), folder / "run")
                score = executor.score(folder / "run", "dev", workspace.recipe.evaluation.context)
                run = {"seed": seed, "bpb": score.bits_per_byte, "tokens": outcome.tokens}
                runs.append({**run, "disturbed": outcome.disturbance})
            context = window_context(folder / "run", workspace.recipe.evaluation.context)
            opener = executor.opener(folder / "run", context)
            exam = sit_exam(opener, executor.tokenizer, context, "dev", documents, data, adapter)
        return {
            "name": chosen.name,
            "recipe": recipe,
            "sandbox": sandbox,
            "split": manifest.split_rule,
            "train_mb": manifest.splits["train"].byte_count / 1e6,
            "dev_kb": manifest.splits["dev"].byte_count / 1e3,
            "epochs": runs[-1]["tokens"] / manifest.train_tokens,
            "floors": manifest.floors,
            "runs": runs,
            "tasks": [result.to_json() for result in exam],
        }


def page(results: list[dict[str, Any]]) -> str:
    """docs/data.md."""
    days = sorted({result["at"][:10] for result in results})
    seen = [result["machine"] for result in results]
    machines = sorted({f"{machine['cores']} cores ({machine['processor']})" for machine in seen})
    lines = [
        "# What the data at hand are worth",
        "",
        f"Made by `python -m benchmarks.datasets` on {' to '.join(dict.fromkeys((*days[:1], *days[-1:])))}: "
        f"{', '.join(machines)}; each line names seconds of training per run and seeds (mean of dev; the tasks "
        "with the last seed's model). Every set has the shipped laptop recipe of its adapter; the columns are dev, the "
        "splits are whole groups. Floors: the best compressor, given the train text. A run marked * was disturbed "
        "by other programs.",
        "",
        "| data | budget | split | train MB | passes | best compressor | model, bits per byte | task | model | "
        "best baseline |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        if "error" in result:
            reason = " ".join(result["error"].split())
            lines.append(f"| {result['name']} | | refused: {reason} | | | | | | | |")
            continue
        lines += _rows(result)
    missing = [chosen.name for chosen in DATA_SETS if chosen.name not in {result["name"] for result in results}]
    if missing:
        lines += ["", f"Not measured: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _rows(result: dict[str, Any]) -> list[str]:
    floor = min(result["floors"], key=lambda name: result["floors"][name])
    scores = [run["bpb"] for run in result["runs"]]
    spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    star = " *" if any(run["disturbed"] for run in result["runs"]) else ""
    head = (
        f"| {result['name']} | {result['seconds']:.0f} s, {len(scores)} seeds | {result['split']} | "
        f"{result['train_mb']:.1f} | {result['epochs']:.2f} | "
        f"{floor} {result['floors'][floor]:.4f} | {statistics.fmean(scores):.4f}{spread}{star} |"
    )
    if not result["tasks"]:
        return [f"{head} | | |"]
    rows = []
    for number, task in enumerate(result["tasks"]):
        best, metric = task["best_baseline"], task["metric"]
        beside = f"{best} {task['baselines'][best][metric]:.4f}" if best else ""
        start = head if number == 0 else "| | | | | | | |"
        rows.append(f"{start} {task['task']}, {metric} | {task['model'][metric]:.4f} | {beside} |")
    return rows


if __name__ == "__main__":
    main()
