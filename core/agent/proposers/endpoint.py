"""Where a language model is asked: address, key, the door that every request goes through, and what errors mean.

Called by messages.py and by `slm-ar doctor --proposer`. Promises: a key for Anthropic goes to Anthropic's hosts over
https and to nobody else, whatever the environment says; nothing is sent that the ledger does not hold; no redirect is
followed; an answer has a size and a time limit; no text of an error holds a key.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ... import egress
from ...errors import ProposerError, SlmArError, UsageError
from ...recipe import ProposerTable
from .answers import one_line
from .hangup import HangUp
from .spending import price_list

if TYPE_CHECKING:
    import anthropic
    import httpx2

KEY_VARIABLE = "ANTHROPIC_API_KEY"
LOCAL_KEY_VARIABLE = "SLM_AR_LOCAL_KEY"
CLAUDE_ADDRESS = "https://api.anthropic.com"
LOCAL_ADDRESS = "http://localhost:11434"
MOST_ANSWER_BYTES = 16_000_000
CALL_SECONDS = 1800.0
"""Longest one call may take from its first byte to its last; a model on a laptop's CPU is slow."""
SILENCE_SECONDS = 600.0
"""Longest wait for the next bytes: a local server says nothing while it reads the prompt."""
CLAUDE_SILENCE_SECONDS = 120.0
"""Anthropic's servers say that they are alive every few seconds."""
CONNECT_SECONDS = 10.0
_HEADERS = frozenset(
    {"host", "accept", "connection", "content-length", "content-type", "anthropic-version", "anthropic-beta"}
)
"""All that goes out besides authorization, accept-encoding and our own name: the SDK would tell system and versions."""
_RETRIED = frozenset({408, 409, 425, 429})
_STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks the Messages protocol, and how it is addressed. Its repr holds no key."""

    proposer: str
    address: str
    model: str
    is_claude: bool
    """Whether it is Anthropic's own: caching, effort and strict tools are asked for, temperature is not."""
    key: str = field(repr=False)

    @property
    def host(self) -> str:
        """Name and port, as the ledger and messages tell it."""
        return urlsplit(self.address).netloc

    @property
    def is_on_this_machine(self) -> bool:
        return egress.is_loopback(urlsplit(self.address).hostname)

    def redacted(self, text: str) -> str:
        """`text` without the key, should a server have sent it back."""
        return text.replace(self.key, "[key]") if len(self.key) > 8 else text


def find_endpoint(table: ProposerTable) -> Endpoint:
    """The server that a recipe's [proposer] names, with the key for it. Raises UsageError and ProposerError.

    Nothing is sent.
    """
    address = _address(table)
    if table.name == "claude":
        if not is_anthropic(address):
            raise UsageError(
                f"proposer claude sends its key to Anthropic's hosts alone, not to {address}",
                'take base_url out of [proposer], or write name = "local" for another server',
            )
        model, key = table.model or price_list().default, _claude_key()
    else:
        if table.model is None:
            raise UsageError(
                "proposer local needs to know which model to ask",
                'set model = "NAME" in [proposer] of recipe.toml, such as the names that `ollama list` prints',
            )
        model, key = table.model, _local_key(address)
    endpoint = Endpoint(table.name, address, model, table.name == "claude", key)
    if egress.is_offline() and not endpoint.is_on_this_machine:
        raise egress.refusal(endpoint.host)
    return endpoint


def is_anthropic(address: str) -> bool:
    """Whether an address is one of Anthropic's, over https."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return parts.scheme == "https" and (host == "anthropic.com" or host.endswith(".anthropic.com"))


def _address(table: ProposerTable) -> str:
    given = table.base_url or (CLAUDE_ADDRESS if table.name == "claude" else LOCAL_ADDRESS)
    try:
        parts = urlsplit(given.strip())
        is_usable = parts.scheme in ("http", "https") and parts.port != 0
        is_usable &= re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", parts.hostname or "") is not None
    except ValueError:
        is_usable = False
    if not is_usable or "@" in given or parts.query or parts.fragment:
        shown = re.sub(r"//.*@", "//...@", given.partition("?")[0])  # what stands there may be a key
        raise UsageError(
            f"base_url {shown!r} is not the address of a server",
            f'write it as base_url = "{LOCAL_ADDRESS}": scheme, host and port, and no key in it',
        )
    return given.strip().rstrip("/").removesuffix("/v1")


def _claude_key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ProposerError(
            f"proposer claude needs a key, and {KEY_VARIABLE} is not set",
            f'export {KEY_VARIABLE}=... in this shell, or write name = "search" in [proposer]: it needs none',
        )
    return _plain(key, KEY_VARIABLE)


def _local_key(address: str) -> str:
    """The key for a local server, which most do not look at. A key of Anthropic's is none."""
    key = os.environ.get(LOCAL_KEY_VARIABLE, "").strip()
    if not key:
        return "local"
    known = {os.environ.get(name, "").strip() for name in (KEY_VARIABLE, "ANTHROPIC_AUTH_TOKEN")}
    if key in known or key.startswith("sk-ant-"):
        raise UsageError(
            f"{LOCAL_KEY_VARIABLE} holds a key of Anthropic's, which is not sent to {address}",
            f"unset {LOCAL_KEY_VARIABLE}, or set it to the key of that server",
        )
    return _plain(key, LOCAL_KEY_VARIABLE)


