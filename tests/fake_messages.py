"""A server of the Messages API made of a script: it answers over a real socket what a test tells it, right or wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from slm_ar.core.egress import is_loopback

USAGE = {"input_tokens": 100, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 300, "output_tokens": 50}

Step = Callable[["Handler"], None]


@dataclass
class Asked:
    """One request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found


@dataclass
class FakeServer:
    """What is asked of it, and what it will answer; the last step stays when the others are used up."""

    address: str
    steps: list[Step] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [asked.body for asked in self.asked if asked.method == "POST"]


class Handler(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        fake: FakeServer = self.server.fake
        fake.asked.append(Asked("POST", self.path, dict(self.headers), raw))
        step = fake.steps.pop(0) if len(fake.steps) > 1 else fake.steps[0]
        step(self)

    def do_GET(self) -> None:
        fake: FakeServer = self.server.fake
        fake.asked.append(Asked("GET", self.path, dict(self.headers), b""))
        if fake.steps:
            fake.steps[0](self)
            return
        name = self.path.removeprefix("/v1/models").strip("/")
        if not name:
            self.send_json(200, {"data": fake.models})
            return
        found = next((model for model in fake.models if model["id"] == name), None)
        if found is not None:
            self.send_json(200, found)
        else:
            self.send_json(404, {"type": "error", "error": {"type": "not_found_error", "message": f"model: {name}"}})

    def send_json(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

    def send_event(self, body: dict[str, Any]) -> None:
        self.wfile.write(f"event: {body['type']}\ndata: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def fake_messages_server() -> Iterator[FakeServer]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that hung up is part of the script

    server = Server(("127.0.0.1", 0), Handler)
    fake = FakeServer(f"http://127.0.0.1:{server.server_address[1]}")
    server.fake = fake  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with only_this_machine():
            yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def only_this_machine() -> Iterator[None]:
    """Fails a test that asked for any other host, even where its refusal was taken for a failure of the network."""
    asked: list[str] = []
    find = socket.getaddrinfo

    def watched(host: Any, *arguments: Any, **keywords: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if not is_loopback(name):
            asked.append(name)
            raise socket.gaierror(f"a test asked for {name}")
        return find(host, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", watched)
        yield
    assert not asked, f"a test asked for {asked}"


# --- steps ----------------------------------------------------------------------------------


def events(
    blocks: list[dict[str, Any]], stop_reason: str | None = "tool_use", usage: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """The events of a streamed answer; texts and tool inputs come in two pieces."""
    usage = USAGE if usage is None else usage
    start = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1} if usage else {},
    }
    found: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        kind = block["type"]
        empty = {"tool_use": {"input": {}}, "text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}[kind]
        found.append({"type": "content_block_start", "index": index, "content_block": {**block, **empty}})
        if kind == "tool_use":
            text = block["input"] if isinstance(block["input"], str) else json.dumps(block["input"])
            for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
                delta = {"type": "input_json_delta", "partial_json": piece}
                found.append({"type": "content_block_delta", "index": index, "delta": delta})
        elif kind == "text":
            delta = {"type": "text_delta", "text": block["text"]}
            found.append({"type": "content_block_delta", "index": index, "delta": delta})
        else:
            for name in ("thinking", "signature"):
                delta = {"type": f"{name}_delta", name: block[name]}
                found.append({"type": "content_block_delta", "index": index, "delta": delta})
        found.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    output = {"output_tokens": usage.get("output_tokens", 0)} if usage else {}
    found.append({"type": "message_delta", "delta": delta, "usage": output})
    found.append({"type": "message_stop"})
    return found


def stream(found: list[dict[str, Any]]) -> Step:
    def step(handler: Handler) -> None:
        handler.begin_stream()
        for event in found:
            handler.send_event(event)

    return step


def tool(*edits: tuple[str, str], hypothesis: str = "turn it", **more: Any) -> Step:
    """An answer that calls our tool."""
    given = {"hypothesis": hypothesis, "rationale": "because", "expected_effect": "-0.01"}
    return tool_input({**given, "edits": [{"old": old, "new": new} for old, new in edits]}, **more)


def tool_input(
    given: object, stop_reason: str = "tool_use", name: str = "propose_edit", usage: dict[str, Any] | None = None
) -> Step:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    blocks = [thinking, {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}]
    return stream(events(blocks, stop_reason, usage))


def text(words: str, stop_reason: str = "end_turn") -> Step:
    return stream(events([{"type": "text", "text": words}], stop_reason))


def status(code: int, kind: str = "api_error", message: str = "no", **headers: str) -> Step:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.send_json(code, body, names)


def cut(after: int) -> Step:
    """A stream that ends after so many events, as when a connection breaks."""
    return stream(events([{"type": "text", "text": "so far"}])[:after])


def raw(content: bytes, kind: str = "text/event-stream", **headers: str) -> Step:
    """An answer of these very bytes."""

    def step(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in {"content-type": kind, "connection": "close", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return step


def silent(seconds: float) -> Step:
    def step(handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return step


def drips(count: int, pause: float) -> Step:
    """Events that say nothing, one after the other."""

    def step(handler: Handler) -> None:
        handler.begin_stream()
        for _ in range(count):
            handler.send_event({"type": "ping"})
            time.sleep(pause)

    return step
