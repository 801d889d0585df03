"""The summary: every number and every word that people are shown of a campaign."""

from __future__ import annotations

import json
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
    outcome,
    run,
    with_claim,
    with_experiment,
)

from slm_ar.core.agent.state import CampaignState
from slm_ar.core.cli.main import COMMANDS
from slm_ar.core.contracts import Decision, Status
from slm_ar.core.report.experiments import diff_text
from slm_ar.core.report.html import render_html
from slm_ar.core.report.summary import Summary, summarise
from slm_ar.core.report.tables import results_tsv, status_text
from slm_ar.core.report.verdict import NextStep, settling_runs
from slm_ar.core.report.words import DECISION_WORDS, EXPLORED_STAMP, STATUS_WORDS, public_reasons, seconds, visible

INTERNAL = re.compile(r"\b(head|rung|provisional|unclear)\b", re.IGNORECASE)
ALL_STATES = (
    empty_state,
    calibrated_state,
    every_status_state,
    not_proven_state,
    certified_state,
    final_state,
)


def text_of(summary: Summary) -> str:
    return json.dumps(summary.to_json(), allow_nan=False)


@pytest.mark.parametrize("make", ALL_STATES)
def test_every_summary_is_json_without_internal_words_or_hidden_numbers(make: object) -> None:
    state: CampaignState = make()  # type: ignore[operator]
    text = text_of(summarise(state))
    assert not INTERNAL.search(text)
    assert str(abs(HIDDEN_SENTINEL))[:6] not in text
    assert "SECRET-LOG-TAIL" not in text
    assert summarise(state) == summarise(state)


@pytest.mark.parametrize("make", ALL_STATES)
def test_a_summary_without_any_facts(make: object) -> None:
    state: CampaignState = make()  # type: ignore[operator]
    summary = summarise(replace(state, facts={}))
    assert summary.stamp == EXPLORED_STAMP
    assert summary.floors == () and summary.compressor is None
    assert summary.verdict == summarise(state).verdict, "a sandbox decides the stamp, not the verdict"
    text_of(summary)


def test_every_status_and_decision_has_a_word() -> None:
    for status in Status:
        word = STATUS_WORDS[status]
        assert word.short and word.meaning and word.tone in ("good", "quiet", "warn", "alarm")
        assert not INTERNAL.search(word.short + word.meaning)
    assert len({word.short for word in STATUS_WORDS.values()}) == len(Status)
    assert set(DECISION_WORDS) == set(Decision)


def test_empty_and_calibrated() -> None:
    assert summarise(empty_state()).verdict.kind == "empty"
    partly = summarise(empty_state(runs=(run(1, "calibrate", "base000000000000", 0.94),)))
    assert partly.verdict.kind == "calibrating" and "1 run so far" in partly.verdict.headline
    summary = summarise(calibrated_state())
    assert summary.verdict.kind == "calibrated"
    assert summary.baseline.score == pytest.approx(0.94094)
    assert summary.baseline.runs == 5 and len(summary.calibration) == 5


def test_counts_cover_every_status_once() -> None:
    summary = summarise(every_status_state())
    assert summary.counts == {**{status.value: 1 for status in Status}, "waiting": 1}
    assert any("1 edit failed the integrity check" in line for line in summary.verdict.lines)
    crashed = next(row for row in summary.experiments if row.status == "crashed")
    assert crashed.dev_score is None and crashed.delta is None and crashed.reason == "because it was crashed"


def test_not_proven_says_how_many_runs_would_settle_it() -> None:
    summary = summarise(not_proven_state(), unproven_note="The night ended at 07:00.")
    assert summary.verdict.kind == "not_proven"
    assert summary.verdict.headline == "Not proven tonight: 2 edits look promising; 6 more runs would settle it."
    assert "The night ended at 07:00." in summary.verdict.lines
    assert [row.words for row in summary.experiments] == ["kept for now", "no gain", "kept for now"]
    assert "14 more runs" in summarise(not_proven_state(), more_runs=14).verdict.headline
    assert summary.claims[0].words == "not yet proven"
    assert summary.claims[0].notes == ("current code is better than the proven code, but by less than luck explains",)


