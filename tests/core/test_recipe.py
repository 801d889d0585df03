"""Recipes: what loads, what is refused and in which words, and the text surgery that keeps comments."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slm_ar.core.errors import RecipeError, UsageError
from slm_ar.core.recipe import (
    Recipe,
    load_recipe,
    load_shipped,
    parse_recipe,
    recipe_text,
    shipped_recipes,
    write_recipe_copy,
)
from slm_ar.core.toml_text import key_lines, statements, toml_value

ROOT = Path(__file__).parents[2]
MINIMAL = """\
name = "small"
description = "For tests"
[data]
adapter = "transit"
[budget]
seconds = 6
"""


# A short alphabet of awkward characters: the full one costs Hypothesis seconds to set up.
AWKWARD = st.text("ab1 .=#'\"\\[]{}\t\n\r\x00\x7f\u2028é", max_size=8)


def problems_of(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "recipe.toml")
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


# --- what loads -----------------------------------------------------------------------------


def test_every_shipped_recipe_is_valid() -> None:
    files = sorted((ROOT / "recipes").rglob("*.toml"))
    assert len(files) >= 5
    assert [file.stem for file in files] == shipped_recipes()
    for file in files:
        recipe = load_recipe(file)
        assert recipe.name == file.stem
        assert recipe == load_shipped(file.stem)
        assert "#" in recipe_text(file.stem), "a recipe is explained to the person who edits it"


def test_shipped_recipes_have_the_agreed_settings() -> None:
    demo = load_shipped("demo")
    assert (demo.data.adapter, demo.budget.seconds, demo.budget.experiments) == ("transit", 6.0, 8)
    assert (demo.gate.calibration_runs, demo.gate.alpha, demo.gate.final_pairs, demo.gate.claim_every) == (
        3,
        0.05,
        3,
        8,
    )
    assert (demo.gate.looks, demo.gate.alpha_split) == ((3, 5), (0.5, 0.5))
    assert (demo.data.dev_kb, demo.data.hidden_kb, demo.data.test_kb) == (80, 120, 80)
    assert (demo.tokenizer.vocab_size, demo.evaluation.context) == (1024, 256)
    laptop = load_shipped("transit-laptop")
    assert (laptop.budget.seconds, laptop.tokenizer.vocab_size) == (60.0, 2048)
    assert (laptop.data.dev_kb, laptop.data.hidden_kb, laptop.data.test_kb) == (400, 640, 640)
    gpu = load_shipped("transit-rtx5080")
    assert (gpu.budget.seconds, gpu.tokenizer.vocab_size, gpu.evaluation.context) == (300.0, 8192, 1024)
    assert gpu.knobs == {"TARGET_PARAMS_M": 11.5, "CONTEXT": 512, "BATCH_TOKENS": 16384, "HEAD_DIM": 64}
    seed = load_shipped("transit-seed-80m")
    assert (seed.budget.seconds, seed.knobs["TARGET_PARAMS_M"]) == (300.0, 80.0)
    text = load_shipped("text-laptop")
    assert (text.data.adapter, text.budget.seconds, text.tokenizer.vocab_size) == ("text", 60.0, 2048)


def test_a_minimal_recipe_gets_the_documented_defaults() -> None:
    recipe = parse_recipe(MINIMAL, "recipe.toml")
    assert recipe.data.source is None and recipe.data.max_train_mb == 64 and recipe.data.dev_kb == 300
    assert recipe.data.mix_percent == 5 and recipe.data.mix_kb == 200 and recipe.data.duplicates == "auto"
    assert recipe.tokenizer.vocab_size == 2048 and recipe.tokenizer.split == "auto"
    assert recipe.budget.steps is None and recipe.budget.startup_seconds == 60 and recipe.budget.experiments == 60
    assert recipe.gate.looks == (1, 2, 4, 8) and recipe.gate.alpha_split == (0.05, 0.15, 0.3, 0.5)
    assert recipe.gate.alpha == 0.04 and recipe.gate.patience == 2 and recipe.gate.min_effect == 0.001
    assert recipe.proposer.name == "search" and recipe.finish.train_factor == 4


def test_toml_dates_and_quoted_dates_are_the_same() -> None:
    quoted = MINIMAL.replace("[budget]", 'since = "2024-01-31"\n[budget]')
    bare = MINIMAL.replace("[budget]", "since = 2024-01-31\n[budget]")
    assert parse_recipe(bare, "a").data.since == "2024-01-31"
    assert parse_recipe(bare, "a") == parse_recipe(quoted, "b")


def test_auxiliary_text_is_a_list_of_tables() -> None:
    text = (
        MINIMAL
        + """\
