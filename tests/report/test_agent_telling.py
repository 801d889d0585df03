"""What a coding agent is told of a campaign holds rounded dev scores, and nothing of hidden, test, logs or data."""

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
    with_experiment,
)
from toys import toy_recipe

from slm_ar.core.agent.state import CampaignState, RunRecord
from slm_ar.core.contracts import ObjectiveScore, Status
from slm_ar.core.errors import DataError, TrainingError, UsageError, WorkspaceBusyError
from slm_ar.core.mcp import telling
from slm_ar.core.mcp.telling import View
from slm_ar.core.report.words import EXPLORED_STAMP

CANARY = "CUSTOMER-4711"
STATES = [empty_state, calibrated_state, every_status_state, not_proven_state, certified_state, final_state]


def view(state: CampaignState | None) -> View:
    return View(toy_recipe(), "# the program\n", "the workspace's own text", state)


def everything(state: CampaignState) -> str:
    seen = view(state)
    return "\n".join([*telling.description(seen), *telling.history(seen), telling.report(state)])


def with_canaries(state: CampaignState) -> CampaignState:
    """Every text that data or a log could have reached says so."""
    experiments = tuple(
        replace(
            item,
            reason=f"KeyError: '{CANARY}' at train.py line 7",
            run=item.run and replace(item.run, outcome=replace(item.run.outcome, reason=CANARY, log_tail=CANARY)),
        )
        for item in state.experiments
    )
    facts = {**state.facts, "recipe_description": CANARY, "hidden_digest": CANARY}
    return replace(state, experiments=experiments, facts=facts, samples={"after": CANARY}, stop_reason=CANARY)


def test_what_the_code_is_closed_in_by_is_told_and_scores_without_walls_are_stamped() -> None:
    walled, bare = (certified_state(facts=facts(isolation=name)) for name in ("level 1 (landlock and seccomp)", "none"))
    for answer in (telling.description(view(walled))[-1], telling.history(view(walled))[0]):
        assert '"sandbox": "level 1 (landlock and seccomp)"' in answer and EXPLORED_STAMP not in answer
    for answer in (telling.description(view(bare))[-1], telling.history(view(bare))[0], telling.report(bare)):
        assert EXPLORED_STAMP in " ".join(answer.split())
    assert telling.standing_walls(bare) == {"sandbox": "none", "scores_are": EXPLORED_STAMP}


def test_what_another_proposer_wrote_names_no_place() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.95, hypothesis="as in /srv/people/zelda/train.py")
    assert "as in [path]" in everything(state) and "/srv" not in everything(state)


@pytest.mark.parametrize("make", STATES)
def test_nothing_hidden_and_nothing_of_the_data_is_told(make: object) -> None:
    state = with_canaries(make())  # type: ignore[operator]
    told = everything(state)
    assert CANARY not in told and "SECRET" not in told
    assert f"{abs(HIDDEN_SENTINEL)}"[:6] not in told
    for test_figure in ("0.9502", "0.9021", "0.0481", "86.31", "81.94", "Hauptbahnhof"):
        assert test_figure not in told


def test_dev_scores_are_told_in_halves_of_the_noise() -> None:
    state = certified_state()
    assert state.sigma == 0.0017
    told = telling.report(state) + "\n".join(telling.history(view(state)))
    figures = [float(figure) for figure in re.findall(r"\b0\.[89]\d{2,}\b", told)]
    shown = [figure for figure in figures if figure not in state.facts["floors"].values()]
    assert len(shown) >= 6
    for figure in shown:
        assert abs(figure - 0.00085 * round(figure / 0.00085)) < 0.00006, figure
    lines = [json.loads(line) for line in telling.history(view(state))[0].splitlines()]
    first = next(line for line in lines if line.get("experiment") == 1)
    assert first["dev"] == pytest.approx(0.9095, abs=0.0009) and first["status"] == "kept"


@pytest.mark.parametrize("make", STATES)
def test_nobody_tells_the_agent_to_open_test(make: object) -> None:
    """What a person could do next stands in `slm-ar status`; an agent with a shell might take it for its task."""
    told = telling.report(make())  # type: ignore[operator]
    assert "Next" not in told and "slm-ar run" not in told and "slm-ar adopt" not in told


def with_metric(state: CampaignState) -> CampaignState:
    """The same with a [metric]: what was bits per byte is the cost of answers, in slices too; and after an exam."""

    def costed(run: RunRecord | None) -> RunRecord | None:
        if run is None or run.dev is None:
            return run
        cost = ObjectiveScore("bits per answer", run.dev.bits_per_byte, run.dev.groups)
        dev = replace(run.dev, bits_per_byte=1.23456789, objective=cost, slices={"customer": {CANARY: 1.0}})
        return replace(run, dev=dev)

    result = {
        "task": "cause",
        "metric": "accuracy",
        "direction": "max",
        "questions": 7,
        "model": {"accuracy": 0.654321},
        "baselines": {},
        "differences": {},
    }
    return replace(
        state,
        runs=tuple(run for run in map(costed, state.runs) if run is not None),
        experiments=tuple(replace(item, run=costed(item.run)) for item in state.experiments),
        facts={**state.facts, "metric": {"dev_unit": "bits per answer", "claim_unit": "bits per answer"}},
        exam=("test", (result,)),
    )


