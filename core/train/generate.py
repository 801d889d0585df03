"""Text from a checkpoint, drawn by the harness from logits that the candidate's process computes.

Called by `slm-ar generate` and for the samples of the report; the same path as scoring, so candidate code never runs in
this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..prepare.tokenizer import BOS, EOS, SPECIAL_TOKENS, encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from .scorer import LogitsClient


def generate_text(
    client: LogitsClient,
    tokenizer: Tokenizer,
    prompt: str,
    context: int,
    most_tokens: int = 128,
    temperature: float = 0.8,
    top_k: int = 40,
    seed: int = 0,
) -> str:
    """Continue `prompt` by at most `most_tokens` tokens, or to the end of a document; the prompt is not repeated.

    Temperature 0 takes the likeliest token each time. The text is a function of the arguments and the checkpoint.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = [BOS, *encode_texts(tokenizer, [[prompt]])[0]]
    given = len(ids)
    for _ in range(most_tokens):
        window = np.array([ids[-context:]], np.int32)
        length = window.shape[1]
        logits = client.logits(window, [(length - 1, length)])[0]
        for special in range(len(SPECIAL_TOKENS)):
            if special != EOS:
                logits[special] = -torch.inf
        if temperature <= 0:
            chosen = int(logits.argmax())
        else:
            values, places = (logits / temperature).topk(min(top_k, len(logits)))
            chosen = int(places[torch.multinomial(values.softmax(0), 1, generator=generator)])
        if chosen == EOS:
            break
        ids.append(chosen)
    return str(tokenizer.decode(ids[given:], skip_special_tokens=False))
