"""The playbook: changes of train.py that are known to pay often on small machines, in the order in which to try them.

Data for moves.py; a new move is one entry. Rewrites are written for program_templates/train.py: each of their old texts
stands in it once, shows no value of a knob, and is left for others to find where that can be. What a rewrite adds is
tunable where a number is a guess.

The order is that of measured gains where there are any (the benchmark of the shipped train.py and screens of 20 and 60
CPU seconds on 1 and 7 MB of text), and of reports from machines of this size where not. Left out because they cost more
than they gave in those screens: averaged weights, a skip from the embedding to every block, a hashed table of bigrams
and value embeddings (a gain at 20 seconds, a loss at 60), dropout at four passes over the text.
"""

from __future__ import annotations

from .moves import Move, Rewrite, Turn, times, to

_SIZE = "# --- size -----------------------------------------------------------------------------------\n"


def _knob(line: str) -> tuple[str, str]:
    """The edit that declares one more knob."""
    return _SIZE, f"{_SIZE}{line}\n"


_MODEL_NORM = "        self.norm = Norm(config.width, config)\n"
_ROTATION = "        cos, sin = rotation(ids.shape[1]"
_ATTENTION_THEN_MLP = (
    "        x = x + self.self_attn(self.input_layernorm(x), cos, sin)\n"
    "        return x + self.mlp(self.post_attention_layernorm(x))\n"
)

