"""`slm-ar inspect`: look at data before anything is decided about them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from platformdirs import user_cache_dir

from ..contracts import Adapter, SourceOptions
from ..errors import DataError, SlmArError, UsageError
from .door import parsed_options
from .steps import display_for, train_shown
from .workspace import Workspace, adapter_reference, checked_source, create_workspace, find_workspace, recipe_for

if TYPE_CHECKING:
    from ..contracts import Display
    from ..prepare.manifest import PreparedData
    from ..report.inspection import Inspection, Pace

GUESSES = ("transit", "query_expansion", "text")
"""Adapters that are asked, in this order, whether they can read a source. Tables need a label and stories are text to
anybody who was not told, so those two are named."""
PACE_SECONDS = 3.0
HUB_BYTES = 10_000_000
PRIVATE_VARIABLE = "SLM_AR_PRIVATE"


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--adapter", help="Adapter that reads it; default: the first that can.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="A key of [data.options].")
@click.option("--fast", is_flag=True, help="Do not split, train or measure: only read.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def inspect(source: Path, adapter: str | None, options: tuple[str, ...], fast: bool, as_json: bool) -> None:
    """What data are worth: size, repeats, risks, split, floors and baselines, and what this machine can learn of them.

    Nothing is kept: it works on a copy in a temporary folder.
    """
    from ..report.inspection import inspection_lines

    with display_for(False, quiet=as_json) as display:
        found = _local(source, display)
        name, why = (adapter, "") if adapter is not None else _guessed(found, options)
        result = _inspected(found, name, why, options, fast, display)
    if as_json:
        facts = {"source": str(source), **{key: value for key, value in asdict(result).items() if key != "source"}}
        click.echo(json.dumps(facts, allow_nan=False, default=str))
    else:
        click.echo("\n".join(inspection_lines(replace(result, source=str(source)))))


def _local(source: Path, display: Display) -> Path:
    """The source on this disk; of a data set on the hub, as much as a laptop reads in a minute."""
    from ..egress import Ledger, lock_if_asked
    from ..hub import fetch_hub, is_hub_source

    if is_hub_source(str(source)):
        lock_if_asked(offline=False)
        with suppress(UsageError):  # inside a workspace its recipe may say offline; outside there is none
            find_workspace()
        cache = Path(user_cache_dir("slm-ar"))
        return fetch_hub(str(source), cache / "hub", HUB_BYTES, display.note, ledger=Ledger(cache))
    found = checked_source(source)
    assert found is not None
    return found


def _guessed(source: Path, options: tuple[str, ...]) -> tuple[str, str]:
    """(adapter, why) for the first of GUESSES that gives a document. Raises DataError with what each of them said."""
    from ..registry import load_adapter

    said = []
    for name in GUESSES:
        try:
            next(load_adapter(name).documents(source, SourceOptions(options=parsed_options(options))))
        except StopIteration:
            said.append(f"{name}: gave no documents")
        except SlmArError as error:
            said.append(f"{name}: {error.message.splitlines()[0]}")
        else:
            return name, " (the first that can; choose with --adapter, for rows with a label --adapter table)"
    lines = "\n".join(f"  {line}" for line in said)
    raise DataError(
        f"no adapter can read {source}\n{lines}",
        "name one with --adapter, for rows with a label --adapter table; `slm-ar adapters` lists them",
    )


def _inspected(source: Path, name: str, why: str, options: tuple[str, ...], fast: bool, display: Display) -> Inspection:
    from ..prepare.inspection import licence_files, look_at
    from ..prepare.spool import read_documents
    from ..registry import load_adapter
    from ..report.inspection import Inspection

    adapter = load_adapter(name)
    given = SourceOptions(options=parsed_options(options))
    display.phase("reading the documents")
    facts = look_at(read_documents(adapter, source, given))
    notices = tuple(getattr(adapter, "notices", ()))
    refusal, licences = "only read (--fast)", licence_files(source)
    shown = Inspection(str(source), name, why, facts, None, refusal, licences=licences, notices=notices)
    if fast:
        return shown
    with tempfile.TemporaryDirectory(prefix="slm-ar-inspect-") as folder:
        overrides: dict[str, Any] = {"data.adapter": adapter_reference(name), "data.source": str(source)}
        overrides |= {f"data.options.{key}": value for key, value in given.options.items()}
        workspace = create_workspace(Path(folder) / "look", recipe_for(name), overrides)
        try:
            with _private_here(Path(folder) / "private"):
                data = workspace.prepared(display.phase)
        except DataError as error:
            return replace(shown, refusal=error.message)
        display.phase("training for a moment")
        return replace(
            shown,
            manifest=data.manifest,
            pace=_measured_pace(workspace, data, display),
            baselines=_dev_baselines(adapter, data, display),
            ceilings=_ceilings(adapter, data),
        )


def _measured_pace(workspace: Workspace, data: PreparedData, display: Display) -> Pace | None:
    """Train the shipped train.py for a few seconds; None when it cannot (the page says the rest).

    Waits while another process of this person trains: the pace would be half of it, and that run would be void.
    """
    from ..agent.opening import train_job
    from ..report.inspection import Pace
    from ..train.device_lock import device_lock
    from ..train.executor import LocalExecutor, window_context

    machine = workspace.machine()
    asked = train_job(workspace.recipe, machine, workspace.train_py, 0)
    job = replace(asked, budget_seconds=PACE_SECONDS, budget_steps=None)
    folder = workspace.hidden_folder / "runs" / "pace"
    with LocalExecutor(machine, data, allow_unsafe=True) as executor:  # the shipped train.py is our own
        with device_lock(machine.device, display.note):
            outcome = train_shown(executor, job, folder, display)
        if outcome.status is not None or not outcome.train_seconds:
            return None
        context = window_context(folder, workspace.recipe.evaluation.context)
    rate = outcome.tokens / outcome.train_seconds
    return Pace(rate, outcome.parameters, context, workspace.recipe.budget.seconds or 60.0)


def _dev_baselines(adapter: Adapter, data: PreparedData, display: Display) -> dict[str, dict[str, float]]:
    from ..prepare.heldout import read_split
    from ..tasks.exam import measured_baselines

    tasks = data.manifest.tasks
    if not tasks:
        return {}
    display.phase("fitting the baselines")
    measured = measured_baselines(data, "dev", list(read_split(data.held_folder, "dev")), adapter)
    metric_of = {task.name: task.metric for task in tasks}
    return {
        task: {name: score.metrics[metric_of[task]] for name, score in scores.items()}
        for task, scores in measured.items()
    }


def _ceilings(adapter: Adapter, data: PreparedData) -> dict[str, float]:
    """Task -> share of the new in dev's answers that train can teach at all, where the adapter can tell."""
    from ..prepare.answers import ANSWERS_FILE, choose_questions, read_answers
    from ..prepare.heldout import read_split

    ceiling = getattr(adapter, "ceiling", None)
    if ceiling is None:
        return {}
    examples = read_answers(data.folder / ANSWERS_FILE)
    documents = list(read_split(data.held_folder, "dev"))
    found = {}
    for task in data.manifest.tasks:
        texts = [f"{example.prompt_line}{example.answer}" for example in examples if example.task == task.name]
        golds = [(question.prompt, question.gold) for question in choose_questions(documents, task)]
        if texts and golds:
            found[task.name] = float(ceiling(task.name, texts, golds))
    return found


@contextmanager
def _private_here(folder: Path) -> Iterator[None]:
    """Keep the held-out part of a look in `folder`: the person's own must neither grow nor lose anything by it."""
    before = os.environ.get(PRIVATE_VARIABLE)
    os.environ[PRIVATE_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[PRIVATE_VARIABLE]
        else:
            os.environ[PRIVATE_VARIABLE] = before
