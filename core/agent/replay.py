"""From events to state: `replay` is the only reader of event bodies, and the twin of what campaign.py appends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..contracts import Decision, GroupScore, ObjectiveScore, Rate, SplitScore, Status, TrainOutcome, Verdict
from ..errors import JournalError
from ..train.smoke import Smoke
from .journal import Event
from .state import CampaignState, ClaimRecord, ExperimentRecord, FinalRecord, PruneRecord, RunRecord


def replay(events: Iterable[Event]) -> CampaignState | None:
    """The state of the newest campaign, or None before the first. A function of the events alone."""
    campaigns = replay_all(events)
    return next(reversed(campaigns.values())) if campaigns else None


def replay_all(events: Iterable[Event]) -> dict[str, CampaignState]:
    """Every campaign's state by identity, the one that was worked on last at the end."""
    campaigns: dict[str, CampaignState] = {}
    for event in events:
        _apply(campaigns, event)
    return campaigns


class GrowingReplay:
    """`replay` of a journal that grows while it is read: each event is applied once, not again for every question."""

    def __init__(self) -> None:
        self._campaigns: dict[str, CampaignState] = {}
        self._count = 0

    def state(self, events: Sequence[Event]) -> CampaignState | None:
        """The state after `events`, which begin with those of the last call."""
        for event in events[self._count :]:
            _apply(self._campaigns, event)
            self._count += 1
        return next(reversed(self._campaigns.values())) if self._campaigns else None


def _apply(campaigns: dict[str, CampaignState], event: Event) -> None:
    """Bring `campaigns` up to one more event; the one that it belongs to goes to the end."""
    state = next(reversed(campaigns.values())) if campaigns else None
    try:
        if event.kind == "campaign_started":
            state = _started(event)
        elif event.kind == "campaign_reopened":
            state = campaigns[event.body["identity"]]
            night = {"night": event.body["night"], "claims_before": len(state.claims)}
            state = replace(state, facts={**state.facts, **night})
        else:
            assert state is not None
            state = _APPLY[event.kind](state, event)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"event {event.number} ({event.kind}) of the journal was written by another version of slm-ar",
            "use that version, or move .slm/journal.db out of the workspace to start a new campaign",
        ) from error
    state = replace(state, event_count=event.number, chain_head=event.hash)
    campaigns.pop(state.identity, None)
    campaigns[state.identity] = state


def score_to_json(score: SplitScore) -> dict[str, Any]:
    facts = asdict(score)
    facts["groups"] = _groups_to_json(score.groups)
    if score.objective is not None:
        facts["objective"]["groups"] = _groups_to_json(score.objective.groups)
    return facts


def score_from_json(facts: Mapping[str, Any]) -> SplitScore:
    given = facts.get("objective")
    objective = ObjectiveScore(**{**given, "groups": _groups_from_json(given["groups"])}) if given else None
    return SplitScore(**{**facts, "groups": _groups_from_json(facts["groups"]), "objective": objective})


def _groups_to_json(groups: Iterable[GroupScore]) -> list[list[Any]]:
    return [[group.group, group.nats, group.byte_count] for group in groups]


def _groups_from_json(groups: Iterable[Sequence[Any]]) -> tuple[GroupScore, ...]:
    return tuple(GroupScore(*group) for group in groups)


def _started(event: Event) -> CampaignState:
    body = event.body
    return CampaignState(
        identity=body["identity"],
        facts=body["facts"],
        started_at=event.at,
        baseline=body["baseline"],
        head=body["baseline"],
        rung=body["baseline"],
        revisions={body["baseline"]: body["train_py"]},
    )


def _planned(state: CampaignState, event: Event) -> CampaignState:
    plan = event.body["plan"]
    facts = {
        **state.facts,
        "experiments_planned": event.body["experiments"],
        "plan": plan,
        "night": plan["night"],
        "claims_before": len(state.claims) if plan["night"] != state.facts.get("night") else _claims_before(state),
    }
    return replace(state, facts=facts, stop_reason=None)


def _claims_before(state: CampaignState) -> int:
    return int(state.facts.get("claims_before", 0))


def _run_started(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, open_run={**event.body, "at": event.at})


def _run_interrupted(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, open_run=None)


def _run_ended(state: CampaignState, event: Event) -> CampaignState:
    body = event.body
    started = state.open_run or {}
    outcome = dict(body["outcome"])
    outcome["status"] = Status(outcome["status"]) if outcome["status"] is not None else None
    run = RunRecord(
        id=body["run"],
        role=started["role"],
        revision=started["revision"],
        seed=started["seed"],
        attempt=started["attempt"],
        experiment=started["experiment"],
        claim=started["claim"],
        outcome=TrainOutcome(**outcome),
        dev=score_from_json(body["dev"]) if body["dev"] is not None else None,
        held_digest=body["held_digest"],
        started_at=started["at"],
        finished_at=event.at,
        looks=tuple((share, score) for share, score in body.get("looks", ())),  # older journals have none
    )
    return replace(state, runs=(*state.runs, run), open_run=None)


def _calibrated(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, sigma=event.body["sigma"])


def _rates_measured(state: CampaignState, event: Event) -> CampaignState:
    rows = ({**row, "status": Status(row["status"]) if row["status"] else None} for row in event.body["rates"])
    return replace(state, rates=tuple(Rate(**row) for row in rows))


def _proposed(state: CampaignState, event: Event) -> CampaignState:
    body = dict(event.body)
    text = body.pop("train_py")
    experiment = ExperimentRecord(**body, proposed_at=event.at)
    revisions = {**state.revisions, experiment.revision: text}
    return replace(state, experiments=(*state.experiments, experiment), revisions=revisions)


