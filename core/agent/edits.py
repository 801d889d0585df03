"""Reading and changing train.py as text: knobs, digests, static checks. Called by proposers and the campaign.

A knob is a module-level assignment of a literal, with its range in the comment behind it:

    MATRIX_LR = 0.02  # knob: float log 1e-4..1e-1
    DEPTH = 4  # knob: int 1..12
    BATCH_TOKENS = 1024  # knob: choice 256 512 1024 2048

Nothing here runs the text. What is wrong with it is a TrainingError that names the line.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from ..contracts import Knob, KnobValue
from ..errors import TrainingError, did_you_mean

MAX_LINES = 630
MAX_BYTES = 26_000

_EXAMPLES = {
    "float": "MATRIX_LR = 0.02  # knob: float log 1e-4..1e-1",
    "int": "DEPTH = 4  # knob: int 1..12",
    "choice": "BATCH_TOKENS = 1024  # knob: choice 256 512 1024 2048",
}
# What Python calls a line end. str.splitlines also splits at form feeds and at separators that Python does not.
_LINE_END = re.compile(rb"\r\n|\r|\n")
_DECLARATION = re.compile(r"\s*;?\s*#\s*knob:(.*)", re.DOTALL)
_NUMBER = r"([-+]?\d+(?:_\d+)*(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_RANGE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}", re.ASCII)


# --- knobs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Site:
    """A knob and the bytes [start, end) of the UTF-8 text where its literal stands."""

    knob: Knob
    start: int
    end: int


def parse_knobs(text: str) -> tuple[Knob, ...]:
    """The knobs that a train.py declares, in order.

    Only module-level assignments count: the same comment in a function, a docstring or on a line of its own is prose.
    Raises TrainingError for a malformed declaration and for a value outside its range.
    """
    return tuple(site.knob for site in _sites(text))


def set_knobs(text: str, values: Mapping[str, KnobValue]) -> str:
    """`text` with some knobs set. Only their literals change; one that already has the value is left as written.

    Raises TrainingError for an unknown name, a value of the wrong type or a value out of range.
    """
    sites = {site.knob.name: site for site in _sites(text)}
    for name in values:
        if name not in sites:
            raise TrainingError(f"train.py declares no knob '{name}'.", did_you_mean(name, list(sites)))
    raw = text.encode()
    # From the end backwards, so that earlier offsets stay right.
    for name, site in reversed(sites.items()):
        if name not in values:
            continue
        value = canonical_value(site.knob, values[name])
        if value != site.knob.value:
            quote = raw[site.start : site.start + 1].decode()
            raw = raw[: site.start] + _written(value, quote).encode() + raw[site.end :]
    return raw.decode()


def canonical_value(knob: Knob, value: KnobValue) -> KnobValue:
    """`value` as set_knobs writes it: floats with at most 6 significant digits. Raises TrainingError if not allowed."""
    if knob.kind == "choice":
        if isinstance(knob.choices[0], float) and type(value) is int:
            value = float(value)
        # 1 == 1.0 == True in Python; a choice is one of the listed literals, of the listed type.
        if value not in knob.choices or type(value) is not type(knob.choices[0]):
            allowed = " ".join(map(str, knob.choices))
            raise _out_of_range(knob, value, f"it must be one of: {allowed}", [str(choice) for choice in knob.choices])
        return value
    if isinstance(value, bool) or not isinstance(value, int if knob.kind == "int" else (int, float)):
        raise TrainingError(f"Knob {knob.name} is of kind {knob.kind} and cannot be {value!r}.", _example(knob.kind))
    assert knob.low is not None and knob.high is not None
    if not knob.low <= value <= knob.high:  # also refuses nan
        raise _out_of_range(knob, value, f"its range is {_shown(knob.low)}..{_shown(knob.high)}")
    if knob.kind == "int":
        return int(value)
    # Rounding may step over a bound that has more digits; adding 0.0 turns -0.0 into 0.0.
    return min(max(round_significant(float(value), 6), knob.low), knob.high) + 0.0


def round_significant(value: float, digits: int) -> float:
    """`value` with at most `digits` significant digits, so that it reads well."""
    return float(f"{value:.{digits}g}")


def _written(value: KnobValue, quote: str) -> str:
    if not isinstance(value, str):
        return repr(value)
    quote = quote if quote in "\"'" else '"'
    return f"{quote}{value}{quote}" if value.isprintable() and "\\" not in value else repr(value)


def _sites(text: str) -> tuple[_Site, ...]:
    tree = _parsed(text)
    raw = text.encode()
    starts = [0, *(match.end() for match in _LINE_END.finditer(raw))]
    sites: dict[str, _Site] = {}
    assigned: dict[str, int] = {}
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            continue
        names = [target.id for target in _targets(statement) if isinstance(target, ast.Name)]
        for name in names:
            if name in sites:
                first = sites[name].knob.line
                raise _malformed(
                    statement.lineno, f"{name}, a knob of line {first}, is assigned again, which undoes it"
                )
        declaration = _declaration(raw, starts, statement)
        if declaration is not None:
            value_node = statement.value
            value = _literal(value_node)
            if len(names) != 1 or isinstance(statement, ast.AugAssign) or value_node is None or value is None:
                raise _malformed(statement.lineno, "a knob must be one name set to a plain number or string")
            if names[0] in assigned:
                raise _malformed(statement.lineno, f"{names[0]} was already assigned in line {assigned[names[0]]}")
            knob = _knob(names[0], value, declaration, statement.lineno)
            sites[knob.name] = _Site(knob, *_extent(starts, value_node))
        assigned.update(dict.fromkeys(names, statement.lineno))
    return tuple(sites.values())


def _targets(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> list[ast.expr]:
    return statement.targets if isinstance(statement, ast.Assign) else [statement.target]


def _declaration(raw: bytes, starts: list[int], statement: ast.stmt) -> str | None:
    """What follows `# knob:` on the statement's last line. Behind a whole statement, a `#` can only be a comment."""
    _, end = _extent(starts, statement)
    rest = _LINE_END.split(raw[end:], maxsplit=1)[0].decode()
    match = _DECLARATION.fullmatch(rest)
    return match[1].strip() if match else None


