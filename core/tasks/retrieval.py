"""Does an expansion find more? BM25 over a person's own documents, with relevance judgments. Pure, standalone.

Called by `slm-ar eval` where a recipe names documents, queries and judgments. Promises: the raw query and RM3 feedback
stand beside every expansion, differences come with a paired interval, and ties are broken by the order of documents.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from ..sources import Notices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

K1, B = 0.9, 0.4
"""Defaults of Anserini (Yang, Fang and Lin 2017), tuned on TREC newswire; Lucene's own are 1.2 and 0.75."""
FEEDBACK_DOCUMENTS, FEEDBACK_WORDS, QUERY_WEIGHT = 10, 10, 0.5
"""RM3 (Abdul-Jaleel et al. 2004) with Anserini's defaults; an expansion gets the same share of the weight."""
COMMON_SHARE = 0.1
"""Feedback never brings words that stand in more than this share of a larger collection (Anserini does the same)."""
FEWEST_FOR_COMMON = 100
RAW, FEEDBACK = "raw query", "RM3 feedback"
RESAMPLES = 2000
DRAWN_AT_ONCE = 1 << 20
DEPTH = 100

# Chinese and Japanese are written without blanks: a character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_PREFIX = re.compile(r"[ \t]*(lex|vec|hyde):", re.IGNORECASE)
_NEGATED = re.compile(r'(?<!\S)-(?:"[^"\n]*"|\S+)')
_LUCENE = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
"""The English stop words of Lucene's StandardAnalyzer."""
_STOP_WORDS = frozenset(_LUCENE.split())

Weights = Mapping[str, float]
Judgments = Mapping[str, Mapping[str, int]]


# --- results ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SystemScore:
    """Means over the judged queries for one way of asking; differences and shares are against the raw query."""

    name: str
    ndcg_10: float
    recall_10: float
    recall_100: float
    difference: float
    """In nDCG@10."""
    low: float
    high: float
    """95 % interval of the difference: paired bootstrap over queries."""
    helped: float
    hurt: float
    """Shares of queries whose nDCG@10 is higher, or lower, than with the raw query."""


@dataclass(frozen=True, slots=True)
class RetrievalReport:
    """The raw query first, then RM3 feedback, then the expansions as they were given."""

    systems: tuple[SystemScore, ...]
    query_count: int
    document_count: int
    k1: float
    b: float
    notices: tuple[str, ...]

    def lines(self) -> list[str]:
        """A table for people."""
        rows = [f"{'':24} {'nDCG@10':>8} {'recall@10':>10} {'recall@100':>11} {'helped':>7} {'hurt':>6}  against raw"]
        for each in self.systems:
            figures = f"{each.name:24} {each.ndcg_10:8.3f} {each.recall_10:10.3f} {each.recall_100:11.3f}"
            if each.name != RAW:
                figures += f" {each.helped:7.0%} {each.hurt:6.0%}"
                figures += f"  {each.difference:+.3f} [{each.low:+.3f}, {each.high:+.3f}]"
            rows.append(figures)
        rows.append(
            f"{self.query_count:,} judged queries, {self.document_count:,} documents, "
            f"BM25 k1 = {self.k1:g}, b = {self.b:g}"
        )
        return [*rows, *self.notices]


def evaluate_retrieval(
    documents: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    judgments: Judgments,
    expansions: Mapping[str, Mapping[str, str]],
    *,
    k1: float = K1,
    b: float = B,
    seed: int = 0,
) -> RetrievalReport:
    """Search `documents` (id, text) with each judged query, raw and expanded, and compare what is found.

    `queries` is id -> text, `judgments` query id -> document id -> relevance (0: not relevant), `expansions` name of a
    system -> query id -> generated text, such as `lex:` and `vec:` lines. A query that a system did not expand is
    searched raw. Raises DataError when no query has a relevant document in the collection.
    """
    notices = Notices()
    index = _Index(documents, k1, b, notices)
    judged = _judged(queries, judgments, index, notices)
    ways: dict[str, Callable[[str, str], Weights]] = {
        RAW: lambda _, text: _counts(text),
        FEEDBACK: lambda _, text: _feedback_weights(index, text),
    }
    for name, texts in expansions.items():
        missing = sum(not texts.get(query, "").strip() for query in judged)
        if missing:
            notices.count(name, "queries without an expansion, searched raw", missing)
        ways[name] = _expander(texts)
    figures = {
        name: [_figures(index.search(way(query, queries[query]), DEPTH), judged[query]) for query in judged]
        for name, way in ways.items()
    }
    if len(judged) < 2:
        notices.count("interval", "single queries, which have no interval")
    systems = tuple(_score(name, rows, figures[RAW], seed) for name, rows in figures.items())
    return RetrievalReport(systems, len(judged), len(index.names), k1, b, tuple(notices.lines()))


