"""The train.py that every workspace starts from: it can be edited, imported, sized, and it learns."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slm_ar.core.agent.edits import MAX_BYTES, MAX_LINES, check_train_py, parse_knobs, set_knobs
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.prepare.shards import TOKENS_FILE
from slm_ar.core.train.executor import LocalExecutor
from slm_ar.core.train.replicas import Replicas
from slm_ar.core.train.token_features import token_features
from slm_ar.core.train.training_run import TrainJob

PATH = Path(__file__).parents[2] / "program_templates" / "train.py"
TEXT = PATH.read_text(encoding="utf-8")


@pytest.fixture
def template() -> Iterator[ModuleType]:
    """A fresh copy of the template as a module, whose knobs a test may set."""
    specification = importlib.util.spec_from_file_location("train_template_copy", PATH)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules[specification.name]


def small(template: ModuleType, **knobs: Any) -> Any:
    for name, value in ({"TARGET_PARAMS_M": 0.05, "CONTEXT": 64, "HEAD_DIM": 16} | knobs).items():
        setattr(template, name, value)
    return template.choose_config(320)


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class FakeRun:
    """As much of a run as the template's functions ask for."""

    precision = torch.float32
    device = torch.device("cpu")
    vocab_size = 320

    def generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(len(name))

    token_features = torch.from_numpy(token_features([f" {number}" for number in range(320)]))


def test_the_template_passes_its_own_check_and_leaves_room_to_grow() -> None:
    check_train_py(TEXT)
    assert len(TEXT.splitlines()) < 0.7 * MAX_LINES
    assert len(TEXT.encode()) < 0.7 * MAX_BYTES


def test_every_knob_comment_is_a_knob_and_can_be_moved() -> None:
    knobs = {knob.name: knob for knob in parse_knobs(TEXT)}
    assert len(knobs) == TEXT.count("# knob:") - TEXT.count("`# knob:`")
    assert {"TARGET_PARAMS_M", "CONTEXT", "BATCH_TOKENS", "MATRIX_LR"} <= set(knobs)
    for knob in knobs.values():
        other = knob.choices[0] if knob.kind == "choice" else knob.low
        assert other is not None
        moved = {item.name: item.value for item in parse_knobs(set_knobs(TEXT, {knob.name: other}))}
        assert moved[knob.name] == other


def test_importing_it_does_nothing_else(capsys: pytest.CaptureFixture[str], template: ModuleType) -> None:
    assert torch.get_default_dtype() is torch.float32
    assert capsys.readouterr() == ("", "")
    assert callable(template.build_model)


