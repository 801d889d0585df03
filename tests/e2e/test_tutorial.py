"""The tutorial "your own data in ten minutes" works as it is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "adapters.md"
FEWEST_BLOCKS = 5


@pytest.mark.timeout(900)  # a dozen commands, one of which trains for five seconds
def test_every_line_of_the_tutorial_runs(tmp_path: Path, command_environment: dict[str, str]) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= FEWEST_BLOCKS
    script = "set -eu\n" + "\n".join(blocks)
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{command_environment['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=command_environment | {"PATH": binaries},
        capture_output=True,
        text=True,
        timeout=840,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "keeps its contract" in ended.stdout
    assert "task answer: accuracy" in ended.stdout
    answers = [json.loads(line) for line in (tmp_path / "support" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 20
    assert all(answer["answer"] in ("billing", "network", "account") for answer in answers)
