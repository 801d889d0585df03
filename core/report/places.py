"""Texts without places of this machine: absolute paths and the name of its user. Called by sharing.py."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

PATH_WORD, USER_WORD = "[path]", "[user]"
_PATH = re.compile(
    r"""(?<=['"`])(?:~[\w.-]*)?/[A-Za-z_.][^'"`\n]*(?=['"`])"""  # in quotes, where a name may hold spaces
    r"""|(?<=['"`])[A-Za-z]:[\\/][^'"`\n]+(?=['"`])"""
    r"""|\bfile:/+[^\s'"`<>,;()]+"""
    r"""|(?<![\w/.<~\]])(?:~[\w.-]*)?/[A-Za-z_.][^\s'"`<>,;()]*"""
    r"""|(?<![\w])[A-Za-z]:\\[^\s'"`<>,;()]+"""
    r"""|(?<![\w\\])\\\\[\w.-]+\\[^\s'"`<>,;()]+"""
)
"""Absolute paths of Linux, macOS and Windows, and those below a home (~); addresses of the web are none."""
_NOBODY = frozenset({"", "root"})
"""A name of every machine, and a word of mathematics."""

Kind = TypeVar("Kind")


def without_places(value: Kind, home: str = "", user: str = "") -> Kind:
    """`value` with every text in it cleaned, be it a text, a dataclass, a tuple or a mapping of such.

    `home` and `user` default to those of whoever runs this.
    """
    home = home or str(Path.home())
    names = {user} if user else {Path(home).name, _user()}
    patterns = [re.compile(rf"{re.escape(home)}(?=[/\\])[^\s'\"`<>,;()]*")] if len(Path(home).parts) > 1 else []
    patterns.append(_PATH)
    people = "|".join(re.escape(name) for name in sorted(names - _NOBODY))
    person = re.compile(rf"(?<![A-Za-z0-9])(?:{people})(?![A-Za-z0-9])", re.IGNORECASE) if people else None

    def clean(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub(PATH_WORD, text)
        return person.sub(USER_WORD, text) if person is not None else text

    cleaned: Kind = _mapped(value, clean)
    return cleaned


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""


def _mapped(value: Any, clean: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        return tuple(_mapped(item, clean) for item in value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, clean) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: _mapped(getattr(value, item.name), clean) for item in fields(value)})
    return value
