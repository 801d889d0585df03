"""What is found on machines that are not here: cards, drivers and builds of torch, with torch's answers made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from slm_ar.core.errors import UsageError
from slm_ar.core.train import device

OLD_BUILD = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_ask", lambda question, threads: device._answer(question))
    monkeypatch.setattr(device, "NVIDIA_DRIVER", ("/nowhere",))


def put_cuda(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], build: list[str], runs: bool = True, hip: str = ""
) -> None:
    """A card with `capability` under a torch that holds code for `build`."""

    def use() -> None:
        if not runs:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore words")

    monkeypatch.setattr(device, "_use_cuda", use)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None if hip else "12.6", hip=hip or None))
    for name, answer in (
        ("is_available", True),
        ("get_device_name", "NVIDIA GeForce RTX 5080"),
        ("get_device_capability", capability),
        ("get_arch_list", build),
        ("mem_get_info", (15 * 10**9, 16 * 10**9)),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capability[0] >= 8)


def put_mps(monkeypatch: pytest.MonkeyPatch, macos: int) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: (macos, 0) >= (major, minor))
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M4")


def put_times(monkeypatch: pytest.MonkeyPatch, **seconds: float | None) -> list[tuple[str, str]]:
    """Seconds of the probe step by dtype; None: the device refuses it."""
    asked: list[tuple[str, str]] = []

    def time_step(dtype: str, where: str) -> float:
        asked.append((dtype, where))
        if (found := seconds[dtype]) is None:
            raise RuntimeError("not implemented for this type")
        return found

    monkeypatch.setattr(device, "_time_step", time_step)
    return asked


def test_a_card_that_its_torch_knows_is_taken_and_rounds_where_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    put_cuda(monkeypatch, (12, 0), [*OLD_BUILD, "sm_120"])
    put_times(monkeypatch, float32=0.004, bfloat16=0.001)
    machine = device.probe_machine("auto", "auto", "auto")
    assert (machine.device, machine.name, machine.precision) == ("cuda", "NVIDIA GeForce RTX 5080, 16 GB", "bfloat16")
    assert machine.mode == "cold", "a forked child could not use the card"
    assert machine.probe == {"cuda float32": 0.004, "cuda bfloat16": 0.001}


def test_what_the_recipe_asks_for_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    put_cuda(monkeypatch, (9, 0), OLD_BUILD)
    asked = put_times(monkeypatch)
    assert device.probe_machine("cuda", 2, "float32").precision == "float32"
    assert not asked


def test_a_card_that_only_emulates_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    put_cuda(monkeypatch, (7, 5), OLD_BUILD)
    asked = put_times(monkeypatch, float32=0.004, bfloat16=0.001)
    assert device.probe_machine("auto", "auto", "auto").precision == "float32"
    assert asked == [("float32", "cuda")]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_a_torch_older_than_the_card_is_told_with_the_line_that_replaces_it(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    put_cuda(monkeypatch, (12, 0), OLD_BUILD, runs=False)
    with pytest.raises(UsageError, match=r"has no code for the NVIDIA GeForce RTX 5080: it needs sm_120") as caught:
        device.probe_machine(wanted, "auto", "auto")
    assert "--torch-backend=auto --reinstall torch" in (caught.value.hint or "")
    assert "CUDA 12.8" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="sm_120"):
        device.probe_device()


@pytest.mark.parametrize(("hip", "capability"), [("", (9, 0)), ("6.4", (11, 0))])
def test_a_card_that_fails_for_another_reason_says_it_and_nothing_goes_on_quietly(
    monkeypatch: pytest.MonkeyPatch, hip: str, capability: tuple[int, int]
) -> None:
    put_cuda(monkeypatch, capability, OLD_BUILD, runs=False, hip=hip)
    with pytest.raises(UsageError, match=r"no kernel image is available for execution on the device\n") as caught:
        device.probe_machine("auto", "auto", "auto")
    assert 'device = "cpu"' in (caught.value.hint or "")


def test_a_build_without_cuda_beside_a_driver_is_told_with_the_line_that_replaces_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None, hip=None))
    with pytest.raises(UsageError, match="no CUDA device is visible"):
        device.probe_machine("cuda", "auto", "auto")
    monkeypatch.setattr(device, "NVIDIA_DRIVER", ("/",))
    with pytest.raises(UsageError, match="is a build without CUDA") as caught:
        device.probe_machine("cuda", "auto", "auto")
    assert caught.value.hint == device.REINSTALL_TORCH


def test_a_driver_older_than_the_build_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update")

    monkeypatch.setattr(device, "NVIDIA_DRIVER", ("/",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda="13.0", hip=None))
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(UsageError, match=r"is too old \(found version 12020\)\.\n") as caught:
        device.probe_machine("cuda", "auto", "auto")
    assert "update the driver" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("macos", "times", "precision", "timed"),
    [
        (15, {"float32": 0.10, "bfloat16": 0.06}, "bfloat16", 2),
        (15, {"float32": 0.10, "bfloat16": 0.098}, "float32", 2),  # no gain worth rounding for
        (15, {"float32": 0.10, "bfloat16": None}, "float32", 1),
        (13, {"float32": 0.10, "bfloat16": 0.01}, "float32", 1),
    ],
)
def test_metal_rounds_where_the_system_can_and_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, macos: int, times: dict[str, float | None], precision: str, timed: int
) -> None:
    put_mps(monkeypatch, macos)
    put_times(monkeypatch, **times)
    machine = device.probe_machine("auto", "auto", "auto")
    assert (machine.device, machine.name, machine.mode) == ("mps", "Apple M4", "cold")
    assert machine.precision == precision
    assert len(machine.probe) == timed


def test_a_device_that_cannot_even_float32_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    put_mps(monkeypatch, 15)
    put_times(monkeypatch, float32=None, bfloat16=0.1)
    with pytest.raises(RuntimeError, match="not implemented"):
        device.probe_machine("auto", "auto", "auto")


def test_a_step_that_gives_nonsense_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    monkeypatch.setattr(torch, "isfinite", lambda loss: torch.tensor(False))
    with pytest.raises(RuntimeError, match="the loss in bfloat16 is"):
        device._time_step("bfloat16", "cpu")


def test_the_doctor_names_the_line_that_replaces_a_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    from slm_ar.core.cli import doctor

    monkeypatch.setattr(device, "torch_version", lambda: "2.13.0+cpu")
    warned: list[Any] = [doctor._surroundings()["warnings"]]
    monkeypatch.setattr(device, "NVIDIA_DRIVER", ("/",))
    warned.append(doctor._surroundings()["warnings"])
    told = set(warned[1]) - set(warned[0])
    assert [device.REINSTALL_TORCH in line for line in told] == [True]
