"""Scores the snapshot of a run that stands still, on a small sample of dev that is the same for every run.

Called through agent/running.py. Promises: no number of it is ever kept or claimed on, which is why there are no probes
and a mixture has weights that were fitted for no checkpoint: it only decides whether a run goes on. A snapshot that
cannot be scored has no number, and its run goes on.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..prepare.heldout import HeldDocument, read_split
from .mixing import PRIOR, Mixture
from .windows import cut_segments, encode_documents, make_windows

if TYPE_CHECKING:
    from .executor import LocalExecutor

SAMPLE_BYTES = 32 << 10
LONGEST_SECONDS = 60.0
"""A model that is slower than this on so little text is not looked at, and goes on."""


def preview_score(executor: LocalExecutor, folder: Path, context: int) -> float | None:
    """Bits per byte of the snapshot in `folder` on the sample, from a fresh process; None when it has no score.

    With an n-gram where the recipe mixes one in, so that looks count what scores count.
    """
    from .checkpoint import InvalidCheckpointError
    from .executor import window_context
    from .scorer import window_nats

    window = window_context(folder, context)
    documents = _sample(executor.data.held_folder)
    segments = encode_documents(executor.tokenizer, documents)
    try:
        with executor.client(folder, window, LONGEST_SECONDS) as client:
            windows, mixture = make_windows(segments, window), None
            if executor.mixes:
                mixture = Mixture(PRIOR, executor.mixer.counts, executor.mixer.contexts(segments))
            _, nats = window_nats(client, windows, mixture=mixture)
        return float(nats.sum()) / math.log(2) / sum(len(held.document.text.encode()) for held in documents)
    except (InvalidCheckpointError, OSError):  # a full disk ends a score, not a look
        return None


@lru_cache(maxsize=1)
def _sample(held_folder: Path) -> tuple[HeldDocument, ...]:
    return sample_of(tuple(read_split(held_folder, "dev")))


def sample_of(documents: Sequence[HeldDocument]) -> tuple[HeldDocument, ...]:
    """The first segments of documents in the order of a hash, SAMPLE_BYTES of them or a little more.

    Beginnings of many documents, because a few whole ones would say more of those than of dev.
    """

    def place(held: HeldDocument) -> bytes:
        return hashlib.blake2b(held.document.id.encode(), digest_size=8).digest()

    chosen: list[HeldDocument] = []
    size = 0
    for held in sorted(documents, key=place):
        segments = cut_segments(held.document.text, held.document.spans)
        if size >= SAMPLE_BYTES or not segments:
            continue
        text, spans = segments[0]
        chosen.append(replace(held, document=replace(held.document, text=text, spans=spans)))
        size += len(text.encode())
    return tuple(chosen)
