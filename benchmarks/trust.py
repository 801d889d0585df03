"""What trust costs: seconds to score one checkpoint in one process, in two, and in two with the probes.

    python -m benchmarks.trust [--repeats 5] [--only demo laptop] [--json trust.json]
    python -m benchmarks.trust --experiment [--steps 10] [--repeats 5] [--only demo laptop]

The model is the shipped train.py with random weights, the text is random ids: time does not depend on what they say.
"In one process" loads and runs the model without sandbox, process or copy and sums its loss, as plain code would.
`--experiment` measures whole experiments, from submitting to the score: a few steps on a prepared synthetic city, once
through sandbox, second process and probes, and once as plain code that trains, saves, loads and scores in one process.
Repeats are interleaved; the median is told. Figures are only worth quoting from an idle machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import TOKENIZER_FILE, PreparedData
from slm_ar.core.prepare.shards import TOKENS_FILE
from slm_ar.core.prepare.tokenizer import load_tokenizer, token_texts
from slm_ar.core.train.device import probe_device
from slm_ar.core.train.executor import window_context
from slm_ar.core.train.integrity import Probes
from slm_ar.core.train.logits_client import LogitsClient
from slm_ar.core.train.logits_server import load_candidate, load_checkpoint
from slm_ar.core.train.meter import allowance
from slm_ar.core.train.process import candidate_environment
from slm_ar.core.train.sandbox.choice import Sandboxes
from slm_ar.core.train.scorer import window_nats
from slm_ar.core.train.training_run import TrainJob
from slm_ar.core.train.windows import Windows, encode_documents, make_windows, token_nats

from .common import city_workspace, executor_for, facts, parser, prepared, private_in, processor_seconds, tell, train
from .harness import connected

TEMPLATE = Path(__file__).parents[1] / "program_templates" / "train.py"
CONTEXT = 256
SEED = 0
BATCH_ROWS = 64
MEMORY_MB = 1e6


class Size(NamedTuple):
    """A model and a split."""

    vocab_size: int
    parameters_m: float
    tokens: int
    document_tokens: int


SIZES = {
    "demo": Size(1024, 0.7, 24_000, 400),  # 80 kB of dev
    "laptop": Size(4096, 0.7, 100_000, 2000),  # 400 kB
    "wide": Size(16_384, 3, 40_000, 2000),
}

EXPERIMENTS: dict[str, tuple[dict[str, Any], float]] = {
    "demo": ({}, 6.0),
    "laptop": ({"data.dev_kb": 300}, 300.0),  # as much of that as the city gives
}
"""What differs from the recipe of the demo, and the budget in seconds that the cost is put against."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--only", nargs="*", choices=[*SIZES])
    options.add_argument("--experiment", action="store_true")
    options.add_argument("--steps", type=int, default=10)
    arguments = options.parse_args()
    if arguments.experiment and not {*(arguments.only or ())} <= {*EXPERIMENTS}:
        options.error(f"--experiment knows {' and '.join(EXPERIMENTS)}")
    torch.set_num_threads(arguments.threads)
    result = {**facts(), "threads": arguments.threads, "seed": SEED}
    device, mode = probe_device()
    result |= {"device": device, "mode": mode}
    if arguments.experiment:
        for name in arguments.only or EXPERIMENTS:
            result[name] = measure_experiment(name, arguments.steps, arguments.threads, arguments.repeats)
            print(name, result[name], file=sys.stderr)
        tell(result, arguments.json)
        return
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as name:
        environment = candidate_environment(arguments.threads, None)
        with Sandboxes(mode, device, environment, may_be_unsafe=True) as sandboxes:
            started = time.monotonic()
            sandboxes.incubator("serve", Path(name))
            result["first_start_seconds"] = round(time.monotonic() - started, 3)  # once per command, with its proof
            assert sandboxes.isolation is not None
            result["isolation"] = sandboxes.isolation.words
            for size_name in arguments.only or SIZES:
                result[size_name] = measure(SIZES[size_name], Path(name), sandboxes, device, arguments.repeats)
                print(size_name, result[size_name], file=sys.stderr)
    tell(result, arguments.json)


