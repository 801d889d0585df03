"""One row of a table as one document: the columns in order, the answer last. Called by the table adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ...core.contracts import Document, Span
from ...core.sources import Notices, Table
from .cells import MISSING, Moment, amount_text, cell_text, label_text, name_text, parse_moment
from .columns import Layout
from .settings import Settings
from .tasks import CLASSIFICATION, LABEL_TASK, NONE, class_answer, date_rejects, number_rejects


def row_documents(
    table: Table, layout: Layout, name: str, settings: Settings, kind: str, notices: Notices
) -> Iterator[tuple[Document, list[str], str]]:
    """(document, its cells, its answer) of each row that has what the task needs; the others are counted.

    Raises DataError when too many rows have an unreadable date or number.
    """
    dates = date_rejects(table.name, layout.time, notices)
    numbers = number_rejects(table.name, layout.label, notices)
    for number, row in enumerate(table.rows, start=1):
        dates.rows += 1
        numbers.rows += 1
        moment = _moment(row, layout, settings)
        if layout.time and moment is None:
            dates.add(row.get(layout.time, ""))
            continue
        if moment is not None and not settings.holds(moment):
            continue
        answer = ""
        if kind != NONE:
            answer = _answer(row.get(layout.label, ""), settings, kind, numbers.add)
            if not answer:
                if not label_text(row.get(layout.label, ""), settings.style):
                    notices.count(table.name, f"rows without an answer in '{layout.label}', skipped")
                continue
        cells = _cells(row, layout, settings, moment)
        identity = f"{name}:{number}"
        group, time = _dealt(row, layout, settings, moment, identity)
        if kind == NONE:
            text = settings.style.separator.join(_parts(cells, layout, settings)) + "\n"
            yield Document(identity, text, group, time), cells, ""
        else:
            yield answered(write_prompt(cells, layout, settings), answer, identity, group, time), cells, answer
    dates.finish()
    numbers.finish()


def question(row: Mapping[str, str], layout: Layout, settings: Settings, identity: str) -> Document:
    """A row whose answer is not known: its prompt, with an empty span at the end."""
    cells = _cells(row, layout, settings, _moment(row, layout, settings))
    prompt = write_prompt(cells, layout, settings)
    size = len(prompt.encode())
    return Document(identity, prompt, identity, spans=(Span(size, size, LABEL_TASK.name),))


def write_prompt(cells: Sequence[str], layout: Layout, settings: Settings) -> str:
    """All that stands before the answer."""
    style = settings.style
    parts = _parts(cells, layout, settings)
    if not style.names:
        return style.separator.join(parts) + " => "
    return style.separator.join([*parts, f"{name_text(settings.wanted.label, style)}: "])


def answered(prompt: str, answer: str, identity: str, group: str = "", time: str | None = None) -> Document:
    """The document of a prompt and its answer."""
    size = len(prompt.encode())
    span = Span(size, size + len(answer.encode()), LABEL_TASK.name)
    return Document(identity, f"{prompt}{answer}\n", group or identity, time, (span,))


def _parts(cells: Sequence[str], layout: Layout, settings: Settings) -> list[str]:
    if not settings.style.names:
        return list(cells)
    return [f"{name_text(name, settings.style)}: {cell}" for (name, _), cell in zip(layout.fields, cells, strict=True)]


def _moment(row: Mapping[str, str], layout: Layout, settings: Settings) -> Moment | None:
    return parse_moment(row.get(layout.time, ""), settings.style.date_order) if layout.time else None


def _cells(row: Mapping[str, str], layout: Layout, settings: Settings, moment: Moment | None) -> list[str]:
    """Of the time column only what can come back: a date on every line would be noise after a split by time."""
    return [
        ((moment.title if moment else "") or MISSING)
        if column == layout.time
        else cell_text(row.get(column, ""), settings.style)
        for _, column in layout.fields
    ]


def _answer(raw: str, settings: Settings, kind: str, reject: Callable[[str], None]) -> str:
    """The answer as text, or "": then it is missing, or it was told to `reject`."""
    if kind == CLASSIFICATION:
        return class_answer(raw, settings)
    number = amount_text(raw, settings.style)
    if number is None and label_text(raw, settings.style):
        reject(raw)
    return number or ""


def _dealt(
    row: Mapping[str, str], layout: Layout, settings: Settings, moment: Moment | None, identity: str
) -> tuple[str, str | None]:
    """(group, time): the period when the split is by time, else the group column, else the row itself."""
    if moment is not None:
        time = moment.period(settings.period if moment.unit != "index" else "day")
        return time, time
    group = " ".join(row.get(layout.group, "").split()) if layout.group else ""
    return group or identity, None
