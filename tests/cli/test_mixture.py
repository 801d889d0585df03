"""A workspace whose recipe mixes models with an n-gram: every command names the metric, and what is exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands_in_process import Command, last, told
from toys import log_documents, make_toy_workspace, toy_recipe

from slm_ar.core.cli.lines import score_lines
from slm_ar.core.cli.serving import mixer_of
from slm_ar.core.cli.workspace import Workspace
from slm_ar.core.errors import UsageError
from slm_ar.core.prepare import pipeline
from slm_ar.core.prepare.tokenizer import load_tokenizer, train_tokenizer


@pytest.fixture(autouse=True)
def quick_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_floors", lambda train, dev: {"ppmd-6": 2.0})


def test_train_eval_and_generate_tell_both_figures(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy", evaluation={"mixture": "ngram"})
    facts = last(slm_ar("train", "--json", folder=root))
    mixed = facts["dev_bits_per_byte_with_ngram"]
    assert mixed < facts["dev_bits_per_byte"]
    words = "\n".join(score_lines(facts))
    assert f"{mixed:.4f} bits per byte with n-gram" in words and "the mixture is better" in words
    newer = tmp_path / "newer.txt"
    newer.write_text("\n".join(document.text for document in log_documents(180)[140:]), encoding="utf-8")
    told_of = last(slm_ar("eval", "--source", str(newer), "--json", folder=root))
    assert told_of["bits_per_byte_with_ngram"] < told_of["bits_per_byte"]
    assert told_of["dev_bits_per_byte_with_ngram"] == pytest.approx(mixed, rel=1e-4)
    assert "bits per byte with n-gram; dev" in slm_ar("eval", "--source", str(newer), folder=root).out
    ask = ("generate", "--prompt", "day Mon\n", "--tokens", "30", "--temperature", "0")
    both = slm_ar(*ask, folder=root)
    assert both.code == 0 and both.out.startswith("day Mon\n")
    recipe = root / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    model = ("--model", str(root / ".slm" / "runs" / "train"))
    recipe.write_text(text + "nonsense\n", encoding="utf-8")
    damaged = slm_ar(*ask, *model, folder=root)
    assert damaged.code == 0 and "the model writes alone: " in damaged.error and damaged.out != both.out
    recipe.write_text(text.replace('"ngram"', '"none"'), encoding="utf-8")
    alone = slm_ar(*ask, folder=root)
    assert alone.code == 0 and alone.out != both.out
    assert "with n-gram" not in slm_ar("eval", "--source", str(newer), folder=root).out


def test_a_night_judges_the_mixture_and_hands_out_the_model_alone(slm_ar: Command, tmp_path: Path) -> None:
    gate = {"calibration_runs": 2, "final_pairs": 2}
    root = make_toy_workspace(tmp_path / "toy", evaluation={"mixture": "ngram"}, gate=gate)
    ended = slm_ar("run", "--experiments", "1", folder=root)
    assert ended.code == 0, ended.text
    assert "bits per byte with n-gram" in ended.text
    status = json.loads(slm_ar("status", "--json", folder=root).out)
    assert status["unit"] == status["claim_unit"] == "bits per byte with n-gram"
    assert status["baseline"]["score"] < status["text_start"]
    finished = slm_ar("finish", "--yes", folder=root)
    assert finished.code == 0, finished.text
    assert "the folder holds the neural model alone" in finished.out
    card = (root / "model" / "README.md").read_text(encoding="utf-8")
    assert "| this folder | the neural model alone, without the n-gram |" in card
    assert "bits per byte with n-gram on dev" in card
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "bits per byte with n-gram" in page and "The exported folder is the model alone." in page


def test_without_text_to_fit_on_it_is_told_before_anything_is_trained(slm_ar: Command, tmp_path: Path) -> None:
    root = make_toy_workspace(tmp_path / "toy", evaluation={"mixture": "ngram"}, data={"mix_kb": 1})
    told(slm_ar("prepare", folder=root), 3, "fits its weights on the mix part of the data", "mix_percent and mix_kb")


def test_an_ngram_of_other_tokens_is_mixed_with_no_model(tiny_data: pipeline.PreparedData, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, toy_recipe(evaluation={"mixture": "ngram"}))
    assert mixer_of(workspace, tiny_data, load_tokenizer(tiny_data.folder / "tokenizer.json")) is not None
    with pytest.raises(UsageError, match="another tokenizer"):
        mixer_of(workspace, tiny_data, train_tokenizer(iter(["day night"] * 9), 320, "words"))
