"""Lines and JSON objects of one file, objects inside nested lists among them. Called by `pairs`.

Promises: streams where the format allows it, caps where it does not, and line numbers in every error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from ...core.sources import MAX_JSON_ARRAY_BYTES, Notices, label, open_text, strip_gz

PLAIN_KEY = "query"
"""The key that a bare text in a list of JSON values gets."""


@dataclass(frozen=True, slots=True)
class File:
    """One file, or one member of a zip archive."""

    name: str
    path: Path
    member: str

    @property
    def label(self) -> str:
        return label(self.path, self.member)

    @property
    def plain_name(self) -> str:
        return strip_gz(self.member or self.path.name)


@dataclass(frozen=True, slots=True)
class Record:
    place: str
    fields: Mapping[str, Any]
    group: str = ""


def numbered_lines(file: File, notices: Notices) -> Iterator[tuple[int, str]]:
    """(number, line) of the lines that are not blank; refused are web pages and files of blank lines."""
    lines = open_text(file.path, member=file.member, notices=notices)
    filled = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    first = next(filled, None)
    if first is None:
        raise DataError(f"{file.label}: holds nothing but blank lines", "Download it again or remove it.")
    if first[1].lstrip().lower().startswith(("<!doctype", "<html", "<?xml", "<head", "<body")):
        raise DataError(
            f"{file.label}: is a web page (HTML or XML) saved under the name of a data file",
            "The download probably answered with an error or a login page: open it in a browser, download again.",
        )
    return chain([first], filled)


def json_records(file: File, lists: list[str], notices: Notices) -> Iterator[Record]:
    """The objects that `lists` leads to. Those below one item (a conversation) share a group."""
    for number, item, rest in _json_items(file, lists, notices):
        below = [
            {PLAIN_KEY: each} if isinstance(each, str) else each
            for each in _unfold(item, rest)
            if isinstance(each, dict | str)
        ]
        if not below:
            notices.count(file.label, "items without the wanted objects, skipped")
        group = f"{file.name}:{number}" if rest else ""
        for position, fields in enumerate(below, start=1):
            yield Record(f"{number}.{position}" if rest else str(number), fields, group)


def _json_items(file: File, lists: list[str], notices: Notices) -> Iterator[tuple[int, Any, list[str]]]:
    """(number, item, lists left to go into): the lines of a .jsonl, the items of an array or of a table's list."""
    lines = numbered_lines(file, notices)
    number, lead = next(lines)
    try:
        first = json.loads(lead)
    except (ValueError, RecursionError):
        first = None
    if isinstance(first, dict):
        following = next(lines, None)
        if following is not None:
            yield number, first, lists
            for place, line in chain([following], lines):
                yield place, _json_line(file, place, line), lists
            return
        whole: Any = first
    else:
        whole = _whole_json(file, chain([(number, lead)], lines))
    if isinstance(whole, dict) and lists:
        whole, lists = list(_unfold(whole, lists[:1])), lists[1:]
    for place, item in enumerate(whole if isinstance(whole, list) else [whole], start=1):
        yield place, item, lists


def _json_line(file: File, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{file.label}, line {number}: is not complete JSON ({error})",
            "If it is the last line, the file was cut off: download it again. Otherwise repair or remove the line.",
        ) from error


def _whole_json(file: File, lines: Iterable[tuple[int, str]]) -> Any:
    parts: list[str] = []
    numbers: list[int] = []
    size = 0
    for number, line in lines:
        numbers.append(number)
        parts.append(line)
        size += len(line)
        if size > MAX_JSON_ARRAY_BYTES:
            raise DataError(
                f"{file.label}: is one JSON value of more than {MAX_JSON_ARRAY_BYTES:,} characters",
                "Write it as JSON lines: jq -c '.[]' FILE > FILE.jsonl",
            )
    try:
        return json.loads("".join(parts))
    except json.JSONDecodeError as error:
        place = numbers[min(error.lineno, len(numbers)) - 1]  # blank lines were left out
        raise DataError(
            f"{file.label}, line {place}: is not complete JSON ({error.msg}, column {error.colno})",
            "One object per line is needed, or one array of objects. If it was cut off, download it again.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.label}: cannot be read as JSON ({error})", "Export it again.") from error


def _unfold(value: Any, lists: Sequence[str]) -> Iterator[Any]:
    """Every element of the lists that follow one another on the path."""
    if not lists:
        yield value
        return
    inner = value_at(value, lists[0])
    for each in inner if isinstance(inner, list) else ():
        yield from _unfold(each, lists[1:])


def value_at(value: Any, path: str) -> Any:
    """The value under a key, or under keys joined by dots; None when there is none."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