[[data.extra]]
adapter = "text"
source = "docs"
[[data.extra]]
adapter = "text"
source = "/more"
weight = 3
options = { unit = "file" }
[data.extra.columns]
text = "body"
"""
    )
    recipe = parse_recipe(text, "recipe.toml")
    first, second = recipe.data.extra
    assert (first.source, first.weight, first.options) == ("docs", 1.0, {})
    assert (second.weight, second.options, second.columns) == (3.0, {"unit": "file"}, {"text": "body"})
    assert recipe.digest() != parse_recipe(MINIMAL, "recipe.toml").digest()
    assert parse_recipe(MINIMAL, "recipe.toml").data.extra == ()


def test_the_vocabulary_may_be_left_to_a_measurement() -> None:
    recipe = parse_recipe(MINIMAL + '[tokenizer]\nvocab_size = "auto"\nsplit = "bytes"\n', "recipe.toml")
    assert (recipe.tokenizer.vocab_size, recipe.tokenizer.split) == ("auto", "bytes")
    assert parse_recipe(MINIMAL, "recipe.toml").data.max_overlap_percent == 25


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse_recipe(MINIMAL, "recipe.toml")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.budget.seconds = 7.0  # type: ignore[misc]


# --- digest ---------------------------------------------------------------------------------


def test_digest_ignores_order_comments_and_spelled_out_defaults() -> None:
    other = """\
    description = "For tests"
    name = "small"   # a comment
    budget.seconds = 6.0
    data = { adapter = "transit", dev_kb = 300 }
    """
    assert parse_recipe(other, "a").digest() == parse_recipe(MINIMAL, "b").digest()


def test_keys_that_are_not_used_leave_the_digest_as_it_is() -> None:
    """Otherwise a campaign that is new for another reason would say that its recipe had changed."""
    assert parse_recipe(MINIMAL, "recipe.toml").digest()[:12] == "e02d09dcde5f"


@pytest.mark.parametrize(
    "change",
    [
        {"budget.seconds": 7},
        {"knobs.CONTEXT": 256},
        {"data.since": "2024-01-01"},
        {"gate.alpha": 0.05},
        {"model.form": "best"},
        {"evaluation.mixture": "ngram"},
    ],
)
def test_digest_sees_every_setting(change: dict[str, object]) -> None:
    changed = parse_recipe(write_recipe_copy(MINIMAL, change), "recipe.toml")
    assert changed.digest() != parse_recipe(MINIMAL, "recipe.toml").digest()
    assert len(changed.digest()) == 64


# --- what is refused ------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    text = """\
name = 5
alpha = 0.1
[data]
adaptor = "transit"
split = "tiem"
since = 2024-02-01
until = 2024-01-01
[machine]
threads = 0
[budget]
seconds = 6
steps = -1
[gate]
looks = [
  3,
  "five",
]
"""
    assert problems_of(text) == [
        "description: is required: text in quotes",
        "line 1: name: must be text in quotes, not empty, not 5",
        "line 2: alpha: unknown key. It belongs in [gate].",
        "line 3: data.adapter: is required: text in quotes, not empty",
        "line 4: data.adaptor: unknown key. Did you mean 'adapter'?",
        "line 5: data.split: must be 'auto', 'group', 'time' or 'order', not \"tiem\". Did you mean 'time'?",
        "line 7: data.until: is 2024-01-01, which is before since = 2024-02-01",
        "line 9: machine.threads: must be 'auto' or a whole number, at least 1, not 0",
        "line 12: budget.steps: set exactly one of seconds and steps: both are set",
        "line 12: budget.steps: must be a whole number, at least 1, not -1",
        "line 14: gate.looks: needs one share per look: looks has 2 entries, alpha_split 4",
        'line 14: gate.looks[1]: must be a whole number, at least 1, not "five"',
    ]


def test_problems_of_tables_in_a_list_are_told_at_their_own_lines() -> None:
    text = (
        MINIMAL
        + """\
