"""`kill -9` of the loop at random moments: the resumed campaign has the judged history of an undisturbed one."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from commands import call, judged_history, kill, kinds_of, processes_of, start, survivors, wait_for_events
from toys import make_toy_workspace

KILLS_EACH = 3


@pytest.fixture
def environment(command_environment: dict[str, str], private_folder: Path) -> dict[str, str]:
    return command_environment | {"SLM_AR_TEST_MARK": str(private_folder)}


def undisturbed(tmp_path: Path, environment: dict[str, str]) -> tuple[Path, dict[str, Any], int]:
    """A prepared workspace to copy, what a campaign in it finds, and how many events that takes."""
    root = make_toy_workspace(tmp_path / "first")
    call(root, environment, "prepare", "--quiet")
    untouched = tmp_path / "untouched"
    shutil.copytree(root, untouched)
    call(root, environment, "run", "--quiet")
    history = judged_history(root)
    assert len(history["experiments"]) == 4
    assert history["claims"]
    return untouched, history, len(kinds_of(root))


def killed_and_resumed(root: Path, environment: dict[str, str], seed: int, events: int) -> list[int]:
    """Run the campaign, kill it KILLS_EACH times at random moments, and let it end; events at each kill."""
    moments = random.Random(seed)
    targets = sorted(moments.sample(range(3, events), KILLS_EACH))
    reached = []
    for target in targets:
        process = start(root, environment, "run", "--quiet")
        wait_for_events(root, process, target)
        time.sleep(moments.uniform(0, 0.25))
        assert survivors(kill(process)) == []
        reached.append(len(kinds_of(root)))
    call(root, environment, "run", "--quiet")
    return reached


def check(tmp_path: Path, environment: dict[str, str], private: Path, seeds: range) -> None:
    untouched, expected, events = undisturbed(tmp_path, environment)
    interrupted = 0
    for seed in seeds:
        root = tmp_path / f"killed {seed}"
        shutil.copytree(untouched, root)
        shutil.rmtree(private / "nights")  # the campaign before spent alpha on the same hidden text
        reached = killed_and_resumed(root, environment, seed, events)
        assert judged_history(root) == expected, (seed, reached)
        kinds = kinds_of(root)
        interrupted += kinds.count("run_interrupted")
        for kind in ("calibrated", "proposed", "judged", "claim_opened", "claim_closed"):
            assert kinds.count(kind) == {"calibrated": 1, "proposed": 4, "judged": 4}.get(kind, len(expected["claims"]))
        assert kinds.count("run_started") == kinds.count("run_ended") + kinds.count("run_interrupted")
        assert processes_of(private, root) == []
    assert interrupted > 0


def test_killed_three_times_a_campaign_ends_as_if_nothing_had_happened(
    tmp_path: Path, environment: dict[str, str], private_folder: Path
) -> None:
    check(tmp_path, environment, private_folder, range(1))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # thirty kills, each with a fresh start of everything
def test_ten_campaigns_killed_three_times_each_end_as_if_nothing_had_happened(
    tmp_path: Path, environment: dict[str, str], private_folder: Path
) -> None:
    check(tmp_path, environment, private_folder, range(10, 20))
