"""Starts training runs on this machine and has their checkpoints scored.

Called by the campaign and by `slm-ar train`. Promises: a run (training_run.py) starts in an emptied folder, in the
sandbox that this command proved; a score comes from fresh processes and only after the integrity probes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..contracts import GroupScore, ObjectiveScore, SplitScore
from ..errors import BudgetError
from ..prepare.heldout import HeldDocument, read_split
from ..prepare.pipeline import TOKENIZER_FILE, PreparedData
from ..prepare.tokenizer import load_tokenizer, token_texts
from .checkpoint import CHECKPOINT_FILE, CONFIG_FILE, LARGEST_CHECKPOINT_BYTES, InvalidCheckpointError
from .device import Machine
from .files import candidate_file_digest, read_candidate_file, read_config
from .meter import allowance
from .mixing import NO_MIXTURE, MixedSource, Mixer, Mixture, Weights, check_mix
from .pasted import HeldText
from .process import Child, candidate_environment
from .sandbox.area import empty_folder
from .sandbox.choice import Isolation, Sandboxes
from .smoke import Smoke
from .smoke_run import ASKED_TOKENS, STEPS, SmokeRun, tried
from .training_run import FREE_DISK_BYTES, TrainingRun, TrainJob
from .windows import Segments, encode_documents, make_windows

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..prepare.ngram import Contexts
    from .integrity import Watched
    from .logits_client import LogitsClient

LARGEST_CODE_BYTES = 1 << 20
LONGEST_SCORE_SECONDS = 3600.0


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
        mixture: str = NO_MIXTURE,
    ) -> None:
        """`allow_unsafe`: go on without a sandbox where none proves itself. `mixture`: the recipe's, in [evaluation].

        Raises RecipeError when there is no text to fit a mixture on.
        """
        if mixture != NO_MIXTURE:
            check_mix(data)
        self.machine = machine
        self.data = data
        self.objective = objective
        self.mixes = mixture != NO_MIXTURE
        self._mixer: Mixer | None = None
        self._contexts: dict[str, Contexts] = {}
        self._weights: tuple[str, Weights] | None = None
        """Name of a checkpoint in windows of a length, and what its mixture weighs."""
        self._sandboxes = Sandboxes(machine.mode, machine.device, self._environment(), allow_unsafe)
        self._tokenizer: Tokenizer | None = None
        self._documents: dict[str, tuple[Sequence[HeldDocument], Segments]] = {}
        self._held_text = HeldText(data.held_folder)
        self._budgets: dict[Path, float | None] = {}

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

    @cached_property
    def _token_texts(self) -> list[str]:
        return token_texts(self.tokenizer)

    def renew_sandboxes(self, place: Path) -> None:
        """Before a run that may depend on none before it: what it runs in is made anew. `place`: of run folders."""
        self._sandboxes.renew(place)

    def submit(self, job: TrainJob, folder: Path) -> TrainingRun:
        """Start training in `folder`, which is emptied first. Raises BudgetError when the disk is nearly full."""
        child, incubator_pid = self._start(job, folder)
        return TrainingRun(job, folder, child, self.data, incubator_pid)

    def smoke(self, job: TrainJob, folder: Path, steps: int = STEPS, context: int = ASKED_TOKENS) -> Smoke:
        """Try a job for `steps` steps on made-up data, in `folder`, which is emptied first; see smoke_run.py.

        Its checkpoint is asked for windows of at most `context` ids, the length in which runs are scored. It uses the
        device for seconds, beside which nothing may be timed. Raises BudgetError when the disk is nearly full.
        """
        child, incubator_pid = self._start(job, folder)
        run = SmokeRun(job, folder, child, self.data, incubator_pid, steps)
        return tried(run, lambda: window_context(folder, context), lambda window: self.client(folder, window))

    def _start(self, job: TrainJob, folder: Path) -> tuple[Child, int]:
        """A training process in `folder`, emptied, and the process number of its incubator."""
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
            "token_texts": self._token_texts,
            "device": self.machine.device,
            "precision": self.machine.precision,
            "form": job.form,
            "budget_seconds": job.budget_seconds,
            "budget_steps": job.budget_steps,
            "device_memory_mb": job.device_memory_mb,
        }
        (folder / "job.json").write_text(json.dumps(facts), encoding="utf-8")
        self._budgets[folder.resolve()] = job.budget_seconds
        incubator = self._sandboxes.incubator("train", folder.parent)
        return incubator.start("train", folder, self._environment()), incubator.pid

    def score(self, folder: Path, split: str, context: int) -> SplitScore:
        """Score the checkpoint in `folder`, once it has passed the probes of integrity.py.

        Raises InvalidCheckpointError, and then there is no number.
        """
        from .integrity import Probes
        from .scorer import score_split

        self._refuse_pasted_text(folder)
        if split not in self._documents:
            read = tuple(read_split(self.data.held_folder, split))
            self._documents[split] = read, encode_documents(self.tokenizer, read)
        documents, segments = self._documents[split]
        window = window_context(folder, context)
        mixture = self._mixture(folder, split, segments, window) if self.mixes else None
        windows, probes = make_windows(segments, window), Probes()
        probes.draw(windows)  # all that takes time is done before: between two questions nobody watches an accelerator
        with self.client(folder, window) as client:
            score = score_split(
                client, self.tokenizer, split, documents, window, probes=probes, windows=windows, mixture=mixture
            )
        probes.run(lambda: self.client(folder, window, purpose="again"))
        score = replace(score, groups=self._nameless(score.groups))
        objective = score.objective
        if self.objective is not None:
            objective = self.objective.score(self.opener(folder, window), self.tokenizer, split, documents, window)
        if objective is None:
            return score
        return replace(score, objective=replace(objective, groups=self._nameless(objective.groups)))

    @property
    def mixer(self) -> Mixer:
        """The n-gram of these data; counted when it is first asked for."""
        if self._mixer is None:
            self._mixer = Mixer(self.data, self.tokenizer)
        return self._mixer

    def _mixture(self, folder: Path, split: str, segments: Segments, window: int) -> Mixture:
        """The n-gram's part in the score of a split, weighted for the checkpoint in `folder`.

        The weights are fitted once for a checkpoint, by asking a fresh process for nothing but text of mix: one that
        knew what is asked could make its own mixture worse, and nothing else.
        """
        if split not in self._contexts:
            self._contexts[split] = self.mixer.contexts(segments)
        return Mixture(self._fitted(folder, window), self.mixer.counts, self._contexts[split])

    def _fitted(self, folder: Path, window: int) -> Weights:
        name = f"{window} {_checkpoint_digest(folder)}"
        if self._weights is None or self._weights[0] != name:
            self._weights = name, self.mixer.fit_candidate(lambda: self.client(folder, window), window)
        return self._weights[1]

    @contextlib.contextmanager
    def writer(self, folder: Path, context: int) -> Iterator[LogitsClient | MixedSource]:
        """What continues texts: a fresh process with the checkpoint, mixed with the n-gram where the recipe says so.

        Raises InvalidCheckpointError.
        """
        weights = self._fitted(folder, context) if self.mixes else None
        with self.client(folder, context) as client:
            yield client if weights is None else MixedSource(client, self.mixer.counts, weights)

    def _refuse_pasted_text(self, folder: Path) -> None:
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

        def watched() -> Watched:
            purposes = iter(("serve", "again"))
            return Watched(lambda: self.client(folder, context, purpose=next(purposes)))

        return watched

    def client(
        self, folder: Path, context: int, answering_seconds: float | None = None, purpose: str = "serve"
    ) -> LogitsClient:
        """A fresh process that answers with the checkpoint's logits for windows of at most `context` ids.

        All its answers may take `answering_seconds`, or as long as a score may. `purpose`: "again" where its answers
        are compared with those of another process; see sandbox/choice.py. Leaving it raises InvalidCheckpointError when
        it worked on more than its answers (meter.py).
        """
        from .logits_client import LogitsClient

        budget = self._budgets.get(folder.resolve())
        size = path.stat().st_size if (path := folder / CHECKPOINT_FILE).is_file() else 0
        return LogitsClient(
            self._sandboxes.incubator(purpose, folder.parent),
            folder,
            self._environment(),
            self.machine.device,
            self.data.manifest.vocab_size,
            context,
            0.8 * self.machine.memory_mb,
            LONGEST_SCORE_SECONDS if answering_seconds is None else answering_seconds,
            allowance(self.machine.device, self.machine.threads, budget, size),
        )

    def _environment(self) -> dict[str, str]:
        return candidate_environment(self.machine.threads, self.machine.spin_count)


def _checkpoint_digest(folder: Path) -> str:
    """Names weights, configuration and code: serving a checkpoint moves its files, so times tell nothing.

    Raises InvalidCheckpointError when one of them cannot be read.
    """
    total = hashlib.sha256()
    try:
        for name in (CHECKPOINT_FILE, CONFIG_FILE, "train.py"):
            total.update(candidate_file_digest(folder / name, LARGEST_CHECKPOINT_BYTES))
    except OSError as error:
        raise InvalidCheckpointError(f"the checkpoint cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def window_context(folder: Path, cap: int) -> int:
    """Window length for scoring: the candidate's own context ("context" in config.json), at most `cap`."""
    try:
        asked = read_config(folder / CONFIG_FILE).get("context")
    except (OSError, ValueError):
        asked = None
    return max(8, min(asked, cap)) if isinstance(asked, int) and not isinstance(asked, bool) else cap
