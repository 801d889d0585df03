"""The linters agree, so `make test` is all that a contributor has to run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run_tool(tool: str, *arguments: str) -> None:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; `make install` brings it")
    result = subprocess.run([sys.executable, "-m", tool, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_types_are_right() -> None:
    subprocess.run(["make", "--silent", "dev"], cwd=ROOT, check=True)
    run_tool("mypy", "-p", "slm_ar")
