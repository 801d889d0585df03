"""One search: equal seconds, the shipped keep rule, what a proposer sees, and how failures and code edits count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_toys import TRAIN_PY, BowlWorld, Coder, Guesser, Scripted, bowl

from slm_ar.core.agent import level
from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs
from slm_ar.core.agent.gate import rounded
from slm_ar.core.agent.planner import WINDOW
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.contracts import Proposal, Rate, ResearchContext, Status
from slm_ar.core.errors import TrainingError
from slm_ar.core.study.loop import SHARES, Measured, Trace, failed_share, search, training_seed

START = {knob.name: knob.value for knob in parse_knobs(TRAIN_PY)}
BETTER, WORSE, TOO_LARGE = START | {"SIZE": 1.0}, START | {"SIZE": 40.0}, START | {"SIZE": 100.0}


def searched(proposer: object, seconds: float, sigma: float = 0.0, seed: int = 0) -> Trace:
    return search("bowl", "x", proposer, BowlWorld(sigma), seed, seconds)  # type: ignore[arg-type]


@settings(max_examples=30)
@given(st.floats(15, 400), st.integers(0, 1000), st.sampled_from([1.0, 0.4]))
def test_nothing_that_ends_after_the_seconds_counts(seconds: float, seed: int, share: float) -> None:
    trace = searched(Guesser("guesser", share), seconds, 0.02, seed)
    spent = [step.spent for step in trace.steps]
    assert spent == sorted(spent) and spent[-1] <= seconds * (1 + 1e-9)
    assert sum(step.seconds for step in trace.steps) == pytest.approx(spent[-1])
    for share_of_seconds in SHARES:
        returned = trace.returned_at(share_of_seconds)
        held = [step.returned for step in trace.steps if step.spent <= share_of_seconds * seconds]
        assert returned == (held or [revision_digest(TRAIN_PY)])[-1]
        assert returned in trace.texts


def test_the_current_code_moves_by_the_shipped_rule() -> None:
    trace = searched(Scripted([WORSE, BETTER, TOO_LARGE, START | {"SIZE": 2.0}]), 1000)
    assert [step.status for step in trace.steps] == ["measured", "reverted", "kept", "oom", "reverted"]
    assert [step.spent for step in trace.steps] == [10, 20, 30, 32, 42]
    final = {knob.name: knob.value for knob in parse_knobs(trace.texts[trace.returned_at(1.0)])}
    assert final == BETTER
    assert trace.is_exhausted
    assert trace.failed_seconds == 2 and failed_share([trace, trace]) == 2 / 1000


def test_a_proposer_sees_rounded_scores_and_statuses() -> None:
    proposer = Guesser("guesser", 1.0)
    trace = searched(proposer, 300, 0.05, seed=4)
    last = proposer.contexts[-1]
    assert last.seed == 4 and last.sigma == 0.05 and last.train_py == trace.texts[last.revision]
    assert len(last.history) == len(proposer.contexts) - 1
    seen = [step for step in trace.steps if step.role == "proposal"]
    for past, step in zip(last.history, seen, strict=False):
        assert past.status.value == step.status
        assert past.dev_score == (None if step.score is None else rounded(step.score, 0.05))


def test_the_current_code_is_measured_again_every_window() -> None:
    world = BowlWorld(0.02)
    proposer = Guesser("guesser", 1.0)
    trace = search("bowl", "x", proposer, world, 0, 10 * (2 * WINDOW + 8))
    windows = [step for step in trace.steps if step.role == "window"]
    assert len(windows) == 2
    assert [len(context.history) for context in proposer.contexts[:3]] == [0, 1, 2]
    seeds = [seed for _, seed in world.asked]
    assert len(set(seeds)) == 3, "one seed per window, the same for the current code and its rivals"
    assert seeds[: WINDOW + 1] == [seeds[0]] * (WINDOW + 1)


def test_the_current_code_moves_by_the_rule_of_a_campaign() -> None:
    trace = searched(Guesser("guesser", 0.6), 320, 0.2, seed=2)
    first = trace.steps[0]
    assert first.score is not None
    window = level.Window.opened(level.WindowNoise(0.2), first.returned, first.score)
    seen = set()
    for step in trace.steps[1:]:
        assert step.role == "proposal" and step.score is not None
        is_kept = window.keeps(step.score, 6, 6)
        assert (step.status == "kept") == is_kept
        window = window.kept(step.returned, step.score) if is_kept else window.dropped(step.score)
        is_back = window.is_unconfirmed
        window = window.taken_back() if is_back else window
        assert step.returned == window.code
        seen.add((step.status, is_back))
    assert seen == {("kept", False), ("reverted", False), ("reverted", True)}


def test_what_was_taken_back_is_told_as_no_gain() -> None:
    proposer = Guesser("guesser", 0.6)
    searched(proposer, 320, 0.2, seed=2)
    told = [past for past in proposer.contexts[-1].history if past.reason == level.TAKEN_BACK]
    assert told and all(past.status is Status.REVERTED for past in told)


def test_nothing_is_kept_where_the_current_code_failed_with_the_seed_of_the_window() -> None:
    class Failing(BowlWorld):
        def measure(self, train_py: str, seed: int) -> Measured | str:
            if seed != training_seed("search", 0, 0) and train_py == texts[-1]:
                return Measured(Status.CRASHED, None, 1.0)
            return super().measure(train_py, seed)

    # The last one is the code that the first window ends with; what follows is better still.
    worse = [START | {"SIZE": 20.0 + number} for number in range(WINDOW - 1)]
    script = [START | {"SIZE": 2.0}, *worse, BETTER]
    texts = [set_knobs(TRAIN_PY, script[0])]
    trace = search("bowl", "x", Scripted(script), Failing(0.0), 0, 1000)
    assert [step.status for step in trace.steps if step.role == "window"] == ["crashed"]
    assert trace.steps[-1].status == "reverted" and trace.steps[-1].score is not None
    assert trace.texts[trace.returned_at(1.0)] == texts[-1]


def test_the_current_code_itself_teaches_nothing() -> None:
    class Same(Guesser):
        def propose(self, context: ResearchContext) -> Proposal | None:
            super().propose(context)
            return Proposal("again", "", context.train_py)

    proposer = Same("same", 1.0)
    trace = searched(proposer, 50)
    assert [step.status for step in trace.steps] == ["measured", *["reverted"] * 4]
    assert all(context.history == () for context in proposer.contexts), "as in a campaign"


def test_timing_is_paid_for_by_those_that_want_it() -> None:
    class Wanting(Guesser):
        wants_rates = True

    world, rate = BowlWorld(), Rate({"SIZE": 8.0}, None, 1024, 10, 100.0, 0.5)
    for proposer, expected in ((Wanting("wanting", 1.0), 7.0), (Guesser("other", 1.0), 0.0)):
        world.rates, world.rates_seconds = (rate,), 7.0
        trace = search("bowl", "x", proposer, world, 0, 100)
        timed = [step for step in trace.steps if step.role == "rates"]
        assert sum(step.seconds for step in timed) == expected
        assert proposer.contexts[0].rates == ((rate,) if expected else ())
        assert trace.steps[1].spent == pytest.approx(17.0 if expected else trace.steps[1].seconds + 10)
        world.rates = ()
        assert not [step for step in search("bowl", "x", proposer, world, 0, 100).steps if step.role == "rates"]


def test_edits_of_the_code_cost_nothing_where_they_cannot_be_measured() -> None:
    trace = searched(Coder(), 200)
    skipped = [step for step in trace.steps if step.status == Status.SKIPPED.value]
    trained = [step for step in trace.steps if step.status != Status.SKIPPED.value]
    assert len(skipped) >= 9 and all(step.seconds == 0 and step.score is None for step in skipped)
    assert trained[-1].spent > 180 and trace.failed_seconds < 20


def test_a_proposer_that_only_edits_code_ends() -> None:
    class Only(Coder):
        def propose(self, context):  # type: ignore[no-untyped-def]
            return replace(super().propose(context), unusable="nothing to try")

    trace = searched(Only(), 100)
    assert trace.is_exhausted and trace.steps[-1].spent == 10


def test_a_start_without_a_score_is_an_error() -> None:
    world = BowlWorld()
    world.start = TRAIN_PY.replace("SIZE = 8.0", "SIZE = 150.0")
    with pytest.raises(TrainingError, match="corpus bowl: the starting"):
        search("bowl", "x", Guesser("guesser", 1.0), world, 0, 100)


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_shipped_proposers_search_the_bowl(name: str) -> None:
    first, second = (searched(make_proposer(name), 250, 0.01, seed=1) for _ in range(2))
    assert first.steps == second.steps, "equal seeds, equal searches"
    final = {knob.name: knob.value for knob in parse_knobs(first.texts[first.returned_at(1.0)])}
    assert bowl(final) < bowl(START)
