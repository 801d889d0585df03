"""What a campaign does next: a pure function of its state. The loop performs the step and appends what came of it.

Because the plan is derived from the journal each time, resuming after a kill is nothing but asking again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from ..contracts import Decision
from ..train.disturbance import LATE, may_be_own_doing
from .gate import GatePolicy, claim_alpha
from .state import CampaignState, ClaimRecord, ExperimentRecord, RunRecord

WINDOW = 32
"""Most proposals that share one seed with the head; fewer where claims come sooner. Then its luck is forgotten."""
PLACEBO = "placebo"
"""The proposer's name of a placebo."""
MOST_ATTEMPTS = 3
"""A disturbed run is repeated twice; then it counts, flagged, and is not used in claims. One that may have brought its
stamp about itself is repeated once in a claim, in the final test or for a proposal, and not again: with luck of its own
it could repeat itself until the luck is good."""
PLACEBO_EVERY = 16
"""One proposal in so many is the current code itself, at a place that the harness draws."""
SPARE_PAIRS = 2
"""Pairs that a claim may lose to failed or disturbed runs before it ends as not yet proven. More of them lost by the
current code than by the proven one end it, too: what is left of a code that drops its bad runs looks good."""


@dataclass(frozen=True, slots=True)
class TrainStep:
    """Train `revision` with `seed` and score it on `splits`."""

    role: str
    revision: str
    seed: int
    splits: tuple[str, ...]
    experiment: int | None = None
    claim: int | None = None

    @property
    def key(self) -> tuple[object, ...]:
        return (self.role, self.revision, self.seed, self.experiment, self.claim)


@dataclass(frozen=True, slots=True)
class CalibratedStep:
    """All calibration runs are there: write down sigma."""


@dataclass(frozen=True, slots=True)
class ProposeStep:
    """Ask the proposer."""

    window: int
    is_placebo: bool = False
    """Propose the current code itself instead: it is trained and judged like any other proposal."""


@dataclass(frozen=True, slots=True)
class JudgeStep:
    """Judge an experiment whose run has ended, against the head's run with the same seed."""

    experiment: ExperimentRecord
    run: RunRecord
    head_run: RunRecord


@dataclass(frozen=True, slots=True)
class OpenClaimStep:
    """Open a claim of the chain against the proven code."""

    claim: int
    alpha: float
    after_experiments: int


@dataclass(frozen=True, slots=True)
class LookStep:
    """Judge an open claim on its complete pairs."""

    claim: ClaimRecord
    pairs: tuple[tuple[RunRecord, RunRecord], ...]
    more_allowed: bool


@dataclass(frozen=True, slots=True)
class DoneStep:
    """The plan is fulfilled."""


Step = TrainStep | CalibratedStep | ProposeStep | JudgeStep | OpenClaimStep | LookStep | DoneStep


@dataclass(frozen=True, slots=True)
class Plan:
    """The constants that decide what comes next."""

    experiments: int
    """Judged experiments that the campaign is to reach."""
    calibration_runs: int
    claim_every: int
    policy: GatePolicy
    night: int
    """Nights before this one that spent alpha on the same hidden split."""
    is_exhausted: bool = False
    """The proposer has nothing more, or the time is up: go to the last claim."""


def next_step(state: CampaignState, plan: Plan) -> Step:
    """The next thing to do. Steps are idempotent: nothing that the journal already holds is asked for again."""
    for step in calibration_steps(state, plan.calibration_runs):
        run = settled_run(state, step)
        if run is None or not run.is_scored:  # without all of them there is no noise to judge by: try again
            return step
    if state.sigma is None:
        return CalibratedStep()
    claim = state.claims[-1] if state.claims else None
    if claim is not None and claim.verdict is None:
        return _claim_step(state, plan, claim)
    judged = sum(1 for experiment in state.experiments if experiment.status is not None)
    is_open = judged < len(state.experiments)
    is_over = judged >= plan.experiments or plan.is_exhausted
    if not is_open and _claim_is_due(state, plan, judged, is_over):
        claims_tonight = len(state.claims) - int(state.facts.get("claims_before", 0))
        alpha = claim_alpha(plan.policy, plan.night, claims_tonight)
        return OpenClaimStep(len(state.claims) + 1, alpha, judged)
    if is_over and not is_open:
        return DoneStep()
    return _search_step(state, plan)