[[data.extra]]
adapter = "text"
source = "a"
weigth = 2
[[data.extra]]
adapter = 3
weight = 2.5
[data.extra.options]
x = [1]
"""
    )
    assert problems_of(text) == [
        "line 10: data.extra[0].weigth: unknown key. Did you mean 'weight'?",
        "line 11: data.extra[1].source: is required: text in quotes, not empty",
        "line 12: data.extra[1].adapter: must be text in quotes, not empty, not 3",
        "line 13: data.extra[1].weight: must be a share up to 1 or a whole number of repeats, not 2.5",
        "line 15: data.extra[1].options.x: must be text in quotes, a whole number, a number or true or false, not [1]",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("[gate]\nlooks = [3, 3]\nalpha_split = [0.5, 0.5]", "must rise strictly"),
        ("[gate]\nlooks = [3, 5]\nalpha_split = [0.5, 0.6]", "must sum to at most 1, not to 1.1"),
        ("[gate]\nlooks = [3, 5]", "needs one share per look"),
        ("[gate]\nlooks = []\nalpha_split = []", "gate.looks: must be"),
        ("[gate]\ncalibration_runs = 1", "at least 2, not 1"),
        ("[gate]\nalpha = nan", "gate.alpha: must be a number"),
        ("[tokenizer]\nvocab_size = 259", "at least 260 and at most 65535, not 259"),
        ("[tokenizer]\nvocab_size = 65536", "at most 65535, not 65536"),
        ("[tokenizer]\nvocab_size = 2048.0", "a whole number"),
        ('[tokenizer]\nvocab_size = "atuo"', "must be 'auto' or a whole number"),
        ('[data.extra]\nadapter = "text"\nsource = "a"', "must be a list of tables"),
        ('[[data.extra]]\nadapter = "text"\nsource = "a"\nweight = 0', "more than 0 and at most 100, not 0"),
        ('[tokenizer]\nsplit = "lines"', 'not "lines"'),
        ("[knobs]\nTIED = true", "must be a whole number, a number or text in quotes, not true"),
        ("[knobs]\nTIED = { a = 1 }", "knobs.TIED: must be"),
        ("[knobs]\nSTART = 07:30:00", "not 07:30:00"),
        ('[machine]\nthreads = "four"', "must be 'auto' or a whole number"),
        ("[gate.data]\nx = 1", "[data] is a table of its own"),
        ("[finish]\nname = 1", "It belongs above the first table."),
        ("[evaluations]\ncontext = 1", "Did you mean 'evaluation'?"),
        ("[[proposer]]\nname = 1", "must be a table"),
        (f'[proposer]\nseed = "{"x" * 500}"', "xxx..."),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(lines: str, expected: str) -> None:
    found = problems_of(MINIMAL + lines)
    assert len(found) == 1 and expected in found[0]
    assert found[0].startswith("line ")


def test_a_budget_is_needed_once() -> None:
    assert problems_of(MINIMAL.replace("seconds = 6", "")) == [
        "line 5: budget.seconds: set exactly one of seconds and steps: neither is set"
    ]
    assert parse_recipe(MINIMAL.replace("seconds = 6", "steps = 50"), "recipe.toml").budget.steps == 50


@pytest.mark.parametrize("value", ['"yesterday"', '"2024-13-01"', "5", "[2024-01-01]"])
def test_since_must_be_a_date(value: str) -> None:
    (problem,) = problems_of(MINIMAL.replace("[budget]", f"since = {value}\n[budget]"))
    assert problem.startswith("line 5: data.since: must be a date such as 2024-03-31, not ")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('name = "a"\nsplit = time\n', "line 2, column 9"),
        ("[data\n", "line 1, column 6"),
        ('name = "a"\nlooks = [3,', "line 2, column 12"),
        ('name = "a"\nname = "b"\n', "line 2, column "),
        ("x = " + "1" * 5000, "line 1, column "),
    ],
)
def test_syntax_errors_name_file_line_and_column(text: str, place: str) -> None:
    with pytest.raises(RecipeError, match="not valid TOML") as caught:
        parse_recipe(text, "recipe.toml")
    assert caught.value.message.startswith(f"recipe.toml, {place}")
    assert caught.value.hint


def test_unreadable_files_are_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "missing.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes('name = "a"\ndescription = "Zürich"\n'.encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.toml, line 2: byte 27 is not UTF-8"):
        load_recipe(latin)
    with_mark = tmp_path / "mark.toml"
    with_mark.write_bytes(MINIMAL.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_recipe(with_mark).digest() == parse_recipe(MINIMAL, "recipe.toml").digest()


def test_unknown_shipped_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        load_shipped("transit-labtop")
    assert caught.value.hint == "Did you mean 'transit-laptop'?"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | AWKWARD | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdefs", max_size=7), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)  # the machine is shared
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), VALUES))
def test_any_toml_is_a_recipe_or_a_recipe_error(table: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {toml_value(value)}" for key, value in _without_none(table).items())
    try:
        parse_recipe(text, "recipe.toml")
    except RecipeError as error:
        assert "recipe.toml" in error.message


def _without_none(value: dict[str, object]) -> dict[str, object]:
    def clean(item: object) -> object:
        if isinstance(item, dict):
            return {key: clean(inner) for key, inner in item.items() if inner is not None}
        if isinstance(item, list):
            return [clean(inner) for inner in item if inner is not None]
        return item

    return {key: clean(item) for key, item in value.items() if item is not None}


# --- text surgery ---------------------------------------------------------------------------


def test_a_copy_keeps_comments_layout_and_everything_else() -> None:
    text = """\