def _extent(starts: list[int], node: ast.expr | ast.stmt) -> tuple[int, int]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _literal(node: ast.expr | None) -> KnobValue | None:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        return None if value is None or isinstance(value, str) else -value
    return None


def _knob(name: str, value: KnobValue, declaration: str, line: int) -> Knob:
    kind, *words = declaration.split() or [""]
    if kind not in _EXAMPLES:
        near = did_you_mean(kind, list(_EXAMPLES)) + " " if kind else ""
        raise _malformed(line, f"knob {name} has the unknown kind '{kind}'", near + _example("float"))
    knob = _choice_knob(name, value, words, line) if kind == "choice" else _number_knob(name, kind, value, words, line)
    try:
        canonical = canonical_value(knob, value)
    except TrainingError as error:
        raise _malformed(line, error.message.rstrip("."), error.hint) from None
    return knob if knob.kind != "float" else Knob(name, kind, canonical, knob.low, knob.high, knob.log, line=line)


def _choice_knob(name: str, value: KnobValue, words: list[str], line: int) -> Knob:
    """The type of the value decides how the words are read, so that `choice 1 2` behind a string means "1" and "2"."""
    try:
        choices: tuple[KnobValue, ...] = tuple(type(value)(word) for word in words)
    except ValueError:
        what = f"knob {name} is {value!r}, but not all of its choices are of that type"
        raise _malformed(line, what, _example("choice")) from None
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise _malformed(line, f"knob {name} needs two or more different choices", _example("choice"))
    if any(isinstance(choice, float) and not math.isfinite(choice) for choice in choices):
        raise _malformed(line, f"knob {name} has a choice that is not finite", _example("choice"))
    if any(quote in word for word in words for quote in "\"'") and isinstance(value, str):
        raise _malformed(line, f"knob {name} lists its choices in quotes", "Write bare words: # knob: choice a b")
    return Knob(name, "choice", value, choices=choices, line=line)


def _number_knob(name: str, kind: str, value: KnobValue, words: list[str], line: int) -> Knob:
    log = words[:1] == ["log"]
    match = _RANGE.fullmatch(words[log]) if len(words) == 1 + log else None
    if match is None:
        raise _malformed(line, f"knob {name} needs a range low..high after '{kind}'", _example(kind))
    low, high = float(match[1]), float(match[2])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise _malformed(line, f"the range of knob {name} is empty or not finite", _example(kind))
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise _malformed(line, f"the range of knob {name} must have whole numbers", _example(kind))
    if log and low <= 0:
        raise _malformed(line, f"knob {name} is on a log scale, so its range must lie above zero", _example(kind))
    return Knob(name, kind, value, low, high, log, line=line)


def _example(kind: str) -> str:
    return f"Example: {_EXAMPLES[kind]}"


def _shown(bound: float) -> str:
    return f"{bound:.12g}"


def _malformed(line: int, what: str, hint: str = "") -> TrainingError:
    return TrainingError(f"train.py line {line}: {what}.", hint or _example("float"))


