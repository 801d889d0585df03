"""The report of a campaign as one HTML file that opens from a disk: no network, no script, no font to load.

Called by the command line. Everything from outside (hypotheses, diffs, samples, names) is data and passes through
`html.escape`; a content security policy in the page forbids all but its own inline style.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from itertools import groupby

from ..agent.state import CampaignState
from ..contracts import BITS_PER_BYTE, BITS_WITH_NGRAM, Status
from .experiments import ExperimentRow
from .style import CSS
from .summary import FinalRow, Summary
from .svg import interval_plot, staircase
from .words import TAKEN_BACK, counted, figure, plural, seconds, short, signed, visible

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_MOST_ROWS = 120
_DIFF_CHARACTERS = 90_000
"""All diffs of one page together, as written; the journal holds what does not fit."""
_SAMPLE_CHARACTERS = 2_000


def render_html(summary: Summary, state: CampaignState) -> str:
    """The whole page as text, to be written as UTF-8. `state` gives the generated samples, `summary` all the rest."""
    sections = (
        _head_of_page(summary),
        _tiles(summary),
        _chart(summary),
        _ladder(summary),
        _final(summary),
        _exam(summary),
        _next_steps(summary),
        _experiments(summary),
        _claims(summary),
        _samples(state.samples, state.unit == BITS_WITH_NGRAM),
        _facts(summary),
        _how_to_read(summary),
    )
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(summary.recipe_name)}: slm-ar report</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, lead: str, content: str) -> str:
    lead = f"<p>{lead}</p>" if lead else ""
    return f"<section>\n<h2>{escape(title)}</h2>{lead}\n{content}\n</section>"


def _head_of_page(summary: Summary) -> str:
    facts = [f"<b>{escape(summary.recipe_name)}</b>"]
    facts += [escape(text) for text in (summary.device, summary.budget, summary.started_at[:16].replace("T", " "))]
    stamp = f'<div class="stamp">{escape(summary.stamp)}</div>' if summary.stamp else ""
    lines = [*summary.verdict.lines]
    if summary.compressor is not None:
        lines.append(summary.compressor.sentence)
    if summary.provable:
        lines.append(f"What could be proven here: {summary.provable}.")
    if summary.doing:
        lines.append(f"At the moment, or when it stopped: {summary.doing}.")
    if summary.stop_reason:
        lines.append(f"Stopped: {summary.stop_reason}")
    paragraphs = "".join(f"<p>{_typeset(line)}</p>" for line in lines)
    return (
        f'<header><div class="eyebrow">{"".join(f"<span>{fact}</span>" for fact in facts if fact)}</div>\n'
        f'<div class="verdict {escape(summary.verdict.kind)}">{stamp}'
        f"<h1>{_typeset(summary.verdict.headline)}</h1>{paragraphs}</div></header>"
    )


def _typeset(sentence: str) -> str:
    """A sentence of ours with real minus signs and arrows; the plain renderings keep to ASCII."""
    return escape(re.sub(r"(?<![\w-])-(?=\d)", "−", sentence).replace(" -> ", " → "))


def _tiles(summary: Summary) -> str:
    start, current = summary.baseline, summary.current
    tiles = [("start, on dev", figure(start.score), f"{summary.unit}, mean of {plural(start.runs, 'run')}")]
    counts = summary.counts
    kept, back = counts.get(Status.KEPT.value, 0), counts.get(TAKEN_BACK.short, 0)
    tried = f"of {plural(sum(counts.values()), 'edit')}" + (f"; {back} taken back" if back else "")
    if current.score is not None and start.score is not None and current.revision != start.revision:
        settled = summary.proven is not None and summary.proven.revision == current.revision
        against = signed(current.score - start.score)
        standing = "proven" if settled else "not yet proven" if summary.proven is None else "not all of it proven"
        note = f"{against} against the start; {standing}"
        tiles.append(("current, on dev", figure(current.score), note))
    if summary.text_start is not None and summary.text_current is not None:
        note = f"bits per byte on dev; {figure(summary.text_start)} at the start"
        name = "the model alone" if summary.unit == BITS_WITH_NGRAM else summary.text_words
        tiles.append((name, figure(summary.text_current), note))
    if summary.sigma is not None:
        tiles.append(("noise (sigma)", f"{summary.sigma:.4f}", f"luck of one run, {summary.unit}"))
    if counts:
        tiles.append(("kept or proven", str(kept), tried))
    cards = (
        f'<div class="card"><div class="tile-name">{escape(name)}</div>'
        f'<div class="tile-value num">{escape(value)}</div><div class="tile-note">{_typeset(note)}</div></div>'
        for name, value, note in tiles
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


_LEGEND = (
    ("circle", 'class="dot good proven" r="5.5"', "proven"),
    ("circle", 'class="dot good" r="5.5"', "kept for now"),
    ("circle", 'class="dot quiet" r="3.6"', "tried, no gain"),
    ("path", 'class="cross warn" d="M5 3l8 8m0 -8l-8 8"', "stopped without a score"),
    ("path", 'class="cross quiet" d="M5 3l8 8m0 -8l-8 8"', "not run, or stopped early"),
    ("path", 'class="cross alarm" d="M5 3l8 8m0 -8l-8 8"', "failed the integrity check"),
    ("g", 'class="proof yes"><path d="M9 1l5 6l-5 6l-5 -6z"/></g', "a proof; filled when it succeeded"),
    ("path", 'class="stairs" d="M0 7h18"', "best of the current chain"),
    ("path", 'class="band" d="M0 1h18v12h-18z"', "plus and minus one sigma of luck"),
    ("path", 'class="floor" d="M0 7h18"', "compressors and n-grams"),
)


def _legend(drawing: str) -> str:
    """The marks that occur in the drawing."""
    items = []
    for shape, attributes, text in _LEGEND:
        kind = attributes.split('"')[1].removesuffix(" yes")
        if f'class="{kind}"' not in drawing and f'class="{kind} yes"' not in drawing:
            continue
        place = ' cx="9" cy="7"' if shape == "circle" else ""
        end = ">" if shape == "g" else "/>"
        mark = f'<svg viewBox="0 0 18 14" aria-hidden="true"><{shape} {attributes}{place}{end}</svg>'
        items.append(f"<li>{mark}{escape(text)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _chart(summary: Summary) -> str:
    drawing = staircase(summary)
    if not drawing:
        return ""
    unit = summary.unit[:1].upper() + summary.unit[1:]
    lead = f"{escape(unit)} on dev, lower is better. Every dot is one run of one edit, in the order they were tried."
    return _section(
        "The staircase", lead, f'<div class="card"><div class="scroll chart">{drawing}</div>{_legend(drawing)}</div>'
    )


def _ladder(summary: Summary) -> str:
    if len(summary.ladder) < 2:
        return ""
    proven = ' class="proven"'
    green = {"proven", "finished"} if summary.verdict.kind == "proven" else {"proven"}
    items = (
        f"<li{proven if step.name in green else ''}>"
        f'<div class="name">{escape(step.name)}</div>'
        f'<div class="value num">{figure(step.score)}</div>'
        f'<div class="note">{escape(step.split)}; {escape(step.note)}</div></li>'
        for step in summary.ladder
    )
    units = " on dev, ".join(dict.fromkeys((summary.unit, summary.claim_unit)))
    lead = f"{escape(units).capitalize()} at each stage. Compare only numbers of the same split: dev with dev."
    return _section("The ladder", lead, f'<div class="card"><ol class="ladder">{"".join(items)}</ol></div>')


def _final(summary: Summary) -> str:
    final = summary.final
    if final is None:
        lead = "Not opened. The test split is read once, when a person asks for it with slm-ar finish."
        return _section("The final test", lead, "") if summary.experiments else ""
    lead = f"Opened {escape(final.at[:16].replace('T', ' '))}, for {plural(final.pairs, 'pair')} of runs."
    title = f"Finished minus start, {escape(final.unit)} (left of zero is better)"
    noise = summary.sigma if final.unit == summary.unit else None  # sigma counts what dev counts
    plot = f"<div><h3>{title}</h3>{interval_plot(final, noise)}</div>"
    content = f'<div class="card two middle">{plot}{_final_table(final)}</div>'
    return _section("The final test", lead, content)


def _final_table(final: FinalRow) -> str:
    per_record = final.final_bits_per_record - final.baseline_bits_per_record
    as_text = ""
    if final.unit != BITS_PER_BYTE:
        words = f"{figure(final.baseline_bits_per_byte)} to {figure(final.final_bits_per_byte)}"
        name = "the model alone" if final.unit == BITS_WITH_NGRAM else "as text"
        as_text = f'<tr><td>{name}, {BITS_PER_BYTE}</td><td class="right num" colspan="2">{words}</td></tr>'
    return (
        "<table><caption>Start and finished code on the same test text, same seeds</caption>"
        f'<thead><tr><th scope="col"></th><th scope="col" class="right">{escape(final.unit)}</th>'
        '<th scope="col" class="right">bits per record</th></tr></thead><tbody>'
        f'<tr><td>start</td><td class="right num">{figure(final.baseline_score)}</td>'
        f'<td class="right num">{final.baseline_bits_per_record:.2f}</td></tr>'
        f'<tr><td>finished</td><td class="right num">{figure(final.final_score)}</td>'
        f'<td class="right num">{final.final_bits_per_record:.2f}</td></tr>'
        f'<tr><td>difference</td><td class="right num">{_typeset(signed(final.delta))}</td>'
        f'<td class="right num">{_typeset(f"{per_record:+.2f}")}</td></tr>'
        f'<tr><td>95 % interval</td><td class="right num" colspan="2">{_typeset(signed(final.delta_low))} to '
        f"{_typeset(signed(final.delta_high))}</td></tr>{as_text}</tbody></table>"
    )


def _exam(summary: Summary) -> str:
    """The tasks that the finished model answered, beside baselines on the same questions."""
    if not summary.exam:
        return ""
    tables = []
    for row in summary.exam:
        lines = [("the model", row.model, "")] + [(entry.name, entry.value, entry.words) for entry in row.baselines]
        body = "".join(
            f'<tr><td>{escape(name)}</td><td class="right num">{figure(value)}</td><td>{escape(words)}</td></tr>'
            for name, value, words in lines
        )
        tables.append(
            f"<table><caption>{escape(row.task)}: {escape(row.metric)}, {plural(row.questions, 'question')}</caption>"
            f"<tbody>{body}</tbody></table>"
        )
    lead = f"Every system answered the same questions of {escape(summary.exam_split)}."
    if summary.unit == BITS_WITH_NGRAM:
        lead += " The model answered alone, without the n-gram."
    lead += " A baseline that is better than the model is the one to use."
    return _section("The answers", lead, f'<div class="card">{"".join(tables)}</div>')


def _next_steps(summary: Summary) -> str:
    items = (f"<li><code>{escape(step.command)}</code>{escape(step.why)}</li>" for step in summary.next_steps)
    return _section("What to do next", "", f'<ul class="next">{"".join(items)}</ul>')


def _experiments(summary: Summary) -> str:
    if not summary.experiments:
        return ""
    rows = _most_telling(summary.experiments)
    lead = escape(", ".join(counted(summary.counts)) or "No edit") + "."
    if summary.placebos:
        lead += escape(
            f" {summary.placebos_kept} of {plural(summary.placebos, 'placebo')} (unchanged code in disguise) kept."
        )
    if summary.failed_words:
        lead += escape(f" {summary.failed_words}.")
    if len(rows) < len(summary.experiments):
        lead += f" Shown: those that were kept and the newest, {len(rows)} in all; results.tsv has every one."
    diffs = _diffs_that_fit(rows)
    body = [_experiment(row, diffs.get(row.id, "")) for row in rows]
    table = (
        '<div class="card experiments scroll"><table><thead><tr><th scope="col" class="right">#</th>'
        '<th scope="col">what was tried</th><th scope="col">outcome</th><th scope="col" class="right">dev</th>'
        '<th scope="col" class="right">against current</th><th scope="col" class="right">time</th>'
        f'<th scope="col" class="right">steps</th></tr></thead><tbody>\n{"".join(body)}</tbody></table></div>'
    )
    return _section("Experiments", lead, table)


def _most_telling(rows: tuple[ExperimentRow, ...]) -> tuple[ExperimentRow, ...]:
    if len(rows) <= _MOST_ROWS:
        return rows
    kept = [row.id for row in rows if row.status == Status.KEPT.value][-_MOST_ROWS // 2 :]
    shown = {*kept, *(row.id for row in rows[-(_MOST_ROWS - len(kept)) :])}
    return tuple(row for row in rows if row.id in shown)


def _diffs_that_fit(rows: Iterable[ExperimentRow]) -> dict[int, str]:
    """Coloured diffs by experiment until the page is full: those that were kept first, then the newest."""
    room = _DIFF_CHARACTERS
    fitting: dict[int, str] = {}
    for row in sorted(rows, key=lambda row: (row.status != Status.KEPT.value, -row.id)):
        diff = _coloured(row.diff)
        if len(diff) <= room:
            fitting[row.id] = diff
            room -= len(diff)
    return fitting


def _experiment(row: ExperimentRow, diff: str) -> str:
    tone = "proven" if row.words == "proven" else row.tone
    changes = "".join(
        f'<span class="change mono">{escape(change.name)} {escape(change.before)} → {escape(change.after)}</span>'
        for change in row.changes[:12]
    )
    notes = [row.reason, f"machine: {row.disturbance}" if row.disturbance else ""]
    by = f"by {row.proposer}" + (", a placebo" if row.is_placebo else "")
    better = " better" if row.delta is not None and row.delta < 0 else ""
    return (
        f'<tr class="top"><td class="right num">{row.id}</td>'
        f'<td class="what">{escape(row.hypothesis) or "no words given"}'
        f'<div class="sub">{escape(by)}</div>{changes}</td>'
        f'<td><span class="pill {escape(tone)}" title="{escape(row.meaning)}">{escape(row.words)}</span>'
        f'{_sub_lines(notes)}</td><td class="right num">{figure(row.dev_score)}</td>'
        f'<td class="right num{better}">{_typeset(signed(row.delta))}</td>'
        f'<td class="right num">{escape(seconds(row.train_seconds))}</td>'
        f'<td class="right num">{"-" if row.steps is None else f"{row.steps:,}"}</td></tr>'
        f'<tr class="more"><td></td><td colspan="6">{_details(row, diff)}</td></tr>\n'
    )


def _sub_lines(notes: Iterable[str]) -> str:
    return "".join(f'<div class="sub">{escape(note)}</div>' for note in notes if note)


def _details(row: ExperimentRow, diff: str) -> str:
    parts = []
    if row.rationale.strip():
        parts.append(f'<p class="sub">{escape(row.rationale)}</p>')
    facts = [f"code {short(row.revision)}, from {short(row.parent)}"]
    facts += [f"{row.tokens:,} tokens"] if row.tokens else []
    facts += [f"{row.parameters:,} parameters"] if row.parameters else []
    parts.append(f'<p class="sub">{escape("; ".join(facts))}</p>')
    if diff:
        parts.append(f"<pre>{diff}</pre>")
    elif row.diff:
        parts.append('<p class="sub">The diff is left out to keep this page small; the journal holds it.</p>')
    return f"<details><summary>{'why and diff' if row.diff else 'details'}</summary>{''.join(parts)}</details>"


def _coloured(diff: str) -> str:
    """The diff escaped, each run of added, removed or heading lines in one span."""
    kinds = {"+": "plus", "-": "minus", "@": "at"}
    parts = []
    for kind, lines in groupby(diff.split("\n"), key=lambda line: kinds.get(line[:1], "")):
        text = escape("\n".join(lines))
        parts.append(f'<span class="{kind}">{text}</span>' if kind else text)
    return "\n".join(parts)


def _claims(summary: Summary) -> str:
    if not summary.claims:
        return ""
    rows = (
        f'<tr><td class="right num">{claim.id}</td>'
        f'<td><span class="pill {"proven" if claim.is_proven else "quiet"}">{escape(claim.words)}</span>'
        f"{_sub_lines(claim.notes)}</td>"
        f'<td class="right num">{claim.after_experiment or "-"}</td>'
        f'<td class="right num">{"-" if claim.pairs is None else claim.pairs}</td>'
        f'<td class="right num">{"-" if claim.groups is None else claim.groups}</td>'
        f'<td class="right num">{claim.alpha:.3g}</td></tr>'
        for claim in summary.claims
    )
    lead = (
        "A proof runs the current and the proven code side by side with fresh seeds and scores them on a hidden split. "
        f"Its scores are shown to nobody, so that nothing can be tuned to them. Asked so far: {escape(summary.asked)}."
    )
    table = (
        '<div class="card scroll"><table><thead><tr><th scope="col" class="right">#</th><th scope="col">result</th>'
        '<th scope="col" class="right">after experiment</th><th scope="col" class="right">pairs of runs</th>'
        '<th scope="col" class="right">groups of text</th><th scope="col" class="right">error allowed</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _section("Proofs", lead, table)


def _samples(samples: Mapping[str, str], has_ngram: bool) -> str:
    names = {"before": "the code at the start", "after": "the final code"}
    cards = [
        f'<div><h3>{escape(names[key])}</h3><pre tabindex="0">{escape(visible(samples[key], _SAMPLE_CHARACTERS))}</pre>'
        "</div>"
        for key in names
        if samples.get(key)
    ]
    if not cards:
        return ""
    how = "together with the n-gram" if has_ngram else "by themselves"
    lead = f"What the models write {how}. A model can repeat what it learned: read it before you share it."
    return _section("Samples", lead, f'<div class="card two">{"".join(cards)}</div>')


def _facts(summary: Summary) -> str:
    blocks = []
    named = (("machine", summary.machine, ""), ("data", summary.data, ""), ("hashes", summary.hashes, ' class="mono"'))
    for title, facts, kind in named:
        rows = "".join(f"<dt>{escape(key)}</dt><dd{kind}>{escape(value)}</dd>" for key, value in facts.items() if value)
        if rows:
            wide = ' class="wide"' if kind else ""
            blocks.append(f"<div{wide}><h3>{title}</h3><dl>{rows}</dl></div>")
    plan = f"The plan was {escape(summary.plan)}." if summary.plan else ""
    return _section("Facts", plan, f'<div class="card two">{"".join(blocks)}</div>')


def _how_to_read(summary: Summary) -> str:
    lines = [
        "<b>Bits per byte</b> is how many bits the model needs for each byte of text it has not seen; a compressor "
        "with the same number would make files of that size. Lower is better.",
        "<b>Noise (sigma)</b> is how far two runs of the same code lie apart by luck alone. A difference below it "
        "means nothing by itself.",
        "<b>Kept for now</b> means better on dev, once. Among many tries some are better by luck, so dev flatters. "
        "<b>Proven</b> means that fresh runs on hidden text confirmed it. Only the final test gives a headline number.",
        "<b>A dash</b> stands where a run has no score: a crash is not a bad score, it is none.",
    ]
    if summary.unit == BITS_WITH_NGRAM:
        lines.insert(
            1,
            "<b>With n-gram</b>: every model was scored together with an n-gram of the training text, whose weights "
            "were fitted for each model on text that neither had read. Such figures compare with each other, not with "
            "bits per byte of a model alone. The exported folder is the model alone.",
        )
    if summary.stamp:
        lines.append(
            "<b>Explored, not certified</b>: the numbers are what was measured, but nothing kept the tried code from "
            "reading the hidden text. Only a proved sandbox could certify that."
        )
    items = "".join(f"<p>{line}</p>" for line in lines)
    made = f"slm-ar, campaign {summary.identity[:16]}" if summary.identity else "slm-ar"
    return (
        f'<section><h2>How to read this</h2><div class="guide">{items}</div></section>\n'
        f"<footer>Made by {escape(made)}. This file loads nothing from the network and runs no script.</footer>"
    )
