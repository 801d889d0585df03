"""The pages of keys and exit codes cannot lie."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm_ar.core import errors
from slm_ar.core.errors import RecipeError, SlmArError
from slm_ar.core.recipe import Recipe, parse_recipe, recipe_reference

DOCS = Path(__file__).parents[1] / "docs"


def error_classes() -> dict[str, type[SlmArError]]:
    found = {name: item for name, item in vars(errors).items() if isinstance(item, type)}
    return {name: item for name, item in found.items() if issubclass(item, SlmArError)}


def test_the_exit_code_table_is_the_classes() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.+) \|$", (DOCS / "errors.md").read_text(), re.MULTILINE)
    assert {name: int(code) for code, name, _ in rows} == {
        name: item.exit_code for name, item in error_classes().items()
    }
    assert len(rows) == len(error_classes()) == 9


def test_the_tree_in_the_docstring_is_the_classes() -> None:
    drawn = re.findall(r"(\w+Error) \((\d+)\)", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {name: item.exit_code for name, item in error_classes().items()}


def test_the_page_of_keys_is_the_model() -> None:
    page = (DOCS / "recipes.md").read_text()
    assert page.rstrip().endswith(recipe_reference().rstrip()), "refresh docs/recipes.md; its head says how"
    for name in Recipe.model_fields:
        assert f"| `{name}` |" in page or f"## `[{name}]`" in page
    assert "|  |" not in page, "every key has a meaning"
    assert len(re.findall(r"^\| `", page, re.MULTILINE)) == 67


def test_the_example_message_is_real() -> None:
    text = "\n" * 8 + '[data]\nsplit = "tiem"\n\n\n\n[budget]\nalpha = 1\n'
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "recipe.toml")
    example = re.search(r"```text\n(.+?)```", (DOCS / "errors.md").read_text(), re.DOTALL)
    assert example
    for line in example[1].splitlines()[1:]:
        assert re.sub(r"line \d+: ", "", line) in re.sub(r"line \d+: ", "", str(caught.value))
