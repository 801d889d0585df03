"""Replicas in processes: gradients of the whole batch, weights of the moment, errors that are told, no survivors."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_model
from torch import nn

from slm_ar.core.train.crew import Crew, _packed
from slm_ar.core.train.replicas import Replicas

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="replicas are threads here"),
    pytest.mark.usefixtures("threads_as_before"),
]


@pytest.fixture(autouse=True, scope="module")
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Tied(nn.Module):
    """A table that is used at both ends, and one that nothing uses."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.unused = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False), nn.Linear(2, 2)
        self.head.weight = self.table.weight
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.dropout(self.table(ids).tanh()))
        return out


def backward(model: nn.Module, ids: torch.Tensor) -> None:
    model(ids).logsumexp(-1).sum().backward()


def gradient(model: Any) -> torch.Tensor:
    found = model.table.weight.grad
    assert found is not None
    return found.clone()  # type: ignore[no-any-return]


def alone(model: nn.Module, parts: list[torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    for part in parts:
        backward(model, part)
    found = gradient(model)
    model.zero_grad()
    return found


@pytest.fixture
def crew() -> Iterator[Crew]:
    made = Crew(Tied(), 3, backward)
    yield made
    made._dismiss()


def at_work(crew: Crew, parts: list[torch.Tensor]) -> torch.Tensor:
    crew._model.zero_grad()
    crew.add_gradients(parts)
    return gradient(crew._model)


PARTS = [torch.tensor([1, 2, 3]), torch.tensor([4, 4]), torch.tensor([9, 1]), torch.tensor([7])]


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 4), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_gradients_are_those_of_all_parts_however_they_are_dealt(count: int, sizes: list[int], seed: int) -> None:
    parts = [torch.randint(11, (size,), generator=torch.Generator().manual_seed(seed)) for size in sizes]
    expected, crew = alone(Tied(), parts), Crew(Tied(), count, backward)
    try:
        for _ in range(2):
            assert torch.allclose(at_work(crew, parts), expected, atol=1e-4)
        assert crew._model.unused.weight.grad is None
    finally:
        crew._dismiss()


def test_they_add_to_gradients_that_are_there(crew: Crew) -> None:
    once = at_work(crew, PARTS)
    crew.add_gradients(PARTS)
    assert torch.allclose(gradient(crew._model), 2 * once, atol=1e-5)


def test_every_process_computes_with_the_weights_of_the_moment(crew: Crew) -> None:
    model: Any = crew._model
    at_work(crew, PARTS)
    processes = list(crew._processes)
    with torch.no_grad():
        model.table.weight.mul_(2)
    assert torch.allclose(at_work(crew, PARTS), alone(model, PARTS), atol=1e-5)
    for _ in range(2):  # exchanged, and the new one written to
        model.table.weight.data = torch.randn(11, 4)
        assert torch.allclose(at_work(crew, PARTS), alone(model, PARTS), atol=1e-5)
        with torch.no_grad():
            model.table.weight.mul_(2)
        assert torch.allclose(at_work(crew, PARTS), alone(model, PARTS), atol=1e-5)
    assert crew._processes == processes, "the same processes see it"


def test_what_is_frozen_counted_or_switched_later_follows_the_model() -> None:
    model: Any = Tied()
    model.register_buffer("scale", torch.ones(1))
    crew = Crew(model, 2, lambda one, ids: (one.scale * (3 if one.training else 1) * one(ids).sum()).backward())
    try:
        sizes = [float(at_work(crew, PARTS).norm())]
        model.scale.fill_(2.0)
        sizes.append(float(at_work(crew, PARTS).norm()))
        model.eval()
        sizes.append(float(at_work(crew, PARTS).norm()))
        assert [size / sizes[0] for size in sizes] == pytest.approx([1, 2, 2 / 3])
        model.unused.requires_grad_(False)
        model.table.weight.requires_grad_(False)
        model.table.weight.grad = None
        with pytest.raises(RuntimeError, match="does not require grad"):
            crew.add_gradients(PARTS)
    finally:
        crew._dismiss()


def test_the_same_numbers_come_out_again_with_dropout_too() -> None:
    found = []
    for _ in range(3):
        crew = Crew(Tied(dropout=0.5), 3, backward)
        found.append(at_work(crew, PARTS * 3))
        crew._dismiss()
    assert all(torch.equal(one, found[0]) for one in found)


def test_processes_do_not_draw_the_same_random_numbers(crew: Crew) -> None:
    drawn = Crew(Tied(), 3, lambda one, part: one.table.weight.backward(torch.rand(11, 4)))
    try:
        at_work(drawn, PARTS[:1])
        state = torch.get_rng_state()
        first = at_work(drawn, PARTS[:1])
        torch.set_rng_state(state)
        both = at_work(drawn, PARTS[:2])
        assert not torch.allclose(both, 2 * first), "the second process drew what the first one did"
    finally:
        drawn._dismiss()


def fails_on(number: int) -> Any:
    def work(model: nn.Module, ids: torch.Tensor) -> None:
        if int(ids[0]) == number:
            raise ZeroDivisionError("on purpose")
        backward(model, ids)

    return work


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (4, RuntimeError, r"(?s)failed:.*in work\n.*ZeroDivisionError: on purpose"),
        (1, ZeroDivisionError, "^on purpose$"),
    ],
    ids=["in another process, with its place", "in the first"],
)
def test_an_error_in_one_process_is_told_and_the_next_batch_works(number: int, error: type, words: str) -> None:
    crew = Crew(Tied(), 2, fails_on(number))
    try:
        with pytest.raises(error, match=words):
            crew.add_gradients(PARTS)
        fine = [part for part in PARTS if int(part[0]) != number]
        assert torch.allclose(at_work(crew, fine), alone(Tied(), fine), atol=1e-5)
    finally:
        crew._dismiss()


