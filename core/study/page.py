"""What a study writes: results.csv, summary.json and study.md, in plain words; a negative result is written as such.

Called by the command line with the traces of replay.py or live.py. Promises: results.csv is tidy (one row per training
or skipped proposal) and depends on tables, proposers and seeds alone.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .compare import AHEAD, BEHIND, CLAIMED_RATIO, NOT_BEHIND, Comparison, Difference, Speed, compare
from .loop import Trace
from .surrogate import Facts

COLUMNS = (
    "corpus",
    "proposer",
    "search_seed",
    "experiment",
    "role",
    "status",
    "seconds",
    "seconds_spent",
    "score_seen",
    "value_returned",
)


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What the page says of one corpus."""

    name: str
    score: str
    """What the scores are: bits per byte, or the unit of a [metric]."""
    sigma: float
    seconds: float
    """Of one search."""
    margin: float
    facts: Mapping[str, Any]
    """Of the table or of the live runs: machine, budget, versions."""
    surrogate: Facts | None = None
    best_value: float | None = None
    """On a surrogate: the lowest true value that any search returned at its end."""


@dataclass(frozen=True, slots=True)
class Results:
    """A finished study."""

    name: str
    mode: str
    reference: str
    search_seeds: tuple[int, ...]
    runs: int
    value_seeds: int
    corpora: tuple[CorpusFacts, ...]
    comparisons: tuple[Comparison, ...]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """Of the study itself: machine, versions, load, when and how long."""


def results_of(
    name: str,
    mode: str,
    reference: str,
    runs: int,
    value_seeds: int,
    corpora: Sequence[CorpusFacts],
    traces: Sequence[Trace],
    conditions: Mapping[str, Any],
) -> Results:
    """Compare the traces and put everything together."""
    margins = {corpus.name: corpus.margin for corpus in corpora}
    seeds = tuple(dict.fromkeys(trace.search_seed for trace in traces))
    if mode == "surrogate":
        corpora = [replace(corpus, best_value=_best_value(corpus.name, traces)) for corpus in corpora]
    weak = [corpus.name for corpus in corpora if corpus.surrogate is not None and corpus.surrogate.is_weak]
    comparisons = tuple(compare(traces, reference, margins, mode == "surrogate", weak))
    return Results(name, mode, reference, seeds, runs, value_seeds, tuple(corpora), comparisons, conditions)


def _best_value(corpus: str, traces: Sequence[Trace]) -> float:
    return min(trace.values[trace.returned_at(1.0)] for trace in traces if trace.corpus == corpus)


def write_results(folder: Path, results: Results, traces: Sequence[Trace]) -> Path:
    """Write the three files into `folder`; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "study.md"
    summary = json.dumps(summary_of(results), indent=1, allow_nan=False) + "\n"
    contents = {folder / "results.csv": tidy_csv(traces), folder / "summary.json": summary, page: page_of(results)}
    for path, text in contents.items():
        unfinished = path.with_name(f"{path.name}.unfinished")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    return page


def tidy_csv(traces: Sequence[Trace]) -> str:
    """One row per training of a search, and per proposal that could not be measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for trace in traces:
        for step in trace.steps:
            value = trace.values.get(step.returned)
            writer.writerow(
                [
                    trace.corpus,
                    trace.proposer,
                    trace.search_seed,
                    step.number,
                    step.role,
                    step.status,
                    f"{step.seconds:.6g}",
                    f"{step.spent:.6g}",
                    "" if step.score is None else f"{step.score:.6g}",
                    "" if value is None else f"{value:.6g}",
                ]
            )
    return text.getvalue()


def summary_of(results: Results) -> dict[str, Any]:
    """Everything of the page as JSON; a ratio that is never reached is null."""
    summary = asdict(results)
    for given, found in zip(results.comparisons, summary["comparisons"], strict=True):
        if given.speed is not None:
            found["speed"] = {
                name: value if math.isfinite(value) else None for name, value in asdict(given.speed).items()
            } | {"is_claimed": given.speed.is_claimed}
    summary["corpora"] = [
        {**asdict(corpus), "surrogate": corpus.surrogate.to_json() if corpus.surrogate is not None else None}
        for corpus in results.corpora
    ]
    return summary


