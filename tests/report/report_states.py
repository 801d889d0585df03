"""Campaign states built by hand for the report tests: one builder, small steps, no journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slm_ar.core.agent.state import CampaignState, ClaimRecord, ExperimentRecord, FinalRecord, RunRecord
from slm_ar.core.contracts import Decision, SplitScore, Status, TrainOutcome, Verdict

HIDDEN_SENTINEL = -0.7357313
"""Stands wherever a hidden result could lie; no rendering may show a trace of it."""

TRAIN_PY = """import torch

LEARNING_RATE = {rate}  # knob: float log 1e-4..1e-1
DEPTH = {depth}  # knob: int 2..12


def main():
    print("train")
"""


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "recipe_name": "city-bus-log",
        "recipe_description": "One line per bus and stop of a small city",
        "adapter": "transit",
        "budget_seconds": 60.0,
        "device": "cpu (2 cores)",
        "threads": 2,
        "precision": "float32",
        "torch": "2.13.0",
        "harness_version": "0.1.0",
        "data_digest": "d41d8cd98f00b204e9800998ecf8427e",
        "recipe_digest": "9e107d9d372bb6826bd81d3542a419d6",
        "identity": "5f4dcc3b5aa765d61d8327deb882cf99",
        "floors": {"ppmd": 0.921, "xz (adaptive)": 1.184, "n-gram": 0.988},
        "isolation": "namespaces",
        "split_bytes": {"train": 3_104_220, "dev": 301_002, "hidden": 299_870, "test": 300_411},
        "split_groups": {"train": 420, "dev": 41, "hidden": 40, "test": 41},
        "vocab_size": 2048,
        "plan": {"calibrate": 5, "search": 60, "claim": 16, "final": 10, "total": 91, "minutes": 101},
        "gate": {
            "alpha": 0.04,
            "looks": [1, 2, 4, 8],
            "alpha_split": [0.05, 0.15, 0.3, 0.5],
            "min_effect": 0.001,
            "calibration_runs": 5,
        },
        "experiments_planned": 60,
        "hidden_bpb": HIDDEN_SENTINEL,
    } | changes


def outcome(status: Status | None = None, disturbance: str = "") -> TrainOutcome:
    return TrainOutcome(
        status=status,
        reason="" if status is None else f"stopped: {status.value}",
        train_seconds=60.2,
        startup_seconds=1.4,
        wall_seconds=63.0,
        peak_memory_mb=812.0,
        steps=1840,
        tokens=3_768_320,
        parameters=2_103_552,
        log_tail="SECRET-LOG-TAIL",
        disturbance=disturbance,
    )


def score(bits_per_byte: float) -> SplitScore:
    return SplitScore("dev", bits_per_byte, (), token_count=90_000, record_count=4_000, seconds=1.2)


def run(number: int, role: str, revision: str, dev: float | None, **changes: Any) -> RunRecord:
    status = None if dev is not None else Status.CRASHED
    record = RunRecord(
        id=number,
        role=role,
        revision=revision,
        seed=100 + number,
        attempt=1,
        experiment=None,
        claim=None,
        outcome=outcome(status),
        dev=score(dev) if dev is not None else None,
        held_digest=None,
        started_at="2026-05-02T22:00:00+00:00",
        finished_at="2026-05-02T22:01:03+00:00",
    )
    return replace(record, **changes)


def empty_state(**changes: Any) -> CampaignState:
    """A campaign that has begun and measured nothing."""
    state = CampaignState(
        identity="5f4dcc3b5aa765d61d8327deb882cf99",
        facts=facts(),
        started_at="2026-05-02T22:00:00+00:00",
        baseline="base000000000000",
        head="base000000000000",
        rung="base000000000000",
        revisions={"base000000000000": TRAIN_PY.format(rate=0.02, depth=4)},
        chain_head="c0ffee00" * 8,
    )
    return replace(state, **changes)


def calibrated_state(**changes: Any) -> CampaignState:
    """Five runs of the baseline, no edit."""
    scores = (0.9412, 0.9388, 0.9431, 0.9397, 0.9419)
    runs = tuple(run(i, "calibrate", "base000000000000", dev) for i, dev in enumerate(scores, 1))
    return replace(empty_state(runs=runs, sigma=0.0017), **changes)


def with_experiment(
    state: CampaignState,
    status: Status | None,
    dev: float | None = None,
    *,
    hypothesis: str = "raise the learning rate",
    proposer: str = "search",
    text: str | None = None,
    **changes: Any,
) -> CampaignState:
    """The state after one more experiment on the newest current code; a kept one becomes the current code."""
    number = len(state.experiments) + 1
    revision = f"rev{number:013d}"
    parent_run = next((item.run for item in reversed(state.experiments) if item.revision == state.head), None)
    parent_score = parent_run.dev.bits_per_byte if parent_run is not None and parent_run.dev is not None else 0.9409
    record = ExperimentRecord(
        id=number,
        revision=revision,
        parent=state.head,
        proposer=proposer,
        hypothesis=hypothesis,
        rationale="A larger step should reach the plateau within the minute.",
        knobs={"LEARNING_RATE": 0.02 + number / 1000, "DEPTH": 4},
        template="template",
        window=number // 24,
        proposed_at=f"2026-05-02T23:{number % 60:02d}:00+00:00",
        status=status,
        reason="" if status in (Status.KEPT, Status.REVERTED, None) else f"because it was {status.value}",
        run=run(1000 + number, "search", revision, dev, experiment=number) if status is not Status.SKIPPED else None,
        head_score=parent_score if dev is not None else None,
        judged_at=f"2026-05-02T23:{number % 60:02d}:59+00:00",
    )
    record = replace(record, **changes)
    new_text = text if text is not None else TRAIN_PY.format(rate=round(0.02 + number / 1000, 3), depth=4)
    return replace(
        state,
        experiments=(*state.experiments, record),
        revisions={**state.revisions, record.revision: new_text},
        head=record.revision if status is Status.KEPT else state.head,
    )


def every_status_state() -> CampaignState:
    """One experiment of each status, and one that waits."""
    state = calibrated_state()
    for index, status in enumerate(Status):
        has_score = status in (Status.KEPT, Status.REVERTED, Status.PRUNED)
        state = with_experiment(state, status, 0.93 + index / 1000 if has_score else None)
    return with_experiment(state, None)


def with_claim(state: CampaignState, decision: Decision | None, *reasons: str) -> CampaignState:
    """The state after one claim test of the current code, hidden fields filled with the sentinel."""
    verdict = None
    if decision is not None:
        verdict = Verdict(
            decision=decision,
            delta=HIDDEN_SENTINEL,
            standard_error=abs(HIDDEN_SENTINEL),
            threshold=HIDDEN_SENTINEL,
            eta=abs(HIDDEN_SENTINEL),
            pairs=3,
            alpha=0.008,
            group_count=40,
            reasons=reasons,
        )
    claim = ClaimRecord(
        id=len(state.claims) + 1,
        rung=state.rung,
        head=state.head,
        alpha=0.008,
        opened_at=f"2026-05-02T23:{len(state.experiments) % 60:02d}:59+00:00",
        verdict=verdict,
        closed_at=None if decision is None else "2026-05-03T00:40:00+00:00",
    )
    rung = state.head if decision is Decision.CERTIFY else state.rung
    head = state.rung if decision is Decision.REJECT else state.head
    return replace(state, claims=(*state.claims, claim), rung=rung, head=head)


def not_proven_state(**changes: Any) -> CampaignState:
    """Two edits kept for now, a claim that did not decide."""
    state = with_experiment(calibrated_state(), Status.KEPT, 0.9380)
    state = with_experiment(state, Status.REVERTED, 0.9466, hypothesis="halve the depth")
    state = with_experiment(state, Status.KEPT, 0.9361, hypothesis="warm up for longer")
    state = with_claim(state, Decision.UNCLEAR, "head is better than the rung, but by less than luck explains")
    return replace(state, **changes)


def certified_state(**changes: Any) -> CampaignState:
    """Two edits proven, one more kept for now."""
    state = with_experiment(calibrated_state(), Status.KEPT, 0.9101, hypothesis="normalise the queries and keys")
    state = with_experiment(state, Status.CRASHED, hypothesis="eight layers")
    state = with_experiment(state, Status.KEPT, 0.8934, hypothesis="twice the learning rate")
    state = with_claim(state, Decision.CERTIFY, f"difference {HIDDEN_SENTINEL} cleared the bar", "40 groups, 3 pairs")
    state = with_experiment(state, Status.KEPT, 0.8917, hypothesis="decay to a tenth")
    return replace(state, **changes)


def final_state(**changes: Any) -> CampaignState:
    """A proven chain whose test was opened, with samples."""
    state = certified_state()
    final = FinalRecord(
        baseline=state.baseline,
        final=state.rung,
        is_proven=True,
        pairs=5,
        baseline_score=0.9502,
        final_score=0.9021,
        delta=-0.0481,
        delta_low=-0.0562,
        delta_high=-0.0400,
        baseline_bits_per_record=86.31,
        final_bits_per_record=81.94,
        baseline_bits_per_byte=0.9502,
        final_bits_per_byte=0.9021,
        at="2026-05-03T06:12:00+00:00",
    )
    samples = {"before": "line 7 stop Hbf delay 2\n", "after": "line 7 stop Hauptbahnhof delay 3\n"}
    return replace(replace(state, final=final, samples=samples), **changes)
