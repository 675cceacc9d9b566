"""Shapes that no kernel takes have to be refused, and empty ones to be empty."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import Kernel, kernels_for
from builder.smoketest.attention.subject import Subject
from builder.smoketest.plan import SHAPES, Check
from builder.smoketest.report.outcome import Result
from builder.smoketest.rows import shapes

SAGEATTN, VARLEN = kernels_for((9, 0), ("sageattn", "varlen"))


def run(standin: Subject, kernel: Kernel, row: str) -> Result:
    name = row.partition(".")[2]
    result = getattr(shapes, name)(standin, Check("shapes", kernel, name, row))
    assert isinstance(result, Result)
    return result


@pytest.mark.parametrize("row", SHAPES.values())
@pytest.mark.parametrize("kernel", [SAGEATTN, VARLEN], ids=lambda kernel: kernel.key)
def test_a_package_that_checks_passes(standin: Subject, kernel: Kernel, row: str) -> None:
    assert run(standin, kernel, row).reason == ""


def test_so_does_one_that_checks_where_sequences_begin(standin: Subject) -> None:
    assert run(standin, VARLEN, "shapes.sequences").reason == ""


@pytest.mark.parametrize(
    ("kernel", "row", "reason"),
    [
        (SAGEATTN, "shapes.disagreeing", "head_dim 129: accepted"),
        (SAGEATTN, "shapes.kinds", "float32: accepted"),
        (SAGEATTN, "shapes.no_keys", "not ValueError"),
        (VARLEN, "shapes.disagreeing", "V longer than K: accepted"),
        (VARLEN, "shapes.sequences", "max_seqlen_q too small: accepted"),
    ],
)
def test_one_that_takes_anything_fails(
    standin: Subject, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, row: str, reason: str
) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "takes-anything")
    assert reason in run(standin, kernel, row).reason
