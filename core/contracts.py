"""The data and Protocols that the rooms of the house exchange. Standard library only, nothing mutable.

Adapters import this module (with `errors` and `sources`) and nothing else of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

# --- documents ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """An answer inside a document. UTF-8 byte offsets [start, end); the text before `start` is its prompt."""

    start: int
    end: int
    task: str


@dataclass(frozen=True, slots=True)
class Document:
    """One unit of text. `group` is the leakage key: a group never straddles two splits."""

    id: str
    text: str
    group: str
    time: str | None = None
    """Sortable (ISO 8601) time of the group, needed when the adapter splits by time."""
    spans: tuple[Span, ...] = ()
    """Answers, ordered, not overlapping."""


class SplitRule(StrEnum):
    """How groups are dealt to train, mix, dev, hidden and test."""

    GROUP = "group"  # by hash of the group
    TIME = "time"  # train first, dev and hidden alternating after it, test last
    ORDER = "order"  # as TIME, with the order of arrival as the time


class DuplicatePolicy(StrEnum):
    """What prepare does with documents whose text occurred before."""

    EXACT = "exact"  # drop them, count them
    NEAR = "near"  # drop those too that differ from an earlier one in a few words only
    REPORT = "report"  # keep them, count them


@dataclass(frozen=True, slots=True)
class Task:
    """A question that answer spans put to a model.

    Kind `choice`: the most likely of `choices` is the answer. Kind `value`: a number is decoded. Kind `generate`: text
    is decoded from the prompt, greedily, and compared with the span.
    """

    name: str
    kind: str  # choice | value | generate
    metric: str
    """The headline: accuracy, macro_f1, f1, pr_auc, log_loss (choice); mae, clipped_mae, wape, and with `bins` accuracy
    and macro_f1 (value); exact_match, or a name that the adapter's `rate` returns (generate)."""
    direction: str  # "min" or "max"
    version: int = 1
    min_effect: float = 0.0
    choices: tuple[str, ...] = ()
    """Kind choice: at most 64 candidate answers; empty: prepare takes the most frequent answers of train."""
    positive: str = ""
    """Kind choice: the rare answer that precision and recall are about; f1 and pr_auc need it."""
    bins: tuple[float, ...] = ()
    """Kind value: lower edges of the buckets, whose accuracy and macro-F1 stand beside the error."""
    clip: float | None = None
    """Kind value: an error larger than this counts as this in clipped_mae."""

    def __post_init__(self) -> None:
        """Raises ValueError for what could never be scored, so that a typing error shows where it stands."""
        if problem := _task_problem(self):
            raise ValueError(f"Task '{self.name}': {problem}")


_KINDS = ("choice", "value", "generate")
_METRICS: Mapping[str, tuple[tuple[str, ...], str]] = MappingProxyType(
    {
        "accuracy": (("choice", "value"), "max"),
        "macro_f1": (("choice", "value"), "max"),
        "f1": (("choice",), "max"),
        "pr_auc": (("choice",), "max"),
        "log_loss": (("choice",), "min"),
        "mae": (("value",), "min"),
        "clipped_mae": (("value",), "min"),
        "wape": (("value",), "min"),
        "exact_match": (("generate",), "max"),
        "bits_per_answer": (_KINDS, "min"),
    }
)
"""Our own metrics: the kinds of task that have them, and the direction in which they get better."""