# A recipe
name = "a"      # the name
[data]          # where from
adapter = "transit"
# source = "somewhere"
columns = { route_id = "line" }  # theirs

[gate]
looks = [   # two of them
  3,
  5,
]   # looks
"""
    copy = write_recipe_copy(
        text,
        {
            "name": 'say "b" # c',
            "data.source": "C:\\logs\\x.zip",
            "data.columns.stop_id": "halt",
            "data.adapter": None,
            "gate.looks": (1, 2),
            "data.options.limit": 5,
            "knobs.TARGET_PARAMS_M": 1e-05,
        },
    )
    assert copy == """\
# A recipe
name = "say \\"b\\" # c"      # the name
[data]          # where from
# source = "somewhere"
columns = { "route_id" = "line", "stop_id" = "halt" }  # theirs
source = "C:\\\\logs\\\\x.zip"

[gate]
looks = [1, 2]   # looks

[data.options]
limit = 5

[knobs]
TARGET_PARAMS_M = 1e-05
"""  # fmt: skip


def test_a_copy_of_a_shipped_recipe_keeps_every_comment() -> None:
    for name in shipped_recipes():
        text = recipe_text(name)
        copy = write_recipe_copy(text, {"data.source": "/data/feed.zip", "budget.seconds": None, "budget.steps": 40})
        recipe = parse_recipe(copy, name)
        assert (recipe.data.source, recipe.budget.seconds, recipe.budget.steps) == ("/data/feed.zip", None, 40)
        kept = [line for line in text.splitlines() if line.lstrip().startswith("#")]
        assert [line for line in copy.splitlines() if line.lstrip().startswith("#")] == kept


def test_windows_line_ends_stay() -> None:
    copy = write_recipe_copy(MINIMAL.replace("\n", "\r\n"), {"budget.seconds": 9, "gate.alpha": 0.1})
    assert "seconds = 9\r\n" in copy and copy.count("\n") == copy.count("\r\n")


def test_keys_written_with_dots_get_their_siblings_beside_them() -> None:
    copy = write_recipe_copy('data.adapter = "text"\n[gate]\nalpha = 0.1\n', {"data.source": "x", "name": "n"})
    assert copy == 'data.adapter = "text"\ndata.source = "x"\nname = "n"\n[gate]\nalpha = 0.1\n'


def test_what_cannot_be_set_is_refused() -> None:
    with pytest.raises(RecipeError, match="not valid TOML"):
        write_recipe_copy("name = ", {"name": "a"})
    with pytest.raises(RecipeError, match="cannot set data"):
        write_recipe_copy(MINIMAL, {"data": 5})


SCALARS = st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.dates() | AWKWARD
KEYS = st.sampled_from(["name", "data.source", "data.split", "gate.looks", "gate.extra.deep", "knobs.A", "new.key"])
TEXTS = st.sampled_from(
    [
        "",
        MINIMAL,
        "# only a comment",
        'name = """\n# no comment\n[gate]\n""" # yes\n[data] # d\nsource = \'#\' # s\n[gate]\nlooks = [1, # a\n2]\n',
        '"na=me" = 1\ndata . "source" = "x" # c\ngate = { extra = { deep = 1 } } # g\n[knobs]\n',
        'name = 1\n[gate.extra]\ndeep = 1\n\n# last\n',
    ]
)  # fmt: skip


