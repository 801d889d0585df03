"""A try of two steps: what works passes, every failure has the status of a run, and nothing of the corpus is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_executor import GOOD_MAIN, finish, job, left_over
from toys import TINY_TRAIN_PY, with_main

from slm_ar.core.contracts import Status
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.prepare.shards import TOKENS_FILE
from slm_ar.core.train import smoke_run, training_run
from slm_ar.core.train.disturbance import Watch
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.smoke import Smoke
from slm_ar.core.train.smoke_run import SmokeRun, dummy_tokens, peak_memory_mb
from slm_ar.core.train.training_run import error_words

LOOP = "for batch in run.batches(BATCH_TOKENS, CONTEXT):\n"
PRINTS = GOOD_MAIN.replace(
    LOOP, LOOP + "    print('step', run.budget_seconds, run.budget_steps, batch.progress, flush=True)\n"
)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing else runs, whatever else runs."""
    monkeypatch.setattr(Watch, "verdict", lambda self: "")


def tried(executor: LocalExecutor, folder: Path, train_py: str, steps: int = 2, **limits: float) -> Smoke:
    return executor.smoke(job(train_py, **limits), folder / "tried", steps)  # type: ignore[arg-type]


def log_of(folder: Path) -> str:
    return (folder / "tried" / "log.txt").read_text(encoding="utf-8")


# --- what works -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [None, 100.0])
def test_a_code_that_works_passes(executor: LocalExecutor, tmp_path: Path, seconds: float | None) -> None:
    smoke = executor.smoke(job(TINY_TRAIN_PY, seconds=seconds), tmp_path / "tried")
    assert (smoke.status, smoke.reason, smoke.is_failure) == (None, "", False)
    assert smoke.parameters == 320 * 16 * 2 + 32 * 16
    assert smoke.tokens_per_step == 256
    assert 0 < smoke.step_seconds < smoke.wall_seconds
    assert 50 < smoke.peak_memory_mb < 4000
    assert left_over(executor) == []


def test_the_steps_are_few_and_stand_for_the_whole_budget(executor: LocalExecutor, tmp_path: Path) -> None:
    """The code is told the budget of the real run, and the end of its schedules is tried too."""
    assert tried(executor, tmp_path, with_main(PRINTS), seconds=77.0).status is None
    assert log_of(tmp_path).split("\n")[:-1] == ["step 77.0 None 0.0", "step 77.0 None 0.999999"]


def test_a_run_of_fewer_steps_is_tried_for_these(executor: LocalExecutor, tmp_path: Path) -> None:
    assert tried(executor, tmp_path, with_main(PRINTS), steps=50).status is None
    assert log_of(tmp_path).count("step None 6") == 6


def test_what_it_learns_from_is_not_the_corpus(
    executor: LocalExecutor, tiny_data: PreparedData, tmp_path: Path
) -> None:
    main = GOOD_MAIN.replace(LOOP, LOOP + "    print(batch.inputs.tolist(), flush=True)\n")
    assert tried(executor, tmp_path, with_main(main)).status is None
    rows = [row for line in log_of(tmp_path).splitlines() for row in json.loads(line)]
    assert len(rows) == 2 * 256 // 32
    corpus = np.fromfile(tiny_data.folder / TOKENS_FILE, tiny_data.manifest.token_dtype).astype(np.int64)
    parts = {tuple(corpus[at : at + 4]) for at in range(len(corpus) - 3)}
    assert not [row for row in rows if tuple(row[:4]) in parts and tuple(row[4:8]) in parts]
    assert {token for row in rows for token in row} <= set(range(tiny_data.manifest.vocab_size))


def test_equal_seeds_are_tried_on_equal_ids() -> None:
    assert dummy_tokens(100, 50, 3).tolist() == dummy_tokens(100, 50, 3).tolist() != dummy_tokens(100, 50, 4).tolist()


def test_the_next_run_finds_nothing_of_it(executor: LocalExecutor, tmp_path: Path) -> None:
    main = "import os\nprint(sorted(os.listdir('.')), os.listdir(os.environ['HOME']), flush=True)\n"
    main += "open(os.environ['HOME'] + '/note', 'w').write('seen')\nopen('note', 'w').write('seen')\n"
    for _ in range(2):
        assert tried(executor, tmp_path, with_main(main + GOOD_MAIN)).status is None
        assert log_of(tmp_path).splitlines()[0] == "['job.json', 'train.py'] []"


