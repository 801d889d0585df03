"""Which column of a file goes where in a document, and how the columns of later files differ from those of training.

Called by the table adapter. A column that is asked for and missing is a DataError that names the file, the nearest
column and the line of recipe.toml to write.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...core.errors import DataError, did_you_mean
from ...core.sources import JSON_SUFFIXES, Table, strip_gz
from .settings import Settings, Wanted

PANDAS_INDEX = ("Unnamed: 0", "__index_level_0__")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of one file go. Pairs are our name and the file's column; roles are the file's columns."""

    fields: tuple[tuple[str, str], ...]
    series: tuple[tuple[str, str], ...] = ()
    label: str = ""
    group: str = ""
    time: str = ""
    values: tuple[str, ...] = ()
    """Wide series: the columns of the periods, in the order of the file."""


def lay_out(table: Table, settings: Settings, first: Sequence[str] | None, is_series: bool, asking: bool) -> Layout:
    """Find the columns of a file. `first` are the names of the first file's fields, which every other one needs too.

    `asking`: the rows are questions, so the label may be missing. Raises DataError.
    """
    wanted = settings.wanted
    named = _named_columns(table, wanted)
    is_settled = bool(settings.settled) and not is_series
    hint = _Hints(table, named, wanted, is_later=first is not None or is_settled or asking)

    def role(name: str, option: str, optional: bool = False) -> str:
        if name and name not in named and optional:
            return ""
        return named[hint.known(name, f"[data.options] {option}")] if name else ""

    # A question about a series needs the values before it and their times.
    label = role(wanted.label, "label", optional=asking and not is_series)
    group = role(wanted.group, "group", optional=asking)
    time = role(wanted.time, "time", optional=asking and not is_series)
    series = [hint.known(name, "[data.options] series") for name in wanted.series]
    if is_settled:
        fields = hint.settled(settings.settled, settings.seen)
    elif wanted.columns:
        fields = [hint.known(name, "[data.options] columns") for name in wanted.columns]
    else:
        fields = [] if is_series else _default_fields(table, named, wanted, settings.dialect.header)
    fields = [name for name in fields if name not in wanted.drop and name not in series and name != wanted.label]
    if first is None and not asking and not is_settled:  # what training left out may be missing from a later file
        for name in wanted.drop:
            hint.known(name, "[data.options] drop")
    elif first is not None:
        is_json = strip_gz(table.name).endswith(JSON_SUFFIXES)
        fields = [name if is_json else hint.known(name, "the first file has one") for name in first]
    values = _period_columns(table, named, settings, fields) if settings.wide else ()
    pairs = tuple((name, named.get(name, name)) for name in fields)
    return Layout(pairs, tuple((name, named[name]) for name in series), label, group, time, values)


def _named_columns(table: Table, wanted: Wanted) -> dict[str, str]:
    """Our name -> the file's column, in the order of the file."""
    ours = {old: name for name, olds in wanted.renamed for old in olds}
    named: dict[str, str] = {}
    for column in table.columns:
        name = ours.get(column, column)
        if name in named:
            raise DataError(
                f"{table.name}: columns '{named[name]}' and '{column}' would both be called '{name}'",
                "Correct [data.columns] in recipe.toml.",
            )
        named[name] = column
    return named


def new_columns(table: Table, known: Sequence[str], settings: Settings) -> list[str]:
    """Columns that no earlier file had and no option names."""
    named = {name for _, olds in settings.wanted.renamed for name in olds}
    return [column for column in table.columns if column not in known and column not in named]


def missing_columns(table: Table, layout: Layout) -> list[str]:
    """Columns of the text that the file has not: their cells are missing values."""
    return [name for name, column in layout.fields if column not in table.columns]


def surplus_columns(table: Table, layout: Layout, settings: Settings) -> list[str]:
    """Columns of a later file that training has not seen, so that nobody left them out on purpose."""
    known = {layout.label, layout.group, layout.time, *settings.wanted.drop}
    known |= settings.seen | _row_numbers(table, settings.dialect.header)
    return [column for name, column in _named_columns(table, settings.wanted).items() if not {name, column} & known]


def settled_columns(table: Table, layout: Layout, settings: Settings) -> dict[str, list[str]]:
    """What `read_settings` takes back from `options.settled`."""
    seen = _named_columns(table, settings.wanted)
    return {"columns": [name for name, _ in layout.fields], "seen": list(seen)}


