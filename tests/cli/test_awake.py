"""The hold on the machine's sleep: it is asked for, ends with the command, and its absence is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from slm_ar.core.cli import awake

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins are shell scripts")

HOLDS = """#!/bin/sh
echo "$$ $@" > "{seen}"
while [ "${{1#--}}" != "$1" ]; do shift; done
exec "$@"
"""
CANARY = "sk-canary-of-the-test"


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemd-inhibit that writes down how it was called and then holds as the real one does."""
    seen = tmp_path / "seen"
    program = tmp_path / "bin" / "systemd-inhibit"
    program.parent.mkdir()
    program.write_text(HOLDS.format(seen=seen), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(awake.sys, "platform", "linux")
    monkeypatch.setattr(awake, "_is_on_battery", lambda: False)
    return seen


def holder_of(seen: Path) -> psutil.Process:
    return psutil.Process(int(seen.read_text(encoding="utf-8").split()[0]))


def test_the_machine_is_held_awake_and_let_go(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", CANARY)
    said: list[str] = []
    with awake.kept_awake(said.append):
        holder = holder_of(seen)
        assert "--what=sleep:idle" in seen.read_text(encoding="utf-8")
        assert CANARY not in str(holder.environ())
    assert said == []
    assert not holder.is_running()


def test_the_hold_ends_when_the_command_is_killed(seen: Path) -> None:
    code = (
        "import os, signal\nfrom slm_ar.core.cli.awake import kept_awake\n"
        "with kept_awake(print):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    with contextlib.suppress(psutil.NoSuchProcess):  # gone before it was looked for
        holder_of(seen).wait(30)


def test_a_machine_that_nothing_holds_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awake.shutil, "which", lambda name: None)
    monkeypatch.setattr(awake, "_is_on_battery", lambda: True)
    said: list[str] = []
    with awake.kept_awake(said.append):
        pass
    assert ["battery" in line for line in said] == [True, False]
    assert "nothing holds this machine awake" in said[1]


def test_a_hold_that_is_refused_is_told(seen: Path) -> None:
    program = seen.parent / "bin" / "systemd-inhibit"
    program.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    said: list[str] = []
    with awake.kept_awake(said.append):
        pass
    assert any("nothing holds" in line for line in said)


@pytest.mark.parametrize(("is_plugged", "expected"), [(None, False), (True, False), (False, True)])
def test_battery_is_what_the_system_says(
    is_plugged: bool | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    battery = None if is_plugged is None else SimpleNamespace(power_plugged=is_plugged)
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert awake._is_on_battery() is expected
