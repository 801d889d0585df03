"""Text files cut into documents: by line, groups of lines, blocks between blank lines, or whole files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...core.errors import DataError
from ...core.sources import BOUNDARY, marked_pieces

PEEKED_CHARACTERS = 1 << 20
MAX_DOCUMENT_CHARACTERS = 64 << 20


def peek(lines: Iterator[str]) -> list[str]:
    """The first lines, about a megabyte of them."""
    peeked: list[str] = []
    size = 0
    for line in lines:
        peeked.append(line)
        size += len(line)
        if size >= PEEKED_CHARACTERS:
            break
    return peeked


def natural_unit(lines: list[str]) -> str:
    """Marked documents, else blocks when a blank line stands between lines of text, else groups of lines."""
    if any(BOUNDARY in line for line in lines):
        return "file"
    filled = [bool(line.strip()) for line in lines]
    if True not in filled:
        return "lines"
    last = len(filled) - filled[::-1].index(True)
    return "block" if False in filled[filled.index(True) : last] else "lines"


def cut(name: str, lines: Iterable[str], unit: str, lines_per_document: int) -> Iterator[tuple[int, str]]:
    """(number of the first line, text) of each document; `BOUNDARY` always ends one."""
    held: list[str] = []
    start, size = 0, 0
    for number, piece, ends in marked_pieces(lines):
        filled = bool(piece.strip())
        if filled or held:
            start = start if held else number
            held.append(piece)
            size += len(piece)
        if size > MAX_DOCUMENT_CHARACTERS:
            one_line = len(piece) > MAX_DOCUMENT_CHARACTERS
            raise DataError(
                f"{name}: the document from line {start} on is longer than {MAX_DOCUMENT_CHARACTERS:,} characters",
                "It is a single line: break the file into lines, one paragraph each."
                if one_line
                else '[data.options] unit = "lines" cuts it into smaller ones.',
            )
        full = unit == "line" or (unit == "lines" and len(held) >= lines_per_document)
        if held and (ends or full or (unit == "block" and not filled)):
            yield start, "".join(held).strip("\n") + "\n"
            held, size = [], 0
    if held:
        yield start, "".join(held).strip("\n") + "\n"
