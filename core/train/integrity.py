"""Integrity probes: a score counts only if a process that cannot know the later text gives the same answers.

Called by the executor with every score: `Probes` for bits per byte, `Watched` for the rows of tasks. While a split is
scored, windows drawn at random are noted: which row, and what each of its tokens cost. Then a second, fresh process of
the same model is asked about them, in another order and in other company. Most come with another text after a random
cut ("swapped"), and what stands before the cut must cost the same; the others come as they were ("again"). Nothing in
what the first process is asked tells which windows are noted, and the second never sees what stood behind the cut. So a
model that looks ahead, at other rows or at its memory is found out whichever requests it recognises, by count, time,
shape or process: to give the same answer twice it would have to know a text that was not shown to it.

What the probes do not see: looking ahead at very few places. Half of the cuts are drawn evenly, half where the token
behind the cut is dear by its frequency in the split: a model that looks ahead at places which hold a share g of that
cost passes N swapped windows with a chance of about (1 - g)^(N / 2), however few the places are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..prepare.tokenizer import PAD
from .checkpoint import InvalidCheckpointError
from .windows import Windows, token_nats

if TYPE_CHECKING:
    import torch

    from .logits_client import LogitsClient

SWAPPED_WINDOWS = 256
"""Windows that are asked with another end, at most ..."""
SWAPPED_SHARE = 0.3
"""... and this share of all windows, but never fewer than LEAST_SWAPPED where there are as many."""
LEAST_SWAPPED = 64
AGAIN_SHARE = 0.05
LEAST_AGAIN = 8
TOLERANCE = 1e-4
"""Nats that a token may cost more or less, plus the same share of what it costs: float32 rounding in another batch."""
TRACE_TOKENS = 8
"""So many tokens in a row that stand elsewhere in the requests could tell what stood behind a cut."""
LEAST_TRACE_TOKENS = 3
"""And so many where a window begins with them, as the next one does whose text begins shortly before a cut."""
CUTS_TRIED = 4
ENDS_TRIED = 20
WATCHED_ROWS = 64
"""Of all rows that one process answers for a task, so many are asked again."""
WATCHED_PLACES = 4
"""Positions of such a row whose whole distribution is compared; the last one before the cut is always among them."""


class Source(Protocol):
    """What logits_client.LogitsClient offers."""

    def stream(self, requests: Iterable[tuple[NDArray[Any], Sequence[tuple[int, int]]]]) -> Iterator[torch.Tensor]: ...

    def rows_per_request(self, length: int) -> int: ...


OpenSource = Callable[[], AbstractContextManager[Source]]
"""Opens a fresh process with the same model."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A window to be asked again: `ids` as they are sent, for logits of [start, end); [start, until) must agree."""

    row: int
    ids: NDArray[np.int32]
    start: int
    end: int
    until: int
    is_swapped: bool


