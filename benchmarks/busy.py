"""The training rate beside another busy program, with slm-ar's settings and torch's: B7, a part of `make bench`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from slm_ar.core.agent.running import watched
from slm_ar.core.contracts import Status
from slm_ar.core.environment import usable_cores
from slm_ar.core.errors import TrainingError
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train.device import probe_machine

from .common import (
    Opened,
    Quiet,
    Run,
    Settings,
    city_workspace,
    clocked_job,
    executor_for,
    interval_of_ratio,
    many,
    median_of,
    prepared,
    ratio_words,
    significant,
)

LABEL = "B7"
TITLE = "Beside a busy program"
WHAT = (
    "Tokens per second of wall time of the shipped train.py on the synthetic city, alone and beside one process that "
    "computes without end; with threads and spinning as the probe of slm-ar sets them, and with as many threads as "
    "there are cores and nothing else set, which is torch's default. Target: the settings of slm-ar lose at most 55 % "
    "of their idle rate (0.45 is left)."
)
SETTINGS, PLACES = ("slm-ar", "torch"), ("idle", "busy")


def name(settings: Settings) -> str:
    return "busy"


def asked(settings: Settings) -> dict[str, Any]:
    return {"seconds": 0.5 if settings.is_quick else 8.0}


def keys(settings: Settings) -> list[str]:
    return [
        f"{who} {place} {number}" for number in range(min(3, settings.seeds)) for place in PLACES for who in SETTINGS
    ]


def seconds(settings: Settings) -> float:
    return 30 + len(keys(settings)) * (float(asked(settings)["seconds"]) + 1.5)


@contextmanager
def opened(settings: Settings, folder: Path) -> Iterator[Opened]:
    workspace = city_workspace(folder, {"machine.device": "cpu"})
    data = prepared(workspace, folder)
    ours = probe_machine("cpu", "auto", "auto")
    machines = {"slm-ar": ours, "torch": replace(ours, threads=len(usable_cores()), spin_count=None)}
    with ExitStack() as stack:
        executors = {
            who: stack.enter_context(executor_for(workspace, data, machine)) for who, machine in machines.items()
        }

        def measure(key: str) -> Run:
            who, place, seed = key.split()
            job = clocked_job(workspace, ours, int(seed), asked(settings)["seconds"])
            with busy_process() if place == "busy" else nullcontext():
                quiet = Quiet()
                outcome = watched(executors[who], job, folder / "run", QuietDisplay(), "")
                verdict = quiet.verdict()
            if outcome.status not in (None, Status.TIMEOUT):  # one that crawls may be late, and its rate is the finding
                raise TrainingError(f"a run gave no rate: {outcome.status}: {outcome.reason}", "mend train.py")
            rate = significant(outcome.tokens / outcome.train_seconds) if outcome.train_seconds else 0.0
            return {"tokens_per_second": rate, "ended": outcome.status or "in time", "void": verdict}

        for who in SETTINGS:  # the first run of a command hatches its processes
            measure(f"{who} idle 0")
        shown = {who: {"threads": machine.threads, "spin": machine.spin_count} for who, machine in machines.items()}
        yield Opened({"precision": ours.precision, "settings": shown, "probe": ours.probe}, measure)


@contextmanager
def busy_process() -> Iterator[None]:
    """One process that computes without end, as long as this lasts."""
    process = subprocess.Popen([sys.executable, "-E", "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    rates = {run["key"]: run["tokens_per_second"] for run in runs}
    rounds = sorted({key.split()[2] for key in rates})
    found: dict[str, Any] = {}
    for who in SETTINGS:
        pairs = [(rates.get(f"{who} busy {n}"), rates.get(f"{who} idle {n}")) for n in rounds]
        whole = [(busy, idle) for busy, idle in pairs if busy is not None and idle]
        found[who] = {
            place: median_of([run for run in runs if run["key"].startswith(f"{who} {place} ")], "tokens_per_second")
            for place in PLACES
        }
        if all(busy for busy, _ in whole):  # a rate of nothing has no logarithm
            found[who]["left"] = interval_of_ratio([busy for busy, _ in whole], [idle for _, idle in whole])
        else:
            found[who]["left"] = {"ratio": 0.0, "pairs": len(whole)}
    return found


def lines(record: Mapping[str, Any]) -> list[str]:
    shown = ["| settings | idle, tokens/s | beside one busy process | left of the idle rate (95 % interval) |"]
    shown.append("| --- | --- | --- | --- |")
    for who, item in record["summary"].items():
        set_to = record["facts"]["settings"][who]
        threads = many(set_to["threads"], "thread")
        spin = f", spin count {set_to['spin']}" if set_to["spin"] is not None else ""
        if item["idle"] is not None and item["busy"] is not None:
            rates = f"{item['idle']:,.0f} | {item['busy']:,.0f}"
            shown.append(f"| {who}: {threads}{spin} | {rates} | {ratio_words(item['left'])} |")
    return shown
