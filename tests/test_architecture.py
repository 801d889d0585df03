"""The house keeps its shape: who may import whom, and which libraries a module may load when it is imported.

Imports are read from the source, so an import inside a function counts for direction as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "adapters", "recipes", "program_templates")
FEWEST_MODULES = 40

# A room may import rooms with a smaller number, and itself. A new module in core needs a number here.
RANKS = {
    "errors": 0,
    "contracts": 1,
    "environment": 1,
    "egress": 1,
    "files": 2,  # helpers of sources
    "delimited": 3,  # helper of sources
    "spilling": 2,
    "toml_text": 2,  # helpers of recipe
    "recipe_words": 3,
    "sources": 4,
    "recipe": 4,
    "registry": 4,
    "testing": 4,  # imports the doors of an adapter alone
    "hub": 4,
    "hub_reader": 4,  # a process of its own
    "prepare": 5,
    "train": 6,
    "tasks": 7,
    "export": 8,
    "agent": 8,  # beside export: equal numbers do not import each other
    "report": 9,
    "study": 9,  # beside report
    "mcp": 10,
    "cli": 11,
    "__main__": 12,
}
ADAPTER_DOORS = {"slm_ar.core.contracts", "slm_ar.core.errors", "slm_ar.core.sources"}
TRAIN_PY_DOORS = {"slm_ar.core.train.runtime", "slm_ar.core.train.ops"}

# numpy is not listed: it loads in a tenth of a second. test_imports.py keeps it out of the command line's start.
HEAVY = {
    "anthropic",
    "datasets",
    "mcp",
    "optuna",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "tokenizers",
    "torch",
    "transformers",
}
MAY_BE_HEAVY = {
    "slm_ar.core.train.runtime",
    "slm_ar.core.train.loader",  # a part of runtime
    "slm_ar.core.train.replicas",  # a part of runtime
    "slm_ar.core.train.crew",  # a part of replicas
    "slm_ar.core.train.ops",
    "slm_ar.core.train.kernels",  # a part of ops
    "slm_ar.core.train.logits_server",
    "slm_ar.core.train.logits_client",
    "slm_ar.core.tasks.generate",
    "slm_ar.core.train.device",
    "slm_ar.program_templates.train",
}


class Import(NamedTuple):
    target: str
    line: int
    on_load: bool
    """Whether importing the module executes it: neither inside a function nor for type checkers only."""


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[:2] == ["core", "_root"]:
        parts = parts[2:]
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(["slm_ar", *parts])


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imports_of(name: str) -> list[Import]:
    path = modules()[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return list(_walk(tree, package, on_load=True))


def _walk(node: ast.AST, package: list[str], on_load: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, on_load)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            # `from . import gate` imports a module, `from .gate import judge` a name of one.
            inner = f"{origin}.{alias.name}"
            yield Import(inner if inner in modules() else origin, node.lineno, on_load)
    elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        for child in node.body:
            yield from _walk(child, package, on_load=False)
        for child in node.orelse:
            yield from _walk(child, package, on_load)
    else:
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, package, on_load and not inside)


def ours(name: str) -> list[Import]:
    return [found for found in imports_of(name) if found.target.split(".")[0] in ("slm_ar", *FOLDERS)]


def room_of(name: str) -> str:
    """`slm_ar.core.train.device` is in the room train."""
    return name.removeprefix("slm_ar.core.").split(".")[0]


def complaint(name: str, found: Import, why: str) -> str:
    return f"{modules()[name].relative_to(ROOT)}:{found.line} imports {found.target}: {why}"


def core_problem(name: str, target: str) -> str:
    if not target.startswith("slm_ar.core."):
        return "core imports core only; adapters, recipes and templates arrive by name"
    room, wanted = room_of(name), room_of(target)
    if wanted not in RANKS:
        return f"give '{wanted}' a rank in tests/test_architecture.py"
    if room == "testing":
        doors = {*ADAPTER_DOORS, "slm_ar.core.environment"}  # what the process gets that it starts
        return "" if target in doors else "testing is as independent as an adapter"
    return "" if room == wanted or RANKS[wanted] < RANKS[room] else f"{room} stands below or beside {wanted}"


def test_the_house_is_found() -> None:
    assert len(modules()) > FEWEST_MODULES
    assert all((ROOT / folder / "__init__.py").is_file() for folder in FOLDERS)


def test_every_room_of_core_has_a_rank() -> None:
    rooms = {room_of(name) for name in modules() if name.startswith("slm_ar.core.")}
    assert rooms - {"testing"} <= set(RANKS), "give the new module a rank"


def test_core_imports_downwards_only() -> None:
    problems = [
        complaint(name, found, why)
        for name in modules()
        if name.startswith("slm_ar.core.")
        for found in ours(name)
        if (why := core_problem(name, found.target))
    ]
    assert not problems, "\n".join(problems)


def test_the_roots_import_nothing_of_ours() -> None:
    for name in ("slm_ar", "slm_ar.core", "slm_ar.adapters", "slm_ar.recipes", "slm_ar.program_templates"):
        assert not ours(name), f"`import {name}` must cost nothing"


def test_adapters_know_three_doors_and_no_other_adapter() -> None:
    problems = []
    for name in modules():
        if name.startswith("slm_ar.adapters."):
            own_room = ".".join(name.split(".")[:3])
            problems += [
                complaint(name, found, "adapters import core.contracts, core.errors, core.sources and their own room")
                for found in ours(name)
                if found.target not in ADAPTER_DOORS and not f"{found.target}.".startswith(f"{own_room}.")
            ]
    assert not problems, "\n".join(problems)


def test_templates_use_the_doors_of_a_stranger() -> None:
    """What is copied into a workspace stands alone there: train.py knows the runtime, an adapter stub the doors."""
    problems = []
    for name in modules():
        if name.startswith("slm_ar.program_templates."):
            doors = TRAIN_PY_DOORS if name.endswith(".train") else ADAPTER_DOORS
            problems += [complaint(name, found, "not a door") for found in ours(name) if found.target not in doors]
    assert not problems, "\n".join(problems)


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    problems = [
        complaint(name, found, "import it inside the function that needs it")
        for name in modules()
        if name not in MAY_BE_HEAVY
        for found in imports_of(name)
        if found.on_load and found.target.split(".")[0] in HEAVY
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from . import errors", [("slm_ar.core.errors", True)]),
        ("from ..adapters import transit", [("slm_ar.adapters.transit", True)]),
        ("from .errors import DataError", [("slm_ar.core.errors", True)]),
        ("def f():\n    import torch.nn", [("torch.nn", False)]),
        ("class C:\n    import torch", [("torch", True)]),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", [("torch", True)]),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import scipy", [("torch", False), ("scipy", True)]),
    ],
)
def test_imports_are_understood(code: str, expected: list[tuple[str, bool]]) -> None:
    found = list(_walk(ast.parse(code), ["slm_ar", "core"], on_load=True))
    assert [(item.target, item.on_load) for item in found] == expected


@pytest.mark.parametrize(
    ("name", "target", "allowed"),
    [
        ("slm_ar.core.train.scorer", "slm_ar.core.prepare.split", True),
        ("slm_ar.core.prepare.split", "slm_ar.core.train.scorer", False),
        ("slm_ar.core.export.gguf", "slm_ar.core.train.runtime", True),
        ("slm_ar.core.agent.loop", "slm_ar.core.export.gguf", False),
        ("slm_ar.core.export.gguf", "slm_ar.core.agent.gate", False),
        ("slm_ar.core.cli.main", "slm_ar.core.report.html", True),
        ("slm_ar.core.errors", "slm_ar.core.contracts", False),
        ("slm_ar.core.testing", "slm_ar.core.registry", False),
        ("slm_ar.core.registry", "slm_ar.adapters.transit", False),
        ("slm_ar.core.registry", "slm_ar.core.sources", False),
    ],
)
def test_the_rules_refuse_what_they_should(name: str, target: str, allowed: bool) -> None:
    assert (core_problem(name, target) == "") is allowed
