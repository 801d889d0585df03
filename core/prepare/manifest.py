"""What is known about one prepared corpus, and where it lies.

Written last by the pipeline, read by everything after it. Every number is counted, none is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..contracts import Task
from .answers import ANSWERS_FILE
from .shards import BYTES_FILE, OFFSETS_FILE, TOKENS_FILE

FORMAT = 4
"""Bumped when the same documents would become other tokens, other splits or another manifest."""
MANIFEST_FILE, TOKENIZER_FILE = "manifest.json", "tokenizer.json"
SHARD_FILES = (TOKENS_FILE, OFFSETS_FILE, BYTES_FILE, TOKENIZER_FILE)
"""What names data and serialisation."""
PUBLIC_FILES = (*SHARD_FILES, ANSWERS_FILE)
"""All files of the public part but the manifest; ANSWERS_FILE holds answers of train alone."""


Progress = Callable[[str], None]
"""Takes a line on what is being done."""


@dataclass(frozen=True, slots=True)
class SplitSize:
    """What one split holds."""

    groups: int = 0
    documents: int = 0
    byte_count: int = 0
    record_count: int = 0


@dataclass(frozen=True, slots=True)
class Overlap:
    """What train and one held-out split have in common."""

    documents: int
    """Documents of the held-out split."""
    exact: int
    """Those whose text stands in train as it is."""
    near: int
    """Those that a document of train is equal to but for a few words (Jaccard of word 5-grams at least 0.8)."""
    ngram_percent: float
    """Percent of the split's word 13-grams that occur in train."""
    elsewhere: int = 0
    """Documents whose text stands in another one of dev, hidden and test as it is."""

    @property
    def exact_percent(self) -> float:
        return 100 * self.exact / max(1, self.documents)

    @property
    def near_percent(self) -> float:
        return 100 * self.near / max(1, self.documents)

    @property
    def changed_percent(self) -> float:
        """Of those that are nearly equal, without those that are equal."""
        return 100 * (self.near - self.exact) / max(1, self.documents)

    @property
    def elsewhere_percent(self) -> float:
        return 100 * self.elsewhere / max(1, self.documents)


@dataclass(frozen=True, slots=True)
class ExtraSize:
    """What became of one [[data.extra]] table."""

    adapter: str
    weight: float
    documents: int
    """Different documents that went to train, each counted once."""
    byte_count: int
    """Their bytes, each counted once; train holds them `weight` times."""
    repeated: int
    """Documents dropped because their text was there before."""
    held_out: int
    """Documents dropped because they stand, or nearly stand, in a held-out split, hold most of one, or belong to its
    groups or period."""
    sampled_out: int
    """Documents left out by a weight below 1."""
    is_cut: bool
    """Whether the rest of the source found no room below max_train_mb."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts of one prepared corpus."""

    key: str
    format: int
    adapter: str
    adapter_version: int
    split_rule: str
    splits: dict[str, SplitSize]
    """Without the documents of [[data.extra]], which stand in `extra`."""
    vocab_size: int
    vocab_asked: int
    token_split: str
    token_dtype: str
    train_tokens: int
    bytes_per_token: float
    duplicates_dropped: int
    duplicates_kept: int
    groups_beyond_cap: int
    notices: tuple[str, ...]
    floors: dict[str, float]
    shard_digest: str
    answers_digest: str
    held_digest: str
    warnings: tuple[str, ...] = field(default=())
    duplicate_policy: str = "exact"
    near_dropped: int = 0
    """Documents that differed from an earlier one in a few words, dropped; not part of duplicates_dropped."""
    near_kept: int = 0
    overlap: dict[str, Overlap] = field(default_factory=dict)
    """Held-out split -> what it has in common with train."""
    vocab_measured: dict[str, float] = field(default_factory=dict)
    """Vocabulary size -> bytes per token on train text, when the recipe left the size to a measurement."""
    extra: tuple[ExtraSize, ...] = ()
    tasks: tuple[Task, ...] = ()
    """The tasks of this source, with the choices filled in from train where the adapter left them open."""
    settled: dict[str, Any] = field(default_factory=dict)
    """What the adapter took from this source and later ones keep to."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises ValueError, TypeError, KeyError or AttributeError when the text is not a manifest of this format."""
        facts = json.loads(text)
        facts["splits"] = {name: SplitSize(**size) for name, size in facts["splits"].items()}
        facts["overlap"] = {name: Overlap(**found) for name, found in facts["overlap"].items()}
        facts["extra"] = tuple(ExtraSize(**size) for size in facts["extra"])
        facts["tasks"] = tuple(_task(item) for item in facts["tasks"])
        facts["notices"] = tuple(facts["notices"])
        facts["warnings"] = tuple(facts["warnings"])
        return Manifest(**facts)


def _task(item: Mapping[str, Any]) -> Task:
    return Task(**{**item, "choices": tuple(item["choices"]), "bins": tuple(item["bins"])})


@dataclass(frozen=True, slots=True)
class PreparedData:
    """Where the public and the private part lie."""

    folder: Path
    held_folder: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Names data and serialisation: equal digests, comparable scores."""
        return hashlib.sha256(f"{self.manifest.shard_digest} {self.manifest.held_digest}".encode()).hexdigest()[:16]
