"""A trained model is used: answers for new rows, scores on newer data, baselines of one's own, a task as the metric."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands_in_process import Command, last, told
from data_workspaces import make_row_workspace, write_rows


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


def test_predict_answers_every_row_in_order(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
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


def test_predict_says_what_is_missing(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    answered = write_rows(tmp_path / "known" / "rows.csv", 5, seed=3)
    told(slm_ar("predict", "--input", str(answered), "--out", "a.jsonl", folder=trained), 4, "no row asks")
    assert not (trained / "a.jsonl").exists()
    told(slm_ar("predict", "--input", str(answered), "--out", "a.xlsx", folder=trained), 2, "ending says the format")
    told(slm_ar("predict", "--input", "nowhere.csv", "--out", "a.jsonl", folder=trained), 4, "does not exist")
    asked = ("predict", "--input", str(answered), "--out", "a.jsonl", "--task", "anser")
    told(slm_ar(*asked, folder=trained), 2, "Did you mean 'answer'?")


def test_eval_scores_what_train_has_not_seen(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    newer = write_rows(tmp_path / "newer" / "rows.csv", 200, seed=77)
    ended = slm_ar("eval", "--source", str(newer), "--json", folder=trained)
    assert ended.code == 0, ended.text
    facts = last(ended)
    assert facts["documents"] + facts["in_train"] == 200 and facts["in_train"] < 20
    # The same kind of rows: no drift to speak of, and the score is of the same size as on dev.
    assert abs(facts["bits_per_byte"] / facts["dev_bits_per_byte"] - 1) < 0.1
    assert facts["tasks"][0]["questions"] == facts["documents"]
    words = slm_ar("eval", "--source", str(newer), folder=trained).out
    assert "task answer: accuracy" in words and "bits per byte; dev" in words


def test_eval_leaves_out_what_stands_in_train(slm_ar: Command, trained: Path, tmp_path: Path) -> None:
    old = trained.parent / "source" / "rows.csv"
    facts = last(slm_ar("eval", "--source", str(old), "--json", folder=trained))
    (manifest,) = (json.loads(path.read_text()) for path in (trained / ".slm" / "data").glob("*/manifest.json"))
    assert facts["in_train"] == manifest["splits"]["train"]["documents"]


def test_a_baseline_of_ones_own_is_scored_beside(slm_ar: Command, tmp_path: Path) -> None:
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
    assert ended.code == 4 and "preds.jsonl" in ended.error


def test_a_campaign_can_lower_the_cost_of_a_task(slm_ar: Command, tmp_path: Path) -> None:
    root = make_row_workspace(tmp_path, metric={"task": "answer"})
    ended = slm_ar("run", folder=root)
    assert ended.code == 0, ended.text
    status = slm_ar("status", "--json", folder=root)
    summary = json.loads(status.out)
    assert summary["unit"] == "bits per answer (answer)"
    assert summary["claim_unit"] == "share of wrong answers (answer)"
    assert summary["floors"] == []
    assert len(summary["experiments"]) == 2
    ended = slm_ar("finish", "--yes", folder=root)
    assert ended.code == 0, ended.text
    final = json.loads(slm_ar("status", "--json", folder=root).out)["final"]
    assert 0 <= final["final_score"] <= 1 < final["final_bits_per_byte"] * 8
    assert "share of wrong answers" in (root / "report.html").read_text(encoding="utf-8")
    assert "answer, accuracy on test" in (root / "model" / "README.md").read_text(encoding="utf-8")


def test_a_metric_that_the_data_do_not_have_is_told(slm_ar: Command, tmp_path: Path) -> None:
    root = make_row_workspace(tmp_path, metric={"task": "anser"})
    ended = slm_ar("run", folder=root)
    assert ended.code == 3 and "Did you mean 'answer'?" in ended.error
