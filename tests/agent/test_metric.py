"""A campaign that lowers the cost of a task: its guard, its gate, and journals from before there was one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from toys import toy_recipe

from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.journal import Event
from slm_ar.core.agent.opening import gate_policy
from slm_ar.core.agent.replay import _final
from slm_ar.core.agent.state import CampaignState


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


def test_a_final_test_of_the_first_version_is_still_read() -> None:
    body = {"baseline": "a", "final": "b", "is_proven": True, "pairs": 2, "baseline_bpb": 1.0, "final_bpb": 0.9}
    body |= {"delta": -0.1, "delta_low": -0.2, "delta_high": -0.05, "opening": 1}
    body |= {"baseline_bits_per_record": 8.0, "final_bits_per_record": 7.0}
    state = CampaignState("i", {}, "then", "a", "b", "b", {})
    record = _final(state, Event(1, "now", "final", body, "h")).final
    assert record is not None
    assert (record.baseline_score, record.final_bits_per_byte) == (1.0, 0.9)
