"""Runs `slm-ar` in processes of its own for the end-to-end tests, and reads what they left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.replay import replay
from slm_ar.core.agent.state import CampaignState

SCRIPT = str(Path(sys.executable).with_name("slm-ar"))


def start(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def call(folder: Path, environment: dict[str, str], *arguments: str, code: int = 0) -> tuple[str, str]:
    """(standard output, standard error) of one command that ends with `code`."""
    process = start(folder, environment, *arguments)
    try:
        out, error = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, (arguments, process.returncode, out[-2000:], error[-2000:])
    assert "Traceback" not in out + error
    return out, error


def state_of(workspace: Path) -> CampaignState:
    with Journal(workspace / ".slm", read_only=True) as journal:
        state = replay(journal.events)
    assert state is not None
    return state


def kinds_of(workspace: Path) -> list[str]:
    with Journal(workspace / ".slm", read_only=True) as journal:
        return [event.kind for event in journal.events]


def wait_for_events(workspace: Path, process: subprocess.Popen[str], count: int, seconds: float = 180) -> None:
    """Until the journal holds `count` events or the process has ended."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None:
        if (workspace / ".slm" / "journal.db").is_file() and len(events_of(workspace)) >= count:
            return
        time.sleep(0.02)


def events_of(workspace: Path) -> list[str]:
    try:
        return kinds_of(workspace)
    except Exception:  # not written yet
        return []


def kill(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """SIGKILL to the loop alone; returns its descendants, which have to end by themselves."""
    try:
        descendants = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        descendants = []
    process.kill()
    process.communicate()
    return descendants


def survivors(processes: list[psutil.Process], seconds: float = 60) -> list[psutil.Process]:
    return list(psutil.wait_procs(processes, timeout=seconds)[1])


def processes_of(private: Path, workspace: Path, seconds: float = 60) -> list[str]:
    """Processes that work for this campaign and do not end within `seconds`."""
    limit = time.monotonic() + seconds
    while found := _processes(private, workspace):
        if time.monotonic() > limit:
            return found
        time.sleep(0.05)
    return []


def _processes(private: Path, workspace: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            is_ours = process.environ().get("SLM_AR_TEST_MARK") == str(private)
            if is_ours or process.cwd().startswith(str(workspace)):
                found.append(f"{process.pid} {' '.join(process.cmdline())}")
        except psutil.Error:
            continue
    return found


def judged_history(workspace: Path) -> dict[str, Any]:
    """What a kill must not change: scores, verdicts, heads. Times, run numbers and repeated attempts may differ."""
    state = state_of(workspace)
    return {
        "sigma": state.sigma,
        "calibration": [run.dev.bits_per_byte for run in state.runs if run.role == "calibrate" and run.dev],
        "experiments": [
            (item.id, item.revision, item.parent, item.status, item.dev_score, item.head_score)
            for item in state.experiments
        ],
        "claims": [
            (claim.rung, claim.head, claim.alpha, claim.verdict.decision, claim.verdict.pairs, claim.private)
            for claim in state.claims
            if claim.verdict is not None
        ],
        "head": state.head,
        "rung": state.rung,
        "open": state.open_run,
    }


def hidden_numbers(private: Path, *splits: str) -> set[str]:
    """The digits of every number that must not be shown: scores of hidden and test, differences of claims."""
    numbers: set[float] = set()
    for path in (private / "scores").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        for split in splits:
            if split in record:
                numbers.add(record[split]["bits_per_byte"])
                numbers.update(group[1] for group in record[split]["groups"])
        numbers.update(record.get("pair_deltas", []))
        numbers.update(value for name, value in record.get("verdict", {}).items() if name in ("delta", "threshold"))
    return {f"{abs(number):.17g}"[:8] for number in numbers if len(f"{abs(number):.17g}") > 8}
