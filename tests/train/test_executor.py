"""One training run under the parent's clock: every way to fail has its status, its reason, and leaves no process."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import psutil
import pytest
from toys import TINY_TRAIN_PY, with_main

from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.errors import BudgetError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train import executor as executor_module
from slm_ar.core.train import training_run
from slm_ar.core.train.device import Machine
from slm_ar.core.train.disturbance import Watch
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.files import last_line, log_tail
from slm_ar.core.train.training_run import TrainingRun, TrainJob

WORKS = TINY_TRAIN_PY.partition("def main():\n")[2].partition("\n\nif __name__")[0]
GOOD_MAIN = "\n".join(line.removeprefix("    ") for line in WORKS.split("\n"))


def job(
    train_py: str, *, seconds: float | None = None, startup: float = 100.0, memory_mb: float = 4000, seed: int = 0
) -> TrainJob:
    return TrainJob(train_py, seed, seconds, 6 if seconds is None else None, startup, memory_mb)


def finish(run: TrainingRun, limit: float = 120.0) -> TrainOutcome:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        outcome = run.poll(0.1)
        if outcome is not None:
            return outcome
    run.cancel()
    raise AssertionError(f"no outcome after {limit} s")


def outcome_of(executor: LocalExecutor, folder: Path, train_py: str, **limits: float) -> TrainOutcome:
    return finish(executor.submit(job(train_py, **limits), folder / "run"))  # type: ignore[arg-type]


def left_over(executor: LocalExecutor) -> list[str]:
    """Processes below the incubators of an executor, which are themselves."""
    found = []
    for incubator in executor._sandboxes._incubators.values():
        below = psutil.Process(incubator.pid).children(recursive=True) if incubator.is_alive else []
        found += [process for process in below if "slm_ar.core.train.incubator" not in " ".join(process.cmdline())]
        found += [process for process in below if process.cwd() != "/"]
    return [" ".join(process.cmdline()) for process in found if process.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run by the clock may save for as long as it takes: on a loaded machine a second is not enough."""
    monkeypatch.setattr(TrainJob, "wall_seconds", property(lambda self: 100.0))


# --- runs that work -------------------------------------------------------------------------


def test_a_run_by_steps_gives_a_checkpoint_that_is_scored(executor: LocalExecutor, tmp_path: Path) -> None:
    outcome = outcome_of(executor, tmp_path, TINY_TRAIN_PY)
    assert (outcome.status, outcome.reason) == (None, "")
    assert (outcome.steps, outcome.tokens) == (6, 6 * 256)
    assert outcome.parameters == 320 * 16 * 2 + 32 * 16
    assert 0 < outcome.train_seconds <= outcome.wall_seconds
    assert outcome.peak_memory_mb > 50
    assert 1 < executor.score(tmp_path / "run", "dev", 32).bits_per_byte < 9
    assert left_over(executor) == []


@pytest.mark.usefixtures("slow_disk")
@pytest.mark.parametrize(("seconds", "grace"), [(0.5, 0.0), (None, 0.5)])
def test_a_run_by_the_clock_ends_when_it_has_saved(
    executor: LocalExecutor, tmp_path: Path, seconds: float | None, grace: float
) -> None:
    """It could go on training in the time that was left to end, and exchange its checkpoint."""
    main = GOOD_MAIN.replace("run.save(model, config)", "run.save(model, config)\nimport time\ntime.sleep(600)")
    run = executor.submit(job(with_main(main), seconds=seconds), tmp_path / "run")
    outcome = finish(run)
    assert outcome.status is None
    assert run._saved is not None
    assert run._limit() == run._saved + grace


def test_equal_seeds_give_equal_scores_and_other_seeds_do_not(executor: LocalExecutor, tmp_path: Path) -> None:
    scores = []
    for seed in (0, 0, 1):
        assert finish(executor.submit(job(TINY_TRAIN_PY, seed=seed), tmp_path / "run")).status is None
        scores.append(executor.score(tmp_path / "run", "dev", 32).bits_per_byte)
    assert scores[0] == scores[1] != scores[2]


@pytest.mark.usefixtures("slow_disk")
def test_a_run_by_the_clock_ends_with_its_budget(executor: LocalExecutor, tmp_path: Path) -> None:
    outcome = outcome_of(executor, tmp_path, TINY_TRAIN_PY, seconds=0.6)
    assert outcome.status is None
    assert 0.4 < outcome.train_seconds < 90
    assert outcome.steps > 0


