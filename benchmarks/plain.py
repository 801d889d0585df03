"""The plain way to train a small GPT, which steps.py puts beside train.py: no part of slm-ar imports it.

Radford et al. 2019: LayerNorm before each block, GELU, learned positions, tied head; float32, eager, AdamW that walks
through the parameters one by one, gradients clipped at norm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    """A model and its batches."""

    vocab_size: int
    context: int
    layers: int
    width: int
    head_dim: int
    batch_tokens: int


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.before_attention, self.before_mlp = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attention_in, self.attention_out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(*2 * (shape.width,))
        self.mlp_in, self.mlp_out = nn.Linear(shape.width, 4 * shape.width), nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        heads = self.attention_in(self.before_attention(x)).view(rows, length, 3, -1, self.head_dim)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(rows, length, width)
        x = x + self.attention_out(mixed)
        out: torch.Tensor = x + self.mlp_out(F.gelu(self.mlp_in(self.before_mlp(x))))
        return out


class Model(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits


class Trainer:
    """A model with its optimiser."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.model = Model(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1, foreach=False)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        loss = F.cross_entropy(self.model(inputs).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
