"""Reads what a language model answered: the call of our tool, or SEARCH/REPLACE blocks in plain text.

Called by messages.py. Everything here was written by a model or by whoever answers in its place: types are checked,
texts are cut and freed of control characters. What cannot be used is a TrainingError that tells the model why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import TrainingError
from ..replacing import Edit, fenced_edits
from .prompt import HYPOTHESIS_LINE, TOOL_NAME

LONGEST_SENTENCE = 300
LONGEST_RATIONALE = 2000

Block = Mapping[str, Any]
"""One content block of a message, as it came: text, tool_use, thinking, or a kind that we do not know."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a model wants to try."""

    hypothesis: str
    rationale: str
    expected_effect: str
    edits: tuple[Edit, ...]


def read_change(content: Sequence[Block], with_fences: bool) -> Change:
    """The change that an answer asks for. Raises TrainingError when there is none that can be understood."""
    calls = tool_calls(content)
    if calls:
        return _from_tool(calls[0])
    text = "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")
    if with_fences and (edits := fenced_edits(text)):
        return Change(_hypothesis(text), "", "", edits)
    more = " or give SEARCH/REPLACE blocks" if with_fences else ""
    raise TrainingError("The answer holds no edit.", f"Call the tool {TOOL_NAME}{more}.")


def tool_calls(content: Sequence[Block]) -> list[Block]:
    """The blocks that call a tool."""
    return [block for block in content if block.get("type") == "tool_use"]


def _from_tool(call: Block) -> Change:
    given = call.get("input")
    if call.get("name") != TOOL_NAME:
        raise TrainingError(f"There is no tool {one_line(str(call.get('name')), 40)!r}.", f"Call {TOOL_NAME}.")
    if not isinstance(given, Mapping) or not isinstance(given.get("edits"), list):
        raise TrainingError("The call has no list of edits.", "edits is a list of objects with old and new.")
    edits = []
    for number, item in enumerate(given["edits"], 1):
        if not isinstance(item, Mapping) or not all(isinstance(item.get(key), str) for key in ("old", "new")):
            raise TrainingError(f"Edit {number} is not an object with the texts old and new.", "Give both as texts.")
        edits.append(Edit(item["old"], item["new"]))
    hypothesis = one_line(str(given.get("hypothesis", "")), LONGEST_SENTENCE)
    if not hypothesis:
        raise TrainingError("The call has no hypothesis.", "Say the change in one sentence.")
    return Change(
        hypothesis,
        one_line(str(given.get("rationale", "")), LONGEST_RATIONALE),
        one_line(str(given.get("expected_effect", "")), LONGEST_SENTENCE),
        tuple(edits),
    )


def _hypothesis(text: str) -> str:
    match = HYPOTHESIS_LINE.search(text)
    first = match[1] if match else next((line for line in text.splitlines() if line.strip()), "")
    if first.lstrip().startswith("<<<<<"):
        first = ""
    return one_line(first, LONGEST_SENTENCE) or "an edit without a hypothesis"


def one_line(text: str, longest: int) -> str:
    """`text` on one line, without what could drive a terminal, at most `longest` characters."""
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."
