"""Text from a checkpoint, drawn by the harness from logits that the candidate's process computes.

Called by `slm-ar generate`, for the samples of the report, and for tasks of kind generate; the same path as scoring, so
candidate code never runs in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..prepare.tokenizer import BOS, EOS, SPECIAL_TOKENS, encode_texts
from .asking import Ids, LogitsSource, Row, ask

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_TOKENS = 128


def generate_text(
    client: LogitsSource,
    tokenizer: Tokenizer,
    prompt: str,
    context: int,
    most_tokens: int = MOST_TOKENS,
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


def generate_answers(
    source: LogitsSource,
    pieces: Sequence[bytes],
    prompts: Sequence[Ids],
    ends: Sequence[str],
    context: int,
    most_tokens: int = MOST_TOKENS,
    width_step: int | None = None,
) -> list[str]:
    """Continue all prompts side by side, each with its likeliest token, to EOS, one of `ends`, or `most_tokens`.

    `pieces` are the bytes of every id (asking.token_bytes). What ends an answer does not belong to it.
    """
    marks = [end.encode("utf-8") for end in ends]
    written = [b""] * len(prompts)
    windows = [prompt[-context:] for prompt in prompts]
    going = list(range(len(prompts)))
    for _ in range(most_tokens):
        rows = [Row(windows[place], len(windows[place]) - 1, len(windows[place])) for place in going]
        still = []
        for place, logs in zip(going, ask(source, rows, context, width_step), strict=True):
            chosen = _likeliest(logs[0])
            if chosen == EOS:
                continue
            # A terminator may begin in the token before.
            looked_from = max(0, len(written[place]) - max(map(len, marks), default=0))
            written[place] += pieces[chosen]
            found = [at for mark in marks if (at := written[place].find(mark, looked_from)) >= 0]
            if found:
                written[place] = written[place][: min(found)]
                continue
            windows[place] = np.append(windows[place], np.int32(chosen))[-context:]
            still.append(place)
        going = still
        if not going:
            break
    return [answer.decode("utf-8", "replace") for answer in written]


def _likeliest(logs: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    """The likeliest token that is text, or EOS."""
    allowed = logs.copy()
    for special in range(len(SPECIAL_TOKENS)):
        if special != EOS:
            allowed[special] = -np.inf
    return int(allowed.argmax())
