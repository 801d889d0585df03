"""The summary of a campaign: everything that a rendering shows, computed once. Called by html, tables and the CLI.

`summarise` is a pure function of the campaign's state. What it returns holds no hidden score, no corpus text and no
internal name; the same journal always gives the same summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..agent.ledger import MANY_NIGHTS
from ..agent.provable import provable_words
from ..agent.smoking import failed_before_training, failed_share
from ..agent.state import CampaignState, ClaimRecord
from ..contracts import BITS_PER_BYTE, BITS_WITH_NGRAM, Decision, Status
from .exam import METRIC_WORDS
from .experiments import (
    DevScore,
    ExperimentRow,
    best_of_chain,
    counts_by_standing,
    dev_bits_per_byte,
    dev_score,
    experiment_rows,
    is_placebo,
    scored_runs,
)
from .verdict import NextStep, VerdictWords, next_steps, verdict_words
from .words import DECISION_WORDS, EXPLORED_STAMP, ROLE_WORDS, figure, number, plural, public_reasons, seconds, visible


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One proof in words. `after_experiment` places it on the chart; no measured difference is ever part of it."""

    id: int
    words: str
    is_proven: bool
    after_experiment: int
    pairs: int | None
    alpha: float
    groups: int | None
    notes: tuple[str, ...]
    opened_at: str
    closed_at: str


@dataclass(frozen=True, slots=True)
class FinalRow:
    """The opening of test. `delta` is final minus baseline, negative is better."""

    baseline_score: float
    final_score: float
    delta: float
    delta_low: float
    delta_high: float
    pairs: int
    unit: str
    baseline_bits_per_byte: float
    final_bits_per_byte: float
    baseline_bits_per_record: float
    final_bits_per_record: float
    is_proven: bool
    at: str


@dataclass(frozen=True, slots=True)
class ExamEntry:
    """A baseline's metric in one task, and who is better by the interval of the difference."""

    name: str
    value: float
    words: str


@dataclass(frozen=True, slots=True)
class ExamRow:
    """The model in one task, beside the baselines, the best one first."""

    task: str
    metric: str
    model: float | None
    questions: int
    baselines: tuple[ExamEntry, ...]


@dataclass(frozen=True, slots=True)
class Floor:
    """What a method without a neural network reaches. Adaptive ones learn from the text they score."""

    name: str
    score: float
    is_adaptive: bool


@dataclass(frozen=True, slots=True)
class CompressorAnswer:
    """Does the current code beat the strictest floor? `answer` is yes, no or close."""

    answer: str
    sentence: str