def calibration_steps(state: CampaignState, count: int) -> list[TrainStep]:
    """The runs of the starting code that measure the noise."""
    seeds = [run_seed(state, "calibrate", index) for index in range(count)]
    # A metric has another unit on hidden than on dev, and claims need the noise in theirs.
    splits = ("dev", "hidden") if state.facts.get("metric") else ("dev",)
    return [TrainStep("calibrate", state.baseline, seed, splits) for seed in seeds]


def calibration_scores(state: CampaignState) -> list[float]:
    """Dev scores of the calibration, one per seed: the runs that settle it, not their repetitions."""
    return [run.dev.judged for run in calibration_runs(state) if run.dev is not None]


def calibration_runs(state: CampaignState) -> list[RunRecord]:
    """The scored runs that settle the calibration, one per seed."""
    steps = calibration_steps(state, int(state.facts["gate"]["calibration_runs"]))
    runs = [settled_run(state, step) for step in steps]
    return [run for run in runs if run is not None and run.dev is not None]


def run_seed(state: CampaignState, purpose: str, index: int) -> int:
    """The harness's seed for one purpose: fresh for every claim, the same for a head and its rivals in one window."""
    text = f"{state.identity} {state.facts.get('search_seed', 0)} {purpose} {index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def window_seed(state: CampaignState, window: int) -> int:
    """The first window runs with the first calibration seed, so that the baseline need not be trained again."""
    return run_seed(state, "calibrate", 0) if window == 0 else run_seed(state, "window", window)


def attempts(state: CampaignState, step: TrainStep) -> list[RunRecord]:
    """Ended runs of exactly this step."""
    return [run for run in state.runs if (run.role, run.revision, run.seed, run.experiment, run.claim) == step.key]


def settled_run(state: CampaignState, step: TrainStep) -> RunRecord | None:
    """The run that settles this step: the first quiet or failed one, or where none is allowed after it the first.

    Where the machine has not been quiet for a while, repeating would only cost time: then the first attempt counts,
    flagged, and is not used in claims.
    """
    found = attempts(state, step)
    scored = [run for run in found if run.is_scored]
    quiet = [run for run in scored if not run.outcome.disturbance or _is_never_quiet(state, run)]
    # A time-out on a disturbed machine says nothing about the code; every other failure is the code's own.
    failed = [run for run in found if not run.is_scored and not run.outcome.disturbance]
    is_last = len(found) >= MOST_ATTEMPTS or any(_is_own_doing_again(state, run) for run in found)
    settling = quiet or failed or (scored or found if is_last else [])
    return settling[0] if settling else None


def _is_own_doing_again(state: CampaignState, run: RunRecord) -> bool:
    """Whether `run` may have disturbed itself, and is not the first of its code in this claim or test that did."""
    if not may_be_own_doing(run.outcome.disturbance):
        return False
    same = (known for known in state.runs if _spender(known) == _spender(run))
    return run.id != next(known.id for known in same if may_be_own_doing(known.outcome.disturbance))


def _spender(run: RunRecord) -> tuple[object, ...]:
    """What shares the one repetition that may be its own doing: all runs of one code in a claim or the final test, and
    each proposal and each seed of any other run."""
    is_shared = run.claim is not None or run.role == "final"
    return run.role, run.revision, run.experiment, run.claim, None if is_shared else run.seed


def lost_by_itself(run: RunRecord) -> bool:
    """Whether a run is no use to a claim, and not because of other programs, sleep, heat or a stall."""
    disturbance = run.outcome.disturbance
    return disturbance.startswith(LATE) or not (run.is_scored or disturbance)


def _is_never_quiet(state: CampaignState, run: RunRecord) -> bool:
    """Whether `run` and the runs just before it were all disturbed; later runs cannot change the answer."""
    place = next(index for index, known in enumerate(state.runs) if known.id == run.id)
    newest = state.runs[max(0, place + 1 - MOST_ATTEMPTS) : place + 1]
    return len(newest) == MOST_ATTEMPTS and all(item.outcome.disturbance for item in newest)


# --- search ---------------------------------------------------------------------------------


