"""The sandbox as a person meets it: doctor, a campaign's journal and words, the explicit choice, and a planted key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from commands import call, state_of
from toys import make_toy_workspace

from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.replay import replay_all
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.train.sandbox import plans
from slm_ar.core.train.sandbox.canaries import ALWAYS

CANARY = "sk-canary-0123456789abcdef"
ON_A_MACHINE_WITH = (
    "import sys\nfrom slm_ar.core.cli.main import main\nfrom slm_ar.core.train.sandbox import choice, plans\n"
    "names = sys.argv[1].split(',')\nfound = plans.plans_here()\n"
    "choice.plans_here = lambda: [(p, w if p.name in names else 'taken away') for p, w in found if p.level] "
    "+ [(plans.NONE, '')]\nmain(sys.argv[2:])"
)


def call_with(names: str, folder: Path, environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    """Everything that a command says where only the sandboxes in `names` can be had."""
    command = [sys.executable, "-c", ON_A_MACHINE_WITH, names, *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    told = ended.stdout + ended.stderr
    assert ended.returncode == code, told[-3000:]
    assert "Traceback" not in told
    return told


def isolations(workspace: Path) -> list[int]:
    with Journal(workspace / ".slm", read_only=True) as journal:
        return [event.body["level"] for event in journal.events if event.kind == "sandbox"]


def campaigns_of(workspace: Path) -> dict[str, CampaignState]:
    with Journal(workspace / ".slm", read_only=True) as journal:
        return replay_all(journal.events)


def has(plan: plans.Plan) -> bool:
    return dict(plans.plans_here()).get(plan, "not this system") == ""


def test_doctor_shows_the_level_its_proof_and_the_way_to_a_better_one(
    tmp_path: Path, command_environment: dict[str, str]
) -> None:
    names = [plan.name for plan, reason in plans.plans_here() if plan.level and not reason]
    if not names:
        pytest.skip("no sandbox on this system")
    out, _ = call(tmp_path, command_environment, "doctor", "--json")
    facts = json.loads(out)
    assert facts["sandbox"]["level"] >= 1
    assert facts["isolation"] == f"level {facts['sandbox']['level']} ({facts['sandbox']['name']})"
    assert all(facts["sandbox"]["probes"][name] for name in ALWAYS)
    told = call_with("", tmp_path, command_environment, "doctor", code=1)
    assert "sandbox    none" in told
    assert "not isolated: training code can read held-out text" in told
    assert "OPEN     read a private file" in told
    assert f"not {names[0]}: taken away" in told
    assert "better     " in told


def test_a_key_in_the_environment_reaches_no_process_and_no_file(
    tmp_path: Path, command_environment: dict[str, str], private_folder: Path
) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    environment = command_environment | {"ANTHROPIC_API_KEY": CANARY, "MY_SERVICE_TOKEN": CANARY}
    program = "from slm_ar.core.cli.main import main; import sys; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "run", "--experiments", "1", "--allow-unsafe"]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen: set[str] = set()
        while process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    variables = Path(f"/proc/{child.pid}/environ").read_bytes()
                    words = child.cmdline()
                except (OSError, psutil.Error):
                    continue
                # between fork and exec a child is still a copy of the command itself, and in the exec it has no words
                if CANARY.encode() not in variables:
                    seen.add(" ".join(words))
                elif words not in (command, []):
                    seen.add(f"leaked to {words}")
        told = process.stdout.read() if process.stdout is not None else ""
    assert process.returncode == 0, told[-2000:]
    assert len(seen) > 0
    assert not [name for name in seen if name.startswith("leaked")]
    for folder in (root, private_folder):
        for path in folder.rglob("*"):
            assert path.is_symlink() or not path.is_file() or CANARY.encode() not in path.read_bytes(), path
    assert CANARY not in told


@pytest.mark.slow
def test_a_campaign_is_as_certified_as_its_weakest_night(tmp_path: Path, command_environment: dict[str, str]) -> None:
    if os.name != "posix" or not has(plans.LANDLOCK):
        pytest.skip("needs two levels to go down")
    root = make_toy_workspace(tmp_path / "toy")
    told = call_with("landlock and seccomp", root, command_environment, "run", "--experiments", "1")
    assert "sandbox: level 1 (landlock and seccomp)" in told
    assert "explored, not certified" not in call(root, command_environment, "status")[0]
    assert state_of(root).facts["isolation"] == "level 1 (landlock and seccomp)"

    told = call_with("", root, command_environment, "run", "--experiments", "2", code=5)
    assert "no sandbox holds on this machine" in told
    assert "--allow-unsafe" in told
    assert isolations(root) == [1]

    told = call_with("", root, command_environment, "run", "--experiments", "2", "--allow-unsafe")
    assert "not isolated" in told
    assert isolations(root) == [1, 0]
    assert "explored, not certified" in call(root, command_environment, "status")[0]
    call_with("landlock and seccomp", root, command_environment, "run", "--experiments", "3")
    assert isolations(root) == [1, 0, 1]
    assert "explored, not certified" in call(root, command_environment, "status")[0]


@pytest.mark.slow
def test_a_weaker_sandbox_than_before_stops_the_loop(tmp_path: Path, command_environment: dict[str, str]) -> None:
    if not has(plans.BUBBLEWRAP) or not has(plans.LANDLOCK):
        pytest.skip("needs bubblewrap and landlock")
    root = make_toy_workspace(tmp_path / "toy")
    told = call_with("bubblewrap", root, command_environment, "doctor", "--json")
    if json.loads(told)["sandbox"]["level"] != 3:
        pytest.skip("bubblewrap may not make namespaces here")
    call_with("bubblewrap", root, command_environment, "run", "--experiments", "1")
    told = call_with("landlock and seccomp", root, command_environment, "run", "--experiments", "2", code=5)
    weaker = "under level 3 (bubblewrap); now only level 1 (landlock and seccomp) holds"
    assert f"the last campaign run here was {weaker}" in told
    recipe = (root / "recipe.toml").read_text(encoding="utf-8")
    (root / "recipe.toml").write_text(recipe.replace("claim_every", "patience = 3\nclaim_every"), encoding="utf-8")
    told = call_with("landlock and seccomp", root, command_environment, "run", "--experiments", "2", code=5)
    assert weaker in told, "a changed recipe begins a new campaign, which is no way around the walls"
    assert len(campaigns_of(root)) == 1
    (root / "recipe.toml").write_text(recipe, encoding="utf-8")
    for command in (("train",), ("generate", "--tokens", "3")):
        told = call_with("landlock and seccomp", root, command_environment, *command)
        assert told.count("sandbox: level 1 (landlock and seccomp)") == 1
        assert told.count("; last time it was level 3 (bubblewrap)") == 1
        assert "sandbox: level 1" not in call_with("bubblewrap", root, command_environment, *command)
    call_with("landlock and seccomp", root, command_environment, "run", "--experiments", "2", "--allow-unsafe")
    assert state_of(root).facts["isolation"] == "level 1 (landlock and seccomp)"
    assert "explored, not certified" not in call(root, command_environment, "status")[0]


def test_models_are_opened_behind_the_same_walls(tmp_path: Path, command_environment: dict[str, str]) -> None:
    root = make_toy_workspace(tmp_path / "toy")
    told = call_with("", root, command_environment, "train", code=5)
    assert "no sandbox holds on this machine" in told
    call_with("", root, command_environment, "train", "--allow-unsafe")
    told = call_with("", root, command_environment, "generate", "--tokens", "4", code=5)
    assert "no sandbox holds on this machine" in told
    told = call_with("", root, command_environment, "generate", "--tokens", "4", "--allow-unsafe")
    assert told.count("no sandbox: not isolated") == 1
