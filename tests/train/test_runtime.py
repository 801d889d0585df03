"""What train.py gets from the harness: batches, progress, generators, parts of a batch that fit into memory."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from slm_ar.core.train.loader import Align
from slm_ar.core.train.runtime import CONTROL_VARIABLE, Batch, Run, connect


def job(**changes: Any) -> dict[str, Any]:
    facts = {
        "seed": 3,
        "vocab_size": 1000,
        "token_count": 997,
        "token_dtype": "uint16",
        "bytes_per_token": 2.5,
        "device": "cpu",
        "precision": "float32",
        "form": "portable",
        "token_texts": [f" {number}" for number in range(1000)],
        "budget_seconds": None,
        "budget_steps": 6,
    }
    return facts | changes


def make_run(**changes: Any) -> tuple[Run, socket.socket]:
    ours, theirs = socket.socketpair()
    return Run(job(**changes), theirs, Path.cwd()), ours


def batches_of(
    tokens: np.ndarray[Any, Any],
    batch_tokens: int,
    context: int,
    align: Align = "stream",
    newest: float = 1.0,
    **changes: Any,
) -> list[Batch]:
    """All batches of a run whose harness is this function."""
    run, harness = make_run(token_count=len(tokens), **changes)
    with tempfile.TemporaryFile() as file, harness:
        file.write(tokens.tobytes())
        file.flush()

        def hand_over() -> None:
            assert json.loads(harness.recv(65536)) == {"event": "ready"}
            socket.send_fds(harness, [json.dumps({"event": "go", "deadline": None}).encode()], [file.fileno()])

        helper = threading.Thread(target=hand_over)
        helper.start()
        found = list(run.batches(batch_tokens, context, align=align, newest=newest))
        helper.join()
    run._control.close()
    return found


def test_the_batch_size_only_cuts_the_same_order_differently() -> None:
    tokens = np.arange(997, dtype=np.uint16)
    small = torch.cat([batch.inputs for batch in batches_of(tokens, 40, 20, budget_steps=12)])
    large = torch.cat([batch.inputs for batch in batches_of(tokens, 80, 20, budget_steps=6)])
    assert small.shape == (24, 20)
    assert torch.equal(small, large)


def test_targets_are_the_next_tokens_also_around_the_end_of_the_corpus() -> None:
    tokens = np.arange(50, dtype=np.uint16)
    batches = batches_of(tokens, 32, 16, budget_steps=8)
    for batch in batches:
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert torch.equal(batch.targets, (batch.inputs + 1) % 50)
    assert any((batch.inputs == 49).any() for batch in batches)


def test_a_budget_in_steps_is_kept_exactly_and_progress_rises_below_one() -> None:
    batches = batches_of(np.arange(100, dtype=np.uint16), 16, 16, budget_steps=5)
    assert [batch.progress for batch in batches] == [0.0, 0.2, 0.4, 0.6, 0.8]


def test_a_batch_tells_how_often_the_corpus_was_read_before_it() -> None:
    tokens = np.arange(997, dtype=np.uint16)
    assert [batch.epoch for batch in batches_of(tokens, 500, 20, budget_steps=5)] == pytest.approx(
        [read / 997 for read in (0, 500, 1000, 1500, 2000)]
    )
    half = batches_of(tokens, 500, 20, newest=0.5, budget_steps=3)
    assert half[1].epoch == pytest.approx(1.0, abs=0.01)
    assert [part.epoch for part in half[1].parts(10)] == [half[1].epoch] * 3


def test_a_generator_depends_on_seed_and_name_alone() -> None:
    run, harness = make_run()
    other, other_harness = make_run(seed=4)
    try:
        drawn = torch.randn(5, generator=run.generator("a"))
        torch.randn(100)
        assert torch.equal(torch.randn(5, generator=run.generator("a")), drawn)
        assert not torch.equal(torch.randn(5, generator=run.generator("b")), drawn)
        assert not torch.equal(torch.randn(5, generator=other.generator("a")), drawn)
    finally:
        for end in (harness, other_harness, run._control, other._control):
            end.close()


@pytest.mark.parametrize("align", get_args(Align))
def test_a_dummy_batch_lies_in_memory_as_a_real_one(align: Align) -> None:
    """Otherwise what was compiled before the clock started would be compiled again under it."""
    run, harness = make_run()
    with harness, run._control:
        dummy = run.dummy_batch(64, 16, align)
    assert int(dummy.inputs.max()) < run.vocab_size
    real = batches_of(np.arange(997, dtype=np.uint16), 64, 16, align=align, budget_steps=1)[0]
    for one, other in ((dummy, real), *zip(dummy.parts(2), real.parts(2), strict=True)):
        for ids, real_ids in ((one.inputs, other.inputs), (one.targets, other.targets)):
            assert ids.shape == real_ids.shape
            assert ids.stride() == real_ids.stride()
            assert ids.dtype == real_ids.dtype


def test_a_context_longer_than_the_batch_gives_one_row() -> None:
    batches = batches_of(np.arange(100, dtype=np.uint16), 16, 64, budget_steps=2)
    assert [tuple(batch.inputs.shape) for batch in batches] == [(1, 64), (1, 64)]


def test_outside_the_harness_train_py_says_how_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONTROL_VARIABLE, raising=False)
    assert CONTROL_VARIABLE not in os.environ
    with pytest.raises(RuntimeError, match="slm-ar train"):
        connect()


def test_an_unknown_alignment_is_refused_before_the_clock_starts() -> None:
    run, harness = make_run()
    with harness, run._control:
        with pytest.raises(ValueError, match="one of stream, documents, not 'rows'"):
            next(run.batches(64, 16, align="rows"))  # type: ignore[arg-type]
        harness.setblocking(False)
        with pytest.raises(BlockingIOError):
            harness.recv(1)


def test_packed_rows_come_through_the_same_door() -> None:
    tokens = np.tile(np.arange(20, dtype=np.uint16), 13)  # thirteen documents of twenty tokens
    batches = batches_of(tokens, 120, 60, align="documents", budget_steps=2)
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape == (2, 60)
        assert torch.equal(batch.targets, (batch.inputs + 1) % 20)
        assert (batch.inputs[:, ::20] == 0).all(), "three whole documents in every row"


def test_the_newest_part_of_train_can_be_read_alone() -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    batches = batches_of(tokens, 64, 16, newest=0.2, budget_steps=9)
    seen = torch.cat([batch.inputs.flatten() for batch in batches])
    assert 800 <= seen.min() < 850
    assert seen.max() > 950


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_part_of_train_that_cannot_be_is_refused_before_the_clock_starts(share: float) -> None:
    run, harness = make_run()
    with harness, run._control:
        with pytest.raises(ValueError, match="newest must be above 0 and at most 1"):
            next(run.batches(64, 16, newest=share))
        harness.setblocking(False)
        with pytest.raises(BlockingIOError):
            harness.recv(1)
