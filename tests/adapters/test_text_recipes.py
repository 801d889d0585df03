"""The recipes for stories and text: valid, honest about their adapter, and with knobs that train.py has."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from slm_ar.adapters.text import TextAdapter
from slm_ar.core.agent.edits import set_knobs
from slm_ar.core.contracts import SourceOptions, SplitRule
from slm_ar.core.hub import KNOWN, is_hub_source, parse_hub_source
from slm_ar.core.recipe import load_shipped, parse_recipe, recipe_text
from slm_ar.core.registry import load_adapter

RECIPES = ("tinystories-laptop", "tinystories-rtx5080", "text-laptop", "text-rtx5080")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_loads_and_fits_its_adapter_and_train_py(name: str) -> None:
    recipe = load_shipped(name)
    assert recipe.name == name
    assert recipe.data.adapter == name.partition("-")[0]
    assert load_adapter(recipe.data.adapter).name == recipe.data.adapter
    template = resources.files("slm_ar.program_templates").joinpath("train.py").read_text(encoding="utf-8")
    assert all(f"{knob} = {value}" in set_knobs(template, recipe.knobs) for knob, value in recipe.knobs.items())
    assert recipe.budget.seconds == (300 if name.endswith("rtx5080") else 60)


def commented_lines(name: str) -> list[tuple[str, str]]:
    """(key, TOML value) of the settings that a recipe offers behind a #."""
    found = re.findall(r"^# ([a-z_]+) = (\S+|\".*?\")(?:\s+#.*)?$", recipe_text(name), re.MULTILINE)
    return [(key, value) for key, value in found]


@pytest.mark.parametrize("name", RECIPES)
def test_a_person_may_take_the_marks_of_comments_away(name: str) -> None:
    recipe = load_shipped(name)
    adapter = load_adapter(recipe.data.adapter)
    offered = commented_lines(name)
    assert offered
    for key, value in offered:
        if key in type(recipe.data).model_fields:
            data = f'adapter = "{adapter.name}"\n{key} = {value}'
            text = f'name = "n"\ndescription = "d"\n[budget]\nseconds = 1\n[data]\n{data}\n'
            assert parse_recipe(text, name).data.adapter == adapter.name
        else:
            assert key in adapter.options or key in type(recipe.budget).model_fields


def test_logs_by_day_are_split_by_time() -> None:
    window = dict(commented_lines("text-rtx5080"))["window"].strip('"')
    options = SourceOptions(options={"window": window})
    assert TextAdapter().split_rule(Path(), options) is SplitRule.TIME


@pytest.mark.parametrize("name", ["tinystories-laptop", "tinystories-rtx5080"])
def test_the_stories_come_from_the_hub_at_a_pinned_revision(name: str) -> None:
    source = load_shipped(name).data.source
    assert source is not None and is_hub_source(source)
    revision = KNOWN[parse_hub_source(source).repo].revision
    assert revision is not None and len(revision) == 40
