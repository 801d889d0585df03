"""Mixes a model's probabilities with those of an n-gram of train, in the harness, by weights fitted on the mix split.

Called by the executor, by looks at snapshots and by the commands that use a model, where a recipe says
`[evaluation] mixture = "ngram"`. Promises: a candidate never sees the n-gram, the weights or the mix targets; what is
mixed sums to 1 in every context, whatever the model answers and whatever the weights are; weights are fitted for each
candidate on text that neither the model nor the counts have read, by asking a process that serves no other purpose.

log p = a log p_model + b log p_ngram - log of the sum over the vocabulary, with p_model no less than e to the -60 of
its largest (log-linear interpolation: Klakow, "Log-linear interpolation of language models", 1998). The likelihood is
concave in (a, b): Newton's method finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import RecipeError
from ..prepare import ngram
from ..prepare.heldout import HeldDocument, read_split
from ..prepare.manifest import PreparedData
from ..prepare.split import MIX
from .windows import Segments, cut_segments, encode_documents, make_windows, window_logits

if TYPE_CHECKING:
    from typing import Any

    import torch
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from .logits_client import LogitsClient

NO_MIXTURE, NGRAM = "none", "ngram"
SAMPLE_BYTES = 32 << 10
"""Of the mix split this much is asked for, or a little more: some 10,000 tokens."""
LEAST_MIX_BYTES = 2_000
MOST_LOGITS = 1 << 23
"""The two weights are fitted on as many tokens, evenly over those, as have this many logits (4,096 where the vocabulary
has 2,048), ..."""
LEAST_TOKENS = 512
"""... but not on fewer than this: n tokens cost about 1/n nats per token of what the best weights would save."""
FARTHEST = 60.0
"""What lies this many nats below a model's likeliest token lies no farther: impossible to no mixture."""
NEWTON_STEPS = 20
LONGEST_STEP = 0.5
"""Where a model is sure of all it says, right or wrong, the curvature is that of a plain and would lead anywhere."""
ENOUGH_NATS = 0.01
"""No further step when it would save less, over all the tokens."""
PRIOR_TOKENS = 10.0
"""The prior pulls as this many tokens of curvature 1 would: it decides where model and n-gram say the same."""


class Weights(NamedTuple):
    """What the logarithms of both are multiplied by."""

    model: float
    counts: float


PRIOR = Weights(0.65, 0.35)
"""What models of a minute have; looks at unfinished runs take it as it is."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weights of a candidate, the n-gram, and what stands before each token of the text that is being scored."""

    weights: Weights
    counts: ngram.NGram
    contexts: ngram.Contexts

    def logits(self, logits: torch.Tensor, first: int) -> torch.Tensor:
        """The mixture's logits, float32 [n, vocab_size], where the model's are those of the tokens from `first` on."""
        return mixed_logits(logits, self.counts, self.contexts[first : first + len(logits)], self.weights)


def mixed_logits(logits: torch.Tensor, counts: ngram.NGram, contexts: ngram.Contexts, weights: Weights) -> torch.Tensor:
    """Logits whose softmax is the mixture: float32 [contexts, vocab_size]; `logits` are the model's, in any scale."""
    return _lowered(logits).mul_(weights.model).add_(_logs(counts, contexts), alpha=weights.counts)


def _lowered(logits: torch.Tensor) -> torch.Tensor:
    """The logits with 0 for the likeliest token of each row, and no other one farther below than FARTHEST."""
    return (logits - logits.amax(1, keepdim=True)).clamp_(min=-FARTHEST)


def _logs(counts: ngram.NGram, contexts: ngram.Contexts) -> torch.Tensor:
    """Logarithms of the n-gram's probabilities: float32 [contexts, vocab_size]."""
    import torch

    return torch.from_numpy(counts.probabilities(contexts)).clamp_(min=torch.finfo(torch.float32).tiny).log_()


