"""The end of a campaign: prune pass, final test on fresh paired seeds, samples, longer training of the proven code.

Called by `slm-ar finish` and `demo`. Promises: test is opened for one pair of revisions only, and the journal says so
before the first score; an interrupted final test goes on with the same pair and seeds.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..contracts import BITS_WITH_NGRAM, SplitScore
from ..errors import TrainingError, UsageError
from ..prepare.tokenizer import BOS, EOS
from ..tasks.generate import generate_text
from ..train.executor import window_context
from . import edits, gate, level, planner, prune_pass
from .campaign import Campaign
from .held import held_score
from .ledger import count_opening, name_of_test
from .state import CampaignState, ExperimentRecord, FinalRecord, PruneRecord, RunRecord

SAMPLE_TOKENS = 96
SPARE_SEEDS = 3


def final_pair(state: CampaignState) -> tuple[str, str]:
    """(baseline, final): what test is opened for. The proven code, else what looks best so far."""
    if state.final_pair is not None:
        return state.final_pair
    code = _best_code(state)
    if state.prune is not None and state.prune.code == code and state.prune.revision is not None:
        code = state.prune.revision
    return state.baseline, code


def _best_code(state: CampaignState) -> str:
    return state.rung if state.rung != state.baseline else state.head


# --- prune pass -----------------------------------------------------------------------------


def prune_edits(campaign: Campaign) -> None:
    """Take the kept edits that do not help on dev out of the code that test will be opened for.

    Does nothing for a small campaign, for fewer than two edits that can be taken out, and once test is open.
    """
    campaign.close_interrupted_run()
    state = campaign.state
    code = _best_code(state)
    if state.final_pair is not None or state.final is not None or state.sigma is None:
        return
    if state.prune is None or state.prune.code != code:
        plan = _prune_plan(state, code)
        if plan is None:
            return
        campaign.journal.append("prune_planned", plan)
    record = campaign.state.prune
    assert record is not None
    if record.revision is not None:
        return
    campaign.display.phase("prune pass: which of the kept edits help?")
    scores = [_prune_score(campaign, revision, seed) for revision, _, seed in record.rows]
    facts = _pruned(campaign.state, record, scores)
    campaign.journal.append("pruned", facts)
    words = f"{len(facts['out'])} of {len(record.edits)} kept edits do not help and were taken out"
    campaign.display.note(words if facts["out"] else "the prune pass took no edit out")


def _prune_plan(state: CampaignState, code: str) -> dict[str, Any] | None:
    """The event that plans the pass: edits, runs and their texts; None where a pass makes no sense."""
    judged = sum(1 for item in state.experiments if item.status is not None)
    chain = level.chain(state, code)
    texts = _texts(state, chain)
    final = state.revisions[code]
    free = [edit.id for edit in prune_pass.removable(final, texts)]
    if judged < prune_pass.FEWEST_EXPERIMENTS or len(free) < 2:
        return None
    # Where there are too many, those that looked surest when they were kept stay.
    gains = {item.id: item.gain or 0.0 for item in chain}
    free = sorted(sorted(free, key=lambda edit: gains[edit])[: prune_pass.MOST_EDITS])
    rows, revisions = [], {}
    for row in prune_pass.design(free):
        text = prune_pass.without(final, texts, row.out)
        if text is not None:  # a combination that cannot be built has no run
            revisions[edits.revision_digest(text)] = text
            rows.append({"revision": edits.revision_digest(text), "out": list(row.out), "seed": row.seed})
    stays = [item.id for item in chain if item.id not in free]
    return {"code": code, "edits": free, "stays": stays, "rows": rows, "texts": revisions}


def _prune_score(campaign: Campaign, revision: str, seed: int) -> float | None:
    state = campaign.state
    assert state.prune is not None
    step = planner.TrainStep("prune", revision, planner.run_seed(state, f"prune {state.prune.code}", seed), ("dev",))
    run = _settled(campaign, step)
    return run.dev.judged if run.is_scored and run.dev is not None else None


def _pruned(state: CampaignState, record: PruneRecord, scores: list[float | None]) -> dict[str, Any]:
    """The event that closes the pass."""
    assert state.sigma is not None
    chain = level.chain(state, record.code)
    text = state.revisions[record.code]
    out: tuple[int, ...] = ()
    rows = [prune_pass.Row(left_out, seed) for _, left_out, seed in record.rows]
    effects = prune_pass.effects(record.edits, rows, scores) or {}
    if effects:
        lines = {
            item.id: edits.code_lines(state.revisions[item.revision]) - edits.code_lines(state.revisions[item.parent])
            for item in chain
        }
        worst_first = prune_pass.unhelpful(effects, lines, state.sigma)
        if len(worst_first) < len(chain):  # where nothing helps, the runs contradict what was kept: believe neither
            text, out = prune_pass.pruned(text, _texts(state, chain), worst_first)
    digest = edits.revision_digest(text)
    return {"code": record.code, "revision": digest, "train_py": text, "out": list(out), "effects": effects}


def _texts(state: CampaignState, chain: Sequence[ExperimentRecord]) -> list[prune_pass.Edit]:
    return [prune_pass.Edit(item.id, state.revisions[item.parent], state.revisions[item.revision]) for item in chain]


# --- final test -----------------------------------------------------------------------------


def is_unchanged(state: CampaignState) -> bool:
    """Whether nothing was kept, so that the final test would measure the starting code against itself."""
    baseline, final = final_pair(state)
    return baseline == final


def final_test(campaign: Campaign, pairs_wanted: int) -> FinalRecord | None:
    """Open test once and measure baseline and final code with paired fresh seeds. Returns what is there if it is.

    Test stays closed where there is nothing to measure: then there is no record.
    """
    campaign.close_interrupted_run()
    state = campaign.state
    if state.final is not None:
        return state.final
    if state.open_run is None and state.sigma is None:
        raise UsageError("there is nothing to finish yet", "run `slm-ar run` first")
    if is_unchanged(state):
        campaign.display.note("test stays closed: no edit was kept, so there is nothing to measure on it")
        return None
    baseline, final = final_pair(state)
    if state.final_pair is None:
        opening = count_opening(name_of_test(state), f"{state.identity}-{baseline}")
        campaign.journal.append("final_opened", {"baseline": baseline, "final": final, "opening": opening})
        if opening > 1:
            campaign.display.note(f"opening number {opening} of this test split: it is no longer unseen")
    campaign.display.phase("final test: fresh seeds, the test split is opened")
    pairs: list[tuple[RunRecord, RunRecord]] = []
    lost_by = [0, 0]
    for index in range(pairs_wanted + SPARE_SEEDS):
        if len(pairs) == pairs_wanted:
            break
        seed = planner.run_seed(state, "final", index)
        steps = (planner.TrainStep("final", item, seed, ("test",)) for item in (baseline, final))
        old, new = (_settled(campaign, step) for step in steps)
        if old.is_scored and new.is_scored:
            pairs.append((old, new))
        lost_by = [count + planner.lost_by_itself(run) for count, run in zip(lost_by, (old, new), strict=True)]
    if len(pairs) < 2:
        raise TrainingError(
            "the final test has fewer than two pairs of runs that worked",
            "see `slm-ar report` for why they failed",
        )
    record = _measured(campaign.state, baseline, final, pairs)
    if lost_by[1] > lost_by[0]:
        campaign.display.note("the final code lost more runs than the starting code: what is left proves nothing")
        record = replace(record, is_proven=False)
    facts = {name: getattr(record, name) for name in record.__slots__ if name != "at"}
    campaign.journal.append("final", facts)
    finished = campaign.state.final
    assert finished is not None
    return finished


def _settled(campaign: Campaign, step: planner.TrainStep) -> RunRecord:
    while (run := planner.settled_run(campaign.state, step)) is None:
        campaign.waits_in_vain(None)  # what starts beside a run, new sandboxes, disturbs nobody else's
        try:
            campaign.train(step)
        finally:
            campaign.give_back_device()
    return run


def _measured(state: CampaignState, baseline: str, final: str, pairs: list[tuple[RunRecord, RunRecord]]) -> FinalRecord:
    scores = [tuple(held_score(run, "test") for run in pair) for pair in pairs]
    sides = [[pair[0] for pair in scores], [pair[1] for pair in scores]]
    measured = [gate.PairScore(old.judged_groups, new.judged_groups) for old, new in scores]
    delta, low, high = gate.final_interval(measured)
    old_bpb, new_bpb = (math.fsum(score.bits_per_byte for score in side) / len(side) for side in sides)
    bytes_per_record = scores[0][0].byte_count / max(1, scores[0][0].record_count)
    return FinalRecord(
        baseline=baseline,
        final=final,
        is_proven=state.rung != baseline and final in (state.rung, state.pruned_rung),
        pairs=len(pairs),
        baseline_score=math.fsum(score.judged for score in sides[0]) / len(scores),
        final_score=math.fsum(score.judged for score in sides[1]) / len(scores),
        delta=delta,
        delta_low=low,
        delta_high=high,
        baseline_bits_per_record=old_bpb * bytes_per_record,
        final_bits_per_record=new_bpb * bytes_per_record,
        baseline_bits_per_byte=old_bpb,
        final_bits_per_byte=new_bpb,
        at="",
        opening=int(state.facts.get("test_opening", 1)),
    )


def write_samples(campaign: Campaign) -> None:
    """Generate one text with the baseline and one with the final code, from the beginning of a train document.

    Where these are the same there is one text, "before". A model that is refused has none; by now it was scored, and a
    sample is not worth the loss of a night's end.
    """
    from ..train.checkpoint import InvalidCheckpointError

    state = campaign.state
    baseline, final = final_pair(state)
    prompt = opening_of_train(campaign)
    samples = {}
    for revision, name in {final: "after", baseline: "before"}.items():
        folder = campaign.newest_checkpoint(revision)
        if folder is None or name in state.samples:
            continue
        context = window_context(folder, campaign.recipe.evaluation.context)
        with contextlib.suppress(InvalidCheckpointError), campaign.executor.writer(folder, context) as source:
            text = generate_text(source, campaign.executor.tokenizer, prompt, context, SAMPLE_TOKENS)
            samples[name] = prompt + text
    if samples:
        campaign.journal.append("samples", {"samples": samples})


def opening_of_train(campaign: Campaign, longest: int = 12) -> str:
    """The first line of a train document, or its first `longest` tokens: a prompt that suits the corpus."""
    import numpy as np

    data = campaign.executor.data
    tokens = np.memmap(data.folder / "train.tokens", dtype=data.manifest.token_dtype, mode="r")
    ids = [int(token) for token in tokens[: 4 * longest] if token not in (BOS, EOS)]
    text = str(campaign.executor.tokenizer.decode(ids, skip_special_tokens=False))
    line, newline, _ = text.partition("\n")
    if newline and line.strip():
        return line + newline
    return str(campaign.executor.tokenizer.decode(ids[:longest], skip_special_tokens=False))


def _mixed_facts(score: SplitScore) -> dict[str, str]:
    """What the card tells where the campaign judged models together with an n-gram, which is no part of the folder."""
    if score.objective is None or score.objective.unit != BITS_WITH_NGRAM:
        return {}
    return {
        f"{BITS_WITH_NGRAM} on dev": f"{score.objective.value:.4f}: inside the workspace alone, where slm-ar mixes it",
        "this folder": "the neural model alone, without the n-gram",
    }


@dataclass(frozen=True, slots=True)
class FinalTraining:
    """The checkpoint of the longer training, and what the card tells of it."""

    folder: Path
    dev_bits_per_byte: float
    facts: dict[str, Any]


def train_longer(campaign: Campaign, headline: str) -> FinalTraining:
    """Train the proven code `train_factor` times as long and score it on dev. Raises TrainingError."""
    state, recipe = campaign.state, campaign.recipe
    # What the headline was measured for; without a proven final test, what is proven so far.
    revision = state.final.final if state.final is not None and state.final.is_proven else state.rung
    factor = recipe.finish.train_factor
    job = campaign.job(state.revisions[revision], planner.run_seed(state, "finish", 0), factor)
    folder = campaign.runs_folder / "finish"
    outcome = campaign.trained(f"final training, {factor:g} times as long", job, folder)
    if outcome.status is not None:
        raise TrainingError(
            f"the final training failed: {outcome.status.value}: {outcome.reason}",
            f"its log is {folder / 'log.txt'}; run `slm-ar finish` again",
        )
    score = campaign.executor.score(folder, "dev", recipe.evaluation.context)
    machine = campaign.executor.machine
    table = {
        "bits per byte on dev": f"{score.bits_per_byte:.4f}",
        **_mixed_facts(score),
        "parameters": f"{outcome.parameters:,}",
        "form asked for": recipe.model.form,
        "trained": f"{outcome.train_seconds:.0f} s, {outcome.steps:,} steps, {outcome.tokens:,} tokens",
        "device": f"{machine.device} ({machine.name}), {machine.precision}",
        "corpus": f"{campaign.executor.data.manifest.adapter}, data {campaign.executor.data.digest}",
        "code": f"revision {revision}, {'proven' if revision != state.baseline else 'the starting code'}",
        "campaign": state.identity,
    }
    facts = {"name": recipe.name, "description": recipe.description, "headline": headline, "table": table}
    return FinalTraining(folder, score.bits_per_byte, facts)
