"""The six tools that a coding agent is given, without the protocol: what they take, and what they answer.

Called by server.py. Promises: arguments are checked for names, types and sizes before anything is done with them; what
cannot be used is a ToolError whose words tell the agent why; what is answered is told by telling.py and recorded before
it is given out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..agent.edits import check_train_py, revision_digest
from ..agent.proposers.answers import LONGEST_RATIONALE, LONGEST_SENTENCE, one_line
from ..agent.replacing import MOST_BYTES, MOST_EDITS, Edit, apply_edits
from ..agent.state import CampaignState
from ..egress import Ledger
from ..errors import DISK_FULL, BudgetError, SlmArError, TrainingError, UsageError
from . import telling
from .desk import Desk, Errand, Pending
from .telling import View, one_json

CLIENT = "the coding agent on this machine"
PURPOSE = "told to it over MCP; it may pass it on"
LONGEST_REVISION = 64

_REVISION = {"type": "string", "maxLength": LONGEST_REVISION}
_NOTHING = {"type": "object", "additionalProperties": False, "properties": {}}
DESCRIPTIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "describe_task": (
        "The rules, the person's program.md, and what is known: metric, budget of one run, machine, noise, what "
        "compressors reach, sizes of the data. Call it first.",
        _NOTHING,
    ),
    "read_train_file": (
        "The current train.py and its revision, or that of another revision which `results` names.",
        {"type": "object", "additionalProperties": False, "properties": {"revision": _REVISION}},
    ),
    "propose_edits": (
        "Propose one change of the current train.py as search/replace edits, which apply one after the other. Each old "
        "text is copied from train.py exactly, with its indentation, and stands there exactly once. Checked at once: "
        "the answer says what cannot be used. A new proposal takes the place of one that was not run. Then call "
        "run_experiment.",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["revision", "hypothesis", "edits"],
            "properties": {
                "revision": {**_REVISION, "description": "The current revision, which the edits were made on."},
                "hypothesis": {
                    "type": "string",
                    "maxLength": LONGEST_SENTENCE,
                    "description": "The change in one sentence of at most 20 words.",
                },
                "rationale": {
                    "type": "string",
                    "maxLength": LONGEST_RATIONALE,
                    "description": "Why it should lower the score.",
                },
                "edits": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MOST_EDITS,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["old", "new"],
                        "properties": {"old": {"type": "string"}, "new": {"type": "string"}},
                    },
                },
            },
        },
    ),
    "run_experiment": (
        "Train, score and judge the pending proposal, with what the campaign needs before and after it: measuring the "
        "noise at the very first, a proof from time to time. Takes one training budget or several. If you stop "
        "waiting, or your client does, it goes on: call it again, also without a new proposal, and it answers when it "
        "is done.",
        _NOTHING,
    ),
    "results": (
        "Where the campaign stands and what was tried, oldest first: status, rounded dev score, hypothesis, reason.",
        _NOTHING,
    ),
    "report": ("The campaign in plain words, as it may be shown to others: verdict, noise, scores on dev.", _NOTHING),
}
READ_ONLY = frozenset(DESCRIPTIONS) - {"propose_edits", "run_experiment"}


Found = TypeVar("Found")


class ToolError(Exception):
    """A call that cannot be done; the text is for the agent."""


class Tools:
    """The tools of one connection. `look` reads the workspace anew; `complain` tells a person what an agent is not."""

    def __init__(
        self, desk: Desk, look: Callable[[], View], ledger: Ledger, complain: Callable[[SlmArError], None]
    ) -> None:
        self._desk, self._look, self._ledger, self._complain = desk, look, ledger, complain

    def answer(self, name: str, arguments: Mapping[str, Any] | None) -> list[str]:
        """The texts that a tool answers; not for run_experiment, which waits. Raises ToolError."""
        return self._answered(lambda: self._answer(name, checked(name, arguments)))

    def start(self, arguments: Mapping[str, Any] | None) -> Errand:
        """Begin what run_experiment is to do, or find what is going on or was not told yet. Raises ToolError."""
        return self._answered(lambda: self._start(checked("run_experiment", arguments)))

    def outcome(self, errand: Errand) -> list[str]:
        """What came of an errand that is done. Raises ToolError."""
        return self._answered(lambda: self._outcome(errand))

    def _answered(self, work: Callable[[], Found]) -> Found:
        """Do the work and write down what it answers; refusals too, which quote code and may come with scores."""
        try:
            found = self._guarded(work)
        except ToolError as refusal:
            words = str(refusal)
            self._guarded(lambda: self._record(words))
            raise
        if isinstance(found, list):
            texts = "\n".join(found)
            self._guarded(lambda: self._record(texts))
        return found

    def _record(self, text: str) -> None:
        self._ledger.record(CLIENT, PURPOSE, text.encode("utf-8", "replace"))

    def _guarded(self, work: Callable[[], Found]) -> Found:
        """Do the work; of what goes wrong in it the person learns all, and the agent the kind."""
        try:
            return work()
        except ToolError:
            raise
        except Exception as error:  # whatever it is: what goes past here, the SDK tells the client word for word
            known = known_error(error)
            self._complain(known)
            raise ToolError(telling.failure(known)) from None

    def _answer(self, name: str, given: Mapping[str, Any]) -> list[str]:
        view = self._look()
        match name:
            case "describe_task":
                return telling.description(view)
            case "read_train_file":
                return _train_file(view, given.get("revision"))
            case "propose_edits":
                return [self._propose(view, given)]
            case "results":
                return telling.history(view)
            case _:
                if view.state is None:
                    return ["Nothing was measured yet: the first run_experiment begins the campaign."]
                return [telling.report(view.state)]

    # --- propose ----------------------------------------------------------------------------

    def _propose(self, view: View, given: Mapping[str, Any]) -> str:
        hypothesis = _sentence("hypothesis", given["hypothesis"])
        if not hypothesis:
            raise ToolError("The hypothesis is empty: say the change in one sentence.")
        rationale = _sentence("rationale", given.get("rationale", ""))
        if self._desk.is_working:
            raise ToolError("An experiment is running: call run_experiment, which waits for its end, then propose.")
        if view.unfinished:
            raise ToolError(f"First things first: {view.unfinished}. Call run_experiment, which goes on with it.")
        if given["revision"] != view.revision:
            raise ToolError(
                f"The current code is revision {view.revision}. Read it with read_train_file, make the edits on it, "
                "and name it as the revision."
            )
        edits = [Edit(item["old"], item["new"]) for item in given["edits"]]
        try:
            text = apply_edits(view.revisions[view.revision], edits)
            check_train_py(text)
        except TrainingError as error:
            raise ToolError(str(error)) from None
        digest = revision_digest(text)
        if digest in view.revisions:
            raise ToolError(f"This very train.py {_known_as(view.state, digest)}. Propose something else.")
        replaced = self._desk.pending
        if not self._desk.put(Pending(view.revision, digest, text, hypothesis, rationale)):
            raise ToolError("An experiment is running: call run_experiment, which waits for its end, then propose.")
        facts = {"pending_revision": digest, "hypothesis": hypothesis, "next": "call run_experiment"}
        return one_json(facts | ({"took_the_place_of": replaced.hypothesis} if replaced is not None else {}))

    # --- run --------------------------------------------------------------------------------

    def _start(self, _: Mapping[str, Any]) -> Errand:
        errand = self._desk.errand
        if errand is not None:
            return errand
        view = self._look()
        is_measured = view.state is not None and view.state.sigma is not None
        if self._desk.pending is None and is_measured and not view.unfinished:
            raise ToolError("There is nothing to run: call propose_edits first.")
        identity = view.state.identity if view.state is not None else ""
        return self._desk.send(identity, view.judged, view.closed_claims)

    def _outcome(self, errand: Errand) -> list[str]:
        errand.is_told = True
        view = self._look()
        state = view.state
        lines: list[dict[str, Any]] = []
        if state is not None:
            is_same = state.identity == errand.campaign  # a changed recipe begins another campaign
            judged = [item for item in state.experiments if item.status is not None]
            judged = judged[errand.judged_before if is_same else 0 :]
            lines += [telling.outcome(item, state) for item in judged if telling.is_told(item)]
            lines += telling.taken_back_since(state, errand.judged_before if is_same else 0)
            lines += telling.claims_since(state, errand.claims_before if is_same else 0)
            if not lines and state.sigma is not None:
                lines.append({"noise": telling.short_number(state.sigma), "measured_on": "the starting code"})
            standing = {"current_revision": state.head, "proven_revision": state.rung}
            lines.append({**standing, **telling.standing_walls(state)})
        texts = [one_json(line) for line in lines]
        texts += [errand.refused] if errand.refused else []
        if self._desk.pending is not None:
            texts.append("Your proposal is still pending: call run_experiment again.")
        if errand.failure is not None:
            raise ToolError("\n".join([telling.failure(errand.failure), *texts]))
        return ["\n".join(texts)]


def known_error(error: Exception) -> SlmArError:
    """What went wrong as one of our own errors, for a person."""
    if isinstance(error, SlmArError):
        return error
    if isinstance(error, OSError):
        if error.errno in DISK_FULL:
            return BudgetError(str(error), "free some space; nothing that was recorded is lost")
        return UsageError(str(error), "check that it may be read and written")
    return SlmArError(f"unexpected {type(error).__name__}: {error}", "this is a bug; what was recorded is saved")


def _train_file(view: View, revision: str | None) -> list[str]:
    wanted = revision or view.revision
    text = view.revisions.get(wanted)
    if text is None:
        raise ToolError(f"There is no revision {one_line(wanted, 40)!r}: `results` names those that there are.")
    is_current = wanted == view.revision
    return [one_json({"revision": wanted, "is_current": is_current}), text]


def _known_as(state: CampaignState | None, digest: str) -> str:
    if state is not None and digest != state.head:
        for item in state.experiments:
            if item.revision == digest:
                return f"was tried before, as experiment {item.id}"
        return "is the code where the campaign began"
    return "is the current code"


# --- arguments ------------------------------------------------------------------------------


def checked(name: str, arguments: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The arguments of a call, once their names, types and sizes are what the tool takes. Raises ToolError."""
    if name not in DESCRIPTIONS:
        raise ToolError(f"There is no tool {one_line(name, 40)!r}. There are: {', '.join(DESCRIPTIONS)}.")
    schema = DESCRIPTIONS[name][1]
    given = arguments or {}
    known: Mapping[str, Any] = schema["properties"]
    for key in given:
        if key not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ToolError(f"{name} has no argument {one_line(str(key), 40)!r}: {takes}.")
    for key in schema.get("required", ()):
        if key not in given:
            raise ToolError(f"{name} needs the argument {key}.")
    for key, value in given.items():
        if known[key]["type"] == "array":
            _check_edits(value)
        elif not isinstance(value, str):
            raise ToolError(f"{key} is a text.")
        elif len(value) > known[key]["maxLength"]:
            raise ToolError(f"{key} has {len(value)} characters, and {known[key]['maxLength']} are allowed.")
    return given


def _check_edits(value: object) -> None:
    if not isinstance(value, list):
        raise ToolError("edits is a list of objects with the texts old and new.")
    if not 1 <= len(value) <= MOST_EDITS:
        raise ToolError(f"There are {len(value)} edits, and 1 to {MOST_EDITS} are allowed. One idea per proposal.")
    size = 0
    for number, item in enumerate(value, 1):
        is_edit = isinstance(item, Mapping) and item.keys() == {"old", "new"}
        if not is_edit or not all(isinstance(text, str) for text in item.values()):
            raise ToolError(f"Edit {number} is not an object with the texts old and new, and nothing else.")
        size += len(item["old"]) + len(item["new"])
    if size > MOST_BYTES:
        raise ToolError(f"The edits hold {size} characters, and {MOST_BYTES} are allowed. Quote only what changes.")


def _sentence(name: str, text: str) -> str:
    plain = " ".join(text.split())
    if not plain.isprintable():
        raise ToolError(f"The {name} holds control characters: write plain text on one line.")
    return plain