@settings(deadline=None)  # the machine is shared
@given(TEXTS, st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=4))
def test_a_copy_differs_in_the_given_keys_only(text: str, overrides: dict[str, object]) -> None:
    expected = tomllib.loads(text)
    for dotted, value in overrides.items():
        *tables, key = dotted.split(".")
        table = expected
        for name in tables:
            table = table.setdefault(name, {})
        table[key] = value
    copy = write_recipe_copy(text, overrides)
    assert tomllib.loads(copy) == expected
    again = write_recipe_copy(copy, overrides)
    assert again == copy


def test_lines_of_keys_are_found_behind_multi_line_values() -> None:
    text = 'a = """\nb = 1\n"""\n[t]\nx.y = [\n 1,\n]\nz = 2\n[[list]]\nk = 1\n'
    lines = key_lines(text)
    assert lines[("a",)] == 1 and lines[("t", "x", "y")] == 5 and lines[("t", "z")] == 8 and ("b",) not in lines
    assert lines[("list", "k")] == 10
    assert [statement.last - statement.first for statement in statements(text)] == [3, 1, 3, 1, 1, 1]


def test_toml_has_no_other_types() -> None:
    with pytest.raises(TypeError, match="object"):
        toml_value(object())


MIXED = (
    'name = "x"\ndescription = "x"\n[data]\nadapter = "text"\n[budget]\nsteps = 5\n[evaluation]\nmixture = "ngram"\n'
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text + '[metric]\ntask = "delay"\n', "leave out [metric]"),
        (lambda text: text.replace("[budget]", "mix_kb = 0\n[budget]"), "raise [data] mix_kb"),
        (lambda text: text.replace("[budget]", "mix_percent = 0.0\n[budget]"), "raise [data] mix_percent"),
    ],
)
def test_a_mixture_needs_a_metric_that_it_changes_and_text_to_fit_on(change: Callable[[str], str], words: str) -> None:
    assert parse_recipe(MIXED, "here").evaluation.mixture == "ngram"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(change(MIXED), "here")
    assert words in caught.value.message and ": evaluation: " in caught.value.message
    assert parse_recipe(change(MIXED.replace('"ngram"', '"none"')), "here").evaluation.mixture == "none"
