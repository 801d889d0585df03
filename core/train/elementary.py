"""Calls every elementary function (cos, exp, log ...) once in one thread, before two threads can call it at once.

oneMKL chooses the code of a function when it is first called. Where two threads make that first call together, one of
them can get code of low accuracy for it: cos was wrong by up to 1.5e-4 at first, and right ever after (pytorch issue
188792; oneMKL 2024.2, which torch 2.13 carries). In 57 of 1,000 fresh processes the first window of a model was
answered that way, after this in none of 1,000; where such a window was among those that are probed, the score could be
refused as that of a model that looks ahead.

Called at the start of each process that runs candidate code, and by the harness before it first asks a model.
"""

from __future__ import annotations

import functools

FUNCTIONS = (
    *("acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "exp2"),
    *("expm1", "floor", "lgamma", "log", "log10", "log1p", "log2", "round", "rsqrt", "sigmoid", "sin", "sinh", "sqrt"),
    *("tan", "tanh", "trunc"),
)


@functools.cache
def settle() -> None:
    """Have the code of every function chosen: 2 ms once in a process, nothing after that. For one thread alone."""
    import torch

    for dtype in (torch.float32, torch.float64):
        one = torch.full((1,), 0.5, dtype=dtype)  # one number is computed by one thread
        for name in FUNCTIONS:
            getattr(torch, name)(one)
