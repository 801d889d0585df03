"""Token shards on disk: one flat array of ids, one array of document starts, one of document bytes.

Written by the pipeline, read by the runtime inside train.py (through descriptors, never by path). Little-endian,
no header, so that a memory map needs nothing but the dtype that the manifest names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from .tokenizer import BOS, EOS

TOKENS_FILE, OFFSETS_FILE, BYTES_FILE = "train.tokens", "train.offsets", "train.bytes"


def token_dtype(vocab_size: int) -> str:
    """ "uint16" while every id fits in it, else "uint32"."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class ShardWriter:
    """Appends documents; `with` closes the files. Each document is stored as BOS, its tokens, EOS."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.token_count = 0
        self.document_count = 0
        self.byte_count = 0
        self._first, self._last = (np.array([token], self.dtype).tobytes() for token in (BOS, EOS))
        self._files: tuple[BinaryIO, ...] = tuple(
            (folder / name).open("wb") for name in (TOKENS_FILE, OFFSETS_FILE, BYTES_FILE)
        )

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files[1].write(self.token_count.to_bytes(8, "little"))
        for file in self._files:
            file.close()

    def append(self, ids: Sequence[int] | np.ndarray[Any, Any], byte_count: int) -> None:
        tokens, offsets, sizes = self._files
        offsets.write(self.token_count.to_bytes(8, "little"))
        sizes.write(byte_count.to_bytes(8, "little"))
        tokens.write(self._first + np.asarray(ids, self.dtype).tobytes() + self._last)
        self.token_count += len(ids) + 2
        self.document_count += 1
        self.byte_count += byte_count
