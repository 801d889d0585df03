"""A model and an n-gram together: the weights, the figure, and that no candidate can gain by knowing of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from toys import TABLE_PY, toy_machine

from slm_ar.core.contracts import BITS_WITH_NGRAM, Document
from slm_ar.core.errors import RecipeError
from slm_ar.core.prepare.heldout import HeldDocument, read_split
from slm_ar.core.prepare.ngram import build
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.prepare.tokenizer import BOS
from slm_ar.core.tasks.generate import generate_text
from slm_ar.core.train import mixing
from slm_ar.core.train.checkpoint import InvalidCheckpointError
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.mixing import MixedSource, Mixer, Mixture, Weights, fit_weights, mix_sample, mixed_logits
from slm_ar.core.train.preview import preview_score
from slm_ar.core.train.windows import encode_documents, token_nats


def nats_of(logs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(torch.nn.functional.cross_entropy(logs.double(), targets, reduction="sum"))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.floats(0, 3), st.floats(0, 3), st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
def test_weights_are_the_likeliest_ones(seed: int, model_knows: float, counts_know: float, scale: float) -> None:
    """No worse than any other pair of a grid, whether one of both knows nothing, is flat, or is sure of nonsense."""
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(9, (400,), generator=random)
    found = torch.nn.functional.one_hot(targets, 9)
    model = scale * (torch.randn(400, 9, generator=random) + model_knows * found)
    counts = torch.randn(400, 9, generator=random) + counts_know * found

    def cost(weights: Weights) -> float:
        away = sum((one - other) ** 2 for one, other in zip(weights, mixing.PRIOR, strict=True))
        return nats_of(weights.model * model + weights.counts * counts, targets) + mixing.PRIOR_TOKENS / 2 * away

    best = cost(fit_weights(model, counts, targets))
    grid = np.linspace(-0.5, 3, 15)
    assert best <= min(cost(Weights(own, other)) for own in grid for other in grid) + 0.05


def test_each_is_believed_as_far_as_it_knows_more() -> None:
    random = torch.Generator().manual_seed(1)
    truth = torch.randn(4000, 12, generator=random) * 2
    targets = torch.multinomial(truth.softmax(1), 1, generator=random)[:, 0]
    noise = torch.randn(4000, 12, generator=random)
    alone = fit_weights(truth, noise, targets)
    assert alone.model == pytest.approx(1, abs=0.1) and alone.counts == pytest.approx(0, abs=0.1)
    halves = fit_weights(truth - noise, truth + noise, targets)  # each errs where the other does, the other way
    assert halves.model == pytest.approx(0.5, abs=0.05) and halves.counts == pytest.approx(0.5, abs=0.05)
    twins = fit_weights(truth, truth, targets)  # which of both is open: the prior says
    assert sum(twins) == pytest.approx(1, abs=0.1) and twins.model > twins.counts


def test_a_token_that_the_model_finds_impossible_costs_no_fortune() -> None:
    model = build(np.array([BOS, 3, 4, 3]), np.array([0]), 8)
    contexts = model.contexts([np.array([3])])
    own = torch.full((1, 8), -1e30)
    own[0, 5] = 1e30
    mixed = mixed_logits(own, model, contexts, Weights(0.5, 0.5))
    cost = token_nats(mixed, np.array([3]))[0]
    assert mixing.FARTHEST / 2 - 3 < cost < mixing.FARTHEST / 2 + 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.floats(-1, 3), st.floats(-1, 3))
def test_the_mixture_sums_to_one_whatever_is_answered(seed: int, own: float, other: float) -> None:
    random = np.random.default_rng(seed)
    document = random.integers(3, 8, 12)
    model = build(np.append(BOS, document), np.array([0]), 8)
    logits = torch.from_numpy(random.normal(0, 10 ** random.uniform(-2, 3), (12, 8)).astype(np.float32))
    mixed = mixed_logits(logits, model, model.contexts([document]), Weights(own, other))
    costs = [token_nats(mixed, np.full(12, token)) for token in range(8)]
    np.testing.assert_allclose(np.exp(-np.stack(costs)).sum(0), 1, rtol=1e-5)


def test_mix_is_sampled_from_many_documents_first() -> None:
    long = [HeldDocument(Document(f"long {n}", f"line {n} of it\n" * 3000, f"g{n}"), {}) for n in range(20)]
    chosen = mix_sample(long)
    sizes = [len(held.document.text.encode()) for held in chosen]
    assert mixing.SAMPLE_BYTES <= sum(sizes) < mixing.SAMPLE_BYTES + max(sizes)
    assert len({held.document.id for held in chosen}) == len(chosen)
    assert mix_sample(long) == mix_sample(long[::-1])
    assert len(mix_sample(long[:1])) == 3  # one document alone gives all of it: segments of at most 16 kB


@pytest.fixture
def trained_folder(tiny_data: PreparedData, tmp_path: Path) -> Path:
    """A checkpoint that knows how often a token of train follows another one."""
    manifest = tiny_data.manifest
    tokens = np.fromfile(tiny_data.folder / "train.tokens", manifest.token_dtype).astype(np.int64)
    counts = np.zeros((manifest.vocab_size, manifest.vocab_size), np.float32)
    np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.py").write_text(TABLE_PY, encoding="utf-8")
    config = {"vocab_size": manifest.vocab_size, "context": 32}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({"table": torch.from_numpy(np.log(counts + 0.1))}, str(folder / "model.safetensors"))
    return folder


class Slope:
    """A source that finds every token a little likelier than the one before it in the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def rows_per_request(self, length: int) -> int:
        return 4

    def logits(self, ids: np.ndarray, positions: list[tuple[int, int]]) -> torch.Tensor:  # type: ignore[type-arg]
        return (torch.arange(self.vocab_size) / self.vocab_size).expand(
            sum(end - start for start, end in positions), self.vocab_size
        )


