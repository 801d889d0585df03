"""Work in the scorer: counted from outside, over all processes, and compared with what plain answers cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from errno import ENOSYS, EPERM
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_scorer import write_checkpoint

from slm_ar.core.train import executor as executor_module
from slm_ar.core.train import meter
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.meter import (
    FREE_SECONDS,
    LEAST_TOTAL_SECONDS,
    LONGEST_TOTAL_SECONDS,
    PLAIN_FACTOR,
    Account,
    Allowance,
    TreeClock,
    allowance,
)

ROWS = (1, 2, 4, 8, 16, *[32] * 10)


def account(loading: float, costs: Sequence[float], rows: Sequence[int] = ROWS) -> Account:
    """`costs`: seconds of each answer; rows of 256 tokens."""
    result = Account()
    result.loaded(loading)
    spent = loading
    for cost, count in zip(costs, rows, strict=True):
        spent += cost
        result.answered(256 * count, spent)
    return result


@given(st.floats(0, 2), st.floats(1e-4, 10), st.lists(st.floats(1, 2), min_size=len(ROWS), max_size=len(ROWS)))
def test_a_model_that_only_answers_has_nothing_beyond_its_loading(
    loading: float, row_seconds: float, unrest: list[float]
) -> None:
    """However slow it is, and though some answers cost twice what others cost."""
    costs = [row_seconds * rows * factor for rows, factor in zip(ROWS, unrest, strict=True)]
    assert account(loading, costs).extra == pytest.approx(loading)


@pytest.mark.parametrize("requests", range(2, 9))
@pytest.mark.parametrize("last", [0, 1, 64])
def test_however_the_rows_fall_into_requests_a_slow_model_only_answers(requests: int, last: int) -> None:
    """Also where the last request holds more than half of all rows, or one."""
    rows = [2**number for number in range(requests)] + [last] * (last > 0)
    assert account(0, [0.2 * count for count in rows], rows).extra == pytest.approx(0)


def test_work_is_not_hidden_behind_one_slow_row_at_the_end() -> None:
    rows = [1, 2, 4, 8, 16, 1]
    costs = [5.0, 0.0, 0.0, 0.0, 0.0, 1.3]
    assert account(0, costs, rows).extra > FREE_SECONDS


@given(st.floats(0.5, 100), st.integers(0, 3), st.floats(1e-4, 0.05))
def test_training_before_an_early_answer_is_counted(worked: float, at: int, row_seconds: float) -> None:
    costs = [row_seconds * rows for rows in ROWS]
    costs[at] += worked
    free = (PLAIN_FACTOR - 1) * row_seconds * sum(ROWS[: at + 1]) + 0.01 * (at + 1)
    assert worked - free - 1e-6 <= account(0, costs).extra <= worked


@given(st.floats(1, 100))
def test_to_hide_work_before_the_first_answer_it_must_be_paid_again_at_every_row(worked: float) -> None:
    """A model may only look slow: then all that it spends is many times what it hides."""
    hidden = account(0, [worked * rows / PLAIN_FACTOR for rows in ROWS])
    hidden._seconds = [seconds + worked * (1 - 1 / PLAIN_FACTOR) for seconds in hidden._seconds]
    assert hidden.extra <= 0.01
    assert hidden._seconds[-1] >= worked * sum(ROWS) / PLAIN_FACTOR


def test_a_single_answer_is_all_beyond() -> None:
    assert account(0.2, [0.5], [3]).extra == pytest.approx(0.69)


def test_what_is_free_grows_with_the_budget_and_with_the_size_of_the_model() -> None:
    plain = allowance("cpu", 2, None, 0)
    assert plain == Allowance(FREE_SECONDS, 2 * LONGEST_TOTAL_SECONDS)
    minutes = allowance("cpu", 2, 300.0, 0)
    assert minutes == Allowance(FREE_SECONDS + 6, LEAST_TOTAL_SECONDS + 1200)
    assert allowance("cuda", 8, 300.0, 0).total == LEAST_TOTAL_SECONDS + 600
    assert allowance("cpu", 1, None, 100_000_000).extra == pytest.approx(FREE_SECONDS + 2.5)
    assert allowance("cpu", 1, 300.0, 40_000_000).extra == pytest.approx(FREE_SECONDS + 3 + 1)
    # An exam of the demo: 2 MB, 3.7 million tokens, up to 178 processor seconds; the split itself, 40,000 tokens.
    demo = allowance("cpu", 2, 6.0, 2_000_000)
    assert demo.total + demo.per_token * 3.7e6 > 2 * 178
    assert demo.per_token * 40_000 < 5


@given(st.floats(1, 10_000), st.integers(1, 64), st.integers(0, 4 << 30))
def test_a_padded_checkpoint_buys_little(budget: float, threads: int, size: int) -> None:
    """Whatever lies in it: the tensors of a model and a hole in a file look alike from here."""
    free = allowance("cpu", threads, budget, size)
    assert free.extra <= FREE_SECONDS + 0.02 * budget * threads + 1e-9
    assert free.per_token * 40_000 <= 4 * budget * threads + 1e-9
    on_accelerator = allowance("cuda", threads, budget, size)
    assert on_accelerator.extra <= meter.FREE_SECONDS_ACCELERATOR + 0.11 * budget + 1e-9


# --- in a process -------------------------------------------------------------------------------

BURN = """
    import os, time

    def burn(seconds):
        began = time.process_time()
        while time.process_time() - began < seconds:
            pass
