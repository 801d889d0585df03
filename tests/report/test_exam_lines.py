"""What `train`, `eval` and `finish` print of an exam: the headline with its intervals, and every other metric."""

from __future__ import annotations

import math

from slm_ar.core.contracts import Task, TaskAnswer, TaskScore
from slm_ar.core.report.exam import exam_lines
from slm_ar.core.tasks.exam import TaskResult
from slm_ar.core.tasks.metrics import PairedInterval

DELAY = Task("delay", kind="value", metric="mae", direction="min")
ANSWERS = (TaskAnswer("d", 0, "g", "1", "1"),)


def score(**metrics: float) -> TaskScore:
    return TaskScore("delay", "dev", metrics, ANSWERS)


def test_every_metric_of_model_and_baselines_is_shown() -> None:
    model = TaskScore(
        "delay", "dev", {"mae": 2.0, "accuracy": 0.5, "eta_accuracy": 0.75, "eta_accuracy/0-3": 1.0}, ANSWERS
    )
    baselines = {
        "median": score(mae=3.0, accuracy=0.25, eta_accuracy=0.5),
        "vendor": score(mae=1.0, bits_per_answer=12.0, eta_accuracy=math.nan),
    }
    differences = {"median": PairedInterval(-1.0, -1.5, -0.5), "vendor": PairedInterval(1.0, 0.5, 1.5)}
    lines = exam_lines((TaskResult(DELAY, model, baselines, differences),))
    assert [line.split() for line in lines[4:7]] == [
        ["the", "model", "0.5000", "0.7500", "-"],
        ["vendor", "-", "-", "12.00"],
        ["median", "0.2500", "0.5000", "-"],
    ]
    assert lines[0] == "task delay: mean error 2.0000 over 1 questions"
    assert lines[1].split()[:2] == ["vendor", "1.0000"] and "better than the model" in lines[1]
    assert " ".join(lines[3].split()) == "accuracy eta accuracy bits per answer"
    assert len({len(line) for line in lines[3:7]}) == 1
    assert max(map(len, lines)) < 120
    assert "0-3" not in "\n".join(lines)


def test_a_task_of_one_metric_has_no_table() -> None:
    lines = exam_lines((TaskResult(DELAY, score(mae=2.0)),))
    assert lines == ["task delay: mean error 2.0000 over 1 questions"]
