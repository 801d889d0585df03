"""The parts of `make bench`: early stopping replayed on made-up curves, and toy runs of those that take no training."""

from __future__ import annotations

import itertools
import json
import random
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as bench
from benchmarks import busy, loader, overhead, plain, prepare, pruning, quality, steps
from benchmarks.common import Run, Settings
from benchmarks.page import PARTS
from benchmarks.pruning import Curve, night
from slm_ar.core.agent.edits import parse_knobs
from slm_ar.core.cli.workspace import template

START = Curve({0.125: 2.0, 0.25: 1.5}, 1.0)
NOISE = {0.125: 0.01, 0.25: 0.01}


def worse(by: float) -> Curve:
    """A curve that is behind the start by as much at every look as at the end."""
    return Curve({share: look + by for share, look in START.looks.items()}, START.score + by)


def test_without_anything_hopeless_nothing_is_saved_and_nothing_lost() -> None:
    found = night(START, NOISE, [worse(-0.01 * number) for number in range(12)])
    assert (found.spent, found.stopped) == (12.0, 0)
    assert found.score == pytest.approx(0.89)


def test_what_is_far_behind_is_stopped_at_an_eighth_once_enough_was_seen() -> None:
    found = night(START, NOISE, [worse(0.001)] * 6 + [worse(0.5)] * 4)
    assert found.stopped == 4
    assert found.spent == pytest.approx(6 + 4 * 0.125)
    assert found.score == START.score


def test_a_late_bloomer_that_is_stopped_is_the_regret_of_its_order() -> None:
    bloomer = Curve({0.125: 3.0, 0.25: 2.5}, 0.5)
    behind = [worse(0.001)] * 6
    assert night(START, NOISE, [*behind, bloomer]).score == START.score
    assert night(START, NOISE, [bloomer, *behind]).score == 0.5


@given(st.lists(st.tuples(*[st.floats(0.5, 3.0)] * 3), max_size=14), st.floats(0.0, 0.1))
def test_a_night_spends_at_least_an_eighth_and_at_most_one_training_each(
    drawn: list[tuple[float, float, float]], noise: float
) -> None:
    curves = [Curve({0.125: first, 0.25: second}, last) for first, second, last in drawn]
    found = night(START, dict.fromkeys(NOISE, noise), curves)
    assert len(curves) * 0.125 <= found.spent <= len(curves)
    assert min(curve.score for curve in [START, *curves]) <= found.score <= START.score


def test_the_summary_counts_saved_time_and_regret_over_orders() -> None:
    pick = random.Random(0)
    runs: list[Run] = []
    for key, curve in [("start 0", START), ("start 1", worse(0.01))] + [
        (f"configuration {number}", worse(0.5 if number > 5 else pick.uniform(-0.01, 0.01))) for number in range(12)
    ]:
        runs.append({"key": key, "looks": {f"{s:g}": look for s, look in curve.looks.items()}, "bpb": curve.score})
    runs.append({"key": "configuration 12", "looks": {}, "status": "oom", "reason": "no memory"})
    found = pruning.summary(runs)
    assert found["configurations"] == 12
    assert found["rank_correlation"] == {"0.125": 1.0, "0.25": 1.0}
    assert found["orders_without_regret"] == 1.0 and found["largest_regret_bpb"] == 0.0
    assert 0.1 < found["time_saved"] < 0.5
    assert pruning.summary([]) == {"configurations": 0}


def test_configurations_lie_in_the_ranges_of_the_knobs_and_differ() -> None:
    drawn = pruning.configurations(template("train.py"), 6)
    assert len({json.dumps(values) for values in drawn}) == 6
    for knob, values in itertools.product(parse_knobs(template("train.py")), drawn):
        assert knob.low is None or knob.high is None or knob.low <= values[knob.name] <= knob.high  # type: ignore[operator]


def test_the_plain_model_has_a_million_parameters_and_learns() -> None:
    shape = plain.Shape(1024, 256, 4, 128, 32, 2048)
    assert 0.9e6 < sum(weight.numel() for weight in plain.Model(shape).parameters()) < 1.0e6
    trainer = plain.Trainer(plain.Shape(20, 8, 1, 16, 8, 32))
    ids = torch.arange(20).repeat(3)[:36].view(4, 9)

    @torch.no_grad()
    def loss() -> float:
        logits = trainer.model(ids[:, :-1]).flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))

    before = loss()
    for _ in range(60):
        trainer.step(ids[:, :-1], ids[:, 1:])
    assert loss() < 0.8 * before
    inputs = ids[:1, :-1].clone()
    changed = inputs.clone()
    changed[0, -1] = 0
    assert torch.allclose(trainer.model(inputs)[0, :-1], trainer.model(changed)[0, :-1])


