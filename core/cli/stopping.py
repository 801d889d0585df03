"""When a night ends: reads --until, --hours and --budget-usd, and says in words which time ended it. Called by
`slm-ar run`.

The clock on the wall decides for --until, through changes of summer time; a time of day that is over means tomorrow's.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..errors import UsageError

LONGEST_HOURS = 10_000.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment after which no run begins."""

    at: float
    """time.monotonic() of it."""
    words: str
    """Which one it is: `until 07:00 (--until)`."""


def deadline(hours: float | None, until: str | None, recipe_hours: float | None = None) -> Deadline | None:
    """The first of --hours and --until, or the recipe's hours where neither is given; None without any.

    Raises UsageError for what is no time.
    """
    found = []
    if hours is not None:
        found.append(_after(hours, "--hours"))
    if until is not None:
        found.append(_at_time_of_day(until, datetime.now()))
    if not found and recipe_hours is not None:
        found.append(_after(recipe_hours, "[budget] hours of the recipe"))
    return min(found, key=lambda item: item.at, default=None)


def checked_dollars(count: float | None) -> float | None:
    """What --budget-usd gives, as it is. Raises UsageError for what caps nothing: nothing is more than `nan`."""
    if count is not None and not math.isfinite(count):
        raise UsageError(f"--budget-usd {count:g} is no amount of money", "write it as --budget-usd 2.50")
    return count


def _after(hours: float, source: str) -> Deadline:
    if not 0 < hours <= LONGEST_HOURS:  # also refuses what is no number
        raise UsageError(f"{source} {hours:g} is no time", "write it as --hours 8")
    return Deadline(time.monotonic() + 3600 * hours, f"{hours:g} hour{'s' * (hours != 1)} ({source})")


def _at_time_of_day(until: str, now: datetime) -> Deadline:
    hour, minute = _clock(until)
    at = time.monotonic() + _seconds_until(hour, minute, now)
    return Deadline(at, f"until {hour:02d}:{minute:02d} (--until)")


def _clock(until: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", until.strip(), re.ASCII)
    hour, minute = (int(found[1]), int(found[2])) if found else (99, 99)
    if minute > 59 or hour > 24 or (hour == 24 and minute):
        hint = "write it as --until 07:00, hours 00 to 24 and minutes"
        if re.search(r"[ap]\.?m", until, re.IGNORECASE):
            hint += "; 7 pm is 19:00"
        raise UsageError(f"--until {until} is not a time of day", hint)
    return hour, minute


def _seconds_until(hour: int, minute: int, now: datetime) -> float:
    """Seconds from `now`, in local time, to the next time that a clock on the wall shows so much.

    24:00 is the midnight at the end of a day. On a day that has the time twice the first one counts, unless it is over;
    on a day that leaves it out, the moment that it would have been.
    """
    midnight = datetime(now.year, now.month, now.day)
    for day in range(3):
        # first the date, then the clock: adding hours to a moment would miss by one when summer time begins or ends
        wanted = midnight + timedelta(days=day + hour // 24)
        for fold in (0, 1):
            moment = wanted.replace(hour=hour % 24, minute=minute, fold=fold)
            if (seconds := moment.timestamp() - now.timestamp()) > 0:
                return seconds
    raise AssertionError("unreachable")


def time_line(end: Deadline, search_end: float) -> str:
    """What the plan says of the time; `search_end`: time.monotonic() after which nothing new is proposed."""
    kept = f"its last {shown_seconds(end.at - search_end)} are kept for the last proof" if end.at > search_end else ""
    return f"the time: {end.words}; {kept + ', and ' * bool(kept)}no run begins later"


def shown_seconds(count: float) -> str:
    """`40 seconds` or `9 minutes`."""
    return f"{count / 60:.0f} minutes" if count >= 100 else f"{count:.0f} seconds"
