"""The `slm-ar` command: its sub-commands by name, loaded when they are called, and what a person sees of an error."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

import click

from ..errors import DISK_FULL, SlmArError, did_you_mean

COMMANDS = {
    "demo": "research:demo",
    "new": "workspace:new",
    "inspect": "data:inspect",
    "doctor": "doctor:doctor",
    "prepare": "research:prepare",
    "train": "research:train",
    "run": "research:run",
    "status": "research:status",
    "report": "research:report",
    "finish": "research:finish",
    "adopt": "research:adopt",
    "simulate-gate": "research:simulate_gate",
    "study": "study:study",
    "predict": "use:predict",
    "eval": "use:evaluate",
    "generate": "model:generate",
    "mcp": "mcp:mcp",
    "adapters": "door:adapters",
    "recipes": "model:recipes",
}


RESUMING = ("run", "finish", "demo", "train", "prepare", "mcp", "study")
"""Commands that find what they did before when they are called again."""


class LazyGroup(click.Group):
    """Imports a command's module only when it is asked for: torch and pandas take seconds."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name].split(":")
        command: click.Command = getattr(importlib.import_module(f"..{module}", __name__), attribute)
        return command

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if arguments and arguments[0] not in COMMANDS and not arguments[0].startswith("-"):
            hint = did_you_mean(arguments[0], list(COMMANDS))
            raise click.UsageError(f"there is no command '{arguments[0]}'. {hint}", context)
        return super().resolve_command(context, arguments)


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="slm-ar", prog_name="slm-ar")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Train a small language model on your own data, and improve its training code by itself.

    Try it with no data at hand: slm-ar demo
    """
    context.obj = {"debug": debug}
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command and end the process with the error's exit code."""
    others = sys.unraisablehook

    def hook(lost: sys.UnraisableHookArgs) -> None:
        if lost.exc_type is KeyboardInterrupt:
            _interrupt_again()
        else:
            others(lost)

    sys.unraisablehook = hook
    try:
        sys.exit(_run(arguments))
    finally:
        sys.unraisablehook = others


def _interrupt_again() -> None:
    """Ctrl-C that lands in a callback of the interpreter (a weak reference that dies in an import) would be dropped."""
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    # Later and from another thread: raised in the callback's own frames it would be dropped again.
    again = threading.Timer(0.05, signal.pthread_kill, (main_thread, signal.SIGINT))
    again.daemon = True
    again.start()


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = cli.main(args=arguments, prog_name="slm-ar", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SlmArError as error:
        if "--debug" in (arguments if arguments is not None else sys.argv):
            raise
        from ..report.words import visible

        # Errors quote names, cells and lines from files: whoever wrote those must not drive the terminal.
        click.echo(f"slm-ar: {visible(error.message)}", err=True)
        if error.hint:
            click.echo(f"  -> {visible(error.hint)}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        given = arguments if arguments is not None else sys.argv[1:]
        command = next((word for word in given if not word.startswith("-")), "")
        rest = "; what was recorded is saved, the same command goes on" if command in RESUMING else ""
        click.echo(f"slm-ar: interrupted{rest}", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if "--debug" in (arguments if arguments is not None else sys.argv):
            raise
        return _tell_os_error(error)
    except Exception as error:
        if "--debug" in (arguments if arguments is not None else sys.argv):
            raise
        from ..report.words import visible

        click.echo(f"slm-ar: unexpected {type(error).__name__}: {visible(str(error), 500)}", err=True)
        click.echo("  -> this is a bug: `slm-ar --debug ...` shows where; what was recorded is saved", err=True)
        return 1


def _tell_os_error(error: OSError) -> int:
    where = f" ({error.filename})" if error.filename else ""
    click.echo(f"slm-ar: {error.strerror or error}{where}", err=True)
    if error.errno in DISK_FULL:
        click.echo("  -> the disk is full: free some space; nothing that was recorded is lost", err=True)
        return 7
    click.echo("  -> check that the path exists and may be read and written; --debug shows where it happened", err=True)
    return 1


if __name__ == "__main__":
    main()
