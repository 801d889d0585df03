"""How fast this machine computes at the moment, measured by the harness: heat, battery and power saving show here.

Called by a training run before its clock starts and after it has ended; the campaign compares the figure with those of
the runs around it. A candidate has no part in it: its own step rate also depends on its code.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Sequence

PROBE_SECONDS = 0.06
_BLOCK = bytes(1 << 18)
NEIGHBOURS = 9
"""Earlier runs that a run is compared with, at most; with fewer than FEWEST_NEIGHBOURS nothing is said."""
FEWEST_NEIGHBOURS = 3
LARGEST_DROP = 0.35
"""A core that runs at its full clock beside idle ones and at its base clock beside busy ones differs by up to this
much on one machine, so that less is no sign of trouble."""


def machine_speed(seconds: float = PROBE_SECONDS) -> float:
    """MB per second that one core hashes (BLAKE2b), in the best of many short tries.

    Another program takes a core away now and then, but not during every try; a chip that lowers its clock is slower in
    all of them. Hashing needs no library whose threads would disturb the run that is about to start.
    """
    best = float("inf")
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        hashlib.blake2b(_BLOCK).digest()
        best = min(best, time.perf_counter() - started)
    return len(_BLOCK) / best / 1e6


def slower_words(speed: float, earlier: Sequence[float]) -> str:
    """Why a run at `speed` is disturbed beside `earlier` ones (oldest first), in plain words; empty when it is not.

    The median of the newest NEIGHBOURS counts. A speed of 0 means that none was measured.
    """
    known = [one for one in earlier if one > 0][-NEIGHBOURS:]
    if speed <= 0 or len(known) < FEWEST_NEIGHBOURS:
        return ""
    usual = statistics.median(known)
    if speed >= (1 - LARGEST_DROP) * usual:
        return ""
    return f"the machine computed {100 * (1 - speed / usual):.0f} % slower than in the runs before: heat, or battery"
