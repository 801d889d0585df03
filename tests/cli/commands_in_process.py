"""What the tests of the command line share: how a command ended, and what a well-told mistake looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    error: str

    @property
    def text(self) -> str:
        return self.out + self.error


Command = Callable[..., Ended]


def told(ended: Ended, code: int, *parts: str) -> None:
    """One error message, with a next step, on standard error, and nothing on standard output."""
    assert ended.code == code, ended
    assert ended.out == ""
    for part in parts:
        assert part in ended.error, ended.error
    assert ended.error.count("slm-ar: ") == 1, ended.error


def last(ended: Ended) -> Any:
    """The result of a command with --json: its last line; the ones before tell what goes on."""
    return json.loads(ended.out.splitlines()[-1])
