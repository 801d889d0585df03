"""Data sets of the Hugging Face hub as local files: `hub:OWNER/NAME` becomes one .jsonl.gz that adapters read.

Called by the command line before prepare. Promises: a pinned or recorded revision, only as many rows as asked for, no
code from the hub, a file that is whole or absent, and one DataError with the way around when the hub does not answer.
The network is touched by a process of its own (`core.hub_reader`), which ends with the fetch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .egress import Ledger, is_offline, refusal
from .environment import without_secrets
from .errors import DISK_FULL, BudgetError, DataError

PREFIX = "hub:"
GRAMMAR = "hub:OWNER/NAME, then optionally @REVISION, #CONFIG and :SPLIT, in this order"
DEFAULT_ENDPOINT = "https://huggingface.co"
FACTS_FILE = "hub.json"
FORMAT = 1
FIRST_ANSWER_SECONDS = 60
"""Longest wait for the hub's first answer, the import of the reader's libraries included."""
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH")
"""All that the reader is told of secrets."""
STALL_SECONDS = 120
"""Longest silence between two signs of progress; pieces of some megabytes come in one go."""

_SOURCE = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@(?P<revision>[\w./-]+?))?"
    r"(?:#(?P<config>[\w.+-]+))?(?::(?P<split>[\w.+-]+))?",
    re.ASCII,
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KnownSet:
    """What is known of a data set that recipes name."""

    revision: str | None
    """The revision that is read when the source names none."""
    file: str
    """What to download by hand when the hub cannot be reached."""


KNOWN = {
    "karpathy/tinystories-gpt4-clean": KnownSet(
        "0397e27157956705a0260709da3095bb9c43d6a7", "tinystories_gpt4_clean.parquet"
    ),
    "roneneldan/TinyStories": KnownSet(None, "TinyStoriesV2-GPT4-train.txt"),
}


@dataclass(frozen=True, slots=True)
class HubSource:
    """A data set on the hub; None leaves the choice to us: the pinned or newest revision, the only config, train."""

    repo: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @property
    def name(self) -> str:
        return self.repo.partition("/")[2]


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What was fetched; lies beside the rows as hub.json."""

    format: int
    repo: str
    revision: str
    """The commit that was read."""
    config: str | None
    split: str
    licence: str
    """As the data set's card says; empty when it says nothing."""
    columns: tuple[str, ...]
    dropped_columns: tuple[str, ...]
    """Pictures, sound and other bytes."""
    row_count: int
    byte_count: int
    """UTF-8 bytes of all cells."""
    asked_bytes: int
    whole: bool
    """Whether the split ended before `asked_bytes` were reached."""
    file_bytes: int

    @property
    def line(self) -> str:
        """One sentence for a person."""
        extent = "all" if self.whole else "the first"
        licence = f"licence {self.licence}" if self.licence else "no licence named"
        return (
            f"{PREFIX}{self.repo} at revision {self.revision[:12]}, split {self.split}: "
            f"{extent} {self.row_count:,} rows, {self.byte_count / 1e6:.1f} MB, {licence}"
        )


def is_hub_source(source: str) -> bool:
    """Whether a recipe's `source` names a data set on the hub."""
    return source.startswith(PREFIX)


def parse_hub_source(source: str) -> HubSource:
    """`hub:OWNER/NAME@REVISION#CONFIG:SPLIT` in parts. Raises DataError."""
    match = _SOURCE.fullmatch(source.strip())
    if match is None or ".." in source:
        raise DataError(
            f"'{source}' does not name a data set on the hub",
            f"Write {GRAMMAR}; for example hub:karpathy/tinystories-gpt4-clean.",
        )
    return HubSource(match["repo"], match["revision"], match["config"], match["split"])


