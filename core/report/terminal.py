"""What a person or a program sees while a campaign runs: a live panel, plain lines, JSON lines or nothing.

The campaign is handed a `Display` and calls it; a display never raises because of where it writes. A closed pipe or a
vanished terminal makes it silent, and the campaign goes on.
"""

from __future__ import annotations

import json as json_lines
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from ..contracts import Display
from .words import seconds, visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_LAST_VERDICTS = 5
_JSON_TICK_SECONDS = 10.0
_LINE_CHARACTERS = 500


class QuietDisplay:
    """Says nothing."""

    def campaign(self, plan_lines: list[str]) -> None:
        """Nothing."""

    def phase(self, name: str) -> None:
        """Nothing."""

    def run_started(self, title: str, budget_seconds: float) -> None:
        """Nothing."""

    def tick(self, elapsed: float, state_word: str) -> None:
        """Nothing."""

    def run_finished(self, title: str, line: str) -> None:
        """Nothing."""

    def judged(self, line: str, good: bool) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _LineWriter:
    """Writes whole lines to a stream until it breaks; from then on it is silent."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def line(self, text: str) -> None:
        if self._stream is None:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = text.encode(encoding, "replace").decode(encoding)
        try:
            self._stream.write(safe + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            # BrokenPipeError: the reader left; EIO: the terminal is gone; ValueError: the stream was closed
            silence(self._stream)
            self._stream = None


def silence(stream: TextIO) -> None:
    """Point a broken standard stream at nowhere, so that the interpreter's own flush at exit does not complain."""
    if stream not in (sys.__stdout__, sys.__stderr__):
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
    except (OSError, ValueError):
        return


def _one_line(text: str) -> str:
    return visible(text, _LINE_CHARACTERS, single_line=True)


class PlainDisplay:
    """One line per event, without control codes: for log files, pipes and screen readers."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = _LineWriter(stream if stream is not None else sys.stderr)

    def campaign(self, plan_lines: list[str]) -> None:
        """The plan, line by line."""
        for line in plan_lines:
            self._out.line(_one_line(line))

    def phase(self, name: str) -> None:
        """A heading."""
        self._out.line(f"== {_one_line(name)}")

    def run_started(self, title: str, budget_seconds: float) -> None:
        """Title and budget."""
        budget = f" ({seconds(budget_seconds)})" if budget_seconds else ""
        self._out.line(f"{_one_line(title)}{budget}")

    def tick(self, elapsed: float, state_word: str) -> None:
        """Nothing: a line twice a second would bury the others."""

    def run_finished(self, title: str, line: str) -> None:
        """Title and result."""
        self._out.line(f"{_one_line(title)}: {_one_line(line)}")

    def judged(self, line: str, good: bool) -> None:
        """The verdict, marked with a plus when it is good."""
        self._out.line(f"{'+' if good else '-'} {_one_line(line)}")

    def note(self, line: str) -> None:
        """The line itself."""
        self._out.line(_one_line(line))

    def close(self) -> None:
        """Nothing to release."""


class JsonDisplay:
    """One JSON object per line on stdout: {"event": ..., ...}. Ticks come when the state changes and every 10 s."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._out = _LineWriter(stream if stream is not None else sys.stdout)
        self._last_tick = -_JSON_TICK_SECONDS
        self._last_state = ""
        self._is_closed = False

    def _event(self, event: str, **fields: Any) -> None:
        # ASCII escapes make every text, lone surrogates included, writable everywhere
        self._out.line(json_lines.dumps({"event": event, **fields}, ensure_ascii=True))

    def campaign(self, plan_lines: list[str]) -> None:
        """{"event": "campaign", "plan": [lines]}"""
        self._event("campaign", plan=list(plan_lines))

    def phase(self, name: str) -> None:
        """{"event": "phase", "name": ...}"""
        self._event("phase", name=name)

    def run_started(self, title: str, budget_seconds: float) -> None:
        """{"event": "run_started", "title": ..., "budget_seconds": ...}"""
        self._last_tick, self._last_state = -_JSON_TICK_SECONDS, ""
        self._event("run_started", title=title, budget_seconds=budget_seconds)

    def tick(self, elapsed: float, state_word: str) -> None:
        """{"event": "tick", "elapsed_seconds": ..., "state": ...}"""
        if state_word != self._last_state or elapsed - self._last_tick >= _JSON_TICK_SECONDS:
            self._last_tick, self._last_state = elapsed, state_word
            self._event("tick", elapsed_seconds=round(elapsed, 3), state=state_word)

    def run_finished(self, title: str, line: str) -> None:
        """{"event": "run_finished", "title": ..., "line": ...}"""
        self._event("run_finished", title=title, line=line)

    def judged(self, line: str, good: bool) -> None:
        """{"event": "judged", "line": ..., "good": ...}"""
        self._event("judged", line=line, good=good)

    def note(self, line: str) -> None:
        """{"event": "note", "line": ...}"""
        self._event("note", line=line)

    def close(self) -> None:
        """{"event": "close"}, once."""
        if not self._is_closed:
            self._is_closed = True
            self._event("close")


