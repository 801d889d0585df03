"""Held-out text in windows, and the logits of their targets from a model; shared by scorer, probes and mixing.

Promises: every token of every document is a target exactly once. Long documents are cut at byte offsets that do not
depend on the tokenizer; windows overlap by half, so that context length is not rewarded by resets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..contracts import Span
from ..prepare.heldout import HeldDocument
from ..prepare.tokenizer import BOS, PAD, cut_at_spans, encode_texts
from .checkpoint import InvalidCheckpointError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from .logits_client import LogitsClient

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
    import torch  # here, not above: whoever only cuts text does without it

    # The largest becomes 0 before anything is added up: beside a common 1e30 the logarithm of the sum would be lost.
    lowered = logits - logits.amax(1, keepdim=True)
    picked = lowered.gather(1, torch.from_numpy(targets)[:, None])[:, 0]
    losses: Floats = (torch.logsumexp(lowered, dim=1) - picked).double().numpy()
    if not math.isfinite(float(losses.sum())):
        raise InvalidCheckpointError("the model's logits lie so far apart that a token costs infinitely much")
    return losses
