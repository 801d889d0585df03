"""results.tsv and the plain status lines."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest
from report_states import (
    HIDDEN_SENTINEL,
    calibrated_state,
    certified_state,
    empty_state,
    every_status_state,
    facts,
    final_state,
    not_proven_state,
    with_experiment,
)

from slm_ar.core.agent.state import CampaignState
from slm_ar.core.contracts import Status
from slm_ar.core.report.html import render_html
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.tables import results_tsv, status_text
from slm_ar.core.report.words import EXPLORED_STAMP

STATES = (empty_state, calibrated_state, every_status_state, not_proven_state, certified_state, final_state)


def rows_of(state: CampaignState) -> list[dict[str, str]]:
    text = results_tsv(state)
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_one_row_per_experiment() -> None:
    rows = rows_of(every_status_state())
    assert [row["status"] for row in rows] == [*(status.value for status in Status), "waiting"]
    assert rows[0]["dev_score"] == "0.930000" and rows[0]["delta"] == "-0.010900"
    crashed = next(row for row in rows if row["status"] == "crashed")
    assert crashed["dev_score"] == "" and crashed["delta"] == "" and crashed["seconds"] == "60.2"
    skipped = next(row for row in rows if row["status"] == "skipped")
    assert skipped["seconds"] == "" and skipped["steps"] == ""
    assert results_tsv(empty_state()).splitlines() == [
        "id\trevision\tparent\tproposer\tstatus\tdev_score\tdelta\tseconds\tsteps\thypothesis\tunit"
    ]
    assert {row["unit"] for row in rows} == {"bits per byte"}
    mixed = rows_of(not_proven_state(facts=facts(mixture="ngram")))
    assert {row["unit"] for row in mixed} == {"bits per byte with n-gram"}


def test_texts_cannot_break_a_row() -> None:
    hostile = "=HYPERLINK(1)\tnew\ncolumn\r\x1b[31m\x00 \u2028 end"
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.95, hypothesis=hostile, proposer="-cmd\n")
    text = results_tsv(state)
    assert len(text.split("\n")) == 3 and text.endswith("\n")
    row = text.split("\n")[1].split("\t")
    assert len(row) == 11
    assert row[3] == "'-cmd"
    assert row[9] == "'=HYPERLINK(1) new column <U+001B>[31m<U+0000> end"


@pytest.mark.parametrize("make", STATES)
def test_status_lines_are_plain(make: object) -> None:
    state: CampaignState = make()  # type: ignore[operator]
    text = status_text(summarise(state))
    assert text.endswith("\n") and "\x1b" not in text
    assert not re.search(r"\b(head|rung|provisional|unclear)\b", text, re.IGNORECASE)
    assert str(abs(HIDDEN_SENTINEL))[:6] not in text + results_tsv(state)
    assert " ".join(text.split()).startswith(summarise(state).verdict.headline)
    assert max(len(line) for line in text.splitlines()) <= 80
    stamped = " ".join(status_text(summarise(replace(state, facts={}))).split())
    assert f"{summarise(state).verdict.headline} [{EXPLORED_STAMP}]" in stamped


def test_status_names_current_proven_and_next() -> None:
    text = status_text(summarise(certified_state()))
    assert "proven:   0.8934 bits per byte on dev" in text
    assert "current:  0.8917 bits per byte on dev" in text
    assert "4 of 60 experiments: 3 kept, 1 crashed" in text
    assert "  slm-ar finish  open the final test once" in text
    assert "proof 1: proven, 3 pairs of runs" in text
    assert "    4  kept for now 0.8917 (-0.0017)  decay to a tenth" in text.splitlines()


def test_the_end_of_a_command_is_shorter_and_says_where_to_go_on() -> None:
    summary = summarise(certified_state())
    text = status_text(summary, is_end=True, folder="demo/workspace")
    assert "decay to a tenth" not in text and len(text) < len(status_text(summary))
    assert "Next, in demo/workspace:" in text


def test_long_words_from_outside_stay_on_their_line() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.95, hypothesis="x" * 300)
    assert max(len(line) for line in status_text(summarise(state)).splitlines()) <= 80


def metric(**changes: object) -> dict[str, object]:
    units = {"dev_unit": "bits per answer (delay)", "claim_unit": "share of wrong answers (delay)"}
    return {"task": "delay", "metric": "accuracy", "min_effect": 0.0, "report_only": "", **units, **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "a gain from about 0.0022 bits per byte on"),
        ({"night": 3}, "a gain from about 0.0031 bits per byte on"),
        ({"mixture": "ngram"}, "0.0022 bits per byte with n-gram on"),
        ({"metric": metric()}, "a gain of at least 0.0025 share of wrong answers (delay)"),
        ({"metric": metric(metric="mae", claim_unit="mean error", min_effect=0.25)}, "0.5 % of what the starting code"),
        ({"metric": metric(report_only="report only: too rare")}, "nothing: report only: too rare"),
    ],
)
def test_what_could_be_proven_is_said_in_its_unit_once_the_noise_is_known(
    changes: dict[str, object], words: str
) -> None:
    state = calibrated_state(facts=facts(**changes))
    assert words in " ".join(status_text(summarise(state)).split())
    assert f"What could be proven here: {summarise(state).provable}." in render_html(summarise(state), state)
    assert "provable:" not in status_text(summarise(replace(state, sigma=None)))
