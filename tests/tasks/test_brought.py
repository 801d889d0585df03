"""[baselines]: whose task a line is, what is refused, and how an exam with a wrong file or one group is told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from slm_ar.core.contracts import Document, Span, Task, TaskAnswer, TaskScore
from slm_ar.core.errors import DataError, RecipeError
from slm_ar.core.prepare.heldout import HeldDocument
from slm_ar.core.report.exam import exam_lines, slice_lines
from slm_ar.core.tasks.brought import assign_baselines, check_brought, score_brought
from slm_ar.core.tasks.exam import TaskResult
from slm_ar.core.tasks.metrics import PairedInterval

CAUSE = Task("cause", kind="choice", metric="accuracy", direction="max", choices=("a", "b"))
DELAY = Task("delay", kind="value", metric="mae", direction="min")
LATE = Task("delay.late", kind="choice", metric="accuracy", direction="max")


def test_a_line_belongs_to_the_longest_task_that_opens_its_name() -> None:
    names = ["delay.vendor", "delay.late.vendor", "delay.late", "delay", "cause.x.y"]
    found = assign_baselines(names, (CAUSE, DELAY, LATE))
    assert list(found.values()) == ["delay", "delay.late", "delay.late", "delay", "cause"]
    assert assign_baselines(["vendor", "cause.vendor"], (CAUSE,)) == {"vendor": "cause", "cause.vendor": "cause"}


@pytest.mark.parametrize(
    ("name", "tasks", "words"),
    [
        ("vendor", (CAUSE, DELAY), "names none of the tasks cause, delay"),
        ("delai.vendor", (CAUSE, DELAY), "Did you mean 'delay.vendor'?"),
        ("causes", (CAUSE, DELAY), "names none of the tasks"),
        ("median", (DELAY,), "fitted anyway"),
        ("vendor", (), "ask no question"),
    ],
)
def test_a_line_that_means_no_task_is_refused(name: str, tasks: tuple[Task, ...], words: str) -> None:
    with pytest.raises(RecipeError) as error:
        assign_baselines([name], tasks)
    assert words in str(error.value)


def test_files_that_cannot_be_read_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        check_brought({"vendor": tmp_path / "gone.csv"})
    (tmp_path / "book.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="workbook"):
        check_brought({"vendor": tmp_path / "book.xlsx"})
    (tmp_path / "good.csv").write_text("document,answer\n1,a\n")
    check_brought({"vendor": tmp_path / "good.csv"})


def test_a_wrong_file_is_a_problem_of_its_own_row(tmp_path: Path) -> None:
    documents = [
        HeldDocument(
            Document(f"d{number}", f"cause: {'ab'[number % 2]}\n", f"g{number}", spans=(Span(7, 8, "cause"),)), {}
        )
        for number in range(6)
    ]
    good = "".join(f"d{number},{'ab'[number % 2]}\n" for number in range(6))
    (tmp_path / "good.csv").write_text("document,answer\n" + good + "other,a\n")
    (tmp_path / "short.csv").write_text("document,answer\nd0,a\n")
    files = {"good": tmp_path / "good.csv", "short": tmp_path / "short.csv", "taken": tmp_path / "good.csv"}
    found = score_brought(files, ["taken"], documents, CAUSE, "dev", None, None, 500)
    assert found.scores["good"].metrics["accuracy"] == 1.0 and list(found.scores) == ["good"]
    assert "5 questions without an answer" in found.problems["short"] and "has this name" in found.problems["taken"]
    assert any("not in dev, ignored" in notice for notice in found.notices)
    result = TaskResult(CAUSE, found.scores["good"], problems=found.problems, notices=tuple(found.notices))
    text = "\n".join(exam_lines((result,)))
    assert "short" in text and "5 questions without an answer" in text and "note: " in text
    # JSON goes into the model's folder: no names of held-out documents.
    assert "d1" not in json.dumps(result.to_json()) and "short" in result.to_json()["problems"]


def test_one_group_gives_json_that_every_reader_knows() -> None:
    answers = (TaskAnswer("d", 0, "g", "a", "a"),)
    score = TaskScore("cause", "new", {"accuracy": 1.0, "pr_auc": math.nan}, answers, {"shop": {"x\x1b[2J": 1.0}})
    result = TaskResult(CAUSE, score, {"median": score}, {"median": PairedInterval(0.0, -math.inf, math.inf)})
    facts = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert facts["differences"] == {"median": [0.0, None, None]} and facts["model"]["pr_auc"] is None
    assert "\x1b" not in "".join(slice_lines(result)) and "<U+001B>" in "".join(slice_lines(result))
