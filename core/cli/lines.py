"""What the commands tell people in plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..contracts import BITS_WITH_NGRAM

if TYPE_CHECKING:
    from ..agent.state import CampaignState
    from ..prepare.pipeline import PreparedData


ANSWERED_ALONE = "  the tasks were answered by the model alone, without the n-gram"
EXPORTED_ALONE = (
    "  the folder holds the neural model alone; slm-ar mixes the n-gram in inside this workspace, where its data are"
)


def data_lines(data: PreparedData) -> list[str]:
    """What prepare tells: sizes per split, vocabulary, duplicates, floors, warnings."""
    from ..report.words import visible

    manifest = data.manifest
    lines = [f"prepared {data.digest} (adapter {manifest.adapter}, split by {manifest.split_rule})"]
    for name, size in manifest.splits.items():
        lines.append(
            f"  {name:<7} {size.byte_count:>13,} bytes  {size.documents:>9,} documents  {size.groups:>8,} groups  "
            f"{size.record_count:>9,} lines"
        )
    lines.append(
        f"  vocabulary {manifest.vocab_size:,} ({manifest.token_split}), {manifest.train_tokens:,} tokens in train, "
        f"{manifest.bytes_per_token:.2f} bytes per token"
    )
    if manifest.duplicates_dropped or manifest.duplicates_kept:
        lines.append(f"  duplicates: {manifest.duplicates_dropped:,} dropped, {manifest.duplicates_kept:,} kept")
    if manifest.near_dropped or manifest.near_kept:
        words = f"{manifest.near_dropped:,} dropped, {manifest.near_kept:,} kept"
        lines.append(f"  documents that differ from an earlier one in a few words: {words}")
    for name, overlap in manifest.overlap.items():
        lines.append(
            f"  {name} and train: {overlap.exact:,} documents the same, {overlap.near:,} nearly, "
            f"{overlap.ngram_percent:.1f} % of the 13-grams"
        )
    shared = [f"{overlap.elsewhere:,} of {name}" for name, overlap in manifest.overlap.items() if overlap.elsewhere]
    if shared:
        lines.append(f"  documents that stand in another held-out part too: {', '.join(shared)}")
    for extra in manifest.extra:
        lines.append(f"  extra text ({extra.adapter}): {extra.documents:,} documents, {extra.byte_count:,} bytes")
    for task in manifest.tasks:
        lines.append(f"  task {task.name}: {task.kind}, {task.metric}")
    if manifest.groups_beyond_cap:
        lines.append(f"  {manifest.groups_beyond_cap:,} groups are beyond max_train_mb or sample_groups")
    floors = ", ".join(f"{name} {value:.4f}" for name, value in manifest.floors.items())
    lines.append(f"  n-grams and compressors on dev, bits per byte: {floors}")
    lines += [f"  note: {visible(notice)}" for notice in manifest.notices]
    lines += [f"  warning: {visible(warning)}" for warning in manifest.warnings]
    return lines


def score_lines(facts: dict[str, Any]) -> list[str]:
    """What `train` tells."""
    score = facts["dev_bits_per_byte"]
    lines = [
        f"dev: {score:.4f} bits per byte, {facts['dev_bits_per_record']:.1f} bits per line",
        f"  {facts['parameters']:,} parameters (form asked for: {facts['form']}), {facts['steps']:,} steps, "
        f"{facts['tokens']:,} tokens in {facts['train_seconds']:.1f} s",
    ]
    mixed, who = facts.get("dev_bits_per_byte_with_ngram"), "the model"
    if mixed is not None:
        lines.append(f"  {mixed:.4f} bits per byte with n-gram, which is what `slm-ar run` would judge")
        score, who = mixed, "the mixture"
    for name, value in sorted(facts["floors"].items(), key=lambda item: item[1]):
        lines.append(f"  {name:<14} {value:.4f}  ({f'{who} is better' if score < value else f'better than {who}'})")
    if facts["disturbance"]:
        lines.append(f"  disturbed: {facts['disturbance']}; run it again on a quiet machine")
    return lines


def sample_lines(state: CampaignState) -> list[str]:
    """What the code wrote before and after the search, in this order, safe for a terminal."""
    from ..report.words import visible

    lines = []
    for name, whose in (("before", "the code at the start"), ("after", "the final code")):
        if name in state.samples:
            together = ", with the n-gram" if state.unit == BITS_WITH_NGRAM else ""
            lines += [f"--- a sample {name}: {whose}{together} ---", visible(state.samples[name].rstrip(), 2000), ""]
    return lines
