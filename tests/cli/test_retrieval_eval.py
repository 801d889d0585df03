"""`slm-ar eval` measures retrieval itself where a person has documents and judgments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands_in_process import Command, last
from toys import TINY_TRAIN_PY, remember_machine, toy_recipe_text

from slm_ar.core.registry import load_adapter
from slm_ar.core.tasks.predicting import predict


def write_pairs(path: Path, seed: int, size: int) -> None:
    documents = load_adapter("query_expansion").sample(seed, size)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            query, _, target = document.text.partition("\n")
            output = [line.split(": ", 1) for line in target.strip().split("\n")]
            file.write(json.dumps({"query": query, "output": output}) + "\n")


def test_expansions_search_a_persons_own_documents(
    slm_ar: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, newer, root = tmp_path / "source", tmp_path / "newer.jsonl", tmp_path / "work"
    for folder in (source, root):
        folder.mkdir()
    write_pairs(source / "pairs.jsonl", seed=1, size=200_000)
    write_pairs(newer, seed=2, size=6_000)
    texts = {
        "d1": "bus timetable of the harbour line",
        "d2": "apple pie with cinnamon",
        "d3": "repair of a wooden boat",
    }
    (source / "docs.jsonl").write_text("".join(json.dumps({"id": k, "text": v}) + "\n" for k, v in texts.items()))
    (source / "queries.tsv").write_text("q1\tharbour bus\nq2\tbake a pie\nq3\tnever judged\n")
    (source / "qrels.tsv").write_text("q1\td1\t1\nq2\td2\t1\n")
    names = {"documents": "docs.jsonl", "queries": "queries.tsv", "judgments": "qrels.tsv", "skip": "docs.jsonl q*.tsv"}
    data = {"adapter": "query_expansion", "source": str(source), "dev_kb": 6, "hidden_kb": 6, "test_kb": 6}
    text = toy_recipe_text(data=data, budget={"steps": 3}) + "\n[data.options]\n"
    text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in names.items())
    (root / "recipe.toml").write_text(text)
    (root / "train.py").write_text(TINY_TRAIN_PY)
    (root / "program.md").write_text("# toy\n")
    remember_machine(root)
    assert slm_ar("train", "--quiet", folder=root).code == 0
    asked = []

    def recorded(source: Any, tokenizer: Any, context: int, documents: Any, *rest: Any) -> Any:
        asked.extend(document.id for document in documents)
        return predicting(source, tokenizer, context, documents, *rest)

    predicting = predict
    monkeypatch.setattr("slm_ar.core.tasks.predicting.predict", recorded)
    ended = slm_ar("eval", "--source", str(newer), "--json", folder=root)
    assert ended.code == 0, ended.text
    assert asked == ["q1", "q2"]  # nobody judged the third
    lines = last(ended)["retrieval"]
    assert any("raw query" in line for line in lines) and any("the model" in line for line in lines)
    assert any("2 judged queries, 3 documents" in line for line in lines)
