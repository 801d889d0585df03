"""Two changes of one train.py in one text, and whether what comes out can start.

Called by the prune pass, which takes kept edits out of a chain, and by second_chance.py, which puts a dropped idea into
the current code. Pure: texts in, texts out; nothing of them is run.
"""

from __future__ import annotations

import builtins
import difflib
import symtable

from ..errors import TrainingError
from .edits import check_train_py


def merged(base: str, ours: str, theirs: str) -> str | None:
    """Both changes of `base` in one text, line by line; None when they touch the same lines."""
    lines = base.splitlines(keepends=True)
    own, other = (_hunks(lines, text.splitlines(keepends=True)) for text in (ours, theirs))
    hunks = own + [hunk for hunk in other if hunk not in own]
    if any(_collide(one, two) for one in own for two in other if one != two):
        return None
    for start, end, replacement in sorted(hunks, reverse=True):
        lines[start:end] = replacement
    return "".join(lines)


_Hunk = tuple[int, int, list[str]]


def _hunks(base: list[str], other: list[str]) -> list[_Hunk]:
    """(first line, end, what stands there instead); as many lines for as many lines are changes of single lines."""
    found: list[_Hunk] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, base, other, autojunk=False).get_opcodes():
        if kind == "replace" and j - i == m - k:
            found += [(i + n, i + n + 1, [other[k + n]]) for n in range(j - i)]
        elif kind != "equal":
            found.append((i, j, other[k:m]))
    return found


def _collide(one: _Hunk, two: _Hunk) -> bool:
    if one[0] == one[1] or two[0] == two[1]:  # an insertion has no lines of its own: its place must be untouched
        return one[0] <= two[1] and two[0] <= one[1]
    return one[0] < two[1] and two[0] < one[1]


def stands(text: str | None, known: frozenset[str]) -> bool:
    """Whether a merged text is a train.py that can start; `known` are names that may be missing in it."""
    if text is None:
        return False
    try:
        check_train_py(text)
    except TrainingError:
        return False
    return missing_names(text) <= known


def missing_names(text: str) -> frozenset[str]:
    """Names that functions or the top level use and nothing defines: an edit that defined them cannot go alone."""
    top = symtable.symtable(text, "train.py", "exec")
    used: set[str] = set()
    defined = set(dir(builtins)) | {"__name__", "__file__", "__doc__"}
    tables = [top]
    while tables:
        table = tables.pop()
        tables.extend(table.get_children())
        for symbol in table.get_symbols():
            is_ours = table is top or symbol.is_declared_global()
            if is_ours and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()):
                defined.add(symbol.get_name())
            if symbol.is_referenced() and (table is top or symbol.is_global()):
                used.add(symbol.get_name())
    return frozenset(used - defined)
