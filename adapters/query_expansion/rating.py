"""Compares a generated expansion with the true one. Called by the adapter for every answer of a model or baseline.

Promises: figures between 0 and 1, the same names for every answer; nothing is learned from the answers. Copying the
query and a fixed template satisfy a rule-based reward; the recall of telling words that are not in the query orders
answers as a person who searches would, so that is the headline and the others stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .words import KINDS, Line, content_words, read_line, split_mode, telling_words, tidy

LINE_THRESHOLDS = (0.3, 0.5)
"""Jaccard similarity of two lines' words from which they count as the same line."""
NEW_WORDS_ALLOWED = 2
"""New words of an answer that count, as a multiple of the gold's: a long list of likely words finds no more."""


def rate(prompt: str, gold: str, answer: str) -> Mapping[str, float]:
    """Figures of one answer; `prompt` is the query's line.

    Words are read from `lex` and `vec` lines (from `hyde` lines where the gold has no others; from all lines where it
    is plain text). New words are neither in the query nor stop words nor fillers (`words.FILLER_WORDS`).

    - new_term_recall: share of the gold's new words among the first new words of the answer, twice as many as the
      gold has.
    - new_term_precision: share of the answer's new words that the gold has.
    - key_term_coverage: share of the query's content words that the answer keeps.
    - format_valid: every line is a `lex:`, `vec:` or `hyde:` line, with at least one lex and one vec, or with lines of
      the one kind that the query asks for. Plain gold: one line where the gold is one line, else any number from one.
    - line_f1_at_0.3, line_f1_at_0.5: F1 of lines that have a line of their kind on the other side with at least this
      Jaccard similarity of their content words.
    """
    query, mode = split_mode(prompt)
    gold_lines, answer_lines = _lines(gold), _answer_lines(answer)
    if not any(kind for kind, _ in gold_lines):  # plain: what looks like a prefix is text
        gold_lines, answer_lines = _plain(gold), _plain(answer)
    query_words = content_words(query)
    wanted, said = _new_words(gold_lines, gold_lines, query), _new_words(answer_lines, gold_lines, query)
    counted = set(said[: NEW_WORDS_ALLOWED * len(wanted)])
    figures = {
        "new_term_recall": _share(counted & set(wanted), set(wanted)),
        "new_term_precision": _share(set(said) & set(wanted), set(said)),
        "key_term_coverage": _share(query_words & content_words(_text(answer_lines, gold_lines)), query_words),
        "format_valid": float(_is_valid(answer_lines, gold_lines, mode)),
    }
    for threshold in LINE_THRESHOLDS:
        figures[f"line_f1_at_{threshold}"] = _line_f1(gold_lines, answer_lines, threshold)
    return figures


def new_words(prompt: str, gold: str) -> list[str]:
    """The words that `new_term_recall` asks for; empty when the gold says nothing that is not in the query."""
    lines = _lines(gold)
    return _new_words(lines, lines, split_mode(prompt)[0])


def ceiling(train_texts: Iterable[str], golds: Sequence[tuple[str, str]]) -> float:
    """The highest mean new_term_recall with words that occur in train; `golds` holds (prompt, gold).

    Pairs without a new word do not count; 0.0 when no pair has one.
    """
    missing = [wanted for prompt, gold in golds if (wanted := set(new_words(prompt, gold)))]
    known: set[str] = set()
    for text in train_texts:
        known |= content_words(text)
    return sum(_share(wanted & known, wanted) for wanted in missing) / max(1, len(missing))


def kinds_of(target: str) -> str:
    """The kinds of lines in an expansion, such as "lex+vec+hyde"; "plain" when its lines have no kinds."""
    found = {kind for kind, _ in _lines(target)}
    return "+".join(kind for kind in KINDS if kind in found) or "plain"


# --- lines --------------------------------------------------------------------------------------


def _lines(text: str) -> list[Line]:
    """Typed lines with their kind; lines that are not typed have the kind ""."""
    return [read_line(line) or ("", tidy(line)) for line in text.splitlines() if line.strip()]


def _plain(text: str) -> list[Line]:
    return [("", tidy(line)) for line in text.splitlines() if line.strip()]


def _answer_lines(answer: str) -> list[Line]:
    """As `_lines`; a last line that was cut off inside its prefix, at the token limit, is no line."""
    lines = _lines(answer)
    if len(lines) > 1 and not lines[-1][0] and any(f"{kind}:".startswith(lines[-1][1]) for kind in KINDS):
        lines.pop()
    return lines


def _counted_kinds(gold: Sequence[Line]) -> tuple[str, ...]:
    kinds = {kind for kind, _ in gold}
    if kinds & {"lex", "vec"}:
        return ("lex", "vec")
    return ("hyde",) if "hyde" in kinds else ("",)


def _text(lines: Sequence[Line], gold: Sequence[Line]) -> str:
    """The lines whose words count, given the gold's kinds."""
    kinds = _counted_kinds(gold)
    return "\n".join(text for kind, text in lines if kind in kinds)


def _new_words(lines: Sequence[Line], gold: Sequence[Line], query: str) -> list[str]:
    known = content_words(query)
    return [word for word in telling_words(_text(lines, gold)) if word not in known]


def _share(part: set[str], whole: set[str]) -> float:
    return len(part) / len(whole) if whole else 0.0


def _is_valid(answer: Sequence[Line], gold: Sequence[Line], mode: str) -> bool:
    kinds = {kind for kind, _ in answer}
    if _counted_kinds(gold) == ("",):
        return len(answer) == 1 if len(gold) == 1 else bool(answer)
    if mode:
        return kinds == {mode}
    return {"lex", "vec"} <= kinds and "" not in kinds


def _line_f1(gold: Sequence[Line], answer: Sequence[Line], threshold: float) -> float:
    """Harmonic mean of the shares of answer lines and of gold lines with a counterpart."""
    if not gold or not answer:
        return 0.0
    wanted = [(kind, _line_words(text)) for kind, text in gold]
    said = [(kind, _line_words(text)) for kind, text in answer]
    precision = sum(_has_counterpart(line, wanted, threshold) for line in said) / len(said)
    recall = sum(_has_counterpart(line, said, threshold) for line in wanted) / len(wanted)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _line_words(text: str) -> set[str]:
    return content_words(text) or set(text.lower().split())


def _has_counterpart(line: tuple[str, set[str]], others: Sequence[tuple[str, set[str]]], threshold: float) -> bool:
    kind, words = line
    return any(kind == other and len(words & theirs) >= threshold * len(words | theirs) for other, theirs in others)
