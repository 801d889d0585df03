"""Small things that many tests share: a synthetic corpus, an adapter for it, a recipe and a train.py that takes ms."""

from __future__ import annotations

import json
import os
import platform
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from slm_ar.core.agent.edits import revision_digest, set_knobs
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.replay import replay
from slm_ar.core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule
from slm_ar.core.recipe import Recipe, parse_recipe
from slm_ar.core.train.device import Machine, torch_version

STOPS = ("Main St", "Harbour", "Old Mill", "Station", "Airport", "Zoo", "Käthe-Platz", "Museum")
CAUSES = ("signal failure", "late crew", "door fault", "traffic", "medical emergency", "weather")

TINY_TRAIN_PY = '''"""A toy: a look at the token before, one hidden layer. Made for tests."""

import torch
import torch.nn.functional as F
from torch import nn

from slm_ar.core.train import runtime

WIDTH = 16  # knob: choice 8 16 32
CONTEXT = 32  # knob: choice 16 32 64
BATCH_TOKENS = 256  # knob: choice 128 256 512
MATRIX_LR = 0.02  # knob: float log 0.001..0.3


class Model(nn.Module):
    def __init__(self, vocab_size, width):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.mix = nn.Linear(2 * width, width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return self.head(F.silu(self.mix(torch.cat([x, before], dim=-1))))


def build_model(config):
    return Model(config["vocab_size"], config["width"])


def main():
    run = runtime.connect()
    config = {"vocab_size": run.vocab_size, "width": WIDTH, "context": CONTEXT}
    model = build_model(config).to(run.device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=run.generator(name)) * 0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=MATRIX_LR)
    for batch in run.batches(BATCH_TOKENS, CONTEXT):
        loss = F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    run.save(model, config)


if __name__ == "__main__":
    main()
'''


def with_main(body: str) -> str:
    """The toy train.py with another body of main(); `body` is unindented source."""
    head, _, _ = TINY_TRAIN_PY.partition("def main():\n")
    indented = "".join(f"    {line}\n" if line else "\n" for line in body.strip().split("\n"))
    return f'{head}def main():\n{indented}\n\nif __name__ == "__main__":\n    main()\n'


def log_text(seed: int, lines: int) -> str:
    """One made-up day of incidents, one line each."""
    pick = random.Random(f"log {seed}")
    rows = []
    minute = pick.randrange(300, 400)
    for _ in range(lines):
        minute += pick.randrange(1, 25)
        line = pick.choice((1, 2, 4, 501, 504))
        rows.append(
            f"{minute // 60:02d}:{minute % 60:02d} | {line} | {pick.choice(STOPS)} | {pick.choice(CAUSES)} "
            f"| {pick.randrange(60)} min\n"
        )
    return f"day {pick.choice(('Mon', 'Tue', 'Wed', 'Sat'))}\n" + "".join(rows)


def log_documents(count: int, lines: int = 20, first_seed: int = 0) -> list[Document]:
    """`count` days, each a group with a date; the cause of the first incident of a day is an answer span."""
    documents = []
    for number in range(count):
        text = log_text(first_seed + number, lines)
        raw = text.encode()
        first_line = raw.index(b"\n") + 1
        fields = raw[first_line : raw.index(b"\n", first_line)].split(b" | ")
        start = first_line + len(b" | ".join(fields[:3])) + 3
        span = Span(start, start + len(fields[3]), "cause")
        date = f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}"
        documents.append(Document(f"day {number}", text, f"group {number}", date, (span,)))
    return documents


