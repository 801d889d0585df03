"""Looks at a checkpoint before anything loads it: regular files, within the caps, nothing in them but tensors.

Called by the executor when a run has ended. Only the header of the safetensors file is read; a pickle, a link, a pipe
or a file with room for more than its tensors is refused with the reason.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contracts import Status
from ..errors import SlmArError
from .files import printable, read_config

CHECKPOINT_FILE, CONFIG_FILE = "model.safetensors", "config.json"
LARGEST_CHECKPOINT_BYTES = 4 << 30
LARGEST_HEADER_BYTES = 1 << 20
"""Room for about 10,000 tensors."""
MOST_DIMENSIONS = 16
MOST_PARAMETERS = 1 << 30
MOST_METADATA_BYTES = 64 << 10
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class InvalidCheckpointError(SlmArError):
    """The checkpoint cannot be scored: not loadable, wrong shape, not finite. Never a number, always `invalid`."""

    exit_code = 5


def inspect_checkpoint(folder: Path) -> tuple[Status | None, str, int]:
    """(None, "", parameter count) for a checkpoint that may be handed to a server, else the status and the reason."""
    for name in (CHECKPOINT_FILE, CONFIG_FILE):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return Status.INVALID, f"the checkpoint has no regular file {name}", 0
    size = (folder / CHECKPOINT_FILE).stat().st_size
    if size > LARGEST_CHECKPOINT_BYTES:
        return Status.QUOTA, f"{CHECKPOINT_FILE} has {size:,} bytes, at most {LARGEST_CHECKPOINT_BYTES:,} are read", 0
    try:
        with (folder / CHECKPOINT_FILE).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, LARGEST_HEADER_BYTES):
                return Status.INVALID, f"{CHECKPOINT_FILE} has a damaged header; it must be a safetensors file", 0
            parameters = _parameter_count(json.loads(file.read(length)), size - 8 - length)
        read_config(folder / CONFIG_FILE)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, struct.error) as error:
        return (
            Status.INVALID,
            f"the checkpoint cannot be read: {type(error).__name__}: {printable(str(error))[:200]}",
            0,
        )
    if parameters > MOST_PARAMETERS:
        return Status.INVALID, f"the model has {parameters:,} parameters, at most {MOST_PARAMETERS:,} are allowed", 0
    return None, "", parameters


def _parameter_count(header: Any, data_bytes: int) -> int:
    """Numbers in all tensors. Raises ValueError unless they fill the file's data exactly."""
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    if len(json.dumps(header.pop("__metadata__", {}))) > MOST_METADATA_BYTES:
        raise ValueError("the header holds more than tensors")
    total = 0
    extents = []
    for name, tensor in header.items():
        count, begin, end = _extent(name, tensor)
        total += count
        extents.append((begin, end))
    at = 0
    for begin, end in sorted(extents):
        if begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    if at != data_bytes:
        raise ValueError(f"its tensors take {at:,} bytes, the file holds {data_bytes:,}")
    return total


def _extent(name: str, tensor: Mapping[str, Any]) -> tuple[int, int, int]:
    """(numbers, first byte, byte behind the last) of one tensor."""
    shape, offsets, shown = tensor["shape"], tensor["data_offsets"], printable(name)[:80]
    # Before anything is multiplied: the product of a hundred thousand extents takes hours.
    if not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"tensor '{shown}' has no valid shape")
    if not all(isinstance(extent, int) and 0 <= extent < 1 << 40 for extent in shape):
        raise ValueError(f"tensor '{shown}' has no valid shape")
    if tensor["dtype"] not in ITEM_BYTES:
        raise ValueError(f"tensor '{shown}' has the unknown type {printable(str(tensor['dtype']))[:20]!r}")
    begin, end = offsets
    count = math.prod(shape)
    if not all(isinstance(offset, int) for offset in offsets) or end - begin != count * ITEM_BYTES[tensor["dtype"]]:
        raise ValueError(f"tensor '{shown}' has another size than its shape says")
    return count, begin, end
