"""The finish: how often a test split was opened, over all workspaces, and which code is trained longer."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from test_campaign import OUTCOME, RATES, FakeExecutor, Scripted, kinds, night, opened
from toys import TINY_TRAIN_PY, toy_recipe

from slm_ar.core.agent import planner
from slm_ar.core.agent.campaign import Campaign
from slm_ar.core.agent.edits import revision_digest
from slm_ar.core.agent.finish import final_pair, final_test, is_unchanged, train_longer
from slm_ar.core.agent.journal import Journal
from slm_ar.core.agent.ledger import count_opening, name_of_test
from slm_ar.core.contracts import Status, TrainOutcome
from slm_ar.core.errors import TrainingError
from slm_ar.core.prepare.pipeline import PreparedData
from slm_ar.core.train.training_run import TrainJob


class WithData(FakeExecutor):
    """The fake executor over prepared data, which the card of the model names."""

    def __init__(self, data: PreparedData) -> None:
        super().__init__()
        self.data = data


def searched(workspace: Path, journal: Journal, data: PreparedData, changes: list[dict[str, float]]) -> Campaign:
    campaign = opened(workspace, journal, data, WithData(data))
    night(campaign, Scripted(*changes))
    return campaign


# --- openings -------------------------------------------------------------------------------


def test_openings_are_counted_per_test_split_and_campaign(private_folder: Path) -> None:
    assert [count_opening("split", name) for name in ("one", "two", "one", "three", "two")] == [1, 2, 1, 3, 2]
    assert count_opening("another", "two") == 1
    assert count_opening("split", "one") == 1
    folder = private_folder / "openings"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "split.txt").read_text(encoding="utf-8").split() == ["one", "two", "three"]


def test_a_second_workspace_is_told_that_its_test_is_no_longer_unseen(tmp_path: Path, tiny_data: PreparedData) -> None:
    """Equal data in another folder, another campaign: the same documents are measured a second time."""
    openings = []
    for name, steps in (("first", 8), ("second", 9), ("third", 10)):
        (tmp_path / name).mkdir()
        with Journal(tmp_path / name / ".slm") as journal:
            recipe = toy_recipe(budget={"steps": steps})
            campaign = opened(tmp_path / name, journal, tiny_data, recipe=recipe)
            night(campaign, Scripted(*RATES))
            record = final_test(campaign, 2)
            assert final_test(campaign, 2) == record
            openings.append(record.opening)
            event = next(event for event in journal.events if event.kind == "final_opened")
            assert event.body["opening"] == record.opening
    assert openings == [1, 2, 3]


def test_a_final_test_that_was_cut_off_keeps_its_number(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    """Also when the cut came between the ledger and the journal."""
    campaign = searched(workspace, journal, tiny_data, RATES)
    count_opening(name_of_test(campaign.state), f"{campaign.state.identity}-{campaign.state.baseline}")
    count_opening(name_of_test(campaign.state), "a later campaign")
    assert final_test(campaign, 2).opening == 1


def test_a_final_test_opens_test_once(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = searched(workspace, journal, tiny_data, RATES)
    first = final_test(campaign, 2)
    events = len(journal.events)
    assert final_test(campaign, 2) == first
    assert final_test(campaign, 5) == first, "more pairs later would be a second look"
    assert len(journal.events) == events
    assert kinds(journal).count("final_opened") == kinds(journal).count("final") == 1


def test_a_final_test_stays_closed_when_the_journal_is_opened_again(workspace: Path, tiny_data: PreparedData) -> None:
    with Journal(workspace / ".slm") as journal:
        record = final_test(searched(workspace, journal, tiny_data, RATES), 2)
    with Journal(workspace / ".slm") as journal:
        executor = FakeExecutor()
        assert final_test(opened(workspace, journal, tiny_data, executor), 2) == record
        assert executor.jobs == []


@pytest.mark.parametrize("loses_final", [True, False])
def test_a_final_code_that_loses_more_runs_than_the_starting_code_proves_nothing(
    workspace: Path, journal: Journal, tiny_data: PreparedData, loses_final: bool
) -> None:
    campaign = searched(workspace, journal, tiny_data, RATES)
    baseline, final = final_pair(campaign.state)
    executor = campaign.executor
    assert isinstance(executor, WithData) and baseline != final
    loser, unlucky = (final if loses_final else baseline), planner.run_seed(campaign.state, "final", 1)

    def happens(job: TrainJob) -> TrainOutcome:
        is_lost = job.seed == unlucky and revision_digest(job.train_py) == loser
        return replace(OUTCOME, status=Status.CRASHED, reason="no luck") if is_lost else OUTCOME

    executor.happens = happens
    record = final_test(campaign, 3)
    assert record is not None and record.pairs == 3
    assert record.is_proven != loses_final


# --- the longer training --------------------------------------------------------------------


def test_the_proven_code_is_trained_longer(workspace: Path, journal: Journal, tiny_data: PreparedData) -> None:
    campaign = searched(workspace, journal, tiny_data, RATES)
    record = final_test(campaign, 2)
    assert record.is_proven
    executor = campaign.executor
    assert isinstance(executor, WithData)
    executor.jobs.clear()
    trained = train_longer(campaign, "a headline")
    (job,) = executor.jobs
    assert revision_digest(job.train_py) == record.final != record.baseline
    assert job.budget_steps == 16, "two times the eight steps of the recipe"
    assert trained.facts["table"]["code"] == f"revision {record.final}, proven"
    assert trained.facts["headline"] == "a headline"
    assert trained.folder == campaign.runs_folder / "finish"
    assert set(executor.scored[-1:]) == {"dev"}


def test_the_code_of_the_headline_is_trained_also_after_a_later_proof(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = searched(workspace, journal, tiny_data, RATES)
    record = final_test(campaign, 2)
    night(campaign, Scripted(*RATES, {"MATRIX_LR": 0.16}, {"MATRIX_LR": 0.3}), 2)
    assert campaign.state.rung != record.final, "the second night proved something better"
    executor = campaign.executor
    assert isinstance(executor, WithData)
    executor.jobs.clear()
    train_longer(campaign, "")
    assert revision_digest(executor.jobs[0].train_py) == record.final


def test_where_nothing_was_kept_test_stays_closed_and_the_starting_code_is_trained(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = searched(workspace, journal, tiny_data, [{"MATRIX_LR": 0.01}, {"MATRIX_LR": 0.005}])
    runs = len(campaign.state.runs)
    assert is_unchanged(campaign.state) and final_test(campaign, 2) is None
    assert len(campaign.state.runs) == runs and "final_opened" not in {event.kind for event in journal.events}
    assert count_opening(name_of_test(campaign.state), "another") == 1, "nobody opened it before"
    executor = campaign.executor
    assert isinstance(executor, WithData)
    executor.jobs.clear()
    trained = train_longer(campaign, "")
    assert executor.jobs[0].train_py == TINY_TRAIN_PY
    assert "the starting code" in trained.facts["table"]["code"]


def test_a_longer_training_that_fails_is_told_with_its_log(
    workspace: Path, journal: Journal, tiny_data: PreparedData
) -> None:
    campaign = searched(workspace, journal, tiny_data, RATES)
    executor = campaign.executor
    assert isinstance(executor, WithData)

    def crashes(job: TrainJob) -> TrainOutcome:
        return replace(OUTCOME, status=Status.CRASHED, reason="no luck")

    executor.happens = crashes
    with pytest.raises(TrainingError, match="no luck") as error:
        train_longer(campaign, "")
    assert "log.txt" in error.value.hint