def measure(size: Size, place: Path, sandboxes: Sandboxes, device: str, repeats: int) -> dict[str, Any]:
    """Median seconds of the three ways, and what the two others cost over the first."""
    folder = write_checkpoint(place / "run", size)
    windows = make_text(size)
    clients: list[LogitsClient] = []

    def opened() -> LogitsClient:
        incubator = sandboxes.incubator("serve", place)
        client = LogitsClient(incubator, folder, sandboxes.environment, device, size.vocab_size, CONTEXT, MEMORY_MB)
        clients.append(client)
        return client

    probes = Probes(np.random.default_rng(SEED))
    probes.draw(windows)
    ways: dict[str, Callable[[], float]] = {
        "one_process": lambda: score_here(folder, windows, device),
        "two_processes": lambda: score_there(opened, windows, None),
        "with_probes": lambda: score_there(opened, windows, Probes()),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, work in ways.items():
            started = time.monotonic()
            work()
            seconds[way].append(time.monotonic() - started)
    medians = {way: round(statistics.median(times), 3) for way, times in seconds.items()}
    plain = medians["one_process"]
    checkpoint_bytes = (folder / "model.safetensors").stat().st_size
    return {
        "vocab_size": size.vocab_size,
        "tokens": len(windows.targets),
        "windows": len(windows.ids),
        "probes": {"swapped": sum(p.is_swapped for p in probes.drawn), "all": len(probes.drawn)},
        "median_seconds": medians,
        "all_seconds": {way: [round(value, 3) for value in times] for way, times in seconds.items()},
        "two_processes_cost": round(medians["two_processes"] / plain - 1, 3),
        "with_probes_cost": round(medians["with_probes"] / plain - 1, 3),
        "work_beyond_answering": {
            "most_seconds": round(max(client.work_beyond_answering for client in clients), 3),
            "free_seconds": round(allowance(device, 1, None, checkpoint_bytes).extra, 3),
        },
        "with_probes_extra_seconds": round(medians["with_probes"] - plain, 3),
    }


def write_checkpoint(folder: Path, size: Size) -> Path:
    """The shipped train.py with `parameters_m` and random weights."""
    from safetensors.torch import save_model

    folder.mkdir(exist_ok=True)
    code = TEMPLATE.read_text(encoding="utf-8")
    (folder / "train.py").write_text(
        code.replace("TARGET_PARAMS_M = 0.7", f"TARGET_PARAMS_M = {size.parameters_m}"), encoding="utf-8"
    )
    module = load_candidate(folder)
    config = module.choose_config(size.vocab_size)
    model = module.build_model(asdict(config))
    torch.manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    save_model(model, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
    return folder


def make_text(size: Size) -> Windows:
    random = np.random.default_rng(SEED)
    count = max(1, size.tokens // size.document_tokens)
    documents = [random.integers(3, size.vocab_size, size.document_tokens).tolist() for _ in range(count)]
    return make_windows(list(enumerate(documents)), CONTEXT)


@torch.inference_mode()
def score_here(folder: Path, windows: Windows, device: str) -> float:
    model = load_checkpoint(folder, torch.device(device))
    total, target_at = 0.0, 0
    for first in range(0, len(windows.ids), BATCH_ROWS):
        rows = slice(first, first + BATCH_ROWS)
        logits = model(torch.from_numpy(windows.ids[rows].astype(np.int64)).to(device))
        spans = zip(windows.starts[rows], windows.ends[rows], strict=True)
        picked = torch.cat([logits[row, start:end] for row, (start, end) in enumerate(spans)]).cpu()
        total += float(token_nats(picked, windows.targets[target_at : target_at + len(picked)]).sum())
        target_at += len(picked)
    return total


def score_there(
    opened: Callable[[], AbstractContextManager[LogitsClient]], windows: Windows, probes: Probes | None
) -> float:
    if probes is not None:
        probes.draw(windows)
    with opened() as client:
        nats, _ = window_nats(client, windows, probes=probes)
    if probes is not None:
        probes.run(opened)
    return float(nats.sum())


# --- whole experiments ------------------------------------------------------------------------


def measure_experiment(name: str, steps: int, threads: int, repeats: int) -> dict[str, Any]:
    """Median seconds from submitting to the score, with everything and with nothing; trust costs the difference."""
    recipe, budget = EXPERIMENTS[name]
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as place, private_in(Path(place)):
        folder = Path(place) / "trust"
        workspace = city_workspace(folder, recipe)
        data = prepared(workspace, folder)
        machine = replace(workspace.machine(), threads=threads)
        job = TrainJob(workspace.train_py, SEED, None, steps, 120, MEMORY_MB)
        documents = list(read_split(data.held_folder, "dev"))
        context = workspace.recipe.evaluation.context
        seconds: dict[str, list[float]] = {"plain": [], "trusted": []}
        processor: dict[str, list[float]] = {"plain": [], "trusted": []}
        with executor_for(workspace, data, machine) as executor:
            tokenizer = executor.tokenizer
            started = time.monotonic()
            isolation = executor.isolation(folder).words
            executor._sandboxes.incubator("serve", folder)
            hatching = time.monotonic() - started  # once per command
            for _ in range(repeats + 1):  # the first of each is thrown away: caches, lazy imports
                started, spent = time.monotonic(), processor_seconds()
                here = folder / "here"
                train_here(here, job, data, machine.device)
                segments = encode_documents(tokenizer, documents)
                window = window_context(here, context)
                score_here(here, make_windows(segments, window), machine.device)
                seconds["plain"].append(time.monotonic() - started)
                processor["plain"].append(processor_seconds() - spent)
                started, spent = time.monotonic(), processor_seconds()
                train(executor, job, folder / "run")
                executor.score(folder / "run", "dev", context)
                seconds["trusted"].append(time.monotonic() - started)
                processor["trusted"].append(processor_seconds() - spent)
    medians = {way: round(statistics.median(times[1:]), 3) for way, times in seconds.items()}
    extra = medians["trusted"] - medians["plain"]
    spending = {way: round(statistics.median(times[1:]), 3) for way, times in processor.items()}
    return {
        "vocab_size": data.manifest.vocab_size,
        "dev_bytes": data.manifest.splits["dev"].byte_count,
        "dev_tokens": sum(len(ids) for _, ids in segments),
        "steps": steps,
        "isolation": isolation,
        "once_per_command_seconds": round(hatching, 2),
        "median_seconds": medians,
        "all_seconds": {way: [round(value, 3) for value in times] for way, times in seconds.items()},
        "median_processor_seconds": spending,
        "extra_processor_seconds": round(spending["trusted"] - spending["plain"], 3),
        "extra_seconds": round(extra, 3),
        "budget_seconds": budget,
        "share_of_budget": round(extra / budget, 4),
    }


def train_here(folder: Path, job: TrainJob, data: PreparedData, device: str) -> None:
    """The same train.py, run by this process; nobody watches."""
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(job.train_py, encoding="utf-8")
    manifest = data.manifest
    known: dict[str, Any] = {"seed": job.seed, "vocab_size": manifest.vocab_size, "token_count": manifest.train_tokens}
    known |= {"bytes_per_token": manifest.bytes_per_token, "token_dtype": manifest.token_dtype, "device": device}
    known["token_texts"] = token_texts(load_tokenizer(data.folder / TOKENIZER_FILE))
    with connected(folder, data.folder / TOKENS_FILE, {**known, "budget_steps": job.budget_steps}):
        load_candidate(folder).main()


if __name__ == "__main__":
    main()
