"""Timed settings: when they are measured, what of them a search of a given length may use, and one real timing."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe

from slm_ar.core.agent import calibrator
from slm_ar.core.contracts import Rate, Status
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.study.timing import FIELD, allowed_seconds, is_missing, rates_of, timed_row, trainings_of
from slm_ar.core.study.training import Bench


@pytest.fixture
def bench(tiny_data: PreparedData, tmp_path: Path) -> Bench:
    recipe = toy_recipe(budget={"steps": None, "seconds": 20})
    return Bench("toy", recipe, tiny_data, toy_machine(), TINY_TRAIN_PY, "", tmp_path)


def item(seconds: float, status: str | None = None) -> dict[str, object]:
    rate = {"knobs": {"CONTEXT": 32}, "tokens_per_step": 256, "parameters": 9, "updates": 3.0, "passes": 0.1}
    return {**rate, "status": status, "seconds": seconds}


def test_timing_follows_the_rule_of_a_campaign(bench: Bench) -> None:
    assert allowed_seconds(60, 20.0) == pytest.approx(calibrator.SHARE * 60 * 20)
    assert allowed_seconds(calibrator.FEWEST_EXPERIMENTS - 1, 1e6) == 0.0
    assert allowed_seconds(10, 1.0) == 0.0, "too short to time anything"
    assert allowed_seconds(60, None) == 0.0, "with a budget in steps, speed makes no difference"
    assert is_missing(bench, [], 60)
    assert not is_missing(bench, [{FIELD: []}], 60)
    assert not is_missing(bench, [], 2)


def test_a_search_uses_what_it_may_pay_for() -> None:
    rows = [{"configuration": 0}, {FIELD: [item(2.0), item(3.0, "oom"), item(4.0)]}]
    assert trainings_of(rows) == [{"configuration": 0}]
    rates, spent = rates_of(rows, 5.5)
    assert spent == 5.0 and [rate.status for rate in rates] == [None, Status.OOM]
    assert rates[0] == Rate({"CONTEXT": 32}, None, 256, 9, 3.0, 0.1)
    assert rates_of(rows, 100.0)[1] == 9.0
    assert rates_of([], 100.0) == ((), 0)
    assert rates_of(rows, 0.0) == ((), 0)


def test_settings_are_timed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrator, "MOST_SETTINGS", 2)
    row = timed_row(bench, 10**6, 3, QuietDisplay())
    rates, spent = rates_of([row], 1e9)
    assert len(rates) == 2 and spent > 0
    assert rates[0].knobs == {"BATCH_TOKENS": 256, "CONTEXT": 32}
    assert rates[0].status is None and rates[0].updates > 0 and rates[0].tokens_per_step == 256
    assert not (bench.runs_folder / "study rates").exists()
