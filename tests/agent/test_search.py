"""The proposers that need no language model, on a toy whose best knobs are known."""

from __future__ import annotations

import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from slm_ar.core.agent.edits import parse_knobs, revision_digest, set_knobs, template_digest
from slm_ar.core.agent.proposers import OFFLINE, make_proposer
from slm_ar.core.agent.proposers.moves import moved
from slm_ar.core.agent.proposers.playbook import PLAYBOOK
from slm_ar.core.agent.proposers.search import OPENING_MOVES
from slm_ar.core.contracts import Knob, KnobValue, PastExperiment, Proposal, ResearchContext, Status
from slm_ar.core.errors import TrainingError, UsageError

TRAIN_PY = '''"""A toy."""

TARGET_PARAMS_M = 8.0  # knob: float log 0.05..200
CONTEXT = 512  # knob: choice 64 128 256 512 1024
BATCH_TOKENS = 16384  # knob: choice 256 512 1024 2048 4096 8192 16384 32768 65536
MATRIX_LR = 0.02  # knob: float log 1e-4..1e-1
EMBED_LR = 0.2  # knob: float log 1e-3..1
DROPOUT = 0.0  # knob: float 0..0.3
'''
# The same toy under names that no move knows, so that the optimiser works alone.
UNKNOWN = '''"""A toy."""

SIZE = 8.0  # knob: float log 0.05..200
SPAN = 512  # knob: choice 64 128 256 512 1024
BUNCH = 16384  # knob: choice 256 512 1024 2048 4096 8192 16384 32768 65536
STEP = 0.02  # knob: float log 1e-4..1e-1
LAYERS = 6  # knob: int log 1..32
KIND = "relu"  # knob: choice relu gelu swish
'''
FINITE = 'DEPTH = 2  # knob: int 1..4\nBATCH_TOKENS = 4  # knob: choice 2 4 8\nKIND = "a"  # knob: choice a b\n'

Values = Mapping[str, KnobValue]
Objective = Callable[[Values], float | None]


def distance(value: KnobValue, best: float) -> float:
    return math.log2(float(value) / best) ** 2


def toy(values: Values) -> float:
    """Smooth in the logarithms; the optimum is 1.0."""
    return (
        1.0
        + 0.03 * distance(values["SIZE"], 0.7)
        + 0.02 * distance(values["SPAN"], 128)
        + 0.02 * distance(values["BUNCH"], 1024)
        + 0.03 * distance(values["STEP"], 0.012)
        + 0.03 * distance(values["LAYERS"], 3)
        + (0.1 if values["KIND"] != "gelu" else 0.0)
    )


def toy_with_crashes(values: Values) -> float | None:
    too_big = float(values["SIZE"]) > 10 or float(values["BUNCH"]) >= 32768 or float(values["STEP"]) > 0.03
    return None if too_big else toy(values)


def values_of(text: str) -> dict[str, KnobValue]:
    return {knob.name: knob.value for knob in parse_knobs(text)}


def context_of(text: str, history: list[PastExperiment] | None = None, seed: int = 0) -> ResearchContext:
    return ResearchContext("", text, revision_digest(text), tuple(history or ()), {}, {}, seed, 0.01)


def past(proposal: Proposal, status: Status, score: float | None, parent: str, identity: int = 0) -> PastExperiment:
    return PastExperiment(
        identity, revision_digest(proposal.train_py), parent, "search", proposal.hypothesis, status, score,
        proposal.knobs, template_digest(proposal.train_py),
    )  # fmt: skip


def play(name: str, text: str, objective: Objective, rounds: int, seed: int = 0) -> tuple[str, list[PastExperiment]]:
    """A campaign in small: keep what scores better than the head. Returns the last head and the history."""
    proposer, noise = make_proposer(name), random.Random(seed)
    head, history = text, list[PastExperiment]()
    best = objective(values_of(head))
    assert best is not None
    for identity in range(rounds):
        proposal = proposer.propose(context_of(head, history, seed))
        if proposal is None:
            break
        assert proposal.knobs == values_of(proposal.train_py)
        score = objective(proposal.knobs)
        status = Status.CRASHED
        if score is not None:
            score = round(score + noise.gauss(0, 0.005), 4)
            status = Status.KEPT if score < best else Status.REVERTED
        history.append(past(proposal, status, score, revision_digest(head), identity))
        if status is Status.KEPT and score is not None:
            head, best = proposal.train_py, score
    return head, history


