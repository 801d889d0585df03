"""What the commands around the loop have in common: open a workspace's campaign, search, render, find the demo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ProposerError, SlmArError, UsageError
from ..files import named_path
from .stopping import Deadline, deadline, time_line
from .unsafe import unsafe_is_allowed
from .workspace import TRAIN_FILE, Workspace, create_workspace, fit_size, named_source

if TYPE_CHECKING:
    from ..agent.campaign import Campaign
    from ..agent.proposers.calls import Setting
    from ..agent.state import CampaignState
    from ..contracts import Display, Task, TrainOutcome
    from ..prepare.pipeline import PreparedData
    from ..tasks.exam import TaskResult
    from ..tasks.objective import Objective
    from ..train.executor import LocalExecutor
    from ..train.training_run import TrainJob

DEMO_MARK = ".slm-ar-demo"


@contextmanager
def display_for(as_json: bool, quiet: bool) -> Iterator[Display]:
    """A display that is closed whatever happens; with --json it must not write to standard output itself."""
    from ..report.terminal import make_display

    display = make_display(as_json, quiet)
    try:
        yield display
    finally:
        display.close()


def prepare_shown(workspace: Workspace, display: Display) -> PreparedData:
    """Prepare with a phase line per step, and tell the warnings."""
    data = workspace.prepared(display.phase)
    for warning in data.manifest.warnings:
        display.note(warning)
    return data


def train_shown(executor: LocalExecutor, job: TrainJob, folder: Path, display: Display) -> TrainOutcome:
    """One run to its outcome, with its progress on the display."""
    from ..agent.running import watched

    return watched(executor, job, folder, display, "train.py, as it is")


@contextmanager
def open_campaign(
    workspace: Workspace,
    display: Display,
    may_start: bool = True,
    night_usd: float | None = None,
    asks_proposer: bool = True,
) -> Iterator[Campaign]:
    """Lock the workspace, prepare, and open its campaign: the one that fits, or a new one when anything changed.

    `asks_proposer`: whether the recipe's proposer is needed; where somebody else proposes, its key may be missing.
    """
    from ..agent.campaign import Campaign
    from ..agent.isolation import hold_isolation, last_walls, refuse_weaker, weaker_line
    from ..agent.journal import Journal, workspace_lock
    from ..agent.opening import ensure_campaign
    from ..agent.proposers import make_proposer
    from ..train.executor import LocalExecutor

    if may_start and asks_proposer:  # an unknown name or a missing key is told before minutes are spent
        make_proposer(workspace.recipe.proposer.name, proposer_setting(workspace, night_usd=night_usd))
    with workspace_lock(workspace.hidden_folder):
        data = prepare_shown(workspace, display)
        if not may_start:  # `finish`, which ends in an exam
            check_baselines(workspace, data.manifest.tasks)
        display.phase("looking at the machine")
        machine = workspace.machine()
        objective = objective_of(workspace, data)
        with (
            Journal(workspace.hidden_folder) as journal,
            LocalExecutor(
                machine, data, objective, unsafe_is_allowed(), workspace.recipe.evaluation.mixture
            ) as executor,
        ):
            isolation = executor.isolation(workspace.hidden_folder / "runs")
            line = weaker_line(isolation, last_walls(journal.events)) or isolation.line
            refuse_weaker(journal, isolation, unsafe_is_allowed())
            why = ensure_campaign(
                journal, workspace.recipe, data, machine, workspace.train_py, may_start, objective, isolation.words
            )
            hold_isolation(journal, isolation, unsafe_is_allowed())
            display.note(line)
            if why is not None:
                display.note(f"{why} ({machine.device}, {machine.threads} threads, {machine.precision})")
            yield Campaign(workspace.root, workspace.recipe, journal, executor, display, workspace.program)


def proposer_setting(
    workspace: Workspace,
    campaign: str = "",
    tell: Callable[[str], None] = lambda line: None,
    stop_at: float | None = None,
    night_usd: float | None = None,
) -> Setting:
    """What a proposer that asks a language model needs to know of a workspace."""
    from ..agent.proposers.calls import Setting

    return Setting(workspace.recipe.proposer, workspace.hidden_folder, campaign, tell, stop_at, night_usd)


def objective_of(workspace: Workspace, data: PreparedData) -> Objective | None:
    """What the recipe's [metric] asks the campaign to lower; None for bits per byte. Raises RecipeError."""
    from ..contracts import Rater
    from ..tasks.exam import answer_slices_of
    from ..tasks.objective import Objective, find_task

    metric = workspace.recipe.metric
    if metric is None:
        return None
    adapter = workspace.adapter()
    task = find_task(data.manifest.tasks, metric.task)
    return Objective(task, adapter if isinstance(adapter, Rater) else None, answer_slices_of(adapter))


