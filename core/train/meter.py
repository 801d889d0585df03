"""How much work a served model has done, seen from outside, and how much it may do beyond answering.

Used by logits_client.py. A checkpoint can carry the text of train, and its code could train on inside the scorer. On
the CPU processor seconds of the whole process tree are counted, which another program's load does not stretch; on an
accelerator, whose work nobody counts per process, the seconds that the model was waited for. Two things are bounded:

- What was spent beyond plain answering. What plain answering costs per token is measured in the later half of what the
  same process answers. A model that idles there to look slow pays, for every row of that half, a quarter of what it
  hides, because the first rows are asked alone (logits_client.py); the second bound holds that.
- All that one process spends.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from .process import run_processes

FREE_SECONDS = 2.0
"""Processor seconds for loading and for the first answer, whatever the model. Honest small ones take 0.05, and one that
imports a large library (scikit-learn, pandas) up to 1.8."""
FREE_SECONDS_ACCELERATOR = 10.0
"""The same by the clock: the first kernels of a GPU are loaded and chosen, perhaps on a busy machine."""
FREE_SHARE = 0.01
"""And this share of what the budget holds."""
FREE_SECONDS_PER_MB = 0.025
"""And for building and filling a model of that size. Honest ones take 0.0012 to 0.007: 0.5 with 101 M parameters in 405
MB, 1.5 with 303 M, 3.3 when the file is read for the first time."""
SIZE_SHARE, SIZE_SHARE_ACCELERATOR = 0.01, 0.1
"""But no more of that than this share of what the budget holds, because anybody can pad a checkpoint. A model that
takes longer to load on a CPU could not be trained there in that time; on an accelerator it could."""
FREE_SECONDS_PER_ANSWER = 0.01
PLAIN_FACTOR = 4.0
"""A token of the first half may cost so many times what one of the later half costs: caches, clocks, other programs."""
LEAST_TOTAL_SECONDS = 120.0
TOTAL_SHARE = 2.0
"""All of one process: this share of what the budget holds, beside the least ..."""
LONGEST_TOTAL_SECONDS = 3600.0
"""... or this on each thread where no budget by the clock is known."""
TOTAL_SECONDS_PER_TOKEN_AND_MB = 0.05e-3
"""And this for each token that was asked for and MB of the model: hundreds of questions with long prompts are honest
work that no short budget holds (3.7 million tokens for those of the demo's city). The shipped model takes 0.016e-3 to
0.024e-3."""
TRAINED_MB_PER_SECOND = 2.0
"""But for no more MB than these for each second that the budget holds: half a million parameters."""
ROUNDED_AWAY = 0.02
"""Linux tells the seconds of a process, its own and those of the kernel for it, without the rest of a hundredth."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one process that serves a model may spend, in seconds of its meter."""

    extra: float
    """Beyond plain answering."""
    total: float
    """All that it spends, beside `per_token` for each token that it was asked for."""
    per_token: float = 0.0


def allowance(device: str, threads: int, budget_seconds: float | None, checkpoint_bytes: int) -> Allowance:
    """For a run by the clock a little more the longer it was and, within bounds, the larger its model is.

    Any other run may train as long as it likes where it trains; all that it can buy here by its size it may have.
    """
    is_cpu = device == "cpu"
    at_once = threads if is_cpu else 1
    megabytes = checkpoint_bytes / 1e6
    free = FREE_SECONDS if is_cpu else FREE_SECONDS_ACCELERATOR
    for_size = FREE_SECONDS_PER_MB * megabytes
    if budget_seconds is None:
        return Allowance(free + for_size, LONGEST_TOTAL_SECONDS * at_once, TOTAL_SECONDS_PER_TOKEN_AND_MB * megabytes)
    held = budget_seconds * at_once
    extra = free + FREE_SHARE * held + min(for_size, (SIZE_SHARE if is_cpu else SIZE_SHARE_ACCELERATOR) * held)
    per_token = TOTAL_SECONDS_PER_TOKEN_AND_MB * min(megabytes, TRAINED_MB_PER_SECOND * held)
    return Allowance(extra, LEAST_TOTAL_SECONDS + TOTAL_SHARE * held, per_token)


class TreeClock:
    """Processor seconds of a candidate, its descendants and what left it, from now on. Never goes back.

    The larger of two sums: of the living with those they waited for, and of all that were ever seen. What a clock of
    hundredths rounds away is added for each process, so that many short ones are no free time. Behind walls on Linux
    there is one alone (plans.walls_for), whose threads this counts exactly.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen: dict[Any, float] = {}
        self._most = 0.0
        self._begun = self._look()

    def asked(self) -> None:
        """It goes on between an answer and the next question, too."""

    def answered(self) -> None:
        """It goes on."""

    def seconds(self) -> float:
        return self._look() - self._begun

    def _look(self) -> float:
        import psutil

        with_children = 0.0
        for process in run_processes(self._pid):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            own = times.user + times.system + ROUNDED_AWAY
            self._seen[process] = max(own, self._seen.get(process, 0.0))
            with_children += own + times.children_user + times.children_system
        self._most = max(self._most, with_children, sum(self._seen.values()))
        return self._most


class WaitingClock:
    """Seconds from now to `answered`, and from each question to its answer."""

    def __init__(self) -> None:
        self._before = 0.0
        self._since = time.monotonic()

    def asked(self) -> None:
        self._since = time.monotonic()

    def answered(self) -> None:
        self._before = self.seconds()
        self._since = math.inf

    def seconds(self) -> float:
        return self._before + max(0.0, time.monotonic() - self._since)


class Account:
    """What a process had spent when it had loaded, and at each answer; tokens are those asked for, padding included."""

    def __init__(self) -> None:
        self._loading: float | None = None
        self._seconds: list[float] = []
        self._tokens: list[int] = []

    @property
    def is_loaded(self) -> bool:
        return self._loading is not None

    @property
    def tokens(self) -> int:
        """All that were asked for and answered."""
        return self._tokens[-1] if self._tokens else 0

    def loaded(self, seconds: float) -> None:
        self._loading = seconds

    def answered(self, tokens: int, seconds: float) -> None:
        """`tokens` more were answered; `seconds` spent since the start."""
        self._seconds.append(seconds)
        self._tokens.append(tokens + (self._tokens[-1] if self._tokens else 0))

    @property
    def extra(self) -> float:
        """Seconds that plain answering does not explain, at the answer where they are most."""
        loading = self._loading or 0.0
        if not self._seconds:
            return loading
        # The last answer before the middle: at least half of all tokens lie behind it.
        half = max(0, bisect_right(self._tokens, self._tokens[-1] / 2) - 1)
        tokens = self._tokens[-1] - self._tokens[half]
        rate = (self._seconds[-1] - self._seconds[half]) / tokens if tokens else 0.0
        unexplained = (
            seconds - PLAIN_FACTOR * rate * asked - FREE_SECONDS_PER_ANSWER * number
            for number, (seconds, asked) in enumerate(zip(self._seconds, self._tokens, strict=True), 1)
        )
        return max(loading, *unexplained)