# --- what does not --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "status", "reason"),
    [
        ("raise ValueError('width 3')", Status.CRASHED, "ValueError: width 3 (train.py line LINE)"),
        (GOOD_MAIN.replace("loss.backward()", "loss.backwards()"), Status.CRASHED, "AttributeError"),
        (GOOD_MAIN.replace(LOOP, LOOP + "    assert batch.progress < 0.9\n"), Status.CRASHED, "AssertionError"),
        ("raise MemoryError", Status.OOM, "out of memory: MemoryError (train.py line LINE)"),
        (GOOD_MAIN.replace("run.save(model, config)", "pass"), Status.CRASHED, "does main() call run.save()?"),
        ("pass", Status.CRASHED, "does main() call run.batches()?"),
        (
            GOOD_MAIN.replace("run.save(model, config)", "model.head.weight.data.fill_(float('nan'))\n$"),
            Status.INVALID,
            "not finite",
        ),
        (GOOD_MAIN.replace("run.save(model, config)", "run.save(model, {})"), Status.INVALID, "KeyError"),
    ],
)
def test_each_way_to_fail_has_the_status_of_a_run(
    executor: LocalExecutor, tmp_path: Path, main: str, status: Status, reason: str
) -> None:
    text = with_main(main.replace("$", "run.save(model, config)"))
    first = next(number for number, line in enumerate(text.splitlines(), 1) if line == "def main():") + 1
    smoke = tried(executor, tmp_path, text, seconds=100.0)
    assert smoke.status is status
    assert reason.replace("LINE", str(first)) in smoke.reason
    assert smoke.is_failure and smoke.step_seconds == 0
    assert left_over(executor) == []


def test_logits_of_another_shape_are_invalid(executor: LocalExecutor, tmp_path: Path) -> None:
    train_py = TINY_TRAIN_PY.replace("dim=-1))))", "dim=-1))))[..., : -1 if not self.training else None]")
    smoke = tried(executor, tmp_path, train_py)
    assert smoke.status is Status.INVALID
    assert "forward gave logits of shape [16, 319]" in smoke.reason


def test_too_much_memory_is_seen_even_when_it_is_given_back_soon(executor: LocalExecutor, tmp_path: Path) -> None:
    main = GOOD_MAIN.replace(LOOP, LOOP + "    held = torch.ones(150_000_000)\n    del held\n")
    smoke = tried(executor, tmp_path, with_main(main), memory_mb=4000)
    assert smoke.peak_memory_mb > 600
    assert tried(executor, tmp_path, with_main(main), memory_mb=550).status is Status.OOM


@pytest.mark.parametrize(("busy", "status"), [("", Status.TIMEOUT), ("other programs", Status.DISTURBED)])
def test_a_first_step_that_is_slow_is_cut_short_and_left_to_the_run(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: str, status: Status
) -> None:
    """Code that is compiled in its first step works in a run that is longer than the try; one that hangs ends there."""
    monkeypatch.setattr(smoke_run, "LONGEST_SECONDS", 0.3)
    monkeypatch.setattr(Watch, "verdict", lambda self: busy)
    hangs = GOOD_MAIN.replace(LOOP, LOOP + "    import time\n    time.sleep(600)\n")
    smoke = tried(executor, tmp_path, with_main(hangs), seconds=3.0)
    assert smoke.status is status
    assert smoke.reason.startswith("no complete checkpoint 0.3 s after the clock started")
    assert not smoke.is_failure
    assert left_over(executor) == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(("before", "hangs"), [(0, True), (1, False)])
def test_a_run_by_steps_without_a_step_hangs_and_one_with_slow_steps_may_work(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, hangs: bool
) -> None:
    monkeypatch.setattr(SmokeRun, "_most_seconds", lambda self: 0.2 if self._steps == before else 100.0)
    main = GOOD_MAIN.replace(
        LOOP, f"import time\nstep = 0\n{LOOP}    time.sleep(600 * (step == {before}))\n    step += 1\n"
    )
    smoke = tried(executor, tmp_path, with_main(main))
    assert smoke.status is Status.TIMEOUT
    assert smoke.is_failure is hangs


COUNTS = GOOD_MAIN.replace(LOOP, "step, best = 0, None\n" + LOOP + "    step += 1\n")


@pytest.mark.parametrize(
    "main",
    [
        GOOD_MAIN.replace(
            LOOP,
            "all_ = run.batches(BATCH_TOKENS, CONTEXT)\nfor _ in range(run.budget_steps):\n    batch = next(all_)\n",
        ),
        COUNTS.replace("run.save(", "assert step > 5\nrun.save("),
        COUNTS.replace("run.save(", "1 / max(0, step - 3)\nrun.save("),
        COUNTS.replace("run.save(", "[0] * step and ([0] * step)[3]\nrun.save("),
        COUNTS.replace(
            "    step += 1\n", "    step += 1\n    best = model.state_dict() if step == 4 else best\n"
        ).replace("run.save(", "model.load_state_dict(best)\nrun.save("),
        COUNTS.replace("run.save(", "max(range(3, step))\nrun.save("),
        COUNTS.replace("run.save(model, config)", "").replace(
            "    optimizer.zero_grad()",
            "    optimizer.zero_grad()\n    if step == run.budget_steps:\n        run.save(model, config)",
        ),
    ],
)
def test_what_stumbles_only_over_so_few_steps_is_left_to_its_run(
    executor: LocalExecutor, tmp_path: Path, main: str
) -> None:
    smoke = tried(executor, tmp_path, with_main(main))
    assert smoke.status is Status.CRASHED and not smoke.is_failure
    assert smoke.reason.endswith("; its run has more time and more steps")
    outcome = finish(executor.submit(job(with_main(main)), tmp_path / "run"))
    assert (outcome.status, outcome.reason) == (None, "")