@pytest.mark.usefixtures("slow_disk")
def test_a_late_checkpoint_stamps_its_run(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there in time all the same; the stamp has the run repeated, and keeps it out of every claim."""
    monkeypatch.setattr(training_run, "LATE_SECONDS", -9.0)
    monkeypatch.setattr(training_run, "LATE_SHARE", -9.0)
    monkeypatch.setattr(Watch, "verdict", lambda self: "")
    outcome = outcome_of(executor, tmp_path, TINY_TRAIN_PY, seconds=0.6)
    assert outcome.status is None
    assert re.fullmatch(r"its checkpoint came -?\d\.\d s after the budget ended", outcome.disturbance)


@pytest.mark.usefixtures("slow_disk")
def test_a_run_by_the_clock_is_ended_before_anything_is_looked_at(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many processes and files make every look long, and until it is ended a run that has said "saved" trains on."""
    run = executor.submit(job(TINY_TRAIN_PY, seconds=0.6), tmp_path / "run")
    tick, trains_on = Watch.tick, []

    def look(watch: Watch) -> None:
        trains_on.append(run._saved is not None and run._child.ended is None)
        tick(watch)

    monkeypatch.setattr(Watch, "tick", look)
    assert finish(run).status is None
    assert trains_on and not any(trains_on)


@pytest.mark.parametrize(("budget", "saved", "is_late"), [(6, 6.24, False), (6, 6.3, True), (30, 30.5, False)])
def test_a_save_may_take_a_moment_or_a_share_of_the_budget(
    executor: LocalExecutor, tmp_path: Path, budget: float, saved: float, is_late: bool
) -> None:
    run = executor.submit(job(TINY_TRAIN_PY, seconds=budget), tmp_path / "run")
    run.cancel()
    run._started, run._saved = 100.0, 100.0 + saved
    assert bool(run._lateness()) is is_late


def test_a_printed_score_changes_nothing(executor: LocalExecutor, tmp_path: Path) -> None:
    lies = 'print("val_bpb: 0.0001")\nprint(\'{"event": "saved", "bits_per_byte": 0.0}\')\n'
    scores = []
    for main in (GOOD_MAIN, lies + GOOD_MAIN + '\n(run._folder / "score.json").write_text("{}")'):
        assert outcome_of(executor, tmp_path, with_main(main)).status is None
        scores.append(executor.score(tmp_path / "run", "dev", 32).bits_per_byte)
    assert scores[0] == scores[1]


def test_false_counts_and_nonsense_on_the_control_line_change_no_score(executor: LocalExecutor, tmp_path: Path) -> None:
    nonsense = (
        "run = runtime.connect()\n"
        'run._control.sendall(b\'not json\\n[1, 2]\\n"text"\\n{"event": 7}\\n\')\n'
        'run._control.sendall(b\'{"event": "progress", "steps": -5, "tokens": "many"}\\n{"event": "saved"}\\n\')\n'
    )
    outcome = outcome_of(executor, tmp_path, with_main(nonsense + GOOD_MAIN.replace("run = runtime.connect()", "")))
    assert outcome.status is None
    assert (outcome.steps, outcome.tokens) == (6, 6 * 256)


# --- runs that fail -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "status", "reason"),
    [
        ("raise ValueError('width 3 does not divide 7')", Status.CRASHED, "ValueError: width 3 does not divide 7"),
        ("run = runtime.connect()\nfor batch in run.batches(64, 16):\n    1 / 0", Status.CRASHED, "ZeroDivisionError"),
        ("pass", Status.CRASHED, "ended without asking for data"),
        ("run = runtime.connect()\nfor _ in run.batches(64, 16):\n    pass", Status.CRASHED, "without a checkpoint"),
        ("import sys\nsys.exit(7)", Status.CRASHED, "exit code 7"),
        ("import os\nos.abort()", Status.CRASHED, "-6"),
        ("raise MemoryError", Status.OOM, "out of memory: MemoryError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", Status.CRASHED, "killed from outside"),
    ],
)
def test_each_way_to_end_without_a_checkpoint_has_its_status(
    executor: LocalExecutor, tmp_path: Path, main: str, status: Status, reason: str
) -> None:
    outcome = outcome_of(executor, tmp_path, with_main(main))
    assert outcome.status is status
    assert reason in outcome.reason
    assert left_over(executor) == []


def test_a_syntax_error_names_itself(executor: LocalExecutor, tmp_path: Path) -> None:
    outcome = outcome_of(executor, tmp_path, "def main(:\n")
    assert outcome.status is Status.CRASHED
    assert "SyntaxError" in outcome.reason
    assert "def main(:" in outcome.log_tail


