"""The first code of a candidate process: become "train" (run train.py), "serve" (answer with its logits) or "probe"
(try the walls).

Called by incubator.py in the forked child, or as a fresh interpreter. The current folder is the run's private folder.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path


def run_candidate(role: str, control: int) -> None:
    """Run one role to its end. Everything that candidate code raises goes to the run's log and the exit code."""
    import torch

    from . import accelerator, elementary
    from .runtime import CONTROL_VARIABLE

    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    # numbers below 1e-38 take twelve times as long, and the softmax of a model that is sure is full of them
    torch.set_flush_denormal(True)
    elementary.settle()
    if role == "train":
        os.environ[CONTROL_VARIABLE] = str(control)
        sys.argv = ["train.py"]
        job = json.loads(Path("job.json").read_text(encoding="utf-8"))
        accelerator.cap_memory(job["device"], job["device_memory_mb"])
        try:
            runpy.run_path("train.py", run_name="__main__")
        except BaseException:
            accelerator.tell_peak(control, job["device"])
            raise
    elif role == "serve":
        from .logits_server import serve

        serve(control)
    elif role == "probe":
        from .sandbox.probes import answer

        answer(control)
    else:
        raise ValueError(f"unknown role {role!r}")


if __name__ == "__main__":
    run_candidate(sys.argv[1], int(sys.argv[2]))
