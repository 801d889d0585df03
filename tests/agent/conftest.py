"""A folder to run a campaign in, and its journal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import TINY_TRAIN_PY

from slm_ar.core.agent.journal import Journal


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TINY_TRAIN_PY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def journal(workspace: Path) -> Iterator[Journal]:
    with Journal(workspace / ".slm") as journal:
        yield journal