"""
WAYS = {
    "while it is imported": BURN + "    burn(1)",
    "in threads that have ended": BURN
    + """
    import threading

    for _ in range(10):
        thread = threading.Thread(target=burn, args=(0.1,))
        thread.start()
        thread.join()
""",
}


@pytest.mark.parametrize("way", WAYS)
def test_work_before_the_answer_is_seen_wherever_it_is_done(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(executor_module, "allowance", lambda *_: Allowance(0.8, 1000.0))
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, build=WAYS[way])
    with pytest.raises(InvalidCheckpointError, match="beyond answering"), executor.client(folder, 32) as client:
        for _ in range(4):
            client.logits(np.full((8, 16), 5, np.int32), [(0, 16)] * 8)


STARTS = """
    import ctypes, os, subprocess, threading, torch

    libc = ctypes.CDLL(None, use_errno=True)
    told = []

    def tried(start):
        ctypes.set_errno(0)
        try:
            child = start()
        except OSError as error:
            child = -1
            ctypes.set_errno(error.errno)
        if child == 0:
            os._exit(0)
        told.append(f"{child} {ctypes.get_errno()}")

    tried(os.fork)
    tried(libc.fork)
    tried(libc.vfork)
    tried(lambda: libc.syscall(ctypes.c_long(435), None, 0))
    tried(lambda: subprocess.Popen(["/bin/true"]).pid)
    tried(lambda: os.posix_spawn("/bin/true", ["true"], {}))
    threads = [threading.Thread(target=told.append, args=("a thread",)) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    torch.set_num_threads(2)
    torch.ones(300, 300) @ torch.ones(300, 300)
    print("\\n".join(told), flush=True)
"""


def test_a_model_that_is_served_on_the_cpu_starts_threads_but_no_process(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    if executor.isolation(tmp_path).level not in (1, 3):
        pytest.skip("needs a system-call filter")
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, build=STARTS)
    with executor.client(folder, 32) as client:
        client.logits(np.full((2, 16), 5, np.int32), [(0, 16)] * 2)
    refused = [f"-1 {code}" for code in (EPERM, EPERM, EPERM, ENOSYS, EPERM, EPERM)]
    assert (folder / "log.txt").read_text(encoding="utf-8").splitlines() == [*refused, "a thread", "a thread"]


def test_a_model_that_starts_a_process_is_told_that_it_may_not(executor: LocalExecutor, tmp_path: Path) -> None:
    if executor.isolation(tmp_path).level not in (1, 3):
        pytest.skip("needs a system-call filter")
    code = "import subprocess; subprocess.run(['g++']); return self.table[ids]"
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, code)
    with (
        executor.client(folder, 32) as client,
        pytest.raises(InvalidCheckpointError, match="threads, but no processes"),
    ):
        client.logits(np.full((2, 16), 5, np.int32), [(0, 16)] * 2)


class Unseen:
    """A process whose seconds are rounded to none."""

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=0.0, system=0.0, children_user=0.0, children_system=0.0)


def test_many_short_processes_are_no_free_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where processes can be started, each of a chain of them may work for less than a clock of hundredths shows."""
    chain = [Unseen()]
    monkeypatch.setattr(meter, "run_processes", lambda pid: chain)
    clock = TreeClock(1)
    assert clock.seconds() == 0
    chain += [Unseen() for _ in range(200)]
    assert clock.seconds() >= 200 * 0.0199
    del chain[1:]  # nobody forgets them
    assert clock.seconds() >= 200 * 0.0199


@pytest.mark.parametrize(("per_token", "is_refused"), [(0.0, True), (1.0, False)])
def test_what_is_free_in_all_grows_with_what_is_asked(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_token: float, is_refused: bool
) -> None:
    monkeypatch.setattr(executor_module, "allowance", lambda *_: Allowance(1000.0, 0.3, per_token))
    vocab_size = executor.data.manifest.vocab_size
    burn = "import time; end = time.process_time() + 0.9; all(time.process_time() < end for _ in iter(int, 1))"
    folder = write_checkpoint(tmp_path / "run", vocab_size, f"{burn}; return self.table[ids]")
    refusal = pytest.raises(InvalidCheckpointError, match=r"worked [01] s to be scored, 0 s are free")
    with refusal if is_refused else nullcontext(), executor.client(folder, 32) as client:
        client.logits(np.full((1, 16), 5, np.int32), [(0, 16)])


def test_the_first_rows_are_asked_alone(executor: LocalExecutor, tmp_path: Path) -> None:
    """And the answers are those of one request."""
    folder = write_checkpoint(
        tmp_path / "run", executor.data.manifest.vocab_size, "print(len(ids), flush=True); return self.table[ids]"
    )
    ids = np.arange(5, 5 + 20 * 8, dtype=np.int32).reshape(20, 8)
    with executor.client(folder, 32) as client:
        first = client.logits(ids, [(2, 8)] * 20)
        second = client.logits(ids, [(2, 8)] * 20)
        third, fourth = client.stream([(ids, [(2, 8)] * 20), (ids[:3], [(2, 8)] * 3)])
    assert (first == second).all()
    assert (first == third).all()
    assert (first[:18] == fourth).all()
    told = (folder / "log.txt").read_text(encoding="utf-8").split()
    assert told == ["1", "2", "4", "8", "5", "20", "20", "3"]


def test_a_model_that_is_compiled_runs_as_it_is_written(executor: LocalExecutor, tmp_path: Path) -> None:
    """Compiling would take many seconds of the processor, and counts as the model's own work."""
    build = """
    global look

    @torch.compile(dynamic=False)
    def look(table, ids):
        return torch.compile(lambda rows: rows)(table[ids])

    model = torch.compile(Model(config["vocab_size"]), mode="default")
    model.compile()
    assert list(torch.compile(dynamic=False)(Model(2)).state_dict()) == list(model.state_dict())
    model.scale = 3.0
    assert model._orig_mod.scale == 3.0
    assert model.table.shape == model._orig_mod.table.shape
    return model
"""
    vocab_size = executor.data.manifest.vocab_size
    folder = write_checkpoint(tmp_path / "run", vocab_size, "return look(self.table, ids)", build=build)
    table = torch.arange(float(vocab_size**2)).reshape(vocab_size, vocab_size) / vocab_size
    save_file({"_orig_mod.table": table}, str(folder / "model.safetensors"))
    with executor.client(folder, 32) as client:
        logits = client.logits(np.full((8, 16), 5, np.int32), [(0, 16)] * 8)
        assert client.work_beyond_answering < 0.8 * FREE_SECONDS
    assert (logits == table[5]).all()
