"""The simulations around the gate: the table that the command prints, claims on task metrics, and their honesty."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from slm_ar.core.agent import gate, planner, pruning, simulate_table
from slm_ar.core.agent.simulate import EARLY, Condition, simulate_nights
from slm_ar.core.agent.simulate_metric import TASKS, MetricCondition, simulate_metric, true_levels
from slm_ar.core.agent.simulate_table import Row, gate_rows
from slm_ar.core.cli.main import cli
from slm_ar.core.contracts import Decision


@pytest.mark.parametrize(
    ("low", "high", "is_upper", "verdict"),
    [
        (0.01, 0.07, True, "met"),
        (0.09, 0.12, True, "missed"),
        (0.07, 0.09, True, "open"),
        (0.86, 0.9, False, "met"),
        (0.7, 0.8, False, "missed"),
        (0.8, 0.9, False, "open"),
    ],
)
def test_a_bound_is_met_or_missed_only_when_the_nights_leave_no_doubt(low, high, is_upper, verdict):
    bound = 0.08 if is_upper else 0.85
    row = Row("what", "world", 100, (low + high) / 2, low, high, bound, is_upper)
    assert row.verdict == verdict
    assert f"| {verdict} |" in row.markdown()
    assert replace(row, bound=None).verdict == ""


def test_worthless_heads_are_hardly_ever_certified_on_a_metric():
    for metric in ("macro_f1", "mae"):
        found = simulate_metric(MetricCondition(metric), 15, seed=3)
        assert found.certified_nights <= 1 and found.true_gain == 0.0


def test_a_large_gain_of_a_metric_is_proven_and_a_loss_never():
    gain = simulate_metric(MetricCondition("accuracy", 0.4), 12, seed=2)
    assert gain.certified_claims >= 11 and gain.true_gain > 0.05
    loss = simulate_metric(MetricCondition("accuracy", -0.4), 12, seed=2)
    assert loss.certified_nights == 0 and loss.true_gain < -0.05


@pytest.mark.parametrize("metric", sorted(TASKS))
def test_a_wider_margin_is_better_in_every_metric(metric):
    level, gain = true_levels(MetricCondition(metric, 0.3), seed=1)
    assert level > 0 and gain > 0
    assert true_levels(MetricCondition(metric, 0.0), seed=1)[1] == 0


def test_metric_nights_are_a_function_of_their_seed():
    condition = MetricCondition("accuracy", 0.1)
    assert simulate_metric(condition, 2, seed=1) == simulate_metric(condition, 2, seed=1)


def test_metric_nights_are_judged_by_the_shipped_gate(monkeypatch):
    judge = gate.judge_claim
    monkeypatch.setattr(gate, "judge_claim", lambda *given: replace(judge(*given), decision=Decision.CERTIFY))
    assert simulate_metric(MetricCondition("accuracy"), 3, seed=1).certified_nights == 3


EARLY_NIGHT = Condition(EARLY, proposals=40, prunes=True)


def test_early_nights_get_more_for_their_runs_when_hopeless_ones_end():
    ended, whole = (simulate_nights(replace(EARLY_NIGHT, prunes=prunes), 12, seed=3) for prunes in (True, False))
    assert whole.ended == whole.ended_helpful == 0
    assert 5 < ended.ended < 25
    assert ended.ended_helpful < 0.15
    assert ended.runs < 0.9 * whole.runs
    assert ended.true_gain > 0.8 * whole.true_gain
    assert simulate_nights(EARLY_NIGHT, 12, seed=3) == ended


def test_hopeless_runs_are_ended_by_the_shipped_rule(monkeypatch):
    monkeypatch.setattr(pruning, "is_hopeless", lambda share, behind, past: True)
    none = simulate_nights(EARLY_NIGHT, 3, seed=3)
    assert none.ended == 40 - 40 // planner.PLACEBO_EVERY, "all but the placebos"
    assert none.true_gain == 0 and none.found_nights == 0
    monkeypatch.setattr(pruning, "is_hopeless", lambda share, behind, past: False)
    assert simulate_nights(EARLY_NIGHT, 3, seed=3).ended == 0


def test_the_table_has_a_row_for_every_requirement(monkeypatch):
    monkeypatch.setattr(simulate_table, "METRIC_SHARE", 2)
    rows = list(gate_rows(2, seed=1))
    bounds = {(row.what, row.bound) for row in rows if row.bound is not None}
    assert bounds == {
        ("nights with a false claim", 0.08),
        ("nights with a false claim", 0.12),
        ("3 sigma proven", 0.85),
        ("true gain, share of naive", 0.75),
        ("true gain, share of naive", 1.0),
        ("over-claim", 0.1),
    }
    assert all(math.isfinite(row.value) for row in rows)
    widths = {row.markdown().count("|") for row in rows} | {simulate_table.HEADER.splitlines()[0].count("|")}
    assert widths == {8}


def test_the_command_prints_the_table(monkeypatch):
    rows = (
        Row("over-claim", "late", 10, 0.01, -math.inf, math.inf, 0.1),
        Row("proven", "macro_f1", 10, 0.5, 0.2, 0.8, None),
    )
    monkeypatch.setattr(simulate_table, "gate_rows", lambda nights, seed: iter(rows))
    text = CliRunner().invoke(cli, ["simulate-gate", "--nights", "10"])
    assert text.exit_code == 0
    assert text.output.splitlines() == [*simulate_table.HEADER.splitlines(), *(row.markdown() for row in rows)]
    lines = CliRunner().invoke(cli, ["simulate-gate", "--nights", "10", "--json"]).output.splitlines()
    assert [json.loads(line)["low"] for line in lines] == [None, 0.2]
