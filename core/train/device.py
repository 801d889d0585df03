"""What this machine can do: device, threads and precision, found by trying, in a process of its own.

`probe_machine` is called once per campaign (and by `doctor`); its answer is written into the journal, so that a
resumed campaign runs as it began.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import TrainingError, UsageError

PROBE_SECONDS = 120
SPIN_COUNT = 2000
"""GOMP_SPINCOUNT for more than one thread: libgomp's default spins so long that one other busy process slows training
eightyfold; a short spin keeps most of the idle rate."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How candidates run here."""

    device: str
    name: str
    threads: int
    spin_count: int | None
    precision: str
    memory_mb: int
    torch: str
    mode: str
    """warm | cold: see incubator.py"""
    probe: dict[str, float]
    """Seconds per probe step by setting, for doctor."""

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)


def usable_cores() -> set[int]:
    """Numbers of the cores that this process may run on: fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def probe_machine(device: str, threads: int | str, precision: str) -> Machine:
    """Resolve "auto" by measuring. Raises UsageError when the asked device is not there."""
    found = _ask({"task": "device", "device": device}, threads=1)
    if "error" in found:
        raise UsageError(found["error"], 'set [machine] device = "auto" in recipe.toml, or see `slm-ar doctor`')
    kind = found["device"]
    cores = len(usable_cores())
    timings: dict[str, float] = {}
    if kind == "cpu":
        candidates = [threads] if isinstance(threads, int) else sorted({1, cores if cores <= 4 else cores // 2})
        dtypes = ["float32", "bfloat16"] if precision == "auto" else [precision]
        for count in candidates:
            answer = _ask({"task": "time", "dtypes": dtypes}, threads=int(count))
            timings |= {f"{count} threads {dtype}": answer[dtype] for dtype in dtypes}
        best = min(timings, key=lambda name: timings[name])
        words = best.split()
        chosen_threads, chosen_precision = int(words[0]), words[2]
    else:
        chosen_threads = int(threads) if isinstance(threads, int) else max(1, min(4, cores // 2))
        chosen_precision = precision if precision != "auto" else found["precision"]
    import psutil

    return Machine(
        device=kind,
        name=found["name"],
        threads=chosen_threads,
        spin_count=SPIN_COUNT if chosen_threads > 1 else None,
        precision=chosen_precision,
        memory_mb=int(psutil.virtual_memory().total / 1e6),
        torch=found["torch"],
        mode=_mode_for(kind),
        probe=timings,
    )


def probe_device() -> tuple[str, str]:
    """(device, mode) of this machine, without timing anything."""
    kind = str(_ask({"task": "device", "device": "auto"}, threads=1)["device"])
    return kind, _mode_for(kind)


def _mode_for(device: str) -> str:
    return "warm" if device == "cpu" and platform.system() == "Linux" else "cold"


def torch_version() -> str:
    """The installed torch, without importing it."""
    from importlib.metadata import version

    return version("torch")


def _ask(question: dict[str, Any], threads: int) -> dict[str, Any]:
    from .process import candidate_environment

    environment = candidate_environment(threads, SPIN_COUNT if threads > 1 else None)
    try:
        answer = subprocess.run(
            [sys.executable, "-E", "-P", "-m", "slm_ar.core.train.device", json.dumps(question)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
            check=True,
        )
        return dict(json.loads(answer.stdout))
    except (subprocess.SubprocessError, ValueError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise TrainingError(
            f"torch cannot be used on this machine: {detail.strip()[-400:]}", "reinstall with `make install`"
        ) from error


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    if question["task"] == "time":
        return {dtype: _time_step(dtype) for dtype in question["dtypes"]}
    return _find_device(question["device"])


def _find_device(wanted: str) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__}
    has_mps = torch.backends.mps.is_available()
    if wanted == "cuda" and not torch.cuda.is_available():
        return {"error": "no CUDA device is visible to torch on this machine"}
    if wanted == "mps" and not has_mps:
        return {"error": "no Metal (MPS) device is visible to torch on this machine"}
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        precision = "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
        return facts | {"device": "cuda", "name": torch.cuda.get_device_name(), "precision": precision}
    if wanted == "mps" or (wanted == "auto" and has_mps):
        return facts | {"device": "mps", "name": "Apple GPU", "precision": "float32"}
    return facts | {"device": "cpu", "name": platform.processor() or platform.machine()}


def _time_step(dtype: str) -> float:
    """Median seconds of a small transformer-like step: matrix products forward and backward, and attention."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    weights = [torch.randn(128, 512, requires_grad=True), torch.randn(512, 128, requires_grad=True)]
    inputs = torch.randn(2048, 128)
    heads = torch.randn(8, 4, 256, 32, requires_grad=True)
    times: list[float] = []
    limit = time.monotonic() + 0.5
    while time.monotonic() < limit or len(times) < 5:
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            hidden = inputs
            for _ in range(3):
                hidden = torch.nn.functional.silu(hidden @ weights[0]) @ weights[1]
            mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
            loss = hidden.float().mean() + mixed.float().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
