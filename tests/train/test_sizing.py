"""The size that a model starts with: what the machine's speed and the budget allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import probed

from slm_ar.core.train.device import probe_flops
from slm_ar.core.train.sizing import REACHED, fitting_size, parameters_for, tokens_per_parameter


@given(st.floats(1e3, 1e9))
def test_a_model_of_that_size_reads_its_tokens_with_these_operations(parameters: float) -> None:
    tokens = tokens_per_parameter(parameters) * parameters
    assert parameters_for(6 * parameters * tokens) == pytest.approx(parameters)


def test_small_models_want_few_tokens_for_each_parameter_and_large_ones_many() -> None:
    assert [tokens_per_parameter(size) for size in (1e4, 1e6, 1e8, 1e10)] == pytest.approx([2.5, 2.5, 20.0, 20.0])
    assert 2.5 < tokens_per_parameter(1e7) < 20.0


@given(st.floats(1e-3, 1.0), st.floats(1.0, 1e4), st.floats(1.1, 100.0))
def test_more_time_and_more_speed_are_worth_the_same(step: float, seconds: float, factor: float) -> None:
    size = fitting_size(probed(float32=step), seconds)
    assert size is not None
    longer = fitting_size(probed(float32=step), factor * seconds)
    assert longer is not None
    assert fitting_size(probed(float32=step / factor), seconds) == pytest.approx(longer)
    assert size < longer < factor**0.5 * size * (1 + 1e-9)


def test_the_fastest_setting_of_the_probe_counts() -> None:
    assert fitting_size(probed(float32=0.04, bfloat16=0.01), 60.0) == fitting_size(probed(float32=0.01), 60.0)


def test_the_size_is_that_of_what_the_probe_reached() -> None:
    seconds_per_step = 0.02
    operations = REACHED * probe_flops("cpu") / seconds_per_step * 60.0
    assert fitting_size(probed(float32=seconds_per_step), 60.0) == pytest.approx(parameters_for(operations) / 1e6)


def test_the_step_of_the_probe_is_counted_by_its_products() -> None:
    forward = 3 * (2 * 2 * 2048 * 128 * 512) + 8 * 4 * (2 * 2 * 256 * 256 * 32)
    assert probe_flops("cpu") == 3 * forward
    assert probe_flops("cuda") == probe_flops("mps") > 50 * probe_flops("cpu")


def test_nothing_is_said_of_budgets_in_steps_and_of_other_devices() -> None:
    machine = probed(float32=0.02)
    assert fitting_size(machine, None) is None
    assert fitting_size(replace(machine, device="cuda"), 60.0) is None
    assert fitting_size(replace(machine, probe={}), 60.0) is None
