"""A model of a recorded table: what a configuration scores, how often it fails, what it costs, how much seeds differ.

Made by replay.py from the rows of record.py. Promises: the model is the one, of three, that ranks configurations it was
not fitted to best, and says how well; equal questions get equal answers, on every machine with the same libraries.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contracts import Knob, KnobValue, Status
from ..errors import UsageError
from .space import Space

Vector = npt.NDArray[np.float64]
Row = Mapping[str, Any]

FEWEST = 4
"""Scored configurations without which nothing is fitted."""
FEW = 50
"""Below this, the table is too small for verdicts."""
FAIR_CORRELATION = 0.7
"""Below this, the model ranks unseen configurations too badly."""
FAIR_AMONG_BETTER = 0.3
"""The same among the better half, where a narrower range of scores and their noise allow for less."""
FEWEST_FAILURES = 3
FOLDS = 5
EQUAL_COST = 0.05
"""Costs that differ by less (standard deviation over mean) are taken as one."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How well one kind of model predicts configurations that it was not fitted to."""

    model: str
    rank_correlation: float
    """Spearman's, over all scored configurations."""
    rank_correlation_better_half: float
    """The same over those with a better score than the median: where searches are decided."""
    r2: float
    """Of the scores on the scale that the model is fitted on (see `_Scale`)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the results say of a surrogate."""

    configurations: int
    scored: int
    failures: Mapping[str, int]
    """Status -> configurations."""
    qualities: tuple[Quality, ...]
    """The chosen model first."""
    best_score: float
    """The lowest recorded score; the mean of a configuration that has several."""
    sigma: float
    sigma_degrees: int
    failure_auc: float | None
    """Cross-validated area under the curve of the failure model; None where none was fitted."""
    seconds_of_start: float
    trained_seconds: float
    """Seconds of all trainings of the table."""
    mean_seconds: float
    load: tuple[float, float]
    """Median and largest load average at the beginning of a training."""
    disturbed: int
    """Trainings on a machine that was not quiet, also when they were repeated."""
    warnings: tuple[str, ...]

    @property
    def is_weak(self) -> bool:
        """Whether the table is too small, or unseen configurations are ranked too badly, for any verdict."""
        return self.scored < FEW or _ranks_badly(self.qualities[0])

    def to_json(self) -> dict[str, Any]:
        """For summary.json."""
        return asdict(self)


class _Scale:
    """The scores as models see them: log(1 + (score - best) / spread), so that a few diverged runs do not rule."""

    def __init__(self, scores: Vector) -> None:
        self.best = float(scores.min())
        self.spread = max(float(np.median(scores)) - self.best, 1e-9)

    def there(self, scores: Vector) -> Vector:
        scaled: Vector = np.log1p((scores - self.best) / self.spread)
        return scaled

    def back(self, place: float) -> float:
        return self.best + self.spread * math.expm1(place)


