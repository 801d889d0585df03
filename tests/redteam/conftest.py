"""Prints the catch rate at the end of a run of the red team."""

from __future__ import annotations

import pytest

TEST = "test_attack_is_caught_or_harmless["


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = {
        outcome: sum(
            report.when == ("setup" if outcome == "error" else "call") and TEST in report.nodeid
            for report in terminalreporter.stats.get(outcome, [])
            if isinstance(report, pytest.TestReport)
        )
        for outcome in ("passed", "failed", "error", "skipped")
    }
    if total := sum(counts.values()):
        terminalreporter.write_line(f"{counts['passed']} of {total} attacks caught or harmless")
