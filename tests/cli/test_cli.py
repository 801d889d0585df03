"""The command line as a person meets it: every mistake is one clear message, an exit code and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands_in_process import Command, told
from toys import TINY_TRAIN_PY, log_documents, make_toy_workspace, probed, remember_machine, toy_recipe_text, with_main

from slm_ar.core.agent.journal import workspace_lock
from slm_ar.core.cli.main import COMMANDS
from slm_ar.core.cli.workspace import Workspace
from slm_ar.core.errors import DataError, TrainingError
from slm_ar.core.prepare import pipeline
from slm_ar.core.train import device
from slm_ar.core.train.sizing import fitting_size


@pytest.fixture
def quick_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


@pytest.fixture
def days(tmp_path: Path) -> Path:
    folder = tmp_path / "days"
    folder.mkdir()
    (folder / "days.txt").write_text("\n".join(d.text for d in log_documents(140)), encoding="utf-8")
    return folder


# --- help -----------------------------------------------------------------------------------


def test_alone_it_shows_what_it_can_do(slm_ar: Command) -> None:
    ended = slm_ar()
    assert ended.code == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name}  ", ended.out, re.MULTILINE), name
    assert "slm-ar demo" in ended.out


def test_every_command_that_the_issue_names_exists() -> None:
    expected = {"demo", "new", "doctor", "prepare", "train", "run", "status", "report", "finish", "adopt", "generate"}
    expected |= {"inspect", "predict", "eval", "adapters", "recipes", "simulate-gate", "study", "mcp"}
    assert expected == set(COMMANDS)
    assert len(COMMANDS) == 19


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("name", [*COMMANDS])
def test_every_command_explains_itself(slm_ar: Command, name: str, option: str) -> None:
    ended = slm_ar(name, option)
    assert ended.code == 0
    assert ended.out.startswith(f"Usage: slm-ar {name}")
    assert len(ended.out.splitlines()) > 4
    for line in re.findall(r"^  (--\S+.*)$", ended.out, re.MULTILINE):
        assert line.startswith("--yes") or len(line.split()) > 1, line


def test_the_version_is_told(slm_ar: Command) -> None:
    from slm_ar import __version__

    assert __version__ in slm_ar("--version").out


@pytest.mark.parametrize(("typo", "meant"), [("prepar", "prepare"), ("trian", "train"), ("stauts", "status")])
def test_a_typo_in_a_command_gets_the_nearest_one(slm_ar: Command, typo: str, meant: str) -> None:
    ended = slm_ar(typo)
    assert ended.code == 2
    assert f"there is no command '{typo}'" in ended.error
    assert f"Did you mean '{meant}'?" in ended.error


def test_an_unknown_option_is_named(slm_ar: Command) -> None:
    ended = slm_ar("run", "--experimets", "3")
    assert ended.code == 2
    assert "--experimets" in ended.error
    assert "--experiments" in ended.error


@pytest.mark.parametrize("arguments", [("run", "--experiments", "0"), ("run", "--experiments", "many"), ("new",)])
def test_a_bad_value_is_a_usage_error(slm_ar: Command, arguments: tuple[str, ...]) -> None:
    ended = slm_ar(*arguments)
    assert ended.code == 2
    assert "Error" in ended.error


def test_the_console_script_works_in_a_process_of_its_own(tmp_path: Path, command_environment: dict[str, str]) -> None:
    script = Path(sys.executable).with_name("slm-ar")
    done = subprocess.run(
        [script, "status"], cwd=tmp_path, env=command_environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is not a workspace" in done.stderr


# --- new ------------------------------------------------------------------------------------


def test_new_makes_a_workspace_that_names_its_data(slm_ar: Command, days: Path) -> None:
    ended = slm_ar("new", "my days", "--adapter", "text", "--source", "days", "--size", "0.3")
    assert ended.code == 0
    assert "TARGET_PARAMS_M = 0.3  # knob" in Path("my days/train.py").read_text(encoding="utf-8")
    assert sorted(path.name for path in Path("my days").iterdir()) == [
        ".gitignore",
        "program.md",
        "recipe.toml",
        "train.py",
    ]
    recipe = Path("my days/recipe.toml").read_text(encoding="utf-8")
    assert f'source = "{days}"' in recipe
    assert 'name = "my days"' in recipe
    assert "slm-ar prepare" in ended.out
    assert "Plain text." in Path("my days/program.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("x",), 2, ("say what the data are", "--adapter transit")),
        (("x", "--adapter", "trnsit"), 2, ("there is no adapter 'trnsit'", "Did you mean 'transit'?")),
        (("x", "--adapter", "text", "--source", "nowhere"), 4, ("nowhere does not exist",)),
        (("x", "--recipe", "text-labtop"), 2, ("no shipped recipe 'text-labtop'", "Did you mean 'text-laptop'?")),
        (("taken", "--adapter", "text"), 2, ("exists already and is not empty",)),
        (("a-file", "--adapter", "text"), 2, ("exists already",)),
        (("core", "--adapter", "text"), 2, ("cannot be called 'core'",)),
        (("x", "--adapter", "nowhere.py:Mine"), 2, ("there is no file nowhere.py",)),
        (("x", "--recipe", "binary.toml"), 3, ("binary.toml", "UTF-8")),
        (("x", "--recipe", "broken.toml"), 3, ("not valid TOML",)),
    ],
)
def test_what_new_cannot_do_is_told_before_anything_is_written(
    slm_ar: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    (tmp_path / "a-file").touch()
    (tmp_path / "binary.toml").write_bytes(b"name = '\xff\xfe'")
    (tmp_path / "broken.toml").write_text("name = ", encoding="utf-8")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    told(slm_ar("new", *arguments), code, *parts)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def size_of(workspace: str) -> float:
    found = re.search(r"^TARGET_PARAMS_M = (\S+)  # knob", Path(workspace, "train.py").read_text(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_a_new_model_has_the_size_that_this_machine_can_fill(slm_ar: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = probed(float32=0.05)
    monkeypatch.setattr(device, "probe_machine", lambda *asked: machine)
    ended = slm_ar("new", "one", "--adapter", "text")
    assert ended.code == 0
    assert f"TARGET_PARAMS_M = {size_of('one'):g} in train.py" in ended.out
    assert size_of("one") == pytest.approx(fitting_size(machine, 60.0), rel=0.05)
    machine = probed(float32=0.05 / 16)
    slm_ar("new", "fast", "--adapter", "text")
    assert 3 * size_of("one") < size_of("fast") <= 4 * size_of("one")


def test_a_size_in_the_recipe_and_a_machine_that_cannot_train_are_left_alone(
    slm_ar: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*asked: object) -> device.Machine:
        raise TrainingError("torch cannot be used on this machine: no libgomp", "reinstall")

    monkeypatch.setattr(device, "probe_machine", broken)
    ended = slm_ar("new", "card", "--recipe", "text-rtx5080")
    assert ended.code == 0
    assert size_of("card") == 11.5
    ended = slm_ar("new", "one", "--adapter", "text")
    assert ended.code == 0
    assert "not sized for this machine: torch cannot be used" in ended.out
    assert Path("one/recipe.toml").is_file()


def test_where_a_card_is_new_names_the_recipe_for_it(slm_ar: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "rtx5080" not in slm_ar("new", "one", "--adapter", "text", "--size", "1").out
    monkeypatch.setattr(device, "has_nvidia_driver", lambda: True)
    assert "--recipe text-rtx5080" in slm_ar("new", "two", "--adapter", "text", "--size", "1").out
    assert "rtx5080" not in slm_ar("new", "three", "--recipe", "text-laptop", "--size", "1").out


@pytest.mark.parametrize(("more", "is_told"), [((), True), (("--quiet",), False)])
def test_a_run_from_a_recipe_tells_the_size_unless_it_is_to_be_quiet(
    slm_ar: Command, days: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], is_told: bool
) -> None:
    monkeypatch.setattr(device, "probe_machine", lambda *asked: probed(float32=0.05))
    monkeypatch.setattr(Workspace, "prepared", lambda *asked: (_ for _ in ()).throw(DataError("no more", "of this")))
    ended = slm_ar("run", "text-laptop", "--source", str(days), *more)
    assert ("TARGET_PARAMS_M = " in ended.error) == ("workspace: " in ended.error) == is_told


# --- outside a workspace --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["prepare", "train", "run", "status", "report", "finish", "adopt", "generate"])
def test_outside_a_workspace_every_command_says_how_to_make_one(slm_ar: Command, name: str) -> None:
    told(slm_ar(name), 2, "is not a workspace", "slm-ar new NAME")


@pytest.mark.parametrize("name", ["status", "report", "finish", "adopt"])
def test_before_the_first_campaign_the_next_step_is_run(slm_ar: Command, tmp_path: Path, name: str) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    told(slm_ar(name, folder=root), 2, "slm-ar run")
    assert not (root / ".slm" / "journal.db").exists()


def test_generate_without_a_model_says_what_to_do(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    told(slm_ar("generate", folder=root), 2, "no trained model here", "slm-ar train")
    told(slm_ar("generate", "--model", "."), 2, "is not a model folder", "tokenizer.json")


def test_a_source_outside_a_workspace_is_asked_for(slm_ar: Command) -> None:
    told(slm_ar("run", "text-laptop"), 2, "say where the data are", "--source DIR")


@pytest.mark.parametrize(("until", "code"), [("25:00", 2), ("noon", 2)])
def test_a_time_of_day_that_is_none_is_refused(slm_ar: Command, until: str, code: int) -> None:
    told(slm_ar("run", "--until", until), code, f"--until {until} is not a time of day", "07:00")


# --- recipes and data -----------------------------------------------------------------------


def test_all_problems_of_a_recipe_are_told_at_once(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    text = toy_recipe_text(tokenizer={"vocab_size": 12}, machine={"device": "gpu"}, budget={"experimets": 4})
    (root / "recipe.toml").write_text(text, encoding="utf-8")
    ended = slm_ar("prepare", folder=root)
    told(ended, 3, "3 problems", "vocab_size", "device", "experimets", "experiments", "cuda")
    assert str(root / "recipe.toml") in ended.error


@pytest.mark.parametrize(
    ("content", "code", "part"),
    [
        (None, 4, "does not exist"),
        ("", 4, "holds no text"),
        ("one line\n", 4, "too small to split"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, 4, "picture"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_message(
    slm_ar: Command, tmp_path: Path, content: str | bytes | None, code: int, part: str
) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    file = tmp_path / "toy-source" / "days.txt"
    if content is None:
        file.unlink()
        file.parent.rmdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_text(content, encoding="utf-8")
    told(slm_ar("prepare", "--quiet", folder=root), code, part)
    assert not list((root / ".slm").glob("data/*"))


def test_an_empty_source_folder_is_one_message(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    (tmp_path / "toy-source" / "days.txt").unlink()
    told(slm_ar("prepare", "--quiet", folder=root), 4, "is empty")


@pytest.mark.usefixtures("quick_floors")
def test_prepare_tells_what_it_made_and_twice_is_once(slm_ar: Command, tmp_path: Path) -> None:
    """In a folder with spaces, below the workspace, without git."""
    root = make_toy_workspace(tmp_path / "a toy käthe")
    (root / "notes").mkdir()
    ended = slm_ar("prepare", folder=root / "notes")
    assert ended.code == 0
    for word in ("train", "dev", "hidden", "test", "vocabulary 320", "ppmd-6 2.0000"):
        assert word in ended.out
    lines = [json.loads(line) for line in slm_ar("prepare", "--json").out.splitlines()]
    assert any("unchanged" in line.get("name", "") for line in lines)
    assert lines[-1]["splits"]["train"]["documents"] > 50


def test_no_rights_to_a_file_is_one_message(slm_ar: Command, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    root = make_toy_workspace(tmp_path / "toy")
    (tmp_path / "toy-source" / "days.txt").chmod(0)
    told(slm_ar("prepare", "--quiet", folder=root), 4, "permission denied", "chmod")


def test_a_workspace_that_is_in_use_names_the_process(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    with workspace_lock(root / ".slm"):
        for name in ("prepare", "train", "run"):
            told(slm_ar(name, "--quiet", folder=root), 2, f"process {os.getpid()} on ")


# --- train ----------------------------------------------------------------------------------


def test_train_tells_the_score_beside_the_compressors(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    ended = slm_ar("train", folder=root)
    assert ended.code == 0, ended
    assert re.search(r"dev: \d\.\d{4} bits per byte", ended.out)
    assert "ppmd-6" in ended.out
    facts = json.loads(slm_ar("train", "--json").out.splitlines()[-1])
    assert facts["steps"] == 8
    assert f"{facts['dev_bits_per_byte']:.4f}" in ended.out
    generated = slm_ar("generate", "--prompt", "day Mon\n", "--tokens", "5", "--temperature", "0")
    assert generated.code == 0
    assert generated.out.startswith("day Mon\n")
    assert generated.out == slm_ar("generate", "--prompt", "day Mon\n", "--tokens", "5", "--temperature", "0").out


NAN = TINY_TRAIN_PY.replace("run.save(", "model.head.weight.data.fill_(float('nan'))\n    run.save(")
BROKEN = [
    ("def main(:\n", {}, ("line 1", "invalid syntax")),
    ("print('hello')\n", {}, ("defines no function build_model",)),
    (TINY_TRAIN_PY.replace("if __name__", "print(1)\nif __name__"), {}, ("runs when the file is imported",)),
    (with_main("raise ValueError('no luck')"), {}, ("crashed", "ValueError: no luck", "log.txt")),
    (with_main("import time\ntime.sleep(99)"), {"startup_seconds": 0.5}, ("timeout", "start-up")),
    (with_main("raise MemoryError('too much')"), {}, ("oom", "out of memory")),
    (NAN, {}, ("not finite",)),
    (with_main("pass"), {}, ("ended without asking for data",)),
]


@pytest.mark.usefixtures("quick_floors")
@pytest.mark.parametrize(
    ("train_py", "budget", "parts"),
    BROKEN,
    ids=["syntax", "no model", "side effect", "crash", "hang", "memory", "nan", "empty"],
)
def test_a_broken_train_py_is_one_message_and_exit_code_5(
    slm_ar: Command, tmp_path: Path, train_py: str, budget: dict[str, float], parts: tuple[str, ...]
) -> None:
    root = make_toy_workspace(tmp_path / "toy", train_py, budget=budget)
    told(slm_ar("train", "--quiet", folder=root), 5, *parts)
    assert not (root / ".slm" / "journal.db").exists()


@pytest.mark.usefixtures("quick_floors")
def test_a_campaign_whose_first_code_is_broken_stops_with_a_whole_journal(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy", with_main("raise ValueError('no luck')"))
    told(slm_ar("run", "--quiet", folder=root), 5, "starting train.py cannot be measured", "no luck")
    assert slm_ar("status").code == 0
    (root / "train.py").write_text(TINY_TRAIN_PY, encoding="utf-8")


@pytest.mark.parametrize(
    "file", ["train.py", "program.md"], ids=["train.py that is not text", "program.md that is not text"]
)
@pytest.mark.usefixtures("quick_floors")
def test_a_file_that_is_not_text_is_named(slm_ar: Command, tmp_path: Path, file: str) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    (root / file).write_bytes(b"\xff\xfe\x00")
    told(slm_ar("run", "--quiet", folder=root), 2, file, "UTF-8")


@pytest.mark.usefixtures("quick_floors")
def test_a_damaged_note_about_the_machine_is_measured_again(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    for content in ("{", "[]", '{"asked": 1}', '{"asked": 1, "machine": {"no": 1}}'):
        (root / ".slm" / "machine.json").write_text(content, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("slm_ar.core.train.device.probe_machine", lambda *_: remembered(root))
            assert slm_ar("train", "--quiet", folder=root).code == 0


def remembered(root: Path) -> object:
    from slm_ar.core.train.device import Machine

    remember_machine(root)
    return Machine(**json.loads((root / ".slm" / "machine.json").read_text(encoding="utf-8"))["machine"])


def test_a_damaged_journal_is_one_message(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    (root / ".slm" / "journal.db").write_bytes(b"no database" * 200)
    told(slm_ar("status", folder=root), 1, "is damaged", "copy it away")


# --- lists ----------------------------------------------------------------------------------


def test_adapters_and_recipes_are_listed(slm_ar: Command) -> None:
    names = [entry["name"] for entry in json.loads(slm_ar("adapters", "--json").out)]
    assert {"text", "transit"} <= set(names)
    assert "transit" in slm_ar("adapters").out
    recipes = json.loads(slm_ar("recipes", "--json").out)
    assert {"demo", "text-laptop", "transit-laptop", "transit-rtx5080", "transit-seed-80m"} <= set(recipes)
    assert len(recipes) == 12
    assert 'adapter = "transit"' in slm_ar("recipes", "demo").out
    told(slm_ar("recipes", "dmo"), 2, "Did you mean 'demo'?")
