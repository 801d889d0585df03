"""How large a model a machine can fill with what it reads within a budget: where a new workspace starts.

Called where a workspace is made, and by `slm-ar inspect`. A rule of thumb for the first run; the search goes on from
there.
"""

from __future__ import annotations

import math

from .device import Machine, probe_flops

SMALL, LARGE = (1e6, 2.5), (1e8, 20.0)
"""(parameters, tokens for each of them), embeddings of a tied head included; between the two the logarithm of the
tokens is a straight line over that of the parameters. Large: Hoffmann et al. 2022 (arXiv 2203.15556). Small: the best
eight of either table in benchmarks/study, all below a million, had 0.5 to 2.8, and 0.44 million with 2.6 were the best
of three sizes in 120 processor seconds (docs/proposers.md). The rule of proposers/rates.py has four for all sizes: its
constants were chosen together, for what timing promises, and say nothing one by one."""
REACHED = 0.45
"""Floating point operations per second of small models in training (6 per parameter and token), as a share of what the
probe's step reaches: 25 to 29 of 58 thousand million on the one machine where both were measured."""


def tokens_per_parameter(parameters: float) -> float:
    """How many tokens a model of this size should read for each parameter."""
    (small, few), (large, many) = SMALL, LARGE
    place = math.log(parameters / small) / math.log(large / small)
    return few * math.pow(many / few, min(1.0, max(0.0, place)))


def parameters_for(operations: float) -> float:
    """Parameters of the model that `operations` train best: 6 for each of them and each of its tokens."""
    low, high = 1.0, 1e12
    for _ in range(60):  # the need rises with the size, so halving finds it
        middle = math.sqrt(low * high)
        needed = 6 * middle * tokens_per_parameter(middle) * middle
        low, high = (middle, high) if needed < operations else (low, middle)
    return low


def fitting_size(machine: Machine, seconds: float | None) -> float | None:
    """Millions of parameters for a budget of `seconds`; None where the probe says too little: a budget in steps, or an
    accelerator, on which small models are bound by launching."""
    if seconds is None or machine.device != "cpu" or not machine.probe:
        return None
    rate = REACHED * probe_flops(machine.device) / min(machine.probe.values())
    return parameters_for(rate * seconds) / 1e6
