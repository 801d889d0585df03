"""Commands around models: generate, recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import RecipeError, UsageError
from .serving import ServedModel, data_of_model, mixer_of, served_model
from .unsafe import allow_unsafe
from .workspace import find_workspace

if TYPE_CHECKING:
    from ..train.mixing import Mixer


@click.command()
@click.option("--prompt", default="", help="Text to continue; without it a new document is begun.")
@click.option("--model", type=click.Path(path_type=Path), help="A model folder; default: the workspace's newest.")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(1, 4096), help="At most this many.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(0, 100), help="0 is greedy.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1))
@allow_unsafe
def generate(prompt: str, model: Path | None, tokens: int, temperature: float, seed: int) -> None:
    """Continue a prompt with a trained model; where the recipe mixes models with an n-gram, with both."""
    from ..tasks.generate import generate_text
    from ..train.mixing import MixedSource

    # Bytes of the command line that are not UTF-8 arrive as surrogates, which no tokenizer takes.
    prompt = prompt.encode("utf-8", "replace").decode("utf-8")
    with served_model(model) as served:
        mixer = _mixer_beside(served)
        weights = mixer.fit_candidate(served.open, served.context) if mixer is not None else None
        with served.open() as client:
            source = client if mixer is None or weights is None else MixedSource(client, mixer.counts, weights)
            text = generate_text(source, served.tokenizer, prompt, served.context, tokens, temperature, seed=seed)
    click.echo(prompt + text)


def _mixer_beside(served: ServedModel) -> Mixer | None:
    """The n-gram that this workspace's recipe mixes with its models; outside of one there is none.

    What keeps it away is told and costs no text: a recipe that cannot be read, data that are gone.
    """
    try:
        workspace = find_workspace()
    except UsageError:
        return None
    except RecipeError as error:
        click.echo(f"the model writes alone: {error.message}", err=True)
        return None
    if workspace.recipe.evaluation.mixture == "none":
        return None
    try:
        return mixer_of(workspace, data_of_model(workspace, served.folder), served.tokenizer)
    except (UsageError, RecipeError) as error:
        click.echo(f"the model writes alone, without the n-gram: {error.message}", err=True)
        return None


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
