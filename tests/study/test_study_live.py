"""Live searches over a fake trainer: what is trained, what is shared, how a killed study goes on, what is valued."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_toys import CODE, FakeCrew, Guesser, Killed, bowl
from toys import toy_machine, toy_recipe

from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs
from slm_ar.core.contracts import Proposal, ResearchContext, Status
from slm_ar.core.errors import TrainingError, UsageError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.report.terminal import QuietDisplay
from slm_ar.core.study import live
from slm_ar.core.study.compare import AHEAD, BEHIND, compare
from slm_ar.core.study.crew import Crew, Order
from slm_ar.core.study.live import CALIBRATION_RUNS, live_corpus
from slm_ar.core.study.loop import SHARES, Trace, training_seed
from slm_ar.core.study.store import RUNS, Store, identity_of, read_store
from slm_ar.core.study.training import Bench, Trained

PROPOSERS = {"near": Guesser("near", 0.4), "wide": Guesser("wide", 1.0)}


@pytest.fixture
def bench(tiny_data: PreparedData, tmp_path: Path) -> Bench:
    return Bench("toy", toy_recipe(), tiny_data, toy_machine(), CODE, "", tmp_path / "runs")


def lived(monkeypatch: pytest.MonkeyPatch, path: Path, bench: Bench, crew: FakeCrew, seeds: int = 2) -> list[Trace]:
    @contextmanager
    def fake(*_: Any, **__: Any) -> Iterator[Crew]:
        yield crew

    monkeypatch.setattr(live, "trainings", fake)
    traces, world = live_corpus(path, bench, list(PROPOSERS), range(seeds), 6, 3, QuietDisplay(), PROPOSERS.__getitem__)
    assert world.sigma > 0
    return traces


def test_every_return_is_valued_with_fresh_seeds(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = FakeCrew(1)
    traces = lived(monkeypatch, tmp_path / "a.jsonl", bench, crew)
    assert [(trace.proposer, trace.search_seed) for trace in traces] == [
        ("near", 0), ("wide", 0), ("near", 1), ("wide", 1)
    ]  # fmt: skip
    assert len({trace.seconds for trace in traces}) == 1
    orders = [(revision_digest(order.train_py), order.seed) for order in crew.done]
    assert len(set(orders)) == len(orders), "nothing is trained twice"
    start = revision_digest(CODE)
    assert sum(revision == start for revision, _ in orders[:CALIBRATION_RUNS]) == CALIBRATION_RUNS
    seeds: dict[str, set[int]] = {}
    for revision, seed in orders:
        seeds.setdefault(revision, set()).add(seed)
    every_fresh: set[int] = set()
    for search_seed in (0, 1):
        own = [trace for trace in traces if trace.search_seed == search_seed]
        returned = {trace.returned_at(share) for trace in own for share in SHARES}
        searching = training_seed(identity_of(bench.facts), training_seed("search", search_seed, 0))
        fresh = set.intersection(*(seeds[revision] for revision in returned)) - every_fresh - {searching}
        assert len(returned) > 1 and len(fresh) == 3, "the same for both proposers, others for each search seed"
        every_fresh |= fresh
    for trace in traces:
        assert {trace.returned_at(share) for share in SHARES} == set(trace.values)
    # The fake's score is the bowl and a few thousandths of luck by the seed.
    texts = {revision_digest(order.train_py): order.train_py for order in crew.done}
    for revision, value in traces[0].values.items():
        truth = bowl({knob.name: knob.value for knob in parse_knobs(texts[revision])})
        assert truth <= value <= truth + 0.006


def test_luck_in_the_true_values_is_no_difference(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two proposers that return an equally good configuration each, the same in every search."""

    class Fixed(Guesser):
        def propose(self, context: ResearchContext) -> Proposal | None:
            kind = {"SIZE": 0.7, "STEP": 0.005, "SHARE": 0.2, "LAYERS": 3, "KIND": "gelu", "BATCH": self.shift}
            return Proposal("", "", set_knobs(context.train_py, kind))

    monkeypatch.setitem(PROPOSERS, "near", Fixed("near", 0, shift=512))
    monkeypatch.setitem(PROPOSERS, "wide", Fixed("wide", 0, shift=2048))
    crew = FakeCrew(1)
    monkeypatch.setattr(crew, "luck", lambda order: random.Random(order.train_py + str(order.seed)).gauss(0, 0.02))
    traces = lived(monkeypatch, tmp_path / "a.jsonl", bench, crew, seeds=8)
    (near,) = (item for item in compare(traces, "wide", {"toy": 0.01}, knows_all=False) if item.proposer == "near")
    end = near.differences[-1]
    assert end.high - end.low > 0.005 and end.verdict not in (AHEAD, BEHIND)


def test_what_fails_with_a_fresh_seed_is_worth_what_the_start_is(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Frail(FakeCrew):
        def next(self) -> tuple[Order, Trained]:
            order, trained = super().next()
            if order.train_py != CODE and "true value" in order.title:
                trained = replace(trained, status=Status.CRASHED, score=None)
            return order, trained

    start = bowl({knob.name: knob.value for knob in parse_knobs(CODE)})
    traces = lived(monkeypatch, tmp_path / "a.jsonl", bench, Frail(1))
    values = [value for trace in traces for value in trace.values.values()]
    assert values and all(start <= value <= start + 0.006 for value in values)


def test_a_killed_study_goes_on(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, crew = tmp_path / "whole.jsonl", FakeCrew(1)
    expected = lived(monkeypatch, whole, bench, crew)
    path, trained = tmp_path / "killed.jsonl", 0
    for lives in (3, 8, 10**6):
        again = FakeCrew(1, lives)
        if lives < 100:
            with pytest.raises(Killed):
                lived(monkeypatch, path, bench, again)
        else:
            traces = lived(monkeypatch, path, bench, again)
        trained += len(again.done)
    assert trained == len(crew.done) == len(read_store(path, RUNS)[1])
    assert [(trace.steps, trace.values) for trace in traces] == [(trace.steps, trace.values) for trace in expected]
    more = FakeCrew(1)
    longer = lived(monkeypatch, path, bench, more, seeds=3)
    assert [trace.values for trace in longer[:4]] == [trace.values for trace in traces]
    assert 0 < len(more.done) < trained


def test_runs_of_something_else_are_refused(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    Store(path, RUNS, {**bench.facts, "data": "other"}, {}).__exit__()
    with pytest.raises(UsageError, match="changed: the prepared data;"):
        lived(monkeypatch, path, bench, FakeCrew(1))


def test_a_start_that_fails_is_told(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(bench, train_py=set_knobs(CODE, {"SIZE": 150.0}))
    with pytest.raises(TrainingError, match="corpus toy: the starting"):
        lived(monkeypatch, tmp_path / "a.jsonl", broken, FakeCrew(1))
