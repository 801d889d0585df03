"""A run that stands still for a look: nothing of it computes, its time is not training time, and no trick pays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from test_executor import GOOD_MAIN, left_over
from toys import with_main

from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.train import disturbance, pause, training_run
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.pause import copy_snapshot, freeze
from slm_ar.core.train.preview import SAMPLE_BYTES, preview_score, sample_of
from slm_ar.core.train.runtime import Run
from slm_ar.core.train.training_run import Snapshot, TrainingRun, TrainJob

SHARES = (0.125, 0.25)
SHOWN_MAIN = GOOD_MAIN.replace(
    "run.batches(BATCH_TOKENS, CONTEXT)", "run.batches(BATCH_TOKENS, CONTEXT, model, config)"
)
SHOWN = with_main(SHOWN_MAIN)
BY_HAND = (
    "run = runtime.connect()\nfor batch in run.batches(64, 16):\n    break\n"
    'def show():\n    run._control.sendall(b\'{"event": "snapshot"}\\n\')\n    run._control.recv(4096)\n'
)
"""A run that asks for looks as it likes."""


def job(train_py: str, seconds: float | None = None, shares: tuple[float, ...] = SHARES) -> TrainJob:
    return TrainJob(train_py, 0, seconds, 16 if seconds is None else None, 60.0, 4000, shares)


def finish(
    run: TrainingRun, look: Callable[[Snapshot], str] = lambda snapshot: "", limit: float = 180.0
) -> TrainOutcome:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        outcome = run.poll(0.1)
        if outcome is not None:
            return outcome
        if run.snapshot is not None:
            reason = look(run.snapshot)
            run.prune(reason) if reason else run.go_on()
    run.cancel()
    raise AssertionError(f"no outcome after {limit} s")


# --- runs that behave -----------------------------------------------------------------------


def test_a_run_shows_its_model_twice_and_ends_like_one_that_did_not(executor: LocalExecutor, tmp_path: Path) -> None:
    looks: list[tuple[float, float | None]] = []

    def look(snapshot: Snapshot) -> str:
        looks.append((snapshot.share, preview_score(executor, snapshot.folder, 32)))
        return ""

    outcome = finish(executor.submit(job(SHOWN), tmp_path / "run"), look)
    assert (outcome.status, outcome.steps) == (None, 16)
    assert [share for share, _ in looks] == [0.125, 0.25]
    assert all(score is not None and 1 < score < 9 for _, score in looks)
    assert looks[1][1] < looks[0][1]  # type: ignore[operator]
    shown = executor.score(tmp_path / "run", "dev", 32).bits_per_byte
    assert finish(executor.submit(job(SHOWN, shares=()), tmp_path / "run")).status is None
    assert shown == executor.score(tmp_path / "run", "dev", 32).bits_per_byte
    assert [path.name for path in tmp_path.rglob("*snapshot*")] == []
    assert left_over(executor) == []


def test_a_train_py_that_shows_nothing_is_never_looked_at(executor: LocalExecutor, tmp_path: Path) -> None:
    looks: list[Snapshot] = []
    outcome = finish(executor.submit(job(with_main(GOOD_MAIN)), tmp_path / "run"), lambda s: str(looks.append(s) or ""))
    assert (outcome.status, looks) == (None, [])


def test_a_hopeless_run_ends_where_it_stands(executor: LocalExecutor, tmp_path: Path) -> None:
    outcome = finish(executor.submit(job(SHOWN), tmp_path / "run"), lambda s: "hopeless" if s.share == 0.25 else "")
    assert (outcome.status, outcome.reason) == (Status.PRUNED, "hopeless")
    assert outcome.steps < 16
    assert left_over(executor) == []
    assert not (tmp_path / "run-snapshot").exists()


def test_the_time_that_a_run_stands_still_is_not_training_time(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two looks take longer together than the whole budget."""
    monkeypatch.setattr(training_run, "LATEST_SHARE", 1.0)
    monkeypatch.setattr(TrainJob, "wall_seconds", property(lambda self: 60.0))  # a loaded machine saves late

    def look(snapshot: Snapshot) -> str:
        time.sleep(1.6)
        return ""

    outcome = finish(executor.submit(job(SHOWN, 2.0), tmp_path / "run"), look)
    assert outcome.status is None
    assert outcome.train_seconds < outcome.wall_seconds - 3.2
    assert "stopped for" not in outcome.disturbance, "the gap is the harness's own"