class _Hints:
    """Finds names among a file's columns; knows what to write when one is missing."""

    def __init__(self, table: Table, named: Mapping[str, str], wanted: Wanted, is_later: bool) -> None:
        self._table, self._named, self._wanted = table, named, wanted
        self._is_later = is_later

    def settled(self, names: Sequence[str], seen: Iterable[str]) -> list[str]:
        """The columns of training in their order. A cell may be missing, and so may a column, but not most of them.

        Raises DataError for those, and when a column that training has not `seen` looks like one that is missing.
        """
        missing = [name for name in names if name not in self._named]
        known = {*names, *seen, *self._wanted.drop, self._wanted.label, self._wanted.group, self._wanted.time}
        strange = [column for name, column in self._named.items() if name not in known]
        if strip_gz(self._table.name).endswith(JSON_SUFFIXES):  # objects leave out what they have not
            return list(names)
        if 2 * len(missing) > len(names):
            raise DataError(
                f"{self._table.name}: has {len(names) - len(missing)} of the {len(names)} columns of training, missing "
                f"are {', '.join(repr(name) for name in missing[:5])}{', ...' * (len(missing) > 5)}",
                self._renamed(missing, strange)
                or f"It has: {', '.join(self._table.columns[:20])}. Renamed columns: [data.columns] in recipe.toml.",
            )
        for name in missing:
            if did_you_mean(name, strange).startswith("Did"):
                self.known(name, "training has one", strange)
        return list(names)

    def _renamed(self, missing: Sequence[str], strange: Sequence[str]) -> str:
        """The lines of a recipe for columns whose names differ in case or blanks only; empty when none does."""
        plain = {_plain(column): column for column in strange}
        pairs = [(name, plain[_plain(name)]) for name in missing if _plain(name) in plain]
        if not pairs:
            return ""
        lines = [self._line(name, column) for name, column in pairs]
        return "Some differ in case or blanks only. Write in recipe.toml:\n[data.columns]\n" + "\n".join(lines)

    def _line(self, name: str, near: str) -> str:
        """The line of [data.columns] that takes another name too."""
        olds = dict(self._wanted.renamed).get(name, (name,))
        either = " | ".join(dict.fromkeys([old for old in olds if old != name] or [name]))
        return f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(f'{either} | {near}', ensure_ascii=False)}"

    def known(self, name: str, why: str, among: Sequence[str] = ()) -> str:
        """The name itself. Raises DataError, with the nearest of `among`, when the file has no such column."""
        if name in self._named:
            return name
        olds = dict(self._wanted.renamed).get(name, (name,))
        advice = did_you_mean(olds[0], list(among or self._table.columns))
        near = advice.removeprefix("Did you mean '").removesuffix("'?") if advice.startswith("Did") else ""
        if near and self._is_later:
            advice += f" If they are one, write in recipe.toml:\n[data.columns]\n{self._line(name, near)}"
            if among:
                cell = f'"{near}"' if "," in near else near
                advice += f"\nIf not, leave it out: --option {shlex.quote(f'drop={cell}')}"
        if self._is_later or not near:
            advice += '\nIf the file does not belong to the set: [data.options] files = "PATTERN" names those that do.'
        raise DataError(f"{self._table.name}: has no column '{name}' ({why})", advice)


def _plain(name: str) -> str:
    return "".join(name.casefold().split())


def _default_fields(table: Table, named: Mapping[str, str], wanted: Wanted, has_header: bool) -> list[str]:
    """Everything but the answer, the group and unnamed columns, which hold the row numbers of data frames."""
    left_out = {wanted.label, wanted.group, *_row_numbers(table, has_header)}
    return [name for name in named if name not in left_out]


def _row_numbers(table: Table, has_header: bool) -> set[str]:
    """Names of columns that the header leaves blank, which hold the row numbers of data frames."""
    unnamed = {f"column_{position}" for position in range(1, len(table.columns) + 1)} if has_header else set()
    return {*unnamed, *PANDAS_INDEX}


def _period_columns(
    table: Table, named: Mapping[str, str], settings: Settings, fields: Iterable[str]
) -> tuple[str, ...]:
    """The largest family of columns whose names differ in their digits only, like W0 ... W51 or 2024-01 ... 2024-12."""
    taken = {*fields, *settings.wanted.series, *settings.wanted.drop}
    families: dict[str, list[str]] = {}
    for name, column in named.items():
        if name not in taken and any(map(str.isdigit, name)):
            families.setdefault(_family(name), []).append(column)
    best = max(families.values(), key=len, default=[])
    if len(best) < 3:
        raise DataError(
            f"{table.name}: no three columns differ in a number only, so which ones are the periods?",
            "With wide = true they look like W1, W2, W3 or 2024-01, 2024-02. In a long table name label and time.",
        )
    return tuple(best)


def _family(name: str) -> str:
    """The name with every run of digits as one mark."""
    marked = "".join("#" if character.isdigit() else character for character in name)
    while "##" in marked:
        marked = marked.replace("##", "#")
    return marked
