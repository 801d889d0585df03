"""STUDY.toml: what is refused, and how that is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.errors import SlmArError, UsageError
from slm_ar.core.study.plan import EXAMPLE, Study, load_study, parse_study

SMALL = 'name = "a"\nmode = "live"\n\n[[corpora]]\nname = "one"\n'
DOCS = Path(__file__).parents[2] / "docs" / "study.md"


def refused(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_study(text, "STUDY.toml")
    assert caught.value.hint
    return caught.value.message


def test_the_example_says_the_defaults() -> None:
    example = parse_study(EXAMPLE, "example")
    small = parse_study(SMALL, "small")
    for table in ("record", "search", "surrogate", "live"):
        assert getattr(example, table) == getattr(small, table)
        fields = type(getattr(example, table)).model_fields
        assert all(f"\n{name} = " in EXAMPLE for name in fields), "the example shows every key"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SMALL.replace('"live"', '"surogate"'), ["line 2: mode", "'record', 'surrogate' or 'live'", "Did you mean"]),
        (SMALL + '\n[search]\nproposer = ["tpe"]\n', ["line 8: search.proposer: unknown key", "'proposers'"]),
        (SMALL + "\n[serch]\n", ["line 7: serch: unknown key", "Did you mean 'search'"]),
        (SMALL + "\n[record]\nconfigurations = 3\n", ["line 8: record.configurations", "at least 4", "not 3"]),
        (SMALL + '\n[live]\nsearch_seeds = "5"\n', ["line 8: live.search_seeds", "a whole number"]),
        (SMALL + '\n[[corpora]]\nname = "one"\n', ["corpora", "names 'one' twice"]),
        (SMALL + '\n[[corpora]]\nname = "../one"\n', ["line 8: corpora[1].name"]),
        (SMALL + '\n[[corpora]]\nworkspase = "x"\n', ["corpora[1].name: is required", "Did you mean 'workspace'"]),
        ('name = "a"\nmode = "live"\n', ["corpora: is required: a list of tables"]),
        (SMALL + '\n[search]\nproposers = ["search", "tpe"]\nreference = "tp"\n', ["line 7: search", "'tp'", "'tpe'"]),
        (SMALL + '\n[search]\nproposers = ["tpe", "tpe"]\n', ["line 8: search.proposers", "twice"]),
        (SMALL + "\n[search]\nmargin = 0\n", ["line 8: search.margin", "'auto'", "more than 0"]),
        (SMALL + "\nname = = 3", ["not valid TOML", "line 7"]),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, told: list[str]) -> None:
    message = refused(text)
    for words in told:
        assert words in message, message


def test_all_problems_come_at_once() -> None:
    message = refused('name = ""\nmode = "x"\nfoldr = "y"\n[[corpora]]\n')
    assert message.startswith("STUDY.toml: 4 problems")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for content, words in ((None, "there is no study file"), (b"name = '\xff'", "is not UTF-8")):
        path = tmp_path / f"{words[:5]}.toml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=words):
            load_study(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_study(tmp_path)


@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_told_mistake(text: str) -> None:
    try:
        parse_study(SMALL + text, "STUDY.toml")
    except SlmArError as error:
        assert error.message and error.hint


def test_the_page_explains_every_key() -> None:
    page = DOCS.read_text(encoding="utf-8")
    schema = Study.model_json_schema()
    tables = [schema, *schema["$defs"].values()]
    for name in (name for table in tables for name in table["properties"]):
        assert f"`{name}`" in page or f"[{name}]" in page, f"docs/study.md does not explain {name}"