def exam_of(workspace: Workspace, executor: LocalExecutor, folder: Path, split: str) -> tuple[TaskResult, ...]:
    """The tasks of a split, answered by the checkpoint in `folder`, beside the baselines; empty without tasks."""
    from ..prepare.heldout import read_split
    from ..tasks.exam import sit_exam
    from ..train.executor import window_context

    data = executor.data
    if not data.manifest.tasks:
        return ()
    documents = list(read_split(data.held_folder, split))
    context = window_context(folder, workspace.recipe.evaluation.context)
    brought = brought_baselines(workspace)
    opener = executor.opener(folder, context)
    return sit_exam(opener, executor.tokenizer, context, split, documents, data, workspace.adapter(), brought)


def exam_or_error(
    workspace: Workspace, executor: LocalExecutor, folder: Path, split: str
) -> tuple[tuple[TaskResult, ...], SlmArError | None]:
    """`exam_of`, or what went wrong with it: what was trained and scored before is told all the same."""
    try:
        return exam_of(workspace, executor, folder, split), None
    except SlmArError as error:
        return (), error


def brought_baselines(workspace: Workspace) -> dict[str, Path]:
    """[baselines] of the recipe: name -> file, relative to the workspace."""
    return {name: named_path(path, workspace.root) for name, path in workspace.recipe.baselines.items()}


def check_baselines(workspace: Workspace, tasks: Sequence[Task]) -> None:
    """Refuse a line of [baselines] that cannot be used, before time is spent. Raises RecipeError and DataError."""
    if not workspace.recipe.baselines:
        return
    from ..tasks.brought import assign_baselines, check_brought

    assign_baselines(workspace.recipe.baselines, tasks)
    check_brought(brought_baselines(workspace))


def search(
    campaign: Campaign,
    workspace: Workspace,
    experiments: int | None,
    end: Deadline | None = None,
    night_usd: float | None = None,
) -> CampaignState:
    """Plan, print the plan, and search until it is fulfilled or a limit is reached, the first of them.

    Raises ProposerError when the proposer could not be asked to the end; what was found is in the journal.
    """
    from ..agent.night import Limits, plan_night
    from ..agent.proposers import make_proposer

    end = end or deadline(None, None, workspace.recipe.budget.hours)
    limits = Limits() if end is None else Limits(end.at, f"the time is up: {end.words}")
    search_end = limits.search_end(campaign.state, workspace.recipe)
    setting = proposer_setting(workspace, campaign.state.identity, campaign.display.note, search_end, night_usd)
    proposer = make_proposer(workspace.recipe.proposer.name, setting)
    if line := getattr(proposer, "opening_line", ""):
        campaign.display.note(line)
    night = plan_night(campaign.state, workspace.recipe, experiments)
    if night.is_new:
        campaign.journal.append("planned", {"experiments": night.target, "plan": night.counts})
    ends = [] if end is None or search_end is None else [time_line(end, search_end)]
    campaign.display.campaign([*night.lines, *ends])
    try:
        campaign.run(proposer, night.target, limits)
    finally:
        with suppress(ProposerError):  # a damaged record must not hide how the night ended
            if line := getattr(proposer, "closing_line", ""):
                campaign.display.note(line)
    return campaign.state


def read_state(workspace: Workspace) -> CampaignState:
    """The newest campaign's state without taking the lock. Raises UsageError before the first campaign."""
    from ..agent.journal import Journal
    from ..agent.replay import replay

    if not (workspace.hidden_folder / "journal.db").is_file():
        raise UsageError("there is no campaign here yet", "start one with `slm-ar run`")
    with Journal(workspace.hidden_folder, read_only=True) as journal:
        state = replay(journal.events)
    if state is None:
        raise UsageError("there is no campaign here yet", "start one with `slm-ar run`")
    return state


