"""Reads the files of attacks/: one hostile train.py each, with what it is and how it should end."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "attacks"


@dataclass(frozen=True)
class Attack:
    """One file; see test_redteam.py."""

    name: str
    doc: str
    row: str
    end: str
    """harmless | not certifiable | STATUS or STATUS|STATUS, with ": a part of the reason" """
    defence: str
    """A switch of test_redteam.OFF, or "construction: why" where there is nothing to switch off."""
    sign: str
    """What shows that it got through: score, scored, log, tail, tokenizer or seed."""
    train_py: str
    runs: int
    seconds: float | None
    caps: Mapping[str, float]
    is_tried: bool = False
    """Whether it is tried for two steps before its run, as a proposal of a new shape is."""
    memory_mb: float = 4000.0

    @property
    def can_be_let_in(self) -> bool:
        return not self.defence.startswith("construction: ")


def read_attack(path: Path) -> Attack:
    facts: dict[str, Any] = runpy.run_path(str(path))
    return Attack(
        path.stem,
        facts["__doc__"].strip(),
        facts["ROW"],
        facts["END"],
        facts["DEFENCE"],
        facts["SIGN"],
        facts["TRAIN_PY"],
        facts.get("RUNS", 1),
        facts.get("SECONDS"),
        facts.get("CAPS", {}),
        facts.get("TRIED", False),
        facts.get("MEMORY_MB", 4000.0),
    )


ATTACKS = [read_attack(path) for path in sorted(FOLDER.glob("*.py"))]
