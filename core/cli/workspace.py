"""A workspace: the folder that `slm-ar new` makes, and how the other commands find and open it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DataError, UsageError
from ..files import named_path

if TYPE_CHECKING:
    from ..contracts import Adapter
    from ..prepare.pipeline import PreparedData
    from ..recipe import Recipe
    from ..train.device import Machine

RECIPE_FILE, PROGRAM_FILE, TRAIN_FILE = "recipe.toml", "program.md", "train.py"
SIZE_KNOB, SIZES_M = "TARGET_PARAMS_M", (0.05, 20.0)
"""The knob of train.py that a new workspace is sized by, and between which values."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one workspace and its validated recipe."""

    root: Path
    recipe: Recipe

    @property
    def hidden_folder(self) -> Path:
        return self.root / ".slm"

    @property
    def train_py(self) -> str:
        return _read(self.root / TRAIN_FILE)

    @property
    def program(self) -> str:
        return _read(self.root / PROGRAM_FILE)

    def source(self, progress: Callable[[str], None]) -> Path:
        """Where the data lie; relative paths count from the workspace, hub:OWNER/NAME is fetched into it."""
        from ..egress import Ledger
        from ..hub import fetch_hub, is_hub_source

        data = self.recipe.data
        if data.source is None:
            raise UsageError(f"{self.root / RECIPE_FILE} names no data", 'set source = "PATH" in its [data] table')
        if is_hub_source(data.source):
            held_kb = data.dev_kb + data.hidden_kb + data.test_kb + data.mix_kb
            wanted = int(1.1 * (data.max_train_mb * 1e6 + 1000 * held_kb))  # some will be dropped as repeats
            ledger = Ledger(self.hidden_folder)
            return fetch_hub(data.source, self.hidden_folder / "hub", wanted, progress, ledger=ledger)
        return named_path(data.source, self.root)

    def adapter(self) -> Adapter:
        from ..registry import load_adapter

        return load_adapter(self.recipe.data.adapter, self.root)

    def prepared(self, progress: Any) -> PreparedData:
        """Prepare the data, or find what was prepared before from equal inputs."""
        from ..prepare.pipeline import prepare

        adapter, source = self.adapter(), self.source(progress)
        return prepare(self.recipe, adapter, source, self.hidden_folder / "data", progress)

    def machine(self) -> Machine:
        """How this machine trains: measured once per workspace, then remembered, so that a campaign stays one."""
        from ..train.device import Machine, probe_machine, torch_version

        table = self.recipe.machine
        here = [platform.node(), platform.machine(), os.cpu_count()]
        asked = {"recipe": table.model_dump(mode="json"), "torch": torch_version(), "host": here}
        path = self.hidden_folder / "machine.json"
        # A file that is missing, torn, or of another slm-ar is no error: the machine is measured below.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["asked"] == asked:
                return Machine(**known["machine"])
        machine = probe_machine(table.device, table.threads, table.precision)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"asked": asked, "machine": machine.facts}, indent=1), encoding="utf-8")
        unfinished.replace(path)
        return machine


def find_workspace(start: Path | None = None) -> Workspace:
    """The workspace of the current folder or the nearest one above. Raises UsageError when there is none."""
    from ..egress import lock_if_asked
    from ..recipe import load_recipe

    folder = (start or Path.cwd()).resolve()
    for candidate in (folder, *folder.parents):
        marks = (candidate / TRAIN_FILE, candidate / ".slm")  # a lost train.py comes back with `slm-ar adopt`
        if (candidate / RECIPE_FILE).is_file() and any(mark.exists() for mark in marks):
            workspace = Workspace(candidate, load_recipe(candidate / RECIPE_FILE))
            lock_if_asked(workspace.recipe.privacy.offline, candidate / RECIPE_FILE)
            return workspace
    raise UsageError(
        f"{folder} is not a workspace (no {RECIPE_FILE} with a {TRAIN_FILE})",
        "make one with `slm-ar new NAME --adapter transit --source DIR`, or cd into one",
    )


