"""The score: every byte once, exact for a model that knows nothing, the same for every batch size, never a guess."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer

from slm_ar.core.contracts import Document, Span, SplitScore
from slm_ar.core.prepare.heldout import HeldDocument, read_split
from slm_ar.core.prepare.tokenizer import BOS, PAD
from slm_ar.core.train import elementary, logits_client
from slm_ar.core.train import executor as executor_module
from slm_ar.core.train import windows as windows_module
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor, window_context
from slm_ar.core.train.scorer import score_split
from slm_ar.core.train.windows import cut_segments, make_windows, token_nats, window_logits

MODEL_PY = """
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))

    def forward(self, ids):
        {forward}

def build_model(config):
    {build}
    return Model(config["vocab_size"])
"""


def write_checkpoint(
    folder: Path, vocab_size: int, forward: str = "return self.table[ids]", build: str = "pass", context: int = 32
) -> Path:
    """A checkpoint of a bigram table with fixed random logits, whose code does `forward`."""
    folder.mkdir()
    (folder / "train.py").write_text(MODEL_PY.format(forward=forward, build=build), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"vocab_size": vocab_size, "context": context}), encoding="utf-8")
    table = torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0)) * 2
    save_file({"table": table}, str(folder / "model.safetensors"))
    return folder


def scored(executor: LocalExecutor, folder: Path, batch_rows: int | None = None, split: str = "dev") -> SplitScore:
    documents = tuple(read_split(executor.data.held_folder, split))
    with executor.client(folder, 512) as client:
        return score_split(client, executor.tokenizer, split, documents, window_context(folder, 64), batch_rows)


# --- segments and windows -------------------------------------------------------------------


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\n é€😀ab"), max_size=400)


@given(texts, st.integers(4, 64))
@settings(max_examples=200, deadline=None)
def test_segments_are_the_document_cut_at_lines_or_characters(text: str, longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "SEGMENT_BYTES", longest)
        pieces = [piece for piece, _ in cut_segments(text, ())]
    assert "".join(pieces) == text
    for number, piece in enumerate(pieces):
        raw = piece.encode()
        assert 0 < len(raw) <= longest
        if number < len(pieces) - 1 and not piece.endswith("\n"):
            # Only a line longer than a segment is cut inside, and then as late as a character allows.
            assert "\n" not in piece[1:]
            assert len(raw) > longest - 4


@given(texts, st.integers(4, 64), st.data())
@settings(max_examples=150, deadline=None)
def test_spans_move_along_with_their_segments(text: str, longest: int, data: st.DataObject) -> None:
    edges = [0]
    for character in text:
        edges.append(edges[-1] + len(character.encode()))
    chosen = sorted(data.draw(st.sets(st.sampled_from(edges), max_size=6)))
    spans = [Span(a, b, f"task {a}") for a, b in zip(chosen[::2], chosen[1::2], strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows_module, "SEGMENT_BYTES", longest)
        segments = cut_segments(text, spans)
    parts: dict[str, bytes] = {span.task: b"" for span in spans}
    for piece, inside in segments:
        for span in inside:
            assert 0 <= span.start < span.end <= len(piece.encode())
            parts[span.task] += piece.encode()[span.start : span.end]
    assert parts == {span.task: text.encode()[span.start : span.end] for span in spans}


def test_the_cut_does_not_depend_on_spans() -> None:
    text = "x" * 40_000
    with_spans = [piece for piece, _ in cut_segments(text, (Span(100, 30_000, "t"),))]
    assert with_spans == [piece for piece, _ in cut_segments(text, ())]
    assert [len(piece) for piece in with_spans] == [16_384, 16_384, 7_232]


@given(st.lists(st.lists(st.integers(3, 99), max_size=60), max_size=5), st.integers(1, 24))
@settings(max_examples=200, deadline=None)
def test_each_token_is_scored_exactly_once_after_its_own_past(segments: list[list[int]], context: int) -> None:
    windows = make_windows(list(enumerate(segments)), context)
    assert windows.targets.tolist() == [token for segment in segments for token in segment]
    at = dict.fromkeys(range(len(segments)), 0)
    target_at = 0
    for row, start, end, owner in zip(windows.ids, windows.starts, windows.ends, windows.owners, strict=True):
        inputs = [BOS, *segments[owner]]
        begin = at[owner] - int(start)
        # The row holds the tokens right before each target, without a gap; what follows is padding.
        assert row[:end].tolist() == inputs[begin : begin + int(end)]
        assert set(row[end:].tolist()) <= {PAD}
        assert begin == 0 or start >= context - max(1, context // 2), "later windows keep half their context"
        at[owner] += int(end - start)
        target_at += int(end - start)
    assert target_at == len(windows.targets)
    assert at == {owner: len(segment) for owner, segment in enumerate(segments)}


# --- exact scores ---------------------------------------------------------------------------


def test_a_model_with_constant_logits_scores_log2_of_the_vocabulary_per_token(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    vocab_size = executor.data.manifest.vocab_size
    forward = "return torch.full((*ids.shape, self.table.shape[0]), 7.25)"
    score = scored(executor, write_checkpoint(tmp_path / "run", vocab_size, forward))
    bits = score.bits_per_byte * score.byte_count
    assert bits / score.token_count == pytest.approx(math.log2(vocab_size), rel=1e-6)


def test_bytes_records_groups_and_slices_are_those_of_the_raw_text(executor: LocalExecutor, tmp_path: Path) -> None:
    score = scored(executor, write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size))
    size = executor.data.manifest.splits["dev"]
    assert (score.byte_count, score.record_count, len(score.groups)) == (
        size.byte_count,
        size.record_count,
        size.groups,
    )
    total = math.fsum(group.nats for group in score.groups)
    assert score.bits_per_byte == pytest.approx(total / math.log(2) / size.byte_count, rel=1e-12)
    days = score.slices["weekday"]
    assert set(days) <= {"Mon", "Tue", "Wed", "Sat"}
    assert min(days.values()) <= score.bits_per_byte <= max(days.values())


def test_the_score_is_that_of_the_softmax_computed_by_hand(executor: LocalExecutor, tmp_path: Path) -> None:
    vocab_size = executor.data.manifest.vocab_size
    folder = write_checkpoint(tmp_path / "run", vocab_size)
    document = Document("d", "08:00 | 504 | Zoo | traffic | 5 min\n", "g")
    ids = executor.tokenizer.encode(document.text, add_special_tokens=False).ids
    table = torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0)) * 2
    logits = table[torch.tensor([BOS, *ids[:-1]])].double()
    expected = -logits.log_softmax(1)[range(len(ids)), ids].sum().item()
    with executor.client(folder, 512) as client:
        score = score_split(client, executor.tokenizer, "dev", [HeldDocument(document, {})], 16)
    assert score.groups[0].nats == pytest.approx(expected, rel=1e-6)
    assert score.token_count == len(ids)


def test_the_score_does_not_depend_on_the_batch_size(executor: LocalExecutor, tmp_path: Path) -> None:
    forward = "x = self.table[ids]; return x + 0.3 * torch.cumsum(x, 1) / 9"
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, forward)
    scores = [scored(executor, folder, batch_rows).bits_per_byte for batch_rows in (1, 3, 64, None)]
    assert max(scores) - min(scores) < 1e-6


def test_columns_beyond_the_vocabulary_are_ignored(executor: LocalExecutor, tmp_path: Path) -> None:
    vocab_size = executor.data.manifest.vocab_size
    plain = scored(executor, write_checkpoint(tmp_path / "plain", vocab_size))
    forward = "x = self.table[ids]; return torch.cat([x, torch.full((*ids.shape, 60), 50.0)], -1)"
    padded = scored(executor, write_checkpoint(tmp_path / "padded", vocab_size, forward))
    assert padded.bits_per_byte == pytest.approx(plain.bits_per_byte, abs=1e-9)


def test_half_precision_logits_are_widened_before_the_softmax(executor: LocalExecutor, tmp_path: Path) -> None:
    vocab_size = executor.data.manifest.vocab_size
    plain = scored(executor, write_checkpoint(tmp_path / "plain", vocab_size))
    half = scored(
        executor, write_checkpoint(tmp_path / "half", vocab_size, "return self.table[ids].to(torch.bfloat16)")
    )
    assert half.bits_per_byte == pytest.approx(plain.bits_per_byte, abs=0.01)


def test_a_longer_document_is_scored_in_segments_without_losing_a_byte(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows_module, "SEGMENT_BYTES", 100)
    forward = "return torch.zeros((*ids.shape, self.table.shape[0]))"
    score = scored(executor, write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, forward))
    assert score.byte_count == executor.data.manifest.splits["dev"].byte_count


def test_scoring_leaves_no_open_file_behind(executor: LocalExecutor, tmp_path: Path) -> None:
    """Each client maps 64 MB; a descriptor that stays open keeps them on the disk for the whole night."""
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size)
    scored(executor, folder)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        scored(executor, folder)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@given(st.floats(-1e30, 1e30), st.integers(2, 300), st.integers(0, 1 << 30))
@settings(max_examples=200, deadline=None)
def test_the_costs_of_all_tokens_are_those_of_one_distribution(constant: float, width: int, seed: int) -> None:
    """Whatever is added to every logit: one place of the map, asked for each token in turn."""
    logits = torch.randn(width, generator=torch.Generator().manual_seed(seed)) * 4 + constant
    nats = token_nats(logits.expand(width, width), np.arange(width))
    assert np.exp(-nats).sum() == pytest.approx(1, rel=1e-4)
    apart = logits.double() - logits.double().max()
    expected = (apart.logsumexp(0) - apart).numpy()
    assert nats == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1e4, -1e4, 1e30, -1e30, 3e38])
def test_a_constant_on_every_logit_costs_log_of_the_vocabulary(constant: float) -> None:
    nats = token_nats(torch.full((5, 100), constant), np.arange(5))
    assert nats == pytest.approx(np.full(5, math.log(100)), rel=1e-6)


def test_a_constant_changes_no_cost_that_it_leaves_apart() -> None:
    logits = torch.arange(64, dtype=torch.float32).reshape(8, 8) / 4
    plain, raised = (token_nats(logits + constant, np.arange(8)) for constant in (0.0, 1024.0))
    assert (plain == raised).all()


def test_finite_logits_that_lie_infinitely_far_apart_are_no_score() -> None:
    with pytest.raises(InvalidCheckpointError, match="infinitely much"):
        token_nats(torch.tensor([[3e38, -3e38]]), np.array([1]))


# --- what is no score -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "build", "reason"),
    [
        ("return self.table[ids] * float('nan')", "pass", "logits that are not finite"),
        ("return torch.full((*ids.shape, self.table.shape[0]), -float('inf'))", "pass", "not finite"),
        ("return self.table[ids][..., :-1]", "pass", "logits of shape"),
        ("return self.table[ids][0]", "pass", "failed while it computed logits"),
        ("raise RuntimeError('out of ideas')", "pass", "out of ideas"),
        ("import os; os._exit(3)", "pass", "failed while it computed logits"),
        ("return self.table[ids]", "raise ValueError('no model today')", "no model today"),
        ("return self.table[ids]", "config['vocab_size'] += 1", "cannot be loaded by its own train.py"),
        ("return self.table[ids]", "import os; os.kill(os.getpid(), 9)", "cannot be loaded by its own train.py"),
    ],
)
def test_a_model_that_gives_no_honest_logits_is_invalid_with_the_reason(
    executor: LocalExecutor, tmp_path: Path, forward: str, build: str, reason: str
) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, forward, build)
    with pytest.raises(InvalidCheckpointError, match=reason):
        scored(executor, folder)


CUT = """
import os
for number in range(3, 64):
    try:
        if os.fstat(number).st_size > 1 << 20:
            os.ftruncate(number, 0)
    except OSError:
        pass