def test_scores_of_a_metric_are_rounded_like_bits_per_byte() -> None:
    state = with_metric(certified_state())
    told = everything(state)
    plain = everything(certified_state())
    costs = {f"{item.run.dev.bits_per_byte:.4f}" for item in certified_state().experiments if item.run and item.run.dev}
    exact = {cost for cost in costs if cost not in plain}
    assert exact and not [cost for cost in exact if cost in told]
    assert "bits per answer" in told and "1.23" in told
    assert "1.234" not in told and "1.235" not in told  # the text as a whole is not in units of the noise
    assert "0.65" not in told and CANARY not in told
    for run in telling.as_told(state).runs:
        assert run.dev is None or (run.dev.slices, run.dev.groups, run.dev.judged_groups) == ({}, (), ())


def test_results_and_report_say_the_same_of_the_current_code() -> None:
    """From rounded scores of undisturbed runs: where they differed, the difference would tell more than either."""
    state = certified_state()
    run = next(item.run for item in state.experiments if item.revision == state.head)
    assert run is not None and run.dev is not None
    disturbed = replace(run.outcome, disturbance="another process")
    worse = replace(run, id=999, outcome=disturbed, dev=replace(run.dev, bits_per_byte=run.dev.bits_per_byte + 0.1))
    state = replace(state, runs=(*state.runs, worse))
    current = json.loads(telling.history(view(state))[0].splitlines()[0])["current_on_dev"]
    assert re.search(rf"^current: +{current:.4f} ", telling.report(state), re.MULTILINE)


def test_reasons_are_told_in_our_own_words() -> None:
    state = with_canaries(every_status_state())
    lines = [json.loads(line) for line in telling.history(view(state))[0].splitlines()]
    crashed = next(line for line in lines if line.get("status") == "crashed")
    assert crashed["reason"] == "KeyError; line 7"


def test_where_a_campaign_stands_is_told_first() -> None:
    first, *others = (json.loads(line) for line in telling.history(view(certified_state()))[0].splitlines())
    assert first["current_revision"] == "rev0000000000004" and first["proven_revision"] == "rev0000000000003"
    assert first["is_proven_better_than_the_start"] is True and first["experiments_judged"] == 4
    assert others[0] == {"proof": 1, "of_revision": "rev0000000000003", "decision": "proven"}
    assert [line["experiment"] for line in others[1:]] == [1, 2, 3, 4]
    assert [line["experiment"] for line in others if line.get("is_proven")] == [3]
    assert [line["experiment"] for line in others if line.get("is_current")] == [4]


def test_long_histories_are_cut_at_their_old_end() -> None:
    state = calibrated_state()
    for _ in range(90):
        state = with_experiment(state, Status.REVERTED, 0.95)
    first, *others = (json.loads(line) for line in telling.history(view(state))[0].splitlines())
    assert first["older_experiments_left_out"] == 10
    assert [line["experiment"] for line in others] == list(range(11, 91))
    for _ in range(60):
        state = with_experiment(state, Status.REVERTED, 0.95, hypothesis="x" * 300)
    (text,) = telling.history(view(state))
    first, *others = (json.loads(line) for line in text.splitlines())
    assert len(text) < 25_000 and 40 < len(others) < 80 and others[-1]["experiment"] == 150
    assert first["older_experiments_left_out"] == 150 - len(others)


def test_placebos_are_not_told() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.94, proposer="placebo", revision="base000000000000")
    assert "placebo" not in telling.history(view(state))[0]


def test_before_the_first_campaign_the_workspaces_code_is_the_current_one() -> None:
    seen = view(None)
    facts = json.loads(telling.description(seen)[-1])
    assert facts["current_revision"] == seen.revision and facts["machine"] == "not looked at yet"
    assert "measures it with 3 runs" in facts["noise"]
    assert seen.revisions == {seen.revision: "the workspace's own text"} and not seen.unfinished


@pytest.mark.parametrize("form", ["portable", "best"])
def test_the_form_of_the_model_is_told_and_explained_also_before_the_first_campaign(form: str) -> None:
    recipe = toy_recipe(model={"form": form})
    for state in (None, calibrated_state()):
        rules, _, text = telling.description(replace(view(state), recipe=recipe))
        assert json.loads(text)["form"] == form
        assert f'"{form}"' in rules


def test_a_description_has_program_noise_budget_and_floors() -> None:
    rules, program, text = telling.description(view(calibrated_state()))
    facts = json.loads(text)
    assert "propose_edits" in rules and "# the program" in program
    assert facts["noise"]["one_run_varies_by"] == 0.0017
    assert facts["floors"]["ppmd"] == 0.921 and facts["budget_of_one_run"] == {"steps": 8}
    assert facts["machine"] == {"device": "cpu (2 cores)", "threads": 2, "precision": "float32"}
    assert "hidden" not in facts["data"]["bytes"] and "test" not in facts["data"]["bytes"]


def test_a_program_that_is_too_long_is_refused() -> None:
    with pytest.raises(UsageError, match="shorten it"):
        telling.description(replace(view(None), program="x" * 70_000))


def test_errors_of_the_harness_are_told_without_what_they_quote() -> None:
    busy = WorkspaceBusyError("another slm-ar works in this workspace: process 7 on my-laptop", "wait for it")
    told = telling.failure(busy)
    assert "another slm-ar works in this workspace" in told and "my-laptop" not in told
    told = telling.failure(DataError(f"/home/me/{CANARY}.csv line 3: {CANARY}", "mend it"))
    assert "the data cannot be used" in told and CANARY not in told and "/home" not in told
    told = telling.failure(TrainingError(f"the starting train.py cannot be measured: KeyError: '{CANARY}'"))
    assert "KeyError" in told and CANARY not in told
