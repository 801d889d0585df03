"""The displays: what they write, and that they never take the campaign down with them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest

from slm_ar.core.contracts import Display
from slm_ar.core.report.terminal import JsonDisplay, LiveDisplay, PlainDisplay, QuietDisplay, make_display

HOSTILE = "[red]not markup[/] \x1b[2Jgone \u202e :smile: [link=file:///x]"


class Terminal(io.StringIO):
    """A text stream that says it is a terminal, and breaks after a number of writes."""

    encoding = "utf-8"

    def __init__(self, writes: int | None = None, error: type[Exception] = BrokenPipeError) -> None:
        super().__init__()
        self.writes_left = writes
        self.error = error

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.writes_left is not None:
            if self.writes_left <= 0:
                raise self.error("gone")
            self.writes_left -= 1
        return super().write(text)


@pytest.fixture(autouse=True)
def _usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_INTERACTIVE", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def play(display: Display) -> None:
    """One campaign in small, with hostile words."""
    display.campaign(["91 runs: 5 noise, 60 ideas", HOSTILE])
    display.phase("searching")
    display.tick(0.0, "before any run")
    for number in range(8):
        display.run_started(f"experiment {number}: {HOSTILE}", 6.0)
        for tick in range(4):
            display.tick(tick * 2.5, "training")
        display.run_finished(f"experiment {number}", "0.9301, -0.0012")
        display.judged(f"{number}: {HOSTILE}", good=number % 3 == 0)
    display.run_started("no budget", 0.0)
    display.tick(3.0, "")
    display.note(HOSTILE)
    display.close()
    display.close()
    display.note("after the end")


def test_plain_lines_have_no_control_codes() -> None:
    stream = io.StringIO()
    play(PlainDisplay(stream))
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue() and "\u202e" not in stream.getvalue()
    assert lines[0] == "91 runs: 5 noise, 60 ideas"
    assert "== searching" in lines
    assert sum(line.startswith("experiment 3") for line in lines) == 2
    assert any(line.startswith("+ 3: [red]not markup[/]") for line in lines)


def test_long_lines_at_80_columns_keep_the_result_in_sight() -> None:
    stream = Terminal()
    display = LiveDisplay(stream, width=80)
    display.run_started("experiment 1: " + "a long hypothesis " * 20, 0.0)
    display.tick(3.0, "training")
    display.run_finished("experiment 1: " + "a long hypothesis " * 20, "0.9301 bits per byte on dev")
    display.judged("1  kept for now  " + "a long hypothesis " * 20, good=True)
    display.close()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    assert max(len(line) for line in lines) <= 80
    result = next(line for line in lines if "0.9301" in line)
    assert result.startswith("experiment 1: a long") and result.endswith("…: 0.9301 bits per byte on dev")
    assert lines[-1].startswith("+ 1 kept for now") and lines[-1].endswith("…")
    assert any("training, 3 s " in line for line in lines), "no budget, so no time left"


def test_plain_lines_survive_a_poor_encoding() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    PlainDisplay(stream).note("Straße 🚌")
    assert raw.getvalue() == b"Stra?e ?\n"


def test_json_lines_are_objects_and_ticks_are_few() -> None:
    stream = io.StringIO()
    display = JsonDisplay(stream)
    display.run_started("one", 60.0)
    for tick in range(120):
        display.tick(tick * 0.5, "training" if tick > 10 else "starting")
    display.judged("broken \ud800 text\nand more", good=True)
    display.close()
    display.close()
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0] == {"event": "run_started", "title": "one", "budget_seconds": 60.0}
    assert 5 <= sum(event["event"] == "tick" for event in events) <= 9
    assert events[-2]["good"] is True and events[-2]["line"].endswith("and more")
    assert [event["event"] for event in events].count("close") == 1


@pytest.mark.parametrize("width", [1, 2, 5, 20, 80, 400])
def test_live_panel_at_odd_widths(width: int) -> None:
    stream = Terminal()
    play(LiveDisplay(stream, width=width))
    text = stream.getvalue()
    assert "\x1b[2J" not in text and "\u202e" not in text
    assert text.endswith("\n")
    if width >= 80:
        assert "[red]not markup[/]" in text, "words from outside are no markup"
        assert "training, 4 s left" in text, "6 s of budget, 2.5 s used"
        assert "searching" in text and "experiment 7: 0.9301" in text
        assert "\x1b[?25h" in text, "the cursor is shown again"


@pytest.mark.parametrize("make", [LiveDisplay, PlainDisplay, JsonDisplay])
@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_a_broken_stream_makes_every_display_quiet(
    make: type[LiveDisplay] | type[PlainDisplay] | type[JsonDisplay], error: type[Exception]
) -> None:
    for writes in range(0, 40, 3):
        play(make(Terminal(writes, error)))


def test_a_reader_that_leaves_does_not_end_the_program() -> None:
    program = (
        "from slm_ar.core.report.terminal import make_display\n"
        "display = make_display(json=True, quiet=False)\n"
        "for number in range(20000):\n    display.note(f'line {number}')\n"
        "display.close()\nraise SystemExit(7)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"event": "note", "line": "line 0"}
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=120) == 7
    assert errors == b""


def test_make_display_picks_by_wish_terminal_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_display(json=True, quiet=True), JsonDisplay)
    assert isinstance(make_display(json=False, quiet=True), QuietDisplay)
    live = make_display(json=False, quiet=False)
    assert isinstance(live, LiveDisplay)
    live.close()
    monkeypatch.setenv("NO_COLOR", "1")
    assert isinstance(make_display(json=False, quiet=False), PlainDisplay)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(json=False, quiet=False), PlainDisplay)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_display(json=False, quiet=False), PlainDisplay)


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    play(QuietDisplay())
    assert capfd.readouterr() == ("", "")


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys\n"
        "import slm_ar.core.report.html, slm_ar.core.report.tables, slm_ar.core.report.terminal\n"
        "print([name for name in ('rich', 'torch', 'numpy', 'pandas', 'jinja2') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert result.stdout.strip() == "[]"
