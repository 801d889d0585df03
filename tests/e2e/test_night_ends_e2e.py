"""Nights that are cut off or limited, through the command line: kills in a call, servers that go away, money, time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from commands import call, kill, kinds_of, start, state_of, survivors
from fake_messages import FakeServer, Handler, Step, fake_messages_server, tool
from toys import make_toy_workspace

from slm_ar.core.agent.proposers.spending import Transcript

FASTER = tool(("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.03 "), hypothesis="a larger rate")
SLOWER = tool(("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.01 "), hypothesis="a smaller rate")
"""One of the two no longer fits when the other was kept, and is then skipped: an experiment all the same."""


def local(server: FakeServer) -> dict[str, object]:
    return {"name": "local", "model": "small", "base_url": server.address}


def held_back(asked: threading.Event, answer: threading.Event) -> Step:
    """Takes the question and says nothing until it is told to."""

    def step(handler: Handler) -> None:
        asked.set()
        answer.wait(120)
        handler.close_connection = True

    return step


def test_killed_in_the_middle_of_a_call_nothing_is_asked_for_or_counted_twice(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    asked, answer = threading.Event(), threading.Event()
    with fake_messages_server() as server:
        server.steps[:] = [FASTER, held_back(asked, answer)]
        root = make_toy_workspace(tmp_path / "toy", proposer=local(server), budget={"experiments": 2})
        process = start(root, command_environment, "run", "--quiet")
        limit = time.monotonic() + 180
        while not asked.wait(0.05) and process.poll() is None and time.monotonic() < limit:
            pass
        assert asked.is_set()
        first, cut = Transcript(root / ".slm").calls()
        assert survivors(kill(process)) == []
        assert kinds_of(root).count("proposed") == 1
        answer.set()
        server.steps[:] = [SLOWER]
        call(root, command_environment, "run", "--quiet")
    state = state_of(root)
    assert [item.id for item in state.experiments] == [1, 2]
    assert state.experiments[0].hypothesis == "a larger rate"
    assert kinds_of(root).count("planned") == 1 and kinds_of(root).count("judged") == 2
    calls = list(Transcript(root / ".slm").calls())
    assert (calls[0], calls[1]) == (first, cut)
    assert cut.is_open and cut.tokens.output == 16_000, "a call that was cut off counts as the most it can be"
    assert not any(item.is_open for item in calls[2:])
    assert Transcript(root / ".slm").spent(state.identity).tokens.total == sum(item.tokens.total for item in calls)


def test_a_server_that_goes_away_leaves_a_report_and_its_exit_code(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    with fake_messages_server() as server:
        proposer = {**local(server), "wait_minutes": 0.001}
        root = make_toy_workspace(tmp_path / "toy", proposer=proposer, budget={"experiments": 2})

        def answers_once(handler: Handler) -> None:
            FASTER(handler)
            server.steps[:] = [lambda later: later.send_json(503, {"type": "error", "error": {"type": "api_error"}})]

        server.steps[:] = [answers_once]
        out, error = call(root, command_environment, "run", code=6)
        state = state_of(root)
        assert len(state.experiments) == 1 and state.experiments[0].status is not None
        if state.experiments[0].status.value == "kept":
            assert state.claims and state.claims[-1].verdict is not None
        assert state.stop_reason is not None and state.stop_reason.startswith("local cannot be asked: ")
        assert "Stopped: local cannot be asked" in (root / "report.html").read_text(encoding="utf-8")
        assert "has trouble (503)" in error and "stopped:" in out
        server.steps[:] = [SLOWER]
        call(root, command_environment, "run", "--quiet")
    assert len(state_of(root).experiments) == 2


def test_money_of_unknown_amount_is_refused_before_anything_is_done(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    with fake_messages_server() as server:
        root = make_toy_workspace(tmp_path / "toy", proposer=local(server))
        _, error = call(root, command_environment, "run", "--budget-usd", "1", code=2)
        assert "what small costs is not known" in error and "campaign_tokens" in error
        assert not server.asked and not (root / ".slm" / "journal.db").exists()


def test_a_night_that_is_too_short_says_so(tmp_path: Path, command_environment: dict[str, str]) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    call(root, command_environment, "prepare", "--quiet")
    out, error = call(root, command_environment, "run", "--hours", "0.000001")
    reason = "the time is up: 1e-06 hours (--hours)"
    assert state_of(root).stop_reason == reason
    assert "the time: 1e-06 hours (--hours); " in out + error
    status = json.loads(call(root, command_environment, "status", "--json")[0])
    assert status["stop_reason"] == reason
    _, error = call(root, command_environment, "run", "--until", "25:00", code=2)
    assert "is not a time of day" in error
