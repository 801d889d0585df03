"""Answers with logits for windows of token ids; runs the candidate's model code in a process of its own.

The other end is scorer.py. Ids come and logits go through one mapped file; JSON lines on the socket say where.
The server is told neither targets nor what the windows are for.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from .runtime import CHECKPOINT_FILE, CONFIG_FILE


def load_candidate(folder: Path) -> ModuleType:
    """Import `folder`/train.py as a module, without running its main()."""
    specification = importlib.util.spec_from_file_location("candidate_train", folder / "train.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["candidate_train"] = module
    specification.loader.exec_module(module)
    return module


def load_checkpoint(folder: Path, device: torch.device) -> torch.nn.Module:
    """The candidate's model with the weights of its checkpoint, in float32 and in evaluation mode."""
    from safetensors.torch import load_model

    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    model: torch.nn.Module = load_candidate(folder).build_model(config)
    load_model(model, str(folder / CHECKPOINT_FILE))
    return model.to(device).float().eval()


def serve(control_descriptor: int) -> None:
    """Answer requests until the harness closes the socket.

    Says "ready" and waits before it touches the candidate's code: from then on the harness counts what that spends.
    """
    import safetensors.torch  # noqa: F401  (what every checkpoint needs is not on the candidate's account)

    control = socket.socket(fileno=control_descriptor)
    data, descriptors, _, _ = socket.recv_fds(control, 65536, 4)
    hello = json.loads(data)
    device = torch.device(hello["device"])
    size = os.fstat(descriptors[0]).st_size
    shared = mmap.mmap(descriptors[0], size)
    _wake(device)
    _run_eagerly()
    _answer(control, {"event": "ready"})
    if not control.recv(1):
        return
    model = load_checkpoint(Path.cwd(), device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    _answer(control, {"event": "loaded", "parameters": parameters})
    requests = control.makefile("rb")
    while line := requests.readline():
        request = json.loads(line)
        count = _logits_into(shared, model, device, request)
        _answer(control, {"event": "logits", "count": count[0], "width": count[1]})


class _Uncompiled(torch.nn.Module):
    """Stands where torch.compile would put its wrapper, so that the names of the weights are the same."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self._orig_mod(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)


def _run_eagerly() -> None:
    """Nothing is compiled here: that takes longer than a score, and what it spends would count as the model's work."""

    def compiled(model: Any = None, **_: Any) -> Any:
        if model is None:
            return lambda function: function
        return _Uncompiled(model) if isinstance(model, torch.nn.Module) else model

    torch.compile = compiled
    torch.nn.Module.compile = lambda self, *_, **__: None  # type: ignore[method-assign]


def _wake(device: torch.device) -> None:
    """The first use of a device takes seconds on an accelerator."""
    square = torch.ones(8, 8, device=device)
    (square @ square).sum().item()


@torch.inference_mode()
def _logits_into(
    shared: mmap.mmap, model: torch.nn.Module, device: torch.device, request: dict[str, Any]
) -> tuple[int, int]:
    """Write float32 logits [positions, width] at the start of the map; ids int32 [rows, length] lie at its end."""
    rows, length = request["rows"], request["length"]
    ids = np.frombuffer(shared, np.int32, rows * length, request["ids_at"]).reshape(rows, length)
    inputs = torch.from_numpy(ids.astype(np.int64)).to(device)
    logits = model(inputs)
    picked = torch.cat([logits[row, start:end] for row, (start, end) in enumerate(request["positions"])])
    picked = picked.float().cpu().contiguous()
    count, width = picked.shape
    if count * width * 4 > request["ids_at"]:
        raise ValueError(f"logits are {width} wide, more than the harness asked room for")
    np.frombuffer(shared, np.float32, count * width, 0)[:] = picked.numpy().reshape(-1)
    return count, width


def _answer(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")