def test_the_same_words_before_the_last_step_are_a_failure(executor: LocalExecutor, tmp_path: Path) -> None:
    smoke = tried(executor, tmp_path, with_main(GOOD_MAIN.replace(LOOP, LOOP + "    assert batch.progress > 1\n")))
    assert smoke.status is Status.CRASHED and smoke.is_failure


@pytest.mark.parametrize("context", [8, 32])
def test_the_checkpoint_is_asked_in_the_length_in_which_it_would_be_scored(
    executor: LocalExecutor, tmp_path: Path, context: int
) -> None:
    """A model with a place for each token of its context, no more and no fewer."""
    text = TINY_TRAIN_PY.replace("CONTEXT = 32 ", f"CONTEXT = {context} ")
    text = text.replace("x = self.embed(ids)\n", "x = self.embed(ids) + self.places\n")
    text = text.replace(
        "        self.mix = ", "        self.places = nn.Parameter(torch.zeros(CONTEXT, width))\n        self.mix = "
    )
    smoke = executor.smoke(job(text), tmp_path / "tried", context=64)
    assert (smoke.status, smoke.reason) == (None, "")
    assert executor.smoke(job(text), tmp_path / "tried", context=8).is_failure is (context == 32)


def test_a_hang_before_the_first_step_has_the_start_up_of_a_run(executor: LocalExecutor, tmp_path: Path) -> None:
    smoke = tried(executor, tmp_path, with_main("import time\ntime.sleep(600)"), startup=0.7)
    assert smoke.status is Status.TIMEOUT
    assert "start-up" in smoke.reason


@pytest.mark.usefixtures("quiet")
def test_a_step_that_is_longer_than_the_budget_is_a_timeout(executor: LocalExecutor, tmp_path: Path) -> None:
    main = GOOD_MAIN.replace(LOOP, LOOP + "    import time\n    time.sleep(0.5)\n")
    smoke = tried(executor, tmp_path, with_main(main), seconds=0.2)
    assert smoke.status is Status.TIMEOUT
    # on a loaded machine it is ended before it has saved
    assert smoke.reason.startswith(("one step took", "no complete checkpoint"))


@pytest.mark.parametrize(("budget", "limit"), [(3.0, 4.0), (300.0, 60.0), (3600.0, 180.0), (None, 720.0)])
def test_the_try_of_a_long_run_is_short(
    executor: LocalExecutor, tmp_path: Path, budget: float | None, limit: float
) -> None:
    child, incubator = executor._start(job(TINY_TRAIN_PY, seconds=budget), tmp_path / "tried")
    run = SmokeRun(job(TINY_TRAIN_PY, seconds=budget), tmp_path / "tried", child, executor.data, incubator, 2)
    run.cancel()
    assert run._most_seconds() == limit


def test_ten_gigabytes_in_a_try_are_a_quota(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "LARGEST_RUN_BYTES", 5_000_000)
    monkeypatch.setattr(training_run, "DISK_LOOK_SECONDS", 0.05)
    main = (
        "import pathlib, time\nfor number in range(10_000):\n"
        "    pathlib.Path(f'junk{number % 100}').write_bytes(b'x' * 1_000_000)\n    time.sleep(0.02)\n"
    )
    assert tried(executor, tmp_path, with_main(main + GOOD_MAIN)).status is Status.QUOTA
    assert left_over(executor) == []


def test_a_daemon_of_a_try_does_not_survive(executor: LocalExecutor, tmp_path: Path) -> None:
    daemon = (
        "import os, pathlib, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        pathlib.Path('daemon').write_text(str(os.getpid()))\n        time.sleep(600)\n    os._exit(0)\n"
        "while not pathlib.Path('daemon').exists():\n    time.sleep(0.01)\n"
    )
    assert tried(executor, tmp_path, with_main(daemon + GOOD_MAIN)).status is None
    assert (tmp_path / "tried" / "daemon").exists()
    assert left_over(executor) == []


def test_an_interrupted_try_leaves_no_process(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: SmokeRun, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SmokeRun, "poll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tried(executor, tmp_path, with_main("import time\ntime.sleep(600)"))
    assert left_over(executor) == []


# --- words ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            '  File "train.py", line 7, in main\n  File "/lib/torch/x.py", line 9, in f\nE: no',
            "E: no (train.py line 7)",
        ),
        ('  File "/tmp/a/train.py", line 7, in main\n  File "train.py", line 31, in f\nE', "E (train.py line 31)"),
        ('  File "/lib/mytrain.py", line 7, in main\nE', "E"),
        ("no traceback", "no traceback"),
        ("", ""),
    ],
)
def test_the_newest_line_of_train_py_is_told(log: str, words: str) -> None:
    assert error_words(log) == words


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert peak_memory_mb(1 << 30) == 0
