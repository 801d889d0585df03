"""The hybrid: an optimiser and a language model in turns, and what happens when the model cannot be asked any more."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from agent_programs import make_program
from fake_messages import fake_messages_server, text, tool
from hypothesis import given
from hypothesis import strategies as st
from test_campaign import night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent.edits import parse_knobs, revision_digest, template_digest
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.agent.proposers.hybrid import FIRST_TURNS, HybridProposer, is_partners_turn
from slm_ar.core.agent.proposers.prompt import NotedContext, task_text
from slm_ar.core.contracts import PastExperiment, Proposal, ResearchContext, Status
from slm_ar.core.errors import ProposerError, UsageError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import ProposerTable

START = revision_digest(TINY_TRAIN_PY)
CONTEXT = ResearchContext("p", TINY_TRAIN_PY, START, (), {}, {"seconds": 5.0}, 0, 0.01)


class Partner:
    """A language model that always has the same idea, until it is told to fail."""

    name = "claude"
    opening_line = "claude asks somebody"
    closing_line = "claude has taken 1 call"

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.error: ProposerError | None = None
        self.is_done = False
        self.unusable = ""

    def propose(self, context: ResearchContext) -> Proposal | None:
        assert isinstance(context, NotedContext)
        self.notes.append(context.note)
        if self.error is not None:
            raise self.error
        text = f"{context.train_py}# idea {len(context.history)}\n"
        return None if self.is_done else Proposal("an idea", "", text, unusable=self.unusable)


def setting(tmp_path: Path, told: list[str] | None = None, **keys: object) -> Setting:
    table = ProposerTable.model_validate({"name": "hybrid", "with": "local", **keys})
    return Setting(table, tmp_path / ".slm", "toy", [].append if told is None else told.append)


def played(hybrid: HybridProposer, turns: int, seed: int = 0) -> list[tuple[str, Proposal]]:
    """(who, what) of each turn of a campaign in which nothing is ever better."""
    found: list[tuple[str, Proposal]] = []
    context = replace(CONTEXT, seed=seed)
    for _ in range(turns):
        proposal = hybrid.propose(context)
        assert proposal is not None
        found.append((hybrid.name, proposal))
        knobs = {knob.name: knob.value for knob in parse_knobs(proposal.train_py)}
        past = PastExperiment(
            len(found), revision_digest(proposal.train_py), START, hybrid.name, proposal.hypothesis, Status.REVERTED,
            2.0 + len(found) / 100, knobs, template_digest(proposal.train_py),
        )  # fmt: skip
        context = replace(context, history=(*context.history, past))
    return found


def test_the_optimiser_begins_and_shows_its_state_later(tmp_path: Path) -> None:
    partner = Partner()
    hybrid = HybridProposer(setting(tmp_path), partner)
    turns = played(hybrid, FIRST_TURNS + 12)
    assert [who for who, _ in turns[:FIRST_TURNS]] == ["hybrid:search"] * FIRST_TURNS
    asked = [who for who, _ in turns[FIRST_TURNS:]].count("hybrid:claude")
    assert asked == len(partner.notes) and 3 <= asked <= 4
    assert f"{FIRST_TURNS}" in partner.notes[0] and "MATRIX_LR" in partner.notes[-1]
    assert "claude on 33% of the turns" in hybrid.opening_line and "claude asks somebody" in hybrid.opening_line
    assert hybrid.closing_line == "claude has taken 1 call"
    assert hybrid.wants_rates == getattr(make_proposer("search"), "wants_rates", False)


def test_the_state_stands_in_the_prompt_and_nowhere_else() -> None:
    noted = NotedContext("p", TINY_TRAIN_PY, START, (), {}, {}, 0, 0.01, note="loss 0.1: DEPTH 4")
    assert "loss 0.1: DEPTH 4" in task_text(noted, 0) and task_text(noted, 0).index("loss") < task_text(noted, 0).index(
        "# Your turn"
    )
    assert task_text(replace(noted, note=""), 0) == task_text(
        ResearchContext("p", TINY_TRAIN_PY, START, (), {}, {}, 0, 0.01), 0
    )


@pytest.mark.parametrize("error", [None, ProposerError("nothing answers at x", "start it")])
def test_without_its_model_it_goes_on_and_says_so_once(tmp_path: Path, error: ProposerError | None) -> None:
    told: list[str] = []
    partner = Partner()
    partner.error, partner.is_done = error, True
    turns = played(HybridProposer(setting(tmp_path, told), partner), FIRST_TURNS + 12)
    assert {who for who, _ in turns} == {"hybrid:search"} and len(partner.notes) == 1
    assert len(told) == 1 and "claude is not asked any more" in told[0]
    assert ("start it" in told[0]) == (error is not None)


def test_what_is_no_edit_costs_no_turn(tmp_path: Path) -> None:
    told: list[str] = []
    partner = Partner()
    partner.unusable = "it left train.py as it was"
    turns = played(HybridProposer(setting(tmp_path, told), partner), FIRST_TURNS + 12)
    assert {who for who, _ in turns} == {"hybrid:search"} and not any(proposal.unusable for _, proposal in turns)
    assert len(told) == len(partner.notes) >= 3 and "as it was; the optimiser takes the turn" in told[0]


def test_where_no_knob_is_left_the_model_takes_every_turn(tmp_path: Path) -> None:
    partner = Partner()
    hybrid = HybridProposer(setting(tmp_path), partner)
    without = TINY_TRAIN_PY.replace("# knob:", "# once:")
    past = PastExperiment(1, "a", "b", "x", "h", Status.REVERTED, 1.0, {}, "t")
    for count in range(FIRST_TURNS + 4):
        proposal = hybrid.propose(replace(CONTEXT, train_py=without, history=(past,) * count))
        assert proposal is not None and hybrid.name == "hybrid:claude" and len(partner.notes) == count + 1
    partner.unusable = "it left train.py as it was"
    for count in range(FIRST_TURNS, FIRST_TURNS + 4):
        skipped = hybrid.propose(replace(CONTEXT, train_py=without, history=(past,) * count))
        assert skipped is not None and skipped.unusable and hybrid.name == "hybrid:claude"
    assert len(partner.notes) == FIRST_TURNS + 8, "it is asked once a turn"
    partner.is_done = True
    assert hybrid.propose(replace(CONTEXT, train_py=without)) is None


@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.integers(30, 300))
def test_the_share_holds_and_depends_on_seed_and_place_alone(seed: int, share: float, count: int) -> None:
    past = PastExperiment(1, "a", "b", "x", "h", Status.REVERTED, 1.0, {}, "t")
    turns = [is_partners_turn(replace(CONTEXT, seed=seed, history=(past,) * n), share) for n in range(count)]
    assert not any(turns[:FIRST_TURNS])
    assert abs(sum(turns) - share * (count - FIRST_TURNS)) <= 1
    assert turns == [is_partners_turn(replace(CONTEXT, seed=seed, history=(past,) * n), share) for n in range(count)]


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"with": None}, "needs to know which language model"), ({"with": "search"}, "cannot work with 'search'")],
)
def test_a_hybrid_with_nobody(tmp_path: Path, keys: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_proposer("hybrid", setting(tmp_path, **keys))


def test_by_name_the_partner_gets_its_own_keys(tmp_path: Path) -> None:
    hybrid = make_proposer("hybrid", setting(tmp_path, model="small", base_url="http://localhost:9"))
    assert isinstance(hybrid, HybridProposer) and "local asks small at localhost:9" in hybrid.opening_line
    with pytest.raises(UsageError, match="which model to ask"):
        make_proposer("hybrid", setting(tmp_path))


# --- with a language model on a socket ------------------------------------------------------


def test_a_language_model_is_shown_the_state_and_its_costs_are_counted(tmp_path: Path) -> None:
    told: list[str] = []
    with fake_messages_server() as server:
        server.steps[:] = [
            tool(("class Model", "# an idea\nclass Model"), hypothesis="a remark"),
            text("no", "refusal"),
        ]
        keys = {"model": "small", "base_url": server.address, "share": 0.9}
        hybrid = make_proposer("hybrid", setting(tmp_path, told, **keys))
        assert isinstance(hybrid, HybridProposer)
        turns = played(hybrid, FIRST_TURNS + 3)
        bodies = [json.dumps(body, ensure_ascii=False) for body in server.bodies]
    assert [who for who, _ in turns[FIRST_TURNS:]].count("hybrid:local") == 1
    assert len(bodies) == 3 and all("works beside you" in body and "past results" in body for body in bodies)
    assert "3 calls" in hybrid.closing_line and all("declined" in line for line in told) and len(told) == 2


def test_at_its_cap_the_optimiser_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    with fake_messages_server() as server:
        keys = {"model": "small", "base_url": server.address, "campaign_tokens": 1}
        hybrid = make_proposer("hybrid", setting(tmp_path, told, **keys))
        assert isinstance(hybrid, HybridProposer)
        turns = played(hybrid, FIRST_TURNS + 9)
        assert not server.asked
    assert {who for who, _ in turns} == {"hybrid:search"}
    assert [line for line in told if "local is not asked any more" in line] == told[-1:] and "campaign's 1 " in told[0]


def test_a_campaign_of_a_program_and_the_optimiser(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path_factory.mktemp("bin")
    body = """
words = open("history.md").read()
assert "An optimiser that turns the knobs works beside you" in words and "MATRIX_LR" in words
edit("class Model", "# an idea\\nclass Model")
print("HYPOTHESIS: a remark")
"""
    make_program(programs, body)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    keys = {"with": "cli:agent", "command": ["agent", "{prompt}"], "share": 0.95}
    with Journal(workspace / ".slm") as journal:
        campaign = opened(workspace, journal, tiny_data, recipe=toy_recipe(gate={"claim_every": 50}))
        night(campaign, make_proposer("hybrid", setting(workspace, **keys)), FIRST_TURNS + 2)
        experiments = campaign.state.experiments
    who = [item.proposer for item in experiments if item.revision != item.parent]
    assert who[:FIRST_TURNS] == ["hybrid:search"] * FIRST_TURNS and "hybrid:cli:agent" in who[FIRST_TURNS:]
    assert "a remark" in {item.hypothesis for item in experiments}
