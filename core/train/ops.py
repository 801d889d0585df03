"""Pieces of a model whose forward and backward passes are compiled for a CPU, each one pass over the memory.

Used by train.py, which may also do without them. Promises: the same numbers as the plain expression, up to rounding (in
bfloat16 not more than torch's own makes); under autocast a norm gives autocast's dtype, so that the matrix product
behind it need not round again. On accelerators, with more than two threads, where a compiler fuses it, where the
kernels were not compiled and for shapes and types that they do not know, it is the plain expression of torch. Gradients
of gradients are not to be had.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from . import kernels

LONGEST = 512  # scores of a longer context take more memory, and time, than a fused kernel that does not keep them


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the last dimension; `weight` is [width]."""
    is_known = weight.dtype == torch.float32 and weight.shape == x.shape[-1:] and weight.device == x.device
    dtype = _autocast(x.dtype) if x.device.type == "cpu" else x.dtype
    if not (is_known and dtype in kernels.KNOWN and kernels.fits(x)):
        return F.rms_norm(x, weight.shape, weight.to(x.dtype), epsilon).to(dtype)
    result: torch.Tensor = _RmsNorm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]
    return result


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE (Su et al. 2021, arXiv 2104.09864): x [..., head_dim] turned by angles; dense, in the order of its shape.

    `cos` and `sin` are broadcast against x; their halves along head_dim are [cos, cos] and [-sin, sin]. They get no
    gradient.
    """
    if not (_can_turn(x, cos, sin) and kernels.fits(x)):
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    result: torch.Tensor = _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


def _can_turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether the angles lie alike and are broadcast to x as the kernel does it."""
    fits = x.dim() <= 4 and x.shape[-1] % 2 == 0 and cos.shape == sin.shape and cos.dim() <= x.dim()
    if not fits or cos.shape[-1] != x.shape[-1] or not cos.device == sin.device == x.device:
        return False
    return all(size in (1, whole) for size, whole in zip(cos.shape[::-1], x.shape[::-1], strict=False))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None = None) -> torch.Tensor:
    """Causal attention over [rows, heads, length, head_dim], with scores divided by the root of head_dim; with
    `window`, each position sees itself and the window - 1 before it.

    On a CPU torch's fused kernel is slow at short lengths: written out, forward and backward took 1.9 ms instead of 4.9
    (two cores, bfloat16, 4 x 2 heads of 64, length 256).
    """
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1, not {window}")
    length, scale = q.shape[2], q.shape[3] ** -0.5
    if q.device.type == "cpu" and length <= LONGEST and q.shape[:3] == k.shape[:3] == v.shape[:3]:
        q, k, v = (one.to(_autocast(one.dtype)) for one in (q, k, v))
        if kernels.fits(q, k, v):
            result: torch.Tensor = _Attend.apply(q, k, v, scale, window or length)  # type: ignore[no-untyped-call]
            return result
        hidden = torch.zeros(length, length, dtype=q.dtype).masked_fill(~_near(length, window, q.device), -torch.inf)
        scores = torch.baddbmm(hidden, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=scale)
        return (scores.softmax(-1) @ v.flatten(0, 1)).view(v.shape)
    if window is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_near(length, window, q.device))


