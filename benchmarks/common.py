"""What the measurements share: facts of the machine, whether it was quiet, files, a workspace, a training run.

Used by every module of this folder. Promises: a result says on which machine, versions, code and load it was measured;
a file is written whole or not at all; nothing private of a measurement outlives its folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import psutil

from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.agent.opening import train_job
from slm_ar.core.agent.running import watched
from slm_ar.core.cli.workspace import Workspace, create_workspace, fit_size
from slm_ar.core.contracts import TrainOutcome
from slm_ar.core.environment import usable_cores
from slm_ar.core.errors import TrainingError, UsageError
from slm_ar.core.prepare.pipeline import PreparedData, prepare
from slm_ar.core.registry import load_adapter
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train import disturbance
from slm_ar.core.train.device import Machine
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.training_run import TrainJob

ROOT = Path(__file__).parents[1]
CODE_FOLDERS = ("core", "adapters", "program_templates", "recipes", "benchmarks")
LIBRARIES = ("torch", "numpy", "tokenizers", "safetensors", "pyppmd", "slm-ar")
Run = dict[str, Any]
"""One measurement: its `key`, its figures, and `void`, why it does not count (empty when it does)."""


# --- one part of `make bench` -------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What a person asks of `make bench`."""

    text: Path | None = None
    """The synthetic city where there is none."""
    seconds: float = 10.0
    """Training time of one run of `quality` and `pruning`."""
    seeds: int = 5
    """Runs, or rounds, of every part."""
    held_kb: int = 200
    peers: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Recipe key -> value."""
    constants: Mapping[str, str] = field(default_factory=dict)
    """Constant of train.py -> its new value, as it is written there."""
    is_quick: bool = False
    """Everything in seconds, to see that it works; the figures say nothing."""

    @property
    def text_name(self) -> str:
        """Of the text and of what is changed, for the names of files."""
        changed = [f"{key}={value}" for key, value in {**self.changes, **self.constants}.items()]
        words = [self.text.name.split(".")[0] if self.text else "city", *changed]
        return "".join(letter if letter.isalnum() or letter in "=._-" else "_" for letter in "-".join(words))


class Bench(Protocol):
    """An opened part, ready to measure."""

    facts: Mapping[str, Any]
    """What holds for all its runs."""

    def measure(self, key: str) -> Run:
        """One run. Raises SlmArError where going on makes no sense; `failure` in the run says why it has no figure."""
        ...


class Part(Protocol):
    """A module that `make bench` runs: resumable, void and written in one way for all."""

    LABEL: str
    """Its numbers among the benchmarks, such as B4."""
    TITLE: str
    WHAT: str
    """What is measured, in Markdown."""

    def name(self, settings: Settings) -> str:
        """Of its result file."""
        ...

    def asked(self, settings: Settings) -> dict[str, Any]:
        """What of the settings its figures depend on: other values start afresh."""
        ...

    def keys(self, settings: Settings) -> list[str]:
        """Its runs, in the order in which they are measured: interleaved where two are compared."""
        ...

    def seconds(self, settings: Settings) -> float:
        """About how long one start takes, everything included."""
        ...

    def opened(self, settings: Settings, folder: Path) -> Any:
        """A context manager that gives a Bench. `folder` is to be made by it; with the one above, it goes away."""
        ...

    def summary(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Figures from the runs that count."""
        ...

    def lines(self, record: Mapping[str, Any]) -> list[str]:
        """The figures as Markdown."""
        ...


# --- facts --------------------------------------------------------------------------------------


def facts() -> dict[str, Any]:
    """When, where, and with what something is measured."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "commit": commit(),
        "code": code_digest(),
        "load_before": load(),
    }


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": len(usable_cores()),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "platform": platform.platform(),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout, with a + where files differ from it; None outside of git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", *CODE_FOLDERS[:-1], ":(glob)benchmarks/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout.strip()


def code_digest() -> str:
    """Of all code and recipes: runs of different code do not stand in one table, whatever the commit says."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in CODE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def load() -> float:
    """Load average of the last minute."""
    return round(os.getloadavg()[0], 2)


