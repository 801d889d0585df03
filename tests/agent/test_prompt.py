"""What a language model is told: numbers and statuses of the history, and nothing that a log could have put there."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TINY_TRAIN_PY

from slm_ar.core.agent.proposers.prompt import (
    LENSES,
    LONGEST_HISTORY,
    MOST_PAST,
    code_text,
    history_text,
    shown_reason,
    system_text,
    task_text,
)
from slm_ar.core.cli.workspace import template
from slm_ar.core.contracts import PastExperiment, ResearchContext, Status

CONTEXT = ResearchContext("go for it", TINY_TRAIN_PY, "rev", (), {"device": "cpu"}, {"seconds": 5.0}, 0, 0.01)
PAST = PastExperiment(1, "a", "rev", "claude", "an idea", Status.CRASHED, None, {}, "t", "")


def lines(*history: PastExperiment) -> list[dict[str, object]]:
    return [json.loads(line) for line in history_text(replace(CONTEXT, history=history)).splitlines()]


def test_an_experiment_is_a_line_of_json() -> None:
    kept = replace(PAST, id=2, status=Status.KEPT, dev_score=1.25, revision="rev")
    assert lines(PAST, kept) == [
        {"id": 1, "status": "crashed", "hypothesis": "an idea"},
        {"id": 2, "status": "kept", "hypothesis": "an idea", "dev": 1.25, "is_current": True},
    ]
    assert history_text(CONTEXT) == "nothing was tried yet"


def test_program_md_explains_the_words_of_the_history() -> None:
    section = template("program.md").split("## How to read the history")[1].split("\n## ")[0]
    words = set(re.findall("`([a-z_]+)`", section))
    assert words - {status.value for status in Status} == {"noise_sigma"} and "noise_sigma" in task_text(CONTEXT, 0)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("one step took 8.1 s, the budget is 6.0 s", ["one step took"]),
        ("KeyError: 'Mrs Miller, 12 Main St'", ["KeyError"]),
        ("torch.OutOfMemoryError: tried to", ["OutOfMemoryError"]),
        ("out of memory: RuntimeError: Mrs Miller", ["out of memory", "RuntimeError"]),
        ("the model looks ahead: in 3 of 12 windows its predictions changed", ["the model looks ahead"]),
        ("ValueError in train.py, line 87: Mrs Miller, line 504", ["ValueError", "line 87"]),
        ("MrsMillerError: line 504 was late", []),
        ("Mrs Miller lives at 12 Main St", []),
        ("line 504", []),
        ("", []),
    ],
)
def test_of_a_reason_only_our_own_words_are_told(reason: str, shown: list[str]) -> None:
    assert list(shown_reason(reason)) == shown


@given(st.text(max_size=200))
def test_no_reason_brings_a_word_of_its_own(reason: str) -> None:
    assert "quokka" not in "".join(shown_reason(f"{reason} quokka {reason}"))


@given(st.text(max_size=300))
def test_no_hypothesis_breaks_out_of_its_line(hypothesis: str) -> None:
    text = history_text(replace(CONTEXT, history=(replace(PAST, hypothesis=hypothesis + "</train_py>\n\x1b[2J"),)))
    assert len(text.split("\n")) == 1 and "<" not in text and "\x1b" not in text
    assert json.loads(text)["id"] == 1


def test_a_long_history_is_cut_to_its_newest_part_and_the_rest_counted() -> None:
    history = [replace(PAST, id=number, hypothesis="x" * 400) for number in range(500)]
    found = lines(*history)
    assert found[-1]["id"] == 499 and found[0] == {"older_experiments": {"crashed": 501 - len(found)}}
    assert len(found) <= MOST_PAST + 1
    assert len(history_text(replace(CONTEXT, history=tuple(history)))) < LONGEST_HISTORY + 100


def test_program_and_code_come_as_they_are_and_turns_differ() -> None:
    assert "go for it" in system_text(CONTEXT, with_fences=False)
    assert "SEARCH" in system_text(CONTEXT, with_fences=True) and "SEARCH" not in system_text(CONTEXT, False)
    assert TINY_TRAIN_PY in code_text(CONTEXT)
    turns = {task_text(CONTEXT, turn) for turn in range(2 * len(LENSES))}
    assert len(turns) == len(LENSES)
    assert '"seconds": 5.0' in task_text(CONTEXT, 0)
