"""What trust costs: seconds to score one checkpoint in one process, in two, and in two with the probes.

    python benchmarks/trust.py [--repeats 5] [--only demo laptop] [--json trust.json]

The model is the shipped train.py with random weights, the text is random ids: time does not depend on what they say.
"In one process" loads and runs the model without sandbox, process or copy and sums its loss, as plain code would.
Repeats are interleaved; the median is told. Figures are only worth quoting from an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from slm_ar.core.train import scorer
from slm_ar.core.train.device import probe_device
from slm_ar.core.train.integrity import Probes
from slm_ar.core.train.logits_server import load_candidate, load_checkpoint
from slm_ar.core.train.process import candidate_environment
from slm_ar.core.train.sandbox.choice import Sandboxes
from slm_ar.core.train.scorer import LogitsClient, Windows, make_windows, token_nats

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[*SIZES], choices=[*SIZES])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "threads": arguments.threads},
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "load_before": os.getloadavg()[0],
        "seed": SEED,
    }
    device, mode = probe_device()
    result["machine"] |= {"device": device, "mode": mode}
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as name:
        environment = candidate_environment(arguments.threads, None)
        with Sandboxes(mode, device, environment, may_be_unsafe=True) as sandboxes:
            started = time.monotonic()
            sandboxes.incubator("serve", Path(name))
            result["first_start_seconds"] = round(time.monotonic() - started, 3)  # once per command, with its proof
            assert sandboxes.isolation is not None
            result["isolation"] = sandboxes.isolation.words
            for size_name in arguments.only:
                result[size_name] = measure(SIZES[size_name], Path(name), sandboxes, device, arguments.repeats)
                print(size_name, result[size_name], file=sys.stderr)
    result["load_after"] = os.getloadavg()[0]
    text = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def measure(size: Size, place: Path, sandboxes: Sandboxes, device: str, repeats: int) -> dict[str, Any]:
    """Median seconds of the three ways, and what the two others cost over the first."""
    folder = write_checkpoint(place / "run", size)
    windows, documents = make_text(size)

    def opened() -> LogitsClient:
        incubator = sandboxes.incubator("serve", place)
        return LogitsClient(incubator, folder, sandboxes.environment, device, size.vocab_size, CONTEXT, MEMORY_MB)

    probes = Probes(np.random.default_rng(SEED))
    probes.draw(windows)
    ways: dict[str, Callable[[], float]] = {
        "one_process": lambda: score_here(folder, windows, device),
        "two_processes": lambda: score_there(opened, windows, documents, None),
        "with_probes": lambda: score_there(opened, windows, documents, Probes()),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, work in ways.items():
            started = time.monotonic()
            work()
            seconds[way].append(time.monotonic() - started)
    medians = {way: round(statistics.median(times), 3) for way, times in seconds.items()}
    plain = medians["one_process"]
    return {
        "vocab_size": size.vocab_size,
        "tokens": len(windows.targets),
        "windows": len(windows.ids),
        "probes": {"swapped": sum(p.is_swapped for p in probes.drawn), "all": len(probes.drawn)},
        "median_seconds": medians,
        "all_seconds": {way: [round(value, 3) for value in times] for way, times in seconds.items()},
        "two_processes_cost": round(medians["two_processes"] / plain - 1, 3),
        "with_probes_cost": round(medians["with_probes"] / plain - 1, 3),
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


def make_text(size: Size) -> tuple[Windows, int]:
    random = np.random.default_rng(SEED)
    count = max(1, size.tokens // size.document_tokens)
    documents = [random.integers(3, size.vocab_size, size.document_tokens).tolist() for _ in range(count)]
    return make_windows(list(enumerate(documents)), CONTEXT), count


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
    opened: Callable[[], AbstractContextManager[LogitsClient]], windows: Windows, documents: int, probes: Probes | None
) -> float:
    if probes is not None:
        probes.draw(windows)
    with opened() as client:
        rows = client.rows_per_request(CONTEXT)
        nats = scorer._nats_per_document(client, windows, documents, rows, probes)
    if probes is not None:
        probes.run(opened)
    return sum(nats)


if __name__ == "__main__":
    main()