class ToyAdapter:
    """Serves the documents it was given and ignores the source."""

    name = "toy"
    version = 1
    split = SplitRule.TIME
    duplicates = DuplicatePolicy.EXACT
    tasks = ()
    slice_keys = ("weekday",)
    options: ClassVar[dict[str, str]] = {}

    def __init__(self, documents: list[Document] | None = None) -> None:
        self.given = documents if documents is not None else log_documents(140)

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        yield from self.given

    def slices(self, document: Document) -> Mapping[str, str]:
        return {"weekday": document.text[4:7]}

    def describe(self) -> str:
        return "Days of incidents."

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        yield from log_documents(max(1, size // 1000), first_seed=1000 * seed)


def toy_recipe(**tables: Mapping[str, Any]) -> Recipe:
    """A recipe for tests; `tables` replace or add keys, as toy_recipe(data={"dev_kb": 5})."""
    return parse_recipe(toy_recipe_text(**tables), "toy recipe")


def toy_recipe_text(**tables: Mapping[str, Any]) -> str:
    merged: dict[str, dict[str, Any]] = {
        "data": {"adapter": "text", "mix_kb": 10},
        "tokenizer": {"vocab_size": 320},
        "budget": {"steps": 8, "experiments": 4, "startup_seconds": 60},
        "machine": {"device": "cpu", "threads": 1, "precision": "float32"},
        "evaluation": {"context": 32},
        "gate": {
            "calibration_runs": 3,
            "alpha": 0.2,
            "looks": [3],
            "alpha_split": [1.0],
            "claim_every": 4,
            "final_pairs": 2,
        },
        "finish": {"train_factor": 2},
    }
    for table, keys in tables.items():
        merged.setdefault(table, {}).update(keys)
    lines = ['name = "toy"', 'description = "A toy campaign for tests."']
    for table, keys in merged.items():
        lines.append(f"\n[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None]
    return "\n".join(lines) + "\n"


def toy_machine(**changes: Any) -> Machine:
    """One CPU thread in float32, forked from a warm process: the same numbers on every machine, and quick."""
    facts: dict[str, Any] = {
        "device": "cpu",
        "name": "test machine",
        "threads": 1,
        "spin_count": None,
        "precision": "float32",
        "memory_mb": 6000,
        "torch": torch_version(),
        "mode": "warm",
        "probe": {},
    }
    return Machine(**(facts | changes))


def make_toy_workspace(root: Path, train_py: str = TINY_TRAIN_PY, **tables: Mapping[str, Any]) -> Path:
    """A workspace as `slm-ar new` makes it, over a text file beside it; the machine is known, so nothing is probed."""
    source = root.parent / f"{root.name}-source"
    source.mkdir(parents=True)
    (source / "days.txt").write_text("\n".join(document.text for document in log_documents(140)), encoding="utf-8")
    root.mkdir()
    data = {"source": str(source), "split": "order", **tables.pop("data", {})}
    recipe = toy_recipe_text(data=data, **tables)
    (root / "recipe.toml").write_text(recipe, encoding="utf-8")
    (root / "train.py").write_text(train_py, encoding="utf-8")
    (root / "program.md").write_text("# toy\n", encoding="utf-8")
    (root / ".gitignore").write_text(".slm/\n", encoding="utf-8")
    remember_machine(root)
    return root


def keep_an_edit(root: Path, rate: float = 0.0123) -> str:
    """The journal of a toy workspace says that one more edit was kept, whatever the nights found; its revision."""
    return _judged_edit(root, rate, {"status": "kept"})


def take_all_back(root: Path, rate: float = 0.0124) -> None:
    """The same journal says that the current code is the starting code again."""
    with Journal(root / ".slm", read_only=True) as journal:
        state = replay(journal.events)
    assert state is not None
    _judged_edit(root, rate, {"status": "reverted", "back_to": state.baseline})


def _judged_edit(root: Path, rate: float, verdict: Mapping[str, Any]) -> str:
    with Journal(root / ".slm") as journal:
        state = replay(journal.events)
        assert state is not None
        number = len(state.experiments) + 1
        text = set_knobs(state.revisions[state.head], {"MATRIX_LR": rate})
        proposal = {"id": number, "revision": revision_digest(text), "parent": state.head, "train_py": text}
        words = {"proposer": "search", "hypothesis": "another rate", "rationale": "", "template": "t", "window": 0}
        journal.append("proposed", {**proposal, **words, "knobs": {"MATRIX_LR": rate}})
        journal.append("judged", {"experiment": number, "reason": "", "run": None, "head_score": None, **verdict})
    return revision_digest(text)


def probed(**seconds: float) -> Machine:
    """A machine of one thread with these seconds per step of the probe, by dtype."""
    return toy_machine(probe={f"1 threads {dtype}": found for dtype, found in seconds.items()})


def remember_machine(root: Path) -> None:
    """Write what `Workspace.machine` would have measured."""
    table = parse_recipe((root / "recipe.toml").read_text(encoding="utf-8"), "toy").machine.model_dump(mode="json")
    host = [platform.node(), platform.machine(), os.cpu_count()]
    asked = {"recipe": table, "torch": torch_version(), "host": host}
    known = {"asked": asked, "machine": toy_machine().facts}
    (root / ".slm").mkdir(exist_ok=True)
    (root / ".slm" / "machine.json").write_text(json.dumps(known), encoding="utf-8")


TOY_STUDY = """
name = "toy study"
mode = "surrogate"

[[corpora]]
name = "toy"
workspace = "toy"

[record]
configurations = 4
repeats = 2
seeds = 2

[search]
proposers = ["search", "random"]
reference = "random"
runs = 4

[surrogate]
search_seeds = 6

[live]
search_seeds = 1
value_seeds = 1
"""


TABLE_PY = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))

    def forward(self, ids):
        return self.table[ids]


def build_model(config):
    return Model(config["vocab_size"])
"""
"""A train.py whose model is a table of logits, one row per token before: what it says is what a test writes into it."""