@dataclass(frozen=True, slots=True)
class LadderStep:
    """One step of untuned -> tuned start -> proven -> finished; scores of different splits are not comparable."""

    name: str
    score: float
    split: str
    note: str


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything the renderings show. All of it can be written as JSON."""

    recipe_name: str
    recipe_description: str
    adapter: str
    device: str
    budget: str
    identity: str
    started_at: str
    stop_reason: str
    doing: str
    """What runs at the moment, or ran when it was interrupted; empty when nothing does."""
    stamp: str
    """"explored, not certified: ..." when no sandbox was proved, else empty."""
    verdict: VerdictWords
    unit: str
    """What scores on dev count: bits per byte, or bits per answer of the recipe's [metric]."""
    claim_unit: str
    """The same for hidden and test."""
    text_start: float | None
    text_current: float | None
    """Bits per byte on dev of the starting and the current code, where the scores count something else."""
    exam_split: str
    exam: tuple[ExamRow, ...]
    """How the finished model answered the tasks of `exam_split`, beside baselines."""
    baseline: DevScore
    current: DevScore
    best_current_score: float | None
    proven: DevScore | None
    sigma: float | None
    provable: str
    """From which gain on something could be proven, with its unit; empty while the noise is not known."""
    calibration: tuple[float, ...]
    experiments: tuple[ExperimentRow, ...]
    experiments_planned: int | None
    counts: Mapping[str, int]
    """Edits by what became of them, "taken back" apart from "kept"; placebos are not among them."""
    placebos: int
    placebos_kept: int
    failed_before_training: int
    """Experiments that a try of two steps ended: no training second was spent on them."""
    failed_share: float | None
    """Share of the training seconds of proposals that went into those that failed all the same."""
    claims: tuple[ClaimRow, ...]
    spent: str
    """What language models took; empty where none was asked, or nobody told."""
    asked: str
    """How often the hidden split was asked, and how often its answer may be wrong; empty before the first claim."""
    final: FinalRow | None
    floors: tuple[Floor, ...]
    compressor: CompressorAnswer | None
    ladder: tuple[LadderStep, ...]
    plan: str
    next_steps: tuple[NextStep, ...]
    machine: Mapping[str, str]
    data: Mapping[str, str]
    hashes: Mapping[str, str]

    @property
    def stamped_headline(self) -> str:
        """The verdict's headline with the stamp: as it may stand alone."""
        return self.verdict.headline + (f" [{self.stamp}]" if self.stamp else "")

    @property
    def text_words(self) -> str:
        """What `text_start` and `text_current` are beside the scores."""
        return "alone" if self.unit == BITS_WITH_NGRAM else "as text"

    @property
    def failed_words(self) -> str:
        """What failed proposals cost: those that a try of two steps ended, and the others; empty where none failed."""
        parts = []
        if self.failed_before_training:
            parts.append(f"{self.failed_before_training} failed before training")
        if self.failed_share:
            parts.append(f"{100 * self.failed_share:.1f} % of the training time went into failures")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, texts and finite numbers, ready for `json.dumps`."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def summarise(
    state: CampaignState,
    *,
    more_runs: int | None = None,
    unproven_note: str = "",
    left_machine: str = "",
    spent: str = "",
) -> Summary:
    """Everything that people are shown of a campaign.

    `more_runs`: runs that would settle what is not yet proven, where the caller knows better than the estimate from
    dev. `unproven_note`: a sentence that is added to the verdict while something is not yet proven.
    `left_machine`: what the workspace's ledger says was sent to others. `spent`: what its language models took.
    """
    facts = state.facts
    stamp = stamp_of(state)
    current = dev_score(state, state.head)
    # Compressors know no tasks: their bits per byte are no bar for another unit.
    floors = _floors(facts.get("floors")) if state.unit in (BITS_PER_BYTE, BITS_WITH_NGRAM) else ()
    placebos = [item for item in state.experiments if is_placebo(item)]
    planned = number(facts.get("experiments_planned"))
    is_proven = state.rung != state.baseline
    return Summary(
        recipe_name=_text(facts.get("recipe_name")) or "unnamed recipe",
        recipe_description=_text(facts.get("recipe_description"), 600),
        adapter=_text(facts.get("adapter")),
        device=_text(facts.get("device")),
        budget=_budget(facts),
        identity=_text(facts.get("identity") or state.identity),
        started_at=_text(state.started_at),
        stop_reason=_text(state.stop_reason, 400),
        doing=_doing(state.open_run),
        stamp=stamp,
        verdict=verdict_words(state, more_runs=more_runs, note=visible(unproven_note, 400)),
        unit=state.unit,
        claim_unit=state.claim_unit,
        text_start=dev_bits_per_byte(state, state.baseline) if state.unit != BITS_PER_BYTE else None,
        text_current=dev_bits_per_byte(state, state.head) if state.unit != BITS_PER_BYTE else None,
        exam_split=state.exam[0] if state.exam is not None else "",
        exam=_exam_rows(state),
        baseline=dev_score(state, state.baseline),
        current=current,
        best_current_score=best_of_chain(state, state.head),
        proven=dev_score(state, state.rung) if is_proven else None,
        sigma=number(state.sigma),
        provable=provable_words(state),
        calibration=tuple(
            run.dev.judged for run in scored_runs(state) if run.role == "calibrate" and run.dev is not None
        ),
        experiments=experiment_rows(state),
        experiments_planned=int(planned) if planned is not None else None,
        counts=counts_by_standing(state),
        placebos=len(placebos),
        placebos_kept=sum(item.status is Status.KEPT for item in placebos),
        failed_before_training=sum(failed_before_training(item) for item in state.experiments),
        failed_share=failed_share(state),
        claims=tuple(_claim_row(state, claim, not stamp) for claim in state.claims),
        spent=_text(spent),
        asked=_asked(state.claims),
        final=_final_row(state),
        floors=floors,
        compressor=_compressor(current.score, floors, state.sigma),
        ladder=_ladder(state),
        plan=_plan(facts.get("plan")),
        next_steps=next_steps(state),
        machine=_labelled(
            facts,
            ("device", "device"),
            ("threads", "threads"),
            ("precision", "precision"),
            ("form", "form asked for"),
            ("torch", "torch"),
            ("isolation", "sandbox"),
            ("harness_version", "slm-ar"),
        )
        | ({"sandbox": "none proved"} if stamp else {})
        | ({"language models": _text(spent)} if spent else {})
        | ({"left this machine": _text(left_machine, 400)} if left_machine else {}),
        data=_data(facts),
        hashes={
            **_labelled(facts, ("data_digest", "data"), ("recipe_digest", "recipe")),
            "campaign": _text(facts.get("identity") or state.identity),
            "code at the start": _text(state.baseline),
            "current code": _text(state.head),
            **({"proven code": _text(state.proven_code)} if is_proven else {}),
            "journal": _text(state.chain_head),
        },
    )


