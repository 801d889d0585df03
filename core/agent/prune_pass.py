"""Which kept edits help, found in twelve runs: takes edits out of a train.py, plans the runs, reads their scores.

Called by finish.py and by the simulation. Pure: texts and numbers in, texts and numbers out. Promises: an edit that
cannot be taken out alone stays, and where the runs cannot tell edits apart nothing is taken out.
"""

from __future__ import annotations

import builtins
import difflib
import math
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import TrainingError
from .edits import check_train_py

FEWEST_EXPERIMENTS = 24
"""A smaller campaign has no prune pass: it would cost more than half of the search."""
MOST_EDITS = 11
RUNS = 12
_FIRST_ROW = (1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0)
"""Generator of the design for twelve runs: R. L. Plackett and J. P. Burman, Biometrika 33 (1946)."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One kept edit of a chain: the texts before and after it."""

    id: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Row:
    """One run of the design: the edits that it leaves out, and which of the seeds it uses, counted from 0."""

    out: tuple[int, ...]
    seed: int


# --- texts ----------------------------------------------------------------------------------


def without(final: str, chain: Sequence[Edit], out: Sequence[int]) -> str | None:
    """`final` without the edits `out` of the chain that led to it; None where later edits stand in the way.

    The newest edit is undone first, each as a three-way merge of its own two texts with what is there.
    """
    text = final
    for edit in reversed(chain):
        if edit.id in out:
            merged = _merged(edit.after, text, edit.before)
            if merged is None:
                return None
            text = merged
    return text


def removable(final: str, chain: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits that can be taken out alone: the rest of the text stays as it is, and is a train.py that can start."""
    known = _missing_names(final)
    return tuple(edit for edit in chain if _stands(without(final, chain, (edit.id,)), known))


def _stands(text: str | None, known: frozenset[str]) -> bool:
    if text is None:
        return False
    try:
        check_train_py(text)
    except TrainingError:
        return False
    return _missing_names(text) <= known


def _merged(base: str, ours: str, theirs: str) -> str | None:
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


def _missing_names(text: str) -> frozenset[str]:
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


# --- runs and scores ------------------------------------------------------------------------


def design(edits: Sequence[int]) -> tuple[Row, ...]:
    """Twelve runs that leave out about half of the edits each, every pair of edits independently of one another.

    Runs that leave out the same edits have different seeds, otherwise they would tell nothing new.
    """
    if not 2 <= len(edits) <= MOST_EDITS:
        raise ValueError(f"the design is for 2 to {MOST_EDITS} edits, not {len(edits)}")
    patterns = [[_FIRST_ROW[(column - shift) % MOST_EDITS] for column in range(MOST_EDITS)] for shift in range(11)]
    rows: list[Row] = []
    for pattern in [[0] * MOST_EDITS, *patterns]:
        out = tuple(edit for edit, is_out in zip(edits, pattern, strict=False) if is_out)
        rows.append(Row(out, sum(row.out == out for row in rows)))
    return tuple(rows)


def effects(edits: Sequence[int], rows: Sequence[Row], scores: Sequence[float | None]) -> dict[int, float] | None:
    """What each edit adds to the score (negative is better): least squares over the runs that have one.

    Seeds have levels of their own, so that the luck of a seed is nobody's merit. None when too many runs failed to
    tell the edits apart.
    """
    import numpy as np

    known = [(row, score) for row, score in zip(rows, scores, strict=True) if score is not None]
    seeds = sorted({row.seed for row, _ in known})
    table = [
        [float(row.seed == seed) for seed in seeds] + [float(edit not in row.out) for edit in edits] for row, _ in known
    ]
    if len(known) < len(seeds) + len(edits) or np.linalg.matrix_rank(np.array(table)) < len(table[0]):
        return None
    found = np.linalg.lstsq(np.array(table), np.array([score for _, score in known]), rcond=None)[0]
    return {edit: float(value) for edit, value in zip(edits, found[len(seeds) :], strict=True)}


def pruned(final: str, chain: Sequence[Edit], worst_first: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """(`final` without these edits, the edits that could go): one that cannot go with those before it stays."""
    text, known = final, _missing_names(final)
    gone: tuple[int, ...] = ()
    for edit in worst_first:
        attempt = without(final, chain, (*gone, edit))
        if attempt is not None and _stands(attempt, known):
            text, gone = attempt, (*gone, edit)
    return text, gone


def unhelpful(found: Mapping[int, float], added_lines: Mapping[int, int], sigma: float) -> tuple[int, ...]:
    """The edits to take out, the worst first: what does not help, and what adds code and helps by chance at best.

    `sigma` is the noise of one run; an effect of the design has a standard error of sigma / sqrt(3).
    """
    error = sigma * math.sqrt(4 / RUNS)
    bars = {edit: -error if added_lines[edit] > 0 else 0.0 for edit in found}
    return tuple(sorted((edit for edit in found if found[edit] >= bars[edit]), key=lambda edit: -found[edit]))
