"""How large a model a machine can fill with what it reads within a budget: where a new workspace starts.

Called by `slm-ar new` and `slm-ar inspect`. A rule of thumb for the first run; the search goes on from there.
"""

from __future__ import annotations

import math

from .device import Machine, probe_flops

TOKENS_PER_PARAMETER = 2.5
"""Of all parameters, embeddings of a tied head included. Large models want about 20 (Hoffmann et al. 2022, arXiv
2203.15556). Below a million parameters the best ones had 1 to 3: docs/proposers.md has the runs."""
REACHED = 0.45
"""Floating point operations per second of small models in training (6 per parameter and token), as a share of what the
probe's step reaches."""


def parameters_for(operations: float) -> float:
    """Parameters of the model that `operations` train best: 6 for each of them and each of its tokens."""
    return math.sqrt(operations / (6 * TOKENS_PER_PARAMETER))


def fitting_size(machine: Machine, seconds: float | None) -> float | None:
    """Millions of parameters for a budget of `seconds`; None where the probe says too little: a budget in steps, or an
    accelerator, on which small models are bound by launching."""
    if seconds is None or machine.device != "cpu" or not machine.probe:
        return None
    rate = REACHED * probe_flops(machine.device) / min(machine.probe.values())
    return parameters_for(rate * seconds) / 1e6
