"""`slm-ar study`: records tables of configurations, and compares proposers on models of them or with real trainings."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .awake import kept_awake
from .steps import display_for, objective_of, prepare_shown
from .unsafe import allow_unsafe, unsafe_is_allowed
from .workspace import find_workspace

if TYPE_CHECKING:
    from ..contracts import Display
    from ..study.loop import Trace
    from ..study.page import CorpusFacts
    from ..study.plan import CorpusTable, Study
    from ..study.training import Bench

MODES = ("record", "surrogate", "live")
LIBRARIES = ("slm-ar", "torch", "optuna", "scikit-learn", "scipy", "numpy")


@click.command()
@click.argument("file", required=False, metavar="STUDY.toml", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(MODES), help="Instead of the file's mode.")
@click.option("--jobs", type=click.IntRange(1, 64), help="Trainings at a time (record), or processes (surrogate).")
@click.option("--example", is_flag=True, help="Print a study file and end.")
@allow_unsafe
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output, for programs.")
@click.option("--quiet", is_flag=True, help="Only errors.")
def study(file: Path | None, mode: str | None, jobs: int | None, example: bool, as_json: bool, quiet: bool) -> None:
    """Compare proposers at equal training seconds; running it again goes on where it stopped."""
    from ..environment import usable_cores
    from ..study.plan import EXAMPLE, load_study

    if example:
        click.echo(EXAMPLE, nl=False)
        return
    if file is None:
        raise UsageError("which study?", "slm-ar study STUDY.toml; `slm-ar study --example` prints such a file")
    plan = load_study(file)
    home = file.resolve().parent
    chosen = mode or plan.mode
    with display_for(as_json, quiet) as display, kept_awake(display.note):
        if chosen == "record":
            facts = record(plan, home, jobs or 1, display)
        elif chosen == "surrogate":
            facts = on_surrogates(plan, home, jobs or len(usable_cores()), display)
        else:
            if jobs not in (None, 1):
                raise UsageError("a live study trains one at a time", "leave --jobs out")
            facts = with_trainings(plan, home, display)
    if as_json:
        click.echo(json.dumps(facts))
    elif not quiet:
        click.echo("\n".join(f"{name}: {value}" for name, value in facts.items()))


# --- the three modes --------------------------------------------------------------------------


def record(plan: Study, home: Path, jobs: int, display: Display) -> dict[str, Any]:
    """Train what the tables lack, corpus by corpus; where they lie and what they hold."""
    from ..study.record import record_table

    told: dict[str, Any] = {}
    for corpus in plan.corpora:
        with ExitStack() as stack:
            bench = opened(corpus, home, display, stack)
            display.phase(f"recording {corpus.name}")
            path = table_path(plan, corpus, home)
            rows = record_table(path, bench, plan.record, plan.search.runs, jobs, display)
            failed = sum(row["status"] is not None for row in rows)
            told[corpus.name] = f"{len(rows)} trainings, {failed} of them failed, in {path}"
    return told


def on_surrogates(plan: Study, home: Path, jobs: int, display: Display) -> dict[str, Any]:
    """Fit the tables and search on them; where the results lie."""
    from ..study.page import CorpusFacts
    from ..study.replay import open_replay, replay_all
    from ..study.store import TABLE, read_store

    check_proposers(plan)
    began, load = time.monotonic(), os.getloadavg()[0]
    display.phase("fitting the tables")
    replays = [open_replay(item.name, table_path(plan, item, home), plan.search.runs) for item in plan.corpora]
    corpora = []
    for item, replay in zip(plan.corpora, replays, strict=True):
        header, _ = read_store(table_path(plan, item, home), TABLE)
        surrogate = replay.world.surrogate
        margin = margin_of(plan, surrogate.sigma)
        corpora.append(
            CorpusFacts(
                item.name, replay.score, surrogate.sigma, replay.seconds, margin, header["facts"], surrogate.facts
            )
        )
        for warning in surrogate.facts.warnings:
            display.note(f"{item.name}: {warning}")
    seeds = range(plan.surrogate.first_seed, plan.surrogate.first_seed + plan.surrogate.search_seeds)
    display.phase(f"searching: {len(seeds)} seeds, {len(plan.search.proposers)} proposers")
    traces = replay_all(
        replays,
        plan.search.proposers,
        seeds,
        jobs,
        lambda done, total: display.tick(time.monotonic() - began, f"{done:,} of {total:,} searches"),
    )
    return written(plan, "surrogate", home, corpora, traces, conditions(began, load, jobs), 0)


def with_trainings(plan: Study, home: Path, display: Display) -> dict[str, Any]:
    """Search with real trainings; where the results lie."""
    from ..agent.proposers import make_proposer
    from ..study.live import live_corpus
    from ..study.page import CorpusFacts

    check_proposers(plan)
    began, load = time.monotonic(), os.getloadavg()[0]
    seeds = range(plan.live.first_seed, plan.live.first_seed + plan.live.search_seeds)
    traces: list[Trace] = []
    corpora = []
    for item in plan.corpora:
        with ExitStack() as stack:
            bench = opened(item, home, display, stack)
            path = results_folder(plan, home) / f"{item.name}.live.jsonl"
            found, world = live_corpus(
                path,
                bench,
                plan.search.proposers,
                seeds,
                plan.search.runs,
                plan.live.value_seeds,
                display,
                make_proposer,
            )
            traces += found
            seconds, margin = plan.search.runs * world.seconds_of_start, margin_of(plan, world.sigma)
            corpora.append(CorpusFacts(item.name, bench.unit, world.sigma, seconds, margin, bench.facts))
    return written(plan, "live", home, corpora, traces, conditions(began, load, 1), plan.live.value_seeds)


# --- parts ------------------------------------------------------------------------------------


def opened(corpus: CorpusTable, home: Path, display: Display, stack: ExitStack) -> Bench:
    """A corpus's workspace, locked until `stack` is left, prepared and ready to train."""
    from ..agent.journal import workspace_lock
    from ..study.training import Bench
    from .research import check_tasks

    if corpus.workspace is None:
        raise UsageError(
            f"corpus {corpus.name} names no workspace, and training needs one",
            f'make one with `slm-ar new {corpus.name}`, and set workspace = "{corpus.name}" in its [[corpora]] table',
        )
    root = path_from(home, corpus.workspace).resolve()
    if not root.is_dir():
        raise UsageError(f"corpus {corpus.name}: there is no folder {root}", "make it with `slm-ar new`")
    workspace = find_workspace(root)
    if workspace.root != root:
        raise UsageError(f"corpus {corpus.name}: {root} is not a workspace", "name a folder made by `slm-ar new`")
    stack.enter_context(workspace_lock(workspace.hidden_folder))
    data = prepare_shown(workspace, display)
    check_tasks(workspace, data)
    display.phase("looking at the machine")
    return Bench(
        name=corpus.name,
        recipe=workspace.recipe,
        data=data,
        machine=workspace.machine(),
        train_py=workspace.train_py,
        program=workspace.program,
        runs_folder=workspace.hidden_folder / "runs",
        objective=objective_of(workspace, data),
        allow_unsafe=unsafe_is_allowed(),
        longest_seconds=corpus.longest_seconds,
    )


