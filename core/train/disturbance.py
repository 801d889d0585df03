"""Was the machine quiet while a run trained? Watched from outside the candidate, by the executor."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ..environment import usable_cores

LARGEST_OTHER_SHARE = 0.15
LONGEST_GAP_SECONDS = 3.0
LATE, STOPPED = "its checkpoint came", "the loop was stopped"
"""How reasons begin that a run can bring about itself: by saving late, or by giving the harness much to look at."""


class Watch:
    """Started when the clock starts; `tick` is called several times a second; `verdict` at the end.

    What happens between `rest` and `go_on` does not count: the run is stopped then.
    """

    def __init__(self, own_pids: list[int], incubator: int | None = None) -> None:
        """`incubator`: the process above the run that is watched; all below it is the run's, also what has ended."""
        self._own_pids, self._incubator = own_pids, incubator
        self._started = self._last = time.monotonic()
        self._asleep = _sleep_seconds()
        self._busy, self._stolen = _machine_busy_seconds(), _stolen_seconds()
        self._own = self._own_seconds()
        self._gap = 0.0
        self._latest_own = self._own
        self._rest: tuple[float, float, float, float, float] | None = None

    def rest(self) -> None:
        self.tick()
        self._rest = (self._last, _sleep_seconds(), _machine_busy_seconds(), _stolen_seconds(), self._own_seconds())

    def go_on(self) -> None:
        if self._rest is None:
            return
        began, asleep, busy, stolen, own = self._rest
        self._rest = None
        self._last = time.monotonic()
        self._started += self._last - began
        self._asleep += _sleep_seconds() - asleep
        self._busy += _machine_busy_seconds() - busy
        self._stolen += _stolen_seconds() - stolen
        own_now = max(own, self._own_seconds())  # a run that was ended in the pause has no seconds any more
        self._own += own_now - own
        self._latest_own = max(self._latest_own, own_now)

    def tick(self) -> None:
        now = time.monotonic()
        self._gap = max(self._gap, now - self._last)
        self._last = now
        self._latest_own = max(self._latest_own, self._own_seconds())

    def verdict(self) -> str:
        """Why the run is disturbed, in plain words; empty when it is not."""
        self.tick()
        wall = max(1e-3, self._last - self._started)
        if _sleep_seconds() - self._asleep > 1:
            return "the machine was suspended"
        cores = len(usable_cores())
        busy = _machine_busy_seconds() - self._busy
        other = max(0.0, busy - (self._latest_own - self._own)) / wall
        if other > LARGEST_OTHER_SHARE * cores:
            return f"other programs used {other:.1f} of {cores} cores"
        stolen = (_stolen_seconds() - self._stolen) / wall
        if stolen > LARGEST_OTHER_SHARE * cores:
            return f"the host of this virtual machine took {stolen:.1f} of {cores} cores away"
        return f"{STOPPED} for {self._gap:.1f} s" if self._gap > LONGEST_GAP_SECONDS else ""

    def _own_seconds(self) -> float:
        import psutil

        total = 0.0
        for pid in self._own_pids:
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system
        if self._incubator is None:
            return total
        with contextlib.suppress(psutil.Error):
            incubator = psutil.Process(self._incubator)
            for process in [incubator, *incubator.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += sum(process.cpu_times()[:4])  # its own, and that of what it started and has seen end
        return total


def may_be_own_doing(disturbance: str) -> bool:
    """Whether a run could have brought this about, to be repeated with more luck. Else other programs did, the host of
    a virtual machine, sleep or heat."""
    return disturbance.startswith((LATE, STOPPED))


def _machine_busy_seconds() -> float:
    return sum(float(core.user + core.system + getattr(core, "nice", 0.0)) for core in _core_times())


def _stolen_seconds() -> float:
    """Seconds that the cores of a virtual machine wanted to run and its host gave to others; 0 where nobody tells."""
    return sum(float(getattr(core, "steal", 0.0)) for core in _core_times())


def _core_times() -> list[Any]:
    """Times of the cores that a run may use: what others do on cores that it may not use disturbs it little."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    usable = usable_cores()
    # a core that is switched off is left out of the list, and then places in it are no numbers of cores
    return [times[core] for core in sorted(usable)] if usable and max(usable) < len(times) else times


def _sleep_seconds() -> float:
    """Seconds that the machine was suspended since boot; 0 where the clocks do not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
