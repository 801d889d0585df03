"""TOML as text: where a key stands, and how to set one without losing the person's comments.

Called by `recipe`, which speaks of lines in its errors and copies recipes into workspaces. Standard library only.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path

from .errors import RecipeError

KeyPath = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """One header or one assignment, on lines [first, last) counted from 0."""

    first: int
    last: int
    table: KeyPath
    key: KeyPath
    """Empty for a header; dotted keys have several parts."""

    @property
    def path(self) -> KeyPath:
        return self.table + self.key


def statements(text: str) -> Iterator[Statement]:
    """Yield the statements of a valid TOML text in order.

    An assignment ends at the first line where the parser accepts it as a whole: that holds for every multi-line
    string and array without a second TOML grammar in this file.
    """
    lines = text.split("\n")
    table: KeyPath = ()
    first = 0
    while first < len(lines):
        last = first + 1
        while (parsed := _parse("\n".join(lines[first:last]))) is None:
            last += 1
            if last > len(lines):
                return
        if parsed:
            if lines[first].lstrip().startswith("["):
                table = _single_path(parsed)
                yield Statement(first, last, table, ())
            else:
                yield Statement(first, last, table, _key_of(lines[first]))
        first = last


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line, counted from 1, on which each table and key of a valid TOML text first occurs."""
    found: dict[KeyPath, int] = {}
    for statement in statements(text):
        for length in range(1, len(statement.path) + 1):
            found.setdefault(statement.path[:length], statement.first + 1)
    return found


def toml_value(value: object) -> str:
    """The value as TOML writes it. Raises TypeError for what TOML cannot hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(str(key), ensure_ascii=False)} = {toml_value(item)}" for key, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def write_recipe_copy(text: str, overrides: Mapping[str, object]) -> str:
    """The TOML text with dotted keys set, such as {"data.source": "logs.zip"}, and every comment kept.

    None removes a key. A key that is not there goes to the end of its table; a missing table goes to the end of the
    text. Raises RecipeError when the text is not valid TOML or a key cannot be set.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    edited = text.replace("\r\n", "\n")
    if _parse(edited) is None:
        raise RecipeError("the recipe to copy is not valid TOML", "Correct it first, or start from a shipped recipe.")
    for dotted, value in overrides.items():
        path = tuple(dotted.split("."))
        edited = _remove(edited, path) if value is None else _assign(edited, path, value)
        if not _holds(edited, path, value):
            raise RecipeError(f"cannot set {dotted} in this recipe", "Edit the recipe by hand.")
    return edited.replace("\n", newline)


def _parse(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):  # a number or a nesting too long for Python is no TOMLDecodeError
        return None


def _single_path(parsed: object) -> KeyPath:
    path: list[str] = []
    while parsed and isinstance(parsed, dict | list):
        if isinstance(parsed, list):
            parsed = parsed[0]
        else:
            key, parsed = next(iter(parsed.items()))
            path.append(key)
    return tuple(path)


def _key_of(line: str) -> KeyPath:
    """The key left of the equals sign."""
    return _single_path(_parse(line[: _equals_sign(line)] + "= 0"))


def _holds(text: str, path: KeyPath, value: object) -> bool:
    """Whether the parsed text has `value` at `path`; the surgery is trusted only as far as the parser agrees."""
    wanted = None if value is None else tomllib.loads("value = " + toml_value(value))["value"]
    try:
        text.encode()
        found: object = tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return type(found) is type(wanted) and repr(found) == repr(wanted)


def _remove(text: str, path: KeyPath) -> str:
    lines = text.split("\n")
    for statement in reversed(list(statements(text))):
        if statement.path == path and statement.key:
            del lines[statement.first : statement.last]
    return "\n".join(lines)


def _assign(text: str, path: KeyPath, value: object) -> str:
    lines = text.split("\n")
    known = list(statements(text))
    for statement in known:
        if statement.key and statement.path == path[: len(statement.path)]:
            old = "\n".join(lines[statement.first : statement.last])
            rest = path[len(statement.path) :]
            lines[statement.first : statement.last] = _reassigned(old, rest, value).split("\n")
            return "\n".join(lines)
    parent = path[:-1]
    # A sibling shows which table is open there and how its keys are written; the header itself counts as one.
    siblings = [s for s in known if s.path[: len(parent)] == parent and len(s.table) <= len(parent)]
    if siblings:
        table = max((s.table for s in siblings), key=len)
        last = [s for s in siblings if s.table == table][-1].last
        lines.insert(last, f"{_dotted(path[len(table) :])} = {toml_value(value)}")
        return "\n".join(lines)
    if not parent:
        return f"{_dotted(path)} = {toml_value(value)}\n{text}"
    start = text if not text or text.endswith("\n") else text + "\n"
    gap = "\n" if start else ""
    return f"{start}{gap}[{_dotted(parent)}]\n{_dotted(path[-1:])} = {toml_value(value)}\n"


def _reassigned(assignment: str, rest: KeyPath, value: object) -> str:
    """The assignment with a new value; its key, spacing and trailing comment stay. `rest` leads into inline tables."""
    equals = _equals_sign(assignment)
    comment = _trailing_comment(assignment)
    if rest:
        parsed: object = tomllib.loads("value " + assignment[equals:])["value"]
        value = _with_item(parsed, rest, value)
    return f"{assignment[:equals]}= {toml_value(value)}{comment}"


def _equals_sign(assignment: str) -> int:
    """Position of the sign that ends the key; a quoted key may itself contain one."""
    position = assignment.find("=")
    while _parse(assignment[:position] + "= 0") is None:
        position = assignment.find("=", position + 1)
    return position


def _trailing_comment(assignment: str) -> str:
    """Blanks and comment after the value; the first # where the text before it is already complete starts it."""
    position = assignment.find("#")
    while position >= 0:
        before = assignment[:position]
        if _parse(before):
            return assignment[len(before.rstrip()) :]
        position = assignment.find("#", position + 1)
    return ""


def _with_item(table: object, path: KeyPath, value: object) -> object:
    if not path:
        return value
    items = dict(table) if isinstance(table, dict) else {}
    items[path[0]] = _with_item(items.get(path[0]), path[1:], value)
    return items


def _dotted(path: KeyPath) -> str:
    bare = all(key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) for key in path)
    return ".".join(path if bare else (json.dumps(key, ensure_ascii=False) for key in path))
