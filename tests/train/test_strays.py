"""An incubator that was killed leaves daemons to nobody; whoever closes it finds them."""

from __future__ import annotations

import contextlib
import platform
import time
from pathlib import Path

import psutil
import pytest
from toys import with_main

from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train.device import Machine
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.sandbox import choice, plans
from slm_ar.core.train.training_run import TrainJob

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="daemons come to an incubator on Linux alone")

DAEMON = """
import os, time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            time.sleep(0.01)
    os._exit(0)
os.wait()
print("left", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("plan", [plans.NONE, plans.LANDLOCK], ids=lambda plan: plan.name.split()[0])
def test_daemons_of_a_killed_incubator_are_ended_when_it_is_closed(
    plan: plans.Plan, machine: Machine, tiny_data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if plan not in [known for known, reason in plans.plans_here() if not reason]:
        pytest.skip("not to be had here")
    monkeypatch.setattr(choice, "plans_here", lambda: [(plan, "")])
    with LocalExecutor(machine, tiny_data, allow_unsafe=True) as executor:
        run = executor.submit(TrainJob(with_main(DAEMON), 0, None, 6, 60.0, 4000), tmp_path / "run")
        log = tmp_path / "run" / "log.txt"
        limit = time.monotonic() + 60
        while not log.read_text(encoding="utf-8").startswith("left") and time.monotonic() < limit:
            time.sleep(0.05)
        incubator = executor._sandboxes._incubators["train"]
        below = psutil.Process(incubator.pid).children(recursive=True)
        assert len(below) == 2, below
        psutil.Process(incubator.pid).kill()
        while (outcome := run.poll()) is None:
            pass
        assert "could not be ended" in outcome.reason
    _, alive = psutil.wait_procs(below, timeout=30)
    with contextlib.suppress(psutil.Error):
        for process in alive:
            process.kill()
    assert not alive
