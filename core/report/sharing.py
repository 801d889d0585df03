"""A report to show to others: what was tried and proven, without anything that the data could have put into it.

Called by `slm-ar report --share`. Left out are samples, the text behind the type of an error, which may quote a value
of a corpus, and what a person wrote about the data; figures, code and hypotheses stay. A proposer may have named
places of this machine in those: absolute paths and its user's name are replaced in every text.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ..agent.state import CampaignState
from .html import render_html
from .places import without_places
from .summary import Summary, summarise

_ERROR = re.compile(r"\b[A-Z][A-Za-z]*(?:Error|Exception|Interrupt)\b")
_OWN_WORDS = re.compile(
    r"the time is up: [^;]{1,60}(; a proof is half done, the same command goes on with it)?|planned experiments done"
    r"|the proposer has nothing left to try|[0-9]+ experiments in a row failed"
)
"""Ends of a night that name nobody and no place."""


def render_shared(state: CampaignState) -> str:
    """The page as HTML."""
    return render_html(for_sharing(summarise(state)), replace(state, samples={}))


def for_sharing(summary: Summary) -> Summary:
    """The summary without texts that come from data, logs or the description of the recipe, and without places."""
    rows = tuple(replace(row, reason=_type_of_error(row.reason)) for row in summary.experiments)
    reason = summary.stop_reason
    stop_reason = reason if _OWN_WORDS.fullmatch(reason) else _type_of_error(reason)
    return without_places(replace(summary, recipe_description="", stop_reason=stop_reason, experiments=rows))


def _type_of_error(reason: str) -> str:
    """`KeyError: 'a customer'` becomes `KeyError`; a reason without such a name becomes nothing."""
    found = _ERROR.search(reason)
    return found[0] if found else ""