def window_number(place: int, claim_every: int) -> int:
    """The window of the proposal at `place` (from 0): at most WINDOW of them have one, and claims come at ends."""
    windows = -(-claim_every // WINDOW)
    return place // claim_every * windows + place % claim_every * windows // claim_every


def _search_step(state: CampaignState, plan: Plan) -> Step:
    open_experiment = next((item for item in state.experiments if item.status is None), None)
    window = open_experiment.window if open_experiment else window_number(len(state.experiments), plan.claim_every)
    seed = window_seed(state, window)
    head_run = head_run_for(state, seed)
    if head_run is None:
        return TrainStep("window", state.head, seed, ("dev",))
    if open_experiment is None:
        return ProposeStep(window, _is_placebo(state, plan))
    step = TrainStep("search", open_experiment.revision, seed, ("dev",), experiment=open_experiment.id)
    run = settled_run(state, step)
    return step if run is None else JudgeStep(open_experiment, run, head_run)


def _is_placebo(state: CampaignState, plan: Plan) -> bool:
    """Whether the next proposal is a placebo: one in every full block of PLACEBO_EVERY that the plan holds."""
    block, place = divmod(len(state.experiments), PLACEBO_EVERY)
    is_full = (block + 1) * PLACEBO_EVERY <= plan.experiments
    return is_full and place == run_seed(state, "placebo", block) % PLACEBO_EVERY


def placebo_differences(state: CampaignState) -> list[float]:
    """Dev scores of placebos minus the same code's own run with the same seed: what not even pairing takes away.

    Where the current code was kept for that very run, the run is a lucky one, and the difference is left out.
    """
    found = []
    for item in state.experiments:
        if item.proposer != PLACEBO or item.run is None or item.run.dev is None or item.run.outcome.disturbance:
            continue
        head_run = head_run_for(replace(state, head=item.revision), item.run.seed)
        if head_run is not None and head_run.role != "search" and head_run.dev is not None:
            found.append(item.run.dev.judged - head_run.dev.judged)
    return found


def head_run_for(state: CampaignState, seed: int) -> RunRecord | None:
    """The head's own run with this seed, whatever it was made for; None when it is still to be trained."""
    roles = ("calibrate", "search", "window")
    runs = [run for run in state.runs if run.revision == state.head and run.seed == seed and run.role in roles]
    quiet = [run for run in runs if run.is_scored and not run.outcome.disturbance]
    settled = quiet or [run for run in runs if run.role != "window"]
    return settled[0] if settled else settled_run(state, TrainStep("window", state.head, seed, ("dev",)))


# --- claims ---------------------------------------------------------------------------------


def _claim_is_due(state: CampaignState, plan: Plan, judged: int, is_over: bool) -> bool:
    if state.head == state.rung:
        return False
    last = state.claims[-1] if state.claims else None
    since = judged - (last.after_experiments if last else 0)
    is_tonight = len(state.claims) > int(state.facts.get("claims_before", 0))
    if last is not None and is_tonight and (last.head, last.rung) == (state.head, state.rung):
        # The chain has not moved since it was found not yet proven: asking again would only spend alpha.
        return False
    # At the end of a window, so that all kept edits had followers and the next ones get a new seed.
    is_end = judged % plan.claim_every == 0 and since > 0
    return is_end or (is_over and (since > 0 or last is None))


def unclear_claims(state: CampaignState) -> int:
    """Claims in a row, up to now, that measured the chain and left it not yet proven."""
    count = 0
    for claim in reversed(state.claims):
        if claim.verdict is None or not claim.verdict.pairs:
            continue
        if claim.verdict.decision is not Decision.UNCLEAR:
            break
        count += 1
    return count


def _claim_step(state: CampaignState, plan: Plan, claim: ClaimRecord) -> Step:
    looks = plan.policy.looks
    wanted = next((look for look in looks if look > claim.looked_at), looks[-1])
    pairs: list[tuple[RunRecord, RunRecord]] = []
    lost = 0
    lost_by = [0, 0]
    for index in range(looks[-1] + SPARE_PAIRS):
        if len(pairs) == wanted:
            break
        seed = run_seed(state, f"claim {claim.id}", index)
        settled = []
        for revision in (claim.rung, claim.head):
            step = TrainStep("claim", revision, seed, ("hidden",), claim=claim.id)
            run = settled_run(state, step)
            if run is None:
                return step
            settled.append(run)
        lost_by = [count + lost_by_itself(run) for count, run in zip(lost_by, settled, strict=True)]
        if all(run.is_scored and not run.outcome.disturbance for run in settled):
            pairs.append((settled[0], settled[1]))
        else:
            lost += 1
            if lost > SPARE_PAIRS:
                break
    if lost_by[1] > lost_by[0]:
        return LookStep(claim, (), more_allowed=False)
    return LookStep(claim, tuple(pairs), more_allowed=len(pairs) == wanted and wanted < looks[-1])
