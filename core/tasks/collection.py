"""Reads what retrieval is measured on: a person's documents, queries and relevance judgments.

Called by `slm-ar eval`. Promises: documents are streamed; every file ends as rows or as one DataError that names
file, line and the repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..sources import open_text, read_table, strip_gz
from .retrieval import Judgments

ID_NAMES = ("_id", "id", "docid", "doc_id", "docno", "pid", "query_id", "qid", "query-id")
TEXT_NAMES = ("text", "body", "contents", "content", "passage", "query", "title")

OPTIONS = ("documents", "queries", "judgments")
"""Keys of [data.options]; their files belong to the recipe's source."""


@dataclass(frozen=True, slots=True)
class Collection:
    """What retrieval is measured on: three files of a person."""

    documents: Path
    queries: Mapping[str, str]
    judgments: Judgments

    def texts(self) -> Iterator[tuple[str, str]]:
        """(id, text) of the documents, read from the file each time."""
        return read_texts(self.documents)


def load_collection(source: Path, options: Mapping[str, Any]) -> Collection | None:
    """The files that [data.options] names as documents, queries and judgments, or None when it names none.

    Relative paths count from the source folder (from the folder of a source that is a file). Raises DataError.
    """
    names = {key: str(options[key]) for key in OPTIONS if options.get(key)}
    if not names:
        return None
    if len(names) < 3:
        raise DataError(
            f"[data.options] has {' and '.join(names)}, but measuring retrieval needs documents, queries and judgments",
            'Write documents = "docs.jsonl", queries = "queries.jsonl" and judgments = "qrels.tsv".',
        )
    folder = source if source.is_dir() else source.parent
    paths = {key: folder / name for key, name in names.items()}
    for key, path in paths.items():
        if not path.is_file():
            raise DataError(f"{path}: no such file ([data.options] {key})", "The path counts from the data folder.")
    return Collection(paths["documents"], dict(read_texts(paths["queries"])), read_judgments(paths["judgments"]))


def read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each row of a jsonl, csv, parquet or tsv file; a title, where there is one, goes before the text.

    A .tsv without a header holds id and text. Raises DataError.
    """
    if strip_gz(path.name).endswith((".tsv", ".txt")):
        first = next((line for line in open_text(path) if line.strip()), "")
        cells = {cell.strip().lower() for cell in first.split("\t")}
        if not (cells & set(ID_NAMES) and cells & set(TEXT_NAMES)):
            yield from _bare_texts(path)
            return
    table = read_table(path)
    by_name = {column.strip().lower(): column for column in reversed(table.columns)}
    key = next((by_name[name] for name in ID_NAMES if name in by_name), None)
    text = next((by_name[name] for name in TEXT_NAMES if name in by_name), None)
    if key is None or text is None:
        raise DataError(
            f"{path}: needs a column for the id and one for the text; it has: {', '.join(table.columns)}",
            "Call them id and text.",
        )
    title = by_name.get("title")
    for row in table.rows:
        parts = [row.get(title, "") if title and title != text else "", row.get(text, "")]
        yield row.get(key, "").strip(), "\n".join(part for part in parts if part)


def _bare_texts(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(open_text(path), start=1):
        if line.strip():
            name, tab, text = line.rstrip("\r\n").partition("\t")
            if not tab:
                raise DataError(f"{path}, line {number}: has no tab between id and text", "Write ID<tab>TEXT.")
            yield name.strip(), text


def read_judgments(path: Path) -> dict[str, dict[str, int]]:
    """Query id -> document id -> relevance, from TREC qrels (four columns) or BEIR's (three, with a header).

    Raises DataError naming the line.
    """
    judgments: dict[str, dict[str, int]] = {}
    lines = ((number, line) for number, line in enumerate(open_text(path), start=1) if line.strip())
    for position, (number, line) in enumerate(lines):
        cells = [cell.strip() for cell in (line.split("\t") if "\t" in line else line.split())]
        wide = len(cells) in (3, 4)
        try:
            grade = int(cells[-1]) if wide else None
        except ValueError:
            grade = None
        if grade is not None:
            judgments.setdefault(cells[0], {})[cells[-2]] = grade
        elif position or not wide:  # else it is a header
            raise DataError(
                f"{path}, line {number}: is not a relevance judgment",
                "A line is QUERY 0 DOCUMENT GRADE (TREC) or QUERY<tab>DOCUMENT<tab>GRADE; the grade is a whole number.",
            )
    if not judgments:
        raise DataError(f"{path}: holds no relevance judgments", "A line is QUERY<tab>DOCUMENT<tab>GRADE.")
    return judgments
