"""Whether a proposer can be used, found out without spending: key, address, server, model, price, program, version.

Called by `slm-ar doctor --proposer`. Promises: nothing is asked of a model, so nothing is charged; what is asked of a
server (which models it has) enters the ledger first; a program is asked for its version alone; every problem comes with
the line that repairs it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...egress import Ledger
from ...errors import ProposerError, SlmArError, UsageError
from ...recipe import ProposerTable
from ...train.files import last_line
from . import ASKING, OFFLINE, OTHERS, unknown_proposer
from .answers import one_line
from .calls import Setting
from .endpoint import CallError, Endpoint, explained, find_endpoint, open_client
from .errand import run_errand, scratch_folder, without
from .hybrid import partners_table
from .programs import PREFIX, Program, find_program, installed_programs
from .recorded import ReplayProposer
from .spending import Transcript, price_list

if TYPE_CHECKING:
    import anthropic

PURPOSE = "asks which models there are"
MOST_NAMES = 12
VERSION_SECONDS = 30.0
"""How long a program may take to say its version."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `hint` repairs it when it is not fine."""

    name: str
    is_fine: bool
    words: str
    hint: str = ""


def check_proposer(table: ProposerTable, folder: Path) -> list[Finding]:
    """Findings in the order in which things must work; what depends on a broken one is left out.

    `folder` holds ledger and transcript. Raises UsageError for a name that no proposer has.
    """
    if table.name in OFFLINE:
        return [Finding("needs", True, f"{table.name} needs no key, no server and no network")]
    if table.name in OTHERS:
        return list(_of_another(table, folder))
    if table.name.startswith(PREFIX):
        return list(_of_program(table, folder))
    if table.name not in ASKING:
        raise unknown_proposer(table.name)
    try:
        endpoint = find_endpoint(table)
    except SlmArError as error:
        return [Finding("setting", False, error.message, error.hint)]
    return list(_findings(endpoint, table, folder))


def _findings(endpoint: Endpoint, table: ProposerTable, folder: Path) -> Iterator[Finding]:
    if endpoint.is_claude:
        yield Finding("key", True, "there is one, and it goes to Anthropic alone")
    else:
        yield Finding("key", True, "none of Anthropic's is sent" if endpoint.key == "local" else "SLM_AR_LOCAL_KEY")
    try:
        ledger = Ledger(folder)
        with open_client(endpoint, lambda body: ledger.record(endpoint.host, PURPOSE, body)) as client:
            yield from _asked(endpoint, client)
    except CallError as failure:
        yield Finding("server", False, failure.error.message, failure.error.hint)
        return
    yield _cost(endpoint, table)
    yield _transcript(folder)


def _transcript(folder: Path) -> Finding:
    try:
        count = sum(1 for _ in Transcript(folder).calls())
    except SlmArError as error:
        return Finding("transcript", False, error.message, error.hint)
    words = f"{count} call{'s' * (count != 1)} so far, recorded in {folder}" if count else "no call so far"
    return Finding("transcript", True, words)


def _asked(endpoint: Endpoint, client: anthropic.Anthropic) -> Iterator[Finding]:
    """What the server says of its models. Raises CallError."""
    if endpoint.is_claude:
        found = _get(endpoint, client, f"/v1/models/{endpoint.model}")
        state = str(found.get("lifecycle") or "active")
        size = found.get("max_input_tokens")
        more = f", reads {size:,} tokens" if isinstance(size, int) else ""
        yield Finding("server", True, f"{endpoint.host} accepts the key")
        words = one_line(f"{endpoint.model}: {state}{more}", 100)
        yield Finding("model", state != "retired", words, "" if state != "retired" else "choose another in [proposer]")
        return
    try:
        listed = _get(endpoint, client, "/v1/models").get("data")
    except CallError as failure:
        if failure.status not in (404, 405, 501):
            raise
        yield Finding("server", True, f"{endpoint.host} answers, and lists no models: {endpoint.model} is not checked")
        return
    entries = listed if isinstance(listed, list) else []
    names = [one_line(str(item["id"]), 60) for item in entries if isinstance(item, dict) and "id" in item]
    yield Finding("server", True, f"{endpoint.host} answers and has {len(names)} models")
    if endpoint.model in names:
        yield Finding("model", True, f"{endpoint.model} is among them")
    else:
        hint = f"set model in [proposer] to one of: {', '.join(names[:MOST_NAMES])}" if names else "load a model there"
        yield Finding("model", False, f"{endpoint.model} is not among them", hint)