@pytest.mark.parametrize("vocab_size", [1024, 2048, 8192])
@pytest.mark.parametrize("target", [0.6, 2.0, 10.0, 80.0])
@pytest.mark.parametrize("tied", [0, 1])
def test_the_model_has_about_the_size_that_was_asked_for(
    template: ModuleType, vocab_size: int, target: float, tied: int
) -> None:
    template.TARGET_PARAMS_M, template.TIED_HEAD = target, tied
    config = template.choose_config(vocab_size)
    with torch.device("meta"):
        model = template.Model(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    embedding = vocab_size * template.HEAD_DIM * (1 if tied else 2)
    if target * 1e6 > 4 * embedding:  # else one head more or less of width is too coarse a step
        assert abs(count / (target * 1e6) - 1) < 0.25, (config, count)


def test_a_target_below_the_smallest_model_gives_the_smallest_model(template: ModuleType) -> None:
    template.TARGET_PARAMS_M = 0.05
    config = template.choose_config(8192)
    assert (config.layers, config.width, config.head_dim) == (1, 32, 32)


@pytest.mark.parametrize("target", [0.05, 0.2, 0.35, 0.7, 1.5, 11.5])
@pytest.mark.parametrize("head_dim", [16, 32, 64, 128])
def test_heads_are_as_wide_as_asked_or_as_the_width_allows(template: ModuleType, target: float, head_dim: int) -> None:
    template.TARGET_PARAMS_M, template.HEAD_DIM = target, head_dim
    config = template.choose_config(2048)
    assert config.width % config.head_dim == config.head_dim % 2 == 0
    assert min(head_dim, 32) <= config.head_dim <= head_dim
    if config.width > 256:
        assert config.head_dim == head_dim


@pytest.mark.parametrize("target", [0.1, 0.44, 0.7, 1.5, 11.5])
def test_halving_the_heads_makes_another_model(template: ModuleType, target: float) -> None:
    template.TARGET_PARAMS_M = target
    found = []
    for template.HEAD_DIM in (64, 32, 16):
        found.append(template.choose_config(2048).head_dim)
    assert found == ([32, 32, 16] if target == 0.1 else sorted(set(found), reverse=True)), "32 wide has no wider heads"
    assert found[1:] == [32, 16]


def test_later_tokens_do_not_change_earlier_logits(template: ModuleType) -> None:
    torch.manual_seed(0)
    model = template.build_model(vars(small(template))).eval()
    ids = torch.randint(320, (2, 40))
    changed = ids.clone()
    changed[:, 25:] = torch.randint(320, (2, 15))
    with torch.no_grad():
        before, after = model(ids), model(changed)
    assert torch.allclose(before[:, :25], after[:, :25], atol=1e-5)
    assert not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-3)


def test_the_best_form_adds_a_share_of_the_token_before(template: ModuleType) -> None:
    plain = template.build_model(vars(small(template)))
    best = template.build_model(vars(replace(small(template), smear=True)))
    template.initialise(plain, FakeRun())
    template.initialise(best, FakeRun())
    assert set(best.state_dict()) - set(plain.state_dict()) == {"smear"}
    ids = torch.randint(320, (2, 20))
    with torch.no_grad():
        assert torch.equal(plain(ids), best(ids)), "it begins as the plain model"
        embedded = best.embed_tokens(ids)
        best.smear.fill_(0.5)
        shifted = torch.cat([embedded[:, :1], embedded[:, 1:] + 0.5 * embedded[:, :-1]], 1)
        cos, sin = template.rotation(20, best.config, ids.device)
        for layer in best.layers:
            shifted = layer(shifted, cos, sin)
        assert torch.allclose(best(ids), best.lm_head(best.norm(shifted)), atol=1e-6)


@pytest.mark.parametrize(("form", "has_smear"), [("portable", False), ("best", True)])
def test_the_form_of_the_recipe_decides_what_is_built(template: ModuleType, form: str, has_smear: bool) -> None:
    assert template.choose_config(320, form).smear is has_smear


def test_rows_of_a_batch_do_not_see_each_other(template: ModuleType) -> None:
    torch.manual_seed(0)
    model = template.build_model(vars(small(template))).eval()
    ids = torch.randint(320, (3, 20))
    with torch.no_grad():
        together, alone = model(ids), torch.cat([model(row[None]) for row in ids])
    assert torch.allclose(together, alone, atol=1e-5)


def test_position_matters_and_any_length_up_to_the_context_works(template: ModuleType) -> None:
    torch.manual_seed(0)
    model = template.build_model(vars(small(template))).eval()
    with torch.no_grad():
        for length in (1, 7, 64):
            assert model(torch.zeros(1, length, dtype=torch.long)).shape == (1, length, 320)
        forward, swapped = model(torch.tensor([[5, 9, 7]])), model(torch.tensor([[9, 5, 7]]))
    assert not torch.allclose(forward[0, 2], swapped[0, 2], atol=1e-4)


