"""The conformance suite for adapters: `slm-ar adapters check` and the tests of third parties call `check_adapter`."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from .contracts import (
    Adapter,
    Document,
    DuplicatePolicy,
    Questioner,
    SourceOptions,
    SplitRule,
    Task,
    TaskFinder,
)
from .environment import without_secrets
from .errors import DataError

SAMPLE_BYTES = 20_000
MOST_COMPARED_DOCUMENTS = 2000
"""Documents that other processes read again: an order that depends on the process shows at once."""
CANNOT_IMPORT = 3
SOCKET_METHODS = ("connect", "connect_ex", "sendto", "sendmsg")
SOCKET_FUNCTIONS = ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr")
MAX_EXAMPLES = 3
"""Problems of one kind that are told; a broken adapter breaks every document the same way."""


class _Problems:
    """Collects sentences, a few per kind."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._counts: dict[str, int] = {}

    def add(self, kind: str, detail: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= MAX_EXAMPLES:
            self.found.append(f"{kind}: {detail}")


def check_adapter(adapter: Adapter, source: Path, options: SourceOptions | None = None) -> list[str]:
    """Everything in which an adapter breaks its contract on a source, as sentences; empty when it conforms.

    Reads the source twice at the same time, so memory stays that of two passes. A DataError about the source itself is
    raised, not listed: then the source is at fault, or the adapter cannot read it.
    """
    problems = _Problems()
    options = options if options is not None else SourceOptions()
    _check_attributes(adapter, problems)
    if problems.found:
        return problems.found
    before = _snapshot(source)
    with _no_network(problems), _mistakes(problems):
        _check_documents(adapter, source, options, problems)
        _check_early_stop(adapter, source, options, problems)
        _check_missing_source(adapter, source, options, problems)
        _check_options(adapter, source, options, problems)
        if isinstance(adapter, Questioner):
            _check_questions(adapter, source, options, problems)
        _check_sample(adapter, problems)
    _check_other_process(adapter, source, options, problems)
    changed = sorted(path for path, _, _ in set(_snapshot(source)) ^ set(before))
    if changed:
        where = "" if changed[0] == str(source) else f" ({changed[0]})"
        problems.add("writes", f"{source} or what lies beside it was changed while it was read{where}")
    return problems.found


def check_without_source(adapter: Adapter) -> list[str]:
    """As `check_adapter`, for what can be said without a source: attributes and sample."""
    problems = _Problems()
    _check_attributes(adapter, problems)
    if not problems.found:
        with _no_network(problems), _mistakes(problems):
            _check_sample(adapter, problems)
    return problems.found


@contextmanager
def _mistakes(problems: _Problems) -> Iterator[None]:
    """List what an adapter raises instead of DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        problems.add("errors", f"{type(error).__name__} instead of DataError: {error} ({place})")


@contextmanager
def _no_network(problems: _Problems) -> Iterator[None]:
    """Refuse connections, messages and questions for names while an adapter reads, and list the attempt."""

    def refusing(name: str) -> Any:
        def refuse(*given: Any, **more: Any) -> None:
            told = [repr(item) for item in given if not isinstance(item, socket.socket | bytes)]
            problems.add("network", f"{name}({', '.join(told)}) was tried while documents were read")
            raise OSError("an adapter must not use the network")

        return refuse

    with ExitStack() as stack:
        for owner, names in ((socket.socket, SOCKET_METHODS), (socket, SOCKET_FUNCTIONS)):
            for name in names:
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, refusing(name))
        yield


def _check_attributes(adapter: Adapter, problems: _Problems) -> None:
    if not isinstance(adapter, Adapter):
        problems.add("protocol", f"{type(adapter).__name__} lacks a member of slm_ar.core.contracts.Adapter")
        return
    try:
        type(adapter)()
    except TypeError as error:
        problems.add("constructor", f"an adapter is made without arguments ({error})")
    expected: tuple[tuple[str, object, bool], ...] = (
        ("name", adapter.name, isinstance(adapter.name, str) and bool(adapter.name)),
        ("version", adapter.version, isinstance(adapter.version, int) and adapter.version >= 1),
        ("split", adapter.split, isinstance(adapter.split, SplitRule)),
        ("duplicates", adapter.duplicates, isinstance(adapter.duplicates, DuplicatePolicy)),
        ("tasks", adapter.tasks, _is_tuple_of(adapter.tasks, Task)),
        ("slice_keys", adapter.slice_keys, _is_tuple_of(adapter.slice_keys, str)),
        ("options", adapter.options, isinstance(adapter.options, Mapping)),
    )
    for name, value, valid in expected:
        if not valid:
            problems.add("attribute", f"{name} = {value!r} is not what the contract asks for")
    if not adapter.describe().strip():
        problems.add("describe", "says nothing")


def _is_tuple_of(value: object, kind: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


def _check_documents(adapter: Adapter, source: Path, options: SourceOptions, problems: _Problems) -> None:
    first, second = adapter.documents(source, options), type(adapter)().documents(source, options)
    if not isinstance(first, Iterator):
        problems.add("lazy", f"documents() returns a {type(first).__name__}, not an iterator")
        return
    names = {task.name for task in tasks_of(adapter, source, options)}
    finds = getattr(adapter, "split_rule", None)
    rule = finds(source, options) if finds is not None else adapter.split
    identities: set[bytes] = set()
    times: dict[str, str | None] = {}
    count = 0
    for count, (document, again) in enumerate(zip_longest(first, second), start=1):
        if document is None or document != again:
            problems.add("stable order", f"two passes differ at document {count}")
            break
        key = hashlib.blake2b(document.id.encode("utf-8", "replace"), digest_size=12).digest()
        if key in identities:
            problems.add("unique ids", f"'{document.id}' occurs twice")
        identities.add(key)
        _check_document(adapter, document, names, rule, problems)
        if times.setdefault(document.group, document.time) != document.time:
            problems.add("one time per group", f"group '{document.group}' has two times")
    if not count:
        problems.add("no documents", f"{source} gives none; an adapter raises DataError then")


def tasks_of(adapter: Adapter, source: Path, options: SourceOptions) -> tuple[Task, ...]:
    """The tasks of a source: found in it, or the adapter's own."""
    return adapter.find_tasks(source, options) if isinstance(adapter, TaskFinder) else adapter.tasks


def _check_document(
    adapter: Adapter, document: Document, names: set[str] | None, rule: SplitRule, problems: _Problems
) -> None:
    where = f"document '{document.id}'"
    if not document.id:
        problems.add("empty id", f"a document that starts with {document.text[:40]!r}")
    if not document.text.strip():
        problems.add("empty text", where)
    if not document.group:
        problems.add("empty group", where)
    if document.time is not None or rule is SplitRule.TIME:
        _check_time(document, problems)
    slices = adapter.slices(document)
    if set(slices) != set(adapter.slice_keys) or not all(isinstance(value, str) for value in slices.values()):
        problems.add("slices", f"{where} gives {dict(slices)!r}, slice_keys are {adapter.slice_keys!r}")
    try:
        raw = document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        problems.add("text", f"{where} cannot be written as UTF-8 ({error.reason} at {error.start})")
        return
    _check_spans(names, document, raw, problems)


def _check_time(document: Document, problems: _Problems) -> None:
    try:
        datetime.fromisoformat(document.time or "")
    except ValueError:
        problems.add("time", f"document '{document.id}' has time {document.time!r}, ISO 8601 is needed")


def _check_spans(names: set[str] | None, document: Document, raw: bytes, problems: _Problems) -> None:
    """`names` are the tasks of the source; None when there is no source to ask."""
    position = 0
    for span in document.spans:
        where = f"document '{document.id}' span [{span.start}, {span.end})"
        if not position <= span.start < span.end <= len(raw):
            problems.add("spans", f"{where} is empty, out of order, or beyond the text's {len(raw)} bytes")
            continue
        position = span.end
        if names is not None and span.task not in names:
            problems.add("span task", f"{where} names the unknown task '{span.task}'")
        # A byte 10xxxxxx continues a character, so no edge may stand before one.
        if any(edge < len(raw) and raw[edge] & 0xC0 == 0x80 for edge in (span.start, span.end)):
            problems.add("span edges", f"{where} cuts a character; offsets count UTF-8 bytes")


def _check_early_stop(adapter: Adapter, source: Path, options: SourceOptions, problems: _Problems) -> None:
    """Stopping after one document must leave nothing behind that breaks the next pass."""
    documents = adapter.documents(source, options)
    first = next(documents, None)
    close = getattr(documents, "close", None)
    if close is not None:
        close()
    if first != next(adapter.documents(source, options), None):
        problems.add("early stop", "the first document changes after an unfinished pass")


def _check_missing_source(adapter: Adapter, source: Path, options: SourceOptions, problems: _Problems) -> None:
    missing = source.parent / f"{source.name}-does-not-exist"
    try:
        next(adapter.documents(missing, options), None)
    except DataError as error:
        if missing.name not in str(error):
            problems.add("errors", "the DataError for a missing source does not name it")
    except Exception as error:
        problems.add("errors", f"a missing source raises {type(error).__name__} instead of DataError")
    else:
        problems.add("errors", "a missing source raises nothing")


def _check_options(adapter: Adapter, source: Path, options: SourceOptions, problems: _Problems) -> None:
    """An option that is not documented is refused, so that a typing error cannot change what is learned."""
    unknown = "no_such_option"
    try:
        next(adapter.documents(source, replace(options, options={**options.options, unknown: "1"})), None)
    except DataError as error:
        if unknown not in str(error):
            problems.add("options", f"the DataError for the unknown option '{unknown}' does not name it")
    else:
        problems.add("options", f"the unknown option '{unknown}' is taken without a word")
    for name, sentence in adapter.options.items():
        if not sentence.strip():
            problems.add("options", f"'{name}' is not explained")


def _check_questions(adapter: Questioner, source: Path, options: SourceOptions, problems: _Problems) -> None:
    """Questions end where their answer begins. A source whose answers are all known has none, which is fine."""
    try:
        asked = list(islice(adapter.questions(source, options), 100))
    except DataError:
        return
    for document in asked:
        end = len(document.text.encode("utf-8"))
        if len(document.spans) != 1 or (document.spans[0].start, document.spans[0].end) != (end, end):
            spans = [(span.start, span.end) for span in document.spans]
            problems.add("questions", f"'{document.id}' has spans {spans}, wanted one at its end [{end}, {end})")


def _check_sample(adapter: Adapter, problems: _Problems) -> None:
    sample = _bounded_sample(adapter, 0)
    size = sum(len(document.text.encode()) for document in sample)
    if not SAMPLE_BYTES // 2 <= size <= SAMPLE_BYTES * 2:
        problems.add("sample", f"{SAMPLE_BYTES} bytes were asked for, {size} came")
    if sample != _bounded_sample(adapter, 0):
        problems.add("sample", "the same seed gives other documents")
    if sample == _bounded_sample(adapter, 1):
        problems.add("sample", "another seed gives the same documents")
    names = {task.name for task in adapter.tasks}
    for document in sample:
        known = None if isinstance(adapter, TaskFinder) else names
        _check_document(adapter, document, known, SplitRule.GROUP, problems)


def _bounded_sample(adapter: Adapter, seed: int) -> list[Document]:
    """The sample, cut off when it is clearly too large: it may have no end."""
    taken: list[Document] = []
    size = 0
    for document in islice(adapter.sample(seed, SAMPLE_BYTES), SAMPLE_BYTES):
        taken.append(document)
        size += len(document.text.encode("utf-8", "replace"))
        if size > SAMPLE_BYTES * 2:
            break
    return taken


# --- another process ----------------------------------------------------------------------------


def _check_other_process(adapter: Adapter, source: Path, options: SourceOptions, problems: _Problems) -> None:
    """Whether two more processes, whose sets have another order each, give the same documents; a short pass each.

    Left out for what another process cannot import, such as a class inside a test, and when something is wrong already.
    """
    kind = type(adapter)
    given: dict[str, Any] = {"columns": dict(options.columns), "options": dict(options.options)}
    given["settled"] = dict(options.settled)
    given |= {"since": options.since, "until": options.until}
    if problems.found or "<" in kind.__qualname__ or kind.__module__ == "__main__":
        return
    try:
        order = json.dumps([kind.__module__, inspect.getfile(kind), kind.__qualname__, str(source.absolute()), given])
    except (TypeError, OSError):
        return
    told = set()
    environment = without_secrets(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for seed in ("1", "2"):
        ended = subprocess.run(
            # -P: no file of the current folder takes the place of a module
            [sys.executable, "-P", "-c", "from slm_ar.core.testing import _tell_digest; _tell_digest()"],
            input=order.encode(),
            capture_output=True,
            env=environment | {"PYTHONHASHSEED": seed},
            check=False,
        )
        if ended.returncode == CANNOT_IMPORT:
            return
        if ended.returncode:
            reason = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            problems.add("stable order", f"another process fails where this one did not: {reason}")
            return
        told.add(ended.stdout.decode("utf-8", "replace").strip().rpartition("\n")[2])
    if len(told) > 1:
        problems.add("stable order", "another process gives other documents: is the order of a set or of hash() used?")


def _tell_digest() -> None:
    """What the other process does: print the digest of the documents that it is told of on its standard input."""
    module_name, file, name, source, given = json.load(sys.stdin)
    try:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError:  # a person's own file, which is in no package
            spec = importlib.util.spec_from_file_location(module_name, file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        adapter = functools.reduce(getattr, name.split("."), module)()  # type: ignore[operator]
    except Exception:
        raise SystemExit(CANNOT_IMPORT) from None
    with _no_network(_Problems()):
        sys.stdout.write("\n" + _digest(adapter, Path(source), SourceOptions(**given)) + "\n")


def _digest(adapter: Adapter, source: Path, options: SourceOptions) -> str:
    """sha256 over the first documents of the source, the sample, and what the adapter says of them."""
    total = hashlib.sha256()
    for document in chain(
        islice(adapter.documents(source, options), MOST_COMPARED_DOCUMENTS), _bounded_sample(adapter, 0)
    ):
        total.update(repr((document, sorted(adapter.slices(document).items()))).encode("utf-8", "replace"))
    total.update(repr([task.name for task in tasks_of(adapter, source, options)]).encode())
    return total.hexdigest()


def _snapshot(source: Path) -> list[tuple[str, int, int]]:
    """The files of the source, or the files beside it when it is one: (path, size, time of the last change)."""
    files = sorted(source.rglob("*") if source.is_dir() else source.absolute().parent.glob("*"))
    found = []
    for path in files:
        with suppress(FileNotFoundError):  # somebody else's, gone meanwhile
            if path.is_file():
                found.append((str(path), path.stat().st_size, path.stat().st_mtime_ns))
    return found
