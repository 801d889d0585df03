"""A campaign through the command line that a language model on a local server drives."""

from __future__ import annotations

import json
import re
from pathlib import Path

from commands import call, state_of
from fake_messages import fake_messages_server, text, tool
from toys import make_toy_workspace

from slm_ar.core.contracts import Status

CANARY = "sk-ant-canary-0123456789-secret"
BLOCKS = "HYPOTHESIS: a wider model\n\n<<<<<<< SEARCH\nWIDTH = 16 \n=======\nWIDTH = 32 \n>>>>>>> REPLACE\n"


def test_a_local_model_drives_a_campaign(tmp_path: Path, command_environment: dict[str, str]) -> None:
    environment = {**command_environment, "ANTHROPIC_API_KEY": CANARY}
    with fake_messages_server() as server:
        server.steps[:] = [tool(("LR = 0.02", "LR = 0.03"), hypothesis="a larger rate"), text(BLOCKS), text("no idea")]
        proposer = {"name": "local", "model": "small", "base_url": server.address, "campaign_usd": 1.0}
        root = make_toy_workspace(tmp_path / "toy", proposer=proposer, budget={"experiments": 3})
        out, error = call(root, environment, "run")
        asked = list(server.asked)
    state = state_of(root)
    assert {item.proposer for item in state.experiments} == {"local"}
    first, second, third = state.experiments
    assert (first.hypothesis, second.hypothesis) == ("a larger rate", "a wider model")
    assert first.status is not None and first.dev_score is not None and second.dev_score is not None
    assert third.status is Status.SKIPPED and "no edit" in third.reason and third.run is None
    assert "local asks small at 127.0.0.1" in out + error and "what small costs is not known" in out + error
    assert "local has taken 5 calls, " in out + error
    report = (root / "report.html").read_text(encoding="utf-8")
    assert "asks for an edit of train.py" in report and "a larger rate" in report
    assert "5 calls, " in report
    assert len(asked) == 5
    readable = [path for path in root.rglob("*") if path.is_file()]
    assert not [path for path in readable if CANARY.encode() in path.read_bytes()]
    assert CANARY not in out + error + "".join(str(request.headers) + request.raw.decode() for request in asked)
    assert re.search(r"^spent: +5 calls, [0-9,]+ tokens, cost unknown$", call(root, environment, "status")[0], re.M)
    status = json.loads(call(root, environment, "status", "--json")[0])
    assert "skipped" in json.dumps(status) or "not run" in json.dumps(status)