def _judged(queries: Mapping[str, str], judgments: Judgments, index: _Index, notices: Notices) -> Judgments:
    """Relevance by query, for the queries that can be measured."""
    known = set(index.names)
    judged: dict[str, Mapping[str, int]] = {}
    for query in queries:
        relevant = {name: grade for name, grade in judgments.get(query, {}).items() if grade > 0}
        absent = sum(name not in known for name in relevant)
        if absent:
            notices.count("judgments", "relevant documents that are not in the collection", absent)
        if not relevant:
            notices.count("queries", "queries without a relevant document, not measured")
        elif absent < len(relevant):
            judged[query] = relevant
        else:
            notices.count("queries", "queries whose relevant documents are all missing, not measured")
    if not judged:
        raise DataError(
            f"none of the {len(queries):,} queries has a relevant document among the {len(index.names):,} documents",
            "Check that queries, judgments and documents use the same ids.",
        )
    return judged


# --- ways of asking -----------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Lower-case words without stop words, English plurals folded by the S-stemmer (Harman 1991)."""
    return [_singular(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def _singular(word: str) -> str:
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y" if len(word) > 4 else word
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")) and len(word) > 2:
        return word[:-1]
    return word


def _counts(text: str) -> Weights:
    return {word: float(count) for word, count in Counter(words_of(text)).items()}


def expansion_words(text: str) -> list[str]:
    """The search words of an expansion: without the prefixes of typed lines and the -excluded words of `lex:` lines."""
    words: list[str] = []
    for line in text.splitlines():
        prefix = _PREFIX.match(line)
        plain = line[prefix.end() :] if prefix else line
        words += words_of(_NEGATED.sub(" ", plain) if prefix and prefix[1].lower() == "lex" else plain)
    return words


def _expander(texts: Mapping[str, str]) -> Callable[[str, str], Weights]:
    def expanded(query: str, text: str) -> Weights:
        return _mixed(_counts(text), Counter(expansion_words(texts.get(query, ""))))

    return expanded


def _mixed(query: Weights, added: Mapping[str, float]) -> Weights:
    """Half of the weight for the query's words, half for the added ones; all of it where one side is empty."""
    share = 1.0 if not added else 0.0 if not query else QUERY_WEIGHT
    mixed: dict[str, float] = {}
    for weights, part in ((query, share), (added, 1 - share)):
        total = sum(weights.values())
        for word, weight in weights.items():
            mixed[word] = mixed.get(word, 0.0) + part * weight / total
    return mixed


def _feedback_weights(index: _Index, text: str) -> Weights:
    """RM3: the query, and the words that its ten best documents have most, weighted by the documents' scores."""
    query = _counts(text)
    added: dict[str, float] = {}
    for document, score in index.search_places(query, FEEDBACK_DOCUMENTS):
        counts = {word: count for word, count in index.words_in(document) if not index.is_common(word)}
        # Anserini prunes each document to its leading words as well; ties fall to the earlier word in the alphabet.
        total = sum(counts.values())
        for word, count in counts.items():
            added[word] = added.get(word, 0.0) + score * count / total
    best = sorted(added, key=lambda word: (-added[word], word))[:FEEDBACK_WORDS]
    return _mixed(query, {word: added[word] for word in best})


# --- BM25 ---------------------------------------------------------------------------------------


class _Index:
    """BM25 as Robertson and Zaragoza (2009) write it, with Lucene's idf: ln(1 + (N - n + 0.5) / (n + 0.5))."""

    def __init__(self, documents: Iterable[tuple[str, str]], k1: float, b: float, notices: Notices) -> None:
        import numpy as np

        self.names: list[str] = []
        self._number: dict[str, int] = {}
        ids, counts, ends = array("q"), array("q"), array("q", [0])
        lengths = array("q")
        known: set[str] = set()
        for name, text in documents:
            if name in known:
                notices.count("documents", "documents whose id occurred before, left out")
                continue
            known.add(name)
            self.names.append(name)
            words = Counter(words_of(text))
            for word, count in words.items():
                ids.append(self._number.setdefault(word, len(self._number)))
                counts.append(count)
            ends.append(len(ids))
            lengths.append(words.total())
        if not self.names:
            raise DataError("the collection has no documents", "Name a file of documents in [data.options] documents.")
        self._vocabulary = list(self._number)
        self._ids, self._counts, self._ends = _vector(ids), _vector(counts), _vector(ends)
        self._build(np.maximum(_vector(lengths), 1), k1, b)

    def _build(self, lengths: NDArray[np.int64], k1: float, b: float) -> None:
        """Postings sorted by word, each with the score that one occurrence of the word in a query brings."""
        import numpy as np

        size, count = len(self.names), len(self._vocabulary)
        places = np.repeat(np.arange(size), np.diff(self._ends))
        order = np.argsort(self._ids, kind="stable")
        self._frequency = np.bincount(self._ids, minlength=count)
        self._starts = np.concatenate([[0], np.cumsum(self._frequency)])
        self._places = places[order]
        inverse = np.log1p((size - self._frequency + 0.5) / (self._frequency + 0.5))
        times = self._counts[order].astype(np.float64)
        norms = k1 * (1 - b + b * lengths / lengths.mean())
        self._impacts = inverse[self._ids[order]] * times * (k1 + 1) / (times + norms[self._places])

    def is_common(self, word: str) -> bool:
        size = len(self.names)
        return size >= FEWEST_FOR_COMMON and int(self._frequency[self._number[word]]) > COMMON_SHARE * size

    def words_in(self, place: int) -> Iterator[tuple[str, int]]:
        """(word, count) of one document."""
        for at in range(int(self._ends[place]), int(self._ends[place + 1])):
            yield self._vocabulary[int(self._ids[at])], int(self._counts[at])

    def search_places(self, weights: Weights, depth: int) -> list[tuple[int, float]]:
        """(place, score) of the best documents with a score above 0; equal scores in the order of documents."""
        import numpy as np

        scores = np.zeros(len(self.names))
        for word, weight in weights.items():
            number = self._number.get(word)
            if number is not None and weight > 0:
                part = slice(int(self._starts[number]), int(self._starts[number + 1]))
                scores[self._places[part]] += weight * self._impacts[part]
        found = np.flatnonzero(scores > 0)
        if len(found) > depth:
            worst = np.partition(scores[found], len(found) - depth)[len(found) - depth]
            found = found[scores[found] >= worst]
        ranked = found[np.lexsort((found, -scores[found]))][:depth]
        return [(int(place), float(scores[place])) for place in ranked]

    def search(self, weights: Weights, depth: int) -> list[str]:
        """Ids of the best documents."""
        return [self.names[place] for place, _ in self.search_places(weights, depth)]


def _vector(values: array[int]) -> NDArray[np.int64]:
    import numpy as np

    return np.frombuffer(values, np.int64) if values else np.zeros(0, np.int64)


# --- figures ------------------------------------------------------------------------------------


def _figures(ranked: Sequence[str], relevant: Mapping[str, int]) -> tuple[float, float, float]:
    """(nDCG@10, recall@10, recall@100) of one query."""
    hits = [name in relevant for name in ranked]
    return ndcg(ranked, relevant, 10), sum(hits[:10]) / len(relevant), sum(hits[:100]) / len(relevant)


def ndcg(ranked: Sequence[str], relevant: Mapping[str, int], depth: int) -> float:
    """Discounted cumulative gain over the ideal one, with the grade itself as gain, as trec_eval's ndcg_cut."""
    gains = [relevant.get(name, 0) for name in ranked[:depth]]
    ideal = sorted(relevant.values(), reverse=True)[:depth]
    return _discounted(gains) / _discounted(ideal)


def _discounted(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _score(
    name: str, rows: Sequence[tuple[float, float, float]], raw: Sequence[tuple[float, float, float]], seed: int
) -> SystemScore:
    differences = [mine[0] - theirs[0] for mine, theirs in zip(rows, raw, strict=True)]
    low, high = paired_interval(differences, seed)
    ndcg_10, recall_10, recall_100 = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return SystemScore(
        name,
        ndcg_10,
        recall_10,
        recall_100,
        difference=sum(differences) / len(rows),
        low=low,
        high=high,
        helped=sum(each > 1e-9 for each in differences) / len(rows),
        hurt=sum(each < -1e-9 for each in differences) / len(rows),
    )


def paired_interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean difference: queries are drawn again with replacement, 2,000 times.

    With fewer than two differences there is no spread to draw from, and the interval has no bounds.
    """
    import numpy as np

    if len(differences) < 2:
        return -math.inf, math.inf
    values = np.asarray(differences)
    random = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    rows = max(1, DRAWN_AT_ONCE // len(values))
    for start in range(0, RESAMPLES, rows):
        part = means[start : start + rows]
        part[:] = values[random.integers(0, len(values), (len(part), len(values)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
