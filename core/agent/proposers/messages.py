"""The proposers `claude` and `local`: a language model is shown train.py and its history and answers with edits.

The campaign calls them through `make_proposer`. Each proposal is a conversation of its own, so that a campaign resumes
at any point: the question, and at most two repairs with the exact reason. What is still unusable then, or was
declined, is a skipped experiment, not an error. At a cap the proposer has nothing more to propose; a server that
cannot be used is a ProposerError, and the same command goes on when it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...contracts import Proposal, ResearchContext
from ...errors import BudgetError, ProposerError, TrainingError, UsageError
from ..edits import check_train_py, revision_digest
from ..replacing import apply_edits
from .answers import Change, one_line, read_change, tool_calls
from .calls import Answer, Caller, Setting, TimeIsUpError
from .endpoint import CallError, Failure, find_endpoint
from .prompt import LONGEST_PROGRAM, TOOL, code_text, system_text, task_text
from .spending import price_list

REPAIRS = 2
LONGEST_QUOTE = 100_000
"""Characters of an answer that a repair quotes back: a longer one would eat up the cap, and is told about instead."""
_CACHED: Mapping[str, Any] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
"""Experiments lie minutes apart, so the default time to live of five would miss each time and still cost the write."""

Message = dict[str, Any]


class MessagesProposer:
    """Asks a language model for edits. Nothing is sent before the first `propose`."""

    def __init__(self, setting: Setting) -> None:
        """Raises UsageError and ProposerError for a [proposer] table or an environment that cannot work."""
        self.name = setting.table.name
        self.endpoint = find_endpoint(setting.table)
        self._setting = setting
        self._caller = Caller(self.endpoint, setting)
        self._with_tool = True
        self.why_nothing = ""
        """Why the last `propose` gave nothing, in words for the end of the night."""
        if setting.night_usd is not None and self.endpoint.model not in price_list().models:
            raise UsageError(
                f"what {self.endpoint.model} costs is not known, so --budget-usd could not hold",
                "leave it out; campaign_tokens in [proposer] of recipe.toml caps the tokens",
            )

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next proposal; one with `unusable` set where the model gave none; None at a cap or the night's end.

        Raises ProposerError when the server cannot be used.
        """
        try:
            return self._converse(context)
        except CallError as failure:
            if failure.kind is Failure.GARBLED and failure.has_begun:  # half a call of the tool, for example
                return _skipped(context, failure.error.message)
            raise failure.error from None
        except TimeIsUpError as error:
            self.why_nothing = str(error)
            return None
        except BudgetError as error:
            self._setting.tell(f"{self.name}: {error.message}; {error.hint}")
            self.why_nothing = error.message
            return None

    @property
    def opening_line(self) -> str:
        """Who is asked, what it may cost and what it has cost so far, for the person who starts the night."""
        table, model = self._setting.table, self.endpoint.model
        spent = self._caller.transcript.spent(self._setting.campaign)
        prices = price_list()
        cap = f"at most {table.campaign_tokens:,} tokens"
        if model in prices.models:
            tonight = self._setting.night_usd
            cap += f", ${tonight:.2f} tonight" if tonight is not None else ""
            cap += f" and ${table.campaign_usd:.2f} (prices of {prices.as_of})"
        else:
            cap += f"; what {model} costs is not known, so only that cap holds"
        return f"{self.name} asks {model} at {self.endpoint.host}: {cap}; so far {spent.words}"

    @property
    def closing_line(self) -> str:
        """What this campaign has spent, for the person who comes back to it."""
        spent = self._caller.transcript.spent(self._setting.campaign)
        return f"{self.name} has taken {spent.words} in this campaign"

    # --- the conversation -----------------------------------------------------------------

    def _converse(self, context: ResearchContext) -> Proposal:
        if len(context.program) > LONGEST_PROGRAM:
            raise ProposerError(
                f"program.md has {len(context.program):,} characters, and {LONGEST_PROGRAM:,} may be sent",
                "shorten it: what matters most fits on a page",
            )
        turn = sum(call.campaign == self._setting.campaign for call in self._caller.transcript.calls())
        question = self._question(context, turn)
        messages = [question]
        problem = ""
        for _ in range(1 + REPAIRS):
            answer = self._asked(context, messages)
            if answer.stop_reason == "refusal":
                return _skipped(context, "the model declined to answer")
            if answer.stop_reason == "model_context_window_exceeded":
                raise ProposerError(
                    f"the request does not fit into the context of {self.endpoint.model}",
                    "choose a model with a longer one, lower output_tokens in [proposer], or shorten program.md",
                )
            try:
                return self._proposal(context, answer)
            except TrainingError as error:
                problem = f"{error.message} {error.hint}".strip()
            messages = self._repair(question, messages, answer, problem)
        return _skipped(context, problem)

    def _asked(self, context: ResearchContext, messages: list[Message]) -> Answer:
        try:
            return self._caller.ask(self._request(context, messages))
        except CallError as failure:
            is_about_tools = failure.status in (400, 422, 500, 501) and "tool" in failure.error.message.lower()
            if self.endpoint.is_claude or not self._with_tool or not is_about_tools:
                raise
            self._setting.tell(f"{self.endpoint.model} cannot call tools: it is asked for SEARCH/REPLACE blocks")
            self._with_tool = False
            return self._caller.ask(self._request(context, messages))

    def _proposal(self, context: ResearchContext, answer: Answer) -> Proposal:
        """The proposal of an answer. Raises TrainingError, in words for the model, when there is none."""
        match answer.stop_reason:
            case "max_tokens":
                raise TrainingError("The answer was cut off at its longest length.", "Make a smaller edit, think less.")
            case "pause_turn":
                raise TrainingError("The turn was paused before an edit came.", "Go on, and finish it.")
            case "tool_use" | "end_turn" | "stop_sequence" | _:
                change = read_change(answer.content, not self.endpoint.is_claude)
        text = apply_edits(context.train_py, change.edits)
        check_train_py(text)
        _refuse_repetition(text, context)
        return _proposal(change, text)

    # --- what is sent -----------------------------------------------------------------------

    def _request(self, context: ResearchContext, messages: list[Message]) -> dict[str, Any]:
        """A request of the Messages API; only Anthropic's own gets what other servers do not know."""
        table, is_claude = self._setting.table, self.endpoint.is_claude
        system = {"type": "text", "text": system_text(context, with_fences=not is_claude)}
        request: dict[str, Any] = {
            "model": self.endpoint.model,
            "max_tokens": table.output_tokens,
            "system": [{**system, **_CACHED} if is_claude else system],
            "messages": messages,
        }
        if is_claude:
            request["tools"] = [{**TOOL, "strict": True}]
            request["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": True}
            if table.effort != "none":
                request["output_config"] = {"effort": table.effort}
        else:
            request["extra_body"] = {"temperature": table.temperature}
            if self._with_tool:
                request["tools"] = [TOOL]
        return request

    def _question(self, context: ResearchContext, turn: int) -> Message:
        code = {"type": "text", "text": code_text(context)}
        task = {"type": "text", "text": task_text(context, turn)}
        return {"role": "user", "content": [{**code, **_CACHED} if self.endpoint.is_claude else code, task]}

    def _repair(self, question: Message, messages: list[Message], answer: Answer, problem: str) -> list[Message]:
        """The conversation so far and what was wrong; begun anew where an answer cannot be quoted back."""
        content = [dict(block) for block in answer.content]
        if not self.endpoint.is_claude:
            content = [block for block in content if block.get("type") in ("text", "tool_use")]
        calls = tool_calls(content)
        is_cut = answer.stop_reason in ("max_tokens", "pause_turn")
        is_odd = any(not isinstance(call.get("input"), Mapping) or not call.get("id") for call in calls)
        says_something = calls or any(str(block.get("text", "")).strip() for block in content)
        is_long = len(str(content)) > LONGEST_QUOTE
        if is_cut or is_odd or is_long or not says_something or (calls and not self._with_tool):
            note = {"type": "text", "text": f"Your answer before could not be used: {problem}"}
            return [{**question, "content": [*question["content"], note]}]
        reply: list[dict[str, Any]] = [
            {"type": "tool_result", "tool_use_id": call.get("id"), "is_error": True, "content": problem}
            for call in calls
        ]
        reply = reply or [{"type": "text", "text": f"This could not be used: {problem}"}]
        return [*messages, {"role": "assistant", "content": content}, {"role": "user", "content": reply}]


def _refuse_repetition(text: str, context: ResearchContext) -> None:
    digest = revision_digest(text)
    for past in context.history:
        if digest in (past.revision, past.parent):
            raise TrainingError(
                f"This very train.py was there before, in or before experiment {past.id}.", "Propose something else."
            )


def _proposal(change: Change, text: str) -> Proposal:
    return Proposal(change.hypothesis, change.rationale, text, expected_effect=change.expected_effect)


def _skipped(context: ResearchContext, problem: str) -> Proposal:
    """An experiment without an edit: the reason is told, and no second of training is spent."""
    words = one_line(problem, 300)
    return Proposal("no usable edit", "", context.train_py, unusable=words)
