"""What goes into a preparation: where the sources lie, and the key that equal inputs share.

Called by the pipeline before anything is read. Promises: every byte of every source counts, and of an adapter that is
a person's own file; nothing else of the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from ..contracts import Adapter
from ..errors import DataError
from ..files import named_path
from ..recipe import ExtraTable, Recipe
from ..registry import adapter_file, load_adapter
from .manifest import FORMAT


def workspace_of(data_root: Path) -> Path:
    """The workspace whose prepared data lie below `data_root` (WORKSPACE/.slm/data)."""
    return data_root.resolve().parents[1]


def extra_source(table: ExtraTable, workspace: Path) -> Path:
    """The file or folder that a [[data.extra]] table names; a relative path counts from the workspace."""
    return named_path(table.source, workspace)


def check_source(source: Path, data_root: Path, table: str = "[data]") -> None:
    """Raises DataError when the source is not there or holds the workspace itself."""
    if not source.exists():
        advice = f"set {table} source in recipe.toml" + (", or pass --source DIR" if table == "[data]" else "")
        raise DataError(f"the source {source} does not exist", advice)
    if source.is_dir() and data_root.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"the workspace lies inside the source {source}, so its own files would become training text",
            f"move the data into a folder of their own and name it in {table} source of recipe.toml",
        )


def input_key(recipe: Recipe, adapter: Adapter, source: Path, workspace: Path) -> str:
    """16 hex digits over recipe, adapters, a person's own adapter code, and every file of the sources.

    Raises DataError for unreadable ones.
    """
    data = recipe.data.model_dump(mode="json", exclude={"source": True, "extra": {"__all__": {"source"}}})
    declared = [adapter.split, adapter.duplicates, getattr(adapter, "token_split", "auto"), repr(adapter.tasks)]
    inputs = [FORMAT, adapter.name, adapter.version, declared, data, recipe.tokenizer.model_dump(mode="json")]
    inputs += [_digest_of(source), *_code_digest(recipe.data.adapter, workspace)]
    for table in recipe.data.extra:
        extra = load_adapter(table.adapter, workspace)
        inputs += [extra.name, extra.version, _digest_of(extra_source(table, workspace))]
        inputs += _code_digest(table.adapter, workspace)
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _code_digest(name: str, workspace: Path) -> list[str]:
    """sha256 of an adapter that is a person's own file: while it is being written, nobody raises its version."""
    path = adapter_file(name, workspace)
    return [hashlib.sha256(path.read_bytes()).hexdigest()] if path is not None and path.is_file() else []


def _digest_of(source: Path) -> str:
    """sha256 over names and contents of the source's files, hex."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"the source folder {source} is empty", "put data files into it, or pass another --source DIR")
    total = hashlib.sha256()
    for path in files:
        relative = path.name if path == source else path.relative_to(source).as_posix()
        total.update(os.fsencode(relative) + b"\0")
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except PermissionError as error:
            raise DataError(f"{path} cannot be read: permission denied", f"chmod u+r '{path}'") from error
    return total.hexdigest()
