"""Nothing leaves this machine unrecorded, and nothing at all when a person says so."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slm_ar.core.egress import BODIES_FOLDER, LEDGER_FILE, Ledger
from slm_ar.core.recipe import load_shipped, parse_recipe, recipe_text

LOCKED = """
import asyncio, socket, sys, threading
from slm_ar.core.egress import is_offline, lock_if_asked, refuse_connections
from slm_ar.core.errors import UsageError
assert not is_offline()
refuse_connections("a test says so")
refuse_connections("a second one is not heard")
assert is_offline()
port = int(sys.argv[1])
socket.create_connection(("127.0.0.1", port), timeout=5).close()
socket.create_connection(("localhost", port), timeout=5).close()
near, far = socket.socketpair()
near.sendall(b"x"); assert far.recv(1) == b"x"
def tcp(): socket.create_connection(("192.0.2.1", 9), timeout=1)
def tcp_error_code(): socket.socket().connect_ex(("192.0.2.1", 9))
def tcp6(): socket.socket(socket.AF_INET6).connect(("2001:db8::1", 9))
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))
def message(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendmsg([b"x"], [], 0, ("192.0.2.1", 9))
def name(): socket.getaddrinfo("example.org", 80)
def old_name(): socket.gethostbyname("example.org")
def name_of_address(): socket.getnameinfo(("192.0.2.1", 9), 0)
def disguised(): socket.create_connection(("127.0.0.1.example.org", 9), timeout=1)
def coroutine(): asyncio.run(asyncio.open_connection("192.0.2.1", 9))
for attempt in (tcp, tcp_error_code, tcp6, udp, message, name, old_name, name_of_address, disguised, coroutine):
    try:
        attempt()
    except UsageError as error:
        assert "a test says so" in error.message, error
    else:
        raise SystemExit(f"{attempt.__name__} went out")
print("nothing went out")
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=60)


def test_offline_no_connection_leaves_the_loopback_interface() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = run("-c", LOCKED, str(server.getsockname()[1]))
    assert (ended.returncode, ended.stdout) == (0, "nothing went out\n"), ended.stderr


def test_every_request_is_recorded_with_what_it_held(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.summary() == "nothing" and not list(ledger.entries())
    ledger.record("hub.example", "reads the data set o/set", b"abc")
    ledger.record("hub.example", "reads the data set o/set", b"defg")
    ledger.record("api.example", "asks for an edit", b"x" * 1000)
    assert [(sent.host, sent.byte_count) for sent in ledger.entries()] == [
        ("hub.example", 3),
        ("hub.example", 4),
        ("api.example", 1000),
    ]
    assert ledger.summary() == (
        "1,000 bytes in 1 request to api.example (asks for an edit); "
        "7 bytes in 2 requests to hub.example (reads the data set o/set)"
    )
    bodies = {path.name: path.read_bytes() for path in (tmp_path / BODIES_FOLDER).iterdir()}
    assert set(bodies.values()) == {b"abc", b"defg", b"x" * 1000}
    assert all(hashlib.sha256(body).hexdigest() == name for name, body in bodies.items())


def test_a_line_cut_short_hides_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.record("a.example", "asks", b"1")
    with (tmp_path / LEDGER_FILE).open("a") as file:
        file.write(json.dumps({"at": "now"})[:9])
    assert [sent.host for sent in ledger.entries()] == ["a.example"]
    ledger.record("b.example", "asks", b"2")
    assert [sent.host for sent in ledger.entries()] == ["a.example", "b.example"]


def test_what_cannot_be_recorded_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / BODIES_FOLDER).write_text("a file in the way")
    with pytest.raises(OSError, match=BODIES_FOLDER):
        Ledger(tmp_path).record("a.example", "asks", b"1")
    assert not (tmp_path / LEDGER_FILE).exists()


def test_privacy_is_a_table_that_changes_no_result() -> None:
    text = recipe_text("text-laptop")
    offline = parse_recipe(f"{text}\n[privacy]\noffline = true\n", "test")
    assert offline.privacy.offline and not load_shipped("text-laptop").privacy.offline
    assert offline.digest() == load_shipped("text-laptop").digest()


@pytest.mark.parametrize("way", ["recipe", "environment"])
def test_commands_ask_nobody_when_offline(tmp_path: Path, way: str) -> None:
    root = tmp_path / "work"
    root.mkdir()
    text = recipe_text("text-laptop").replace("[data]", '[data]\nsource = "hub:o/set"', 1)
    if way == "recipe":
        text += "\n[privacy]\noffline = true\n"
    (root / "recipe.toml").write_text(text)
    (root / "train.py").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        variables = {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}"}
        variables |= {"SLM_AR_OFFLINE": "1"} if way == "environment" else {}
        program = str(Path(sys.executable).with_name("slm-ar"))
        ended = subprocess.run(
            [program, "prepare"], cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
        )
        with pytest.raises(TimeoutError):
            server.accept()
    assert ended.returncode == 2 and "the hub (o/set) is not asked" in ended.stderr, ended.stderr
    assert ("offline = true in [privacy] of" if way == "recipe" else "SLM_AR_OFFLINE=1") in ended.stderr
    assert not (root / ".slm" / LEDGER_FILE).exists()
