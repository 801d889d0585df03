"""Whose mistake is it? What an adapter's own code raises is told as the adapter's, with its file and line.

Called around every place where the commands let an adapter read. Errors of slm-ar itself pass unchanged.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError, SlmArError

OWN_PACKAGE = "slm_ar."


@contextmanager
def adapter_named(adapter: object, reference: str) -> Iterator[None]:
    """Turn what the code of `adapter` raises inside the block into a DataError that names `reference`, file and line.

    A file that it cannot open stays an OSError, which names the file; an adapter of slm-ar that breaks is our bug.
    """
    try:
        yield
    except (SlmArError, OSError):
        raise
    except Exception as error:
        place = _place(adapter, error)
        if place is None:
            raise
        raise DataError(
            f"adapter '{reference}' failed at {place}: {type(error).__name__}: {str(error)[:300]}",
            f"repair it; `slm-ar adapters check {reference}` tests it, `slm-ar --debug ...` shows the traceback",
        ) from error


def _place(adapter: object, error: Exception) -> str | None:
    """The innermost line of the adapter's code that the error came through; None when it has nothing to do with it."""
    kind = type(adapter)
    if kind.__module__.startswith(OWN_PACKAGE):
        return None
    try:
        file = Path(inspect.getfile(kind)).resolve()
    except (TypeError, OSError):
        return None
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).resolve()
        # A package of several modules counts as a whole; a single module may lie in site-packages beside all others.
        if path == file or ("." in kind.__module__ and path.is_relative_to(file.parent)):
            return f"{path}:{frame.lineno}"
    return None
