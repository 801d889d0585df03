"""Encoding at the speed of a dictionary: text is cut where no token can cross, and every piece is encoded once.

Called by `tokenizer` on behalf of prepare, the scorer and `generate`. Promises: exactly the ids of the `tokenizers`
library, whatever the text; a cache of bounded size; a tokenizer that was not made here is left to the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The split of Llama 3 (Meta, 2024), so that GGUF runtimes know it under the name "llama-bpe".
WORDS_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# A field keeps its words together: merges never cross " | ", a tab or a line end, and may cross blanks.
FIELDS_PATTERN = r" \| |\t|\n"


def _byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2, Radford et al. 2019).

    Visible characters of Latin-1 stand for themselves; the other bytes get those from U+0100 on, in order.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


_CHARACTERS = dict(zip(map(chr, range(256)), _byte_characters(), strict=True))
"""A byte, as the character of its number, and the character that stands for it."""

CACHE_BYTES = 64 << 20
"""The cache is emptied when it has grown beyond this."""
ENTRY_BYTES = 200
"""What CPython needs for one entry of it, beside characters and ids."""

Ids = np.ndarray[Any, np.dtype[np.uint32]]

_encoders: WeakKeyDictionary[Tokenizer, PieceEncoder | ByteEncoder | None] = WeakKeyDictionary()


def encode_flat(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """The ids of each text, each as if it were encoded alone; no special tokens are added."""
    if tokenizer not in _encoders:
        _encoders[tokenizer] = _encoder_for(tokenizer)
    encoder = _encoders[tokenizer]
    if encoder is None:
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]
    return encoder.encode(texts)


def encode_pieces(tokenizer: Tokenizer, documents: Sequence[Sequence[str]]) -> list[Ids]:
    """The ids of each document, given as its pieces; the pieces are encoded one by one and joined."""
    flat = iter(encode_flat(tokenizer, list(chain.from_iterable(documents))))
    return [np.concatenate([np.empty(0, np.uint32), *islice(flat, len(pieces))]) for pieces in documents]


# --- pieces -----------------------------------------------------------------------------------


def cut_fields(text: str) -> list[str]:
    """Pieces that start where FIELDS_PATTERN matches, as the behaviour "merged_with_next" makes them.

    The three separators have no character in common, so replacing one after the other finds the matches of the
    pattern, from the left and without overlap.
    """
    if "\0" in text:
        starts = [0, *(match.start() for match in re.finditer(FIELDS_PATTERN, text)), len(text)]
        return [text[start:end] for start, end in pairwise(starts) if end > start]
    marked = text.replace(" | ", "\0 | ").replace("\t", "\0\t").replace("\n", "\0\n")
    pieces = marked.split("\0")
    return pieces if pieces[0] else pieces[1:]


def cut_words(text: str) -> list[str]:
    """The matches of WORDS_PATTERN in ASCII text; between them, chunks of whole matches around other characters.

    `re` has no \\p{L}, and its tables may be of another version of Unicode than the library's, so it is asked about
    ASCII alone. A chunk reaches from one blank that follows a visible ASCII character to the next. No match crosses
    such a place, because a match holds a blank as its first character or among white space only; and none looks across
    it: the one lookahead, after white space, ends before the visible character. So what lies between two of these
    places is matched alone as it is within the text.
    """
    if text.isascii():
        return _ASCII_WORDS.findall(text)
    pieces: list[str] = []
    done = 0
    for match in _FOREIGN.finditer(text):
        if match.start() < done:
            continue
        start = text.rfind(" ", done + 1, match.start())
        while start > 0 and not "!" <= text[start - 1] <= "~":
            start = text.rfind(" ", done + 1, start)
        start = max(start, done)
        found = _SAFE_BLANK.search(text, match.end())
        pieces += _ASCII_WORDS.findall(text, done, start)
        done = found.start() if found else len(text)
        pieces.append(text[start:done])
    return pieces + _ASCII_WORDS.findall(text, done)


_BLANKS = r"\t\n\x0b\x0c\r "
_ASCII_WORDS = re.compile(
    rf"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{{1,3}}"
    rf"| ?[^{_BLANKS}A-Za-z0-9]+[\r\n]*|[{_BLANKS}]*[\r\n]+|[{_BLANKS}]+(?![^{_BLANKS}])|[{_BLANKS}]+"
)
"""WORDS_PATTERN for ASCII text."""
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_SAFE_BLANK = re.compile(r"(?<=[!-~]) ")


class PieceEncoder:
    """Encodes by looking pieces up."""

    def __init__(self, tokenizer: Tokenizer, cut: Callable[[str], list[str]]) -> None:
        self._tokenizer, self._cut = tokenizer, cut
        self._known = _Known(tokenizer, cut)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [self._encoded(text) for text in texts]

    def _encoded(self, text: str) -> Ids:
        if self._known.size > CACHE_BYTES:
            self._known = _Known(self._tokenizer, self._cut)
        return np.frombuffer(b"".join(map(self._known.__getitem__, self._cut(text))), np.uint32)


class _Known(dict[str, bytes]):
    """Piece -> its ids as bytes; a piece that was never seen is given to the library."""

    def __init__(self, tokenizer: Tokenizer, cut: Callable[[str], list[str]]) -> None:
        super().__init__()
        self.size = 0
        self._tokenizer, self._model = tokenizer, tokenizer.model
        self._are_fields = cut is cut_fields

    def __missing__(self, piece: str) -> bytes:
        if self._are_fields or piece.isascii():
            # The pattern would not cut this piece further, so the merges alone are asked for.
            ids = [token.id for token in self._model.tokenize(_as_characters(piece))]
        else:
            ids = self._tokenizer.encode(piece, add_special_tokens=False).ids
        found = self[piece] = np.array(ids, np.uint32).tobytes()
        self.size += ENTRY_BYTES + len(piece) + len(found)
        return found


def _as_characters(text: str) -> str:
    """The text with the character of a byte-level vocabulary for each of its bytes."""
    plain = text.replace(" ", _CHARACTERS[" "]).replace("\n", _CHARACTERS["\n"]).replace("\t", _CHARACTERS["\t"])
    if text.isascii() and plain.isprintable():
        return plain
    return "".join(_CHARACTERS[character] for character in text.encode("utf-8").decode("latin-1"))


class ByteEncoder:
    """One token per byte."""

    def __init__(self, vocabulary: dict[str, int]) -> None:
        self._ids = np.array([vocabulary[character] for character in _CHARACTERS.values()], np.uint32)

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [self._ids[np.frombuffer(text.encode("utf-8"), np.uint8)] for text in texts]


# --- which tokenizers are known -----------------------------------------------------------------


def _encoder_for(tokenizer: Tokenizer) -> PieceEncoder | ByteEncoder | None:
    """The encoder that gives this tokenizer's ids, or None when its settings are not exactly ours."""
    facts = json.loads(tokenizer.to_str())
    model = facts["model"]
    asked = [facts.get(key) for key in ("normalizer", "added_tokens", "post_processor", "truncation", "padding")]
    asked += [model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")]
    if any(asked) or model.get("type") != "BPE":
        return None
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre_tokenizer = facts["pre_tokenizer"]
    if pre_tokenizer == byte_level and not model["merges"]:
        return ByteEncoder(tokenizer.get_vocab())
    for pattern, behavior, cut in (
        (FIELDS_PATTERN, "MergedWithNext", cut_fields),
        (WORDS_PATTERN, "Isolated", cut_words),
    ):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
        if pre_tokenizer == {"type": "Sequence", "pretokenizers": [split, byte_level]}:
            # A copy, because what is kept for a tokenizer must not keep the tokenizer.
            return PieceEncoder(type(tokenizer).from_str(tokenizer.to_str()), cut)
    return None
