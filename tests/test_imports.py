"""Starting the command line loads no heavy library: `slm-ar --help` answers at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["anthropic", "datasets", "mcp", "numpy", "optuna", "pandas", "pyarrow", "scipy", "sklearn", "torch"]
REPORT = f"""
import sys
print("heavy:", *sorted(name for name in {HEAVY} if name in sys.modules))
"""
HELP = (
    """
import sys
from slm_ar.core.cli.main import main
sys.argv = ["slm-ar", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    + REPORT
)


def output_of(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", ["slm_ar", "slm_ar.core.contracts", "slm_ar.core.registry", "slm_ar.core.cli.main"])
def test_importing_is_light(module: str, tmp_path: Path) -> None:
    assert output_of(f"import {module}\n{REPORT}", tmp_path).splitlines() == ["heavy:"]


def test_help_is_light(tmp_path: Path) -> None:
    lines = output_of(HELP, tmp_path).splitlines()
    assert lines[-1] == "heavy:"
    assert any("Usage" in line for line in lines)


def test_the_folders_cannot_be_imported_without_the_prefix() -> None:
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", "import core"], cwd=root, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "put `slm_ar.` in front of the path" in result.stderr