def fetch_hub(
    source: str,
    cache_root: Path,
    max_bytes: int,
    progress: Progress,
    columns: Sequence[str] = (),
    ledger: Ledger | None = None,
) -> Path:
    """Fetch about `max_bytes` of text (UTF-8) of a hub source; return the .jsonl.gz with one row per line.

    `columns` limits what is fetched; empty takes every column that is not a picture, sound or other bytes. What was
    fetched before is used again without any network when it is enough; a revision that the source leaves open stays
    the one that was found first. What is asked for enters `ledger` first. Raises DataError (not reachable, no such
    set, ...), BudgetError (disk full) and UsageError (offline).
    """
    wanted = parse_hub_source(source)
    folder = cache_root / _folder_name(wanted, columns)
    known = _read_facts(folder, wanted)
    if known is not None and (known.whole or known.asked_bytes >= max_bytes):
        progress(f"{known.line} (fetched before)")
        return folder / _rows_name(wanted)
    if is_offline():
        raise refusal(f"the hub ({wanted.repo})")
    pinned = KNOWN[wanted.repo].revision if wanted.repo in KNOWN else None
    revision = wanted.revision or (known.revision if known is not None else None) or pinned
    try:
        with _staging(cache_root) as staging:
            request = {
                "repo": wanted.repo,
                "revision": revision,
                "config": wanted.config,
                "split": wanted.split,
                "columns": list(columns),
                "max_bytes": max_bytes,
                "file": str(staging / _rows_name(wanted)),
            }
            if ledger is not None:
                asked = {key: value for key, value in request.items() if key != "file"}
                ledger.record(hub_host(), f"reads the data set {wanted.repo}", json.dumps(asked).encode())
            facts = _run_reader(request, wanted, staging, progress)
            (staging / FACTS_FILE).write_text(json.dumps(asdict(facts), indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            staging.replace(folder)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise _disk_full(cache_root) from error
        raise DataError(
            f"{cache_root}: cannot hold what the hub sends ({error.strerror or error})", "Check the folder's rights."
        ) from error
    progress(facts.line)
    return folder / _rows_name(wanted)


def hub_host() -> str:
    """Where the hub lies."""
    from urllib.parse import urlsplit

    return urlsplit(_endpoint()).hostname or _endpoint()


def hub_facts(rows: Path) -> HubFacts | None:
    """What is known of a file that `fetch_hub` returned; None for any other file."""
    return _facts_in(rows.parent)


# --- the cache ----------------------------------------------------------------------------------


def _rows_name(wanted: HubSource) -> str:
    return f"{wanted.name}.jsonl.gz"


def _folder_name(wanted: HubSource, columns: Sequence[str]) -> str:
    """One folder per question, readable and without collisions."""
    key = hashlib.sha256(json.dumps([FORMAT, *asdict(wanted).values(), *columns]).encode()).hexdigest()[:10]
    return f"{wanted.repo.replace('/', '--')}-{key}"


def _facts_in(folder: Path) -> HubFacts | None:
    try:
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        facts["columns"], facts["dropped_columns"] = tuple(facts["columns"]), tuple(facts["dropped_columns"])
        return HubFacts(**facts)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _read_facts(folder: Path, wanted: HubSource) -> HubFacts | None:
    """The facts of a complete earlier fetch, or None."""
    facts = _facts_in(folder)
    try:
        size = (folder / _rows_name(wanted)).stat().st_size
    except OSError:
        return None
    return facts if facts is not None and facts.format == FORMAT and facts.file_bytes == size else None


@contextlib.contextmanager
def _staging(cache_root: Path) -> Iterator[Path]:
    """A folder for the time of one fetch; what killed fetches left behind is removed first."""
    import psutil

    cache_root.mkdir(parents=True, exist_ok=True)
    for left in cache_root.glob("unfinished-*"):
        pid = left.name.split("-")[1]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"unfinished-{os.getpid()}-", dir=cache_root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- the reader ---------------------------------------------------------------------------------


def _run_reader(request: dict[str, Any], wanted: HubSource, staging: Path, progress: Progress) -> HubFacts:
    """Run the reader process to its end. Raises DataError and BudgetError; kills it when it falls silent."""
    with tempfile.TemporaryDirectory(prefix="slm-ar-hub-") as scratch, tempfile.TemporaryFile("w+b") as complaints:
        # -P: the folder of the command must not lend its modules; the scratch folder keeps the libraries' caches.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "slm_ar.core.hub_reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            cwd=scratch,
            env=_reader_environment(scratch),
            text=True,
            encoding="utf-8",
        )
        try:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request))
            return _listen(process.stdout, request, wanted, progress, complaints)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _reader_environment(scratch: str) -> dict[str, str]:
    """Quiet libraries with short patience, whose caches vanish with the fetch. The user's token and proxy stay."""
    return without_secrets(os.environ, HUB_TOKENS) | {
        "HF_HUB_CACHE": scratch,
        "HF_XET_CACHE": scratch,
        "HF_DATASETS_CACHE": scratch,
        "HF_HUB_ETAG_TIMEOUT": "10",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "USE_TORCH": "0",  # else it is imported, for seconds, and never used
        "USE_TF": "0",
        "USE_JAX": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _listen(
    lines: IO[str], request: dict[str, Any], wanted: HubSource, progress: Progress, complaints: IO[bytes]
) -> HubFacts:
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(lines, messages), daemon=True).start()
    patience = FIRST_ANSWER_SECONDS
    while True:
        try:
            message = messages.get(timeout=patience)
        except queue.Empty:
            raise _failure(wanted, "unreachable", f"no answer for {patience} seconds") from None
        patience = STALL_SECONDS
        if message is None:
            complaints.seek(0)
            last = complaints.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise _failure(wanted, "other", last[:200] or "the reader stopped")
        if "problem" in message:
            raise _failure(wanted, message["problem"], message["detail"])
        if "row_count" not in message:
            progress(f"{PREFIX}{wanted.repo}: {message['note']}")
            continue
        return HubFacts(
            format=FORMAT,
            repo=wanted.repo,
            revision=message["revision"],
            config=wanted.config,
            split=message["split"],
            licence=message["licence"],
            columns=tuple(message["columns"]),
            dropped_columns=tuple(message["dropped_columns"]),
            row_count=message["row_count"],
            byte_count=message["byte_count"],
            asked_bytes=request["max_bytes"],
            whole=message["whole"],
            file_bytes=Path(request["file"]).stat().st_size,
        )


