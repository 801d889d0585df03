"""The wheel holds the whole house and nothing but `slm_ar` at its top."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "adapters", "recipes", "program_templates")
METADATA = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    assert int(version("setuptools").split(".")[0]) >= 77, "run `make install`: the build needs setuptools 77 or newer"
    # Built from a copy: setuptools leaves a build folder behind, and what is in that ends up in the next wheel.
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.so"))
    for name in METADATA:
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-build-isolation", "--no-deps", "-w", str(target), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def installed_name(path: Path) -> str:
    inside = path.relative_to(ROOT).as_posix()
    return "slm_ar/" + inside.removeprefix("core/_root/")


def test_every_file_of_the_tree_is_in_the_wheel(wheel_names: set[str]) -> None:
    files = [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        if path.suffix not in (".c", ".so")
    ]
    assert len(files) > 40
    missing = sorted(str(path.relative_to(ROOT)) for path in files if installed_name(path) not in wheel_names)
    assert not missing, "name the folder in pyproject.toml, packages or package-data: " + ", ".join(missing)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernels_are_in_the_wheel_compiled(wheel_names: set[str]) -> None:
    compiled = [name for name in wheel_names if name.endswith(".so")]
    assert len(compiled) == 1 and compiled[0].startswith("slm_ar/core/train/_kernels.")


def test_slm_ar_is_the_only_top_level_name(wheel_names: set[str]) -> None:
    top = {name.split("/")[0] for name in wheel_names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"slm_ar"}
    assert "slm_ar/__init__.py" in wheel_names and "slm_ar/py.typed" in wheel_names
    assert not [name for name in wheel_names if "_root" in name or "tests" in name.split("/")]


def test_the_command_and_the_adapters_are_registered() -> None:
    from importlib.metadata import distribution

    points = {(point.group, point.name) for point in distribution("slm-ar").entry_points}
    assert {("console_scripts", "slm-ar"), ("slm_ar.adapters", "transit"), ("slm_ar.adapters", "text")} <= points


def test_constraints_pin_what_the_project_asks_for() -> None:
    import re
    import tomllib

    def normal(requirement: str) -> str:
        return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines), "names and versions only"
    pinned = {normal(line) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {normal(item) for item in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    assert wanted <= pinned
    assert "slm-ar" not in pinned
