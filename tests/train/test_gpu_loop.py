"""The loop on a make-believe CUDA device: right ids in spite of late copies, no step that waits, no late end."""

from __future__ import annotations

import json
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeTorch
from test_runtime import batches_of, job

from slm_ar.core.train import loader, runtime
from slm_ar.core.train.loader import Align
from slm_ar.core.train.runtime import Run

TOKENS = np.arange(1, 998, dtype=np.uint16)
LAUNCH_SECONDS = 0.001


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    fake = FakeTorch()
    monkeypatch.setattr(loader, "torch", fake)
    monkeypatch.setattr(runtime.time, "monotonic", fake.clock.monotonic)
    return fake


def train(gpu: FakeTorch, step_seconds: float, budget: float, align: Align = "stream", **facts: Any) -> dict[str, Any]:
    """Train on the device: the batches as the steps found them, how many steps were done at each launch, and how many
    seconds after the deadline the last one was."""
    ours, theirs = socket.socketpair()
    facts = {"device": "cuda", "budget_seconds": budget, "budget_steps": None} | facts
    run = Run(job(token_count=len(TOKENS), **facts), theirs, Path.cwd())
    seen: list[torch.Tensor] = []
    done: list[int] = []
    with tempfile.TemporaryFile() as file, ours, theirs:
        file.write(TOKENS.tobytes())
        file.flush()
        deadline = gpu.clock.now + budget

        def hand_over() -> None:
            assert json.loads(ours.recv(65536)) == {"event": "ready"}
            socket.send_fds(ours, [json.dumps({"event": "go", "deadline": deadline}).encode()], [file.fileno()])

        helper = threading.Thread(target=hand_over)
        helper.start()
        for batch in run.batches(40, 20, align=align):
            gpu.clock.now += LAUNCH_SECONDS
            views = batch.inputs, batch.targets
            gpu.computing.enqueue(step_seconds, lambda views=views: seen.append(torch.stack(views)))
            done.append(len(seen))
        helper.join()
    assert gpu.pinned == 2, "nothing is pinned while it trains"
    return {"seen": seen, "launched": len(done), "done": done, "late": gpu.computing.end - deadline}


@pytest.mark.parametrize("align", ["stream", "documents"])
@pytest.mark.parametrize("copy_seconds", [1e-5, 0.2])
def test_a_step_finds_its_own_batch_however_late_the_copy(gpu: FakeTorch, align: Align, copy_seconds: float) -> None:
    gpu.copy_seconds = copy_seconds
    found = train(gpu, step_seconds=0.1, budget=100.0, align=align, budget_seconds=None, budget_steps=60)
    assert found["launched"] == len(found["seen"]) == 60
    plain = [
        torch.stack([batch.inputs, batch.targets]) for batch in batches_of(TOKENS, 40, 20, align=align, budget_steps=60)
    ]
    assert all(torch.equal(*pair) for pair in zip(found["seen"], plain, strict=True))


@pytest.mark.parametrize("step_seconds", [0.05, 0.4])
def test_all_that_was_launched_is_done_by_the_deadline(gpu: FakeTorch, step_seconds: float) -> None:
    found = train(gpu, step_seconds, budget=5.0)
    assert found["late"] <= 0
    assert found["late"] > -3 * step_seconds, "and the budget was used"
    assert found["launched"] == len(found["seen"])


def test_at_most_two_steps_are_under_way_and_the_device_never_runs_dry(gpu: FakeTorch) -> None:
    found = train(gpu, step_seconds=0.1, budget=3.0)
    ahead = [number + 1 - done for number, done in enumerate(found["done"])]
    assert max(ahead) == 2
    assert min(ahead[1:]) == 2, "the next one is launched before the last one is done"


def test_without_the_limit_the_loop_would_end_late(gpu: FakeTorch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader.Launched, "wait", lambda self: None)
    assert train(gpu, step_seconds=0.4, budget=5.0)["late"] > 100
