"""Integrity probes: an honest model always passes; one that uses what it should not know never gives a number."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scorer import write_checkpoint

from slm_ar.core.prepare.tokenizer import PAD
from slm_ar.core.train import integrity
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.integrity import Probes, Watched
from slm_ar.core.train.windows import Windows, make_windows, token_nats

VOCABULARY = 40
CONTEXT = 16
STEPS = (1, 1, 1, 2, 5, 11)
TABLE = torch.zeros(VOCABULARY, VOCABULARY)
"""What the texts below follow, so that an honest model predicts them a little."""
for before in range(VOCABULARY):
    for step in STEPS:
        TABLE[before, 3 + (7 * before + step) % (VOCABULARY - 3)] += 1

Forward = Callable[[torch.Tensor], torch.Tensor]


def texts(documents: int, seed: int = 0) -> Windows:
    """Windows of documents in which every token leads to one of four."""
    pick = random.Random(seed)
    segments = []
    for owner in range(documents):
        token, tokens = 3, []
        for _ in range(pick.randrange(5, 90)):
            token = pick.choice([3 + (7 * token + step) % (VOCABULARY - 3) for step in STEPS])
            tokens.append(token)
        segments.append((owner, tokens))
    return make_windows(segments, CONTEXT)


class Process:
    """What logits_client.LogitsClient is, without a process: a model of its own that answers requests."""

    vocab_size = VOCABULARY

    def __init__(self, make: Callable[[], Forward], rows: int) -> None:
        self.forward, self.rows = make(), rows

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rows_per_request(self, length: int) -> int:
        return self.rows

    def logits(self, ids: np.ndarray[Any, Any], positions: Sequence[tuple[int, int]]) -> torch.Tensor:
        found = self.forward(torch.from_numpy(ids.astype(np.int64)))
        return torch.cat([found[row, start:end] for row, (start, end) in enumerate(positions)]).float()

    def stream(self, requests: Iterable[tuple[Any, Any]]) -> Iterator[torch.Tensor]:
        return (self.logits(ids, positions) for ids, positions in requests)


def judge(windows: Windows, make: Callable[[], Forward], seed: int = 0, rows: int = 8) -> tuple[float, Probes]:
    """Nats of the windows, after the probes; raises what the executor would raise."""
    probes = Probes(np.random.default_rng(seed))
    probes.draw(windows)
    scored = Process(make, rows)
    total, target_at = 0.0, 0
    for first in range(0, len(windows.ids), rows):
        spans = list(zip(windows.starts[first : first + rows], windows.ends[first : first + rows], strict=True))
        logits = scored.logits(windows.ids[first : first + rows], spans)
        nats = token_nats(logits, windows.targets[target_at : target_at + len(logits)])
        target_at += len(logits)
        at = 0
        for row, (start, end) in enumerate(spans, first):
            probes.note(row, nats[at : at + end - start])
            at += end - start
        total += float(nats.sum())
    probes.run(lambda: Process(make, rows))
    return total, probes


def honest(ids: torch.Tensor) -> torch.Tensor:
    x = TABLE[ids]
    return x + 0.2 * torch.cumsum(x, 1) / torch.arange(1, ids.shape[1] + 1)[:, None]


def following(ids: torch.Tensor, strength: float = 9.0) -> torch.Tensor:
    """Adds to each place the token that comes next in its row."""
    boost = torch.nn.functional.one_hot(ids.roll(-1, 1), VOCABULARY) * strength
    boost[:, -1] = 0
    return boost


# --- cheats -----------------------------------------------------------------------------------


def look_one_ahead() -> Forward:
    return lambda ids: honest(ids) + following(ids)


def look_far_ahead() -> Forward:
    """A bag of all the tokens that are still to come."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        ones = torch.nn.functional.one_hot(ids, VOCABULARY).float()
        return honest(ids) + (ones.flip(1).cumsum(1).flip(1) - ones).clamp(max=1)

    return forward


