"""Performs the training runs of a campaign: starts one, watches it, looks at it on the way, scores it, writes it down.

Called by campaign.py, finish.py and `slm-ar train`. Promises: a run that was started is in the journal as ended or
interrupted; a job budgeted by the clock has the device for itself; checkpoints that nobody needs any more are removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from ..contracts import Display, SplitScore, Status, TrainOutcome
from ..recipe import Recipe
from ..train.device_lock import take_device
from ..train.executor import LocalExecutor
from ..train.preview import preview_score
from ..train.smoke import Smoke
from ..train.speed import slower_words
from ..train.training_run import Snapshot, TrainJob
from . import level, planner, pruning
from .journal import Journal, put_private
from .opening import train_job
from .replay import GrowingReplay, score_to_json
from .state import CampaignState, ExperimentRecord, RunRecord

SMOKE_FOLDER = "tried"
"""Below the runs, as long as a proposal is tried."""
FRESHLY = ("claim", "final")
"""Roles of runs that nothing of an earlier run may reach: one bit from the other side of a pair is enough for code that
trains badly when it is told to, and then everything looks better than it."""
Look = Callable[[Snapshot], str]
"""Looks at a run that stands still; says why it is to be ended, or nothing."""


def watched(
    executor: LocalExecutor, job: TrainJob, folder: Path, display: Display, title: str, look: Look | None = None
) -> TrainOutcome:
    """Run one job to its outcome, with its progress on the display; whatever interrupts this ends the run."""
    display.run_started(title, job.budget_seconds or 0.0)
    run = executor.submit(job, folder)
    try:
        while (outcome := run.poll()) is None:
            progress = run.progress
            words = f"{progress.phase}, {progress.steps:,} steps" if progress.steps else progress.phase
            display.tick(progress.train_seconds, words)
            if look is None or run.snapshot is None:
                continue
            if reason := look(run.snapshot):
                run.prune(reason)
            else:
                run.go_on()
    except BaseException:
        run.cancel()
        raise
    return outcome


class Runs:
    """The runs of one workspace's campaign; campaign.Campaign decides which."""

    def __init__(
        self,
        workspace: Path,
        recipe: Recipe,
        journal: Journal,
        executor: LocalExecutor,
        display: Display,
    ) -> None:
        self.workspace, self.recipe, self.journal = workspace, recipe, journal
        self.executor, self.display = executor, display
        self.runs_folder = workspace / ".slm" / "runs"
        self._replay = GrowingReplay()
        self._device: TextIO | None = None
        """The lock of the device, where it is kept for the run to come."""

    @property
    def state(self) -> CampaignState:
        state = self._replay.state(self.journal.events)
        assert state is not None
        return state

    def train(self, step: planner.TrainStep) -> RunRecord:
        """Perform one training run and its scoring; the journal holds it afterwards."""
        state = self.state
        attempt = len(planner.attempts(state, step)) + 1
        started = self.journal.append(
            "run_started",
            {
                "role": step.role,
                "revision": step.revision,
                "seed": step.seed,
                "attempt": attempt,
                "experiment": step.experiment,
                "claim": step.claim,
            },
        )
        folder = self.run_folder(started.number)
        title = run_title(step, state)
        job = self.job(state.revisions[step.revision], step.seed)
        looks: list[tuple[float, float]] = []
        look: Look | None = None
        if step.role in pruning.LOOKED_AT and pruning.prunes(self.recipe, self.executor.machine):
            job = replace(job, snapshots=pruning.SHARES)
            look = self._look_at(state, step, looks)
        try:
            if step.role in FRESHLY:
                self.executor.renew_sandboxes(self.runs_folder)
            outcome = _beside_neighbours(self.trained(title, job, folder, look), state)
            scores: dict[str, SplitScore] = {}
            if outcome.status is None:
                outcome, scores = self._scored(outcome, folder, step.splits)
        except KeyboardInterrupt:
            self.journal.append("run_interrupted", {"run": started.number})
            raise
        held = {split: score_to_json(score) for split, score in scores.items() if split != "dev"}
        dev = scores.get("dev")
        self.journal.append(
            "run_ended",
            {
                "run": started.number,
                "outcome": asdict(outcome),
                "dev": score_to_json(dev) if dev is not None else None,
                "held_digest": put_private(held) if held else None,
                "looks": looks,
            },
        )
        self.display.run_finished(title, _run_line(outcome, dev, state.unit))
        self._drop_weights()
        return self.state.runs[-1]

    def run_folder(self, run: int) -> Path:
        return self.runs_folder / f"{run:06d}"

    def job(self, train_py: str, seed: int, factor: float = 1.0) -> TrainJob:
        """A training job with the recipe's budget, `factor` times as long."""
        return train_job(self.recipe, self.executor.machine, train_py, seed, factor)

    def trained(self, title: str, job: TrainJob, folder: Path, look: Look | None = None) -> TrainOutcome:
        """Run one job to its outcome, showing its progress; a job budgeted by the clock owns the device."""
        if job.budget_seconds is None:
            return watched(self.executor, job, folder, self.display, title, look)
        with self._lent_device():
            return watched(self.executor, job, folder, self.display, title, look)

    def waits_in_vain(self, stop_at: float | None) -> bool:
        """Wait for a device on which others train, before a run by the clock, and keep it for that run until
        `give_back_device`; True when the time was up first."""
        if self.recipe.budget.seconds is None:
            return False
        self._device = take_device(self.executor.machine.device, self.display.note, stop_at)
        return self._device is None

    def give_back_device(self) -> None:
        """Let others have the device, where it was kept for a run that was not needed."""
        if self._device is not None:
            self._device.close()
            self._device = None

    def _lent_device(self) -> TextIO:
        """The lock of the device, to be closed: the one that was kept, or another when that is free."""
        kept, self._device = self._device, None
        return kept or take_device(self.executor.machine.device, self.display.note)

    def try_out(self, experiment: ExperimentRecord, seed: int) -> Smoke:
        """Try the code of an experiment for two steps on made-up data; the journal holds what became of it."""
        folder = self.runs_folder / SMOKE_FOLDER
        job = self.job(self.state.revisions[experiment.revision], seed)
        # Beside a run that is budgeted by the clock, of whomever, nothing else may compute.
        try:
            with self._lent_device() if job.budget_seconds is not None else contextlib.nullcontext():
                smoke = self.executor.smoke(job, folder, context=self.recipe.evaluation.context)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.journal.append("smoked", {"experiment": experiment.id, **asdict(smoke)})
        return smoke

    def _look_at(self, state: CampaignState, step: planner.TrainStep, looks: list[tuple[float, float]]) -> Look:
        """Scores the snapshots of a run into `looks`, and judges them where it is the run of a proposal."""
        experiment = next((item for item in state.experiments if item.id == step.experiment), None)

        def look(snapshot: Snapshot) -> str:
            score = preview_score(self.executor, snapshot.folder, self.recipe.evaluation.context)
            if score is None:
                return ""
            looks.append((snapshot.share, score))
            if experiment is None or snapshot.disturbance:
                return ""
            return pruning.verdict(state, experiment, step.seed, snapshot.share, score)

        return look

    def _scored(
        self, outcome: TrainOutcome, folder: Path, splits: tuple[str, ...]
    ) -> tuple[TrainOutcome, dict[str, SplitScore]]:
        from ..train.checkpoint import InvalidCheckpointError

        self.display.tick(outcome.train_seconds, "scoring")
        try:
            context = self.recipe.evaluation.context
            return outcome, {split: self.executor.score(folder, split, context) for split in splits}
        except InvalidCheckpointError as error:
            return replace(outcome, status=Status.INVALID, reason=error.message), {}

    def close_interrupted_run(self) -> None:
        """A run that a kill left open is written down as interrupted; it will be run again."""
        open_run = self.state.open_run
        if open_run is not None:
            self.journal.append("run_interrupted", {"run": None})
            self.display.note(f"a run of {open_run['revision'][:8]} was interrupted; it is run again")

    def _drop_weights(self) -> None:
        """Keep the newest checkpoint of baseline, current and proven code and of what may be current again; the others
        only cost disk."""
        state = self.state
        kept = {state.baseline, state.head, state.rung, *(state.final_pair or ()), *level.may_come_back(state)}
        # The newest run may belong to an experiment that is still to be judged.
        wanted: dict[str, int] = {"": state.runs[-1].id} if state.runs else {}
        for run in state.runs:
            if run.is_scored and run.revision in kept:
                wanted[run.revision] = run.id
        names = {self.run_folder(run).name for run in wanted.values()}
        for folder in self.runs_folder.glob("[0-9]*"):
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)

    def newest_checkpoint(self, revision: str) -> Path | None:
        """The folder of the newest kept checkpoint of a revision."""
        for run in reversed(self.state.runs):
            folder = self.run_folder(run.id)
            if run.revision == revision and run.is_scored and (folder / "model.safetensors").is_file():
                return folder
        return None