def _plain(key: str, variable: str) -> str:
    if not all("!" <= sign <= "~" and sign not in '"\\' for sign in key):
        raise ProposerError(
            f"{variable} holds spaces or signs that no key has", f"export {variable} again, in one piece"
        )
    return key


# --- the door -------------------------------------------------------------------------------


def open_client(
    endpoint: Endpoint,
    before: Callable[[bytes], None],
    now: Callable[[], float] = time.monotonic,
    most_seconds: float = CALL_SECONDS,
) -> anthropic.Anthropic:
    """The SDK's client for an endpoint. `before` gets every body before it is sent; what it raises keeps it here.

    `most_seconds`: how long an answer may take, where that is less than CALL_SECONDS.

    Raises UsageError for an address that cannot be asked.
    """
    import anthropic
    import httpx2

    try:
        wanted = httpx2.URL(endpoint.address)
    except httpx2.InvalidURL as error:  # what the standard library lets pass, such as 256.1.1.1
        raise UsageError(
            f"base_url {endpoint.address!r} is not the address of a server: {one_line(str(error), 120)}",
            f'write it as base_url = "{LOCAL_ADDRESS}": scheme, host and port',
        ) from None

    def leaving(request: httpx2.Request) -> None:
        # The last look at what goes out, by the parser that connects. The environment can make the SDK add headers.
        url = request.url
        is_elsewhere = (url.scheme, url.host, url.port) != (wanted.scheme, wanted.host, wanted.port)
        if is_elsewhere or (endpoint.is_claude and not is_anthropic(str(url))):
            raise UsageError(f"{url.host} is not asked: the recipe names {endpoint.host}", "correct base_url")
        for name in [name for name in request.headers if name.lower() not in _HEADERS]:
            del request.headers[name]
        request.headers["user-agent"] = "slm-ar"
        request.headers["accept-encoding"] = "identity"
        request.headers["authorization"] = f"Bearer {endpoint.key}"
        request.extensions["trace"] = hang_up.heard
        before(request.read())
        hang_up.begin()

    def arriving(response: httpx2.Response) -> None:
        kind = response.headers.get("content-type", "nothing").partition(";")[0].strip()
        if response.is_success and response.request.method == "POST" and kind != "text/event-stream":
            raise _OtherProtocolError(kind)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise httpx2.DecodingError("the answer is compressed, which was not asked for", request=response.request)
        response.stream = _bounded(response, now, min(most_seconds, CALL_SECONDS))

    class Client(httpx2.Client):
        def close(self) -> None:
            hang_up.cancel()
            super().close()

    hang_up = HangUp(min(most_seconds, CALL_SECONDS))
    silence = CLAUDE_SILENCE_SECONDS if endpoint.is_claude else SILENCE_SECONDS
    http = Client(
        event_hooks={"request": [leaving], "response": [arriving]},
        timeout=httpx2.Timeout(min(silence, max(1.0, most_seconds)), connect=CONNECT_SECONDS),
        follow_redirects=False,
        # A proxy has no business between two programs of one machine, and without TLS it would read all, the key too.
        trust_env=endpoint.address.startswith("https:") and not endpoint.is_on_this_machine,
    )
    return anthropic.Anthropic(
        api_key=endpoint.key, base_url=endpoint.address, max_retries=0, http_client=http, open_telemetry=False
    )


class _OtherProtocolError(Exception):
    """What answered is not a stream: a page of some other server, for example."""


