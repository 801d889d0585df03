"""What would only show after hours is told at once: [metric], [baselines] and answers that are no answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toys import toy_recipe

from slm_ar.core.cli.research import check_tasks
from slm_ar.core.contracts import Document, Span, Task
from slm_ar.core.errors import DataError, RecipeError
from slm_ar.core.prepare.heldout import HeldDocument, to_json

TASK = Task("minutes", "value", "mae", "min")


def prepared(folder: Path, golds: dict[str, str]) -> Any:
    """Prepared data whose held-out parts ask one question each."""
    for split in ("dev", "hidden", "test"):
        gold = golds.get(split, "12")
        held = HeldDocument(Document(split, gold, "g", None, (Span(0, len(gold), "minutes"),)), {})
        (folder / f"{split}.jsonl").write_text(to_json(held) + "\n", encoding="utf-8")
    return SimpleNamespace(manifest=SimpleNamespace(tasks=(TASK,)), held_folder=folder)


def workspace(root: Path, **tables: Any) -> Any:
    return SimpleNamespace(recipe=toy_recipe(**tables), root=root, adapter=lambda: object())


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    check_tasks(workspace(tmp_path, metric={"task": "minutes"}), prepared(tmp_path, {}))


def test_a_metric_without_its_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="minuts"):
        check_tasks(workspace(tmp_path, metric={"task": "minuts"}), prepared(tmp_path, {}))


@pytest.mark.parametrize("split", ["dev", "hidden", "test"])
def test_an_answer_that_is_no_number_is_refused_in_every_held_out_part(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match="is no number"):
        check_tasks(workspace(tmp_path), prepared(tmp_path, {split: "soon"}))


def test_baselines_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises((DataError, RecipeError), match=r"gone\.jsonl"):
        check_tasks(workspace(tmp_path, baselines={"vendor": "gone.jsonl"}), prepared(tmp_path, {}))


def test_a_choice_may_be_any_text(tmp_path: Path) -> None:
    data = prepared(tmp_path, {"hidden": "soon"})
    data.manifest.tasks = (replace(TASK, kind="choice", metric="accuracy", direction="max"),)
    check_tasks(workspace(tmp_path), data)