def opening(text: str, statuses: list[Status], name: str = "tpe-playbook") -> list[str]:
    """The hypotheses of the first rounds when they end with these statuses."""
    head, history, proposer = text, list[PastExperiment](), make_proposer(name)
    for status in statuses:
        proposal = proposer.propose(context_of(head, history))
        assert proposal is not None
        history.append(past(proposal, status, 1.0 if status is Status.REVERTED else None, revision_digest(head)))
        head = proposal.train_py if status is Status.KEPT else head
    return [entry.hypothesis.partition(";")[0] for entry in history]


KEPT, REVERTED = Status.KEPT, Status.REVERTED


def test_the_opening_goes_through_the_moves_in_order() -> None:
    assert opening(TRAIN_PY, [REVERTED] * 9)[:8] == [
        "halve the model: 8 -> 4 M parameters",
        "double the model: 8 -> 16 M parameters",
        "halve the batch: 16384 -> 8192 tokens per step",
        "double the learning rates: MATRIX_LR 0.02 -> 0.04, EMBED_LR 0.2 -> 0.4",
        "halve the learning rates: MATRIX_LR 0.02 -> 0.01, EMBED_LR 0.2 -> 0.1",
        "halve the context: 512 -> 256 tokens",
        "double the batch: 16384 -> 32768 tokens per step",
        "double the context: 512 -> 1024 tokens",
    ]
    assert opening(TRAIN_PY, [REVERTED] * 9)[8].startswith("follow TPE: ")


def test_the_optimiser_takes_turns_with_the_moves_that_are_left() -> None:
    more = "WARMUP = 0.1  # knob: float 0..0.2\nCOOLDOWN = 0.5  # knob: float 0..1\n"
    more += "HEAD_DIM = 32  # knob: choice 16 32 64\n"
    moves = opening(TRAIN_PY + more, [REVERTED] * 12)
    assert not any(hypothesis.startswith("follow") for hypothesis in moves)
    made = opening(TRAIN_PY + more, [REVERTED] * 20, "search")
    asked = [hypothesis.startswith("follow the optimiser: ") for hypothesis in made]
    assert made[:OPENING_MOVES] == moves[:OPENING_MOVES]
    assert asked[OPENING_MOVES:] == [False, True] * 4 + [True] * 4
    assert [hypothesis for hypothesis, by_model in zip(made, asked, strict=True) if not by_model] == moves


def test_a_move_that_was_kept_is_made_again_until_it_fails() -> None:
    assert opening(TRAIN_PY, [REVERTED, REVERTED, KEPT, KEPT, REVERTED, REVERTED])[2:] == [
        "halve the batch: 16384 -> 8192 tokens per step",
        "halve the batch: 8192 -> 4096 tokens per step",
        "halve the batch: 4096 -> 2048 tokens per step",
        "double the learning rates: MATRIX_LR 0.02 -> 0.04, EMBED_LR 0.2 -> 0.4",
    ]


def test_a_move_that_failed_twice_is_given_up() -> None:
    statuses = [Status.OOM, REVERTED, KEPT, REVERTED, KEPT] + [REVERTED] * 12
    made = [hypothesis.partition(":")[0] for hypothesis in opening(TRAIN_PY, statuses)]
    failed = [title for title, status in zip(made, statuses, strict=True) if status is not KEPT]
    assert max(failed.count(move.title) for move in PLAYBOOK) == 2
    assert made.count("halve the model") == 2
    # It could only undo what was kept.
    assert made.count("halve the learning rates") == 0


def test_a_run_that_was_cut_short_is_no_setback() -> None:
    texts = opening(TRAIN_PY, [Status.INTERRUPTED, Status.SKIPPED, REVERTED])
    assert len(set(texts)) == 3


@pytest.mark.parametrize("status", [Status.SKIPPED, Status.INTERRUPTED])
def test_what_was_not_trained_takes_no_turn_of_the_opening(status: Status) -> None:
    _, history = play("random", TRAIN_PY, lambda values: 1.0, OPENING_MOVES + 1)
    for ended, opening_words in ((status, "halve the model"), (REVERTED, "follow the optimiser")):
        context = context_of(TRAIN_PY, [replace(entry, status=ended) for entry in history])
        proposal = make_proposer("search").propose(context)
        assert proposal is not None and proposal.hypothesis.startswith(opening_words)