def _bounded(response: httpx2.Response, now: Callable[[], float], most_seconds: float) -> httpx2.SyncByteStream:
    """The body of a response, which ends with an error when it is too long or takes too long."""
    import httpx2

    stream = response.stream
    assert isinstance(stream, httpx2.SyncByteStream)
    inner: httpx2.SyncByteStream = stream
    started = now()

    class Bounded(httpx2.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in inner:
                size += len(chunk)
                if size > MOST_ANSWER_BYTES:
                    raise httpx2.ReadError(f"the answer is longer than {MOST_ANSWER_BYTES:,} bytes")
                if now() - started > most_seconds:
                    raise httpx2.ReadTimeout(f"the answer took longer than {most_seconds:.0f} s")
                yield chunk

        def close(self) -> None:
            inner.close()

    return Bounded()


# --- failures -------------------------------------------------------------------------------


class Failure(StrEnum):
    """What kind of failure a call met, which decides whether it is tried again."""

    REFUSED = "refused"  # waiting does not help
    BUSY = "busy"  # waiting may help
    ABSENT = "absent"  # nothing answers at all
    GARBLED = "garbled"  # an answer came that nobody can read


class CallError(Exception):
    """A call that failed. `error` is for people; `pause` is how many seconds the server asks to wait."""

    def __init__(
        self,
        error: ProposerError,
        kind: Failure,
        is_charged: bool = True,
        pause: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error, self.kind, self.pause, self.status = error, kind, pause, status
        self.is_charged = is_charged
        """Whether the call may be charged: only where that is sure is it counted as free."""
        self.has_begun = False
        """Whether a part of an answer came before it failed."""


def explained(error: Exception, endpoint: Endpoint) -> CallError:
    """What an exception of the SDK means for a person. Our own errors and those of the disk are raised again."""
    import anthropic
    import httpx2

    for link in _chain(error):
        if isinstance(link, httpx2.HTTPError):  # below it stand the errors of sockets
            break
        if isinstance(link, SlmArError | OSError):
            raise link
    if isinstance(error, anthropic.APIStatusError):
        return _of_status(error, endpoint)
    cause: BaseException = next((link for link in _chain(error) if isinstance(link, httpx2.HTTPError)), error)
    words = one_line(endpoint.redacted(str(cause)), 200) or type(cause).__name__
    check = f"`slm-ar doctor --proposer {endpoint.proposer}` looks at it step by step"
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
        hint = f"start it, or set base_url in [proposer]; {check}" if not endpoint.is_claude else check
        return CallError(
            ProposerError(f"nothing answers at {endpoint.address}: {words}", hint), Failure.ABSENT, is_charged=False
        )
    if isinstance(cause, httpx2.TimeoutException):
        return CallError(ProposerError(f"{endpoint.host} stopped answering: {words}", check), Failure.BUSY)
    if isinstance(cause, httpx2.HTTPError):
        return CallError(ProposerError(f"the answer of {endpoint.host} broke off: {words}", check), Failure.BUSY)
    other = next((link for link in _chain(error) if isinstance(link, _OtherProtocolError)), None)
    name = f"it is {one_line(str(other), 40)}" if other is not None else type(cause).__name__
    problem = f"the answer of {endpoint.host} is not one of the Messages protocol ({name})"
    return CallError(ProposerError(problem, check), Failure.GARBLED)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _of_status(error: anthropic.APIStatusError, endpoint: Endpoint) -> CallError:
    status, host = error.status_code, endpoint.host
    began = status < 300
    if began:  # an error in the middle of a stream
        status = _STATUS_OF_TYPE.get(str(error.type), 500)
    said = one_line(endpoint.redacted(str(error.api_message or error.message or "")), 300)
    check = f"`slm-ar doctor --proposer {endpoint.proposer}`"
    variable = KEY_VARIABLE if endpoint.is_claude else LOCAL_KEY_VARIABLE
    known: dict[int, tuple[str, str]] = {
        401: (f"{host} does not accept the key in {variable}", f"export {variable}=... with a valid one, then {check}"),
        402: (f"{host} asks for payment: {said}", "top up the account that the key belongs to"),
        403: (f"{host} does not allow this key to use {endpoint.model}: {said}", f"try another model; {check}"),
        404: (
            f"{host} has no model '{endpoint.model}', or no Messages endpoint: {said}",
            f'set model = "NAME" in [proposer] of recipe.toml; {check} lists what is there',
        ),
        413: (f"{host} finds the request too large", "shorten program.md"),
        429: (f"{host} has had enough requests for now: {said}", "wait, or ask for a higher limit of the account"),
    }
    if status in known:
        words, hint = known[status]
    elif status >= 500:
        words, hint = f"{host} has trouble ({status}): {said}", "run the same command again later; nothing is lost"
    elif status < 400:
        words, hint = (
            f"{host} sends us elsewhere ({status}), which is not done",
            "set base_url to the right address",
        )
    else:
        hint = f"correct [proposer] in recipe.toml (model, effort, output_tokens); {check}"
        words = f"{host} refuses the request ({status}): {said}"
    kind = Failure.BUSY if status in _RETRIED or status >= 500 else Failure.REFUSED
    return CallError(ProposerError(words, hint), kind, began, asked_pause(error.response.headers), status)


def asked_pause(headers: Any) -> float | None:
    """Seconds that a server asks to wait: `retry-after-ms`, or `retry-after` as seconds or as a date."""
    for name, factor in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * factor
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    return None
