"""The tools of a coding agent on a real campaign whose training is numbers: what they take, refuse, run and answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_campaign import OUTCOME, FakeExecutor, held_score, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent.campaign import MOST_FAILURES_IN_A_ROW
from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.replay import replay
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.egress import Ledger
from slm_ar.core.errors import SlmArError
from slm_ar.core.mcp.desk import Desk, DeskDisplay, Driver, HungUpError
from slm_ar.core.mcp.telling import View
from slm_ar.core.mcp.tools import ToolError, Tools
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import Recipe
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.train.training_run import TrainJob

PATIENCE_SECONDS = 120
"""Ends what would hang; nothing here takes long."""


class Killed(BaseException):
    """The process ends here; nothing more is written."""


class Night(threading.Thread):
    """The campaign's side: what `slm-ar mcp` does in its main thread, with an executor made of numbers."""

    def __init__(self, folder: Path, data: PreparedData, recipe: Recipe, executor: FakeExecutor) -> None:
        super().__init__(daemon=True)
        self.folder, self.data, self.recipe, self.executor = folder, data, recipe, executor
        self.desk = Desk()
        self.complaints: list[SlmArError] = []
        self.tools = Tools(self.desk, self.view, Ledger(folder / ".slm"), self.complaints.append)

    def run(self) -> None:
        with Journal(self.folder / ".slm") as journal:
            while self.desk.wait_for_errand():
                campaign = opened(self.folder, journal, self.data, self.executor, self.recipe)
                campaign.display = DeskDisplay(self.desk, QuietDisplay())
                try:
                    night(campaign, Driver(self.desk))
                    self.desk.end_errand()
                except SlmArError as error:
                    self.desk.end_errand(error)
                except (HungUpError, Killed):
                    return

    def state(self) -> CampaignState | None:
        try:
            with Journal(self.folder / ".slm", read_only=True) as journal:
                return replay(journal.events)
        except SlmArError:
            return None

    def view(self) -> View:
        return View(self.recipe, "# the program", TINY_TRAIN_PY, self.state())

    # --- the agent's side ---

    def call(self, name: str, **arguments: Any) -> str:
        return "\n".join(self.tools.answer(name, arguments))

    def propose(self, old: str, new: str, hypothesis: str = "an idea", **others: Any) -> Any:
        revision = others.pop("revision", self.view().revision)
        edits = [{"old": old, "new": new}]
        return json.loads(self.call("propose_edits", revision=revision, hypothesis=hypothesis, edits=edits, **others))

    def run_experiment(self) -> list[Any]:
        errand = self.tools.start({})
        wait_for(lambda: errand.is_done)
        return [json.loads(line) for line in self.tools.outcome(errand)[0].splitlines()]


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.fixture
def make_night(workspace: Path, tiny_data: PreparedData) -> Iterator[Callable[..., Night]]:
    nights: list[Night] = []

    def make(executor: FakeExecutor | None = None, **tables: Any) -> Night:
        made = Night(workspace, tiny_data, toy_recipe(**tables), executor or FakeExecutor())
        made.start()
        nights.append(made)
        return made

    yield make
    for made in nights:
        made.desk.hang_up()
        made.join(PATIENCE_SECONDS)
        assert not made.is_alive()


# --- a campaign -----------------------------------------------------------------------------


def test_an_agent_drives_a_campaign(make_night: Callable[..., Night]) -> None:
    """Kept, reverted, proven; the agent sees rounded dev scores, and nothing hidden."""
    agent = make_night(gate={"claim_every": 2})
    answers = [agent.call("describe_task"), agent.call("read_train_file"), agent.call("results"), agent.call("report")]
    assert "begins the campaign" in answers[3]
    pending = agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.08 ", "four times the rate")
    kept, standing = agent.run_experiment()
    assert (kept["status"], kept["revision"], kept["is_current"]) == ("kept", pending["pending_revision"], True)
    assert standing["current_revision"] == kept["revision"] != standing["proven_revision"]
    answers.append(agent.call("read_train_file"))
    assert "MATRIX_LR = 0.08" in answers[-1]
    agent.propose("MATRIX_LR = 0.08 ", "MATRIX_LR = 0.01 ", "an eighth of it")
    reverted, proof, standing = agent.run_experiment()
    assert reverted["status"] == "reverted" and "is_current" not in reverted
    assert proof == {"proof": 1, "of_revision": kept["revision"], "decision": "proven"}
    assert standing["proven_revision"] == kept["revision"]
    answers += [agent.call(name) for name in ("describe_task", "results", "report")]
    told = "\n".join([*answers, json.dumps([kept, reverted, proof, standing])])
    state = agent.state()
    assert state is not None and {item.proposer for item in state.experiments} == {"mcp"}
    hidden = [held_score(run, "hidden").bits_per_byte for run in state.runs if run.held_digest is not None]
    assert hidden and not [score for score in hidden if f"{score:.4f}" in told]
    exact = [item.dev_score for item in state.experiments]
    assert not [score for score in exact if score is not None and str(score)[:8] in told]
    assert sum(1 for line in Ledger(agent.folder / ".slm").entries()) == 12  # calls that were answered


