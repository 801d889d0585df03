"""A shared report holds figures and code, and nothing that data could have put there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_states import calibrated_state, every_status_state, final_state, with_experiment

from slm_ar.core.contracts import Status
from slm_ar.core.report.html import render_html
from slm_ar.core.report.places import without_places
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
    ("text", "left"),
    [
        ("see /home/alice/secret/notes.txt, line 3", "see [path], line 3"),
        ("+open('/Users/Alice Smith/customers.csv')", "+open('[path]')"),
        ("read ~/data/x.csv and ~bob/y (file:///srv/z)", "read [path] and [path] ([path])"),
        (r"C:\Users\alice\x.txt and \\server\share\y", "[path] and [path]"),
        ("/srv: the data of alice, by alice.", "[path] the data of [user], by [user]."),
        ("/Übung/x, /0data/x, /2024/x and C:/Users/bob/x", "[path], [path], [path] and [path]"),
        ("open('/Übung 1/x'), C:/home/alice/x", "open('[path]'), [path]"),
        ("to alice@host, x@alice.example and data/alice.csv", "to [user]@host, x@[user].example and data/[user].csv"),
        ("rate 0.1 -> 0.2, and/or a/b, n // 2 / x, 3 tokens/s", "rate 0.1 -> 0.2, and/or a/b, n // 2 / x, 3 tokens/s"),
        ("https://example.com/a/b </div>", "https://example.com/a/b </div>"),
    ],
)
def test_places_and_people_are_replaced(text: str, left: str) -> None:
    assert without_places(text, home="/home/alice", user="alice") == left


@pytest.mark.parametrize(
    "text",
    [
        "lr = (a + b)/n_steps",
        "cos(t)/T + d[0]/n + x[:, None]/norm",
        "1/(2*d)/layers",
        "x /2, y /2.5, z /1e-3, u /1_000, v /4)",
        "Adam optimizer",
        "torch.optim.Adam(lr)",
        "from torch.optim.adam import adam(x)",
        "adam_lr = adam.step(madam)",
    ],
)
def test_code_and_words_are_left_as_they_are(text: str) -> None:
    assert without_places(text, home="/home/adam", user="adam") == text


def test_a_user_without_a_home_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    assert without_places("/srv/x by alice") == "[path] by [user]"


def test_a_proposer_cannot_put_a_place_into_a_shared_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/zelda")
    place = "/srv/people/zelda/lab/train.py"
    state = with_experiment(
        calibrated_state(),
        Status.REVERTED,
        0.95,
        hypothesis=f"as in {place}, by zelda",
        proposer="cli:/opt/zelda/agent",
        text=f"PLACE = '{place}'\n",
        rationale=f"zelda wrote {place}",
        knobs={"PLACE": place},
    )
    assert render_html(summarise(state), state).count("zelda") > 5
    shared = render_shared(state)
    assert "zelda" not in shared and "as in [path], by [user]" in shared and "PLACE = " in shared


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