@pytest.mark.parametrize("knobs", [{}, {"TIED_HEAD": 1}, {"MLP_RATIO": 1.0}, {"TARGET_PARAMS_M": 0.2}])
def test_the_loss_falls_within_thirty_steps(template: ModuleType, tiny_data: PreparedData, knobs: Any) -> None:
    tokens = torch.from_numpy(np.fromfile(tiny_data.folder / TOKENS_FILE, np.uint16).astype(np.int64))
    config = small(template, **knobs)
    model = template.Model(config)
    template.initialise(model, FakeRun())
    optimizers = template.make_optimizers(model, FakeRun())
    losses = []
    for step in range(30):
        starts = torch.arange(8) * 64 + step * 512
        rows = torch.stack([tokens[start : start + 65] for start in starts])
        batch = template.runtime.Batch(rows[:, :-1], rows[:, 1:], step / 30)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())))
        template.train_step(replicas_of(template, model, 1), optimizers, batch, FakeRun(), 3)
    assert losses[0] == pytest.approx(np.log(320), abs=0.3)
    assert np.mean(losses[-5:]) < losses[0] - 1.0


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [0, 1])
def test_the_gradients_are_those_of_the_mean_cross_entropy_of_what_is_scored(
    template: ModuleType, tied: int, precision: torch.dtype
) -> None:
    torch.manual_seed(1)
    run = FakeRun()
    run.precision = precision
    model = template.Model(small(template, TIED_HEAD=tied))
    ids = torch.randint(320, (7, 65))  # 448 tokens: the head reads them in two unequal parts
    template.backward(model, template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.3, 0.25), run)
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
        logits = model(ids[:, :-1])
    (0.25 * F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())).backward()
    for mine, parameter in zip(found, model.parameters(), strict=True):
        assert mine is not None and parameter.grad is not None
        assert mine.dtype == torch.float32
        error = (mine - parameter.grad).norm() / parameter.grad.norm()
        assert error < (1e-5 if precision == torch.float32 else 0.02)


def test_positions_turn_queries_and_keys_as_rope_says(template: ModuleType) -> None:
    torch.manual_seed(1)
    x = torch.randn(1, 1, 9, 16)
    turned = template.ops.rotate(x, *template.rotation(9, small(template), x.device))
    for place in range(9):
        for pair in range(8):
            angle = torch.tensor(place * 10_000.0 ** (-2 * pair / 16))
            first, second = x[0, 0, place, pair], x[0, 0, place, pair + 8]
            assert turned[0, 0, place, pair] == pytest.approx(
                float(first * angle.cos() - second * angle.sin()), abs=1e-5
            )
            assert turned[0, 0, place, pair + 8] == pytest.approx(
                float(second * angle.cos() + first * angle.sin()), abs=1e-5
            )


def test_noise_begins_with_the_second_of_many_readings_and_leaves_the_targets_alone(template: ModuleType) -> None:
    torch.manual_seed(1)
    ids = torch.full((40, 65), 7)
    batch = template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.2, 0.5, 1.0)
    for clean in (replace(batch, epoch=0.99, progress=0.01), replace(batch, epoch=2.0, progress=0.5)):
        assert template.noisy(clean, 320) is clean
    found = template.noisy(batch, 320)
    assert (found.progress, found.weight, found.epoch) == (0.2, 0.5, 1.0)
    assert found.targets is batch.targets
    assert (found.inputs != 7).float().mean() == pytest.approx(template.NOISE, abs=0.02)
    many = template.noisy(replace(batch, epoch=1.6), 320)  # eight readings
    assert (many.inputs != 7).float().mean() == pytest.approx(template.NOISE, abs=0.02)
    less = template.noisy(replace(batch, epoch=1.8, progress=0.4), 320)  # 4.5 readings
    assert (less.inputs != 7).float().mean() == pytest.approx(template.NOISE / 2, abs=0.015)
    assert found.inputs.unique().numel() > 150 and int(found.inputs.max()) < 320
    template.NOISE = 0.0
    assert template.noisy(batch, 320) is batch


