"""Expansions without a model: what a trained one has to beat. Called through the adapter; learns from train alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .rating import NEW_WORDS_ALLOWED, kinds_of, new_words
from .words import content_words, read_line, split_mode

TEMPLATE = (
    "lex: {query} overview",
    "lex: {query} guide examples",
    "lex: {query} tutorial tips",
    "vec: what is {query} and how does it work",
    "vec: how to get started with {query}",
    "hyde: This guide to {query} explains the basics, with practical examples and best practices for beginners.",
)
PLAIN_TEMPLATE = "{query} overview guide examples tutorial tips"


def answers(train: Sequence[tuple[str, str]], prompts: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Baseline name -> one answer per prompt. `train` holds (prompt, gold).

    `copy` repeats the query, `fixed template` puts it into the same phrases every time, `frequent words` adds the new
    words that most train expansions have (the best that one can do without reading the query), and `nearest query`
    gives the expansion of the train query with the highest TF-IDF cosine (of the same mode, where train has the mode).
    """
    typed = sum(kinds_of(gold) != "plain" for _, gold in train) * 2 > len(train)
    nearest, frequent = NearestQuery(train), _frequent_words(train)
    return {
        "copy": [copy_query(prompt, typed) for prompt in prompts],
        "fixed template": [fill_template(prompt, typed) for prompt in prompts],
        "frequent words": [add_words(prompt, frequent, typed) for prompt in prompts],
        "nearest query": [nearest.expansion(prompt) for prompt in prompts],
    }


def copy_query(prompt: str, typed: bool) -> str:
    """The query as every kind of line that its mode allows, or as it is."""
    query, mode = split_mode(prompt)
    if not typed:
        return query
    return f"{mode}: {query}" if mode else f"lex: {query}\nvec: {query}"


def fill_template(prompt: str, typed: bool) -> str:
    """The query inside phrases that fit every query."""
    query, mode = split_mode(prompt)
    lines = [line for line in TEMPLATE if not mode or line.startswith(f"{mode}:")] if typed else [PLAIN_TEMPLATE]
    return "\n".join(line.format(query=query) for line in lines)


def add_words(prompt: str, words: Sequence[str], typed: bool) -> str:
    """The same words after every query."""
    query, mode = split_mode(prompt)
    text = " ".join([query, *words])
    if not typed:
        return text
    return f"{mode}: {text}" if mode else f"lex: {text}\nvec: {query}"


def _frequent_words(train: Sequence[tuple[str, str]]) -> list[str]:
    """The commonest new words, as many as can count for the average expansion."""
    lists = [new_words(prompt, gold) for prompt, gold in train]
    counts = Counter(word for words in lists for word in words)
    size = NEW_WORDS_ALLOWED * counts.total() / max(1, len(lists))
    return sorted(counts, key=lambda word: (-counts[word], word))[: math.ceil(size)]


class NearestQuery:
    """Answers with the expansion of the most similar train query.

    Similarity is the cosine of vectors log((1 + n) / (1 + n_w)) + 1 over the content words w of the queries.
    """

    def __init__(self, train: Sequence[tuple[str, str]]) -> None:
        self._golds = [gold for _, gold in train]
        self._modes = [split_mode(prompt)[1] for prompt, _ in train]
        words = [content_words(split_mode(prompt)[0]) for prompt, _ in train]
        counts = Counter(word for each in words for word in each)
        self._weights = {word: math.log((1 + len(train)) / (1 + count)) + 1 for word, count in counts.items()}
        self._lengths = [math.sqrt(sum(self._weights[word] ** 2 for word in each)) for each in words]
        self._places: dict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(words):
            for word in each:
                self._places[word].append(place)

    def expansion(self, prompt: str) -> str:
        """The nearest one's expansion, cut to the lines of the mode that is asked for; "" when train is empty."""
        query, mode = split_mode(prompt)
        scores: dict[int, float] = defaultdict(float)
        for word in sorted(content_words(query)):  # sorted, because a sum of floats depends on its order
            for place in self._places.get(word, ()):
                scores[place] += self._weights[word] ** 2 / self._lengths[place]
        same_mode = [place for place in scores if self._modes[place] == mode]
        ranked = same_mode or list(scores) or range(min(1, len(self._golds)))
        best = min(ranked, key=lambda place: (-scores.get(place, 0.0), place), default=None)
        if best is None:
            return ""
        gold = self._golds[best]
        if not mode or self._modes[best] == mode:
            return gold
        return "\n".join(line for line in gold.splitlines() if (read_line(line) or ("", ""))[0] in ("", mode))