def test_the_first_call_may_only_measure_the_noise(make_night: Callable[..., Night]) -> None:
    agent = make_night()
    noise, standing = agent.run_experiment()
    assert noise["measured_on"] == "the starting code" and noise["noise"] > 0
    assert standing["current_revision"] == revision_digest(TINY_TRAIN_PY)
    with pytest.raises(ToolError, match="call propose_edits first"):
        agent.run_experiment()


def test_who_stops_waiting_loses_nothing(make_night: Callable[..., Night]) -> None:
    """The run goes on; calling again joins it, and once it is over its answer waits."""
    may_end, is_training = threading.Event(), threading.Event()

    def slow(job: TrainJob) -> TrainOutcome:
        if "MATRIX_LR = 0.04" in job.train_py:
            is_training.set()
            assert may_end.wait(PATIENCE_SECONDS)
        return OUTCOME

    agent = make_night(FakeExecutor(slow))
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
    errand = agent.tools.start({})
    assert is_training.wait(PATIENCE_SECONDS)
    assert agent.desk.progress.startswith("experiment 1: an idea")
    with pytest.raises(ToolError, match="An experiment is running"):
        agent.propose("WIDTH = 16 ", "WIDTH = 32 ")
    assert agent.tools.start({}) is errand
    may_end.set()
    wait_for(lambda: errand.is_done)
    kept, _ = agent.run_experiment()
    assert kept["experiment"] == 1 and kept["status"] == "kept"
    with pytest.raises(ToolError, match="call propose_edits first"):
        agent.run_experiment()


def test_an_interrupted_experiment_goes_first(
    workspace: Path, tiny_data: PreparedData, make_night: Callable[..., Night]
) -> None:
    def killed(job: TrainJob) -> TrainOutcome:
        if "MATRIX_LR = 0.04" in job.train_py:
            raise Killed
        return OUTCOME

    first = Night(workspace, tiny_data, toy_recipe(), FakeExecutor(killed))
    first.start()
    first.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
    first.tools.start({})
    first.join(PATIENCE_SECONDS)
    agent = make_night()
    with pytest.raises(ToolError, match="experiment 1 is not judged yet"):
        agent.propose("WIDTH = 16 ", "WIDTH = 32 ")
    kept, _ = agent.run_experiment()
    assert kept["experiment"] == 1 and kept["status"] == "kept"


def test_a_crash_is_told_in_our_own_words(make_night: Callable[..., Night]) -> None:
    def crashed(job: TrainJob) -> TrainOutcome:
        if "MATRIX_LR = 0.04" not in job.train_py:
            return OUTCOME
        return TrainOutcome(Status.CRASHED, "KeyError: 'CUSTOMER-4711'", 0, 0, 0, 0, 0, 0, 0, "CUSTOMER-4711")

    agent = make_night(FakeExecutor(crashed))
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
    told, _ = agent.run_experiment()
    assert (told["status"], told["reason"]) == ("crashed", "KeyError")
    assert "CUSTOMER" not in agent.call("results") + agent.call("report")


def test_a_campaign_that_stops_says_so_and_goes_on_at_the_next_call(make_night: Callable[..., Night]) -> None:
    outcomes = [TrainOutcome(Status.CRASHED, "ValueError: CUSTOMER", 0, 0, 0, 0, 0, 0, 0, "")]
    agent = make_night(FakeExecutor(lambda job: outcomes.pop() if outcomes else OUTCOME))
    with pytest.raises(ToolError, match="training cannot go on") as caught:
        agent.run_experiment()
    assert "CUSTOMER" not in str(caught.value) and "ValueError" in str(caught.value)
    noise, _ = agent.run_experiment()
    assert noise["measured_on"] == "the starting code"


def test_many_failures_in_a_row_are_told_and_the_next_proposal_is_run(make_night: Callable[..., Night]) -> None:
    crash = TrainOutcome(Status.CRASHED, "ValueError: x", 0, 0, 0, 0, 0, 0, 0, "")
    agent = make_night(
        FakeExecutor(lambda job: OUTCOME if job.train_py == TINY_TRAIN_PY or "0.08 " in job.train_py else crash),
        budget={"experiments": 15},  # too few for a placebo
        gate={"claim_every": 50},
    )
    for number in range(MOST_FAILURES_IN_A_ROW - 1):
        agent.propose("0.02 ", f"0.2{number} ")
        assert agent.run_experiment()[0]["status"] == "crashed"
    agent.propose("0.02 ", "0.05 ")
    with pytest.raises(ToolError, match="10 experiments in a row failed: look at `results`"):
        agent.run_experiment()
    agent.propose("0.02 ", "0.08 ")
    assert agent.run_experiment()[0]["status"] == "kept"