def create_workspace(
    root: Path, recipe_name: str, overrides: Mapping[str, Any], knobs: Mapping[str, Any] | None = None
) -> Workspace:
    """Write recipe.toml, program.md, train.py and .gitignore into a new folder. Raises UsageError when it is taken.

    Everything is checked before the folder appears: recipe, adapter, knobs.
    """
    from ..agent.edits import set_knobs
    from ..recipe import load_recipe, load_shipped, parse_recipe, recipe_text, shipped_recipes, write_recipe_copy
    from ..registry import load_adapter

    if root.name in ("slm_ar", "core", "adapters"):
        raise UsageError(f"a workspace cannot be called '{root.name}': Python would import it", "choose another name")
    if root.exists() and any(root.iterdir() if root.is_dir() else [root]):
        raise UsageError(f"{root} exists already and is not empty", "choose another name, or cd into it and go on")
    path = Path(recipe_name)
    if recipe_name not in shipped_recipes() and path.suffix == ".toml" and path.is_file():
        load_recipe(path)
        text = path.read_text(encoding="utf-8")
    else:
        load_shipped(recipe_name)
        text = recipe_text(recipe_name)
    text = write_recipe_copy(text, dict(overrides))
    recipe = parse_recipe(text, str(root / RECIPE_FILE))
    adapter = load_adapter(recipe.data.adapter, root)
    train_py = set_knobs(template("train.py"), {**recipe.knobs, **(knobs or {})})
    program = string.Template(template("program.md")).safe_substitute(
        name=recipe.name,
        description=recipe.description,
        documents=adapter.describe().strip(),
        hints=hints_for(adapter.name),
    )
    root.mkdir(parents=True, exist_ok=True)
    for name, content in ((RECIPE_FILE, text), (PROGRAM_FILE, program), (TRAIN_FILE, train_py)):
        (root / name).write_text(content, encoding="utf-8")
    (root / ".gitignore").write_text(".slm/\n", encoding="utf-8")
    return Workspace(root, recipe)


def fit_size(workspace: Workspace) -> str:
    """Give train.py the size that this machine can fill within the budget, and say so in words; empty when the recipe
    names a size, or the machine is one of which the rule says nothing."""
    from ..agent.edits import set_knobs
    from ..errors import SlmArError
    from ..train.sizing import fitting_size

    if SIZE_KNOB in workspace.recipe.knobs:
        return ""
    try:
        machine = workspace.machine()
    except (SlmArError, OSError) as error:  # a workspace can be made where nothing can be trained
        return f"not sized for this machine: {error.message if isinstance(error, SlmArError) else error}"
    size = fitting_size(machine, workspace.recipe.budget.seconds)
    if size is None:
        return ""
    low, high = SIZES_M
    size = float(f"{min(max(size, low), high):.2g}")
    path = workspace.root / TRAIN_FILE
    path.write_text(set_knobs(workspace.train_py, {SIZE_KNOB: size}), encoding="utf-8")
    return (
        f"{SIZE_KNOB} = {size:g} in train.py: the million parameters that {machine.threads} "
        f"{'thread' if machine.threads == 1 else 'threads'} of this machine can fill in "
        f"{workspace.recipe.budget.seconds:g} s"
    )


def template(name: str) -> str:
    """A file of program_templates."""
    return resources.files("slm_ar.program_templates").joinpath(name).read_text(encoding="utf-8")


def hints_for(adapter: str) -> str:
    """What is known to pay on an adapter's kind of data, from its file in program_templates; empty when it has none."""
    known = {path.name for path in resources.files("slm_ar.program_templates").iterdir()}
    return template(f"{adapter}.md").strip() + "\n" if f"{adapter}.md" in known and adapter != "program" else ""


def adapter_reference(adapter: str) -> str:
    """An adapter as a recipe names it: a file is named from here and read from the workspace later."""
    from ..registry import is_file_name

    return str(named_path(adapter, Path()).absolute()) if is_file_name(adapter) else adapter


