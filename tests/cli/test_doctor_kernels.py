"""`slm-ar doctor` on pieces that may be missing: compiled kernels with what repairs them, landlock inside level 3."""

from __future__ import annotations

import pytest
from toys import toy_machine

from slm_ar.core.cli.doctor import _lines, _missing_inside
from slm_ar.core.train.sandbox import plans
from slm_ar.core.train.sandbox.canaries import Proof
from slm_ar.core.train.sandbox.choice import Isolation


@pytest.mark.parametrize(
    ("kernels", "words"), [(True, "compiled"), (False, "pip install --force-reinstall --no-deps ."), (None, "")]
)
def test_the_line_of_the_kernels(kernels: bool | None, words: str) -> None:
    facts = {"python": "3.11", "cores": 2, "free_disk_gb": 9, "git": "2", "recipes": [], "agents": []}
    facts |= {"repair": [], "warnings": [], "missing_inside": ""}
    found = [line for line in _lines(toy_machine(kernels=kernels), facts, None, "none") if line.startswith("kernels")]
    assert len(found) == bool(words) and all(words in line for line in found)


@pytest.mark.parametrize(
    ("plan", "abi", "words"),
    [(plans.BUBBLEWRAP, 0, "without landlock inside"), (plans.BUBBLEWRAP, 4, ""), (plans.LANDLOCK, 4, "")],
)
def test_level_3_without_landlock_inside_says_so(
    monkeypatch: pytest.MonkeyPatch, plan: plans.Plan, abi: int, words: str
) -> None:
    monkeypatch.setattr("slm_ar.core.train.sandbox.walls.landlock_abi", lambda: abi)
    isolation = Isolation(Proof(plan, (), ""), ())
    missing = _missing_inside(isolation)
    assert words in missing and bool(missing) == bool(words)
    facts = {"python": "3.11", "cores": 2, "free_disk_gb": 9, "git": "2", "recipes": [], "agents": []}
    facts |= {"repair": [], "warnings": [], "missing_inside": missing, "isolation": isolation.words}
    assert any("landlock inside" in line for line in _lines(toy_machine(), facts, isolation, "")) == bool(words)