# --- the page ---------------------------------------------------------------------------------


def page_of(results: Results) -> str:
    """The page in Markdown."""
    lines = [f"# Study: {results.name}", "", _what(results), ""]
    for corpus in results.corpora:
        own = [item for item in results.comparisons if item.corpus == corpus.name]
        lines += [f"## {corpus.name}", ""]
        if corpus.surrogate is not None:
            lines += [f"**Caution:** {warning}." for warning in corpus.surrogate.warnings]
            lines += [""] if corpus.surrogate.warnings else []
        lines += [
            f"- {_sentence(item, results.reference, corpus)}" for item in own if item.proposer != results.reference
        ]
        lines += ["", *_differences_table(own, results.reference), "", *_costs_table(own), ""]
        if corpus.surrogate is not None:
            lines += [*_surrogate_lines(corpus.surrogate), "", *_beyond_lines(corpus, corpus.surrogate)]
        lines += [*_corpus_lines(corpus), ""]
    lines += ["## Conditions of this study", "", *_conditions(results), "", *_READING, *_limits(results)]
    return "\n".join(lines) + "\n"


def _what(results: Results) -> str:
    count = len(results.search_seeds)
    seeds = f"{count} search seeds ({results.search_seeds[0]} to {results.search_seeds[-1]})"
    length = f"each search as long as {results.runs} trainings of the starting code"
    if results.mode == "live":
        value = f"a returned configuration is worth the mean of {results.value_seeds} fresh trainings, scored on dev"
        return f"Real trainings; {seeds}, {length}; {value}."
    return (
        f"Searches on a surrogate of recorded trainings; {seeds}, {length}; a returned configuration is worth what the "
        "surrogate says without noise. Structural moves are outside of it: only knobs are turned."
    )


def _sentence(item: Comparison, reference: str, corpus: CorpusFacts) -> str:
    told = "; ".join(
        f"{difference.verdict} at {100 * difference.share:.0f} % ({_signed(difference)})"
        for difference in item.differences
    )
    return f"**{item.proposer}** against {reference}, {corpus.score}: {told}. {_speed_words(item.speed, reference)}"


def _signed(difference: Difference) -> str:
    return f"{difference.mean:+.4f}, {difference.low:+.4f} to {difference.high:+.4f}"


def _speed_words(speed: Speed | None, reference: str) -> str:
    if speed is None:
        return "Its speed is not judged."
    if math.isinf(speed.ratio):
        return f"It does not reach what {reference} ends with."
    upper = f"{speed.high:.2f}" if math.isfinite(speed.high) else "never"
    measured = f"{speed.ratio:.2f} of its seconds, 95 % interval {speed.low:.2f} to {upper}"
    if speed.is_claimed:
        return f"It reaches what {reference} ends with sooner: in {measured}."
    return f"No gain in speed is claimed ({measured}; a claim needs an upper end below {CLAIMED_RATIO})."


