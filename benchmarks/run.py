"""Quality at an equal budget: train.py on a text file for a number of seconds and seeds, beside what compressors reach.

    python benchmarks/run.py TEXT [--seconds 60] [--seeds 5] [--peer 'COMMAND'] [--json results.json]

Without TEXT the synthetic city is used. A peer is any command: it is given the files of the same train and dev text and
the seconds as arguments, and prints its bits per byte of the dev text as the last line. Runs are interleaved; one that
other programs disturbed is void and says so. Figures are only worth quoting from an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slm_ar.core.cli.workspace import Workspace, create_workspace
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import TOKENIZER_FILE, PreparedData
from slm_ar.core.prepare.shards import TOKENS_FILE
from slm_ar.core.prepare.tokenizer import BOS, EOS, load_tokenizer
from slm_ar.core.registry import load_adapter
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.training_run import TrainJob


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--held-kb", type=int, default=200)
    parser.add_argument("--peer")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slm-ar-bench-") as folder:
        result = measure(Path(folder), arguments)
    text = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """All runs of one benchmark, as one JSON-able record."""
    workspace = make_workspace(folder, arguments)
    data = workspace.prepared(lambda phase: print(phase, file=sys.stderr))
    machine = workspace.machine()
    peer_files = write_texts(folder, data) if arguments.peer else None
    runs, peers = [], []
    with LocalExecutor(machine, data, allow_unsafe=True) as executor:  # our own train.py: no walls are needed
        sandbox = executor.isolation(folder).words
        for seed in range(arguments.seeds):
            job = TrainJob(workspace.train_py, seed, arguments.seconds, None, 60, 0.8 * machine.memory_mb)
            load = os.getloadavg()[0]
            training = executor.submit(job, folder / "run")
            while (outcome := training.poll()) is None:
                pass
            if outcome.status is not None:
                raise SystemExit(f"seed {seed}: {outcome.status}: {outcome.reason}")
            score = executor.score(folder / "run", "dev", 512)
            run = {"seed": seed, "bpb": score.bits_per_byte, "steps": outcome.steps, "tokens": outcome.tokens}
            run |= {"seconds": outcome.train_seconds, "void": outcome.disturbance, "load_before": load}
            runs.append(run)
            print(run, file=sys.stderr)
            if peer_files is not None:
                command = [*shlex.split(arguments.peer), *map(str, peer_files), str(arguments.seconds)]
                answer = subprocess.run(command, capture_output=True, text=True, check=True)
                peers.append(float(answer.stdout.strip().splitlines()[-1]))
    valid = [run["bpb"] for run in runs if not run["void"]]
    mean = statistics.fmean(valid) if valid else None
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine.facts, "cores": os.cpu_count(), "platform": platform.platform()},
        "text": arguments.text.name if arguments.text else "synthetic city",
        "sandbox": sandbox,
        "seconds": arguments.seconds,
        "dev_bytes": data.manifest.splits["dev"].byte_count,
        "runs": runs,
        "mean_bpb": mean,
        "sd_bpb": statistics.stdev(valid) if len(valid) > 1 else None,
        "floors": data.manifest.floors,
        "ratio_to_floor": {name: mean / floor for name, floor in data.manifest.floors.items()} if mean else {},
        "peer": {"command": arguments.peer, "bpb": peers},
        "ratio_to_peer": mean / statistics.fmean(peers) if mean and peers else None,
    }


def make_workspace(folder: Path, arguments: argparse.Namespace) -> Workspace:
    sizes = {f"data.{name}_kb": arguments.held_kb for name in ("dev", "hidden", "test")}
    if arguments.text is None:
        load_adapter("transit").write_sample_source(folder / "city", 0)  # type: ignore[attr-defined]
        return create_workspace(folder / "work", "demo", {"data.source": str(folder / "city")})
    overrides = {"data.source": str(arguments.text.resolve()), "data.split": "order", **sizes}
    return create_workspace(folder / "work", "text-laptop", overrides)


def write_texts(folder: Path, data: PreparedData) -> tuple[Path, Path]:
    """The train text and the dev text as plain files, for the peer."""
    import numpy as np

    tokenizer = load_tokenizer(data.folder / TOKENIZER_FILE)
    tokens = np.fromfile(data.folder / TOKENS_FILE, data.manifest.token_dtype)
    ids = tokens[(tokens != BOS) & (tokens != EOS)].tolist()
    train, dev = folder / "train.txt", folder / "dev.txt"
    train.write_text(tokenizer.decode(ids, skip_special_tokens=False), encoding="utf-8")
    dev.write_text("".join(held.document.text for held in read_split(data.held_folder, "dev")), encoding="utf-8")
    return train, dev


if __name__ == "__main__":
    main()
