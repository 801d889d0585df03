"""What queries and expansions are made of: typed lines in one order, the query's mode, and the words that count.

Used by the adapter for serialising and by the rating for comparing, so that both see the same lines and words. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

KINDS = ("lex", "vec", "hyde")
"""Keywords for BM25, a question for vector search, a made-up passage (HyDE, Gao et al. 2022): in this order, because a
generated answer that is cut off at its token limit then loses the passage and not the keywords."""

Line = tuple[str, str]
"""(kind, text); the kind is "" in expansions that are plain text."""

_TYPED = re.compile(r"(lex|vec|hyde):[ \t]*(\S.*)", re.IGNORECASE)
_MODE = re.compile(r"\s+/?only:\s*(lex|vec|hyde)\s*$", re.IGNORECASE)
# A word keeps the signs of C++ and C#. Chinese and Japanese are written without blanks: a character is a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+[+#]*")

_ENGLISH = (
    "a about after all also am an and any are as at be because been before being between both but by can could did do "
    "does doing during each few for from further had has have having he her here his how i if in into is it its just "
    "me more most my no nor not now of off on once only or other our out over own per s same she should so some such "
    "t than that the their them then there these they this those through to too under until up us very was we were "
    "what when where which while who whom why will with within without would you your"
)
STOP_WORDS = frozenset(_ENGLISH.split())
_FILLER = (
    "advice basic basics beginner beginners best better common complete comprehensive definition detailed details "
    "different documentation easy effective effectively everything example examples explain explained explanation find "
    "get getting give good guide guides help helpful helps ideas important improve include including information "
    "introduction know learn learning like main major make mean meaning means method methods need needs overview "
    "practical practice practices quick reference simple start started starting step steps strategies strategy success "
    "successful successfully technique techniques tip tips top tutorial tutorials type types understand understanding "
    "use used useful uses using various way ways work working works"
)
FILLER_WORDS = frozenset(_FILLER.split())
"""Words that fit every query. Where they count, a fixed list of them beats every model that says something."""


def tidy(text: str) -> str:
    """One line without doubled blanks that can be written as UTF-8."""
    line = " ".join(text.split())
    return line if line.isascii() else line.encode("utf-8", "replace").decode("utf-8")


def tidy_query(query: str) -> str:
    """One line; a mode that was asked for, in whichever spelling, is written ` /only:lex`."""
    base, mode = split_mode(tidy(query))
    return f"{base} /only:{mode}" if mode else base


def split_mode(query: str) -> tuple[str, str]:
    """(query, mode): the mode is the one kind of line that was asked for (`only: lex`, ` /only:lex`), else ""."""
    found = _MODE.search(query)
    return (query[: found.start()].strip(), found[1].lower()) if found else (query.strip(), "")


def content_words(text: str) -> set[str]:
    """The lower-case words of a text without English stop words."""
    return set(_WORD.findall(text.lower())) - STOP_WORDS


def telling_words(text: str) -> list[str]:
    """The content words without fillers, each once, in order of appearance."""
    words = dict.fromkeys(_WORD.findall(text.lower()))
    return [word for word in words if word not in STOP_WORDS and word not in FILLER_WORDS]


def group_key(query: str) -> str:
    """Equal for queries that must not straddle two splits: the same content words, in whatever order, mode or case."""
    base = split_mode(tidy(query))[0].lower()
    return " ".join(sorted(content_words(base))) or base


def read_line(line: str) -> Line | None:
    """(kind, text) of one typed line such as `lex: ssh key setup`, or None."""
    found = _TYPED.fullmatch(line.strip())
    return (found[1].lower(), tidy(found[2])) if found else None


def target_lines(value: object) -> tuple[list[Line], int]:
    """The lines of an expansion in canonical order, and how many parts of it could not be read.

    Takes pairs of type and text, a table of types, a list of lines, a text, or the JSON text of one of these.
    """
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, dict):
        value = [[kind, text] for kind, texts in value.items() for text in _as_list(texts)]
    found: list[Line] = []
    unread = 0
    for part in _as_list(value):
        lines = _part_lines(part)
        found += lines
        unread += not lines
    typed = [line for line in found if line[0]]
    if typed:
        unread += len(found) - len(typed)
        return sorted(typed, key=lambda line: KINDS.index(line[0])), unread
    return found, unread


def _parsed(text: str) -> object:
    """What a cell with JSON holds (Parquet and CSV carry lists like that), else its lines."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            pass
    return [line for line in text.splitlines() if line.strip()]


def _as_list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _part_lines(part: object) -> list[Line]:
    if isinstance(part, str):
        text = tidy(part)
        return [read_line(text) or ("", text)] if text else []
    if isinstance(part, list) and len(part) == 2 and all(isinstance(each, str) for each in part):
        kind, text = part[0].strip().lower(), tidy(part[1])
        return [(kind, text)] if kind in KINDS and text else []
    return []


def write_lines(lines: Sequence[Line]) -> str:
    """The expansion as text, without a newline at its end."""
    return "\n".join(f"{kind}: {text}" if kind else text for kind, text in lines)
