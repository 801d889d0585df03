"""Commands around adapters: list them, write a new one, check one against its contract."""

from __future__ import annotations

import json
import keyword
import re
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import click

from ..errors import DataError, UsageError

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "slm-ar-{name_dashed}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["slm-ar"]

[project.entry-points."slm_ar.adapters"]
{name} = "slm_ar_{name}:{class_name}"

[tool.setuptools]
py-modules = ["slm_ar_{name}"]
"""

_TEST = '''\
"""The adapter keeps its contract on a small source, and says what is wrong with a bad one."""

from pathlib import Path

import pytest
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.errors import DataError
from slm_ar.core.testing import check_adapter
from slm_ar_{name} import {class_name}


def test_contract(tmp_path: Path) -> None:
    rows = "".join(f"{{number}},{{'ab'[number % 2]}},{{'yes' if number % 3 else 'no'}}\\n" for number in range(50))
    (tmp_path / "rows.csv").write_text("amount,shop,answer\\n" + rows)
    assert check_adapter({class_name}(), tmp_path) == []


def test_an_empty_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("amount,shop,answer\\n")
    with pytest.raises(DataError):
        list({class_name}().documents(tmp_path, SourceOptions()))
'''


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
@click.pass_context
def adapters(context: click.Context, as_json: bool) -> None:
    """The adapters that are installed; `new` writes one, `check` tests one."""
    if context.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from ..registry import list_adapters

    entries = list_adapters()
    if as_json:
        facts = [
            {
                "name": entry.name,
                "packages": list(entry.distributions),
                "problem": entry.problem,
                "options": dict(entry.adapter.options) if entry.adapter else {},
            }
            for entry in entries
        ]
        click.echo(json.dumps(facts))
        return
    for entry in entries:
        words = entry.problem or (entry.adapter.describe().strip().splitlines()[0] if entry.adapter else "")
        click.echo(f"{entry.name:<16} {words}")
        for name, sentence in (entry.adapter.options if entry.adapter else {}).items():
            click.echo(f"{'':<16}   {name}: {sentence}")


@adapters.command("new")
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it; default: ./slm-ar-NAME.")
def new_adapter(name: str, folder: Path | None) -> None:
    """Write adapter NAME, its test and its entry point: a package of its own, ready to change and install."""
    from ..registry import adapter_names

    if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name) or keyword.iskeyword(name):
        hint = "use small letters, digits and _ (not at the end), such as my_tickets"
        raise UsageError(f"'{name}' cannot be an adapter's name", hint)
    if name in adapter_names():
        raise UsageError(f"an adapter '{name}' is installed already", "choose another name: a collision is an error")
    dashed = name.replace("_", "-")
    root = folder or Path(f"slm-ar-{dashed}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError(f"{root} exists already and is not empty", "choose another one with --folder")
    class_name = "".join(part.capitalize() for part in name.split("_")) + "Adapter"
    words = {"name": name, "name_dashed": dashed, "class_name": class_name}
    code = resources.files("slm_ar.program_templates").joinpath("adapter.py").read_text(encoding="utf-8")
    code = code.replace("TemplateAdapter", class_name).replace('"template"', f'"{name}"')
    code = code.replace('f"template {seed}"', f'f"{name} {{seed}}"')
    for path, text in (
        (root / f"slm_ar_{name}.py", code),
        (root / "tests" / f"test_{name}.py", _TEST.format(**words)),
        (root / "pyproject.toml", _PYPROJECT.format(**words)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    module = root / f"slm_ar_{name}.py"
    click.echo(f"{root}: {module.name}, tests/test_{name}.py, pyproject.toml")
    click.echo(f"check it:      slm-ar adapters check {_typed_path(module)} --source FILE")
    click.echo(f"use it:        slm-ar new NAME --adapter {_typed_path(module)} --source FILE")
    click.echo(f"or install it: pip install -e {_typed_path(root)}   (then it is called {name})")


def _typed_path(path: Path) -> str:
    """A path as a person types it into a shell, never mistaken for the name of an adapter or a package."""
    return shlex.quote(str(path) if path.is_absolute() else f"./{path}")


@adapters.command("check")
@click.argument("name")
@click.option("--source", type=click.Path(path_type=Path), help="File or folder to read; default: the sample alone.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A key of [data.options].")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def check(name: str, source: Path | None, options: tuple[str, ...], as_json: bool) -> None:
    """Test adapter NAME (or ./file.py) against its contract: order, groups, spans, options, no writes, no network."""
    from ..contracts import SourceOptions
    from ..registry import load_adapter
    from ..testing import check_adapter, check_without_source
    from .workspace import checked_source

    adapter = load_adapter(name)
    found = checked_source(source)
    if found is None:
        problems = check_without_source(adapter)
    else:
        problems = check_adapter(adapter, found, SourceOptions(options=parsed_options(options)))
    if as_json:
        click.echo(json.dumps({"adapter": name, "source": str(source) if source else None, "problems": problems}))
    elif not problems:
        what = f"on {source}" if source else "as far as its sample shows; --source FILE checks the reading too"
        click.echo(f"{name} keeps its contract {what}")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise DataError(f"adapter '{name}' breaks its contract\n{lines}", "slm_ar.core.contracts.Adapter has the rules")


def parsed_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` texts as [data.options] would hold them: numbers and true/false as such, else text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--option {pair} is not KEY=VALUE", "for example --option unit=line")
        found[key.strip()] = _typed(value)
    return found


def _typed(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
