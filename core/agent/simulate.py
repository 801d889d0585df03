"""Whole nights of research in simulation, judged by the shipped gate: what its constants really promise.

Called by `slm-ar simulate-gate` and the tests. Nothing of the rule is repeated here: every keep comes from level.py,
every verdict, alpha and interval from gate.py, the prune pass from prune_pass.py, the end of hopeless runs from
pruning.py, windows and placebos from planner.py. The world is made of numbers instead of trained models: each edit has
a true effect, an interaction with each split (drawn per group) and seed noise; all in units of sigma, the noise of one
run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..contracts import Decision, GroupScore
from . import gate, level, planner, prune_pass, pruning

Vector = npt.NDArray[np.float64]

SIGMA = 0.02  # bits per byte of one sigma; large enough that eta is half a sigma, as on real models
LEVEL = 2.0  # bits per byte of the baseline; only differences matter
DRIFT_MEMORY = 0.95  # correlation of the machine's drift between one run and the next
HIDDEN, TEST = 0, 1  # rows of _Code.groups
LOOK_NOISE = 1.5  # sigma of one run's score at a look; assumed, early scores differ more from seed to seed
RANK_KEPT = {0.125: 0.96, 0.25: 0.92}  # correlation of scores at a look with those at the end (measured, docs/gate.md)
LEAST_SPREAD = 1.0  # sigma; codes differ by this much at least on their way, also where none helps or harms
LOOK_COST = 0.015  # of a run, for one look
DEFAULT_POLICY = gate.GatePolicy(alpha=0.04, looks=(1, 2, 4, 8), alpha_split=(0.05, 0.15, 0.3, 0.5))


@dataclass(frozen=True, slots=True)
class Effects:
    """The true effects of a night's edits, in sigma: exponential gains and losses, the rest without any effect."""

    help_share: float = 0.0
    help_mean: float = 0.0
    harm_share: float = 0.0
    harm_mean: float = 0.0
    single_gain: float = 0.0  # of one edit at a random place of the night

    def draw(self, proposals: int, random: np.random.Generator) -> Vector:
        """Effects on the score, one per proposal: negative is better."""
        kind = random.random(proposals)
        size = random.exponential(1.0, proposals)
        helps, harms = kind < self.help_share, kind > 1.0 - self.harm_share
        effects: Vector = np.where(helps, -self.help_mean * size, np.where(harms, self.harm_mean * size, 0.0))
        if self.single_gain:
            effects[random.integers(proposals)] = -self.single_gain
        return effects

    @property
    def spread(self) -> float:
        """Standard deviation of the effects over edits, without the single gain."""
        mean = self.harm_share * self.harm_mean - self.help_share * self.help_mean
        square = 2.0 * (self.harm_share * self.harm_mean**2 + self.help_share * self.help_mean**2)
        return math.sqrt(max(0.0, square - mean**2))


NULL = Effects()
ONE_GAIN = Effects(single_gain=3.0)
LATE = Effects(help_share=0.10, help_mean=1.0, harm_share=0.30, harm_mean=2.0)
SMALL = Effects(help_share=0.20, help_mean=0.4, harm_share=0.40, harm_mean=0.6)
EARLY = Effects(help_share=0.25, help_mean=6.0, harm_share=0.50, harm_mean=10.0)


@dataclass(frozen=True, slots=True)
class Condition:
    """One simulated world. Noise in units of sigma."""

    effects: Effects = NULL
    interaction: float = 0.3
    """How much one edit's effect differs between splits (omega)."""
    correlation: float = 0.0
    """Correlation of two codes' scores over the same seeds."""
    unequal: float = 0.0
    """Standard deviation over codes of the logarithm of their sigma."""
    drift: float = 0.0
    """Standard deviation of the machine's drift from run to run, AR(1)."""
    proposals: int = 100
    claim_every: int = 32
    calibration_runs: int = 5
    final_pairs: int = 5
    group_count: int = 30
    policy: gate.GatePolicy = DEFAULT_POLICY
    prunes: bool = False
    """Whether hopeless runs end early."""


