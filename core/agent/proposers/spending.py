"""What language models cost: the transcript of every call in the workspace, the price list, and the caps.

Called by the proposers that speak to language models, and by `slm-ar doctor`. Promises: a call stands in the
transcript, with the most that it may cost, before its first byte is sent; what it did cost replaces that when it has
ended; a call that a kill cut off goes on counting as the most. So a sum over the file is never too low.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from ...errors import BudgetError, ProposerError

TRANSCRIPT_FILE = "proposer.jsonl"
PRICES_FILE = "prices.toml"
_TOKENS_BESIDE_THE_BODY = 2000
"""What a server may add to a request of its own, such as the words that explain tools to the model."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of one call or of many, by what they are charged as."""

    input: int = 0
    cache_write: int = 0
    cache_read: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        return self.input + self.cache_write + self.cache_read + self.output

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.cache_write + other.cache_write,
            self.cache_read + other.cache_read,
            self.output + other.output,
        )


def most_tokens(body_bytes: int, output_tokens: int) -> Tokens:
    """The most that a call can take: no token is shorter than a byte, and all of it may have to enter the cache."""
    return Tokens(cache_write=body_bytes + _TOKENS_BESIDE_THE_BODY, output=output_tokens)


# --- prices ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens."""

    input: float
    cache_write: float
    cache_read: float
    output: float
    long_above: int | None = None
    """Tokens of a prompt beyond which the whole call costs `long_factor` times as much."""
    long_factor: float = 1.0

    def dollars(self, tokens: Tokens) -> float:
        """What one call of so many tokens costs."""
        is_long = self.long_above is not None and tokens.total - tokens.output > self.long_above
        dollars = (
            tokens.input * self.input
            + tokens.cache_write * self.cache_write
            + tokens.cache_read * self.cache_read
            + tokens.output * self.output
        ) / 1e6
        return dollars * self.long_factor if is_long else dollars


@dataclass(frozen=True, slots=True)
class PriceList:
    """The dated list that comes with the package."""

    as_of: str
    source: str
    default: str
    """The model of the proposer `claude` when the recipe names none."""
    models: Mapping[str, Price]


@cache
def price_list() -> PriceList:
    """The list, read once."""
    text = resources.files("slm_ar.core.agent.proposers").joinpath(PRICES_FILE).read_text(encoding="utf-8")
    table = tomllib.loads(text)
    models = {name: Price(**row) for name, row in table["models"].items()}
    return PriceList(str(table["as_of"]), table["source"], table["default"], models)


# --- the transcript -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the transcript's two lines tell it."""

    number: int
    campaign: str
    model: str
    tokens: Tokens
    """What it took; while its end is not written down, the most that it may take."""
    is_open: bool


@dataclass(frozen=True, slots=True)
class Spent:
    """What one campaign has spent on calls so far."""

    calls: int
    tokens: Tokens
    dollars: float
    """Of the calls to models that are on the price list; the cap is for these."""
    unpriced: int
    """Calls to models that are not on it, whose cost is unknown."""

    @property
    def words(self) -> str:
        """For people: `3 calls, 41,200 tokens, $0.12`."""
        cost = f"${self.dollars:.2f}"
        if self.unpriced:
            cost = f"{cost} and {self.unpriced} of unknown cost" if self.unpriced < self.calls else "cost unknown"
        return f"{self.calls} call{'s' * (self.calls != 1)}, {self.tokens.total:,} tokens, {cost}"


