"""What a recipe says about a table, and which column of a file goes where in a document.

Called by the table adapter. Settings are checked before a file is opened; a column that is asked for and missing is a
DataError that names the file, the nearest column and the line of recipe.toml to write.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...core.contracts import SourceOptions
from ...core.errors import DataError, did_you_mean
from ...core.sources import JSON_SUFFIXES, Dialect, Table, strip_gz
from .cells import PERIODS, Moment, Style, label_text, limit_of

TASKS = ("auto", "classification", "regression", "series")
OPTIONS = {
    "label": "Column that holds the answer; without it rows have none and only bits per byte count.",
    "columns": "Columns of the text, in this order, separated by commas; default: all but label and group.",
    "drop": "Columns to leave out, separated by commas: what gives the answer away, serial numbers, ids.",
    "group": "Column whose equal values never straddle two splits, such as a customer or a product.",
    "time": "Column with the date: the split is by time, and the text shows weekday, month and day only.",
    "period": 'What is dealt as a whole by time: "day" (default), "month", "year", "hour", "minute" or "second".',
    "task": '"auto" (default: by the look of the label), "classification", "regression", or "series".',
    "positive": "The rare answer that counts, such as fraud: the metric becomes PR-AUC.",
    "normal": 'The ordinary answer: every other one becomes "alert", which is then the positive one.',
    "series": "Columns that name a series, separated by commas; the task is its next value.",
    "wide": "true when every row is a series and its values stand side by side, one column per period; default false.",
    "window": "Values that are shown before the next one of a series; default 16.",
    "slice": "Column by whose values scores are broken down; one of those in the text.",
    "digits": "Significant digits of numbers with a fraction; default 4. Whole numbers stay exact.",
    "decimal": 'The decimal mark of the file: "." (default) or ",".',
    "date_order": '"dmy" or "mdy", when dates such as 03/04/2024 do not tell it themselves.',
    "names": "false writes `value | value => answer` without the columns' names; default true.",
    "separator": 'What stands between the columns in the text; default " | ".',
    "header": "false when the first line is a row already; columns are then called column_1, column_2 ...",
    "delimiter": 'What separates cells in the file, found by itself: "," ";" "|" or "tab".',
    "quotes": '"csv" (they enclose cells) or "literal" (they are text); default: literal with tabs and no header.',
    "section": "Columns set by lines of one cell above the rows they describe, outermost first, separated by commas.",
    "files": 'Which files of the folder are read, as a pattern such as "2024-*.csv"; default: all tables.',
}
DEFAULT_WINDOW = 16
PANDAS_INDEX = ("Unnamed: 0", "__index_level_0__")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Columns by the role they play, under the names that [data.columns] gives them; "" for none."""

    label: str = ""
    group: str = ""
    time: str = ""
    slice: str = ""
    columns: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    renamed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Our name and the names that it may have in the files."""


@dataclass(frozen=True, slots=True)
class Settings:
    """[data] of a recipe for a table, checked."""

    wanted: Wanted
    style: Style
    dialect: Dialect
    task: str
    wide: bool
    window: int
    period: str
    positive: str
    normal: str
    files: str
    since: str | None
    until: str | None
    settled: tuple[str, ...] = ()
    """The columns of the text in the order of training; empty while the source of training is read."""
    seen: frozenset[str] = frozenset()
    """All columns of the first file of training, under our names."""

    def holds(self, moment: Moment) -> bool:
        """Whether a moment lies between since and until, both included. Raises DataError for one without a date."""
        if self.since is None and self.until is None:
            return True
        if moment.unit == "index":
            raise DataError(
                "[data] since and until are dates, but the periods of these data are only numbered (such as W0, W1)",
                "Remove since and until from [data], or leave rows or columns out of the file.",
            )
        day = moment.period("day")
        return (self.since is None or day >= self.since) and (self.until is None or day <= self.until)


# --- reading the recipe -----------------------------------------------------------------------


def read_settings(options: SourceOptions) -> Settings:
    """Check [data.options], [data.columns], since and until. Raises DataError."""
    given = options.options
    for name in given:
        if name not in OPTIONS:
            raise DataError(
                f"the table adapter has no option '{name}' in [data.options]", did_you_mean(name, list(OPTIONS))
            )
    wanted = Wanted(
        label=_text(given, "label") or _same_name(options.columns, "label"),
        group=_text(given, "group") or _same_name(options.columns, "group"),
        time=_text(given, "time") or _same_name(options.columns, "time"),
        slice=_text(given, "slice"),
        columns=_list(given, "columns"),
        drop=_list(given, "drop"),
        series=_list(given, "series"),
        renamed=tuple((name, _alternatives(name, old)) for name, old in options.columns.items()),
    )
    style = _style(given)
    settings = Settings(
        wanted=wanted,
        style=style,
        dialect=_dialect(given),
        task=_choice(given, "task", TASKS),
        wide=_flag(given, "wide", False),
        window=_count(given, "window", DEFAULT_WINDOW),
        period=_choice(given, "period", PERIODS),
        positive=label_text(_text(given, "positive"), style),
        normal=label_text(_text(given, "normal"), style),
        files=_text(given, "files"),
        since=limit_of("since", options.since),
        until=limit_of("until", options.until),
        settled=tuple(map(str, options.settled.get("columns", ()))),
        seen=frozenset(map(str, options.settled.get("seen", ()))),
    )
    _check_together(settings)
    return settings


def _same_name(columns: Mapping[str, str], role: str) -> str:
    """[data.columns] label = "X" names the label as well as renaming it."""
    return role if role in columns else ""


def _alternatives(name: str, columns: str) -> tuple[str, ...]:
    """`"Delay | Min Delay"` is either name; the new name itself always fits."""
    return (*(part.strip() for part in columns.split(" | ")), name)


def _style(given: Mapping[str, object]) -> Style:
    separator = _text(given, "separator", strip=False) or " | "
    if "\n" in separator or "\r" in separator:
        raise DataError("[data.options] separator must not hold a line end", 'The default is " | ".')
    decimal, date_order = _choice(given, "decimal", (".", ",")), _choice(given, "date_order", ("", "dmy", "mdy"))
    digits = _count(given, "digits", 4)
    return Style(min(digits, 17), decimal, separator, _flag(given, "names", True), date_order)


def _dialect(given: Mapping[str, object]) -> Dialect:
    delimiter = _text(given, "delimiter", strip=False)
    delimiter = "\t" if delimiter.casefold() in ("tab", "\\t") else delimiter
    if len(delimiter) > 1 or delimiter in ('"', "\n", "\r"):
        raise DataError(f"[data.options] delimiter = '{delimiter}' is not one character", 'Write "tab" or ";".')
    quotes = {"": None, "csv": True, "literal": False}[_choice(given, "quotes", ("", "csv", "literal"))]
    sections = _list(given, "section")
    return Dialect(_flag(given, "header", True), delimiter, quotes, sections, nested=True)


def _check_together(settings: Settings) -> None:
    wanted = settings.wanted
    is_series = settings.task == "series" or settings.wide or bool(wanted.series)
    if is_series and settings.task in ("classification", "regression"):
        raise DataError(
            f"[data.options] task = '{settings.task}' contradicts series and wide", 'Remove them, or task = "series".'
        )
    if is_series and not wanted.series:
        raise DataError("a series needs the columns that name it", 'Write [data.options] series = "PRODUCT, SHOP".')
    if is_series and not settings.wide and not (wanted.label and wanted.time):
        raise DataError(
            "a series needs its value and its time",
            'Write [data.options] label = "VALUE" and time = "DATE", or wide = true when periods are columns.',
        )
    if wanted.label and wanted.label in wanted.series:
        raise DataError(
            f"[data.options] series names the label '{wanted.label}', so the text would show the answer",
            "A series is named by what stays the same, such as product and shop: remove the label from series.",
        )
    if wanted.group and (wanted.time or is_series):
        raise DataError(
            "[data.options] group and time exclude each other: by time whole periods are dealt, not whole groups",
            "Keep the one that fits how the model will be used: on new groups, or on later rows.",
        )
    if settings.task in ("classification", "regression") and not wanted.label:
        raise DataError(f"task = '{settings.task}' needs the column with the answer", 'Write label = "COLUMN".')
    if (settings.since or settings.until) and not (wanted.time or settings.wide):
        raise DataError("since and until need dated rows", 'Name the date: [data.options] time = "COLUMN".')


def _text(given: Mapping[str, object], key: str, *, strip: bool = True) -> str:
    value = given.get(key, "")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"[data.options] {key} = {value!r} must be a text", f'Write {key} = "...".')
    return str(value).strip() if strip else str(value)


def _list(given: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Names separated by commas; one that holds a comma stands in double quotes."""
    text = _text(given, key)
    cells = next(csv.reader([text], skipinitialspace=True), [])
    names = tuple(cell.strip() for cell in cells if cell.strip())
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise DataError(f"[data.options] {key} names '{twice[0]}' twice", "Name it once.")
    return names