def test_the_runs_that_would_settle_it_are_told_from_both_ends_of_the_chain() -> None:
    """Each edit is believed to gain what it is better than a level that stays behind: their sum is too much."""
    state = not_proven_state(sigma=0.0034)
    behind = tuple(replace(item, level=item.dev_score and item.dev_score + 0.0032) for item in state.experiments)
    assert settling_runs(state) == settling_runs(replace(state, experiments=behind)) == 14
    last = replace(behind[2], window=1, head_score=0.9400)  # 0.0020 less luck with the seed of the next window
    assert settling_runs(replace(state, experiments=(*behind[:2], last))) == 8


def test_a_gain_lost_in_noise_is_not_promised_to_settle() -> None:
    summary = summarise(not_proven_state(sigma=0.5))
    assert "too little to settle" in summary.verdict.headline


def test_no_edit_kept() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.95)
    assert summarise(state).verdict.headline == "Not proven tonight: none of 1 edit is better than where it began."


def test_certified_chain() -> None:
    summary = summarise(certified_state())
    assert summary.verdict.kind == "proven"
    assert summary.verdict.headline.startswith("Proven: the code with 2 edits")
    assert any("1 edit looks promising on top of it, not yet proven" in line for line in summary.verdict.lines)
    assert [row.words for row in summary.experiments] == ["proven", "crashed", "proven", "kept for now"]
    assert summary.claims[0].is_proven and summary.claims[0].after_experiment == 3
    assert summary.claims[0].notes == ("40 groups, 3 pairs",)
    assert [step.name for step in summary.ladder] == ["tuned start", "proven"]
    assert summary.next_steps[0].command == "slm-ar finish"


def test_without_a_sandbox_the_same_chain_is_proven_and_stamped() -> None:
    certified, explored = summarise(certified_state()), summarise(certified_state(facts=facts(isolation="none")))
    assert (certified.stamp, explored.stamp) == ("", EXPLORED_STAMP)
    for name in ("verdict", "proven", "experiments", "ladder", "next_steps"):
        assert getattr(explored, name) == getattr(certified, name)
    assert certified.claims[0].words == "proven"
    assert explored.claims[0].words == "proven (explored, not certified)" and explored.claims[0].is_proven
    assert explored.machine["sandbox"] == "none proved"


@pytest.mark.parametrize("make", ALL_STATES)
@pytest.mark.parametrize("isolation", ["namespaces", "none"])
def test_every_next_step_is_a_command_that_exists(make: object, isolation: str) -> None:
    state: CampaignState = make()  # type: ignore[operator]
    steps = summarise(replace(state, facts=facts(isolation=isolation))).next_steps
    assert steps
    for step in steps:
        program, command, *_ = step.command.split()
        assert program == "slm-ar" and command in COMMANDS


def test_a_rejected_chain_is_taken_back() -> None:
    state = with_claim(with_experiment(calibrated_state(), Status.KEPT, 0.93), Decision.REJECT)
    summary = summarise(with_experiment(state, Status.REVERTED, 0.945))
    assert summary.experiments[0].words == "taken back"
    # the step line goes back up to the start: that gain was not real
    assert summary.experiments[1].best_before == pytest.approx(0.94094)
    assert summary.best_current_score == pytest.approx(0.94094)


def test_final_test_is_the_headline() -> None:
    summary = summarise(final_state())
    assert summary.verdict.headline == "Proven: 0.0481 bits per byte better than where it began, on the final test."
    assert "95 % interval -0.0562 to -0.0400" in summary.verdict.lines[0]
    assert "86.3 -> 81.9 bits per record" in summary.verdict.lines[0]
    assert [step.name for step in summary.ladder] == ["tuned start", "proven", "start, on test", "finished"]
    assert "slm-ar finish" not in {step.command for step in summary.next_steps}


def test_a_final_interval_that_holds_zero_is_not_proven() -> None:
    state = final_state()
    assert state.final is not None
    summary = summarise(replace(state, final=replace(state.final, delta=-0.001, delta_low=-0.01, delta_high=0.008)))
    assert summary.verdict.kind == "not_proven"
    assert summary.verdict.headline.startswith("Proven on unseen text, but the final test cannot tell")