def test_a_hang_before_ready_is_a_timeout_of_the_start_up(executor: LocalExecutor, tmp_path: Path) -> None:
    outcome = outcome_of(executor, tmp_path, with_main("import time\ntime.sleep(600)"), startup=0.7)
    assert outcome.status is Status.TIMEOUT
    assert "start-up" in outcome.reason
    assert left_over(executor) == []


def test_a_run_that_ignores_its_budget_is_a_timeout_within_the_wall_limit(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    main = "import time\nrun = runtime.connect()\nfor _ in run.batches(64, 16):\n    time.sleep(600)"
    outcome = outcome_of(executor, tmp_path, with_main(main), seconds=0.5)
    assert outcome.status is Status.TIMEOUT
    assert "no complete checkpoint 1.5 s after the clock started" in outcome.reason
    assert outcome.train_seconds < 90


def test_signals_do_not_save_a_run_from_its_end(executor: LocalExecutor, tmp_path: Path) -> None:
    main = (
        "import signal, time\nfor number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
        "    signal.signal(number, signal.SIG_IGN)\ntime.sleep(600)"
    )
    assert outcome_of(executor, tmp_path, with_main(main), startup=0.7).status is Status.TIMEOUT
    assert left_over(executor) == []


def test_a_run_above_its_memory_is_out_of_memory(executor: LocalExecutor, tmp_path: Path) -> None:
    main = "import time\nheld = []\nwhile True:\n    held.append(b'x' * 20_000_000)\n    time.sleep(0.02)"
    outcome = outcome_of(executor, tmp_path, with_main(main), memory_mb=900)
    assert outcome.status is Status.OOM
    assert "the cap is 900 MB" in outcome.reason
    assert outcome.peak_memory_mb > 900
    assert left_over(executor) == []


def test_memory_is_counted_over_all_processes_of_a_run(executor: LocalExecutor, tmp_path: Path) -> None:
    main = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        held = b'x' * 250_000_000\n        time.sleep(600)\ntime.sleep(600)"
    )
    outcome = outcome_of(executor, tmp_path, with_main(main), memory_mb=700)
    assert outcome.status is Status.OOM
    assert left_over(executor) == []


def test_a_run_that_fills_the_disk_is_stopped(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "LARGEST_RUN_BYTES", 5_000_000)
    main = (
        "import pathlib, time\nfor number in range(100):\n"
        "    pathlib.Path(f'junk{number}').write_bytes(b'x' * 1_000_000)\n    time.sleep(0.02)"
    )
    assert outcome_of(executor, tmp_path, with_main(main)).status is Status.QUOTA


def test_a_run_is_stopped_when_the_disk_fills_up_around_it(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "FREE_DISK_BYTES", 1 << 60)
    outcome = outcome_of(executor, tmp_path, with_main("import time\ntime.sleep(600)"))
    assert outcome.status is Status.QUOTA
    assert "are free on the disk" in outcome.reason


def test_a_checkpoint_that_is_a_link_is_invalid(executor: LocalExecutor, tmp_path: Path) -> None:
    main = GOOD_MAIN.replace(
        "run.save(model, config)",
        "run.save(model, config)\nimport os, time\nos.rename('model.safetensors', 'other')\n"
        "os.symlink('other', 'model.safetensors')\ntime.sleep(1)",
    )
    outcome = outcome_of(executor, tmp_path, with_main(main))
    assert outcome.status is Status.INVALID
    assert "no regular file model.safetensors" in outcome.reason


def test_a_run_that_only_says_it_saved_is_invalid(executor: LocalExecutor, tmp_path: Path) -> None:
    main = GOOD_MAIN.replace("run.save(model, config)", 'run._control.sendall(b\'{"event": "saved"}\\n\')')
    outcome = outcome_of(executor, tmp_path, with_main(main))
    assert outcome.status is Status.INVALID


# --- what is left behind, and what is seen ---------------------------------------------------


def test_a_daemon_that_left_its_session_does_not_survive(executor: LocalExecutor, tmp_path: Path) -> None:
    daemon = (
        "import os, pathlib, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        pathlib.Path('daemon').write_text(str(os.getpid()))\n        time.sleep(600)\n    os._exit(0)\n"
        "while not pathlib.Path('daemon').exists():\n    time.sleep(0.01)\n"
    )
    outcome = outcome_of(executor, tmp_path, with_main(daemon + GOOD_MAIN))
    assert outcome.status is None
    assert (tmp_path / "run" / "daemon").exists()
    assert left_over(executor) == []


