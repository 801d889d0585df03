"""The proposers that ask a language model, against a server on a real socket that answers well, badly or not at all."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_messages import (
    FakeServer,
    Handler,
    Step,
    cut,
    drips,
    events,
    fake_messages_server,
    raw,
    silent,
    status,
    stream,
    text,
    tool,
    tool_input,
)
from toys import TINY_TRAIN_PY

from slm_ar.core import egress
from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.agent.proposers import calls, endpoint, hangup, make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.agent.proposers.messages import REPAIRS, MessagesProposer
from slm_ar.core.agent.proposers.spending import Transcript
from slm_ar.core.contracts import PastExperiment, Proposal, ResearchContext, Status
from slm_ar.core.egress import Ledger
from slm_ar.core.errors import ProposerError, UsageError
from slm_ar.core.recipe import ProposerTable

CANARY = "sk-ant-canary-0123456789-secret"
GOOD = ("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")
AFTER = TINY_TRAIN_PY.replace(*GOOD)
CONTEXT = ResearchContext(
    program="the program",
    train_py=TINY_TRAIN_PY,
    revision=revision_digest(TINY_TRAIN_PY),
    history=(),
    hardware={"device": "cpu", "threads": 2, "precision": "float32"},
    budget={"seconds": 30.0, "steps": None},
    seed=0,
    sigma=0.01234,
)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_messages_server() as fake:
        yield fake


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that must turn up nowhere but in the one header, and settings that would send it elsewhere."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", CANARY)
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", f"x-extra: {CANARY}")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://192.0.2.1:9")
    monkeypatch.delenv("SLM_AR_LOCAL_KEY", raising=False)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the proposer would have slept, on a clock that moves by it."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: 1000.0 + sum(slept))
    monkeypatch.setattr(calls, "time", clock)
    return slept


Make = Callable[..., MessagesProposer]


@pytest.fixture
def make(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """`make("claude", step, ...)`: a proposer of the fake server, which for once counts as Anthropic's own."""
    monkeypatch.setattr(endpoint, "is_anthropic", lambda address: address.startswith(server.address))
    told: list[str] = []

    def made(
        name: str, *steps: Step, stop_at: float | None = None, night_usd: float | None = None, **keys: Any
    ) -> MessagesProposer:
        server.steps[:] = steps
        known = {"base_url": server.address, **({"model": "m"} if name == "local" else {})}
        table = ProposerTable(name=name, **known | keys)
        proposer = make_proposer(name, Setting(table, tmp_path, "campaign", told.append, stop_at, night_usd))
        assert isinstance(proposer, MessagesProposer)
        proposer.told = told  # type: ignore[attr-defined]
        return proposer

    return made


def proposed(proposer: MessagesProposer, context: ResearchContext = CONTEXT) -> Proposal:
    proposal = proposer.propose(context)
    assert proposal is not None
    return proposal