def _smoked(state: CampaignState, event: Event) -> CampaignState:
    facts = {**event.body}
    number = facts.pop("experiment")
    facts["status"] = Status(facts["status"]) if facts["status"] is not None else None
    smoke = Smoke(**facts)
    experiments = (replace(item, smoke=smoke) if item.id == number else item for item in state.experiments)
    return replace(state, experiments=tuple(experiments))


def _judged(state: CampaignState, event: Event) -> CampaignState:
    body = event.body
    status = Status(body["status"])
    run = next((run for run in state.runs if run.id == body["run"]), None)
    experiments = tuple(
        replace(
            experiment,
            status=status,
            reason=body["reason"],
            run=run,
            head_score=body["head_score"],
            judged_at=event.at,
            level=body.get("level"),  # journals of before knew neither
            back_to=body.get("back_to"),
        )
        if experiment.id == body["experiment"]
        else experiment
        for experiment in state.experiments
    )
    judged = next(experiment for experiment in experiments if experiment.id == body["experiment"])
    head = judged.back_to or (judged.revision if status is Status.KEPT else state.head)
    return replace(state, experiments=experiments, head=head)


def _claim_opened(state: CampaignState, event: Event) -> CampaignState:
    body = event.body
    claim = ClaimRecord(
        id=body["claim"],
        rung=body["rung"],
        head=body["head"],
        alpha=body["alpha"],
        night=body.get("night", 0),  # journals of version 0.1 counted nights in their own workspace
        after_experiments=body["after_experiments"],
        opened_at=event.at,
    )
    return replace(state, claims=(*state.claims, claim))


def _claim_looked(state: CampaignState, event: Event) -> CampaignState:
    claims = tuple(
        replace(claim, looked_at=event.body["pairs"]) if claim.id == event.body["claim"] else claim
        for claim in state.claims
    )
    return replace(state, claims=claims)


def _claim_closed(state: CampaignState, event: Event) -> CampaignState:
    body = event.body
    decision = Decision(body["decision"])
    # The numbers behind the verdict are hidden scores: they lie in the private record that body["private"] names.
    verdict = Verdict(
        decision=decision,
        delta=0.0,
        standard_error=0.0,
        threshold=0.0,
        eta=0.0,
        pairs=body["pairs"],
        alpha=body["alpha"],
        group_count=body["group_count"],
        reasons=tuple(body["reasons"]),
    )
    claims = tuple(
        replace(claim, verdict=verdict, private=body["private"], closed_at=event.at)
        if claim.id == body["claim"]
        else claim
        for claim in state.claims
    )
    return replace(state, claims=claims, head=body["new_head"], rung=body["new_rung"])


def _prune_planned(state: CampaignState, event: Event) -> CampaignState:
    body = event.body
    rows = tuple((row["revision"], tuple(row["out"]), row["seed"]) for row in body["rows"])
    record = PruneRecord(body["code"], tuple(body["edits"]), tuple(body["stays"]), rows)
    return replace(state, prune=record, revisions={**state.revisions, **body["texts"]})


def _pruned(state: CampaignState, event: Event) -> CampaignState:
    assert state.prune is not None
    body = event.body
    effects = {int(edit): value for edit, value in body["effects"].items()}
    record = replace(state.prune, revision=body["revision"], out=tuple(body["out"]), effects=effects)
    return replace(state, prune=record, revisions={**state.revisions, body["revision"]: body["train_py"]})


def _final_opened(state: CampaignState, event: Event) -> CampaignState:
    facts = {**state.facts, "test_opening": event.body["opening"]}
    return replace(state, final_pair=(event.body["baseline"], event.body["final"]), facts=facts)


def _final(state: CampaignState, event: Event) -> CampaignState:
    body = dict(event.body)
    for side in ("baseline", "final"):  # journals of version 0.1 knew bits per byte alone
        if f"{side}_bpb" in body:
            body[f"{side}_score"] = body[f"{side}_bits_per_byte"] = body.pop(f"{side}_bpb")
    return replace(state, final=FinalRecord(**body, at=event.at))


def _exam(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, exam=(event.body["split"], tuple(event.body["tasks"])))


def _samples(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, samples={**state.samples, **event.body["samples"]})


def _sandbox(state: CampaignState, event: Event) -> CampaignState:
    """A campaign is as well isolated as its weakest part."""
    level, name = event.body["level"], event.body["name"]
    words = f"level {level} ({name})" if level else "none"
    before = str(state.facts.get("isolation", "none"))
    weakest = min(before, words) if before != "none" and level else "none"
    return replace(state, facts={**state.facts, "isolation": weakest, "sandbox_now": words})


def _stopped(state: CampaignState, event: Event) -> CampaignState:
    return replace(state, stop_reason=event.body["reason"])


def _nothing(state: CampaignState, event: Event) -> CampaignState:
    return state


_APPLY: Mapping[str, Callable[[CampaignState, Event], CampaignState]] = {
    "planned": _planned,
    "run_started": _run_started,
    "run_interrupted": _run_interrupted,
    "run_ended": _run_ended,
    "calibrated": _calibrated,
    "rates_measured": _rates_measured,
    "proposed": _proposed,
    "smoked": _smoked,
    "judged": _judged,
    "claim_opened": _claim_opened,
    "claim_looked": _claim_looked,
    "claim_closed": _claim_closed,
    "prune_planned": _prune_planned,
    "pruned": _pruned,
    "final_opened": _final_opened,
    "final": _final,
    "samples": _samples,
    "sandbox": _sandbox,
    "stopped": _stopped,
    "exhausted": _nothing,
    "finished": _nothing,
    "exam": _exam,
}
