"""Mirrors revisions into private git refs, when the workspace lies in a git repository. The journal stays the truth.

Called by the loop after a change of current or proven code. Promises: the user's work tree, index, branches, hooks and
configuration are never touched; a git that fails is reported once and costs nothing else.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from ..environment import without_secrets

CURRENT_REF, PROVEN_REF = "refs/slm/current", "refs/slm/proven"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "slm-ar",
    "GIT_AUTHOR_EMAIL": "slm-ar@localhost",
    "GIT_COMMITTER_NAME": "slm-ar",
    "GIT_COMMITTER_EMAIL": "slm-ar@localhost",
}


def is_git_workspace(workspace: Path) -> bool:
    """Whether `workspace` lies in a git work tree and git is installed."""
    return _git(workspace, "rev-parse", "--is-inside-work-tree") == "true"


def mirror_revision(workspace: Path, ref: str, text: str, message: str) -> str | None:
    """Commit `text` as the workspace's train.py on `ref` with a private index; the commit, or None when git fails.

    A revision that is already the tip of `ref` is not committed again.
    """
    prefix = _git(workspace, "rev-parse", "--show-prefix")
    if prefix is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
        blob = _git(workspace, "hash-object", "-w", "--stdin", text=text)
        parent = _git(workspace, "rev-parse", "--verify", "--quiet", ref)
        base = parent or _git(workspace, "rev-parse", "--verify", "--quiet", "HEAD")
        if blob is None or (base and _git(workspace, "read-tree", base, environment=index) is None):
            return None
        entry = f"100644,{blob},{prefix}train.py"
        if _git(workspace, "update-index", "--add", "--cacheinfo", entry, environment=index) is None:
            return None
        tree = _git(workspace, "write-tree", environment=index)
    if tree is None:
        return None
    if parent and tree == _git(workspace, "rev-parse", f"{parent}^{{tree}}"):
        return parent
    parents = ["-p", base] if base else []
    commit = _git(workspace, "commit-tree", tree, *parents, "-m", message, environment=_IDENTITY)
    if commit is None or _git(workspace, "update-ref", ref, commit) is None:
        return None
    return commit


def _git(
    folder: Path, *arguments: str, text: str | None = None, environment: dict[str, str] | None = None
) -> str | None:
    """Standard output of one git command, or None when it failed or git is missing."""
    hardened = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "commit.gpgSign=false"]
    try:
        done = subprocess.run(
            [*hardened, *arguments],
            cwd=folder,
            env={**without_secrets(os.environ), **(environment or {}), "GIT_OPTIONAL_LOCKS": "0"},
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
