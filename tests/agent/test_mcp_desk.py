"""What a coding agent may send, and the desk between it and the campaign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.egress import Ledger
from slm_ar.core.errors import SlmArError, TrainingError
from slm_ar.core.mcp.desk import Desk, DeskDisplay, Driver, Errand, HungUpError, Pending
from slm_ar.core.mcp.telling import View
from slm_ar.core.mcp.tools import DESCRIPTIONS, ToolError, Tools, checked
from slm_ar.core.report.terminal import QuietDisplay


def test_a_desk_hands_a_proposal_over_once_and_knows_when_to_interrupt() -> None:
    desk = Desk()
    pending = Pending("abc", "def", "text", "idea", "")
    assert desk.put(pending) and not desk.is_working
    errand = desk.send("", 0, 0)
    assert desk.send("", 0, 0) is errand  # who calls at the same time joins it
    assert desk.is_working and not desk.put(pending)
    assert desk.take("abc", ()) is pending and desk.pending is None
    assert desk.is_working and desk.take("abc", ()) is None and not desk.is_working
    desk.send("", 1, 0)
    assert desk.hang_up() is True  # the campaign is at work
    assert desk.hang_up() is False  # and was told already
    with pytest.raises(HungUpError):
        desk.take("abc", ())
    assert desk.wait_for_errand() is False


def test_what_waits_for_the_agent_rests_meanwhile() -> None:
    """Nothing holds the machine awake while there is nothing to train."""
    desk, seen = Desk(), list[bool]()
    desk.send("", 0, 0)

    @contextmanager
    def resting() -> Iterator[None]:
        seen.append(desk.is_working)
        desk.put(Pending("abc", "def", "text", "idea", "why"))
        desk.send("", 1, 0)
        yield

    driver = Driver(desk, resting)
    context: Any = SimpleNamespace(revision="abc", history=())
    proposal = driver.propose(context)
    assert (proposal.hypothesis, proposal.rationale, proposal.train_py) == ("idea", "why", "text")
    assert seen == [False]


def test_progress_holds_no_score_no_path_and_nothing_that_code_could_count() -> None:
    desk = Desk()
    display = DeskDisplay(desk, QuietDisplay())
    display.run_started("experiment 1: an idea", 300.0)
    for say in (
        lambda: display.phase("reading /home/me/data"),
        lambda: display.note("the log is /home/me/log.txt"),
        lambda: display.run_finished("experiment 1", "1.2345 bits per byte"),
        lambda: display.judged("1 kept for now 1.2345", True),
        lambda: display.tick(5.0, "CUSTOMER-4711"),
    ):
        say()
        assert desk.progress == "experiment 1: an idea"
    display.tick(12.4, "training, 4711 steps")
    assert desk.progress == "experiment 1: an idea: training, 12 s"


# --- arguments ------------------------------------------------------------------------------

EDIT = {"old": "a", "new": "b"}
GOOD = {"revision": "abc", "hypothesis": "an idea", "edits": [EDIT]}


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("delete_everything", {}, "There is no tool 'delete_everything'"),
        ("results", {"split": "hidden"}, "results has no argument 'split': it takes none"),
        ("run_experiment", {"seed": 1}, "it takes none"),
        ("read_train_file", {"revision": 7}, "revision is a text"),
        ("read_train_file", {"revision": "a" * 65}, "65 characters, and 64"),
        ("read_train_file", {"path": "/etc/passwd"}, "it takes revision"),
        ("propose_edits", {}, "needs the argument revision"),
        ("propose_edits", {**GOOD, "hypothesis": None}, "hypothesis is a text"),
        ("propose_edits", {**GOOD, "hypothesis": "x" * 301}, "301 characters"),
        ("propose_edits", {**GOOD, "rationale": "x" * 2001}, "2001 characters"),
        ("propose_edits", {**GOOD, "edits": "a"}, "list of objects"),
        ("propose_edits", {**GOOD, "edits": []}, "There are 0 edits"),
        ("propose_edits", {**GOOD, "edits": [EDIT] * 41}, "There are 41 edits"),
        ("propose_edits", {**GOOD, "edits": [{"old": "a"}]}, "Edit 1 is not an object"),
        ("propose_edits", {**GOOD, "edits": [EDIT, {**EDIT, "all": True}]}, "Edit 2 is not an object"),
        ("propose_edits", {**GOOD, "edits": [{"old": "a", "new": 1}]}, "Edit 1 is not an object"),
        ("propose_edits", {**GOOD, "edits": [{"old": "a", "new": "b" * 70_000}]}, "70001 characters"),
        ("propose_edits", {**GOOD, "x\x1b[2J": "a"}, "has no argument 'x [2J'"),
    ],
)
def test_arguments_that_a_tool_does_not_take(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError) as caught:
        checked(name, arguments)
    assert words in str(caught.value)


def test_arguments_that_a_tool_takes() -> None:
    assert checked("propose_edits", GOOD) == GOOD
    assert checked("describe_task", None) == {}
    assert len(DESCRIPTIONS) == 6


@given(
    st.sampled_from([*DESCRIPTIONS, "other"]),
    st.dictionaries(
        st.sampled_from(["revision", "hypothesis", "rationale", "edits", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=400),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["old", "new", "y"]), inner),
            max_leaves=6,
        ),
    ),
)
def test_whatever_a_client_sends_is_taken_or_refused_in_words(name: str, arguments: dict[str, Any]) -> None:
    try:
        given = checked(name, arguments)
    except ToolError as error:
        assert str(error).isprintable() and len(str(error)) < 500
    else:
        assert all(isinstance(item["old"], str) and isinstance(item["new"], str) for item in given.get("edits", ()))


@pytest.mark.parametrize("kind", [TrainingError, PermissionError, KeyError])
def test_a_campaign_that_cannot_be_read_complains_to_the_person(tmp_path: Path, kind: type[Exception]) -> None:
    """Whatever the error is: the SDK would tell the client one that we do not know word for word."""
    complaints: list[SlmArError] = []

    def look() -> View:
        raise kind(f"{tmp_path}: broken")

    tools = Tools(Desk(), look, Ledger(tmp_path), complaints.append)
    for call in (lambda: tools.answer("results", {}), lambda: tools.start({}), lambda: tools.outcome(Errand("", 0, 0))):
        with pytest.raises(ToolError) as caught:
            call()
        assert str(tmp_path) not in str(caught.value) and str(tmp_path) in complaints.pop().message


def test_refusals_are_written_down_too(tmp_path: Path) -> None:
    tools = Tools(Desk(), lambda: View(toy_recipe(), "", TINY_TRAIN_PY, None), Ledger(tmp_path), lambda error: None)
    for arguments in ({**GOOD, "edits": [{"old": "self", "new": "me"}]}, {"revision": 7}):
        with pytest.raises(ToolError) as caught:
            tools.answer("propose_edits", arguments)
        newest = list(Ledger(tmp_path).entries())[-1]
        assert (tmp_path / "egress" / newest.digest).read_text(encoding="utf-8") == str(caught.value)


def test_a_full_disk_is_told_to_both(tmp_path: Path) -> None:
    complaints: list[SlmArError] = []

    class Full(Ledger):
        def record(self, host: str, purpose: str, body: bytes) -> None:
            raise OSError(28, "No space left on device", str(tmp_path))

    tools = Tools(Desk(), lambda: View(toy_recipe(), "", TINY_TRAIN_PY, None), Full(tmp_path), complaints.append)
    with pytest.raises(ToolError, match="disk, memory") as caught:
        tools.answer("results", {})
    assert str(tmp_path) not in str(caught.value) and "No space left" in complaints[0].message
