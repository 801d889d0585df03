"""`slm-ar mcp`: a coding agent drives the workspace's campaign over standard input and output."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import SlmArError, UsageError
from .unsafe import allow_unsafe
from .workspace import find_workspace

if TYPE_CHECKING:
    from ..contracts import Display
    from ..mcp.desk import Desk
    from ..mcp.telling import View


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path), help="The workspace; by default that of this folder.")
@click.option("--experiments", type=click.IntRange(1), help="Experiments until the proof; the recipe has the default.")
@allow_unsafe
def mcp(workspace: Path | None, experiments: int | None) -> None:
    """Let a coding agent drive the campaign: it proposes, slm-ar trains and judges.

    Started by the agent's program, which speaks the Model Context Protocol with it; nothing listens on a port.

    \b
    Claude Code:
      claude mcp add slm-ar -- slm-ar mcp --workspace DIR

    \b
    Codex, in ~/.codex/config.toml:
      [mcp_servers.slm-ar]
      command = "slm-ar"
      args = ["mcp", "--workspace", "DIR"]
      tool_timeout_sec = 3600

    DIR is an absolute path. A client that stops waiting for an experiment loses nothing: the next call goes on.
    """
    from ..egress import Ledger
    from ..mcp.desk import Desk, DeskDisplay
    from ..mcp.server import require_sdk, serving
    from ..mcp.tools import Tools, known_error
    from ..report.terminal import PlainDisplay

    require_sdk()
    opened = find_workspace(workspace)
    # Whoever starts us in the background may ignore interrupts, and the end of a client is one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    desk, said = Desk(), PlainDisplay()

    def complain(error: SlmArError) -> None:
        said.note(f"slm-ar: {error}")

    tools = Tools(desk, lambda: _view(opened.root), Ledger(opened.hidden_folder), complain)
    with serving(tools, desk):
        said.note(f"ready: a coding agent may drive {opened.root}")
        try:
            while desk.wait_for_errand():
                try:
                    _drive(desk, opened.root, experiments, DeskDisplay(desk, said))
                    desk.end_errand()
                except (SlmArError, OSError) as error:
                    known = known_error(error)
                    complain(known)
                    desk.end_errand(known)
        except KeyboardInterrupt:
            if not desk.is_closed:
                raise
    said.note("the coding agent has left")


def _drive(desk: Desk, root: Path, experiments: int | None, display: Display) -> None:
    """Open the campaign and run it until its plan is fulfilled or the client has left. Raises SlmArError."""
    from ..agent.night import Limits, plan_night
    from ..mcp.desk import Driver, HungUpError
    from .awake import kept_awake
    from .research import check_tasks
    from .steps import open_campaign, write_report

    workspace = find_workspace(root)
    with open_campaign(workspace, display, asks_proposer=False) as campaign, ExitStack() as hold:
        hold.enter_context(kept_awake(display.note))

        @contextmanager
        def resting() -> Iterator[None]:
            """Nothing is trained until the agent proposes: the machine may fall asleep meanwhile."""
            hold.close()
            yield
            hold.enter_context(kept_awake(lambda line: None))

        check_tasks(workspace, campaign.executor.data)
        night = plan_night(campaign.state, workspace.recipe, experiments)
        if night.is_new:
            campaign.journal.append("planned", {"experiments": night.target, "plan": night.counts})
        display.campaign(night.lines)
        try:
            campaign.run(Driver(desk, resting), night.target, Limits())
        except HungUpError:  # a client that has left waits for our end, not for a report
            return
        write_report(workspace, campaign.state)


def _view(root: Path) -> View:
    """The workspace as it is now; while a campaign is at work too."""
    from ..mcp.telling import View
    from .steps import read_state

    workspace = find_workspace(root)
    try:
        state = read_state(workspace)
    except UsageError:
        state = None
    return View(workspace.recipe, workspace.program, workspace.train_py, state)
