"""Pieces of a model with the backward pass written out, because on a CPU autograd's own takes up to twice as long.

Used by train.py, which may also do without them. Promises: the same numbers as the plain expression, up to rounding
(in bfloat16 up to twice torch's own); under autocast a norm gives autocast's dtype, so that the matrix product behind
it need not round again. Outside training, and on accelerators, where a compiler fuses it, norms and rotations are the
plain expression. Gradients of gradients are not to be had.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the last dimension; `weight` is [width]."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or x.dim() < 2 or x.dtype == torch.float64:
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), epsilon)
    rounded = torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
    dtype = torch.get_autocast_dtype("cpu") if rounded else x.dtype
    result: torch.Tensor = _RmsNorm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]
    return result


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE (Su et al. 2021, arXiv 2104.09864): x [..., head_dim] turned by angles.

    `cos` and `sin` are broadcast against x; their halves along head_dim are [cos, cos] and [-sin, sin]. They get no
    gradient.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return _turned(x, cos, sin)
    result: torch.Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def cross_entropy_gradient(logits: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
    """The gradient, by the logits [tokens, vocab_size], of `share` times the summed cross-entropy in nats.

    It is softmax minus one at the target, times `share`, for `logits.backward(...)`; the loss itself is never computed.
    Rounded to the dtype of the logits only at the end: in bfloat16 a probability above 0.998 is one.
    """
    gradient = logits.softmax(-1, dtype=torch.float32)
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    return gradient.mul_(share).to(logits.dtype)


class _RmsNorm(torch.autograd.Function):
    """With u = x / rms(x) and g the gradient by y = u * w: dw = sum of g u, dx = (g w - u mean(g w u)) / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        unit = (x * scale).to(dtype) if x.dtype == torch.float32 else x * scale.to(x.dtype)
        rounded = weight.to(dtype)
        ctx.save_for_backward(unit, rounded, scale)
        ctx.dtypes = x.dtype, weight.dtype
        result: torch.Tensor = unit * rounded
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        unit, weight, scale = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        gradient = gradient.contiguous()  # it can come transposed out of attention, and is read twice
        product = gradient * unit
        along = (product @ weight).unsqueeze(-1)
        across = (gradient * weight).addcmul_(unit, along, value=-1 / len(weight))
        by_weight = product.flatten(0, -2).sum(0, dtype=torch.float32)
        return across.to(x_dtype).mul_(scale.to(x_dtype)), by_weight.to(weight_dtype), None, None


class _Rotate(torch.autograd.Function):
    """A rotation; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient.contiguous(), cos, -sin), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
