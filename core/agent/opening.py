"""Opens a campaign: what identifies it, the facts that it starts with, and what the recipe means for jobs and gate.

Called by the command line before the loop. Promises: any change that makes scores incomparable starts a new campaign
and says what changed; the same hidden split keeps its spent alpha.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ..contracts import PastExperiment, ResearchContext, Status, Task
from ..errors import UsageError
from ..prepare.answers import choose_questions
from ..prepare.heldout import read_split, texts_digest
from ..prepare.pipeline import PreparedData
from ..recipe import Recipe
from ..tasks.objective import Objective
from ..train.device import Machine
from ..train.training_run import TrainJob
from . import edits, gate, level
from .journal import Journal
from .provable import smallest_effect
from .replay import replay_all
from .state import CampaignState

FEWEST_POSITIVES = 100
"""With fewer rare answers in hidden, their F1 or PR-AUC is reported and never claimed on."""
HARNESS = 2
"""Bumped when a change of the harness makes scores incomparable."""


def campaign_identity(recipe: Recipe, data: PreparedData, machine: Machine) -> str:
    """Names what must not change within one campaign; any change starts a new one."""
    tables = {"data", "tokenizer", "budget", "model", "machine", "evaluation", "gate", "metric"}
    facts = recipe.content(tables)
    facts["data"].pop("source")
    for table, name in (
        ("budget", "experiments"),
        ("budget", "hours"),
        ("budget", "prune"),  # what it ends early has no score
        ("gate", "final_pairs"),
    ):
        facts[table].pop(name)
    measured = [HARNESS, data.digest, machine.torch, machine.device, machine.name, machine.threads, machine.precision]
    if recipe.metric is not None:  # another clip or other choices make another cost
        measured.append(json.dumps([asdict(task) for task in data.manifest.tasks], sort_keys=True))
    text = json.dumps([facts, measured, recipe.proposer.seed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ensure_campaign(
    journal: Journal,
    recipe: Recipe,
    data: PreparedData,
    machine: Machine,
    train_py: str,
    may_start: bool = True,
    objective: Objective | None = None,
    isolation: str = "none",
) -> str | None:
    """Go on with the campaign of this identity, or start it; what happened in words, or None if nothing did.

    A campaign whose starting code never got through the calibration is begun again when train.py was mended. Raises
    UsageError where only an existing campaign will do.
    """
    identity = campaign_identity(recipe, data, machine)
    campaigns = replay_all(journal.events)
    known = campaigns.get(identity)
    if known is not None and known.sigma is None and known.baseline != edits.revision_digest(train_py):
        known = None
    state = next(reversed(campaigns.values())) if campaigns else None
    if known is not None and known is state:
        return None
    if known is not None:
        night = _night(journal, data.manifest.held_digest)
        journal.append("campaign_reopened", {"identity": identity, "night": night})
        return f"back in the campaign of {known.started_at[:16]}: recipe, data and machine are what they were then"
    edits.check_train_py(train_py)
    manifest = data.manifest
    facts = {
        "recipe_name": recipe.name,
        "recipe_description": recipe.description,
        "recipe_digest": recipe.digest(),
        "adapter": manifest.adapter,
        "budget_seconds": recipe.budget.seconds,
        "budget_steps": recipe.budget.steps,
        "device": machine.device,
        "machine": machine.name,
        "threads": machine.threads,
        "precision": machine.precision,
        "torch": machine.torch,
        "harness_version": version("slm-ar"),
        "data_digest": data.digest,
        "held_digest": manifest.held_digest,
        "hidden_digest": texts_digest(data.held_folder, "hidden"),
        "test_digest": texts_digest(data.held_folder, "test"),
        "identity": identity,
        "floors": manifest.floors,
        "mixture": recipe.evaluation.mixture,
        "form": recipe.model.form,
        "isolation": isolation,
        "split_bytes": {name: size.byte_count for name, size in manifest.splits.items()},
        "split_groups": {name: size.groups for name, size in manifest.splits.items()},
        "vocab_size": manifest.vocab_size,
        "gate": recipe.gate.model_dump(mode="json"),
        "search_seed": recipe.proposer.seed,
        "night": _night(journal, manifest.held_digest),
        "metric": None
        if objective is None
        else {
            "task": objective.task.name,
            "dev_unit": objective.dev_unit,
            "claim_unit": objective.claim_unit,
            "metric": objective.task.metric,
            "min_effect": objective.task.min_effect,
            "report_only": _too_rare(objective.task, data),
        },
    }
    is_mended = state is not None and state.identity == identity
    why = "a new campaign, because the starting train.py was mended" if is_mended else _why_new(state, facts)
    if not may_start:
        raise UsageError(f"this would be {why}", "undo the change, or start the new campaign with `slm-ar run`")
    baseline = edits.revision_digest(train_py)
    journal.append(
        "campaign_started", {"identity": identity, "facts": facts, "baseline": baseline, "train_py": train_py}
    )
    return why


def _too_rare(task: Task, data: PreparedData) -> str:
    """Why a rare answer cannot be claimed on; empty where hidden asks for enough of them, or none is rare."""
    if task.metric not in ("f1", "pr_auc"):
        return ""
    questions = choose_questions(read_split(data.held_folder, "hidden"), task)
    positives = sum(question.gold.strip() == task.positive for question in questions)
    if positives >= FEWEST_POSITIVES:
        return ""
    # without the answer itself: a shared report holds no values
    return f"report only: the hidden split asks for the rare answer fewer than {FEWEST_POSITIVES} times"


def _why_new(before: CampaignState | None, facts: Mapping[str, Any]) -> str:
    """In words, what differs from the campaign before: its scores cannot be compared with what comes now."""
    if before is None:
        return "a new campaign"
    names = ("data_digest", "device", "machine", "threads", "precision", "torch", "harness_version", "recipe_digest")
    words = {"data_digest": "the prepared data", "recipe_digest": "the recipe", "harness_version": "slm-ar"}
    changed = [words.get(name, name) for name in names if before.facts.get(name) != facts[name]] or ["the scoring"]
    return f"a new campaign, from the train.py of the workspace, because this changed: {', '.join(changed)}"


def _night(journal: Journal, held_digest: str) -> int:
    """Nights before, in all campaigns, that opened a claim on the same hidden split: each halves alpha."""
    held: dict[str, str] = {}
    nights, current, has_claimed = 0, "", False
    for event in journal.events:
        if event.kind in ("campaign_started", "campaign_reopened", "planned"):
            nights += has_claimed and current == held_digest
            has_claimed = False
        if event.kind == "campaign_started":
            current = held[event.body["identity"]] = event.body["facts"].get("held_digest", "")
        elif event.kind == "campaign_reopened":
            current = held[event.body["identity"]]
        elif event.kind == "claim_opened":
            has_claimed = True
    return nights + (has_claimed and current == held_digest)


# --- what the recipe means ---


def train_job(recipe: Recipe, machine: Machine, train_py: str, seed: int, factor: float = 1.0) -> TrainJob:
    """A training job with the recipe's budget, `factor` times as long."""
    budget = recipe.budget
    cap = budget.memory_gb * 1000 if budget.memory_gb else None
    return TrainJob(
        train_py=train_py,
        seed=seed,
        budget_seconds=budget.seconds * factor if budget.seconds is not None else None,
        budget_steps=max(1, round(budget.steps * factor)) if budget.steps is not None else None,
        startup_seconds=budget.startup_seconds,
        memory_mb=cap or 0.8 * machine.memory_mb,
        form=recipe.model.form,
        device_memory_mb=cap,
    )


