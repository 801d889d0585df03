"""Coding agents that are started as programs: which there are, the line that asks each of them, what they get to see.

Called by command.py, checkup.py and the command line. Promises: a program gets an environment of listed names only; no
variable of ours, no key that the recipe does not name, and no path of the workspace or the private folder is in it.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path

from ... import egress
from ...environment import without_secrets
from ...errors import ProposerError, UsageError, did_you_mean
from ...files import named_path
from ...prepare.heldout import private_root
from ...recipe import ProposerTable

PREFIX = "cli:"
SHORTEST_SECRET = 8
PROGRAMS_FILE = "programs.toml"
PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "LD_LIBRARY_PATH",
)  # fmt: skip
"""Where a program finds itself, its settings and its login (files, or the keyring of the desktop), and the network."""


@dataclass(frozen=True, slots=True)
class Known:
    """A program that we know how to ask."""

    command: tuple[str, ...]
    model: tuple[str, ...]
    """Added to the command when the recipe names a model."""
    passes: tuple[str, ...]
    sets: Mapping[str, str]
    install: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program that a recipe names, found on this machine."""

    name: str
    """As in the recipe: cli:claude."""
    path: str
    command: tuple[str, ...]
    """Without the program itself; {prompt} stands for the task."""
    environment: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """Values of this process's environment that may stand in nothing that is kept."""

    @property
    def reads_input(self) -> bool:
        """Whether the task comes on standard input, because the command has no place for it."""
        return not any("{prompt}" in part for part in self.command)

    def line(self, prompt: str) -> list[str]:
        """What is started for one task."""
        return [self.path, *(part.replace("{prompt}", prompt) for part in self.command)]


@cache
def known_programs() -> Mapping[str, Known]:
    """The programs of programs.toml by the name behind cli:, read once."""
    text = resources.files("slm_ar.core.agent.proposers").joinpath(PROGRAMS_FILE).read_text(encoding="utf-8")
    return {
        name: Known(
            command=tuple(table["command"]),
            model=tuple(table["model"]),
            passes=tuple(table["passes"]),
            sets=table["sets"],
            install=table["install"],
        )
        for name, table in tomllib.loads(text)["programs"].items()
    }


def installed_programs() -> list[str]:
    """Names (claude, codex ...) of the known programs that are on PATH. Starts none."""
    return [name for name, known in known_programs().items() if shutil.which(known.command[0])]


def find_program(table: ProposerTable, workspace: Path | None) -> Program:
    """The program behind [proposer] name = "cli:NAME". Raises UsageError and ProposerError; starts nothing.

    `workspace` is None outside of one.
    """
    name = table.name.removeprefix(PREFIX)
    known = known_programs().get(name)
    if known is None and table.command is None:
        near = did_you_mean(table.name, [PREFIX + one for one in known_programs()])
        raise UsageError(
            f"how to ask '{name}' is not known",
            f'{near} Or write command = ["{name or "PROGRAM"}", "{{prompt}}"] in [proposer] of recipe.toml.',
        )
    parts = list(table.command or (known.command if known is not None else ()))
    if table.model is not None:
        added = known.model if known is not None and table.command is None else ()
        if not added and not any("{model}" in part for part in parts):
            raise UsageError(
                f"command of {table.name} has no place for model = {table.model!r}",
                "write {model} where it belongs in the command, or take model out of [proposer]",
            )
        parts = [part.replace("{model}", table.model) for part in (*parts, *added)]
    elif any("{model}" in part for part in parts):
        raise UsageError(f"command of {table.name} asks for a model", 'set model = "NAME" in [proposer] of recipe.toml')
    if egress.is_offline() and not table.agent_is_local:
        raise UsageError(
            egress.refusal(table.name).message,
            "take that out to allow it; agent_is_local = true in [proposer] says that it asks this machine alone",
        )
    if any("\0" in part for part in parts):
        raise UsageError(f"command of {table.name} holds a zero byte", "take it out of [proposer] in recipe.toml")
    path = _found(parts[0], workspace)
    if path is None:
        install = f"install it: {known.install}. " if known is not None and table.command is None else ""
        where = "no program is there" if os.sep in parts[0] else "it is not on PATH"
        raise ProposerError(
            f"proposer {table.name} needs the program `{parts[0]}`, and {where}",
            f'{install}Or write command = ["PROGRAM", "{{prompt}}"] in [proposer] of recipe.toml to use another.',
        )
    environment = _environment(table.pass_environment, known, workspace)
    return Program(table.name, path, tuple(parts[1:]), environment, tuple(_secrets(table.pass_environment)))


def _found(program: str, workspace: Path | None) -> str | None:
    """The absolute path of a program on PATH, or of one named by its place, which counts from the workspace."""
    if os.sep in program:
        program = str(named_path(program, workspace or Path.cwd()))
    path = shutil.which(program)
    # An entry of PATH may be relative, and the program is started elsewhere.
    return str(Path(path).absolute()) if path is not None else None


def _environment(named: Sequence[str], known: Known | None, workspace: Path | None) -> dict[str, str]:
    """What a program gets: the listed names, those of the recipe, and what is set for it."""
    passes, sets = (known.passes, known.sets) if known is not None else ((), {})
    secluded = [private_root(), *([workspace] if workspace is not None else [])]
    hidden = {path for place in secluded for path in (place.resolve(), place.absolute())}
    environment = {
        name: os.environ[name]
        for name in (*PASSED, *passes)
        if name in os.environ and (name == "PATH" or not any(str(path) in os.environ[name] for path in hidden))
    }
    entries = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join(entry for entry in entries if not _is_within(Path(entry), hidden))
    environment |= {"TERM": "dumb", "NO_COLOR": "1", **sets}
    return environment | {name: os.environ[name] for name in named if name in os.environ}


def _is_within(place: Path, folders: Collection[Path]) -> bool:
    return any(path.is_relative_to(folder) for path in (place.absolute(), place.resolve()) for folder in folders)


def _secrets(named: Sequence[str]) -> Iterator[str]:
    """Values of variables that look like keys, of those that the recipe hands over, and passwords of proxies."""
    for name in PASSED:
        if name.lower().endswith("_proxy") and "@" in os.environ.get(name, ""):
            login = os.environ[name].rpartition("@")[0].rpartition("/")[2]
            yield login
            if len(password := login.partition(":")[2]) >= SHORTEST_SECRET:
                yield password
    for name in {*named, *(os.environ.keys() - without_secrets(os.environ).keys())}:
        value = os.environ.get(name, "")
        if len(value) >= SHORTEST_SECRET:
            yield value
