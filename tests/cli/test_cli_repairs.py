"""Ways out of mistakes on the command line: bugs told in one message, lost files brought back, test kept closed."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Command, Ended, told
from toys import TINY_TRAIN_PY, keep_an_edit, make_toy_workspace, toy_machine, toy_recipe_text

from slm_ar.core.agent import finish as finishing
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.edits import revision_digest, set_knobs
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.opening import ensure_campaign
from slm_ar.core.cli import research
from slm_ar.core.cli.main import cli, main
from slm_ar.core.cli.steps import DEMO_MARK, demo_workspace, read_state
from slm_ar.core.cli.workspace import Workspace
from slm_ar.core.errors import UsageError
from slm_ar.core.export.folder import RECORD_FILE, refuse_foreign_folder
from slm_ar.core.prepare import pipeline
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.recipe import Recipe, load_recipe

SCRIPT = Path(sys.executable).with_name("slm-ar")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs one command in this process; `answer` is what a person types."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["slm-ar"])

    def call(*arguments: str, folder: Path | None = None, answer: str = "") -> Ended:
        if folder is not None:
            monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        ended = Ended(end.value.code if isinstance(end.value.code, int) else 0, captured.out, captured.err)
        assert "Traceback" not in ended.text
        return ended

    return call


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})
    return make_toy_workspace(tmp_path / "toy")


def recipe_of(root: Path) -> Recipe:
    return load_recipe(root / "recipe.toml")


def calibrated(root: Path, data: PreparedData, recipe: Recipe | None = None) -> None:
    """A campaign that got through its calibration, as the journal tells it."""
    with Journal(root / ".slm") as journal:
        ensure_campaign(journal, recipe or recipe_of(root), data, toy_machine(), TINY_TRAIN_PY)
        journal.append("calibrated", {"sigma": 0.01, "runs": 3})


def kinds(root: Path) -> list[str]:
    with Journal(root / ".slm", read_only=True) as journal:
        return [event.kind for event in journal.events]


# --- bugs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, AssertionError, RecursionError, ZeroDivisionError])
def test_what_nobody_expected_is_one_message(
    command: Command, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def fails() -> None:
        raise kind("boom " + "x" * 5000)

    monkeypatch.setattr(research, "find_workspace", fails)
    ended = command("status")
    told(ended, 1, f"slm-ar: unexpected {kind.__name__}: ", "boom", "--debug")
    assert len(ended.error) < 1000
    with pytest.raises(kind):
        main(["--debug", "status"])


@pytest.mark.parametrize("debug", [False, True])
def test_only_debug_shows_where_a_bug_is(tmp_path: Path, command_environment: dict[str, str], debug: bool) -> None:
    program = (
        "from slm_ar.core.cli import main, research\n"
        "def fails():\n    raise RuntimeError('boom')\n"
        "research.find_workspace = fails\nmain.main()\n"
    )
    arguments = [sys.executable, "-c", program, *(["--debug"] if debug else []), "status"]
    done = subprocess.run(
        arguments, cwd=tmp_path, env=command_environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "boom" in done.stderr
    assert ("Traceback" in done.stderr) == debug
    assert done.stderr.count("slm-ar: unexpected") == int(not debug)


def test_an_error_that_is_known_shows_its_place_with_debug(command: Command) -> None:
    told(command("status"), 2, "is not a workspace")
    with pytest.raises(UsageError, match="is not a workspace"):
        main(["--debug", "status"])


# --- values ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", ["-1", "0", "-0.5", "many", "99999", "nan", "inf"])
def test_hours_that_cannot_be_are_refused(command: Command, root: Path, hours: str) -> None:
    ended = command("run", "--quiet", "--hours", hours, folder=root)
    assert ended.code == 2
    assert "--hours" in ended.error
    assert not (root / ".slm" / "data").exists()
    assert not (root / ".slm" / "journal.db").exists()


def test_an_unknown_proposer_is_told_before_anything_is_prepared(command: Command, root: Path) -> None:
    source = {"source": str(recipe_of(root).data.source), "split": "order"}
    text = toy_recipe_text(data=source, proposer={"name": "serach"})
    (root / "recipe.toml").write_text(text, encoding="utf-8")
    ended = command("run", "--quiet", folder=root)
    assert ended.code in (2, 3)
    assert "serach" in ended.error
    assert "search" in ended.error.replace("serach", "")
    assert not (root / ".slm" / "data").exists()
    assert not (root / ".slm" / "journal.db").exists()


def test_a_prompt_with_bytes_that_are_no_text_is_continued(
    command: Command, root: Path, command_environment: dict[str, str]
) -> None:
    assert command("train", "--quiet", folder=root).code == 0
    ended = command("generate", "--prompt", "day \udcff\ud800 Mon\n", "--tokens", "3", "--temperature", "0")
    assert ended.code == 0, ended
    assert ended.out.startswith("day ?? Mon\n")
    done = subprocess.run(
        [os.fsencode(SCRIPT), b"generate", b"--prompt", b"day \xff\xfe", b"--tokens", b"3"],
        cwd=root,
        env=command_environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert all(b"sandbox: level" in line for line in done.stderr.splitlines())
    assert done.stdout.startswith(b"day ??")
    done.stdout.decode("utf-8")


# --- finish ---------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tiny_data: PreparedData) -> list[str]:
    """Identities of the campaigns whose test was opened; nothing is prepared, measured or trained for that."""
    identities: list[str] = []

    @contextmanager
    def opens(workspace: Any, display: Any, may_start: bool = True) -> Iterator[Campaign]:
        with Journal(workspace.hidden_folder) as journal:
            ensure_campaign(journal, workspace.recipe, tiny_data, toy_machine(), workspace.train_py, may_start)
            nothing: Any = None
            yield Campaign(workspace.root, workspace.recipe, journal, nothing, display, "")

    def final_test(campaign: Campaign, pairs: int) -> None:
        identities.append(campaign.state.identity)
        raise UsageError("test was opened")

    monkeypatch.setattr(research, "open_campaign", opens)
    monkeypatch.setattr(finishing, "final_test", final_test)
    return identities


@pytest.mark.parametrize("answer", ["n\n", "N\n", "no\n", "\n"])
def test_a_no_keeps_test_closed(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str], answer: str
) -> None:
    calibrated(root, tiny_data)
    keep_an_edit(root)
    before = kinds(root)
    ended = command("finish", folder=root, answer=answer)
    assert ended.code == 0, ended
    assert "Open test now?" in ended.error
    assert "test stays closed" in ended.error
    assert ended.out.strip() == ""
    assert opened == []
    assert kinds(root) == before
    assert not (root / "model").exists()


@pytest.mark.parametrize(("arguments", "answer"), [((), "y\n"), (("--yes",), ""), (("--json",), "yes\n")])
def test_a_yes_opens_it(
    command: Command,
    root: Path,
    tiny_data: PreparedData,
    opened: list[str],
    arguments: tuple[str, ...],
    answer: str,
) -> None:
    calibrated(root, tiny_data)
    keep_an_edit(root)
    ended = command("finish", *arguments, folder=root, answer=answer)
    assert ended.code == 2
    assert "test was opened" in ended.error
    assert len(opened) == 1
    assert ("Open test now?" in ended.error) == bool(answer)


def test_no_answer_at_all_keeps_test_closed(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str]
) -> None:
    calibrated(root, tiny_data)
    keep_an_edit(root)
    before = kinds(root)
    assert command("finish", folder=root).code == 130
    assert opened == []
    assert kinds(root) == before


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("three years of work\n", encoding="utf-8")


def make_empty_folder(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_text("mine\n", encoding="utf-8")


def make_link(path: Path) -> None:
    make_folder(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


FOREIGN = [make_folder, make_empty_folder, make_file, make_link, make_dangling_link]


@pytest.mark.parametrize("make", FOREIGN)
def test_a_model_folder_of_someone_else_is_refused_before_test_is_opened(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str], make: Callable[[Path], None]
) -> None:
    calibrated(root, tiny_data)
    keep_an_edit(root)
    make(root / "model")
    told(command("finish", "--yes", folder=root), 2, "model exists and was not written by slm-ar", "move it away")
    assert opened == []
    for path in root.rglob("thesis.txt"):
        assert path.read_text(encoding="utf-8") == "three years of work\n"


def test_an_own_model_folder_may_be_written_again(tmp_path: Path) -> None:
    refuse_foreign_folder(tmp_path / "nothing")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / RECORD_FILE).write_text("{}", encoding="utf-8")
    refuse_foreign_folder(tmp_path / "model")


def with_nine_steps(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"steps": 9})})


def test_consent_is_asked_for_the_campaign_whose_test_is_opened(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str]
) -> None:
    """The newest campaign's test is open already; the recipe was changed back to one whose test is not."""
    calibrated(root, tiny_data)
    keep_an_edit(root)
    calibrated(root, tiny_data, with_nine_steps(recipe_of(root)))
    with Journal(root / ".slm") as journal:
        baseline = revision_digest(TINY_TRAIN_PY)
        journal.append("final_opened", {"baseline": baseline, "final": baseline, "opening": 1})
    ended = command("finish", "--quiet", folder=root, answer="n\n")
    assert opened == [], "test was opened without a question"
    assert "test stays closed" in ended.error


