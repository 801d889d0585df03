"""Git keeps a copy of every kept revision in refs of its own, and nothing that belongs to the user moves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slm_ar.core.agent.revisions import CURRENT_REF, PROVEN_REF, is_git_workspace, mirror_revision


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgSign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def no_user_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "no-config"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits, a dirty file, a staged file and an untracked one."""
    root = tmp_path / "a repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=trunk")
    (root / "train.py").write_text("old\n", encoding="utf-8")
    (root / "notes.md").write_text("notes\n", encoding="utf-8")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    (root / "notes.md").write_text("more notes\n", encoding="utf-8")
    git(root, "commit", "--quiet", "-am", "second")
    git(root, "branch", "other", "HEAD~1")
    (root / "notes.md").write_text("dirty\n", encoding="utf-8")
    (root / "staged.txt").write_text("staged\n", encoding="utf-8")
    git(root, "add", "staged.txt")
    (root / "untracked.txt").write_text("untracked\n", encoding="utf-8")
    return root


def belongings(root: Path) -> dict[str, bytes]:
    """Everything that is the user's, byte for byte: work tree, index, HEAD, branches, configuration."""
    files = [path for path in root.rglob("*") if path.is_file() and ".git" not in path.parts]
    inside = [root / ".git" / name for name in ("index", "HEAD", "config", "COMMIT_EDITMSG", "ORIG_HEAD", "index.lock")]
    files += [path for path in inside if path.exists()]
    files += [path for path in (root / ".git" / "refs" / "heads").rglob("*") if path.is_file()]
    files += [path for path in (root / ".git" / "logs").rglob("*") if path.is_file() and "slm" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_revision_becomes_a_commit_and_nothing_of_the_user_moves(repository: Path) -> None:
    before = belongings(repository)
    commit = mirror_revision(repository, CURRENT_REF, "new\n", "kept for now: halve the model")
    assert commit == git(repository, "rev-parse", CURRENT_REF)
    assert belongings(repository) == before
    assert git(repository, "show", f"{CURRENT_REF}:train.py") == "new"
    assert git(repository, "show", f"{CURRENT_REF}:notes.md") == "more notes"
    assert git(repository, "log", "--format=%s|%an", CURRENT_REF).splitlines() == [
        "kept for now: halve the model|slm-ar",
        "second|Ada",
        "first|Ada",
    ]
    assert "staged.txt" not in git(repository, "ls-tree", "-r", "--name-only", CURRENT_REF)


def test_each_ref_is_a_chain_of_its_own_and_the_tip_is_not_committed_twice(repository: Path) -> None:
    first = mirror_revision(repository, CURRENT_REF, "one\n", "1")
    assert mirror_revision(repository, CURRENT_REF, "one\n", "again") == first
    second = mirror_revision(repository, CURRENT_REF, "two\n", "2")
    proven = mirror_revision(repository, PROVEN_REF, "two\n", "proven")
    assert git(repository, "rev-parse", f"{CURRENT_REF}^") == first
    assert len({first, second, proven}) == 3
    assert git(repository, "branch", "--list").split() == ["other", "*", "trunk"]


def test_a_text_is_kept_byte_for_byte(repository: Path) -> None:
    git(repository, "config", "core.autocrlf", "true")
    text = "Käthe = '€'\r\nx = 1\n\n\n"
    assert mirror_revision(repository, CURRENT_REF, text, "odd") is not None
    shown = subprocess.run(
        ["git", "cat-file", "blob", f"{CURRENT_REF}:train.py"], cwd=repository, capture_output=True, check=True
    )
    assert shown.stdout.decode() == text


def test_a_stale_index_lock_is_neither_an_obstacle_nor_removed(repository: Path) -> None:
    (repository / ".git" / "index.lock").write_bytes(b"")
    before = belongings(repository)
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is not None
    assert belongings(repository) == before


def test_a_detached_head_stays_where_it_is(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--force", "--detach", "HEAD~1")
    before = belongings(repository)
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is not None
    assert belongings(repository) == before
    assert git(repository, "show", f"{CURRENT_REF}:notes.md") == "notes"


def test_a_repository_without_a_commit_works(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    commit = mirror_revision(tmp_path, CURRENT_REF, "new\n", "m")
    assert commit is not None
    assert git(tmp_path, "ls-tree", "-r", "--name-only", commit) == "train.py"


def test_a_workspace_below_the_top_of_a_repository_keeps_its_path(repository: Path) -> None:
    workspace = repository / "work spaces" / "käthe"
    workspace.mkdir(parents=True)
    assert is_git_workspace(workspace)
    assert mirror_revision(workspace, CURRENT_REF, "below\n", "m") is not None
    assert git(repository, "show", f"{CURRENT_REF}:work spaces/käthe/train.py") == "below"
    assert git(repository, "show", f"{CURRENT_REF}:train.py") == "old"


def test_the_users_hooks_do_not_run(repository: Path, tmp_path: Path) -> None:
    for name in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        hook = repository / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hook-{name}'\nexit 1\n", encoding="utf-8")
        hook.chmod(0o755)
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is not None
    assert not list(tmp_path.glob("hook-*"))


def test_a_user_who_signs_and_has_no_name_is_not_asked(repository: Path) -> None:
    git(repository, "config", "commit.gpgSign", "true")
    git(repository, "config", "user.useConfigOnly", "true")
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is not None


def test_outside_a_repository_and_without_git_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_git_workspace(tmp_path)
    assert mirror_revision(tmp_path, CURRENT_REF, "new\n", "m") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_git_workspace(tmp_path)
    assert mirror_revision(tmp_path, CURRENT_REF, "new\n", "m") is None


def test_a_damaged_repository_is_no_error(repository: Path) -> None:
    (repository / ".git" / "HEAD").write_text("nonsense", encoding="utf-8")
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is None


def test_a_stale_lock_on_our_own_ref_is_no_error(repository: Path) -> None:
    """A stale lock on our own ref (a kill while git wrote it) is the commonest way to fail."""
    lock = repository / ".git" / f"{CURRENT_REF}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    before = belongings(repository)
    assert mirror_revision(repository, CURRENT_REF, "new\n", "m") is None
    assert belongings(repository) == before
