"""The lines of a recipe's [baselines]: which task each is about, and its file scored beside the other baselines.

Called by `train` and `finish`: first to refuse what cannot be used before minutes are spent on training, then by the
exam. Promises: a file that does not fit becomes a problem of its own row and costs no other result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts import Rater, Task, TaskScore
from ..errors import DataError, RecipeError, did_you_mean
from ..prepare.answers import AnswerSlices
from ..prepare.heldout import HeldDocument
from ..sources import Notices, read_table
from .baselines import BASELINES
from .predictions import read_predictions


@dataclass(slots=True)
class BroughtScores:
    """What the files said about one task."""

    scores: dict[str, TaskScore] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Name -> why its file gives no score."""
    notices: list[str] = field(default_factory=list)


def assign_baselines(names: Iterable[str], tasks: Sequence[Task]) -> dict[str, str]:
    """Name of a line -> its task: the only one, or the longest TASK that opens the name as TASK or TASK.NAME.

    Raises RecipeError for a name that means no task, and for the name of a baseline that is fitted anyway.
    """
    kinds = {task.name: task.kind for task in tasks}
    assigned = {}
    for name in names:
        meant = [task for task in kinds if name == task or name.startswith(f"{task}.")]
        if not kinds:
            raise RecipeError(
                f"[baselines] {name}: these data ask no question", "remove the line: there is nothing to compare"
            )
        if not meant and len(kinds) > 1:
            known = [f"{task}.{name.rpartition('.')[2]}" for task in kinds]
            raise RecipeError(
                f"[baselines] '{name}' names none of the tasks {', '.join(kinds)}",
                f'{did_you_mean(name, known)} Write "TASK.NAME" = "file", in quotes because of the dot'.strip(),
            )
        task = max(meant, key=len, default=next(iter(kinds)))
        if name in BASELINES[kinds[task]]:
            raise RecipeError(
                f"[baselines] '{name}' is the name of a baseline that is fitted anyway", "give the file another name"
            )
        assigned[name] = task
    return assigned


def check_brought(brought: Mapping[str, Path]) -> None:
    """Raises DataError when a file is not there or cannot be read as a table; its answers are judged later."""
    for name, path in brought.items():
        if not path.is_file():
            raise DataError(f"[baselines] {name}: there is no file {path}", "the path counts from the workspace")
        next(iter(read_table(path, notices=Notices())), None)


def score_brought(
    brought: Mapping[str, Path],
    taken: Iterable[str],
    documents: Sequence[HeldDocument],
    task: Task,
    split: str,
    rater: Rater | None,
    slices: AnswerSlices | None,
    limit: int,
) -> BroughtScores:
    """Score the files of one task; `taken` are the names of baselines that stand there already."""
    found, taken, notices = BroughtScores(), set(taken), Notices()
    for name, path in brought.items():
        if name in taken:
            found.problems[name] = "a baseline of the adapter has this name; give the file another one"
            continue
        try:
            found.scores[name] = read_predictions(path, documents, task, split, rater, slices, notices, limit)
        except DataError as error:
            found.problems[name] = f"{error.message}\n{error.hint}".rstrip()
        except OSError as error:
            found.problems[name] = f"{path} cannot be read: {error.strerror or error}"
    found.notices = notices.lines()
    return found
