"""An adapter for rows of a table: what `slm-ar adapters new` writes, to be bent into the shape of your data.

Reads csv, tsv, json lines and parquet files. Each row becomes one document, `column: value | ... | label: answer`; the
last column is the answer. Change `_line` and `_group` first; `slm-ar adapters check` says what is still wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from slm_ar.core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule, Task
from slm_ar.core.errors import DataError, did_you_mean
from slm_ar.core.sources import TABLE_SUFFIXES, Notices, list_files, read_table

MISSING = "?"
OPTIONS = {
    "group": "Column whose equal values never straddle two splits; default: every row by itself.",
}


class TemplateAdapter:
    """Rows of tables; the last column is the answer."""

    name = "template"
    version = 1  # raise it whenever the documents of an unchanged source change
    split = SplitRule.GROUP  # TIME when the future must not help the past: then set Document.time as well
    duplicates = DuplicatePolicy.EXACT
    tasks: tuple[Task, ...] = (Task("answer", kind="choice", metric="accuracy", direction="max"),)
    slice_keys: tuple[str, ...] = ()
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self._counts = Notices()

    @property
    def notices(self) -> list[str]:
        """What the last reading skipped or tolerated, one sentence per file and kind; prepare and inspect tell it."""
        return self._counts.lines()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per row with an answer, in order of file and row. Raises DataError naming file and reason."""
        self._counts = Notices()
        found = False
        for identity, row in _rows(source, options, self._counts):
            if _line(row)[1] == MISSING:
                self._counts.count(str(source), "rows without an answer, skipped")
                continue
            found = True
            yield _document(identity, row, options)
        if not found:
            hint = "\n".join(self.notices) or f"Read are files ending in {' '.join(TABLE_SUFFIXES)}."
            raise DataError(f"{source}: holds no rows with an answer", hint)

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """Rows whose last cell is empty, as prompts: what `slm-ar predict` answers. Leave it out if none is asked."""
        self._counts = Notices()
        for identity, row in _rows(source, options, self._counts):
            prompt, answer = _line(row)
            if answer == MISSING:
                end = len(prompt.encode("utf-8"))
                yield Document(identity, prompt, _group(identity, row, options), spans=(Span(end, end, "answer"),))

    def slices(self, document: Document) -> Mapping[str, str]:
        """Nothing to break scores down by."""
        return {}

    def describe(self) -> str:
        """Plain words for program.md."""
        return "Rows of a table, `column: value | ...`; the last column is the answer that counts."

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of made-up rows."""
        chance = random.Random(f"template {seed}")
        total = number = 0
        while total < size:
            number += 1
            amount = chance.randint(1, 900)
            row = {"amount": str(amount), "shop": chance.choice("abc"), "size": "large" if amount > 300 else "small"}
            document = _document(f"sample:{number}", row, SourceOptions())
            total += len(document.text.encode())
            yield document


def _rows(source: Path, options: SourceOptions, counts: Notices) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(id, row) of every row of every table; an id stays the same wherever the source lies."""
    for name in options.options:
        if name not in OPTIONS:
            raise DataError(f"there is no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS)))
    for path in list_files(source, TABLE_SUFFIXES):
        name = path.name if path == source else path.relative_to(source).as_posix()
        for number, row in enumerate(read_table(path, notices=counts), start=1):
            yield f"{name}:{number}", row


def _document(identity: str, row: Mapping[str, str], options: SourceOptions) -> Document:
    prompt, answer = _line(row)
    start = len(prompt.encode("utf-8"))  # offsets count bytes of UTF-8
    span = Span(start, start + len(answer.encode("utf-8")), "answer")
    return Document(identity, f"{prompt}{answer}\n", _group(identity, row, options), spans=(span,))


def _line(row: Mapping[str, str]) -> tuple[str, str]:
    """What comes before the answer, and the answer. What gives the answer away must stand behind it or be left out."""
    *known, (label, answer) = ((name, value.strip() or MISSING) for name, value in row.items())
    return "".join(f"{name}: {value} | " for name, value in known) + f"{label}: ", answer


def _group(identity: str, row: Mapping[str, str], options: SourceOptions) -> str:
    """Rows that tell of the same thing belong to one group, or the model is examined on what it has learned."""
    column = options.options.get("group")
    if column is None:
        return identity
    if column not in row:
        raise DataError(f"[data.options] group = '{column}': no such column", did_you_mean(str(column), list(row)))
    return row[str(column)].strip() or identity