def test_the_row_by_row_loader_gives_rows_with_their_next_tokens() -> None:
    inputs, targets = next(loader.one_by_one(np.arange(500, dtype=np.uint16), 3, 16))
    assert inputs.shape == targets.shape == (3, 16)
    assert torch.equal(inputs + 1, targets)


def test_a_crawling_run_leaves_nothing_of_its_idle_rate() -> None:
    rates = {"slm-ar idle": 100.0, "slm-ar busy": 50.0, "torch idle": 120.0, "torch busy": 0.0}
    runs = [{"key": f"{key} {n}", "tokens_per_second": rate} for n in range(2) for key, rate in rates.items()]
    found = busy.summary(runs)
    assert found["slm-ar"]["left"]["ratio"] == 0.5
    assert found["torch"]["left"] == {"ratio": 0.0, "pairs": 2}


@pytest.mark.parametrize("part", [quality, prepare, loader, steps, overhead, busy, pruning])
def test_parts_can_be_asked_before_anything_is_measured(part: ModuleType) -> None:
    assert part in PARTS.values()
    for settings in (Settings(), Settings(is_quick=True, seeds=1, constants={"CONTEXT": "64"})):
        assert part.keys(settings) and part.seconds(settings) > 0 and part.name(settings)
        json.dumps(part.asked(settings))
        record = {"facts": {"floors": {}, "settings": {}}, "asked": part.asked(settings), "runs": []}
        assert isinstance(part.summary([]), dict) and PARTS
        if part not in (quality, loader, busy):
            assert part.lines(record | {"summary": part.summary([])}) == []


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


@pytest.mark.usefixtures("_quiet_machine")
def test_the_loader_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real runtime, here."""
    before = Path.cwd()
    assert bench.main(["--quick", "--only", "loader", "--results", str(tmp_path)]) == 0
    record = results(tmp_path)["loader"]
    assert record["is_quick"] and set(record["summary"]) == set(loader.WAYS)
    assert all(way["tokens_per_cpu_second"] > 0 for way in record["summary"].values())
    assert "## Data loader (B4)" in capsys.readouterr().out
    assert Path.cwd() == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_quiet_machine")
def test_quality_with_a_peer_prepare_and_step_rate_at_toy_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the real pipeline; the step of the real train.py through its main(), in a process of its own."""
    peer = tmp_path / "peer.py"
    peer.write_text("import sys; print(len(open(sys.argv[1]).read()) > 0, 3.5, sep='\\n')\n", encoding="utf-8")
    given = ["--quick", "--seconds", "3", "--only", "quality", "prepare", "steps", "--knob", "CONTEXT=64"]
    given += ["--peer", f"plain={shlex.join([sys.executable, str(peer)])}", "--results", str(tmp_path / "out")]
    assert bench.main(given) == 0, capsys.readouterr().err
    found = results(tmp_path / "out")
    quality_record = found["quality-city-CONTEXT=64"]
    assert quality_record["summary"]["plain"]["mean_bpb"] == 3.5
    assert quality_record["summary"]["plain"]["ours_to_it"]["pairs"] == 1
    assert quality_record["facts"]["floors"]
    assert found["prepare"]["summary"]["times_faster"] > 0
    (run,) = found["steps"]["runs"]
    assert run["ours"]["config"]["context"] == 64 and run["ours"]["config"]["tokens"] == 512
    assert 0.5 < run["ours"]["parameters"] / run["plain"]["parameters"] < 2
    assert "No measurement counts." not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("_quiet_machine")
def test_overhead_load_and_early_stopping_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--quick", "--seconds", "3", "--only", "overhead", "busy", "pruning", "--results", str(tmp_path)]
    assert bench.main(given) == 0, capsys.readouterr().err
    found = results(tmp_path)
    assert found["overhead"]["summary"]["per_hour"] > 0
    assert set(found["busy"]["summary"]) == set(busy.SETTINGS)
    assert found["pruning-city"]["runs"][0]["looks"].keys() <= {"0.125", "0.25"}  # a late look is passed over
