"""One timed run at a time on a device, whatever workspace it belongs to."""

from __future__ import annotations

import math
import os
import threading
import time

import pytest

from slm_ar.core.train.device_lock import device_lock, take_device


def test_the_device_is_lent_to_one_run_at_a_time() -> None:
    waited: list[str] = []
    order: list[str] = []

    def second() -> None:
        with device_lock("cpu", waited.append):
            order.append("second")

    with device_lock("cpu", waited.append):
        other = threading.Thread(target=second)
        other.start()
        deadline = time.monotonic() + 60
        while not waited and time.monotonic() < deadline:
            time.sleep(0.01)
        order.append("first")
    other.join(60)
    assert order == ["first", "second"]
    assert f"process {os.getpid()} is training on it" in waited[0]


def test_who_waits_for_a_device_waits_no_longer_than_there_is_time() -> None:
    told: list[str] = []
    with device_lock("cpu", told.append):
        began = time.monotonic()
        assert take_device("cpu", told.append, began + 0.1) is None
        assert time.monotonic() >= began + 0.1
    assert len(told) == 1
    assert "is training on it" in told[0]
    lock = take_device("cpu", told.append, time.monotonic() - 1)
    assert lock is not None, "a device that is free is free also too late"
    lock.close()
    assert len(told) == 1


@pytest.mark.parametrize("stop_at", [None, math.inf])
def test_who_waits_gets_the_device_as_soon_as_it_is_free(stop_at: float | None) -> None:
    told = threading.Event()
    taken = threading.Event()

    def wait() -> None:
        lock = take_device("cpu", lambda words: told.set(), stop_at)
        assert lock is not None
        with lock:
            taken.set()

    with device_lock("cpu", print):
        other = threading.Thread(target=wait)
        other.start()
        assert told.wait(60)
        assert not taken.is_set()
    other.join(60)
    assert taken.is_set()


def test_an_interrupt_while_waiting_leaves_nothing_held() -> None:
    def interrupt(words: str) -> None:
        raise KeyboardInterrupt

    with device_lock("cpu", print), pytest.raises(KeyboardInterrupt):
        take_device("cpu", interrupt, math.inf)
    with device_lock("cpu", interrupt):
        pass
