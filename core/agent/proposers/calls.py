"""One question to a language model: capped, recorded, sent, waited for, and tried again when waiting may help.

Called by messages.py. Promises: before a request leaves, the caps hold for the most that it may take, and ledger and
transcript know it; afterwards the transcript holds what came back, also when that was an error or half an answer; after
the time that the recipe allows for waiting, the failure is raised with the line that repairs it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...egress import Ledger
from ...recipe import ProposerTable
from .endpoint import CallError, Endpoint, Failure, explained, open_client
from .spending import Tokens, Transcript, most_tokens, refuse_beyond_night, refuse_overspending

PURPOSE = "asks for an edit of train.py"
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 120.0
MOST_DEPTH = 50
"""Lists within lists in an answer. A deeper one could be read where it arrives and not where the file is read again."""
MOST_GARBLED = 3
"""Tries before an answer that nobody can read is taken for what this server says."""
LOCAL_WAIT_SECONDS = 60.0
"""A server on this machine that is not there will not come back by itself."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a proposer that asks a language model needs besides the context."""

    table: ProposerTable
    folder: Path
    """The workspace's .slm folder: ledger and transcript lie there."""
    campaign: str
    """Identity of the campaign, which the caps are for."""
    tell: Callable[[str], None] = lambda line: None
    """Gets a line for people when there is something to say."""
    stop_at: float | None = None
    """time.monotonic() of the moment after which the night wants nothing new."""
    night_usd: float | None = None
    """Dollars that this night may cost, whatever is left of the campaign's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, with every text free of the key."""

    stop_reason: str
    content: Sequence[Mapping[str, Any]]


class TimeIsUpError(Exception):
    """The night's end came before an answer; it says what was waited for."""


