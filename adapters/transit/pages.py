"""Pages: a header and lines with answers, from which come documents (answers marked) and questions (answers missing).

Every kind of log makes pages; the adapter turns them into what was asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...core.contracts import Document, Span

HISTORY_LINES = 20
"""Lines of the same page that a question shows before the line that asks."""


class Entry(NamedTuple):
    """One line. With an answer it is a record, with an origin a question, with neither a heading or a plain line."""

    lead: str
    answer: str = ""
    rest: str = ""
    origin: str = ""
    """The row whose answer is not known, as `rows.Asking.origin` writes it."""


@dataclass(frozen=True, slots=True)
class Page:
    """What becomes one document."""

    id: str
    group: str
    time: str | None
    header: str
    task: str
    entries: Sequence[Entry]


def page_document(page: Page) -> Document:
    """The page as text, each answer marked by a span."""
    parts = [page.header + "\n"]
    offset = len(parts[0].encode())
    spans: list[Span] = []
    for lead, answer, rest, _ in page.entries:
        line = f"{lead}{answer}{rest}\n"
        if answer:
            start = offset + len(lead.encode())
            spans.append(Span(start, start + len(answer.encode()), page.task))
        parts.append(line)
        offset += len(line.encode())
    return Document(id=page.id, text="".join(parts), group=page.group, time=page.time, spans=tuple(spans))


def page_questions(page: Page) -> Iterator[tuple[str, str]]:
    """(origin, prompt) of every line that asks: the header, the last known lines before it, its own lead.

    A heading stands above the lines that are known below it, and above the line that asks.
    """
    history: deque[str] = deque(maxlen=HISTORY_LINES)
    heading = ""
    below = 0  # known lines below the heading
    for lead, answer, rest, origin in page.entries:
        if origin:
            shown = list(history)
            if heading and not 0 < below < HISTORY_LINES:
                shown.insert(len(shown) - min(below, len(shown)), heading)
            yield origin, "\n".join([page.header, *shown, lead])
        elif not answer:
            heading, below = lead, 0
        else:
            if heading and not below:
                history.append(heading)
            history.append(f"{lead}{answer}{rest}")
            below += 1
