"""What other programs that we start get of this process's environment: everything but what looks like a secret.

Used for our own helpers (compressors, git, the hub's reader). Candidate code gets far less: train/process.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def without_secrets(environment: Mapping[str, str], keep: Collection[str] = ()) -> dict[str, str]:
    """`environment` without the variables whose names say that they hold keys, except those in `keep`."""
    return {name: value for name, value in environment.items() if name in keep or not _SECRET_NAME.search(name)}
