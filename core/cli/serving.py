"""A trained model, loaded in a process of its own, for the commands that use one: generate, predict, eval, inspect."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .unsafe import tell_walls, unsafe_is_allowed
from .workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from ..prepare.manifest import PreparedData
    from ..train.logits_client import LogitsClient
    from ..train.mixing import Mixer

CHECKPOINT_FILES = ("model.safetensors", "config.json", "train.py")
LONGEST_CONTEXT = 4096
MEMORY_MB = 16_000.0
LARGEST_RECORD_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What answers with logits, and what is needed to ask."""

    open: Callable[[], LogitsClient]
    """A fresh process with the model, for one purpose at a time; `with` ends it."""
    tokenizer: Tokenizer
    context: int
    folder: Path
    """Where the checkpoint lies that was copied and loaded."""
    isolation: str
    """What its code was closed in by, as `Isolation.words`."""


@contextmanager
def served_model(model: Path | None, threads: int | None = None) -> Iterator[ServedModel]:
    """Load the model of `find_model(model)`; leaving ends its process. Raises UsageError and TrainingError."""
    from ..prepare.tokenizer import load_tokenizer
    from ..train.device import probe_device
    from ..train.executor import window_context
    from ..train.logits_client import LogitsClient
    from ..train.process import candidate_environment
    from ..train.sandbox.choice import Sandboxes

    checkpoint, tokenizer_file = find_model(model)
    tokenizer = load_tokenizer(tokenizer_file)
    device, mode = probe_device()
    with tempfile.TemporaryDirectory(prefix="slm-ar-model-") as name:
        folder = Path(name) / "model"
        folder.mkdir()
        for file in CHECKPOINT_FILES:
            shutil.copyfile(checkpoint / file, folder / file)
        spin_count = None if threads is None else 0
        environment = candidate_environment(threads or 1, spin_count)
        with Sandboxes(mode, device, environment, unsafe_is_allowed()) as sandboxes:
            sandboxes.incubator("serve", folder.parent)  # a missing sandbox is told before anything else
            isolation = sandboxes.isolation
            assert isolation is not None
            tell_walls(isolation)
            size, context = tokenizer.get_vocab_size(), window_context(folder, LONGEST_CONTEXT)

            def opened() -> LogitsClient:
                incubator = sandboxes.incubator("serve", folder.parent)
                return LogitsClient(incubator, folder, environment, device, size, context, MEMORY_MB)

            yield ServedModel(opened, tokenizer, context, checkpoint, isolation.words)


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
    # A snapshot of a run that was killed while it stood still has no tokenizer beside it, and is no trained model.
    found = [path for path in runs.glob("*/model.safetensors") if (path.parent / "tokenizer.json").is_file()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def data_of_model(workspace: Workspace, checkpoint: Path) -> PreparedData:
    """The prepared data that the model in `checkpoint` was trained on, which need not be the newest of the workspace.

    A model of an older slm-ar does not say; for it, the newest. Raises UsageError when they are gone.
    """
    from ..prepare.pipeline import newest_prepared, open_prepared

    root, key = workspace.hidden_folder / "data", _data_key(checkpoint)
    data = newest_prepared(root) if key is None else open_prepared(root, key)
    if data is None and key is None:
        raise UsageError("nothing is prepared here yet", "run `slm-ar prepare` and `slm-ar train` first")
    if data is None:
        raise UsageError(
            f"the data that {checkpoint} was trained on ({key}) are not prepared in this workspace, or damaged",
            "`slm-ar prepare` makes them again from the same recipe and source; or train a new model",
        )
    return data


def mixer_of(workspace: Workspace, data: PreparedData, tokenizer: Tokenizer) -> Mixer | None:
    """The n-gram of the data, where the workspace's recipe mixes one in.

    Raises RecipeError without text to fit it on, and UsageError when the model counts in other tokens than the data.
    """
    from ..prepare.manifest import TOKENIZER_FILE
    from ..prepare.tokenizer import load_tokenizer
    from ..train.mixing import NO_MIXTURE, Mixer

    if workspace.recipe.evaluation.mixture == NO_MIXTURE:
        return None
    if _entries(tokenizer) != _entries(load_tokenizer(data.folder / TOKENIZER_FILE)):
        raise UsageError(
            "the model has another tokenizer than the prepared data, so their n-gram cannot be mixed with it",
            f'train it anew on them, or set mixture = "{NO_MIXTURE}" in [evaluation] of recipe.toml',
        )
    return Mixer(data, tokenizer)


def _entries(tokenizer: Tokenizer) -> Any:
    """Its vocabulary and merges, which say what an id stands for."""
    return json.loads(tokenizer.to_str())["model"]


def _data_key(checkpoint: Path) -> str | None:
    """What a run folder (job.json) or a finished model (slm_ar.json) says of its data; it becomes a folder's name."""
    from ..export.folder import RECORD_FILE
    from ..train.files import read_candidate_file

    for name in ("job.json", RECORD_FILE):
        try:
            facts = json.loads(read_candidate_file(checkpoint / name, LARGEST_RECORD_BYTES))
        except (OSError, ValueError, RecursionError):
            continue  # not there, or not ours
        facts = facts if isinstance(facts, dict) else {}
        data = facts.get("data")
        found = facts.get("data_key", data.get("key") if isinstance(data, dict) else None)
        if isinstance(found, str) and re.fullmatch("[0-9a-f]{16}", found):
            return found
    return None