SQUARED_RELU = Rewrite(
    "square the ReLU",
    "activation",
    (
        ("        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)\n", ""),
        ("ops.swiglu(self.gate_proj(x), self.up_proj(x))", "F.relu(self.up_proj(x)).square()"),
        ("layers * (4 + 3 * MLP_RATIO)", "layers * (4 + 2 * MLP_RATIO)"),
    ),
    "F.relu(",
    "two matrices instead of three make a cheaper step (So et al. 2021, arXiv 2109.08668)",
    reshapes=True,
)
ZERO_OUTPUTS = Rewrite(
    "start the blocks as identities",
    "initialisation",
    (
        ("    residual = 1 / math.sqrt(2 * model.config.layers)\n", ""),
        ("            scale *= residual\n", "            scale = 0.0  # every block starts as the identity\n"),
    ),
    "starts as the identity",
    "output matrices that start at zero let the first steps be larger",
)
EMBEDDING_NORM = Rewrite(
    "normalise the embedding",
    "embedding norm",
    ((_ROTATION, f"        x = F.rms_norm(x, x.shape[-1:])\n{_ROTATION}"),),
    "x = F.rms_norm(x, x.shape[-1:])",
    "small tied embeddings then weigh as much as what the blocks add",
    reshapes=True,
)
ADAMW = Rewrite(
    "train the matrices with AdamW",
    "optimiser",
    (
        _knob("ADAM_SHARE = 0.15  # knob: float log 0.02..1"),
        (
            "    by_size: dict[tuple[int, ...], list[nn.Parameter]] = {}\n"
            "    for matrix in matrices:\n"
            "        by_size.setdefault(tuple(sorted(matrix.shape)), []).append(matrix)\n"
            "    largest_first = sorted(by_size.values(), key=lambda same: -len(same) * same[0].numel())"
            "  # others fill the gaps\n"
            "    muons = [Muon(same, run.precision) for same in largest_first]\n"
            "    return [*muons, TableAdamW(others, run.token_features)]\n",
            "    inner = torch.optim.AdamW(\n"
            "        matrices,\n"
            "        lr=ADAM_SHARE * MATRIX_LR,\n"
            "        betas=(MOMENTUM, 0.95),\n"
            "        weight_decay=WEIGHT_DECAY,\n"
            "        fused=True,\n"
            "    )\n"
            "    return [inner, TableAdamW(others, run.token_features)]\n",
        ),
    ),
    "ADAM_SHARE",
    "cheaper steps: Muon's update costs up to half of one on a CPU",
    unused=("Muon", "wide", "orthogonal", "NEWTON_STEPS"),
)
FEWER_NEWTON_STEPS = Rewrite(
    "orthogonalise in fewer steps",
    "newton",
    (
        _knob("NEWTON_STEPS = 3  # knob: int 2..6"),
        ("    for _ in range(5):\n        gram", "    for _ in range(NEWTON_STEPS):\n        gram"),
        ("orthogonalised by five Newton-Schulz steps", "orthogonalised by Newton-Schulz steps"),
    ),
    "NEWTON_STEPS",
    "a rougher Muon is a third cheaper",
)
SQUARE_ROOT_COOLDOWN = Rewrite(
    "fall along a square root",
    "schedule",
    (
        (
            "    return min(1.0, (1 - progress) / COOLDOWN) if COOLDOWN else 1.0\n",
            "    left = min(1.0, (1 - progress) / COOLDOWN) if COOLDOWN else 1.0\n    return 1 - math.sqrt(1 - left)\n",
        ),
        ("a plateau, a linear fall.", "a plateau, a fall along 1 - sqrt."),
    ),
    "math.sqrt(1 - left)",
    "it falls fast at first, which beat a line in the trials of Hägele et al. (2024, arXiv 2405.18392)",
)
LOGIT_CAP = Rewrite(
    "cap the logits",
    "logits",
    (
        _knob("LOGIT_CAP = 15.0  # knob: float log 5..60"),
        (
            "        return self.lm_head(x)\n",
            "        return LOGIT_CAP * torch.tanh(self.lm_head(x).float() / LOGIT_CAP)\n",
        ),
    ),
    "LOGIT_CAP",
    "a soft cap keeps a model that sees its text several times from being too sure",
    reshapes=True,
)
OUTPUT_NORM = Rewrite(
    "normalise what the blocks add",
    "block",
    (
        (
            _ATTENTION_THEN_MLP,
            "        x = x + self.input_layernorm(self.self_attn(x, cos, sin))\n"
            "        return x + self.post_attention_layernorm(self.mlp(x))\n",
        ),
    ),
    "self.input_layernorm(self.self_attn(",
    "norms behind the blocks instead of before them allow larger rates (OLMo 2, arXiv 2501.00656)",
    reshapes=True,
)
PARALLEL_BLOCKS = Rewrite(
    "run attention and feed-forward side by side",
    "block",
    (
        ("        self.post_attention_layernorm = Norm(config.width, config)\n", ""),
        (
            _ATTENTION_THEN_MLP,
            "        y = self.input_layernorm(x)\n        return x + self.self_attn(y, cos, sin) + self.mlp(y)\n",
        ),
    ),
    "self.self_attn(y, cos, sin) + self.mlp(y)",
    "one norm and one dependency less make a cheaper step",
    reshapes=True,
)
PLAIN_HEADS = Rewrite(
    "drop the norms of queries and keys",
    "heads",
    (
        ("        self.q_norm = Norm(config.head_dim, config)\n", ""),
        ("        self.k_norm = Norm(config.head_dim, config)\n", ""),
        ("self.q_norm(self.q_proj(x).view(shape))", "self.q_proj(x).view(shape)"),
        ("self.k_norm(self.k_proj(x).view(shape))", "self.k_proj(x).view(shape)"),
    ),
    "rotate(self.q_proj(x)",
    "a short run hardly needs them, and they cost time",
    reshapes=True,
)
WINDOWS = Rewrite(
    "let every other layer look near",
    "windows",
    (
        _knob("WINDOW = 64  # knob: choice 16 32 64 128 256"),
        (
            "        self.head_dim = config.head_dim\n",
            "        self.head_dim = config.head_dim\n        self.window = config.context\n",
        ),
        ("mixed = ops.attend(q, k, v)", "mixed = ops.attend(q, k, v, self.window)"),
        (
            _MODEL_NORM,
            f"        for layer in self.layers[::2]:\n            layer.self_attn.window = WINDOW\n{_MODEL_NORM}",
        ),
    ),
    "self.window",
    "what comes next depends mostly on what stands just before",
    reshapes=True,
)
TWO_PASSES = Rewrite(
    "run the layers twice",
    "passes",
    (
        _knob("PASSES = 2  # knob: int 1..4"),
        (
            "        for layer in self.layers:\n            x = layer(x, cos, sin)\n",
            "        for _ in range(PASSES):\n"
            "            for layer in self.layers:\n"
            "                x = layer(x, cos, sin)\n",
        ),
    ),
    "PASSES",
    "depth without parameters, for text that is seen several times",
    reshapes=True,
)
ROPE_BASE = Rewrite(
    "turn positions faster",
    "positions",
    (
        _knob("ROPE_BASE = 1000.0  # knob: float log 50..100000"),
        ("rope_base: float = 10_000.0", "rope_base: float = ROPE_BASE"),
    ),
    "ROPE_BASE",
    "short contexts leave most of the slow rotations unused",
)
GELU_GATE = Rewrite(
    "gate with GELU",
    "activation",
    (("ops.swiglu(self.gate_proj(x), self.up_proj(x))", "F.gelu(self.gate_proj(x)) * self.up_proj(x)"),),
    "F.gelu(",
    "another smooth gate (Shazeer 2020, arXiv 2002.05202)",
    reshapes=True,
)
NEWEST = Rewrite(
    "read the newest half of train",
    "part of train",
    (
        _knob("NEWEST = 0.5  # knob: float 0.05..1"),
        ("CONTEXT, model, asdict(config))", "CONTEXT, model, asdict(config), newest=NEWEST)"),
    ),
    "NEWEST",
    "where train is in order of time, its end is most like what comes next",
)
CLIPPING = Rewrite(
    "clip the gradients",
    "clipping",
    (
        _knob("CLIP = 1.0  # knob: float log 0.1..10"),
        (
            "    share = schedule(batch.progress)\n",
            "    torch.nn.utils.clip_grad_norm_(replicas.models[0].parameters(), CLIP)\n"
            "    share = schedule(batch.progress)\n",
        ),
    ),
    "clip_grad_norm_",
    "small batches have rare, large gradients",
)
Z_LOSS = Rewrite(
    "keep the logits' sum near one",
    "logits",
    (
        _knob("Z_LOSS = 0.0001  # knob: float log 0.00001..0.01"),
        (
            "        logits.backward(ops.cross_entropy_gradient(logits, targets, batch.weight / len(hidden)))\n",
            "        share = batch.weight / len(hidden)\n"
            "        penalty = share * Z_LOSS * logits.float().logsumexp(-1).square().sum()\n"
            "        gradient = ops.cross_entropy_gradient(logits, targets, share)\n"
            "        torch.autograd.backward([logits, penalty], [gradient, None])\n",
        ),
    ),
    "Z_LOSS",
    "a small penalty steadies training at large rates (Chowdhery et al. 2022, arXiv 2204.02311)",
)

