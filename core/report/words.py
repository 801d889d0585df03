"""The words people read, and how text and numbers become safe to show. Called by every rendering of a campaign.

Internal names never reach a person: what the code calls head is "current", rung is "proven", a provisional keep is
"kept for now", an unclear claim is "not yet proven".
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..contracts import Decision, Status


@dataclass(frozen=True, slots=True)
class StatusWord:
    """How one status is said. `tone` is good, quiet, warn or alarm; renderings pick shape and colour by it."""

    short: str
    meaning: str
    tone: str


STATUS_WORDS: Mapping[Status, StatusWord] = MappingProxyType(
    {
        Status.KEPT: StatusWord("kept for now", "better on dev than the current code has shown; not proof yet", "good"),
        Status.REVERTED: StatusWord("no gain", "not better than the current code on dev, dropped", "quiet"),
        Status.INVALID: StatusWord("failed the integrity check", "its score cannot be trusted", "alarm"),
        Status.CRASHED: StatusWord("crashed", "the training code stopped with an error", "warn"),
        Status.TIMEOUT: StatusWord("too slow", "no complete model when the time was up", "warn"),
        Status.OOM: StatusWord("out of memory", "it needed more memory than the machine gives", "warn"),
        Status.QUOTA: StatusWord("wrote too much", "it went over its disk allowance", "warn"),
        Status.PRUNED: StatusWord("stopped early", "hopeless at an early look, so its time was saved", "quiet"),
        Status.DISTURBED: StatusWord("machine disturbed", "the machine was busy or asleep; not comparable", "warn"),
        Status.INTERRUPTED: StatusWord("interrupted", "stopped from outside before it was finished", "warn"),
        Status.SKIPPED: StatusWord("not run", "the proposal could not be used", "quiet"),
    }
)
WAITING = StatusWord("waiting", "proposed, not judged yet", "quiet")
PROVEN = StatusWord("proven", "part of the code that a proof on unseen text confirmed", "good")
TAKEN_BACK = StatusWord("taken back", "kept at first; what was tried after it, or a proof, did not confirm it", "quiet")
LUCKY_PLACEBO = StatusWord("kept by luck", "the unchanged code under another name: so much does luck alone", "quiet")

DECISION_WORDS: Mapping[Decision, str] = MappingProxyType(
    {
        Decision.CERTIFY: "proven",
        Decision.REJECT: "no real gain",
        Decision.MORE_PAIRS: "undecided, more pairs of runs needed",
        Decision.UNCLEAR: "not yet proven",
    }
)

ROLE_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "calibrate": "measuring the noise of this machine",
        "search": "trying an edit",
        "window": "measuring the current code again with a new seed",
        "claim": "proof runs: current code against proven code",
        "prune": "the prune pass: which of the kept edits help",
        "final": "final test runs",
        "train": "a training run by hand",
    }
)

EXPLORED_STAMP = "explored, not certified: part or all of it ran without a sandbox"

_INTERNAL_WORDS = (
    (re.compile(r"\bheads?\b", re.IGNORECASE), "current code"),
    (re.compile(r"\brungs?\b", re.IGNORECASE), "proven code"),
    (re.compile(r"\bprovisional(ly)?\b", re.IGNORECASE), "kept for now"),
    (re.compile(r"\bunclear\b", re.IGNORECASE), "not yet proven"),
)
_MEASUREMENT = re.compile(r"\d[.,]\d|\d[eE][+-]?\d|[.]\d")


def status_word(status: Status | None) -> StatusWord:
    """The words for a status; None is an experiment that nobody judged yet."""
    return WAITING if status is None else STATUS_WORDS[status]


def counted(counts: Mapping[str, int]) -> list[str]:
    """Counts by standing in words: 3 kept, 2 taken back, 9 no gain."""
    # "kept" counts what a proof may since have confirmed
    short_words = {Status.KEPT.value: "kept", TAKEN_BACK.short: TAKEN_BACK.short, WAITING.short: WAITING.short}
    return [f"{count} {short_words.get(name) or STATUS_WORDS[Status(name)].short}" for name, count in counts.items()]


def public_reasons(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """A gate's reasons in people's words. A reason with a measured number is left out: it may be a hidden score."""
    shown = []
    for reason in reasons:
        if _MEASUREMENT.search(reason):
            continue
        for pattern, word in _INTERNAL_WORDS:
            reason = pattern.sub(word, reason)
        shown.append(visible(reason, 300, single_line=True))
    return tuple(shown)


def visible(text: str, limit: int | None = None, *, single_line: bool = False) -> str:
    """Text from outside made harmless to look at: control, direction-changing and broken characters become visible.

    Escape sequences could drive a terminal, and direction marks could make a diff read differently from what it does.
    At most `limit` characters are returned, the last one an ellipsis when something was cut.
    """
    text = " ".join(text.split()) if single_line else text.replace("\r\n", "\n")
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    # the two joiners belong to ordinary words in Persian and the Indic scripts, and to emoji
    if character in "\n\t\u200c\u200d" or character.isprintable():
        return character
    # Cc control, Cf format (direction marks), Cs lone surrogates, Cn/Co unassigned; Z* are harmless odd spaces
    return " " if unicodedata.category(character).startswith("Z") else f"<U+{ord(character):04X}>"


def number(value: Any) -> float | None:
    """A finite float, or None for anything that is not one (a missing fact, a NaN, a boolean)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def figure(value: float | None) -> str:
    """A score with four decimals."""
    return "-" if value is None else f"{value:.4f}"


def signed(value: float | None) -> str:
    """A difference of scores with its sign; never "-0.0000"."""
    if value is None:
        return "-"
    text = f"{value:+.4f}"
    return "0.0000" if text in ("+0.0000", "-0.0000") else text


def seconds(value: float | None) -> str:
    """A duration as people say it: 9.5 s, 4 min 20 s, 2 h 5 min."""
    if value is None:
        return "-"
    if value < 60:
        return f"{value:.1f}".removesuffix(".0") + " s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
    minutes = round(whole / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")


def plural(count: int, noun: str) -> str:
    """Count and noun: 1 edit, 3 edits."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short(digest: str) -> str:
    """The first ten characters of a digest: enough to recognise, short enough to read."""
    return visible(digest[:10], single_line=True)
