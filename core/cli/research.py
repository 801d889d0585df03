"""Commands around the loop: prepare, train, run, status, report, finish, adopt, demo. Thin: each opens and calls."""

from __future__ import annotations

import json
import math
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ProposerError, UsageError
from .awake import kept_awake
from .lines import ANSWERED_ALONE, EXPORTED_ALONE, data_lines, sample_lines, score_lines
from .steps import (
    check_baselines,
    demo_workspace,
    display_for,
    exam_or_error,
    may_open_test,
    objective_of,
    open_campaign,
    prepare_shown,
    read_state,
    search,
    show_end,
    spent_words,
    train_shown,
    workspace_from_recipe,
    write_report,
)
from .stopping import checked_dollars, deadline
from .unsafe import allow_unsafe, unsafe_is_allowed, walls_line
from .workspace import TRAIN_FILE, Workspace, find_workspace

if TYPE_CHECKING:
    from ..prepare.pipeline import PreparedData

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")
quiet = click.option("--quiet", is_flag=True, help="Only errors.")
SHARED_REPORT_FILE = "report-to-share.html"


def check_tasks(workspace: Workspace, data: PreparedData) -> None:
    """Refuse what would only show after hours: a [metric] or [baselines] that do not fit, answers that are no answers.

    Raises RecipeError and DataError.
    """
    from ..prepare.answers import choose_questions
    from ..prepare.heldout import read_split
    from ..train.mixing import check_mix

    objective_of(workspace, data)
    if workspace.recipe.evaluation.mixture != "none":
        check_mix(data)
    check_baselines(workspace, data.manifest.tasks)
    for split in ("dev", "hidden", "test"):
        for task in data.manifest.tasks:
            choose_questions(read_split(data.held_folder, split), task)


# --- commands -------------------------------------------------------------------------------


@click.command()
@as_json
@quiet
def prepare(as_json: bool, quiet: bool) -> None:
    """Read the source, split it honestly, train the tokenizer, write shards."""
    from ..agent.journal import workspace_lock

    workspace = find_workspace()
    with display_for(as_json, quiet) as display, workspace_lock(workspace.hidden_folder):
        data = workspace.prepared(display.phase)
        check_tasks(workspace, data)
    if as_json:
        click.echo(json.dumps(json.loads(data.manifest.to_json())))
    elif not quiet:
        click.echo("\n".join(data_lines(data)))


@click.command()
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Seed of the run.")
@allow_unsafe
@as_json
@quiet
def train(seed: int, as_json: bool, quiet: bool) -> None:
    """Train the current train.py once and score it on dev. No claim, nothing enters the campaign."""
    from ..agent.edits import check_train_py
    from ..agent.journal import workspace_lock
    from ..agent.opening import train_job
    from ..errors import TrainingError
    from ..report.exam import exam_lines
    from ..train.device_lock import device_lock
    from ..train.executor import LocalExecutor

    workspace = find_workspace()
    check_train_py(workspace.train_py)
    recipe = workspace.recipe
    with display_for(as_json, quiet) as display, workspace_lock(workspace.hidden_folder):
        data = prepare_shown(workspace, display)
        check_tasks(workspace, data)
        machine = workspace.machine()
        job = train_job(recipe, machine, workspace.train_py, seed)
        folder = workspace.hidden_folder / "runs" / "train"
        mixture = recipe.evaluation.mixture
        with LocalExecutor(machine, data, allow_unsafe=unsafe_is_allowed(), mixture=mixture) as executor:
            isolation = executor.isolation(folder.parent)
            display.note(walls_line(isolation, workspace) or isolation.line)
            with device_lock(machine.device, display.note):
                outcome = train_shown(executor, job, folder, display)
            if outcome.status is not None:
                raise TrainingError(
                    f"train.py gave no score: {outcome.status.value}: {outcome.reason}",
                    f"the run's log is {folder / 'log.txt'}",
                )
            score = executor.score(folder, "dev", recipe.evaluation.context)
            display.phase("answering the tasks of dev")
            exam, failure = exam_or_error(workspace, executor, folder, "dev")
    facts = {
        "dev_bits_per_byte": score.bits_per_byte,
        "dev_bits_per_record": score.bits_per_byte * score.byte_count / max(1, score.record_count),
        "dev_bits_per_byte_with_ngram": score.objective.value if score.objective is not None else None,
        "floors": data.manifest.floors,
        "slices": score.slices,
        "parameters": outcome.parameters,
        "form": recipe.model.form,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "train_seconds": outcome.train_seconds,
        "disturbance": outcome.disturbance,
        "isolation": isolation.words,
        "tasks": [result.to_json() for result in exam],
    }
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
    elif not quiet:
        alone = [ANSWERED_ALONE] if exam and mixture != "none" else []
        click.echo("\n".join([*score_lines(facts), *exam_lines(exam), *alone]))
    if failure is not None:
        raise failure


