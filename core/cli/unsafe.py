"""The one way to run candidate code without walls: --allow-unsafe, said at the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

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