class Probes:
    """The probes of one evaluation: `draw` before it, `note` during it, `run` after it.

    Every evaluation draws anew, from the system's randomness: nothing that a candidate knows tells what is drawn.
    """

    def __init__(self, generator: np.random.Generator | None = None) -> None:
        self._random = generator or np.random.default_rng(secrets.randbits(128))
        self._probes: dict[int, Probe] = {}
        self._nats: dict[int, NDArray[np.float64]] = {}
        self._targets: dict[int, NDArray[np.int64]] = {}

    @property
    def drawn(self) -> Sequence[Probe]:
        return tuple(self._probes.values())

    def draw(self, windows: Windows) -> None:
        """Choose windows and for most a cut and what is put behind it: half of the cuts at any token with about the
        same chance, half at dear tokens."""
        count = len(windows.ids)
        swapped = min(SWAPPED_WINDOWS, max(LEAST_SWAPPED, round(SWAPPED_SHARE * count)))
        again = max(LEAST_AGAIN, round(AGAIN_SHARE * count))
        lengths = windows.ends - windows.starts
        lasts = np.cumsum(lengths)
        costs = _costs_behind(windows, lasts)
        sums = np.append(0.0, np.cumsum(costs))
        traces = _Traces()
        orders = [iter(self._order(lengths)), iter(self._order(sums[lasts] - sums[lasts - lengths]))]
        for turn in range(2 * count):
            if not swapped and not again:
                break
            is_dear = bool(swapped) and turn % 2 == 1
            row = next((row for row in orders[is_dear] if row not in self._probes), None)
            if row is None:
                continue
            weights = costs[lasts[row] - lengths[row] : lasts[row] - 1] if is_dear else None
            probe = self._swapped(windows, row, traces, weights) if swapped else None
            if probe is not None:
                swapped -= 1
            elif again and (probe := self._again(windows, row, traces)) is not None:
                again -= 1
            if probe is not None:
                self._probes[row] = probe
        self._targets = {row: windows.targets[lasts[row] - lengths[row] : lasts[row]] for row in self._probes}

    def _order(self, weights: NDArray[Any]) -> list[int]:
        """All rows, each as early as its weight makes it: a draw without putting back."""
        luck = self._random.random(len(weights)) ** (1 / np.maximum(weights, 1e-9))
        rows: list[int] = np.argsort(-luck, kind="stable").tolist()
        return rows

    def _swapped(
        self, windows: Windows, row: int, traces: _Traces, weights: NDArray[np.float64] | None
    ) -> Probe | None:
        """The window with another end, unless the other probes give away what stood there; `weights` of its cuts."""
        ids, start, end = windows.ids[row], int(windows.starts[row]), int(windows.ends[row])
        if end - start < 2:
            return None
        chances = weights / weights.sum() if weights is not None and weights.sum() > 0 else None
        for cut in self._random.choice(np.arange(start + 1, end), CUTS_TRIED, p=chances).tolist():
            sent, sent_end = self._other_end(windows, row, cut)
            if traces.admit(sent, ids, cut):
                return Probe(row, sent, start, sent_end, cut, True)
        return None

    def _again(self, windows: Windows, row: int, traces: _Traces) -> Probe | None:
        ids, end = windows.ids[row], int(windows.ends[row])
        return Probe(row, ids, int(windows.starts[row]), end, end, False) if traces.admit(ids) else None

    def _other_end(self, windows: Windows, row: int, cut: int) -> tuple[NDArray[np.int32], int]:
        """The window with the end of another one from the same place on, of another document if there is one; else
        with tokens from anywhere in the split. The token behind the cut is always another one. And where text ends."""
        ids = windows.ids[row]
        best: int | None = None
        for other in self._random.integers(len(windows.ids), size=ENDS_TRIED).tolist():
            if windows.ends[other] > cut and windows.ids[other][cut] != ids[cut]:
                best = other
                if windows.owners[other] != windows.owners[row]:
                    break
        if best is not None:
            return np.concatenate([ids[:cut], windows.ids[best][cut:]]), int(windows.ends[best])
        end = int(windows.ends[row])
        others = windows.targets[windows.targets != ids[cut]]
        if not len(others):  # a text of one single token
            others = np.array([PAD + 1 if ids[cut] != PAD + 1 else PAD + 2])
        sent = ids.copy()
        sent[cut:end] = self._random.choice(others, end - cut)
        return sent, end

    def note(self, row: int, nats: NDArray[np.float64]) -> None:
        """What the tokens of a window cost in the score."""
        if row in self._probes:
            self._nats[row] = nats.copy()

    def run(self, open_source: OpenSource) -> None:
        """Ask a fresh process and compare. Raises InvalidCheckpointError with the reason in plain words."""
        probes = [self._probes[row] for row in self._nats]
        self._random.shuffle(probes)
        if not probes:
            return
        wrong = []
        with open_source() as source:
            rows = source.rows_per_request(len(probes[0].ids))
            batches = [probes[first : first + rows] for first in range(0, len(probes), rows)]
            requests = ((np.stack([p.ids for p in batch]), [(p.start, p.end) for p in batch]) for batch in batches)
            for batch, logits in zip(batches, source.stream(requests), strict=True):
                at = 0
                for probe in batch:
                    size = probe.until - probe.start
                    nats = token_nats(logits[at : at + size], self._targets[probe.row][:size])
                    at += probe.end - probe.start
                    if not _agree(self._nats[probe.row][:size], nats):
                        wrong.append(probe)
        if wrong:
            _refuse(probes, wrong)