@dataclass(frozen=True, slots=True)
class NightStatistics:
    """What many nights of one condition gave. Gains in sigma, positive is better."""

    nights: int
    false_nights: int
    """Nights with at least one certificate for code that is truly no better than what it was compared with."""
    found_nights: int
    """Nights in which the search kept at least one edit that truly helps."""
    certified_nights: int
    """Nights that certified something truly better."""
    true_gain: float
    """Mean true gain of the proven code."""
    finished_gain: float
    """The same after the prune pass."""
    naive_gain: float
    """Mean true gain of "lower is better" with as many runs."""
    ratio: tuple[float, float, float]
    """true_gain / naive_gain with its 95 % bounds; zeros when there is nothing to gain."""
    over_claim: tuple[float, float, float]
    """Mean of (gain reported by the final interval - true gain) with 95 % bounds, over nights that proved something."""
    coverage: float
    """Share of those final intervals that hold the true gain; their nominal share is 0.95."""
    runs: float
    """Mean cost of a night before `finish` in whole runs; the prune pass adds twelve, the final test ten."""
    ended: float
    """Mean number of proposals whose runs ended early."""
    ended_helpful: float
    """Share of the truly helpful proposals that were among them."""

    def rate(self, count: int) -> tuple[float, float, float]:
        """(share, low, high) of `count` of these nights, with exact 95 % bounds."""
        return (count / self.nights, *clopper_pearson(count, self.nights))


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact two-sided bounds of a binomial proportion."""
    from scipy.special import betaincinv  # late, as in gate.py

    tail = (1.0 - confidence) / 2.0
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1.0 - tail)) if successes < trials else 1.0
    return low, high


@dataclass(frozen=True, slots=True)
class _Edit:
    """What one edit adds: to the true score, on dev alone, and per group of hidden and of test (rows)."""

    true: float
    dev: float
    groups: Vector


@dataclass(frozen=True, slots=True)
class _Code:
    """A revision: its kept edits, the sums of what they add, and its own sigma."""

    edits: tuple[_Edit, ...]
    true: float
    dev: float
    groups: Vector
    spread: float

    def without(self, out: Sequence[int]) -> _Code:
        """The revision with some of its edits, named by their place, taken out."""
        gone = [self.edits[place] for place in out]
        return _Code(
            tuple(edit for place, edit in enumerate(self.edits) if place not in out),
            self.true - math.fsum(edit.true for edit in gone),
            self.dev - math.fsum(edit.dev for edit in gone),
            self.groups - sum((edit.groups for edit in gone), np.zeros_like(self.groups)),
            self.spread,
        )


class _World:
    """Draws codes and runs them, and counts the runs."""

    def __init__(self, condition: Condition, random: np.random.Generator) -> None:
        self.condition, self.random, self.runs, self.drift = condition, random, 0.0, 0.0
        self.sizes = random.integers(5_000, 15_000, condition.group_count)
        # Scaled so that the byte-weighted mean of one edit's interactions has standard deviation `interaction`.
        self.scale = condition.interaction * float(self.sizes.sum() / np.sqrt((self.sizes.astype(float) ** 2).sum()))
        self.names = [f"group {index}" for index in range(condition.group_count)]
        self.baseline = _Code((), 0.0, 0.0, np.zeros((2, condition.group_count)), 1.0)

    def edit(self, parent: _Code, effect: float) -> _Code:
        groups = self.scale * self.random.standard_normal(parent.groups.shape)
        dev = self.condition.interaction * self.random.standard_normal()
        spread = math.exp(self.condition.unequal * self.random.standard_normal())
        edits = (*parent.edits, _Edit(effect, dev, groups))
        return _Code(edits, parent.true + effect, parent.dev + dev, parent.groups + groups, spread)

    def noise(self, code: _Code, luck: float) -> float:
        """Noise of one run, in sigma, with a seed whose luck (standard normal) all codes share."""
        self.runs += 1
        fresh, drift = self.random.standard_normal(2)
        self.drift = DRIFT_MEMORY * self.drift + math.sqrt(1.0 - DRIFT_MEMORY**2) * drift
        shared = self.condition.correlation
        seed = math.sqrt(shared) * luck + math.sqrt(1.0 - shared) * fresh
        return float(code.spread * seed + self.condition.drift * self.drift)

    def dev_score(self, code: _Code, luck: float) -> float:
        return LEVEL + SIGMA * (code.true + code.dev + self.noise(code, luck))

    def pair(self, rung: _Code, head: _Code, split: int) -> gate.PairScore:
        luck = self.random.standard_normal()
        return gate.PairScore(self.scores(rung, luck, split), self.scores(head, luck, split))

    def scores(self, code: _Code, luck: float, split: int) -> tuple[GroupScore, ...]:
        bits = LEVEL + SIGMA * (code.true + code.groups[split] + self.noise(code, luck))
        nats = (bits * math.log(2) * self.sizes).tolist()
        return tuple(map(GroupScore, self.names, nats, self.sizes.tolist()))


class _Looks:
    """What a night's runs show on their way, judged by the shipped rule; scores in bits per byte.

    An edit is as far behind at a look as at the end, but for how its ranks still change and for the noise of the two
    runs; what seeds have in common cancels.
    """

    def __init__(self, world: _World) -> None:
        self.world = world
        spread = max(LEAST_SPREAD, world.condition.effects.spread)
        self.surprise = {share: spread * math.sqrt(1.0 / kept**2 - 1.0) for share, kept in RANK_KEPT.items()}
        self.own_noise = LOOK_NOISE * math.sqrt(1.0 - world.condition.correlation)
        runs = world.condition.calibration_runs
        scores = {share: LOOK_NOISE * world.random.standard_normal(runs) for share in pruning.SHARES}
        self.calibration = {share: SIGMA * float(np.std(found, ddof=1)) for share, found in scores.items()}
        world.runs += 2 * LOOK_COST * runs
        self.behind: dict[float, list[float]] = {share: [] for share in pruning.SHARES}
        self.surprises: dict[float, list[float]] = {share: [] for share in pruning.SHARES}
        self.head: dict[float, float] = {}
        self.before: list[dict[float, float]] = []
        self.open: dict[float, float] = {}
        self.open_noise: dict[float, float] = {}
        self.head_runs()

    def head_runs(self) -> None:
        """The current code was run with a new seed."""
        self.before = []
        self.head = {share: self.own_noise * self.world.random.standard_normal() for share in pruning.SHARES}
        self.world.runs += 2 * LOOK_COST

    def ends(self, edit: _Edit) -> bool:
        """Whether the run of a proposal ends early; then it costs what it used."""
        common = self.world.random.standard_normal()
        self.open = {}
        for share in pruning.SHARES:
            rank = math.sqrt(0.5) * (common + self.world.random.standard_normal())
            self.open_noise[share] = self.own_noise * self.world.random.standard_normal()
            noise = self.open_noise[share] - self.head[share]
            self.open[share] = SIGMA * (edit.true + edit.dev + self.surprise[share] * rank + noise)
            self.world.runs += LOOK_COST
            past = pruning.Past(tuple(self.behind[share]), tuple(self.surprises[share]), self.calibration[share])
            is_hopeless = pruning.is_hopeless(share, self.open[share], past)
            self.behind[share].append(self.open[share])
            if is_hopeless:
                self.world.runs += share
                return True
        return False

    def went_on(self, behind: float) -> None:
        """The run went to its end, and was `behind` there."""
        for share, look in self.open.items():
            self.surprises[share].append(behind - look)

    def head_moves(self) -> None:
        """The proposal was kept: its own run is what the next ones are compared with."""
        self.before.append(self.head)
        self.head = dict(self.open_noise)

    def head_goes_back(self, kept: int) -> None:
        """Of the proposals that were kept in this window, all but the first `kept` were taken back."""
        while len(self.before) > kept:
            self.head = self.before.pop()


def _kept_edits(window: level.Window[_Code]) -> int:
    """How many kept edits of this window may still be taken back."""
    return 0 if window.before is None else 1 + _kept_edits(window.before)


class _Night:
    """One night of the two-tier loop: a head that the search moves, a rung that only certificates move."""

    def __init__(self, condition: Condition, random: np.random.Generator) -> None:
        self.condition, self.random, self.world = condition, random, _World(condition, random)
        self.rung = self.judged = self.world.baseline
        self.head = self.rung
        self.false_claims = self.claims = self.unclear = self.found = 0
        self.placebos: list[float] = []
        self.luck = 0.0
        self.window: level.Window[_Code] | None = None
        self.finished = self.rung
        lucks = random.standard_normal(condition.calibration_runs)
        self.noise = gate.noise_from_calibration([self.world.dev_score(self.rung, luck) for luck in lucks])
        self.search_noise = level.WindowNoise(self.noise.sigma)
        self.looks = _Looks(self.world) if condition.prunes else None
        self.helpful = self.ended = self.ended_helpful = 0

    def play(self) -> None:
        condition = self.condition
        blocks = condition.proposals // planner.PLACEBO_EVERY
        places = [block * planner.PLACEBO_EVERY for block in range(blocks)]
        places = [place + int(self.random.integers(planner.PLACEBO_EVERY)) for place in places]
        effects: list[float | None] = condition.effects.draw(condition.proposals - blocks, self.random).tolist()
        for place in places:
            effects.insert(place, None)
        for end in range(1, len(effects) + 1):
            numbers = {planner.window_number(place, condition.claim_every) for place in (end - 2, end - 1)}
            if len(numbers) > 1:  # a new seed for the head and all proposals of the window
                self.luck, self.window = self.random.standard_normal(), None
            self.search(effects[end - 1])
            is_over = end == len(effects)
            is_due = is_over or end % condition.claim_every == 0
            if is_due and self.head is not self.rung and self.head is not self.judged:
                self.claim()

    def search(self, effect: float | None) -> None:
        """One proposal; None is a placebo."""
        window = self.window
        if window is None:
            score = self.world.dev_score(self.head, self.luck)
            window = level.Window.opened(self.search_noise, self.head, score)
            if self.looks is not None:
                self.looks.head_runs()
        if effect is None:
            score = self.world.dev_score(self.head, self.luck)
            if window.before is None:
                self.placebos.append(score - window.score)
            self.follow(window, window.code, score, is_kept=False)
            return
        self.window = window
        candidate = self.world.edit(self.head, effect)
        self.helpful += int(effect < 0)
        if self.looks is not None and self.looks.ends(candidate.edits[-1]):
            self.ended += 1
            self.ended_helpful += int(effect < 0)
            return
        score = self.world.dev_score(candidate, self.luck)
        if self.looks is not None:
            self.looks.went_on(score - window.score)
        is_kept = window.keeps(score, 1, 1)
        if is_kept and self.looks is not None:
            self.looks.head_moves()
        self.follow(window, candidate, score, is_kept)
        self.found += int(is_kept and effect < 0)

    def follow(self, window: level.Window[_Code], code: _Code, score: float, is_kept: bool) -> None:
        """Go on with what the newest run makes of the window."""
        self.window = level.follow(window, code, score, is_kept)
        self.head, self.search_noise = self.window.code, self.window.noise
        if self.looks is not None:
            self.looks.head_goes_back(_kept_edits(self.window))

    def pruned(self) -> _Code:
        """The proven code after the prune pass."""
        edits = range(min(len(self.rung.edits), prune_pass.MOST_EDITS))
        if len(edits) < 2 or self.condition.proposals < prune_pass.FEWEST_EXPERIMENTS:
            return self.rung
        rows = prune_pass.design(edits)
        lucks = self.random.standard_normal(prune_pass.RUNS)
        scores = [self.world.dev_score(self.rung.without(row.out), lucks[row.seed]) for row in rows]
        effects = prune_pass.effects(edits, rows, scores)
        assert effects is not None
        out = prune_pass.unhelpful(effects, dict.fromkeys(edits, 0), self.noise.sigma)
        return self.rung.without(out) if len(out) < len(self.rung.edits) else self.rung

    def claim(self) -> None:
        alpha = gate.claim_alpha(self.condition.policy, 0, self.claims)
        self.claims += 1
        noise = self.noise.no_calmer_than(self.placebos)
        pairs: list[gate.PairScore] = []
        decision = Decision.MORE_PAIRS
        while decision is Decision.MORE_PAIRS:
            pairs.append(self.world.pair(self.rung, self.head, HIDDEN))
            decision = gate.judge_claim(pairs, noise, self.condition.policy, alpha).decision
        self.noise = self.noise.pooled_with(gate.paired_differences(pairs))
        self.conclude(decision)

    def conclude(self, decision: Decision) -> None:
        self.unclear = self.unclear + 1 if decision is Decision.UNCLEAR else 0
        if decision is Decision.CERTIFY:
            self.false_claims += self.head.true >= self.rung.true
            self.rung = self.head
        elif decision is Decision.REJECT or not gate.goes_on(self.condition.policy, self.unclear):
            self.head, self.unclear = self.rung, 0
        self.judged, self.window = self.head, None

    def final(self) -> tuple[float, bool]:
        """(over-claim in sigma, whether the interval holds the truth) of the proven code on the test split."""
        pairs = [self.world.pair(self.world.baseline, self.finished, TEST) for _ in range(self.condition.final_pairs)]
        delta, low, high = gate.final_interval(pairs)
        return self.finished.true - delta / SIGMA, low <= SIGMA * self.finished.true <= high


def _naive_gain(condition: Condition, runs: float, random: np.random.Generator) -> float:
    """True gain of keeping whatever scores below the best score so far: one run each, always a fresh seed."""
    world = _World(condition, random)
    head = world.baseline
    best = world.dev_score(head, random.standard_normal())
    for effect in condition.effects.draw(round(runs) - 1, random):
        candidate = world.edit(head, float(effect))
        score = world.dev_score(candidate, random.standard_normal())
        if gate.keeps(score, best, 1, 1):
            head, best = candidate, score
    return -head.true


def _mean(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) with normal 95 % bounds; infinitely wide for fewer than two values."""
    if len(values) < 2:
        return (float(np.mean(values)) if values else 0.0), -math.inf, math.inf
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _ratio(gains: Sequence[float], naive: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of the means with 95 % bounds by the delta method; the two are paired by night."""
    bottom = float(np.mean(naive))
    if bottom <= 0:
        return 0.0, 0.0, 0.0
    ratio = float(np.mean(gains)) / bottom
    _, low, high = _mean([gain - ratio * other for gain, other in zip(gains, naive, strict=True)])
    return ratio, ratio + low / bottom, ratio + high / bottom


def simulate_nights(condition: Condition, nights: int, seed: int) -> NightStatistics:
    """Play `nights` independent nights; the result is a function of the arguments."""
    played, runs, naive = [], [], []
    for random in np.random.default_rng(seed).spawn(nights):
        night = _Night(condition, random)
        night.play()
        played.append(night)
        runs.append(night.world.runs)
        naive.append(_naive_gain(condition, night.world.runs, random))
        night.finished = night.pruned()
    finals = [night.final() for night in played if night.rung is not night.world.baseline]
    return NightStatistics(
        nights=nights,
        false_nights=sum(night.false_claims > 0 for night in played),
        found_nights=sum(night.found > 0 for night in played),
        certified_nights=sum(night.rung.true < 0 for night in played),
        true_gain=float(np.mean([-night.rung.true for night in played])),
        finished_gain=float(np.mean([-night.finished.true for night in played])),
        naive_gain=float(np.mean(naive)),
        ratio=_ratio([-night.rung.true for night in played], naive),
        over_claim=_mean([error for error, _ in finals]),
        coverage=float(np.mean([holds for _, holds in finals])) if finals else 1.0,
        runs=float(np.mean(runs)),
        ended=float(np.mean([night.ended for night in played])),
        ended_helpful=sum(night.ended_helpful for night in played) / max(1, sum(night.helpful for night in played)),
    )
