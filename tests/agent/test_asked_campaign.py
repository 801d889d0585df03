"""A campaign that a language model drives: the real loop, numbers for training, a fake server on a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_messages import FakeServer, fake_messages_server, status, text, tool
from test_campaign import FakeExecutor, held_score, kinds, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.proposers import calls, endpoint, make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.contracts import Proposer, Status
from slm_ar.core.errors import ProposerError, TrainingError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import ProposerTable
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import status_text

CANARY = "sk-ant-canary-0123456789-secret"
BETTER = tool(("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 "), hypothesis="double the rate")
WORSE = tool(("MATRIX_LR = 0.04 ", "MATRIX_LR = 0.01 "), hypothesis="quarter the rate")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    with fake_messages_server() as fake:
        monkeypatch.setattr(endpoint, "is_anthropic", lambda address: address.startswith(fake.address))
        yield fake


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TINY_TRAIN_PY, encoding="utf-8")
    return tmp_path


def claude(server: FakeServer, workspace: Path, **keys: object) -> Proposer:
    table = ProposerTable.model_validate({"name": "claude", "base_url": server.address, **keys})
    return make_proposer("claude", Setting(table, workspace / ".slm", "toy", lambda line: None))


def test_a_night_of_claude(workspace: Path, server: FakeServer, tiny_data: PreparedData) -> None:
    """Kept, reverted, declined, unusable: each is an experiment, and only the first two train."""
    nonsense = tool(("nowhere", "x"), hypothesis="nonsense")
    server.steps[:] = [BETTER, WORSE, text("no", "refusal"), nonsense]
    executor = FakeExecutor()
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(gate={"claim_every": 50}))
        assert night(campaign, claude(server, workspace), 4) == "planned experiments done"
        state = campaign.state
        assert [item.status for item in state.experiments] == [
            Status.KEPT, Status.REVERTED, Status.SKIPPED, Status.SKIPPED,
        ]  # fmt: skip
        assert state.head == state.experiments[0].revision
        assert "declined" in state.experiments[2].reason and "does not stand" in state.experiments[3].reason
        assert {item.proposer for item in state.experiments} == {"claude"}
        assert [run.experiment for run in state.runs if run.role == "search"] == [1, 2]
        assert "no usable edit" in status_text(summarise(state))
        hidden = [held_score(run, "hidden") for run in state.runs if run.held_digest is not None]
        everything = json.dumps([event.body for event in journal.events])
    asked = " ".join(request.raw.decode() for request in server.asked)
    assert hidden and not [score for score in hidden if f"{score.bits_per_byte:.6f}" in asked]
    assert "double the rate" in asked and '\\"status\\": \\"reverted\\"' in asked
    assert CANARY not in everything + asked
    assert not [path for path in workspace.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_failure_parks_the_campaign_and_the_same_command_goes_on(
    workspace: Path, server: FakeServer, tiny_data: PreparedData
) -> None:
    recipe = toy_recipe(gate={"claim_every": 50})
    server.steps[:] = [BETTER, status(401, "authentication_error")]
    with Journal(workspace / ".slm") as journal:
        with pytest.raises(ProposerError, match="does not accept the key"):
            night(opened(workspace, journal, tiny_data, recipe=recipe), claude(server, workspace), 2)
        assert kinds(journal).count("judged") == 1
    server.steps[:] = [WORSE]
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data, recipe=recipe)
        assert night(campaign, claude(server, workspace)) == "planned experiments done"
        assert [item.status for item in campaign.state.experiments] == [Status.KEPT, Status.REVERTED]
        assert kinds(journal).count("campaign_started") == kinds(journal).count("planned") == 1


def test_at_the_cap_the_night_goes_to_its_last_claim(
    workspace: Path, server: FakeServer, tiny_data: PreparedData
) -> None:
    dear = {"input_tokens": 1, "output_tokens": 20_000}
    server.steps[:] = [tool(("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 "), usage=dear), WORSE]
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data)
        proposer = claude(server, workspace, output_tokens=20_000, campaign_tokens=36_000)
        assert night(campaign, proposer).endswith("20,001 of this campaign's 36,000 are spent")
        assert len(campaign.state.experiments) == len(server.asked) == 1
        assert campaign.state.claims[0].verdict is not None


def test_a_model_that_never_gives_an_edit_ends_the_night(
    workspace: Path, server: FakeServer, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE_SECONDS", 0.0)
    server.steps[:] = [text("no", "refusal")]
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data, recipe=toy_recipe(gate={"claim_every": 50}))
        with pytest.raises(TrainingError, match="in a row failed"):
            night(campaign, claude(server, workspace), 14)
        assert len(campaign.state.experiments) == len(server.asked) == 10
