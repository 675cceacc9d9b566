"""The groups `total`, `outliers` and `reports`: green for a right package, and red where it falls short."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from builder.smoketest.plan import Options, RowSpec, plan
from builder.smoketest.report import Result, Status

Run = Callable[[RowSpec], Result]
SPECS = {
    spec.id: spec for spec in plan(Options(mode="long", groups=("total", "outliers", "reports")), (9, 0))
}
# What torch.compile can't trace of the fake, and what needs libraries or a GPU.
NOT_HERE = ("patched", "dynamic", "does not load", "opcheck", "python -m")
FP16 = "cuda-fp16/fp32/per_thread"
ROWS = [
    row
    for row, spec in SPECS.items()
    if spec.kernel.key in ("sageattn", "varlen", FP16)
    and spec.group != "first call"
    and not any(words in row for words in NOT_HERE)
]


@pytest.mark.parametrize("row", ROWS)
def test_a_right_package_passes(run: Run, row: str) -> None:
    assert run(SPECS[row]).reason == ""


FAULTS = [
    ("refuses", "total/sageattn/head dims of 160, 192 and 256, V of another", "head_dim is 160"),
    ("refuses", "total/sageattn/float32 and float64", "raised ValueError"),
    ("refuses", "total/sageattn/dropout", "dropout_p is 0.1"),
    ("refuses", "total/sageattn/a mask with is_causal", "exclude each other"),
    (
        "refuses",
        "total/sageattn/torch's signature, any leading dimensions",
        "two dimensions: raised",
    ),
    ("refuses", "total/sageattn/explain() names what computes", "raised ValueError"),
    ("refuses", "total/sageattn/one warning, and a switch in the environment", "ended with exit code 1"),
    ("wrong-torch", "total/sageattn/head dims of 160, 192 and 256, V of another", "relative error"),
    ("wrong-torch", "total/sageattn/float32 and float64", "relative error"),
    ("wrong-torch", "total/sageattn/return_lse", "relative error"),
    ("wrong-torch", "total/sageattn/dropout", "the sum of the weights is 1.1"),
    ("wrong-torch", "total/sageattn/100 random calls against float64", "relative error"),
    ("not-patched", "total/sageattn/a whole model patched, also compiled", "nothing was replaced"),
    ("no-rotation", f"outliers/{FP16}/K: 2 channels x50", "relative error"),
    ("no-rotation", f"outliers/{FP16}/heavy tails", "relative error"),
    ("no-rotation", "outliers/varlen/log-normal channel scales", "relative error"),
    ("swallows", "reports/sageattn/keywords that ask for nothing", "softcap: accepted"),
    ("swallows", "reports/sageattn/float masks of all types", "relative error"),
    ("swallows", "reports/sageattn/a mask that is written later", "relative error"),
    ("silent-gradient", "reports/sageattn/a learnt bias", "no gradient and no error"),
    ("tail", "reports/sageattn/packed sequences in longer buffers", "are NaN or infinite"),
]


@pytest.mark.parametrize(("fault", "row", "reason"), FAULTS)
def test_a_package_that_falls_short_fails(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str, row: str, reason: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    result = run(SPECS[row])
    assert result.status is Status.FAIL
    assert reason in result.reason