def _task_problem(task: Task) -> str:
    """What is wrong with a task, in words; empty when nothing is."""
    if task.kind not in _KINDS:
        return f"kind is one of {', '.join(_KINDS)}, not {task.kind!r}"
    if task.direction not in ("min", "max"):
        return f"direction is 'min' or 'max', not {task.direction!r}"
    if task.metric not in _METRICS:
        known = ", ".join(name for name, (kinds, _) in _METRICS.items() if task.kind in kinds)
        return "" if task.kind == "generate" else f"kind {task.kind} has no metric {task.metric!r}, it has {known}"
    kinds, direction = _METRICS[task.metric]
    if task.kind not in kinds:
        return f"metric {task.metric} belongs to kind {' or '.join(kinds)}, not to {task.kind}"
    if task.direction != direction:
        return f"metric {task.metric} gets better towards {direction!r}, not {task.direction!r}"
    if task.metric in ("f1", "pr_auc") and not task.positive:
        return f"metric {task.metric} is about the answer that `positive` names, and it is empty"
    if task.metric == "clipped_mae" and task.clip is None:
        return "metric clipped_mae needs `clip`, the largest error that counts"
    if task.kind == "value" and task.metric in ("accuracy", "macro_f1") and not task.bins:
        return f"metric {task.metric} of kind value is about the buckets that `bins` names, and there are none"
    return ""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What a recipe's [data] table tells an adapter."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field name -> the user's column name, from [data.columns]."""
    since: str | None = None
    until: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Adapter-specific keys from [data.options]; an adapter refuses the ones it does not know."""
    settled: Mapping[str, Any] = field(default_factory=dict)
    """What the adapter's `settle` said of the source that the model was trained on; empty while that one is read."""


@runtime_checkable
class Adapter(Protocol):
    """Turns a source into documents. Third parties register one under the entry point group `slm_ar.adapters`.

    An adapter class is constructed without arguments.
    """

    name: str
    version: int
    """Bumped whenever the output for an unchanged source changes."""
    split: SplitRule
    duplicates: DuplicatePolicy
    tasks: tuple[Task, ...]
    slice_keys: tuple[str, ...]
    """Keys that `slices` returns, so that scores can be broken down."""
    options: Mapping[str, str]
    """Keys of [data.options] that the adapter takes, each with a sentence on what it does and its default."""

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """Yield documents lazily, in a stable order, without network and without writing.

        Raises DataError naming the file and the reason.
        """
        ...

    def slices(self, document: Document) -> Mapping[str, str]:
        """The document's value for each of `slice_keys`."""
        ...

    def describe(self) -> str:
        """Plain words for program.md: what a document looks like and what matters in it."""
        ...

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of synthetic documents, a function of (seed, size)."""
        ...


# --- what an adapter may offer beside that ----------------------------------------------------


@runtime_checkable
class TaskFinder(Protocol):
    """An adapter whose tasks depend on the source, such as a table whose label is any column."""

    def find_tasks(self, source: Path, options: SourceOptions) -> tuple[Task, ...]:
        """The tasks of this source, instead of `tasks`. Called once by prepare, which records them."""
        ...


@runtime_checkable
class Settler(Protocol):
    """An adapter that takes from its source what the recipe leaves open, such as the order of a table's columns."""

    def settle(self, source: Path, options: SourceOptions) -> Mapping[str, Any]:
        """What texts of later sources must have in common with this one's, as JSON can hold it.

        Called once by prepare, which records it; predict and eval give it back as `options.settled`.
        """
        ...


@runtime_checkable
class Questioner(Protocol):
    """An adapter that can serialise rows whose answers are not known yet: `slm-ar predict` needs it."""

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per question, lazily, in the order of the rows.

        The text is the prompt, serialised as in `documents`; its one span is empty and stands at the text's end.
        """
        ...


@runtime_checkable
class Rater(Protocol):
    """An adapter that knows how to compare a generated text, or the number of a value task, with the true one."""

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        """Named figures of one answer, each a mean over answers when reported. Same names for every answer of a task.

        NaN keeps an answer out of a figure's mean. Figures called `NAME/PART` are parts of NAME, which is reported as
        the mean of its parts, each counting the same. An empty mapping for tasks that it does not rate.
        """
        ...


# --- experiments ----------------------------------------------------------------------------


class Status(StrEnum):
    """The one status enum, used for runs and for experiments."""

    KEPT = "kept"
    REVERTED = "reverted"
    INVALID = "invalid"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    OOM = "oom"
    QUOTA = "quota"
    PRUNED = "pruned"
    DISTURBED = "disturbed"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Nats and raw bytes of one group of a held-out split."""

    group: str
    nats: float
    byte_count: int


