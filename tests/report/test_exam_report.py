"""The answers of the finished model stand in the report, and so do bits per byte beside another metric."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from report_states import final_state

from slm_ar.core.agent.state import CampaignState
from slm_ar.core.report.html import render_html
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text

RESULT: dict[str, Any] = {
    "task": "delay",
    "kind": "value",
    "metric": "mae",
    "direction": "min",
    "questions": 500,
    "model": {"mae": 8.2},
    "baselines": {"median": {"mae": 10.1}, "gradient <b>boosting": {"mae": 7.5}, "last value": {"mae": 8.3}},
    "differences": {
        "median": [-1.9, -2.2, -1.5],
        "gradient <b>boosting": [0.7, 0.2, 1.1],
        "last value": [-0.1, None, None],
    },
}


def with_exam(**facts: Any) -> CampaignState:
    state = final_state()
    return replace(state, exam=("test", (RESULT,)), facts={**state.facts, **facts})


def test_baselines_stand_beside_the_model_best_first() -> None:
    (row,) = summarise(with_exam()).exam
    assert [entry.name for entry in row.baselines] == ["gradient <b>boosting", "last value", "median"]
    assert [entry.words for entry in row.baselines] == [
        "better than the model",
        "no clear difference",
        "the model is better",
    ]
    page = render_html(summarise(with_exam()), with_exam())
    assert "better than the model" in page and "mean error, 500 questions" in page
    assert "<b>boosting" not in page
    assert "gradient <b>boosting" in status_text(summarise(with_exam()))


def test_a_metric_of_larger_is_better_turns_the_words() -> None:
    result = {**RESULT, "metric": "accuracy", "direction": "max", "model": {"accuracy": 0.8}}
    result |= {"baselines": {"median": {"accuracy": 0.7}}, "differences": {"median": [0.1, 0.05, 0.15]}}
    (row,) = summarise(replace(with_exam(), exam=("test", (result,)))).exam
    assert row.baselines[0].words == "the model is better"


def test_bits_per_byte_are_shown_beside_another_metric() -> None:
    metric = {"task": "delay", "dev_unit": "bits per answer (delay)", "claim_unit": "mean error (delay)"}
    state = with_exam(metric=metric)
    assert "bits per byte on dev, start and current" in status_text(summarise(state))
    page = render_html(summarise(state), state)
    assert "as text" in page and "Bits per answer (delay) on dev" in page
    assert summarise(final_state()).text_start is None


def test_no_exam_no_section() -> None:
    assert "The answers" not in render_html(summarise(final_state()), final_state())