def _get(endpoint: Endpoint, client: anthropic.Anthropic, path: str) -> dict[str, Any]:
    try:
        found = json.loads(endpoint.redacted(json.dumps(client.get(path, cast_to=object))))
    except Exception as error:  # as with a proposal: whatever came, a server sent it
        raise explained(error, endpoint) from None
    if not isinstance(found, dict):
        raise explained(TypeError("not an object"), endpoint)
    return found


def _cost(endpoint: Endpoint, table: ProposerTable) -> Finding:
    prices = price_list()
    price = prices.models.get(endpoint.model)
    cap = f"one campaign takes at most {table.campaign_tokens:,} tokens"
    if price is None:
        return Finding("cost", True, f"{cap}; what {endpoint.model} costs is not known, so there is no cap in dollars")
    words = f"${price.input:g} / ${price.output:g} per million tokens in / out, as of {prices.as_of}"
    return Finding("cost", True, f"{words}; {cap} and ${table.campaign_usd:.2f}")


def _of_another(table: ProposerTable, folder: Path) -> Iterator[Finding]:
    """Of those that let somebody else propose."""
    if table.name == "human":
        yield Finding("needs", True, "human needs nobody but you: each change of train.py becomes an experiment")
        return
    try:
        if table.name == "hybrid":
            partner = partners_table(table)
            yield Finding("turns", True, f"{partner.name} on {table.share:.0%} of them, search on the others")
            yield from check_proposer(partner, folder)
        else:
            setting = Setting(table, folder, "")
            yield Finding("recording", True, ReplayProposer(setting).opening_line)
    except SlmArError as error:
        yield Finding("setting", False, error.message, error.hint)


# --- programs -------------------------------------------------------------------------------


def installed_with_versions() -> list[str]:
    """The known agent programs of this machine, each with what it says of its version. Asks no model."""
    found = []
    for name in installed_programs():
        try:
            _, words = _version(find_program(ProposerTable(name=f"{PREFIX}{name}"), None), None)
        except SlmArError as error:
            words = error.message
        found.append(f"{name} ({words})")
    return found


def _of_program(table: ProposerTable, folder: Path) -> Iterator[Finding]:
    workspace = folder.parent if folder.name == ".slm" else None
    try:
        program = find_program(table, workspace)
    except SlmArError as error:
        yield Finding("program", False, error.message, error.hint)
        return
    yield Finding("program", True, program.path)
    try:
        is_fine, words = _version(program, workspace)
    except UsageError as error:
        yield Finding("folder", False, error.message, error.hint)
        return
    hint = "" if is_fine else f"run `{program.path} --version` by hand: it may be broken, or be another program"
    yield Finding("version", is_fine, words, hint)
    line = without(program.secrets, shlex.join(program.line("TASK")))
    yield Finding("called as", True, f"{line} < TASK" if program.reads_input else line)
    yield Finding("folder", True, "a fresh one can be made for each call")
    missing = [name for name in table.pass_environment if name not in program.environment]
    words = f"it gets {', '.join(program.environment)}"
    if missing:
        words = f"{', '.join(missing)} not set, though pass_environment names it"
        hint = f"export {missing[0]}=... in this shell, or take it out of pass_environment"
    yield Finding("variables", not missing, words, hint if missing else "")
    yield Finding("cost", True, f"at most {table.agent_seconds:.0f} s a call; login and costs are not known here")
    yield _transcript(folder)


def _version(program: Program, workspace: Path | None) -> tuple[bool, str]:
    """(whether it answered, what it said of its version). Raises UsageError when no scratch folder can be made."""
    try:
        with scratch_folder(workspace) as folder:
            line = [program.path, "--version"]
            ended = run_errand(line, program.environment, folder, {}, (), "", VERSION_SECONDS, program.secrets)
    except ProposerError as error:
        return False, error.message
    if ended.why:
        return False, f"its version is not known: {ended.why}"
    if ended.code:
        return (
            False,
            f"--version ended with exit code {ended.code}: {one_line(last_line(ended.said), 120) or 'no word'}",
        )
    return True, one_line(next((line for line in ended.said.splitlines() if line.strip()), ""), 60) or "no version told"


def table_for(name: str, known: ProposerTable | None) -> ProposerTable:
    """The recipe's table; for another proposer than the recipe's own its caps, with that one's model and address."""
    if known is None:
        return ProposerTable(name=name)
    if name in (known.name, known.partner):
        return known.model_copy(update={"name": name})
    return known.model_copy(update={"name": name, "model": None, "base_url": None, "command": None})