BITS_PER_BYTE = "bits per byte"
BITS_WITH_NGRAM = "bits per byte with n-gram"
"""What is judged where a recipe mixes models with an n-gram (bpb+ngram): never compared with plain bits per byte."""


def text_unit(mixture: str) -> str:
    """What scores on text count, in words, where `mixture` is the recipe's, in [evaluation]."""
    return BITS_PER_BYTE if mixture == "none" else BITS_WITH_NGRAM


@dataclass(frozen=True, slots=True)
class ObjectiveScore:
    """What a campaign lowers instead of a model's own bits per byte, with its groups.

    With a [metric] the mean cost of a task's answers: a group's `nats` are ln 2 times its summed cost and its
    `byte_count` the number of its answers, so that every rule of the gate about bits per byte holds for it. With a
    mixture bits per byte again, of the model and the n-gram together.
    """

    unit: str
    """In words: bits per answer, share of wrong answers, mean error, BITS_WITH_NGRAM."""
    value: float
    groups: tuple[GroupScore, ...]


@dataclass(frozen=True, slots=True)
class SplitScore:
    """The score of one checkpoint on one split, computed by the harness from logits."""

    split: str
    bits_per_byte: float
    groups: tuple[GroupScore, ...]
    token_count: int
    record_count: int
    """Lines of the scored text: bits per record = bits_per_byte * bytes / record_count."""
    seconds: float
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Slice key -> slice value -> bits per byte."""
    objective: ObjectiveScore | None = None
    """Present when the recipe has a [metric] or a mixture."""

    @property
    def judged(self) -> float:
        """What the campaign lowers: the objective, else bits per byte."""
        return self.objective.value if self.objective is not None else self.bits_per_byte

    @property
    def judged_groups(self) -> tuple[GroupScore, ...]:
        """The groups of `judged`."""
        return self.objective.groups if self.objective is not None else self.groups

    @property
    def byte_count(self) -> int:
        return sum(group.byte_count for group in self.groups)


@dataclass(frozen=True, slots=True)
class TaskAnswer:
    """What a model, or a baseline, answered at one span."""

    document: str
    """Id of the document."""
    span: int
    """Which span of the document, counted from 0."""
    group: str
    gold: str
    answer: str
    probability: float | None = None
    """Of the positive answer (choice with one) or of the answer given; None when there is none."""
    loss: float = 0.0
    """Nats of the gold answer and of its end; 0 for a system that gives no probabilities to texts."""
    rated: Mapping[str, float] = field(default_factory=dict)
    """Figures of this answer, each a mean when reported. Kind generate: what the adapter's `rate` said; kind choice:
    log_loss, nats of the gold answer among the candidates."""


@dataclass(frozen=True, slots=True)
class TaskScore:
    """How a model, or a baseline, did in one task on one split."""

    task: str
    split: str
    metrics: Mapping[str, float]
    """The headline metric and the others of its kind."""
    answers: tuple[TaskAnswer, ...]
    slices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Slice key -> slice value -> headline metric."""


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """What the harness measured of one training run. `status` is None when a checkpoint came out in time."""

    status: Status | None
    reason: str
    train_seconds: float
    startup_seconds: float
    wall_seconds: float
    peak_memory_mb: float
    """Of the process; on an accelerator of the device, by the candidate's own word."""
    steps: int
    tokens: int
    parameters: int
    log_tail: str
    disturbance: str = ""
    """Why the run was not on a quiet machine; empty when it was."""
    machine_speed: float = 0.0
    """What the harness measured of the machine around the run (train/speed.py), MB per second; 0 where it did not."""


# --- proposals ------------------------------------------------------------------------------

KnobValue = int | float | str


