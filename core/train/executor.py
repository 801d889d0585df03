"""Runs train.py on this machine under the parent's clock and has its checkpoint scored.

Called by the campaign and by `slm-ar train`. Promises: the budget starts when the data are handed over and is measured
here; a checkpoint that is late, missing or too large is no checkpoint; memory and disk are capped; no process survives.
Nothing that train.py prints or reports is believed: its step and token counts are shown, never scored.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..contracts import GroupScore, ObjectiveScore, SplitScore, Status, TrainOutcome
from ..errors import BudgetError
from ..prepare.heldout import HeldDocument, ensure_private, private_root, read_split
from ..prepare.pipeline import TOKENIZER_FILE, PreparedData
from ..prepare.shards import TOKENS_FILE
from ..prepare.tokenizer import load_tokenizer
from .checkpoint import CONFIG_FILE, inspect_checkpoint
from .device import Machine
from .disturbance import Watch
from .files import last_line, log_tail, read_candidate_file, read_config
from .pasted import HeldText
from .process import Child, candidate_environment, process_count, tree_memory_mb
from .sandbox.area import byte_count, empty_folder
from .sandbox.choice import Isolation, Sandboxes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .integrity import Watched
    from .scorer import LogitsClient

LARGEST_RUN_BYTES = 4 << 30
LARGEST_CODE_BYTES = 1 << 20
LONGEST_STEPS_RUN_SECONDS = 4 * 3600.0
LONGEST_SCORE_SECONDS = 3600.0
DISK_LOOK_SECONDS = 1.0
FREE_DISK_BYTES = 512 << 20
MOST_PROCESSES = 512
OUT_OF_MEMORY_MARKS = ("OutOfMemoryError", "out of memory", "MemoryError", "can't allocate memory", "bad_alloc")


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run: code, seed and budget (seconds or steps, exactly one)."""

    train_py: str
    seed: int
    budget_seconds: float | None
    budget_steps: int | None
    startup_seconds: float
    memory_mb: float

    @property
    def wall_seconds(self) -> float:
        """Longest time from handing over the data to a complete checkpoint."""
        if self.budget_seconds is None:
            return LONGEST_STEPS_RUN_SECONDS
        return self.budget_seconds + max(1.0, 0.02 * self.budget_seconds)


class Objective(Protocol):
    """What is measured beside bits per byte: tasks.objective.Objective."""

    def score(
        self,
        open_source: Callable[[], Watched],
        tokenizer: Tokenizer,
        split: str,
        documents: Sequence[HeldDocument],
        context: int,
    ) -> ObjectiveScore:
        """The cost of a task's answers on a split."""
        ...


