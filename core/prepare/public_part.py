"""The public part of prepared data: tokenizer and token shards of train, and its answers for the baselines.

Called by the pipeline with what the model will read and nothing else, so nothing held out can get in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..contracts import Document, Span, Task
from ..recipe import TokenizerTable
from .answers import fill_choices, read_answers, write_answers
from .encoder import encode_pieces
from .heldout import HeldDocument, in_chunks
from .manifest import TOKENIZER_FILE, Progress
from .shards import ShardWriter, token_dtype
from .tokenizer import (
    BYTES_VOCABULARY,
    choose_split,
    choose_vocab_size,
    cut_at_spans,
    load_tokenizer,
    train_tokenizer,
)

TOKENIZER_TRAIN_BYTES = 20_000_000
"""More text moves bytes per token by less than a percent; records whose fields never recur cost 50 times their size."""
PASSAGE_CHARACTERS = 16_384
"""Of a longer document passages are taken when the tokenizer cannot learn from all text."""
MAX_CHARACTER_BYTES = 4


class PublicPart:
    """Writes tokenizer and shards into a folder, and knows their figures afterwards."""

    def __init__(
        self,
        folder: Path,
        asked: TokenizerTable,
        documents: Callable[[], Iterable[HeldDocument]],
        byte_count: int,
        progress: Progress,
    ) -> None:
        """`documents` gives all that the model will read, `byte_count` bytes, anew at each call."""
        self.vocab_size = self.vocab_asked = self.token_count = 0
        self.byte_count = byte_count
        self.token_split = self.token_dtype = ""
        self.vocab_measured: dict[str, float] = {}
        """Vocabulary size -> bytes per token, when the recipe left the size to a measurement."""
        self._folder, self._asked, self._documents, self._progress = folder, asked, documents, progress

    def train_tokenizer(self, declared_split: str) -> None:
        """Write tokenizer.json. `declared_split` is the adapter's, "auto" when it has none."""
        self.token_split = self._asked.split if self._asked.split != "auto" else declared_split
        if self.token_split == "auto":
            self.token_split = choose_split(held.document.text for held in self._documents())
        if self.token_split == "bytes":
            self.vocab_asked = BYTES_VOCABULARY
        elif self._asked.vocab_size != "auto":
            self.vocab_asked = self._asked.vocab_size
        else:
            self._progress("measuring which vocabulary is worth its size")
            texts = (held.document.text for held in self._documents())
            self.vocab_asked, measured = choose_vocab_size(texts, self.token_split)
            self.vocab_measured = {str(size): figure for size, figure in measured.items()}
        tokenizer = train_tokenizer(self._pieces(), self.vocab_asked, self.token_split)
        tokenizer.save(str(self._folder / TOKENIZER_FILE), pretty=False)

    def _pieces(self) -> Iterator[str]:
        """The text that the tokenizer learns from: of a large train, passages at even distances, the first always."""
        if self.byte_count <= TOKENIZER_TRAIN_BYTES:
            for held in self._documents():
                yield from cut_at_spans(held.document.text, held.document.spans)
            return
        share = TOKENIZER_TRAIN_BYTES / self.byte_count
        longest = min(PASSAGE_CHARACTERS, max(1, TOKENIZER_TRAIN_BYTES // MAX_CHARACTER_BYTES))
        seen = taken = 0
        for held in self._documents():
            for text, spans in _passages(held.document, longest):
                size = len(text.encode("utf-8"))
                if taken <= seen * share and taken + size <= TOKENIZER_TRAIN_BYTES:
                    taken += size
                    yield from cut_at_spans(text, spans)
                seen += size

    def write_shards(self) -> None:
        """Encode all documents with the tokenizer in the folder."""
        tokenizer = load_tokenizer(self._folder / TOKENIZER_FILE)
        self.vocab_size = tokenizer.get_vocab_size()
        self.token_dtype = token_dtype(self.vocab_size)
        with ShardWriter(self._folder, self.token_dtype) as shards:
            for number, chunk in enumerate(in_chunks(self._documents()), 1):
                pieces = [cut_at_spans(held.document.text, held.document.spans) for held in chunk]
                for held, ids in zip(chunk, encode_pieces(tokenizer, pieces), strict=True):
                    shards.append(ids, len(held.document.text.encode("utf-8")))
                if number % 20 == 0:
                    self._progress(f"encoding train: {shards.token_count:,} tokens")
            self.token_count, self.byte_count = shards.token_count, shards.byte_count


def write_tasks(path: Path, train: Iterable[HeldDocument], tasks: tuple[Task, ...]) -> tuple[Task, ...]:
    """Write the answers of train for the baselines; returns the tasks with their choices filled in."""
    write_answers(path, (held.document for held in train), tasks)
    examples = read_answers(path)
    return tuple(fill_choices(task, examples) for task in tasks)


def _passages(document: Document, longest: int) -> Iterator[tuple[str, Sequence[Span]]]:
    """The document as it is when it is short, else its pieces in passages of at most `longest` characters."""
    if len(document.text) <= longest:
        yield document.text, document.spans
        return
    for piece in cut_at_spans(document.text, document.spans):
        for start in range(0, len(piece), longest):
            yield piece[start : start + longest], ()