def test_a_final_test_of_unproven_code_is_no_claim() -> None:
    state = not_proven_state()
    final = final_state().final
    assert final is not None
    summary = summarise(replace(state, final=replace(final, final=state.head, is_proven=False)))
    assert summary.verdict.kind == "not_proven"
    assert summary.verdict.headline == (
        "Not proven tonight: 2 edits look promising; the final test, opened once, shows -0.0481 "
        "(95 % interval -0.0562 to -0.0400) for them."
    )
    assert any("no claim" in line for line in summary.verdict.lines)
    assert [step.name for step in summary.ladder] == ["tuned start", "kept for now", "start, on test", "finished"]
    assert "slm-ar adopt" not in {step.command for step in summary.next_steps}
    same = summarise(replace(state, head=state.baseline, final=replace(final, final=state.baseline, is_proven=False)))
    assert same.verdict.headline == "Not proven tonight: none of 3 edits is better than where it began."


def test_what_is_proven_after_the_final_test_has_no_final_number() -> None:
    state = final_state()
    state = replace(state, rung=state.head)
    verdict = summarise(state).verdict
    assert verdict.headline.startswith("Proven: the code with 3 edits")
    assert "The final test was opened for other code than what is proven now." in verdict.lines


def test_floors_and_the_compressor_question() -> None:
    summary = summarise(not_proven_state())
    assert [floor.name for floor in summary.floors] == ["ppmd", "n-gram", "xz (adaptive)"]
    assert summary.compressor is not None and summary.compressor.answer == "no"
    assert summary.compressor.sentence.startswith("Beats n-grams and compressors? No, not yet: ")
    before = summarise(not_proven_state(facts=facts(floors={"ppmd": 0.99}))).compressor  # prepared by an older slm-ar
    assert before is not None and before.sentence.startswith("Beats the compressor? Yes: ")
    lower = summarise(not_proven_state(facts=facts(floors={"ppmd": 0.99, "ngram (tokens)": 0.98}))).compressor
    assert lower is not None and lower.sentence.endswith("against 0.9800 for ngram (tokens), the best of them.")
    answers = []
    for ppmd in (0.99, 0.9365, 0.80, float("nan")):
        answer = summarise(not_proven_state(facts=facts(floors={"ppmd": ppmd}))).compressor
        answers.append(answer.answer if answer is not None else None)
    assert answers == ["yes", "close", "no", None]
    # an adaptive compressor learns from the text that it scores: no bar while there is an honest one
    adaptive = summarise(not_proven_state(facts=facts(floors={"xz": 0.2, "ppmd": 0.99}))).compressor
    assert adaptive is not None and adaptive.answer == "yes"


def test_a_mixture_is_named_wherever_its_figures_stand() -> None:
    state = not_proven_state(facts=facts(mixture="ngram"))
    summary = summarise(state)
    assert summary.unit == summary.claim_unit == "bits per byte with n-gram"
    assert [floor.name for floor in summary.floors] == ["ppmd", "n-gram", "xz (adaptive)"]
    status, page = status_text(summary), render_html(summary, state)
    assert "bits per byte with n-gram on dev" in " ".join(status.split())
    assert "alone:" in status and "as text" not in status
    assert "the model alone" in page and "The exported folder is the model alone." in page
    plain = render_html(summarise(not_proven_state()), not_proven_state())
    assert "the model alone" not in plain and "with n-gram" not in plain


def test_a_headline_that_stands_alone_carries_the_stamp() -> None:
    assert summarise(certified_state()).stamped_headline == summarise(certified_state()).verdict.headline
    bare = summarise(certified_state(facts=facts(isolation="none")))
    assert bare.stamped_headline == f"{bare.verdict.headline} [{EXPLORED_STAMP}]"


def test_changed_knobs() -> None:
    state = with_experiment(calibrated_state(), Status.KEPT, 0.93, knobs={"LEARNING_RATE": 0.05, "DEPTH": 6})
    state = with_experiment(state, Status.REVERTED, 0.95, knobs={"LEARNING_RATE": 0.05, "WARMUP": 0.1})
    first, second = (
        {change.name: (change.before, change.after) for change in row.changes} for row in summarise(state).experiments
    )
    assert first == {"LEARNING_RATE": ("0.02", "0.05"), "DEPTH": ("4", "6")}
    assert second == {"WARMUP": ("-", "0.1"), "DEPTH": ("6", "-")}
    without_texts = summarise(replace(state, revisions={})).experiments[0]
    assert {change.name for change in without_texts.changes} == {"LEARNING_RATE", "DEPTH"}
    assert without_texts.diff == ""