"""


@pytest.mark.parametrize("can_seal", [True, False])
def test_a_model_that_cuts_off_the_shared_file_does_not_end_the_harness(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_seal: bool
) -> None:
    """Right before it answers, when its logits are written and the harness is about to read them."""
    if not can_seal:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    build = f"""
    import slm_ar.core.train.logits_server as server
    honest = server._answer
    def cut_and_answer(control, message):
        exec({CUT!r})
        honest(control, message)
    server._answer = cut_and_answer"""
    vocab_size = executor.data.manifest.vocab_size
    plain = scored(executor, write_checkpoint(tmp_path / "plain", vocab_size))
    folder = write_checkpoint(tmp_path / "cut", vocab_size, build=build)
    if can_seal and hasattr(os, "memfd_create"):
        assert scored(executor, folder).bits_per_byte == plain.bits_per_byte
    else:
        with pytest.raises(InvalidCheckpointError):
            scored(executor, folder)


def test_both_ends_have_settled_their_functions_before_the_model_is_asked(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    build = """from slm_ar.core.train import elementary
    assert elementary.settle.cache_info().currsize == 1"""
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size, build=build)
    elementary.settle.cache_clear()
    with executor.client(folder, 512):
        assert elementary.settle.cache_info().currsize == 1


def test_an_answer_that_the_file_does_not_hold_is_invalid(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size)
    with executor.client(folder, 512) as client:
        asked = client._send(np.zeros((1, 8), np.int32), [(0, 8)])
        assert client._child.wait(60) is not None
        with tempfile.TemporaryFile(buffering=0) as shorter:
            shorter.write(bytes(100))
            monkeypatch.setattr(client, "_shared", shorter)
            answer = {"event": "logits", "count": asked, "width": client.vocab_size}
            monkeypatch.setattr(client, "_answer", lambda seconds: answer)
            with pytest.raises(InvalidCheckpointError, match="cut off the file"):
                client._received(asked)
        monkeypatch.undo()


def test_a_train_py_that_cannot_be_imported_is_invalid_with_the_reason(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size)
    (folder / "train.py").write_text("import no_such_library\n", encoding="utf-8")
    with pytest.raises(InvalidCheckpointError, match="no_such_library"):
        scored(executor, folder)


def test_a_server_that_never_answers_is_given_up(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits_client, "ANSWER_SECONDS", 0.5)
    folder = write_checkpoint(
        tmp_path / "run", executor.data.manifest.vocab_size, "import time; time.sleep(60); return self.table[ids]"
    )
    with pytest.raises(InvalidCheckpointError, match="failed while it computed logits"):
        scored(executor, folder)


def test_all_answers_together_have_a_cap(
    executor: LocalExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_module, "LONGEST_SCORE_SECONDS", 0.5)
    folder = write_checkpoint(
        tmp_path / "run", executor.data.manifest.vocab_size, "import time; time.sleep(0.2); return self.table[ids]"
    )
    with pytest.raises(InvalidCheckpointError, match="longer to answer than a score may take"):
        scored(executor, folder, batch_rows=16)


class ShiftedTokenizer:
    """Loses a byte on the way back."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    @staticmethod
    def from_str(text: str) -> Any:
        return Tokenizer.from_str(text)

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        return str(self.real.decode(ids, **options))[1:]


