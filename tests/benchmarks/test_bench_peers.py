"""A peer is any command: what it prints is believed only where it is a number of bits per byte."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import peer
from benchmarks.common import ROOT, Run, Settings, prepared, private_in, workspace_of
from benchmarks.quality import lines, summary, write_texts


def asked(tmp_path: Path, code: str, seconds: float = 1.0) -> Run:
    """What a peer of this code gives."""
    train, dev = tmp_path / "train.txt", tmp_path / "dev.txt"
    train.write_text("abc " * 10, encoding="utf-8")
    dev.write_text("abd ", encoding="utf-8")
    _, command = peer.named(f"fake={shlex.join([sys.executable, '-c', code])}")
    return peer.run(command, train, dev, seconds, 7, {"OMP_NUM_THREADS": "1"})


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_peer_gets_both_files_the_seconds_the_threads_and_a_seed(tmp_path: Path) -> None:
    seen = tmp_path / "seen.json"
    code = (
        "import json, os, sys; train, dev, seconds = sys.argv[1:]; names = ('SEED', 'OMP_NUM_THREADS')\n"
        f"facts = [open(train).read()[:3], open(dev).read(), seconds, *(os.environ[name] for name in names)]\n"
        f"open({str(seen)!r}, 'w').write(json.dumps(facts)); print('training'); print(1.25)"
    )
    assert asked(tmp_path, code)["bpb"] == 1.25
    assert json.loads(seen.read_text(encoding="utf-8")) == ["abc", "abd ", "1", "7", "1"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; print(1.0); sys.exit('no memory')", "it ended with exit code 1: no memory"),
        ("import os; os.kill(os.getpid(), 9)", "it ended with signal 9"),
        ("print('1.5 bits')", "its last line is no number: '1.5 bits'"),
        ("print(float('nan'))", "nan is no number of bits per byte"),
        ("print('inf')", "inf is no number of bits per byte"),
        ("print(-1)", "-1 is no number of bits per byte"),
        ("pass", "it printed nothing"),
    ],
)
def test_a_peer_that_misbehaves_is_told_in_plain_words(code: str, words: str, tmp_path: Path) -> None:
    found = asked(tmp_path, code)
    assert words in found["failure"] and "bpb" not in found


def test_a_peer_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = peer.run(["/nowhere/peer"], tmp_path, tmp_path, 1.0, 0, {})
    assert "it cannot be started" in found["failure"] and "/nowhere/peer" in found["failure"]


def test_a_peer_that_is_too_late_is_ended_with_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "SLACK_SECONDS", 3.0)
    left = tmp_path / "pid"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(left)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    assert "it had not ended" in asked(tmp_path, code)["failure"]
    if left.exists():
        child = int(left.read_text(encoding="utf-8"))
        deadline = time.monotonic() + 60  # it was sent the signal; to be gone takes a moment that nobody waits for
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_process_that_outlives_its_peer_keeps_nobody_waiting(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(2)"
    assert asked(tmp_path, code)["bpb"] == 2.0


def test_a_benchmark_that_is_told_to_end_takes_its_peer_along(tmp_path: Path) -> None:
    left = tmp_path / "pid"
    sleeper = f"import os, time; open({str(left)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import sys; from pathlib import Path; from benchmarks import __main__, peer\n"
        f"__main__.end_as_by_ctrl_c(); peer.run([sys.executable, '-c', {sleeper!r}], Path(), Path(), 1.0, 0, {{}})"
    )
    bench = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not left.exists() or not left.read_text(encoding="utf-8"):
        assert bench.poll() is None
        time.sleep(0.05)
    bench.terminate()
    _, error = bench.communicate(timeout=60)
    assert bench.returncode and error.rstrip().endswith("KeyboardInterrupt")
    assert not psutil.pid_exists(int(left.read_text(encoding="utf-8")))


def test_names_of_peers() -> None:
    assert peer.named("python x.py --rate=3") == ("peer", ["python", "x.py", "--rate=3"])
    assert peer.named("d2-tuned=python 'x y.py'") == ("d2-tuned", ["python", "x y.py"])


def test_the_ratio_is_of_seeds_that_both_have_and_a_failure_stands_in_the_table() -> None:
    runs: list[Run] = [
        {"key": f"{who} {seed}", "bpb": bpb, "void": "", "load": 0.0}
        for seed in range(2)
        for who, bpb in (("slm-ar", 1.0), ("d2", 1.25))
    ]
    runs.append({"key": "slm-ar 2", "bpb": 9.0, "void": "", "load": 0.0})
    found = summary(runs)
    assert found["d2"]["ours_to_it"] == {"ratio": 0.8, "pairs": 2, "low": 0.8, "high": 0.8}
    assert found["slm-ar"]["seeds"] == 3
    asked = {"text": "a text", "seconds": 60, "changes": {}, "constants": {"FORM": "best"}}
    facts = {"threads": 2, "precision": "float32", "train_bytes": 10, "dev_bytes": 10, "floors": {"ppmd-6": 2.0}}
    broken: Run = {"key": "other 0", "failure": "it ended with exit code 1: no memory", "void": ""}
    shown = "\n".join(lines({"asked": asked, "facts": facts, "summary": found, "runs": [*runs, broken]}))
    assert "| d2 | 1.2500 ± 0 | 2 | 0.800 (0.800 to 0.800) |" in shown
    assert "with FORM = best" in shown and "| ppmd-6 | 2.0000 |  | 1.833 |" in shown
    assert "No figure of other: it ended with exit code 1: no memory." in shown


def test_a_model_judged_with_the_n_gram_is_shown_without_it_too() -> None:
    runs: list[Run] = [
        {"key": "slm-ar 0", "bpb": 1.0, "bpb_alone": 1.5, "void": "", "load": 0.0},
        {"key": "d2 0", "bpb": 2.0, "void": "", "load": 0.0},
    ]
    found = summary(runs)
    assert found["d2"]["ours_to_it"]["ratio"] == 0.5 and found["d2"]["alone_to_it"]["ratio"] == 0.75
    asked = {"text": "a text", "seconds": 60, "changes": {}, "constants": {}}
    facts = {"threads": 2, "precision": "float32", "train_bytes": 10, "dev_bytes": 10, "floors": {"ppmd-6": 2.0}}
    shown = lines({"asked": asked, "facts": facts, "summary": found, "runs": runs})
    assert "| slm-ar without the n-gram | 1.5000 | 1 |  |  |" in shown
    assert (
        any(line.startswith("| d2 | 2.0000 | 1 | 0.500") and "| 0.750" in line for line in shown)
        and "| ppmd-6 | 2.0000 |  | 0.500 | 0.750 |" in shown
    )


def test_dev_is_the_end_of_the_text_and_train_nearly_all_before(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {number} of a text of four hundred thousand bytes\n" for number in range(8000)))
    folder = tmp_path / "part"
    folder.mkdir()
    workspace = workspace_of(Settings(text=text, held_kb=40, changes={"tokenizer.vocab_size": 300}), folder)
    with private_in(tmp_path):
        data = prepared(workspace, folder)
        train, dev = (file.read_text(encoding="utf-8") for file in write_texts(folder, data))
    splits = data.manifest.splits
    assert splits["dev"].byte_count > 30_000 and splits["hidden"].byte_count + splits["test"].byte_count < 10_000
    assert len(train) > 0.8 * text.stat().st_size
    numbers = [[int(line.split()[1]) for line in part.splitlines()] for part in (train, dev)]
    assert max(numbers[0]) < min(numbers[1]) and max(numbers[1]) > 7_700
