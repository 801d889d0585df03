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
from .encoder import FIELDS_PATTERN, WORDS_PATTERN, encode_flat, encode_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>")
BOS, EOS, PAD = 0, 1, 2
TOKEN_SPLITS = ("words", "fields", "bytes")
BYTES_VOCABULARY = 256 + len(SPECIAL_TOKENS)

FIELD_SEPARATORS = (" | ", "\t")
VOCAB_SIZES = (512, 1024, 2048, 4096)
SAMPLE_BYTES = 3_000_000
"""As much text decides the vocabulary; more moves bytes per token by less than the tolerance."""
LONGEST_LEARNED = 256
"""Characters of a field or a word from which merges are learned in one go: time grows with the square of the length."""
HELD_EVERY = 5
"""Every fifth document of the sample is not trained on but measured."""
WORTH_DOUBLING = 0.02
"""A vocabulary is doubled only for at least this share more bytes per token."""


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
    """Train BPE with at most `vocab_size` entries (small corpora run out of merges: read the actual size off it).

    Split "bytes" trains nothing: one token per byte, whatever the size asked for.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if split == "bytes":
        tokenizer.pre_tokenizer = byte_level
        pieces, vocab_size = iter(()), BYTES_VOCABULARY
    elif split == "fields":
        cut = pre_tokenizers.Split(Regex(FIELDS_PATTERN), behavior="merged_with_next")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    else:
        cut = pre_tokenizers.Split(Regex(WORDS_PATTERN), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kept = tokenizer.pre_tokenizer
    if split != "bytes":
        short = pre_tokenizers.Split(Regex(rf"[\s\S]{{1,{LONGEST_LEARNED}}}"), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, short, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    tokenizer.pre_tokenizer = kept
    # Corpus text is data: a literal "<|bos|>" in it must stay text and never become the special token.
    return Tokenizer.from_str(_without_special_matching(tokenizer.to_str()))


def choose_vocab_size(
    texts: Iterable[str], split: str, sizes: Sequence[int] = VOCAB_SIZES
) -> tuple[int, dict[int, float]]:
    """The smallest of the doubling `sizes` that the next one beats by less than 2 % bytes per token, and the figures.

    Every fifth text of the first 3 MB is measured, the others train the candidates. Meant for train texts. For a model
    of a size that fits a laptop a larger vocabulary costs parameters and time in its head, so it has to earn them.
    """
    fit: list[str] = []
    held: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        (held if number % HELD_EVERY == HELD_EVERY - 1 else fit).append(text[: SAMPLE_BYTES - size])
        size += len(text)
        if size >= SAMPLE_BYTES:
            break
    measured = held or fit
    byte_count = sum(len(text.encode("utf-8")) for text in measured)
    figures: dict[int, float] = {}
    for vocab_size in sizes:
        tokenizer = train_tokenizer(iter(fit), vocab_size, split)
        tokens = sum(len(ids) for ids in encode_flat(tokenizer, measured))
        figures[vocab_size] = round(byte_count / max(1, tokens), 4)
    for smaller, larger in pairwise(sizes):
        if figures[larger] < (1 + WORTH_DOUBLING) * figures[smaller]:
            return smaller, figures
    return sizes[-1], figures


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


def token_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each token, by id; U+FFFD stands in it for bytes that are no whole character."""
    ids = [[number] for number in range(tokenizer.get_vocab_size())]
    return tokenizer.decode_batch(ids, skip_special_tokens=False)


def cut_at_spans(text: str, spans: Sequence[Span]) -> list[str]:
    """The pieces of `text` between span edges; their concatenation is `text`."""
    if not spans:
        return [text]
    raw = text.encode("utf-8")
    edges = sorted({0, len(raw), *(edge for span in spans for edge in (span.start, span.end))})
    return [raw[start:end].decode("utf-8") for start, end in pairwise(edges)]


def encode_texts(tokenizer: Tokenizer, documents: Sequence[Sequence[str]]) -> list[list[int]]:
    """Token ids of each document, given as its pieces; no special tokens are added."""
    return [ids.tolist() for ids in encode_pieces(tokenizer, documents)]
