"""What tests of the whole of prepare start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_ar.core.prepare import pipeline


@pytest.fixture
def no_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressors have their own tests and take a second."""
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder that an adapter may look at; the toy adapter does not."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "days.txt").write_text("day\n", encoding="utf-8")
    return folder
