"""The recipe: one TOML file, validated at once, that says what to train on, for how long and how to judge.

Called by the command line, prepare and the research loop. A recipe that loads is complete and frozen; one that does not
is refused with every problem listed: line, key, what is wrong and what is allowed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from . import recipe_words
from .contracts import KnobValue
from .errors import RecipeError, UsageError, did_you_mean
from .toml_text import toml_value, write_recipe_copy

__all__ = [
    "Recipe",
    "load_recipe",
    "load_shipped",
    "parse_recipe",
    "recipe_reference",
    "recipe_text",
    "shipped_recipes",
    "write_recipe_copy",
]

# --- values ---------------------------------------------------------------------------------


def _broken_rule(message: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{message}", {"message": message})


def _iso_date(value: object) -> object:
    """TOML has dates of its own; both they and quoted ISO texts become ISO text."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise _broken_rule(f"must be a date such as 2024-03-31, not {toml_value(value)}") from None
    return value


def _increasing(looks: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in itertools.pairwise(looks)):
        raise _broken_rule(f"must rise strictly, such as [1, 2, 3, 5], not {toml_value(looks)}")
    return looks


def _repeats_or_share(weight: float) -> float:
    if weight > 1 and weight != int(weight):
        raise _broken_rule(f"must be a share up to 1 or a whole number of repeats, not {toml_value(weight)}")
    return weight


def _not_ours(name: str) -> str:
    if name.upper().startswith("SLM_AR_"):
        raise _broken_rule(f"{name} is never handed to a program")
    return name


def _at_most_one(shares: tuple[float, ...]) -> tuple[float, ...]:
    if sum(shares) > 1 + 1e-9:
        raise _broken_rule(f"must sum to at most 1, not to {sum(shares):g}")
    return shares


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
VariableName = Annotated[str, Field(min_length=1), AfterValidator(_not_ours)]
IsoDate = Annotated[str, BeforeValidator(_iso_date), Field(json_schema_extra={"format": "date"})]


class _Table(BaseModel):
    """A TOML table: no unknown key, no conversion of types, no infinity, no change afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def conflicts(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield (key, problem) for rules that concern several keys; `table` is as written, so of any type."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_at_once(cls, table: Any, handler: Any) -> Self:
        # An "after" validator is skipped when a field is wrong; a person wants to see both problems in one go.
        found = []
        if isinstance(table, Mapping):
            for key, problem in cls.conflicts(table):
                found.append(InitErrorDetails(type=_broken_rule(problem), loc=(key,), input=table.get(key)))
        try:
            model: Self = handler(table)
        except ValidationError as error:
            for detail in error.errors():
                kind = _broken_rule(detail["msg"]) if detail["type"] == "rule" else detail["type"]
                context = detail.get("ctx", {})
                found.append(InitErrorDetails(type=kind, loc=detail["loc"], input=detail["input"], ctx=context))
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return model


# --- tables ---------------------------------------------------------------------------------


class ExtraTable(_Table):
    """Auxiliary text, such as one's own documents beside the pairs. It goes to train alone; what stands, or nearly
    stands, in a held-out part is dropped. There may be several of these tables."""

    adapter: Name
    """Adapter that reads the auxiliary source."""
    source: Name
    """File or folder with the auxiliary text; a relative path counts from the workspace."""
    columns: Mapping[str, str] = Field(default_factory=dict)
    """Our field name = your column name."""
    options: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of the adapter."""
    weight: Annotated[float, Field(gt=0, le=100), AfterValidator(_repeats_or_share)] = 1.0
    """How often train holds each document (1, 2, ...), or the share of the documents that it holds (below 1)."""


