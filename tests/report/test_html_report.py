"""The HTML report: well formed, self-contained, and deaf to hostile text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_states import (
    HIDDEN_SENTINEL,
    calibrated_state,
    certified_state,
    empty_state,
    every_status_state,
    facts,
    final_state,
    not_proven_state,
    with_experiment,
)

from slm_ar.core.agent.state import CampaignState
from slm_ar.core.cli.lines import sample_lines
from slm_ar.core.contracts import Status
from slm_ar.core.report.html import render_html
from slm_ar.core.report.summary import summarise
from slm_ar.core.report.svg import staircase, ticks

HOSTILE = (
    "<script>alert(1)</script></svg></style></pre>\"' onload=alert(1) <img src=http://evil.example/x>\u202e\x1b[2J"
)
VOID = {"meta", "br", "hr", "img", "link", "input"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}
STATES = (empty_state, calibrated_state, every_status_state, not_proven_state, certified_state, final_state)


class Page(HTMLParser):
    """Collects tags, attributes and visible text, and complains of tags that do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute stands twice on {tag}: {names}"
        self.attributes.update(names)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.words += [value or "" for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def render(state: CampaignState) -> str:
    return render_html(summarise(state), state)


@pytest.mark.parametrize("make", STATES)
def test_page_is_balanced_self_contained_and_free_of_secrets(make: object) -> None:
    state: CampaignState = make()  # type: ignore[operator]
    text = render(state)
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert not page.attributes & LOADING
    assert not any(name.startswith("on") for name in page.attributes)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    assert len(page.ids) == len(set(page.ids))
    assert "default-src 'none'" in text
    shown = " ".join(page.words)
    assert not re.search(r"\b(heads?|rungs?|provisional|unclear)\b", shown, re.IGNORECASE)
    assert str(abs(HIDDEN_SENTINEL))[:6] not in text
    assert "SECRET-LOG-TAIL" not in text
    assert summarise(state).verdict.headline in shown.replace("−", "-").replace("→", "->")


def test_hostile_text_stays_text() -> None:
    state = final_state(
        samples={"before": HOSTILE, "after": HOSTILE},
        facts={name: HOSTILE if isinstance(value, str) else value for name, value in facts().items()}
        | {"floors": {HOSTILE: 0.9}},
        identity=HOSTILE,
        started_at=HOSTILE,
        chain_head=HOSTILE,
        stop_reason=HOSTILE,
        open_run={"role": HOSTILE},
    )
    for status in (Status.KEPT, Status.INVALID):
        state = with_experiment(
            state,
            status,
            0.88 if status is Status.KEPT else None,
            hypothesis=HOSTILE,
            proposer=HOSTILE,
            text=f"{HOSTILE} = 1  # knob: {HOSTILE}\n{HOSTILE}",
            rationale=HOSTILE,
            reason=HOSTILE,
        )
    text = render(state)
    page = Page(text)
    assert not page.tags & {"script", "img"}
    assert not page.attributes & (LOADING | {"onload"})
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\u202e" not in text and "\x1b" not in text
    text.encode("utf-8")


def test_broken_unicode_can_be_written() -> None:
    state = with_experiment(calibrated_state(), Status.REVERTED, 0.95, hypothesis="half \ud800 a pair")
    assert b"U+D800" in render(state).encode("utf-8")


def test_a_long_campaign_stays_small() -> None:
    state = calibrated_state()
    for index in range(1000):
        status = Status.KEPT if index % 50 == 0 else Status.REVERTED
        state = with_experiment(state, status, 0.93 - index / 1e5, hypothesis="x" * 400)
    text = render(state)
    assert len(text.encode("utf-8")) < 400_000
    assert "results.tsv has every one" in text
    Page(text)


def test_a_usual_night_with_long_diffs_is_under_300_kb() -> None:
    state = calibrated_state()
    body = "".join(f"value_{index} = compute({index})\n" for index in range(400))
    for index in range(100):
        text = body.replace(f"compute({index})", f"compute({index} + 1)") + f"extra = {index}\n" * (index * 3)
        state = with_experiment(state, Status.REVERTED, 0.95, text=text, hypothesis="a sentence of usual length " * 3)
    page = render(state)
    assert len(page.encode("utf-8")) < 300_000
    assert "left out to keep this page small" in page


def test_staircase_describes_itself_and_survives_outliers() -> None:
    assert staircase(summarise(empty_state())) == ""
    state = not_proven_state()
    for _ in range(20):
        state = with_experiment(state, Status.REVERTED, 0.94)
    state = with_experiment(state, Status.REVERTED, 9.5)
    drawing = staircase(summarise(state))
    assert "<title" in drawing and "<desc" in drawing and 'role="img"' in drawing
    assert 'class="dot quiet" d="M' in drawing, "the outlier is an arrow at the upper edge"
    same = replace(calibrated_state(), runs=calibrated_state().runs[:1], sigma=0.0)
    assert staircase(summarise(same)), "one single score must not divide by zero"


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.93999, 0.94001), (0.1, 250.0), (-0.06, 0.004)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    values = ticks(low, high)
    assert 2 <= len(values) <= 7
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in values)


def test_a_score_that_is_no_number_is_drawn_as_none() -> None:
    page = render(with_experiment(calibrated_state(), Status.CRASHED, float("nan")))
    assert not re.search(r"\bnan\b", page)
    Page(page)


def test_the_legend_names_the_marks_that_are_drawn() -> None:
    few, many = render(not_proven_state(facts=facts(floors={}))), render(every_status_state())
    assert "</svg>kept for now" in few and "</svg>a proof; filled" in few
    assert "</svg>proven" not in few and "</svg>compressors" not in few and "</svg>stopped without" not in few
    assert "</svg>failed the integrity check" in many and "</svg>not run, or stopped early" in many
    assert "</svg>compressors" in many


def test_a_text_that_an_ngram_helped_to_write_is_called_so() -> None:
    state = final_state(facts=facts(mixture="ngram"))
    text = render(state)
    assert "What the models write together with the n-gram." in text and "by themselves" not in text
    assert "a sample after: the final code, with the n-gram" in "\n".join(sample_lines(state))
    assert "n-gram" not in "\n".join(sample_lines(final_state()))


def test_samples_and_interval_are_shown() -> None:
    text = render(final_state())
    assert "stop Hauptbahnhof delay 3" in text and "What the models write by themselves." in text
    assert "Gain on the final test with its interval" in text
    assert "−0.0562 to −0.0400" in text
    assert "Gain on the final test" not in render(certified_state())