def _pump(lines: IO[str], messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # the pipe may be closed under the thread when the fetch is given up
        for line in lines:
            if line.startswith("{"):  # a library may print what it likes
                messages.put(json.loads(line))
    messages.put(None)


# --- errors -------------------------------------------------------------------------------------


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def _disk_full(folder: Path) -> BudgetError:
    return BudgetError(f"the disk is full: fetching from the hub stopped in {folder}", "Free some space, run it again.")


def _by_hand(wanted: HubSource) -> str:
    file = KNOWN[wanted.repo].file if wanted.repo in KNOWN else "its files (parquet, jsonl, csv or txt)"
    return (
        f"Download {file} from https://huggingface.co/datasets/{wanted.repo} by hand, on any machine, and name it in "
        'recipe.toml: [data] source = "path/to/FILE"'
    )


def _failure(wanted: HubSource, problem: str, detail: str) -> DataError | BudgetError:
    """What went wrong, by the reader's word for it, and what a person can do."""
    name = f"{PREFIX}{wanted.repo}"
    if problem == "disk":
        return _disk_full(Path(detail))
    if problem == "unreachable":
        return DataError(f"{name}: the hub {_endpoint()} cannot be reached ({detail})", _by_hand(wanted))
    if problem == "offline":
        return DataError(
            f"{name}: the environment forbids the hub (HF_HUB_OFFLINE)", f"Unset HF_HUB_OFFLINE. Or: {_by_hand(wanted)}"
        )
    if problem == "missing":
        return DataError(
            f"{name}: the hub has no such data set, or it is private",
            "Check its name on https://huggingface.co/datasets; for a private one log in with: hf auth login",
        )
    if problem == "gated":
        return DataError(
            f"{name}: its owner asks you to accept terms first",
            f"Accept them on https://huggingface.co/datasets/{wanted.repo} and log in with: hf auth login",
        )
    if problem == "revision":
        return DataError(f"{name}: has no revision '{wanted.revision}'", "Leave @REVISION out, or name a commit of it.")
    if problem == "script":
        return DataError(f"{name}: consists of a loading script, and code from the hub is never run", _by_hand(wanted))
    if problem in ("config", "split", "column"):
        mark = {"config": "#", "split": ":"}.get(problem)
        hint = f"Name one in the source: {name}{mark}NAME" if mark else "Check the columns in the recipe's [data]."
        return DataError(f"{name}: {detail}", hint)
    return DataError(f"{name}: cannot be read ({detail})", _by_hand(wanted))
