"""A campaign that lowers the cost of a task: its guard, its gate, and journals from before there was one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_gate import NOISE, POLICY, make_pairs
from toys import toy_recipe

from slm_ar.core.agent import opening
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.gate import judge_claim
from slm_ar.core.agent.journal import Event
from slm_ar.core.agent.opening import gate_policy
from slm_ar.core.agent.replay import _final
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Decision, Document, Span, Task
from slm_ar.core.prepare.heldout import HeldDocument, to_json


def run_of(revision: str, bits_per_byte: float) -> Any:
    return SimpleNamespace(revision=revision, dev=SimpleNamespace(bits_per_byte=bits_per_byte))


@pytest.mark.parametrize(("bits", "breaks"), [(1.02, False), (1.031, True), (0.9, False)])
def test_the_guard_is_the_proven_code(bits: float, breaks: bool) -> None:
    """A chain of edits, each a little worse than the one before, must not spend the guard again and again."""
    recipe = toy_recipe(metric={"task": "delay", "guard_percent": 3.0})
    campaign = SimpleNamespace(recipe=recipe)
    state = SimpleNamespace(rung="a", runs=[run_of("a", 0.99), run_of("a", 1.01), run_of("b", 1.02)])
    assert Campaign._breaks_guard(campaign, state, run_of("c", bits)) is breaks  # type: ignore[arg-type]
    plain = SimpleNamespace(recipe=toy_recipe())
    assert Campaign._breaks_guard(plain, state, run_of("c", 9.0)) is False  # type: ignore[arg-type]


def test_the_smallest_effect_is_that_of_the_task() -> None:
    recipe = toy_recipe(metric={"task": "delay"})
    assert gate_policy(recipe).min_effect == recipe.gate.min_effect
    assert gate_policy(recipe, {"min_effect": 0.25}).min_effect == 0.25


@pytest.mark.parametrize(
    ("metric", "declared", "level", "smallest"),
    [
        ("accuracy", 0.0, 0.4, 0.0025),
        ("accuracy", 0.01, 0.4, 0.01),
        ("macro_f1", 0.0, 0.4, 0.005),
        ("pr_auc", 0.0, 0.4, 0.005),
        ("mae", 0.0, 8.0, 0.04),
        ("mae", 0.25, 8.0, 0.25),
        ("bits_per_answer", 0.0, 2.0, 0.01),
    ],
)
def test_what_is_worth_a_claim_depends_on_the_metric(
    metric: str, declared: float, level: float, smallest: float
) -> None:
    facts = {"metric": metric, "min_effect": declared}
    assert gate_policy(toy_recipe(), facts, level).min_effect == pytest.approx(smallest)


class Held:
    """Prepared data whose hidden split asks for "alarm" so many times."""

    def __init__(self, folder: Path, positives: int) -> None:
        self.held_folder = folder
        texts = ["alarm"] * positives + ["quiet"] * 20
        with (folder / "hidden.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                held = HeldDocument(Document(str(number), text, "g", None, (Span(0, 5, "alert"),)), {})
                file.write(to_json(held) + "\n")


@pytest.mark.parametrize(
    ("metric", "positives", "words"),
    [("pr_auc", 99, "fewer than 100 times"), ("f1", 0, "the rare answer"), ("pr_auc", 100, ""), ("accuracy", 3, "")],
)
def test_rare_answers_are_reported_and_not_claimed_on(tmp_path: Path, metric: str, positives: int, words: str) -> None:
    task = Task("alert", "choice", metric, "max", choices=("alarm", "quiet"), positive="alarm")
    found = opening._too_rare(task, Held(tmp_path, positives))  # type: ignore[arg-type]
    assert words in found and bool(found) == bool(words)


def test_an_obstacle_forbids_a_certificate_whatever_the_pairs_show() -> None:
    pairs = make_pairs([-0.2, -0.21, -0.19])
    assert judge_claim(pairs, NOISE, POLICY, 0.04).decision is Decision.CERTIFY
    verdict = judge_claim(pairs, NOISE, POLICY, 0.04, obstacle="report only: too rare")
    assert verdict.decision is Decision.UNCLEAR
    assert verdict.reasons[0] == "not certifiable, report only: too rare"


def test_a_final_test_of_the_first_version_is_still_read() -> None:
    body = {"baseline": "a", "final": "b", "is_proven": True, "pairs": 2, "baseline_bpb": 1.0, "final_bpb": 0.9}
    body |= {"delta": -0.1, "delta_low": -0.2, "delta_high": -0.05, "opening": 1}
    body |= {"baseline_bits_per_record": 8.0, "final_bits_per_record": 7.0}
    state = CampaignState("i", {}, "then", "a", "b", "b", {})
    record = _final(state, Event(1, "now", "final", body, "h")).final
    assert record is not None
    assert (record.baseline_score, record.final_bits_per_byte) == (1.0, 0.9)
