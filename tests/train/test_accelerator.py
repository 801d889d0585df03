"""Memory: parts of a batch that fit, the cap on a device, and the words when it runs out. No device is needed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runtime import make_run
from toys import toy_machine, toy_recipe

from slm_ar.core.agent.opening import train_job
from slm_ar.core.contracts import Status
from slm_ar.core.train import accelerator, candidate
from slm_ar.core.train.runtime import Batch, Run
from slm_ar.core.train.training_run import TrainingRun, TrainJob

GIGABYTE = 10**9


@pytest.fixture
def run() -> Any:
    run, harness = make_run()
    with harness, run._control:
        yield run


def hungry(most_rows: int, error: Callable[[], BaseException], tried: list[int]) -> Callable[[Batch], None]:
    """A step for which memory runs out above `most_rows` rows."""

    def step(batch: Batch) -> None:
        tried.append(len(batch.inputs))
        if len(batch.inputs) > most_rows:
            raise error()

    return step


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 9.1 GiB)"),
        lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: MemoryError(),
    ],
)
def test_rows_are_lowered_until_a_step_fits(run: Run, error: Callable[[], BaseException]) -> None:
    tried: list[int] = []
    assert run.fit_rows(hungry(3, error, tried), 12 * 16, 16) == 3
    assert tried == [12, 6, 4, 3], "parts of one size alone: nothing is compiled for another"


def test_what_fits_at_once_is_tried_once(run: Run) -> None:
    tried: list[int] = []
    assert run.fit_rows(hungry(99, MemoryError, tried), 8 * 16, 16) == 8
    assert tried == [8]


def test_one_row_that_does_not_fit_is_an_error_that_the_harness_knows(run: Run) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="one row of 16 tokens") as caught:
        run.fit_rows(hungry(0, lambda: torch.OutOfMemoryError("no"), []), 4 * 16, 16)
    assert accelerator.is_out_of_memory(caught.value)


def test_another_error_of_the_step_is_no_matter_of_memory(run: Run) -> None:
    tried: list[int] = []
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run.fit_rows(hungry(0, lambda: RuntimeError("shapes do not match"), tried), 4 * 16, 16)
    assert tried == [4]


def test_what_the_failed_try_held_is_free_before_the_next(run: Run) -> None:
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []

    def step(batch: Batch) -> None:
        assert all(tensor() is None for tensor in held)
        activations = torch.zeros(len(batch.inputs))
        held.append(weakref.ref(activations))
        if len(batch.inputs) > 1:
            raise torch.OutOfMemoryError("no")

    assert run.fit_rows(step, 4 * 16, 16) == 1
    assert len(held) == 3


@given(st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_the_gradients_of_parts_add_up_to_those_of_the_batch(rows: int, most: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(11, (2, rows, 6), generator=generator)
    whole = Batch(ids[0], ids[1], 0.25)
    gradients = []
    for batches in ([whole], list(whole.parts(most))):
        weight = torch.randn(11, 11, generator=torch.Generator().manual_seed(1), requires_grad=True)
        for batch in batches:
            loss = torch.nn.functional.cross_entropy(weight[batch.inputs].flatten(0, 1), batch.targets.flatten())
            (loss * batch.weight).backward()
        gradients.append(weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    assert sum(part.weight for part in whole.parts(most)) == pytest.approx(1.0)
    assert {part.progress for part in whole.parts(most)} == {0.25}
    assert max(len(part.inputs) for part in whole.parts(most)) <= most


# --- the device's memory --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory_mb", "free", "share"),
    [
        (8_000, 15.5 * GIGABYTE, 0.5),
        (None, 15.5 * GIGABYTE, 0.95 * 15.5 / 16),
        (100_000, 15.5 * GIGABYTE, 0.95 * 15.5 / 16),
        (8_000, 4 * GIGABYTE, 0.2375),
    ],
)
def test_cuda_memory_is_capped_by_the_recipe_and_by_what_is_free(
    monkeypatch: pytest.MonkeyPatch, memory_mb: float | None, free: float, share: float
) -> None:
    capped: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free), 16 * GIGABYTE))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", capped.append)
    accelerator.cap_memory("cuda", memory_mb)
    assert capped == [pytest.approx(share)]


@pytest.mark.parametrize(("memory_mb", "share"), [(6_000, 0.5), (50_000, 1.0), (None, 1.0)])
def test_metal_memory_is_capped_at_what_metal_recommends(
    monkeypatch: pytest.MonkeyPatch, memory_mb: float | None, share: float
) -> None:
    capped: list[float] = []
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 12 * GIGABYTE)
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", capped.append)
    accelerator.cap_memory("mps", memory_mb)
    assert capped == [pytest.approx(share)]


@pytest.mark.parametrize(("memory_gb", "caps"), [(3.0, (3000, 3000)), (None, (0.8 * 6000, None))])
def test_without_a_cap_a_card_may_have_more_memory_than_the_machine(
    memory_gb: float | None, caps: tuple[float, float | None]
) -> None:
    job = train_job(toy_recipe(budget={"memory_gb": memory_gb}), toy_machine(), "", 0)
    assert (job.memory_mb, job.device_memory_mb) == caps


def test_a_run_that_fails_on_a_device_tells_its_peak_and_was_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.json").write_text(json.dumps({"device": "cuda", "device_memory_mb": 5000.0}))
    (tmp_path / "train.py").write_text("import torch\nraise torch.OutOfMemoryError('CUDA out of memory.')\n")
    calls: list[Any] = []
    monkeypatch.setattr(accelerator, "cap_memory", lambda *asked: calls.append(asked))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 4_900_000_000)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: calls.append(on))
    monkeypatch.setattr("sys.argv", ["pytest"])
    monkeypatch.setenv("SLM_AR_CONTROL", "")
    reading, writing = os.pipe()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            candidate.run_candidate("train", writing)
        assert json.loads(os.read(reading, 4096)) == {"event": "progress", "device_mb": 4900.0}
    finally:
        os.close(reading)
        os.close(writing)
    assert calls == [True, ("cuda", 5000.0)]


class FakeChild:
    """As much of process.Child as a TrainingRun asks before it has started."""

    pid = 1

    def __init__(self, device: str) -> None:
        self.incubator = type("Incubator", (), {"device": device})()
        self.control = type("Lines", (), {"refusal": ""})()


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuda", "out of memory: torch.OutOfMemoryError: CUDA out of memory. (its tensors had 4,900 MB)"),
     ("cpu", "out of memory: torch.OutOfMemoryError: CUDA out of memory.")],
)  # fmt: skip
def test_the_reason_names_the_peak_of_the_device(tmp_path: Path, device: str, words: str) -> None:
    job = TrainJob("", 0, 5.0, None, 60.0, 1000.0)
    run = TrainingRun(job, tmp_path, FakeChild(device), None, 2)  # type: ignore[arg-type]
    for told in (4900.0, True, -3.0, "9e9", 1e300, float("nan"), 100.0):
        run._hear({"event": "progress", "device_mb": told})
    (tmp_path / "log.txt").write_text("torch.OutOfMemoryError: CUDA out of memory.\n")
    assert run._judge({"status": 1}) == (Status.OOM, words)


def test_counts_that_a_run_reports_are_whole_numbers_that_rise(tmp_path: Path) -> None:
    job = TrainJob("", 0, 5.0, None, 60.0, 1000.0)
    run = TrainingRun(job, tmp_path, FakeChild("cpu"), None, 2)  # type: ignore[arg-type]
    for told in (True, -1, "7", 2.5, float("nan"), None, [3], 10**30):
        run._hear({"event": "progress", "steps": told, "tokens": told})
        assert run.progress.steps == run.progress.tokens == 0
    for told in (5, 4):
        run._hear({"event": "progress", "steps": told})
        assert run.progress.steps == 5
