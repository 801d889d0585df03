"""Copies of a model on several threads: gradients of the whole batch, one set of weights, errors that come through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_runtime import make_run
from torch import nn

from slm_ar.core.train.replicas import Replicas

pytestmark = pytest.mark.usefixtures("threads_as_before")


@pytest.fixture(autouse=True, scope="module")
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Tied(nn.Module):
    """A table that is used at both ends, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head, self.unused = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False), nn.Linear(2, 2)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.table(ids).tanh())
        return out


def backward(model: nn.Module, ids: torch.Tensor) -> None:
    model(ids).logsumexp(-1).sum().backward()


@given(count=st.integers(1, 4), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_gradients_are_those_of_all_parts_however_they_are_dealt(count: int, sizes: list[int], seed: int) -> None:
    parts = [torch.randint(11, (size,), generator=torch.Generator().manual_seed(seed)) for size in sizes]
    alone, shared = Tied(), Tied()
    for part in parts:
        backward(alone, part)
    replicas = Replicas(shared, count, count)
    replicas.add_gradients(backward, iter(parts))
    assert shared.table.weight.grad is not None and alone.table.weight.grad is not None
    assert torch.allclose(shared.table.weight.grad, alone.table.weight.grad, atol=1e-4)
    assert shared.unused.weight.grad is None
    assert all(parameter.grad is None for other in replicas.models[1:] for parameter in other.parameters())


def test_every_replica_computes_with_the_weights_of_the_moment() -> None:
    model = Tied()
    replicas = Replicas(model, 3, 3)
    ids = torch.arange(11)
    with torch.no_grad():
        model.table.weight.mul_(2)
    replicas.add_gradients(lambda one, part: None, [])
    assert all(torch.equal(one(ids), model(ids)) for one in replicas.models)
    model.table.weight.data = torch.randn(11, 4)  # exchanged, not written to
    seen: list[torch.Tensor] = []
    replicas.add_gradients(lambda one, part: seen.append(one(part)), [ids] * 3)
    assert len(seen) == 3 and all(torch.equal(logits, model(ids)) for logits in seen)


def test_what_is_frozen_counted_or_switched_later_follows_the_model() -> None:
    model = Tied()
    model.register_buffer("seen", torch.ones(3))
    replicas = Replicas(model, 2, 2)
    model.table.weight.requires_grad_(False)
    model.eval()
    with torch.no_grad():
        model.seen.zero_()
    found: list[tuple[bool, float, bool]] = []

    def look(one: Any, part: int) -> None:
        found.append((one.training, float(one.seen.sum()), one.table.weight.requires_grad))

    replicas.add_gradients(look, [0, 1])
    assert found == [(False, 0.0, False)] * 2
    assert model.table.weight.grad is None
    model.table.weight.requires_grad_(True)
    replicas.add_gradients(backward, [torch.arange(4)] * 2)
    alone = Tied()
    backward(alone, torch.arange(4).repeat(2))
    assert torch.allclose(model.table.weight.grad, alone.table.weight.grad, atol=1e-5)


def test_copies_take_no_memory_for_their_weights() -> None:
    model = Tied()
    for other in Replicas(model, 3, 3).models[1:]:
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            assert theirs is not mine and theirs.data_ptr() == mine.data_ptr()
        assert other.head.weight is other.table.weight


def test_the_same_numbers_come_out_again() -> None:
    parts = [torch.randint(11, (50,), generator=torch.Generator().manual_seed(number)) for number in range(7)]
    found = []
    for _ in range(5):
        model = Tied()
        Replicas(model, 3, 3).add_gradients(backward, parts)
        found.append(model.table.weight.grad)
    assert all(torch.equal(one, found[0]) for one in found)


def test_parts_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=30)
    Replicas(Tied(), 3, 3).add_gradients(lambda model, part: together.wait(), [0, 1, 2])
    Replicas(Tied(), 3, 3).at_once([together.wait] * 3)


@pytest.mark.parametrize("where", [0, 1])
def test_an_error_is_raised_when_the_other_threads_have_ended(where: int) -> None:
    ended = []

    def work(model: nn.Module, number: int) -> None:
        if number == where:
            raise torch.OutOfMemoryError("out of memory")
        threading.Event().wait(0.05)
        ended.append(number)

    with pytest.raises(torch.OutOfMemoryError):
        Replicas(Tied(), 2, 2).add_gradients(work, [0, 1])
    assert ended == [1 - where]


def test_each_thread_gets_its_share_of_the_threads() -> None:
    seen: list[int] = []
    Replicas(Tied(), 2, 4).add_gradients(lambda model, part: seen.append(torch.get_num_threads()), [0, 1])
    assert seen == [2, 2]


@pytest.mark.parametrize(("device", "most", "expected"), [("cpu", 8, 3), ("cpu", 2, 2), ("cpu", 0, 1), ("meta", 8, 1)])
def test_a_run_has_as_many_as_it_has_threads_and_work(device: str, most: int, expected: int) -> None:
    torch.set_num_threads(3)
    run, harness = make_run()
    with run._control, harness:
        run.device = torch.device(device)
        model = Tied()
        replicas = run.replicas(model, most)
        assert len(run.replicas(model, most)) == len(replicas), "the first ones have not used the threads up"
    assert len(replicas) == expected and replicas.models[0] is model
