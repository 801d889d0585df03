"""Mixes a model's probabilities with those of an n-gram of train, in the harness, by weights fitted on the mix split.

Called by the executor, by looks at snapshots and by the commands that use a model, where a recipe says
`[evaluation] mixture = "ngram"`. Promises: a candidate never sees the n-gram, the weights or the mix targets; a weight
depends on the context alone, so that what is mixed sums to 1 again; weights are fitted for each candidate on text that
neither the model nor the counts have read, by asking a process that serves no other purpose.

p = w p_model + (1 - w) p_ngram, with one w for every longest order whose context the n-gram knows, and for how much of
its mass that context keeps (Jelinek and Mercer, "Interpolated estimation of Markov source parameters from sparse data",
1980; weights by expectation maximisation, Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecipeError
from ..prepare import ngram
from ..prepare.heldout import HeldDocument, read_split
from ..prepare.manifest import PreparedData
from ..prepare.split import MIX

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from .logits_client import LogitsClient
    from .scorer import Segments

NO_MIXTURE, NGRAM = "none", "ngram"
SAMPLE_BYTES = 64 << 10
"""Of the mix split at most this much is asked for: some 20,000 tokens for as many weights as BUCKETS."""
LEAST_MIX_BYTES = 2_000
KEPT_EDGES = (0.2, 0.5, 0.8)
"""Where the share of its mass that a context leaves to lower orders is cut into classes."""
BUCKETS = ngram.ORDER * (len(KEPT_EDGES) + 1)
EM_STEPS = 60
PRIOR_TOKENS = 30.0
"""Every bucket begins with as many tokens that want the weight of all buckets together."""

Floats = NDArray[np.float64]
Weights = Floats
"""Of the model, one per bucket."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the n-gram says of the tokens of a text, one after the other."""

    nats: Floats
    buckets: NDArray[np.int64]
    """Which weight belongs to each token; a function of what stands before it."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weights of a candidate and what the n-gram says of the text that is being scored."""

    weights: Weights
    known: Known

    def nats(self, model_nats: Floats) -> Floats:
        """What each token costs under the mixture; `model_nats` under the model alone."""
        return mixed_nats(model_nats, self.known, self.weights)


def mixed_nats(model_nats: Floats, known: Known, weights: Weights) -> Floats:
    """-log(w exp(-model_nats) + (1 - w) exp(-n-gram's nats)), token by token."""
    own = weights[known.buckets]
    mixed: Floats = -np.logaddexp(np.log(own) - model_nats, np.log1p(-own) - known.nats)
    return mixed


def fit_weights(model_nats: Floats, known: Known) -> Weights:
    """The model's weight in each bucket that makes these tokens likeliest; a bucket with few is drawn to the others."""
    ratio = np.exp(np.clip(known.nats - model_nats, -60, 60))  # how much likelier the model finds each token
    shared = 0.5
    for _ in range(EM_STEPS):
        shared = float((shared * ratio / (shared * ratio + 1 - shared)).mean()) if len(ratio) else shared
    counts = np.bincount(known.buckets, minlength=BUCKETS)
    weights = np.full(BUCKETS, shared)
    for _ in range(EM_STEPS):
        own = weights[known.buckets]
        owed = np.bincount(known.buckets, weights=own * ratio / (own * ratio + 1 - own), minlength=BUCKETS)
        weights = (owed + PRIOR_TOKENS * shared) / (counts + PRIOR_TOKENS)
    found: Weights = np.clip(weights, 0.001, 0.999)
    return found


def buckets_of(asked: ngram.Asked) -> NDArray[np.int64]:
    """The bucket of each token, from how well its context is known."""
    classes = np.digitize(asked.backoffs, KEPT_EDGES)
    found: NDArray[np.int64] = (asked.orders.astype(np.int64) - 1) * (len(KEPT_EDGES) + 1) + classes
    return found


def check_mix(data: PreparedData) -> None:
    """Raises RecipeError when there is too little text to fit weights on."""
    size = data.manifest.splits[MIX].byte_count
    if size < LEAST_MIX_BYTES:
        raise RecipeError(
            f'[evaluation] mixture = "{NGRAM}" fits its weights on the mix part of the data, which holds {size:,} '
            f"bytes; {LEAST_MIX_BYTES:,} are needed",
            f'raise mix_percent and mix_kb in [data] of recipe.toml, or set mixture = "{NO_MIXTURE}" in [evaluation]',
        )


class Mixer:
    """The n-gram of prepared data, and the text on which a candidate's weights are fitted."""

    def __init__(self, data: PreparedData, tokenizer: Tokenizer) -> None:
        """Counts the train shards: about a second per million tokens. Raises RecipeError (check_mix)."""
        from .scorer import encode_documents

        check_mix(data)
        manifest = data.manifest
        self.model = ngram.of_shards(data.folder, manifest.token_dtype, manifest.vocab_size)
        self.sample: Segments = encode_documents(tokenizer, mix_sample(tuple(read_split(data.held_folder, MIX))))
        self._known = self.known(self.sample)

    def known(self, segments: Segments) -> Known:
        """What the n-gram says of all tokens of the segments; each segment is seen from its own beginning."""
        asked = self.model.ask([np.asarray(ids, np.int64) for _, ids in segments])
        return Known(-np.log(asked.probabilities), buckets_of(asked))

    def fit_candidate(self, open_client: Callable[[], LogitsClient], context: int) -> Weights:
        """Weights for the checkpoint that a fresh process answers for, in windows of `context` tokens.

        Raises InvalidCheckpointError.
        """
        from .scorer import make_windows, window_nats

        windows = make_windows(self.sample, context)
        with open_client() as client:
            return fit_weights(window_nats(client, windows, client.rows_per_request(context)), self._known)


def mix_sample(documents: Sequence[HeldDocument]) -> tuple[HeldDocument, ...]:
    """Segments of at most SAMPLE_BYTES in all, or a little more: the first ones of all documents before any second one.

    Chosen by hash; a segment is scored as a document of its own, as it is in a long document.
    """
    from .scorer import cut_segments

    found: list[tuple[int, bytes, HeldDocument]] = []
    for held in documents:
        luck = hashlib.blake2b(held.document.id.encode(), digest_size=8).digest()
        for number, (text, spans) in enumerate(cut_segments(held.document.text, held.document.spans)):
            found.append((number, luck, replace(held, document=replace(held.document, text=text, spans=spans))))
    chosen: list[HeldDocument] = []
    size = 0
    for _, _, held in sorted(found, key=lambda item: item[:2]):
        if size >= SAMPLE_BYTES:
            break
        chosen.append(held)
        size += len(held.document.text.encode())
    return tuple(chosen)


class MixedSource:
    """A source of logits whose softmax is the mixture: what generation asks instead of the model alone."""

    def __init__(self, source: LogitsClient, model: ngram.NGram, weights: Weights) -> None:
        self._source, self._model, self._weights = source, model, weights

    @property
    def vocab_size(self) -> int:
        return self._source.vocab_size

    def rows_per_request(self, length: int) -> int:
        return self._source.rows_per_request(length)

    def logits(self, ids: NDArray[Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Logarithms of the mixed probabilities: float32 [sum of positions, vocab_size]."""
        import torch

        own = self._source.logits(ids, positions).softmax(1)
        histories = [
            row[: place + 1] for row, (start, end) in zip(ids, positions, strict=True) for place in range(start, end)
        ]
        counted, asked = self._model.distributions(histories)
        weights = torch.from_numpy(self._weights[buckets_of(asked)].astype(np.float32))[:, None]
        return (weights * own + (1 - weights) * torch.from_numpy(counted)).log()