def fit_weights(model: torch.Tensor, counts: torch.Tensor, targets: torch.Tensor) -> Weights:
    """The weights under which `targets` [n] are likeliest, but for a weak prior; Newton's method, steps halved.

    `model`, `counts` float32 [n, vocab_size]: logarithms of what both say, up to a constant of each row.
    """
    import torch

    best = torch.tensor(PRIOR, dtype=torch.float64)
    least, slope, curvature = _judged(model, counts, targets, best)
    share = 1.0
    for _ in range(NEWTON_STEPS):
        step = torch.linalg.solve(curvature, slope)
        step *= LONGEST_STEP / max(LONGEST_STEP, float(step.norm()))
        if share * float(step @ slope) < ENOUGH_NATS:
            break
        cost, next_slope, next_curvature = _judged(model, counts, targets, best - share * step)
        if cost <= least:
            best, least, slope, curvature, share = best - share * step, cost, next_slope, next_curvature, 1.0
        else:
            share /= 2
    return Weights(*best.tolist())


def _judged(
    model: torch.Tensor, counts: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """What the targets cost under these weights, in nats, with its gradient [2] and its second derivatives [2, 2].

    Both follow from means and covariances of the two logarithms under the mixture, as in any exponential family.
    """
    import torch

    logs = (model, counts)
    mixed = model * weights[0].item() + counts * weights[1].item()
    sums = torch.logsumexp(mixed, 1, keepdim=True)
    told = (sums - mixed.gather(1, targets[:, None])).double().sum().item()
    chances = mixed.sub_(sums).exp_()
    weighed = [chances * one for one in logs]
    means = torch.stack([one.sum(1).double() for one in weighed], 1)
    squares = [[float((one * other).sum(dtype=torch.float64)) for other in logs] for one in weighed]
    found = torch.stack([one.gather(1, targets[:, None])[:, 0].double() for one in logs], 1)
    away = weights - torch.tensor(PRIOR, dtype=torch.float64)
    slope = (means - found).sum(0) + PRIOR_TOKENS * away
    curvature = torch.tensor(squares).double() - means.T @ means + PRIOR_TOKENS * torch.eye(2, dtype=torch.float64)
    return told + PRIOR_TOKENS / 2 * float(away @ away), slope, curvature


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
        check_mix(data)
        manifest = data.manifest
        self.counts = ngram.of_shards(data.folder, manifest.token_dtype, manifest.vocab_size)
        self.sample: Segments = encode_documents(tokenizer, mix_sample(tuple(read_split(data.held_folder, MIX))))
        self._contexts = self.contexts(self.sample)

    def contexts(self, segments: Segments) -> ngram.Contexts:
        """What the n-gram knows to stand before each token; each segment is seen from its own beginning."""
        return self.counts.contexts([np.asarray(ids, np.int64) for _, ids in segments])

    def fit_candidate(self, open_client: Callable[[], LogitsClient], context: int) -> Weights:
        """Weights for the checkpoint that a fresh process answers for, in windows of `context` tokens.

        Raises InvalidCheckpointError.
        """
        import torch

        windows = make_windows(self.sample, context)
        stride = -(-len(windows.targets) // max(LEAST_TOKENS, MOST_LOGITS // self.counts.vocab_size))
        with open_client() as client:
            picked = [
                _lowered(logits[-first % stride :: stride]) for _, first, logits in window_logits(client, windows)
            ]
        targets = torch.from_numpy(windows.targets[::stride])
        return fit_weights(torch.cat(picked), _logs(self.counts, self._contexts[::stride]), targets)


def mix_sample(documents: Sequence[HeldDocument]) -> tuple[HeldDocument, ...]:
    """Segments of at most SAMPLE_BYTES in all, or a little more: the first ones of all documents before any second one.

    Chosen by hash; a segment is scored as a document of its own, as it is in a long document.
    """
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

    def __init__(self, source: LogitsClient, counts: ngram.NGram, weights: Weights) -> None:
        self._source, self._counts, self._weights = source, counts, weights

    @property
    def vocab_size(self) -> int:
        return self._source.vocab_size

    def rows_per_request(self, length: int) -> int:
        return self._source.rows_per_request(length)

    def logits(self, ids: NDArray[Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Logits of the mixture: float32 [sum of positions, vocab_size]."""
        own = self._source.logits(ids, positions)
        histories = [
            row[: place + 1] for row, (start, end) in zip(ids, positions, strict=True) for place in range(start, end)
        ]
        return mixed_logits(own, self._counts, self._counts.contexts_after(histories), self._weights)