def _refuse(probes: Sequence[Probe], wrong: Sequence[Probe]) -> None:
    again = [probe for probe in wrong if not probe.is_swapped]
    if not again:
        asked = sum(probe.is_swapped for probe in probes)
        raise InvalidCheckpointError(
            f"the model looks ahead: in {len(wrong)} of {asked} windows its predictions changed with the text that "
            "comes after them"
        )
    asked = len(probes) - sum(probe.is_swapped for probe in probes)
    raise InvalidCheckpointError(
        f"the model gave other answers for the same text in {len(again)} of {asked} windows: they depend on "
        "chance, on the other rows of a batch or on what was asked before"
    )


def _agree(scored: NDArray[np.floating[Any]], nats: NDArray[np.floating[Any]]) -> bool:
    return bool((np.abs(scored - nats) <= TOLERANCE * (1 + np.abs(scored))).all())


def _costs_behind(windows: Windows, lasts: NDArray[np.int64]) -> NDArray[np.float64]:
    """For every target what it costs by its frequency in the split; 0 for the last of a window, which is not in it."""
    counts = np.bincount(windows.targets) if len(windows.targets) else np.zeros(1)
    costs: NDArray[np.float64] = -np.log(np.maximum(counts, 1) / max(1, len(windows.targets)))[windows.targets]
    costs[lasts[lasts > 0] - 1] = 0
    return costs


class _Traces:
    """What the probes show to the second process, so that none of them gives away what another one hides.

    Windows overlap by half, and texts repeat: a window whose tokens around its cut stand in another probe is left out.
    So is one whose last tokens before the cut, and the one behind it, are what another probe begins with, and one that
    begins with what another probe hides.
    """

    def __init__(self) -> None:
        self._shown: set[bytes] = set()
        self._begun: set[bytes] = set()
        self._rows: list[bytes] = []
        self._hidden: set[bytes] = set()
        self._hidden_ends: set[bytes] = set()
        self._short: set[bytes] = set()

    def admit(self, sent: NDArray[np.int32], original: NDArray[np.int32] | None = None, cut: int = 0) -> bool:
        """Take a window in as it is sent, unless something would be given away."""
        raw = sent.tobytes()
        shown = {raw[at : at + _RUN_BYTES] for at in range(0, len(raw) - _RUN_BYTES + 1, _TOKEN_BYTES)}
        begun = {raw[: _TOKEN_BYTES * length] for length in range(LEAST_TRACE_TOKENS, TRACE_TOKENS)}
        if not (self._hidden.isdisjoint(shown) and self._hidden_ends.isdisjoint(begun)):
            return False
        if any(_stands_in(hidden, raw) for hidden in self._short):
            return False
        if original is not None:
            hidden = original[max(0, cut + 1 - TRACE_TOKENS) : cut + 1].tobytes()
            longest = len(hidden) - LEAST_TRACE_TOKENS * _TOKEN_BYTES
            ends = {hidden[at:] for at in range(0, longest + 1, _TOKEN_BYTES)}
            if hidden in shown or hidden in self._shown or not ends.isdisjoint(self._begun | begun):
                return False
            if len(hidden) < _RUN_BYTES:
                if any(_stands_in(hidden, row) for row in (raw, *self._rows)):
                    return False
                self._short.add(hidden)
            self._hidden.add(hidden)
            self._hidden_ends |= ends
        self._shown |= shown
        self._begun |= begun
        self._rows.append(raw)
        return True


_TOKEN_BYTES = 4
_RUN_BYTES = _TOKEN_BYTES * TRACE_TOKENS


def _stands_in(tokens: bytes, row: bytes) -> bool:
    """Whether these tokens in a row stand anywhere in that row."""
    at = row.find(tokens)
    while at >= 0 and at % _TOKEN_BYTES:
        at = row.find(tokens, at + 1)
    return at >= 0


def _log_softmax(logits: torch.Tensor) -> NDArray[np.float32]:
    logs: NDArray[np.float32] = logits.log_softmax(1).numpy()
    return logs


# --- sources of tasks ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was asked and answered: logits of [start, end) of a row, log-probabilities kept at `places`."""

    ids: NDArray[np.int32]
    start: int
    end: int
    cut: int
    """The token here is swapped, with all behind it; the row's length where nothing stands behind its positions."""
    places: NDArray[np.int64]
    logs: NDArray[np.float32]
    """[places, vocab_size]"""


