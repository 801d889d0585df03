"""The private part: documents of mix, dev, hidden and test, outside the workspace, content-addressed, mode 0700.

Written by the pipeline, read by the scorer. What it does not stop: a process of the same user outside a sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts import Document, Span
from ..errors import DataError
from .split import HELD_OUT, MIX

CHUNK_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class HeldDocument:
    """A document of a held-out split with the values of its adapter's slice keys."""

    document: Document
    slices: Mapping[str, str]


def private_root() -> Path:
    """The user's data folder for everything that no proposer and no train.py may read (SLM_AR_PRIVATE moves it)."""
    import platformdirs

    chosen = os.environ.get("SLM_AR_PRIVATE")
    return Path(chosen) if chosen else Path(platformdirs.user_data_dir("slm-ar")) / "private"


def ensure_private(folder: Path) -> Path:
    """Create `folder` and its parents up to the private root with mode 0700."""
    root = private_root()
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)
    between = [path for path in folder.parents if path.is_relative_to(root) and path != root]
    for path in (*reversed(between), folder):
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    return folder


@contextlib.contextmanager
def private_scratch() -> Iterator[Path]:
    """A private folder for the time of a preparation; what killed ones left behind is removed first."""
    import psutil

    root = ensure_private(private_root() / "scratch")
    for left in root.iterdir():
        if not left.name.isdigit() or not psutil.pid_exists(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    folder = root / str(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield ensure_private(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def to_json(held: HeldDocument) -> str:
    document = held.document
    record: dict[str, Any] = {
        "id": document.id,
        "group": document.group,
        "time": document.time,
        "text": document.text,
        "spans": [[span.start, span.end, span.task] for span in document.spans],
        "slices": dict(held.slices),
    }
    return json.dumps(record, ensure_ascii=False)


def from_json(line: str | bytes) -> HeldDocument:
    record = json.loads(line)
    spans = tuple(Span(*span) for span in record["spans"])
    document = Document(record["id"], record["text"], record["group"], record["time"], spans)
    return HeldDocument(document, record["slices"])


def read_split(folder: Path, split: str) -> Iterator[HeldDocument]:
    """Documents of one held-out split. Raises DataError when the private part is gone."""
    path = folder / f"{split}.jsonl"
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield from_json(line)
    except FileNotFoundError as error:
        raise DataError(
            f"the held-out split '{split}' is missing: {path}",
            "run `slm-ar prepare` again; the campaign goes on if the data are the same",
        ) from error


def in_chunks(documents: Iterable[HeldDocument]) -> Iterator[list[HeldDocument]]:
    """The documents in lists of about a megabyte."""
    chunk: list[HeldDocument] = []
    size = 0
    for held in documents:
        chunk.append(held)
        size += len(held.document.text)
        if size > CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def publish(parts: Path) -> str:
    """Move the held-out parts from `parts` into the folder that their content names; returns that name."""
    name = held_digest(parts)
    folder = ensure_private(held_folder(name))
    for split in (MIX, *HELD_OUT):
        # File by file, so that a damaged part is mended while another workspace may be reading the whole ones.
        (parts / f"{split}.jsonl").replace(folder / f"{split}.jsonl")
    return name


def held_folder(name: str) -> Path:
    """Where the private part of that name lies."""
    return private_root() / "heldout" / name


def held_digest(folder: Path) -> str:
    """The name that the files of a private part give it; empty when one is missing."""
    try:
        return digest_files(folder / f"{split}.jsonl" for split in (MIX, *HELD_OUT))[:16]
    except OSError:
        return ""


def text_digest(text: str) -> bytes:
    """16 bytes, equal for texts that differ in blanks at their end at most."""
    return hashlib.blake2b(text.rstrip().encode("utf-8"), digest_size=16).digest()


def texts_digest(folder: Path, split: str) -> str:
    """sha256, hex, over the texts of a split alone: another file name or order of the same texts changes nothing."""
    digests = sorted(text_digest(held.document.text) for held in read_split(folder, split))
    return hashlib.sha256(b"".join(digests)).hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """sha256 over names and contents, hex."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