def test_a_step_trains_on_what_noise_left(template: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(template, "backward", lambda model, part, run: seen.append(part.inputs))
    ids = torch.full((4, 65), 7)
    model = template.Model(small(template))
    for epoch in (0.0, 1.5):
        batch = template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.3, epoch=epoch)
        template.train_step(replicas_of(template, model, 1), [], batch, FakeRun(), 4)
    assert bool((seen[0] == 7).all()) and bool((seen[1] != 7).any())


def replicas_of(template: ModuleType, model: torch.nn.Module, count: int) -> Replicas:
    return Replicas(model, count, count, lambda replica, part: template.backward(replica, part, FakeRun()))


@pytest.mark.parametrize(("rows", "count"), [(3, 1), (8, 2), (3, 2), (8, 3)])
@pytest.mark.usefixtures("threads_as_before")
def test_a_batch_in_parts_or_on_several_threads_is_the_same_update(template: ModuleType, rows: int, count: int) -> None:
    torch.manual_seed(1)
    ids = torch.randint(320, (8, 65))
    batch = template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.3)
    models = []
    for at_once, threads in ((8, 1), (rows, count)):
        model = template.Model(small(template))
        replicas = replicas_of(template, model, threads)
        template.initialise(model, FakeRun())
        optimizers = template.make_optimizers(model, FakeRun())
        for _ in range(2):
            template.train_step(replicas, optimizers, batch, FakeRun(), at_once)
        models.append(model)
    for whole, parted in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(whole, parted, atol=2e-4)


def test_warming_up_leaves_nothing_behind_and_finds_how_many_rows_fit(template: ModuleType) -> None:
    tried: list[int] = []

    class Small(FakeRun):
        budget_seconds = 300.0

        def fit_rows(self, step: Any, batch_tokens: int, context: int) -> int:
            assert (batch_tokens, context) == (template.BATCH_TOKENS, template.CONTEXT)
            ids = torch.randint(320, (4, 65))
            step(template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.0))
            tried.append(len(ids))
            return 2

    config = small(template)
    model, fresh = template.Model(config), template.Model(config)
    optimizers = template.make_optimizers(model, Small())
    template.initialise(model, Small())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    assert template.warm_up(replicas_of(template, model, 1), optimizers, Small()) == 2
    assert tried == [4]
    assert any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)), "a whole step is paid"
    template.initialise(model, Small())
    template.initialise(fresh, Small())
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), fresh.parameters(), strict=True))
    assert not any(optimizer.state for optimizer in optimizers)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("tied", [0, 1])
def test_tables_move_as_if_the_features_of_tokens_had_weights_of_their_own(template: ModuleType, tied: int) -> None:
    """Beside a model whose tables are written as table + features @ shared, trained by AdamW."""
    torch.manual_seed(1)
    run, steps = FakeRun(), 4
    model = template.Model(small(template, TIED_HEAD=tied))
    template.initialise(model, run)
    optimizers = template.make_optimizers(model, run)
    tables = [model.embed_tokens.weight, model.lm_head.weight][: 2 - tied]
    features = run.token_features
    written = [torch.nn.Parameter(table.detach().clone()) for table in tables]
    shared = [torch.nn.Parameter(torch.zeros(features.shape[1], table.shape[1])) for table in tables]
    adam = torch.optim.AdamW([*written, *shared], lr=0.01, betas=(0.85, 0.97), eps=1e-10, weight_decay=0.0)
    wanted = torch.randn(steps, 320, tables[0].shape[1])
    for step in range(steps):
        for optimizer in (optimizers[-1], adam):
            optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        sum((table * wanted[step]).pow(2).sum() for table in tables).backward()
        sums = [one + features @ other for one, other in zip(written, shared, strict=True)]
        sum((table * wanted[step]).pow(2).sum() for table in sums).backward()
        optimizers[-1].step()
        adam.step()
    for table, one, other in zip(tables, written, shared, strict=True):
        assert other.abs().max() > 0.01, "what is shared has moved"
        assert torch.allclose(table, one + features @ other, atol=1e-4)


