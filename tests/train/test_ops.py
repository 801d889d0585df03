"""Compiled forward and backward passes beside what torch and autograd make of the plain expressions."""

from __future__ import annotations

import ctypes
import math
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.train import kernels, ops

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def test_a_probability_near_one_still_has_the_gradient_that_is_left() -> None:
    logits = torch.zeros(1, 320, dtype=torch.bfloat16)
    logits[0, 5] = 12.5  # a probability of 0.9988, which bfloat16 does not tell from one
    gradient = ops.cross_entropy_gradient(logits, torch.tensor([5]), 1.0)
    assert float(gradient[0, 5]) == pytest.approx(float(logits[0].float().softmax(-1)[5]) - 1, rel=0.01)
    assert float(gradient[0, 5]) < -0.001


def test_what_the_written_norm_does_not_know_is_torchs_own() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((3, 8), (8,)))
    out = ops.rms_norm(x, weight, 1e-6)
    out.sum().backward()
    assert torch.equal(out, F.rms_norm(x, (8,), weight, 1e-6)) and x.grad is not None


def near(mine: torch.Tensor | None, plain: torch.Tensor | None, dtype: torch.dtype) -> bool:
    assert mine is not None and plain is not None and mine.shape == plain.shape
    wrong, size = (mine.detach().double() - plain.double()).norm(), plain.detach().double().norm()
    return float(wrong.detach()) <= ROUNDING[dtype] * float(size) + 1e-6


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    width=st.integers(1, 40),
    scale=st.floats(1e-3, 1e3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    is_turned=st.booleans(),
)
def test_the_norm_is_that_of_torch_in_value_and_gradient(
    shape: list[int], width: int, scale: float, dtype: torch.dtype, is_turned: bool
) -> None:
    torch.manual_seed(0)
    x = (torch.randn(*shape, width) * scale).to(dtype)
    weight, upstream = torch.randn(width), torch.randn(*shape, width).to(dtype)
    if is_turned and len(shape) > 1:  # a gradient as it comes out of attention
        upstream = upstream.transpose(0, 1).contiguous().transpose(0, 1)
    inputs = [(x.clone().requires_grad_(), weight.clone().requires_grad_()) for _ in range(2)]
    mine = ops.rms_norm(*inputs[0], 1e-6)
    plain = F.rms_norm(inputs[1][0].float(), (width,), inputs[1][1], 1e-6)
    mine.backward(upstream)
    plain.backward(upstream.float())
    assert mine.dtype == dtype and inputs[0][0].grad is not None and inputs[0][0].grad.dtype == dtype
    assert near(mine, plain, dtype)
    # gradients are sums and differences of numbers of these sizes, and can be far smaller themselves
    rms = x.double().square().mean(-1, keepdim=True).add(1e-6).sqrt()
    by_weight = (upstream.double() * x.double() / rms).abs().flatten(0, -2).sum(0)
    by_x = (upstream.double() * weight).abs().amax(-1, keepdim=True) / rms
    for place, size in ((0, by_x), (1, by_weight)):
        found, wanted = inputs[0][place].grad, inputs[1][place].grad
        assert found is not None and wanted is not None
        assert bool(((found.double() - wanted.double()).abs() <= 6 * ROUNDING[dtype] * size + 1e-6).all())


