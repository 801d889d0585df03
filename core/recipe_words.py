"""The recipe's JSON schema in words: which values are allowed, what is wrong with a recipe, the page of all keys.

Called by `recipe`. Everything is derived from the schema, so neither an error nor the page can disagree with the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from .errors import did_you_mean
from .toml_text import statements, toml_value

Schema = Mapping[str, Any]
Path = tuple[int | str, ...]
"""Keys and list indices that lead to a value."""

SHOWN_VALUE_LENGTH = 60
TYPE_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text in quotes",
    "object": "a table",
}
BOUND_WORDS = {
    "exclusiveMinimum": "more than {}",
    "minimum": "at least {}",
    "exclusiveMaximum": "less than {}",
    "maximum": "at most {}",
}


def problems(error: ValidationError, schema: Schema, table: Schema, text: str) -> list[str]:
    """One line per problem of `table`, which was parsed from `text`, in the order of the file."""
    lines = _lines(text.replace("\r\n", "\n"))
    found: dict[str, int] = {}
    for detail in error.errors():
        path, value = _place(detail["loc"], table, detail["type"] in ("missing", "rule"))
        line = next((lines[path[:size]] for size in range(len(path), 0, -1) if path[:size] in lines), 0)
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        message = _explained(schema, path, detail["type"], value, detail["msg"])
        # The members of a union fail one by one at the same key and get the same words.
        found.setdefault(f"line {line}: {where}: {message}" if line else f"{where}: {message}", line)
    return sorted(found, key=lambda problem: found[problem])


def _lines(text: str) -> dict[Path, int]:
    """Line, counted from 1, on which each table and key first occurs; [[tables]] are told apart by their index."""
    written = text.split("\n")
    newest: dict[Path, int] = {}
    found: dict[Path, int] = {}
    for statement in statements(text):
        if not statement.key and written[statement.first].lstrip().startswith("[["):
            newest[statement.table] = newest.get(statement.table, -1) + 1
        path: Path = ()
        for size, name in enumerate(statement.path, 1):
            path += (name,)
            found.setdefault(path, statement.first + 1)
            if statement.path[:size] in newest:
                path += (newest[statement.path[:size]],)
                found.setdefault(path, statement.first + 1)
    return found


def reference(schema: Schema) -> str:
    """A Markdown page with every key, its allowed values, its default and its meaning."""
    tables = {name: part for name, part in _properties(schema).items() if _is_table(part)}
    singles = {name: part for name, part in _properties(schema).items() if name not in tables}
    parts = ["## Top of the file\n", *_rows(singles, schema)]
    for name, part in tables.items():
        parts += ["", f"## `[{name}]`\n", " ".join(str(part.get("description", "")).split())]
        if "properties" not in part:
            continue
        keys = _properties(part, schema)
        lists = {key: _resolved(item["items"], schema) for key, item in keys.items() if "$ref" in item.get("items", {})}
        parts += ["", *_rows({key: item for key, item in keys.items() if key not in lists}, part)]
        for key, item in lists.items():
            parts += ["", f"## `[[{name}.{key}]]`\n", " ".join(str(item.get("description", "")).split())]
            parts += ["", *_rows(_properties(item, schema), item)]
    return "\n".join(parts) + "\n"


def _is_table(part: Schema) -> bool:
    return "properties" in part or part.get("type") == "object"


def allowed(part: Schema) -> str:
    """The allowed values of a key, in words."""
    if "anyOf" in part:
        return _alternatives(allowed(member) for member in part["anyOf"] if member.get("type") != "null")
    if "const" in part or "enum" in part:
        return _alternatives(_quoted(choice) for choice in part.get("enum", [part.get("const")]))
    if part.get("type") == "array" and "$ref" in part["items"]:
        return "a list of tables"
    if part.get("type") == "array":
        return f"a list, each entry {allowed(part['items'])}"
    if part.get("format") == "date":
        return "a date such as 2024-03-31"
    words = TYPE_WORDS.get(part.get("type", ""), "a value")
    if part.get("type") == "object" and isinstance(part.get("additionalProperties"), Mapping):
        return f"a table, each value {allowed(part['additionalProperties'])}"
    if part.get("minLength"):
        words += ", not empty"
    bounds = [wording.format(part[bound]) for bound, wording in BOUND_WORDS.items() if bound in part]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def _explained(schema: Schema, path: Path, kind: str, value: object, message: str) -> str:
    if kind == "rule":
        return message
    if kind == "extra_forbidden":
        return f"unknown key. {_home(schema, path)}"
    words = allowed(_part(schema, path))
    if kind == "missing":
        return f"is required: {words}"
    nearest = did_you_mean(value, re.findall(r"'([^']+)'", words)) if isinstance(value, str) else ""
    advice = f". {nearest}" if nearest.startswith("Did") else ""
    wrong = toml_value(value)
    if len(wrong) > SHOWN_VALUE_LENGTH:
        wrong = wrong[: SHOWN_VALUE_LENGTH - 3] + "..."
    return f"must be {words}, not {wrong}{advice}"


def _home(schema: Schema, path: Path) -> str:
    """Where an unknown key belongs: in another table, or under a similar name in its own."""
    name = str(path[-1])
    if len(path) > 1 and name in _properties(schema):
        top_level = "properties" not in _properties(schema)[name]
        return "It belongs above the first table." if top_level else f"[{name}] is a table of its own."
    homes = [table for table, part in _properties(schema).items() if name in _properties(part, schema)]
    if homes:
        return f"It belongs in [{homes[0]}]."
    return did_you_mean(name, list(_properties(_part(schema, path[:-1]), schema)))


def _place(location: Path, table: Schema, may_be_absent: bool) -> tuple[Path, object]:
    """The part of a validator's location that a person wrote, and the value there; the rest names union members."""
    value: Any = table
    path: list[int | str] = []
    for part in location:
        if isinstance(value, Mapping) and part in value:
            value = value[str(part)]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif isinstance(value, Mapping) and isinstance(part, str) and may_be_absent:
            value = None
        else:
            break
        path.append(part)
    return tuple(path), value