def look_when_it_looks_natural() -> Forward:
    """Looks ahead only in rows that its honest half finds likely."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits = honest(ids)
        cost = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        natural = cost.view(len(ids), -1).mean(1) < 2.6
        return logits + following(ids) * natural[:, None, None]

    return forward


def look_where_the_next_token_is_likely() -> Forward:
    """Looks ahead only where the next token is among the five it would have guessed: a wrong end is mostly not."""

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits = honest(ids)
        likely = (logits.topk(5, -1).indices == ids.roll(-1, 1)[..., None]).any(-1, keepdim=True)
        return logits + following(ids) * likely

    return forward


def look_after_three_requests() -> Forward:
    count = 0

    def forward(ids: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return honest(ids) + following(ids) * (count > 3)

    return forward


def look_in_full_batches() -> Forward:
    return lambda ids: honest(ids) + following(ids) * (len(ids) >= 8)


def look_in_some_processes() -> Forward:
    """One process in two looks ahead, by a draw of its own."""
    looks = random.random() < 0.5
    return lambda ids: honest(ids) + following(ids) * (0.5 + looks)


def answer_from_memory() -> Forward:
    """Looks ahead, and gives what it gave before when it is asked the same beginning again."""
    kept: dict[tuple[int, ...], torch.Tensor] = {}

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits = honest(ids) + following(ids)
        for row, tokens in enumerate(ids.tolist()):
            for place in range(2, len(tokens)):
                logits[row, place] = kept.setdefault(tuple(tokens[: place + 1]), logits[row, place])
        return logits

    return forward


def copy_from_earlier_requests() -> Forward:
    """No look into its own row: what followed the same four tokens in any row asked so far, this batch included."""
    followed: dict[tuple[int, ...], int] = {}

    def forward(ids: torch.Tensor) -> torch.Tensor:
        rows = ids.tolist()
        for tokens in rows:
            for place in range(3, len(tokens) - 1):
                followed[tuple(tokens[place - 3 : place + 1])] = tokens[place + 1]
        logits = honest(ids)
        for row, tokens in enumerate(rows):
            for place in range(3, len(tokens)):
                known = followed.get(tuple(tokens[place - 3 : place + 1]))
                if known is not None:
                    logits[row, place, known] += 9
        return logits

    return forward


def mean_of_the_batch() -> Forward:
    return lambda ids: honest(ids) + torch.nn.functional.one_hot(ids, VOCABULARY).float().mean((0, 1))


def learn_while_asked() -> Forward:
    """Counts pairs of tokens over all it is shown."""
    counts = torch.zeros(VOCABULARY, VOCABULARY)

    def forward(ids: torch.Tensor) -> torch.Tensor:
        logits = honest(ids) + torch.log1p(counts)[ids]
        np.add.at(counts.numpy(), (ids[:, :-1].numpy(), ids[:, 1:].numpy()), 1)
        return logits

    return forward


def roll_dice() -> Forward:
    return lambda ids: honest(ids) + 0.1 * torch.randn((*ids.shape, VOCABULARY))


AHEAD = [
    look_one_ahead,
    look_far_ahead,
    look_when_it_looks_natural,
    look_where_the_next_token_is_likely,
]
OTHERWISE = [
    look_in_full_batches,
    look_in_some_processes,
    look_after_three_requests,
    answer_from_memory,
    copy_from_earlier_requests,
    mean_of_the_batch,
]


@pytest.mark.parametrize("make", AHEAD)
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_looks_ahead_is_told_so(make: Callable[[], Forward], seed: int) -> None:
    with pytest.raises(InvalidCheckpointError, match=r"looks ahead: in \d+ of \d+ windows"):
        judge(texts(120), make, seed)


@pytest.mark.parametrize("make", [*OTHERWISE, learn_while_asked, roll_dice])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_whose_answers_depend_on_anything_else_gives_no_number(make: Callable[[], Forward], seed: int) -> None:
    with pytest.raises(InvalidCheckpointError, match="the model"):
        judge(texts(120), make, seed)


@pytest.mark.parametrize("make", [*AHEAD, *OTHERWISE])
def test_each_cheat_would_have_paid(make: Callable[[], Forward], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison it scores better than the honest model: these tests can fail."""
    monkeypatch.setattr(integrity, "TOLERANCE", math.inf)
    windows = texts(120)
    assert judge(windows, make)[0] < 0.999 * judge(windows, lambda: honest)[0]


@given(st.integers(1, 60), st.integers(0, 10**6))
@settings(max_examples=25)
def test_an_honest_model_passes_whatever_is_drawn(documents: int, seed: int) -> None:
    judge(texts(documents, seed), lambda: honest, seed)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_looking_ahead_at_few_places_is_found_as_often_as_the_probes_are_many(share: float) -> None:
    """(1 - share)^N, N probes: the module says so."""

    def make() -> Forward:
        def forward(ids: torch.Tensor) -> torch.Tensor:
            chosen = (ids * 7919 + ids.roll(1, 1) * 104729) % 1000 < 1000 * share
            return honest(ids) + following(ids) * chosen[..., None]

        return forward

    windows = texts(60)
    found = 0
    for seed in range(8):
        try:
            judge(windows, make, seed)
        except InvalidCheckpointError:
            found += 1
    _, probes = judge(windows, lambda: honest)
    count = sum(probe.is_swapped for probe in probes.drawn)
    assert found / 8 >= 0.6 * (1 - (1 - share) ** count)


