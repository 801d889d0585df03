"""All that train.py may import: seed, clock, data and the way out of a checkpoint.

Used inside the training process, which the harness owns; it can also be read as the other half of executor.py.
Promises: the clock starts with the first real batch, because the data only arrive then; every token of the corpus is
a target once per epoch; batches are a function of (seed, context), the batch size only cuts the same order differently.
Nothing here is trusted by the harness: it measures time and score itself.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
        self.budget_seconds: float | None = job["budget_seconds"]
        self.budget_steps: int | None = job["budget_steps"]
        self._token_dtype = np.dtype(job["token_dtype"])
        self._steps = self._tokens = 0
        torch.manual_seed(self.seed)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator that depends on the seed and `name` alone.

        Initialise every parameter with its own name: then two codes that share a parameter start it alike, and
        paired runs differ by the edit, not by the draw.
        """
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)

    def dummy_batch(self, batch_tokens: int, context: int) -> Batch:
        """A batch of random ids in the shape of a real one, to compile or warm up with before the clock starts."""
        rows = max(1, batch_tokens // context)
        ids = torch.randint(self.vocab_size, (rows, context + 1), generator=self.generator("dummy batch"))
        ids = ids.to(self.device)
        return Batch(ids[:, :-1], ids[:, 1:], 0.0)

    def batches(
        self,
        batch_tokens: int,
        context: int,
        model: torch.nn.Module | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Iterator[Batch]:
        """Batches of `batch_tokens` tokens in rows of `context` until the budget is spent.

        The first one says "ready" to the harness, receives the data and with them starts the clock. Be warmed up.
        With `model` and `config`, as `save` takes them, the harness may look at the model before the end, with the
        clock stopped, and end a run that is hopeless. Without them no run is ended early.
        """
        rows = max(1, batch_tokens // context)
        _finish_work(self.device)
        _send(self._control, {"event": "ready"})
        message, descriptors = _receive(self._control)
        started = time.monotonic()
        tokens = _map_tokens(descriptors[0], self._token_dtype)
        deadline, most_steps = message["deadline"], message.get("most_steps")
        shares = list(message.get("snapshots", ())) if model is not None and config is not None else []
        paused = 0.0
        order = row_order(len(tokens), context, self.seed)
        offsets = np.arange(context + 1)
        last_report = last_step = started
        step_seconds = 0.0
        while True:
            now = time.monotonic()
            if self._steps:
                step_seconds = max(now - last_step, 0.9 * step_seconds)
            last_step = now
            if most_steps is not None and self._steps >= most_steps:
                break
            if self.budget_steps is not None:
                progress = self._steps / self.budget_steps
                if self._steps >= self.budget_steps:
                    break
            else:
                assert self.budget_seconds is not None
                progress = min(0.999999, (now - started - paused) / self.budget_seconds)
                if now + step_seconds > deadline:
                    break
            if most_steps is not None:  # tried (smoke_run.py): the steps stand for the whole budget, its end included
                progress = 0.999999 * self._steps / max(1, most_steps - 1)
            if shares and progress >= shares[0]:
                assert model is not None and config is not None
                shares.pop(0)
                deadline, paused = self._show(model, config)
                last_step = time.monotonic()
                continue
            starts = np.fromiter((next(order) for _ in range(rows)), np.int64, rows)
            ids = torch.from_numpy(tokens[(starts[:, None] + offsets) % len(tokens)].astype(np.int64))
            if self.device.type == "cuda":
                ids = ids.pin_memory()
            ids = ids.to(self.device, non_blocking=True)
            yield Batch(ids[:, :-1], ids[:, 1:], progress)
            self._steps += 1
            self._tokens += rows * context
            if most_steps is not None:
                _finish_work(self.device)
            if most_steps is not None or now - last_report > PROGRESS_SECONDS:
                last_report = now
                _send(self._control, {"event": "progress", "steps": self._steps, "tokens": self._tokens})
        _send(self._control, {"event": "progress", "steps": self._steps, "tokens": self._tokens})

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


def row_order(token_count: int, context: int, seed: int) -> Iterator[int]:
    """Start positions of training rows, without end: per epoch a random phase, then every row once in random order.

    Rows wrap around the end of the corpus, so no token is left out whatever the phase.
    """
    generator = np.random.default_rng([seed, 0x51A7])
    rows = -(-token_count // context)
    while True:
        phase = int(generator.integers(context))
        yield from ((generator.permutation(rows) * context + phase) % token_count).tolist()


def _finish_work(device: torch.device) -> None:
    """Wait until an accelerator has done all that it was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


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