class Transcript:
    """All calls of one workspace, in `folder`/proposer.jsonl; their requests lie in the ledger, by digest.

    Each line is read once: what another object or process adds is read when it is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / TRANSCRIPT_FILE
        self._calls: dict[int, Call] = {}
        self._file_number = 0
        self._read_bytes = self._read_lines = 0

    def begin(self, campaign: str, model: str, host: str, request: str, most: Tokens) -> int:
        """Write down a call that is about to be sent; its number. `request` names the body in the ledger."""
        number = max((call.number for call in self.calls()), default=0) + 1
        self._append(
            {
                "event": "sent",
                "call": number,
                "at": _now(),
                "campaign": campaign,
                "model": model,
                "host": host,
                "request": request,
                "most_tokens": asdict(most),
            }
        )
        return number

    def end(self, number: int, tokens: Tokens | None, facts: Mapping[str, Any]) -> None:
        """Write down how a call ended; without `tokens` it goes on counting as the most that it may have taken."""
        measured = asdict(tokens) if tokens is not None else None
        self._append({"event": "ended", "call": number, "at": _now(), "tokens": measured, **facts})

    def calls(self) -> Iterator[Call]:
        """All calls, oldest first. Raises ProposerError for a file that cannot be trusted to hold all of them."""
        for line in self._new_lines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                place = self._read_lines + 1
                self._forget()  # so that the next question finds it too
                raise ProposerError(
                    f"{self._file}, line {place}: this is no line of a transcript, so what was spent is not known",
                    "restore the file, or move it away to begin counting anew",
                ) from None
            self._read_bytes += len(line) + 1
            self._read_lines += 1
        return iter(list(self._calls.values()))

    def spent(self, campaign: str) -> Spent:
        """What the calls of one campaign took."""
        prices = price_list().models
        calls = [call for call in self.calls() if call.campaign == campaign]
        tokens, dollars = Tokens(), 0.0
        unpriced = 0
        for call in calls:
            tokens += call.tokens
            if call.model in prices:
                dollars += prices[call.model].dollars(call.tokens)
            else:
                unpriced += 1
        return Spent(len(calls), tokens, dollars, unpriced)

    def _take(self, body: Any) -> None:
        """Bring the calls up to one more line."""
        number = int(body["call"])
        if body["event"] == "sent":
            most = Tokens(**body["most_tokens"])
            self._calls[number] = Call(number, body["campaign"], body["model"], most, is_open=True)
        elif number in self._calls:
            known = self._calls[number]
            tokens = Tokens(**body["tokens"]) if body["tokens"] is not None else known.tokens
            self._calls[number] = Call(number, known.campaign, known.model, tokens, is_open=False)

    def _new_lines(self) -> list[bytes]:
        """Whole lines behind what was read. One that a power failure cut short was never sent: its write had not come
        back. Another file in the place of the one that was read is read from its beginning."""
        try:
            with self._file.open("rb") as file:
                facts = os.fstat(file.fileno())
                if facts.st_ino != self._file_number or facts.st_size < self._read_bytes:
                    self._forget()
                    self._file_number = facts.st_ino
                file.seek(self._read_bytes)
                return file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            self._forget()
            return []

    def _forget(self) -> None:
        self._calls = {}
        self._file_number = self._read_bytes = self._read_lines = 0

    def _append(self, body: Mapping[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(body, allow_nan=False).encode() + b"\n"
        with self._file.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.truncate(self._last_break(file.name) + 1)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _last_break(name: str) -> int:
        return Path(name).read_bytes().rfind(b"\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- caps -----------------------------------------------------------------------------------


def refuse_overspending(spent: Spent, most: Tokens, model: str, most_tokens: int, most_dollars: float) -> None:
    """Raise BudgetError when a call that takes the most it can would go beyond one of the campaign's caps."""
    if spent.tokens.total + most.total > most_tokens:
        raise BudgetError(
            f"the next call may take {most.total:,} tokens; {spent.tokens.total:,} of this campaign's "
            f"{most_tokens:,} are spent",
            "raise campaign_tokens in [proposer] of recipe.toml to go on",
        )
    price = price_list().models.get(model)
    if price is None:
        return
    worst = price.dollars(most)
    if spent.dollars + worst > most_dollars:
        raise BudgetError(
            f"the next call may cost ${worst:.2f}; ${spent.dollars:.2f} of this campaign's ${most_dollars:.2f} "
            "are spent",
            "raise campaign_usd in [proposer] of recipe.toml to go on",
        )


def refuse_beyond_night(spent: Spent, before: float, most: Tokens, model: str, most_dollars: float) -> None:
    """Raise BudgetError when a call that takes the most it can would cost this night more than its own cap.

    `before`: dollars of the campaign when the night began.
    """
    price = price_list().models.get(model)
    worst = price.dollars(most) if price is not None else math.inf
    tonight = spent.dollars - before
    if tonight + worst > most_dollars:
        raise BudgetError(
            f"the next call may cost ${worst:.2f}; ${tonight:.2f} of this night's ${most_dollars:.2f} (--budget-usd) "
            "are spent",
            "the same command is another night",
        )
