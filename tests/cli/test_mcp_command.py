"""`slm-ar mcp` before a client speaks: help, a missing extra, a folder that is no workspace; then the protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from commands_in_process import Command, told
from mcp import Client
from toys import TINY_TRAIN_PY, make_toy_workspace, toy_recipe

from slm_ar.core.egress import Ledger
from slm_ar.core.errors import UsageError
from slm_ar.core.mcp.desk import Desk, Errand
from slm_ar.core.mcp.server import make_server
from slm_ar.core.mcp.telling import View
from slm_ar.core.mcp.tools import DESCRIPTIONS, Tools


def test_help_says_what_to_write_where(slm_ar: Command) -> None:
    ended = slm_ar("mcp", "--help")
    assert "claude mcp add slm-ar -- slm-ar mcp --workspace DIR" in ended.out
    assert "[mcp_servers.slm-ar]" in ended.out and 'args = ["mcp", "--workspace", "DIR"]' in ended.out


def test_a_missing_extra_is_named(slm_ar: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mcp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    told(slm_ar("mcp"), 3, "needs the package mcp", "pip install 'slm-ar[mcp]'")


def test_a_folder_that_is_no_workspace(slm_ar: Command, tmp_path: Path) -> None:
    told(slm_ar("mcp", "--workspace", str(tmp_path)), 2, "is not a workspace", "slm-ar new")
    told(slm_ar("mcp", "--workspace", str(tmp_path / "nowhere")), 2, "is not a workspace")


def test_a_report_that_cannot_be_written_does_not_end_the_server(
    slm_ar: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    errands: list[Errand] = []

    @contextmanager
    def one_errand(tools: Tools, desk: Desk) -> Iterator[None]:
        errands.append(desk.send("", 0, 0))
        yield

    def drive(desk: Desk, *others: object) -> None:
        desk.hang_up()
        raise PermissionError(13, "Permission denied", "report.html")

    monkeypatch.setattr("slm_ar.core.mcp.server.serving", one_errand)
    monkeypatch.setattr("slm_ar.core.cli.mcp._drive", drive)
    ended = slm_ar("mcp", "--workspace", str(root))
    assert ended.code == 0 and "report.html" in ended.error and "the coding agent has left" in ended.error
    assert isinstance(errands[0].failure, UsageError)


# --- the protocol ---------------------------------------------------------------------------


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(desk: Desk, tmp_path: Path) -> Any:
    view = View(toy_recipe(), "# the program", TINY_TRAIN_PY, None)
    return make_server(Tools(desk, lambda: view, Ledger(tmp_path), lambda error: None), desk)


def test_tools_are_listed_with_exact_schemas(server: Any) -> None:
    async def listed() -> None:
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == list(DESCRIPTIONS)
            for tool in tools:
                assert tool.input_schema["additionalProperties"] is False
            read_only = {tool.name for tool in tools if tool.annotations and tool.annotations.read_only_hint}
            assert read_only == {"describe_task", "read_train_file", "results", "report"}

    anyio.run(listed)


def test_what_cannot_be_used_is_an_answer_and_no_broken_connection(server: Any) -> None:
    async def asked() -> None:
        async with Client(server) as client:
            for name, arguments in (("results", {"x": 1}), ("no_tool", {}), ("propose_edits", {"edits": 3})):
                result = await client.call_tool(name, arguments)
                assert result.is_error and result.content[0].text
            assert not (await client.call_tool("read_train_file", {})).is_error

    anyio.run(asked)


def test_a_call_that_is_given_up_ends_the_waiting_and_not_the_errand(server: Any, desk: Desk) -> None:
    heard: list[str | None] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)
        raised.set()

    async def given_up() -> None:
        async with Client(server) as client:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: client.call_tool("run_experiment", {}, progress_callback=hear))
                with anyio.fail_after(60):
                    await raised.wait()
                group.cancel_scope.cancel()
            assert desk.is_working
            desk.end_errand()
            result = await client.call_tool("run_experiment", {})
            assert not result.is_error

    raised = anyio.Event()
    anyio.run(given_up)
    assert heard[0] == "opening the campaign"
    assert desk.errand is None and threading.active_count() < 50


# --- over real pipes ------------------------------------------------------------------------

BARE_SERVER = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.egress import Ledger
from slm_ar.core.mcp.desk import Desk
from slm_ar.core.mcp.server import serving
from slm_ar.core.mcp.telling import View
from slm_ar.core.mcp.tools import Tools

desk, view = Desk(), View(toy_recipe(), "", TINY_TRAIN_PY, None)
with serving(Tools(desk, lambda: view, Ledger(Path(sys.argv[2])), print), desk):
    print("what an adapter prints")
    desk.wait_for_errand()
"""
PATIENCE_SECONDS = 200
"""Ends what would hang."""


def bare_server(folder: Path) -> subprocess.Popen[bytes]:
    """A server without a workspace; what its campaign would do is print a line."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", BARE_SERVER, str(Path(__file__).parents[1]), str(folder)]
    # Unbuffered, a print is out at once; else it waits in a buffer until the connection is closed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


def request(number: int, method: str, **parameters: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}
    return json.dumps(message).encode() + b"\n"


HELLO = request(
    0, "initialize", protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "by hand", "version": "1"}
)


def test_what_adapters_print_never_comes_out_between_the_answers(tmp_path: Path) -> None:
    server = bare_server(tmp_path)
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(HELLO)
    server.stdin.flush()
    assert json.loads(server.stdout.readline())["id"] == 0
    out, error = server.communicate(timeout=PATIENCE_SECONDS)
    assert out == b"" and b"what an adapter prints" in error and b"Traceback" not in error


@pytest.mark.parametrize("end", ["stdin", "stdout"])
def test_a_client_that_leaves_with_answers_unread_ends_the_server(tmp_path: Path, end: str) -> None:
    """The pipe is full, or broken while the other one stays open: neither keeps a server, and its training, alive."""
    server = bare_server(tmp_path)
    assert server.stdin is not None and server.stdout is not None
    calls = 80  # of 2 kB each, and a pipe holds 64
    server.stdin.write(HELLO + b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
    for number in range(1, calls + 1):
        server.stdin.write(request(number, "tools/call", name="read_train_file", arguments={}))
    server.stdin.flush()
    limit = time.monotonic() + PATIENCE_SECONDS
    while sum(1 for sent in Ledger(tmp_path).entries()) < calls:
        assert time.monotonic() < limit
        time.sleep(0.05)
    (server.stdin if end == "stdin" else server.stdout).close()
    try:
        assert server.wait(PATIENCE_SECONDS) == 0
    finally:
        server.kill()
        for stream in (server.stdin, server.stdout, server.stderr):
            if stream is not None:
                stream.close()