def stamp_of(state: CampaignState) -> str:
    """ "explored, not certified: ..." where no sandbox was proved, in one night or in all; else empty."""
    return EXPLORED_STAMP if _text(state.facts.get("isolation")) in ("", "none") else ""


def _text(value: Any, limit: int = 200) -> str:
    return "" if value is None else visible(str(value), limit, single_line=True)


def _labelled(facts: Mapping[str, Any], *pairs: tuple[str, str]) -> dict[str, str]:
    return {label: _text(facts[key]) for key, label in pairs if facts.get(key) is not None}


def _budget(facts: Mapping[str, Any]) -> str:
    steps, duration = number(facts.get("budget_steps")), number(facts.get("budget_seconds"))
    if steps is not None:
        return f"{steps:,.0f} steps per run"
    return f"{seconds(duration)} per run" if duration is not None else ""


def _doing(open_run: Mapping[str, Any] | None) -> str:
    if open_run is None:
        return ""
    role = ROLE_WORDS.get(str(open_run.get("role")), "a training run")
    experiment = open_run.get("experiment")
    return f"{role} (experiment {experiment})" if isinstance(experiment, int) else role


def _plan(plan: Any) -> str:
    if not isinstance(plan, Mapping):
        return ""
    words = {"calibrate": "noise", "search": "ideas", "claim": "proof", "prune": "to prune", "final": "final test"}
    counts = {key: number(plan.get(key)) for key in words}
    parts = [f"{count:.0f} {words[key]}" for key, count in counts.items() if count or (count == 0 and key != "prune")]
    total, minutes = number(plan.get("total")), number(plan.get("minutes"))
    text = (f"{total:.0f} runs: " if total is not None else "") + ", ".join(parts)
    return text + (f"; about {seconds(minutes * 60)}" if minutes is not None else "")


def _data(facts: Mapping[str, Any]) -> dict[str, str]:
    shown = _labelled(facts, ("adapter", "adapter"))
    sizes, groups = facts.get("split_bytes"), facts.get("split_groups")
    for split in ("train", "dev", "hidden", "test"):
        size = number(sizes.get(split)) if isinstance(sizes, Mapping) else None
        count = number(groups.get(split)) if isinstance(groups, Mapping) else None
        parts = [f"{size:,.0f} bytes"] if size is not None else []
        parts += [plural(int(count), "group")] if count is not None else []
        if parts:
            shown[split] = ", ".join(parts)
    vocabulary = number(facts.get("vocab_size"))
    return shown | ({"vocabulary": f"{vocabulary:,.0f} tokens"} if vocabulary is not None else {})


def _floors(floors: Any) -> tuple[Floor, ...]:
    if not isinstance(floors, Mapping):
        return ()
    values = ((_text(name, 60), number(value)) for name, value in floors.items())
    # xz has no model to train beforehand: it always learns from the text that it compresses
    found = [
        Floor(name, value, "adaptive" in name.lower() or name.lower().startswith("xz"))
        for name, value in values
        if value is not None
    ]
    return tuple(sorted(found, key=lambda floor: (floor.score, floor.name)))


def _compressor(current: float | None, floors: tuple[Floor, ...], sigma: float | None) -> CompressorAnswer | None:
    bars = [floor for floor in floors if not floor.is_adaptive] or list(floors)
    if current is None or not bars:
        return None
    bar = bars[0]
    margin = bar.score - current
    against = f"{figure(current)} on dev against {figure(bar.score)} for {bar.name}"
    has_ngram = any("gram" in floor.name for floor in bars)
    question = "Beats n-grams and compressors?" if has_ngram else "Beats the compressor?"
    if abs(margin) <= (sigma or 0):
        return CompressorAnswer("close", f"{question} Too close to call: {against}.")
    if margin > 0:
        return CompressorAnswer("yes", f"{question} Yes: {against}{', the best of them' * has_ngram}.")
    return CompressorAnswer("no", f"{question} No, not yet: {against}.")


