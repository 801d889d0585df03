"""Finds held-out text that was pasted into train.py: runs of 13 words that both have.

Called by the executor before every score. Code that carries the answers needs no cheating model. What is packed or
encoded is not seen; train.py's size cap bounds what that can carry.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np

from ..prepare.heldout import read_split
from ..prepare.near import Hashes, WordHasher, ngrams
from ..prepare.overlap import NGRAM_WORDS
from ..prepare.split import HELD_OUT


class HeldText:
    """The word runs of dev, hidden and test of prepared data; read when the first code is looked at."""

    def __init__(self, held_folder: Path) -> None:
        self._folder = held_folder
        self._hasher = WordHasher()

    def shared_runs(self, train_py: str) -> int:
        """How many runs of 13 words of the code, or of its strings, stand in held-out text."""
        runs = [self._runs(text) for text in _texts(train_py)]
        mine = np.setdiff1d(np.concatenate(runs), self._shipped)
        return int(np.isin(mine, self._held, assume_unique=True).sum())

    @cached_property
    def _held(self) -> Hashes:
        texts = (held.document.text for split in HELD_OUT for held in read_split(self._folder, split))
        return np.unique(np.concatenate([np.empty(0, np.uint64), *map(self._runs, texts)]))

    @cached_property
    def _shipped(self) -> Hashes:
        """What the code that everybody starts with says; a corpus of code may say it too."""
        return self._runs(resources.files("slm_ar.program_templates").joinpath("train.py").read_text(encoding="utf-8"))

    def _runs(self, text: str) -> Hashes:
        return np.unique(ngrams(self._hasher.words(text), NGRAM_WORDS))


def _texts(code: str) -> Iterator[str]:
    """The code as it stands, and its strings as they are meant."""
    yield code
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        constants = (node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant))
        yield " ".join(_as_text(value) for value in constants if isinstance(value, str | bytes))


def _as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
