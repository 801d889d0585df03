"""Commands around models and machines: generate, doctor, recipes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click

from .serving import served_model


@click.command()
@click.option("--prompt", default="", help="Text to continue; without it a new document is begun.")
@click.option("--model", type=click.Path(path_type=Path), help="A model folder; default: the workspace's newest.")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1, 4096), help="At most this many.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(0, 100), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
def generate(prompt: str, model: Path | None, tokens: int, temperature: float, seed: int) -> None:
    """Continue a prompt with a trained model."""
    from ..tasks.generate import generate_text

    # Bytes of the command line that are not UTF-8 arrive as surrogates, which no tokenizer takes.
    prompt = prompt.encode("utf-8", "replace").decode("utf-8")
    with served_model(model) as served, served.open() as client:
        text = generate_text(client, served.tokenizer, prompt, served.context, tokens, temperature, seed=seed)
    click.echo(prompt + text)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def doctor(as_json: bool) -> None:
    """What this machine can do, and which recipe fits it."""
    from ..train.device import probe_machine

    machine = probe_machine("auto", "auto", "auto")
    facts: dict[str, Any] = {**machine.facts, **_surroundings()}
    facts["recipes"] = fitting_recipes(machine.device)
    if as_json:
        click.echo(json.dumps(facts))
        return
    rows = [
        ("python", facts["python"]),
        ("torch", machine.torch),
        ("device", f"{machine.device} ({machine.name}), {machine.memory_mb / 1000:.0f} GB memory"),
        ("threads", f"{machine.threads} of {facts['cores']} (fastest of those tried)"),
        ("precision", machine.precision),
        ("start-up", "warm: forked from a process with torch" if machine.mode == "warm" else "cold: a fresh process"),
        ("free disk", f"{facts['free_disk_gb']:.0f} GB here"),
        ("git", facts["git"] or "not found: revisions stay in the journal alone"),
        ("isolation", "none: results are explored, not certified"),
        ("recipes", ", ".join(facts["recipes"])),
    ]
    for name, value in rows:
        click.echo(f"{name:<10} {value}")
    for name, seconds in machine.probe.items():
        click.echo(f"{'':<10} probe step, {name}: {seconds * 1000:.1f} ms")
    for warning in facts["warnings"]:
        click.echo(f"warning: {warning}")


def fitting_recipes(device: str) -> list[str]:
    """Shipped recipes that suit a kind of device, best first."""
    if device == "cuda":
        return ["transit-rtx5080", "transit-seed-80m", "text-laptop", "demo"]
    return ["demo", "transit-laptop", "text-laptop"]


def _surroundings() -> dict[str, Any]:
    import os
    import platform
    import subprocess

    warnings = []
    try:
        git = subprocess.run(["git", "--version"], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        git = ""
    if Path("/proc/driver/nvidia").exists() and "+cpu" in _torch_version():
        warnings.append("an NVIDIA driver is here but torch is a CPU build; the README has the line that replaces it")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 2:
        warnings.append(f"only {free:.1f} GB are free on this disk")
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "free_disk_gb": free,
        "git": git,
        "isolation": "none",
        "warnings": warnings,
    }


def _torch_version() -> str:
    from ..train.device import torch_version

    return torch_version()


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
def recipes(name: str | None, as_json: bool) -> None:
    """The shipped recipes; with NAME, its text."""
    from ..recipe import load_shipped, recipe_text, shipped_recipes

    if name is not None:
        click.echo(recipe_text(name), nl=False)
        return
    names = shipped_recipes()
    if as_json:
        click.echo(json.dumps(names))
        return
    for shipped in names:
        click.echo(f"{shipped:<20} {load_shipped(shipped).description}")