@dataclass(frozen=True, slots=True)
class Knob:
    """A tunable of train.py, declared as ``NAME = value  # knob: float log 1e-4..1e-1``."""

    name: str
    kind: str  # int | float | choice
    value: KnobValue
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[KnobValue, ...] = ()
    line: int = 0
    """1-based line of the declaration in train.py."""


@dataclass(frozen=True, slots=True)
class PastExperiment:
    """One line of the digest that a proposer sees. Scores are rounded to half a sigma; hidden scores never appear."""

    id: int
    revision: str
    parent: str
    proposer: str
    hypothesis: str
    status: Status
    dev_score: float | None
    knobs: Mapping[str, KnobValue]
    template: str
    """Digest of train.py with its knob values masked: one optimiser study per template."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast one setting of the knobs of size trains on this machine, timed over a few steps on made-up data."""

    knobs: Mapping[str, KnobValue]
    """Of these knobs; the others stood as in the code that was timed."""
    status: Status | None
    """None: it works."""
    tokens_per_step: int
    parameters: int
    updates: float
    """Steps that the budget of one experiment has room for; 0 where it does not work."""
    passes: float
    """How often that reads the text of train."""


@dataclass(frozen=True, slots=True)
class ResearchContext:
    """All that a proposer is told. Pure data: no hidden score, no corpus text."""

    program: str
    train_py: str
    revision: str
    history: tuple[PastExperiment, ...]
    hardware: Mapping[str, Any]
    budget: Mapping[str, Any]
    seed: int
    """The campaign's search seed; with the history it determines the proposal."""
    sigma: float
    """Seed noise of one run on the searched metric."""
    direction: str = "min"
    rates: tuple[Rate, ...] = ()
    """What was timed before the search began, the code that it began with first; empty where nothing was."""
    form: str = "portable"
    """portable: keep the shape of Qwen3, which other programs load; best: any shape."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change to try: a whole new train.py text, however the proposer arrived at it."""

    hypothesis: str
    rationale: str
    train_py: str
    knobs: Mapping[str, KnobValue] = field(default_factory=dict)
    expected_effect: str = ""
    unusable: str = ""
    """Why there is nothing to try, where the proposer gave no edit that can be used: the experiment is skipped, and
    `train_py` is the current code."""


class Proposer(Protocol):
    """Proposes the next edit."""

    name: str

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next proposal, never one that `context.history` already holds; None when the space is exhausted."""
        ...


# --- judging --------------------------------------------------------------------------------


class Decision(StrEnum):
    """What the gate says at one look of a claim."""

    CERTIFY = "certify"
    REJECT = "reject"
    MORE_PAIRS = "more_pairs"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer. Differences are head minus rung: negative is better for metrics with direction "min"."""

    decision: Decision
    delta: float
    standard_error: float
    threshold: float
    """The value that delta had to reach: -max(eta, t * standard_error)."""
    eta: float
    pairs: int
    alpha: float
    group_count: int
    reasons: tuple[str, ...] = ()


# --- what a person sees meanwhile -------------------------------------------------------------


class Display(Protocol):
    """What the campaign says while it runs. Every method takes plain text; none of them raises."""

    def campaign(self, plan_lines: list[str]) -> None:
        """The campaign begins or goes on; the plan in lines."""
        ...

    def phase(self, name: str) -> None:
        """Another phase: measuring the noise, searching, proving."""
        ...

    def run_started(self, title: str, budget_seconds: float) -> None:
        """A training run begins."""
        ...

    def tick(self, elapsed: float, state_word: str) -> None:
        """The run is alive: seconds of its budget used, and what it does (starting, training, scoring)."""
        ...

    def run_finished(self, title: str, line: str) -> None:
        """The run ended; `line` says how."""
        ...

    def judged(self, line: str, good: bool) -> None:
        """A verdict on an experiment or a proof."""
        ...

    def note(self, line: str) -> None:
        """Anything else that a person should know."""
        ...

    def close(self) -> None:
        """Nothing follows. May be called twice."""
        ...