def _near(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Which positions each one sees, [length, length]."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - (window or length))


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202), of one shape."""
    if gate.shape != up.shape or not kernels.fits(gate, up):
        return F.silu(gate) * up
    result: torch.Tensor = _Swiglu.apply(gate, up)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def cross_entropy_gradient(logits: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
    """The gradient, by the logits [tokens, vocab_size], of `share` times the summed cross-entropy in nats.

    It is softmax minus one at the target, times `share`, for `logits.backward(...)`; the loss itself is never computed.
    Rounded to the dtype of the logits only at the end: in bfloat16 a probability above 0.998 is one.
    """
    is_known = logits.dim() == 2 and targets.dtype == torch.int64 and targets.shape == logits.shape[:1]
    if is_known and targets.device == logits.device and kernels.fits(logits) and _within(targets, logits.shape[1]):
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        kernels.cross_entropy_back(logits.contiguous(), targets.contiguous(), result, share)
        return result
    gradient = logits.softmax(-1, dtype=torch.float32)
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    return gradient.mul_(share).to(logits.dtype)


def _within(targets: torch.Tensor, count: int) -> bool:
    least, most = torch.aminmax(targets)
    return int(least) >= 0 and int(most) < count


def _autocast(dtype: torch.dtype) -> torch.dtype:
    """What autocast would make of numbers of this type on a CPU."""
    is_rounded = dtype == torch.float32 and torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if is_rounded else dtype


def _as_given(dtype: torch.dtype) -> AbstractContextManager[object]:
    """Without an autocast that would give matrix products of `dtype` another type."""
    would = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != dtype
    return torch.autocast("cpu", enabled=False) if would else nullcontext()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        result, scales = torch.empty_like(x, dtype=dtype), weight.new_empty(x.shape[:-1])
        kernels.norm(x, weight, epsilon, result, scales)
        ctx.save_for_backward(x, weight, scales)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        x, weight, scales = ctx.saved_tensors
        by_x, by_weight = torch.empty_like(x), torch.zeros_like(weight)
        kernels.norm_back(gradient.contiguous(), x, weight, scales, by_x, by_weight)
        return by_x, by_weight, None, None


class _Rotate(torch.autograd.Function):
    """A rotation; its gradient is turned back, and lies in memory in the order of x."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.order = x.stride() if _is_dense(x) else None
        return _turned(x, cos, sin, torch.empty_like(x, memory_format=torch.contiguous_format), 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        shape = gradient.shape
        result = gradient.new_empty_strided(shape, ctx.order) if ctx.order else gradient.new_empty(shape)
        return _turned(gradient, cos, sin, result, -1.0), None, None


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, y: torch.Tensor, sign: float) -> torch.Tensor:
    if x.stride(-1) != 1:
        x = x.contiguous()
    kernels.turn(x, cos, sin, y, sign)
    return y


def _is_dense(x: torch.Tensor) -> bool:
    """Whether x fills its memory without gaps and overlaps, in whatever order, its rows in their own."""
    filled = 1
    for step, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1 and step != filled:
            return False
        filled *= size
    return x.stride(-1) == 1


class _Attend(torch.autograd.Function):
    """Its matrix products keep the type that they are given: the kernels between them read what was written."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int) -> torch.Tensor:
        flat = [one.flatten(0, 1) for one in (q, k, v)]
        with _as_given(q.dtype):
            shares = torch.bmm(flat[0], flat[1].mT)
            kernels.causal_softmax(shares, scale, window)
            result = torch.bmm(shares, flat[2])
        ctx.save_for_backward(*flat, shares)
        ctx.scale = scale
        return result.view(v.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        q, k, v, shares = ctx.saved_tensors
        heads, gradient = gradient.shape[:3], gradient.flatten(0, 1).to(v.dtype)
        with _as_given(v.dtype):
            by_v = torch.bmm(shares.mT, gradient)
            by_scores = torch.bmm(gradient, v.mT)
            kernels.causal_softmax_back(by_scores, shares, ctx.scale)
            by_q, by_k = torch.bmm(by_scores, k), torch.bmm(by_scores.mT, q)
        return by_q.view(*heads, -1), by_k.view(*heads, -1), by_v.view(*heads, -1), None, None


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        result = torch.empty_like(gate)
        kernels.swiglu(gate, up, result)
        ctx.save_for_backward(gate, up)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        by_gate, by_up = torch.empty_like(gate), torch.empty_like(up)
        kernels.swiglu_back(gradient.contiguous(), gate, up, by_gate, by_up)
        return by_gate, by_up
