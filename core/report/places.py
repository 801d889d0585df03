"""Texts without places of this machine: absolute paths and the name of its user. Called by sharing.py.

Best effort: code has to stay readable, and a text does not say what in it is a name. Left are relative paths, what
follows a blank in a path outside of quotes (but for the home), and names in names (alice_2, alice.x).
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

PATH_WORD, USER_WORD = "[path]", "[user]"
_ROOT = r"(?:~[\w.-]*)?/(?!\d[\d_]*(?:[eE]\d*)?(?![\w/]))[\w.]"
"""How a path begins: a slash and a name. Behind a slash a number alone is divided by."""
_PATH = re.compile(
    rf"""(?<=['"`]){_ROOT}[^'"`\n]*(?=['"`])"""  # in quotes, where a name may hold spaces
    r"""|(?<=['"`])[A-Za-z]:[\\/][^'"`\n]+(?=['"`])"""
    r"""|\bfile:/+[^\s'"`<>,;()]+"""
    rf"""|(?<![\w/.<~)\]]){_ROOT}[^\s'"`<>,;()]*"""  # behind a word or a bracket it is a division
    r"""|(?<!\w)[A-Za-z]:[\\/][^\s'"`<>,;()]+"""
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
    home = home or _home()
    names = {user} if user else {Path(home).name, _user()}
    below_home = rf"(?:(?<!\w)[A-Za-z]:)?{re.escape(home)}(?=[/\\])[^\s'\"`<>,;()]*"
    patterns = [re.compile(below_home)] if len(Path(home).parts) > 1 else []
    patterns.append(_PATH)
    people = "|".join(re.escape(name) for name in sorted(names - _NOBODY))
    # A word of its own, or in a path or an address; torch.optim.Adam, Adam( and adam.step are no people.
    alone = rf"(?<![\w.])(?:{people})(?![\w(]|\.\w)|(?<=[/\\@])(?:{people})(?![\w(])"
    person = re.compile(alone) if people else None

    def clean(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub(PATH_WORD, text)
        return person.sub(USER_WORD, text) if person is not None else text

    cleaned: Kind = _mapped(value, clean)
    return cleaned


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:  # a user without a passwd entry, and no HOME
        return ""


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