def test_under_autocast_what_it_gives_is_rounded_and_its_gradients_are_not() -> None:
    x, weight = torch.randn(3, 8).requires_grad_(), torch.ones(8).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.rms_norm(x, weight, 1e-6)
    out.backward(torch.randn_like(out))
    assert out.dtype == torch.bfloat16
    assert x.grad is not None and weight.grad is not None
    assert x.grad.dtype == weight.grad.dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_scoring_computes_what_training_did(mode: Callable[[], AbstractContextManager[None]]) -> None:
    torch.manual_seed(0)
    weight, (cos, sin) = torch.rand(8) + 0.5, torch.randn(2, 6, 8)
    x, other, third = (torch.randn(2, 3, 6, 8) for _ in range(3))
    pieces: list[Callable[[], torch.Tensor]] = [
        lambda: ops.rms_norm(x, weight, 1e-6),
        lambda: ops.rotate(x, cos, sin),
        lambda: ops.attend(x, other, third),
        lambda: ops.attend(x, other, third, 2),
        lambda: ops.swiglu(x, other),
    ]
    for one in (weight, x, other, third):
        one.requires_grad_()
    for rounded in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            trained = [piece() for piece in pieces]
            with mode():
                scored = [piece() for piece in pieces]
        assert all(one.requires_grad and not other.requires_grad for one, other in zip(trained, scored, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(trained, scored, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_and_its_gradient_are_those_of_autograd(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    angles = torch.rand(6, 1, 4) * 7
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    x, upstream = torch.randn(2, 6, 3, 8).to(dtype), torch.randn(2, 3, 6, 8).to(dtype).transpose(1, 2)
    mine, plain = x.clone().requires_grad_(), x.float().requires_grad_()
    ops.rotate(mine, cos, sin).backward(upstream)
    (plain * cos + plain.roll(4, -1) * sin).backward(upstream.float())
    assert near(mine.grad, plain.grad, dtype)
    with torch.no_grad():
        assert near(ops.rotate(x, cos, sin).norm(dim=-1), x.norm(dim=-1), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_inside", [False, True])
def test_the_gradient_of_the_cross_entropy_is_that_of_autograd(dtype: torch.dtype, is_inside: bool) -> None:
    torch.manual_seed(0)
    logits, targets = (torch.randn(7, 30) * 3).to(dtype).requires_grad_(), torch.randint(30, (7,))
    with torch.autocast("cpu", torch.bfloat16) if is_inside else nullcontext():
        mine = ops.cross_entropy_gradient(logits, targets, 0.25)
    (0.25 * F.cross_entropy(logits.float(), targets, reduction="sum")).backward()
    assert mine.dtype == dtype and not mine.requires_grad
    assert near(mine, logits.grad, dtype)


def plainly(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernels, "is_built", lambda: False)


Piece = Callable[..., torch.Tensor]


def compared(piece: Piece, inputs: list[torch.Tensor], patch: pytest.MonkeyPatch) -> None:
    """Values and gradients of the compiled piece beside the plain one in float32."""
    if not kernels.is_built() and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    dtype = inputs[0].dtype
    mine = [one.clone().requires_grad_() for one in inputs]
    plain = [one.float().requires_grad_() for one in inputs]
    found = piece(*mine)
    assert type(found.grad_fn).__name__ in ("_AttendBackward", "_RotateBackward", "_SwigluBackward")
    upstream = torch.randn_like(found)
    found.backward(upstream)
    with patch.context() as context:
        plainly(context)
        wanted = piece(*plain)
        wanted.backward(upstream.float())
    assert found.dtype == dtype and near(found, wanted, dtype)
    for one, other in zip(mine, plain, strict=True):
        assert one.grad is not None and one.grad.dtype == dtype and near(one.grad, other.grad, dtype)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_kernels_are_built_here() -> None:
    assert kernels.is_built(), "run `make install`"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("length", "head_dim", "window"), [(1, 2, None), (7, 3, None), (40, 16, 9), (33, 8, 1), (64, 64, 99)]
)
def test_attention_is_that_of_torch(
    dtype: torch.dtype, length: int, head_dim: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, length, head_dim).to(dtype) for _ in range(3)]
    inputs[2] = inputs[2].transpose(1, 2).contiguous().transpose(1, 2)
    compared(lambda q, k, v: ops.attend(q, k, v, window), inputs, monkeypatch)
    if window is None:
        wanted = F.scaled_dot_product_attention(*(one.float() for one in inputs), is_causal=True)
        assert near(ops.attend(*(one.clone().requires_grad_() for one in inputs)), wanted, dtype)


def test_attention_sees_nothing_that_comes_later_and_its_gradient_neither() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, 8).requires_grad_() for _ in range(3))
    before = ops.attend(q, k, v).detach().clone()
    with torch.no_grad():
        k[:, :, 12:] += 3
        v[:, :, 12:] -= 3
    after = ops.attend(q, k, v)
    assert torch.equal(before[:, :, :12], after[:, :, :12]) and not torch.equal(before[:, :, 12:], after[:, :, 12:])
    (by_v,) = torch.autograd.grad(after[:, :, :12].sum(), v)
    assert not by_v[:, :, 12:].any() and bool(by_v[:, :, :12].any())


@pytest.mark.skipif(not kernels.is_built(), reason="torch's own adds a mask to the scores")
@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_what_comes_later_may_be_no_number_at_all(nonsense: float) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, 8).requires_grad_() for _ in range(3))
    before = ops.attend(q, k, v).detach().clone()
    with torch.no_grad():
        k[:, :, 12:] = nonsense
    after = ops.attend(q, k, v)
    assert torch.equal(before[:, :, :12], after[:, :, :12])


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ops.attend(*torch.randn(3, 1, 1, 4, 2).unbind(0), window=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (2, 5, 17), (1025,), (4, 1024), (0, 4)])
def test_swiglu_is_that_of_torch(dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    inputs = [(torch.randn(shape) * 4).to(dtype) for _ in range(2)]
    if inputs[0].numel():
        compared(ops.swiglu, inputs, monkeypatch)
    plain = F.silu(inputs[0].float()) * inputs[1].float()
    assert near(ops.swiglu(*(one.clone().requires_grad_() for one in inputs)), plain, dtype)


@pytest.mark.parametrize("x", [-1000.0, -88.5, -87.0, -0.0, 1e-3, 87.0, 88.5, 1000.0, math.inf, -math.inf, math.nan])
def test_the_exponential_holds_from_end_to_end(x: float) -> None:
    gate, up = torch.full((5,), x).requires_grad_(), torch.ones(5).requires_grad_()
    out = ops.swiglu(gate, up)
    out.sum().backward()
    plain = F.silu(torch.tensor(x))
    assert torch.allclose(out.detach(), plain.expand(5), rtol=1e-5, atol=1e-30, equal_nan=True) or x == -math.inf
    assert up.grad is not None and torch.equal(up.grad.isnan(), out.isnan())


def test_what_is_not_finite_stays_so() -> None:
    for bad in (math.nan, math.inf):
        x = torch.randn(4, 64, dtype=torch.bfloat16)
        x[2, 5] = bad
        norm = ops.rms_norm(x.requires_grad_(), torch.ones(64).requires_grad_(), 1e-6)
        assert bool(norm[[0, 1, 3]].isfinite().all()) and bool(norm[2].isnan().any())
        gradient = ops.cross_entropy_gradient(x.detach(), torch.zeros(4, dtype=torch.int64), 1.0)
        assert bool(gradient[[0, 1, 3]].isfinite().all()) and bool(gradient[2].isnan().any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("order", ["as it is", "transposed", "cut out", "turned round", "two dimensions"])
def test_a_rotation_takes_every_order_in_memory(
    dtype: torch.dtype, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    angles = torch.rand(6, 4) * 7
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([-angles.sin(), angles.sin()], -1)
    x = torch.randn(2, 3, 6, 8).to(dtype)

    def ordered(x: torch.Tensor) -> torch.Tensor:
        if order == "transposed":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if order == "cut out":
            return torch.cat([x, x], -1)[..., :8]
        if order == "turned round":
            return x.mT.contiguous().mT
        return x[0, 0] if order == "two dimensions" else x

    compared(lambda x: ops.rotate(ordered(x), cos, sin), [x], monkeypatch)


@pytest.mark.parametrize("why", ["not built", "many threads", "float64", "a row too long"])
def test_what_the_kernels_cannot_take_is_torchs_own(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> None:
        raise AssertionError("a kernel was called")

    for name in kernels._ARGUMENTS:
        monkeypatch.setattr(kernels, name, called)
    dtype, width = torch.float64 if why == "float64" else torch.float32, 8
    if why == "not built":
        plainly(monkeypatch)
    elif why == "many threads":
        monkeypatch.setattr(kernels, "MOST_THREADS", 0)
    elif why == "a row too long":
        monkeypatch.setattr(kernels, "MOST", 7)
    x, y, z = (torch.randn(1, 2, 4, width, dtype=dtype).requires_grad_() for _ in range(3))
    cos = sin = torch.rand(4, width, dtype=dtype)
    results = (
        ops.rms_norm(x, torch.ones(width, dtype=dtype), 1e-6),
        ops.rotate(x, cos, sin),
        ops.swiglu(x, y),
        ops.attend(x, y, z),
        ops.cross_entropy_gradient(x.detach().flatten(0, 2), torch.zeros(8, dtype=torch.int64), 1.0),
    )
    assert all(bool(one.isfinite().all()) for one in results)


def test_shapes_that_do_not_belong_together_are_errors_as_in_torch() -> None:
    """A kernel would read and write beyond their ends."""
    x = torch.randn(2, 3, 16, 8).requires_grad_()
    with pytest.raises(RuntimeError):
        ops.rms_norm(x, torch.ones(4), 1e-6)
    for shape in ((8, 8), (16, 4), (3, 1, 16, 8)):
        angles = torch.rand(shape)
        with pytest.raises(RuntimeError):
            ops.rotate(x, angles, angles)
    few = ops.cross_entropy_gradient(torch.randn(6, 5), torch.zeros(3, dtype=torch.int64), 1.0)
    assert bool((few[:3].sum(-1).abs() < 1e-6).all()) and torch.allclose(few[3:].sum(-1), torch.ones(3))
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            ops.cross_entropy_gradient(torch.randn(2, 5), torch.tensor([0, wrong]), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_autocast_around_any_half_of_it_changes_no_more_than_the_rounding(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, 2, 16, 8).requires_grad_() for _ in range(3)]
    wanted = torch.autograd.grad(F.scaled_dot_product_attention(*inputs, is_causal=True).square().sum(), inputs)
    with torch.autocast("cpu", dtype):
        with torch.autocast("cpu", enabled=False):
            out = ops.attend(*inputs)
        found = torch.autograd.grad(out.square().sum(), inputs)  # backward where products are rounded
        rounded = ops.attend(*inputs)
        mixed = ops.attend(*(one.bfloat16() for one in inputs))
        norm = ops.rms_norm(inputs[0], torch.ones(8), 1e-6)
    assert all(near(one, other, torch.float32) for one, other in zip(found, wanted, strict=True))
    assert rounded.dtype == norm.dtype == dtype and mixed.dtype == torch.bfloat16
    assert near(rounded, out, torch.bfloat16) and near(mixed, out, torch.bfloat16)


def test_a_library_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Other:
        version = staticmethod(lambda: kernels.VERSION + 1)

    monkeypatch.setattr(ctypes, "CDLL", lambda path: Other())
    kernels.library.cache_clear()
    try:
        assert not kernels.is_built()
    finally:
        kernels.library.cache_clear()
