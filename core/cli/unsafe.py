"""The one way to run candidate code without walls, --allow-unsafe, and what is told of walls that are weak."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import SlmArError
from .workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from ..train.sandbox.choice import Isolation

Command = TypeVar("Command", bound=Callable[..., Any])
_KEY = "slm_ar.allow_unsafe"


def allow_unsafe(command: Command) -> Command:
    """Decorator: the option --allow-unsafe, which `unsafe_is_allowed` then knows about."""
    return click.option(
        "--allow-unsafe",
        is_flag=True,
        expose_value=False,
        callback=_note,
        help="Go on where no sandbox, or a weaker one than before, holds: explored, not certified.",
    )(command)


def _note(context: click.Context, parameter: click.Parameter, is_given: bool) -> None:
    context.meta[_KEY] = is_given


def unsafe_is_allowed() -> bool:
    """Whether the person said --allow-unsafe to the command that runs now."""
    context = click.get_current_context(silent=True)
    return bool(context is not None and context.meta.get(_KEY))


def walls_line(isolation: Isolation, workspace: Workspace | None) -> str:
    """`isolation.weaker_line` beside what the workspace's journal says; empty where nothing needs to be told."""
    from ..agent.isolation import last_walls, weaker_line
    from ..agent.journal import Journal
    from ..train.sandbox.plans import BUBBLEWRAP

    if isolation.level >= BUBBLEWRAP.level:  # nothing is better on any system, so the journal need not be read
        return ""
    last = "none"
    # What cannot be read is no reason to be silent of the walls, nor to end a command that needs no journal.
    with suppress(SlmArError):
        if workspace is not None and (workspace.hidden_folder / "journal.db").is_file():
            with Journal(workspace.hidden_folder, read_only=True) as journal:
                last = last_walls(journal.events)
    return weaker_line(isolation, last)


def tell_walls(isolation: Isolation) -> None:
    """One line on standard error where a model is opened behind weaker walls than the best, or than last time."""
    workspace = None
    with suppress(SlmArError):  # a model can be used outside of a workspace
        workspace = find_workspace()
    if line := walls_line(isolation, workspace):
        click.echo(line, err=True)