def test_errors_in_all_processes_leave_nothing_for_the_next_batch() -> None:
    def half(model: Any, ids: torch.Tensor) -> None:
        backward(model, ids)
        if len(ids) == 1:
            raise ValueError("after adding its gradient")

    crew = Crew(Tied(), 2, half)
    try:
        with pytest.raises(ValueError, match="after adding"):
            crew.add_gradients([torch.tensor([7]), torch.tensor([8])])
        assert torch.allclose(at_work(crew, PARTS[:2]), alone(Tied(), PARTS[:2]), atol=1e-5)
    finally:
        crew._dismiss()


def test_what_cannot_be_sent_leaves_the_others_in_step(crew: Crew) -> None:
    at_work(crew, PARTS)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        crew.add_gradients([PARTS[0], PARTS[1], lambda: None])
    assert torch.allclose(at_work(crew, PARTS), alone(Tied(), PARTS), atol=1e-5)


def test_where_nobody_may_be_killed_they_go_when_asked(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox on an older kernel lets a process signal itself alone."""

    def refused(*_: object) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "kill", refused)
    at_work(crew, PARTS)
    before = list(crew._processes)
    crew._model.eval()
    assert torch.allclose(at_work(crew, PARTS), alone(Tied(), PARTS), atol=1e-5)
    assert not any(alive(process) for process in before) and set(before).isdisjoint(crew._processes)


@pytest.mark.parametrize("refused", ["fork", "memory"])
def test_no_room_for_a_process_is_out_of_memory(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    if refused == "memory":
        monkeypatch.setattr("slm_ar.core.train.crew.mmap.mmap", no)
        with pytest.raises(MemoryError, match="shared memory"):
            Crew(Tied(), 2, backward)
        return
    crew = Crew(Tied(), 3, fails_on(4))
    with pytest.raises(RuntimeError, match="on purpose"):
        crew.add_gradients(PARTS)  # all are dismissed; now there is room for one of two
    forks = iter([os.fork, no])
    monkeypatch.setattr(os, "fork", lambda: next(forks)())
    with pytest.raises(MemoryError, match="replica 2 could not be started"):
        crew.add_gradients(PARTS[:1])
    monkeypatch.undo()
    assert torch.allclose(at_work(crew, PARTS[:1]), alone(Tied(), PARTS[:1]), atol=1e-5)
    crew._dismiss()


def test_it_draws_nothing_from_the_generator_of_the_run(crew: Crew) -> None:
    """Runs with one seed and any number of processes see the same noise."""
    before = torch.get_rng_state()
    at_work(crew, PARTS)
    assert torch.equal(torch.get_rng_state(), before)


def test_sparse_gradients_are_added_up() -> None:
    model: Any = nn.Embedding(11, 4, sparse=True)
    crew = Crew(model, 2, lambda one, ids: one(ids).sum().backward())
    crew.add_gradients(PARTS)
    crew._dismiss()
    found = model.weight.grad.to_dense()
    assert torch.equal(found[:, 0], torch.bincount(torch.cat(PARTS), minlength=11).float())


def test_a_process_that_was_killed_is_an_error_and_not_a_wait(crew: Crew) -> None:
    at_work(crew, PARTS)
    os.kill(crew._processes[0], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(crew._processes[0])], timeout=1)
    with pytest.raises(RuntimeError, match="out of memory"):
        crew.add_gradients(PARTS)
    assert torch.allclose(at_work(crew, PARTS), alone(Tied(), PARTS), atol=1e-5)


def test_weights_in_shared_memory_are_saved_like_others(crew: Crew, tmp_path: Path) -> None:
    at_work(crew, PARTS)
    save_model(crew._model, str(tmp_path / "model.safetensors"))
    saved = load_file(tmp_path / "model.safetensors")
    assert len(saved) == 3, "the tied table once, and the unused layer"
    assert torch.equal(saved.get("table.weight", saved.get("head.weight")), crew._model.table.weight)  # type: ignore


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32, torch.bfloat16, torch.bool, torch.float64])
def test_tensors_of_every_type_reach_the_other_process_as_they_are(dtype: torch.dtype) -> None:
    sent = {"a": torch.arange(12).view(3, 4).to(dtype)[:, 1:], "b": (1.5, None)}
    got = pickle.loads(_packed(sent))
    assert got["a"].dtype == dtype and torch.equal(got["a"], sent["a"]) and got["b"] == sent["b"]


PARENT = """
    import sys, time
    import torch
    from slm_ar.core.train.crew import Crew
    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 2)
    crew = Crew(model, 3, lambda one, part: one(part).sum().backward())
    crew.add_gradients([torch.ones(1, 2)] * 3)
    print(*crew._processes, flush=True)
    if sys.argv[1] == "stay":
        time.sleep(60)