@pytest.fixture(scope="module")
def mixing_executor(tiny_data: PreparedData) -> Iterator[LocalExecutor]:
    with LocalExecutor(toy_machine(), tiny_data, mixture="ngram") as shared:
        yield shared


@pytest.fixture
def mixer(tiny_data: PreparedData, executor: LocalExecutor) -> Mixer:
    return Mixer(tiny_data, executor.tokenizer)


def test_generation_and_score_mix_the_same_probabilities(tiny_data: PreparedData, mixer: Mixer) -> None:
    size = tiny_data.manifest.vocab_size
    weights = Weights(0.8, 0.4)
    _, ids = mixer.sample[0]
    ids = list(ids)[:40]
    source = MixedSource(Slope(size), mixer.counts, weights)  # type: ignore[arg-type]
    window = np.array([[BOS, *ids[:-1]]], np.int32)
    found = source.logits(window, [(0, len(ids))])
    mixture = Mixture(weights, mixer.counts, mixer.contexts([(1, ids[:3]), (0, ids)]))
    scored = mixture.logits(Slope(size).logits(window, [(0, len(ids))]), 3)
    assert torch.equal(found, scored)
    counted = torch.from_numpy(mixer.counts.probabilities(mixer.contexts([(0, ids)])))
    by_hand = (torch.arange(size) / size).softmax(0) ** 0.8 * counted**0.4
    assert torch.allclose(scored.softmax(1), by_hand / by_hand.sum(1, keepdim=True), rtol=1e-3)
    assert source.vocab_size == size and source.rows_per_request(5) == 4