def test_moves_skip_what_is_not_declared_or_cannot_move() -> None:
    text = "BATCH_TOKENS = 2  # knob: choice 2 4 8\nDEPTH = 1  # knob: int 1..3\nLABEL = 1  # knob: int 0..1\n"
    expected = ["use more layers: 1 -> 2 layers", "double the batch: 2 -> 4 tokens per step"]
    assert opening(text, [REVERTED] * 2) == expected


@pytest.mark.parametrize(
    ("knob", "factor", "expected"),
    [
        (Knob("A", "int", 3, 1, 12), 0.5, 2),
        (Knob("A", "int", 2, 1, 12), 1.25, 3),
        (Knob("A", "int", 1, 1, 12), 0.5, 1),
        (Knob("A", "float", 0.0213, 0.0, 1.0), 2, 0.0426),
        (Knob("A", "float", 0.9, 0.0, 1.0), 2, 1.0),
        (Knob("A", "float", 0.0, 0.0, 1.0), 2, 0.0),
        (Knob("A", "float", 1 / 3, 0.0, 1.0), 0.5, 0.167),
        (Knob("A", "choice", 1024, choices=(4096, 256, 1024)), 0.5, 256),
        (Knob("A", "choice", 256, choices=(4096, 256, 1024)), 0.5, 256),
        (Knob("A", "choice", "x", choices=("x", "y")), 0.5, "x"),
    ],
)
def test_a_move_stays_in_range_and_takes_a_whole_step(knob: Knob, factor: float, expected: KnobValue) -> None:
    after = moved(knob, lambda value: value * factor)
    assert after == expected
    assert type(after) is type(expected)


@pytest.mark.parametrize("name", OFFLINE)
def test_the_same_history_and_seed_give_the_same_proposal(name: str) -> None:
    _, history = play(name, UNKNOWN, toy_with_crashes, 14)
    first = make_proposer(name).propose(context_of(UNKNOWN, history, seed=5))
    assert first == make_proposer(name).propose(context_of(UNKNOWN, history, seed=5))
    assert first != make_proposer(name).propose(context_of(UNKNOWN, history, seed=6))


def test_a_fresh_process_gives_the_same_proposals() -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_search as t\n"
    program += "print(t.fingerprint())"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint()


def fingerprint() -> str:
    return ",".join(entry.revision for name in OFFLINE for entry in play(name, UNKNOWN, toy_with_crashes, 13)[1])


@pytest.mark.parametrize("text", [TRAIN_PY, UNKNOWN])
@pytest.mark.parametrize("name", OFFLINE)
def test_nothing_is_proposed_twice(name: str, text: str) -> None:
    def objective(values: Values) -> float:
        return sum(distance(value, 1.0) for value in values.values() if not isinstance(value, str) and value)

    rounds = 30
    _, history = play(name, text, objective, rounds)
    revisions = [entry.revision for entry in history]
    assert len(set(revisions)) == rounds
    assert revision_digest(text) not in revisions


@pytest.mark.parametrize("name", ["search", "tpe"])
def test_a_model_beats_random_draws(name: str) -> None:
    def final(proposer: str) -> list[float]:
        return [toy(values_of(play(proposer, UNKNOWN, toy, 25, seed)[0])) for seed in range(3)]

    by_model, by_chance = final(name), final("random")
    assert statistics.mean(by_model) - 1.0 < 0.75 * (statistics.mean(by_chance) - 1.0)


def test_the_opening_beats_tpe_alone_where_the_moves_lead_the_right_way() -> None:
    names = dict(zip(values_of(TRAIN_PY), values_of(UNKNOWN), strict=True))

    def objective(values: Values) -> float:
        known = {names.get(name, name): value for name, value in values.items()}
        return toy({**known, "LAYERS": 3, "KIND": "gelu"})

    head, history = play("search", TRAIN_PY, objective, 16)
    assert objective(values_of(head)) < 1.05
    assert sum(entry.status is KEPT for entry in history) >= 8


def test_failures_are_avoided_once_they_are_known() -> None:
    """A start close to what fails: the first experiments find out where that is."""

    def failures(name: str) -> int:
        runs = [play(name, UNKNOWN, toy_with_crashes, 40, seed)[1][20:] for seed in range(2)]
        return sum(entry.status is Status.CRASHED for run in runs for entry in run)

    assert failures("search") < 0.6 * failures("random")