def test_what_can_be_finished_is_the_campaign_of_the_recipe(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str]
) -> None:
    """The newest campaign has not calibrated; the recipe was changed back to one that has."""
    calibrated(root, tiny_data)
    keep_an_edit(root)
    with Journal(root / ".slm") as journal:
        ensure_campaign(journal, with_nine_steps(recipe_of(root)), tiny_data, toy_machine(), TINY_TRAIN_PY)
    assert "test was opened" in command("finish", "--yes", folder=root).error
    assert len(opened) == 1


def test_nothing_is_asked_where_there_is_nothing_to_open_test_for(
    command: Command, root: Path, tiny_data: PreparedData, opened: list[str]
) -> None:
    calibrated(root, tiny_data)
    assert "Open test now?" not in command("finish", folder=root).error


# --- a lost train.py ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "run"])
def test_a_lost_train_py_is_told_with_what_brings_it_back(
    command: Command, root: Path, tiny_data: PreparedData, name: str
) -> None:
    calibrated(root, tiny_data)
    (root / "train.py").unlink()
    told(command(name, "--quiet", folder=root), 2, "train.py is missing", "slm-ar adopt")
    assert command("status").code == 0
    assert command("report").code == 0
    assert "left this machine" in (root / "report.html").read_text(encoding="utf-8")
    assert command("report", "--share").out == f"{root / 'report-to-share.html'}\n"
    assert "<h1>" in (root / "report-to-share.html").read_text(encoding="utf-8")