def test_placebos_are_counted_apart() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.942, proposer="placebo")
    state = with_experiment(state, Status.KEPT, 0.939, revision=state.baseline, proposer="placebo")
    state = with_experiment(state, Status.SKIPPED, parent=state.baseline, revision=state.baseline, proposer="cli:leak")
    summary = summarise(replace(state, head=state.baseline))
    assert (summary.placebos, summary.placebos_kept) == (2, 1)
    assert "none of 0 edits" in summary.verdict.headline
    assert summary.counts == {"skipped": 1}, "neither a placebo nor an edit that was kept"
    assert [row.words for row in summary.experiments] == ["no gain", "kept by luck", "not run"]
    assert not summary.experiments[2].is_placebo and ", a placebo" in render_html(summary, state)
    assert "3 of 60 experiments: 1 not run; 1 of 2 placebos kept" in " ".join(status_text(summary).split())


def test_what_was_taken_back_is_counted_and_said_everywhere() -> None:
    state = with_experiment(calibrated_state(), Status.KEPT, 0.9380)
    first = state.head
    state = with_experiment(state, Status.KEPT, 0.9301)
    state = replace(with_experiment(state, Status.REVERTED, 0.9390, back_to=first), head=first)
    state = with_experiment(state, Status.REVERTED, 0.9395)
    summary = summarise(state)
    assert summary.counts == {"kept": 1, "taken back": 1, "reverted": 2}
    assert "4 of 60 experiments: 1 kept, 1 taken back, 2 no gain" in status_text(summary)
    page = render_html(summary, state)
    assert "1 kept, 1 taken back, 2 no gain." in page and "of 4 edits; 1 taken back" in page
    rows = [line.split("\t")[4] for line in results_tsv(state).splitlines()[1:]]
    assert rows == ["kept", "taken back", "reverted", "reverted"]
    by_proof = replace(state, head=state.baseline)
    assert summarise(by_proof).counts["taken back"] == 2, "a proof that says no takes back too"


def test_disturbed_runs_do_not_count_for_a_revision() -> None:
    noisy = run(9, "calibrate", "base000000000000", 5.0, outcome=outcome(disturbance="another program used the CPU"))
    state = calibrated_state()
    assert summarise(replace(state, runs=(*state.runs, noisy))).baseline.score == pytest.approx(0.94094)


def test_an_open_run_and_a_stop_are_said_in_words() -> None:
    summary = summarise(not_proven_state(open_run={"role": "window", "experiment": 4}, stop_reason="stopped\x1b[2J"))
    assert summary.doing == "measuring the current code again with a new seed (experiment 4)"
    assert summary.stop_reason == "stopped<U+001B>[2J"
    assert NextStep("slm-ar run", "go on where this stopped") in summary.next_steps


def test_diffs_are_cut_and_made_visible() -> None:
    assert diff_text("a = 1\n", "a = 1\n") == ""
    assert diff_text("a = 1\n", "a = 2\n").splitlines()[1:] == ["-a = 1", "+a = 2"]
    long = diff_text("", "\n".join(f"line {index}" for index in range(1000)))
    assert len(long.splitlines()) == 161 and "more lines" in long.splitlines()[-1]
    assert "\u202e" not in diff_text("", "access = 'user\u202e'")


def test_reasons_with_measurements_are_left_out() -> None:
    reasons = ("rung kept", "delta -0.7357", "t = 2,31", "1e-3 short", "30 groups")
    assert public_reasons(reasons) == ("proven code kept", "30 groups")


def test_small_words() -> None:
    assert [seconds(value) for value in (None, 6.0, 9.54, 60, 260, 7500)] == [
        "-",
        "6 s",
        "9.5 s",
        "1 min",
        "4 min 20 s",
        "2 h 5 min",
    ]
    assert visible("a\x00b\ud800") == "a<U+0000>b<U+D800>"
    assert visible("abcdef", 4) == "abc…"
    assert visible("a\r\nb\tc", single_line=True) == "a b c"
    assert visible("Straße 🚌 می\u200cروم") == "Straße 🚌 می\u200cروم"
