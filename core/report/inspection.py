"""The page of `slm-ar inspect`: what a person's data are worth, in plain words, before a night is spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..train.sizing import parameters_for
from .words import visible

if TYPE_CHECKING:
    from ..prepare.inspection import TextFacts
    from ..prepare.manifest import Manifest

MANY_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """What a few seconds of training with the shipped train.py measured on this machine."""

    tokens_per_second: float
    parameters: int
    context: int
    budget_seconds: float

    def tokens(self) -> float:
        """Tokens that one experiment reads."""
        return self.tokens_per_second * self.budget_seconds

    def recommended_parameters_m(self) -> float:
        """Millions of parameters that fit the budget, at the same speed per operation."""
        return parameters_for(6 * self.parameters * self.tokens()) / 1e6


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that the page shows. `manifest` is None when the data cannot be split; `refusal` says why."""

    source: str
    adapter: str
    why_adapter: str
    facts: TextFacts
    manifest: Manifest | None
    refusal: str = ""
    pace: Pace | None = None
    licences: Sequence[str] = ()
    notices: Sequence[str] = ()
    """What the adapter tolerated, where there is no manifest that holds it."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Task -> baseline -> headline metric on dev."""


def inspection_lines(found: Inspection) -> list[str]:
    """The page, a line per fact, in the order in which a person asks."""
    sections = (
        ("What is there", _text_lines(found)),
        ("What could go wrong", _risk_lines(found)),
        ("How it was split", _split_lines(found)),
        ("What has to be beaten on dev", _floor_lines(found)),
        ("What this machine can learn from it", _pace_lines(found)),
    )
    lines = [f"{found.source}", f"read by the adapter '{found.adapter}'{found.why_adapter}"]
    for title, body in sections:
        if body:
            lines += ["", title, *(f"  {line}" for line in body)]
    return [visible(line) for line in lines]  # names of fields, files and answers come from whoever wrote the data


def _text_lines(found: Inspection) -> list[str]:
    facts = found.facts
    lines = [
        f"{facts.documents:,} documents in {facts.groups:,} groups, {facts.byte_count / 1e6:,.1f} MB, "
        f"{facts.lines:,} lines; a document has {facts.median_bytes:,} bytes (the longest {facts.longest_bytes:,})",
        f"{facts.byte_entropy:.2f} bits per byte by letter frequencies alone",
    ]
    if facts.languages:
        lines.append(f"languages: {', '.join(facts.languages)}")
    for task, count in facts.answers.items():
        lines.append(f"task '{task}': {count:,} answers")
    return [*lines, *(found.manifest.notices if found.manifest is not None else found.notices)]


def _risk_lines(found: Inspection) -> list[str]:
    facts, lines = found.facts, []
    if facts.exact_duplicates:
        share = facts.exact_duplicates / facts.documents
        lines.append(f"{facts.exact_duplicates:,} documents ({share:.1%}) repeat an earlier one word for word")
    if found.manifest is not None and (found.manifest.near_dropped or found.manifest.near_kept):
        count = found.manifest.near_dropped + found.manifest.near_kept
        lines.append(f"{count:,} differ from an earlier one in a few words only")
    for name in facts.cannot_recur:
        lines.append(f"{name}: such values cannot be learned, only memorised, and swamp the score with noise")
    if facts.mojibake_documents:
        lines.append(f"{facts.mojibake_documents:,} documents hold garbled characters (a wrong encoding, once)")
    for kind, count in facts.personal.items():
        lines.append(f"{count:,} look like {kind}: a small model can repeat what it has read")
    if found.licences:
        lines.append(f"terms of use may stand in {', '.join(found.licences)}")
    if found.manifest is not None:
        lines += list(found.manifest.warnings)
    return lines or ["nothing that was looked for"]


def _split_lines(found: Inspection) -> list[str]:
    manifest = found.manifest
    if manifest is None:
        return [f"not at all: {found.refusal}"]
    lines = [f"by {manifest.split_rule}, whole groups:"]
    for name, size in manifest.splits.items():
        overlap = manifest.overlap.get(name)
        common = f", {overlap.ngram_percent:.0f} % of its 13-grams stand in train" if overlap is not None else ""
        lines.append(f"{name:<7} {size.byte_count / 1e6:>9,.2f} MB  {size.groups:>8,} groups{common}")
    lines.append(
        f"{manifest.train_tokens:,} tokens in train: vocabulary {manifest.vocab_size:,} ({manifest.token_split}), "
        f"{manifest.bytes_per_token:.2f} bytes per token"
    )
    return lines


def _floor_lines(found: Inspection) -> list[str]:
    if found.manifest is None:
        return []
    lines = [f"{name:<14} {bits:.4f} bits per byte" for name, bits in found.manifest.floors.items()]
    for task, figures in found.baselines.items():
        metric = next(item.metric for item in found.manifest.tasks if item.name == task)
        lines.append(f"task '{task}', {metric}:")
        lines += [f"  {name:<26} {value:.4f}" for name, value in figures.items()]
    for task, share in found.ceilings.items():
        lines.append(f"task '{task}': {share:.0%} of what is new in the true answers occurs in train at all")
    return lines


def _pace_lines(found: Inspection) -> list[str]:
    pace, manifest = found.pace, found.manifest
    if pace is None or manifest is None:
        return []
    epochs = pace.tokens() / max(1, manifest.train_tokens)
    per_parameter = pace.tokens() / pace.parameters
    lines = [
        f"{pace.tokens_per_second:,.0f} tokens per second with {pace.parameters / 1e6:.2f} M parameters and a context "
        f"of {pace.context}: {pace.tokens() / 1e6:.2f} M tokens in a budget of {pace.budget_seconds:.0f} s",
        f"that is {epochs:.2f} passes over train and {per_parameter:.1f} tokens per parameter",
        f"a good start: TARGET_PARAMS_M = {pace.recommended_parameters_m():.2g}, CONTEXT = {_context(found)}",
    ]
    if epochs > MANY_EPOCHS:
        lines.append("train is read more than three times: overfitting will decide; more data help more than more time")
    elif epochs < 0.5:
        lines.append("most of train is never read within the budget: a longer budget, or more speed, helps most")
    return lines


def _context(found: Inspection) -> int:
    """The power of two that holds most documents, from 64 to 512: longer rows cost steps in a short budget."""
    assert found.manifest is not None
    tokens = found.facts.median_bytes / max(0.1, found.manifest.bytes_per_token)
    return next((size for size in (64, 128, 256) if tokens <= size), 512)
