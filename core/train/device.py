"""What this machine can do: device, threads and precision, found by trying, in a process of its own.

`probe_machine` is called once per campaign (and by `doctor`); its answer is written into the journal, so that a
resumed campaign runs as it began.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..environment import usable_cores
from ..errors import TrainingError, UsageError

PROBE_SECONDS = 120
PROBE_LAYERS, HEADS = 3, (8, 4)
SPIN_COUNT = 2000
"""GOMP_SPINCOUNT for more than one thread: libgomp's default spins so long that one other busy process slows training
eightyfold; a short spin keeps most of the idle rate."""
WORTH_ROUNDING = 0.95
"""On an accelerator bfloat16 must take at most this share of float32's time: on some Apple chips it gains nothing."""
NVIDIA_DRIVER = ("/proc/driver/nvidia", "/usr/lib/wsl/lib/libcuda.so.1")
"""What its driver shows on Linux and in WSL2, whatever torch can do."""
REINSTALL_TORCH = (
    "`uv pip install --torch-backend=auto --reinstall torch`, or `pip install --upgrade --force-reinstall torch` (the "
    "build for Linux has CUDA)"
)


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
    kernels: bool | None = None
    """Whether the compiled pieces of kernels.c are there; None where they are not used."""

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)


def probe_machine(device: str, threads: int | str, precision: str) -> Machine:
    """Resolve "auto" by measuring. Raises UsageError when the asked device is not there."""
    found = _ask({"task": "device", "device": device}, threads=1)
    if "error" in found:
        raise UsageError(found["error"], found["hint"])
    kind = found["device"]
    cores = len(usable_cores())
    timings: dict[str, float] = {}
    if kind == "cpu":
        candidates = [threads] if isinstance(threads, int) else sorted({1, cores if cores <= 4 else cores // 2})
        dtypes = ["float32", "bfloat16"] if precision == "auto" else [precision]
        for count in candidates:
            answer = _ask({"task": "time", "dtypes": dtypes}, threads=int(count))
            timings |= {f"{count} threads {dtype}": seconds for dtype, seconds in answer.items()}
        best = min(timings, key=lambda name: timings[name])
        words = best.split()
        chosen_threads, chosen_precision = int(words[0]), words[2]
    else:
        chosen_threads = int(threads) if isinstance(threads, int) else max(1, min(4, cores // 2))
        chosen_precision, answer = precision, {}
        if precision == "auto":
            answer = _ask({"task": "time", "dtypes": found["dtypes"], "device": kind}, threads=chosen_threads)
            gains = answer.get("bfloat16", float("inf")) <= WORTH_ROUNDING * answer["float32"]
            chosen_precision = "bfloat16" if gains else "float32"
        timings = {f"{kind} {dtype}": seconds for dtype, seconds in answer.items()}
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
        kernels=found.get("kernels"),
    )


def probe_device() -> tuple[str, str]:
    """(device, mode) of this machine, without timing anything. Raises UsageError when its card cannot be used."""
    found = _ask({"task": "device", "device": "auto"}, threads=1)
    if "error" in found:
        raise UsageError(found["error"], found["hint"])
    return found["device"], _mode_for(found["device"])


def has_nvidia_driver() -> bool:
    return any(Path(name).exists() for name in NVIDIA_DRIVER)


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
        return _times(question["dtypes"], question.get("device", "cpu"))
    return _find_device(question["device"])


def _find_device(wanted: str) -> dict[str, Any]:
    """Facts of the device, and the dtypes that it computes in itself; or what is wrong, and what repairs it."""
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__}
    has_mps = torch.backends.mps.is_available()
    if wanted == "mps" and not has_mps:
        return _wrong("no Metal (MPS) device is visible to torch on this machine")
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        if problem := _cuda_problem():
            return problem
        memory = torch.cuda.mem_get_info()[1] / 1e9
        is_native = torch.cuda.is_bf16_supported(including_emulation=False)
        name = f"{torch.cuda.get_device_name()}, {memory:.0f} GB"
        return facts | {"device": "cuda", "name": name, "dtypes": _dtypes(is_native)}
    if wanted == "mps" or (wanted == "auto" and has_mps):
        is_native = torch.backends.mps.is_macos_or_newer(14, 0)  # before it Metal knows no bfloat16
        return facts | {"device": "mps", "name": torch.backends.mps.get_name(), "dtypes": _dtypes(is_native)}
    from . import kernels

    name = platform.processor() or platform.machine()
    return facts | {"device": "cpu", "name": name, "kernels": kernels.is_built()}


def _dtypes(has_bfloat16: bool) -> list[str]:
    return ["float32", "bfloat16"] if has_bfloat16 else ["float32"]


def _cuda_problem() -> dict[str, Any] | None:
    """Why a CUDA device cannot be used: none there, a build of torch without CUDA or too old for the card or newer than
    the driver."""
    import torch

    build = f"torch {torch.__version__}"
    if not torch.cuda.is_available():
        if not has_nvidia_driver():
            return _wrong("no CUDA device is visible to torch on this machine")
        if torch.version.cuda is None:
            return _wrong(f"{build} is a build without CUDA, and the driver of an NVIDIA card is here", REINSTALL_TORCH)
        return _wrong(
            f"{build} (CUDA {torch.version.cuda}) does not work with the NVIDIA driver: {_said_by(torch.cuda.init)}",
            "update the driver, or install a torch for an older CUDA: `uv pip install --torch-backend=auto --reinstall "
            "torch`; in a container pass the GPU on (docker run --gpus all)",
        )
    if not (words := _said_by(_use_cuda)):
        return None
    name, known = torch.cuda.get_device_name(), torch.cuda.get_arch_list()
    major, minor = torch.cuda.get_device_capability()
    if torch.version.hip is None and not any(arch[:-1] == f"sm_{major}" for arch in known):
        return _wrong(
            f"{build} (CUDA {torch.version.cuda}) has no code for the {name}: it needs sm_{major}{minor}, and there is "
            f"{' '.join(known)}",
            f"{REINSTALL_TORCH}; cards of the RTX 50 series (sm_120) need CUDA 12.8 or newer",
        )
    return _wrong(
        f"the {name} does not work with {build}: {words}", 'train on the CPU instead: [machine] device = "cpu"'
    )


def _use_cuda() -> None:
    import torch

    square = torch.ones(8, 8, device="cuda")
    (square @ square).sum().item()


def _said_by(action: Callable[[], object]) -> str:
    """The first line of what `action` raises; empty when it works."""
    try:
        action()
    except (RuntimeError, AssertionError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def _wrong(
    error: str, hint: str = 'set [machine] device = "auto" in recipe.toml, or see `slm-ar doctor`'
) -> dict[str, Any]:
    return {"error": error, "hint": hint}


def _times(dtypes: list[str], device: str) -> dict[str, float]:
    """Seconds of a step by dtype, without those in which the device cannot do it."""
    found = {}
    for dtype in dtypes:
        try:
            found[dtype] = _time_step(dtype, device)
        except RuntimeError:
            if dtype == "float32":
                raise
    return found


def probe_flops(device: str) -> float:
    """Floating point operations of the step that is timed, forward and backward."""
    rows, width, wide, length = _probe_shape(device)
    products = PROBE_LAYERS * 2 * (2 * rows * width * wide)
    attention = math.prod(HEADS) * 2 * (2 * length * length * (wide // 16))
    return 3.0 * (products + attention)


def _probe_shape(device: str) -> tuple[int, int, int, int]:
    """Rows, width, inner width and length of the step that is timed."""
    return (2048, 128, 512, 256) if device == "cpu" else (8192, 512, 2048, 1024)


def _time_step(dtype: str, device: str) -> float:
    """Median seconds of a small transformer-like step: matrix products forward and backward, and attention.

    On an accelerator it is larger, so that the arithmetic is timed and not the launching. Raises RuntimeError when the
    device refuses the dtype or computes nonsense in it.
    """
    import torch

    from .loader import finish_work

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    where = torch.device(device)
    rows, width, wide, length = _probe_shape(device)
    shapes = [(width, wide), (wide, width), (*HEADS, length, wide // 16)]
    up, down, heads = [torch.randn(shape, device=where).requires_grad_() for shape in shapes]
    inputs = torch.randn(rows, width, device=where)
    times: list[float] = []
    limit = time.monotonic() + 0.5
    while time.monotonic() < limit or len(times) < 5:
        started = time.perf_counter()
        with torch.autocast(device, dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            hidden = inputs
            for _ in range(PROBE_LAYERS):
                hidden = torch.nn.functional.silu(hidden @ up) @ down
            mixed = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
            loss = hidden.float().mean() + mixed.float().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        finish_work(where)
        times.append(time.perf_counter() - started)
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss in {dtype} is {loss.item()}")
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    print(json.dumps(_answer(json.loads(sys.argv[1]))))