class LocalExecutor:
    """submit, poll, cancel on this machine, one run at a time; and the scoring of what came out.

    Use as a context manager: leaving it ends every process.
    """

    def __init__(
        self,
        machine: Machine,
        data: PreparedData,
        objective: Objective | None = None,
        allow_unsafe: bool = False,
    ) -> None:
        """`allow_unsafe`: go on without a sandbox where none proves itself."""
        self.machine = machine
        self.data = data
        self.objective = objective
        self._sandboxes = Sandboxes(machine.mode, machine.device, self._environment(), allow_unsafe)
        self._tokenizer: Tokenizer | None = None
        self._documents: dict[str, Sequence[HeldDocument]] = {}
        self._held_text = HeldText(data.held_folder)

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandboxes.close()

    def isolation(self, place: Path) -> Isolation:
        """What the sandbox of this command proved; `place` is where run folders will lie. Raises NoSandboxError."""
        if self._sandboxes.isolation is None:
            self._sandboxes.incubator("train", place)
        assert self._sandboxes.isolation is not None
        return self._sandboxes.isolation

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.data.folder / TOKENIZER_FILE)
        return self._tokenizer

    def submit(self, job: TrainJob, folder: Path) -> TrainingRun:
        """Start training in `folder`, which is emptied first. Raises BudgetError when the disk is nearly full."""
        empty_folder(folder)
        if shutil.disk_usage(folder).free < FREE_DISK_BYTES:
            raise BudgetError(
                f"less than {FREE_DISK_BYTES >> 20} MB are free on the disk of {folder}",
                "free some space; the campaign goes on where it stopped",
            )
        manifest = self.data.manifest
        (folder / "train.py").write_text(job.train_py, encoding="utf-8")
        facts = {
            "seed": job.seed,
            "vocab_size": manifest.vocab_size,
            "token_count": manifest.train_tokens,
            "data_key": manifest.key,
            "token_dtype": manifest.token_dtype,
            "bytes_per_token": manifest.bytes_per_token,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "budget_seconds": job.budget_seconds,
            "budget_steps": job.budget_steps,
        }
        (folder / "job.json").write_text(json.dumps(facts), encoding="utf-8")
        incubator = self._sandboxes.incubator("train", folder.parent)
        child = incubator.start("train", folder, self._environment())
        return TrainingRun(job, folder, child, self.data, incubator.pid)

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        """Score the checkpoint in `folder`, once it has passed the probes of integrity.py.

        Raises InvalidCheckpointError, and then there is no number.
        """
        from .integrity import Probes
        from .scorer import score_split

        self._refuse_pasted_text(folder)
        if split not in self._documents:
            self._documents[split] = tuple(read_split(self.data.held_folder, split))
        window = window_context(folder, context)
        documents = self._documents[split]
        probes = Probes()
        with self.client(folder, window) as client:
            score = score_split(client, self.tokenizer, split, documents, window, probes=probes)
        probes.run(lambda: self.client(folder, window))
        score = replace(score, groups=self._nameless(score.groups))
        if self.objective is None:
            return score
        objective = self.objective.score(self.opener(folder, window), self.tokenizer, split, documents, window)
        return replace(score, objective=replace(objective, groups=self._nameless(objective.groups)))

    def _refuse_pasted_text(self, folder: Path) -> None:
        from .scorer import InvalidCheckpointError

        code = read_candidate_file(folder / "train.py", LARGEST_CODE_BYTES).decode("utf-8", errors="replace")
        shared = self._held_text.shared_runs(code)
        if shared:
            raise InvalidCheckpointError(f"train.py holds held-out text: {shared} runs of 13 words stand in both")

    def _nameless(self, groups: Sequence[GroupScore]) -> tuple[GroupScore, ...]:
        """Scores enter the journal, where anybody reads them; the name of a group can be a customer or a query."""
        held = self.data.manifest.held_digest
        digests = (hashlib.blake2b(f"{held} {group.group}".encode(), digest_size=8).hexdigest() for group in groups)
        named = (replace(group, group=digest) for group, digest in zip(groups, digests, strict=True))
        return tuple(sorted(named, key=lambda group: group.group))

    def opener(self, folder: Path, context: int) -> Callable[[], Watched]:
        """Opens a fresh process with the checkpoint each time it is called, and probes it when it is left."""
        from .integrity import Watched

        return lambda: Watched(lambda: self.client(folder, context))

    def client(self, folder: Path, context: int) -> LogitsClient:
        """A fresh process that answers with the checkpoint's logits for windows of at most `context` ids."""
        from .scorer import LogitsClient

        return LogitsClient(
            self._sandboxes.incubator("serve", folder.parent),
            folder,
            self._environment(),
            self.machine.device,
            self.data.manifest.vocab_size,
            context,
            0.8 * self.machine.memory_mb,
            LONGEST_SCORE_SECONDS,
        )

    def _environment(self) -> dict[str, str]:
        return candidate_environment(self.machine.threads, self.machine.spin_count)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the terminal shows while a run goes on; counts are the candidate's own words."""

    phase: str
    """starting | training"""
    train_seconds: float
    steps: int
    tokens: int