class LiveDisplay:
    """A small panel that is redrawn in place, with finished lines printed above it. Needs a terminal.

    It redraws when it is called and has no thread of its own, so nothing happens behind the campaign's back. Whoever
    makes one calls `close` in the end, whatever happens: the cursor is hidden until then.
    """

    def __init__(self, stream: TextIO | None = None, width: int | None = None) -> None:
        from rich.live import Live

        self._stream = stream if stream is not None else sys.stderr
        self._console = _console(self._stream, width)
        self._phase = ""
        self._title = ""
        self._state = ""
        self._elapsed = 0.0
        self._budget = 0.0
        self._gain = ""
        self._verdicts: list[tuple[str, bool]] = []
        self._live: Live | None = Live(
            console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with self._guard():
            self._live.start()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Within it, a terminal that goes away makes the display give up instead of raising."""
        try:
            yield
        except (OSError, ValueError):
            self._console.quiet = True
            live, self._live = self._live, None
            if live is not None:
                # IndexError: rich stops what a broken start left half done
                with suppress(OSError, ValueError, IndexError):
                    live.stop()
            silence(self._stream)

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        if self._live is None:
            return
        with self._guard():
            self._console.print(Text(_one_line(text), style=style))
        self._redraw()

    def _redraw(self) -> None:
        if self._live is None:
            return
        with self._guard():
            self._live.update(self._panel(), refresh=True)

    def _panel(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        def row(text: str, style: str = "") -> Text:
            return Text(text, style=style, no_wrap=True, overflow="ellipsis")

        rows: list[RenderableType] = []
        if self._title:
            rows.append(row(self._title, "bold"))
            clock = seconds(float(round(self._elapsed)))
            if self._budget:
                # a bar ends without a line break; a grid gives it a line of its own
                grid = Table.grid(expand=True)
                done = min(self._elapsed, self._budget)
                grid.add_row(ProgressBar(total=self._budget, completed=done, complete_style="cyan"))
                rows.append(grid)
                clock = f"{seconds(float(round(self._budget - done)))} left"
            rows.append(row(f"{self._state or 'starting'}, {clock}", "dim"))
        if self._gain:
            rows.append(row(f"newest gain: {self._gain}", "cyan"))
        for line, good in self._verdicts:
            rows.append(row(("+ " if good else "- ") + line, "green" if good else "dim"))
        title = Text(self._phase or "slm-ar", no_wrap=True, overflow="ellipsis")
        return Panel(Group(*rows), title=title, title_align="left", border_style="dim")

    def campaign(self, plan_lines: list[str]) -> None:
        """The plan above the panel."""
        for line in plan_lines:
            self._print(line)

    def phase(self, name: str) -> None:
        """The panel's title."""
        self._phase, self._title = _one_line(name), ""
        self._redraw()

    def run_started(self, title: str, budget_seconds: float) -> None:
        """Title and an empty progress bar."""
        self._title, self._state = _one_line(title), ""
        self._elapsed, self._budget = 0.0, max(budget_seconds, 0.0)
        self._redraw()

    def tick(self, elapsed: float, state_word: str) -> None:
        """Moves the progress bar."""
        self._elapsed, self._state = max(elapsed, 0.0), _one_line(state_word)
        self._redraw()

    def run_finished(self, title: str, line: str) -> None:
        """The result above the panel."""
        self._title = ""
        # the result must stay in sight: the title gives way
        room = self._console.width - len(line) - len(": ")
        self._print(f"{visible(_one_line(title), max(room, 20))}: {line}")

    def judged(self, line: str, good: bool) -> None:
        """The verdict joins the last five; a good one is the newest gain."""
        self._verdicts = [*self._verdicts, (_one_line(line), good)][-_LAST_VERDICTS:]
        if good:
            self._gain = _one_line(line)
        self._redraw()

    def note(self, line: str) -> None:
        """The line above the panel."""
        self._print(line, "yellow")

    def close(self) -> None:
        """Removes the panel; the verdicts that it held stay as lines."""
        live, self._live = self._live, None
        if live is None:
            return
        from rich.text import Text

        with self._guard():
            live.stop()
            for line, good in self._verdicts:
                text = Text(("+ " if good else "- ") + line, style="green" if good else "dim")
                self._console.print(text, no_wrap=True, overflow="ellipsis")


def _console(stream: TextIO, width: int | None) -> Console:
    from rich.console import Console

    class _PatientConsole(Console):
        """rich ends the whole process when its pipe breaks; a night of training must not end with its window."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            silence(stream)

    return _PatientConsole(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def make_display(json: bool, quiet: bool) -> Display:
    """The display that fits: JSON if asked for, else nothing if asked for, else live on a terminal, else plain lines.

    A terminal that is dumb or not UTF-8, or NO_COLOR in the environment, gets plain lines: whoever sets it wants none
    of the control codes.
    """
    if json:
        return JsonDisplay()
    if quiet:
        return QuietDisplay()
    return LiveDisplay() if _is_lively(sys.stderr) else PlainDisplay()


def _is_lively(stream: TextIO) -> bool:
    try:
        is_terminal = stream.isatty()
    except (OSError, ValueError):
        return False
    encoding = (getattr(stream, "encoding", None) or "").lower().replace("-", "")
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return is_terminal and encoding == "utf8" and not plain
