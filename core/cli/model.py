"""Commands around models: generate, recipes."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .serving import served_model
from .unsafe import allow_unsafe


@click.command()
@click.option("--prompt", default="", help="Text to continue; without it a new document is begun.")
@click.option("--model", type=click.Path(path_type=Path), help="A model folder; default: the workspace's newest.")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1, 4096), help="At most this many.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(0, 100), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@allow_unsafe
def generate(prompt: str, model: Path | None, tokens: int, temperature: float, seed: int) -> None:
    """Continue a prompt with a trained model."""
    from ..tasks.generate import generate_text

    # Bytes of the command line that are not UTF-8 arrive as surrogates, which no tokenizer takes.
    prompt = prompt.encode("utf-8", "replace").decode("utf-8")
    with served_model(model) as served, served.open() as client:
        text = generate_text(client, served.tokenizer, prompt, served.context, tokens, temperature, seed=seed)
    click.echo(prompt + text)


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
