"""A task as the cost that a campaign lowers."""

from __future__ import annotations

import math

import pytest

from slm_ar.core.agent.replay import score_from_json, score_to_json
from slm_ar.core.contracts import GroupScore, ObjectiveScore, SplitScore, Task, TaskAnswer
from slm_ar.core.errors import RecipeError
from slm_ar.core.tasks import objective
from slm_ar.core.tasks.metrics import as_groups
from slm_ar.core.tasks.objective import Objective, find_task


def task(metric: str, kind: str = "choice", direction: str = "max", **more: object) -> Task:
    return Task("delay", kind=kind, metric=metric, direction=direction, **more)  # type: ignore[arg-type]


def answer(gold: str, given: str, group: str = "g", loss: float = 0.0, **rated: float) -> TaskAnswer:
    return TaskAnswer("d", 0, group, gold, given, None, loss, rated)


def test_a_claim_is_on_the_metric_itself() -> None:
    assert Objective(task("macro_f1")).claim_unit == "1 - macro_f1 (delay)"
    assert Objective(task("mae", "value", "min")).claim_unit == "mean error (delay)"
    assert Objective(task("pr_auc", positive="late")).dev_unit == "bits per answer (delay)"


def test_groups_add_up_to_the_value_and_a_gain_becomes_a_cost() -> None:
    answers = [answer("a", "a", "x"), answer("a", "b", "x"), answer("a", "b", "y")]
    found = objective._objective("unit", as_groups(task("accuracy"), answers), is_gain=True)
    assert found.value == pytest.approx(2 / 3)
    assert [(group.group, group.byte_count) for group in found.groups] == [("x", 2), ("y", 1)]
    total = sum(group.nats for group in found.groups) / math.log(2)
    assert total / sum(group.byte_count for group in found.groups) == pytest.approx(found.value)


def test_the_journal_keeps_an_objective() -> None:
    groups = (GroupScore("a", 1.5, 3),)
    score = SplitScore("dev", 1.2, (GroupScore("a", 9.0, 70),), 20, 4, 0.1, {}, ObjectiveScore("unit", 0.7, groups))
    again = score_from_json(score_to_json(score))
    assert again == score
    assert again.judged == 0.7 and again.judged_groups == groups
    plain = score_from_json(score_to_json(SplitScore("dev", 1.2, groups, 20, 4, 0.1)))
    assert plain.judged == 1.2 and plain.objective is None and plain.judged_groups == groups


def test_an_unknown_task_is_told() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'delay'") as caught:
        find_task((task("mae", "value", "min"),), "dely")
    assert caught.value.exit_code == 3
