"""The proposers `cli:NAME`: a coding agent, started as a program, edits train.py in a folder of its own.

The campaign calls them through `make_proposer`. Only what train.py has become counts: exit code, other files and what
the program says change nothing but the record. No edit, or one that cannot be used, is a skipped experiment with the
exact reason, after one more try where the reason may help. What is handed over stands in the ledger before the program
starts, what came back in the transcript.

The program runs with the rights of the person who starts it, outside the sandbox: it needs its network and its login.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...contracts import Proposal, ResearchContext
from ...egress import Ledger
from ...errors import ProposerError, TrainingError, UsageError
from ...train.files import last_line
from ..edits import check_train_py, code_lines, revision_digest, unified_diff
from .answers import LONGEST_RATIONALE, LONGEST_SENTENCE, one_line
from .calls import Setting
from .errand import Ended, run_errand, scratch_folder, scratch_place, without
from .programs import find_program
from .prompt import (
    HISTORY_FILE,
    HYPOTHESIS_FILE,
    HYPOTHESIS_LINE,
    LONGEST_PROGRAM,
    PROGRAM_FILE,
    errand_text,
    task_text,
)
from .spending import Tokens, Transcript

PURPOSE = "asks for an edit of train.py"
REPAIRS = 1
MOST_FAILURES = 3
"""Calls in a row that failed without an edit, before the program is taken to be unusable."""
TRAIN_FILE = "train.py"


class CommandProposer:
    """Asks a program for edits. Nothing is started before the first `propose`."""

    def __init__(self, setting: Setting) -> None:
        """Raises UsageError and ProposerError for a [proposer] table or a machine that cannot work."""
        self.name = setting.table.name
        if setting.night_usd is not None:
            raise UsageError(
                f"what the model behind {self.name} costs is not known, so --budget-usd could not hold",
                "leave it out; --hours and --experiments hold for every proposer",
            )
        self._setting = setting
        self._workspace = setting.folder.parent
        self._program = find_program(setting.table, self._workspace)
        scratch_place(self._workspace)
        self._ledger, self._transcript = Ledger(setting.folder), Transcript(setting.folder)
        # Under a name of their own: the campaign's sum of tokens is one of calls that tell them.
        self._calls_of = f"{setting.campaign} {self.name}"
        self._failures = 0
        self.why_nothing = ""
        """Why the last `propose` gave nothing, in words for the end of the night."""

    @property
    def opening_line(self) -> str:
        """Who is asked and within which limit, for the person who starts the night."""
        seconds = self._setting.table.agent_seconds
        return (
            f"{self.name} starts {self._program.path} for each proposal, for at most {seconds:.0f} s, in a folder of "
            f"its own; it runs with your rights, and what it costs is between you and its maker; {self._count_words}"
        )

    @property
    def closing_line(self) -> str:
        """How often it was asked in this campaign."""
        return f"{self.name}: {self._count_words}"

    def propose(self, context: ResearchContext) -> Proposal | None:
        """The next proposal; one with `unusable` set where there is no edit that can be used; None at the night's end.

        Raises ProposerError when the program cannot be used.
        """
        if len(context.program) > LONGEST_PROGRAM:
            raise ProposerError(
                f"program.md has {len(context.program):,} characters, and {LONGEST_PROGRAM:,} may be handed over",
                "shorten it: what matters most fits on a page",
            )
        turn = self._call_count
        begun, problem = context.train_py, ""
        for _ in range(1 + REPAIRS):
            ended = self._call(context, turn, begun, problem)
            if ended is None:
                return None
            text = ended.left.get(TRAIN_FILE, "")
            try:
                _refuse(ended, text, context, self._program.secrets)
            except TrainingError as error:
                problem = f"{error.message} {error.hint}".strip()
                self._count_failure(ended, text, context)
                is_secret = _holds_key(text, context, self._program.secrets)
                if ended.why or is_secret or not text or text == context.train_py:
                    break  # there is nothing to mend, or nothing that may be handed over again
                begun = text
                continue
            self._failures = 0
            hypothesis = without(self._program.secrets, _hypothesis(ended, context.train_py, text))
            return Proposal(hypothesis, self._note(ended), text)
        return Proposal("no usable edit", "", context.train_py, unusable=one_line(problem, 300))

    # --- one call -------------------------------------------------------------------------

    def _call(self, context: ResearchContext, turn: int, begun: str, problem: str) -> Ended | None:
        """Hand the task over and wait; None when the night ends before the program does."""
        seconds, is_cut = self._setting.table.agent_seconds, False
        if self._setting.stop_at is not None:
            left = self._setting.stop_at - time.monotonic()
            seconds, is_cut = min(seconds, max(1.0, left)), left < seconds
        prompt = errand_text()
        if problem:
            shown = one_line(problem, LONGEST_RATIONALE)  # it may quote the edit, and arguments have a longest length
            prompt += f"\ntrain.py holds the edit that you made before. It cannot be used: {shown} Mend it.\n"
        files = {
            TRAIN_FILE: begun,
            PROGRAM_FILE: f"{context.program.strip()}\n",
            HISTORY_FILE: task_text(context, turn),
        }
        number = self._record(prompt, files)
        with scratch_folder(self._workspace) as folder:
            try:
                ended = run_errand(
                    self._program.line(prompt),
                    self._program.environment,
                    folder,
                    files,
                    (TRAIN_FILE, HYPOTHESIS_FILE),
                    prompt if self._program.reads_input else "",
                    seconds,
                    self._program.secrets,
                )
            except ProposerError as error:
                self._transcript.end(number, Tokens(), {"error": error.message, "content": []})
                raise
        facts = {
            "stop_reason": "ended" if ended.code is not None else "stopped",
            "exit_code": ended.code,
            "error": ended.why or ended.unreadable.get(TRAIN_FILE, ""),
            "content": [{"type": "text", "text": ended.said}],
            "diff": without(self._program.secrets, unified_diff(context.train_py, ended.left.get(TRAIN_FILE, begun))),
            "seconds": round(ended.seconds, 1),
        }
        self._transcript.end(number, Tokens(), facts)
        if is_cut and ended.why:
            self.why_nothing = f"the time was up while {self.name} worked"
            self._setting.tell(f"{self.name} was stopped: the time is up")
            return None
        return ended

    def _record(self, prompt: str, files: Mapping[str, str]) -> int:
        """Write down what is handed over; the number of the call."""
        body = json.dumps({"prompt": prompt, "files": files}, ensure_ascii=False).encode("utf-8", "replace")
        host = f"the program {Path(self._program.path).name}"
        self._ledger.record(host, PURPOSE, body)
        digest = hashlib.sha256(body).hexdigest()
        return self._transcript.begin(self._calls_of, self.name, host, digest, Tokens())

    def _count_failure(self, ended: Ended, text: str, context: ResearchContext) -> None:
        """Raises ProposerError when the program fails again and again and brings no edit."""
        if not ended.why and (not ended.code or text != context.train_py):
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            how = ended.why or f"it ended with exit code {ended.code}"
            raise ProposerError(
                f"{self.name} failed {self._failures} times in a row. The last time {how}, "
                f"and its last words were: {one_line(last_line(ended.said), 200) or 'none'}",
                f"run {self._program.path} once by hand: it may want a login; "
                f"`slm-ar doctor --proposer {self.name}` shows how it is called",
            )

    def _note(self, ended: Ended) -> str:
        words = f"edited by {self.name} in {ended.seconds:.0f} s"
        return f"{words}; it ended with exit code {ended.code}" if ended.code else words

    @property
    def _call_count(self) -> int:
        return sum(call.campaign == self._calls_of for call in self._transcript.calls())

    @property
    def _count_words(self) -> str:
        count = self._call_count
        return f"{count} call{'s' * (count != 1)} in this campaign so far"


def _refuse(ended: Ended, text: str, context: ResearchContext, secrets: Sequence[str]) -> None:
    """Raises TrainingError, in words for program and person, when what was left is no edit that can be used."""
    if ended.why:
        raise TrainingError(f"It was stopped: {ended.why}.")
    if TRAIN_FILE in ended.unreadable:
        raise TrainingError(
            f"The edited train.py cannot be read: {ended.unreadable[TRAIN_FILE]}.", "Leave a text file."
        )
    if text == context.train_py:
        code = f" (exit code {ended.code})" if ended.code else ""
        raise TrainingError(f"It left train.py as it was{code}.")
    if _holds_key(text, context, secrets):
        raise TrainingError("train.py holds a key of this machine's environment.", "Take it out.")
    check_train_py(text)
    digest = revision_digest(text)
    for past in context.history:
        if digest in (past.revision, past.parent):
            raise TrainingError(
                f"This very train.py was there before, in or before experiment {past.id}.", "Try something else."
            )


def _holds_key(text: str, context: ResearchContext, secrets: Sequence[str]) -> bool:
    """Whether an edit brings a key in. A value that the code held before, such as bfloat16, is no key."""
    return any(secret in text and secret not in context.train_py for secret in secrets)


def _hypothesis(ended: Ended, old: str, new: str) -> str:
    """What the program said that it tried; the last time that it said so, else its file, else what changed."""
    said = HYPOTHESIS_LINE.findall(ended.said)
    written = ended.left.get(HYPOTHESIS_FILE, "")
    found = said[-1] if said else next((line for line in written.splitlines() if line.strip()), "")
    found = re.sub(r"^HYPOTHESIS:", "", found.strip(), flags=re.IGNORECASE)
    if words := one_line(found.strip().strip("*_`"), LONGEST_SENTENCE):
        return words
    changed = [line for line in unified_diff(old, new).splitlines()[2:] if line[:1] in ("+", "-") and line[1:].strip()]
    shown = next((line[1:].strip() for line in changed if line.startswith("+")), "")
    grown = code_lines(new) - code_lines(old)
    summary = f"{len(changed)} changed lines ({grown:+d} of code)"
    return one_line(f"{summary}, such as: {shown}" if shown else summary, LONGEST_SENTENCE)
