"""The door for adapters of one's own: written, checked, found by name, by file and from a wheel."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands_in_process import Command, told
from data_workspaces import write_rows

from slm_ar.core import testing
from slm_ar.core.contracts import SourceOptions
from slm_ar.core.registry import load_adapter


def test_a_new_adapter_works_as_it_is_written(slm_ar: Command, tmp_path: Path) -> None:
    ended = slm_ar("adapters", "new", "my_rows")
    assert ended.code == 0 and "slm-ar adapters check" in ended.out
    module = tmp_path / "slm-ar-my-rows" / "slm_ar_my_rows.py"
    source = write_rows(tmp_path / "rows" / "rows.csv", 60, seed=2)
    checked = slm_ar("adapters", "check", str(module), "--source", str(source))
    assert checked.code == 0 and "keeps its contract" in checked.out
    adapter = load_adapter(str(module))
    assert adapter.name == "my_rows" and type(adapter).__name__ == "MyRowsAdapter"
    ended_tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=module.parent,
        env={**os.environ, "PYTHONPATH": str(module.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended_tests.returncode == 0, ended_tests.stdout


@pytest.mark.parametrize("name", ["Bad-Name", "class", "3d", "../x", "my_"])
def test_names_that_cannot_be_are_refused(slm_ar: Command, name: str) -> None:
    told(slm_ar("adapters", "new", name), 2, "cannot be an adapter's name")


def test_the_next_commands_can_be_typed_as_they_are_shown(slm_ar: Command, tmp_path: Path) -> None:
    shown = slm_ar("adapters", "new", "a1", "--folder", str(tmp_path / "my adapters")).out
    module = tmp_path / "my adapters" / "slm_ar_a1.py"
    words = [shlex.split(line.partition(":")[2]) for line in shown.splitlines()[1:]]
    assert words[0] == ["slm-ar", "adapters", "check", str(module), "--source", "FILE"]
    assert words[1][4] == str(module) and words[2][3] == str(module.parent)
    shown = slm_ar("adapters", "new", "a2", "--folder", "here too").out
    assert "--adapter './here too/slm_ar_a2.py'" in shown and "pip install -e './here too'" in shown


def test_a_taken_name_or_folder_is_refused(slm_ar: Command, tmp_path: Path) -> None:
    told(slm_ar("adapters", "new", "transit"), 2, "is installed already")
    (tmp_path / "slm-ar-mine").mkdir()
    (tmp_path / "slm-ar-mine" / "note.txt").write_text("mine")
    told(slm_ar("adapters", "new", "mine"), 2, "not empty")


BREAKS = {
    "network": "import socket\n        socket.create_connection(('127.0.0.1', 9), timeout=1)",
    "writes": "(source.parent / 'rows.csv').write_text('amount,shop,answer\\n1,a,yes\\n2,b,no\\n')",
    "options": "options = SourceOptions()",
}


@pytest.mark.parametrize("kind", [*BREAKS])
def test_what_breaks_the_contract_is_found(slm_ar: Command, tmp_path: Path, kind: str) -> None:
    slm_ar("adapters", "new", "bad")
    module = tmp_path / "slm-ar-bad" / "slm_ar_bad.py"
    text = module.read_text()
    mark = "        found = False\n"
    assert mark in text
    module.write_text(text.replace(mark, f"        {BREAKS[kind]}\n{mark}"))
    source = write_rows(tmp_path / "rows.csv", 20, seed=3)
    ended = slm_ar("adapters", "check", str(module), "--source", str(source))
    assert ended.code == 4 and f"  {kind}: " in ended.error, ended.error


def test_questions_must_end_where_the_answer_begins(tmp_path: Path) -> None:
    adapter = load_adapter(str(_written(tmp_path, "questions", "prompt, _group", "prompt + 'yes', _group")))
    source = write_rows(tmp_path / "rows.csv", 5, seed=4, answered=False)
    with source.open("a", encoding="utf-8") as file:
        file.write("r1,a,small,s\n")
    problems = testing.check_adapter(adapter, source, SourceOptions())
    assert any(problem.startswith("questions: ") for problem in problems)


def _written(folder: Path, name: str, old: str, new: str) -> Path:
    from importlib import resources

    text = resources.files("slm_ar.program_templates").joinpath("adapter.py").read_text(encoding="utf-8")
    assert old in text
    path = folder / f"{name}.py"
    path.write_text(text.replace(old, new))
    return path


def test_every_installed_adapter_keeps_its_contract_without_a_source(slm_ar: Command) -> None:
    names = [entry["name"] for entry in json.loads(slm_ar("adapters", "--json").out)]
    assert {"query_expansion", "table", "text", "tinystories", "transit"} <= set(names)
    for name in names:
        assert testing.check_without_source(load_adapter(name)) == [], name


def test_an_adapter_in_a_wheel_is_found_checked_and_prepared(
    slm_ar: Command, tmp_path: Path, command_environment: dict[str, str]
) -> None:
    slm_ar("adapters", "new", "wheeled")
    project, site = tmp_path / "slm-ar-wheeled", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "--wheel-dir", str(tmp_path), str(project)], check=True, timeout=120)
    (wheel,) = tmp_path.glob("slm_ar_wheeled-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, timeout=120)
    source = write_rows(tmp_path / "rows.csv", 3000, seed=5)
    environment = command_environment | {"PYTHONPATH": str(site)}

    def call(*arguments: str, folder: Path = tmp_path) -> str:
        command = [str(Path(sys.executable).with_name("slm-ar")), *arguments]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    assert "wheeled" in call("adapters")
    assert "keeps its contract" in call("adapters", "check", "wheeled", "--source", str(source))
    call("new", "work", "--adapter", "wheeled", "--source", str(source))
    recipe = tmp_path / "work" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("seconds = 60", "steps = 3"))
    call("prepare", folder=tmp_path / "work")
    trained = json.loads(call("train", "--json", folder=tmp_path / "work").splitlines()[-1])
    assert trained["dev_bits_per_byte"] > 0
    assert [task["task"] for task in trained["tasks"]] == ["answer"]
