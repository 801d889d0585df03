"""Commands around the loop: prepare, train, run, status, report, finish, adopt, demo. Thin: each opens and calls."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .workspace import TRAIN_FILE, Workspace, checked_source, create_workspace, find_workspace

if TYPE_CHECKING:
    from ..agent.campaign import Campaign
    from ..agent.state import CampaignState
    from ..contracts import Display
    from ..prepare.pipeline import PreparedData

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")
quiet = click.option("--quiet", is_flag=True, help="Only errors.")
DEMO_MARK = ".slm-ar-demo"


# --- commands -------------------------------------------------------------------------------


@click.command()
@as_json
@quiet
def prepare(as_json: bool, quiet: bool) -> None:
    """Read the source, split it honestly, train the tokenizer, write shards."""
    from ..agent.journal import workspace_lock

    workspace = find_workspace()
    with display_for(as_json, quiet) as display, workspace_lock(workspace.hidden_folder):
        data = prepare_shown(workspace, display)
    if as_json:
        click.echo(json.dumps(json.loads(data.manifest.to_json())))
    elif not quiet:
        click.echo("\n".join(data_lines(data)))


@click.command()
@click.option("--seed", default=0, show_default=True, help="Seed of the run.")
@as_json
@quiet
def train(seed: int, as_json: bool, quiet: bool) -> None:
    """Train the current train.py once and score it on dev. No claim, nothing enters the campaign."""
    from ..agent.campaign import train_job
    from ..agent.edits import check_train_py
    from ..agent.journal import workspace_lock
    from ..errors import TrainingError
    from ..train.executor import LocalExecutor, device_lock

    workspace = find_workspace()
    check_train_py(workspace.train_py)
    recipe = workspace.recipe
    with display_for(as_json, quiet) as display, workspace_lock(workspace.hidden_folder):
        data = prepare_shown(workspace, display)
        machine = workspace.machine()
        job = train_job(recipe, machine, workspace.train_py, seed)
        folder = workspace.hidden_folder / "runs" / "train"
        with LocalExecutor(machine, data) as executor:
            with device_lock(machine.device, display.note):
                outcome = train_shown(executor, job, folder, display)
            if outcome.status is not None:
                raise TrainingError(
                    f"train.py gave no score: {outcome.status.value}: {outcome.reason}",
                    f"the run's log is {folder / 'log.txt'}",
                )
            score = executor.score(folder, "dev", recipe.evaluation.context)
    facts = {
        "dev_bits_per_byte": score.bits_per_byte,
        "dev_bits_per_record": score.bits_per_byte * score.byte_count / max(1, score.record_count),
        "floors": data.manifest.floors,
        "slices": score.slices,
        "parameters": outcome.parameters,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "train_seconds": outcome.train_seconds,
        "disturbance": outcome.disturbance,
    }
    if as_json:
        click.echo(json.dumps(facts))
    elif not quiet:
        click.echo("\n".join(score_lines(facts)))


@click.command()
@click.argument("recipe", required=False)
@click.option("--source", type=click.Path(path_type=Path), help="With RECIPE: file or folder with the data.")
@click.option("--experiments", type=click.IntRange(1), help="Experiments of this night; the recipe has the default.")
@click.option("--hours", type=float, help="Propose nothing new after this time.")
@click.option("--until", metavar="HH:MM", help="Propose nothing new after this time of day.")
@as_json
@quiet
def run(
    recipe: str | None,
    source: Path | None,
    experiments: int | None,
    hours: float | None,
    until: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search for better training code; running it again goes on where it stopped.

    With RECIPE (a shipped name or a file) and --source, outside a workspace: makes one first.
    """
    stop_at = stop_time(hours, until)
    if recipe is not None:
        workspace = workspace_from_recipe(recipe, source)
        click.echo(f"workspace: {workspace.root}", err=True)
    else:
        workspace = find_workspace()
    with display_for(as_json, quiet) as display, open_campaign(workspace, display) as campaign:
        state = search(campaign, workspace, experiments, stop_at)
        report_path = write_report(workspace, state)
    show_end(state, report_path, as_json, quiet)


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Where the campaign stands."""
    from ..report.summary import summarise
    from ..report.tables import status_text

    summary = summarise(read_state(find_workspace()))
    click.echo(json.dumps(summary.to_json(), allow_nan=False) if as_json else status_text(summary).rstrip("\n"))


@click.command()
def report() -> None:
    """Write report.html, results.tsv and journal.jsonl into the workspace."""
    workspace = find_workspace()
    click.echo(write_report(workspace, read_state(workspace)))


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@quiet
def finish(yes: bool, as_json: bool, quiet: bool) -> None:
    """Open test once, train the proven code longer, write a loadable folder."""
    from ..agent import finish as finishing
    from ..export.folder import model_card, write_model_folder
    from ..report.summary import summarise

    workspace = find_workspace()
    state = read_state(workspace)
    if state.sigma is None:
        raise UsageError("there is nothing to finish yet", "run `slm-ar run` first")
    if state.final is None and state.final_pair is None and not yes:
        click.echo(
            "finish opens the test split, once: it measures the starting and the final code on it with fresh seeds."
        )
        click.confirm("Open test now?", abort=True)
    target = workspace.root / "model"
    with display_for(as_json, quiet) as display, open_campaign(workspace, display) as campaign:
        finishing.final_test(campaign, workspace.recipe.gate.final_pairs)
        finishing.write_samples(campaign)
        headline = summarise(campaign.state).verdict.headline
        trained = finishing.train_longer(campaign, headline)
        data = campaign.executor.data
        write_model_folder(target, trained.folder, data, trained.facts, model_card(trained.facts))
        campaign.journal.append("finished", {"folder": target.name, "dev_bpb": trained.dev_bits_per_byte})
        state = campaign.state
        report_path = write_report(workspace, state)
    show_end(state, report_path, as_json, quiet)
    if not as_json and not quiet:
        click.echo(f"model: {target}")


@click.command()
@click.option("--current", is_flag=True, help="Take the newest code that is kept for now, proven or not.")
def adopt(current: bool) -> None:
    """Bring the proven train.py into the workspace; yours is kept beside it."""
    from ..agent.edits import revision_digest

    workspace = find_workspace()
    state = read_state(workspace)
    wanted = state.head if current else state.rung
    path = workspace.root / TRAIN_FILE
    mine = path.read_text(encoding="utf-8") if path.is_file() else ""
    if revision_digest(mine) == wanted:
        click.echo("train.py is that code already")
        return
    if mine and revision_digest(mine) not in state.revisions:
        kept = path.with_name(f"train.before-adopt-{datetime.now():%Y%m%d-%H%M%S}.py")
        kept.write_text(mine, encoding="utf-8")
        click.echo(f"your own edits were saved as {kept.name}")
    path.write_text(state.revisions[wanted], encoding="utf-8")
    what = "current" if current else "proven" if wanted != state.baseline else "starting (nothing is proven yet)"
    click.echo(f"train.py is now the {what} code, revision {wanted[:8]}")


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("slm-ar-demo"), show_default=True)
@as_json
@quiet
def demo(folder: Path, as_json: bool, quiet: bool) -> None:
    """The whole thing on a synthetic city, in a few minutes: no data, no key, no network."""
    from ..agent import finish as finishing

    started = time.monotonic()
    workspace = demo_workspace(folder)
    with display_for(as_json, quiet) as display, open_campaign(workspace, display) as campaign:
        search(campaign, workspace, None, None)
        finishing.final_test(campaign, workspace.recipe.gate.final_pairs)
        finishing.write_samples(campaign)
        state = campaign.state
        report_path = write_report(workspace, state)
    if not as_json and not quiet:
        click.echo("\n".join(sample_lines(state)))
    show_end(state, report_path, as_json, quiet)
    if not as_json and not quiet:
        click.echo(f"done in {time.monotonic() - started:.0f} s; with your own data: slm-ar new --help")


# --- shared steps ---------------------------------------------------------------------------


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


def train_shown(executor: Any, job: Any, folder: Path, display: Display) -> Any:
    """One run to its outcome, with its progress on the display."""
    display.run_started("train.py, as it is", job.budget_seconds or 0.0)
    training = executor.submit(job, folder)
    try:
        while (outcome := training.poll()) is None:
            display.tick(training.progress.train_seconds, training.progress.phase)
    except BaseException:
        training.cancel()
        raise
    return outcome


@contextmanager
def open_campaign(workspace: Workspace, display: Display) -> Iterator[Campaign]:
    """Lock the workspace, prepare, and open its campaign: the newest one, or a new one when anything changed."""
    from ..agent.campaign import Campaign, ensure_campaign
    from ..agent.journal import Journal, workspace_lock
    from ..train.executor import LocalExecutor

    with workspace_lock(workspace.hidden_folder):
        data = prepare_shown(workspace, display)
        display.phase("looking at the machine")
        machine = workspace.machine()
        with (
            Journal(workspace.hidden_folder) as journal,
            LocalExecutor(machine, data) as executor,
        ):
            why = ensure_campaign(journal, workspace.recipe, data, machine, workspace.train_py)
            if why is not None:
                display.note(f"{why} ({machine.device}, {machine.threads} threads, {machine.precision})")
            yield Campaign(workspace.root, workspace.recipe, journal, executor, display, workspace.program)


def search(campaign: Campaign, workspace: Workspace, experiments: int | None, stop_at: float | None) -> CampaignState:
    """Plan, print the plan, and search until it is fulfilled."""
    from ..agent.campaign import Limits
    from ..agent.night import plan_night
    from ..agent.proposers import make_proposer

    proposer = make_proposer(workspace.recipe.proposer.name)
    hours = workspace.recipe.budget.hours
    if stop_at is None and hours is not None:
        stop_at = time.monotonic() + 3600 * hours
    night = plan_night(campaign.state, workspace.recipe, experiments)
    if night.is_new:
        campaign.journal.append("planned", {"experiments": night.target, "plan": night.counts})
    campaign.display.campaign(night.lines)
    campaign.run(proposer, night.target, Limits(stop_at))
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


def write_report(workspace: Workspace, state: CampaignState) -> Path:
    """Render the journal: report.html, results.tsv and journal.jsonl; returns the report's path."""
    from ..agent.journal import Journal
    from ..report.html import render_html
    from ..report.summary import summarise
    from ..report.tables import results_tsv

    with Journal(workspace.hidden_folder, read_only=True) as journal:
        events = "".join(
            json.dumps({"number": e.number, "at": e.at, "kind": e.kind, "hash": e.hash, "body": e.body}) + "\n"
            for e in journal.events
        )
    path = workspace.root / "report.html"
    for name, text in (
        ("journal.jsonl", events),
        ("results.tsv", results_tsv(state)),
        ("report.html", render_html(summarise(state), state)),
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


def sample_lines(state: CampaignState) -> list[str]:
    """What the code wrote before and after the search, in this order, safe for a terminal."""
    from ..report.words import visible

    lines = []
    for name, whose in (("before", "the code at the start"), ("after", "the final code")):
        if name in state.samples:
            lines += [f"--- a sample {name}: {whose} ---", visible(state.samples[name].rstrip(), 2000), ""]
    return lines


def workspace_from_recipe(recipe: str, source: Path | None) -> Workspace:
    """A workspace named after the recipe, below the current folder; made, or opened when it is there already."""
    from ..recipe import load_recipe

    found = checked_source(source)
    root = Path.cwd() / Path(recipe).stem
    if (root / TRAIN_FILE).is_file():
        workspace = Workspace(root, load_recipe(root / "recipe.toml"))
        if found is not None and Path(workspace.recipe.data.source or "") != found:
            raise UsageError(
                f"{root} exists and was made for {workspace.recipe.data.source}",
                f"cd {root.name} and go on there, or make another one with `slm-ar new NAME`",
            )
        return workspace
    if found is None:
        raise UsageError("say where the data are", f"slm-ar run {recipe} --source DIR")
    return create_workspace(root, recipe, {"data.source": str(found)})


def demo_workspace(folder: Path) -> Workspace:
    """The demo's workspace inside `folder`: an unfinished one is gone on with, a finished one is made anew."""
    from ..recipe import load_recipe
    from ..registry import load_adapter

    mark = folder / DEMO_MARK
    if folder.exists() and not mark.is_file() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not a folder of the demo", "choose another one with --folder")
    root = folder / "workspace"
    if (root / TRAIN_FILE).is_file():
        workspace = Workspace(root.resolve(), load_recipe(root / "recipe.toml"))
        try:
            is_finished = read_state(workspace).final is not None
        except UsageError:
            is_finished = False
        if not is_finished:
            return workspace
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()
    city = folder / "city"
    write_city: Callable[[Path, int], None] = getattr(load_adapter("transit"), "write_sample_source")  # noqa: B009
    write_city(city, 0)
    return create_workspace(root.resolve(), "demo", {"data.source": str(city.resolve())})


def stop_time(hours: float | None, until: str | None) -> float | None:
    """The monotonic time after which nothing new is proposed."""
    moments = []
    if hours is not None:
        moments.append(time.monotonic() + 3600 * hours)
    if until is not None:
        try:
            clock = datetime.strptime(until, "%H:%M")
        except ValueError as error:
            raise UsageError(f"--until {until} is not a time of day", "write it as --until 07:00") from error
        now = datetime.now()
        end = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        end += timedelta(days=int(end <= now))
        moments.append(time.monotonic() + (end - now).total_seconds())
    return min(moments, default=None)


def data_lines(data: PreparedData) -> list[str]:
    """What prepare tells: sizes per split, vocabulary, duplicates, floors, warnings."""
    manifest = data.manifest
    lines = [f"prepared {data.digest} (adapter {manifest.adapter}, split by {manifest.split_rule})"]
    for name, size in manifest.splits.items():
        lines.append(
            f"  {name:<7} {size.byte_count:>13,} bytes  {size.documents:>9,} documents  {size.groups:>8,} groups  "
            f"{size.record_count:>9,} lines"
        )
    lines.append(
        f"  vocabulary {manifest.vocab_size:,} ({manifest.token_split}), {manifest.train_tokens:,} tokens in train, "
        f"{manifest.bytes_per_token:.2f} bytes per token"
    )
    if manifest.duplicates_dropped or manifest.duplicates_kept:
        lines.append(f"  duplicates: {manifest.duplicates_dropped:,} dropped, {manifest.duplicates_kept:,} kept")
    if manifest.groups_beyond_cap:
        lines.append(f"  {manifest.groups_beyond_cap:,} groups are beyond max_train_mb or sample_groups")
    floors = ", ".join(f"{name} {value:.4f}" for name, value in manifest.floors.items())
    lines.append(f"  compressors on dev, bits per byte: {floors}")
    lines += [f"  note: {notice}" for notice in manifest.notices]
    lines += [f"  warning: {warning}" for warning in manifest.warnings]
    return lines


def score_lines(facts: dict[str, Any]) -> list[str]:
    """What `train` tells."""
    score = facts["dev_bits_per_byte"]
    lines = [
        f"dev: {score:.4f} bits per byte, {facts['dev_bits_per_record']:.1f} bits per line",
        f"  {facts['parameters']:,} parameters, {facts['steps']:,} steps, {facts['tokens']:,} tokens in "
        f"{facts['train_seconds']:.1f} s",
    ]
    for name, value in sorted(facts["floors"].items(), key=lambda item: item[1]):
        lines.append(
            f"  {name:<14} {value:.4f}  ({'the model is better' if score < value else 'better than the model'})"
        )
    if facts["disturbance"]:
        lines.append(f"  disturbed: {facts['disturbance']}; run it again on a quiet machine")
    return lines
