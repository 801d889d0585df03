"""Decodes a number: the median of what a model thinks of the number that follows a prompt.

Called by scoring.py for tasks of kind value. The tree of number tokens is walked best first, for all prompts side by
side, until the median cannot move any more, 98 % of the mass is read, or MOST_EXPANSIONS places were looked at. A
number is at least what its beginning reads (at most, below zero), so what begins above the median needs no look. No
list of numbers is ever enumerated, so it works for any range and any number of decimals.

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

MOST_EXPANSIONS = 128
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
    """A place not looked at, and its mass."""

    mass: float
    place: Place

    @property
    def lowest(self) -> float:
        """No number that begins like this is smaller, negative exponents aside."""
        if self.place.text[:1] == "-":
            return -math.inf
        return -math.inf if not self.place.ids else 0.0 if math.isnan(self.place.value) else self.place.value

    @property
    def highest(self) -> float:
        if self.place.text[:1] != "-":
            return math.inf
        return 0.0 if math.isnan(self.place.value) else self.place.value


class _Search:
    """What is known of the number after one prompt."""

    def __init__(self, prompt: Ids) -> None:
        self.prompt = prompt
        self._texts: list[str] = []
        self._values: list[Values] = []
        self._masses: list[Values] = []
        """Numbers that ended; the lists go together."""
        self._waiting: list[_Waiting] = [_Waiting(1.0, NumberTree.root)]
        self._looked_at = 0
        self._least = 0.0
        self._went_on: dict[tuple[int, str], list[float]] = {}
        """(characters, the first two) of a number -> the mass that went on behind such numbers, and all of it."""

    def take(self) -> list[_Waiting]:
        """The likeliest beginnings that the median depends on; none when the answer stands."""
        count = min(PLACES_PER_ROUND, MOST_EXPANSIONS - self._looked_at)
        if count <= 0 or not self._waiting:
            return []
        if self._looked_at:
            low, high = self._median_lies_within()
            if low == high:
                return []
            open_ones = [
                each
                for each in self._waiting
                if each.mass >= self._least and each.lowest <= high and each.highest >= low
            ]
        else:
            open_ones = self._waiting
        taken = heapq.nlargest(count, open_ones, key=lambda each: each.mass)
        chosen = {id(each) for each in taken}
        self._waiting = [each for each in self._waiting if id(each) not in chosen]
        self._looked_at += len(taken)
        return taken

    def look(self, waiting: _Waiting, logs: Logs, branches: Branches, ends: NDArray[np.int64]) -> None:
        """Share the mass of a place between its end and what follows it."""
        mass, place = waiting.mass, waiting.place
        if not math.isnan(place.value):
            ended = mass * float(np.exp(logs[ends].astype(np.float64)).sum())
            self._end([place.text], np.array([place.value]), np.array([ended]))
            counted = self._went_on.setdefault((len(place.text), place.text[:2]), [0.0, 0.0])
            counted[0] += max(0.0, mass - ended)
            counted[1] += mass
        masses = mass * np.exp(logs[branches.tokens].astype(np.float64))
        if not place.ids:
            self._least = LEAST_MASS * float(masses.sum())
        final = np.flatnonzero(branches.is_final & ~np.isnan(branches.values))
        self._end([branches.places[at].text for at in final], branches.values[final], masses[final])
        self._waiting += [
            _Waiting(float(masses[at]), branches.places[at]) for at in np.flatnonzero(~branches.is_final).tolist()
        ]

    def _end(self, texts: list[str], values: Values, masses: Values) -> None:
        self._texts += texts
        self._values.append(values)
        self._masses.append(masses)

    def answer(self) -> Decoded:
        """The weighted median. Of a beginning that was not looked at, as much goes on, to a number of one digit more,
        as did behind numbers of its length that begin alike; of what is no number yet, all."""
        masses = np.array([each.mass for each in self._waiting])
        on = np.array([self._share_that_goes_on(each.place) for each in self._waiting])
        read = [each.place.text for each in self._waiting]
        further = [text + "5" for text in read]
        values = [*self._values, np.array([_value(text) for text in (*read, *further)], np.float64)]
        shares = np.concatenate([*self._masses, masses * (1 - on), masses * on])
        return weighted_median([*self._texts, *read, *further], np.nan_to_num(np.concatenate(values)), shares)

    def _share_that_goes_on(self, place: Place) -> float:
        if math.isnan(place.value):
            return 1.0
        went_on, counted = self._went_on.get((len(place.text), place.text[:2]), (0.0, 0.0))
        return went_on / counted if counted else 0.0

    def _median_lies_within(self) -> tuple[float, float]:
        """The median if every open beginning ended as low as it can, and if as high; equal when nearly all is read."""
        ended = np.concatenate(self._masses) if self._masses else np.empty(0)
        values = np.concatenate(self._values) if self._values else np.empty(0)
        open_masses = np.array([each.mass for each in self._waiting])
        total = float(ended.sum() + open_masses.sum())
        if float(ended.sum()) >= ENOUGH_MASS * total:
            return 0.0, 0.0
        masses = np.concatenate([ended, open_masses])
        found = []
        for side in ([each.lowest for each in self._waiting], [each.highest for each in self._waiting]):
            places = np.concatenate([values, np.array(side, np.float64)])
            order = np.argsort(places, kind="stable")
            at = min(int(np.searchsorted(np.cumsum(masses[order]), total / 2)), len(order) - 1)
            found.append(float(places[order[at]]))
        return found[0], found[1]


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
