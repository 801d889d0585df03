"""The conformance suite for adapters: `slm-ar adapters check` and the tests of third parties call `check_adapter`."""

from __future__ import annotations

import hashlib
import socket
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import islice, zip_longest
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
from .errors import DataError

SAMPLE_BYTES = 20_000
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
    with _no_network(problems):
        try:
            _check_documents(adapter, source, options, problems)
            _check_early_stop(adapter, source, options, problems)
            _check_missing_source(adapter, source, options, problems)
            _check_options(adapter, source, options, problems)
            if isinstance(adapter, Questioner):
                _check_questions(adapter, source, options, problems)
            _check_sample(adapter, problems)
        except DataError:
            raise
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = f"{frames[-1].filename}:{frames[-1].lineno}"
            problems.add("errors", f"{type(error).__name__} instead of DataError: {error} ({place})")
    if _snapshot(source) != before:
        problems.add("writes", f"{source} was changed while it was read")
    return problems.found


def check_without_source(adapter: Adapter) -> list[str]:
    """As `check_adapter`, for what can be said without a source: attributes and sample."""
    problems = _Problems()
    _check_attributes(adapter, problems)
    if not problems.found:
        with _no_network(problems):
            _check_sample(adapter, problems)
    return problems.found


@contextmanager
def _no_network(problems: _Problems) -> Iterator[None]:
    """Refuse connections while an adapter reads, and list the attempt."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        problems.add("network", f"a connection to {address!r} was tried while documents were read")
        raise OSError("an adapter must not use the network")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        socket.socket.connect = connect  # type: ignore[method-assign]


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
        ("tasks", adapter.tasks, isinstance(adapter.tasks, tuple)),
        ("slice_keys", adapter.slice_keys, isinstance(adapter.slice_keys, tuple)),
        ("options", adapter.options, isinstance(adapter.options, Mapping)),
    )
    for name, value, valid in expected:
        if not valid:
            problems.add("attribute", f"{name} = {value!r} is not what the contract asks for")
    if not adapter.describe().strip():
        problems.add("describe", "says nothing")


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
    sample = list(islice(adapter.sample(0, SAMPLE_BYTES), SAMPLE_BYTES))
    size = sum(len(document.text.encode()) for document in sample)
    if not SAMPLE_BYTES // 2 <= size <= SAMPLE_BYTES * 2:
        problems.add("sample", f"{SAMPLE_BYTES} bytes were asked for, {size} came")
    if sample != list(adapter.sample(0, SAMPLE_BYTES)):
        problems.add("sample", "the same seed gives other documents")
    if sample == list(adapter.sample(1, SAMPLE_BYTES)):
        problems.add("sample", "another seed gives the same documents")
    names = {task.name for task in adapter.tasks}
    for document in sample:
        known = None if isinstance(adapter, TaskFinder) else names
        _check_document(adapter, document, known, SplitRule.GROUP, problems)


def _snapshot(source: Path) -> list[tuple[str, int, int]]:
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
