"""Scores a checkpoint on a held-out split: nats from logits that the harness normalises, divided by raw bytes.

Called by the executor. The candidate's model runs in another process (logits_client.py), which learns neither targets
nor purpose. Promises: every token of every document is scored exactly once, bytes are counted on the raw text, and the
result does not depend on the batch size beyond float rounding. Long documents are cut at byte offsets that do not
depend on the tokenizer; windows overlap by half, so that context length is not rewarded by resets.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..contracts import BITS_WITH_NGRAM, GroupScore, ObjectiveScore, Span, SplitScore
from ..prepare.heldout import HeldDocument
from ..prepare.tokenizer import BOS, PAD, cut_at_spans, encode_texts
from .checkpoint import InvalidCheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .integrity import Probes
    from .logits_client import LogitsClient
    from .mixing import Mixture

SEGMENT_BYTES = 16_384
"""Documents longer than this are scored in segments of at most this many bytes."""


Floats = np.ndarray[Any, np.dtype[np.float64]]
Segments = Sequence[tuple[int, Sequence[int]]]
"""(number of the document, token ids), in order."""


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a split: `ids` int32 [windows, context] padded; of each row the logits [start, end) predict
    `targets` (flat, in row order); `owners` gives the document of each row."""

    ids: np.ndarray[Any, np.dtype[np.int32]]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    ends: np.ndarray[Any, np.dtype[np.int64]]
    targets: np.ndarray[Any, np.dtype[np.int64]]
    owners: np.ndarray[Any, np.dtype[np.int64]]


def cut_segments(document_text: str, spans: Sequence[Span]) -> list[tuple[str, tuple[Span, ...]]]:
    """The document in pieces of at most SEGMENT_BYTES, cut after a line end (else at a character), spans moved along.

    A function of the raw text alone. A span that a cut divides keeps both parts.
    """
    raw = document_text.encode("utf-8")
    segments: list[tuple[str, tuple[Span, ...]]] = []
    start = 0
    while start < len(raw):
        end = min(len(raw), start + SEGMENT_BYTES)
        if end < len(raw):
            line_end = raw.rfind(b"\n", start, end)
            if line_end > start:
                end = line_end + 1
            else:
                while raw[end] & 0xC0 == 0x80:
                    end -= 1
        inside = tuple(
            Span(max(span.start, start) - start, min(span.end, end) - start, span.task)
            for span in spans
            if span.start < end and span.end > start
        )
        segments.append((raw[start:end].decode("utf-8"), inside))
        start = end
    return segments


def make_windows(segments: Segments, context: int) -> Windows:
    """Windows of `context` ids with stride context / 2 over (document, token ids) segments, BOS first.

    The first window of a segment predicts all its tokens, each later one only those behind the window before.
    """
    rows: list[np.ndarray[Any, np.dtype[np.int32]]] = []
    starts, ends, owners = [], [], []
    targets: list[int] = []
    stride = max(1, context // 2)
    for owner, tokens in segments:
        inputs = [BOS, *tokens[:-1]]
        scored = 0
        begin = 0
        while scored < len(tokens):
            end = min(len(tokens), begin + context)
            row = np.full(context, PAD, np.int32)
            row[: end - begin] = inputs[begin:end]
            rows.append(row)
            starts.append(scored - begin)
            ends.append(end - begin)
            owners.append(owner)
            targets.extend(tokens[scored:end])
            scored = end
            begin += stride
    ids = np.stack(rows) if rows else np.zeros((0, context), np.int32)
    as_int = [np.array(values, np.int64) for values in (starts, ends, targets, owners)]
    return Windows(ids, as_int[0], as_int[1], as_int[2], as_int[3])


def encode_documents(tokenizer: Tokenizer, documents: Sequence[HeldDocument]) -> Segments:
    """(number of the document, token ids) for each of its segments.

    Raises InvalidCheckpointError when the tokenizer does not give a document back.
    """
    segments: list[tuple[int, Sequence[int]]] = []
    for owner, held in enumerate(documents):
        parts = cut_segments(held.document.text, held.document.spans)
        encoded = encode_texts(tokenizer, [cut_at_spans(text, spans) for text, spans in parts])
        if "".join(tokenizer.decode(ids, skip_special_tokens=False) for ids in encoded) != held.document.text:
            raise InvalidCheckpointError(f"the tokenizer does not give document '{held.document.id}' back")
        segments.extend((owner, ids) for ids in encoded)
    return segments


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


def window_logits(
    client: LogitsClient, windows: Windows, batch_rows: int | None = None
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(first row, first target, logits float32 [targets, vocab_size]) of one batch of windows after the other.

    Raises InvalidCheckpointError.
    """
    size = batch_rows or client.rows_per_request(windows.ids.shape[1])
    spans = list(zip(windows.starts.tolist(), windows.ends.tolist(), strict=True))
    firsts = range(0, len(spans), size)
    answers = client.stream((windows.ids[first : first + size], spans[first : first + size]) for first in firsts)
    target_at = 0
    for first, logits in zip(firsts, answers, strict=True):
        yield first, target_at, logits
        target_at += len(logits)
    if target_at != len(windows.targets):
        raise InvalidCheckpointError("not every token was scored")


def token_nats(logits: torch.Tensor, targets: np.ndarray[Any, Any]) -> Floats:
    """What each target costs under the softmax of its float32 logits [n, vocab_size]: float64 [n].

    Raises InvalidCheckpointError when a cost is not finite: the logits lie too far apart.
    """
    # The largest becomes 0 before anything is added up: beside a common 1e30 the logarithm of the sum would be lost.
    lowered = logits - logits.amax(1, keepdim=True)
    picked = lowered.gather(1, torch.from_numpy(targets)[:, None])[:, 0]
    losses: Floats = (torch.logsumexp(lowered, dim=1) - picked).double().numpy()
    if not math.isfinite(float(losses.sum())):
        raise InvalidCheckpointError("the model's logits lie so far apart that a token costs infinitely much")
    return losses


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
