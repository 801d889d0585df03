"""The prune pass: texts without some of their edits, a balanced design, and what twelve noisy runs can tell."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import TINY_TRAIN_PY

from slm_ar.core.agent import prune_pass
from slm_ar.core.agent.edits import check_train_py, parse_knobs, set_knobs
from slm_ar.core.agent.prune_pass import Edit, Row, design, effects, pruned, removable, unhelpful, without


def chain_of(*changes):
    """Edits from TINY_TRAIN_PY on: each change is a dictionary of knobs or a function of the text."""
    texts = [TINY_TRAIN_PY]
    for change in changes:
        texts.append(change(texts[-1]) if callable(change) else set_knobs(texts[-1], change))
    return [Edit(number, *pair) for number, pair in enumerate(itertools.pairwise(texts), 1)]


def knobs_of(text):
    return {knob.name: knob.value for knob in parse_knobs(text)}


def add_helper(text):
    return text.replace("def main(", "def helper(x):\n    return x\n\n\ndef main(", 1)


def use_helper(text):
    head, marker, rest = text.partition("    run = ")
    return f"{head}    helper(1)\n{marker}{rest}"


# --- texts ----------------------------------------------------------------------------------


def test_an_edit_in_the_middle_goes_and_the_later_ones_stay():
    chain = chain_of({"MATRIX_LR": 0.04}, add_helper, {"BATCH_TOKENS": 512})
    final = chain[-1].after
    assert without(final, chain, ()) == final
    rest = without(final, chain, (1,))
    assert rest is not None and "def helper" in rest
    assert (knobs_of(rest)["MATRIX_LR"], knobs_of(rest)["BATCH_TOKENS"]) == (0.02, 512)
    assert without(final, chain, (1, 2, 3)) == TINY_TRAIN_PY


def test_what_a_later_edit_wrote_over_stays():
    chain = chain_of({"MATRIX_LR": 0.04}, {"MATRIX_LR": 0.08})
    assert without(chain[-1].after, chain, (1,)) is None
    assert without(chain[-1].after, chain, (2,)) == chain[0].after
    assert without(chain[-1].after, chain, (1, 2)) == TINY_TRAIN_PY
    assert [edit.id for edit in removable(chain[-1].after, chain)] == [2]


def test_an_edit_whose_names_are_used_later_stays():
    chain = chain_of(add_helper, use_helper)
    final = chain[-1].after
    check_train_py(final)
    assert [edit.id for edit in removable(final, chain)] == [2]
    # together they can go: the user of the name first
    assert pruned(final, chain, (2, 1)) == (TINY_TRAIN_PY, (2, 1))
    assert pruned(final, chain, (1, 2)) == (chain[0].after, (2,))


@given(st.permutations(["MATRIX_LR", "BATCH_TOKENS", "helper"]), st.sets(st.integers(1, 3)))
def test_edits_in_different_places_go_in_any_combination(order, out):
    changes = {"MATRIX_LR": {"MATRIX_LR": 0.04}, "BATCH_TOKENS": {"BATCH_TOKENS": 512}, "helper": add_helper}
    chain = chain_of(*(changes[name] for name in order))
    text = TINY_TRAIN_PY
    for edit, name in zip(chain, order, strict=True):
        if edit.id not in out:
            text = changes[name](text) if name == "helper" else set_knobs(text, changes[name])
    assert without(chain[-1].after, chain, tuple(out)) == text


# --- design and effects ---------------------------------------------------------------------


@pytest.mark.parametrize("count", range(2, 12))
def test_the_design_is_balanced(count):
    rows = design(range(count))
    assert len(rows) == prune_pass.RUNS and rows[0] == Row((), 0)
    for edit in range(count):
        assert sum(edit in row.out for row in rows) == 6
    for one, two in itertools.combinations(range(count), 2):
        for first, second in itertools.product((True, False), repeat=2):
            assert sum((one in row.out, two in row.out) == (first, second) for row in rows) == 3
    assert len({(row.out, row.seed) for row in rows}) == 12


@pytest.mark.parametrize("count", [1, 12])
def test_too_few_and_too_many_edits_are_refused(count):
    with pytest.raises(ValueError, match="2 to 11"):
        design(range(count))


@given(st.integers(2, 11), st.integers(0, 2**20))
def test_effects_are_found_exactly_without_noise_whatever_the_seeds_are_worth(count, seed):
    source = random.Random(seed)
    truth = {edit: source.gauss(0, 1) for edit in range(count)}
    luck = [source.gauss(0, 5) for _ in range(12)]
    rows = design(range(count))
    scores = [2 + luck[row.seed] + sum(truth[edit] for edit in truth if edit not in row.out) for row in rows]
    assert effects(range(count), rows, scores) == pytest.approx(truth)


def test_runs_that_failed_cost_precision_until_nothing_can_be_told():
    rows = design((4, 7, 9))
    scores = [sum(0.1 * edit for edit in (4, 7, 9) if edit not in row.out) for row in rows]
    assert effects((4, 7, 9), rows, [None, *scores[1:]]) == pytest.approx({4: 0.4, 7: 0.7, 9: 0.9})
    assert effects((4, 7, 9), rows, [*scores[:3], *[None] * 9]) is None
    assert effects((4, 7, 9), rows, [None] * 12) is None
    # an edit without which the code crashes was never seen to be missing
    assert effects((4, 7, 9), rows, [None if 7 in row.out else s for row, s in zip(rows, scores, strict=True)]) is None


def test_what_does_not_help_goes_and_code_must_earn_its_lines():
    found = {1: -1.0, 2: 0.2, 3: -0.1, 4: -0.1, 5: 0.0, 6: 0.7}
    added = {1: 10, 2: 0, 3: 5, 4: 0, 5: -3, 6: 1}
    assert unhelpful(found, added, sigma=1.0) == (6, 2, 5, 3)
    assert unhelpful(found, added, sigma=0.0) == (6, 2, 5)
