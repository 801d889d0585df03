"""An exam: a model's answers to every task of a split, beside the baselines' on the same questions.

Called by `train`, `eval` and `finish`. Promises: model and baselines answer the same questions; a difference comes with
its interval over whole groups; who wins is said from the baseline's side too.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contracts import Rater, Task, TaskAnswer, TaskScore
from ..prepare.answers import ANSWERS_FILE, MOST_QUESTIONS, AnswerSlices, read_answers
from ..prepare.heldout import HeldDocument
from .baselines import measure_baselines
from .brought import assign_baselines, score_brought
from .metrics import PairedInterval, paired_interval

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..prepare.manifest import PreparedData
    from .asking import OpenSource

BASELINES_VERSION = 2
"""Bumped when the baselines would answer otherwise from the same data."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One task: the model's score, the baselines', and model minus baseline with a 95 % interval."""

    task: Task
    score: TaskScore
    baselines: Mapping[str, TaskScore] = field(default_factory=dict)
    differences: Mapping[str, PairedInterval] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    """Name of a line of [baselines] -> why its file gives no score."""
    notices: tuple[str, ...] = ()
    """What was tolerated in the files of [baselines]."""

    @property
    def best_baseline(self) -> str | None:
        """The baseline with the best headline metric, or None."""
        sign = 1 if self.task.direction == "min" else -1
        known = {name: sign * score.metrics[self.task.metric] for name, score in self.baselines.items()}
        return min(known, key=lambda name: (known[name], name)) if known else None

    def to_json(self) -> dict[str, Any]:
        """Numbers only: no answer, no text; what is infinite or undefined is null, which every reader of JSON knows."""
        facts = {
            "task": self.task.name,
            "kind": self.task.kind,
            "metric": self.task.metric,
            "direction": self.task.direction,
            "questions": len(self.score.answers),
            "model": dict(self.score.metrics),
            "baselines": {name: dict(score.metrics) for name, score in self.baselines.items()},
            "differences": {name: list(interval) for name, interval in self.differences.items()},
            "best_baseline": self.best_baseline,
            "slices": {key: dict(values) for key, values in self.score.slices.items()},
            # The first line alone: the others show what is wrong, with the names of held-out documents.
            "problems": {name: problem.partition("\n")[0] for name, problem in self.problems.items()},
        }
        finite: dict[str, Any] = _finite(facts)
        return finite


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def sit_exam(
    open_source: OpenSource,
    tokenizer: Tokenizer,
    context: int,
    split: str,
    documents: Sequence[HeldDocument],
    data: PreparedData,
    adapter: object = None,
    brought: Mapping[str, Path] | None = None,
    limit: int | None = None,
) -> tuple[TaskResult, ...]:
    """The results of all tasks of `data` that `documents` ask. Raises DataError.

    `brought` names files of answers of other systems (brought.assign_baselines says whose task a name is); a file that
    is wrong becomes a problem of its row.
    """
    from .scoring import score_tasks

    tasks = data.manifest.tasks
    if not tasks:
        return ()
    most = limit or MOST_QUESTIONS
    slices = answer_slices_of(adapter)
    rater = adapter if isinstance(adapter, Rater) else None
    scores = score_tasks(open_source, tokenizer, split, documents, tasks, context, rater, slices, most)
    baselines = measured_baselines(data, split, documents, adapter, most)
    assigned = assign_baselines(brought or {}, tasks)
    results = []
    for score in scores:
        task = next(task for task in tasks if task.name == score.task)
        beside = dict(baselines.get(task.name, {}))
        files = {name: path for name, path in (brought or {}).items() if assigned[name] == task.name}
        own = score_brought(files, beside, documents, task, split, rater, slices, most)
        beside |= own.scores
        differences = {name: paired_interval(task, score, other) for name, other in beside.items()}
        results.append(TaskResult(task, score, beside, differences, own.problems, tuple(own.notices)))
    return tuple(results)


def measured_baselines(
    data: PreparedData, split: str, documents: Sequence[HeldDocument], adapter: object, limit: int = MOST_QUESTIONS
) -> dict[str, dict[str, TaskScore]]:
    """Task -> baseline -> score. Fitting takes seconds and depends on the data alone, so dev's are kept (privately)."""
    kept = data.held_folder / f"baselines-{_baselines_key(data, adapter, limit)}.json"
    if split == "dev" and kept.is_file():
        try:
            return _from_json(json.loads(kept.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError):
            kept.unlink(missing_ok=True)  # damaged: measured again
    examples = read_answers(data.folder / ANSWERS_FILE)
    tasks = data.manifest.tasks
    found = measure_baselines(tasks, examples, documents, split, adapter, answer_slices_of(adapter), limit)
    if split == "dev":
        unfinished = kept.with_suffix(f".{os.getpid()}.unfinished")  # another process may write the same file
        facts = {task: {name: asdict(score) for name, score in scores.items()} for task, scores in found.items()}
        unfinished.write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        unfinished.replace(kept)
    return found


def _baselines_key(data: PreparedData, adapter: object, limit: int) -> str:
    """12 hex digits over all that the baselines' answers depend on: data, questions, and the code that answers."""
    facts = [
        BASELINES_VERSION,
        [_version_of(package) for package in ("slm-ar", "scikit-learn")],
        [data.digest, data.manifest.answers_digest, [asdict(task) for task in data.manifest.tasks], limit],
        [getattr(adapter, "name", ""), getattr(adapter, "version", 0), _code_digest(adapter)],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _code_digest(adapter: object) -> str:
    """sha256 over the adapter's own code: its file, or all of its package; empty when it has no file."""
    try:
        home = Path(inspect.getfile(type(adapter)))
    except (TypeError, OSError):  # built in, or made at run time
        return ""
    files = sorted(home.parent.glob("**/*.py")) if (home.parent / "__init__.py").is_file() else [home]
    total = hashlib.sha256()
    for path in files:
        if path.is_file():
            total.update(path.relative_to(home.parent).as_posix().encode() + b"\0")
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _from_json(facts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, TaskScore]]:
    return {
        task: {
            name: TaskScore(**{**score, "answers": tuple(TaskAnswer(**answer) for answer in score["answers"])})
            for name, score in scores.items()
        }
        for task, scores in facts.items()
    }


def answer_slices_of(adapter: object) -> AnswerSlices | None:
    """The adapter's slices of single answers, when it offers them."""
    offered: Callable[..., Mapping[str, str]] | None = getattr(adapter, "answer_slices", None)
    return offered if callable(offered) else None
