"""A small language model and how it is trained: the file that slm-ar edits.

`slm-ar` runs main() under its own clock, with its own seed and data, and scores the checkpoint itself from the logits
of build_model(config). Everything in this file may be changed as long as those two functions keep their meaning.
Constants with a `# knob:` comment are moved by the search; give a new one a range and it will be moved too.

The model has the shape of Qwen3 (Yang et al. 2025, arXiv 2505.09388): RMSNorm before each block, RoPE, normalised
queries and keys, SwiGLU, no biases. Checkpoints therefore load in common runtimes; with form = "best" in the recipe's
[model] the model gets a part that they do not have.
"""

import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from slm_ar.core.train import ops, runtime

# --- size -----------------------------------------------------------------------------------
TARGET_PARAMS_M = 0.7  # knob: float log 0.05..200
ASPECT_RATIO = 64.0  # knob: float log 16..192
HEAD_DIM = 64  # knob: choice 16 32 64 128
MLP_RATIO = 3.0  # knob: float 1..4
TIED_HEAD = 1  # knob: choice 0 1

# --- training -------------------------------------------------------------------------------
CONTEXT = 256  # knob: choice 64 128 256 512 1024
BATCH_TOKENS = 1024  # knob: choice 512 1024 2048 4096 8192 16384 32768 65536
MATRIX_LR = 0.02  # knob: float log 0.002..0.2
EMBED_LR = 0.01  # knob: float log 0.0005..0.1
MOMENTUM = 0.9  # knob: float 0.8..0.98
WEIGHT_DECAY = 0.05  # knob: float 0..0.3
WARMUP = 0.02  # knob: float 0..0.2
COOLDOWN = 0.6  # knob: float 0.1..1
NOISE = 0.1  # knob: float 0..0.5


@dataclass
class Config:
    """All that build_model needs. `context` is also the window that the model is scored with."""

    vocab_size: int
    context: int
    layers: int
    width: int
    head_dim: int
    mlp_width: int
    tied_head: bool
    smear: bool = False
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-6


def choose_config(vocab_size: int, form: str = "portable") -> Config:
    """The layers and width that come nearest to TARGET_PARAMS_M at about ASPECT_RATIO width per layer."""
    target = TARGET_PARAMS_M * 1e6
    best, best_distance = None, math.inf
    for layers in range(1, 49):
        per_width_squared = layers * (4 + 3 * MLP_RATIO)
        embedding = vocab_size * (1 if TIED_HEAD else 2)
        exact = (-embedding + math.sqrt(embedding**2 + 4 * per_width_squared * target)) / (2 * per_width_squared)
        unit = HEAD_DIM if exact > 256 else min(HEAD_DIM, 32)
        width = max(unit, round(exact / unit) * unit)
        distance = abs(math.log(width / layers / ASPECT_RATIO))
        if distance < best_distance:
            mlp_width = max(16, round(width * MLP_RATIO / 16) * 16)
            best_distance = distance
            head_dim = max(size for size in range(2, HEAD_DIM + 1, 2) if width % size == 0)
            best = Config(vocab_size, CONTEXT, layers, width, head_dim, mlp_width, bool(TIED_HEAD), form == "best")
    assert best is not None
    return best


# --- model ----------------------------------------------------------------------------------


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = config.norm_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, self.weight, self.epsilon)


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, config.width, bias=False)
        self.v_proj = nn.Linear(config.width, config.width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)
        self.q_norm = Norm(config.head_dim, config)
        self.k_norm = Norm(config.head_dim, config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        shape = (rows, length, width // self.head_dim, self.head_dim)
        q = ops.rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2), cos, sin)
        k = ops.rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        mixed = ops.attend(q, k, v)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, width))