@click.command()
@click.argument("recipe", required=False)
@click.option("--source", type=click.Path(path_type=Path), help="With RECIPE: file or folder with the data.")
@click.option("--experiments", type=click.IntRange(1), help="Experiments of this night; the recipe has the default.")
@click.option("--hours", type=click.FloatRange(0, 10_000, min_open=True), help="Be done after so many hours.")
@click.option("--until", metavar="HH:MM", help="Be done at this time of day.")
@click.option("--budget-usd", type=click.FloatRange(0, min_open=True), help="Dollars that this night may cost.")
@allow_unsafe
@as_json
@quiet
def run(
    recipe: str | None,
    source: Path | None,
    experiments: int | None,
    hours: float | None,
    until: str | None,
    budget_usd: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Search for better training code; running it again goes on where it stopped.

    The first of the limits ends it. With RECIPE (a shipped name or a file) and --source, outside a workspace: makes
    one first.
    """
    end, budget_usd = deadline(hours, until), checked_dollars(budget_usd)
    if recipe is not None:

        def tell(line: str) -> None:
            if not quiet:
                click.echo(line, err=True)

        workspace = workspace_from_recipe(recipe, source, tell)
        tell(f"workspace: {workspace.root}")
    else:
        workspace = find_workspace()
    with (
        display_for(as_json, quiet) as display,
        open_campaign(workspace, display, night_usd=budget_usd) as campaign,
        kept_awake(display.note),
    ):
        check_tasks(workspace, campaign.executor.data)
        failure: ProposerError | None = None
        try:
            search(campaign, workspace, experiments, end, budget_usd)
        except ProposerError as error:
            failure = error
        state = campaign.state
        report_path = write_report(workspace, state)
    show_end(state, report_path, as_json, quiet)
    if failure is not None:
        raise failure


@click.command()
@as_json
def status(as_json: bool) -> None:
    """Where the campaign stands."""
    from ..report.summary import summarise
    from ..report.tables import status_text

    workspace = find_workspace()
    state = read_state(workspace)
    summary = summarise(state, spent=spent_words(workspace, state))
    click.echo(json.dumps(summary.to_json(), allow_nan=False) if as_json else status_text(summary).rstrip("\n"))


@click.command()
@click.option("--share", is_flag=True, help="Write one page without samples and values, to show to others.")
def report(share: bool) -> None:
    """Write report.html, results.tsv and journal.jsonl into the workspace."""
    workspace = find_workspace()
    state = read_state(workspace)
    if not share:
        click.echo(write_report(workspace, state))
        return
    from ..report.sharing import render_shared

    path = workspace.root / SHARED_REPORT_FILE
    path.write_text(render_shared(state), encoding="utf-8")
    click.echo(path)


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@allow_unsafe
@as_json
@quiet
def finish(yes: bool, as_json: bool, quiet: bool) -> None:
    """Open test once, train the proven code longer, write a loadable folder.

    Where no edit was kept, test stays closed and the starting code is trained.
    """
    from ..agent import finish as finishing
    from ..export.folder import model_card, refuse_foreign_folder, rewrite_facts, write_model_folder
    from ..report.exam import exam_lines, exam_table
    from ..report.summary import summarise

    workspace = find_workspace()
    read_state(workspace)
    target = workspace.root / "model"
    refuse_foreign_folder(target)
    with (
        display_for(False, quiet or as_json) as opening,
        open_campaign(workspace, opening, may_start=False) as campaign,
    ):
        if campaign.state.sigma is None:
            raise UsageError("there is nothing to finish yet", "run `slm-ar run` first")
        opening.close()  # the question needs the terminal; it is asked of the campaign whose test would be opened
        if not yes and not may_open_test(campaign.state):
            click.echo("test stays closed", err=True)
            return
        with display_for(as_json, quiet) as display, kept_awake(display.note):
            campaign.display = display
            finishing.prune_edits(campaign)
            finishing.final_test(campaign, workspace.recipe.gate.final_pairs)
            finishing.write_samples(campaign)
            headline = summarise(campaign.state).stamped_headline
            trained = finishing.train_longer(campaign, headline)
            trained.facts["isolation"] = campaign.state.facts.get("isolation", "none")
            data = campaign.executor.data
            # The model first: an exam that fails must not cost what was trained.
            write_model_folder(target, trained.folder, data, trained.facts, model_card(trained.facts))
            facts = {"folder": target.name, "dev_bits_per_byte": trained.dev_bits_per_byte}
            campaign.journal.append("finished", facts)
            split = "test" if campaign.state.final is not None else "dev"  # a test that stayed closed stays closed
            display.phase(f"answering the tasks of {split}")
            exam, failure = exam_or_error(workspace, campaign.executor, trained.folder, split)
            trained.facts["table"].update(exam_table(exam, split))
            trained.facts["tasks"] = [result.to_json() for result in exam]
            if exam:
                campaign.journal.append("exam", {"split": split, "tasks": trained.facts["tasks"]})
            rewrite_facts(target, data, trained.facts, model_card(trained.facts))
        state = campaign.state
        report_path = write_report(workspace, state)
    show_end(state, report_path, as_json, quiet)
    if not as_json and not quiet:
        is_mixed = workspace.recipe.evaluation.mixture != "none"
        answered = [ANSWERED_ALONE] if is_mixed and exam else []
        alone = [EXPORTED_ALONE] if is_mixed else []
        click.echo("\n".join([*exam_lines(exam), *answered, f"model: {target}", *alone]))
    if failure is not None:
        raise failure


@click.command()
@click.option("--current", is_flag=True, help="Take the current code of the search, proven or not.")
def adopt(current: bool) -> None:
    """Bring the proven train.py into the workspace; yours is kept beside it."""
    from ..agent.edits import revision_digest
    from ..report.summary import stamp_of

    workspace = find_workspace()
    state = read_state(workspace)
    wanted = state.head if current else state.proven_code
    path = workspace.root / TRAIN_FILE
    mine = path.read_bytes() if path.is_file() else b""
    digest = revision_digest(mine.decode("utf-8", errors="replace"))
    if digest == wanted:
        click.echo("train.py is that code already")
        return
    if mine and digest not in state.revisions:
        kept = path.with_name(f"train.before-adopt-{datetime.now():%Y%m%d-%H%M%S}.py")
        kept.write_bytes(mine)
        click.echo(f"your own edits were saved as {kept.name}")
    path.write_text(state.revisions[wanted], encoding="utf-8")
    what = "current" if current else "proven" if wanted != state.baseline else "starting (nothing is proven yet)"
    stamp = stamp_of(state)
    click.echo(f"train.py is now the {what} code, revision {wanted[:8]}" + (f" [{stamp}]" if stamp else ""))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("slm-ar-demo"), show_default=True)
@allow_unsafe
@as_json
@quiet
def demo(folder: Path, as_json: bool, quiet: bool) -> None:
    """The whole thing on a synthetic city, in a few minutes: no data, no key, no network."""
    from ..agent import finish as finishing

    started = time.monotonic()
    workspace = demo_workspace(folder)
    with display_for(as_json, quiet) as display, open_campaign(workspace, display) as campaign:
        search(campaign, workspace, None)
        finishing.final_test(campaign, workspace.recipe.gate.final_pairs)
        finishing.write_samples(campaign)
        state = campaign.state
        report_path = write_report(workspace, state)
    if not as_json and not quiet:
        click.echo("\n".join(sample_lines(state)))
    show_end(state, report_path, as_json, quiet)
    if not as_json and not quiet:
        click.echo(f"done in {time.monotonic() - started:.0f} s; with your own data: slm-ar new --help")


@click.command(name="simulate-gate")
@click.option("--nights", default=200, show_default=True, type=click.IntRange(10), help="Simulated nights per world.")
@click.option("--seed", default=31, show_default=True, type=click.IntRange(0), help="Seed of the simulation.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for programs.")
def simulate_gate(nights: int, seed: int, as_json: bool) -> None:
    """How often the gate is wrong: whole nights of research in simulation, judged by the code that judges yours."""
    from dataclasses import asdict

    from ..agent.simulate_table import HEADER, gate_rows

    if not as_json:
        click.echo(HEADER)
    for row in gate_rows(nights, seed):
        facts = {**asdict(row), "verdict": row.verdict}
        finite = {name: None if value in (math.inf, -math.inf) else value for name, value in facts.items()}
        click.echo(json.dumps(finite, allow_nan=False) if as_json else row.markdown())
