"""The state of a campaign: what replaying the journal gives. Read by the campaign, the reports and the command line.

Everything here is frozen data; `replay` in journal.py builds it from the events and nothing else, so that the same
journal always gives the same state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contracts import KnobValue, Rate, SplitScore, Status, TrainOutcome, Verdict, text_unit
from ..train.smoke import Smoke


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One training run of one revision with one seed, scored on the splits that its role needs."""

    id: int
    role: str
    """calibrate | search | window | claim | prune | final | train (by hand)"""
    revision: str
    seed: int
    attempt: int
    experiment: int | None
    claim: int | None
    outcome: TrainOutcome
    dev: SplitScore | None
    held_digest: str | None
    """Name of the private record with the hidden or test score; None when the run was scored on dev alone."""
    started_at: str
    finished_at: str
    looks: tuple[tuple[float, float], ...] = ()
    """(share of the budget, bits per byte of a small sample of dev) of the snapshots that it showed on the way."""

    @property
    def is_scored(self) -> bool:
        return self.outcome.status is None


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One proposal: a revision, what became of it, and why. `status` is None while it is not judged."""

    id: int
    revision: str
    parent: str
    proposer: str
    hypothesis: str
    rationale: str
    knobs: Mapping[str, KnobValue]
    template: str
    window: int
    proposed_at: str
    status: Status | None = None
    reason: str = ""
    run: RunRecord | None = None
    """The run it was judged by; None when it never trained."""
    head_score: float | None = None
    """Dev score of the head's own run with the same seed."""
    judged_at: str | None = None
    level: float | None = None
    """What the head was believed to score with that seed, from all its runs and its proposals: see level.py."""
    back_to: str | None = None
    """The current code after it, where its score showed that the newest kept edits before it were luck."""
    smoke: Smoke | None = None
    """What became of the try before its first run; None where there was none."""

    @property
    def is_kept_edit(self) -> bool:
        """Kept for now, and not a placebo, which is the current code already."""
        return self.status is Status.KEPT and self.revision != self.parent

    @property
    def gain(self) -> float | None:
        """How much better on dev it looked than the code that it edits; positive is better."""
        score, bar = self.dev_score, self.head_score if self.level is None else self.level
        return bar - score if score is not None and bar is not None else None

    @property
    def dev_score(self) -> float | None:
        return self.run.dev.judged if self.run is not None and self.run.dev is not None else None


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """One claim test of head against rung."""

    id: int
    rung: str
    head: str
    alpha: float
    opened_at: str
    night: int = 0
    """Nights, in all workspaces, that claimed on the same hidden split before."""
    after_experiments: int = 0
    """How many experiments were judged when it was opened."""
    looked_at: int = 0
    """Pairs at the newest look that asked for more."""
    verdict: Verdict | None = None
    """Decision and reasons; its numbers are zero, the measured ones lie in the private record."""
    private: str | None = None
    closed_at: str | None = None


@dataclass(frozen=True, slots=True)
class PruneRecord:
    """The prune pass over the kept edits of one code: what was planned, and once `revision` is set, what came of it."""

    code: str
    """Revision whose edits were looked at."""
    edits: tuple[int, ...]
    """Experiments that can be taken out alone."""
    stays: tuple[int, ...]
    """Kept experiments that cannot, or for which there was no run left."""
    rows: tuple[tuple[str, tuple[int, ...], int], ...]
    """Per run: revision, experiments left out, number of the seed."""
    revision: str | None = None
    """The code without the edits that do not help; `code` itself when all of them stay."""
    out: tuple[int, ...] = ()
    effects: Mapping[int, float] = field(default_factory=dict)
    """Experiment -> what its edit adds to the score on dev (negative is better)."""


@dataclass(frozen=True, slots=True)
class FinalRecord:
    """The opening of test: what the campaign lowers, of baseline and final code over paired seeds, and the interval."""

    baseline: str
    final: str
    is_proven: bool
    pairs: int
    baseline_score: float
    final_score: float
    """Bits per byte, or the unit of the recipe's [metric]."""
    delta: float
    """final - baseline, negative is better"""
    delta_low: float
    delta_high: float
    """two-sided 95 % Student-t interval of delta over pairs and groups"""
    baseline_bits_per_record: float
    final_bits_per_record: float
    baseline_bits_per_byte: float
    final_bits_per_byte: float
    at: str
    opening: int = 1
    """Campaigns, this one included, that opened this very test split: above 1 it is no longer unseen."""


@dataclass(frozen=True, slots=True)
class CampaignState:
    """Everything that the journal says of the newest campaign."""

    identity: str
    """Hash of recipe, prepared data, harness version, torch, device, threads, dtype."""
    facts: Mapping[str, Any]
    """The parts of the identity, in clear, and what was planned: see campaign.campaign_facts."""
    started_at: str
    baseline: str
    head: str
    rung: str
    """Revision digests: where the campaign began, what the search edits now ("current"), last certified ("proven")."""
    revisions: Mapping[str, str]
    """Digest -> full text of train.py."""
    runs: tuple[RunRecord, ...] = ()
    experiments: tuple[ExperimentRecord, ...] = ()
    claims: tuple[ClaimRecord, ...] = ()
    final_pair: tuple[str, str] | None = None
    """Revisions (baseline, final) that test was opened for; test is never opened for another pair."""
    prune: PruneRecord | None = None
    final: FinalRecord | None = None
    samples: Mapping[str, str] = field(default_factory=dict)
    """Text generated by "before" (baseline) and "after" (final code)."""
    exam: tuple[str, tuple[Mapping[str, Any], ...]] | None = None
    """(split, results of its tasks as TaskResult.to_json gives them): the finished model beside baselines."""
    open_run: Mapping[str, Any] | None = None
    """A run that was started and not finished: the one that is going on, or that a kill interrupted."""
    stop_reason: str | None = None
    sigma: float | None = None
    """Standard deviation of one run over seeds on dev, from the calibration; None before it is done."""
    rates: tuple[Rate, ...] | None = None
    """How fast settings of size, batch and context train here; None where that was not timed."""
    event_count: int = 0
    chain_head: str = ""
    """Hash of the newest journal event."""

    @property
    def pruned_rung(self) -> str:
        """The proven code without the edits that its prune pass took out; the rung itself when there was no pass."""
        if self.prune is not None and self.prune.code == self.rung and self.prune.revision is not None:
            return self.prune.revision
        return self.rung

    @property
    def proven_code(self) -> str:
        """The proven code as it is handed out: without those edits only once the final test measured it so."""
        is_measured = self.final is not None and self.final.is_proven and self.final.final == self.pruned_rung
        return self.pruned_rung if is_measured else self.rung

    @property
    def unit(self) -> str:
        """What scores on dev count, in words."""
        metric = self.facts.get("metric")
        return str(metric["dev_unit"]) if metric else self._text_unit

    @property
    def claim_unit(self) -> str:
        """What scores on hidden and test count, in words."""
        metric = self.facts.get("metric")
        return str(metric["claim_unit"]) if metric else self._text_unit

    @property
    def _text_unit(self) -> str:
        return text_unit(self.facts.get("mixture", "none"))