def test_the_time_of_a_run_that_is_ended_counts_up_to_the_stop(executor: LocalExecutor, tmp_path: Path) -> None:
    def look(snapshot: Snapshot) -> str:
        time.sleep(1.5)
        return "hopeless"

    outcome = finish(executor.submit(job(SHOWN), tmp_path / "run"), look)
    assert outcome.train_seconds < outcome.wall_seconds - 1.5


def test_nobody_answers_and_the_run_goes_on(executor: LocalExecutor, tmp_path: Path) -> None:
    run = executor.submit(job(SHOWN), tmp_path / "run")
    seen = 0
    while (outcome := run.poll(0.1)) is None:
        seen += run.snapshot is not None
    assert (outcome.status, outcome.steps, seen) == (None, 16, 2)


def test_a_run_that_is_cancelled_while_it_stands_leaves_nothing(executor: LocalExecutor, tmp_path: Path) -> None:
    run = executor.submit(job(SHOWN), tmp_path / "run")
    while run.snapshot is None:
        assert run.poll(0.1) is None
    assert run.snapshot.folder.is_dir()
    run.cancel()
    assert left_over(executor) == []
    assert not (tmp_path / "run-snapshot").exists()


# --- runs that do not -----------------------------------------------------------------------

CONFIG = "\nopen('snapshot.json', 'w').write('{}')\nshow()"
TRICKS = {
    "pipe": "import os\nos.mkfifo('snapshot.safetensors')" + CONFIG,
    "link": "import os\nos.symlink('/etc/hostname', 'snapshot.safetensors')" + CONFIG,
    "folder": "import os\nos.mkdir('snapshot.safetensors')" + CONFIG,
    "pickle": "import pickle\npickle.dump([1], open('snapshot.safetensors', 'wb'))" + CONFIG,
    "nothing": "show()",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_snapshot_that_is_none_is_passed_over(executor: LocalExecutor, tmp_path: Path, trick: str) -> None:
    looks: list[Snapshot] = []
    ending = "\nmodel = build_model({'vocab_size': run.vocab_size, 'width': 16})\n"
    ending += "run.save(model, {'vocab_size': run.vocab_size, 'width': 16})\n"
    run = executor.submit(job(with_main(BY_HAND + TRICKS[trick] + ending)), tmp_path / "run")
    outcome = finish(run, lambda s: str(looks.append(s) or ""))
    assert (outcome.status, looks) == (None, [])
    assert left_over(executor) == []


def test_a_model_that_cannot_be_built_has_no_number_and_the_run_goes_on(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    scores: list[float | None] = []

    def look(snapshot: Snapshot) -> str:
        scores.append(preview_score(executor, snapshot.folder, 32))
        return ""

    main = SHOWN_MAIN.replace("CONTEXT, model, config)", "CONTEXT, model, {'width': 3})")
    assert finish(executor.submit(job(with_main(main)), tmp_path / "run"), look).status is None
    assert scores == [None, None]


def test_more_looks_than_were_asked_for_change_nothing(executor: LocalExecutor, tmp_path: Path) -> None:
    """They are not even answered: a harness that writes to a full socket would stand still itself."""
    many = '\nfor _ in range(20000):\n    run._control.sendall(b\'{"event": "snapshot"}\\n\')\nimport sys\nsys.exit(3)'
    outcome = finish(executor.submit(job(with_main(BY_HAND + many)), tmp_path / "run"))
    assert outcome.status is Status.CRASHED


def test_a_snapshot_at_another_time_is_not_looked_at(executor: LocalExecutor, tmp_path: Path) -> None:
    run = executor.submit(job(SHOWN, 8000.0), tmp_path / "run")
    run.cancel()
    run._started = time.monotonic()
    assert not run._is_on_time(0.125), "too early"
    run._started -= 1100
    assert run._is_on_time(0.125)
    run._started -= 1000
    assert not run._is_on_time(0.125), "too late"


def test_a_run_that_stops_answering_after_a_look_is_a_timeout(executor: LocalExecutor, tmp_path: Path) -> None:
    main = SHOWN_MAIN.replace("run = runtime.connect()", "run = runtime.connect()\nrun._show = lambda *_: sleep()")
    main = (
        'import time\ndef sleep():\n    run._control.sendall(b\'{"event": "snapshot"}\\n\')\n    time.sleep(600)\n'
        + main
    )
    outcome = finish(executor.submit(job(with_main(main), 0.8), tmp_path / "run"))
    assert outcome.status is Status.TIMEOUT
    assert left_over(executor) == []


def test_a_process_that_was_woken_makes_the_run_invalid(executor: LocalExecutor, tmp_path: Path) -> None:
    """As if a signal from somewhere had set it going again."""
    busy = "import os\nif os.fork() == 0:\n    os.setsid()\n    while True:\n        pass\n"

    def look(snapshot: Snapshot) -> str:
        assert run._frozen is not None
        for process in run._frozen.parent.children(recursive=True):
            if process.pid != run._child.pid:
                process.send_signal(signal.SIGCONT)
        time.sleep(1.0)
        return ""

    run = executor.submit(job(with_main(busy + SHOWN_MAIN)), tmp_path / "run")
    outcome = finish(run, look)
    assert outcome.status is Status.INVALID
    assert "while it was stopped for a look" in outcome.reason
    assert 0 <= outcome.train_seconds < outcome.wall_seconds
    assert left_over(executor) == []


WAKES_ITSELF = """
import ctypes, os, signal

class Event(ctypes.Structure):
    _fields_ = [("value", ctypes.c_uint64), ("signal", ctypes.c_int), ("how", ctypes.c_int), ("", ctypes.c_char * 48)]

class Spec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("every", "every_ns", "first", "first_ns")]

def woken(*_):
    if os.path.exists("looking"):
        if os.fork() == 0:
            sum(range(3_000_000))
            os._exit(0)
        os.kill(os.getpid(), signal.SIGSTOP)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGCONT, woken)
libc, timer = ctypes.CDLL(None), ctypes.c_void_p()
assert libc.timer_create(1, ctypes.byref(Event(0, signal.SIGCONT, 0, b"")), ctypes.byref(timer)) == 0
every = 300_000_000
assert libc.timer_settime(timer, 0, ctypes.byref(Spec(0, every, 0, every)), None) == 0
"""
"""The system wakes the stopped process; its worker leaves no trace, and it stops itself again before anybody looks."""


@pytest.mark.skipif(sys.platform != "linux", reason="timers that wake a stopped process are Linux's")
def test_a_run_that_wakes_itself_is_invalid(executor: LocalExecutor, tmp_path: Path) -> None:
    def look(snapshot: Snapshot) -> str:
        time.sleep(2.0)
        return ""

    main = SHOWN_MAIN.replace("for batch in run.batches", 'open("looking", "w").close()\nfor batch in run.batches')
    outcome = finish(executor.submit(job(with_main(WAKES_ITSELF + main)), tmp_path / "run"), look)
    assert outcome.status is Status.INVALID
    assert outcome.reason.endswith("while it was stopped for a look")


def test_a_daemon_and_its_threads_are_stopped_with_the_run(executor: LocalExecutor, tmp_path: Path) -> None:
    busy = (
        "import os, threading\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        def turn():\n            while True:\n                pass\n"
        "        threading.Thread(target=turn).start()\n        turn()\n    os._exit(0)\n"
    )
    looks: list[int] = []

    def look(snapshot: Snapshot) -> str:
        assert run._frozen is not None
        looks.append(len(run._frozen.parent.children(recursive=True)))
        time.sleep(0.5)
        assert run._frozen.trespass() == ""
        return ""

    run = executor.submit(job(with_main(busy + SHOWN_MAIN)), tmp_path / "run")
    assert finish(run, look).status is None
    assert len(looks) == 2 and min(looks) >= 2
    assert left_over(executor) == []


def test_a_run_that_cannot_be_stopped_is_invalid(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "freeze", lambda pid: None)
    outcome = finish(executor.submit(job(SHOWN), tmp_path / "run"))
    assert outcome.status is Status.INVALID
    assert "could not be stopped" in outcome.reason


def test_a_process_that_is_born_during_the_stop_is_noticed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time\ntime.sleep(60)"])
    try:
        own = psutil.Process()
        frozen = pause.Frozen(own, frozenset(), {})
        assert "appeared" in frozen.trespass()
    finally:
        child.kill()
        child.wait()
    assert freeze(1 << 30) is None


def test_a_harness_that_is_killed_leaves_no_stopped_process(tmp_path: Path) -> None:
    """What a kill -9 in the middle of a look would otherwise leave behind for ever."""
    harness = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from toys import ToyAdapter, toy_machine, toy_recipe, with_main
        from slm_ar.core.prepare.pipeline import prepare
        from slm_ar.core.train.executor import LocalExecutor
        from slm_ar.core.train.training_run import TrainJob
        base = Path({str(tmp_path)!r})
        (base / "source").mkdir()
        (base / "source" / "any.txt").write_text("x")
        data = prepare(toy_recipe(), ToyAdapter(), base / "source", base / "data", lambda line: None)
        with LocalExecutor(toy_machine(), data) as executor:
            run = executor.submit(TrainJob({SHOWN!r}, 0, None, 16, 60.0, 4000, (0.25,)), base / "run")
            while run.snapshot is None:
                assert run.poll(0.1) is None
            print(*[process.pid for process in run._frozen.parent.children(recursive=True)], flush=True)
            time.sleep(600)
    """)
    environment = {**os.environ, "SLM_AR_PRIVATE": str(tmp_path / "private")}
    process = subprocess.Popen([sys.executable, "-c", harness], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert pids and all(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids)
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.05)
    assert not any(psutil.pid_exists(pid) for pid in pids)


# --- train.py's side, and the watch over the machine ------------------------------------------


def test_train_py_shows_its_model_between_two_steps_and_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"seed": 0, "vocab_size": 9, "token_count": 64, "token_dtype": "uint16", "bytes_per_token": 2.0}
    facts |= {
        "token_texts": list("abcdefghi"),
        "device": "cpu",
        "precision": "float32",
        "form": "portable",
        "budget_seconds": None,
        "budget_steps": 8,
    }
    ours, theirs = socket.socketpair()
    run = Run(facts, theirs, tmp_path)
    (tmp_path / "tokens").write_bytes(b"\0" * 128)
    heard: list[dict[str, object]] = []

    def harness() -> None:
        with ours, ours.makefile() as lines, (tmp_path / "tokens").open("rb") as tokens:
            for line in lines:
                heard.append(message := json.loads(line))
                if message["event"] == "ready":
                    go = {"event": "go", "deadline": None, "snapshots": SHARES}
                    socket.send_fds(ours, [json.dumps(go).encode()], [tokens.fileno()])
                elif message["event"] == "snapshot":
                    heard[-1]["steps"] = run._steps
                    heard[-1]["files"] = sorted(path.name for path in tmp_path.glob("snapshot*"))
                    ours.sendall(json.dumps({"event": "go", "deadline": None, "paused": 0.5}).encode())

    helper = threading.Thread(target=harness)
    helper.start()
    progress = [batch.progress for batch in run.batches(8, 4, torch.nn.Linear(2, 2), {"context": 4})]
    theirs.close()
    helper.join()
    files = ["snapshot.json", "snapshot.safetensors"]
    shown = [message for message in heard if message["event"] == "snapshot"]
    assert shown == [{"event": "snapshot", "steps": steps, "files": files} for steps in (1, 2)]
    assert progress == [step / 8 for step in range(8)], "every step is taken once"


def test_what_happens_while_a_run_stands_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy = [100.0], [0.0]
    monkeypatch.setattr(disturbance.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(disturbance, "_machine_busy_seconds", lambda: busy[0])
    monkeypatch.setattr(disturbance, "_sleep_seconds", lambda: 0.0)
    monkeypatch.setattr(disturbance, "usable_cores", lambda: {0, 1})
    verdicts = []
    for is_standing in (True, False):
        watch = disturbance.Watch([])
        clock[0] += 2.0
        if is_standing:
            watch.rest()
        clock[0] += 20.0  # the look, with all cores at work
        busy[0] += 40.0
        if is_standing:
            watch.go_on()
        clock[0] += 2.0
        verdicts.append(watch.verdict())
    assert verdicts == ["", "other programs used 1.7 of 2 cores"]


# --- the sample and the copy ----------------------------------------------------------------


def test_the_sample_is_small_the_same_each_time_and_from_many_documents(executor: LocalExecutor) -> None:
    from slm_ar.core.prepare.heldout import read_split

    documents = list(read_split(executor.data.held_folder, "dev"))
    chosen = sample_of(documents)
    assert chosen == sample_of(documents[::-1])
    size = sum(len(held.document.text.encode()) for held in chosen)
    assert 0 < size < SAMPLE_BYTES + 16_384
    assert len({held.document.id for held in chosen}) == len(chosen)


def test_a_copy_goes_no_further_than_the_caps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "snapshot.safetensors").write_bytes(b"x" * 100)
    (work / "snapshot.json").write_bytes(b"{" + b" " * (2 << 20) + b"}")
    assert "at most 1,048,576 are read" in copy_snapshot(work, tmp_path / "copy", "code")
    (work / "snapshot.json").write_text("{}")
    assert "header" in copy_snapshot(work, tmp_path / "copy", "code")
    (work / "snapshot.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(pause, "LARGEST_CHECKPOINT_BYTES", 99)
    assert "has 100 bytes, at most 99 are read" in copy_snapshot(work, tmp_path / "copy", "code")
    assert not (tmp_path / "copy" / "model.safetensors").exists()