def test_scores_without_a_verdict_are_not_learnt_from() -> None:
    _, history = play("search", UNKNOWN, toy, 14)
    proposer = make_proposer("search")
    for status, score in ((Status.SKIPPED, None), (Status.INTERRUPTED, 0.1)):
        odd = [replace(history[0], status=status, dev_score=score), *history[1:]]
        bare = [replace(history[0], knobs={}), *history[1:]]
        assert proposer.propose(context_of(UNKNOWN, odd)) == proposer.propose(context_of(UNKNOWN, bare))
    for status, score, plain in (
        (Status.PRUNED, 0.1, Status.PRUNED), (Status.INVALID, 0.1, Status.CRASHED), (KEPT, math.nan, Status.CRASHED),
    ):  # fmt: skip
        odd = [replace(history[0], status=status, dev_score=score), *history[1:]]
        crashed = [replace(history[0], status=plain, dev_score=None), *history[1:]]
        assert proposer.propose(context_of(UNKNOWN, odd)) == proposer.propose(context_of(UNKNOWN, crashed))


def test_a_maximised_score_is_searched_the_other_way() -> None:
    _, history = play("search", UNKNOWN, toy, 20)
    upside_down = [replace(entry, dev_score=None if entry.dev_score is None else -entry.dev_score) for entry in history]
    least = make_proposer("search").propose(context_of(UNKNOWN, history))
    most = make_proposer("search").propose(replace(context_of(UNKNOWN, upside_down), direction="max"))
    assert least == most is not None


def test_an_edit_of_the_code_starts_a_study_warm() -> None:
    _, history = play("search", UNKNOWN, toy, 20)
    edited = UNKNOWN + "MORE = 1\n"
    proposer = make_proposer("search")
    warm = proposer.propose(context_of(edited, history))
    shifted = [replace(entry, dev_score=None if entry.dev_score is None else entry.dev_score + 8) for entry in history]
    other_knobs = [replace(entry, knobs={"OTHER": 1, "SIZE": 1.0}) for entry in history]
    assert warm is not None and warm.train_py.endswith("MORE = 1\n")
    assert "model of 20 past results" in warm.rationale
    shifted_proposal = proposer.propose(context_of(edited, shifted))
    assert shifted_proposal is not None and shifted_proposal.knobs == warm.knobs  # only differences count
    cold = proposer.propose(context_of(edited, other_knobs))
    assert cold is not None and "model of 0 past results" in cold.rationale


@pytest.mark.parametrize("name", OFFLINE)
def test_a_finite_space_is_gone_through_once(name: str) -> None:
    _, history = play(name, FINITE, lambda values: float(values["DEPTH"]) * (0.5 if values["KIND"] == "b" else 1), 40)
    assert len(history) == 4 * 3 * 2 - 1
    assert len({tuple(entry.knobs.values()) for entry in history}) == len(history)


@pytest.mark.parametrize("name", OFFLINE)
def test_a_train_py_without_knobs_has_nothing_to_search(name: str) -> None:
    assert make_proposer(name).propose(context_of("DEPTH = 4\n")) is None


@pytest.mark.parametrize("name", OFFLINE)
def test_a_malformed_knob_is_named(name: str) -> None:
    with pytest.raises(TrainingError, match="line 1"):
        make_proposer(name).propose(context_of("DEPTH = 4  # knob: int\n"))


@pytest.mark.parametrize("name", OFFLINE)
def test_values_read_well_and_lie_in_range(name: str) -> None:
    _, history = play(name, UNKNOWN, toy, 20)
    for entry in history:
        assert set_knobs(UNKNOWN, entry.knobs)
        for value in entry.knobs.values():
            assert not isinstance(value, float) or float(f"{value:.3g}") == value
        assert entry.hypothesis and "\n" not in entry.hypothesis and len(entry.hypothesis) < 200


def test_proposers_are_found_by_name() -> None:
    assert [make_proposer(name).name for name in OFFLINE] == list(OFFLINE)
    with pytest.raises(UsageError, match="Did you mean 'search'"):
        make_proposer("serch")
    with pytest.raises(UsageError):
        make_proposer("claude")
