"""A Gaussian process over the unit cube: what a few dozen noisy losses say about points that were not tried.

Called by optimiser.py. Promises: a function of its input; a tenth of a second for a hundred points of fifteen axes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ROOT = math.sqrt(5.0)
_STEPS = 40


class GaussianProcess:
    """Matérn 5/2 with a length per axis (Rasmussen and Williams 2006, chapters 4 and 5), at the mode of the posterior.

    The prior of the lengths grows with the root of the number of axes (Hvarfner et al. 2024, arXiv 2402.02229), so that
    few points in many axes make a smooth surface and not a flat one with dents.
    """

    def __init__(self, points: Floats, values: Floats, doubt: Floats) -> None:
        """`points` [n, d] in 0..1, `values` [n], `doubt` [n]: the noise of a value as a multiple of the usual."""
        from scipy.optimize import minimize

        self._points, self._doubt = points, doubt
        self._mean, self._scale = float(values.mean()), float(values.std())
        if self._scale < 1e-9:  # equal values, which rounding keeps apart
            self._scale = 1.0
        self._values = (values - self._mean) / self._scale
        axes = points.shape[1]
        self._squares = (points[:, None, :] - points[None, :, :]) ** 2
        #                       log lengths, log variance, log noise
        self._centre = np.array([0.5 * math.log(axes)] * axes + [0.0, math.log(0.03)])
        self._width = np.array([1.0] * axes + [1.0, 1.5])
        bounds = [(-2.5, 4.0)] * axes + [(-3.0, 3.0), (-9.0, 1.0)]
        found = minimize(
            self._cost, self._centre, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS}
        )
        self._settings: Floats = found.x
        covariance, _ = self._covariance(self._settings)
        self._factor = np.linalg.cholesky(covariance)
        self._weights = self._solved(self._values)

    @property
    def lengths(self) -> Floats:
        """[d]: over which distance a value changes; long where an axis hardly matters."""
        lengths: Floats = np.exp(self._settings[:-2])
        return lengths

    def predict(self, points: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation, [m] each, of the surface without noise at `points` [m, d]."""
        scaled, known = points / self.lengths, self._points / self.lengths
        squares = (scaled**2).sum(1)[:, None] + (known**2).sum(1)[None, :] - 2 * scaled @ known.T
        variance = math.exp(self._settings[-2])
        across = variance * _matern(np.sqrt(np.maximum(squares, 0.0)))
        mean = across @ self._weights
        from scipy.linalg import solve_triangular

        reduced = solve_triangular(self._factor, across.T, lower=True)
        spread = np.sqrt(np.maximum(variance - (reduced**2).sum(0), 1e-12))
        return mean * self._scale + self._mean, spread * self._scale

    def expected_improvement(self, points: Floats, best: float) -> Floats:
        """[m]: by how much each point is expected to lie below `best` (Jones et al. 1998)."""
        from scipy.special import ndtr

        mean, spread = self.predict(points)
        reach = (best - mean) / spread
        density = np.exp(-0.5 * reach**2) / math.sqrt(2 * math.pi)
        gain: Floats = (best - mean) * ndtr(reach) + spread * density
        return gain

    def _covariance(self, settings: Floats) -> tuple[Floats, Floats]:
        """The covariance of the values, and the distances behind it."""
        lengths = np.exp(settings[:-2])
        distance = np.sqrt(self._squares @ lengths**-2)
        noise = math.exp(settings[-1]) * self._doubt + 1e-8
        return math.exp(settings[-2]) * _matern(distance) + np.diag(noise), distance

    def _cost(self, settings: Floats) -> tuple[float, Floats]:
        """Minus the log posterior of the settings, and its gradient."""
        covariance, distance = self._covariance(settings)
        self._factor = np.linalg.cholesky(covariance)
        weights = self._solved(self._values)
        inverse = self._solved(np.eye(len(self._values)))
        inner = np.outer(weights, weights) - inverse
        variance = math.exp(settings[-2])
        slope = variance * (5.0 / 3.0) * (1.0 + _ROOT * distance) * np.exp(-_ROOT * distance)
        by_length = np.tensordot(inner * slope, self._squares, 2) / np.exp(2 * settings[:-2])
        by_variance = (inner * variance * _matern(distance)).sum()
        by_noise = (np.diag(inner) * math.exp(settings[-1]) * self._doubt).sum()
        off = (settings - self._centre) / self._width
        fit = -0.5 * self._values @ weights - np.log(np.diag(self._factor)).sum()
        gradient = 0.5 * np.concatenate([by_length, [by_variance, by_noise]]) - off / self._width
        return float(-fit + 0.5 * off @ off), -gradient

    def _solved(self, right: Any) -> Floats:
        from scipy.linalg import cho_solve

        solved: Floats = cho_solve((self._factor, True), right)
        return solved


def _matern(distance: Floats) -> Floats:
    kernel: Floats = (1.0 + _ROOT * distance + 5.0 / 3.0 * distance**2) * np.exp(-_ROOT * distance)
    return kernel
