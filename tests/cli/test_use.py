"""A trained model is used: answers for new rows, scores on newer data, baselines of one's own, a task as the metric."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Command, Ended, last, told
from data_workspaces import make_row_workspace, write_rows
from toys import keep_an_edit, take_all_back

from slm_ar.core.cli.serving import data_of_model
from slm_ar.core.cli.steps import display_for, open_campaign
from slm_ar.core.cli.use import _answers_file
from slm_ar.core.cli.workspace import find_workspace
from slm_ar.core.contracts import TaskAnswer
from slm_ar.core.errors import DataError
from slm_ar.core.prepare.pipeline import newest_prepared
from slm_ar.core.tasks.predicting import predict


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained in a process of its own; the folder holds workspace, source and the private part."""
    base = tmp_path_factory.mktemp("trained")
    root = make_row_workspace(base)
    environment = {**os.environ, "SLM_AR_PRIVATE": str(base / "private")}
    command = [str(Path(sys.executable).with_name("slm-ar")), "train", "--json"]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    (task,) = json.loads(ended.stdout.splitlines()[-1])["tasks"]
    assert task["task"] == "answer" and task["metric"] == "accuracy"
    assert {"most frequent answer", "TF-IDF + logistic regression", "gradient boosting"} <= set(task["baselines"])
    return base


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, private_folder: Path) -> Path:
    """A copy of it for one test."""
    for name in ("rows", "source"):
        shutil.copytree(trained_once / name, tmp_path / name)
    shutil.copytree(trained_once / "private", private_folder)
    return tmp_path / "rows"