def results_folder(plan: Study, home: Path) -> Path:
    """Where tables and results lie."""
    return path_from(home, plan.folder)


def table_path(plan: Study, corpus: CorpusTable, home: Path) -> Path:
    """Where a corpus's table lies."""
    if corpus.table is not None:
        return path_from(home, corpus.table)
    return results_folder(plan, home) / f"{corpus.name}.table.jsonl"


def path_from(home: Path, text: str) -> Path:
    """A path as the file names it, counted from its folder. Raises UsageError for a name that no file can have."""
    try:
        if "\0" not in text:
            return home / Path(text).expanduser()
    except RuntimeError:  # there is no such person
        pass
    raise UsageError(f"{text!r} names no file or folder", "write the path out in the study file")


def check_proposers(plan: Study) -> None:
    """Refuse names that no study can run, before anything is fitted or trained."""
    from ..agent.proposers import OFFLINE
    from ..errors import did_you_mean

    for name in plan.search.proposers:
        if name not in OFFLINE:
            raise UsageError(
                f"[search] proposers: '{name}' is no proposer that works without a language model",
                did_you_mean(name, list(OFFLINE)),
            )


def margin_of(plan: Study, sigma: float) -> float:
    """What is still not behind, in the unit of the score."""
    return sigma / 2 if plan.search.margin == "auto" else float(plan.search.margin)


def conditions(began: float, load: float, jobs: int) -> dict[str, str]:
    """Machine, versions and load of the study itself, as the page lists them."""
    from importlib.metadata import version

    from ..environment import usable_cores

    cores = f"{len(usable_cores())} of {os.cpu_count()} cores"
    return {
        "machine": f"{platform.machine()}, {cores}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "load average": f"{load:.1f} at the beginning, {os.getloadavg()[0]:.1f} at the end; {jobs} processes at work",
        "took": f"{time.monotonic() - began:.0f} s, ended {datetime.now(UTC).isoformat(timespec='minutes')}",
    }


def written(
    plan: Study,
    mode: str,
    home: Path,
    corpora: list[CorpusFacts],
    traces: list[Trace],
    about: dict[str, str],
    value_seeds: int,
) -> dict[str, Any]:
    """Write the results, and say in a line per comparison what came out."""
    from ..study.page import results_of, write_results

    search = plan.search
    results = results_of(plan.name, mode, search.reference, search.runs, value_seeds, corpora, traces, about)
    page = write_results(results_folder(plan, home) / mode, results, traces)
    told: dict[str, Any] = {}
    for item in results.comparisons:
        if item.proposer != search.reference:
            told[f"{item.corpus}, {item.proposer} against {search.reference}"] = ", ".join(
                f"{difference.verdict} at {100 * difference.share:.0f} %" for difference in item.differences
            )
    return {**told, "page": str(page)}
