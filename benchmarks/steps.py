"""Training steps per processor second on one thread, beside a plain GPT of the same shape: B5, a part of `make bench`.

Each side of each round is a process of its own (`python -m benchmarks.steps`), so that neither finds the other's
settings of torch; train.py is run as it is shipped, through its main(), with the knobs of size set.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.cli.workspace import template
from slm_ar.core.train.device import probe_machine
from slm_ar.core.train.process import candidate_environment

from .common import (
    Opened,
    Quiet,
    Run,
    Settings,
    in_repository,
    interval_of_ratio,
    median_of,
    ratio_words,
    significant,
)

LABEL = "B5"
TITLE = "Step rate"
WHAT = (
    "A model of a million parameters (4 layers, width 128, vocabulary 1,024, context 256), 2,048 tokens per step, one "
    "thread: the shipped train.py, run through its main() in the precision that the probe chose, beside a plain GPT of "
    "the same layers, width and heads (LayerNorm, GELU, learned positions, AdamW in a loop, clipping, eager float32), "
    "as it runs by itself and with the settings that slm-ar gives its runs (freed memory is kept, numbers below 1e-38 "
    "are taken for zero). Processor seconds per step, median of a round; rounds in turn. Target: at least 1.8 times as "
    "fast as by itself."
)
VOCAB_SIZE = 1024
SIZE = {
    "TARGET_PARAMS_M": 0.95,
    "ASPECT_RATIO": 32.0,
    "MLP_RATIO": 2.67,
    "TIED_HEAD": 1,
    "CONTEXT": 256,
    "BATCH_TOKENS": 2048,
}
SMALL = {"TARGET_PARAMS_M": 0.06, "CONTEXT": 64, "BATCH_TOKENS": 512}


def name(settings: Settings) -> str:
    return "steps"


def asked(settings: Settings) -> dict[str, Any]:
    steps = {"steps": 8, "first": 2} if settings.is_quick else {"steps": 60, "first": 10}
    return {**steps, "knobs": SIZE | SMALL if settings.is_quick else SIZE}


def keys(settings: Settings) -> list[str]:
    return [str(number) for number in range(settings.seeds)]


def seconds(settings: Settings) -> float:
    return 5 + settings.seeds * (7.0 if settings.is_quick else 36.0)


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    machine = probe_machine("cpu", 1, "auto")
    environment = candidate_environment(1, None)
    by_itself = {name: value for name, value in environment.items() if not name.startswith("MALLOC_")}
    plan = {**asked(settings), "precision": machine.precision}

    def measure(key: str) -> Run:
        quiet = Quiet()
        ours = in_repository("steps", "ours", json.dumps(plan), environment=environment)
        shape = json.dumps(plan | ours["config"])
        plain = in_repository("steps", "plain", shape, environment=by_itself)
        helped = in_repository("steps", "helped", shape, environment=environment)
        return {"ours": ours, "plain": plain, "helped": helped, "void": quiet.verdict()}

    yield Opened({"threads": 1, "precision": machine.precision}, measure)


def time_ours(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Processor seconds from one batch to the next inside the shipped main()."""
    from slm_ar.core.train import runtime
    from slm_ar.core.train.logits_server import load_candidate

    from .harness import connected, write_shards

    text = template("train.py")
    known = {knob.name for knob in parse_knobs(text)}
    text = set_knobs(text, {name: value for name, value in plan["knobs"].items() if name in known})
    (folder / "train.py").write_text(text, encoding="utf-8")
    shards = folder / "tokens.bin"
    write_shards(shards, 1_000_000, VOCAB_SIZE)
    shipped, times, sizes = runtime.Run.batches, list[float](), set[int]()

    def batches(self: runtime.Run, *arguments: Any, **named: Any) -> Iterator[runtime.Batch]:
        for batch in shipped(self, *arguments, **named):
            times.append(time.process_time())
            sizes.add(batch.inputs.numel())
            yield batch

    runtime.Run.batches = batches  # type: ignore[method-assign]
    facts = {"vocab_size": VOCAB_SIZE, "token_count": 1_000_000, "precision": plan["precision"]}
    with connected(folder, shards, {**facts, "budget_steps": plan["steps"] + 1}):
        load_candidate(folder).main()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (tokens,) = sizes
    return {
        **_steps(times, plan["first"], tokens),
        "parameters": _parameters(folder / "model.safetensors"),
        "config": {name: config[name] for name in ("context", "layers", "width", "head_dim")} | {"tokens": tokens},
    }


def _parameters(path: Path) -> int:
    from safetensors.numpy import load_file

    return sum(weight.size for weight in load_file(path).values())


def time_plain(plan: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    from .plain import Shape, Trainer

    sizes = {name: plan[name] for name in ("context", "layers", "width", "head_dim")}
    shape = Shape(VOCAB_SIZE, **sizes, batch_tokens=plan["tokens"])
    trainer = Trainer(shape)
    ids = torch.randint(VOCAB_SIZE, (shape.batch_tokens // shape.context, shape.context + 1))
    times = [time.process_time()]
    for _ in range(plan["steps"]):
        trainer.step(ids[:, :-1], ids[:, 1:])
        times.append(time.process_time())
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    return {**_steps(times, plan["first"], shape.batch_tokens), "parameters": parameters}


def _steps(times: Sequence[float], first: int, tokens: int) -> dict[str, Any]:
    """The median step; the first ones, in which memory is taken and caches fill, are left out."""
    spent = [after - before for before, after in itertools.pairwise(times)][first:]
    middle = statistics.median(spent)
    return {"cpu_seconds_per_step": significant(middle), "tokens_per_cpu_second": significant(tokens / middle)}


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    sides = {side: [run[side] for run in runs] for side in ("ours", "plain", "helped")}
    rates = {side: [item["tokens_per_cpu_second"] for item in items] for side, items in sides.items()}
    found: dict[str, Any] = {
        side: {
            "tokens_per_cpu_second": median_of(items, "tokens_per_cpu_second"),
            "parameters": items[0]["parameters"] if items else None,
        }
        for side, items in sides.items()
    }
    return found | {"times_faster": interval_of_ratio(rates["ours"], rates["plain"])}


def lines(record: Mapping[str, Any]) -> list[str]:
    found = record["summary"]
    if not found["times_faster"]:
        return []
    rows = ["| step | parameters | tokens per CPU-s |", "| --- | --- | --- |"]
    sides = {
        "ours": f"train.py, {record['facts']['precision']}",
        "plain": "plain GPT, float32",
        "helped": "plain GPT, float32, with the settings of slm-ar",
    }
    for side, words in sides.items():
        rows.append(f"| {words} | {found[side]['parameters']:,} | {found[side]['tokens_per_cpu_second']:,.0f} |")
    return [*rows, "", f"Times faster (95 % interval over rounds): {ratio_words(found['times_faster'])}."]


def _main(side: str, plan: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(side != "plain")  # as in every run (candidate.py)
    if side == "ours":
        with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as folder:
            print(json.dumps(time_ours(json.loads(plan), Path(folder))))
    else:
        print(json.dumps(time_plain(json.loads(plan))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
