"""Numbers that an adapter rates: in the model's score, in baselines and in files of answers; figures made of parts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from slm_ar.core.contracts import Document, Span, Task, TaskAnswer
from slm_ar.core.prepare.answers import choose_questions, collect_examples
from slm_ar.core.prepare.heldout import HeldDocument
from slm_ar.core.tasks.baselines import measure_baselines
from slm_ar.core.tasks.metrics import as_groups, make_score, measure, metric_value, paired_interval
from slm_ar.core.tasks.predictions import read_predictions
from slm_ar.core.tasks.scoring import _judged

DELAY = Task("delay", kind="value", metric="mae", direction="min")
CAUSE = Task("cause", kind="choice", metric="accuracy", direction="max", choices=("a", "b"))


class Clock:
    """Near answers are allowed to be 1 off, far ones 3; those of document "none" say nothing."""

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        assert task == "delay", "choices are not rated"
        right, far = abs(float(gold) - float(answer)), float(gold) >= 10
        known = not prompt.startswith("none")
        return {
            "in_time/far": float(right <= 3) if known and far else math.nan,
            "in_time/near": float(right <= 1) if known and not far else math.nan,
        }


def held(name: str, gold: str, task: str = "delay") -> HeldDocument:
    text = f"{name} | {gold}\n"
    start = len(name) + 3
    return HeldDocument(Document(name, text, name, spans=(Span(start, start + len(gold), task),)), {})


DOCUMENTS = [held("a", "4"), held("b", "5"), held("c", "6"), held("d", "20"), held("none", "7")]


def answered(value: str) -> list[TaskAnswer]:
    questions = choose_questions(DOCUMENTS, DELAY)
    given = (TaskAnswer(each.document.id, 0, each.document.group, each.gold, value) for each in questions)
    return [_judged(DELAY, each, answer, 0.5, Clock()) for each, answer in zip(questions, given, strict=True)]


def test_parts_count_the_same_and_what_is_not_rated_counts_nowhere() -> None:
    figures = measure(DELAY, answered("5"))
    assert figures["in_time/near"] == 1.0 and figures["in_time/far"] == 0.0
    assert figures["in_time"] == 0.5  # not 3 of 4, and not 3 of 5
    assert figures["mae"] == pytest.approx(19 / 5)
    assert "in_time" not in measure(DELAY, answered("5")[-1:])


def test_rated_numbers_have_intervals_and_groups() -> None:
    questions = choose_questions(DOCUMENTS, DELAY)
    good, bad = (make_score(DELAY, "dev", answered(value), questions) for value in ("5", "90"))
    interval = paired_interval(DELAY, good, bad, "in_time")
    assert interval.delta == 0.5 and 0 <= interval.low <= interval.high <= 1
    near = as_groups(DELAY, answered("5"), "in_time/near")
    total = sum(group.nats for group in near) / math.log(2)
    assert total / sum(group.byte_count for group in near) == metric_value(DELAY, "in_time/near", answered("5"))


def test_baselines_and_files_are_rated_as_the_model_is(tmp_path: Path) -> None:
    train = [held(f"t{number}", "5").document for number in range(30)]
    found = measure_baselines([DELAY], collect_examples(train, [DELAY]), DOCUMENTS, "dev", Clock())["delay"]
    assert found["median"].metrics["in_time"] == 0.5
    path = tmp_path / "vendor.jsonl"
    path.write_text("".join(json.dumps({"document": each.document.id, "answer": "5"}) + "\n" for each in DOCUMENTS))
    assert read_predictions(path, DOCUMENTS, DELAY, "dev", Clock()).metrics["in_time"] == 0.5
    assert "in_time" not in read_predictions(path, DOCUMENTS, DELAY, "dev").metrics


def test_choices_are_not_rated() -> None:
    (question,) = choose_questions([held("a", "b", "cause")], CAUSE)
    answer = TaskAnswer("a", 0, "a", "b", "b")
    assert set(_judged(CAUSE, question, answer, 0.5, Clock()).rated) == {"log_loss"}
