"""What the offline proposers make of the history: points, losses, sizes that were too much."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs, template_digest
from slm_ar.core.agent.level import TAKEN_BACK
from slm_ar.core.agent.proposers import make_proposer
from slm_ar.core.agent.proposers.optimiser import _candidates, _losses
from slm_ar.core.agent.proposers.space import Space, place_of, value_at
from slm_ar.core.contracts import Knob, PastExperiment, ResearchContext, Status

TEXT = '''"""A toy."""

TARGET_PARAMS_M = 1.0  # knob: float log 0.1..100
BATCH_TOKENS = 1024  # knob: choice 512 1024 2048 4096
STEP = 0.02  # knob: float log 1e-4..1e-1
KIND = "relu"  # knob: choice relu gelu
'''
KNOBS = (
    Knob("A", "float", 1.0, 0.1, 100.0, log=True),
    Knob("B", "float", 0.5, 0.0, 1.0),
    Knob("C", "int", 3, 1, 12),
    Knob("D", "choice", 2, choices=(4, 1, 2)),
    Knob("E", "choice", "x", choices=("x", "y", "z")),
)


def past(
    text: str, status: Status, score: float | None, parent: str = TEXT, number: int = 1, **knobs: Any
) -> PastExperiment:
    tried = set_knobs(text, knobs)
    values = {knob.name: knob.value for knob in parse_knobs(tried)}
    return PastExperiment(
        number, revision_digest(tried), revision_digest(parent), "search", "h", status, score, values,
        template_digest(tried),
    )  # fmt: skip


def space_of(text: str, *history: PastExperiment, direction: str = "min") -> Space:
    return Space(ResearchContext("", text, revision_digest(text), history, {}, {}, 0, 0.01, direction))


@given(st.sampled_from(KNOBS), st.floats(0, 1))
def test_places_and_values_are_each_others_inverse(knob: Knob, place: float) -> None:
    value = value_at(knob, place)
    assert type(value) is type(knob.value)
    assert 0 <= place_of(knob, value) <= 1
    assert value_at(knob, place_of(knob, value)) == value
    if knob.kind == "float":
        assert place_of(knob, value) == pytest.approx(place, abs=0.01)


def test_choices_among_numbers_are_in_order() -> None:
    assert [value_at(KNOBS[3], place) for place in (0.0, 0.5, 1.0)] == [1, 2, 4]


def test_losses_are_relative_to_the_best_of_their_template() -> None:
    edited = TEXT + "MORE = 1\n"
    space = space_of(
        edited,
        past(TEXT, Status.REVERTED, 5.0, STEP=0.01),
        past(TEXT, Status.REVERTED, 5.5, STEP=0.03),
        past(edited, Status.KEPT, 2.0),
        past(edited, Status.REVERTED, 2.25, STEP=0.05),
        past(edited, Status.OOM, None, TARGET_PARAMS_M=50.0),
        past(edited, Status.SKIPPED, None, STEP=0.06),
    )
    assert [trial.loss for trial in space.trials] == [0.0, 0.5, 0.0, 0.25, None]
    assert [trial.is_own for trial in space.trials] == [False, False, True, True, True]


def test_a_knob_that_an_edit_added_stands_where_the_edit_put_it() -> None:
    edited = TEXT + "SMEAR = 0.3  # knob: float 0..1\n"
    history = [past(TEXT, Status.REVERTED, 5.0, STEP=0.01), past(edited, Status.KEPT, 4.0)]
    later = set_knobs(edited, {"SMEAR": 0.6})
    space = space_of(later, *history, past(edited, Status.KEPT, 3.9, SMEAR=0.6))
    assert [trial.assignment["SMEAR"] for trial in space.trials] == [0.3, 0.3, 0.6]


def test_knobs_that_are_gone_are_left_out_and_other_ranges_are_not_comparable() -> None:
    fewer = TEXT.replace('KIND = "relu"  # knob: choice relu gelu\n', "")
    assert len(space_of(fewer, past(TEXT, Status.REVERTED, 5.0, STEP=0.01)).trials) == 1
    narrower = TEXT.replace("1e-4..1e-1", "1e-2..1e-1")
    assert space_of(narrower, past(TEXT, Status.REVERTED, 5.0, STEP=0.001)).trials == ()
    foreign = 'X = 1  # knob: int 0..9\nY = 1  # knob: int 0..9\nKIND = "relu"  # knob: choice relu gelu\n'
    assert space_of(TEXT, past(foreign, Status.REVERTED, 5.0)).trials == ()


def test_the_starting_code_counts_as_no_worse_than_what_was_dropped_for_it() -> None:
    space = space_of(TEXT, past(TEXT, Status.REVERTED, 5.0, STEP=0.01), past(TEXT, Status.REVERTED, 4.5, STEP=0.03))
    head = space.head_trial
    assert head is not None
    assert head.assignment == space.head and head.loss == 0.0 and head.is_own
    kept = set_knobs(TEXT, {"STEP": 0.03})
    assert space_of(kept, past(TEXT, Status.KEPT, 4.5, STEP=0.03)).head_trial is None  # it has a score of its own
    assert space_of(TEXT).head_trial is None
    lucky = replace(past(TEXT, Status.REVERTED, 4.0, STEP=0.05), reason=TAKEN_BACK)
    head = space_of(TEXT, past(TEXT, Status.REVERTED, 4.5, STEP=0.03), lucky).head_trial
    assert head is not None and head.loss == 0.5, "an edit that was taken back scored better than the current code"


def test_sizes_beyond_one_that_ran_out_are_ruled_out() -> None:
    failed = past(TEXT, Status.OOM, None, TARGET_PARAMS_M=8.0, BATCH_TOKENS=2048)
    space = space_of(TEXT, failed)
    larger = {**space.head, "TARGET_PARAMS_M": 20.0, "BATCH_TOKENS": 4096, "KIND": "gelu"}
    assert space.is_too_much(larger)
    assert not space.is_too_much({**larger, "BATCH_TOKENS": 1024})
    assert not space.is_too_much({**larger, "TARGET_PARAMS_M": 7.9})
    assert not space_of(TEXT, past(TEXT, Status.CRASHED, None, TARGET_PARAMS_M=8.0)).is_too_much(larger)
    assert space_of(TEXT, past(TEXT, Status.TIMEOUT, None, TARGET_PARAMS_M=8.0)).is_too_much(larger)


def test_a_size_that_worked_later_takes_the_limit_away() -> None:
    failed = past(TEXT, Status.TIMEOUT, None, TARGET_PARAMS_M=8.0)
    worked = past(TEXT, Status.REVERTED, 3.0, TARGET_PARAMS_M=16.0)
    space = space_of(TEXT, failed, worked)
    assert not space.is_too_much({**space.head, "TARGET_PARAMS_M": 50.0})


def test_a_size_that_is_a_word_is_no_limit() -> None:
    """Words have no order: what counts is the sizes that are numbers, and a night goes on."""
    text = TEXT.replace("TARGET_PARAMS_M = 1.0  # knob: float log 0.1..100", 'WIDTH = "thin"  # knob: choice thin wide')
    space = space_of(text, past(text, Status.OOM, None, WIDTH="wide", BATCH_TOKENS=2048))
    assert space.is_too_much({**space.head, "BATCH_TOKENS": 4096})
    assert not space.is_too_much({**space.head, "WIDTH": "wide"})
    only = 'WIDTH = "thin"  # knob: choice thin wide\nSTEP = 0.02  # knob: float log 1e-4..1e-1\n'
    fallen = past(only, Status.OOM, None, parent=only, WIDTH="wide")
    assert not space_of(only, fallen).is_too_much({"WIDTH": "wide", "STEP": 0.1})


def test_no_candidate_of_the_optimiser_is_too_much() -> None:
    failed = past(TEXT, Status.OOM, None, TARGET_PARAMS_M=1.5, BATCH_TOKENS=512)
    space = space_of(TEXT, failed, past(TEXT, Status.REVERTED, 3.0, STEP=0.03))
    candidates = list(_candidates(space, space.trials, _losses(space.trials), np.random.default_rng(0)))
    assert len(candidates) > 100
    assert max(float(candidate["TARGET_PARAMS_M"]) for candidate in candidates) < 1.5


def test_search_never_asks_again_for_what_was_too_much() -> None:
    """A machine on which everything larger than the start fails."""
    history: list[PastExperiment] = []
    proposer = make_proposer("search")
    for number in range(24):
        context = ResearchContext("", TEXT, revision_digest(TEXT), tuple(history), {}, {}, 0, 0.01)
        proposal = proposer.propose(context)
        assert proposal is not None
        values = {knob.name: knob.value for knob in parse_knobs(proposal.train_py)}
        size, batch = float(values["TARGET_PARAMS_M"]), float(values["BATCH_TOKENS"])
        is_large = size > 2.0 and batch > 512
        for entry in history:
            if entry.status is Status.OOM:
                limit = float(entry.knobs["TARGET_PARAMS_M"]), float(entry.knobs["BATCH_TOKENS"])
                assert size < limit[0] or batch < limit[1]
        status = Status.OOM if is_large else Status.REVERTED
        score = None if is_large else 3.0 + math.log(float(values["STEP"]) / 0.05) ** 2
        history.append(
            PastExperiment(
                number,
                revision_digest(proposal.train_py),
                revision_digest(TEXT),
                "search",
                proposal.hypothesis,
                status,
                score,
                values,
                template_digest(proposal.train_py),
            )
        )
    assert 1 <= sum(entry.status is Status.OOM for entry in history) < 12
