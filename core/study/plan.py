"""STUDY.toml: which proposers are compared, on which corpora, for how long; validated at once, like a recipe.

Called by `slm-ar study`. A plan that loads is complete and frozen; one that does not is refused with every problem
listed: line, key, what is wrong and what is allowed.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from .. import recipe_words
from ..errors import UsageError, did_you_mean

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0)]


def _broken_rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise _broken_rule("names none, and one is the least")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise _broken_rule(f"names {twice[0]!r} twice")
    return names


class _Table(BaseModel):
    """A TOML table: no unknown key, no conversion of types, no infinity, no change afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class CorpusTable(_Table):
    """One corpus. Paths count from the folder of the study file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
    """Short name of letters, digits, '-', '_' and '.', shown in the results."""
    workspace: Name | None = None
    """Folder made by `slm-ar new`: its recipe, data and train.py are what is trained; record and live need it."""
    longest_seconds: Annotated[float, Field(gt=0)] = 300.0
    """With a budget in steps: a training that takes longer is ended and counts as too slow."""
    table: Name | None = None
    """File with the recorded configurations; without it NAME.table.jsonl in the study's folder."""


def _different_corpora(corpora: tuple[CorpusTable, ...]) -> tuple[CorpusTable, ...]:
    _different(tuple(corpus.name for corpus in corpora))
    return corpora


class RecordTable(_Table):
    """How a table of configurations is trained. A longer table goes on where a shorter one ended."""

    configurations: Annotated[int, Field(ge=4, le=20_000)] = 300
    """Configurations to train once each."""
    repeats: Annotated[int, Field(ge=2)] = 20
    """Configurations, spread over the range of scores, that are trained with further seeds: they measure the noise."""
    seeds: Annotated[int, Field(ge=2, le=20)] = 3
    """Trainings of each of those, the first one included."""
    seed: Seed = 0
    """Seed of the drawing."""
    looks: Literal["auto"] | bool = "auto"
    """Note scores at 1/8 and 1/4 of the training too; auto does so where a campaign would end hopeless runs there."""


class SearchTable(_Table):
    """Who searches, and for how long; the same for every proposer."""

    proposers: Annotated[tuple[Name, ...], Field(strict=False), AfterValidator(_different)] = (
        "search",
        "random",
        "tpe",
    )
    """Proposers that need no language model."""
    reference: Name = "tpe"
    """The one that the others are compared with, seed by seed."""
    runs: Annotated[int, Field(ge=2, le=10_000)] = 60
    """Training seconds of one search, as a multiple of what one training of the starting code takes."""
    margin: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """A proposer is not behind when it is worse by less than this, in the unit of the score; auto is half a sigma."""

    @model_validator(mode="after")
    def _reference_is_compared(self) -> Self:
        if self.reference not in self.proposers:
            hint = did_you_mean(self.reference, list(self.proposers))
            raise _broken_rule(f"reference {self.reference!r} is not among its proposers. {hint}")
        return self


class SurrogateTable(_Table):
    """Searches on a model of the table."""

    search_seeds: Annotated[int, Field(ge=1, le=100_000)] = 200
    """Searches of each proposer on each corpus."""
    first_seed: Seed = 0
    """The seeds are this one and those that follow."""


class LiveTable(_Table):
    """Searches with real trainings."""

    search_seeds: Annotated[int, Field(ge=1, le=1000)] = 6
    """Searches of each proposer on each corpus; with fewer than six, the default, no test can tell a difference."""
    first_seed: Seed = 0
    """The seeds are this one and those that follow."""
    value_seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """Fresh trainings behind the true value of a returned configuration."""


class Study(_Table):
    """A validated study file."""

    name: Name
    """Short name, the title of the results."""
    mode: Literal["record", "surrogate", "live"]
    """What `slm-ar study` does without --mode: train a table, search on a model of it, or search with trainings."""
    folder: Name = "study"
    """Where tables and results go; a relative path counts from the study file."""
    corpora: Annotated[tuple[CorpusTable, ...], Field(strict=False), AfterValidator(_different_corpora)]
    """One [[corpora]] table per corpus."""
    record: RecordTable = RecordTable()
    search: SearchTable = SearchTable()
    surrogate: SurrogateTable = SurrogateTable()
    live: LiveTable = LiveTable()


EXAMPLE = """\
# slm-ar study STUDY.toml                  does what `mode` says
# slm-ar study STUDY.toml --mode record    trains the tables first

name = "laptop"
mode = "surrogate"         # record, surrogate or live
folder = "study"           # tables and results; paths count from this file

[[corpora]]
name = "transit"
workspace = "transit"      # made by `slm-ar new`: its recipe says data and budget

# longest_seconds = 300      # budget in steps: what takes longer is ended and counts as too slow

# [[corpora]]
# name = "stories"
# workspace = "stories"
# table = "tables/stories.jsonl"

[record]
configurations = 300       # trained once each; a higher number goes on with the same table
repeats = 20               # of them are trained with further seeds, to measure the noise
seeds = 3                  # trainings of each of those, the first one included
seed = 0
looks = "auto"             # note scores at 1/8 and 1/4 of a training as well

[search]
proposers = ["search", "random", "tpe"]
reference = "tpe"          # the others are compared with it, seed by seed
runs = 60                  # length of a search: the seconds of so many trainings of the starting code
margin = "auto"            # "not behind" is worse by less than this; auto: half the noise of one run

[surrogate]
search_seeds = 200
first_seed = 0

[live]
search_seeds = 6           # fewer can never tell a difference
first_seed = 0
value_seeds = 3            # fresh trainings behind the true value of a returned configuration
"""


def load_study(path: Path) -> Study:
    """Read and validate the study file at `path`. Raises UsageError listing every problem of the file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no study file", "`slm-ar study --example` prints one") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "name a file with a study") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from error
    return parse_study(text, str(path))


def parse_study(text: str, origin: str) -> Study:
    """Validate a TOML text; `origin` names it in errors. Raises UsageError listing every problem."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number or a nesting too long for Python is no TOMLDecodeError
        raise UsageError(f"{origin}: not valid TOML: {error}", 'texts need quotes: name = "laptop"') from error
    try:
        return Study.model_validate(table)
    except ValidationError as error:
        problems = recipe_words.problems(error, Study.model_json_schema(), table, text)
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "\n".join(f"  {problem}" for problem in problems)
    raise UsageError(
        f"{origin}: {count}\n{lines}", "docs/study.md explains every key; `slm-ar study --example` prints a file"
    )
