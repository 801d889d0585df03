"""A task as what a campaign lowers: bits per answer while it searches, the task's own metric when it claims.

Called by the executor when the recipe has a [metric]. Every metric becomes a cost that is better when smaller, with
groups that add up to it, which is what the gate judges; macro-F1, F1 and the area under precision and recall as
jackknife pseudo-values (metrics.as_groups).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..contracts import GroupScore, ObjectiveScore, Rater, Task
from ..errors import DataError, RecipeError, did_you_mean
from ..prepare.answers import AnswerSlices
from ..prepare.heldout import HeldDocument
from .metrics import BITS_PER_ANSWER, as_groups
from .scoring import score_likelihood, score_tasks

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .asking import OpenSource

DEV = "dev"
COST_WORDS = {
    "accuracy": "share of wrong answers",
    "exact_match": "share of wrong answers",
    "mae": "mean error",
    "clipped_mae": "mean error, clipped",
}


@dataclass(frozen=True, slots=True)
class Objective:
    """One task, ready to be scored."""

    task: Task
    rater: Rater | None = None
    answer_slices: AnswerSlices | None = None

    @property
    def dev_unit(self) -> str:
        """What a score on dev counts, in words."""
        return f"bits per answer ({self.task.name})"

    @property
    def claim_unit(self) -> str:
        """What a score on hidden and test counts, in words."""
        fallback = f"1 - {self.task.metric}" if self.task.direction == "max" else self.task.metric
        return f"{COST_WORDS.get(self.task.metric, fallback)} ({self.task.name})"

    def score(
        self,
        open_source: OpenSource,
        tokenizer: Tokenizer,
        split: str,
        documents: Sequence[HeldDocument],
        context: int,
    ) -> ObjectiveScore:
        """The cost on a split, with its groups. Raises DataError when the split asks nothing of the task."""
        if split == DEV:
            with open_source() as source:
                found = score_likelihood(source, tokenizer, split, documents, self.task, context)
            return _objective(self.dev_unit, as_groups(self.task, found.answers, BITS_PER_ANSWER))
        scores = score_tasks(
            open_source, tokenizer, split, documents, (self.task,), context, self.rater, self.answer_slices
        )
        if not scores:
            raise DataError(
                f"the split '{split}' asks nothing of task '{self.task.name}'", "choose another task in [metric]"
            )
        return _objective(self.claim_unit, as_groups(self.task, scores[0].answers), self.task.direction == "max")


def find_task(tasks: Sequence[Task], name: str) -> Task:
    """The task that a recipe's [metric] names. Raises RecipeError."""
    for task in tasks:
        if task.name == name:
            return task
    raise RecipeError(
        f"[metric] task = '{name}': these data have no such task", did_you_mean(name, [task.name for task in tasks])
    )


def _objective(unit: str, groups: tuple[GroupScore, ...], is_gain: bool = False) -> ObjectiveScore:
    """The cost with its groups; of a metric that is better when larger, what is missing to 1."""
    if is_gain:
        groups = tuple(replace(group, nats=math.log(2) * group.byte_count - group.nats) for group in groups)
    total = math.fsum(group.nats for group in groups) / math.log(2)
    return ObjectiveScore(unit, total / sum(group.byte_count for group in groups), groups)
