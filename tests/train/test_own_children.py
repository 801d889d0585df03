"""What the children of a candidate take: their seconds are its own, and memory that they share is counted once."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import psutil
import pytest

from slm_ar.core.train import disturbance
from slm_ar.core.train.process import _is_living, tree_memory_mb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks /proc")

PARENT = """
    import os, sys, time
    block = bytearray(os.urandom(1 << 20)) * 200
    if os.fork() == 0:
        while time.process_time() < 0.5:
            sum(block[::4096])
        print("burnt", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def candidate() -> Iterator[int]:
    """A process with 210 MB and a child that shares them and has computed for half a second, below a launcher."""
    with launched(textwrap.dedent(PARENT)) as pid:
        yield pid


@contextlib.contextmanager
def launched(code: str) -> Iterator[int]:
    """The process of `code`, below a launcher, once it has written "burnt"."""
    launcher = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {code!r}]); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, start_new_session=True) as started:
        assert started.stdout is not None and started.stdout.readline() == b"burnt\n"
        try:
            yield psutil.Process(started.pid).children()[0].pid
        finally:
            os.killpg(started.pid, signal.SIGKILL)


def test_what_processes_share_is_counted_once(candidate: int) -> None:
    assert 205 < tree_memory_mb(candidate) < 330


def test_what_children_compute_is_no_disturbance(candidate: int) -> None:
    assert disturbance.Watch([], psutil.Process(candidate).ppid())._own_seconds() >= 0.5
    assert disturbance.Watch([])._own_seconds() == 0


HEADLESS = """
    import ctypes, os, threading, time
    def eat():
        held = b"x" * 200_000_000
        print("burnt", flush=True)
        time.sleep(60)
    threading.Thread(target=eat).start()
    {fork}
    ctypes.CDLL(None).syscall(ctypes.c_long({exit_thread}), 0)
"""
EXIT_THREAD = {"x86_64": 60, "aarch64": 93}


@pytest.mark.parametrize("has_child", [False, True])
def test_the_memory_of_a_process_whose_first_thread_has_ended_counts(has_child: bool) -> None:
    """The first thread alone has ended; the process looks as if it were over."""
    fork = "os.fork() or time.sleep(60)" if has_child else ""
    code = textwrap.dedent(HEADLESS.format(fork=fork, exit_thread=EXIT_THREAD[platform.machine()]))
    with launched(code) as candidate:
        process = psutil.Process(candidate)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert 200 < tree_memory_mb(candidate) < 330
        assert _is_living(process)
        process.kill()
        while process.num_threads() > 1:
            time.sleep(0.01)
        assert not _is_living(process)


def test_what_a_run_computed_counts_as_its_own_when_it_has_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.5:\n    pass"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as incubator:
        assert incubator.stdout is not None and incubator.stdout.readline()
        assert psutil.Process(incubator.pid).children() == []
        assert disturbance.Watch([], incubator.pid)._own_seconds() >= 0.5
        incubator.communicate(b"\n")