class Table(Slope):
    """A client of a model that has learned by chance what follows a token."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.table = torch.randn(vocab_size, vocab_size, generator=torch.Generator().manual_seed(0))

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, requests: Iterable[tuple[np.ndarray, list[tuple[int, int]]]]) -> Iterator[torch.Tensor]:  # type: ignore[type-arg]
        for ids, positions in requests:
            shown = [row[start:end] for row, (start, end) in zip(ids, positions, strict=True)]
            yield self.table[torch.from_numpy(np.concatenate(shown)).long()]


@pytest.mark.parametrize("most", [50, 700, 10**6])
def test_weights_are_fitted_on_tokens_evenly_over_the_sample(
    mixer: Mixer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    client = Table(mixer.counts.vocab_size)
    monkeypatch.setattr(mixing, "LEAST_TOKENS", 1)
    monkeypatch.setattr(mixing, "MOST_LOGITS", most * client.vocab_size)
    found = mixer.fit_candidate(lambda: client, 32)  # type: ignore[arg-type, return-value]
    before = torch.tensor([token for _, ids in mixer.sample for token in [BOS, *ids[:-1]]])
    targets = torch.tensor([token for _, ids in mixer.sample for token in ids])
    counted = torch.from_numpy(mixer.counts.probabilities(mixer.contexts(mixer.sample))).log()
    stride = math.ceil(len(targets) / most)
    assert len(targets) > 700 and (stride == 1) == (most == 10**6)
    expected = fit_weights(client.table[before][::stride], counted[::stride], targets[::stride])
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_mixed_score_stands_beside_the_models_own(
    tiny_data: PreparedData, executor: LocalExecutor, mixing_executor: LocalExecutor, trained_folder: Path
) -> None:
    alone = executor.score(trained_folder, "dev", 64)
    assert alone.objective is None
    score = mixing_executor.score(trained_folder, "dev", 64)
    hidden = mixing_executor.score(trained_folder, "hidden", 64)
    assert score.bits_per_byte == pytest.approx(alone.bits_per_byte, rel=1e-5)
    assert score.objective is not None and hidden.objective is not None
    assert score.objective.unit == BITS_WITH_NGRAM and score.judged == score.objective.value
    assert score.judged < min(score.bits_per_byte, tiny_data.manifest.floors["ngram (tokens)"] + 1e-3)
    assert score.judged_groups != score.groups
    assert [(g.group, g.byte_count) for g in score.judged_groups] == [(g.group, g.byte_count) for g in score.groups]
    total = math.fsum(group.nats for group in score.judged_groups) / math.log(2) / score.byte_count
    assert total == pytest.approx(score.judged)


def test_weights_are_fitted_once_for_a_checkpoint_by_a_process_of_its_own(
    mixing_executor: LocalExecutor, trained_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = mixing_executor
    monkeypatch.setattr(executor, "_weights", None)
    opened: list[str] = []
    client, fit = executor.client, Mixer.fit_candidate

    def counted(*args: object, **kwargs: object) -> object:
        opened.append("client")
        return client(*args, **kwargs)  # type: ignore[arg-type]

    def fitted(*args: object) -> object:
        opened.append("fit")
        return fit(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(executor, "client", counted)
    monkeypatch.setattr(Mixer, "fit_candidate", fitted)
    executor.score(trained_folder, "dev", 64)
    assert opened == ["fit", "client", "client", "client"]  # mix, dev, probes: three processes
    executor.score(trained_folder, "hidden", 64)
    assert opened[4:] == ["client", "client"]
    config = trained_folder / "config.json"
    config.write_text(config.read_text() + " ", encoding="utf-8")  # another checkpoint, as far as anybody can tell
    executor.score(trained_folder, "dev", 64)
    assert opened[6:] == ["fit", "client", "client", "client"]


def test_looks_and_samples_mix_as_scores_do(
    executor: LocalExecutor, mixing_executor: LocalExecutor, trained_folder: Path
) -> None:
    mixed, alone = (preview_score(one, trained_folder, 64) for one in (mixing_executor, executor))
    assert mixed is not None and alone is not None and mixed < alone
    texts = []
    for one in (mixing_executor, executor):
        with one.writer(trained_folder, 32) as source:
            assert isinstance(source, MixedSource) == one.mixes
            texts += [generate_text(source, one.tokenizer, "", 32, 20, 0.0) for _ in range(2)]
    assert texts[0] == texts[1] != texts[2] == texts[3]


def test_a_checkpoint_that_lost_a_file_is_invalid_and_no_accident(
    mixing_executor: LocalExecutor, trained_folder: Path
) -> None:
    (trained_folder / "model.safetensors").unlink()
    with pytest.raises(InvalidCheckpointError, match="cannot be read: No such file"):
        mixing_executor.score(trained_folder, "dev", 64)
    (trained_folder / "model.safetensors").mkdir()
    with (
        pytest.raises(InvalidCheckpointError, match=r"model\.safetensors is not a regular file"),
        mixing_executor.writer(trained_folder, 32),
    ):
        pass


def test_mix_documents_reach_no_candidate_but_as_windows_of_ids(tiny_data: PreparedData, mixer: Mixer) -> None:
    """What is asked of a candidate for the weights are the windows of text of mix, and nothing that is scored."""
    mix = {held.document.text for held in read_split(tiny_data.held_folder, "mix")}
    dev = {held.document.text for held in read_split(tiny_data.held_folder, "dev")}
    sampled = {held.document.text for held in mix_sample(tuple(read_split(tiny_data.held_folder, "mix")))}
    assert sampled and sampled <= mix and not sampled & dev


def test_too_little_text_to_fit_on_is_told_with_the_lines_to_change(tiny_data: PreparedData) -> None:
    splits = tiny_data.manifest.splits
    small = replace(splits["mix"], byte_count=100)
    data = replace(tiny_data, manifest=replace(tiny_data.manifest, splits={**splits, "mix": small}))
    with pytest.raises(RecipeError) as caught:
        LocalExecutor(toy_machine(), data, mixture="ngram")
    assert "holds 100 bytes" in caught.value.message
    assert "mix_percent" in caught.value.hint and 'mixture = "none"' in caught.value.hint


def test_a_sample_of_mix_is_encoded_as_documents_are(executor: LocalExecutor, mixer: Mixer) -> None:
    documents = mix_sample(tuple(read_split(executor.data.held_folder, "mix")))
    assert [list(ids) for _, ids in mixer.sample] == [
        list(ids) for _, ids in encode_documents(executor.tokenizer, documents)
    ]
