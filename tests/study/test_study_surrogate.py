"""The model of a table: it ranks what it has not seen, fails where trainings failed, and is as noisy as they were."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_toys import FACTS, SPACE, TRAIN_PY, Guesser, bowl, is_too_large, table_rows
from threadpoolctl import threadpool_info

from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.contracts import Proposal, ResearchContext, Status
from slm_ar.core.errors import DataError, UsageError
from slm_ar.core.study import replay as replaying
from slm_ar.core.study.loop import Measured
from slm_ar.core.study.page import CorpusFacts, page_of, results_of, summary_of, tidy_csv, write_results
from slm_ar.core.study.replay import Replay, open_replay, replay_all
from slm_ar.core.study.store import TABLE, Store
from slm_ar.core.study.surrogate import Surrogate, noise_of, rank_correlation
from slm_ar.core.study.world import SurrogateWorld, knobs_alone


def written_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with Store(path, TABLE, FACTS, {"train_py": TRAIN_PY, "score": "bits per byte"}) as store:
        for row in rows:
            store.append(row)
    return path


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    return open_replay("bowl", written_table(tmp_path_factory.mktemp("table") / "t.jsonl", table_rows(100)), 8)


@pytest.fixture(scope="module")
def surrogate(replay: Replay) -> Surrogate:
    return replay.world.surrogate


@pytest.fixture
def world(surrogate: Surrogate) -> SurrogateWorld:
    return SurrogateWorld(surrogate, TRAIN_PY, {"facts": FACTS}, "x")


def test_unseen_configurations_are_ranked_as_they_are(surrogate: Surrogate) -> None:
    import numpy as np

    luck = random.Random(1)
    unseen = [SPACE.values([luck.random() for _ in SPACE.knobs]) for _ in range(200)]
    truth = np.array([bowl(values) for values in unseen])
    said = np.array([surrogate.value(values) for values in unseen])
    assert rank_correlation(truth, said) > 0.9
    assert not surrogate.facts.is_weak and not surrogate.facts.warnings
    best = surrogate.facts.qualities[0]
    assert best.rank_correlation > 0.85 and best.r2 > 0.7
    assert best.rank_correlation + best.rank_correlation_better_half == max(
        item.rank_correlation + item.rank_correlation_better_half for item in surrogate.facts.qualities
    )


def test_it_fails_where_trainings_failed(surrogate: Surrogate, world: SurrogateWorld) -> None:
    small, large = SPACE.start | {"SIZE": 2.0}, SPACE.start | {"SIZE": 180.0}
    assert is_too_large(large) and surrogate.failure(small) < 0.2 < 0.6 < surrogate.failure(large)
    assert surrogate.failed_like(large) == (Status.OOM, 2.0)
    seen = [world.measure(set_knobs(world.start, large), seed) for seed in range(50)]
    failed = [item for item in seen if isinstance(item, Measured) and item.status is Status.OOM]
    assert len(failed) > 25 and all(item.seconds == 2.0 and item.score is None for item in failed)
    assert surrogate.facts.failures.keys() == {"oom"}
    assert surrogate.facts.failure_auc is not None and surrogate.facts.failure_auc > 0.9


def test_the_start_never_fails_whatever_its_neighbours_do(
    world: SurrogateWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Surrogate, "failure", lambda *_: 1.0)
    start, other = world.measure(world.start, 0), world.measure(set_knobs(world.start, {"SIZE": 2.0}), 0)
    assert isinstance(start, Measured) and start.status is None and start.score is not None
    assert isinstance(other, Measured) and other.status is Status.OOM


def test_its_noise_is_that_of_the_repeated_seeds(surrogate: Surrogate, world: SurrogateWorld) -> None:
    assert surrogate.sigma == pytest.approx(0.01, rel=0.8)
    text = set_knobs(world.start, SPACE.start | {"SIZE": 1.0})
    scores = [item.score for seed in range(300) if isinstance(item := world.measure(text, seed), Measured)]
    kept = [score for score in scores if score is not None]
    mean = sum(kept) / len(kept)
    spread = math.sqrt(sum((score - mean) ** 2 for score in kept) / len(kept))
    assert mean == pytest.approx(world.value(text), abs=surrogate.sigma / 3)
    assert spread == pytest.approx(surrogate.sigma, rel=0.2)
    assert world.measure(text, 7) == world.measure(text, 7), "the same question has the same answer"


def test_noise_is_pooled_over_the_better_half() -> None:
    def group(number: int, *scores: float | None) -> list[dict[str, object]]:
        return [{"status": None if score is not None else "oom", "score": score} for score in scores]

    assert noise_of([group(0, 1.0, 3.0)]) == (pytest.approx(math.sqrt(2)), 1)
    groups = [group(0, 1.0, 1.2), group(1, 1.1, 1.3, None), group(2, 5.0, 9.0), group(3, 6.0, 8.0), group(4, 2.0)]
    assert noise_of(groups) == (pytest.approx(math.sqrt(0.02)), 2)
    with pytest.raises(UsageError, match="several seeds"):
        noise_of([group(0, 1.0), group(1, 1.0, None)])


def test_a_small_table_is_refused_or_told() -> None:
    rows = table_rows(6, repeats=2)
    with pytest.raises(UsageError, match="4 are the least"):
        Surrogate(parse_knobs(TRAIN_PY), [row for row in rows if row["configuration"] < 3])
    facts = Surrogate(parse_knobs(TRAIN_PY), rows).facts
    assert any("this shows that the tool works" in warning for warning in facts.warnings) and facts.is_weak


def test_a_model_that_ranks_only_bad_from_good_is_weak(surrogate: Surrogate) -> None:
    first, *others = surrogate.facts.qualities
    for quality, is_weak in (
        (replace(first, rank_correlation=0.69), True),
        (replace(first, rank_correlation=0.95, rank_correlation_better_half=0.1), True),
        (replace(first, rank_correlation=0.7, rank_correlation_better_half=0.3), False),
    ):
        assert replace(surrogate.facts, qualities=(quality, *others)).is_weak is is_weak


def test_its_train_py_is_the_knobs_alone(world: SurrogateWorld) -> None:
    code = TRAIN_PY + "\n\ndef build_model(config):\n    secret = 1\n"
    alone = knobs_alone(code)
    strip = [(k.name, k.kind, k.value, k.low, k.high, k.log, k.choices) for k in parse_knobs(alone)]
    assert strip == [(k.name, k.kind, k.value, k.low, k.high, k.log, k.choices) for k in parse_knobs(code)]
    assert "secret" not in alone
    assert isinstance(world.measure(world.start + "\nX = 1\n", 0), str)


def test_a_study_on_a_table_from_file_to_page(tmp_path: Path, replay: Replay) -> None:
    assert replay.seconds == pytest.approx(80, rel=0.3)
    names = ["tpe", "random"]
    traces = replay_all([replay], names, range(3, 10), 1)
    assert [(item.proposer, item.search_seed) for item in traces] == [(n, s) for n in names for s in range(3, 10)]
    assert replay_all([replay], names, range(3, 10), 2)[5].steps == traces[5].steps, "processes change nothing"

    corpus = CorpusFacts("bowl", replay.score, 0.01, replay.seconds, 0.005, FACTS, replay.world.surrogate.facts)
    results = results_of("toy", "surrogate", "random", 8, 0, [corpus], traces, {"machine": "here"})
    page = write_results(tmp_path / "out", results, traces)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["search_seeds"] == list(range(3, 10))
    assert {item["proposer"] for item in summary["comparisons"]} == set(names)
    (own,) = (item for item in summary["comparisons"] if item["proposer"] == "tpe")
    assert own["differences"][0]["verdict"] in page.read_text()
    assert "| model (the first one is used) |" in page.read_text()
    assert (
        "This page has 3, and" in page.read_text() and "more search seeds make the interval shorter" in page.read_text()
    )
    lowest = min(item.values[item.steps[-1].returned] for item in traces)
    assert f"returned is worth {lowest:.4f}; the best recorded" in page.read_text()
    assert "may have made it up" not in page.read_text()
    exploited = [replace(item, values=dict.fromkeys(item.values, 0.5)) for item in traces]
    told = page_of(results_of("toy", "surrogate", "random", 8, 0, [corpus], exploited, {}))
    assert "returned is worth 0.5000" in told and "may have made it up" in told
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert lines[0].split(",")[:4] == ["corpus", "proposer", "search_seed", "experiment"]
    assert len(lines) == 1 + sum(len(item.steps) for item in traces)
    assert tidy_csv(traces) == "\n".join(lines) + "\n"
    counts = Counter(line.split(",")[4] for line in lines[1:])
    assert counts["start"] == 14
    assert summary_of(results)["comparisons"][0]["propose_milliseconds"] > 0


def test_a_mistake_in_a_helper_process_reaches_the_person(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(replaying._KNOWN, "bowl", replay)
    answer = pickle.loads(pickle.dumps(replaying._play(("bowl", "serch", 0))))
    with pytest.raises(UsageError, match="no proposer 'serch'") as caught:
        replaying._given(answer)
    assert caught.value.hint


def test_a_search_computes_on_one_thread_here_as_in_a_helper(replay: Replay) -> None:
    """Else the last digits of a model, and a close decision, could depend on --jobs."""
    seen: set[int] = set()

    class Watching(Guesser):
        def propose(self, context: ResearchContext) -> Proposal | None:
            seen.update(library["num_threads"] for library in threadpool_info())
            return None

    replay_all([replay], ["watching"], range(1), 1, make=lambda name: Watching(name, 1.0))
    assert seen == {1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"score": "low"}, "score must be a number"),
        ({"score": None}, "score must be a number"),
        ({"seconds": 0.0}, "seconds must be a number above zero"),
        ({"status": "tired", "score": None}, "there is no status 'tired'"),
        ({"configuration": "first"}, "whole numbers"),
        ({"knobs": []}, "other knobs"),
        ({"knobs": {"SIZE": 1.0}}, "other knobs"),
        ({"knobs": {**SPACE.start, "KIND": "tanh"}}, "a value that its knob does not allow"),
        ({"knobs": {**SPACE.start, "SIZE": -1.0}}, "a value that its knob does not allow"),
        ({"knobs": {**SPACE.start, "LAYERS": 99}}, "a value that its knob does not allow"),
        ({"knobs": {**SPACE.start, "SIZE": None}}, "a value that its knob does not allow"),
    ],
)
def test_a_row_that_was_changed_is_told_with_its_line(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    row = {"configuration": 0, "repeat": 0, "knobs": SPACE.start, "status": None, "score": 1.0, "seconds": 1.0}
    path = written_table(tmp_path / "t.jsonl", [{"rates": []}, row, {**row, **change}])
    with pytest.raises(DataError, match=f"line 4: .*{told}"):
        open_replay("bowl", path, 8)
    missing = written_table(tmp_path / "u.jsonl", [{name: row[name] for name in row if name != "score"}])
    with pytest.raises(DataError, match="line 2: lacks score"):
        open_replay("bowl", missing, 8)


@pytest.mark.parametrize("name", ["train_py", "identity", "facts"])
def test_a_table_that_does_not_say_what_it_is_of_is_told(tmp_path: Path, name: str) -> None:
    path = written_table(tmp_path / "t.jsonl", [])
    header = json.loads(path.read_text())
    if name == "facts":
        header[name] = {}
    else:
        del header[name]
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(DataError, match="line 1: does not say what was recorded"):
        open_replay("bowl", path, 8)


def test_shipped_proposers_know_what_a_world_of_knobs_is(world: SurrogateWorld) -> None:
    from slm_ar.core.study.loop import search

    trace = search("bowl", "search", make_proposer("search"), world, 0, 15 * world.surrogate.facts.seconds_of_start)
    assert not [step for step in trace.steps if step.status == "skipped"]
