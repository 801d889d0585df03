"""The harness's end of a training run, for measurements inside one process: no sandbox, no clock, nobody watches.

Used by loader.py, steps.py and trust.py. Promises: what is measured is the shipped runtime, which cannot tell the
difference.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slm_ar.core.prepare.tokenizer import BOS
from slm_ar.core.train.runtime import CONTROL_VARIABLE

DOCUMENT_TOKENS = 200


@contextmanager
def connected(folder: Path, shards: Path, facts: dict[str, Any]) -> Iterator[None]:
    """While this lasts, `runtime.connect` in this process gives a run in `folder` whose data are `shards`.

    `facts` are those of the executor's job.json that differ from a run of seed 0 by steps, in float32 on the CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = {"seed": 0, "token_dtype": "uint16", "bytes_per_token": 3.0, "device": "cpu", "precision": "float32"}
    job |= {
        "budget_seconds": None,
        "budget_steps": 1_000_000_000,
        "data_key": "benchmark",
        "memory_mb": 1e6,
        "form": "portable",
        **facts,
    }
    # a number in each and some forty shapes: about what a vocabulary of records has
    job.setdefault("token_texts", [f"{'.:' * (number % 16)}{number}" for number in range(job["vocab_size"])])
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    ours, theirs = socket.socketpair()
    before = Path.cwd()
    with ours, shards.open("rb") as opened:
        # the run reads it when it is ready; its reports pile up unread
        socket.send_fds(ours, [json.dumps({"event": "go", "deadline": None}).encode()], [opened.fileno()])
        os.environ[CONTROL_VARIABLE] = str(theirs.detach())
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            del os.environ[CONTROL_VARIABLE]


def write_shards(path: Path, tokens: int, vocab_size: int) -> None:
    """Random ids in documents: how long a batch or a step takes does not depend on what they say."""
    random = np.random.default_rng(0)
    ids = random.integers(3, vocab_size, tokens, dtype=np.uint16)
    ids[0] = BOS
    ids[random.integers(tokens, size=tokens // DOCUMENT_TOKENS)] = BOS
    path.write_bytes(ids.tobytes())