class Watched:
    """A source for tasks that notes some of what it answers, and on leaving asks a fresh process again.

    A model could know the rows of a task by their shape and look ahead in these alone. Leaving raises
    InvalidCheckpointError, unless another error is on its way.
    """

    def __init__(self, open_source: Callable[[], LogitsClient], generator: np.random.Generator | None = None) -> None:
        self._open = open_source
        self._random = generator or np.random.default_rng(secrets.randbits(128))
        self._kept: list[tuple[float, _Answer]] = []
        self._source: LogitsClient

    def __enter__(self) -> Watched:
        self._source = self._open().__enter__()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._source.__exit__(kind, None, None)
        if kind is None:
            self._ask_again()

    @property
    def vocab_size(self) -> int:
        return self._source.vocab_size

    def rows_per_request(self, length: int) -> int:
        return self._source.rows_per_request(length)

    def logits(self, ids: NDArray[Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        """What the model answers. Of all rows WATCHED_ROWS are kept, each with the same chance."""
        answer = self._source.logits(ids, positions)
        at = 0
        for row, (start, end) in zip(ids, positions, strict=True):
            luck = float(self._random.random())
            if len(self._kept) < WATCHED_ROWS or luck > self._kept[0][0]:
                self._keep(luck, self._noted(row, start, end, answer[at : at + end - start]))
            at += end - start
        return answer

    def _keep(self, luck: float, answer: _Answer) -> None:
        self._kept.append((luck, answer))
        self._kept.sort(key=lambda pair: pair[0])
        del self._kept[:-WATCHED_ROWS]

    def _noted(self, row: NDArray[Any], start: int, end: int, logits: torch.Tensor) -> _Answer:
        text = len(row) - int((row[::-1] != PAD).argmax())
        last = min(end, text - 1)
        cut = int(self._random.integers(start + 1, last + 1)) if last > start else len(row)
        until = min(cut, end)
        others = self._random.integers(start, until, size=WATCHED_PLACES - 1)
        places = np.unique(np.append(others, until - 1))
        logs = _log_softmax(logits[places - start])
        return _Answer(row.astype(np.int32), start, end, cut, places, logs)

    def _ask_again(self) -> None:
        answers = [answer for _, answer in self._kept]
        self._random.shuffle(answers)
        probes = self._probes(answers)
        if not probes:
            return
        wrong: list[Probe] = []
        with self._open() as source:
            for width in sorted({len(probe.ids) for probe, _ in probes}):
                group = [pair for pair in probes if len(pair[0].ids) == width]
                rows = source.rows_per_request(width)
                for first in range(0, len(group), rows):
                    batch = group[first : first + rows]
                    ids = np.stack([probe.ids for probe, _ in batch])
                    logits = source.logits(ids, [(probe.start, probe.end) for probe, _ in batch])
                    at = 0
                    for probe, answer in batch:
                        logs = _log_softmax(logits[at + answer.places - probe.start])
                        at += probe.end - probe.start
                        if not _agree(answer.logs, logs):
                            wrong.append(probe)
        if wrong:
            _refuse([probe for probe, _ in probes], wrong)

    def _probes(self, answers: Sequence[_Answer]) -> list[tuple[Probe, _Answer]]:
        """The rows as they are sent again; one that would give away what another one hides is left out."""
        traces = _Traces()
        found: list[tuple[Probe, _Answer]] = []
        pool = np.concatenate([answer.ids[answer.ids > PAD] for answer in answers] or [np.zeros(0, np.int32)])
        for number, answer in enumerate(answers):
            sent, is_swapped = answer.ids, answer.cut < len(answer.ids)
            if is_swapped:
                text = len(sent) - int((sent[::-1] != PAD).argmax())
                places = np.flatnonzero(pool != sent[answer.cut])
                begin = int(self._random.choice(places)) if len(places) else 0
                other = np.resize(np.roll(pool, -begin), text - answer.cut)
                sent = np.concatenate([sent[: answer.cut], other, sent[text:]]).astype(np.int32)
                is_admitted = traces.admit(sent, answer.ids, answer.cut)
            else:
                is_admitted = traces.admit(sent)
            if is_admitted:
                found.append((Probe(number, sent, answer.start, answer.end, answer.cut, is_swapped), answer))
        return found