class Surrogate:
    """Answers for one table. Picklable, so that helper processes need not fit it again."""

    def __init__(self, knobs: Sequence[Knob], rows: Sequence[Row], seed: int = 0) -> None:
        """Raises UsageError for a table that is too small or has no repeated seeds."""
        self.space = Space(knobs)
        groups = _by_configuration(rows)
        scored = [group for group in groups if any(row["status"] is None for row in group)]
        failed = [group for group in groups if group not in scored]
        if len(scored) < FEWEST:
            raise UsageError(
                f"the table holds {len(scored)} configurations with a score, and {FEWEST} are the least",
                "record more: raise [record] configurations and use --mode record",
            )
        self.sigma, degrees = noise_of(groups)
        features = self._matrix([group[0] for group in scored])
        scores = np.array([_mean_score(group) for group in scored])
        self._scale = _Scale(scores)
        scaled = self._scale.there(scores)
        fitted = sorted(
            ((quality, model) for model, quality in _tried_models(features, scaled, seed)),
            key=lambda pair: -(pair[0].rank_correlation + pair[0].rank_correlation_better_half),
        )
        self._model = fitted[0][1]
        with _quiet():
            self._model.fit(features, scaled)
        self._failures, auc = self._fit_failures(scored, failed, seed)
        self._failed = [(self.space.point(group[0]["knobs"]), group[0]) for group in failed]
        self._cost, self._cost_model = self._fit_cost(features, scored, seed)
        self._values: dict[tuple[KnobValue, ...], float] = {}
        self._risks: dict[tuple[KnobValue, ...], float] = {}
        self.facts = Facts(
            configurations=len(groups),
            scored=len(scored),
            failures=_counted(failed),
            qualities=tuple(quality for quality, _ in fitted),
            best_score=float(scores.min()),
            sigma=self.sigma,
            sigma_degrees=degrees,
            failure_auc=auc,
            seconds_of_start=self.seconds(self.space.start),
            trained_seconds=sum(row["seconds"] for row in rows),
            mean_seconds=sum(row["seconds"] for row in rows) / len(rows),
            load=_loads(rows),
            disturbed=sum(bool(row.get("disturbance")) for row in rows),
            warnings=_warnings(len(scored), fitted[0][0], failed, auc),
        )

    def value(self, values: Mapping[str, KnobValue]) -> float:
        """The true value of a configuration: the model's mean, without noise."""
        key = self.space.key(values)
        if key not in self._values:
            features = np.array([self.space.features(values)])
            self._values[key] = self._scale.back(float(self._model.predict(features)[0]))
        return self._values[key]

    def failure(self, values: Mapping[str, KnobValue]) -> float:
        """Probability that a training of this configuration gives no score."""
        if self._failures is None:
            return 0.0
        key = self.space.key(values)
        if key not in self._risks:  # tree by tree: the forest checks its input and starts workers for each answer
            features = np.array([self.space.features(values)], np.float32)
            votes = [tree.predict_proba(features, check_input=False)[0, 1] for tree in self._failures.estimators_]
            self._risks[key] = float(np.mean(votes))
        return self._risks[key]

    def seconds(self, values: Mapping[str, KnobValue]) -> float:
        """What a training that gives a score takes."""
        if self._cost_model is None:
            return self._cost
        return math.exp(float(self._cost_model.predict(np.array([self.space.features(values)]))[0]))

    def failed_like(self, values: Mapping[str, KnobValue]) -> tuple[Status, float]:
        """(status, seconds) of the nearest recorded configuration that failed."""
        place = self.space.point(values)
        _, row = min(self._failed, key=lambda item: math.dist(item[0], place))
        return Status(row["status"]), float(row["seconds"])

    def _matrix(self, rows: Sequence[Row]) -> Vector:
        return np.array([self.space.features(row["knobs"]) for row in rows])

    def _fit_failures(self, scored: list[list[Row]], failed: list[list[Row]], seed: int) -> tuple[Any, float | None]:
        """A model of the probability to fail, with its cross-validated AUC; None with too few failures."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        if len(failed) < FEWEST_FAILURES:
            return None, None
        features = self._matrix([group[0] for group in (*scored, *failed)])
        is_failed = np.array([0] * len(scored) + [1] * len(failed))
        model = RandomForestClassifier(n_estimators=100, min_samples_leaf=2, random_state=seed)
        folds = StratifiedKFold(min(FOLDS, len(failed), len(scored)), shuffle=True, random_state=seed)
        predicted = cross_val_predict(model, features, is_failed, cv=folds, method="predict_proba")[:, 1]
        model.fit(features, is_failed)
        return model, float(roc_auc_score(is_failed, predicted))

    def _fit_cost(self, features: Vector, scored: list[list[Row]], seed: int) -> tuple[float, Any]:
        from sklearn.ensemble import GradientBoostingRegressor

        costs = np.array([np.mean([row["seconds"] for row in group if row["status"] is None]) for group in scored])
        mean = float(costs.mean())
        if float(costs.std()) < EQUAL_COST * mean:
            return mean, None
        model = GradientBoostingRegressor(n_estimators=200, max_depth=3, learning_rate=0.05, random_state=seed)
        return mean, model.fit(features, np.log(np.maximum(costs, 1e-6)))


def noise_of(groups: Sequence[Sequence[Row]]) -> tuple[float, int]:
    """(sigma, degrees of freedom): what seeds change in a score, pooled over the configurations that have several.

    Of those only the better half by score counts, where there are four or more: searches are decided there, and a
    configuration that diverges with one seed in three would drown the rest. Raises UsageError without repeated seeds.
    """
    repeated = []
    for group in groups:
        scores = [float(row["score"]) for row in group if row["status"] is None]
        if len(scores) > 1:
            repeated.append(scores)
    if not repeated:
        raise UsageError(
            "no configuration of the table was trained with several seeds, so its noise is not known",
            "let the recording come to its end: --mode record goes on",
        )
    if len(repeated) >= 4:
        middle = median(sum(scores) / len(scores) for scores in repeated)
        repeated = [scores for scores in repeated if sum(scores) / len(scores) <= middle]
    squares = sum(float(np.var(scores)) * len(scores) for scores in repeated)
    degrees = sum(len(scores) - 1 for scores in repeated)
    return math.sqrt(squares / degrees), degrees


def _by_configuration(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one configuration together, its first training first."""
    groups: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["configuration"], row["repeat"])):
        groups.setdefault(row["configuration"], []).append(row)
    return list(groups.values())


