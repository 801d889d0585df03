"""The drawings of the HTML report as inline SVG text: the staircase of a campaign and the interval of the final test.

Called by html.py. Colours and fonts come from the page's style sheet by class, so that light, dark and print agree;
shape says the same as colour. All text passes through `html.escape`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .experiments import ExperimentRow
from .summary import FinalRow, Summary
from .words import figure, signed

_WIDTH, _HEIGHT = 1000.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 128.0, 18.0, 64.0
_RAIL = 26.0
"""Distance of the row for experiments without a score below the plot."""
_MOST_TITLES = 250
_LABEL_GAP = 13.0


@dataclass(frozen=True, slots=True)
class _Scale:
    """Maps experiment positions and scores to the drawing."""

    count: int
    low: float
    high: float

    def x(self, position: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * position / max(self.count, 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * min(max(share, 0.0), 1.0)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def staircase(summary: Summary) -> str:
    """Dev score of every experiment, the best of the current chain as a step line, noise band and floors."""
    scale = _scale(summary)
    if scale is None:
        return ""
    steps = _steps(summary)
    kept = sum(row.tone == "good" for row in summary.experiments)
    description = (
        f"{len(summary.experiments)} experiments from left to right, {kept} of them kept. Lower is better. "
        f"The line falls from {figure(steps[0])} to {figure(steps[-1])} {summary.unit} on dev."
    )
    parts = [
        f'<svg viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-labelledby="stairs-title stairs-desc">',
        '<title id="stairs-title">Dev score of every experiment</title>',
        f'<desc id="stairs-desc">{escape(description)}</desc>',
        *_axes(scale),
        *_floor_lines(summary, scale),
        *_claim_marks(summary, scale),
        *_step_line(steps, scale, summary.sigma),
        *(
            f'<circle class="dot start" cx="{scale.x(0):.1f}" cy="{scale.y(score):.1f}" r="3"/>'
            for score in summary.calibration
        ),
    ]
    with_titles = len(summary.experiments) <= _MOST_TITLES
    # kept dots last: they must not vanish below the crowd
    for good in (False, True):
        for position, row in enumerate(summary.experiments, 1):
            if (row.tone == "good") is good:
                parts.append(_dot(row, scale.x(position - 0.5), scale, with_titles))
    parts.append("</svg>")
    return "\n".join(parts)


def _steps(summary: Summary) -> list[float]:
    """The best score of the current chain before each experiment and after the last; at least one value."""
    start = summary.baseline.score if summary.baseline.score is not None else summary.best_current_score
    values: list[float] = []
    last = start if start is not None else 0.0
    for row in summary.experiments:
        last = row.best_before if row.best_before is not None else last
        values.append(last)
    return [*values, summary.best_current_score if summary.best_current_score is not None else last]


def _scale(summary: Summary) -> _Scale | None:
    scores = sorted(row.dev_score for row in summary.experiments if row.dev_score is not None)
    anchors = [*summary.calibration, *_steps(summary)] if summary.baseline.score is not None else []
    if not anchors and not scores:
        return None
    # a diverged run must not flatten all the others: the worst tenth may leave the drawing through the top
    usual = scores[: max(1, math.ceil(len(scores) * 0.9))]
    sigma = summary.sigma or 0.0
    low = min([*anchors, *scores]) - sigma
    high = max([*anchors, *usual]) + sigma
    reach = max(high - low, 0.002)
    for floor in summary.floors:
        if low - 1.2 * reach <= floor.score <= high + 1.2 * reach:
            low, high = min(low, floor.score), max(high, floor.score)
    margin = max(high - low, 0.002) * 0.07
    return _Scale(len(summary.experiments), low - margin, high + margin)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between low and high, at most `most` of them, at a step of 1, 2 or 5 times a power of ten."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if span / (factor * power) < most)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _axes(scale: _Scale) -> list[str]:
    right = _WIDTH - _RIGHT
    marks = ticks(scale.low, scale.high)
    gap = marks[1] - marks[0] if len(marks) > 1 else 0.01
    decimals = max(2, -math.floor(math.log10(gap) + 1e-9))
    parts = []
    for value in marks:
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 9}" y="{y + 4:.1f}" text-anchor="end">{value:.{decimals}f}</text>'
        )
    rail = _HEIGHT - _BOTTOM + _RAIL
    parts.append(f'<line class="rail" x1="{_LEFT}" x2="{right}" y1="{rail}" y2="{rail}"/>')
    parts.append(f'<text class="tick" x="{_LEFT - 9}" y="{rail + 4}" text-anchor="end">no score</text>')
    base = _HEIGHT - 10
    parts.append(f'<text class="tick" x="{_LEFT - 9}" y="{base}" text-anchor="end">start</text>')
    step = max(1, math.ceil(scale.count / 12))
    for position in range(step, scale.count + 1, step):
        x = scale.x(position - 0.5)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base}" text-anchor="middle">{position}</text>')
    parts.append(f'<text class="tick" x="{right + 12}" y="{base}">experiment</text>')
    return parts


def _floor_lines(summary: Summary, scale: _Scale) -> list[str]:
    right = _WIDTH - _RIGHT
    parts: list[str] = []
    # the current code's own label stands at the end of the line: keep the floors' labels clear of it
    taken = [scale.y(_steps(summary)[-1])]
    for floor in summary.floors:
        if not scale.holds(floor.score):
            continue
        y = scale.y(floor.score)
        label_y = y
        while any(abs(label_y - other) < _LABEL_GAP for other in taken):
            label_y += 2.0
        taken.append(label_y)
        parts.append(f'<line class="floor" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        name = escape(floor.name if len(floor.name) <= 16 else floor.name[:15] + "…")
        parts.append(f'<text class="floor-label" x="{right + 8}" y="{label_y + 4:.1f}">{name} {floor.score:.3f}</text>')
    return parts


def _claim_marks(summary: Summary, scale: _Scale) -> list[str]:
    parts = []
    order = {row.id: position for position, row in enumerate(summary.experiments, 1)}
    for claim in summary.claims:
        x = scale.x(order.get(claim.after_experiment, 0))
        kind = "proof yes" if claim.is_proven else "proof"
        title = escape(f"Proof {claim.id}: {claim.words}")
        bottom = _HEIGHT - _BOTTOM
        parts.append(
            f'<g class="{kind}"><title>{title}</title>'
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<path d="M{x:.1f} {_TOP - 8} l5 6 l-5 6 l-5 -6 z"/></g>'
        )
    return parts


def _step_line(steps: Sequence[float], scale: _Scale, sigma: float | None) -> list[str]:
    def corners(shift: float) -> list[tuple[float, float]]:
        points = [(scale.x(0), scale.y(steps[0] + shift))]
        for position, value in enumerate(steps):
            points.append((scale.x(max(position - 0.5, 0)), scale.y(value + shift)))
            points.append((scale.x(min(position + 0.5, scale.count)), scale.y(value + shift)))
        return points

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)

    parts = []
    if sigma:
        band = [*corners(sigma), *reversed(corners(-sigma))]
        parts.append(f'<path class="band" d="{path(band)}Z"><title>plus and minus one sigma of luck</title></path>')
    parts.append(f'<path class="stairs" d="{path(corners(0.0))}"/>')
    x, y = scale.x(scale.count) + 8, scale.y(steps[-1]) + 4
    parts.append(f'<text class="here" x="{x:.1f}" y="{y:.1f}">current {steps[-1]:.3f}</text>')
    return parts


def _dot(row: ExperimentRow, x: float, scale: _Scale, with_title: bool) -> str:
    rail = _HEIGHT - _BOTTOM + _RAIL
    said = f"{row.id}: {row.words}" + (f", {figure(row.dev_score)}" if row.dev_score is not None else "")
    title = f"<title>{escape(f'{said}. {row.hypothesis[:140]}')}</title>" if with_title else ""
    if row.dev_score is None:
        shape = f'<path class="cross {row.tone}" d="M{x - 4:.1f} {rail - 4}l8 8m0 -8l-8 8"'
    elif row.dev_score > scale.high:
        # an arrow at the upper edge: it lies above the drawing
        shape = f'<path class="dot {row.tone}" d="M{x:.1f} {_TOP - 2}l5 8h-10z"'
    elif row.tone == "good":
        proven = " proven" if row.words == "proven" else ""
        shape = f'<circle class="dot good{proven}" cx="{x:.1f}" cy="{scale.y(row.dev_score):.1f}" r="5.5"'
    else:
        shape = f'<circle class="dot {row.tone}" cx="{x:.1f}" cy="{scale.y(row.dev_score):.1f}" r="3.6"'
    return f"{shape}>{title}</{'circle' if shape.startswith('<circle') else 'path'}>" if title else f"{shape}/>"


def interval_plot(final: FinalRow, sigma: float | None) -> str:
    """The 95 % interval of the gain on test against zero; better lies to the left."""
    width, height, left, right = 520.0, 92.0, 16.0, 16.0
    values = [final.delta_low, final.delta_high, final.delta, 0.0]
    span = max(max(values) - min(values), 1e-6)
    low, high = min(values) - 0.12 * span, max(values) + 0.12 * span

    def x(value: float) -> float:
        return left + (width - left - right) * (value - low) / (high - low)

    kind = "interval good" if final.delta_high < 0 and final.is_proven else "interval"
    description = (
        f"Final minus start: {signed(final.delta)} {final.unit}, 95 % interval from {signed(final.delta_low)} to "
        f"{signed(final.delta_high)}. Left of zero is better."
    )
    parts = [
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="final-title final-desc">',
        '<title id="final-title">Gain on the final test with its interval</title>',
        f'<desc id="final-desc">{escape(description)}</desc>',
    ]
    if sigma:
        start, end = max(x(-sigma), 0.0), min(x(sigma), width)
        parts.append(f'<rect class="band" x="{start:.1f}" y="14" width="{end - start:.1f}" height="44"/>')
    parts.append(f'<line class="grid" x1="0" x2="{width:.0f}" y1="58" y2="58"/>')
    for value in ticks(low, high, 5):
        decimals = max(3, -math.floor(math.log10((high - low) / 5) + 1e-9))
        text = f"{value:+.{decimals}f}".replace("-", "−") if abs(value) > 1e-12 else "0"
        parts.append(f'<text class="tick" x="{x(value):.1f}" y="78" text-anchor="middle">{text}</text>')
        parts.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="58" y2="63"/>')
    parts.append(f'<line class="zero" x1="{x(0.0):.1f}" x2="{x(0.0):.1f}" y1="8" y2="58"/>')
    start, middle, end = x(final.delta_low), x(final.delta), x(final.delta_high)
    parts.append(
        f'<g class="{kind}"><path d="M{start:.1f} 26v20M{start:.1f} 36H{end:.1f}M{end:.1f} 26v20"/>'
        f'<circle cx="{middle:.1f}" cy="36" r="6"/></g></svg>'
    )
    return "\n".join(parts)
