"""Claims on task metrics in simulation: accuracy, macro-F1, PR-AUC and mean errors of models whose quality is known.

Called by simulate_table.py and the tests. Nothing of the rule is repeated here: answers become groups through
tasks/metrics.py (jackknife pseudo-values where a metric does not add up), verdicts come from gate.py. A model is a
margin by which it sees the right answer; groups, questions, seeds and the code itself each add their own noise to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..contracts import Decision, Task, TaskAnswer
from ..tasks.metrics import as_groups, metric_value
from . import gate
from .provable import smallest_effect
from .simulate import DEFAULT_POLICY

Vector = npt.NDArray[np.float64]

CLAIMS = gate.NIGHT_CLAIMS
CHOICES = ("on time", "late", "very late")
SHARES = (0.6, 0.25, 0.15)
MARGIN = 1.0  # of the proven code; a gain of 0.1 is worth about two points of macro-F1
POPULATION_GROUPS = 1500
GROUP_NOISE, QUESTION_NOISE, CODE_NOISE, SEED_NOISE, RUN_NOISE = 0.3, 1.0, 0.3, 0.05, 0.3
TYPICAL_MINUTES = 10.0

TASKS = {
    "accuracy": Task("delay", "choice", "accuracy", "max", choices=CHOICES),
    "macro_f1": Task("delay", "choice", "macro_f1", "max", choices=CHOICES),
    "pr_auc": Task("delay", "choice", "pr_auc", "max", choices=CHOICES, positive="late"),
    "mae": Task("minutes", "value", "mae", "min"),
}


@dataclass(frozen=True, slots=True)
class MetricCondition:
    """One world of answers. `gain` is added to the margin of every head: 0 for worthless edits."""

    metric: str = "macro_f1"
    gain: float = 0.0
    group_count: int = 30
    questions: int = 500
    calibration_runs: int = 5


@dataclass(frozen=True, slots=True)
class MetricStatistics:
    """What many nights of one condition gave."""

    nights: int
    certified_nights: int
    """Nights in which at least one of the four claims was certified; false ones when the gain is 0."""
    certified_claims: int
    """Of the first claims of these nights."""
    true_level: float
    true_gain: float
    """In the unit of the metric, over a large population; positive is better."""


class _Hidden:
    """A hidden split: golds and what makes its questions hard, equal for all models and seeds."""

    def __init__(self, condition: MetricCondition, random: np.random.Generator) -> None:
        self.task, self.random = TASKS[condition.metric], random
        self.groups = random.integers(condition.group_count, size=condition.questions)
        self.labels = random.choice(len(CHOICES), size=condition.questions, p=SHARES)
        self.minutes = np.round(random.exponential(TYPICAL_MINUTES, condition.questions), 1)
        group_part = GROUP_NOISE * random.standard_normal(condition.group_count)[self.groups]
        self.hardness = group_part + QUESTION_NOISE * random.standard_normal(condition.questions)

    def code(self, gain: float) -> Vector:
        """The margin of a new code at every question."""
        return MARGIN + gain - self.hardness + CODE_NOISE * self.random.standard_normal(len(self.hardness))

    def answers(self, code: Vector, seed_luck: float) -> tuple[TaskAnswer, ...]:
        """What one run of a code answers; two codes share the luck of a seed."""
        margins = code + SEED_NOISE * seed_luck + RUN_NOISE * self.random.standard_normal(len(code))
        names = [f"group {number}" for number in self.groups]
        if self.task.kind == "value":
            # The error shrinks as the margin grows, and never changes sign, so that the truth is easy to say.
            guesses = np.round(self.minutes + TYPICAL_MINUTES * np.exp(-margins), 3)
            golds = zip(names, self.minutes.tolist(), guesses.tolist(), strict=True)
            return tuple(TaskAnswer("d", 0, name, str(gold), str(guess)) for name, gold, guess in golds)
        rivals = self.random.standard_normal((len(code), len(CHOICES)))
        rivals[np.arange(len(code)), self.labels] = margins
        odds = np.exp(rivals)
        chances = odds / odds.sum(1, keepdims=True)
        guessed = chances.argmax(1)
        positive = CHOICES.index(self.task.positive) if self.task.positive else 0
        return tuple(
            TaskAnswer("d", 0, name, CHOICES[gold], CHOICES[guess], probability)
            for name, gold, guess, probability in zip(
                names, self.labels.tolist(), guessed.tolist(), chances[:, positive].tolist(), strict=True
            )
        )


def true_levels(condition: MetricCondition, seed: int) -> tuple[float, float]:
    """(metric of the proven code, gain of a head) over a large population; a positive gain is better."""
    per_group = max(1, condition.questions // condition.group_count)
    crowd = MetricCondition(condition.metric, 0.0, POPULATION_GROUPS, POPULATION_GROUPS * per_group)
    levels = []
    for gain in (0.0, condition.gain):
        hidden = _Hidden(crowd, np.random.default_rng(seed))
        levels.append(metric_value(hidden.task, condition.metric, hidden.answers(hidden.code(gain), 0.0)))
    sign = 1.0 if TASKS[condition.metric].direction == "max" else -1.0
    return levels[0], sign * (levels[1] - levels[0])


def simulate_metric(condition: MetricCondition, nights: int, seed: int) -> MetricStatistics:
    """Play `nights` nights of CLAIMS claims each; the result is a function of the arguments."""
    played = [_night(condition, random) for random in np.random.default_rng(seed).spawn(nights)]
    level, gain = true_levels(condition, seed)
    return MetricStatistics(
        nights=nights,
        certified_nights=sum(any(night) for night in played),
        certified_claims=sum(night[0] for night in played),
        true_level=level,
        true_gain=gain if condition.gain else 0.0,
    )


def _night(condition: MetricCondition, random: np.random.Generator) -> list[bool]:
    """Whether each of a night's claims was certified."""
    hidden = _Hidden(condition, random)
    task, baseline = hidden.task, hidden.code(0.0)
    scores = [
        metric_value(task, task.metric, hidden.answers(baseline, random.standard_normal()))
        for _ in range(condition.calibration_runs)
    ]
    noise = gate.noise_from_calibration(scores)
    policy = gate.GatePolicy(
        DEFAULT_POLICY.alpha,
        DEFAULT_POLICY.looks,
        DEFAULT_POLICY.alpha_split,
        smallest_effect(task.metric, task.min_effect, math.fsum(scores) / len(scores)),
        direction=task.direction,
    )
    certified = []
    for claim in range(CLAIMS):
        head, pairs, decision = hidden.code(condition.gain), [], Decision.MORE_PAIRS
        while decision is Decision.MORE_PAIRS:
            luck = random.standard_normal()
            runs = (as_groups(task, hidden.answers(code, luck)) for code in (baseline, head))
            pairs.append(gate.PairScore(*runs))
            decision = gate.judge_claim(pairs, noise, policy, gate.claim_alpha(policy, 0, claim)).decision
        noise = noise.pooled_with(gate.paired_differences(pairs))
        certified.append(decision is Decision.CERTIFY)
    return certified