def spent_words(workspace: Workspace, state: CampaignState) -> str:
    """What language models took in a campaign, for people; empty where none was asked."""
    from ..agent.proposers.spending import Transcript

    try:
        spent = Transcript(workspace.hidden_folder).spent(state.identity)
    except ProposerError as error:
        return f"not known: {error.message}"
    return spent.words if spent.calls else ""


def may_open_test(state: CampaignState) -> bool:
    """Ask the person, unless this campaign's test is open already, or there is nothing to open it for."""
    from ..agent.finish import is_unchanged

    if state.final is not None or state.final_pair is not None or is_unchanged(state):
        return True
    click.echo(
        "finish opens the test split, once: it measures the starting and the final code on it with fresh seeds.",
        err=True,
    )
    return click.confirm("Open test now?", err=True)


def write_report(workspace: Workspace, state: CampaignState) -> Path:
    """Render the journal: report.html, results.tsv and journal.jsonl; returns the report's path."""
    from ..agent.journal import Journal
    from ..egress import Ledger
    from ..report.html import render_html
    from ..report.summary import summarise
    from ..report.tables import results_tsv

    with Journal(workspace.hidden_folder, read_only=True) as journal:
        events = "".join(
            json.dumps({"number": e.number, "at": e.at, "kind": e.kind, "hash": e.hash, "body": e.body}) + "\n"
            for e in journal.events
        )
    summary = summarise(
        state, left_machine=Ledger(workspace.hidden_folder).summary(), spent=spent_words(workspace, state)
    )
    path = workspace.root / "report.html"
    for name, text in (
        ("journal.jsonl", events),
        ("results.tsv", results_tsv(state)),
        ("report.html", render_html(summary, state)),
    ):
        unfinished = workspace.root / f".{name}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(workspace.root / name)
    return path


def show_end(state: CampaignState, report_path: Path, as_json: bool, quiet: bool) -> None:
    """The verdict in words, or the summary as one JSON object."""
    from ..report.summary import summarise
    from ..report.tables import status_text

    summary = summarise(state)
    if as_json:
        click.echo(json.dumps({"event": "end", "report": str(report_path), **summary.to_json()}, allow_nan=False))
    elif not quiet:
        root = report_path.parent
        is_here = root in (Path.cwd(), *Path.cwd().parents)
        click.echo(status_text(summary, is_end=True, folder="" if is_here else str(shown_path(root))))
        click.echo(f"report: {shown_path(report_path)}")


def shown_path(path: Path) -> Path:
    """Relative to the current folder when it lies inside it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def workspace_from_recipe(recipe: str, source: Path | None, tell: Callable[[str], None]) -> Workspace:
    """A workspace named after the recipe, below the current folder; made, or opened when it is there already."""
    from ..recipe import load_recipe

    found = named_source(source) if source is not None else None
    root = Path.cwd() / Path(recipe).stem
    if (root / TRAIN_FILE).is_file():
        workspace = Workspace(root, load_recipe(root / "recipe.toml"))
        if found is not None and workspace.recipe.data.source != found:
            raise UsageError(
                f"{root} exists and was made for {workspace.recipe.data.source}",
                f"cd {root.name} and go on there, or make another one with `slm-ar new NAME`",
            )
        return workspace
    if found is None:
        raise UsageError("say where the data are", f"slm-ar run {recipe} --source DIR")
    workspace = create_workspace(root, recipe, {"data.source": found})
    if words := fit_size(workspace):
        tell(words)
    return workspace


def demo_workspace(folder: Path) -> Workspace:
    """The demo's workspace inside `folder`: an unfinished one is gone on with, a finished one is made anew."""
    from ..recipe import load_recipe
    from ..registry import load_adapter

    mark = folder / DEMO_MARK
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose a folder with --folder")
    if folder.exists() and not mark.is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not a folder of the demo", "choose another one with --folder")
    root = folder / "workspace"
    if (root / TRAIN_FILE).is_file():
        workspace = Workspace(root.resolve(), load_recipe(root / "recipe.toml"))
        try:
            state = read_state(workspace)
            is_finished = state.final is not None or bool(state.samples)  # the last that a demo makes
        except UsageError:
            is_finished = False
        if not is_finished:
            return workspace
    for name in ("workspace", "city"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    city = folder / "city"
    write_city: Callable[[Path, int], None] = getattr(load_adapter("transit"), "write_sample_source")  # noqa: B009
    write_city(city, 0)
    return create_workspace(root.resolve(), "demo", {"data.source": str(city.resolve())})
