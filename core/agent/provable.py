"""The smallest gain that a campaign could prove, in numbers and in words. Pure; read by night.py, opening.py, reports.

Everything here is computed from dev and the calibration. What a claim in a task's metric needs depends on noise that is
measured on hidden text, and that is told to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from . import gate
from .state import CampaignState

SMALLEST_EFFECTS = MappingProxyType(
    {"accuracy": 0.0025, "exact_match": 0.0025, "f1": 0.005, "macro_f1": 0.005, "pr_auc": 0.005}
)
"""Of task metrics that are shares: 0.25 points of accuracy, half a point of F1."""
SMALLEST_SHARE = 0.005
"""Of errors and losses, which have units: half a percent of what the starting code has."""


def smallest_effect(metric: str, declared: float, level: float) -> float:
    """The smallest gain in a task's metric worth a claim: what the task declares, and never less than is usual.

    `level` is the metric of the starting code.
    """
    return max(declared, SMALLEST_EFFECTS.get(metric, SMALLEST_SHARE * abs(level)))


def provable_words(state: CampaignState) -> str:
    """From which gain on something could be proven now, with its unit; empty while the noise is not known."""
    table = state.facts.get("gate")
    if state.sigma is None or not isinstance(table, Mapping) or "alpha_split" not in table:
        return ""
    metric = state.facts.get("metric")
    return _metric_words(state, metric) if metric else _text_words(state, table)


def _text_words(state: CampaignState, table: Mapping[str, Any]) -> str:
    assert state.sigma is not None
    policy = gate.GatePolicy(table["alpha"], tuple(table["looks"]), tuple(table["alpha_split"]), table["min_effect"])
    variance = state.sigma**2
    noise = gate.Noise(variance, 2.0 * variance, int(table["calibration_runs"]) - 1)
    night = max((int(state.facts.get("night", 0)), *(claim.night for claim in state.claims)))
    claims = len(state.claims) - int(state.facts.get("claims_before", 0))
    gain = gate.smallest_provable_gain(noise, 0.0, policy, gate.claim_alpha(policy, night, claims))
    return f"a gain from about {gain:.4f} {state.unit} on; a smaller one cannot be told from luck"


def _metric_words(state: CampaignState, metric: Mapping[str, Any]) -> str:
    if metric.get("report_only"):
        return f"nothing: {metric['report_only']}"
    name, declared = str(metric.get("metric", "")), float(metric.get("min_effect", 0.0))
    if name in SMALLEST_EFFECTS:
        least = f"{smallest_effect(name, declared, 0.0):g} {state.claim_unit}"
    else:
        least = f"{100 * SMALLEST_SHARE:g} % of what the starting code has, in {state.claim_unit}"
        least += f", and {declared:g}" if declared else ""
    return f"a gain of at least {least}; more where luck is larger, which is measured on hidden text and told to nobody"
