"""What train.py has of the harness: seed, clock, data, what tokens say, threads, and the way out of a checkpoint.

Used inside the training process, which the harness owns; it can also be read as the other half of executor.py.
Promises: the clock starts with the first real batch, because the data only arrive then; every token of the corpus is
a target once per epoch; batches are a function of (seed, context), the batch size only cuts the same order differently;
no step is launched that would end after the deadline, as far as the steps before it tell.
Nothing here is trusted by the harness: it measures time and score itself.
"""

from __future__ import annotations

import gc
import hashlib
import json
import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from . import accelerator
from .loader import Align, Launched, Reader, epochs_of, finish_work, make_feed, newest_part, row_width
from .replicas import Replicas
from .token_features import token_features

CHECKPOINT_FILE, CONFIG_FILE = "model.safetensors", "config.json"
SNAPSHOT_FILE, SNAPSHOT_CONFIG = "snapshot.safetensors", "snapshot.json"
CONTROL_VARIABLE = "SLM_AR_CONTROL"
PROGRESS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` and `targets` are int64 [rows, context] on the run's device; `progress` is the spent share of the
    budget in [0, 1), for schedules."""

    inputs: torch.Tensor
    targets: torch.Tensor
    progress: float
    weight: float = 1.0
    """Of a part: its share of the rows of the whole batch. Mean losses times this, added up, are the batch's mean."""
    epoch: float = 0.0
    """How often the corpus was read before, or the part of it that is read at all."""

    def parts(self, rows: int) -> Iterator[Batch]:
        """The batch in parts of at most `rows` rows, whose gradients add up to those of the whole; see fit_rows."""
        count = len(self.inputs)
        for first in range(0, count, rows):
            inputs, targets = self.inputs[first : first + rows], self.targets[first : first + rows]
            yield replace(self, inputs=inputs, targets=targets, weight=self.weight * len(inputs) / count)


class Run:
    """One training run, as train.py sees it."""

    def __init__(self, job: Mapping[str, Any], control: socket.socket, folder: Path) -> None:
        self._control = control
        self._folder = folder
        self.seed: int = job["seed"]
        self.vocab_size: int = job["vocab_size"]
        self.token_count: int = job["token_count"]
        """Tokens in train: divide by what the budget can read to see how many epochs there will be."""
        self.bytes_per_token: float = job["bytes_per_token"]
        self.device = torch.device(job["device"])
        self.precision: torch.dtype = getattr(torch, job["precision"])
        """The dtype for autocast on this machine: float32 where bfloat16 was measured to be slower."""
        self.form: str = job["form"]
        """"portable": the model shall keep the shape of Qwen3, which other programs load; "best": any shape."""
        self.token_texts: list[str] = job["token_texts"]
        """The text of each token, by id; U+FFFD stands in it for bytes that are no whole character."""
        self.budget_seconds: float | None = job["budget_seconds"]
        self.budget_steps: int | None = job["budget_steps"]
        self._token_dtype = np.dtype(job["token_dtype"])
        self._steps = self._tokens = 0
        self._threads = torch.get_num_threads()
        torch.manual_seed(self.seed)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator that depends on the seed and `name` alone.

        Initialise every parameter with its own name: then two codes that share a parameter start it alike, and
        paired runs differ by the edit, not by the draw.
        """
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    @cached_property
    def token_features(self) -> torch.Tensor:
        """What the texts of the tokens tell: their numbers and shapes, float32 [vocab_size, features] on the device."""
        return torch.from_numpy(token_features(self.token_texts)).to(self.device)

    def replicas(
        self,
        model: torch.nn.Module,
        most: int,
        backward: Callable[[torch.nn.Module, Batch], object] | None = None,
    ) -> Replicas:
        """`model` and copies that share its weights, one for each thread of the run but at most `most`, which train on
        rows of their own at the same time (replicas.py); on an accelerator `model` alone.

        With `backward(replica, part)` named here, `replicas.backward(parts)` may call it in processes instead of
        threads, which is faster.
        """
        threads = self._threads if self.device.type == "cpu" else 1
        return Replicas(model, max(1, min(threads, most)), threads, backward)

    def dummy_batch(self, batch_tokens: int, context: int, align: Align = "stream") -> Batch:
        """A batch of random ids, to compile or warm up with before the clock starts.

        It lies in memory as a real one does, so that what is compiled for it is not compiled again.
        """
        shape = max(1, batch_tokens // context), row_width(context, align)
        ids = torch.randint(self.vocab_size, shape, generator=self.generator("dummy batch")).to(self.device)
        return Batch(ids[:, :context], ids[:, -context:], 0.0)

    def fit_rows(
        self, step: Callable[[Batch], object], batch_tokens: int, context: int, align: Align = "stream"
    ) -> int:
        """The most rows of a batch that `step` can take at once in this memory: all of them, or a half, a third ...

        Call it before the clock starts. `step` is tried on a dummy batch, and on parts of it as long as memory runs
        out; it must allocate what a training step does, optimiser state included, and begin with cleared gradients,
        because a try can end in its middle. What it learns is nonsense: initialise afterwards. Then train on
        `batch.parts(rows)`: a batch stays what it was, and so does what is learnt.

        Raises torch.OutOfMemoryError when even one row does not fit.
        """
        batch = self.dummy_batch(batch_tokens, context, align)
        count = len(batch.inputs)
        for rows in (rows for rows in range(count, 0, -1) if count % rows == 0):
            if self._fits(step, next(batch.parts(rows))):
                return rows
        raise torch.OutOfMemoryError(f"one row of {context} tokens does not fit into the memory: out of memory")

    def _fits(self, step: Callable[[Batch], object], batch: Batch) -> bool:
        try:
            step(batch)
            finish_work(self.device)
            return True
        except (RuntimeError, MemoryError) as error:
            if not accelerator.is_out_of_memory(error):
                raise
        gc.collect()  # out here nothing holds the frames any more in which memory ran out
        accelerator.empty_cache(self.device)
        return False

    def batches(
        self,
        batch_tokens: int,
        context: int,
        model: torch.nn.Module | None = None,
        config: Mapping[str, Any] | None = None,
        align: Align = "stream",
        newest: float = 1.0,
    ) -> Iterator[Batch]:
        """Batches of `batch_tokens` tokens in rows of `context` until the budget is spent.

        The first one says "ready" to the harness, receives the data and with them starts the clock. Be warmed up.
        With `model` and `config`, as `save` takes them, the harness may look at the model before the end, with the
        clock stopped, and end a run that is hopeless. Without them no run is ended early.

        `align`: "stream" cuts rows from the corpus wherever they fall; "documents" packs whole documents into rows, so
        that hardly one shorter than a row is cut and rows begin where a document does (packing.py).

        `newest`: the share of train that is read, from its end. Where texts come in order of time, the last ones are
        most like those that the model is scored on, and a budget that reads train only once or less has a choice.
        """
        if not 0 < newest <= 1:
            raise ValueError(f"newest must be above 0 and at most 1, not {newest!r}")
        if align not in get_args(Align):
            raise ValueError(f"align must be one of {', '.join(get_args(Align))}, not {align!r}")
        rows = max(1, batch_tokens // context)
        feed, launched = make_feed(self.device, rows, context, align), Launched(self.device)
        finish_work(self.device)
        _send(self._control, {"event": "ready"})
        message, descriptors = _receive(self._control)
        clock = _Clock(self, message, launched.steps_to_come)
        shares = list(message.get("snapshots", ())) if model is not None and config is not None else []
        tokens = newest_part(_map_tokens(descriptors[0], self._token_dtype), newest, context)
        feed.start(Reader(epochs_of(tokens, context, self.seed, align)))
        while (progress := clock.progress()) is not None:
            if shares and progress >= shares[0]:
                assert model is not None and config is not None
                shares.pop(0)
                clock.stood_still(*self._show(model, config))
                continue
            inputs, targets = feed.take()
            yield Batch(inputs, targets, progress, epoch=self._tokens / len(tokens))
            feed.prepare()
            launched.wait()
            self._steps += 1
            self._tokens += rows * context
            if clock.is_trial:
                finish_work(self.device)
            if clock.is_trial or clock.is_report_due():
                self._report()
        finish_work(self.device)
        self._report()

    def _report(self) -> None:
        facts = {"steps": self._steps, "tokens": self._tokens, "device_mb": accelerator.peak_memory_mb(self.device)}
        _send(self._control, {"event": "progress", **facts})

    def _show(self, model: torch.nn.Module, config: Mapping[str, Any]) -> tuple[float | None, float]:
        """Hand the harness a snapshot and wait; (the new deadline, all seconds stood still so far)."""
        self._write(model, config, SNAPSHOT_FILE, SNAPSHOT_CONFIG)
        _send(self._control, {"event": "snapshot"})
        message, _ = _receive(self._control)
        return message["deadline"], message["paused"]

    def save(self, model: torch.nn.Module, config: Mapping[str, Any]) -> None:
        """Write the checkpoint. `config` (JSON) must be all that `build_model` needs to build the model again."""
        self._write(model, config, CHECKPOINT_FILE, CONFIG_FILE)
        _send(self._control, {"event": "saved"})

    def _write(self, model: torch.nn.Module, config: Mapping[str, Any], weights: str, facts: str) -> None:
        from safetensors.torch import save_model

        save_model(model, str(self._folder / weights))
        (self._folder / facts).write_text(json.dumps(dict(config), allow_nan=False), encoding="utf-8")


def connect() -> Run:
    """The run that this process was started for. Raises RuntimeError outside the harness."""
    descriptor = os.environ.get(CONTROL_VARIABLE)
    if descriptor is None:
        raise RuntimeError("train.py is run by the harness: use `slm-ar train` in the workspace")
    folder = Path.cwd()
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return Run(job, socket.socket(fileno=int(descriptor)), folder)


class _Clock:
    """How much of the budget is spent, and whether one more step fits into the rest."""

    def __init__(self, run: Run, message: Mapping[str, Any], steps_to_come: int) -> None:
        """`message`: the harness's "go"; `steps_to_come`: see loader.Launched."""
        self._run = run
        self._deadline: float | None = message["deadline"]
        self._most_steps: int | None = message.get("most_steps")
        self._steps_to_come = steps_to_come
        self._started = self._last_step = self._last_report = time.monotonic()
        self._paused = self._step_seconds = 0.0

    @property
    def is_trial(self) -> bool:
        """Whether this is no run but a try of a few steps (smoke_run.py)."""
        return self._most_steps is not None

    def progress(self) -> float | None:
        """The spent share of the budget, when a step is done and another one fits; else None."""
        run, now = self._run, time.monotonic()
        if run._steps:
            self._step_seconds = max(now - self._last_step, 0.9 * self._step_seconds)
        self._last_step = now
        if self._most_steps is not None and run._steps >= self._most_steps:
            return None
        if run.budget_steps is not None:
            if run._steps >= run.budget_steps:
                return None
            share = run._steps / run.budget_steps
        else:
            assert run.budget_seconds is not None and self._deadline is not None
            if now + self._steps_to_come * self._step_seconds > self._deadline:
                return None
            share = min(0.999999, (now - self._started - self._paused) / run.budget_seconds)
        if self._most_steps is not None:  # its steps stand for the whole budget, its end included
            share = 0.999999 * run._steps / max(1, self._most_steps - 1)
        return share

    def stood_still(self, deadline: float | None, paused: float) -> None:
        """Go on after a look at the model; `paused`: seconds stood still so far, in all."""
        self._deadline, self._paused = deadline, paused
        self._last_step = time.monotonic()

    def is_report_due(self) -> bool:
        if self._last_step - self._last_report <= PROGRESS_SECONDS:
            return False
        self._last_report = self._last_step
        return True


def _map_tokens(descriptor: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    size = os.fstat(descriptor).st_size
    return np.frombuffer(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ), dtype)


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """One message with its descriptors; the harness sends a single one, in one piece."""
    data, descriptors, _, _ = socket.recv_fds(control, 65536, 4)
    if not data:
        raise RuntimeError("the harness closed the connection")
    return json.loads(data), descriptors
