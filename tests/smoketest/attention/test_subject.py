"""How the package under test is called, and what rows of one process share."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from builder.smoketest.attention.kernels import ALL
from builder.smoketest.attention.subject import Subject, one_line


class Notes:
    """What rows share."""

    def __init__(self) -> None:
        self.lines: list[str] = []


def test_rows_share_one_object_of_a_class(standin: Subject) -> None:
    standin.kept(Notes).lines.append("a")
    assert standin.kept(Notes).lines == ["a"]
    assert standin.kept(dict) == {}


def test_a_kernel_is_called_with_its_own_arguments(standin: Subject) -> None:
    def function(*tensors: int, **arguments: object) -> tuple[object, ...]:
        return tensors, arguments

    kernel = next(kernel for kernel in ALL if kernel.key == "cuda-fp16/fp16/smooth_v")
    setattr(standin.module, kernel.function, function)
    own = {"pv_accum_dtype": "fp16", "qk_quant_gran": "per_thread", "smooth_v": True}
    assert standin.call_checked(kernel, 1, 2, is_causal=True) == ((1, 2), {**own, "is_causal": True})


def test_an_exception_in_one_line() -> None:
    assert one_line(ValueError("\n  first \nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 500))) == 200