def _part(schema: Schema, path: Path) -> Schema:
    part = schema
    for name in path:
        if isinstance(name, int):
            lists = [member for member in part.get("anyOf", ()) if "items" in member]  # of a list that may be absent
            part = _resolved((lists or [part])[0]["items"], schema)
        else:
            part = _properties(part, schema).get(name) or part.get("additionalProperties") or {}
    return part


def _properties(part: Schema, root: Schema | None = None) -> dict[str, Schema]:
    """The keys of a table, references resolved."""
    return {name: _resolved(item, root or part) for name, item in part.get("properties", {}).items()}


def _resolved(part: Schema, root: Schema) -> Schema:
    """The definition that a reference names, or the part itself; of a table that may be absent, the table."""
    tables = [member for member in part.get("anyOf", ()) if "$ref" in member]
    part = tables[0] if len(tables) == 1 else part
    target = part.get("$ref", "").rpartition("/")[2]
    definition: Schema = root["$defs"][target] if target else part
    return definition


def _rows(keys: Mapping[str, Schema], table: Schema) -> Iterator[str]:
    yield "| key | allowed | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, part in keys.items():
        meaning = " ".join(str(part.get("description", "")).split())
        yield f"| `{name}` | {allowed(part)} | {_default(name, part, table)} | {meaning} |"


def _default(name: str, part: Schema, table: Schema) -> str:
    if name in table.get("required", ()):
        return "required"
    default = part.get("default")
    if default is None:
        return "empty" if part.get("type") == "object" else "not set"
    return f"`{toml_value(default)}`"


def _quoted(choice: object) -> str:
    return f"'{choice}'" if isinstance(choice, str) else json.dumps(choice)


def _alternatives(words: Iterator[str]) -> str:
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last