def _choice(given: Mapping[str, object], key: str, known: Sequence[str]) -> str:
    value = _text(given, key) or known[0]
    if value not in known:
        words = [word for word in known if word]
        raise DataError(f"[data.options] {key} = '{value}' is unknown", did_you_mean(value, words))
    return value


def _flag(given: Mapping[str, object], key: str, default: bool) -> bool:
    value = given.get(key, default)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise DataError(f"[data.options] {key} = {value!r} must be true or false", f"Write {key} = true.")
    return value


def _count(given: Mapping[str, object], key: str, default: int) -> int:
    value = given.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DataError(f"[data.options] {key} = {value!r} must be a whole number from 1", f"Write {key} = {default}.")
    return value


# --- binding a file ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns of one file go. Pairs are our name and the file's column; roles are the file's columns."""

    fields: tuple[tuple[str, str], ...]
    series: tuple[tuple[str, str], ...] = ()
    label: str = ""
    group: str = ""
    time: str = ""
    values: tuple[str, ...] = ()
    """Wide series: the columns of the periods, in order."""


def lay_out(table: Table, settings: Settings, first: Sequence[str] | None, is_series: bool, asking: bool) -> Layout:
    """Find the columns of a file. `first` are the names of the first file's fields, which every other one needs too.

    `asking`: the rows are questions, so the label may be missing. Raises DataError.
    """
    wanted = settings.wanted
    named = _named_columns(table, wanted)
    hint = _Hints(table, named, wanted, is_later=first is not None or bool(settings.settled))

    def role(name: str, option: str, optional: bool = False) -> str:
        if name and name not in named and optional:
            return ""
        return named[hint.known(name, f"[data.options] {option}")] if name else ""

    label = role(wanted.label, "label", optional=asking)
    group, time = role(wanted.group, "group", optional=asking), role(wanted.time, "time", optional=asking)
    series = [hint.known(name, "[data.options] series") for name in wanted.series]
    fields = [hint.known(name, "[data.options] columns") for name in wanted.columns]
    if not wanted.columns:
        fields = [] if is_series else _default_fields(table, named, wanted, settings.dialect.header)
    fields = [name for name in fields if name not in wanted.drop and name not in series and name != wanted.label]
    if settings.settled and not is_series:
        fields = [name for name in hint.settled(settings.settled) if name not in wanted.drop]
    elif first is None and not asking:
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

    def settled(self, names: Sequence[str]) -> list[str]:
        """The columns of training in their order. A cell may be missing, and so may a column, but not most of them.

        Raises DataError for those, and when a column of another name looks like one that is missing.
        """
        missing = [name for name in names if name not in self._named]
        roles = (self._wanted.label, self._wanted.group, self._wanted.time)
        strange = [column for name, column in self._named.items() if name not in (*names, *roles)]
        if strip_gz(self._table.name).endswith(JSON_SUFFIXES):  # objects leave out what they have not
            return list(names)
        if 2 * len(missing) > len(names):
            raise DataError(
                f"{self._table.name}: has {len(names) - len(missing)} of the {len(names)} columns of training, missing "
                f"are {', '.join(repr(name) for name in missing[:5])}{', ...' * (len(missing) > 5)}",
                f"It has: {', '.join(self._table.columns[:20])}. Renamed columns: [data.columns] in recipe.toml.",
            )
        for name in missing:
            if did_you_mean(name, strange).startswith("Did"):
                self.known(name, "training has one", strange)
        return list(names)

    def known(self, name: str, why: str, among: Sequence[str] = ()) -> str:
        """The name itself. Raises DataError, with the nearest of `among`, when the file has no such column."""
        if name in self._named:
            return name
        olds = dict(self._wanted.renamed).get(name, (name,))
        advice = did_you_mean(olds[0], list(among or self._table.columns))
        near = advice.split("'")[1] if advice.startswith("Did") else ""
        if near and self._is_later:
            either = " | ".join(dict.fromkeys([old for old in olds if old != name] or [name]))
            line = f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(f'{either} | {near}', ensure_ascii=False)}"
            advice += f" If they are one, write in recipe.toml:\n[data.columns]\n{line}"
        if self._is_later or not near:
            advice += '\nIf the file does not belong to the set: [data.options] files = "PATTERN" names those that do.'
        raise DataError(f"{self._table.name}: has no column '{name}' ({why})", advice)


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
