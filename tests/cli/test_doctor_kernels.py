"""`slm-ar doctor` on the compiled pieces: there, missing with what repairs it, or not used."""

from __future__ import annotations

import pytest
from toys import toy_machine

from slm_ar.core.cli.doctor import _lines


@pytest.mark.parametrize(
    ("kernels", "words"), [(True, "compiled"), (False, "pip install --force-reinstall --no-deps ."), (None, "")]
)
def test_the_line_of_the_kernels(kernels: bool | None, words: str) -> None:
    facts = {"python": "3.11", "cores": 2, "free_disk_gb": 9, "git": "2", "recipes": [], "agents": []}
    facts |= {"repair": [], "warnings": []}
    found = [line for line in _lines(toy_machine(kernels=kernels), facts, None, "none") if line.startswith("kernels")]
    assert len(found) == bool(words) and all(words in line for line in found)
