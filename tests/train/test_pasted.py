"""Held-out text in train.py is found, however its strings are written; ordinary code is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import TINY_TRAIN_PY

from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.pasted import HeldText


def held_words(data: PreparedData, split: str) -> list[str]:
    return next(iter(read_split(data.held_folder, split))).document.text.split()


@pytest.mark.parametrize("split", ["dev", "hidden", "test"])
@pytest.mark.parametrize(
    "written",
    [
        lambda words: f"# {' '.join(words)}\n",
        lambda words: f"NOTES = {' '.join(words)!r}\n",
        lambda words: f"NOTES = {chr(10).join(words)!r}\n",
        lambda words: f"NOTES = {' '.join(words).encode()!r}\n",
        lambda words: "NOTES = (" + " ".join(repr(word + " ") for word in words) + ")\n",
        lambda words: f"NOTES = {words!r}\n",
    ],
)
def test_a_line_of_held_out_text_is_found(tiny_data: PreparedData, split: str, written: object) -> None:
    words = held_words(tiny_data, split)[:40]
    assert HeldText(tiny_data.held_folder).shared_runs(TINY_TRAIN_PY + written(words)) > 0  # type: ignore[operator]


def test_code_and_short_quotations_are_left_alone(tiny_data: PreparedData) -> None:
    held = HeldText(tiny_data.held_folder)
    template = Path(__file__).parents[2] / "program_templates" / "train.py"
    for code in (TINY_TRAIN_PY, template.read_text(encoding="utf-8"), "", "this is (no code", "\x00"):
        assert held.shared_runs(code) == 0
    assert held.shared_runs(f"# {' '.join(held_words(tiny_data, 'dev')[:5])}\n") == 0


def test_such_code_gives_no_number(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(f"NOTES = {held_words(executor.data, 'hidden')[:60]!r}\n", encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match="held-out text"):
        executor.score(tmp_path, "dev", 32)
