"""Whether a proposer can be used, found out without spending: key, address, server, model, price.

Called by `slm-ar doctor --proposer`. Promises: nothing is asked of a model, so nothing is charged; what is asked of a
server (which models it has) enters the ledger first; every problem comes with the line that repairs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...egress import Ledger
from ...errors import SlmArError, UsageError, did_you_mean
from ...recipe import ProposerTable
from . import ASKING, OFFLINE
from .answers import one_line
from .endpoint import CallError, Endpoint, explained, find_endpoint, open_client
from .spending import Transcript, price_list

if TYPE_CHECKING:
    import anthropic

PURPOSE = "asks which models there are"
MOST_NAMES = 12


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
    if table.name not in ASKING:
        raise UsageError(f"There is no proposer '{table.name}'.", did_you_mean(table.name, [*OFFLINE, *ASKING]))
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
    try:
        count = sum(1 for _ in Transcript(folder).calls())
        yield Finding("transcript", True, f"{count} calls are recorded in {folder}" if count else "no call so far")
    except SlmArError as error:
        yield Finding("transcript", False, error.message, error.hint)


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


def table_for(name: str, known: ProposerTable | None) -> ProposerTable:
    """The recipe's table; for another proposer than the recipe's own, its caps with that one's model and address."""
    if known is None:
        return ProposerTable(name=name)
    if known.name == name:
        return known
    return known.model_copy(update={"name": name, "model": None, "base_url": None})