class Caller:
    """Asks one endpoint on behalf of one campaign."""

    def __init__(self, endpoint: Endpoint, setting: Setting) -> None:
        self.endpoint, self.setting = endpoint, setting
        self.transcript = Transcript(setting.folder)
        self._ledger = Ledger(setting.folder)
        # What a night before has spent, a killed one too, is not this one's.
        self._before_tonight = self.transcript.spent(setting.campaign).dollars if setting.night_usd is not None else 0.0
        self._call: int | None = None

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Send a request of the Messages API and wait for its answer.

        Raises CallError for what waiting does not mend, BudgetError at a cap, TimeIsUpError, OSError of the disk.
        """
        started = time.monotonic()
        for attempt in itertools.count(1):
            if self._seconds_left <= 0:
                raise TimeIsUpError("the time was up before the next question")
            try:
                return self._asked_once(request)
            except CallError as failure:
                self._wait_for_another_try(failure, attempt, started)
        raise AssertionError("unreachable")

    def _wait_for_another_try(self, failure: CallError, attempt: int, started: float) -> None:
        """Sleep until it is worth asking again. Raises `failure` when it is not, TimeIsUpError past the night's end."""
        if failure.kind is Failure.REFUSED or (failure.kind is Failure.GARBLED and attempt >= MOST_GARBLED):
            raise failure
        wait = 60 * self.setting.table.wait_minutes
        if failure.kind is Failure.ABSENT and self.endpoint.is_on_this_machine:
            wait = min(wait, LOCAL_WAIT_SECONDS)
        # A server may ask for more patience, not for less: told "now" for ever, we would ask as fast as we can.
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, 10))
        pause = max(pause, failure.pause or 0.0)
        wakes = time.monotonic() + pause
        if self.setting.stop_at is not None and wakes > self.setting.stop_at:
            self.setting.tell(f"{failure.error.message}; the time is up")
            raise TimeIsUpError(f"{failure.error.message}; the time was up before it could be asked again") from failure
        if wakes > started + wait:
            raise failure
        self.setting.tell(f"{failure.error.message}; asking again in {pause:.0f} s")
        time.sleep(pause)

    @property
    def _seconds_left(self) -> float:
        """Until the night wants nothing new."""
        return math.inf if self.setting.stop_at is None else self.setting.stop_at - time.monotonic()

    def _asked_once(self, request: Mapping[str, Any]) -> Answer:
        started = time.monotonic()
        self._call = None
        message: Any = None
        try:
            with (
                warnings.catch_warnings(action="ignore"),  # of pydantic, about servers that answer loosely
                open_client(self.endpoint, self._before, most_seconds=self._seconds_left) as client,
                client.messages.stream(**request) as stream,
            ):
                for _ in stream:
                    message = stream.current_message_snapshot
        except Exception as error:
            # Whatever the SDK stumbles over in an answer, a server sent it: it must not end the campaign.
            failure = explained(error, self.endpoint)
            failure.has_begun = message is not None
            self._write_end(message, started, failure)
            raise failure from None
        if message is None or message.stop_reason is None:
            failure = explained(_cut_off(), self.endpoint)
            self._write_end(message, started, failure)
            raise failure
        self._write_end(message, started, None)
        return Answer(self._stop_reason(message), self._content(message))

    def _stop_reason(self, message: Any) -> str:
        value = getattr(message, "stop_reason", None)
        return self.endpoint.redacted(value)[:60] if isinstance(value, str) else ""

    def _before(self, body: bytes) -> None:
        """The last stop before the wire."""
        table, endpoint = self.setting.table, self.endpoint
        most = most_tokens(len(body), table.output_tokens)
        spent = self.transcript.spent(self.setting.campaign)
        refuse_overspending(spent, most, endpoint.model, table.campaign_tokens, table.campaign_usd)
        if self.setting.night_usd is not None:
            refuse_beyond_night(spent, self._before_tonight, most, endpoint.model, self.setting.night_usd)
        self._ledger.record(endpoint.host, PURPOSE, body)
        digest = hashlib.sha256(body).hexdigest()
        self._call = self.transcript.begin(self.setting.campaign, endpoint.model, endpoint.host, digest, most)

    def _write_end(self, message: Any, started: float, failure: CallError | None) -> None:
        if self._call is None:
            return
        tokens: Tokens | None = None
        if failure is None:
            tokens = _tokens(message.usage)
        elif not failure.is_charged:
            tokens = Tokens()
        facts = {
            "stop_reason": self._stop_reason(message),
            "content": self._content(message),
            "error": failure.error.message if failure is not None else "",
            "status": failure.status if failure is not None else 200,
            "seconds": round(time.monotonic() - started, 1),
        }
        self.transcript.end(self._call, tokens, facts)

    def _content(self, message: Any) -> list[dict[str, Any]]:
        """Content blocks as plain data. They pass through JSON as one text, so that no key, no half character and no
        number that is none survives in any corner of them."""
        try:
            blocks = [_plain_block(block) for block in getattr(message, "content", None) or ()]
            text = json.dumps(blocks, default=str, ensure_ascii=False).encode("utf-8", "replace").decode()
            if _depth(text) > MOST_DEPTH:
                return [{"type": "unreadable"}]
            plain: list[dict[str, Any]] = json.loads(self.endpoint.redacted(text), parse_constant=str)
        except Exception:  # a server can put anything there, and nothing that it puts there may end the campaign
            return [{"type": "unreadable"}]
        return plain


def _cut_off() -> Exception:
    import httpx2

    return httpx2.RemoteProtocolError("it ended before its end was said")


def _depth(text: str) -> int:
    """How deep the lists and objects of a JSON text lie in each other; brackets in its strings do not count."""
    deepest = depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        depth += 1 if found[0] in "[{" else -1 if found[0] in "]}" else 0
        deepest = max(deepest, depth)
    return deepest


def _plain_block(block: Any) -> dict[str, Any]:
    found = block.to_dict(warnings=False) if hasattr(block, "to_dict") else block
    return dict(found) if isinstance(found, Mapping) else {"type": "unknown"}


def _tokens(usage: Any) -> Tokens | None:
    """The usage of a whole answer; None, which counts as the most, when a server tells none that makes sense."""
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
    counts = [getattr(usage, name, None) or 0 for name in names]
    if not all(isinstance(count, int) and 0 <= count < 1 << 40 for count in counts) or not any(counts):
        return None
    return Tokens(*counts)
