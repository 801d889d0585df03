"""A trained model, loaded in a process of its own, for the commands that use one: generate, predict, eval, inspect."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..train.scorer import LogitsClient

CHECKPOINT_FILES = ("model.safetensors", "config.json", "train.py")
LONGEST_CONTEXT = 4096
MEMORY_MB = 16_000.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What answers with logits, and what is needed to ask."""

    client: LogitsClient
    tokenizer: Tokenizer
    context: int
    folder: Path
    """Where the checkpoint lies that was copied and loaded."""


@contextmanager
def served_model(model: Path | None, threads: int | None = None) -> Iterator[ServedModel]:
    """Load the model of `find_model(model)`; leaving ends its process. Raises UsageError and TrainingError."""
    from ..prepare.tokenizer import load_tokenizer
    from ..train.device import probe_device
    from ..train.executor import window_context
    from ..train.process import Incubator, candidate_environment
    from ..train.scorer import LogitsClient

    checkpoint, tokenizer_file = find_model(model)
    tokenizer = load_tokenizer(tokenizer_file)
    device, mode = probe_device()
    with tempfile.TemporaryDirectory(prefix="slm-ar-model-") as name:
        folder = Path(name)
        for file in CHECKPOINT_FILES:
            shutil.copyfile(checkpoint / file, folder / file)
        spin_count = None if threads is None else 0
        environment = candidate_environment(threads or 1, spin_count, folder)
        incubator = Incubator(mode, candidate_environment(threads or 1, spin_count))
        try:
            size, context = tokenizer.get_vocab_size(), window_context(folder, LONGEST_CONTEXT)
            with LogitsClient(incubator, folder, environment, device, size, context, MEMORY_MB) as client:
                yield ServedModel(client, tokenizer, context, checkpoint)
        finally:
            incubator.close()


def find_model(model: Path | None) -> tuple[Path, Path]:
    """(checkpoint folder, tokenizer.json) of `model`, or of the workspace's best: finished, current, last trained."""
    if model is not None:
        missing = [name for name in (*CHECKPOINT_FILES, "tokenizer.json") if not (model / name).is_file()]
        if missing:
            raise UsageError(
                f"{model} is not a model folder: {', '.join(missing)} missing", "`slm-ar finish` makes one"
            )
        return model, model / "tokenizer.json"
    workspace = find_workspace()
    if (workspace.root / "model" / "model.safetensors").is_file():
        return workspace.root / "model", workspace.root / "model" / "tokenizer.json"
    checkpoint = newest_checkpoint(workspace)
    if checkpoint is None:
        raise UsageError("there is no trained model here yet", "run `slm-ar train` or `slm-ar run` first")
    return checkpoint, checkpoint / "tokenizer.json"


def newest_checkpoint(workspace: Workspace) -> Path | None:
    """The run folder with the newest checkpoint of the current code, else the newest of all."""
    from .steps import read_state

    runs = workspace.hidden_folder / "runs"
    try:
        state = read_state(workspace)
        for run in reversed(state.runs):
            folder = runs / f"{run.id:06d}"
            if run.revision == state.head and (folder / "model.safetensors").is_file():
                return folder
    except UsageError:
        pass
    found = sorted(runs.glob("*/model.safetensors"), key=lambda path: path.stat().st_mtime)
    return found[-1].parent if found else None