def _mean_score(group: Sequence[Row]) -> float:
    scores = [float(row["score"]) for row in group if row["status"] is None]
    return math.fsum(scores) / len(scores)


def _loads(rows: Sequence[Row]) -> tuple[float, float]:
    loads = [float(row.get("load", 0.0)) for row in rows]
    return median(loads), max(loads)


def _counted(failed: Sequence[Sequence[Row]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in failed:
        counts[group[0]["status"]] = counts.get(group[0]["status"], 0) + 1
    return counts


def _tried_models(features: Vector, scaled: Vector, seed: int) -> list[tuple[Any, Quality]]:
    """Three kinds of model, each with what cross-validation says of it."""
    from sklearn.base import clone
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
    from sklearn.model_selection import KFold, cross_val_predict

    width = features.shape[1]
    kernel = ConstantKernel(1.0) * Matern(np.full(width, 0.7), (0.05, 50.0), nu=2.5) + WhiteKernel(0.01)
    kinds = {
        "gaussian process": GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed),
        "gradient boosting": GradientBoostingRegressor(
            n_estimators=300, max_depth=3, learning_rate=0.05, subsample=0.7, random_state=seed
        ),
        "random forest": RandomForestRegressor(n_estimators=200, min_samples_leaf=2, random_state=seed),
    }
    folds = KFold(min(FOLDS, len(scaled)), shuffle=True, random_state=seed)
    found = []
    for name, model in kinds.items():
        with _quiet():
            predicted = cross_val_predict(clone(model), features, scaled, cv=folds)
        found.append((model, _quality(name, scaled, predicted)))
    return found


def _quality(name: str, scaled: Vector, predicted: Vector) -> Quality:
    better = scaled <= np.median(scaled)
    rest = float(((scaled - predicted) ** 2).sum())
    total = float(((scaled - scaled.mean()) ** 2).sum())
    return Quality(
        name,
        rank_correlation(scaled, predicted),
        rank_correlation(scaled[better], predicted[better]),
        1.0 - rest / total if total > 0 else 0.0,
    )


def rank_correlation(one: Vector, other: Vector) -> float:
    """Spearman's; 0 where one side has a single value."""
    from scipy.stats import spearmanr

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def _ranks_badly(quality: Quality) -> bool:
    """Telling good from bad is easy: a search is decided among the good, so those have to be told apart as well."""
    among_better = quality.rank_correlation_better_half
    return quality.rank_correlation < FAIR_CORRELATION or among_better < FAIR_AMONG_BETTER


def _warnings(scored: int, best: Quality, failed: Sequence[Sequence[Row]], auc: float | None) -> tuple[str, ...]:
    found = []
    if scored < FEW:
        found.append(f"only {scored} configurations have a score: this shows that the tool works, not who is ahead")
    if _ranks_badly(best):
        found.append(
            f"the best model ranks unseen configurations with a correlation of {best.rank_correlation:.2f}, and the "
            f"better half of them with {best.rank_correlation_better_half:.2f}: what it says of searches is too weak "
            "for a verdict"
        )
    if failed and auc is None:
        found.append(f"{len(failed)} configurations failed, too few for a model: on the surrogate nothing fails")
    return tuple(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of a Gaussian process that a length scale came to the end of its range."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
