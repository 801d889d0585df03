"""The compiled pieces of kernels.c, called with tensors; what ops.py is built on.

Promises: fits() says which tensors the kernels know (type, device, size of a row); shapes that belong together and
density are the caller's. Other threads run while a kernel works. The library is built when slm-ar is installed, if
there is a C compiler; without it is_built() is False and ops.py takes torch's own operations. One thread each: a model
that trains on several threads has several replicas.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from pathlib import Path

import torch

VERSION = 3  # of kernels.c; a file that was built from another one is not called
MOST = 65_536  # numbers in a row, because up to three of them lie on the stack
MOST_THREADS = 2  # of a process; torch's own operations share their work out, the kernels do not
KNOWN = (torch.float32, torch.bfloat16)
_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_float
_STEPS = ctypes.POINTER(ctypes.c_long)
_ARGUMENTS = {
    "norm": (_POINTER, _INT, _POINTER, _FLOAT, _POINTER, _INT, _POINTER, _LONG, _LONG),
    "norm_back": (_POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG),
    "turn": (_POINTER, _STEPS, _POINTER, _STEPS, _INT, _POINTER, _POINTER, _STEPS, _FLOAT, _STEPS, _LONG),
    "causal_softmax": (_POINTER, _INT, _FLOAT, _LONG, _LONG, _LONG),
    "causal_softmax_back": (_POINTER, _POINTER, _INT, _FLOAT, _LONG, _LONG),
    "swiglu": (_POINTER, _POINTER, _POINTER, _INT, _LONG),
    "swiglu_back": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _LONG),
    "cross_entropy_back": (_POINTER, _POINTER, _POINTER, _INT, _FLOAT, _LONG, _LONG),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled file beside this one, or None where there is none that this machine can load."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            try:
                found = ctypes.CDLL(str(path))
                if found.version() != VERSION:
                    continue
                for name, arguments in _ARGUMENTS.items():
                    function = getattr(found, name)
                    function.argtypes, function.restype = arguments, None
            except (OSError, AttributeError):  # of another machine, or from before there was a version
                continue
            return found
    return None


def is_built() -> bool:
    return library() is not None


def fits(first: torch.Tensor, *others: torch.Tensor) -> bool:
    """Whether the kernels can take these: on a CPU, of one type that they know, rows not too long, few threads."""
    for tensor in (first, *others):
        if tensor.dtype not in KNOWN or tensor.dtype != first.dtype or tensor.device.type != "cpu":
            return False
        if not tensor.numel() or tensor.dim() < 1 or tensor.shape[-1] > MOST:
            return False
    return is_built() and torch.get_num_threads() <= MOST_THREADS and not torch.compiler.is_compiling()


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, y: torch.Tensor, scales: torch.Tensor) -> None:
    n = x.shape[-1]
    _library().norm(
        x.data_ptr(), _rounded(x), weight.data_ptr(), epsilon, y.data_ptr(), _rounded(y), scales.data_ptr(),
        x.numel() // n, n,
    )  # fmt: skip


def norm_back(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    by_x: torch.Tensor,
    by_weight: torch.Tensor,
) -> None:
    n = x.shape[-1]
    _library().norm_back(
        gradient.data_ptr(), _rounded(gradient), x.data_ptr(), _rounded(x), weight.data_ptr(), scales.data_ptr(),
        by_x.data_ptr(), by_weight.data_ptr(), x.numel() // n, n,
    )  # fmt: skip


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, y: torch.Tensor, sign: float) -> None:
    """x and y [..., n] of at most four dimensions in any order in memory, rows dense; the angles, which lie alike, are
    broadcast to that shape."""
    shape = x.shape
    _library().turn(
        x.data_ptr(), _steps(shape, x.stride()), y.data_ptr(), _steps(shape, y.stride()), _rounded(x),
        cos.data_ptr(), sin.data_ptr(), _steps(cos.shape, cos.stride()), sign, _sizes(shape), shape[-1],
    )  # fmt: skip


def causal_softmax(scores: torch.Tensor, scale: float, window: int) -> None:
    n = scores.shape[-1]
    _library().causal_softmax(scores.data_ptr(), _rounded(scores), scale, window, scores.numel() // (n * n), n)


def causal_softmax_back(gradient: torch.Tensor, shares: torch.Tensor, scale: float) -> None:
    n = shares.shape[-1]
    _library().causal_softmax_back(
        gradient.data_ptr(), shares.data_ptr(), _rounded(shares), scale, shares.numel() // (n * n), n
    )


def swiglu(gate: torch.Tensor, up: torch.Tensor, y: torch.Tensor) -> None:
    _library().swiglu(gate.data_ptr(), up.data_ptr(), y.data_ptr(), _rounded(gate), gate.numel())


def swiglu_back(
    gradient: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, by_gate: torch.Tensor, by_up: torch.Tensor
) -> None:
    _library().swiglu_back(
        gradient.data_ptr(), gate.data_ptr(), up.data_ptr(), by_gate.data_ptr(), by_up.data_ptr(), _rounded(gate),
        gate.numel(),
    )  # fmt: skip


def cross_entropy_back(logits: torch.Tensor, targets: torch.Tensor, y: torch.Tensor, share: float) -> None:
    rows, n = logits.shape
    _library().cross_entropy_back(logits.data_ptr(), targets.data_ptr(), y.data_ptr(), _rounded(logits), share, rows, n)


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None, "ask fits() first"
    return found


def _rounded(tensor: torch.Tensor) -> int:
    return int(tensor.dtype == torch.bfloat16)


@functools.lru_cache(1024)
def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> ctypes.Array[ctypes.c_long]:
    """How far apart rows lie along three dimensions; where there is one or none, nothing lies apart: broadcast."""
    steps = [0 if size == 1 else stride for size, stride in zip(shape[:-1], strides[:-1], strict=True)]
    return (ctypes.c_long * 3)(*[0] * (3 - len(steps)), *steps)


@functools.lru_cache(1024)
def _sizes(shape: tuple[int, ...]) -> ctypes.Array[ctypes.c_long]:
    return (ctypes.c_long * 3)(*[1] * (4 - len(shape)), *shape[:-1])
