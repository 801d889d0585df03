"""Which agent programs there are, how each is called, and what stops before anything is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_programs import make_program
from toys import toy_recipe

from slm_ar.core import egress
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.calls import Setting
from slm_ar.core.agent.proposers.programs import find_program, installed_programs, known_programs
from slm_ar.core.errors import ProposerError, RecipeError, UsageError
from slm_ar.core.recipe import ProposerTable


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def table(name: str, **keys: object) -> ProposerTable:
    return ProposerTable.model_validate({"name": name, **keys})


@pytest.mark.parametrize("name", ["claude", "codex", "gemini", "opencode"])
def test_each_known_program_is_asked_once_and_told_all(name: str, bin_folder: Path, tmp_path: Path) -> None:
    path = make_program(bin_folder, "", name)
    program = find_program(table(f"cli:{name}", model="some-model"), tmp_path / "place")
    line = program.line("do it")
    assert line[0] == str(path) and line.count("do it") == 1 and line[-2:] == ["--model", "some-model"]
    assert not program.reads_input and "{" not in "".join(line)
    assert program.environment["TERM"] == "dumb" and known_programs()[name].sets.items() <= program.environment.items()
    assert not [one for one in known_programs()[name].passes if "KEY" in one or "TOKEN" in one]


def test_settings_of_opencode_are_json_and_deny_first(bin_folder: Path) -> None:
    config = json.loads(known_programs()["opencode"].sets["OPENCODE_CONFIG_CONTENT"])
    assert config["permission"]["*"] == "deny" == config["permission"]["external_directory"]


def test_a_command_of_the_recipe_goes_first(bin_folder: Path, tmp_path: Path) -> None:
    make_program(bin_folder, "", "claude")
    other = make_program(bin_folder, "", "other")
    command = ["other", "--ask={prompt}", "-m", "{model}"]
    program = find_program(table("cli:claude", command=command, model="m"), tmp_path)
    assert program.line("{x}") == [str(other), "--ask={x}", "-m", "m"]


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"name": "cli:claude"}, ProposerError, "needs the program `claude`, and it is not on PATH.*npm install"),
        ({"name": "cli:own", "command": ["own"]}, ProposerError, "needs the program `own`.*Or write command"),
        ({"name": "cli:clade"}, UsageError, "how to ask 'clade' is not known.*'cli:claude'.*command ="),
        ({"name": "cli:"}, UsageError, "is not known.*command ="),
        ({"name": "cli:own", "command": ["own"], "model": "m"}, UsageError, "no place for model"),
        ({"name": "cli:own", "command": ["own", "{model}"]}, UsageError, "asks for a model"),
        ({"name": "cli:own", "command": ["own", "a\0b"]}, UsageError, "zero byte"),
    ],
)
def test_what_is_missing_is_told_with_the_line_that_repairs_it(
    keys: dict[str, object], error: type[Exception], words: str, bin_folder: Path, tmp_path: Path
) -> None:
    parsed = ProposerTable.model_validate(keys)
    with pytest.raises(error, match=f"(?s){words}"):
        make_proposer(parsed.name, Setting(parsed, tmp_path / ".slm", "toy"))


def test_programs_that_are_installed(bin_folder: Path) -> None:
    assert installed_programs() == []
    make_program(bin_folder, "raise SystemExit('must not be started')", "gemini")
    assert installed_programs() == ["gemini"]


def test_a_relative_entry_of_path_still_names_the_program(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_program(bin_folder, "", "codex")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "bin")
    assert find_program(table("cli:codex"), tmp_path / "place").path == str(path)


def test_a_program_may_be_named_by_its_place(bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_program(tmp_path / "place", "", "own")
    monkeypatch.chdir(bin_folder.parent)
    monkeypatch.setenv("HOME", str(tmp_path / "place"))
    for name in ("./own", "../place/own", str(path), "~/own"):
        found = find_program(table("cli:own", command=[name]), tmp_path / "place").path
        assert Path(found).is_absolute() and Path(found).samefile(path)
    for name in ("./other", "~nobody-here/own", str(tmp_path)):
        with pytest.raises(ProposerError, match="no program is there"):
            find_program(table("cli:own", command=[name]), tmp_path / "place")


def test_the_password_of_a_proxy_is_a_secret(bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(bin_folder, "", "codex")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass@proxy.example:8080")
    program = find_program(table("cli:codex"), tmp_path)
    assert "me:pass" in program.secrets and "pass" not in program.secrets and "pass@" not in repr(program)
    assert program.environment["HTTPS_PROXY"] == "http://me:pass@proxy.example:8080", "it needs its network"
    monkeypatch.setenv("HTTPS_PROXY", "http://me:a-long-password@proxy.example:8080")
    assert "a-long-password" in find_program(table("cli:codex"), tmp_path).secrets


def test_no_entry_of_path_leads_into_the_workspace(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_program(bin_folder, "", "codex")
    work = tmp_path / "place"
    (work / "bin").mkdir(parents=True)
    (tmp_path / "link").symlink_to(work)
    monkeypatch.chdir(work)
    within = ["bin", str(work / "bin"), str(tmp_path / "link" / "bin"), f"{bin_folder}/../place/bin"]
    monkeypatch.setenv("PATH", os.pathsep.join([*within, str(bin_folder)]))
    assert find_program(table("cli:codex"), work).environment["PATH"] == str(bin_folder)


OFFLINE = """
import sys
from pathlib import Path
from slm_ar.core import egress
from slm_ar.core.agent.proposers.programs import find_program
from slm_ar.core.recipe import ProposerTable
egress.refuse_connections("offline = true in [privacy] of recipe.toml")
table = ProposerTable(name="cli:own", command=(sys.executable,), agent_is_local=sys.argv[1] == "local")
print(find_program(table, Path("work")).path)
"""


def test_offline_starts_no_program_that_may_ask_another_machine() -> None:
    """In a process of its own, because the lock of a process cannot be undone."""
    refused = subprocess.run([sys.executable, "-c", OFFLINE, "no"], capture_output=True, text=True)
    assert refused.returncode == 1 and "UsageError" in refused.stderr and "agent_is_local" in refused.stderr
    assert "offline = true in [privacy]" in refused.stderr and not egress.is_offline()
    allowed = subprocess.run([sys.executable, "-c", OFFLINE, "local"], capture_output=True, text=True, check=True)
    assert allowed.stdout.strip() == sys.executable


def test_keys_of_the_recipe_for_programs() -> None:
    proposer = {
        "name": "cli:own",
        "command": ["own", "{prompt}"],
        "pass_environment": ["MY_KEY"],
        "agent_seconds": 60.0,
    }
    assert toy_recipe(proposer=proposer).proposer.command == ("own", "{prompt}")
    for wrong, words in (
        ({"pass_environment": ["SLM_AR_PRIVATE"]}, "SLM_AR_PRIVATE is never handed to a program"),
        ({"command": []}, "command"),
        ({"command": ["own", ""]}, r"command\[1\]: must be text in quotes, not empty"),
        ({"command": "own -p"}, "a list"),
        ({"agent_seconds": 0}, "more than 0"),
    ):
        with pytest.raises(RecipeError, match=words):
            toy_recipe(proposer={**proposer, **wrong})
