"""--until and --hours: what they mean on odd days, which of them counts, and what is no time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from commands_in_process import Command
from hypothesis import given
from hypothesis import strategies as st

from slm_ar.core.cli import stopping
from slm_ar.core.cli.stopping import Deadline, deadline, time_line
from slm_ar.core.errors import UsageError

HOUR = 3600.0


@pytest.fixture(autouse=True, scope="module")
def _middle_europe() -> Iterator[None]:
    """A zone with summer time, whatever the machine has and knows of zones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


def left(until: str, now: datetime) -> float:
    hour, minute = stopping._clock(until)
    return stopping._seconds_until(hour, minute, now)


@pytest.mark.parametrize(
    ("until", "now", "hours"),
    [
        ("07:00", datetime(2026, 5, 4, 23, 0), 8),
        ("7:30", datetime(2026, 5, 4, 6, 0), 1.5),
        ("07:00", datetime(2026, 5, 4, 8, 0), 23),
        ("07:00", datetime(2026, 5, 4, 7, 0), 24),
        ("24:00", datetime(2026, 12, 31, 22, 0), 2),
        ("24:00", datetime(2026, 5, 4, 0, 0), 24),
        ("00:00", datetime(2026, 5, 4, 23, 59), 1 / 60),
        ("07:00", datetime(2026, 3, 28, 23, 0), 7),  # the clock goes forward in this night
        ("07:00", datetime(2026, 10, 24, 23, 0), 9),  # and back in this
        ("24:00", datetime(2026, 10, 25, 0, 0), 25),
        ("02:30", datetime(2026, 3, 29, 1, 0), 1.5),  # there is no half past two
        ("02:15", datetime(2026, 10, 25, 2, 30), 0.75),  # there are two
        ("02:45", datetime(2026, 10, 25, 2, 30), 0.25),
        ("02:15", datetime(2026, 10, 25, 2, 30, fold=1), 23.75),
    ],
)
def test_the_clock_on_the_wall_decides(until: str, now: datetime, hours: float) -> None:
    assert left(until, now) == pytest.approx(hours * HOUR)


@given(st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)), st.integers(0, 24), st.integers(0, 59))
def test_the_end_is_within_a_day_and_shows_the_time_that_was_asked_for(now: datetime, hour: int, minute: int) -> None:
    minute = 0 if hour == 24 else minute
    seconds = left(f"{hour}:{minute:02d}", now)
    assert 0 < seconds <= 25 * HOUR
    end = datetime.fromtimestamp(now.timestamp() + seconds)
    is_left_out = (hour, end.month, end.day) == (2, 3, end.day) and end.hour == 3
    assert (end.hour, end.minute) == (hour % 24, minute) or is_left_out


@pytest.mark.parametrize(
    "until", ["7", "25:00", "24:30", "12:60", "", "07:00:00", "tomorrow", "-1:00", "٠٧:٠٠", "7.30"]
)
def test_what_is_no_time_of_day_is_explained(until: str) -> None:
    with pytest.raises(UsageError, match="is not a time of day") as caught:
        deadline(None, until)
    assert "--until 07:00" in caught.value.hint


def test_an_afternoon_is_explained() -> None:
    with pytest.raises(UsageError) as caught:
        deadline(None, "7pm")
    assert "7 pm is 19:00" in caught.value.hint


@pytest.mark.parametrize("hours", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_hours_that_are_none(hours: float) -> None:
    with pytest.raises(UsageError, match="is no time"):
        deadline(hours, None)


@pytest.mark.parametrize("dollars", ["nan", "inf", "0", "-1"])
def test_money_that_caps_nothing_is_refused(slm_ar: Command, dollars: str) -> None:
    ended = slm_ar("run", "--budget-usd", dollars)
    assert ended.code == 2 and "--budget-usd" in ended.error


def test_the_first_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping.time, "monotonic", lambda: 1000.0)
    short, long = deadline(1.0, None), deadline(8.0, None)
    assert short == Deadline(1000 + HOUR, "1 hour (--hours)") and long is not None
    assert deadline(None, None) is None
    until = deadline(9999.0, "07:00")
    assert until is not None and until.words == "until 07:00 (--until)" and until.at <= 1000 + 25 * HOUR
    both = deadline(0.001, "07:00")
    assert both is not None and both.words == "0.001 hours (--hours)"
    assert deadline(None, None, 2.0) == Deadline(1000 + 2 * HOUR, "2 hours ([budget] hours of the recipe)")
    assert deadline(8.0, None, 2.0) == long


def test_the_plan_says_what_is_kept_for_the_last_proof() -> None:
    end = Deadline(5000.0, "until 07:00 (--until)")
    kept = "the time: until 07:00 (--until); its last 9 minutes are kept for the last proof, and no run begins later"
    assert time_line(end, 4460.0) == kept
    assert "last 40 seconds" in time_line(end, 4960.0)
    assert time_line(end, 5000.0) == "the time: until 07:00 (--until); no run begins later"
