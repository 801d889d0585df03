"""The private folders of the process that is on: filled before it, collected and removed after it.

Used by process.py. A sandbox shows its candidates these folders and no other that can be written. Every process gets
newly made ones: an emptied folder keeps its size on some file systems, which tells of the run before. What candidate
code leaves behind is hostile: deep trees, folders without permissions, links, pipes, names without end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

INPUT_FILES = {"train": ("train.py", "job.json"), "serve": ("train.py", "config.json", "model.safetensors")}
"""Role -> files of the run's folder that its candidate gets."""
LOG_FILE = "log.txt"
LOG_BYTES, LOG_KEPT_BYTES = 4 << 20, 1 << 20
"""A log that is larger when a process has ended, or before the next one, is cut to its end."""
MOST_ENTRIES = 100_000
"""Files and folders of one run; more count as too many bytes."""
MOST_COLLECTED = 1000
_PREFIX = ".sandbox-"


class Area:
    """`work` is the candidate's current folder, `tmp` its home and temporary folder: new ones after each `empty`.

    A sandbox that is started once for many processes shows `works` and `tmps`, in which they lie.
    """

    work: Path
    tmp: Path

    def __init__(self, place: Path) -> None:
        """Below `place`, which should lie on the disk of the run folders."""
        place.mkdir(parents=True, exist_ok=True)
        _remove_stale(place)
        self.root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place)).resolve()
        self.works, self.tmps = self.root / "work", self.root / "tmp"
        self.empty()

    def fill(self, role: str, folder: Path, may_link: bool) -> None:
        """Empty it, then bring in the files that `role` needs; `may_link` where the candidate cannot write them."""
        self.empty()
        for name in INPUT_FILES.get(role, ()):
            source = folder / name
            if source.is_symlink() or not source.is_file():
                continue
            if may_link:
                with contextlib.suppress(OSError):
                    os.link(source, self.work / name)
                    continue
            shutil.copyfile(source, self.work / name)

    def collect(self, folder: Path) -> None:
        """Move the files that the run wrote into its folder, over what was there; then empty.

        Links and pipes come as such. A folder comes only in place of a checkpoint file, and empty.
        """
        if folder.is_symlink() or not folder.is_dir():
            empty_folder(folder)
        if self.work.is_dir() and not self.work.is_symlink():
            with contextlib.suppress(OSError):
                self.work.chmod(0o700)
                names = {path.name for path in self.work.iterdir()}
                for name in names if len(names) <= MOST_COLLECTED else names & set(INPUT_FILES["serve"]):
                    if name != LOG_FILE:  # the log is the harness's own
                        _replace(self.work / name, folder / name)
        with contextlib.suppress(OSError):
            _cut_log(folder / LOG_FILE)
        self.empty()

    def empty(self) -> None:
        """Leave two new, empty folders and nothing else. Raises OSError when something cannot be removed."""
        name = os.urandom(8).hex()  # tells no process how many were before it
        for parent in (self.works, self.tmps):
            if parent.is_symlink() or not parent.is_dir():
                parent.unlink(missing_ok=True)
                parent.mkdir(mode=0o700)
            parent.chmod(0o700)
            empty_contents(parent)
            (parent / name).mkdir(mode=0o700)
        self.work, self.tmp = self.works / name, self.tmps / name

    def byte_count(self) -> float:
        """Bytes in it; infinite when nobody could count them in time."""
        return byte_count(self.root)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.empty()
            shutil.rmtree(self.root, ignore_errors=True)


def open_log(folder: Path) -> int:
    """The run's log for appending; whatever else lies in its place is removed."""
    path = folder / LOG_FILE
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()
    elif path.exists():
        _cut_log(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_log(area: Area) -> tuple[int, int]:
    """(to write, to read) a log without a name for one process, which so learns nothing of the logs before it."""
    descriptor, path = tempfile.mkstemp(dir=area.root)
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), descriptor
    finally:
        Path(path).unlink()


def keep_log(descriptor: int, folder: Path) -> None:
    """Append the end of what a process left in its own log to that of its run, and close the first."""
    with os.fdopen(descriptor, "rb") as own:
        own.seek(max(0, os.fstat(descriptor).st_size - LOG_KEPT_BYTES))
        end = own.read(LOG_KEPT_BYTES)
        if end and folder.is_dir():
            with os.fdopen(open_log(folder), "ab") as log:
                log.write(end)


def _cut_log(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "r+b") as file:
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and facts.st_size > LOG_BYTES:
            file.seek(-LOG_KEPT_BYTES, os.SEEK_END)
            end = file.read(LOG_KEPT_BYTES)
            file.seek(0)
            file.write(end)
            file.truncate()


def empty_folder(folder: Path) -> None:
    """Make `folder` an empty folder, whatever a candidate left in its place; links are removed, never followed."""
    if folder.is_dir() and not folder.is_symlink():
        with contextlib.suppress(OSError):
            empty_contents(folder)
    else:
        folder.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def empty_contents(folder: Path) -> None:
    """Remove everything inside, however deep it is nested: folders are moved up before they are removed."""
    moved = 0
    pending = list(folder.iterdir())
    while pending:
        path = pending.pop()
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            continue
        path.chmod(0o700)
        for inner in list(path.iterdir()):
            if stat.S_ISDIR(inner.lstat().st_mode):
                moved += 1
                inner.chmod(0o700)
                above = folder / f".moved-{moved}-{os.urandom(8).hex()}"
                inner.rename(above)
                pending.append(above)
            else:
                inner.unlink()
        path.rmdir()


def byte_count(folder: Path) -> float:
    """Bytes of all files below `folder`; infinite for more than MOST_ENTRIES entries or a tree too deep to read."""
    total, entries = 0, 0
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as found:
                for entry in found:
                    entries += 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        with contextlib.suppress(OSError):
                            total += entry.stat(follow_symlinks=False).st_size
        except OSError as error:
            if len(str(error.filename)) > 2000:
                return float("inf")
        if entries > MOST_ENTRIES:
            return float("inf")
    return total


def _replace(source: Path, target: Path) -> None:
    if target.is_dir() and not target.is_symlink():
        empty_contents(target)
        target.rmdir()
    if source.is_dir() and not source.is_symlink():
        if source.name in INPUT_FILES["serve"]:
            target.unlink(missing_ok=True)
            target.mkdir()
        return
    try:
        source.rename(target)
    except OSError:  # another disk; what is no regular file is no checkpoint there either
        if not source.is_symlink() and source.is_file():
            shutil.copyfile(source, target)


def _remove_stale(place: Path) -> None:
    """What a killed harness left behind."""
    import psutil

    for left in place.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            with contextlib.suppress(OSError):
                empty_contents(left)
                left.rmdir()