class FeedForward(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.width, config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.width, config)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    """Token ids [rows, length] to logits [rows, length, vocab_size]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.smear:
            self.smear = nn.Parameter(torch.zeros(config.width))
        if config.tied_head:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """What is scored. Training calls hidden() and head() instead, so change those and not this."""
        return self.head(self.hidden(ids))

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """What the head reads, [rows, length, width]."""
        x = self.embed_tokens(ids)
        if self.config.smear:  # a learned share of the token before, per channel
            x = x + self.smear * F.pad(x[:, :-1], (0, 0, 1, 0))
        cos, sin = rotation(ids.shape[1], self.config, ids.device)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """From what hidden() gave, any number of tokens [..., width], to logits; each token by itself."""
        return self.lm_head(x)


def rotation(length: int, config: Config, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines of RoPE (Su et al. 2021, arXiv 2104.09864), [length, head_dim], for ops.rotate()."""
    exponents = torch.arange(0, config.head_dim, 2, device=device, dtype=torch.float32) / config.head_dim
    angles = torch.outer(torch.arange(length, device=device, dtype=torch.float32), config.rope_base**-exponents)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def build_model(config: dict) -> nn.Module:
    """The model for a config as main() saved it, with weights not yet loaded."""
    return Model(Config(**config))