# --- words ---------------------------------------------------------------------------------


def run_title(step: planner.TrainStep, state: CampaignState) -> str:
    """What the terminal calls a run."""
    if step.role == "search":
        experiment = next(item for item in state.experiments if item.id == step.experiment)
        return f"experiment {experiment.id}: {experiment.hypothesis}"
    if step.role == "calibrate":
        return f"calibration {sum(run.role == 'calibrate' for run in state.runs) + 1}: the starting code"
    if step.role == "claim":
        return f"claim {step.claim}: {'proven' if step.revision == state.rung else 'current'} code, fresh seed"
    if step.role == "prune":
        return f"prune pass {sum(run.role == 'prune' for run in state.runs) + 1}: the code without some of its edits"
    if step.role == "final":
        return f"final test: {'starting' if step.revision == state.baseline else 'final'} code"
    return f"{step.role}: {step.revision[:8]}"


def _beside_neighbours(outcome: TrainOutcome, state: CampaignState) -> TrainOutcome:
    """The outcome, stamped when the machine computed slower than in the runs before it.

    Stamped runs count as neighbours too: a machine that stays slow is the machine that the night has.
    """
    earlier = [run.outcome.machine_speed for run in state.runs]
    return replace(outcome, disturbance=outcome.disturbance or slower_words(outcome.machine_speed, earlier))


def _run_line(outcome: TrainOutcome, dev: SplitScore | None, unit: str) -> str:
    if outcome.status is not None:
        return f"{outcome.status.value}: {outcome.reason}"
    score = f"{dev.judged:.4f} {unit} on dev, " if dev is not None else ""
    note = f" (disturbed: {outcome.disturbance})" if outcome.disturbance else ""
    return f"{score}{outcome.steps:,} steps in {outcome.train_seconds:.1f} s{note}"
