"""What a person should know of their texts before a model reads them: size, repeats, entropy, languages, risks.

Called by `slm-ar inspect`, which adds what preparing and a few seconds of training measure. Promises: one pass, memory
bounded (counts, digests and a sample of the text), nothing of the text leaves except field positions and example ids.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts import Document

SAMPLE_BYTES = 8_000_000
"""The beginning of the text that the slower looks (languages, personal data, fields) are taken at."""
MOST_VALUES = 20_000
FEWEST_RECORDS = 50
RECURRENCE = 0.02
"""A field whose values recur in less than this share of its records cannot be learned, only memorised."""
LICENCE_NAMES = re.compile(r"(licen[cs]e|copying|notice|terms|readme|citation)", re.IGNORECASE)

_PERSONAL = {
    "e-mail addresses": re.compile(r"\b[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}\b"),
    "telephone numbers": re.compile(r"(?<![\w.])\+\d{1,3}[ .-]?(?:\(?\d{2,4}\)?[ .-]?){2,4}\d{2,4}(?!\w)"),
    "card numbers": re.compile(r"(?<![\w.])(?:\d{4}[ -]?){3}\d{4}(?!\w)"),
    "IP addresses": re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"),
    "account numbers (IBAN)": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?\b"),
}
_MOJIBAKE = re.compile("\N{REPLACEMENT CHARACTER}|Ã[\x80-\xbf©¨¤¶¼ ]|â€[™œ“”¦]|Â[°·»«£ ]")
_DATE = re.compile(r"(?:19|20)\d\d-[01]\d-[0-3]\d|[0-3]?\d[./][01]?\d[./](?:19|20)\d\d")
_STOP_WORDS = {
    "English": "the and of to in is was that it with for you",
    "German": "der die und das nicht ist ein mit auf den von ich",
    "French": "le la les et des est une dans que pour pas vous",
    "Spanish": "el la los que y en una por con para del las",
    "Portuguese": "o que não uma com para os mais como dos ao são",
    "Italian": "il che di la non per una sono con del della gli",
    "Dutch": "de het een van en dat niet op met zijn voor aan",
}
_SCRIPTS = {
    "Cyrillic": re.compile("[Ѐ-ӿ]"),
    "Greek": re.compile("[Ͱ-Ͽ]"),
    "Arabic": re.compile("[؀-ۿ]"),
    "Hebrew": re.compile("[֐-׿]"),
    "Devanagari": re.compile("[ऀ-ॿ]"),
    "Chinese or Japanese": re.compile("[぀-ヿ一-鿿]"),
    "Korean": re.compile("[가-힣]"),
    "Thai": re.compile("[฀-๿]"),
}


@dataclass(frozen=True, slots=True)
class TextFacts:
    """Counts over all documents; shares are of 1."""

    documents: int
    byte_count: int
    lines: int
    groups: int
    exact_duplicates: int
    longest_bytes: int
    median_bytes: int
    byte_entropy: float
    """Bits per byte of the byte frequencies alone: what a model without any context would pay."""
    non_ascii_share: float
    languages: tuple[str, ...]
    mojibake_documents: int
    personal: Mapping[str, int]
    """Kind of personal data -> how often something in the sample looks like it."""
    records: int
    cannot_recur: tuple[str, ...]
    """Fields of the records whose values hardly ever come back: dates, serial numbers."""
    answers: Mapping[str, int] = field(default_factory=dict)
    """Task -> answer spans."""


def look_at(documents: Iterable[Document]) -> TextFacts:
    """All facts in one pass. Memory: about 250 bytes per document, and the values of SAMPLE_BYTES of records."""
    seen: set[bytes] = set()
    groups: set[bytes] = set()
    sizes: list[int] = []
    byte_counts: Counter[int] = Counter()
    words: Counter[str] = Counter()
    personal: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    fields = _Fields()
    duplicates = lines = mojibake = total = 0
    for document in documents:
        raw = document.text.encode("utf-8")
        digest = hashlib.blake2b(raw.rstrip(), digest_size=16).digest()
        duplicates += digest in seen
        seen.add(digest)
        groups.add(hashlib.blake2b(document.group.encode("utf-8"), digest_size=12).digest())
        sizes.append(len(raw))
        lines += raw.count(b"\n") + (not raw.endswith(b"\n"))
        mojibake += bool(_MOJIBAKE.search(document.text))
        answers.update(span.task for span in document.spans)
        if total < SAMPLE_BYTES:
            byte_counts.update(raw)
            words.update(re.findall(r"[^\W\d_]+", document.text.lower()))
            for kind, pattern in _PERSONAL.items():
                personal[kind] += sum(1 for match in pattern.finditer(document.text) if _is_plausible(kind, match[0]))
            fields.add(document.text)
        total += len(raw)
    sampled = sum(byte_counts.values())
    entropy = -sum(n / sampled * math.log2(n / sampled) for n in byte_counts.values()) if sampled else 0.0
    return TextFacts(
        documents=len(sizes),
        byte_count=total,
        lines=lines,
        groups=len(groups),
        exact_duplicates=duplicates,
        longest_bytes=max(sizes, default=0),
        median_bytes=sorted(sizes)[len(sizes) // 2] if sizes else 0,
        byte_entropy=entropy,
        non_ascii_share=sum(n for byte, n in byte_counts.items() if byte > 127) / max(1, sampled),
        languages=_languages(words),
        mojibake_documents=mojibake,
        personal={kind: n for kind, n in personal.items() if n},
        records=fields.records,
        cannot_recur=fields.cannot_recur(),
        answers=dict(answers),
    )


def licence_files(source: Path) -> list[str]:
    """Files beside or inside the source whose name promises terms of use."""
    folder = source if source.is_dir() else source.parent
    return sorted(path.name for path in folder.iterdir() if path.is_file() and LICENCE_NAMES.search(path.name))[:10]


def _is_plausible(kind: str, text: str) -> bool:
    """Card numbers pass the Luhn check (ISO/IEC 7812-1, annex B); parts of an IP address are bytes."""
    if kind == "card numbers":
        digits = [int(character) for character in text if character.isdigit()][::-1]
        doubled = sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])
        return (sum(digits[::2]) + doubled) % 10 == 0
    if kind == "IP addresses":
        return all(int(part) < 256 for part in text.split("."))
    return True


def _languages(words: Counter[str]) -> tuple[str, ...]:
    """Languages and scripts that make up a tenth or more of the sample, by their commonest words and letters."""
    total = sum(words.values())
    if not total:
        return ()
    found = []
    stop = {name: sum(words[word] for word in text.split()) for name, text in _STOP_WORDS.items()}
    best = max(stop.values())
    # Stop words make up a third of running text; a table of names and codes has almost none.
    if best >= 0.05 * total:
        found += [name for name, count in stop.items() if count >= 0.5 * best]
    for name, letters in _SCRIPTS.items():
        if sum(count for word, count in words.items() if letters.search(word)) >= 0.1 * total:
            found.append(name)
    return tuple(found)


class _Fields:
    """The values of each field of record lines (`a | b | c`, tabs, or `column: value`), as digests."""

    def __init__(self) -> None:
        self.records = 0
        self._values: dict[str, Counter[int]] = {}
        self._counts: Counter[str] = Counter()
        self._dates: Counter[str] = Counter()

    def add(self, text: str) -> None:
        """Look at every line that is a record."""
        for line in text.split("\n"):
            cells = line.split(" | ") if " | " in line else line.split("\t")
            if len(cells) < 2:
                continue
            self.records += 1
            for place, cell in enumerate(cells, start=1):
                label, colon, value = cell.partition(": ")
                name = f"'{label.strip()}'" if colon else f"field {place}"
                self._count(name, (value if colon else cell).strip())

    def _count(self, name: str, value: str) -> None:
        if not value or value == "?":
            return
        values = self._values.setdefault(name, Counter())
        self._counts[name] += 1
        self._dates[name] += bool(_DATE.search(value))
        if len(values) < MOST_VALUES or hash(value) in values:
            values[hash(value)] += 1

    def cannot_recur(self) -> tuple[str, ...]:
        """Fields of which nearly every value stands once, and fields that hold absolute dates."""
        found = []
        for name, values in self._values.items():
            counted = sum(values.values())
            if counted < FEWEST_RECORDS:
                continue
            again = sum(count for count in values.values() if count > 1) / counted
            if self._dates[name] >= 0.9 * self._counts[name]:
                found.append(f"{name} holds absolute dates")
            elif again < RECURRENCE:
                found.append(f"{name} hardly ever repeats ({len(values):,} values in {counted:,} records)")
        return tuple(found)
