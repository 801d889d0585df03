"""A coding agent, written by us, drives a campaign through `slm-ar mcp` with the SDK's client over real pipes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from commands import SCRIPT, hidden_numbers, kinds_of, processes_of, state_of
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from toys import TINY_TRAIN_PY, make_toy_workspace

from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.agent.journal import workspace_lock
from slm_ar.core.errors import WorkspaceBusyError

PATIENCE_SECONDS = 400
"""Ends what would hang; a loaded machine takes its time."""
FEW_RUNS = {"claim_every": 2, "calibration_runs": 2, "looks": [2]}
SLOWER = "        optimizer.zero_grad()\n        for _ in range(500):\n            model(batch.inputs)\n"
"""A run long enough that a kill in the middle of it comes in time, also on a loaded machine."""
CANARY = "sk-ant-canary-0123456789-secret"


class Agent:
    """One connection: calls tools, and remembers all that it was told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.told: list[str] = []

    async def call(self, name: str, fails: bool = False, **arguments: Any) -> list[str]:
        result = await self.client.call_tool(name, arguments, progress_callback=self.on_progress)
        texts = [block.text for block in result.content if block.type == "text"]
        self.told += texts
        assert bool(result.is_error) is fails, texts
        return texts

    async def propose(self, old: str, new: str, hypothesis: str, fails: bool = False) -> str:
        revision = json.loads((await self.call("read_train_file"))[0])["revision"]
        edits = [{"old": old, "new": new}]
        arguments = {"revision": revision, "hypothesis": hypothesis, "edits": edits}
        return (await self.call("propose_edits", fails, **arguments))[0]

    async def run_experiment(self) -> list[Any]:
        return [json.loads(line) for line in (await self.call("run_experiment"))[0].splitlines()]

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.told.append(message or "")


@asynccontextmanager
async def connected(root: Path, environment: dict[str, str], log: Path) -> AsyncIterator[tuple[Agent, psutil.Process]]:
    """An agent, and the process of its server."""
    server = StdioServerParameters(command=SCRIPT, args=["mcp", "--workspace", str(root)], env=environment)
    before = set(psutil.Process().children())
    with log.open("a", encoding="utf-8") as errors, anyio.fail_after(PATIENCE_SECONDS):
        async with Client(stdio_client(server, errlog=errors)) as client:
            (process,) = set(psutil.Process().children()) - before
            yield Agent(client), process


async def until(kind: str, count: int, root: Path) -> None:
    while not (root / ".slm" / "journal.db").is_file() or kinds_of(root).count(kind) < count:
        await anyio.sleep(0.05)  # each look reads the whole journal


@pytest.mark.timeout(900)
def test_an_agent_drives_a_campaign_and_a_killed_server_goes_on(
    tmp_path: Path, command_environment: dict[str, str], private_folder: Path
) -> None:
    environment = {**command_environment, "SLM_AR_TEST_MARK": str(private_folder), "ANTHROPIC_API_KEY": CANARY}
    root = make_toy_workspace(tmp_path / "toy", budget={"experiments": 2}, gate=FEW_RUNS)
    log = tmp_path / "server.log"
    told: list[str] = []

    async def first_session() -> None:
        async with connected(root, environment, log) as (agent, process):
            tools = (await agent.client.list_tools()).tools
            assert {tool.name for tool in tools} >= {"describe_task", "propose_edits", "run_experiment"}
            _, program, facts = await agent.call("describe_task")
            assert "# toy" in program and "measures it with 2 runs" in facts
            revision, text = await agent.call("read_train_file")
            assert text == TINY_TRAIN_PY and json.loads(revision)["revision"] == revision_digest(TINY_TRAIN_PY)
            assert "stands more than once" in await agent.propose("width", "depth", "a bad one", fails=True)
            await agent.propose("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.05 ", "a larger rate")
            judged, standing = await agent.run_experiment()
            assert judged["experiment"] == 1 and judged["hypothesis"] == "a larger rate" and "dev" in judged
            is_kept = judged["status"] == "kept"
            assert (standing["current_revision"] == judged["revision"]) is is_kept
            assert "a larger rate" in (await agent.call("results"))[0]
            assert "noise:" in (await agent.call("report"))[0]
            with pytest.raises(WorkspaceBusyError, match=f"process {process.pid} "), workspace_lock(root / ".slm"):
                pass
            await agent.propose("        optimizer.zero_grad()\n", SLOWER, "a slower model")
            started = kinds_of(root).count("run_started")
            with suppress(MCPError):
                async with anyio.create_task_group() as group:
                    group.start_soon(agent.client.call_tool, "run_experiment", {})
                    await until("run_started", started + 1, root)
                    process.kill()
                    group.cancel_scope.cancel()
            told.extend(agent.told)

    async def second_session() -> None:
        async with connected(root, environment, log) as (agent, _):
            assert "experiment 2 is not judged yet" in await agent.propose("16 ", "8 ", "too early", fails=True)
            with workspace_lock(root / ".slm"):
                (busy,) = await agent.call("run_experiment", fails=True)
            assert "another slm-ar works in this workspace: call again" in busy
            lines = await agent.run_experiment()
            assert lines[0]["experiment"] == 2 and lines[0]["hypothesis"] == "a slower model"
            await agent.call("report")
            with workspace_lock(root / ".slm"):  # the plan is fulfilled, so the server has let go
                told.extend(agent.told)

    anyio.run(first_session)
    assert processes_of(private_folder, root) == []
    state = state_of(root)
    assert [item.status is None for item in state.experiments] == [False, True]
    anyio.run(second_session)
    assert processes_of(private_folder, root) == []
    state = state_of(root)
    assert {item.proposer for item in state.experiments} == {"mcp"} and len(state.experiments) == 2
    everything = "\n".join(told)
    hidden = hidden_numbers(private_folder, "hidden", "test")
    assert not [number for number in hidden if number in everything]
    assert CANARY not in everything and str(private_folder) not in everything and str(tmp_path) not in everything
    readable = [path for path in root.rglob("*") if path.is_file()]
    assert not [path for path in readable if CANARY.encode() in path.read_bytes()]
    errors = log.read_text(encoding="utf-8")
    assert "Traceback" not in errors and CANARY not in errors and "the coding agent has left" in errors
    assert "the coding agent on this machine" in (root / "report.html").read_text(encoding="utf-8")


HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "by hand", "version": "1"}}


def started(root: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A server to which lines are written by hand; it has answered that it is there."""
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [SCRIPT, "mcp"], cwd=root, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    say(server, id=1, method="initialize", params=HELLO)
    assert server.stdout is not None and json.loads(server.stdout.readline())["id"] == 1
    say(server, method="notifications/initialized")
    return server


def say(server: subprocess.Popen[str], **message: Any) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    server.stdin.flush()


@pytest.mark.timeout(900)
def test_a_client_that_leaves_in_the_middle_ends_the_run_and_the_server(
    tmp_path: Path, command_environment: dict[str, str], private_folder: Path
) -> None:
    """Nothing but answers comes out, and the client's end is the end of all processes."""
    environment = {**command_environment, "SLM_AR_TEST_MARK": str(private_folder)}
    environment.pop("ANTHROPIC_API_KEY", None)  # the recipe's proposer is not asked, so it needs no key
    root = make_toy_workspace(tmp_path / "toy", proposer={"name": "claude"}, budget={"steps": 1_000_000})
    server = started(root, environment)
    say(server, id=2, method="tools/call", params={"name": "run_experiment", "arguments": {}})
    say(server, id=3, method="tools/call", params={"name": "results", "arguments": {}})

    async def until_training() -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            await until("run_started", 1, root)

    anyio.run(until_training)
    out, error = server.communicate(timeout=PATIENCE_SECONDS)  # closes its standard input
    answers = [json.loads(line) for line in out.splitlines()]
    assert 3 in {answer["id"] for answer in answers} and all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert server.returncode == 0 and "Traceback" not in error, error
    assert kinds_of(root)[-1] == "run_interrupted"
    assert processes_of(private_folder, root) == []


@pytest.mark.timeout(900)
def test_rubbish_is_survived_and_ctrl_c_ends_a_server_whose_client_stays(
    tmp_path: Path, command_environment: dict[str, str], private_folder: Path
) -> None:
    server = started(make_toy_workspace(tmp_path / "toy"), command_environment)
    assert server.stdin is not None and server.stdout is not None
    for rubbish in ("no json", "[1, 2]", '{"jsonrpc": "2.0"}', '{"a":' + "[" * 100_000, "x" * 5_000_000):
        server.stdin.write(rubbish + "\n")
    say(server, id=2, method="tools/call", params={"name": "results", "arguments": "hidden"})
    say(server, id=3, method="tools/call", params={"name": "results"})
    assert "error" in json.loads(server.stdout.readline())
    assert json.loads(server.stdout.readline())["result"]["isError"] is False
    server.send_signal(signal.SIGINT)
    server.wait(PATIENCE_SECONDS)  # while its standard input is open
    out, error = server.communicate(timeout=PATIENCE_SECONDS)
    assert server.returncode == 130 and not out and "interrupted" in error
    assert "Traceback" not in error and "Fatal" not in error
