"""The lines that prepare prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slm_ar.core.cli.lines import data_lines
from slm_ar.core.prepare.manifest import Manifest, Overlap, PreparedData, SplitSize


def told(**changed: Any) -> str:
    facts: dict[str, Any] = dict.fromkeys(Manifest.__dataclass_fields__, 0)
    facts |= {"splits": {"dev": SplitSize(1, 2, 3, 4)}, "floors": {"xz": 1.5}}
    facts |= {"notices": (), "warnings": (), "extra": (), "tasks": (), "overlap": {}}
    manifest = Manifest(**{**facts, **changed})
    return "\n".join(data_lines(PreparedData(Path(), Path(), manifest)))


def test_what_held_out_parts_share_is_told_where_there_is_any() -> None:
    apart = Overlap(documents=50, exact=1, near=2, ngram_percent=3.25)
    shared = Overlap(documents=50, exact=0, near=0, ngram_percent=0.0, elsewhere=1200)
    words = told(overlap={"dev": apart, "hidden": shared})
    assert "dev and train: 1 documents the same, 2 nearly, 3.2 % of the 13-grams" in words
    assert "documents that stand in another held-out part too: 1,200 of hidden" in words
    assert "another held-out part" not in told(overlap={"dev": apart})
