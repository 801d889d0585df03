"""Arrival-time accuracy by horizon: the share of arrivals inside the window that riders forgive.

Called by the adapter's `rate` and `answer_slices`. The windows are those of the ETA Accuracy Benchmark of Transit and
Arcadis IBI Group (2024, github.com/TransitApp/ETA-Accuracy-Benchmark): the nearer the vehicle, the narrower, and a
vehicle that comes before it was predicted is worse than one that comes after. The overall figure is the mean of the
four horizons, each counting the same.

The horizon of an answer is the time from the last event in its prompt (the stop before of the same trip; in arrival
logs the arrival before on the same line) to the true arrival. Documents tell whole minutes of the schedule, so it is
true to the minute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

DAY_MINUTES = 24 * 60
NAME = "eta_accuracy"
LATER_STEPS = (30,)
"""Upper ends of horizons beyond the benchmark, for slices."""
_ROUNDING = 1e-6


class Window(NamedTuple):
    """What counts as right within a horizon; minutes of the true arrival after the predicted one."""

    upper: int
    """End of the horizon, not included; it begins where the one before ends."""
    earliest: float
    latest: float


WINDOWS = (Window(3, -0.5, 1.5), Window(6, -1.0, 2.5), Window(10, -1.0, 3.5), Window(15, -1.5, 4.5))


def accuracies(prompt: str, gold: str, answer: str) -> Mapping[str, float]:
    """1 or 0 under the name of the answer's horizon, NaN under those of the others (which it says nothing about)."""
    found = {f"{NAME}/{step_of(lower)}": math.nan for lower in (0, *(window.upper for window in WINDOWS[:-1]))}
    minutes = horizon(prompt, gold)
    window = None if minutes is None else next((each for each in WINDOWS if 0 <= minutes < each.upper), None)
    if minutes is not None and window is not None:
        error = float(gold) - float(answer)
        is_right = window.earliest - _ROUNDING <= error <= window.latest + _ROUNDING
        found[f"{NAME}/{step_of(minutes)}"] = float(is_right)
    return found


def horizon(prompt: str, gold: str) -> float | None:
    """Minutes from the last event that the prompt tells to the true arrival, below 0 when it came first.

    None where there is no such event: in incident logs and timetables, and at the first stop of a trip.
    """
    lines = prompt.rsplit("\n", 2)
    record, before = lines[-1], lines[-2] if len(lines) > 1 else ""
    is_timetable = " | " in prompt.partition("\n")[0]
    if is_timetable or record.count(" | ") != 1 or not record.endswith(" | "):
        return None
    minute = minute_of(record)
    if minute is None:  # a run time: it counts from the stop before
        return float(gold)
    start, (_, _, delay) = minute_of(before), before.partition(" | ")
    if start is None or not delay:
        return None
    return (minute - start) % DAY_MINUTES + float(gold) - float(delay)


def step_of(minutes: float) -> str:
    """The step of the horizon, such as `03-06 min`."""
    lower = 0
    for upper in (*(window.upper for window in WINDOWS), *LATER_STEPS):
        if minutes < upper:
            return f"{lower:02d}-{upper:02d} min"
        lower = upper
    return f"{lower}+ min"


def minute_of(record: str) -> int | None:
    """The minute of the service day at which a record begins; None for a header, a heading, a stop of a timetable."""
    clock = record[:6]
    if len(clock) < 6 or clock[2] != ":" or clock[5] != " " or not (clock[:2] + clock[3:5]).isdecimal():
        return None
    return int(clock[:2]) * 60 + int(clock[3:5])