def recipe_for(adapter: str) -> str:
    """The recipe that a new workspace starts from when none is named."""
    from ..recipe import load_shipped, shipped_recipes

    fitting = [name for name in shipped_recipes() if name.endswith("-laptop")]
    for name in fitting:
        if load_shipped(name).data.adapter == adapter:
            return name
    return "text-laptop"


def recipe_for_card(recipe: str) -> str | None:
    """The recipe for a graphics card beside one for a laptop, where a card is here and there is such a recipe."""
    from ..recipe import shipped_recipes
    from ..train.device import has_nvidia_driver

    larger = recipe.removesuffix("-laptop") + "-rtx5080"
    return larger if has_nvidia_driver() and larger in shipped_recipes() else None


def checked_source(source: Path | None) -> Path | None:
    """The absolute path of --source. Raises DataError when it is not there."""
    if source is None:
        return None
    if not source.exists():
        raise DataError(f"the source {source} does not exist", "check the path after --source")
    return source.resolve()


def named_source(source: Path) -> str:
    """--source as a recipe holds it: an absolute path, or hub:OWNER/NAME. Raises DataError when it is not there."""
    from ..hub import is_hub_source, parse_hub_source

    if is_hub_source(str(source)):
        parse_hub_source(str(source))
        return str(source)
    return str(checked_source(source))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} is missing", "restore it (`slm-ar adopt` brings a train.py back from the journal)"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8") from error


@click.command()
@click.argument("name", type=click.Path(path_type=Path))
@click.option("--adapter", help="Adapter that reads the data; `slm-ar adapters` lists them.")
@click.option("--source", type=click.Path(path_type=Path), help="File or folder with the data.")
@click.option("--recipe", "recipe_name", help="Recipe to start from; `slm-ar recipes` lists them.")
@click.option(
    "--size",
    type=click.FloatRange(0.05, 200),
    help="Million parameters to start with, instead of what this machine is measured to fill within the budget.",
)
def new(name: Path, adapter: str | None, source: Path | None, recipe_name: str | None, size: float | None) -> None:
    """Make a workspace NAME: recipe.toml, program.md and train.py, all yours to edit."""
    from ..registry import load_adapter

    if adapter is None and recipe_name is None:
        raise UsageError("say what the data are", "add --adapter transit (or text), or --recipe NAME")
    overrides: dict[str, Any] = {"name": name.name}
    if adapter is not None:
        load_adapter(adapter)
        overrides["data.adapter"] = adapter_reference(adapter)
    if source is not None:
        overrides["data.source"] = named_source(source)
    knobs = {SIZE_KNOB: size} if size is not None else {}
    recipe = recipe_name or recipe_for(adapter or "text")
    workspace = create_workspace(name, recipe, overrides, knobs)
    click.echo(f"{workspace.root}: recipe.toml, program.md, train.py (adapter {workspace.recipe.data.adapter})")
    if size is None and (words := fit_size(workspace)):
        click.echo(words)
    if recipe_name is None and (larger := recipe_for_card(recipe)):
        click.echo(f"an NVIDIA card is here: slm-ar new ANOTHER --recipe {larger}  starts with a model for it")
    click.echo(f"next:  cd {name}  then  slm-ar prepare,  slm-ar train,  slm-ar run")
    if workspace.recipe.proposer.name == "search":
        for line in other_proposers():
            click.echo(line)


def other_proposers() -> list[str]:
    """Who else could propose here, a line each: Claude where a key is set, coding agents that are installed."""
    from ..agent.proposers.programs import installed_programs

    lines = []
    if os.environ.get("ANTHROPIC_API_KEY"):
        lines.append(
            'a key for Claude is set: name = "claude" in [proposer] of recipe.toml lets it propose, and costs money; '
            "slm-ar doctor --proposer claude  checks it for free"
        )
    if programs := installed_programs():
        many = len(programs) > 1
        lines.append(
            f"installed here: {', '.join(programs)}; "
            f'name = "cli:{programs[0]}" in [proposer] of recipe.toml lets {"one of them" if many else "it"} propose; '
            f"slm-ar doctor --proposer cli:{programs[0]}  checks it for free"
        )
    return lines