class DataTable(_Table):
    """What to learn from, and how much of it is kept for measuring."""

    adapter: Name
    """Adapter that reads the source: a name from `slm-ar adapters`, or path/to/file.py:ClassName."""
    source: Name | None = None
    """File or folder with the data; a relative path counts from the workspace."""
    split: Literal["auto", "group", "time", "order"] = "auto"
    """How groups are dealt to train, dev, hidden and test; auto asks the adapter."""
    columns: Mapping[str, str] = Field(default_factory=dict)
    """Our field name = your column name."""
    options: Mapping[str, str | int | float | bool] = Field(default_factory=dict)
    """Settings of the adapter."""
    since: IsoDate | None = None
    """Ignore what is older than this day."""
    until: IsoDate | None = None
    """Ignore what is newer than this day."""
    sample_groups: Count | None = None
    """Read only this many groups, chosen by hash; bounds large archives."""
    max_train_mb: Positive = 64.0
    """Upper bound of the training text in MB."""
    dev_kb: Count = 300
    """kB of text that every experiment is scored on."""
    hidden_kb: Count = 300
    """kB of text for claims; nobody sees its scores before the finish."""
    test_kb: Count = 300
    """kB of text that is opened once, at the finish."""
    mix_percent: float = Field(default=5.0, ge=0, le=50)
    """Percent of the groups set aside to fit mixtures with an n-gram model."""
    mix_kb: int = Field(default=200, ge=0)
    """Upper bound of that part in kB."""
    duplicates: Literal["auto", "exact", "near", "report"] = "auto"
    """Drop repeated documents (exact), also those that differ in a few words (near), only count both (report), or ask
    the adapter (auto)."""
    max_overlap_percent: float = Field(default=25.0, ge=0, le=100)
    """Prepare refuses a split in which more than this percent of a held-out part nearly stands in train."""
    extra: Annotated[tuple[ExtraTable, ...], Field(strict=False)] = ()
    """Auxiliary text for train, as tables of their own: [[data.extra]]."""

    @classmethod
    def conflicts(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A period must not end before it begins."""
        since, until = _iso_text(table.get("since")), _iso_text(table.get("until"))
        if since and until and until[:10] < since[:10]:
            yield "until", f"is {until}, which is before since = {since}"


def _iso_text(value: object) -> str:
    try:
        text = _iso_date(value)
    except PydanticCustomError:
        return ""
    return text if isinstance(text, str) else ""


class TokenizerTable(_Table):
    """How text becomes tokens; trained on the training part only."""

    vocab_size: Literal["auto"] | Annotated[int, Field(ge=260, le=65535)] = 2048
    """Number of tokens. Small models want small vocabularies; auto doubles 512 while that saves 2 % of the tokens."""
    split: Literal["auto", "words", "fields", "bytes"] = "auto"
    """What a token may not cross: word edges or field separators; bytes has one token per byte; auto asks the adapter
    or looks at the text."""


class BudgetTable(_Table):
    """What one experiment, and the whole campaign, may cost. Set exactly one of seconds and steps."""

    seconds: Positive | None = None
    """Training time of one experiment in seconds."""
    steps: Count | None = None
    """Training length of one experiment in optimiser steps, instead of seconds."""
    startup_seconds: Positive = 60.0
    """Free time before the clock starts, to build, compile and warm up the model."""
    memory_gb: Positive | None = None
    """Memory in GB that one experiment may use, and of an accelerator's; without it, 0.8 of what the machine has, and
    what is free on the accelerator."""
    experiments: Count = 60
    """Ideas to try in one campaign."""
    hours: Positive | None = None
    """Stop starting experiments after this many hours."""
    prune: Literal["auto"] | bool = "auto"
    """End hopeless experiments after an eighth or a quarter of their training; auto does so with budgets of a minute
    or more on a CPU, where looking costs little. Never with a [metric]."""

    @classmethod
    def conflicts(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Seconds and steps exclude each other, and one of them is needed."""
        given = [key for key in ("seconds", "steps") if table.get(key) is not None]
        if len(given) != 1:
            state = "both are set" if given else "neither is set"
            yield "steps" if given else "seconds", f"set exactly one of seconds and steps: {state}"


class MachineTable(_Table):
    """Where experiments run. The defaults fit the machine at hand."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes the accelerator when there is one."""
    threads: Literal["auto"] | Count = "auto"
    """CPU threads of one experiment."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto measures what is fast here."""


class ModelTable(_Table):
    """What kind of model train.py may build; its sizes are knobs of train.py itself."""

    form: Literal["portable", "best"] = "portable"
    """portable keeps the shape of Qwen3, which common runtimes load; best adds parts that they cannot express (the
    shipped train.py: a learned share of the token before) and gains a little. A change starts a new campaign."""


class EvaluationTable(_Table):
    """How a model is scored."""

    context: int = Field(default=512, ge=16)
    """Longest window, in tokens, that a score may look back."""
    mixture: Literal["none", "ngram"] = "none"
    """ngram judges every model together with an n-gram of train, in bits per byte with n-gram: another metric, so a
    campaign of its own. Its weights are fitted on the mix part of the data. What `slm-ar finish` exports is the model
    alone."""


class GateTable(_Table):
    """The judge's settings: how sure it must be before a change counts as real."""

    calibration_runs: int = Field(default=5, ge=2)
    """Runs of the unchanged code that measure the noise between seeds."""
    alpha: float = Field(default=0.04, gt=0, lt=0.5)
    """Chance of a false claim that the first night may spend; docs/gate.md says how claims and nights share it."""
    looks: Annotated[tuple[Count, ...], Field(min_length=1, strict=False), AfterValidator(_increasing)] = (
        1,
        2,
        4,
        8,
    )
    """Numbers of paired runs after which a claim is judged."""
    alpha_split: Annotated[tuple[Share, ...], Field(strict=False), AfterValidator(_at_most_one)] = (
        0.05,
        0.15,
        0.3,
        0.5,
    )
    """Share of alpha spent at each look."""
    claim_every: Count = 32
    """Experiments between two claims."""
    min_effect: float = Field(default=0.001, ge=0)
    """Smallest gain, in bits per byte, worth claiming."""
    patience: Count = 2
    """How often in a row a chain that is not yet proven may go on; after that it goes back to the proven code."""
    final_pairs: int = Field(default=5, ge=2)
    """Paired runs behind the final number."""

    @classmethod
    def conflicts(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Every look has its share of alpha."""
        looks = table.get("looks", cls.model_fields["looks"].default)
        shares = table.get("alpha_split", cls.model_fields["alpha_split"].default)
        if isinstance(looks, list | tuple) and isinstance(shares, list | tuple) and len(looks) != len(shares):
            yield (
                "alpha_split" if "alpha_split" in table else "looks",
                f"needs one share per look: looks has {len(looks)} entries, alpha_split {len(shares)}",
            )


class ProposerTable(_Table):
    """Who proposes the next change."""

    name: Name = "search"
    """Proposer: search and random need no key and no network; claude and local ask a language model; cli:claude,
    cli:codex, cli:gemini, cli:opencode or cli:ANY with a command start a coding agent; hybrid is search and one of
    these in turns; human waits for your edits of train.py; replay repeats a recording."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search: same journal and seed, same proposals."""
    model: Name | None = None
    """Model that claude or local asks; claude has a default, local needs one."""
    base_url: Name | None = None
    """Address of local's server, without /v1; without it http://localhost:11434, which is Ollama's."""
    effort: Literal["none", "low", "medium", "high", "xhigh", "max"] = "medium"
    """How hard claude thinks; more costs more. none asks for nothing, for models that do not know the setting."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """How freely local's model chooses its words; Claude has no such setting."""
    output_tokens: int = Field(default=16_000, ge=256, le=128_000)
    """Longest answer of a language model, its thinking included."""
    campaign_tokens: Count = 4_000_000
    """Tokens, read and written, that one campaign may take; checked before each call against the most that it can."""
    campaign_usd: Positive = 5.0
    """The same in US dollars, by the dated price list of the package; a model that is not on it has no such cap."""
    wait_minutes: Positive = 30.0
    """How long to wait for a language model that is overloaded or away before the campaign is left for later."""
    command: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] | None = None
    """Of cli:NAME, program and arguments, instead of those that are known for NAME. {prompt} stands for the task, which
    otherwise comes on standard input; {model} for model. A program with a relative path counts from the workspace."""
    agent_seconds: Positive = 900.0
    """Longest time that the program of cli:NAME may take for one proposal; then all that it started is ended."""
    pass_environment: Annotated[tuple[VariableName, ...], Field(strict=False)] = ()
    """Environment variables that the program of cli:NAME gets besides those that docs/proposers.md lists, such as
    ["ANTHROPIC_API_KEY"]."""
    agent_is_local: bool = False
    """Says that the program of cli:NAME asks this machine alone, so that it may be started with offline = true."""
    partner: Name | None = Field(default=None, alias="with")
    """The language model that hybrid asks: claude, local or cli:NAME, with the keys that belong to it."""
    share: float = Field(default=0.33, gt=0, lt=1)
    """Share of hybrid's proposals that come from its language model; the others come from search."""
    recording: Name | None = None
    """What replay proposes again: a workspace, its .slm folder or a journal.jsonl; a relative path counts from the
    workspace."""


class MetricTable(_Table):
    """What the campaign lowers instead of bits per byte. The search then looks at bits per answer of the task, claims
    and the final test at the task's own metric; bits per byte stay a guard. Without this table it is bits per byte."""

    task: Name
    """Task whose answers count; `slm-ar prepare` lists the tasks of the data."""
    guard_percent: float = Field(default=2.0, ge=0, le=100)
    """An edit that costs more than this percent of bits per byte is not kept, however good its answers."""


class PrivacyTable(_Table):
    """What may leave this machine. `slm-ar report` tells what did."""

    offline: bool = False
    """Refuse every connection to another machine: nothing is fetched, no remote model is asked. SLM_AR_OFFLINE=1 in
    the environment does the same."""


class FinishTable(_Table):
    """What happens with the proven code at the end."""

    train_factor: Positive = 4.0
    """The final training lasts this many times the budget of one experiment."""


class Recipe(_Table):
    """A validated recipe. Two recipes with equal `digest` ask for the same campaign."""

    name: Name
    """Short name, shown in reports."""
    description: str
    """One sentence for people."""
    data: DataTable
    tokenizer: TokenizerTable = TokenizerTable()
    knobs: Mapping[str, KnobValue] = Field(default_factory=dict)
    """Starting values that `slm-ar new` writes into the knobs of train.py. Without TARGET_PARAMS_M, and with a budget
    in seconds on a CPU, the model gets the size that this machine was measured to fill. Later, edit train.py itself."""
    budget: BudgetTable
    model: ModelTable = ModelTable()
    machine: MachineTable = MachineTable()
    evaluation: EvaluationTable = EvaluationTable()
    gate: GateTable = GateTable()
    proposer: ProposerTable = ProposerTable()
    finish: FinishTable = FinishTable()
    privacy: PrivacyTable = PrivacyTable()
    metric: MetricTable | None = None
    baselines: Mapping[str, Name] = Field(default_factory=dict)
    """Name = file with the answers of another system (document, answer), scored beside the model;
    "TASK.NAME" (in quotes, because of the dot) where the data have several tasks."""

    @classmethod
    def conflicts(cls, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """A mixture needs a metric that it changes, and text to fit its weights on."""
        evaluation, data = table.get("evaluation"), table.get("data")
        if not isinstance(evaluation, Mapping) or evaluation.get("mixture", "none") == "none":
            return
        if table.get("metric") is not None:
            yield "evaluation", 'mixture = "ngram" changes no answers of a task: leave it out, or leave out [metric]'
        for key in ("mix_kb", "mix_percent"):
            if isinstance(data, Mapping) and data.get(key) == 0:
                yield (
                    "evaluation",
                    f'mixture = "ngram" fits its weights on the mix part of the data: raise [data] {key}',
                )

    def content(self, tables: set[str]) -> dict[str, Any]:
        """Some of its tables, as JSON. What later versions added is left out where it changes nothing, so that what
        was hashed before goes on to be the same."""
        content = self.model_dump(mode="json", include=tables)
        if self.evaluation.mixture == "none" and "evaluation" in content:
            content["evaluation"].pop("mixture")
        if self.model.form == "portable":
            content.pop("model", None)
        return content

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: independent of key order, comments, spelled-out defaults and [privacy], which
        changes no result."""
        content = self.content(set(type(self).model_fields) - {"privacy"})
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()


# --- loading --------------------------------------------------------------------------------


def load_recipe(path: Path) -> Recipe:
    """Read and validate the recipe at `path`. Raises RecipeError listing every problem of the file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no recipe", "`slm-ar recipes` lists the shipped ones.") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        hint = "Save the file as UTF-8."
        raise RecipeError(f"{path}, line {line}: byte {error.start} is not UTF-8", hint) from error
    return parse_recipe(text, str(path))


def load_shipped(name: str) -> Recipe:
    """Validate the shipped recipe `name`. Raises UsageError when there is none."""
    return parse_recipe(recipe_text(name), f"recipe '{name}'")


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    files = resources.files("slm_ar.recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """The TOML text of a shipped recipe, comments included. Raises UsageError when there is none."""
    if name not in (known := shipped_recipes()):
        raise UsageError(f"there is no shipped recipe '{name}'", did_you_mean(name, known))
    return resources.files("slm_ar.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def recipe_reference() -> str:
    """Every key of a recipe as Markdown tables; docs/recipes.md holds this text."""
    return recipe_words.reference(Recipe.model_json_schema())


def parse_recipe(text: str, origin: str) -> Recipe:
    """Validate a TOML text; `origin` names it in errors. Raises RecipeError listing every problem."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number or a nesting too long for Python is no TOMLDecodeError
        raise _syntax_error(str(error), text, origin) from error
    try:
        return Recipe.model_validate(table)
    except ValidationError as error:
        problems = recipe_words.problems(error, Recipe.model_json_schema(), table, text)
    count = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = "\n".join(f"  {problem}" for problem in problems)
    raise RecipeError(f"{origin}: {count}\n{lines}", "Correct these and try again; docs/recipes.md explains every key.")


def _syntax_error(message: str, text: str, origin: str) -> RecipeError:
    reason, _, place = message.partition(" (at ")
    position = re.match(r"line (\d+), column (\d+)", place)
    end = (text.count("\n") + 1, len(text) - text.rfind("\n"))
    line, column = position.groups() if position else end
    hint = 'Texts need quotes: name = "demo". Lists need brackets: looks = [3, 5].'
    return RecipeError(f"{origin}, line {line}, column {column}: not valid TOML: {reason}", hint)
