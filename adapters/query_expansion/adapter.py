"""The query expansion adapter: a query, and below it what a search engine should look for instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.contracts import Document, DuplicatePolicy, SourceOptions, Span, SplitRule, Task
from ...core.errors import DataError, did_you_mean
from ...core.sources import Notices
from . import baselines, rating, sample
from .grouping import joined_groups
from .pairs import Columns, Row, read_rows
from .words import group_key, split_mode, target_lines, tidy, tidy_query, write_lines

TASK = Task("expansion", kind="generate", metric="new_term_recall", direction="max", min_effect=0.01)
OPTIONS = {
    "source_column": "Column of the query (without a header its number, in JSON also a path such as turn[].raw); "
    "found by name when it is called query, source, input or alike.",
    "target_column": "Column or path of the expansion; found by name when it is called output, target or alike.",
    "group_column": "Column whose equal values never straddle two splits, and neither do values that share a query; "
    "default: queries with the same words.",
    "skip": "Files to leave out: names or patterns divided by commas, such as *_templated.jsonl; default none.",
    "fillers_only": 'Pairs whose expansion adds only words that fit every query: "keep" (default) or "drop".',
    "documents": "For `slm-ar eval`: file of documents (id, text) that queries search; default none.",
    "queries": "For `slm-ar eval`: file of queries (id, text) with judgments; pairs with these queries are left out.",
    "judgments": "For `slm-ar eval`: file of judgments (query id, document id, relevance), as TREC or BEIR write them.",
}
FIELDS = {"source": "source_column", "target": "target_column", "group": "group_column"}
"""Fields of [data.columns] and the options that say the same."""


@dataclass(frozen=True, slots=True)
class _Settings:
    columns: Columns
    skip: tuple[str, ...]
    drops_fillers: bool
    queries: str


class QueryExpansionAdapter:
    """Documents of a query and its expansion. See `describe`."""

    name = "query_expansion"
    version = 2
    split = SplitRule.GROUP
    duplicates = DuplicatePolicy.EXACT
    """Not NEAR: expansions of different queries share most of their words in templated sets, and that is the data."""
    tasks: tuple[Task, ...] = (TASK,)
    slice_keys: tuple[str, ...] = ("file", "lines", "query_words", "adds")
    options: Mapping[str, str] = OPTIONS

    def __init__(self) -> None:
        self.record_count = 0
        """Documents yielded so far by the last call of `documents` or `questions`."""
        self._counts = Notices()

    @property
    def notices(self) -> list[str]:
        """What the last call of `documents` skipped or tolerated; complete when it is exhausted."""
        return self._counts.lines()

    def documents(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One document per pair, in order of file and row: the query's line, then the lines of its expansion.

        The expansion is the span; a pair whose expansion says nothing that is not in the query gets none, because its
        recall of new words is undefined. The id is `path:line`. Raises DataError naming the file and the reason.
        """
        self.record_count, self._counts = 0, Notices()
        settings = _settings(options)
        judged = self._judged_keys(source, settings)
        groups = self._groups(source, settings)
        for row in read_rows(source, settings.columns, self._counts, skip=settings.skip):
            document = self._pair(row, groups)
            if document is not None and self._is_wanted(document, row.name, settings, judged):
                self.record_count += 1
                yield document
        if not self.record_count:
            raise DataError(
                f"{source}: holds no pair of a query and its expansion",
                "; ".join(self.notices) or 'A row is {"query": "...", "output": [["lex", "..."], ["vec", "..."]]}.',
            )

    def questions(self, source: Path, options: SourceOptions) -> Iterator[Document]:
        """One prompt per query: text files with a query a line (`# ` starts a comment), and all that `documents` reads.

        A mode such as `/only:lex` at the end of a query asks for lines of that kind only.
        """
        self.record_count, self._counts = 0, Notices()
        settings = _settings(options)
        for row in read_rows(source, settings.columns, self._counts, paired=False, skip=settings.skip):
            query = _query(row.source)
            if not query:
                self._counts.count(row.name, "rows without a query, skipped")
                continue
            text = self.prompt(query)
            end = len(text.encode("utf-8"))
            self.record_count += 1
            yield Document(f"{row.name}:{row.place}", text, group_key(query), spans=(Span(end, end, TASK.name),))

    def prompt(self, query: str) -> str:
        """The text before the expansion of a query, as `documents` and `questions` write it."""
        return f"{tidy_query(query)}\n"

    def slices(self, document: Document) -> Mapping[str, str]:
        """The file, the kinds of its lines, the query's length, and whether the expansion adds more than fillers."""
        query, _, target = document.text.partition("\n")
        count = len(split_mode(query)[0].split())
        length = "1-2" if count <= 2 else "3-5" if count <= 5 else "6 or more"
        return {
            "file": document.id.rpartition(":")[0],
            "lines": rating.kinds_of(target),
            "query_words": length,
            "adds": "new words" if rating.new_words(query, target) else "fillers only",
        }

    def describe(self) -> str:
        """Plain words for program.md."""
        return (
            "A document is one pair: the first line is a query that a person typed, the lines below it are its "
            "expansion. In typed sets these are, always in this order, `lex:` lines (keywords for BM25), `vec:` lines "
            "(the question in other words, for vector search) and at most one `hyde:` line (a made-up passage that "
            "would answer it). A query that ends in `/only:lex`, `/only:vec` or `/only:hyde` has lines of that kind "
            "only. Queries with the same content words never stand in two splits. The task: write the expansion, given "
            "the query's line. What counts is the recall of the telling words of the true expansion that are NOT in "
            "the query: copying the query scores 0, fillers such as `guide` or `best` do not count, and a list of more "
            "than twice as many words as the true one gains nothing. At most 128 tokens are generated, which is why "
            "`lex:` and `vec:` lines stand first. The format is easy; which words go with which is the task."
        )

    def sample(self, seed: int, size: int) -> Iterator[Document]:
        """About `size` bytes of made-up pairs: what a query is about decides which words expand it."""
        total = 0
        for number, (query, lines) in enumerate(sample.pairs(seed), start=1):
            if total >= size:
                return
            document = _document(f"sample.jsonl:{number}", query, write_lines(lines), group_key(query))
            total += len(document.text.encode())
            yield document

    # --- measuring ------------------------------------------------------------------------------

    def rate(self, task: str, prompt: str, gold: str, answer: str) -> Mapping[str, float]:
        """Figures between 0 and 1 of one generated expansion; see `rating.rate`."""
        return rating.rate(prompt, gold, answer)

    def baseline_answers(
        self, task: str, train: Sequence[tuple[str, str]], prompts: Sequence[str]
    ) -> Mapping[str, Sequence[str]]:
        """What one would answer without a model; `train` holds (prompt, gold). See `baselines.answers`."""
        return baselines.answers(train, prompts)

    def ceiling(self, task: str, train_texts: Iterable[str], golds: Sequence[tuple[str, str]]) -> float:
        """The share of the gold's new words that occur in train at all, a mean over (prompt, gold) pairs."""
        return rating.ceiling(train_texts, golds)

    # --- one row --------------------------------------------------------------------------------

    def _groups(self, source: Path, settings: _Settings) -> dict[str, str]:
        """Value of group_column -> group, for which all rows are read once more; empty without such a column."""
        if not settings.columns.group:
            return {}
        rows = read_rows(source, settings.columns, Notices(), skip=settings.skip)
        pairs = ((row, query) for row in rows if (query := _query(row.source)))
        return joined_groups(((_own_group(*pair), pair[1]) for pair in pairs), settings.columns.group, self._counts)

    def _pair(self, row: Row, groups: Mapping[str, str]) -> Document | None:
        query = _query(row.source)
        lines, unread = target_lines(row.target)
        if not query or not lines:
            missing = "expansion" if query else "query"
            self._counts.count(row.name, f"rows without a readable {missing}, skipped")
            return None
        if unread:
            self._counts.count(row.name, "parts of expansions that are neither lex, vec nor hyde, left out", unread)
        group = _own_group(row, query)
        group = groups.get(group, group)
        return _document(f"{row.name}:{row.place}", query, write_lines(lines), group)

    def _is_wanted(self, document: Document, name: str, settings: _Settings, judged: set[str]) -> bool:
        if judged and group_key(document.text.partition("\n")[0]) in judged:
            self._counts.count(name, "pairs with a query that has judgments, left out")
            return False
        if document.spans:
            return True
        what = "left out" if settings.drops_fillers else "kept as text without a task"
        self._counts.count(name, f"pairs whose expansion adds only fillers to the query, {what}")
        return not settings.drops_fillers

    def _judged_keys(self, source: Path, settings: _Settings) -> set[str]:
        """Groups of the queries that `slm-ar eval` will search with: a model must not have seen them."""
        if not settings.queries:
            return set()
        path = (source if source.is_dir() else source.parent) / settings.queries
        rows = read_rows(path, Columns(), Notices(), paired=False)
        return {group_key(query) for row in rows if (query := _query(row.source))}


