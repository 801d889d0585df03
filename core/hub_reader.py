"""The process that reads from the hub for `core.hub`: one request in on stdin, JSON lines with progress out on stdout.

Started as `python -m slm_ar.core.hub_reader`, so that library settings, caches, threads and hangs end with it.
Streams through `datasets`; code that lies in a data set is never run.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DISK_FULL

ANSWER_SECONDS = 10
BATCH_ROWS = 1000
PIECE_BYTES = 2 << 20
REPORT_SECONDS = 2.0
BLOB_KINDS = ("Image", "Audio", "Video", "Pdf", "Nifti", "Mesh")
"""Names of the column types of `datasets` that hold files."""


class ReadError(Exception):
    """A problem that `core.hub` has words for."""

    def __init__(self, problem: str, detail: str = "") -> None:
        super().__init__(problem, detail)
        self.problem, self.detail = problem, detail


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_rows` wrote."""

    row_count: int
    byte_count: int
    whole: bool
    """Whether the rows ended before the limit."""


def main() -> None:
    """Answer one request; always leaves with a last message and without waiting for the libraries' threads."""
    request = json.load(sys.stdin)
    try:
        tell(**fetch(request))
    except ReadError as error:
        tell(problem=error.problem, detail=error.detail)
    except Exception as error:  # whatever a library raises, the person gets one sentence
        problem, detail = describe_error(error)
        tell(problem=problem, detail=str(Path(request["file"]).parent.parent) if problem == "disk" else detail)
    sys.stdout.flush()
    os._exit(0)


def tell(**message: Any) -> None:
    """One message to the parent."""
    print(json.dumps(message), flush=True)