PLAYBOOK: tuple[Move, ...] = (
    Turn("halve the model", "TARGET_PARAMS_M", times(0.5), "a smaller model sees more text", "M parameters"),
    Turn("double the model", "TARGET_PARAMS_M", times(2), "this machine may have room for more model", "M parameters"),
    Turn("halve the batch", "BATCH_TOKENS", times(0.5), "small machines gain from more updates", "tokens per step"),
    Turn("double the learning rates", "*LR", times(2), "short runs want large steps"),
    Turn("halve the learning rates", "*LR", times(0.5), "the steps may be too large for this model"),
    SQUARED_RELU,
    Turn("widen the model", "ASPECT_RATIO", times(2), "fewer, wider layers run faster", "units of width per layer"),
    Turn("deepen the model", "ASPECT_RATIO", times(0.5), "more layers may learn more", "units of width per layer"),
    Turn("use fewer layers", "DEPTH", times(0.5), "a shallow model sees more text", "layers"),
    Turn("use more layers", "DEPTH", times(1.5), "this machine may have room for more layers", "layers"),
    ZERO_OUTPUTS,
    Turn("halve the context", "CONTEXT", times(0.5), "short contexts make cheap steps", "tokens"),
    Turn("drop the dropout", "DROPOUT", to(0.0), "text that is seen only a few times needs none"),
    EMBEDDING_NORM,
    Turn("shrink the feed-forward layers", "MLP_RATIO", times(0.75), "cheap layers see more text", "times the width"),
    Turn("lengthen the cool-down", "COOLDOWN", times(1.5), "much is learnt while the rate falls", "of the run"),
    ADAMW,
    Turn("shorten the cool-down", "COOLDOWN", times(0.5), "more steps at the full rate", "of the run"),
    Turn("halve the heads' width", "HEAD_DIM", times(0.5), "more heads can look at more places", "dimensions"),
    SQUARE_ROOT_COOLDOWN,
    Turn("untie the head", "TIED_HEAD", to(0), "the output gets a table of its own"),
    Turn("tie the head", "TIED_HEAD", to(1), "one table for both ends leaves more for the layers"),
    LOGIT_CAP,
    Turn("shorten the warm-up", "WARMUP", times(0.5), "a short run has no steps to spare", "of the run"),
    Turn("halve the weight decay", "WEIGHT_DECAY", times(0.5), "a short run hardly overfits"),
    FEWER_NEWTON_STEPS,
    OUTPUT_NORM,
    NEWEST,
    Turn("double the batch", "BATCH_TOKENS", times(2), "fast machines gain from full batches", "tokens per step"),
    WINDOWS,
    Turn("double the context", "CONTEXT", times(2), "longer contexts predict better", "tokens"),
    PARALLEL_BLOCKS,
    TWO_PASSES,
    ROPE_BASE,
    PLAIN_HEADS,
    CLIPPING,
    GELU_GATE,
    Z_LOSS,
)  # fmt: skip
"""In the order in which to try them."""
PORTABLE = tuple(move for move in PLAYBOOK if isinstance(move, Turn) or not move.reshapes)
"""Those that keep the shape of Qwen3."""


def playbook(form: str) -> tuple[Move, ...]:
    """The moves for a recipe's form, "portable" or "best"."""
    return PORTABLE if form == "portable" else PLAYBOOK