def _ladder(state: CampaignState) -> tuple[LadderStep, ...]:
    steps = []
    untuned = number(state.facts.get("untuned_bpb"))
    if untuned is not None:
        steps.append(LadderStep("untuned", untuned, "dev", "train.py as it is shipped"))
    start = dev_score(state, state.baseline)
    if start.score is not None:
        steps.append(LadderStep("tuned start", start.score, "dev", f"mean of {plural(start.runs, 'run')}"))
    proven = dev_score(state, state.rung)
    if state.rung != state.baseline and proven.score is not None:
        steps.append(LadderStep("proven", proven.score, "dev", f"mean of {plural(proven.runs, 'run')}"))
    elif state.head != state.baseline and (current := dev_score(state, state.head)).score is not None:
        steps.append(LadderStep("kept for now", current.score, "dev", "not yet proven"))
    if state.final is not None:
        steps.append(LadderStep("start, on test", state.final.baseline_score, "test", "same runs as finished"))
        pairs = f"{plural(state.final.pairs, 'pair')} of runs"
        steps.append(LadderStep("finished", state.final.final_score, "test", pairs))
    return tuple(steps)


def _claim_row(state: CampaignState, claim: ClaimRecord, certified: bool) -> ClaimRow:
    # only the decision, the public sizes and the reasons are read: the differences of a verdict are hidden scores
    verdict = claim.verdict
    passed = verdict is not None and verdict.decision is Decision.CERTIFY
    words = "not finished" if verdict is None else DECISION_WORDS[verdict.decision]
    if passed and not certified:
        words += " (explored, not certified)"
    before = [item.id for item in state.experiments if (item.judged_at or item.proposed_at) <= claim.opened_at]
    return ClaimRow(
        id=claim.id,
        words=words,
        is_proven=passed,
        after_experiment=max(before, default=0),
        pairs=verdict.pairs if verdict is not None else None,
        alpha=claim.alpha,
        groups=verdict.group_count if verdict is not None else None,
        notes=public_reasons(verdict.reasons) if verdict is not None else (),
        opened_at=_text(claim.opened_at),
        closed_at=_text(claim.closed_at),
    )


def _asked(claims: tuple[ClaimRecord, ...]) -> str:
    if not claims:
        return ""
    newest = claims[-1]
    words = f"{plural(len(claims), 'question')} to the hidden split; "
    if newest.night:
        words += f"{plural(newest.night, 'night')} before asked it too, so that less chance of error is left; "
    words += f"the newest claim, if proven, may be wrong with a chance of {100 * newest.alpha:.2g} %"
    return words + (": it is nearly used up, newer data would prove more" if newest.night >= MANY_NIGHTS else "")


def _final_row(state: CampaignState) -> FinalRow | None:
    final = state.final
    if final is None:
        return None
    return FinalRow(
        baseline_score=final.baseline_score,
        final_score=final.final_score,
        delta=final.delta,
        delta_low=final.delta_low,
        delta_high=final.delta_high,
        pairs=final.pairs,
        unit=state.claim_unit,
        baseline_bits_per_byte=final.baseline_bits_per_byte,
        final_bits_per_byte=final.final_bits_per_byte,
        baseline_bits_per_record=final.baseline_bits_per_record,
        final_bits_per_record=final.final_bits_per_record,
        is_proven=final.is_proven,
        at=_text(final.at),
    )


def _exam_rows(state: CampaignState) -> tuple[ExamRow, ...]:
    rows = []
    for result in state.exam[1] if state.exam is not None else ():
        metric, sign = str(result["metric"]), 1 if result["direction"] == "min" else -1
        baselines = {_text(name, 60): number(scores.get(metric)) for name, scores in result["baselines"].items()}
        known = {name: value for name, value in baselines.items() if value is not None}
        intervals = {_text(name, 60): interval for name, interval in result["differences"].items()}
        entries = tuple(
            ExamEntry(name, known[name], _winner(intervals.get(name), sign))
            for name in sorted(known, key=lambda name: (sign * known[name], name))
        )
        model = number(result["model"].get(metric))
        words = METRIC_WORDS.get(metric, metric.replace("_", " "))
        rows.append(ExamRow(_text(result["task"], 60), words, model, int(result["questions"]), entries))
    return tuple(rows)


def _winner(interval: Any, sign: int) -> str:
    """Who is better, from the interval of model minus baseline."""
    low, high = (number(interval[1]), number(interval[2])) if interval is not None else (None, None)
    if low is None or high is None or low <= 0 <= high:
        return "no clear difference"
    return "the model is better" if (high < 0) == (sign == 1) else "better than the model"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return number(value) if isinstance(value, float) else value
