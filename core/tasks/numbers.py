"""Decodes a number: the median of what a model thinks of the number that follows a prompt.

Called by tasks.py for tasks of kind value. The tree of number tokens is walked best first, for all prompts side by
side, until the median cannot move any more, 98 % of the mass is read, or MOST_EXPANSIONS nodes were looked at. No list
of numbers is ever enumerated, so it works for any range and any number of decimals.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..prepare.answers import number
from .asking import Ids, LogitsSource, Logs, Row, ask

MOST_EXPANSIONS = 24
"""Nodes that are looked at per prompt, the root included; each costs the model one row."""
NODES_PER_ROUND = 4
MOST_CHILDREN = 48
ENOUGH_MASS = 0.98
"""Of the mass on numbers."""
LEAST_MASS = 1e-4
"""A beginning with a smaller share of the mass on numbers is read as it stands and not followed."""
LONGEST_NUMBER = 12
"""Tokens of a number."""
BEGINNING = re.compile(r"[+-]?\d*(\.\d*)?((?<=[\d.])[eE][+-]?\d*)?", re.ASCII)


class Decoded(NamedTuple):
    """A number as the model would write it, and the share of the mass on numbers that is on exactly this value."""

    text: str
    probability: float


class NumberTokens:
    """Which tokens of a vocabulary can go on with a number; remembers the answer for each beginning."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._tokens = [(token, piece.decode()) for token, piece in enumerate(pieces) if _is_numeric(piece)]
        self._known: dict[str, tuple[NDArray[np.int64], list[str]]] = {}

    def after(self, beginning: str) -> tuple[NDArray[np.int64], list[str]]:
        """Ids, and what the number reads with each of them."""
        known = self._known.get(beginning)
        if known is None:
            fitting = [(token, beginning + text) for token, text in self._tokens if _is_beginning(beginning + text)]
            ids = np.array([token for token, _ in fitting], np.int64)
            known = self._known[beginning] = (ids, [text for _, text in fitting])
        return known


def _is_numeric(piece: bytes) -> bool:
    return bool(piece) and not piece.strip(b"0123456789+-.eE")


def _is_beginning(text: str) -> bool:
    return len(text) <= 24 and BEGINNING.fullmatch(text) is not None


class _Node(NamedTuple):
    """A beginning of a number; the smallest sorts first, so the mass is negated."""

    minus_mass: float
    text: str
    ids: tuple[int, ...]


class _Search:
    """What is known of the number after one prompt."""

    def __init__(self, prompt: Ids) -> None:
        self.prompt = prompt
        self.complete: dict[str, float] = defaultdict(float)
        """Numbers that ended, as written -> mass."""
        self._open = [_Node(-1.0, "", ())]
        self._left: list[_Node] = []
        """Beginnings that are not followed."""
        self._looked_at = 0
        self._least = 0.0
        self._ended = self._went_on = 0.0
        """Of the numbers looked at: the mass that ended there, and the mass that did not."""

    def take(self) -> list[_Node]:
        """The likeliest beginnings to look at next; none when the answer stands."""
        if self._is_settled():
            return []
        count = min(NODES_PER_ROUND, MOST_EXPANSIONS - self._looked_at, len(self._open))
        taken = [heapq.heappop(self._open) for _ in range(count)]
        self._looked_at += count
        return taken

    def look(self, node: _Node, logs: Logs, tokens: NumberTokens, ends: NDArray[np.int64]) -> None:
        """Share the mass of `node` between its end and its continuations."""
        if number(node.text) is not None:
            ended = -node.minus_mass * float(np.exp(logs[ends]).sum())
            self.complete[node.text] += ended
            self._ended += ended
            self._went_on += max(0.0, -node.minus_mass - ended)
        ids, texts = tokens.after(node.text)
        masses = -node.minus_mass * np.exp(logs[ids].astype(np.float64))
        if not node.ids:
            self._least = LEAST_MASS * float(masses.sum())
        for place in np.argsort(-masses, kind="stable")[:MOST_CHILDREN]:
            child = _Node(-float(masses[place]), texts[place], (*node.ids, int(ids[place])))
            if masses[place] >= self._least and len(child.ids) < LONGEST_NUMBER:
                heapq.heappush(self._open, child)
            else:
                self._left.append(child)

    def answer(self) -> Decoded:
        """The weighted median; a beginning that was not followed counts as the number that it reads so far."""
        masses = defaultdict(float, self.complete)
        for node in (*self._open, *self._left):
            if number(node.text) is not None:
                masses[node.text] -= node.minus_mass
        return weighted_median(masses)

    def _is_settled(self) -> bool:
        """Whether nearly all mass is read, or the median would stay wherever the mass that has not ended goes.

        Where numbers are tokens of their own, all that were looked at ended there: then the others, which are likely to
        end as well, are read as they stand.
        """
        ended = sum(self.complete.values())
        waiting = (*self._open, *self._left)
        readable = -sum(node.minus_mass for node in waiting if number(node.text) is not None)
        open_mass = -sum(node.minus_mass for node in waiting)
        enough = ENOUGH_MASS * (ended + open_mass)
        if ended >= enough:
            return ended > 0
        if self._looked_at > NODES_PER_ROUND:
            goes_on = self._went_on / max(self._ended + self._went_on, 1e-30)
            if ended + readable * (1 - goes_on) >= enough:
                return True
        if open_mass >= ended:
            return False
        low = _reached(self.complete, (ended + open_mass) / 2 - open_mass)
        return low == _reached(self.complete, (ended + open_mass) / 2)


def _reached(masses: dict[str, float], wanted: float) -> float | None:
    """The smallest value at which the mass of all values up to it is at least `wanted`."""
    total = 0.0
    for value, mass in sorted((number(text) or 0.0, mass) for text, mass in masses.items()):
        total += mass
        if total >= wanted:
            return value
    return None


def weighted_median(masses: dict[str, float]) -> Decoded:
    """The smallest number that half of the mass does not exceed, in its likeliest spelling; "0" when there is none."""
    values: dict[float, float] = defaultdict(float)
    for text, mass in masses.items():
        values[number(text) or 0.0] += mass
    total = sum(values.values())
    if total <= 0:
        return Decoded("0", 0.0)
    reached = 0.0
    median = max(values)
    for value in sorted(values):
        reached += values[value]
        if reached >= total / 2:
            median = value
            break
    spellings = [text for text in masses if (number(text) or 0.0) == median]
    return Decoded(max(sorted(spellings), key=lambda text: masses[text]), values[median] / total)


def decode_numbers(
    source: LogitsSource,
    tokens: NumberTokens,
    prompts: Sequence[Ids],
    ends: NDArray[np.int64],
    context: int,
    width_step: int | None = None,
) -> list[Decoded]:
    """The number that the model expects after each prompt, its median; `ends` are the ids that end a number."""
    searches = [_Search(prompt) for prompt in prompts]
    while turns := [(search, node) for search in searches for node in search.take()]:
        rows = (_row(search.prompt, node.ids, context) for search, node in turns)
        for (search, node), logs in zip(turns, ask(source, rows, context, width_step), strict=True):
            search.look(node, logs[0], tokens, ends)
    return [search.answer() for search in searches]


def _row(prompt: Ids, ids: tuple[int, ...], context: int) -> Row:
    """Every node of a prompt sees the same end of it."""
    kept = prompt[-max(1, context - min(LONGEST_NUMBER, context // 2)) :]
    row = np.concatenate([kept, np.array(ids, np.int32)])[-context:]
    return Row(row, len(row) - 1, len(row))
