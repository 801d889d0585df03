"""What every test gets: a private folder of its own, no network, and on demand a tiny prepared corpus."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# One thread per process, read when torch is imported: several that share the cores of a machine wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

from toys import TINY_TRAIN_PY, TOY_STUDY, ToyAdapter, toy_machine, toy_recipe

from slm_ar.core.prepare.pipeline import PreparedData, prepare
from slm_ar.core.train.device import Machine
from slm_ar.core.train.executor import LocalExecutor

# No test asserts on time: a busy machine is not a failure.
settings.register_profile("slm-ar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slm-ar")

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(scope="session")
def _private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Names without end; a folder appears only when something private is written."""
    base = tmp_path_factory.mktemp("private")
    return (base / f"{number}" / "private" for number in itertools.count())


@pytest.fixture(autouse=True)
def private_folder(_private_folders: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Held-out parts and hidden scores of this test; the user's own data folder is never touched."""
    folder = next(_private_folders)
    monkeypatch.setenv("SLM_AR_PRIVATE", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="session")
def _interrupts() -> None:
    """A shell ignores interrupts for what it starts in the background, and so would every command of these tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Every connection that would leave this machine is an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", guarded)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        patch.delenv(name, raising=False)
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TOKENIZERS_PARALLELISM", "false")
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """About 110 kB of synthetic logs, prepared once; do not write into its folders."""
    base = tmp_path_factory.mktemp("tiny")
    source = base / "source"
    source.mkdir()
    (source / "any.txt").write_text("the toy adapter does not look\n", encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.setenv("SLM_AR_PRIVATE", str(base / "private"))
    try:
        return prepare(toy_recipe(), ToyAdapter(), source, base / "workspace" / ".slm" / "data", lambda line: None)
    finally:
        patch.undo()


@pytest.fixture(scope="session")
def tiny_train_py() -> str:
    """A train.py that works and takes a moment."""
    return TINY_TRAIN_PY


@pytest.fixture(scope="session")
def machine() -> Machine:
    return toy_machine()


@pytest.fixture
def command_environment(private_folder: Path) -> dict[str, str]:
    """The environment for `slm-ar` in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    return environment | {"SLM_AR_PRIVATE": str(private_folder), "COLUMNS": "120", "PYTHONWARNINGS": "default"}


@pytest.fixture(scope="session")
def executor(tiny_data: PreparedData, machine: Machine) -> Iterator[LocalExecutor]:
    """One warm executor over the tiny corpus for all tests of a session: its incubator takes seconds to start."""
    with LocalExecutor(machine, tiny_data) as shared:
        yield shared


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file of the workspace `toy` beside it."""
    path = tmp_path / "STUDY.toml"
    path.write_text(TOY_STUDY, encoding="utf-8")
    return path
