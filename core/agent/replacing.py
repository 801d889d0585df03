"""Search/replace edits of train.py, as language models write them: found exactly and once, or with a second chance.

Called by the proposers that speak to language models. Nothing here runs the text. What cannot be applied is a
TrainingError whose message tells the model what to do differently; the text of the edits comes from outside, so its
size is capped before anything is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import TrainingError

MOST_EDITS = 40
MOST_BYTES = 64_000
"""Of all edits together: more than twice what train.py may hold."""
MOST_PLACES = 8

_BEGIN = re.compile(r"<{5,9} ?SEARCH\s*")
_DIVIDER = re.compile(r"={5,9}\s*")
_END = re.compile(r">{5,9} ?REPLACE\s*")
_BLANK = re.compile(r"[ \t]*")


@dataclass(frozen=True, slots=True)
class Edit:
    """Put `new` where `old` stands. `old` must stand exactly once."""

    old: str
    new: str


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """`text` after all edits, each applied to what the ones before it left. Raises TrainingError; then none counts."""
    if not edits:
        raise TrainingError("There is no edit.", "Give at least one edit with old and new text.")
    if len(edits) > MOST_EDITS:
        raise TrainingError(f"There are {len(edits)} edits, and {MOST_EDITS} are allowed.", "One idea per proposal.")
    size = sum(len((edit.old + edit.new).encode("utf-8", "surrogatepass")) for edit in edits)
    if size > MOST_BYTES:
        raise TrainingError(
            f"The edits hold {size} bytes, and {MOST_BYTES} are allowed.", "Quote only the lines that change."
        )
    after = text
    for number, edit in enumerate(edits, 1):
        after = _applied(after, edit, number)
    if after == text:
        raise TrainingError("The edits change nothing.", "old and new must differ.")
    return after


def fenced_edits(answer: str) -> tuple[Edit, ...]:
    """The SEARCH/REPLACE blocks of an answer in plain text, in order. Raises TrainingError for a broken one."""
    edits: list[Edit] = []
    old: list[str] | None = None
    new: list[str] | None = None
    for line in answer.split("\n"):
        if _BEGIN.fullmatch(line) and old is None:
            old = []
        elif _DIVIDER.fullmatch(line) and old is not None and new is None:
            new = []
        elif _END.fullmatch(line) and old is not None and new is not None:
            edits.append(Edit("\n".join(old), "\n".join(new)))
            old = new = None
        elif _BEGIN.fullmatch(line) or _END.fullmatch(line):
            raise _broken_block()
        elif old is not None:
            (old if new is None else new).append(line)
    if old is not None:
        raise _broken_block()
    return tuple(edits)


def _broken_block() -> TrainingError:
    return TrainingError(
        "A SEARCH/REPLACE block is not complete.",
        "Each block has three lines of marks: <<<<<<< SEARCH, =======, >>>>>>> REPLACE.",
    )


def _applied(text: str, edit: Edit, number: int) -> str:
    if not edit.old.strip():
        raise TrainingError(
            f"Edit {number}: its old text is empty.", "Quote a line of train.py, and repeat it in the new text."
        )
    places = _places(text, edit.old)
    if len(places) == 1:
        return text[: places[0]] + edit.new + text[places[0] + len(edit.old) :]
    if places:
        lines = ", ".join(str(text.count("\n", 0, place) + 1) for place in places)
        raise TrainingError(
            f"Edit {number}: its old text stands more than once, at lines {lines}.",
            "Quote more of the lines around it, so that it stands once.",
        )
    found = list(_alike(text, edit.old))
    if len(found) == 1:
        start, end, shift = found[0]
        return text[:start] + _shifted(edit.new, shift) + text[end:]
    if found:
        raise TrainingError(
            f"Edit {number}: its old text stands nowhere exactly, and {len(found)} times with other white space.",
            "Copy the lines from train.py as they are, with more of the lines around them.",
        )
    raise TrainingError(
        f"Edit {number}: its old text does not stand in train.py: {_first_line(edit.old)}.",
        "Copy the lines from train.py as they are; edits apply one after the other.",
    )


def _places(text: str, old: str) -> list[int]:
    """Where `old` begins, overlapping places included, and no more than are worth telling."""
    places: list[int] = []
    start = text.find(old)
    while start >= 0 and len(places) < MOST_PLACES:
        places.append(start)
        start = text.find(old, start + 1)
    return places


def _first_line(old: str) -> str:
    line = old.strip().splitlines()[0].strip()
    return repr(line if len(line) <= 80 else line[:77] + "...")


# --- the second chance ----------------------------------------------------------------------


def _alike(text: str, old: str) -> Iterator[tuple[int, int, int]]:
    """Where whole lines of `text` equal `old` but for white space at line ends and one common shift of indentation.

    Yields start, end and the shift: columns that the text is further in than `old`.
    """
    wanted = old.strip("\r\n").split("\n")
    while wanted and not wanted[0].strip():
        del wanted[0]
    while wanted and not wanted[-1].strip():
        del wanted[-1]
    if any("\t" in _indent(line) for line in wanted if line.strip()):
        return
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for first in range(len(lines) - len(wanted) + 1):
        shift = _width(lines[first]) - _width(wanted[0])
        if all(_equal(lines[first + place], line, shift) for place, line in enumerate(wanted)):
            last = first + len(wanted) - 1
            yield starts[first], starts[last] + len(lines[last].rstrip("\r")), shift


def _equal(line: str, wanted: str, shift: int) -> bool:
    if line.strip() != wanted.strip():
        return False
    return not line.strip() or ("\t" not in _indent(line) and _width(line) == _width(wanted) + shift)


def _indent(line: str) -> str:
    match = _BLANK.match(line)
    return match[0] if match else ""


def _width(line: str) -> int:
    return len(_indent(line))


def _shifted(new: str, shift: int) -> str:
    """`new` with every line `shift` columns further in, or out as far as it goes; whole lines replace whole lines."""
    lines = new.strip("\r\n").split("\n")
    moved = []
    for line in lines:
        width = max(0, _width(line) + shift)
        moved.append(" " * width + line.lstrip(" \t") if line.strip() else line.strip())
    return "\n".join(moved)
