"""Moves: single changes of train.py that are known to pay often, and which of them to try now.

Called by the offline proposers; the moves themselves are in playbook.py. Promises: a move that no longer fits the code
is left out without a word; one that failed twice, or whose opposite was kept twice, is given up.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeGuard

from ...contracts import Knob, KnobValue, PastExperiment, Proposal, Status
from ...errors import TrainingError
from ..edits import check_train_py
from ..replacing import Edit, apply_edits
from .space import FAILED, Space, fitted

# A line as Python counts lines: form feeds and other separators end none.
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SETBACKS = 2
_EFFECT = "a better dev score within the same budget"


@dataclass(frozen=True, slots=True)
class Turn:
    """A move that turns all the knobs whose names match, together."""

    title: str
    """Opens the hypothesis, by which the move is recognised in the history: unique, and never changed."""
    topic: str
    """Glob over knob names. Moves on one topic are opposites."""
    transform: Callable[[float], float]
    reason: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A move that changes the code by search and replace."""

    title: str
    topic: str
    """What of the model or of the training it settles: once a rewrite was kept, others on its topic come last."""
    edits: tuple[tuple[str, str], ...]
    """(old, new); each old text must stand once in the code as the edits before it left it."""
    mark: str
    """Stands in the code once the move was made; where it stands already, there is nothing to do."""
    reason: str
    unused: tuple[str, ...] = ()
    """Functions, classes and knobs that the code may not need afterwards; they are deleted where nothing names them."""
    reshapes: bool = False
    """Whether the model is one afterwards that runtimes for the shape of Qwen3 cannot load."""


Move = Turn | Rewrite


def times(factor: float) -> Callable[[float], float]:
    """The transform that multiplies."""
    return lambda value: value * factor


def to(target: float) -> Callable[[float], float]:
    """The transform that sets."""
    return lambda value: target


# --- what a move does -----------------------------------------------------------------------


def moved(knob: Knob, transform: Callable[[float], float]) -> KnobValue:
    """The knob's value after `transform`: clamped to its range, or the nearest choice that way; perhaps unchanged."""
    if isinstance(knob.value, str):
        return knob.value
    target = transform(knob.value)
    if knob.kind == "choice":
        # The nearest choice on the target's side of the value, so that a coarse grid still lets the move through.
        choices = [choice for choice in knob.choices if not isinstance(choice, str)]
        beyond = [choice for choice in choices if (choice - knob.value) * (target - knob.value) > 0]
        return min(beyond, key=lambda choice: (abs(choice - target), choice), default=knob.value)
    if knob.kind == "int" and target != knob.value:
        target = max(round(target), knob.value + 1) if target > knob.value else min(round(target), knob.value - 1)
    return fitted(knob, target)


def rewrite(text: str, move: Rewrite) -> str | None:
    """train.py after the move; None where it was made already or does not fit the code as it is now."""
    after = _replaced(text, move)
    return after if after is not None and _is_allowed(after, text) else None


def _replaced(text: str, move: Rewrite) -> str | None:
    if move.mark in text:
        return None
    try:
        after = apply_edits(text, [Edit(old, new) for old, new in move.edits])
    except TrainingError:
        return None
    try:
        for name in move.unused:
            after = _without(after, name)
    except SyntaxError:  # the code around the edits is no longer what they were written for
        return None
    return after


def _is_allowed(text: str, before: str) -> bool:
    """Whether a rewritten text passes the checks and names nothing that the edited code calls otherwise."""
    try:
        check_train_py(text)
    except TrainingError:
        return False
    return _unknown_names(text) <= _unknown_names(before)


def _unknown_names(text: str) -> set[str]:
    """Names that a text uses and defines nowhere, whatever the scope."""
    known, used = set(dir(builtins)) | {"__file__", "__name__"}, set[str]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            known.add(node.name or "")
    return used - known


def _without(text: str, name: str) -> str:
    """`text` without the top-level function, class or knob `name`, unless something else names it."""
    tree = ast.parse(text)
    found = next((node for node in tree.body if _defines(node, name)), None)
    named = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    if found is None or named > isinstance(found, ast.Assign):
        return text
    lines = _LINE.findall(text)
    decorators = [] if isinstance(found, ast.Assign) else found.decorator_list
    first = min([found.lineno, *(decorator.lineno for decorator in decorators)]) - 1
    end = found.end_lineno or found.lineno
    while not isinstance(found, ast.Assign) and end < len(lines) and not lines[end].strip():
        end += 1
    return "".join([*lines[:first], *lines[end:]])


def _defines(node: ast.stmt, name: str) -> TypeGuard[ast.FunctionDef | ast.ClassDef | ast.Assign]:
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets] == [name]
    return isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name


# --- which move now -------------------------------------------------------------------------


def next_move(space: Space, playbook: Sequence[Move], setbacks: int = _SETBACKS) -> Proposal | None:
    """The move to try now: first the one that was kept last, then those with fewest setbacks, in order.

    Moves with `setbacks` or more are left out. None when there is nothing left to try.
    """
    for move in _in_order(space.context.history, playbook, min(setbacks, _SETBACKS)):
        proposal = _turned(space, move) if isinstance(move, Turn) else _rewritten(space, move)
        if proposal is not None:
            return proposal
    return None


def _turned(space: Space, move: Turn) -> Proposal | None:
    turned = [knob for knob in space.knobs if fnmatchcase(knob.name, move.topic)]
    after = {knob.name: moved(knob, move.transform) for knob in turned}
    assignment = {**space.head, **after}
    if space.is_too_much(assignment):
        return None
    changes = space.changes(assignment)
    if len(changes) == 1:
        changes = [f"{changes[0].split(' ', maxsplit=1)[1]} {move.unit}".rstrip()]
    hypothesis = f"{move.title}: {', '.join(changes)}; {move.reason}"
    rationale = f"A move that often pays on small machines; it turns {', '.join(after)} and nothing else."
    return space.proposal(assignment, hypothesis, rationale, _EFFECT)


def _rewritten(space: Space, move: Rewrite) -> Proposal | None:
    text = _replaced(space.context.train_py, move)
    # What was tried is looked for before the checks, which parse the code: most rewrites were, late in a night.
    if text is None or not space.is_new_text(text) or not _is_allowed(text, space.context.train_py):
        return None
    return space.rewritten(text, f"{move.title}: {move.reason}", "A change of the code from the playbook.", _EFFECT)


def _in_order(history: Sequence[PastExperiment], playbook: Sequence[Move], most: int) -> Iterator[Move]:
    """Moves worth a try. A move has a setback when it failed, and when another one on its topic was kept."""
    setbacks = dict.fromkeys(playbook, 0)
    last_kept: Move | None = None
    for past in history:
        move = next((move for move in playbook if past.hypothesis.startswith(f"{move.title}:")), None)
        if past.status is Status.KEPT:
            last_kept = move
            for other in playbook:
                if move is not None and other is not move and other.topic == move.topic:
                    setbacks[other] += 1
        elif move is not None and (past.status is Status.REVERTED or past.status in FAILED):
            setbacks[move] += 1
    hopeful = [move for move in playbook if setbacks[move] < most]
    yield from sorted(hopeful, key=lambda move: (move is not last_kept, setbacks[move]))
