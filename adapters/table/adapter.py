"""The table adapter: rows of csv, tsv, json lines and parquet files as one document each, the answer last.

Prepare, inspect and predict call it through the adapter contract. Rows are streamed; series are sorted on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from ...core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule, Task
from ...core.errors import DataError
from ...core.sources import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    WORKBOOK_SUFFIXES,
    Notices,
    Table,
    list_files,
    read_table,
    strip_gz,
    zip_members,
)
from . import series
from .advice import Advice
from .cells import MISSING, Style, cell_text, name_text
from .columns import (
    OPTIONS,
    Layout,
    Settings,
    lay_out,
    missing_columns,
    new_columns,
    read_settings,
    settled_columns,
    surplus_columns,
)
from .rows import answered, question, row_documents, write_prompt
from .tasks import (
    CLASSIFICATION,
    LABEL_TASK,
    NEXT_TASK,
    NONE,
    SERIES,
    SURVEYED_ROWS,
    LabelSurvey,
    class_task,
    value_task,
)

FEWEST_PERIODS = 8
"""Prepare deals whole periods and needs at least so many."""
MOST_TOLD = 12
"""Columns that a notice lists."""


class TableAdapter:
    """Rows of tables. See `describe`."""

    name = "table"
    version = 1
    split = SplitRule.GROUP
    duplicates = DuplicatePolicy.REPORT
    """Equal rows are no copies but the base rates of the table."""
    tasks: tuple[Task, ...] = (LABEL_TASK, NEXT_TASK)
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Documents yielded so far by the last call of `documents`."""
        self.slice_keys: tuple[str, ...] = ()
        """The column of [data.options] slice, once `documents` has read it."""
        self._slice_place = -1
        self._style = Style()
        self._counts = Notices()
        self._advice: list[str] = []

    @property
    def notices(self) -> list[str]:
        """What the last call of `documents` skipped, tolerated and advises; complete when it is exhausted."""
        return self._counts.lines() + self._advice

    # --- the contract -------------------------------------------------------------------------

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per row, or per window of a series, in a stable order. Raises DataError.

        A row's id is `file:row`, a window's is `series @ time`, or `file:row @ column` in a wide table.
        """
        settings = self._begin(options)
        kind = self._kind(source, settings)
        found = self._windows(source, settings) if kind == SERIES else self._rows(source, settings, kind)
        for document in found:
            self.record_count += 1
            yield document
        if not self.record_count:
            hint = "\n".join(self.notices) or "Its tables hold a header and no rows."
            raise DataError(f"{source}: no row became a document", hint)

    def find_tasks(self, source: Path, options: SourceOptions) -> tuple[Task, ...]:
        """The one task that the label asks; none without a label. Reads the labels of all rows. Raises DataError."""
        settings = read_settings(options)
        kind = self._kind(source, settings)
        if kind == NONE:
            return ()
        if kind == SERIES:
            return (NEXT_TASK,)
        survey = self._survey(source, settings, None)
        return (class_task(survey, settings) if kind == CLASSIFICATION else value_task(survey, settings),)

    def settle(self, source: Path, options: SourceOptions) -> Mapping[str, Any]:
        """The columns of the text in their order, which is that of the first file unless the recipe names them."""
        settings = read_settings(options)
        if _is_series(settings):  # their text has what the recipe names, in that order
            return {}
        layout, table, _ = next(self._laid_out(source, settings, Notices()))
        return settled_columns(table, layout, settings)

    def split_rule(self, source: Path, options: SourceOptions) -> SplitRule:
        """By time when the recipe names a time or the rows are series, else by group."""
        settings = read_settings(options)
        return SplitRule.TIME if settings.wanted.time or _is_series(settings) else SplitRule.GROUP

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """The prompts of rows without an answer, in their order; of series, what comes next. Raises DataError."""
        settings = self._begin(options)
        if not settings.wanted.label and not settings.wide:
            raise DataError(
                "there is no question to ask: the recipe names no label", 'Write [data.options] label = "COLUMN".'
            )
        if _is_series(settings):
            yield from self._series_questions(source, settings)
            return
        if not (settings.wanted.columns or settings.settled):
            self._advice.append(
                "columns stand in the order of this file: [data.options] columns makes sure that it is that of training"
            )
        for layout, table, name in self._laid_out(source, settings, self._counts, asking=True):
            for number, row in enumerate(table.rows, start=1):
                yield question(row, layout, settings, f"{name}:{number}")

    def slices(self, document: Document) -> Mapping[str, str]:
        """The value of the column that [data.options] slice names, if any."""
        return {key: self._slice_value(document.text) for key in self.slice_keys}

    def answer_slices(self, document: Document, span: Span) -> Mapping[str, str]:
        """As `slices`: a document of a table has one answer."""
        return self.slices(document)

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "Rows of a table. A document is one row on one line: `region: north | product: lamp | price: 12.5 | "
            "late: no`. The columns stand in a fixed order and the answer stands last; `?` is a missing value; "
            "numbers with a fraction are rounded. Of a date only weekday, month and day are written.\n"
            "Of a series, a document is a window: what is known of it, its last values in order of time, and the "
            "next one: `shop: 7 | item: soap | date: Sun Mar 25 | last: 3 0 4 5 | next: 4`. Tabs separate the values.\n"
            "The answer is what counts. Fields are words: ` | ` separates them. The column names are the same in "
            "every line and cost next to nothing once they are learned."
        )

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of made-up deliveries, some of them late for reasons that the row shows."""
        random = Random(f"table {seed}")
        layout = Layout(tuple((name, name) for name in _SAMPLE_COLUMNS), label="late")
        settings = read_settings(SourceOptions(options={"label": "late"}))
        total = number = 0
        while total < size:
            number += 1
            row = _sample_row(random)
            cells = [cell_text(row[name], settings.style) for name in _SAMPLE_COLUMNS]
            document = answered(write_prompt(cells, layout, settings), row["late"], f"sample.csv:{number}")
            total += len(document.text.encode())
            yield document

    # --- files --------------------------------------------------------------------------------

    def _begin(self, options: SourceOptions) -> Settings:
        settings = read_settings(options)
        self.record_count, self._counts, self._advice = 0, Notices(), []
        self._style = settings.style
        self.slice_keys, self._slice_place = (settings.wanted.slice,) if settings.wanted.slice else (), -1
        return settings

    def _inputs(self, source: Path, settings: Settings, notices: Notices) -> list[tuple[str, Path, str]]:
        """(name for ids, file, member of the zip) of every table, in order. Raises DataError when there is none."""
        suffixes = ("",) if settings.files else (*TABLE_SUFFIXES, *WORKBOOK_SUFFIXES, ".zip")
        found: list[tuple[str, Path, str]] = []
        workbooks: list[tuple[str, Path, str]] = []
        for path in list_files(source, suffixes, notices):
            name = path.name if path == source else path.relative_to(source).as_posix()
            if path.suffix.lower() == ".zip":
                members = zip_members(path, ("",) if settings.files else TABLE_SUFFIXES, notices)
                prefix = "" if path == source else f"{name}/"
                found += [(prefix + member, path, member) for member in members if _fits(member, settings.files)]
            elif path != source and not _fits(name, settings.files):
                continue
            elif path != source and path.stat().st_size == 0:
                notices.count(str(path), "empty files, skipped")
            elif path.suffix.lower() in WORKBOOK_SUFFIXES:
                workbooks.append((name, path, ""))
            else:
                found.append((name, path, ""))
        for _, path, _ in workbooks if found else ():
            notices.count(str(path), "workbooks, skipped; save them as CSV")
        if not found and not workbooks:
            endings = " ".join((*TABLE_SUFFIXES, ".zip"))
            raise DataError(
                f"{source}: holds no table" + (f" named like '{settings.files}'" if settings.files else ""),
                f"Read are files ending in {endings} (and .gz). Others: name the file itself as the source, or "
                '[data.options] files = "*.txt".',
            )
        return found or workbooks

    def _laid_out(
        self, source: Path, settings: Settings, notices: Notices, *, asking: bool = False
    ) -> Iterator[tuple[Layout, Table, str]]:
        """Each table with its layout; all must have the columns of the first one."""
        first: tuple[str, ...] | None = None
        known: tuple[str, ...] = ()
        for name, path, member in self._inputs(source, settings, notices):
            table = read_table(path, member=member, notices=notices, dialect=settings.dialect)
            _check_cells(table)
            layout = lay_out(table, settings, first, _is_series(settings), asking)
            if settings.settled:
                _tell_changes(table, layout, settings, notices)
            elif first is None:
                first, known = tuple(field for field, _ in layout.fields), table.columns
            elif not settings.wanted.columns and (new := new_columns(table, known, settings)):
                notices.count(
                    table.name, f"columns that the first file has not, left out ({', '.join(new[:5])})", len(new)
                )
            _check_text(table, layout, settings)
            self._place_slice(table, layout, settings)
            yield layout, table, name

    def _place_slice(self, table: Table, layout: Layout, settings: Settings) -> None:
        if not settings.wanted.slice:
            return
        names = [name for name, _ in (*layout.series, *layout.fields)]
        if settings.wanted.slice not in names:
            raise DataError(
                f"{table.name}: [data.options] slice = '{settings.wanted.slice}' is no column of the text",
                f"The text has: {', '.join(names)}.",
            )
        self._slice_place = names.index(settings.wanted.slice)

    def _slice_value(self, text: str) -> str:
        cells = text.rstrip("\n").split(self._style.separator)
        cell = cells[self._slice_place] if 0 <= self._slice_place < len(cells) else MISSING
        if not self._style.names:
            return cell.partition(" => ")[0]
        return cell.removeprefix(f"{name_text(self.slice_keys[0], self._style)}: ")

    # --- tasks --------------------------------------------------------------------------------

    def _kind(self, source: Path, settings: Settings) -> str:
        if _is_series(settings):
            return SERIES
        if not settings.wanted.label:
            return NONE
        if settings.task != "auto":
            return settings.task
        if settings.positive or settings.normal:
            return CLASSIFICATION
        return self._survey(source, settings, SURVEYED_ROWS).kind

    def _survey(self, source: Path, settings: Settings, limit: int | None) -> LabelSurvey:
        """Look at the labels, of the first rows only when there is a limit."""
        survey = LabelSurvey(settings)
        rows = 0
        for layout, table, _ in self._laid_out(source, settings, Notices()):
            for row in table.rows:
                survey.add(row.get(layout.label, ""))
                rows += 1
                if rows == limit:
                    return survey
        if rows and not survey.count:
            raise DataError(
                f"{source}: the label '{settings.wanted.label}' is empty in every row", "Name another label."
            )
        return survey

    # --- rows ---------------------------------------------------------------------------------

    def _rows(self, source: Path, settings: Settings, kind: str) -> Iterator[Document]:
        advice: Advice | None = None
        periods: set[str] = set()
        for layout, table, name in self._laid_out(source, settings, self._counts):
            fields = [field for field, _ in layout.fields]
            if kind == NONE and advice is None:
                told = ", ".join(f"'{field}'" for field in fields[:MOST_TOLD]) + ", ..." * (len(fields) > MOST_TOLD)
                self._advice.append(f"no label, so rows have no answers: [data.options] label names one of {told}")
            advice = advice or Advice(fields)
            for document, cells, answer in row_documents(table, layout, name, settings, kind, self._counts):
                advice.look(cells, answer if kind == CLASSIFICATION else "")
                if len(periods) < FEWEST_PERIODS:
                    periods.add(document.group)
                yield document
        self._advice += advice.lines() if advice else []
        if settings.wanted.time and len(periods) < FEWEST_PERIODS:
            self._advice.append(
                f"the rows fall into {len(periods)} {settings.period}(s), too few to split by time: "
                '[data.options] period = "hour" or "minute" makes more'
            )

    # --- series -------------------------------------------------------------------------------

    def _windows(self, source: Path, settings: Settings) -> Iterator[Document]:
        for prompt, points in self._series(source, settings, asking=False):
            yield from series.window_documents(points, prompt, settings, self._counts)

    def _series_questions(self, source: Path, settings: Settings) -> Iterator[Document]:
        for prompt, points in self._series(source, settings, asking=True):
            yield from series.window_questions(points, prompt, settings.window)

    def _series(
        self, source: Path, settings: Settings, *, asking: bool
    ) -> Iterator[tuple[series.Prompt, Iterable[series.Point]]]:
        """Each series with the function that writes its prompts."""
        tables = self._laid_out(source, settings, self._counts, asking=asking)
        if settings.wide:
            for layout, table, name in tables:
                prompt = series.prompt_writer(layout, settings)
                for points in series.wide_series(table, layout, name, settings, self._counts):
                    yield prompt, points
            return
        layout, table, name = next(tables)
        prompt = series.prompt_writer(layout, settings)
        records = (
            record
            for layout, table, _ in chain([(layout, table, name)], tables)
            for record in series.long_records(table, layout, settings, self._counts)
        )
        for one in series.long_series(records, settings, self._counts):
            yield prompt, one