"""


@pytest.mark.parametrize("end", ["by itself", "killed", "interrupted"])
def test_no_process_outlives_the_first_one(end: str) -> None:
    how = "go" if end == "by itself" else "stay"
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(PARENT), how], stdout=-1, stderr=-3) as parent:
        assert parent.stdout is not None
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2
        if end == "killed":
            parent.kill()
        elif end == "interrupted":
            parent.send_signal(signal.SIGINT)
        parent.wait(30)
    limit = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < limit:
        time.sleep(0.02)
    assert not any(alive(worker) for worker in workers)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def test_replicas_are_processes_where_each_has_one_thread_and_threads_otherwise() -> None:
    for count, threads, is_forking in ((1, 1, False), (2, 2, True), (2, 3, True), (2, 4, False)):
        replicas = Replicas(Tied(), count, threads, backward)
        torch.set_num_threads(1)
        assert (replicas._crew is not None) == is_forking and len(replicas) == count
        replicas.backward(PARTS)
        assert torch.allclose(gradient(replicas.models[0]), alone(Tied(), PARTS), atol=1e-5)
        replicas.models[0].zero_grad()
        replicas.add_gradients(backward, PARTS)  # with threads
        assert torch.allclose(gradient(replicas.models[0]), alone(Tied(), PARTS), atol=1e-5)
        if replicas._crew is not None:
            replicas._crew._dismiss()


def test_without_a_function_named_beforehand_the_error_says_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"run\.replicas\(model, most, backward\)"):
        Replicas(Tied(), 1, 1).backward(PARTS)
