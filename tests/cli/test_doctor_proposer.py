"""`slm-ar doctor --proposer`: what is wrong is found beforehand, nothing is spent, and no key is shown."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from agent_programs import as_program, make_program
from commands_in_process import Command, told
from fake_messages import FakeServer, fake_messages_server, raw, status
from toys import make_toy_workspace

from slm_ar.core.agent.proposers import checkup, endpoint
from slm_ar.core.egress import Ledger

CANARY = "sk-ant-canary-0123456789-secret"
SONNET = {"id": "claude-sonnet-5-5", "type": "model", "lifecycle": "active", "max_input_tokens": 1_000_000}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    monkeypatch.delenv("SLM_AR_LOCAL_KEY", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    with fake_messages_server() as fake:
        fake.models = [SONNET, {"id": "qwen3-coder"}]
        monkeypatch.setattr(endpoint, "CLAUDE_ADDRESS", fake.address)
        monkeypatch.setattr(endpoint, "is_anthropic", lambda address: address.startswith(fake.address))
        yield fake


def test_a_proposer_that_can_be_used(slm_ar: Command, server: FakeServer, tmp_path: Path) -> None:
    ended = slm_ar("doctor", "--proposer", "claude")
    assert ended.code == 0, ended
    for words in (
        "accepts the key",
        "active, reads 1,000,000 tokens",
        "$2 / $10 per million",
        "$5.00",
        "no call so far",
    ):
        assert words in ended.out
    assert [(asked.method, asked.path) for asked in server.asked] == [("GET", "/v1/models/claude-sonnet-5-5")]
    assert CANARY not in ended.text
    assert len(list(Ledger(tmp_path / "cache").entries())) == 1, "also what asks for nothing but a name is written down"


def test_in_a_workspace_its_recipe_counts(slm_ar: Command, server: FakeServer, tmp_path: Path) -> None:
    proposer = {"name": "local", "model": "qwen3-coder", "base_url": server.address, "campaign_tokens": 1234}
    root = make_toy_workspace(tmp_path / "work", proposer=proposer)
    ended = slm_ar("doctor", "--proposer", "local", "--json", folder=root)
    found = json.loads(ended.out)
    assert (ended.code, found["usable"]) == (0, True), found
    words = {check["name"]: check["words"] for check in found["checks"]}
    assert "qwen3-coder is among them" in words["model"] and "1,234 tokens" in words["cost"]
    assert CANARY not in str(server.asked[0].headers)
    assert len(list(Ledger(root / ".slm").entries())) == 1


def test_models_that_are_not_there(slm_ar: Command, server: FakeServer) -> None:
    claude = slm_ar("doctor", "--proposer", "claude", "--model", "claude-sonet")
    assert claude.code == 6 and "has no model 'claude-sonet'" in claude.out and "set model" in claude.out
    local = slm_ar("doctor", "--proposer", "local", "--base-url", server.address, "--model", "llama")
    assert local.code == 6 and "llama is not among them" in local.out
    assert "claude-sonnet-5-5, qwen3-coder" in local.out


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (status(401, "authentication_error", f"bad {CANARY}"), "does not accept the key"),
        (status(403, "permission_error"), "does not allow this key"),
        (status(529, "overloaded_error"), "has trouble (529)"),
        (raw(b"<html>", kind="text/html"), "not one of the Messages protocol"),
        (raw(b"[1]", kind="application/json"), "not one of the Messages protocol"),
        (raw(b"{half", kind="application/json"), "not one of the Messages protocol"),
    ],
)
def test_what_a_server_says_is_told_at_once(slm_ar: Command, server: FakeServer, step: object, words: str) -> None:
    server.steps = [step]  # type: ignore[list-item]
    ended = slm_ar("doctor", "--proposer", "claude")
    assert ended.code == 6 and words in ended.out and "->" in ended.out, ended
    assert CANARY not in ended.text and len(server.asked) == 1


def test_a_local_server_that_lists_no_models_may_still_do(slm_ar: Command, server: FakeServer) -> None:
    server.steps = [status(404)]
    ended = slm_ar("doctor", "--proposer", "local", "--base-url", server.address, "--model", "m")
    assert ended.code == 0 and "m is not checked" in ended.out


def test_nothing_there_no_key_no_network(
    slm_ar: Command, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with fake_messages_server() as gone:
        pass
    ended = slm_ar("doctor", "--proposer", "local", "--base-url", gone.address, "--model", "m")
    assert ended.code == 6 and "nothing answers at" in ended.out
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    ended = slm_ar("doctor", "--proposer", "claude")
    assert ended.code == 6 and "ANTHROPIC_API_KEY is not set" in ended.out and not server.asked


@pytest.mark.parametrize("address", ["http://256.1.1.1:3", "http://127.0.0.1:1/a\x1bb"])
def test_an_address_that_only_looks_like_one(slm_ar: Command, address: str) -> None:
    ended = slm_ar("doctor", "--proposer", "local", "--model", "m", "--base-url", address)
    assert ended.code == 2 and "is not the address of a server" in ended.error and "\x1b" not in ended.error


def test_what_needs_nothing_and_what_does_not_exist(slm_ar: Command) -> None:
    assert slm_ar("doctor", "--proposer", "search").code == 0
    told(slm_ar("doctor", "--proposer", "clade"), 2, "no proposer 'clade'", "Did you mean 'claude'?")
    told(slm_ar("doctor", "--model", "m"), 2, "belong to a proposer")


def test_run_tells_a_missing_key_before_anything_is_read(
    slm_ar: Command, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    root = make_toy_workspace(tmp_path / "work", proposer={"name": "claude"})
    told(slm_ar("run", folder=root), 6, "ANTHROPIC_API_KEY is not set", 'name = "search"')
    assert not (root / ".slm" / "data").exists()


def test_new_tells_that_a_key_could_be_used(
    slm_ar: Command, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = slm_ar("new", "one", "--adapter", "text")
    assert 'name = "claude"' in ended.out and "doctor --proposer claude" in ended.out and CANARY not in ended.text
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert "claude" not in slm_ar("new", "two", "--adapter", "text").out
    assert not server.asked


# --- programs -------------------------------------------------------------------------------


def test_a_program_is_asked_for_its_version_alone(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(tmp_path / "bin", "raise SystemExit('it was asked for more')", "claude")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MY_KEY", CANARY)
    ended = slm_ar("doctor", "--proposer", "cli:claude", "--model", "opus")
    assert ended.code == 0, ended
    for words in (
        str(tmp_path / "bin" / "claude"),
        "stand-in 1.2.3",
        "-p TASK --permission-mode",
        "--model opus",
        "HOME",
    ):
        assert words in ended.out
    keys = {"name": "cli:claude", "pass_environment": ["MY_KEY", "NOT_SET_ANYWHERE"], "command": ["claude"]}
    root = make_toy_workspace(tmp_path / "work", proposer=keys)
    ended = slm_ar("doctor", "--proposer", "cli:claude", "--json", folder=root)
    checks = {check["name"]: check for check in json.loads(ended.out)["checks"]}
    assert ended.code == 6 and not checks["variables"]["is_fine"] and "NOT_SET_ANYWHERE" in checks["variables"]["words"]
    assert checks["called as"]["words"].endswith("claude < TASK")
    assert CANARY not in ended.text and not (root / ".slm" / "egress.jsonl").exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "no version told"),
        ("import time; time.sleep(600)", "not ready within"),
        ("import sys; sys.exit('no such option')", "exit code 1: no such option"),
    ],
)
def test_a_program_that_is_not_what_it_seems(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    path = make_program(tmp_path / "bin", "", "codex")
    path.write_text(as_program(f"{body}\n"), encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(checkup, "VERSION_SECONDS", 2.0 if "sleep" in body else 60.0)
    ended = slm_ar("doctor", "--proposer", "cli:codex")
    assert ended.code == (0 if not body else 6) and words in ended.out, ended


def test_outside_a_workspace_nothing_is_kept_from_a_program(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the command is given in the home folder, above it, or in the folder for temporary files."""
    path = make_program(tmp_path / "bin", "", "codex")
    path.write_text(as_program("import os\nprint(os.environ['HOME'])\n"), encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, value in (("HOME", "/h"), ("TMPDIR", str(tmp_path)), ("PATH", str(tmp_path / "bin"))):
        monkeypatch.setenv(name, value)
    for here in (tmp_path, Path("/")):
        monkeypatch.chdir(here)
        assert checkup.installed_with_versions() == ["codex (/h)"]


def test_what_is_handed_to_a_program_is_not_shown(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_program(tmp_path / "bin", "", "own")
    path.write_text(as_program("import os\nprint('1.2', os.environ['MY_LOGIN'])\n"), encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("MY_LOGIN", "abracadabra")
    command = ["own", "--note", "two words", "--key", "abracadabra"]
    proposer = {"name": "cli:own", "command": command, "pass_environment": ["MY_LOGIN"]}
    ended = slm_ar("doctor", "--proposer", "cli:own", folder=make_toy_workspace(tmp_path / "work", proposer=proposer))
    assert (
        ended.code == 0
        and "1.2 [key]" in ended.out
        and "own --note 'two words' --key [key] < TASK" in ended.out
        and "abracadabra" not in ended.text
    )


def test_a_program_that_is_not_there(slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = slm_ar("doctor", "--proposer", "cli:gemini")
    assert ended.code == 6 and "not on PATH" in ended.out and "npm install -g @google/gemini-cli" in ended.out
    ended = slm_ar("doctor", "--proposer", "cli:claud")
    assert ended.code == 6 and "Did you mean 'cli:claude'?" in ended.out


def test_those_that_let_others_propose(slm_ar: Command, tmp_path: Path) -> None:
    assert slm_ar("doctor", "--proposer", "human").code == 0
    ended = slm_ar("doctor", "--proposer", "hybrid")
    assert ended.code == 6 and 'set with = "claude"' in ended.out
    root = make_toy_workspace(tmp_path / "work", proposer={"name": "replay", "recording": "none.jsonl"})
    ended = slm_ar("doctor", "--proposer", "replay", folder=root)
    assert ended.code == 6 and "none.jsonl cannot be read" in ended.out


def test_installed_programs_are_mentioned_by_new(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("codex", "opencode"):
        make_program(tmp_path / "bin", "raise SystemExit('must not be started')", name)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    ended = slm_ar("new", "work", "--adapter", "text")
    assert ended.code == 0 and "installed here: codex, opencode" in ended.out
    assert "slm-ar doctor --proposer cli:codex" in ended.out and "a key for Claude" not in ended.out
    assert checkup.installed_with_versions() == ["codex (stand-in 1.2.3)", "opencode (stand-in 1.2.3)"]
