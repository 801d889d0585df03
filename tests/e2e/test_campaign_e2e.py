"""A whole toy campaign through the command line, in processes of its own, as a person would run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import (
    call,
    events_of,
    hidden_numbers,
    judged_history,
    kill,
    kinds_of,
    processes_of,
    start,
    state_of,
    survivors,
)
from commands import wait_for_events as wait_for
from toys import TINY_TRAIN_PY, keep_an_edit, make_toy_workspace

from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.contracts import Status
from slm_ar.core.report.words import figure


@pytest.fixture
def environment(command_environment: dict[str, str], private_folder: Path) -> dict[str, str]:
    return command_environment | {"SLM_AR_TEST_MARK": str(private_folder)}


def test_a_campaign_from_raw_text_to_a_loadable_model(
    tmp_path: Path, environment: dict[str, str], private_folder: Path
) -> None:
    root = make_toy_workspace(tmp_path / "my toy")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)

    out, error = call(root, environment, "run")
    state = state_of(root)
    assert [item.status for item in state.experiments].count(None) == 0
    assert len(state.experiments) == 4
    assert sum(run.role == "calibrate" for run in state.runs) == 3
    assert state.claims and state.claims[-1].verdict is not None
    assert any(item.status is Status.KEPT for item in state.experiments)
    assert "report: " in out
    assert "the plan: " in out + error
    assert state.final is None and not any(run.role == "final" for run in state.runs)

    assert json.loads(call(root, environment, "status", "--json")[0])["verdict"]["headline"]
    assert "current: " in call(root, environment, "status")[0]

    # What a person can read holds no hidden score, to no precision that could be used.
    call(root, environment, "report")
    secrets = hidden_numbers(private_folder, "hidden", "test")
    assert len(secrets) > 20
    html = (root / "report.html").read_text(encoding="utf-8")
    assert "<html" in html
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', html)
    readable = [path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    assert {"report.html", "journal.jsonl", "results.tsv"} <= {path.name for path in readable}
    for path in readable:
        content = path.read_bytes()
        assert not [number for number in secrets if number.encode() in content], path
    assert len((root / "journal.jsonl").read_text().splitlines()) == len(kinds_of(root))

    # Running again plans another night and goes on; nothing is judged twice.
    call(root, environment, "run", "--experiments", "1")
    assert len(state_of(root).experiments) == 5

    adopted, _ = call(root, environment, "adopt", "--current")
    head = state_of(root).head
    assert head[:8] in adopted
    assert revision_digest((root / "train.py").read_text(encoding="utf-8")) == head

    keep_an_edit(root)  # whatever luck has kept: test is opened for a code that differs from the start
    finished, _ = call(root, environment, "finish", "--yes")
    state = state_of(root)
    assert state.final is not None and state.final.pairs == 2
    assert set(state.samples) == {"before", "after"}
    assert figure(state.final.baseline_score) in (root / "report.html").read_text(encoding="utf-8")
    assert "model: " in finished
    assert_the_card_loads_the_model(root / "model", environment)
    text, _ = call(root, environment, "generate", "--prompt", "day Mon\n", "--tokens", "8")
    assert text.startswith("day Mon\n")
    assert len(text) > len("day Mon\n") + 1
    assert call(tmp_path, environment, "generate", "--model", str(root / "model"), "--tokens", "3")[0]

    # Test is opened once: finishing again measures nothing anew.
    runs = len(state.runs)
    call(root, environment, "finish", "--yes")
    assert len(state_of(root).runs) == runs
    assert processes_of(private_folder, root) == []

    git = subprocess.run(
        ["git", "-C", str(root), "for-each-ref", "--format=%(refname)"], capture_output=True, text=True
    )
    assert "refs/slm/current" in git.stdout
    assert subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True).returncode != 0


def assert_the_card_loads_the_model(model: Path, environment: dict[str, str]) -> None:
    """The code block in the card, run as it stands in the model's folder."""
    card = (model / "README.md").read_text(encoding="utf-8")
    code = card.partition("```python\n")[2].partition("```")[0]
    code += (
        "\nimport torch\nids = tokenizer.encode('day Mon', add_special_tokens=False).ids\n"
        "print(tuple(model(torch.tensor([[0, *ids]])).shape), len(ids), tokenizer.get_vocab_size())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=model, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    shape, rest = done.stdout.rsplit(")", 1)
    length, vocab_size = map(int, rest.split())
    assert shape == f"(1, {length + 1}, {vocab_size}"
    assert not [path.name for path in model.iterdir() if path.suffix in (".pt", ".bin", ".pkl")]


def test_ctrl_c_saves_the_state_and_a_second_loop_is_turned_away(
    tmp_path: Path, environment: dict[str, str], private_folder: Path
) -> None:
    root = make_toy_workspace(tmp_path / "toy", budget={"steps": 300})
    process = start(root, environment, "run", "--quiet", "--experiments", "500")  # more than the test waits for
    try:
        wait_for(root, process, 4)
        assert process.poll() is None

        _, busy = call(root, environment, "run", code=2)
        assert f"process {process.pid} on " in busy

        # Reading is always allowed.
        call(root, environment, "status")

        helpers = psutil.Process(process.pid).children(recursive=True)
        assert helpers
        os.kill(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        kill(process)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "interrupted; what was recorded is saved" in error
    assert survivors(helpers) == []
    before = events_of(root)
    assert state_of(root).open_run is None
    assert processes_of(private_folder, root) == []

    tried = len(judged_history(root)["experiments"])
    call(root, environment, "run", "--quiet", "--experiments", str(tried + 1))
    assert kinds_of(root)[: len(before)] == before
    history = judged_history(root)
    assert len(history["experiments"]) >= max(1, tried)
    assert history["open"] is None


def test_a_hand_edit_becomes_an_experiment_of_the_human(tmp_path: Path, environment: dict[str, str]) -> None:
    root = make_toy_workspace(tmp_path / "toy", budget={"experiments": 1})
    call(root, environment, "run", "--quiet")
    (root / "train.py").write_text(TINY_TRAIN_PY.replace("F.silu", "F.relu"), encoding="utf-8")
    call(root, environment, "run", "--quiet")
    last = state_of(root).experiments[-1]
    assert last.proposer == "human"
    assert "F.relu" in state_of(root).revisions[last.revision]
    (root / "train.py").write_text("my unfinished thought(", encoding="utf-8")
    out, _ = call(root, environment, "adopt")
    assert "your own edits were saved as train.before-adopt-" in out
    kept = next(root.glob("train.before-adopt-*.py"))
    assert kept.read_text(encoding="utf-8") == "my unfinished thought("


def test_a_changed_recipe_starts_a_new_campaign_in_the_same_journal(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    root = make_toy_workspace(tmp_path / "toy", budget={"experiments": 1})
    call(root, environment, "run", "--quiet")
    first = state_of(root)
    recipe = root / "recipe.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("steps = 8", "steps = 6"), encoding="utf-8")
    call(root, environment, "run", "--quiet")
    second = state_of(root)
    assert second.identity != first.identity
    assert kinds_of(root).count("campaign_started") == 2
    assert {run.outcome.steps for run in second.runs} == {6}
