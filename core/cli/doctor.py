"""`slm-ar doctor`: what this machine can do, which walls hold around training code, whether a proposer can be used."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ProposerError, SlmArError, UsageError
from ..report.words import visible

if TYPE_CHECKING:
    from ..train.device import Machine
    from ..train.sandbox.choice import Isolation

NOT_COMPILED = (
    "not compiled for this version, training takes longer: have a C compiler (`sudo apt install gcc`, `xcode-select "
    "--install`), then `pip install --force-reinstall --no-deps .` in the clone"
)
NOT_ISOLATED = 1
"""Exit code where nothing can be certified."""


@click.command()
@click.option(
    "--proposer", metavar="NAME", help="Check a proposer instead: key, server, model, program. Costs nothing."
)
@click.option("--model", help="With --proposer: the model to look for; the recipe has the default.")
@click.option("--base-url", help="With --proposer local: the address of its server.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def doctor(proposer: str | None, model: str | None, base_url: str | None, as_json: bool) -> int:
    """What this machine can do, which sandbox holds here, and which recipe fits it.

    The exit code is 0 where results can be certified, else 1; with --proposer 0 where it can be used, else 6.
    """
    if proposer is not None:
        return _check_proposer(proposer, model, base_url, as_json)
    if model is not None or base_url is not None:
        raise UsageError("--model and --base-url belong to a proposer", "slm-ar doctor --proposer local --model NAME")
    from ..train.device import probe_machine
    from ..train.sandbox.choice import repair_lines

    machine = probe_machine("auto", "auto", "auto")
    isolation, failure = _proved(machine)
    facts: dict[str, Any] = {**machine.facts, **_surroundings(), "agents": _agents()}
    facts["recipes"] = fitting_recipes(machine.device)
    facts["isolation"] = isolation.words if isolation is not None else "none"
    facts["sandbox"] = isolation.to_json() if isolation is not None else {"level": 0, "failure": failure}
    facts["repair"] = repair_lines(isolation)
    facts["missing_inside"] = _missing_inside(isolation)
    is_certifiable = isolation is not None and isolation.level > 0
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(machine, facts, isolation, failure)))
    return 0 if is_certifiable else NOT_ISOLATED


def _check_proposer(name: str, model: str | None, base_url: str | None, as_json: bool) -> int:
    """Look at a proposer with the recipe of the workspace around, or outside one with its defaults."""
    from platformdirs import user_cache_dir

    from ..agent.proposers.checkup import check_proposer, table_for
    from ..egress import lock_if_asked
    from .workspace import find_workspace

    lock_if_asked(offline=False)
    known, folder = None, Path(user_cache_dir("slm-ar"))
    with contextlib.suppress(UsageError):  # outside a workspace
        workspace = find_workspace()
        known, folder = workspace.recipe.proposer, workspace.hidden_folder
    given = {key: value for key, value in (("model", model), ("base_url", base_url)) if value}
    findings = check_proposer(table_for(name, known).model_copy(update=given), folder)
    is_usable = all(finding.is_fine for finding in findings)
    if as_json:
        click.echo(json.dumps({"proposer": name, "usable": is_usable, "checks": [asdict(item) for item in findings]}))
    else:
        for finding in findings:
            click.echo(f"{finding.name:<10} {'ok     ' if finding.is_fine else 'PROBLEM'}  {visible(finding.words)}")
            if finding.hint:
                click.echo(f"{'':<10} -> {visible(finding.hint)}")
    return 0 if is_usable else ProposerError.exit_code


def _proved(machine: Machine) -> tuple[Isolation | None, str]:
    """What the best sandbox here stopped; without one, what is open to training code."""
    from ..train.process import candidate_environment
    from ..train.sandbox.choice import Sandboxes

    environment = candidate_environment(machine.threads, machine.spin_count)
    with (
        tempfile.TemporaryDirectory(prefix="slm-ar-doctor-") as name,
        Sandboxes(machine.mode, machine.device, environment, may_be_unsafe=True) as sandboxes,
    ):
        try:
            sandboxes.incubator("train", Path(name) / "runs")
        except SlmArError as error:
            return None, error.message
        return sandboxes.isolation, ""


def _missing_inside(isolation: Isolation | None) -> str:
    """What level 3 does without here; the probes hold without it, and one wall fewer stands behind them."""
    from ..train.sandbox.plans import BUBBLEWRAP
    from ..train.sandbox.walls import landlock_abi

    if isolation is None or isolation.level != BUBBLEWRAP.level or landlock_abi():
        return ""
    return (
        "without landlock inside: this kernel has it switched off, forbids it, or is older than 5.13; bubblewrap and "
        "the system-call filter hold alone"
    )


def _lines(machine: Machine, facts: dict[str, Any], isolation: Isolation | None, failure: str) -> list[str]:
    rows = [
        ("python", facts["python"]),
        ("torch", machine.torch),
        ("device", f"{machine.device} ({machine.name}), {machine.memory_mb / 1000:.0f} GB memory"),
        ("threads", f"{machine.threads} of {facts['cores']} (fastest of those tried)"),
        ("precision", machine.precision),
        ("kernels", {True: "compiled", False: NOT_COMPILED, None: ""}[machine.kernels]),
        ("start-up", "warm: forked from a process with torch" if machine.mode == "warm" else "cold: a fresh process"),
        ("free disk", f"{facts['free_disk_gb']:.0f} GB here"),
        ("git", facts["git"] or "not found: revisions stay in the journal alone"),
        ("recipes", ", ".join(facts["recipes"])),
        ("agents", f"{', '.join(facts['agents'])}; docs/proposers.md" if facts["agents"] else ""),
        ("sandbox", facts["isolation"] if isolation is not None else f"none: {failure}"),
    ]
    lines = [f"{name:<10} {value}" for name, value in rows if value]
    if isolation is not None:
        proof = isolation.proof
        lines.append(f"{'':<10} {proof.plan.promise}")
        lines += [f"{'':<10}   {'stopped' if item.is_stopped else 'OPEN   '}  {item.name}" for item in proof.outcomes]
        lines += [f"{'':<10} not {plan.name}: {reason}" for plan, reason in isolation.passed_over]
        lines += [f"{'':<10} {facts['missing_inside']}"] if facts["missing_inside"] else []
    lines += [f"{'better':<10} {line}" for line in facts["repair"]]
    lines += [f"{'':<10} probe step, {name}: {seconds * 1000:.1f} ms" for name, seconds in machine.probe.items()]
    return [*lines, *(f"warning: {warning}" for warning in facts["warnings"])]


def fitting_recipes(device: str) -> list[str]:
    """Shipped recipes that suit a kind of device."""
    from ..recipe import shipped_recipes

    kinds = ("-rtx5080", "-80m") if device == "cuda" else ("-laptop",)
    return [*(name for name in shipped_recipes() if name.endswith(kinds)), "demo"]


def _agents() -> list[str]:
    """Coding agents that could propose, as `cli:claude (2.1.4)`."""
    from ..agent.proposers.checkup import installed_with_versions

    return [visible(f"cli:{words}") for words in installed_with_versions()]


def _surroundings() -> dict[str, Any]:
    import platform
    import subprocess

    from ..environment import usable_cores
    from ..train.device import REINSTALL_TORCH, has_nvidia_driver, torch_version

    warnings = []
    try:
        git = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        git = ""
    if has_nvidia_driver() and "+cpu" in torch_version():
        warnings.append(f"an NVIDIA driver is here but torch is a CPU build; replace it: {REINSTALL_TORCH}")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        warnings.append(f"only {free:.1f} GB are free on this disk")
    return {
        "python": platform.python_version(),
        "cores": len(usable_cores()),
        "free_disk_gb": free,
        "git": git,
        "warnings": warnings,
    }
