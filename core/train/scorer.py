"""Scores a checkpoint on a held-out split: nats from logits that the harness normalises, divided by raw bytes.

Called by the executor, by looks and by `slm-ar eval`. The candidate's model runs in another process (logits_client.py),
which learns neither targets nor purpose. Promises: every token of every document is scored exactly once (windows.py),
bytes are counted on the raw text, and the result does not depend on the batch size beyond float rounding.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..contracts import BITS_WITH_NGRAM, GroupScore, ObjectiveScore, SplitScore
from ..prepare.heldout import HeldDocument
from .checkpoint import InvalidCheckpointError
from .windows import Floats, Windows, encode_documents, make_windows, token_nats, window_logits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .integrity import Probes
    from .logits_client import LogitsClient
    from .mixing import Mixture


def score_split(
    client: LogitsClient,
    tokenizer: Tokenizer,
    split: str,
    documents: Sequence[HeldDocument],
    context: int,
    batch_rows: int | None = None,
    probes: Probes | None = None,
    windows: Windows | None = None,
    mixture: Mixture | None = None,
) -> SplitScore:
    """Score `documents`; `probes` note what they will ask again.

    With `windows`, which make_windows gave for them and for `context`, the probes are drawn already. With `mixture`,
    whose contexts are those of the same documents, the score has an objective: what model and n-gram say together.

    Raises InvalidCheckpointError.
    """
    started = time.monotonic()
    if windows is None:
        windows = make_windows(encode_documents(tokenizer, documents), context)
        if probes is not None:
            probes.draw(windows)
    nats, mixed = window_nats(client, windows, batch_rows, probes, mixture)
    score = _summed(split, documents, windows, nats, time.monotonic() - started)
    if mixture is None:
        return score
    both = _summed(split, documents, windows, mixed, score.seconds)
    return replace(score, objective=ObjectiveScore(BITS_WITH_NGRAM, both.bits_per_byte, both.groups))


def window_nats(
    client: LogitsClient,
    windows: Windows,
    batch_rows: int | None = None,
    probes: Probes | None = None,
    mixture: Mixture | None = None,
) -> tuple[Floats, Floats]:
    """What each target of the windows costs the model, and what it costs the mixture, where there is one.

    Both float64 [targets], in their order. Raises InvalidCheckpointError.
    """
    alone = np.empty(len(windows.targets))
    mixed = alone if mixture is None else np.empty_like(alone)
    for first_row, first, logits in window_logits(client, windows, batch_rows):
        here = slice(first, first + len(logits))
        alone[here] = token_nats(logits, windows.targets[here])
        if mixture is not None:
            mixed[here] = token_nats(mixture.logits(logits, first), windows.targets[here])
        row, at = first_row, first
        while probes is not None and at < here.stop:
            size = int(windows.ends[row] - windows.starts[row])
            probes.note(row, alone[at : at + size])
            row, at = row + 1, at + size
    return alone, mixed


def _summed(
    split: str,
    documents: Sequence[HeldDocument],
    windows: Windows,
    nats: Floats,
    seconds: float,
) -> SplitScore:
    """The score of `documents` whose tokens, the targets of `windows`, cost `nats`."""
    owners = np.repeat(windows.owners, windows.ends - windows.starts)
    per_document = np.bincount(owners, weights=nats, minlength=len(documents)).tolist()
    groups: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    slices: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    records = 0
    for held, loss in zip(documents, per_document, strict=True):
        size = len(held.document.text.encode("utf-8"))
        records += sum(1 for line in held.document.text.split("\n") if line.strip())
        cells = [groups[held.document.group], *(slices[key][value] for key, value in held.slices.items())]
        for cell in cells:
            cell[0] += loss
            cell[1] += size
    total_nats = math.fsum(per_document)
    total_bytes = sum(cell[1] for cell in groups.values())
    bits = total_nats / math.log(2) / total_bytes
    if not math.isfinite(bits):
        raise InvalidCheckpointError("the score is not finite")
    return SplitScore(
        split=split,
        bits_per_byte=bits,
        groups=tuple(GroupScore(name, cell[0], int(cell[1])) for name, cell in sorted(groups.items())),
        token_count=len(windows.targets),
        record_count=records,
        seconds=seconds,
        slices={
            key: {value: cell[0] / math.log(2) / cell[1] for value, cell in sorted(values.items())}
            for key, values in slices.items()
        },
    )
