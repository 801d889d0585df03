"""A virtual machine whose host gives its cores to others: slower runs that no other program explains."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from slm_ar.core.train import disturbance


def core_times(user: float = 1.0, steal: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(user=user, system=1.0, nice=0.0, steal=steal)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds that the Watch reads; two cores, nobody else at work."""
    now = SimpleNamespace(wall=100.0, stolen=7.0)
    monkeypatch.setattr(disturbance.time, "monotonic", lambda: now.wall)
    monkeypatch.setattr(disturbance, "_sleep_seconds", lambda: 0.0)
    monkeypatch.setattr(disturbance, "usable_cores", lambda: {0, 1})
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [core_times(steal=now.stolen), core_times()])
    return now


@pytest.mark.parametrize(
    ("stolen", "words"),
    [(0.0, ""), (0.5, ""), (1.2, "the host of this virtual machine took 0.6 of 2 cores away")],
)
def test_a_run_whose_cores_were_given_to_others_is_disturbed(clock: SimpleNamespace, stolen: float, words: str) -> None:
    watch = disturbance.Watch([])
    clock.wall += 2.0
    clock.stolen += stolen
    assert watch.verdict() == words


def test_what_is_stolen_while_a_run_stands_does_not_count(clock: SimpleNamespace) -> None:
    watch = disturbance.Watch([])
    watch.rest()
    clock.wall += 2.0
    clock.stolen += 4.0
    watch.go_on()
    clock.wall += 2.0
    assert watch.verdict() == ""


def test_where_nobody_tells_of_stolen_time_nothing_is_stolen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [SimpleNamespace(user=1.0, system=1.0)] * 2)
    monkeypatch.setattr(disturbance, "usable_cores", lambda: {0, 1})
    assert disturbance.Watch([]).verdict() == ""


@pytest.mark.parametrize(
    ("usable", "words"),
    [({0}, ""), ({0, 1}, "other programs used 1.0 of 2 cores"), ({7}, "other programs used 1.0 of 1 cores")],
)
def test_work_on_cores_that_a_run_may_not_use_does_not_disturb_it(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, usable: set[int], words: str
) -> None:
    work = {"done": 0.0}
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [core_times(), core_times(user=work["done"])])
    monkeypatch.setattr(disturbance, "usable_cores", lambda: usable)
    watch = disturbance.Watch([])
    clock.wall += 2.0
    work["done"] += 2.0
    assert watch.verdict() == words, "a core that the list does not name is looked for in all of it"
