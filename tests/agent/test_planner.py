"""What comes next is a pure function of the journal: a campaign made of numbers, played, cut anywhere and resumed."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_ar.core.agent import planner
from slm_ar.core.agent.gate import GatePolicy, claim_alpha
from slm_ar.core.agent.journal import Event
from slm_ar.core.agent.planner import Plan, next_step
from slm_ar.core.agent.replay import replay, score_from_json, score_to_json
from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Decision, GroupScore, SplitScore
from slm_ar.core.errors import JournalError

POLICY = GatePolicy(alpha=0.04, looks=(1, 3), alpha_split=(0.5, 0.5))
PLAN = Plan(experiments=6, calibration_runs=3, claim_every=3, policy=POLICY, night=0)


class Ledger:
    """A journal in memory, without a database; hashes are only numbers here."""

    def __init__(self, events: list[Event] | None = None) -> None:
        self.events = list(events or [])

    def append(self, kind: str, body: dict[str, Any]) -> None:
        number = len(self.events) + 1
        text = json.dumps(body, sort_keys=True)
        self.events.append(Event(number, "2026-01-01T00:00:00+00:00", kind, json.loads(text), f"h{number}"))

    @property
    def state(self) -> CampaignState:
        state = replay(self.events)
        assert state is not None
        return state


def started(**facts: Any) -> Ledger:
    ledger = Ledger()
    ledger.append(
        "campaign_started",
        {
            "identity": "campaign",
            "facts": {"search_seed": 0, "night": 0, **facts},
            "baseline": "r0",
            "train_py": "A = 1",
        },
    )
    ledger.append("planned", {"experiments": 6, "plan": {"from": 0, "night": facts.get("night", 0)}})
    return ledger


def outcome(status: str | None = None, disturbance: str = "") -> dict[str, Any]:
    return {
        "status": status,
        "reason": "" if status is None else "it failed",
        "train_seconds": 1.0,
        "startup_seconds": 0.1,
        "wall_seconds": 1.2,
        "peak_memory_mb": 100.0,
        "steps": 10,
        "tokens": 1000,
        "parameters": 100,
        "log_tail": "",
        "disturbance": disturbance,
    }


def dev_score(value: float) -> dict[str, Any]:
    return score_to_json(SplitScore("dev", value, (GroupScore("g", value, 1),), 10, 1, 0.1))


def luck(*parts: object) -> float:
    return random.Random(hashlib.sha256(repr(parts).encode()).hexdigest()).random()


class World:
    """Performs steps with made-up scores, as campaign.py does with trained ones. All of it from the state alone."""

    def __init__(
        self,
        failing: float = 0.0,
        disturbed: float = 0.0,
        stamps: Callable[[planner.TrainStep], str] = lambda step: "",
        fails: Callable[[planner.TrainStep], bool] = lambda step: False,
    ) -> None:
        """`stamps` and `fails`: what besides happens to a run."""
        self.failing, self.disturbed, self.stamps, self.fails = failing, disturbed, stamps, fails
        self.trained: Counter[tuple[object, ...]] = Counter()

    def perform(self, ledger: Ledger, step: planner.Step, after_start: Callable[[], bool] = lambda: False) -> None:
        state = ledger.state
        match step:
            case planner.TrainStep():
                attempt = len(planner.attempts(state, step)) + 1
                ledger.append(
                    "run_started",
                    {
                        "role": step.role,
                        "revision": step.revision,
                        "seed": step.seed,
                        "attempt": attempt,
                        "experiment": step.experiment,
                        "claim": step.claim,
                    },
                )
                if after_start():
                    return
                self.trained[(*step.key, attempt)] += 1
                key = (step.role, step.revision, step.seed, attempt)
                fails = self.fails(step) or (step.role != "calibrate" and luck("fails", *key) < self.failing)
                noisy = luck("disturbed", *key) < self.disturbed
                value = 2.0 + 0.1 * luck("score", step.revision) + 0.01 * luck("noise", step.revision, step.seed)
                ledger.append(
                    "run_ended",
                    {
                        "run": len(ledger.events),
                        "outcome": outcome(
                            "crashed" if fails else None, "busy" if noisy and not fails else self.stamps(step)
                        ),
                        "dev": dev_score(value) if "dev" in step.splits and not fails else None,
                        "held_digest": None if fails or "dev" in step.splits else "private",
                    },
                )
            case planner.CalibratedStep():
                ledger.append("calibrated", {"sigma": 0.005, "runs": 3})
            case planner.ProposeStep():
                number = len(state.experiments) + 1
                ledger.append(
                    "proposed",
                    {
                        "id": number,
                        "revision": f"r{number}",
                        "parent": state.head,
                        "proposer": "toy",
                        "hypothesis": "an idea",
                        "rationale": "",
                        "knobs": {},
                        "template": "t",
                        "window": step.window,
                        "train_py": f"A = {number}",
                    },
                )
            case planner.JudgeStep():
                own = step.run.dev.bits_per_byte if step.run.dev else None
                head = step.head_run.dev.bits_per_byte if step.head_run.dev else None
                status = "crashed" if own is None else "kept" if head is None or own < head else "reverted"
                ledger.append(
                    "judged",
                    {
                        "experiment": step.experiment.id,
                        "status": status,
                        "reason": "",
                        "run": step.run.id,
                        "head_score": head,
                    },
                )
            case planner.OpenClaimStep():
                ledger.append(
                    "claim_opened",
                    {
                        "claim": step.claim,
                        "rung": state.rung,
                        "head": state.head,
                        "alpha": step.alpha,
                        "after_experiments": step.after_experiments,
                    },
                )
            case planner.LookStep():
                if step.more_allowed and luck("look", step.claim.id, len(step.pairs)) < 0.6:
                    ledger.append("claim_looked", {"claim": step.claim.id, "pairs": len(step.pairs)})
                    return
                decision = random.Random(f"claim {step.claim.id}").choice(list("cru"))
                new = step.claim.head if decision == "c" else step.claim.rung
                ledger.append(
                    "claim_closed",
                    {
                        "claim": step.claim.id,
                        "decision": {"c": "certify", "r": "reject", "u": "unclear"}[decision],
                        "reasons": [],
                        "pairs": len(step.pairs),
                        "alpha": step.claim.alpha,
                        "group_count": 30,
                        "new_head": step.claim.head if decision == "u" else new,
                        "new_rung": new if decision == "c" else step.claim.rung,
                        "private": None,
                    },
                )


def play(ledger: Ledger, world: World, plan: Plan = PLAN, limit: int = 500) -> list[planner.Step]:
    steps = []
    for _ in range(limit):
        step = next_step(ledger.state, plan)
        if isinstance(step, planner.DoneStep):
            return steps
        steps.append(step)
        world.perform(ledger, step)
    raise AssertionError("the campaign does not end")


def history(ledger: Ledger) -> list[tuple[str, Any]]:
    """What was judged, without the interrupted attempts and without run numbers."""
    shown = []
    for event in ledger.events:
        if event.kind in ("run_started", "run_interrupted"):
            continue
        body = {key: value for key, value in event.body.items() if key != "run"}
        shown.append((event.kind, body))
    return shown


def kinds(steps: list[planner.Step]) -> list[str]:
    return [step.role if isinstance(step, planner.TrainStep) else type(step).__name__ for step in steps]


# --- the order of things --------------------------------------------------------------------


def test_a_campaign_calibrates_searches_claims_and_ends() -> None:
    ledger = started()
    order = kinds(play(ledger, World()))
    assert order[:4] == ["calibrate", "calibrate", "calibrate", "CalibratedStep"]
    assert order[4:7] == ["ProposeStep", "search", "JudgeStep"]
    assert order.count("JudgeStep") == 6
    state = ledger.state
    assert len({run.seed for run in state.runs if run.role == "calibrate"}) == 3
    assert state.claims and all(claim.verdict is not None for claim in state.claims)
    assert next_step(state, PLAN) == planner.DoneStep()


def test_the_first_window_needs_no_run_of_the_head_and_later_ones_do() -> None:
    ledger = started()
    steps = play(ledger, World())
    roles = kinds(steps)
    assert "window" not in roles[: roles.index("OpenClaimStep")]
    assert "window" in roles
    by_window = {item.window: set() for item in ledger.state.experiments}
    for item in ledger.state.experiments:
        assert item.run is not None
        by_window[item.window].add(item.run.seed)
    assert all(len(seeds) == 1 for seeds in by_window.values())
    assert len(set.union(*by_window.values())) == len(by_window) == 2


@given(st.integers(1, 200))
def test_windows_are_short_and_end_where_claims_come(claim_every: int) -> None:
    numbers = [planner.window_number(place, claim_every) for place in range(4 * claim_every)]
    assert numbers[0] == 0 and {after - before for before, after in itertools.pairwise(numbers)} <= {0, 1}
    sizes = Counter(numbers).values()
    assert max(sizes) <= planner.WINDOW and min(sizes) >= min(claim_every, planner.WINDOW // 2)
    assert all(numbers[place - 1] < numbers[place] for place in range(claim_every, len(numbers), claim_every))


def test_an_experiment_is_judged_against_the_head_with_its_own_seed() -> None:
    ledger = started()
    world = World()
    while not isinstance(step := next_step(ledger.state, PLAN), planner.DoneStep):
        if isinstance(step, planner.JudgeStep):
            assert step.run.seed == step.head_run.seed
            assert step.head_run.revision == ledger.state.head
            assert step.run.revision == step.experiment.revision
        world.perform(ledger, step)


def test_claims_use_fresh_seeds_paired_between_both_codes() -> None:
    ledger = started()
    play(ledger, World())
    state = ledger.state
    searched = {run.seed for run in state.runs if run.role != "claim"}
    for claim in state.claims:
        runs = [run for run in state.runs if run.claim == claim.id]
        assert not {run.seed for run in runs} & searched
        seeds = {code: [run.seed for run in runs if run.revision == code] for code in (claim.rung, claim.head)}
        assert seeds[claim.rung] == seeds[claim.head]
        assert len(seeds[claim.head]) == len(set(seeds[claim.head]))
    all_claim_seeds = [{run.seed for run in state.runs if run.claim == claim.id} for claim in state.claims]
    assert sum(map(len, all_claim_seeds)) == len(set().union(*all_claim_seeds))


def test_a_claim_is_never_opened_without_a_change() -> None:
    ledger = started()
    world = World()
    for _ in range(500):
        state = ledger.state
        step = next_step(state, PLAN)
        if isinstance(step, planner.DoneStep):
            break
        if isinstance(step, planner.OpenClaimStep):
            assert state.head != state.rung
            if state.claims:
                assert (state.head, state.rung) != (state.claims[-1].head, state.claims[-1].rung)
        world.perform(ledger, step)


def test_claims_come_at_the_ends_of_windows_and_of_the_night() -> None:
    """Also where the first window kept nothing: an edit of the second one waits for its followers."""

    class Late(World):
        def perform(self, ledger: Ledger, step: planner.Step, after_start: Callable[[], bool] = lambda: False) -> None:
            if isinstance(step, planner.JudgeStep) and step.experiment.id != 4:
                body = {"experiment": step.experiment.id, "status": "reverted", "reason": "", "run": step.run.id}
                ledger.append("judged", {**body, "head_score": None})
            elif isinstance(step, planner.JudgeStep):
                body = {"experiment": 4, "status": "kept", "reason": "", "run": step.run.id, "head_score": None}
                ledger.append("judged", body)
            else:
                super().perform(ledger, step, after_start)

    for planned, places in ((6, [6]), (5, [5]), (8, [6])):
        ledger = started()
        play(ledger, Late(), replace(PLAN, experiments=planned))
        assert [claim.after_experiments for claim in ledger.state.claims][:1] == places
        assert all(claim.after_experiments in (6, planned) for claim in ledger.state.claims)


def test_each_claim_of_a_night_gets_its_share_of_alpha_and_a_later_night_gets_less() -> None:
    spent = {}
    for night in (0, 1):
        ledger = started(night=night)
        plan = Plan(12, 3, 3, POLICY, night)
        play(ledger, World(), plan)
        alphas = [claim.alpha for claim in ledger.state.claims]
        assert alphas == [claim_alpha(POLICY, night, number) for number in range(len(alphas))]
        spent[night] = sum(alphas)
        assert max(alphas) < POLICY.alpha
    assert spent[1] < spent[0]


def test_when_the_proposer_has_nothing_more_the_last_chain_is_still_claimed() -> None:
    ledger = started()
    world = World()
    while not ledger.state.experiments or ledger.state.head == "r0":
        world.perform(ledger, next_step(ledger.state, PLAN))
    exhausted = Plan(6, 3, 3, POLICY, 0, is_exhausted=True)
    steps = kinds(play(ledger, world, exhausted))
    assert "ProposeStep" not in steps
    assert "OpenClaimStep" in steps


# --- disturbed and failed runs --------------------------------------------------------------


def test_on_a_machine_that_is_never_quiet_only_the_first_run_is_repeated() -> None:
    ledger = started()
    play(ledger, World(disturbed=1.0))
    state = ledger.state
    attempts = Counter((run.role, run.revision, run.seed, run.experiment, run.claim) for run in state.runs)
    assert list(attempts.values()) == [planner.MOST_ATTEMPTS, *[1] * (len(attempts) - 1)]
    assert len(state.experiments) == 6
    assert all(item.status is not None for item in state.experiments)


def test_disturbed_pairs_prove_nothing() -> None:
    ledger = started()
    world = World(disturbed=1.0)
    looks = []
    while not isinstance(step := next_step(ledger.state, PLAN), planner.DoneStep):
        if isinstance(step, planner.LookStep):
            looks.append(len(step.pairs))
            assert not step.more_allowed
        world.perform(ledger, step)
    assert looks
    assert set(looks) == {0}


def test_a_failed_run_is_not_repeated() -> None:
    ledger = started()
    play(ledger, World(failing=1.0))
    assert Counter(item.status for item in ledger.state.experiments) == {"crashed": 6}
    assert len([run for run in ledger.state.runs if run.role == "search"]) == 6
    assert ledger.state.claims == ()


LATE = "its checkpoint came 0.9 s after the budget ended"


@pytest.mark.parametrize("stamp", [LATE, "the loop was stopped for 4.0 s"])
def test_a_run_that_may_disturb_itself_is_not_repeated_until_it_is_lucky(stamp: str) -> None:
    ledger = started()
    play(ledger, World(stamps=lambda step: stamp if step.role in ("search", "claim") and step.revision != "r0" else ""))
    state = ledger.state
    searched = Counter(run.experiment for run in state.runs if run.role == "search")
    assert max(searched.values()) == 2, "once, for a hiccup of the disk"
    assert all(item.status is not None and item.run is not None for item in state.experiments)
    for claim in state.claims:
        tries = Counter(run.seed for run in state.runs if run.claim == claim.id and run.revision == claim.head)
        assert sum(tries.values()) <= len(tries) + 1
        assert claim.verdict is not None and claim.verdict.pairs == 0


@pytest.mark.parametrize("side", ["head", "rung", "both"])
@pytest.mark.parametrize("way", ["late", "failed", "outside", "stalled"])
def test_a_claim_whose_current_code_loses_more_runs_than_the_proven_code_proves_nothing(side: str, way: str) -> None:
    """Runs that end themselves when they are unlucky leave the lucky ones."""
    ledger = started()

    def is_hit(step: planner.TrainStep) -> bool:
        claim = ledger.state.claims[-1] if step.claim else None
        if claim is None or step.seed != planner.run_seed(ledger.state, f"claim {claim.id}", 1):
            return False
        return side == "both" or step.revision == getattr(claim, side)

    def stamp(step: planner.TrainStep) -> str:
        stalled, outside = "the loop was stopped for 4.0 s", "other programs used 1.7 of 2 cores"
        stamps = {"late": LATE, "outside": outside, "stalled": stalled}
        return stamps.get(way, "") if is_hit(step) else ""

    world = World(stamps=stamp, fails=lambda step: way == "failed" and is_hit(step))
    plan = replace(PLAN, policy=GatePolicy(alpha=0.04, looks=(3,), alpha_split=(1.0,)))
    looks = []
    while not isinstance(step := next_step(ledger.state, plan), planner.DoneStep):
        if isinstance(step, planner.LookStep):
            looks.append((len(step.pairs), step.more_allowed))
        world.perform(ledger, step)
    assert looks
    assert set(looks) == {(0 if side == "head" and way in ("late", "failed") else 3, False)}


# --- killed anywhere ------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_cut_at_any_event_a_campaign_resumes_to_the_same_history(data: st.DataObject) -> None:
    """`kill -9` leaves a prefix of the events; what follows must be the same, and nothing is done twice."""
    failing, disturbed = data.draw(st.sampled_from([(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.2, 0.3)]))
    undisturbed = started()
    play(undisturbed, World(failing, disturbed))
    cut = data.draw(st.integers(2, len(undisturbed.events)))
    resumed = Ledger(undisturbed.events[:cut])
    if resumed.state.open_run is not None:
        resumed.append("run_interrupted", {"run": None})
    world = World(failing, disturbed)
    play(resumed, world)
    assert history(resumed) == history(undisturbed)
    assert not world.trained or set(world.trained.values()) == {1}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_killed_again_and_again_while_training_nothing_recorded_is_asked_for_twice(seed: int) -> None:
    undisturbed, ledger = started(), started()
    play(undisturbed, World())
    kill = random.Random(seed)
    world = World()
    for _ in range(2000):
        step = next_step(ledger.state, PLAN)
        if isinstance(step, planner.DoneStep):
            break
        world.perform(ledger, step, after_start=lambda: kill.random() < 0.4)
        if ledger.state.open_run is not None:
            ledger.append("run_interrupted", {"run": None})
    assert history(ledger) == history(undisturbed)
    assert set(world.trained.values()) == {1}


@given(st.integers(2, 200))
@settings(max_examples=40, deadline=None)
def test_a_step_is_a_function_of_the_events(cut: int) -> None:
    ledger = started()
    play(ledger, World())
    prefix = ledger.events[: min(cut, len(ledger.events))]
    state, again = replay(prefix), replay(tuple(prefix))
    assert state is not None and again is not None
    assert state == again
    assert next_step(state, PLAN) == next_step(again, PLAN)


# --- replay ---------------------------------------------------------------------------------


def test_replay_of_nothing_is_no_campaign_and_a_headless_journal_is_refused() -> None:
    assert replay([]) is None
    ledger = Ledger()
    ledger.append("judged", {})
    with pytest.raises(JournalError, match="event 1"):
        replay(ledger.events)


def test_a_new_campaign_begins_empty() -> None:
    ledger = started()
    play(ledger, World())
    ledger.append("campaign_started", {"identity": "other", "facts": {}, "baseline": "r9", "train_py": "B = 1"})
    state = ledger.state
    assert (state.identity, state.head, state.rung) == ("other", "r9", "r9")
    assert (state.runs, state.experiments, state.claims) == ((), (), ())
    assert state.event_count == len(ledger.events)


def test_scores_survive_the_journal() -> None:
    score = SplitScore(
        "dev", 1.5, (GroupScore("a", 2.5, 3), GroupScore("b", 0.1, 9)), 10, 2, 0.25, {"day": {"Mon": 1.0}}
    )
    assert score_from_json(json.loads(json.dumps(score_to_json(score)))) == score


def test_unclear_claims_are_counted_back_to_the_last_clear_one() -> None:
    ledger = started()
    for number, decision in enumerate(("unclear", "certify", "unclear", "unclear"), start=1):
        ledger.append(
            "claim_opened", {"claim": number, "rung": "r0", "head": "r1", "alpha": 0.01, "after_experiments": number}
        )
        ledger.append(
            "claim_closed",
            {
                "claim": number,
                "decision": decision,
                "reasons": [],
                "pairs": 3,
                "alpha": 0.01,
                "group_count": 30,
                "new_head": "r1",
                "new_rung": "r0",
                "private": None,
            },
        )
    assert planner.unclear_claims(ledger.state) == 2
    assert ledger.state.claims[1].verdict is not None
    assert ledger.state.claims[1].verdict.decision is Decision.CERTIFY
