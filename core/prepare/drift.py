"""Whether the records change their vocabulary between train and the held-out parts of a split by time.

Called by the pipeline. Promises: fields are told by position, nothing held out is quoted, memory is bounded.
A log that begins to write codes where it wrote words makes every later score a measure of that change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from .tokenizer import FIELD_SEPARATORS

REFERENCE_BYTES = 8_000_000
"""Only the newest part of train is compared with."""
PROBE_SHARE = 0.1
"""The newest share of that part shows how many unseen values are usual."""
JUMP = 0.2
"""A field is reported when the share of unseen values grows by this much."""
FEWEST_VALUES = 200
MOST_FIELDS = 64
MOST_VALUES = 200_000
"""A field with more different values than this is a number or an identifier: it has no vocabulary that could change."""
SHOWN_VALUE = 24


def newest_groups(sizes: Mapping[str, tuple[str, int, int]]) -> tuple[set[str], set[str]]:
    """(reference, probe): names of the newest groups of train. `sizes` gives (time, order, bytes) of each."""
    newest = sorted(sizes, key=lambda name: sizes[name][:2], reverse=True)
    probe: set[str] = set()
    reference: set[str] = set()
    total = min(REFERENCE_BYTES, sum(size for _, _, size in sizes.values()))
    read = 0
    for name in newest:
        if read >= total:
            break
        (probe if read < PROBE_SHARE * total else reference).add(name)
        read += sizes[name][2]
    return reference, probe


def drift_notices(
    reference: Iterable[str],
    probe: Iterable[str],
    held: Mapping[str, Iterable[str]],
    probed_part: str = "the newest part of train",
) -> list[str]:
    """One line per field and split whose values are new far more often than in `probe`, a part of train."""
    known: list[Counter[str]] = []
    closed: set[int] = set()
    for text in reference:
        for position, value in _fields(text):
            while len(known) <= position:
                known.append(Counter())
            if position not in closed:
                known[position][value] += 1
                if len(known[position]) > MOST_VALUES:
                    closed.add(position)
                    known[position].clear()
    usual = _unseen(probe, known, closed)
    found: dict[int, list[str]] = {}
    for split, texts in held.items():
        for position, (unseen, count) in _unseen(texts, known, closed).items():
            before, probed = usual.get(position, (0, 0))
            if min(count, probed) < FEWEST_VALUES or unseen / count - before / probed < JUMP:
                continue
            found.setdefault(position, []).append(f"{unseen / count:.0%} in {split}")
    return [
        f"field {position + 1} of the records (such as '{_example(known[position])}') changes: values that train never "
        f"shows are {' and '.join(shares)}, against {usual[position][0] / usual[position][1]:.0%} in {probed_part}; "
        "scores there measure the change as well (until = in [data] can end the data before it)"
        for position, shares in sorted(found.items())
    ]


def _unseen(texts: Iterable[str], known: list[Counter[str]], closed: set[int]) -> dict[int, tuple[int, int]]:
    """Position -> (values that are not known, values)."""
    unseen: Counter[int] = Counter()
    count: Counter[int] = Counter()
    for text in texts:
        for position, value in _fields(text):
            if position < len(known) and position not in closed:
                count[position] += 1
                unseen[position] += value not in known[position]
    return {position: (unseen[position], count[position]) for position in count}


def _fields(text: str) -> Iterator[tuple[int, str]]:
    """(position, value) of every field of every record; lines without a separator are no records."""
    for line in text.split("\n"):
        for separator in FIELD_SEPARATORS:
            if separator in line:
                yield from enumerate(line.split(separator)[:MOST_FIELDS])
                break


def _example(values: Counter[str]) -> str:
    """The most frequent value of a field in train that is not empty."""
    ranked = sorted((value for value in values if value.strip()), key=lambda value: (-values[value], value))
    return ranked[0].strip()[:SHOWN_VALUE] if ranked else ""