def test_predict_answers_every_row_in_order(
    slm_ar: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = []

    def recorded(source: Any, tokenizer: Any, context: int, *rest: Any) -> Any:
        contexts.append(context)
        return predicting(source, tokenizer, context, *rest)

    predicting = predict
    monkeypatch.setattr("slm_ar.core.tasks.predicting.predict", recorded)
    recipe = (trained / "recipe.toml").read_text()
    (trained / "recipe.toml").write_text(recipe.replace("context = 32", "context = 24"))
    asked = write_rows(tmp_path / "asked" / "new.csv", 70, seed=9, answered=False)
    ended = slm_ar("predict", "--input", str(asked), "--out", "answers.jsonl", "--json", folder=trained)
    assert ended.code == 0, ended.text
    assert last(ended)["rows"] == 70
    lines = [json.loads(line) for line in (trained / "answers.jsonl").read_text().splitlines()]
    assert [line["document"] for line in lines] == [f"new.csv:{number}" for number in range(1, 71)]
    assert {line["task"] for line in lines} == {"answer"}
    assert {line["answer"] for line in lines} <= {"s", "l"}
    assert all(0.0 <= line["probability"] <= 1.0 for line in lines)
    slm_ar("predict", "--input", str(asked), "--out", "answers.csv", folder=trained)
    with (trained / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [line["answer"] for line in lines]
    assert not list(trained.glob(".*unfinished"))
    assert contexts == [24, 24]  # what the model is measured with, though it could take 32


@pytest.mark.parametrize(("isolation", "values"), [("none", ["none"]), ("level 3 (bubblewrap)", [])])
def test_answers_that_no_walls_were_around_say_so_in_their_file(
    tmp_path: Path, isolation: str, values: list[str]
) -> None:
    for name in ("answers.jsonl", "answers.csv"):
        with _answers_file(tmp_path / name, isolation) as write:
            write("delay", TaskAnswer("new.csv:1", 0, "g", "", "late", 0.5))
    (line,) = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    for known in (json.loads(line), row):
        assert [value for name, value in known.items() if name == "isolation"] == values


def test_predict_says_what_is_missing(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    answered = write_rows(tmp_path / "known" / "rows.csv", 5, seed=3)
    told(slm_ar("predict", "--input", str(answered), "--out", "a.jsonl", folder=trained), 4, "no row asks")
    assert not (trained / "a.jsonl").exists()
    (trained / "a.jsonl").write_text("yesterday's")
    told(slm_ar("predict", "--input", str(answered), "--out", "a.jsonl", folder=trained), 4, "no row asks")
    assert (trained / "a.jsonl").read_text() == "yesterday's"
    told(slm_ar("predict", "--input", str(answered), "--out", "a.xlsx", folder=trained), 2, "ending says the format")
    told(slm_ar("predict", "--input", "nowhere.csv", "--out", "a.jsonl", folder=trained), 4, "does not exist")
    asked = ("predict", "--input", str(answered), "--out", "a.jsonl", "--task", "anser")
    told(slm_ar(*asked, folder=trained), 2, "Did you mean 'answer'?")


@pytest.mark.parametrize(
    ("given", "out", "words"),
    [
        ("asked/new.csv", "asked/new.csv", "its rows would be lost"),
        ("asked/new.csv", "asked/../asked/new.csv", "its rows would be lost"),
        ("asked/new.csv", "link.csv", "its rows would be lost"),
        ("asked", "asked/answers.csv", "answers would become data"),
        ("asked", "nowhere/answers.csv", "there is no folder"),
        ("asked", "folder.csv", "is a folder"),
    ],
)
def test_predict_never_replaces_what_it_reads(
    slm_ar: Command, trained: Path, tmp_path: Path, given: str, out: str, words: str
) -> None:
    asked = write_rows(tmp_path / "asked" / "new.csv", 5, seed=3, answered=False)
    (tmp_path / "link.csv").hardlink_to(asked)
    (tmp_path / "folder.csv").mkdir()
    before = asked.read_text()
    ended = slm_ar("predict", "--input", str(tmp_path / given), "--out", str(tmp_path / out), folder=trained)
    told(ended, 2, words)
    assert asked.read_text() == before and sorted(path.name for path in asked.parent.iterdir()) == ["new.csv"]


def test_a_model_is_used_with_the_data_it_was_trained_on(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    (first,) = (path.name for path in (trained / ".slm" / "data").iterdir())
    checkpoint = trained / ".slm" / "runs" / "train"
    text = (trained / "recipe.toml").read_text()
    (trained / "recipe.toml").write_text(text.replace("dev_kb = 8", "dev_kb = 9"))
    assert slm_ar("prepare", "--quiet", folder=trained).code == 0
    workspace = find_workspace(trained)
    assert newest_prepared(trained / ".slm" / "data") != data_of_model(workspace, checkpoint)
    assert data_of_model(workspace, checkpoint).manifest.key == first
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "slm_ar.json").write_text(json.dumps({"facts": {}, "data": {"key": first}}))
    assert data_of_model(workspace, tmp_path / "model").manifest.key == first
    shutil.rmtree(trained / ".slm" / "data" / first)
    source = str(trained.parent / "source")
    told(slm_ar("eval", "--source", source, folder=trained), 2, first, "are not prepared in this workspace")
    told(slm_ar("predict", "--input", source, "--out", "a.csv", folder=trained), 2, "are not prepared")


def test_eval_scores_what_train_has_not_seen(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    with (trained / "recipe.toml").open("a") as recipe:  # its answers are to other questions, so eval leaves it alone
        recipe.write('\n[baselines]\nvendor = "gone.jsonl"\n')
    newer = write_rows(tmp_path / "newer" / "rows.csv", 200, seed=77)
    ended = slm_ar("eval", "--source", str(newer), "--json", folder=trained)
    assert ended.code == 0, ended.text
    facts = last(ended)
    assert facts["documents"] + facts["prepared_already"] == 200 and facts["prepared_already"] < 20
    # The same kind of rows: no drift to speak of, and the score is of the same size as on dev.
    assert abs(facts["bits_per_byte"] / facts["dev_bits_per_byte"] - 1) < 0.1
    assert facts["tasks"][0]["questions"] == facts["documents"]
    words = slm_ar("eval", "--source", str(newer), folder=trained).out
    assert "task answer: accuracy" in words and "bits per byte; dev" in words


def test_eval_opens_nothing_that_was_prepared(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    old = trained.parent / "source" / "rows.csv"
    told(slm_ar("eval", "--source", str(old), folder=trained), 4, "all 3,000 documents stand in the prepared data")
    mixed = write_rows(tmp_path / "mixed" / "rows.csv", 100, seed=78)
    with mixed.open("a") as file:
        file.writelines(line + "\n" for line in old.read_text().splitlines()[1:])
    facts = last(slm_ar("eval", "--source", str(mixed), "--json", folder=trained))
    assert facts["documents"] <= 100 and facts["documents"] + facts["prepared_already"] == 3100


def test_a_baseline_of_ones_own_is_scored_beside(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_row_workspace(tmp_path, baselines={"vendor": "preds.jsonl"})
    source = tmp_path / "source" / "rows.csv"
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [{"document": f"rows.csv:{n}", "answer": row["letter"]} for n, row in enumerate(rows, start=1)]
    (root / "preds.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    ended = slm_ar("train", "--json", folder=root)
    assert ended.code == 0, ended.text
    (task,) = last(ended)["tasks"]
    assert task["baselines"]["vendor"]["accuracy"] == 1.0
    assert task["best_baseline"] is not None
    (root / "preds.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers[:100]))
    ended = slm_ar("train", folder=root)
    assert ended.code == 0, ended.text
    assert "bits per byte" in ended.out and "task answer: accuracy" in ended.out
    assert "no score: " in ended.out and "preds.jsonl does not answer the" in ended.out
    # An exam that fails is told after the score of the training that came before it.
    monkeypatch.setattr("slm_ar.core.tasks.exam.sit_exam", no_exam)
    ended = slm_ar("train", folder=root)
    assert ended.code == 4 and "the exam failed" in ended.error and "dev: " in ended.out
    # What cannot be used at all is refused before anything is trained.
    (root / "preds.jsonl").unlink()
    told_before_training(slm_ar("train", "--json", folder=root), 4, "there is no file", "preds.jsonl")
    with pytest.raises(DataError, match="there is no file"), display_for(False, True) as display:
        open_campaign(find_workspace(root), display, may_start=False).__enter__()
    text = (root / "recipe.toml").read_text()
    (root / "recipe.toml").write_text(text.replace("vendor =", '"most frequent answer" ='))
    told_before_training(slm_ar("train", "--json", folder=root), 3, "fitted anyway")


def no_exam(*_: Any, **__: Any) -> None:
    raise DataError("the exam failed")


def told_before_training(ended: Ended, code: int, *parts: str) -> None:
    assert ended.code == code, ended.text
    assert "train.py, as it is" not in ended.text and all(part in ended.error for part in parts), ended.text


def test_a_campaign_can_lower_the_cost_of_a_task(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_row_workspace(tmp_path, metric={"task": "answer"})
    ended = slm_ar("run", folder=root)
    assert ended.code == 0, ended.text
    status = slm_ar("status", "--json", folder=root)
    summary = json.loads(status.out)
    assert summary["unit"] == "bits per answer (answer)"
    assert summary["claim_unit"] == "share of wrong answers (answer)"
    assert summary["floors"] == []
    assert len(summary["experiments"]) == 2
    take_all_back(root)
    ended = slm_ar("finish", folder=root)  # nothing to ask for: test stays closed
    assert ended.code == 0 and "test stays closed: no edit was kept" in ended.error, ended.text
    summary = json.loads(slm_ar("status", "--json", folder=root).out)
    assert summary["final"] is None and summary["exam_split"] == "dev"
    assert "answer, accuracy on dev" in (root / "model" / "README.md").read_text(encoding="utf-8")
    assert "<h3>the final code</h3>" not in (root / "report.html").read_text(encoding="utf-8"), "there is none"
    keep_an_edit(root)
    with monkeypatch.context() as patch:  # an exam that fails costs neither the model nor the verdict
        patch.setattr("slm_ar.core.tasks.exam.sit_exam", no_exam)
        ended = slm_ar("finish", "--yes", folder=root)
    assert ended.code == 4 and "the exam failed" in ended.error and f"model: {root / 'model'}" in ended.out
    assert (root / "model" / "model.safetensors").is_file() and (root / "model" / "slm_ar.json").is_file()
    ended = slm_ar("finish", "--yes", folder=root)
    assert ended.code == 0, ended.text
    final = json.loads(slm_ar("status", "--json", folder=root).out)["final"]
    assert 0 <= final["final_score"] <= 1 < final["final_bits_per_byte"] * 8
    assert "share of wrong answers" in (root / "report.html").read_text(encoding="utf-8")
    assert "<h3>the final code</h3>" in (root / "report.html").read_text(encoding="utf-8")
    assert "answer, accuracy on test" in (root / "model" / "README.md").read_text(encoding="utf-8")


def test_a_metric_that_the_data_do_not_have_is_told(slm_ar: Command, tmp_path: Path) -> None:
    root = make_row_workspace(tmp_path, metric={"task": "anser"})
    ended = slm_ar("run", folder=root)
    assert ended.code == 3 and "Did you mean 'answer'?" in ended.error
