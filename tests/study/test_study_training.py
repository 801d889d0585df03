"""One real training of a study: a score, a failure, and one that takes too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe, with_main

from slm_ar.core.contracts import Status
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.study.training import Bench, Trained, train_once
from slm_ar.core.train.executor import LocalExecutor


@pytest.fixture
def bench(tiny_data: PreparedData, tmp_path: Path) -> Bench:
    return Bench("toy", toy_recipe(), tiny_data, toy_machine(), TINY_TRAIN_PY, "", tmp_path)


def trained(executor: LocalExecutor, bench: Bench, train_py: str = TINY_TRAIN_PY, looks: bool = False) -> Trained:
    folder = bench.runs_folder / "study 1"
    result = train_once(executor, bench, train_py, 3, folder, QuietDisplay(), looks)
    assert not folder.exists()
    return result


def test_scores_are_named_after_what_the_recipe_judges(bench: Bench) -> None:
    assert bench.unit == "bits per byte"
    assert replace(bench, recipe=toy_recipe(evaluation={"mixture": "ngram"})).unit == "bits per byte with n-gram"


def test_a_training_has_a_score_and_looks(executor: LocalExecutor, bench: Bench) -> None:
    bench = replace(bench, recipe=toy_recipe(budget={"steps": 40}))
    shown = TINY_TRAIN_PY.replace(
        "run.batches(BATCH_TOKENS, CONTEXT)", "run.batches(BATCH_TOKENS, CONTEXT, model, config)"
    )
    result = trained(executor, bench, shown, looks=True)
    assert result.status is None and result.score is not None and 0 < result.score < 9
    assert [share for share, _ in result.looks] == [0.125, 0.25]
    assert result.steps == 40 and result.attempts == 1
    assert result.seconds == pytest.approx(result.train_seconds, abs=30) and result.seconds > result.train_seconds
    assert result.to_json()["status"] is None
    again = trained(executor, bench)
    assert again.score == result.score and again.looks == ()


def test_a_crash_is_a_result(executor: LocalExecutor, bench: Bench) -> None:
    result = trained(executor, bench, with_main("raise ValueError('no')"))
    assert result.status is Status.CRASHED and result.score is None and "ValueError" in result.reason
    assert result.to_json()["status"] == "crashed"
    assert result.is_tried_only and result.train_seconds == 0 < result.seconds


def test_steps_without_end_are_too_slow(executor: LocalExecutor, bench: Bench) -> None:
    slow = TINY_TRAIN_PY.replace(
        "        loss.backward()\n", "        __import__('time').sleep(0.2)\n        loss.backward()\n"
    )
    bench = replace(bench, recipe=toy_recipe(budget={"steps": 600}), longest_seconds=0.3)
    result = trained(executor, bench, slow)
    assert result.status is Status.TIMEOUT and "not at its end after 0.3 s" in result.reason
    assert result.score is None and not result.is_tried_only and result.train_seconds > 0.3
