"""Makes the folder benchmarks/ importable: it is no part of the package, and commands in it are run from the root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))


@pytest.fixture
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else computes while the tests run, no measurement is void for it and no run late."""
    from slm_ar.core.train import disturbance, training_run

    monkeypatch.setattr(disturbance, "LARGEST_OTHER_SHARE", 1e9)
    monkeypatch.setattr(disturbance, "LONGEST_GAP_SECONDS", 1e9)
    monkeypatch.setattr(training_run, "LATE_SECONDS", 1e9)
    monkeypatch.setattr(training_run.TrainJob, "wall_seconds", property(lambda job: 600.0))