class TrainingRun:
    """A submitted run; `poll` moves it on and gives its outcome when there is one."""

    def __init__(self, job: TrainJob, folder: Path, child: Child, data: PreparedData, incubator_pid: int) -> None:
        self.job, self.folder = job, folder
        self._child, self._data = child, data
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._saved: float | None = None
        self._watch: Watch | None = None
        self._own_pids = [os.getpid(), incubator_pid, child.pid]
        self._steps = self._tokens = 0
        self._peak_mb = 0.0
        self._disk_looked = 0.0
        self._disk_cap = min(LARGEST_RUN_BYTES, shutil.disk_usage(folder).free // 2)
        self._ended_by: tuple[Status, str] | None = None

    @property
    def progress(self) -> Progress:
        seconds = time.monotonic() - self._started if self._started is not None else 0.0
        return Progress("starting" if self._started is None else "training", seconds, self._steps, self._tokens)

    def poll(self, seconds: float = 0.25) -> TrainOutcome | None:
        """Wait up to `seconds` for news; the outcome once the run has ended and left no process."""
        message = self._child.wait(min(seconds, self._seconds_left()))
        while message is not None:  # all that was said before now counts before any limit is looked at
            self._hear(message)
            message = self._child.wait(0)
        if self._watch is not None:
            self._watch.tick()
        self._enforce()
        if self._child.ended is None and self._ended_by is None and not self._is_done_saving():
            return None
        return self._finish()

    def cancel(self) -> None:
        """End the run without an outcome."""
        self._child.end()

    def _seconds_left(self) -> float:
        return max(0.005, self._limit() - time.monotonic())

    def _limit(self) -> float:
        if self._started is None:
            return self._submitted + self.job.startup_seconds
        if self._saved is not None:
            # What would be done behind a save is no part of a budget by the clock.
            return self._saved + (0.5 if self.job.budget_seconds is None else 0.0)
        return self._started + self.job.wall_seconds

    def _is_done_saving(self) -> bool:
        return self._saved is not None and time.monotonic() >= self._limit()

    def _hear(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event == "ready" and self._started is None:
            self._hand_over_data()
        elif event == "progress":
            self._steps = _count(message.get("steps"), self._steps)
            self._tokens = _count(message.get("tokens"), self._tokens)
        elif event == "saved" and self._started is not None and self._saved is None:
            self._saved = time.monotonic()

    def _hand_over_data(self) -> None:
        """Open the shards for the candidate; this instant starts the budget."""
        shards = self._data.folder / TOKENS_FILE
        with contextlib.suppress(OSError):  # nobody may open them for writing through the descriptor
            shards.chmod(0o400)
        descriptor = os.open(shards, os.O_RDONLY)
        self._watch = Watch(self._own_pids)
        self._started = time.monotonic()
        seconds = self.job.budget_seconds
        go = {"event": "go", "deadline": self._started + seconds if seconds is not None else None}
        try:
            with contextlib.suppress(OSError):
                socket.send_fds(self._child.control.socket, [json.dumps(go).encode()], [descriptor])
        finally:
            os.close(descriptor)

    def _enforce(self) -> None:
        """Time, memory and disk caps."""
        now = time.monotonic()
        if self._ended_by is not None or self._child.ended is not None:
            return
        if self._saved is None and now > self._limit():
            if self._started is None:
                reason = f"not ready within {self.job.startup_seconds:.0f} s of start-up"
            else:
                reason = f"no complete checkpoint {self.job.wall_seconds:.1f} s after the clock started"
            self._ended_by = (Status.TIMEOUT, reason)
            return
        memory = tree_memory_mb(self._child.pid)
        self._peak_mb = max(self._peak_mb, memory)
        if memory > self.job.memory_mb:
            self._ended_by = (Status.OOM, f"used {memory:,.0f} MB, the cap is {self.job.memory_mb:,.0f} MB")
        elif now - self._disk_looked > DISK_LOOK_SECONDS:
            self._disk_looked = now
            if byte_count(self.folder) + self._child.area.byte_count() > self._disk_cap:
                self._ended_by = (Status.QUOTA, f"wrote more than {self._disk_cap / 1e9:.1f} GB or 100,000 files")
            elif process_count(self._child.pid) > MOST_PROCESSES:
                self._ended_by = (Status.QUOTA, f"started more than {MOST_PROCESSES} processes")

    def _finish(self) -> TrainOutcome:
        now = time.monotonic()
        ended = self._child.end()
        self._restore_ours()
        status, reason = self._judge(ended)
        parameters = 0
        if status is None:
            status, reason, parameters = inspect_checkpoint(self.folder)
        started = self._started if self._started is not None else now
        disturbance = ""
        if self._watch is not None and self.job.budget_seconds is not None:
            disturbance = self._watch.verdict()
        return TrainOutcome(
            status=status,
            reason=reason,
            train_seconds=round((self._saved or now) - started, 3),
            startup_seconds=round(started - self._submitted, 3),
            wall_seconds=round(now - self._submitted, 3),
            peak_memory_mb=round(self._peak_mb, 1),
            steps=self._steps,
            tokens=self._tokens,
            parameters=parameters,
            log_tail=log_tail(self.folder),
            disturbance=disturbance,
        )

    def _restore_ours(self) -> None:
        """What is scored, shown and exported is the code and the tokenizer that the journal knows."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            empty_folder(self.folder)
        tokenizer = (self._data.folder / TOKENIZER_FILE).read_bytes()
        for name, content in (("train.py", self.job.train_py.encode()), (TOKENIZER_FILE, tokenizer)):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(content)

    def _judge(self, ended: dict[str, Any]) -> tuple[Status | None, str]:
        if ended.get("survivors"):
            return Status.INVALID, f"{ended['survivors']} of its processes could not be ended"
        if self._ended_by is not None:
            return self._ended_by
        if self._saved is not None:
            return None, ""
        tail = log_tail(self.folder)
        if any(mark in tail for mark in OUT_OF_MEMORY_MARKS):
            return Status.OOM, "out of memory: " + last_line(tail)
        if ended.get("status") == -9:
            return Status.CRASHED, "killed from outside (by the system, if memory ran out)"
        if self._started is None and ended.get("status") == 0:
            return Status.CRASHED, "train.py ended without asking for data; does main() call run.batches()?"
        if ended.get("status") == 0:
            return Status.CRASHED, "train.py ended without a checkpoint; does main() call run.save()?"
        return Status.CRASHED, last_line(tail) or f"train.py ended with exit code {ended.get('status')}"


def window_context(folder: Path, cap: int) -> int:
    """Window length for scoring: the candidate's own context ("context" in config.json), at most `cap`."""
    try:
        asked = read_config(folder / CONFIG_FILE).get("context")
    except (OSError, ValueError):
        asked = None
    return max(8, min(asked, cap)) if isinstance(asked, int) and not isinstance(asked, bool) else cap


@contextlib.contextmanager
def device_lock(device: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold this machine's device for runs budgeted by the clock: two of them at once would both be void."""
    path = ensure_private(private_root()) / f"{device}.lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            on_wait(f"waiting for the {device}: process {file.read().strip() or '?'} is training on it")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def outcome_facts(outcome: TrainOutcome) -> dict[str, Any]:
    return asdict(outcome)


def _count(value: Any, before: int) -> int:
    return value if isinstance(value, int) and before <= value < 1 << 53 else before