@torch.no_grad()
def initialise(model: Model, run: runtime.Run) -> None:
    """Every parameter from the seed and its own name, so that runs with the same seed start alike."""
    residual = 1 / math.sqrt(2 * model.config.layers)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            parameter.fill_(0.0 if name == "smear" else 1.0)
            continue
        scale = 1 / math.sqrt(parameter.shape[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale *= residual
        elif name.startswith("embed_tokens"):
            scale = 0.02 if model.config.tied_head else 0.5
        elif name.startswith("lm_head"):
            scale = 0.001
        parameter.copy_(torch.randn(parameter.shape, generator=run.generator(name)) * scale)
        features = run.token_features
        if name == "embed_tokens.weight" and len(features) == len(parameter):  # what is alike starts alike
            shared = torch.randn(features.shape[1], parameter.shape[1], generator=run.generator("shared")) * scale
            parameter.add_(features @ shared.to(features))


# --- optimiser ------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised by five Newton-Schulz steps (Jordan et al. 2024, the Muon page).

    For matrices inside the blocks that have one size, tall or wide; they are orthogonalised together.
    """

    def __init__(self, matrices: list[nn.Parameter], precision: torch.dtype) -> None:
        super().__init__(matrices, {"lr": MATRIX_LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:
        (group,) = self.param_groups
        matrices = group["params"]
        gradient = torch.stack([wide(matrix.grad) for matrix in matrices])
        state = self.state[matrices[0]]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(gradient.lerp(momentum, group["momentum"]), self.precision)
        for matrix, direction in zip(matrices, update.unbind(0), strict=True):
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            wide(matrix).add_(direction, alpha=-group["lr"] * scale)


def wide(matrix: torch.Tensor) -> torch.Tensor:
    """A tall matrix transposed, so that it can be stacked with the wide ones of the same size."""
    return matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix


def orthogonal(matrices: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """The nearest semi-orthogonal matrices to [count, rows <= columns], roughly: singular values end in 0.7 .. 1.2."""
    x = matrices.to(precision)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.to(matrices.dtype)


class TableAdamW(torch.optim.AdamW):
    """AdamW for tables with a row per token, whose rows also move together by what the tokens have in common.

    It is as if `features @ shared` were added to a table and `shared` learned too: what one minute or price teaches
    moves its neighbours. Only the sum is kept, so the model stays what it is; `shared` holds one step at a time.
    """

    def __init__(self, parameters: list[nn.Parameter], features: torch.Tensor) -> None:
        self.features = features
        tables = [one for one in parameters if one.dim() == 2 and len(one) == len(features)]
        self.pairs = [(table, nn.Parameter(table.new_zeros(features.shape[1], table.shape[1]))) for table in tables]
        every = [*parameters, *(shared for _, shared in self.pairs)]
        super().__init__(every, lr=EMBED_LR, betas=(0.85, 0.97), eps=1e-10, weight_decay=0.0, fused=True)

    @torch.no_grad()
    def step(self) -> None:
        for table, shared in self.pairs:
            shared.zero_()
            shared.grad = None if table.grad is None else self.features.T @ table.grad
        super().step()
        for table, shared in self.pairs:
            table.add_(self.features @ shared)


def make_optimizers(model: Model, run: runtime.Run) -> list[torch.optim.Optimizer]:
    """Each with parameters of its own, so that all can step at the same time."""
    matrices = [parameter for parameter in model.layers.parameters() if parameter.dim() == 2]
    inside = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    by_size: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for matrix in matrices:
        by_size.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)
    largest_first = sorted(by_size.values(), key=lambda same: -len(same) * same[0].numel())  # others fill the gaps
    muons = [Muon(same, run.precision) for same in largest_first]
    return [*muons, TableAdamW(others, run.token_features)]


def schedule(progress: float) -> float:
    """Share of the full learning rate at `progress` in [0, 1): a short rise, a plateau, a linear fall."""
    if progress < WARMUP:
        return (progress + 1e-3) / (WARMUP + 1e-3)
    return min(1.0, (1 - progress) / COOLDOWN) if COOLDOWN else 1.0


# --- training -------------------------------------------------------------------------------


def backward(model: nn.Module, batch: runtime.Batch, run: runtime.Run) -> None:
    """Add the gradients of the mean cross-entropy in nats; matrix products in the run's precision.

    On a CPU the head reads 1,024 tokens at a time, so that large vocabularies take little memory for logits.
    """
    is_rounded = run.precision != torch.float32
    autocast = torch.autocast(
        run.device.type, run.precision, is_rounded, cache_enabled=False
    )  # threads share its cache
    with autocast:
        hidden = model.hidden(batch.inputs).flatten(0, 1)
    at_once = 1024 if run.device.type == "cpu" else len(hidden)
    parts = [part.detach().requires_grad_() for part in hidden.split(at_once)]
    for part, targets in zip(parts, batch.targets.flatten().split(at_once), strict=True):
        with autocast:
            logits = model.head(part)
        logits.backward(ops.cross_entropy_gradient(logits, targets, batch.weight / len(hidden)))
    hidden.backward(torch.cat([part.grad for part in parts]))


def noisy(batch: runtime.Batch, vocab_size: int) -> runtime.Batch:
    """Where the budget reads the corpus more than four times, a share of what the model sees is random from the second
    time on, so that it learns less by heart (Xie et al. 2017, arXiv 1703.02573). With four readings it lost.
    """
    share = NOISE * min(1.0, batch.epoch / max(batch.progress, 1e-6) - 4)
    if share <= 0 or batch.epoch < 1:
        return batch
    is_replaced = torch.rand(batch.inputs.shape, device=batch.inputs.device) < share
    return replace(batch, inputs=torch.where(is_replaced, torch.randint_like(batch.inputs, vocab_size), batch.inputs))


def train_step(
    replicas: runtime.Replicas,
    optimizers: list[torch.optim.Optimizer],
    batch: runtime.Batch,
    run: runtime.Run,
    rows: int,
) -> None:
    """One update from a batch, of which `rows` rows at once fit into the memory."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    parts = noisy(batch, run.vocab_size).parts(math.ceil(rows / len(replicas)))
    replicas.backward(parts)
    share = schedule(batch.progress)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * share
    replicas.at_once([optimizer.step for optimizer in optimizers])


def warm_up(replicas: runtime.Replicas, optimizers: list[torch.optim.Optimizer], run: runtime.Run) -> int:
    """Pay before the clock starts what the first step pays once; the rows of a batch that fit into the memory.

    On a GPU the blocks are compiled, one for all of them: for budgets of a minute or more that pays.
    """
    if run.device.type == "cuda" and (run.budget_seconds or 0) >= 60:
        torch.set_float32_matmul_precision("high")
        torch._dynamo.config.suppress_errors = True  # without a compiler at hand it trains uncompiled
        for layer in replicas.models[0].layers:
            layer.compile(dynamic=False)

    def step(batch: runtime.Batch) -> None:
        train_step(replicas, optimizers, batch, run, len(batch.inputs))

    rows = run.fit_rows(step, BATCH_TOKENS, CONTEXT)
    for optimizer in optimizers:
        optimizer.zero_grad()
        optimizer.state.clear()
    return rows


def main() -> None:
    run = runtime.connect()
    config = choose_config(run.vocab_size, run.form)
    model = Model(config).to(run.device)
    replicas = run.replicas(model, BATCH_TOKENS // CONTEXT, lambda replica, part: backward(replica, part, run))
    optimizers = make_optimizers(model, run)
    rows = warm_up(replicas, optimizers, run)
    initialise(model, run)  # now, because warming up has trained on random ids
    for batch in run.batches(BATCH_TOKENS, CONTEXT, model, asdict(config)):
        train_step(replicas, optimizers, batch, run, rows)
    run.save(model, asdict(config))


if __name__ == "__main__":
    main()
