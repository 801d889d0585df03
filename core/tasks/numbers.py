"""Decodes a number: the median of what a model thinks of the number that follows a prompt.

Called by scoring.py for tasks of kind value. The tree of number tokens is walked best first, for all prompts side by
side, until the median cannot move any more, 98 % of the mass is read, or MOST_EXPANSIONS places were looked at. No list
of numbers is ever enumerated, so it works for any range and any number of decimals.

What is walked is the tree of spellings that the tokenizer itself would choose: the model has seen no others. A place
behind which no true answer's tokens ever go on needs no look, so where numbers are tokens of their own one row of
logits per prompt is enough.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..prepare.answers import number
from ..prepare.tokenizer import encode_texts
from .asking import Ids, LogitsSource, Logs, Row, ask

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_EXPANSIONS = 24
"""Places that are looked at per prompt, the root included; each costs the model one row."""
PLACES_PER_ROUND = 4
ENOUGH_MASS = 0.98
"""Of the mass on numbers."""
LEAST_MASS = 1e-4
"""A beginning with a smaller share of the mass on numbers is read as it stands and not followed."""
LONGEST_NUMBER = 12
"""Tokens of a number."""
BEGINNING = re.compile(r"[+-]?\d*(\.\d*)?((?<=[\d.])[eE][+-]?\d*)?", re.ASCII)

Values = NDArray[np.float64]


class Decoded(NamedTuple):
    """A number as the model would write it, and the share of the mass on numbers that is on exactly this value."""

    text: str
    probability: float


class Place(NamedTuple):
    """A beginning of a number: its text, its tokens, and the number that it reads so far (nan when none)."""

    text: str
    ids: tuple[int, ...]
    value: float


class Branches(NamedTuple):
    """How a number may go on from one place; arrays of one length. `is_final`: it ends there, as far as is known."""

    tokens: NDArray[np.int64]
    places: list[Place]
    values: Values
    is_final: NDArray[np.bool_]


class NumberTree:
    """The numbers that a tokenizer can write, token by token; remembers what goes on from each place.

    `examples` are true answers: numbers go on with the tokens with which theirs do; without any, with every numeric
    token.
    """

    root = Place("", (), math.nan)

    def __init__(self, tokenizer: Tokenizer, pieces: Sequence[bytes], examples: Iterable[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._first = {token: piece.decode() for token, piece in enumerate(pieces) if _is_numeric(piece)}
        spellings = encode_texts(tokenizer, [[text] for text in sorted(set(examples))])
        later = {token for ids in spellings for token in ids[1:]}
        self._later = self._first if not spellings else {t: text for t, text in self._first.items() if t in later}
        self._known: dict[tuple[int, ...], Branches] = {}

    def after(self, place: Place) -> Branches:
        """Every token that can follow, and where it leads."""
        known = self._known.get(place.ids)
        if known is None:
            [places] = self._following([place])
            behind = self._following(places)
            known = self._known[place.ids] = Branches(
                np.array([each.ids[-1] for each in places], np.int64),
                places,
                np.array([each.value for each in places], np.float64),
                np.array([not each for each in behind], np.bool_),
            )
        return known

    def _following(self, places: Sequence[Place]) -> list[list[Place]]:
        """The places one token further, of each."""
        fitting = [
            (owner, Place(text, (*place.ids, token), _value(text)))
            for owner, place in enumerate(places)
            for token, piece in (self._later if place.ids else self._first).items()
            if _is_beginning(text := place.text + piece) and len(place.ids) < LONGEST_NUMBER
        ]
        spellings = encode_texts(self._tokenizer, [[place.text] for _, place in fitting])
        found: list[list[Place]] = [[] for _ in places]
        for (owner, place), ids in zip(fitting, spellings, strict=True):
            if tuple(ids) == place.ids:
                found[owner].append(place)
        return found


def _is_numeric(piece: bytes) -> bool:
    return bool(piece) and not piece.strip(b"0123456789+-.eE")


def _is_beginning(text: str) -> bool:
    return len(text) <= 24 and BEGINNING.fullmatch(text) is not None


def _value(text: str) -> float:
    value = number(text)
    return math.nan if value is None else value


class _Waiting(NamedTuple):
    """A place not looked at; the smallest sorts first, so the mass is negated."""

    minus_mass: float
    place: Place


class _Search:
    """What is known of the number after one prompt."""

    def __init__(self, prompt: Ids) -> None:
        self.prompt = prompt
        self._texts: list[str] = []
        self._values: list[Values] = []
        self._masses: list[Values] = []
        """Numbers that ended; the lists go together."""
        self._ended = 0.0
        self._open = [_Waiting(-1.0, NumberTree.root)]
        self._left: list[_Waiting] = []
        """Beginnings that are not followed."""
        self._looked_at = 0
        self._least = 0.0
        self._ended_there = self._went_on = 0.0
        """Of the numbers looked at: the mass that ended there, and the mass that did not."""

    def take(self) -> list[_Waiting]:
        """The likeliest beginnings to look at next; none when the answer stands."""
        if self._is_settled():
            return []
        count = min(PLACES_PER_ROUND, MOST_EXPANSIONS - self._looked_at, len(self._open))
        taken = [heapq.heappop(self._open) for _ in range(count)]
        self._looked_at += count
        return taken

    def look(self, waiting: _Waiting, logs: Logs, branches: Branches, ends: NDArray[np.int64]) -> None:
        """Share the mass of a place between its end and what follows it."""
        mass, place = -waiting.minus_mass, waiting.place
        if not math.isnan(place.value):
            ended = mass * float(np.exp(logs[ends].astype(np.float64)).sum())
            self._end([place.text], np.array([place.value]), np.array([ended]))
            self._ended_there += ended
            self._went_on += max(0.0, mass - ended)
        masses = mass * np.exp(logs[branches.tokens].astype(np.float64))
        if not place.ids:
            self._least = LEAST_MASS * float(masses.sum())
        final = np.flatnonzero(branches.is_final & ~np.isnan(branches.values))
        self._end([branches.places[at].text for at in final], branches.values[final], masses[final])
        for at in np.flatnonzero(~branches.is_final):
            child = _Waiting(-float(masses[at]), branches.places[at])
            if masses[at] >= self._least:
                heapq.heappush(self._open, child)
            else:
                self._left.append(child)

    def _end(self, texts: list[str], values: Values, masses: Values) -> None:
        self._texts += texts
        self._values.append(values)
        self._masses.append(masses)
        self._ended += float(masses.sum())

    def answer(self) -> Decoded:
        """The weighted median; a beginning that was not followed counts as the number that it reads so far."""
        waiting = self._readable()
        values = [*self._values, np.array([each.place.value for each in waiting])]
        masses = [*self._masses, np.array([-each.minus_mass for each in waiting])]
        texts = [*self._texts, *(each.place.text for each in waiting)]
        return weighted_median(texts, np.concatenate(values), np.concatenate(masses))

    def _readable(self) -> list[_Waiting]:
        return [each for each in (*self._open, *self._left) if not math.isnan(each.place.value)]

    def _is_settled(self) -> bool:
        """Whether nearly all mass is read, or the median would stay wherever the mass that has not ended goes.

        Where numbers are tokens of their own, all that were looked at ended there: then the others, which are likely to
        end as well, are read as they stand.
        """
        ended = self._ended
        open_mass = -sum(each.minus_mass for each in (*self._open, *self._left))
        enough = ENOUGH_MASS * (ended + open_mass)
        if ended >= enough:
            return ended > 0
        if self._looked_at > PLACES_PER_ROUND:
            goes_on = self._went_on / max(self._ended_there + self._went_on, 1e-30)
            readable = -sum(each.minus_mass for each in self._readable())
            if ended + readable * (1 - goes_on) >= enough:
                return True
        if open_mass >= ended:
            return False
        values, masses = np.concatenate(self._values), np.concatenate(self._masses)
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(masses[order])
        half = (ended + open_mass) / 2
        low, high = (int(np.searchsorted(reached, wanted)) for wanted in (half - open_mass, half))
        return high < len(order) and values[order[low]] == values[order[high]]


def weighted_median(texts: Sequence[str], values: Values, masses: Values) -> Decoded:
    """The smallest number that half of the mass does not exceed, in its likeliest spelling; "0" when there is none."""
    total = float(masses.sum())
    if total <= 0:
        return Decoded("0", 0.0)
    order = np.argsort(values, kind="stable")
    at = min(int(np.searchsorted(np.cumsum(masses[order]), total / 2)), len(order) - 1)
    median = values[order[at]]
    same = np.flatnonzero(values == median)
    by_text: dict[str, float] = {}
    for place in same.tolist():
        by_text[texts[place]] = by_text.get(texts[place], 0.0) + float(masses[place])
    return Decoded(max(sorted(by_text), key=by_text.__getitem__), float(masses[same].sum()) / total)


def decode_numbers(
    source: LogitsSource,
    tree: NumberTree,
    prompts: Sequence[Ids],
    ends: NDArray[np.int64],
    context: int,
    width_step: int | None = None,
) -> list[Decoded]:
    """The number that the model expects after each prompt, its median; `ends` are the ids that end a number."""
    searches = [_Search(prompt) for prompt in prompts]
    while turns := [(search, waiting) for search in searches for waiting in search.take()]:
        rows = (_row(search.prompt, waiting.place.ids, context) for search, waiting in turns)
        for (search, waiting), logs in zip(turns, ask(source, rows, context, width_step), strict=True):
            search.look(waiting, logs[0], tree.after(waiting.place), ends)
    return [search.answer() for search in searches]


def _row(prompt: Ids, ids: tuple[int, ...], context: int) -> Row:
    """Every place behind a prompt sees the same end of it."""
    kept = prompt[-max(1, context - min(LONGEST_NUMBER, context // 2)) :]
    row = np.concatenate([kept, np.array(ids, np.int32)])[-context:]
    return Row(row, len(row) - 1, len(row))
