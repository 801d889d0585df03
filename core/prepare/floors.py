"""What compressors reach on dev: the bar that a model must pass before its bits per byte are worth quoting.

PPMd (variant H, Shkarin 2002) reads the train text once and is copied for each document by fork, so that no document
helps the next: a static floor. xz reads train and dev as one stream and adapts on dev: an adaptive one, named so.
Run as `python -m slm_ar.core.prepare.floors TRAIN_FILE DEV_JSONL`, in a process of its own because it forks.
"""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..environment import without_secrets

TRAIN_BYTES = 8_000_000
"""Only the end of train is read: more costs minutes and gains about a percent."""
ORDERS = (6, 12)
MEMORY_BYTES = 256 << 20


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


def measure_floors(train_file: Path, dev_file: Path) -> dict[str, float]:
    """Name -> bits per byte on dev. Runs one process per floor, as many at once as there are cores."""
    names = [*(f"ppmd-{order}" for order in ORDERS), "xz (adaptive)"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-E", "-P", "-m", "slm_ar.core.prepare.floors", str(train_file), str(dev_file), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=without_secrets(os.environ),
            text=True,
        )
        for name in names
    ]
    floors: dict[str, float] = {}
    for name, process in zip(names, processes, strict=True):
        output, _ = process.communicate()
        if process.returncode == 0 and output.strip():
            floors[name] = float(output)
    return floors


def _main(train_file: str, dev_file: str, name: str) -> None:
    train = Path(train_file).read_bytes()[-TRAIN_BYTES:]
    with Path(dev_file).open(encoding="utf-8") as lines:
        documents = [json.loads(line)["text"].encode() for line in lines]
    if name.startswith("ppmd-"):
        value = ppmd_bits_per_byte(train, documents, int(name.removeprefix("ppmd-")))
    else:
        value = xz_bits_per_byte(train, documents)
    print(repr(value))


if __name__ == "__main__":
    _main(*sys.argv[1:])
