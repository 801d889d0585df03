"""Rates: what is timed and when, what it promises, and that a promise is tried once like any other idea."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_campaign import FakeExecutor, Scripted, kinds, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent import calibrator
from slm_ar.core.agent.edits import parse_knobs, revision_digest
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.opening import research_context
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.rates import TITLE, next_promise, predicted, promises, settings, size_knobs
from slm_ar.core.agent.proposers.space import Space
from slm_ar.core.agent.replay import replay
from slm_ar.core.contracts import PastExperiment, Rate, ResearchContext, Status
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train.device_lock import take_device
from slm_ar.core.train.smoke import Smoke
from slm_ar.core.train.training_run import TrainJob

SHIPPED = (Path(__file__).parents[2] / "program_templates" / "train.py").read_text(encoding="utf-8")
LONG = {"budget": {"seconds": 30.0, "steps": None, "experiments": 20}}


def rate(parameters: float, tokens: float, updates: float, passes: float = 1.0, **knobs: Any) -> Rate:
    """A rate as the tables of measurements give it: millions of parameters and of tokens."""
    return Rate(knobs, None, round(tokens * 1e6 / updates), round(parameters * 1e6), updates, passes)


# --- the rule -------------------------------------------------------------------------------

MEASURED = (
    (rate(4.2, 0.44, 27), 2.521),
    (rate(4.2, 0.29, 280), 2.310),
    (rate(1.0, 0.65, 630), 2.278),
    (rate(0.79, 1.28, 1247), 2.234),
    (rate(0.61, 1.51, 1472), 2.187),
)
"""Models of 60 CPU seconds on a megabyte of text, and their bits per byte."""


def test_the_rule_puts_measured_models_in_their_order() -> None:
    guesses = [predicted(item, item) for item, _ in MEASURED]
    assert guesses == sorted(guesses, reverse=True)
    for guess, (_, score) in zip(guesses, MEASURED, strict=True):
        assert guess - guesses[-1] == pytest.approx(score - MEASURED[-1][1], abs=0.12)


def test_more_text_is_better_until_it_repeats() -> None:
    fresh, repeated = rate(1, 4, 4000, passes=1), rate(1, 40, 4000, passes=40)
    assert predicted(rate(1, 8, 4000), fresh) < predicted(fresh, fresh)
    assert predicted(repeated, fresh) == pytest.approx(predicted(fresh, fresh))


def test_a_promise_is_better_than_now_and_of_another_size() -> None:
    own = rate(4.2, 0.29, 280, TARGET_PARAMS_M=4.2, BATCH_TOKENS=1024)
    half = rate(2.1, 0.6, 580, TARGET_PARAMS_M=2.1, BATCH_TOKENS=1024)
    half_small_batch = rate(2.1, 0.5, 1000, TARGET_PARAMS_M=2.1, BATCH_TOKENS=512)
    tiny = rate(0.6, 1.5, 1470, TARGET_PARAMS_M=0.6, BATCH_TOKENS=1024)
    double = rate(8.4, 0.14, 140, TARGET_PARAMS_M=8.4, BATCH_TOKENS=1024)
    found = promises([own, half, half_small_batch, tiny, double])
    assert found == (tiny.knobs, half_small_batch.knobs)
    assert promises([tiny, own]) == ()
    assert promises([]) == ()


def test_what_failed_is_no_promise_and_no_bar() -> None:
    own = rate(4.2, 0.29, 280, TARGET_PARAMS_M=4.2)
    tiny = rate(0.6, 1.5, 1470, TARGET_PARAMS_M=0.6)
    assert promises([own, replace(tiny, status=Status.OOM, updates=0.0)]) == ()
    assert promises([replace(own, status=Status.TIMEOUT, updates=0.0), tiny]) == (tiny.knobs,)
    assert promises([replace(own, status=Status.DISTURBED), tiny]) == ()


def test_settings_begin_with_the_code_as_it_is_and_go_outwards() -> None:
    found = list(settings(SHIPPED))
    own = {knob.name: knob.value for knob in parse_knobs(SHIPPED)}
    assert found[0] == {name: own[name] for name in ("TARGET_PARAMS_M", "CONTEXT", "BATCH_TOKENS")}
    assert len(found) == len({tuple(setting.values()) for setting in found}) > calibrator.MOST_SETTINGS
    away = [abs(math.log2(float(setting["TARGET_PARAMS_M"]) / float(found[0]["TARGET_PARAMS_M"]))) for setting in found]
    assert max(away[:5]) <= 1.01
    assert [*settings(TINY_TRAIN_PY)] != [{}]


def test_a_size_that_is_a_word_is_not_timed() -> None:
    words = 'CONTEXT = "long"  # knob: choice long short\n'
    assert size_knobs(words) == []
    both = words + "BATCH_TOKENS = 512  # knob: choice 256 512 1024\n"
    assert [set(setting) for setting in settings(both)] == [{"BATCH_TOKENS"}] * 3


# --- the proposal ---------------------------------------------------------------------------


def context_of(rates: tuple[Rate, ...], *history: PastExperiment) -> ResearchContext:
    return ResearchContext("", SHIPPED, revision_digest(SHIPPED), history, {}, {}, 0, 0.01, rates=rates)


def test_search_opens_with_the_promises_and_tries_each_once() -> None:
    own = rate(4.2, 0.29, 280, TARGET_PARAMS_M=0.7)
    tiny, half = rate(0.6, 1.5, 1470, TARGET_PARAMS_M=0.1), rate(2.1, 0.6, 580, TARGET_PARAMS_M=0.35)
    proposer, history = make_proposer("search"), list[PastExperiment]()
    for expected in (0.1, 0.35):
        proposal = proposer.propose(context_of((own, tiny, half), *history))
        assert proposal is not None
        assert proposal.hypothesis.startswith(TITLE)
        assert proposal.knobs["TARGET_PARAMS_M"] == expected
        digest = revision_digest(proposal.train_py)
        history.append(
            PastExperiment(1, digest, "", "search", proposal.hypothesis, Status.REVERTED, 1.0, proposal.knobs, "x")
        )
    after = proposer.propose(context_of((own, tiny, half), *history))
    assert after is not None and not after.hypothesis.startswith(TITLE)
    first = make_proposer("search").propose(context_of(()))
    assert first is not None and first.hypothesis.startswith("halve the model")


def test_a_promise_that_the_code_has_no_knob_for_is_left_out() -> None:
    odd = rate(0.6, 1.5, 1470, WIDTH=64)
    assert next_promise(Space(context_of((rate(4.2, 0.29, 280), odd)))) is None
    beyond = rate(0.6, 1.5, 1470, TARGET_PARAMS_M=1e6)
    assert next_promise(Space(context_of((rate(4.2, 0.29, 280), beyond)))) is None


# --- the campaign ---------------------------------------------------------------------------


class TimedExecutor(FakeExecutor):
    """A machine on which a step takes longer with every token of batch, and 512 of them are too many."""

    def __init__(self, smoked: Callable[[Smoke], Smoke] = lambda smoke: smoke) -> None:
        super().__init__()
        self.data = SimpleNamespace(manifest=SimpleNamespace(train_tokens=100_000))
        self.tried: list[dict[str, Any]] = []
        self.smoked = smoked

    def smoke(self, job: TrainJob, folder: Path, steps: int = 2, context: int = 16) -> Smoke:
        knobs = {knob.name: knob.value for knob in parse_knobs(job.train_py)}
        self.tried.append(knobs)
        folder.mkdir(parents=True, exist_ok=True)
        batch = int(knobs["BATCH_TOKENS"])
        if batch >= 512:
            return Smoke(Status.OOM, "out of memory", 0.0, 0, 0, 0.0)
        return self.smoked(Smoke(None, "", 1e-4 * batch, batch, 5000, 100.0))


class Wanting(Scripted):
    wants_rates = True


RATE_CHANGES = [{"MATRIX_LR": value} for value in (0.04, 0.03)]


def timed(journal: Journal) -> list[Any]:
    return [event.body for event in journal.events if event.kind == "rates_measured"]


def test_a_night_times_settings_once_and_writes_them_down(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = TimedExecutor()
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(**LONG))
    proposer = Wanting(*RATE_CHANGES)
    night(campaign, proposer, 15)  # no placebo, before which nothing need be timed
    body = timed(journal)
    assert len(body) == 1
    order = kinds(journal)
    assert order.index("calibrated") < order.index("rates_measured") < order.index("proposed")
    rates = proposer.contexts[0].rates
    assert rates[0].knobs == {"CONTEXT": 32, "BATCH_TOKENS": 256}
    assert rates[0].updates == pytest.approx(30 / 0.0256)
    assert rates[0].passes == pytest.approx(30 / 0.0256 * 256 / 100_000)
    assert {item.status for item in rates if item.knobs["BATCH_TOKENS"] == 512} == {Status.OOM}
    assert all(context.rates == rates for context in proposer.contexts)
    assert replay(journal.events) == campaign.state  # and a resumed night knows them
    count = len(executor.tried)
    night(campaign, proposer, 2)
    assert len(timed(journal)) == 1 and len(executor.tried) == count
    assert not (workspace / ".slm" / "runs" / calibrator.FOLDER).exists()


def test_a_later_night_counts_its_own_experiments_only(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data, TimedExecutor(), toy_recipe(**LONG))
    state = campaign.state
    for first, seconds in ((0, 45.0), (20, 15.0), (21, 0.0)):
        later = replace(state, facts={**state.facts, "experiments_planned": 30, "plan": {"night": 0, "from": first}})
        assert calibrator.allowed_seconds(campaign, later) == pytest.approx(seconds)
        assert calibrator.allowed_seconds(campaign, later, 1e6) == pytest.approx(seconds)
        assert calibrator.allowed_seconds(campaign, later, 100.0) == min(5.0, seconds), "a night that ends soon"


@pytest.mark.parametrize(
    "budget",
    [{"steps": 8, "experiments": 20}, {"seconds": 30.0, "steps": None, "experiments": 9},
     {"seconds": 6.0, "steps": None, "experiments": 12}],
    ids=["steps", "few experiments", "short runs"],
)  # fmt: skip
def test_nothing_is_timed_where_it_would_not_pay(
    workspace: Path, journal: Journal, tiny_data: PreparedData, budget: dict[str, Any]
) -> None:
    executor = TimedExecutor()
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(budget=budget))
    night(campaign, Wanting(*RATE_CHANGES))
    assert timed(journal) == [] and executor.tried == []


def test_only_for_proposers_that_ask_for_it(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    executor = TimedExecutor()
    night(opened(workspace, journal, tiny_data, executor, toy_recipe(**LONG)), Scripted(*RATE_CHANGES))
    assert executor.tried == []
    wanting = {name for name in ("search", "tpe", "tpe-playbook", "random")
               if getattr(make_proposer(name), "wants_rates", False)}  # fmt: skip
    assert wanting == {"search", "tpe-playbook"}


def test_nothing_is_timed_behind_the_end_of_a_night_that_waited_for_the_device(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    executor = TimedExecutor()
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(**LONG))
    planned = {"experiments_planned": 20, "plan": {"night": 0, "from": 0}}
    state = replace(campaign.state, facts={**campaign.state.facts, **planned})
    with take_device(executor.machine.device, print):
        calibrator.measure_rates(campaign, state, 0.0)
    calibrator.measure_rates(campaign, state, 100.0)  # what is left when it is free at last: too little
    assert timed(journal) == [] and executor.tried == []
    calibrator.measure_rates(campaign, state, 1e6)
    assert len(timed(journal)) == 1


def test_timing_ends_when_its_share_of_the_night_is_used_up(
    workspace: Path, journal: Journal, tiny_data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def slow(smoke: Smoke) -> Smoke:
        clock[0] += 9.0
        return smoke

    monkeypatch.setattr(calibrator.time, "monotonic", lambda: clock[0])
    executor = TimedExecutor(slow)
    campaign = opened(workspace, journal, tiny_data, executor, toy_recipe(**LONG))
    proposer = Wanting(*RATE_CHANGES)
    night(campaign, proposer)
    assert 0.05 * 20 * 30 == 30.0
    assert clock[0] == 27.0 and len(proposer.contexts[0].rates) >= 3


def test_an_interrupt_leaves_nothing_and_the_next_command_times_again(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    calls: list[int] = []

    def interrupted(smoke: Smoke) -> Smoke:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return smoke

    campaign = opened(workspace, journal, tiny_data, TimedExecutor(interrupted), toy_recipe(**LONG))
    with pytest.raises(KeyboardInterrupt):
        night(campaign, Wanting(*RATE_CHANGES))
    assert timed(journal) == []
    night(campaign, Wanting(*RATE_CHANGES))
    assert len(timed(journal)) == 1


def test_the_context_of_a_campaign_without_rates_has_none(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = opened(workspace, journal, tiny_data)
    context = research_context(campaign.state, "program", campaign.recipe, campaign.executor.machine)
    assert context.rates == () and campaign.state.rates is None
