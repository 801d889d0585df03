"""What this process finds around it: the cores that it may use, and the variables that programs it starts may have.

Our own helpers (compressors, git, the hub's reader) get everything but what looks like a secret. Candidate code gets
far less: train/process.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """`environment` without the variables whose names say that they hold keys, except those in `keep`."""
    return {name: value for name, value in environment.items() if name in keep or not _SECRET_NAME.search(name)}


def usable_cores() -> set[int]:
    """Numbers of the cores that this process may run on: fewer than the machine has under taskset or in a cpuset."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
