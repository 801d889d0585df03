"""The loadable folder that `slm-ar finish` writes: weights, config, tokenizer, code and a card; nothing pickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..prepare.pipeline import MANIFEST_FILE, TOKENIZER_FILE, PreparedData

RECORD_FILE, CARD_FILE = "slm_ar.json", "README.md"
FILES = ("model.safetensors", "config.json", "train.py")


def refuse_foreign_folder(target: Path) -> None:
    """Raises UsageError when `target` exists and is not a folder that slm-ar wrote: it would be replaced."""
    if target.is_symlink() or (target.exists() and not (target / RECORD_FILE).is_file()):
        raise UsageError(f"{target} exists and was not written by slm-ar", "move it away, then run the command again")


def write_model_folder(target: Path, checkpoint: Path, data: PreparedData, facts: Mapping[str, Any], card: str) -> None:
    """Write `target` whole or not at all: it is built beside and moved into place; an older one is replaced."""
    staging = target.with_name(target.name + ".unfinished")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(checkpoint / name, staging / name)
    shutil.copyfile(data.folder / TOKENIZER_FILE, staging / TOKENIZER_FILE)
    (staging / RECORD_FILE).write_text(_record(data, facts), encoding="utf-8")
    (staging / CARD_FILE).write_text(card, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    staging.replace(target)


def rewrite_facts(target: Path, data: PreparedData, facts: Mapping[str, Any], card: str) -> None:
    """Replace record and card of a folder that was just written, each whole or not at all: an exam came after it."""
    for name, text in ((RECORD_FILE, _record(data, facts)), (CARD_FILE, card)):
        unfinished = target / f".{name}.unfinished"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target / name)


def _record(data: PreparedData, facts: Mapping[str, Any]) -> str:
    public = json.loads((data.folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    return json.dumps({"facts": dict(facts), "data": public}, indent=1, ensure_ascii=False, allow_nan=False)


def _isolation_line(isolation: str) -> str:
    if isolation in ("", "none"):
        return "Isolation of the training code: none was proved, so the scores are explored, not certified."
    return f"Isolation of the training code: {isolation}, proved at every start."


def model_card(facts: Mapping[str, Any]) -> str:
    """The card in Markdown; `facts` holds name, description, headline, training and how to load it."""
    lines = [
        f"# {facts['name']}",
        "",
        str(facts["description"]),
        "",
        f"**{facts['headline']}**",
        "",
        "| fact | value |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts["table"].items()),
        "",
        "## Load it",
        "",
        "```python",
        "import json, runpy",
        "from safetensors.torch import load_model",
        "from tokenizers import Tokenizer",
        "",
        'build_model = runpy.run_path("train.py")["build_model"]',
        'model = build_model(json.load(open("config.json")))',
        'load_model(model, "model.safetensors")',
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        "```",
        "",
        "`<|bos|>` is token 0 and opens every document; `<|eos|>` is 1. train.py imports the slm-ar package.",
        'Or, without loading code yourself: `slm-ar generate --model THIS_FOLDER --prompt "..."`.',
        "",
        _isolation_line(str(facts.get("isolation", "none"))),
        "",
    ]
    return "\n".join(lines)
