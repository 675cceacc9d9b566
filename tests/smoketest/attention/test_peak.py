"""The highest rates that GPUs can have."""

from __future__ import annotations

import pytest

from builder.smoketest.attention.kernels import Capability
from builder.smoketest.attention.peak import attention_operations, highest_rate


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "clock_hz", "int8_tops"),
    [
        ((8, 0), 108, 1.41e9, 624),
        ((8, 6), 82, 1.695e9, 284),
        ((8, 9), 128, 2.52e9, 660.6),
        ((9, 0), 132, 1.83e9, 1979),
        ((12, 0), 170, 2.407e9, 838),
    ],
)
def test_peaks_are_those_of_the_data_sheets(
    capability: Capability, multiprocessors: int, clock_hz: float, int8_tops: float
) -> None:
    fp8 = highest_rate(capability, multiprocessors, clock_hz, "fp8")
    assert fp8 / 1e12 == pytest.approx(int8_tops, rel=0.01)
    assert highest_rate(capability, multiprocessors, clock_hz, "fp16") == pytest.approx(fp8 * 2 / 3)


def test_an_unknown_gpu_has_a_bound_that_none_reaches() -> None:
    assert highest_rate((13, 0), 100, None, "fp8") > highest_rate((9, 0), 100, 2.0e9, "fp8")


def test_the_rate_that_skipped_work_had_was_impossible() -> None:
    seconds = attention_operations(1, 32, 8192, 8192, 128) / 2.477e15
    rate = attention_operations(1, 32, 8192, 8192, 128) / seconds
    assert rate > highest_rate((9, 0), 132, 1.98e9, "fp8")
