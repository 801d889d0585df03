"""Memory of a CUDA or Metal device: capped, asked for its peak, and told apart from other errors when it runs out.

Called inside the training process by candidate.py and runtime.py; on the CPU all of it does nothing. The cap is there
for the screen and for other programs; it holds for honest code, because training code could lift it. The harness takes
only the marks from here, and does not load torch for them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

LARGEST_SHARE = 0.95
"""Of what is free on a CUDA device at the start. Beyond it some drivers (WSL2) go on in the machine's own memory, many
times slower and without an error."""
OUT_OF_MEMORY_MARKS = (
    "OutOfMemoryError",
    "out of memory",
    "MemoryError",
    "can't allocate memory",
    "bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def cap_memory(device: str, memory_mb: float | None) -> None:
    """Let this process allocate at most `memory_mb` on the device, and never more than it can have there (None)."""
    import torch

    asked = math.inf if memory_mb is None else memory_mb * 1e6
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(min(asked, LARGEST_SHARE * free) / total)
    elif device == "mps":
        # Metal recommends about three quarters of the memory that it shares with the processor; torch would go on to
        # 1.7 times as much, deep into swapping.
        torch.mps.set_per_process_memory_fraction(min(1.0, asked / torch.mps.recommended_max_memory()))


def peak_memory_mb(device: torch.device) -> float:
    """The most that tensors have had on a CUDA device, or what Metal has given out by now, in MB; 0 on the CPU."""
    import torch

    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    if device.type == "mps":
        return round(torch.mps.driver_allocated_memory() / 1e6, 1)
    return 0.0


def empty_cache(device: torch.device) -> None:
    """Give back what is cached in pieces of sizes that are not needed any more."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Only CUDA has a class for that; Metal, cuBLAS and the CPU say it in words."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(mark in str(error) for mark in OUT_OF_MEMORY_MARKS)


def tell_peak(control: int, device: str) -> None:
    """Send the harness the peak of a run that has failed; a run that trains tells it with its progress."""
    import torch

    if device == "cpu":
        return
    with contextlib.suppress(OSError, RuntimeError):
        message = {"event": "progress", "device_mb": peak_memory_mb(torch.device(device))}
        os.write(control, json.dumps(message).encode() + b"\n")