def test_a_changed_recipe_begins_another_campaign_and_its_experiments_are_told(
    make_night: Callable[..., Night],
) -> None:
    agent = make_night()
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.01 ")
    agent.run_experiment()
    agent.desk.hang_up()
    agent.join(PATIENCE_SECONDS)
    again = make_night(budget={"steps": 9})
    again.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.08 ")
    told, _ = again.run_experiment()
    assert told["experiment"] == 1 and told["status"] == "kept"


def test_a_proposal_made_on_other_code_is_not_run(make_night: Callable[..., Night]) -> None:
    """A hand edit of train.py goes first; kept, it is the current code."""
    agent = make_night()
    agent.propose("WIDTH = 16 ", "WIDTH = 32 ")
    (agent.folder / "train.py").write_text(TINY_TRAIN_PY.replace("0.02 ", "0.08 "), encoding="utf-8")
    errand = agent.tools.start({})
    wait_for(lambda: errand.is_done)
    human, standing, refused = agent.tools.outcome(errand)[0].splitlines()
    assert json.loads(human)["proposer"] == "human" and json.loads(human)["status"] == "kept"
    assert "Nothing was trained for it" in refused and json.loads(standing)["current_revision"] in refused
    assert agent.desk.pending is None


def test_a_proposal_that_a_person_tried_meanwhile_is_not_run_again(make_night: Callable[..., Night]) -> None:
    agent = make_night()
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.01 ")
    (agent.folder / "train.py").write_text(TINY_TRAIN_PY.replace("0.02 ", "0.01 "), encoding="utf-8")
    errand = agent.tools.start({})
    wait_for(lambda: errand.is_done)
    human, _, refused = agent.tools.outcome(errand)[0].splitlines()
    assert json.loads(human)["proposer"] == "human" and json.loads(human)["status"] == "reverted"
    assert "was tried meanwhile" in refused
    state = agent.state()
    assert state is not None and len(state.experiments) == 1


# --- proposals ------------------------------------------------------------------------------


def test_a_proposal_that_cannot_be_used_is_refused_with_the_reason(make_night: Callable[..., Night]) -> None:
    agent = make_night()
    for old, new, reason in (
        ("WIDTH = 17", "WIDTH = 32", "does not stand in train.py"),
        ("self", "me", "stands more than once"),
        ("WIDTH = 16 ", "WIDTH = 16 ", "change nothing"),
        ("WIDTH = 16 ", "WIDTH = (", "line 9"),
        ("WIDTH = 16 ", "WIDTH = 17 ", "Knob WIDTH|WIDTH"),
        ("    main()\n", "    pass\nprint(1)\n", "runs when the file is imported"),
    ):
        with pytest.raises(ToolError, match=reason):
            agent.propose(old, new)
    with pytest.raises(ToolError, match="The current code is revision"):
        agent.propose("WIDTH = 16 ", "WIDTH = 32 ", revision="0123456789abcdef")
    with pytest.raises(ToolError, match="control characters"):
        agent.propose("WIDTH = 16 ", "WIDTH = 32 ", "wide\x1b[2J")
    with pytest.raises(ToolError, match="is empty"):
        agent.propose("WIDTH = 16 ", "WIDTH = 32 ", " \n")
    assert agent.desk.pending is None


def test_what_was_there_before_is_not_run_again(make_night: Callable[..., Night]) -> None:
    agent = make_night()
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.01 ")
    reverted, _ = agent.run_experiment()
    assert reverted["status"] == "reverted"
    with pytest.raises(ToolError, match="was tried before, as experiment 1"):
        agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.01 ")
    agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.08 ")
    agent.run_experiment()
    with pytest.raises(ToolError, match="where the campaign began"):
        agent.propose("MATRIX_LR = 0.08 ", "MATRIX_LR = 0.02 ")
    assert "MATRIX_LR = 0.01" in agent.call("read_train_file", revision=reverted["revision"])
    with pytest.raises(ToolError, match="There is no revision '0123"):
        agent.call("read_train_file", revision="0123")


def test_one_proposal_is_pending_at_most(make_night: Callable[..., Night]) -> None:
    agent = make_night()
    agent.propose("WIDTH = 16 ", "WIDTH = 32 ", "wider")
    assert agent.propose("WIDTH = 16 ", "WIDTH = 8 ", "narrower\nstill")["took_the_place_of"] == "wider"
    told, *_ = agent.run_experiment()
    assert told["hypothesis"] == "narrower still" and told["experiment"] == 1
    assert agent.desk.pending is None
