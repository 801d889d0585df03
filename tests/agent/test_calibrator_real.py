"""Rates measured by the real executor: the sandbox, the made-up data and the shipped code's own knobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import TINY_TRAIN_PY, toy_machine, toy_recipe

from slm_ar.core.agent import calibrator
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.opening import ensure_campaign
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train.executor import LocalExecutor


@pytest.fixture
def campaign(workspace: Path, journal: Journal, tiny_data: PreparedData) -> Iterator[Campaign]:
    recipe = toy_recipe(budget={"seconds": 30.0, "steps": None, "experiments": 20})
    ensure_campaign(journal, recipe, tiny_data, toy_machine(), TINY_TRAIN_PY)
    journal.append("planned", {"experiments": 20, "plan": {"night": 0, "from": 0}})
    with LocalExecutor(toy_machine(), tiny_data, allow_unsafe=True) as executor:
        yield Campaign(workspace, recipe, journal, executor, QuietDisplay(), "program")


def test_settings_are_timed_in_the_sandbox(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrator, "MOST_SETTINGS", 2)
    monkeypatch.setattr(calibrator, "SHARE", 100.0)  # however busy the machine is
    assert calibrator.is_due(campaign, campaign.state)
    calibrator.measure_rates(campaign, campaign.state)
    rates = campaign.state.rates
    assert rates is not None and len(rates) == 2
    assert [rate.status for rate in rates] == [None] * 2
    assert rates[0].knobs == {"CONTEXT": 32, "BATCH_TOKENS": 256}
    for rate in rates:
        assert rate.tokens_per_step == rate.knobs["BATCH_TOKENS"]
        assert rate.updates > 1 and rate.passes > 0 and rate.parameters > 1000
    assert not (campaign.runs_folder / calibrator.FOLDER).exists()
    assert not calibrator.is_due(campaign, campaign.state)