# --- was the machine quiet ------------------------------------------------------------------------


class Quiet:
    """Whether other programs computed beside a measurement; everything that this process started is its own.

    For runs of the executor its own watch says so; this is for all others.
    """

    def __init__(self) -> None:
        self._started, self._own = time.monotonic(), processor_seconds()
        self._busy = disturbance._machine_busy_seconds()
        self._stolen = disturbance._stolen_seconds()

    def verdict(self) -> str:
        """Why the measurement since the start is void; empty when it is not. Call it when its processes have ended."""
        wall = max(1e-3, time.monotonic() - self._started)
        cores = len(usable_cores())
        most = disturbance.LARGEST_OTHER_SHARE * cores
        own = processor_seconds() - self._own
        other = (disturbance._machine_busy_seconds() - self._busy - own) / wall
        stolen = (disturbance._stolen_seconds() - self._stolen) / wall
        if other > most:
            return f"other programs used {other:.1f} of {cores} cores"
        return f"the host of this virtual machine took {stolen:.1f} of {cores} cores away" if stolen > most else ""


def processor_seconds() -> float:
    """Of this process and all below it, each with all that it has waited for; other programs do not stretch it."""
    total = 0.0
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it has just ended
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


# --- files and figures ------------------------------------------------------------------------------


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options of a command of this folder, opened by its docstring, with --json."""
    found = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    found.add_argument("--json", type=Path, help="File to write the result to.")
    return found


def tell(result: Mapping[str, Any], path: Path | None) -> None:
    """Print a result, and write it to a file if asked to."""
    result = {**result, "load_after": load()}
    if path:
        write(path, result)
    print(json.dumps(result, indent=1))


def write(path: Path, record: Mapping[str, Any] | str) -> None:
    """Put a file in place whole: a break must not lose what earlier runs measured."""
    text = record if isinstance(record, str) else json.dumps(record, indent=1) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def median_of(runs: Sequence[Run], name: str) -> float | None:
    """Of a figure over the runs that have it, to four significant digits; None where none has."""
    values = [run[name] for run in runs if run.get(name) is not None]
    return significant(statistics.median(values)) if values else None


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def interval_of_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float] | None:
    """ours / theirs, each pair measured in one round: geometric mean and its 95 % interval (Student's t on logarithms).

    None without pairs; without an interval where there is one pair.
    """
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    if not logs:
        return None
    mean = statistics.fmean(logs)
    found = {"ratio": significant(math.exp(mean)), "pairs": len(logs)}
    if len(logs) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
        found |= {"low": significant(math.exp(mean - half)), "high": significant(math.exp(mean + half))}
    return found


def many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def ratio_words(found: Mapping[str, float] | None) -> str:
    if not found:
        return "not measured"
    if "low" not in found:
        return f"{found['ratio']:.3f} (one pair)"
    return f"{found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


# --- workspaces and runs --------------------------------------------------------------------------------


@contextmanager
def private_in(folder: Path) -> Iterator[None]:
    """Held-out text of a measurement goes away with its folder."""
    before = os.environ.get("SLM_AR_PRIVATE")
    os.environ["SLM_AR_PRIVATE"] = str(folder / "private")
    try:
        yield
    finally:
        del os.environ["SLM_AR_PRIVATE"]
        if before is not None:
            os.environ["SLM_AR_PRIVATE"] = before


def city_workspace(
    folder: Path, changes: Mapping[str, Any] | None = None, constants: Mapping[str, str] | None = None
) -> Workspace:
    """The demo's recipe on its synthetic city, with the asked recipe keys and constants of train.py."""
    city = folder.parent / "city"  # the text of one start: prepare knows it again
    if not city.exists():
        load_adapter("transit").write_sample_source(city, 0)  # type: ignore[attr-defined]
    return _workspace(folder, "demo", {"data.source": str(city), **(changes or {})}, constants or {})


def workspace_of(settings: Settings, folder: Path) -> Workspace:
    """The text of the settings, or the synthetic city."""
    if settings.text is None:
        return city_workspace(folder, settings.changes, settings.constants)
    # nothing here asks hidden and test, so they are as small as they may be, and dev is about the end of the text
    sizes = {"data.dev_kb": settings.held_kb, "data.hidden_kb": 1, "data.test_kb": 1}
    changes = {"data.source": str(settings.text.resolve()), "data.split": "order", **sizes, **settings.changes}
    return _workspace(folder, "text-laptop", changes, settings.constants)


def prepared(workspace: Workspace, folder: Path) -> PreparedData:
    """The workspace's data. Parts of one start that ask for the same find it prepared, beside their `folder`."""
    adapter, source = workspace.adapter(), workspace.source(note)
    return prepare(workspace.recipe, adapter, source, folder.parent / "data", lambda line: note(f"  {line}"))


def executor_for(workspace: Workspace, data: PreparedData, machine: Machine) -> LocalExecutor:
    """Runs as the recipe has them; it is our own train.py, so that no walls are needed."""
    return LocalExecutor(machine, data, allow_unsafe=True, mixture=workspace.recipe.evaluation.mixture)


def _workspace(folder: Path, recipe: str, changes: Mapping[str, Any], constants: Mapping[str, str]) -> Workspace:
    workspace = create_workspace(folder / "work", recipe, changes)
    if words := fit_size(workspace):
        note(words)
    (workspace.root / "train.py").write_text(with_constants(workspace.train_py, constants), encoding="utf-8")
    return workspace


def with_constants(train_py: str, constants: Mapping[str, str]) -> str:
    """train.py with top-level constants set, declared knobs or not. Raises UsageError and TrainingError."""
    knobs = {knob.name: knob for knob in parse_knobs(train_py)}
    for name, value in constants.items():
        if name in knobs:
            kind = {"int": int, "float": float}.get(knobs[name].kind, type(knobs[name].value))
            try:
                train_py = set_knobs(train_py, {name: kind(value)})
            except ValueError:
                raise UsageError(f"{name} of train.py is a number, not {value!r}", "see its `# knob:` line") from None
            continue
        found = re.compile(rf"^({re.escape(name)}(?:: [^=\n]+)? = )[^#\n]*?(?=\s*(?:#|$))", re.MULTILINE)
        train_py, count = found.subn(lambda match, value=value: match[1] + value, train_py)  # type: ignore[misc]
        if count != 1:
            known = re.findall(r"^([A-Z][A-Z0-9_]*)(?:: [^=\n]+)? = ", train_py, re.MULTILINE)
            raise UsageError(f"train.py has no constant {name}", f"it has {', '.join(known)}")
    return train_py


def train(executor: LocalExecutor, job: TrainJob, folder: Path) -> TrainOutcome:
    """One run to a checkpoint in `folder`. Raises TrainingError when there is none."""
    outcome = watched(executor, job, folder, QuietDisplay(), "")
    if outcome.status is not None:
        raise TrainingError(f"seed {job.seed} gave no checkpoint: {outcome.status}: {outcome.reason}", "mend train.py")
    return outcome


def clocked_job(workspace: Workspace, machine: Machine, seed: int, seconds: float) -> TrainJob:
    """A run of the workspace's train.py by the clock."""
    job = train_job(workspace.recipe, machine, workspace.train_py, seed)
    return replace(job, budget_seconds=seconds, budget_steps=None)


def in_repository(module: str, *arguments: str, environment: Mapping[str, str]) -> Any:
    """What another module of this folder prints as JSON, from a process of its own. Raises TrainingError."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise TrainingError(f"`{' '.join(command[1:])}` failed: {ended.stderr.strip()[-600:]}")
    return json.loads(ended.stdout)


Measure = Callable[[str], Run]


@dataclass(frozen=True)
class Opened:
    """A Bench made of its two halves."""

    facts: Mapping[str, Any]
    measure: Measure
