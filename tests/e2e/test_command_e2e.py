"""A whole campaign through the command line that an agent program drives, and its recording."""

from __future__ import annotations

import os
from pathlib import Path

from agent_programs import files_with, make_program, transcript
from commands import call, state_of
from toys import make_toy_workspace

from slm_ar.core.agent.proposers.recorded import read_recording
from slm_ar.core.contracts import Status

CANARY = "sk-ant-canary-0123456789-secret"
QUICK = {"calibration_runs": 2, "looks": [1], "claim_every": 50}
AGENT = """
with open(COUNT, "a+") as file:
    turn = file.tell()
    file.write("x")
print("\\x1b[31m", dict(os.environ))
if turn == 0:
    edit("MATRIX_LR = 0.02 ", "MATRIX_LR = 0.03 ")
    print("HYPOTHESIS: a larger rate")
elif turn == 1:
    print("May I?", input())
else:
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    edit("WIDTH = 16 ", "WIDTH = 32 ")
    open("hypothesis.txt", "w").write("a wider model")
    sys.exit(5)
"""


def programs(folder: Path, environment: dict[str, str], body: str) -> dict[str, str]:
    make_program(folder, body)
    path = f"{folder}{os.pathsep}{environment['PATH']}"
    return {**environment, "PATH": path, "ANTHROPIC_API_KEY": CANARY, "SLM_AR_LOCAL_KEY": CANARY}


def test_a_program_drives_a_campaign(tmp_path: Path, command_environment: dict[str, str]) -> None:
    environment = programs(tmp_path / "bin", command_environment, f"COUNT = {str(tmp_path / 'count')!r}\n{AGENT}")
    proposer = {"name": "cli:agent", "command": ["agent", "{prompt}"]}
    root = make_toy_workspace(tmp_path / "toy", proposer=proposer, budget={"experiments": 3}, gate=QUICK)
    out, error = call(root, environment, "run")
    state = state_of(root)
    first, second, third = state.experiments
    assert {item.proposer for item in state.experiments} == {"cli:agent"}
    assert (first.hypothesis, third.hypothesis) == ("a larger rate", "a wider model")
    assert first.dev_score is not None and third.dev_score is not None and "exit code 5" in third.rationale
    assert second.status is Status.SKIPPED and "left train.py as it was (exit code 1)" in second.reason
    assert f"cli:agent starts {tmp_path / 'bin' / 'agent'}" in out + error and "3 calls in this campaign" in out + error
    assert "\x1b[31m" not in out + error and "May I?" not in out + error
    said = [entry["content"][0]["text"] for entry in transcript(root)]
    assert len(said) == 3 and "'HOME'" in said[0] and "SLM_AR" not in "".join(said) and str(root) not in "".join(said)
    report = (root / "report.html").read_text(encoding="utf-8")
    assert "the program agent (asks for an edit of train.py)" in report and "a larger rate" in report
    assert not files_with(root, CANARY) and CANARY not in out + error
    assert "stand-in 1.2.3" in call(root, environment, "doctor", "--proposer", "cli:agent")[0]
    recorded = read_recording(root / "journal.jsonl")
    assert recorded == read_recording(root) and [item.revision for item in recorded] == [first.revision, third.revision]
