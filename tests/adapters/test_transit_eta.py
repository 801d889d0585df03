"""The windows of the ETA Accuracy Benchmark, and how far ahead an answer of each kind of document lies."""

from __future__ import annotations

import math

import pytest

from slm_ar.adapters.transit import TransitAdapter
from slm_ar.adapters.transit.eta import WINDOWS, accuracies, horizon, step_of
from slm_ar.core.contracts import Rater

CALLS = "line NEC Mon Mar 02\ntrip 3845 > New York\n05:54 Trenton | +0.5\n06:01 Hamilton | "
ARRIVALS = "line 3 Thun, Bahnhof Thu Aug 15\n23:50 31 | -1.0\n00:04 | "
NAMES = ["eta_accuracy/00-03 min", "eta_accuracy/03-06 min", "eta_accuracy/06-10 min", "eta_accuracy/10-15 min"]


@pytest.mark.parametrize(
    ("prompt", "gold", "expected"),
    [
        (CALLS, "+1.5", 8.0),
        (CALLS, "-7.0", -0.5),
        (ARRIVALS, "+2.0", 17.0),
        ("line R1 Tue Jan 02\ntrip t1\n07:00 A\nB | ", "+10.0", 10.0),
        ("line R1 Tue Jan 02\ntrip t1\n07:00 A\nB | +10.0\nC | ", "+2.5", 2.5),
        (CALLS[: CALLS.index("05:54")] + "05:54 Trenton | ", "+1.0", None),
        ("line 3 Thun Thu Aug 15\n05:54 | ", "+1.0", None),
        ("line Tue Jan 02\n05:50 7 | KING | S | MFUS | 5 | 10 | 1\n06:10 35 | JANE | N | MFESA | ", "5", None),
        ("bus 1 Florida > North | MTWTF-- | 14 trips 05:30-19:00\nMarion\nScott St | ", "+1.1", None),
        ("05:54 | ", "+1.0", None),
    ],
)
def test_horizon(prompt: str, gold: str, expected: float | None) -> None:
    found = horizon(prompt, gold)
    assert found is None if expected is None else found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("minutes", "earliest", "latest"), [(0.0, -0.5, 1.5), (3.0, -1.0, 2.5), (6.0, -1.0, 3.5), (10.0, -1.5, 4.5)]
)
def test_windows_hold_their_borders_and_end_behind_them(minutes: float, earliest: float, latest: float) -> None:
    """A run time of `minutes`; the answer is early where the vehicle comes after it."""
    prompt, gold, name = "line 1 Tue Jan 02\ntrip t1\n07:00 A\nB | ", f"+{minutes}", f"eta_accuracy/{step_of(minutes)}"
    for error, expected in (
        (earliest, 1.0),
        (latest, 1.0),
        (0.0, 1.0),
        (earliest - 0.1, 0.0),
        (latest + 0.1, 0.0),
    ):
        found = accuracies(prompt, gold, f"{minutes - error:.1f}")
        assert list(found) == NAMES and found[name] == expected
        assert sum(math.isnan(value) for value in found.values()) == 3


@pytest.mark.parametrize("gold", ["+15.0", "+40.0", "-0.1"])
def test_what_lies_outside_the_four_horizons_counts_in_none(gold: str) -> None:
    found = accuracies("line 1 Tue Jan 02\ntrip t1\n07:00 A\nB | ", gold, gold)
    assert list(found) == NAMES and all(math.isnan(value) for value in found.values())


def test_the_adapter_rates_numbers_and_tells_the_same_horizon_in_slices() -> None:
    adapter = TransitAdapter()
    assert isinstance(adapter, Rater)
    assert adapter.rate("delay", CALLS, "+1.5", "+1.0")["eta_accuracy/06-10 min"] == 1.0
    assert [step_of(window.upper - 0.1) for window in WINDOWS] == [name.partition("/")[2] for name in NAMES]
    assert (step_of(29.9), step_of(30)) == ("15-30 min", "30+ min")
