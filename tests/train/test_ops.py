"""Written-out backward passes beside what autograd makes of the plain expressions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.train import ops

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def test_a_probability_near_one_still_has_the_gradient_that_is_left() -> None:
    logits = torch.zeros(1, 320, dtype=torch.bfloat16)
    logits[0, 5] = 12.5  # a probability of 0.9988, which bfloat16 does not tell from one
    gradient = ops.cross_entropy_gradient(logits, torch.tensor([5]), 1.0)
    assert float(gradient[0, 5]) == pytest.approx(float(logits[0].float().softmax(-1)[5]) - 1, rel=0.01)
    assert float(gradient[0, 5]) < -0.001


@pytest.mark.parametrize("x", [torch.randn(8), torch.randn(3, 8, dtype=torch.float64)], ids=["a vector", "float64"])
def test_what_the_written_norm_does_not_know_is_torchs_own(x: torch.Tensor) -> None:
    x, weight = x.clone().requires_grad_(), torch.randn(8, dtype=x.dtype).requires_grad_()
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


def test_outside_training_it_is_torchs_own_norm() -> None:
    x, weight = torch.randn(3, 8), torch.randn(8)
    with torch.no_grad():
        assert torch.equal(ops.rms_norm(x, weight, 1e-6), F.rms_norm(x, (8,), weight, 1e-6))


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
