"""Every shipped recipe works: its adapter reads, its data are split, its knobs train and its tasks are answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import toy_machine

from slm_ar.core.agent.edits import set_knobs
from slm_ar.core.cli.workspace import create_workspace
from slm_ar.core.prepare.heldout import read_split
from slm_ar.core.recipe import load_shipped, shipped_recipes
from slm_ar.core.registry import adapter_names, load_adapter
from slm_ar.core.tasks.exam import sit_exam
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.training_run import TrainJob

TOY = {"data.dev_kb": 6, "data.hidden_kb": 6, "data.test_kb": 6, "data.mix_kb": 2, "tokenizer.vocab_size": 300}
SMALL_KNOBS = {"TARGET_PARAMS_M": 0.05, "BATCH_TOKENS": 512, "CONTEXT": 64, "HEAD_DIM": 16}
FIRST_OF_ADAPTER = {load_shipped(name).data.adapter: name for name in reversed(shipped_recipes())}.values()


def sample_texts(adapter: str) -> Iterator[str]:
    for document in load_adapter(adapter).sample(0, 120_000):
        yield document.text


def write_city(folder: Path) -> dict[str, Any]:
    load_adapter("transit").write_sample_source(folder, 0)  # type: ignore[attr-defined]
    return {}


def write_stories(folder: Path) -> dict[str, Any]:
    (folder / "stories.txt").write_text("<|endoftext|>\n".join(sample_texts("tinystories")), encoding="utf-8")
    return {}


def write_text(folder: Path) -> dict[str, Any]:
    (folder / "texts.txt").write_text("\n".join(sample_texts("text")), encoding="utf-8")
    return {}


def write_pairs(folder: Path) -> dict[str, Any]:
    with (folder / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for text in sample_texts("query_expansion"):
            query, _, target = text.partition("\n")
            output = [line.split(": ", 1) for line in target.strip().split("\n")]
            file.write(json.dumps({"query": query, "output": output}) + "\n")
    return {}


def write_table(folder: Path) -> dict[str, Any]:
    lines = [f"item {number} of shop {number % 7},{'ab'[number % 2]}" for number in range(6000)]
    (folder / "rows.csv").write_text("title,kind\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {"data.options.label": "kind"}


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "transit": write_city,
    "tinystories": write_stories,
    "text": write_text,
    "query_expansion": write_pairs,
    "table": write_table,
}


def test_every_adapter_has_two_recipes_or_more() -> None:
    by_adapter = [load_shipped(name).data.adapter for name in shipped_recipes()]
    assert set(by_adapter) == set(SOURCES) == set(adapter_names())
    assert all(by_adapter.count(name) >= 2 for name in SOURCES)
    assert len(by_adapter) >= 12


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_prepares_trains_and_answers(name: str, tmp_path: Path) -> None:
    recipe = load_shipped(name)
    source = tmp_path / "source"
    source.mkdir()
    changes = SOURCES[recipe.data.adapter](source) | {"data.source": str(source)} | TOY
    workspace = create_workspace(tmp_path / "work", name, changes)
    data = workspace.prepared(lambda line: None)
    train_py = set_knobs(workspace.train_py, SMALL_KNOBS)
    with LocalExecutor(toy_machine(), data) as executor:
        training = executor.submit(TrainJob(train_py, 0, None, 2, 60, 6000), tmp_path / "run")
        while (outcome := training.poll()) is None:
            pass
        assert outcome.status is None, outcome
        score = executor.score(tmp_path / "run", "dev", 64)
        assert 0 < score.bits_per_byte < 10
        if name not in FIRST_OF_ADAPTER:  # recipes of one adapter ask the same questions
            return
        documents = list(read_split(data.held_folder, "dev"))[:40]
        opener = executor.opener(tmp_path / "run", 64)
        results = sit_exam(opener, executor.tokenizer, 64, "few", documents, data, workspace.adapter(), limit=8)
    assert {result.task.name for result in results} <= {task.name for task in data.manifest.tasks}
    assert bool(results) == (recipe.data.adapter != "text")
    for result in results:
        assert result.task.metric in result.score.metrics
