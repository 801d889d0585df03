"""Byte-level BPE, trained on the train split only, and the piecewise encoding that training and scoring share.

Called by the pipeline (train), the scorer and `generate` (encode, decode). Promises: every byte string round-trips,
because the alphabet holds all 256 bytes; text is cut at span edges before it is encoded, everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ..contracts import Span
from ..errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>")
BOS, EOS, PAD = 0, 1, 2

# The split of Llama 3 (Meta, 2024), so that GGUF runtimes know it under the name "llama-bpe".
WORDS_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A field keeps its words together: merges never cross " | ", a tab or a line end, and may cross blanks.
FIELDS_PATTERN = r" \| |\t|\n"
FIELD_SEPARATORS = (" | ", "\t")


def choose_split(texts: Iterable[str], lines: int = 2000) -> str:
    """ "fields" when most of the first `lines` lines are records with a field separator, else "words"."""
    seen = records = 0
    for text in texts:
        for line in islice(text.split("\n"), 200):
            if line.strip():
                seen += 1
                records += any(line.count(separator) >= 2 for separator in FIELD_SEPARATORS)
        if seen >= lines:
            break
    return "fields" if seen and records / seen >= 0.8 else "words"


def train_tokenizer(pieces: Iterator[str], vocab_size: int, split: str) -> Tokenizer:
    """Train BPE with at most `vocab_size` entries (small corpora run out of merges: read the actual size off it)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if split == "fields":
        cut = pre_tokenizers.Split(Regex(FIELDS_PATTERN), behavior="merged_with_next")
    else:
        cut = pre_tokenizers.Split(Regex(WORDS_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    # Corpus text is data: a literal "<|bos|>" in it must stay text and never become the special token.
    return Tokenizer.from_str(_without_special_matching(tokenizer.to_str()))


def _without_special_matching(text: str) -> str:
    """Drop `added_tokens`: the ids stay in the vocabulary, but no text is ever matched to them.

    Nor may a merge lead to one: training gives a merge the id of an entry with the same characters.
    """
    import json

    tokenizer = json.loads(text)
    tokenizer["added_tokens"] = []
    model = tokenizer["model"]
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) not in SPECIAL_TOKENS]
    return json.dumps(tokenizer, ensure_ascii=False)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read tokenizer.json. Raises DataError when it is missing or damaged."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} cannot be read as a tokenizer: {error}", "run `slm-ar prepare` again") from error


def cut_at_spans(text: str, spans: Sequence[Span]) -> list[str]:
    """The pieces of `text` between span edges; their concatenation is `text`."""
    if not spans:
        return [text]
    raw = text.encode("utf-8")
    edges = sorted({0, len(raw), *(edge for span in spans for edge in (span.start, span.end))})
    return [raw[start:end].decode("utf-8") for start, end in pairwise(edges)]


def encode_texts(tokenizer: Tokenizer, documents: Sequence[Sequence[str]]) -> list[list[int]]:
    """Token ids of each document, given as its pieces; no special tokens are added."""
    flat = [piece for pieces in documents for piece in pieces]
    encodings = iter(tokenizer.encode_batch_fast(flat, add_special_tokens=False))
    result: list[list[int]] = []
    for pieces in documents:
        ids: list[int] = []
        for encoding in islice(encodings, len(pieces)):
            ids.extend(encoding.ids)
        result.append(ids)
    return result