def folder_text(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


# --- a good answer --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claude", "local"])
def test_an_edit_becomes_a_proposal(make: Make, name: str) -> None:
    proposal = proposed(make(name, tool(GOOD, hypothesis="double\nthe \x1b[31mrate")))
    assert proposal.train_py == AFTER and not proposal.unusable
    assert proposal.hypothesis == "double the [31mrate"
    assert (proposal.rationale, proposal.expected_effect) == ("because", "-0.01")


def test_what_claude_is_sent(make: Make, server: FakeServer) -> None:
    """No sampling, no forced tool, no prefill: the API refuses them. The stable part is cached for an hour."""
    proposed(make("claude", tool(GOOD), effort="high"))
    (body,) = server.bodies
    assert not {"temperature", "top_p", "top_k", "thinking"} & set(body)
    assert body["stream"] is True and body["model"] == "claude-sonnet-5-5"
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["output_config"] == {"effort": "high"}
    (declared,) = body["tools"]
    assert declared["strict"] is True and declared["input_schema"]["additionalProperties"] is False
    assert body["messages"][-1]["role"] == "user"
    hour = {"type": "ephemeral", "ttl": "1h"}
    code, task = body["messages"][0]["content"]
    assert body["system"][0]["cache_control"] == code["cache_control"] == hour and "cache_control" not in task
    assert "the program" in body["system"][0]["text"] and TINY_TRAIN_PY in code["text"]
    assert "0.012" in task["text"] and "0.01234" not in task["text"]
    (asked,) = server.asked
    headers = {name.lower(): value for name, value in asked.headers.items()}
    assert headers.pop("authorization") == f"Bearer {CANARY}"
    assert CANARY not in str(headers) and not [name for name in headers if name.startswith("x-")]


def test_what_a_local_server_is_sent(make: Make, server: FakeServer) -> None:
    proposed(make("local", tool(GOOD), temperature=0.3))
    (body,) = server.bodies
    assert body["temperature"] == 0.3
    assert "cache_control" not in json.dumps(body) and "strict" not in json.dumps(body)
    assert not {"output_config", "tool_choice"} & set(body)
    assert CANARY not in str(server.asked[0].headers) and "Bearer local" in str(server.asked[0].headers)


def test_the_stable_part_stays_the_same_while_the_question_changes(make: Make, server: FakeServer) -> None:
    proposer = make("claude", tool(GOOD))
    past = PastExperiment(1, "r", "p", "claude", "an idea", Status.REVERTED, 2.0, {}, "t")
    proposed(proposer)
    proposed(proposer, replace(CONTEXT, history=(past,)))
    first, second = server.bodies
    assert (first["system"], first["tools"]) == (second["system"], second["tools"])
    assert first["messages"][0]["content"][0] == second["messages"][0]["content"][0]
    assert first["messages"][0]["content"][1] != second["messages"][0]["content"][1]


def test_every_request_stands_in_the_ledger_and_every_answer_in_the_transcript(
    make: Make, server: FakeServer, tmp_path: Path
) -> None:
    proposed(make("claude", text("I would"), tool(GOOD)))
    sent = list(Ledger(tmp_path).entries())
    bodies = [(tmp_path / "egress" / entry.digest).read_bytes() for entry in sent]
    assert bodies == [asked.raw for asked in server.asked] and len(bodies) == 2
    lines = [json.loads(line) for line in (tmp_path / "proposer.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["sent", "ended"] * 2
    assert [line["request"] for line in lines[::2]] == [entry.digest for entry in sent]
    assert lines[1]["content"] == [{"type": "text", "text": "I would"}]
    assert lines[3]["content"][1]["input"]["edits"] == [{"old": GOOD[0], "new": GOOD[1]}]


def test_the_key_turns_up_nowhere(make: Make, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even where a server sends it back: in a text, in an edit, in an error."""
    proposer = make("claude", text(f"your key is {CANARY}"), tool(GOOD, hypothesis=f"say {CANARY}"))
    proposal = proposed(proposer)
    with pytest.raises(ProposerError) as caught:
        make("claude", status(401, "authentication_error", f"bad key {CANARY}")).propose(CONTEXT)
    shown = [repr(proposal), repr(proposer.endpoint), str(caught.value), repr(caught.value.__cause__)]
    shown += [folder_text(tmp_path), str(proposer.told), *capfd.readouterr()]  # type: ignore[attr-defined]
    assert "canary" not in "".join(shown) and "[key]" in folder_text(tmp_path)


# --- repairs --------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [170, 280])
def test_a_key_that_a_server_sends_back_is_not_kept_in_part(make: Make, tmp_path: Path, before: int) -> None:
    with pytest.raises(ProposerError) as caught:
        make("claude", status(400, "invalid_request_error", "x" * before + CANARY)).propose(CONTEXT)
    proposed(make("claude", text("x", "x" * 45 + CANARY)))
    assert "sk-ant" not in caught.value.message + folder_text(tmp_path)


def test_a_bad_edit_is_answered_with_the_exact_reason(make: Make, server: FakeServer) -> None:
    proposal = proposed(make("claude", tool(("MATRIX_RATE", "x")), tool(GOOD)))
    assert proposal.train_py == AFTER
    first, second = server.bodies
    assert second["messages"][0] == first["messages"][0]
    assistant, user = second["messages"][1:]
    assert [block["type"] for block in assistant["content"]] == ["thinking", "tool_use"]
    assert assistant["content"][0]["signature"] == "c2ln"
    (result,) = user["content"]
    assert result["is_error"] is True and result["tool_use_id"] == "toolu_1"
    assert "old text does not stand in train.py: 'MATRIX_RATE'" in result["content"]


BAD: dict[str, tuple[Step, str]] = {
    "no tool call": (text("I would rather talk"), "holds no edit"),
    "does not compile": (tool(("MATRIX_LR = 0.02", "MATRIX_LR = = 0.02")), "invalid syntax"),
    "no main": (tool(("def main():", "def other():")), "no function main"),
    "knob out of range": (tool(("MATRIX_LR = 0.02", "MATRIX_LR = 7.0")), "range"),
    "nothing changes": (tool(("MATRIX_LR = 0.02", "MATRIX_LR = 0.02")), "change nothing"),
    "no list": (tool_input({"hypothesis": "x", "edits": "all"}), "no list of edits"),
    "not an object": (tool_input([1, 2]), "no list of edits"),
    "edits without texts": (tool_input({"hypothesis": "x", "edits": [{"old": 1, "new": "b"}]}), "texts old and new"),
    "no hypothesis": (tool_input({"edits": []}), "no hypothesis"),
    "another tool": (tool_input({}, name="bash"), "no tool 'bash'"),
    "cut off": (tool(GOOD, stop_reason="max_tokens"), "cut off"),
    "paused": (text("wait", "pause_turn"), "paused"),
    "silence": (stream(events([], "end_turn")), "holds no edit"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("name", ["claude", "local"])
def test_an_answer_that_stays_bad_is_a_skipped_experiment(make: Make, server: FakeServer, name: str, case: str) -> None:
    step, words = BAD[case]
    proposal = proposed(make(name, step))
    assert words in proposal.unusable and proposal.train_py == TINY_TRAIN_PY
    assert len(server.asked) == 1 + REPAIRS
    for body in server.bodies:
        roles = [message["role"] for message in body["messages"]]
        assert roles == (["user", "assistant"] * 3)[: len(roles)] and roles[-1] == "user"
        uses = [block for message in body["messages"] for block in message["content"] if block["type"] == "tool_use"]
        assert all(isinstance(block["input"], dict) for block in uses)
    assert words in json.dumps(server.bodies[-1]["messages"])


HOSTILE: dict[str, Step] = {
    "half a character": stream(
        [
            *events([])[:1],
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "\ud83d"}},
            {"type": "content_block_stop", "index": 0},
            *events([], "end_turn")[1:],
        ]
    ),
    "a number that is none": tool_input('{"hypothesis": "x", "edits": [{"old": NaN, "new": 1e999}]}'),
    "a stop that is none": stream(events([{"type": "text", "text": "x"}], {"a": float("nan")})),  # type: ignore[arg-type]
    "usage that is none": stream(events([{"type": "text", "text": "x"}], usage={"output_tokens": "many"})),
    "blocks that are none": stream(
        [
            {"type": "message_start", "message": {**events([])[0]["message"], "content": ["x", 1, None, {"type": 3}]}},
            *events([], "end_turn")[1:],
        ]
    ),
    "a deep input": tool_input("[" * 5000),
    "many empty lines": text("\n" * 200_000 + "<<<<<<< SEARCH\nnowhere\n=======\nx\n>>>>>>> REPLACE"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_answer_costs_an_experiment_and_no_more(make: Make, pauses: list[float], case: str) -> None:
    proposal = proposed(make("local", HOSTILE[case]))
    assert proposal.unusable and proposal.unusable.isprintable()


def test_an_answer_of_a_megabyte_is_not_quoted_back(make: Make, server: FakeServer) -> None:
    assert "bytes, and 64000 are allowed" in proposed(make("local", tool((GOOD[0], "x" * 1_000_000)))).unusable
    assert max(len(json.dumps(body)) for body in server.bodies) < 100_000 and len(server.bodies) == 1 + REPAIRS


@pytest.mark.parametrize("depth", range(60, 1000, 85))
def test_no_answer_is_so_deep_that_the_transcript_cannot_be_read_again(
    make: Make, pauses: list[float], depth: int
) -> None:
    nested = "[" * depth + "]" * depth
    proposer = make("local", tool_input(f'{{"hypothesis": {nested}, "rationale": "]\\"[", "edits": []}}'), tool(GOOD))
    assert proposed(proposer).train_py == AFTER
    assert proposer.closing_line.startswith("local has taken")


def test_after_a_repair_the_edit_counts(make: Make) -> None:
    assert proposed(make("local", text("hm"), tool(("nowhere", "x")), tool(GOOD))).train_py == AFTER


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "a_new_reason"])
def test_a_call_counts_whatever_the_stop_is_called(make: Make, reason: str) -> None:
    assert proposed(make("claude", tool(GOOD, stop_reason=reason))).train_py == AFTER


def test_a_refusal_is_skipped_at_once(make: Make, server: FakeServer) -> None:
    proposal = proposed(make("claude", text("I cannot", "refusal")))
    assert "declined" in proposal.unusable and len(server.asked) == 1


def test_a_prompt_that_does_not_fit_is_told(make: Make) -> None:
    with pytest.raises(ProposerError, match="does not fit into the context"):
        make("claude", text("", "model_context_window_exceeded")).propose(CONTEXT)
    with pytest.raises(ProposerError, match=r"program\.md has 70,000 characters"):
        make("claude", tool(GOOD)).propose(replace(CONTEXT, program="x" * 70_000))


def test_what_was_tried_is_not_proposed_again(make: Make, server: FakeServer) -> None:
    past = PastExperiment(7, revision_digest(AFTER), CONTEXT.revision, "claude", "it", Status.REVERTED, 2.0, {}, "t")
    proposal = proposed(make("claude", tool(GOOD)), replace(CONTEXT, history=(past,)))
    assert "experiment 7" in proposal.unusable


# --- models without tools -------------------------------------------------------------------

BLOCKS = f"**HYPOTHESIS:** twice the rate\n\n<<<<<<< SEARCH\n{GOOD[0]}\n=======\n{GOOD[1]}\n>>>>>>> REPLACE\n"


def test_a_local_model_may_answer_with_blocks(make: Make, server: FakeServer) -> None:
    proposal = proposed(make("local", text(BLOCKS)))
    assert (proposal.hypothesis, proposal.train_py) == ("twice the rate", AFTER)
    assert "<<<<<<< SEARCH" in server.bodies[0]["system"][0]["text"]


def test_claude_may_not(make: Make) -> None:
    assert "Call the tool" in proposed(make("claude", text(BLOCKS))).unusable


def test_a_model_that_cannot_call_tools_is_asked_without_them(make: Make, server: FakeServer) -> None:
    refusal = status(400, "invalid_request_error", "registry/m does not support tools")
    proposer = make("local", refusal, text("let me think"), text(BLOCKS))
    assert proposed(proposer).train_py == AFTER
    assert proposed(proposer).train_py == AFTER
    assert ["tools" in body for body in server.bodies] == [True, False, False, False]


# --- failures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words", "hint"),
    [
        (status(401, "authentication_error"), "does not accept the key in ANTHROPIC_API_KEY", "export"),
        (status(402, "billing_error", "no credit"), "no credit", "top up"),
        (status(403, "permission_error", "not you"), "does not allow this key", "doctor --proposer claude"),
        (status(404, "not_found_error", "model: x"), "has no model 'claude-sonnet-5-5'", "set model"),
        (status(413, "request_too_large"), "too large", "program.md"),
        (status(400, "invalid_request_error", "effort: unknown"), "effort: unknown", "effort"),
        (status(418), "refuses the request", "recipe.toml"),
        (status(307, location="http://192.0.2.1/"), "sends us elsewhere", "base_url"),
        (stream([*events([])[:1], {"type": "error", "error": {"type": "permission_error", "message": "no"}}]),
         "does not allow", "model"),
    ],
)  # fmt: skip
def test_what_waiting_does_not_mend_is_told_at_once(
    make: Make, server: FakeServer, pauses: list[float], step: Step, words: str, hint: str
) -> None:
    with pytest.raises(ProposerError) as caught:
        make("claude", step).propose(CONTEXT)
    assert words in caught.value.message and hint in caught.value.hint
    assert len(server.asked) == 1 and not pauses


PASSING: dict[str, Step] = {
    "overloaded": status(529, "overloaded_error"),
    "too many": status(429, "rate_limit_error"),
    "timeout": status(408),
    "trouble": status(500),
    "not json": lambda handler: handler.send_json(503, "<html>"),
    "overloaded in the stream": stream(
        [*events([])[:1], {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}]
    ),
    "cut at once": cut(0),
    "cut after a word": cut(3),
    "cut before the end is said": stream(events([{"type": "text", "text": "x"}])[:-2]),
    "hangs up": silent(0),
    "half an event": raw(b'event: message_start\ndata: {"type": "message_st\n\n'),
    "events out of order": stream(events([{"type": "text", "text": "x"}])[2:]),
    "no message": stream([{"type": "message_start"}]),
    "compressed": raw(b"x", content_encoding="gzip"),
    "another protocol": raw(b"<html>", kind="text/html"),
    "half a tool call": tool_input('{"hypothesis": "x", "edits": [{"old": nonsense'),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_is_waited_for(make: Make, server: FakeServer, pauses: list[float], case: str) -> None:
    assert proposed(make("claude", PASSING[case], tool(GOOD))).train_py == AFTER
    assert len(server.asked) == 2 and pauses == [2.0]


def test_a_server_says_how_long_to_wait(make: Make, pauses: list[float]) -> None:
    steps = [status(429, retry_after="7"), status(529, retry_after_ms="1500"), status(500, retry_after="soon")]
    assert proposed(make("claude", *steps, tool(GOOD))).train_py == AFTER
    assert pauses == [7.0, 4.0, 8.0]


def test_a_server_that_says_now_for_ever_is_not_asked_without_pause(
    make: Make, server: FakeServer, pauses: list[float]
) -> None:
    with pytest.raises(ProposerError, match="enough requests"):
        make("claude", status(429, retry_after="0"), wait_minutes=1).propose(CONTEXT)
    assert pauses == [2, 4, 8, 16] and len(server.asked) == 5


def test_waiting_has_an_end_and_grows_until_then(make: Make, server: FakeServer, pauses: list[float]) -> None:
    with pytest.raises(ProposerError, match="has trouble"):
        make("claude", status(529), wait_minutes=10).propose(CONTEXT)
    assert pauses == [2, 4, 8, 16, 32, 64, 120, 120, 120] and len(server.asked) == 10


def test_a_wait_beyond_the_end_is_not_begun(make: Make, pauses: list[float]) -> None:
    with pytest.raises(ProposerError, match="enough requests"):
        make("claude", status(429, retry_after="86400")).propose(CONTEXT)
    assert not pauses


def test_at_the_nights_end_nobody_is_waited_for(make: Make, pauses: list[float]) -> None:
    proposer = make("claude", status(529), stop_at=1029.0)
    assert proposer.propose(CONTEXT) is None
    assert pauses == [2, 4, 8] and "the time is up" in proposer.told[-1]  # type: ignore[attr-defined]


def test_a_page_of_another_server_is_told_soon(make: Make, server: FakeServer, pauses: list[float]) -> None:
    with pytest.raises(ProposerError, match=r"not one of the Messages protocol \(it is text/html\)"):
        make("local", PASSING["another protocol"]).propose(CONTEXT)
    assert len(server.asked) == 3


def test_half_a_call_again_and_again_is_a_skipped_experiment(make: Make, pauses: list[float]) -> None:
    assert "not one of the Messages protocol" in proposed(make("local", PASSING["half a tool call"])).unusable


def test_a_server_that_is_not_there(make: Make, server: FakeServer, pauses: list[float], tmp_path: Path) -> None:
    with fake_messages_server() as gone:
        pass
    with pytest.raises(ProposerError, match=r"nothing answers at http://127\.0") as caught:
        make("local", tool(GOOD), base_url=gone.address).propose(CONTEXT)
    assert "start it" in caught.value.hint and sum(pauses) <= calls.LOCAL_WAIT_SECONDS
    assert Transcript(tmp_path).spent("campaign").tokens.total == 0
    assert proposed(make("local", tool(GOOD))).train_py == AFTER


def test_silence_and_endless_answers_have_an_end(
    make: Make, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "SILENCE_SECONDS", 0.2)
    assert proposed(make("local", silent(1.0), tool(GOOD))).train_py == AFTER
    monkeypatch.setattr(endpoint, "SILENCE_SECONDS", 60.0)
    monkeypatch.setattr(endpoint, "CALL_SECONDS", 0.1)
    with pytest.raises(ProposerError, match="stopped answering"):
        make("local", drips(30, 0.02), wait_minutes=0.01).propose(CONTEXT)
    monkeypatch.setattr(endpoint, "CALL_SECONDS", 60.0)
    monkeypatch.setattr(endpoint, "MOST_ANSWER_BYTES", 20_000)
    with pytest.raises(ProposerError, match="longer than 20,000 bytes"):
        make("local", text("x" * 50_000), wait_minutes=0.01).propose(CONTEXT)


def test_what_the_disk_says_is_not_taken_for_the_server(make: Make, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "egress").write_text("a file in the way")
    with pytest.raises(OSError, match="egress"):
        make("claude", tool(GOOD)).propose(CONTEXT)
    assert not server.asked


# --- caps -----------------------------------------------------------------------------------


def test_a_call_that_could_go_over_the_cap_is_not_made(make: Make, server: FakeServer) -> None:
    proposer = make("claude", tool(GOOD), output_tokens=1000, campaign_tokens=5000)
    assert proposer.propose(CONTEXT) is None
    assert not server.asked and "raise campaign_tokens" in proposer.told[-1]  # type: ignore[attr-defined]


def test_money_is_capped_where_prices_are_known(make: Make, server: FakeServer) -> None:
    proposer = make("claude", tool(GOOD), campaign_usd=0.1)
    assert proposer.propose(CONTEXT) is None
    assert not server.asked and "raise campaign_usd" in proposer.told[-1]  # type: ignore[attr-defined]
    assert "$0.10" in proposer.opening_line
    unknown = make("claude", tool(GOOD), campaign_usd=0.1, model="claude-unheard-of")
    assert "not known, so only that cap holds" in unknown.opening_line
    assert proposed(unknown).train_py == AFTER


def test_caps_hold_over_processes_and_kills(make: Make, server: FakeServer, tmp_path: Path) -> None:
    """What was spent is read from the transcript; a call that a kill cut off counts as the most it may have taken."""
    keys = {"output_tokens": 1000, "campaign_tokens": 30_000}
    transcript = Transcript(tmp_path)
    for call in itertools.count(1):
        if make("claude", tool(GOOD), **keys).propose(CONTEXT) is None:
            break
        assert transcript.spent("campaign").tokens.total == 2450 * call
    asked = len(server.asked)
    assert 6 < asked < 30_000 // 2450
    assert transcript.spent("another").tokens.total == 0

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    before = transcript.spent("campaign").tokens.total
    proposer = make("claude", tool(GOOD), output_tokens=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls.Caller, "_write_end", killed)
        with pytest.raises(KeyboardInterrupt):
            proposer.propose(CONTEXT)
    assert transcript.spent("campaign").tokens.total > before + 1000 + len(server.asked[-1].raw)


def test_an_answer_without_usage_counts_as_the_most(make: Make, tmp_path: Path) -> None:
    given = {"hypothesis": "x", "rationale": "", "expected_effect": "", "edits": [{"old": GOOD[0], "new": GOOD[1]}]}
    silent_about_it = stream(
        events([{"type": "tool_use", "id": "t", "name": "propose_edit", "input": given}], usage={})
    )
    assert proposed(make("local", silent_about_it)).train_py == AFTER
    assert Transcript(tmp_path).spent("campaign").tokens.total > 16_000


# --- before anything is sent ----------------------------------------------------------------


def found(**keys: Any) -> endpoint.Endpoint:
    return endpoint.find_endpoint(ProposerTable(**keys))


@pytest.mark.parametrize(
    "address",
    [
        "http://api.anthropic.com",
        "https://api.anthropic.com.example.org",
        "https://notanthropic.com",
        "https://localhost:11434",
        "http://127.0.0.1:1",
    ],
)
def test_a_real_key_goes_to_anthropic_alone(address: str) -> None:
    with pytest.raises(UsageError, match="Anthropic's hosts alone") as caught:
        found(name="claude", base_url=address)
    assert "canary" not in str(caught.value)


def test_the_environment_moves_claude_nowhere() -> None:
    assert found(name="claude").address == "https://api.anthropic.com"
    assert found(name="local", model="m").address == "http://localhost:11434"


@pytest.mark.parametrize("key", [CANARY, "sk-ant-another"])
def test_a_local_server_gets_no_key_of_anthropics(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SLM_AR_LOCAL_KEY", key)
    with pytest.raises(UsageError, match="is not sent to") as caught:
        found(name="local", model="m")
    assert key not in str(caught.value)
    monkeypatch.setenv("SLM_AR_LOCAL_KEY", "its-own-key")
    assert found(name="local", model="m").key == "its-own-key"


@pytest.mark.parametrize(
    "address",
    [
        "localhost:11434",
        "ftp://x",
        "http://",
        "http://h:99999",
        "http://h?k=secret",
        "http://u:secret@c",
        "http://:secret@c",
        "http://a b",
        "http://a\x1bb",
    ],
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="not the address of a server") as caught:
        found(name="local", model="m", base_url=address)
    assert caught.value.message.isprintable() and "secret" not in caught.value.message


def test_a_name_in_capitals_and_a_port_are_the_same_place(make: Make, server: FakeServer) -> None:
    address = server.address.replace("127.0.0.1", "LOCALHOST")
    assert proposed(make("local", tool(GOOD), base_url=address + "/v1")).train_py == AFTER


def test_what_leaves_is_looked_at_once_more(make: Make, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proposer = make("claude", tool(GOOD))
    monkeypatch.setattr(endpoint, "is_anthropic", lambda address: False)
    with pytest.raises(UsageError, match="is not asked"):
        proposer.propose(CONTEXT)
    assert not server.asked


def test_an_address_may_end_in_v1() -> None:
    assert found(name="local", model="m", base_url="http://h:1/v1/").address == "http://h:1"


def test_no_key_and_half_a_key_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "two words")
    with pytest.raises(ProposerError, match="holds spaces"):
        found(name="claude")
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(ProposerError, match="is not set") as caught:
        found(name="claude")
    assert 'name = "search"' in caught.value.hint


def test_local_needs_a_model() -> None:
    with pytest.raises(UsageError, match="which model"):
        found(name="local")


def test_offline_only_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_locked_by", "a test says so")
    with pytest.raises(UsageError, match=r"api\.anthropic\.com is not asked: a test says so"):
        found(name="claude")
    with pytest.raises(UsageError, match="is not asked"):
        found(name="local", model="m", base_url="http://192.168.0.9:8000")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert found(name="local", model="m", base_url=f"http://{host}:8000").is_on_this_machine


def test_a_pause_can_be_a_date() -> None:
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    pause = endpoint.asked_pause({"retry-after": when})
    assert pause is not None and 50 < pause <= 100
    assert endpoint.asked_pause({"retry-after": "-5"}) == 0
    assert endpoint.asked_pause({"retry-after": "nan"}) is None
    assert endpoint.asked_pause({}) is None


# --- the end of a night ---------------------------------------------------------------------


def test_after_the_nights_end_nothing_is_asked(make: Make, server: FakeServer) -> None:
    proposer = make("claude", tool(GOOD), stop_at=time.monotonic())
    assert proposer.propose(CONTEXT) is None
    assert "time was up" in proposer.why_nothing and not server.asked


def headers_without_end(handler: Handler) -> None:
    """Never silent, and its answer never begins."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-a: ")
        for _ in range(3000):
            handler.wfile.write(b"a")
            time.sleep(0.02)
    handler.close_connection = True


def test_headers_that_dribble_end_with_the_night(make: Make, tmp_path: Path) -> None:
    proposer = make("local", headers_without_end, stop_at=time.monotonic() + 0.5)
    assert proposer.propose(CONTEXT) is None
    assert "broke off" in proposer.why_nothing and "time was up" in proposer.why_nothing
    assert Transcript(tmp_path).spent("campaign").tokens.output == 16_000


def test_a_line_that_comes_when_the_time_is_over_is_closed_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        over = hangup.HangUp(0.0)
        over._hang_up()
        facts = {"return_value": SimpleNamespace(get_extra_info={"socket": ours}.get)}
        over.heard("http11.send_request_body.complete", facts)
        theirs.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        over.heard("connection.connect_tcp.complete", facts)
        assert theirs.recv(1) == b""


def test_a_call_that_is_over_leaves_no_clock_running(make: Make) -> None:
    assert proposed(make("local", tool(GOOD))).train_py == AFTER
    clocks = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(clock.finished.is_set() for clock in clocks)


@pytest.mark.parametrize("step", [drips(3000, 0.02), silent(60.0)])
def test_an_answer_that_dribbles_or_does_not_come_ends_with_the_night(make: Make, tmp_path: Path, step: Step) -> None:
    """It counts as the most it can have cost: nobody knows what the server did."""
    proposer = make("local", step, stop_at=time.monotonic() + 1.0)
    assert proposer.propose(CONTEXT) is None
    assert "stopped answering" in proposer.why_nothing and "time was up" in proposer.why_nothing
    assert Transcript(tmp_path).spent("campaign").tokens.output == 16_000


def test_the_dollars_of_a_night_are_capped(make: Make, server: FakeServer) -> None:
    usage = {"input_tokens": 1, "output_tokens": 100_000}  # one dollar
    first = make("claude", tool(GOOD, usage=usage), night_usd=1.1)
    assert "at most 4,000,000 tokens, $1.10 tonight and $5.00" in first.opening_line
    assert proposed(first).train_py == AFTER
    assert first.propose(CONTEXT) is None
    assert "of this night's $1.10" in first.why_nothing and len(server.asked) == 1
    assert proposed(make("claude", tool(GOOD, usage=usage), night_usd=1.1)).train_py == AFTER, "another night"


def test_dollars_that_nobody_knows_cannot_be_capped(make: Make, server: FakeServer) -> None:
    with pytest.raises(UsageError, match="what m costs is not known"):
        make("local", tool(GOOD), night_usd=1.0)
    assert not server.asked
