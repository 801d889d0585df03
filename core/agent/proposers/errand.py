"""One call of an agent program: a folder of its own, a time limit, what it said and what it left, and then nothing.

Called by command.py and checkup.py. Promises: the program stands in a fresh folder (mode 0700) that holds the given
files alone and is gone afterwards; its input ends at once, so that a question finds nobody; at the limit, at Ctrl-C and
at the harness's own death it ends with every process that it started; what is read back are regular files of a capped
size, no links; its words are capped, free of control characters and of keys.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import ProposerError, UsageError
from ...train.files import LONGEST_KEY_BYTES, read_candidate_file, without_keys
from .keeper import MARK, NOT_STARTED, SWEEP_SECONDS, marked, remove_folder, sweep

MOST_FILE_BYTES = 64_000
MOST_KEPT_OUTPUT = 64_000
"""Bytes of what a program says that are kept: its beginning and, three times as much, its end."""
MOST_OUTPUT = 64_000_000
"""A program that says more than this is ended."""
_HEAD = MOST_KEPT_OUTPUT // 4
_TAIL = MOST_KEPT_OUTPUT - _HEAD
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `code` is None when it was ended by us, and `why` says for what."""

    code: int | None
    why: str
    said: str
    seconds: float
    left: Mapping[str, str] = field(default_factory=dict)
    """File -> its text, of the files that were asked for."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """File -> why it could not be read: gone, a link, too large, no text."""


def scratch_place(workspace: Path | None) -> Path:
    """Where scratch folders are made. Raises UsageError for a place in the workspace."""
    place = Path(tempfile.gettempdir())
    if workspace is not None and place.resolve().is_relative_to(workspace.resolve()):
        raise UsageError(
            f"the folder for temporary files, {place}, lies in the workspace", "set TMPDIR to a folder outside of it"
        )
    return place


@contextlib.contextmanager
def scratch_folder(workspace: Path | None) -> Iterator[Path]:
    """A fresh folder outside the workspace, removed afterwards. Raises UsageError when there is no place for it."""
    place = scratch_place(workspace)
    try:
        folder = Path(tempfile.mkdtemp(prefix="slm-ar-agent-")).resolve()
    except OSError as error:
        raise UsageError(
            f"no folder can be made in {place}: {error.strerror}", "free some space, or set TMPDIR to another folder"
        ) from error
    try:
        yield folder
    finally:
        remove_folder(folder)


def run_errand(
    line: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    files: Mapping[str, str],
    wanted: Collection[str],
    said_to_it: str,
    seconds: float,
    secrets: Sequence[str] = (),
) -> Ended:
    """Put `files` into `folder`, start `line` there, and read the `wanted` files when it has ended.

    `said_to_it` is its standard input; what it says is kept without `secrets`. Raises ProposerError when the program
    cannot be started.
    """
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    before = folder.lstat()
    started = time.monotonic()
    words, code, why = _kept(line, environment, folder, said_to_it, seconds)
    after = folder.lstat() if os.path.lexists(folder) else None
    left: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    for name in wanted:
        try:
            if after is None or (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
                raise OSError("its folder is gone")
            left[name] = read_candidate_file(folder / name, MOST_FILE_BYTES).decode("utf-8")
        except FileNotFoundError:
            unreadable[name] = f"{name} is gone"
        except UnicodeDecodeError:
            unreadable[name] = f"{name} is not UTF-8 text"
        except OSError as error:
            unreadable[name] = f"{name} is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
    return Ended(code, why, words.plain(secrets), time.monotonic() - started, left, unreadable)


def plain_words(output: bytes, secrets: Sequence[str] = ()) -> str:
    """What a program said, as text that can be kept: no control characters but line ends, no keys."""
    text = _ESCAPE.sub("", output.decode("utf-8", errors="replace")).replace("\r\n", "\n").replace("\r", "\n")
    return without(secrets, "".join(sign if sign == "\n" or sign.isprintable() else " " for sign in text))


def without(secrets: Sequence[str], text: str) -> str:
    """`text` with `secrets`, and all that looks like a key, blotted out."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "[key]")
    return without_keys(text)