def _out_of_range(knob: Knob, value: KnobValue, why: str, known: list[str] | None = None) -> TrainingError:
    near = did_you_mean(str(value), known) if isinstance(value, str) and known else ""
    return TrainingError(f"Knob {knob.name} cannot be {value!r}: {why}.", near or _example(knob.kind))


# --- digests and differences ----------------------------------------------------------------


def template_digest(text: str) -> str:
    """SHA-256 (hex) of the text with its knob values masked: equal for all texts that differ in knob values only."""
    raw = text.encode()
    for site in reversed(_sites(text)):
        raw = raw[: site.start] + b"\0" + raw[site.end :]  # no Python source contains this byte
    return hashlib.sha256(raw).hexdigest()


def revision_digest(text: str) -> str:
    """The name of a revision: the first 16 hex digits of the SHA-256 of its text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def code_lines(text: str) -> int:
    """How many lines are neither blank nor only a comment."""
    return sum(1 for line in _lines(text) if line.strip() and not line.lstrip().startswith("#"))


def unified_diff(old: str, new: str) -> str:
    """What changed from `old` to `new`, as `diff -u` writes it; empty when nothing did."""
    marked = (
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(
            re.findall(r"[^\n]*\n|[^\n]+", old), re.findall(r"[^\n]*\n|[^\n]+", new), "a/train.py", "b/train.py"
        )
    )
    return "".join(marked)


def _lines(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines[:-1] if lines[-1] == "" else lines


# --- static checks --------------------------------------------------------------------------


def check_train_py(text: str) -> None:
    """Refuse a train.py that cannot work, before any second is spent on it. Raises TrainingError naming the line.

    It must be small enough, compile, declare its knobs well, define build_model and main, start main behind a guard,
    and do nothing else when imported: the harness imports it to build the model.
    """
    _check_size(text)
    tree = _parsed(text)
    parse_knobs(text)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for name, signature in (("build_model", "build_model(config)"), ("main", "main()")):
        if name not in functions:
            raise TrainingError(f"train.py defines no function {name}.", f"Add it at the top level: def {signature}:")
    try:
        _check_top_level(tree, len(_lines(text)))
    except RecursionError:
        raise TrainingError("train.py: a statement is nested too deeply.", "Simplify it.") from None


def _check_top_level(tree: ast.Module, last_line: int) -> None:
    for index, statement in enumerate(tree.body):
        if not _is_declaration(statement, first=index == 0):
            raise TrainingError(
                f"train.py line {statement.lineno}: this runs when the file is imported: {_excerpt(statement)}",
                "Move it into main(): the top level is for imports, assignments, functions, classes and the guard.",
            )
    if not any(_is_guard(statement) for statement in tree.body):
        raise TrainingError(
            f"train.py line {last_line}: the guard at the end is missing.",
            'End the file with: if __name__ == "__main__": main()',
        )


def _check_size(text: str) -> None:
    lines = len(_lines(text))
    if lines > MAX_LINES:
        raise TrainingError(
            f"train.py line {MAX_LINES + 1}: the file has {lines} lines, and {MAX_LINES} are allowed.",
            "Delete what no longer pays.",
        )
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise TrainingError(
            f"train.py has {size} bytes in {lines} lines, and {MAX_BYTES} are allowed.", "Delete what no longer pays."
        )


def _is_declaration(statement: ast.stmt, first: bool) -> bool:
    if isinstance(statement, ast.Expr):
        return first and isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    allowed = (
        ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.AugAssign
        | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    )  # fmt: skip
    return isinstance(statement, allowed) or _is_guard(statement)


def _is_guard(statement: ast.stmt) -> bool:
    """An `else` of the guard would run on import, so a guard that has one is none."""
    if not isinstance(statement, ast.If) or statement.orelse:
        return False
    return ast.unparse(statement.test) in ("__name__ == '__main__'", "'__main__' == __name__")


def _excerpt(statement: ast.stmt) -> str:
    first_line = ast.unparse(statement).split("\n", maxsplit=1)[0]
    return first_line if len(first_line) <= 60 else first_line[:57] + "..."


def _parsed(text: str) -> ast.Module:
    """The syntax tree of a text that also compiles (a `return` outside a function parses, but does not compile)."""
    try:
        text.encode()
        # A doubtful escape in a string is the author's business; it must not become an error under -W error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text, "train.py")
            compile(tree, "train.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise TrainingError(f"train.py line {error.lineno or 1}: {error.msg}.", "Repair the syntax.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise TrainingError(f"train.py line 1: the text is no Python source: {reason}.", "Repair the text.") from None
    return tree
