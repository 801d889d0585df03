"""Speaks the Model Context Protocol on standard input and output, for one client, from a thread of its own.

Called by `slm-ar mcp`, whose main thread belongs to the campaign. Promises: nothing but the protocol reaches standard
output, and children inherit neither end of it; a client that stops waiting for an experiment ends the waiting, not the
experiment; when the client leaves, the campaign is interrupted as by Ctrl-C.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .desk import Desk, Errand
from .tools import DESCRIPTIONS, READ_ONLY, ToolError, Tools

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

POLL_SECONDS = 0.1
PROGRESS_SECONDS = 1.0
"""Between notifications: clients that see none for long take a call for dead."""
LEAVE_SECONDS = 1.0
"""For the connection to close. It cannot while a client that stays keeps us reading; then we leave without."""
INSTRUCTIONS = (
    "slm-ar improves the training code of a small language model by experiments that it judges itself. Begin with "
    "describe_task; then, as often as you like: read_train_file, propose_edits, run_experiment, results."
)


def require_sdk() -> None:
    """Raises RecipeError where the extra is not installed."""
    try:
        import mcp.server.stdio  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "slm-ar mcp needs the package mcp, the Model Context Protocol's SDK", "pip install 'slm-ar[mcp]'"
        ) from error


@contextlib.contextmanager
def serving(tools: Tools, desk: Desk) -> Iterator[None]:
    """Serve inside the block, which runs the campaign; when the client leaves, the desk is closed."""
    thread = _ProtocolThread(tools, desk)
    thread.start()
    thread.is_up.wait()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # else what adapters print comes out when the connection is closed
            yield
    finally:
        desk.hang_up()
        thread.stop()
        thread.join(LEAVE_SECONDS)
    if thread.failure is not None:
        raise thread.failure


class _ProtocolThread(threading.Thread):
    """The event loop that the SDK needs; a daemon, because reading standard input cannot be interrupted."""

    def __init__(self, tools: Tools, desk: Desk) -> None:
        super().__init__(name="mcp", daemon=True)
        self._tools, self._desk = tools, desk
        self._stop: Callable[[], None] = lambda: None
        self.is_up = threading.Event()
        self.failure: Exception | None = None

    def run(self) -> None:
        import anyio

        try:
            anyio.run(self._serve)
        except* OSError:  # a client that is gone reads no answers
            pass
        except* Exception as errors:  # told by the main thread
            self.failure = errors
        finally:
            self.is_up.set()
            self._hang_up()

    def _hang_up(self) -> None:
        """The client has left: a campaign at work is interrupted."""
        if self._desk.hang_up():
            main_thread = threading.main_thread().ident
            assert main_thread is not None
            signal.pthread_kill(main_thread, signal.SIGINT)

    def stop(self) -> None:
        """From any thread: end the connection."""
        self._stop()

    async def _serve(self) -> None:
        import asyncio

        import anyio
        from mcp.server.stdio import stdio_server

        loop = asyncio.get_running_loop()
        server = make_server(self._tools, self._desk)
        with anyio.CancelScope() as scope:

            def stop() -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(scope.cancel)

            self._stop = stop
            async with stdio_server() as (reader, writer):
                # From here on descriptors 0 and 1 lead nowhere and to standard error, for us and our children.
                self.is_up.set()
                try:
                    await server.run(reader, writer, server.create_initialization_options())
                finally:
                    # Not after the connection is closed: it never is while an end of it is open that nobody serves.
                    self._hang_up()


def make_server(tools: Tools, desk: Desk) -> Server[Any]:
    """The SDK's server with our tools."""
    import anyio.to_thread
    from mcp import types
    from mcp.server.lowlevel import Server

    async def list_tools(context: Any, parameters: Any) -> types.ListToolsResult:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    description=description,
                    input_schema=schema,
                    annotations=types.ToolAnnotations(read_only_hint=name in READ_ONLY, open_world_hint=False),
                )
                for name, (description, schema) in DESCRIPTIONS.items()
            ]
        )

    async def call_tool(context: Any, parameters: types.CallToolRequestParams) -> types.CallToolResult:
        name, arguments = parameters.name, parameters.arguments
        try:
            if name == "run_experiment":
                errand = await anyio.to_thread.run_sync(tools.start, arguments)
                await _wait(errand, desk, context)
                texts = await anyio.to_thread.run_sync(tools.outcome, errand)
            else:
                texts = await anyio.to_thread.run_sync(tools.answer, name, arguments)
        except ToolError as error:
            return types.CallToolResult(content=[types.TextContent(type="text", text=str(error))], is_error=True)
        return types.CallToolResult(content=[types.TextContent(type="text", text=text) for text in texts])

    return Server(
        "slm-ar", version=version("slm-ar"), instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )


async def _wait(errand: Errand, desk: Desk, context: Any) -> None:
    """Until the errand is done, telling the client every second what goes on."""
    import anyio

    started, told_at = time.monotonic(), 0.0
    while not errand.is_done:
        elapsed = time.monotonic() - started
        if elapsed - told_at >= PROGRESS_SECONDS:
            told_at = elapsed
            await context.session.report_progress(round(elapsed, 1), message=desk.progress)
        await anyio.sleep(POLL_SECONDS)