def _document(identity: str, query: str, target: str, group: str) -> Document:
    start = len(query.encode("utf-8")) + 1
    end = start + len(target.encode("utf-8"))
    spans = (Span(start, end, TASK.name),) if rating.new_words(query, target) else ()
    return Document(identity, f"{query}\n{target}\n", group, spans=spans)


def _own_group(row: Row, query: str) -> str:
    return tidy(row.group) or group_key(query)


def _query(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    return tidy_query(value) if isinstance(value, str) else ""


def _settings(options: SourceOptions) -> _Settings:
    given = dict(options.options)
    for name in given:
        if name not in OPTIONS:
            raise DataError(
                f"the query_expansion adapter has no option '{name}' in [data.options]",
                did_you_mean(name, list(OPTIONS)),
            )
    for field, column in options.columns.items():
        if field not in FIELDS:
            raise DataError(f"[data.columns] has no field '{field}'", did_you_mean(field, list(FIELDS)))
        given.setdefault(FIELDS[field], column)
    if options.since is not None or options.until is not None:
        raise DataError("since and until need dated documents, queries have no dates", "Remove them from [data].")
    texts: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise DataError(f"[data.options] {name} = {value!r} must be a name", f'Write {name} = "NAME".')
        texts[name] = str(value).strip()
    collection = [name for name in ("documents", "queries", "judgments") if name in texts]
    if collection and len(collection) < 3:
        raise DataError(
            f"[data.options] has {' and '.join(collection)}, but measuring retrieval needs all three",
            'Write documents = "docs.jsonl", queries = "queries.jsonl" and judgments = "qrels.tsv".',
        )
    fillers = texts.get("fillers_only", "keep")
    if fillers not in ("keep", "drop"):
        raise DataError(f"[data.options] fillers_only = '{fillers}' is unknown", 'Write "keep" or "drop".')
    skipped = [pattern.strip() for pattern in texts.get("skip", "").split(",") if pattern.strip()]
    columns = Columns(*(texts.get(option, "") for option in FIELDS.values()))
    skip = (*skipped, *(texts[name] for name in collection))
    return _Settings(columns, skip, fillers == "drop", texts.get("queries", ""))