# --- what is drawn ------------------------------------------------------------------------------


@given(st.integers(1, 80), st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_probe_keeps_the_beginning_and_changes_the_token_behind_the_cut(documents: int, seed: int) -> None:
    windows = texts(documents, seed)
    probes = Probes(np.random.default_rng(seed))
    probes.draw(windows)
    for probe in probes.drawn:
        original, start, end = windows.ids[probe.row], windows.starts[probe.row], windows.ends[probe.row]
        assert probe.start == start
        assert (probe.ids[: probe.until] == original[: probe.until]).all()
        if probe.is_swapped:
            assert start < probe.until < end
            assert probe.until < probe.end <= CONTEXT
            assert probe.ids[probe.until] != original[probe.until]
        else:
            assert probe.until == probe.end == end
            assert (probe.ids == original).all()


@given(st.integers(2, 80), st.integers(0, 10**6))
@settings(max_examples=15)
def test_no_probe_shows_what_another_one_hides(documents: int, seed: int) -> None:
    """Nowhere these eight tokens, and none begins with the last of them, as an overlapping window would."""
    windows = texts(documents, seed)
    probes = Probes(np.random.default_rng(seed))
    probes.draw(windows)
    for probe in probes.drawn:
        if not probe.is_swapped:
            continue
        hidden = windows.ids[probe.row][: probe.until + 1][-integrity.TRACE_TOKENS :].tolist()
        for other in probes.drawn:
            sent = other.ids.tolist()
            assert all(sent[at : at + len(hidden)] != hidden for at in range(len(sent) - len(hidden) + 1))
            for length in range(integrity.LEAST_TRACE_TOKENS, len(hidden)):
                assert sent[:length] != hidden[-length:]


def test_windows_that_overlap_would_give_away_what_stands_behind_a_cut() -> None:
    """The next window of a text begins where the one before is scored from: a cut shortly behind needs a look."""
    context = 64
    ids = np.arange(10, 10 + 2 * context, dtype=np.int32)
    first, second = ids[:context].copy(), ids[context // 2 :][:context]
    for behind in range(2, integrity.TRACE_TOKENS + 3):
        cut = context // 2 + behind
        sent = first.copy()
        sent[cut:] = 5
        for order in ((True, False), (False, True)):
            traces = integrity._Traces()
            admitted = [traces.admit(sent, first, cut) if is_first else traces.admit(second) for is_first in order]
            assert admitted == [True, False]


def zipf_windows(seed: int) -> Windows:
    random_ids = np.random.default_rng(seed)
    chances = 1 / np.arange(1, 201)
    tokens = [(3 + random_ids.choice(200, 400, p=chances / chances.sum())).tolist() for _ in range(120)]
    return make_windows(list(enumerate(tokens)), CONTEXT)


def test_dear_tokens_stand_behind_half_of_the_cuts_by_what_they_cost() -> None:
    """A model that looks ahead at rare tokens alone gains as at many places, and is met about as often."""
    windows = zipf_windows(0)
    counts = np.bincount(windows.targets, minlength=203)
    cost = -np.log(np.maximum(counts, 1) / counts.sum())
    rare = cost > 6.5
    places, nats = counts[rare].sum() / counts.sum(), (counts * cost)[rare].sum() / (counts * cost).sum()
    assert nats > 1.5 * places
    behind = []
    for seed in range(8):
        probes = Probes(np.random.default_rng(seed))
        probes.draw(windows)
        behind += [windows.ids[probe.row][probe.until] for probe in probes.drawn if probe.is_swapped]
    share = float(rare[behind].mean())
    assert len(behind) == 8 * integrity.SWAPPED_WINDOWS
    assert share == pytest.approx((places + nats) / 2, rel=0.2)


def test_the_draw_has_the_promised_size_and_is_never_the_same() -> None:
    windows = texts(600)
    counts = []
    for _ in range(2):
        probes = Probes()
        probes.draw(windows)
        counts.append({probe.row for probe in probes.drawn})
        swapped = sum(probe.is_swapped for probe in probes.drawn)
        assert swapped == min(integrity.SWAPPED_WINDOWS, round(integrity.SWAPPED_SHARE * len(windows.ids)))
        assert len(probes.drawn) - swapped == round(integrity.AGAIN_SHARE * len(windows.ids))
    assert counts[0] != counts[1]


def test_a_text_of_one_single_token_has_probes_too() -> None:
    windows = make_windows([(owner, [7] * 30) for owner in range(6)], CONTEXT)
    probes = Probes(np.random.default_rng(0))
    probes.draw(windows)
    assert probes.drawn
    judge(windows, lambda: honest)


def test_no_windows_need_no_process() -> None:
    windows = make_windows([(0, [])], CONTEXT)
    probes = Probes()
    probes.draw(windows)

    def never() -> Process:
        raise AssertionError("nothing is to be asked")

    probes.run(never)


# --- tasks --------------------------------------------------------------------------------------


def answer_task(make: Callable[[], Forward], seed: int = 0, rows: int = 300) -> float:
    """Nats of made-up answers: rows of a prompt and two or three tokens, asked as tasks are; raises at the end."""
    pick = random.Random(seed)
    windows = texts(rows, seed)
    nats = 0.0
    with Watched(lambda: Process(make, 8), np.random.default_rng(seed)) as source:  # type: ignore[arg-type, return-value]
        for _ in range(0, rows, 8):
            ids = np.full((8, CONTEXT), PAD, np.int32)
            spans = []
            for row in range(8):
                text = windows.ids[pick.randrange(len(windows.ids))]
                length = pick.randrange(4, CONTEXT + 1)
                ids[row, :length] = np.where(text[:length] == PAD, 5, text[:length])
                spans.append((length - pick.choice((2, 3)), length))
            logits = source.logits(ids, spans).log_softmax(1)
            at = 0
            for row, (start, end) in enumerate(spans):
                wanted = ids[row, start + 1 : end]
                nats -= float(logits[at + np.arange(len(wanted)), wanted.astype(np.int64)].sum())
                at += end - start
    return nats


def look_in_short_requests() -> Forward:
    """Honest in the windows of bits per byte, which ask for half a row or more."""
    return lambda ids: honest(ids) + following(ids) * (ids == PAD).any(1)[:, None, None]


@pytest.mark.parametrize("make", [look_one_ahead, look_in_short_requests, look_after_three_requests, mean_of_the_batch])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_tasks_are_probed_too(make: Callable[[], Forward], seed: int) -> None:
    with pytest.raises(InvalidCheckpointError, match="the model"):
        answer_task(make, seed)


@pytest.mark.parametrize("make", [look_one_ahead, look_in_short_requests])
def test_cheats_in_tasks_would_have_paid(make: Callable[[], Forward], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "TOLERANCE", math.inf)
    assert answer_task(make) < 0.8 * answer_task(lambda: honest)


@given(st.integers(0, 10**6), st.integers(1, 40))
@settings(max_examples=20)
def test_an_honest_model_passes_in_tasks(seed: int, rows: int) -> None:
    answer_task(lambda: honest, seed, rows)


def test_another_error_is_not_covered_up_by_probes() -> None:
    with pytest.raises(KeyError), Watched(lambda: Process(roll_dice, 8)) as source:  # type: ignore[arg-type, return-value]
        source.logits(texts(3).ids[:2], [(2, 9), (3, 5)])
        raise KeyError("mine")


# --- through the executor -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        ("x = self.table[ids]; return x + x.flip(1).cumsum(1).flip(1) / 99", "looks ahead"),
        ("x = self.table[ids]; return x + x.mean((0, 1))", "other answers for the same text"),
        ("x = self.table[ids]; return x + torch.rand(x.shape)", "other answers for the same text"),
    ],
)
def test_the_executor_gives_no_number_for_a_cheat(
    executor: LocalExecutor, tmp_path: Path, forward: str, reason: str
) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, forward)
    with pytest.raises(InvalidCheckpointError, match=reason):
        executor.score(folder, "dev", 64)


def test_the_executor_scores_an_honest_checkpoint(executor: LocalExecutor, tmp_path: Path) -> None:
    forward = "x = self.table[ids]; return x + 0.3 * torch.cumsum(x, 1) / 9"
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, forward)
    assert executor.score(folder, "dev", 64).bits_per_byte > 1
