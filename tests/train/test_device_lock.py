"""One timed run at a time on a device, whatever workspace it belongs to."""

from __future__ import annotations

import os
import threading
import time

from slm_ar.core.train.device_lock import device_lock, wait_for_device


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
        assert not wait_for_device("cpu", told.append, began + 0.1)
        assert time.monotonic() >= began + 0.1
    assert len(told) == 1
    assert "is training on it" in told[0]
    assert wait_for_device("cpu", told.append, time.monotonic() - 1), "a device that is free is free also too late"
    assert wait_for_device("cpu", told.append, None)
    assert len(told) == 1


def test_who_waits_without_an_end_goes_on_as_soon_as_the_device_is_free() -> None:
    answers: list[bool] = []
    told = threading.Event()
    with device_lock("cpu", print):
        other = threading.Thread(target=lambda: answers.append(wait_for_device("cpu", lambda words: told.set(), None)))
        other.start()
        assert told.wait(60)
        assert answers == []
    other.join(60)
    assert answers == [True]