def _kept(
    line: Sequence[str], environment: Mapping[str, str], folder: Path, said_to_it: str, seconds: float
) -> tuple[_Words, int | None, str]:
    """(what it said, exit code, why it was ended) of a program under its keeper."""
    result, told = os.pipe()
    with os.fdopen(result, "rb") as heard:
        control, held = os.pipe()
        theirs = [control, told]
        keeper: subprocess.Popen[bytes] | None = None
        words = _Words()
        try:
            with tempfile.TemporaryFile() as given:
                given.write(said_to_it.encode())
                given.seek(0)
                program = [sys.executable, "-E", "-P", "-m", "slm_ar.core.agent.proposers.keeper"]
                keeper = subprocess.Popen(
                    [*program, str(control), str(told), *line],
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env={**environment, MARK: str(folder)},
                    pass_fds=theirs,
                    start_new_session=True,
                )
            while theirs:
                os.close(theirs.pop())
            why = _listen(keeper, words, seconds)
        finally:
            # Closing `held` is the order to end everything; it reaches the keeper also when we are killed instead.
            for descriptor in (*theirs, held):
                os.close(descriptor)
            if keeper is not None:
                _await_end(keeper, words)
        facts = json.loads(heard.readline() or b"{}")
    if not facts:
        sweep(lambda: marked(str(folder)))
        raise ProposerError(
            f"the process that watches over {line[0]} was killed, and the program with it",
            "look whether memory ran out (dmesg), and whether the program ends processes of others",
        )
    if NOT_STARTED in facts:
        raise ProposerError(
            f"the program {line[0]} cannot be started: {facts[NOT_STARTED]}",
            "run it once by hand, or set command in [proposer]",
        )
    return words, None if why else facts["code"], why


def _listen(keeper: subprocess.Popen[bytes], words: _Words, seconds: float) -> str:
    """Gather what is said until the program has ended; why it has to be ended, or nothing."""
    assert keeper.stdout is not None
    limit = time.monotonic() + seconds
    while (left := limit - time.monotonic()) > 0:
        if not select.select([keeper.stdout], [], [], min(left, 0.5))[0]:
            if keeper.poll() is not None:  # killed: what it has started may hold the other end
                return ""
            continue
        chunk = os.read(keeper.stdout.fileno(), 65536)
        if not chunk:
            return ""
        words.add(chunk)
        if words.size > MOST_OUTPUT:
            return f"it wrote more than {MOST_OUTPUT / 1e6:.0f} MB to its output"
    return f"it was not ready within {seconds:.0f} s"


def _await_end(keeper: subprocess.Popen[bytes], words: _Words) -> None:
    """Until the keeper has swept and gone; by force when it does not go."""
    assert keeper.stdout is not None
    limit = time.monotonic() + SWEEP_SECONDS + 5
    while time.monotonic() < limit:
        if select.select([keeper.stdout], [], [], 0.2)[0]:
            chunk = os.read(keeper.stdout.fileno(), 65536)
            if not chunk:
                break
            words.add(chunk)
        elif keeper.poll() is not None:
            break
    try:
        keeper.wait(timeout=1)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()
    keeper.stdout.close()


class _Words:
    """The beginning and the end of what comes, however much it is."""

    def __init__(self) -> None:
        self.size = 0
        self._head, self._tail = bytearray(), bytearray()

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        room = _HEAD - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        if len(self._tail) > 4 * _TAIL:
            del self._tail[:-_TAIL]

    def plain(self, secrets: Sequence[str]) -> str:
        """As text, what lies between beginning and end left out, without keys."""
        tail = bytes(self._tail[-_TAIL:])
        cut = self.size - len(self._head) - len(tail)
        if not cut:
            return plain_words(bytes(self._head) + tail, secrets)
        # At the cut half a key may stand, which is not known for one.
        head_text = plain_words(bytes(self._head), secrets)[:-LONGEST_KEY_BYTES]
        tail_text = plain_words(tail, secrets)[LONGEST_KEY_BYTES:]
        return f"{head_text}\n[about {cut:,} bytes left out]\n{tail_text}"