def test_cancel_ends_the_run_and_its_children(executor: LocalExecutor, tmp_path: Path) -> None:
    main = "import os, time\nos.fork()\nopen('here', 'w').close()\ntime.sleep(600)"
    run = executor.submit(job(with_main(main)), tmp_path / "run")
    deadline = time.monotonic() + 60
    while not (run._child.area.work / "here").exists() and time.monotonic() < deadline:
        run.poll(0.05)
    run.cancel()
    assert left_over(executor) == []


def test_a_run_sees_an_allow_listed_environment(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("SLM_AR_PRIVATE", str(tmp_path / "private"))
    main = (
        "import os, json, pathlib\nfacts = {'environment': dict(os.environ), 'folder': os.getcwd(),"
        " 'input': os.read(0, 1).decode()}\npathlib.Path('seen.json').write_text(json.dumps(facts))\n" + GOOD_MAIN
    )
    assert outcome_of(executor, tmp_path, with_main(main)).status is None
    seen = json.loads((tmp_path / "run" / "seen.json").read_text())
    assert "sk-secret" not in json.dumps(seen)
    assert str(tmp_path / "private") not in json.dumps(seen)
    assert str(executor.data.folder) not in json.dumps(seen)
    assert seen["environment"]["OMP_NUM_THREADS"] == "1"
    (home,) = {seen["environment"][name] for name in ("HOME", "TMPDIR", "HF_HOME")}
    assert Path(home).parent == executor._sandboxes._incubators["train"].area.tmps
    assert not Path(home).exists()
    assert seen["input"] == ""


def test_killing_the_train_process_from_outside_is_a_crash(executor: LocalExecutor, tmp_path: Path) -> None:
    main = "import time\nopen('here', 'w').close()\ntime.sleep(600)"
    run = executor.submit(job(with_main(main)), tmp_path / "run")
    while not (run._child.area.work / "here").exists():
        assert run.poll(0.05) is None
    os.kill(run._child.pid, signal.SIGKILL)
    outcome = finish(run)
    assert outcome.status is Status.CRASHED
    assert "killed from outside" in outcome.reason


def test_when_the_incubator_dies_the_run_is_invalid_and_the_next_one_works(
    machine: Machine, tiny_data: PreparedData, tmp_path: Path
) -> None:
    with LocalExecutor(machine, tiny_data) as own:
        run = own.submit(job(with_main("import time\nopen('here', 'w').close()\ntime.sleep(600)")), tmp_path / "run")
        while not (run._child.area.work / "here").exists():
            assert run.poll(0.05) is None
        incubator = own._sandboxes._incubators["train"]
        before = psutil.Process(incubator.pid).children(recursive=True)
        os.kill(incubator.pid, signal.SIGKILL)
        assert finish(run).status is Status.INVALID  # nobody swept: a process of the run may have been left
        assert psutil.wait_procs(before, timeout=60)[1] == []
        assert outcome_of(own, tmp_path, TINY_TRAIN_PY).status is None
        assert left_over(own) == []
        started = own._sandboxes._incubators["train"]
        assert started is not incubator
    assert not started.is_alive


def test_runs_need_free_disk(executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "FREE_DISK_BYTES", 1 << 60)
    with pytest.raises(BudgetError, match="are free on the disk"):
        executor.submit(job(TINY_TRAIN_PY), tmp_path / "run")


@pytest.mark.slow
def test_a_cold_start_gives_the_same_score_as_a_warm_one(
    executor: LocalExecutor, tiny_data: PreparedData, machine: Machine, tmp_path: Path
) -> None:
    """Where forking is not allowed (macOS, CUDA), every run is a fresh interpreter."""
    from dataclasses import replace

    warm = outcome_of(executor, tmp_path / "warm", TINY_TRAIN_PY)
    with LocalExecutor(replace(machine, mode="cold"), tiny_data) as cold_executor:
        cold = outcome_of(cold_executor, tmp_path / "cold", TINY_TRAIN_PY)
        cold_score = cold_executor.score(tmp_path / "cold" / "run", "dev", 32)
    assert warm.status is cold.status is None
    assert cold_score.bits_per_byte == executor.score(tmp_path / "warm" / "run", "dev", 32).bits_per_byte


# --- logs and locks -------------------------------------------------------------------------


def test_the_log_tail_is_short_and_has_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"x" * 9000 + b"\n\x1b[31mred\xff\x00 end\n\n")
    tail = log_tail(tmp_path)
    assert len(tail.encode()) <= 4200
    assert "\x1b" not in tail
    assert "\x00" not in tail
    assert last_line(tail).endswith("end")
    assert log_tail(tmp_path / "nowhere") == last_line("") == ""