def test_scores_for_the_journal_carry_no_names_of_groups(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size)
    documents = list(read_split(executor.data.held_folder, "dev"))
    first, again = (executor.score(folder, "dev", 64) for _ in range(2))
    assert not {held.document.group for held in documents} & {group.group for group in first.groups}
    assert first.groups == again.groups
    with executor.client(folder, 512) as client:
        named = score_split(client, executor.tokenizer, "dev", documents, window_context(folder, 64))
    assert sorted(group.nats for group in first.groups) == sorted(group.nats for group in named.groups)


def test_a_tokenizer_that_does_not_give_the_text_back_is_refused(executor: LocalExecutor, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "run", executor.data.manifest.vocab_size)
    documents = tuple(read_split(executor.data.held_folder, "dev"))
    with (
        executor.client(folder, 512) as client,
        pytest.raises(InvalidCheckpointError, match="does not give document 'day"),
    ):
        score_split(client, ShiftedTokenizer(executor.tokenizer), "dev", documents, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"context": 16}, 16), ({"context": 999}, 64), ({"context": 0}, 8), ({"context": True}, 64), ([], 64), ({}, 64)],
)
def test_the_window_is_the_models_own_context_up_to_the_recipes(tmp_path: Path, config: object, expected: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert window_context(tmp_path, 64) == expected


def test_windows_of_nothing_are_empty() -> None:
    windows = make_windows([(0, [])], 8)
    assert windows.ids.shape == (0, 8)
    assert windows.ids.dtype == np.int32


def test_while_a_model_answers_the_caller_has_one_thread(executor: LocalExecutor, tmp_path: Path) -> None:
    size = executor.data.manifest.vocab_size
    windows = make_windows([(0, [5] * 200)], 32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with executor.client(write_checkpoint(tmp_path / "run", size), 32) as client:
            assert {torch.get_num_threads() for _ in window_logits(client, windows, 2)} == {1}
            assert torch.get_num_threads() == 2
            for _ in window_logits(client, windows, 2):
                break
            assert torch.get_num_threads() == 2
        with (
            pytest.raises(InvalidCheckpointError),
            executor.client(write_checkpoint(tmp_path / "bad", size, "return self.table[ids] / 0"), 32) as client,
        ):
            list(window_logits(client, windows, 2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
