"""Agent programs made of a few lines of Python: each does one thing right or wrong that a real one might do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PRELUDE = """\
import json, os, subprocess, sys, time

def edit(old, new):
    with open("train.py") as file:
        text = file.read()
    assert text.count(old) == 1, old
    with open("train.py", "w") as file:
        file.write(text.replace(old, new))

if "--version" in sys.argv:
    print("stand-in 1.2.3")
    sys.exit(0)
"""
GOOD = 'edit("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.04 ")\nprint("I doubled it.\\nHYPOTHESIS: double the rate")\n'


def as_program(body: str) -> str:
    """`body` as the text of an executable; a first line of Python's own path would not survive a blank in it."""
    return f"#!/bin/sh\n''':'\nexec '{sys.executable}' -I \"$0\" \"$@\"\n'''\n{body}"


def make_program(folder: Path, body: str, name: str = "agent") -> Path:
    """An executable that runs `body` in the folder it is started in, after the prelude."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(as_program(PRELUDE + body), encoding="utf-8")
    path.chmod(0o755)
    return path


def transcript(workspace: Path) -> list[dict[str, Any]]:
    """The ended calls of a workspace, as its transcript tells them."""
    lines = (workspace / ".slm" / "proposer.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == "ended"]


def files_with(root: Path, text: str) -> list[Path]:
    """Files below `root` that hold `text`."""
    return [path for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
