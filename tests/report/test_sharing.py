"""A shared report holds figures and code, and nothing that data could have put there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_states import every_status_state, final_state

from slm_ar.core.report.html import render_html
from slm_ar.core.report.sharing import for_sharing, render_shared
from slm_ar.core.report.summary import summarise

CANARY = "CUSTOMER-4711"


def test_nothing_of_the_data_is_in_a_shared_report() -> None:
    state = every_status_state()
    experiments = tuple(replace(item, reason=f"KeyError: '{CANARY}' in line 3") for item in state.experiments)
    facts = {**state.facts, "recipe_description": f"sales of {CANARY}"}
    state = replace(
        state,
        experiments=experiments,
        facts=facts,
        stop_reason=f"ValueError: {CANARY}",
        samples={"proven": f"line | {CANARY}"},
    )
    whole = render_html(summarise(state), state)
    assert whole.count(CANARY) >= 3  # the report of one's own shows them
    shared = render_shared(state)
    assert CANARY not in shared and "KeyError" in shared and "ValueError" in shared
    assert len(shared) > 0.5 * len(whole)


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("torch.OutOfMemoryError: 3 GB", "OutOfMemoryError"),
        ("the night is over", ""),
        ("", ""),
        ("x KeyErrors", ""),
        ("the time is up: until 07:00 (--until)", "the time is up: until 07:00 (--until)"),
        ("planned experiments done", "planned experiments done"),
        ("local cannot be asked: nothing answers at http://secret", ""),
    ],
)
def test_of_a_reason_the_type_of_the_error_and_our_own_words_are_kept(reason: str, kept: str) -> None:
    summary = replace(summarise(final_state()), stop_reason=reason)
    assert for_sharing(summary).stop_reason == kept