def _is_series(settings: Settings) -> bool:
    return settings.task == SERIES or settings.wide or bool(settings.wanted.series)


def _check_cells(table: Table) -> None:
    if len(table.columns) == 1 and not strip_gz(table.name).endswith((*JSON_SUFFIXES, ".parquet")):
        raise DataError(
            f"{table.name}: is no table: its first line has one cell, '{table.columns[0][:60]}'",
            'If cells are separated by something rare: [data.options] delimiter = "#". Logs and texts are read by the '
            "text adapter.",
        )


def _tell_changes(table: Table, layout: Layout, settings: Settings, notices: Notices) -> None:
    """How the columns of a file differ from those of training."""
    if missing := missing_columns(table, layout):
        told = ", ".join(missing[:MOST_TOLD])
        notices.count(table.name, f"columns of training that are not here, written as missing ({told})", len(missing))
    if surplus := surplus_columns(table, layout, settings):
        told = ", ".join(surplus[:MOST_TOLD])
        notices.count(table.name, f"columns that training has not, left out ({told})", len(surplus))


def _check_text(table: Table, layout: Layout, settings: Settings) -> None:
    if not layout.fields and not layout.series:
        raise DataError(
            f"{table.name}: no column is left for the text beside '{settings.wanted.label}'",
            f"It has: {', '.join(table.columns)}. Correct columns and drop in [data.options].",
        )


def _fits(name: str, pattern: str) -> bool:
    """Whether a relative path, or its last part, matches the pattern; every name fits none."""
    return not pattern or fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern)


# --- sample -------------------------------------------------------------------------------------

_SAMPLE_COLUMNS = ("region", "product", "weekday", "weight", "price")
_REGIONS = ("north", "south", "east", "west", "the islands")
_PRODUCTS = ("lamp", "chair", "garden gate", "café table", "clock", "blue boat")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def _sample_row(random: Random) -> dict[str, str]:
    """A delivery: late when it goes far, is heavy, or leaves on a Saturday, with some luck."""
    region, product, day = random.choice(_REGIONS), random.choice(_PRODUCTS), random.choice(_DAYS)
    weight = random.lognormvariate(1, 0.8)
    risk = (region == "the islands") * 2 + (day == "Sat") + (weight > 6) + random.random()
    return {
        "region": region,
        "product": product,
        "weekday": day,
        "weight": "" if random.random() < 0.05 else f"{weight:.6f}",
        "price": f"{weight * random.uniform(3, 9) + len(product):.2f}",
        "late": "yes" if risk > 1.8 else "no",
    }
