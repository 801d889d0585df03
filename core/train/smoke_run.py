"""Tries a train.py for a few steps on made-up data, so that one that cannot work costs seconds and not a budget.

Called by the executor for the campaign, before a proposal's first training run. Promises: the same sandbox, caps, seed
and job as in that run, but random ids in place of the corpus, so nothing can be learned from or kept of the data; what
fails has the status and the reason that a run has, and is told apart where only so short a run fails; no process
survives.

Nothing depends on the code not noticing that it is tried. Whatever it does here, it only decides whether its run
begins: no number of it is a score, is compared or is kept as evidence, and its run begins anew, in an emptied folder,
under the real clock and before all probes. Code that behaves here and cheats later is judged later; code that fails
here on purpose was never trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..contracts import Status, TrainOutcome
from ..prepare.pipeline import PreparedData
from .checkpoint import InvalidCheckpointError
from .process import Child
from .smoke import Smoke
from .training_run import NO_CHECKPOINT, TrainingRun, TrainJob

if TYPE_CHECKING:
    from .logits_client import LogitsClient

STEPS = 2
DUMMY_TOKENS = 1 << 16
DUMMY_FILE = "made-up.bin"
LONGEST_SECONDS = 60.0
LONGEST_SHARE = 0.05
"""The steps and their checkpoint may take the larger of the two (the second is a share of the budget, by steps of the
longest time of a run), and never longer than a whole run may."""
ASKED_ROWS, ASKED_TOKENS = 3, 16
"""The checkpoint is asked for so many windows, and for so many tokens at the beginning of each. Of three the meter can
tell what answering costs (meter.py)."""
TOO_FEW_STEPS = (
    "AssertionError",
    "StopIteration",
    "ZeroDivisionError",
    "IndexError",
    "UnboundLocalError",
    "StatisticsError",
    "NoneType",
    "empty",
)
"""What honest code stumbles over behind its last step when there were only two: it averages over its last hundred,
wants the best of those that it looked at, or takes as many as its budget has."""
POLL_SECONDS = 0.1


class SmokeRun(TrainingRun):
    """A training run that gets made-up data and is ended after `steps` steps, on its own deadline where that is sooner.

    The job, and with it the budget that train.py is told, is that of the real run: code that depends on it takes the
    same way here.
    """

    def __init__(
        self, job: TrainJob, folder: Path, child: Child, data: PreparedData, incubator_pid: int, steps: int
    ) -> None:
        super().__init__(replace(job, snapshots=()), folder, child, data, incubator_pid)
        self._most_steps = steps
        self._step_ends: list[float] = []

    def to_its_end(self) -> TrainOutcome:
        """The outcome; whatever interrupts this ends the run."""
        try:
            while (outcome := self.poll(POLL_SECONDS)) is None:
                pass
        except BaseException:
            self.cancel()
            raise
        if outcome.status is None and self._is_too_slow:
            reason = f"one step took {self.step_seconds:.1f} s, the budget is {self.job.budget_seconds:.1f} s"
            outcome = replace(outcome, status=Status.TIMEOUT, reason=reason)
        if outcome.status is Status.TIMEOUT and self._watch is not None and (busy := self._watch.verdict()):
            return replace(outcome, status=Status.DISTURBED, reason=f"{outcome.reason}; {busy}")
        return outcome

    def may_work(self, outcome: TrainOutcome) -> bool:
        """Whether a failure says nothing of the run, which has more time and more steps.

        A run by steps may take hours: one without any step in its share of them hangs.
        """
        if outcome.status is Status.TIMEOUT:
            is_cut_short = self._started is not None and self._most_seconds() < self.job.wall_seconds
            return is_cut_short and (self.job.budget_steps is None or self._steps > 0)
        if outcome.status is not Status.CRASHED or self._steps < self._most_steps:
            return False
        if self.job.budget_steps is not None and outcome.reason.startswith(NO_CHECKPOINT):
            return True  # it may save at the last step of those that it was promised
        return any(mark in outcome.reason for mark in TOO_FEW_STEPS)

    @property
    def step_seconds(self) -> float:
        """Median time of the steps after the first, as they were heard of; 0 without a step."""
        assert self._started is not None
        ends = [self._started, *self._step_ends]
        durations = [end - begin for begin, end in pairwise(ends)]
        return median(durations[1:] or durations or [0.0])

    def question(self, window: int) -> Any:
        """int32 [ASKED_ROWS, window]: what its checkpoint is asked."""
        return dummy_tokens(self._data.manifest.vocab_size, ASKED_ROWS * window, self.job.seed).reshape(-1, window)

    @property
    def _is_too_slow(self) -> bool:
        """A step that is longer than the budget leaves no time for a checkpoint."""
        return self.job.budget_seconds is not None and self.step_seconds > self.job.budget_seconds

    def _hand_over_data(self) -> None:
        write_dummy_tokens(self.folder / DUMMY_FILE, self._data, self.job.seed)
        self._begin(self.folder / DUMMY_FILE, {"most_steps": self._most_steps})

    def _most_seconds(self) -> float:
        share = LONGEST_SHARE * (self.job.budget_seconds or self.job.wall_seconds)
        return min(super()._most_seconds(), max(LONGEST_SECONDS, share))

    def _hear(self, message: dict[str, Any]) -> None:
        steps = self._steps
        super()._hear(message)
        if self._steps > steps:
            self._step_ends.append(time.monotonic())
            self._peak_mb = max(self._peak_mb, peak_memory_mb(self._child.pid))


def tried(run: SmokeRun, window: Callable[[], int], open_client: Callable[[int], LogitsClient]) -> Smoke:
    """Let `run` come to its end and ask its checkpoint for a few windows of the length in which it would be scored.

    `window` gives that length once there is a checkpoint. Raises what starting a process and the disk can raise.
    """
    started = time.monotonic()
    outcome = run.to_its_end()
    status, reason = outcome.status, outcome.reason
    may_work = run.may_work(outcome)
    if may_work:
        reason += "; its run has more time and more steps"
    if status is None:
        status, reason = _answer(run, window(), open_client)
    return Smoke(
        status=status,
        reason=reason,
        step_seconds=round(run.step_seconds, 5) if status is None else 0.0,
        tokens_per_step=outcome.tokens // outcome.steps if outcome.steps else 0,
        parameters=outcome.parameters,
        peak_memory_mb=outcome.peak_memory_mb,
        wall_seconds=round(time.monotonic() - started, 3),
        may_work=may_work,
    )


def _answer(run: SmokeRun, window: int, open_client: Callable[[int], LogitsClient]) -> tuple[Status | None, str]:
    """Whether the checkpoint answers: finite logits, as many as were asked for, of the vocabulary or wider."""
    try:
        with open_client(window) as client:
            client.logits(run.question(window), ASKED_ROWS * [(0, min(window, ASKED_TOKENS))])
    except InvalidCheckpointError as error:
        return Status.INVALID, error.message
    return None, ""


def dummy_tokens(vocab_size: int, count: int, seed: int) -> Any:
    """int32 [count]: ids drawn alike, without any text behind them."""
    import numpy as np

    return np.random.default_rng([seed, 0x5A0C]).integers(vocab_size, size=count, dtype=np.int32)


def write_dummy_tokens(path: Path, data: PreparedData, seed: int) -> None:
    """Shards of made-up ids in the dtype of the real ones, and no more of them."""
    manifest = data.manifest
    count = min(manifest.train_tokens, DUMMY_TOKENS)
    path.write_bytes(dummy_tokens(manifest.vocab_size, count, seed).astype(manifest.token_dtype).tobytes())


def peak_memory_mb(pid: int) -> float:
    """The most memory that a process has had resident so far, in MB; 0 where the system does not tell.

    Two steps are over before anybody has looked; Linux remembers.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration, IndexError, ValueError):
        return 0.0