def test_adopt_brings_a_lost_train_py_back(command: Command, root: Path, tiny_data: PreparedData) -> None:
    calibrated(root, tiny_data)
    (root / "train.py").unlink()
    ended = command("adopt", folder=root)
    assert ended.code == 0
    assert (root / "train.py").read_text(encoding="utf-8") == TINY_TRAIN_PY
    assert "starting (nothing is proven yet)" in ended.out
    assert not list(root.glob("train.before-adopt-*"))
    assert "already" in command("adopt").out


def test_adopt_says_when_what_it_brings_was_explored_without_walls(
    command: Command, root: Path, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(root, tiny_data)
    state = read_state(Workspace(root, recipe_of(root)))
    for isolation, said in (("none", True), ("level 1 (landlock and seccomp)", False)):
        walled = replace(state, facts={**state.facts, "isolation": isolation})
        monkeypatch.setattr(research, "read_state", lambda workspace, walled=walled: walled)
        (root / "train.py").unlink()
        assert ("[explored, not certified" in command("adopt", folder=root).out) == said


def test_adopt_keeps_what_a_person_wrote(command: Command, root: Path, tiny_data: PreparedData) -> None:
    calibrated(root, tiny_data)
    for mine in (set_knobs(TINY_TRAIN_PY, {"MATRIX_LR": 0.123}).encode(), b"\xff\xfe not text"):
        (root / "train.py").write_bytes(mine)
        assert "were saved as" in command("adopt", folder=root).out
        (kept,) = root.glob("train.before-adopt-*")
        assert kept.read_bytes() == mine
        kept.unlink()
        assert (root / "train.py").read_text(encoding="utf-8") == TINY_TRAIN_PY


def test_adopt_from_a_folder_below(command: Command, root: Path, tiny_data: PreparedData) -> None:
    calibrated(root, tiny_data)
    (root / "train.py").unlink()
    (root / "notes").mkdir()
    assert command("adopt", folder=root / "notes").code == 0
    assert (root / "train.py").is_file()


def test_a_recipe_alone_is_no_workspace(command: Command, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(toy_recipe_text(), encoding="utf-8")
    told(command("train"), 2, "is not a workspace", "slm-ar new NAME")


def test_a_lost_recipe_is_no_workspace_and_nothing_is_lost(
    command: Command, root: Path, tiny_data: PreparedData
) -> None:
    calibrated(root, tiny_data)
    (root / "recipe.toml").unlink()
    told(command("status", folder=root), 2, "is not a workspace")
    assert json.dumps(kinds(root)) == '["campaign_started", "calibrated"]'


def test_ctrl_c_that_python_drops_is_sent_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    def body(**_: Any) -> None:
        watched: set[int] = set()
        weak = weakref.ref(watched, interrupted)
        del watched  # the callback runs here, and what it raises is dropped
        assert weak() is None
        time.sleep(60)

    monkeypatch.setattr(cli, "main", body)
    before = sys.unraisablehook
    ended = command("status")
    assert ended.code == 130
    assert "interrupted" in ended.text
    assert sys.unraisablehook is before


# --- the demo again -------------------------------------------------------------------------


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_demo_that_proved_nothing_is_finished_all_the_same(
    tmp_path: Path, tiny_data: PreparedData, is_finished: bool
) -> None:
    folder = tmp_path / "demo"
    root = make_toy_workspace(folder / "workspace")
    (folder / DEMO_MARK).touch()
    calibrated(root, tiny_data)
    if is_finished:  # it ends with samples; without a kept edit there was no final test
        with Journal(root / ".slm") as journal:
            journal.append("samples", {"samples": {"before": "a text"}})
    workspace = demo_workspace(folder)
    assert (workspace.recipe.name == "demo") == is_finished
    assert (root / ".slm" / "journal.db").is_file() != is_finished
