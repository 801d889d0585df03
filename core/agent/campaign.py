"""The research loop: asks the planner for the next step, performs it, appends what came of it to the journal.

Called by `slm-ar run`, `finish` and `demo`. Owns no policy: what comes next is planner.py, what counts is gate.py, how
training runs is running.py. Promises: every way out leaves the journal whole, and running it again goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..contracts import Decision, Display, Proposal, Proposer, Status
from ..errors import ProposerError, TrainingError
from ..recipe import Recipe
from ..train.executor import LocalExecutor
from . import calibrator, edits, gate, ledger, level, planner, smoking
from .held import campaign_noise, held_score, hidden_level, rung_has_fallen
from .journal import Journal, put_private
from .night import Limits, why_it_ends
from .opening import gate_policy, research_context
from .revisions import CURRENT_REF, PROVEN_REF, is_git_workspace, mirror_revision
from .running import Runs
from .state import CampaignState, RunRecord

MOST_FAILURES_IN_A_ROW = 10
NOTHING_TO_COMPARE = (
    "the runs of this claim failed, more of the current code than of the proven one, or the machine was never quiet"
)
RUNG_HAS_FALLEN = (
    "warning: the code that it is compared with scored clearly worse here than in the claims before: "
    "if this machine is no slower than it was then, only the final test tells what the gain is worth"
)


class Campaign(Runs):
    """One workspace's campaign, open for work. Build it with `open_campaign`."""

    def __init__(
        self,
        workspace: Path,
        recipe: Recipe,
        journal: Journal,
        executor: LocalExecutor,
        display: Display,
        program: str,
    ) -> None:
        super().__init__(workspace, recipe, journal, executor, display)
        self.program = program
        self._is_git = is_git_workspace(workspace)
        self._refused_edit = ""
        self._search_end: float | None = None

    def run(self, proposer: Proposer, experiments: int, limits: Limits) -> str:
        """Work until `experiments` are judged and the last claim is closed, or a limit; returns the reason.

        Raises ProposerError when the proposer cannot be asked any more: after the last claim, like any other end.
        """
        self.close_interrupted_run()
        parked: ProposerError | None = None
        over = ""  # why nothing new is proposed
        while True:
            state = self.state
            search_end = self._search_end = limits.search_end(state, self.recipe)
            if not over and search_end is not None and time.monotonic() > search_end:
                over = limits.reason
            step = planner.next_step(state, self._plan(state, experiments, bool(over)))
            if reason := why_it_ends(state, step, experiments, limits, over):
                self.journal.append("stopped", {"reason": reason})
                if parked is not None:
                    raise parked
                return reason
            if isinstance(step, planner.TrainStep) and self.waits_in_vain(limits.stop_at):
                continue
            try:
                over = self._perform(state, step, proposer) or over
            except ProposerError as error:
                parked, over = error, f"{proposer.name} cannot be asked: {error.message}"
                self.display.note(f"{over}; nothing new is proposed tonight")
            finally:
                self.give_back_device()

    def _perform(self, state: CampaignState, step: planner.Step, proposer: Proposer) -> str:
        """Do one step; why nothing new is to be proposed, where it turned out so."""
        match step:
            case planner.TrainStep():
                if not self._tried(state, step):
                    self.train(step)
                    self._refuse_broken_baseline(step)
            case planner.CalibratedStep():
                self._calibrated(state)
            case planner.ProposeStep():
                return self._propose(state, proposer, step)
            case planner.JudgeStep():
                self._judge(state, step)
                self._stop_after_failures()
            case planner.OpenClaimStep():
                self._open_claim(state, step)
            case planner.LookStep():
                self._look(state, step, gate_policy(self.recipe, state.facts.get("metric")))
        return ""

    def _refuse_broken_baseline(self, step: planner.TrainStep) -> None:
        run = self.state.runs[-1]
        if step.role == "calibrate" and not run.is_scored:
            self.journal.append("stopped", {"reason": "the starting train.py does not work"})
            raise TrainingError(
                f"the starting train.py cannot be measured: {run.outcome.status}: {run.outcome.reason}",
                f"mend train.py and try `slm-ar train`; its log is {self.run_folder(run.id) / 'log.txt'}",
            )

    # --- steps ------------------------------------------------------------------------------

    def _plan(self, state: CampaignState, experiments: int, is_exhausted: bool) -> planner.Plan:
        table = self.recipe.gate
        return planner.Plan(
            experiments=experiments,
            calibration_runs=table.calibration_runs,
            claim_every=table.claim_every,
            policy=gate_policy(self.recipe, state.facts.get("metric")),
            night=self._nights_before(state),
            is_exhausted=is_exhausted,
        )

    def _nights_before(self, state: CampaignState) -> int:
        """Nights, in all workspaces with the same hidden split, that may have spent alpha on it before this one."""
        known = ledger.nights_before(ledger.hidden_name(state), ledger.night_name(self.workspace, state))
        return max(int(state.facts.get("night", 0)), known)

    def _calibrated(self, state: CampaignState) -> None:
        scores = planner.calibration_scores(state)
        sigma = gate.noise_from_calibration(scores).sigma
        self.journal.append("calibrated", {"sigma": sigma, "runs": len(scores)})
        mean = math.fsum(scores) / len(scores)
        self.display.note(f"baseline {mean:.4f} {state.unit} on dev; one run varies by {sigma:.4f} from seed to seed")

    def _propose(self, state: CampaignState, proposer: Proposer, step: planner.ProposeStep) -> str:
        """Append one proposal; why there is none, where the proposer has nothing more."""
        window = step.window
        if step.is_placebo:
            words = "a placebo: the current code, unchanged"
            self._append_proposal(state, window, planner.PLACEBO, words, "", state.revisions[state.head])
            return ""
        hand_edit = self._hand_edit(state)
        if hand_edit is not None:
            self._append_proposal(state, window, "human", "a hand edit of train.py", "", hand_edit)
            return ""
        left = None if self._search_end is None else max(0.0, self._search_end - time.monotonic())
        if getattr(proposer, "wants_rates", False) and calibrator.is_due(self, state, left):
            calibrator.measure_rates(self, state, left)
            return ""  # it took its time: the limits are looked at before anybody is asked
        self.display.phase("searching")
        proposal = proposer.propose(research_context(state, self.program, self.recipe, self.executor.machine))
        if proposal is None:
            self.journal.append("exhausted", {"proposer": proposer.name})
            why = str(getattr(proposer, "why_nothing", "")) or "the proposer has nothing left to try"
            self.display.note(why)
            return why
        self._append_proposal(state, window, proposer.name, proposal.hypothesis, proposal.rationale, proposal.train_py)
        if proposal.unusable:
            self._skip(len(state.experiments) + 1, proposal)
        return ""

    def _skip(self, experiment: int, proposal: Proposal) -> None:
        """Judge an experiment without an edit: it costs no training."""
        self._judge_without_run(experiment, proposal.hypothesis, Status.SKIPPED, proposal.unusable)

    def _tried(self, state: CampaignState, step: planner.TrainStep) -> bool:
        """Try a proposal that may not work before its run, and judge one that does not work by that.

        True when there was something of this to do: it took its time, so that the limits are looked at again.
        """
        experiment = next((item for item in state.experiments if item.id == step.experiment), None)
        if step.role != "search" or experiment is None:
            return False
        smoke = experiment.smoke
        if smoke is None and smoking.needs_smoke(state, experiment):
            self.try_out(experiment, step.seed)
            return True
        if smoke is None or not smoke.is_failure:
            return False
        assert smoke.status is not None
        self._judge_without_run(experiment.id, experiment.hypothesis, smoke.status, smoke.reason)
        return True

    def _judge_without_run(self, experiment: int, hypothesis: str, status: Status, reason: str) -> None:
        body = {"experiment": experiment, "status": status.value, "reason": reason}
        self.journal.append("judged", {**body, "run": None, "head_score": None})
        words = status.value if status is Status.SKIPPED else f"{status.value} before training"
        self.display.judged(f"{experiment:>3}  {words}  {hypothesis}: {reason}", False)
        self._stop_after_failures()

    def _hand_edit(self, state: CampaignState) -> str | None:
        """The workspace's train.py when a person changed it to something that was not tried yet."""
        try:
            text = (self.workspace / "train.py").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None
        digest = edits.revision_digest(text)
        if digest in state.revisions or digest == self._refused_edit:
            return None
        try:
            edits.check_train_py(text)
        except TrainingError as error:
            self._refused_edit = digest
            self.display.note(f"the train.py of the workspace is left out as it is: {error.message}")
            return None
        return text

    def _append_proposal(
        self, state: CampaignState, window: int, proposer: str, hypothesis: str, rationale: str, text: str
    ) -> None:
        self.journal.append(
            "proposed",
            {
                "id": len(state.experiments) + 1,
                "revision": edits.revision_digest(text),
                "parent": state.head,
                "proposer": proposer,
                "hypothesis": hypothesis,
                "rationale": rationale,
                "knobs": {knob.name: knob.value for knob in edits.parse_knobs(text)},
                "template": edits.template_digest(text),
                "window": window,
                "train_py": text,
            },
        )

    def _judge(self, state: CampaignState, step: planner.JudgeStep) -> None:
        run, head_run = step.run, step.head_run
        status, reason = run.outcome.status, run.outcome.reason
        score = run.dev.judged if run.dev is not None else None
        head_score = head_run.dev.judged if head_run.dev is not None else None
        window = _window(state, step)
        if status is None:
            assert score is not None
            texts = state.revisions
            lines, head_lines = (edits.code_lines(texts[item]) for item in (step.experiment.revision, state.head))
            # A code is never kept because the one that it must beat failed with this seed.
            is_kept = window is not None and window.keeps(score, lines, head_lines)
            reason = run.outcome.disturbance and f"a disturbed run: {run.outcome.disturbance}"
            if is_kept and head_score is not None and score > head_score:
                reason = level.LUCKY_BAR
            if is_kept and self._breaks_guard(state, run):
                is_kept, reason = False, "better in the metric, but the text as a whole is predicted worse"
            status = Status.KEPT if is_kept else Status.REVERTED
            if head_score is None:
                reason = "the current code failed with this seed, so there was nothing to compare with"
        back_to = _back_to(window, step, score, status) if window is not None and score is not None else None
        self.journal.append(
            "judged",
            {
                "experiment": step.experiment.id,
                "status": status.value,
                "reason": reason,
                "run": run.id,
                "head_score": head_score,
                "level": window.mean if window is not None else None,
                "back_to": back_to,
            },
        )
        number, text = step.experiment.id, step.experiment.hypothesis
        if score is not None and head_score is not None:
            words = "kept for now" if status is Status.KEPT else "not better"
            change = f"{score:.4f} ({score - head_score:+.4f})"
            why = f": {reason}" if reason == level.LUCKY_BAR else ""
            self.display.judged(f"{number:>3}  {words}  {change}  {text}{why}", status is Status.KEPT)
        else:
            self.display.judged(f"{number:>3}  {status.value}  {text}: {reason}", False)
        if back_to is not None:
            self._take_back(level.taken_back(state), back_to)
        elif status is Status.KEPT:
            self._mirror(CURRENT_REF, step.experiment.revision, f"kept for now: {text}")

    def _take_back(self, before: frozenset[int], back_to: str) -> None:
        """Tell which kept edits were taken back; `before`: those that were already."""
        gone = level.taken_back(self.state) - before
        for item in self.state.experiments:
            if item.id in gone:
                self.display.judged(f"{item.id:>3}  {level.TAKEN_BACK}  {item.hypothesis}", False)
        self._mirror(CURRENT_REF, back_to, level.TAKEN_BACK)

    def _breaks_guard(self, state: CampaignState, run: RunRecord) -> bool:
        """Whether an edit buys the metric with more bits per byte than the recipe's guard allows.

        The bar is the proven code, so that a chain of edits cannot spend the guard again and again.
        """
        metric = self.recipe.metric
        proven = [item.dev.bits_per_byte for item in state.runs if item.revision == state.rung and item.dev is not None]
        if metric is None or run.dev is None or not proven:
            return False
        return run.dev.bits_per_byte > math.fsum(proven) / len(proven) * (1 + metric.guard_percent / 100)

    def _claim_breaks_guard(self, step: planner.LookStep) -> bool:
        """The same on hidden, for the chain as a whole."""
        metric = self.recipe.metric
        if metric is None:
            return False
        bits = [[held_score(run, "hidden").bits_per_byte for run in pair] for pair in step.pairs]
        rung, head = (math.fsum(pair[side] for pair in bits) for side in (0, 1))
        return head > rung * (1 + metric.guard_percent / 100)

    def _stop_after_failures(self) -> None:
        last = [item.status for item in self.state.experiments if item.status is not None][-MOST_FAILURES_IN_A_ROW:]
        if len(last) == MOST_FAILURES_IN_A_ROW and not {Status.KEPT, Status.REVERTED, Status.PRUNED} & set(last):
            self.journal.append("stopped", {"reason": f"{MOST_FAILURES_IN_A_ROW} experiments in a row failed"})
            raise TrainingError(
                f"{MOST_FAILURES_IN_A_ROW} experiments in a row failed", "look at `slm-ar report` and at train.py"
            )

    def _open_claim(self, state: CampaignState, step: planner.OpenClaimStep) -> None:
        night = self._nights_before(state)
        ledger.count_night(ledger.hidden_name(state), ledger.night_name(self.workspace, state))
        if night >= ledger.MANY_NIGHTS:
            self.display.note(f"{night} nights have asked this hidden split before: newer data would prove more")
        self.display.phase("claim test: proven against current code, fresh seeds, hidden split")
        self.journal.append(
            "claim_opened",
            {
                "claim": step.claim,
                "rung": state.rung,
                "head": state.head,
                "alpha": step.alpha,
                "night": night,
                "after_experiments": step.after_experiments,
            },
        )

    def _look(self, state: CampaignState, step: planner.LookStep, policy: gate.GatePolicy) -> None:
        claim = step.claim
        pairs = [gate.PairScore(*(held_score(run, "hidden").judged_groups for run in pair)) for pair in step.pairs]
        if not pairs:
            verdict = None
            decision, count = Decision.UNCLEAR, 0
            reasons: tuple[str, ...] = (NOTHING_TO_COMPARE,)
        else:
            metric = state.facts.get("metric")
            verdict = gate.judge_claim(
                pairs,
                campaign_noise(state),
                gate_policy(self.recipe, metric, hidden_level(state)) if metric else policy,
                claim.alpha,
                more_allowed=step.more_allowed,
                obstacle=metric.get("report_only", "") if metric else "",
            )
            decision, reasons, count = verdict.decision, verdict.reasons, verdict.pairs
            if decision is Decision.CERTIFY and self._claim_breaks_guard(step):
                decision = Decision.REJECT
                reasons = (*reasons, "better in the metric, but the text as a whole is predicted worse")
            if decision is Decision.CERTIFY and rung_has_fallen(state, step):
                reasons = (*reasons, RUNG_HAS_FALLEN)
        if decision is Decision.MORE_PAIRS:
            self.journal.append("claim_looked", {"claim": claim.id, "pairs": count})
            return
        head, rung = claim.head, claim.rung
        if decision is Decision.CERTIFY:
            rung = head
        elif decision is Decision.REJECT or not gate.goes_on(policy, planner.unclear_claims(state) + 1):
            head = rung
        private = {
            "pair_deltas": list(gate.paired_differences(pairs)) if pairs else [],
            "verdict": _numbers(verdict),
        }
        self.journal.append(
            "claim_closed",
            {
                "claim": claim.id,
                "decision": decision.value,
                "reasons": list(reasons),
                "pairs": count,
                "alpha": claim.alpha,
                "group_count": verdict.group_count if verdict is not None else 0,
                "new_head": head,
                "new_rung": rung,
                "private": put_private(private),
            },
        )
        words = {Decision.CERTIFY: "proven", Decision.REJECT: "not better: back to the proven code"}
        self.display.judged(f"claim {claim.id}: {words.get(decision, 'not yet proven')}", decision is Decision.CERTIFY)
        if decision is Decision.CERTIFY:
            self._mirror(PROVEN_REF, rung, f"proven by claim {claim.id}")

    def _mirror(self, ref: str, revision: str, message: str) -> None:
        if self._is_git and mirror_revision(self.workspace, ref, self.state.revisions[revision], message) is None:
            self._is_git = False
            self.display.note(f"git could not write {ref}; revisions stay in the journal alone")


# --- pure helpers ---------------------------------------------------------------------------


def _window(state: CampaignState, step: planner.JudgeStep) -> level.Window[str] | None:
    """What the search knows of the current code with this seed; None where its own run failed."""
    if step.head_run.dev is None:
        return None
    known = level.window_of(state, step.experiment.window)
    if known is not None and known.code == state.head:
        return known
    score = step.head_run.dev.judged
    return level.Window.opened(level.noise_of(state), state.head, score)


def _back_to(window: level.Window[str], step: planner.JudgeStep, score: float, status: Status | None) -> str | None:
    """The code to go back to, where this run shows that what was kept before it was luck."""
    revision, is_placebo = step.experiment.revision, step.experiment.revision == step.experiment.parent
    is_kept = status is Status.KEPT and not is_placebo
    if not level.is_reading(window, step.run, score, is_kept, is_placebo):
        return None
    found = level.follow(window, revision, score, is_kept)
    return found.code if not is_kept and found.code != window.code else None


def _numbers(verdict: Any) -> Mapping[str, float]:
    if verdict is None:
        return {}
    return {name: getattr(verdict, name) for name in ("delta", "standard_error", "threshold", "eta", "alpha")}