def _differences_table(own: Sequence[Comparison], reference: str) -> list[str]:
    lines = [
        f"| proposer | seconds | true value | difference to {reference} | 95 % interval | p | pairs | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for item in own:
        for difference in item.differences:
            head = f"| {item.proposer} | {100 * difference.share:.0f} % | {difference.value:.4f} |"
            if item.proposer == reference:
                lines.append(f"{head} - | - | - | {difference.seeds} | the reference |")
                continue
            interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
            p = f"{difference.p:.3f}" if difference.p >= 0.001 else "< 0.001"
            lines.append(
                f"{head} {difference.mean:+.4f} | {interval} | {p} | {difference.seeds} | {difference.verdict} |"
            )
    return lines


def _costs_table(own: Sequence[Comparison]) -> list[str]:
    lines = [
        "| proposer | trained proposals | seconds on proposals that failed | not measurable | ms to propose |",
        "| --- | --- | --- | --- | --- |",
    ]
    for item in own:
        note = f" ({item.exhausted} searches ran out of ideas)" if item.exhausted else ""
        lines.append(
            f"| {item.proposer} | {item.mean_experiments:.1f}{note} | {100 * item.failed_share:.1f} % "
            f"| {item.skipped:.1f} | {item.propose_milliseconds:.1f} |"
        )
    return lines


def _surrogate_lines(facts: Facts) -> list[str]:
    failures = ", ".join(f"{count} {status}" for status, count in facts.failures.items()) or "none"
    auc = f"; the model of failures has an AUC of {facts.failure_auc:.2f}" if facts.failure_auc is not None else ""
    lines = [
        f"The table holds {facts.configurations} configurations, {facts.scored} with a score; failures: "
        f"{failures}{auc}. Recording took {facts.trained_seconds / 3600:.2f} hours of training, "
        f"{facts.mean_seconds:.1f} s each. The noise of one run is {facts.sigma:.4f} ({facts.sigma_degrees} degrees of "
        f"freedom). The load average was {facts.load[0]:.1f} in the median and {facts.load[1]:.1f} at most; "
        f"{facts.disturbed} trainings count although the machine was not quiet.",
        "",
        "| model (the first one is used) | rank correlation | of the better half | R2 |",
        "| --- | --- | --- | --- |",
    ]
    for item in facts.qualities:
        better = item.rank_correlation_better_half
        lines.append(f"| {item.model} | {item.rank_correlation:.2f} | {better:.2f} | {item.r2:.2f} |")
    return lines


def _beyond_lines(corpus: CorpusFacts, facts: Facts) -> list[str]:
    """Whether searches ended where the model promises more than was ever trained."""
    if corpus.best_value is None:
        return []
    best, recorded = f"{corpus.best_value:.4f}", f"{facts.best_score:.4f}"
    words = f"The best that a search returned is worth {best}; the best recorded is {recorded}."
    if corpus.best_value < facts.best_score - 2 * facts.sigma:
        words += (
            " That is more than two times the noise below anything that was trained: the model may have made it up, "
            "and only `--mode live` can tell."
        )
    return [words, ""]


def _corpus_lines(corpus: CorpusFacts) -> list[str]:
    facts = corpus.facts
    budget = facts["recipe"]["budget"]
    length = f"{budget['seconds']:g} s" if budget["seconds"] is not None else f"{budget['steps']:,} steps"
    return [
        f"Trainings of {length} on {facts['machine']} ({facts['device']}, {facts['threads']} threads on "
        f"{facts['cores']} cores, {facts['precision']}), torch {facts['torch']}, slm-ar {facts['harness'][1]}; data "
        f"{facts['data'][:12]}, train.py {facts['train_py']}. A search has {corpus.seconds:,.0f} s; not behind is "
        f"worse by less than {corpus.margin:.4f}."
    ]


def _conditions(results: Results) -> list[str]:
    return [f"- {name}: {value}" for name, value in results.conditions.items()]


_READING = f"""## How to read this

A difference is the true value of what a proposer returned minus that of what the reference returned with the same
search seed, after the same seconds of start-up and training; lower scores are better, so negative is better. The
interval is a bootstrap over search seeds, p a two-sided Wilcoxon signed-rank test.

- **{AHEAD}**, **{BEHIND}**: interval and test agree that there is a difference.
- **{NOT_BEHIND}**: not told apart, and the whole interval is below the margin.
- **cannot be told**: none of these; more search seeds may tell. Fewer than six never do, and neither does a surrogate
  that does not rank unseen configurations well, or that was fitted to few.
""".split("\n")


def _limits(results: Results) -> list[str]:
    """What interval and test do not hold."""
    count = sum(len(item.differences) for item in results.comparisons if item.proposer != results.reference)
    lines = [
        f"Verdicts are not corrected for their number. This page has {count}, and where nothing differs about one in "
        "twenty says ahead or behind by luck alone: one that stands alone among its neighbours means little."
    ]
    if results.mode == "surrogate":
        lines += [
            "",
            "Interval and test hold the luck of searches on this one model, not its error: more search seeds make the "
            "interval shorter, and the model no truer. Whether a verdict is true of trainings, `--mode live` tells.",
        ]
    return lines