def fetch(request: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the hub for the commit, then stream rows of the split into the request's file."""
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(request["repo"], revision=request["revision"], timeout=ANSWER_SECONDS)
    revision = str(info.sha)
    tell(note=f"revision {revision[:12]}, opening")
    split, rows = open_split(request["repo"], revision, request["config"], request["split"])
    kept, dropped = choose_columns(rows, request["columns"])
    if dropped or request["columns"]:
        rows = rows.select_columns(list(kept))
    written = write_rows(rows, Path(request["file"]), request["max_bytes"])
    if not written.row_count:
        raise ReadError("split", f"the split '{split}' has no rows")
    return {
        "revision": revision,
        "split": split,
        "licence": licence_of(info.card_data),
        "columns": list(kept),
        "dropped_columns": list(dropped),
        "row_count": written.row_count,
        "byte_count": written.byte_count,
        "whole": written.whole,
    }


def open_split(repo: str, revision: str, config: str | None, split: str | None) -> tuple[str, Any]:
    """(name of the split, its rows as a stream)."""
    import datasets

    datasets.utils.logging.set_verbosity_error()
    # The defaults go on for minutes.
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 3
    datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 2
    # The full address: a bare name would first be looked for among local folders and built-in formats.
    builder = datasets.load_dataset_builder(f"hf://datasets/{repo}", config, revision=revision)
    parquet = builder.name == "parquet"
    found = builder.config.data_files if parquet else builder.as_streaming_dataset()
    splits = {str(name): rows for name, rows in found.items()}
    if split is None:
        split = "train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None
    if split is None or split not in splits:
        asked = f"has no split '{split}'" if split else "has several splits and none is called train"
        raise ReadError("split", f"{asked}; there are: {', '.join(splits)}")
    return split, ParquetRows(splits[split]) if parquet else splits[split]


class ParquetRows:
    """The rows of Parquet files on the hub, read page by page.

    `datasets` itself fetches all row groups of a file before it gives the first row, and holds whole ones: of a file
    with a million rows per group that is hundreds of megabytes for the first line.
    """

    def __init__(self, files: Sequence[str], columns: Sequence[str] | None = None, features: Any = None) -> None:
        self._files, self._columns = files, columns
        self.features = features if features is not None else self._read_features()

    def select_columns(self, columns: list[str]) -> ParquetRows:
        """The same rows with some columns only."""
        return ParquetRows(self._files, columns, self.features)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for file in self._files:
            with self._open(file) as table:
                for batch in table.iter_batches(BATCH_ROWS, columns=self._columns, use_threads=False):
                    yield from batch.to_pylist()

    def _read_features(self) -> Any:
        from datasets import Features

        with self._open(self._files[0]) as table:
            return Features.from_arrow_schema(table.schema_arrow)

    @contextlib.contextmanager
    def _open(self, file: str) -> Iterator[Any]:
        from huggingface_hub import HfFileSystem
        from pyarrow.parquet import ParquetFile

        with HfFileSystem().open(file, "rb", block_size=PIECE_BYTES) as raw:
            yield ParquetFile(raw, buffer_size=PIECE_BYTES, pre_buffer=False)


def choose_columns(rows: Any, wanted: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(columns to keep, columns of pictures, sound and bytes that are left out)."""
    features = rows.features
    if features is None:  # JSON lines whose types show row by row
        return tuple(wanted), ()
    missing = [name for name in wanted if name not in features]
    if missing:
        raise ReadError("column", f"has no column '{missing[0]}'; there are: {', '.join(features)}")
    blobs = tuple(name for name, kind in features.items() if is_blob(kind))
    kept = tuple(name for name in (wanted or features) if name not in blobs)
    if not kept:
        raise ReadError("column", f"holds no text; its columns are: {', '.join(features)}")
    return kept, () if wanted else blobs


def is_blob(kind: Any) -> bool:
    """Whether a column type of `datasets` holds files or bytes."""
    return type(kind).__name__ in BLOB_KINDS or getattr(kind, "dtype", "") in ("binary", "large_binary")


def write_rows(rows: Iterable[Mapping[str, Any]], path: Path, max_bytes: int) -> Written:
    """Write rows as JSON lines, gzipped, until they hold `max_bytes` of text. Equal rows give equal files."""
    row_count = byte_count = 0
    told = time.monotonic()
    whole = True
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 4, raw, mtime=0) as packed:
        for row in rows:
            if byte_count >= max_bytes:
                whole = False
                break
            packed.write(json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n")
            row_count += 1
            byte_count += sum(len(str(cell).encode("utf-8", "replace")) for cell in row.values() if cell is not None)
            if time.monotonic() - told >= REPORT_SECONDS:
                told = time.monotonic()
                tell(note=f"{row_count:,} rows, {byte_count / 1e6:.1f} of {max_bytes / 1e6:.0f} MB")
    return Written(row_count, byte_count, whole)


def licence_of(card: Any) -> str:
    """The licence that the data set's card names, or ""."""
    found = getattr(card, "license", None) or ""
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)


def describe_error(error: BaseException) -> tuple[str, str]:
    """(the word of `core.hub` for it, one line). Types are compared by name: they move between library versions."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    message = str(error)
    detail = " ".join(message.split())[:200] or type(error).__name__
    for problem, kinds in PROBLEMS.items():
        if names & kinds:
            return problem, detail
    if any(isinstance(link, OSError) and link.errno in DISK_FULL for link in chain):
        return "disk", detail
    if "scripts are no longer supported" in message:
        return "script", detail
    if "onfig" in message and isinstance(error, ValueError):  # "Config name is missing", "BuilderConfig 'x' not found"
        return "config", detail
    return "other", f"{type(error).__name__}: {detail}"


PROBLEMS: dict[str, frozenset[str]] = {
    "offline": frozenset({"OfflineModeIsEnabled"}),
    "gated": frozenset({"GatedRepoError"}),
    "missing": frozenset({"RepositoryNotFoundError"}),
    "revision": frozenset({"RevisionNotFoundError"}),
    "unreachable": frozenset({"TransportError", "ConnectionError"}),
}
"""In this order: a gated set is a missing one too, and offline is a connection error."""

if __name__ == "__main__":
    main()