def gate_policy(recipe: Recipe, metric: Mapping[str, Any] | None = None, level: float = 0.0) -> gate.GatePolicy:
    """The recipe's gate; with a [metric] the smallest effect worth a claim is the task's own, in the task's unit.

    `level`: the cost of the starting code on hidden, which relative effects refer to.
    """
    table = recipe.gate
    smallest = table.min_effect
    if metric:
        smallest = smallest_effect(str(metric.get("metric", "")), float(metric["min_effect"]), level)
    return gate.GatePolicy(table.alpha, tuple(table.looks), tuple(table.alpha_split), smallest, table.patience)


def research_context(state: CampaignState, program: str, recipe: Recipe, machine: Machine) -> ResearchContext:
    """What a proposer is told: rounded dev scores, statuses, hardware; nothing hidden, no corpus text."""
    sigma = state.sigma or 0.0
    gone = level.taken_back(state)
    history = tuple(
        PastExperiment(
            id=item.id,
            revision=item.revision,
            parent=item.parent,
            proposer=item.proposer,
            hypothesis=item.hypothesis,
            status=Status.REVERTED if item.id in gone else item.status,
            dev_score=gate.rounded(item.dev_score, sigma) if item.dev_score is not None else None,
            knobs=item.knobs,
            template=item.template,
            reason=level.TAKEN_BACK if item.id in gone else item.reason,
        )
        for item in state.experiments
        if item.status is not None and item.revision != item.parent  # a placebo and what was not run teach nothing
    )
    return ResearchContext(
        program=program,
        train_py=state.revisions[state.head],
        revision=state.head,
        history=history,
        hardware={"device": machine.device, "threads": machine.threads, "precision": machine.precision},
        budget={"seconds": recipe.budget.seconds, "steps": recipe.budget.steps},
        seed=recipe.proposer.seed,
        sigma=sigma,
        rates=state.rates or (),
        form=recipe.model.form,
    )