def test_nothing_of_an_earlier_step_is_left_in_what_is_shared(template: ModuleType) -> None:
    model = template.Model(small(template))
    template.initialise(model, FakeRun())
    adam = template.make_optimizers(model, FakeRun())[-1]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _, shared in adam.pairs:
        shared.data.fill_(torch.nan)
    adam.step()
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("edit", ["padded", "frozen"])
def test_tables_of_which_nothing_is_known_or_that_do_not_learn_are_left_alone(template: ModuleType, edit: str) -> None:
    model = template.Model(small(template) if edit == "frozen" else replace(small(template), vocab_size=384))
    template.initialise(model, FakeRun())
    table = model.embed_tokens.weight
    table.requires_grad_(edit == "padded")
    before = table.detach().clone()
    optimizers = template.make_optimizers(model, FakeRun())
    ids = torch.randint(320, (4, 65))
    batch = template.runtime.Batch(ids[:, :-1], ids[:, 1:], 0.3)
    template.train_step(replicas_of(template, model, 1), optimizers, batch, FakeRun(), 4)
    assert torch.equal(before, table) == (edit == "frozen")
    assert len(optimizers[-1].pairs) == (edit == "frozen")


def test_near_numbers_start_alike(template: ModuleType) -> None:
    model = template.Model(small(template))
    template.initialise(model, FakeRun())
    rows = model.embed_tokens.weight.detach()[100:200]
    near = F.cosine_similarity(rows[:-1], rows[1:]).mean()
    assert near > F.cosine_similarity(rows[:50], rows[50:]).mean() + 0.1


def test_equal_names_start_alike_in_models_of_another_depth(template: ModuleType) -> None:
    shallow = template.Config(320, 64, 1, 32, 16, 64, False)
    deep = template.Config(320, 64, 3, 32, 16, 64, False)
    models = [template.Model(shallow), template.Model(deep)]
    for model in models:
        template.initialise(model, FakeRun())
    assert torch.equal(models[0].embed_tokens.weight, models[1].embed_tokens.weight)
    assert torch.equal(models[0].layers[0].mlp.up_proj.weight, models[1].layers[0].mlp.up_proj.weight)
    norms = [parameter for parameter in models[0].parameters() if parameter.dim() < 2]
    assert norms and all(bool((parameter == 1).all()) for parameter in norms)


def test_the_schedule_rises_stays_and_falls(template: ModuleType) -> None:
    template.WARMUP, template.COOLDOWN = 0.1, 0.4
    shares = [template.schedule(step / 100) for step in range(100)]
    assert 0 < shares[0] < 0.1
    assert shares[:10] == sorted(shares[:10])
    assert set(shares[10:60]) == {1.0}
    assert shares[60:] == sorted(shares[60:], reverse=True)
    assert shares[-1] < 0.05


def test_orthogonal_updates_have_singular_values_near_one(template: ModuleType) -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 48), (2, 48, 16), (1, 32, 32)):
        values = torch.linalg.svdvals(template.orthogonal(torch.randn(shape), torch.float32))
        assert float(values.min()) > 0.3
        assert float(values.max()) < 1.4


def test_the_harness_trains_saves_and_scores_it(executor: LocalExecutor, tmp_path: Path) -> None:
    text = set_knobs(TEXT, {"TARGET_PARAMS_M": 0.05, "HEAD_DIM": 16, "CONTEXT": 64, "BATCH_TOKENS": 512})
    scores = []
    for steps in (1, 25):
        run = executor.submit(TrainJob(text, 0, None, steps, 60, 4000), tmp_path / "run")
        while (outcome := run.poll()) is None:
            pass
        assert (outcome.status, outcome.reason) == (None, "")
        scores.append(executor.score(tmp_path / "run", "dev", 64).bits_per_byte)
    assert scores[1] < 0.85 * scores[0]
