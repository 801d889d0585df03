"""What n-grams and compressors reach on dev: the bar a model must pass before its bits per byte are worth quoting.

An n-gram (ngram.py), over tokens and over bytes, and PPMd (variant H, Shkarin 2002), which reads the train text once
and is copied for each document by fork: static floors, under which no document helps the next. Each document is seen
from its beginning and its end is not counted, as in a model's score. xz reads train and dev as one stream and adapts on
dev: an adaptive floor, named so. Run as `python -m slm_ar.core.prepare.floors TRAIN_JSONL DEV_JSONL NAME`, in a process
of its own because it forks.
"""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..environment import usable_cores, without_secrets
from . import heldout, ngram
from .encoder import encode_pieces
from .heldout import HeldDocument
from .manifest import TOKENIZER_FILE
from .shards import token_dtype
from .tokenizer import BOS, BYTES_VOCABULARY, EOS, SPECIAL_TOKENS, cut_at_spans, load_tokenizer

TRAIN_BYTES = 8_000_000
"""Compressors read only the end of train: more costs minutes and gains about a percent."""
ORDERS = (6, 12)
MEMORY_BYTES = 256 << 20
TOKEN_NGRAM, BYTE_NGRAM = "ngram (tokens)", "ngram (bytes)"
BYTE_ORDER, BYTE_PRUNED_FROM = 8, 5
MOST_NGRAM_BYTES = 4_000_000
"""Of what the compressors read the n-gram over bytes counts whole documents, evenly: a second per 600 kB."""


def ppmd_bits_per_byte(train: bytes, documents: Sequence[bytes], order: int) -> float:
    """Bits per byte of `documents` under PPMd given `train`, each document from the same state."""
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(order, MEMORY_BYTES)
    written = len(encoder.encode(train))
    del written  # bytes that left the encoder early belong to train
    empty = _forked_length(encoder, b"")
    total = sum(max(0, _forked_length(encoder, document) - empty) for document in documents)
    return 8 * total / sum(len(document) for document in documents)


def _forked_length(encoder: object, document: bytes) -> int:
    """Bytes that the encoder would still write for `document`, found in a child so that its state is not moved."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        length = len(encoder.encode(document)) + len(encoder.flush())  # type: ignore[attr-defined]
        os.write(writer, str(length).encode())
        os._exit(0)
    os.close(writer)
    answer = b""
    while chunk := os.read(reader, 64):
        answer += chunk
    os.close(reader)
    os.waitpid(child, 0)
    return int(answer)


def xz_bits_per_byte(train: bytes, documents: Sequence[bytes]) -> float:
    """(C(train + documents) - C(train)) * 8 / bytes, with xz preset 6."""
    text = b"".join(documents)
    return 8 * (len(lzma.compress(train + text, preset=6)) - len(lzma.compress(train, preset=6))) / len(text)


def token_ngram_bits_per_byte(folder: Path, documents: Sequence[HeldDocument]) -> float:
    """Bits per byte of `documents` under the n-gram of the train shards in `folder`, by its tokenizer."""
    tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
    vocab_size = tokenizer.get_vocab_size()
    model = ngram.of_shards(folder, token_dtype(vocab_size), vocab_size)
    return _ngram_bits_per_byte(model, encode_pieces(tokenizer, [_pieces(held) for held in documents]), documents)


def _pieces(held: HeldDocument) -> list[str]:
    return cut_at_spans(held.document.text, held.document.spans)


def byte_ngram_bits_per_byte(train: Sequence[bytes], documents: Sequence[HeldDocument]) -> float:
    """The same under an n-gram over the bytes of the documents `train`."""
    first, last = np.array([BOS], np.uint16), np.array([EOS], np.uint16)
    stored = [np.concatenate([first, _byte_ids(raw), last]) for raw in train]
    tokens = np.concatenate(stored)
    offsets = np.cumsum([0, *map(len, stored)])
    model = ngram.build(
        *ngram.evenly(tokens, offsets, MOST_NGRAM_BYTES), BYTES_VOCABULARY, BYTE_ORDER, BYTE_PRUNED_FROM
    )
    return _ngram_bits_per_byte(model, [_byte_ids(raw) for raw in _raw(documents)], documents)


def _byte_ids(raw: bytes) -> ngram.Ids:
    return np.frombuffer(raw, np.uint8).astype(np.uint16) + len(SPECIAL_TOKENS)


def _ngram_bits_per_byte(model: ngram.NGram, ids: Sequence[ngram.Ids], documents: Sequence[HeldDocument]) -> float:
    bits = -np.log2(model.ask(ids)).sum()
    return float(bits) / sum(map(len, _raw(documents)))


def _raw(documents: Sequence[HeldDocument]) -> list[bytes]:
    return [held.document.text.encode("utf-8") for held in documents]


def measure_floors(train_file: Path, dev_file: Path) -> dict[str, float]:
    """Name -> bits per byte on dev; floors that cannot be measured are left out.

    `train_file` holds documents as heldout.to_json writes them and lies beside the train shards. Each floor has a
    process of its own, as many at once as there are cores: each takes some hundred MB.
    """
    running: list[subprocess.Popen[str]] = []
    names = [*(f"ppmd-{order}" for order in ORDERS), TOKEN_NGRAM, BYTE_NGRAM, "xz (adaptive)"]

    def measure(name: str) -> str:
        command = [sys.executable, "-E", "-P", "-m", "slm_ar.core.prepare.floors", str(train_file), str(dev_file), name]
        environment = without_secrets(os.environ)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
        )
        running.append(process)
        said, _ = process.communicate()
        return said.strip() if process.returncode == 0 else ""

    with ThreadPoolExecutor(min(len(names), len(usable_cores()))) as pool:
        try:
            found = list(pool.map(measure, names))
        except BaseException:  # Ctrl-C, say, for which leaving the pool would wait until all are done
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()
            raise
    return {name: float(said) for name, said in zip(names, found, strict=True) if said}


def _main(train_file: str, dev_file: str, name: str) -> None:
    with Path(dev_file).open(encoding="utf-8") as lines:
        documents = [heldout.from_json(line) for line in lines]
    if name == TOKEN_NGRAM:
        print(repr(token_ngram_bits_per_byte(Path(train_file).parent, documents)))
        return
    with Path(train_file).open(encoding="utf-8") as lines:
        train = _raw([heldout.from_json(line) for line in lines])
    if name == BYTE_NGRAM:
        print(repr(byte_ngram_bits_per_byte(train, documents)))
        return
    end = b"".join(train)[-TRAIN_BYTES:]
    if name.startswith("ppmd-"):
        value = ppmd_bits_per_byte(end, _raw(documents), int(name.removeprefix("ppmd-")))
    else:
        value = xz_bits_per_byte(end, _raw(documents))
    print(repr(value))


if __name__ == "__main__":
    _main(*sys.argv[1:])
