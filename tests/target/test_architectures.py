"""How architectures are written, what runs on what, and what a CUDA version can compile."""

from __future__ import annotations

import pytest

from builder.target.architectures import Architecture, join, refuse_uncompilable, why_not_compilable
from builder.util.errors import ArchitectureError

TARGET = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))


@pytest.mark.parametrize("text", ["9.0a", "sm_90a", "sm90a", "compute_90a", " 9.0a "])
def test_every_way_to_write_an_architecture_is_read(text: str) -> None:
    architecture = Architecture.parse(text)
    assert architecture == Architecture(9, 0, "a")
    assert str(architecture) == "9.0a"
    assert architecture.capability == "9.0"
    assert architecture.number == "90a"
    assert architecture.gencode == "arch=compute_90a,code=sm_90a"


def test_two_digit_majors_are_read() -> None:
    assert Architecture.parse("sm_120") == Architecture(12, 0)
    assert Architecture.parse("12.1").gencode == "arch=compute_121,code=sm_121"


@pytest.mark.parametrize("text", ["", "9", "90", "9.0b", "9.00", "a9.0", "9.0+PTX", "8,9", "-8.0", "hopper"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="is not a CUDA architecture"):
        Architecture.parse(text)


def test_architectures_sort_by_number() -> None:
    texts = ["12.0", "9.0a", "9.0", "8.9", "10.0"]
    assert join(sorted(map(Architecture.parse, texts)), " ") == "8.9 9.0 9.0a 10.0 12.0"


@pytest.mark.parametrize(
    ("cubin", "gpu", "runs"),
    [
        ("8.0", "8.0", True),
        ("8.0", "8.9", True),
        ("8.9", "8.6", False),
        ("12.0", "12.1", True),
        ("9.0", "10.0", False),
        ("9.0a", "9.0", True),
        ("10.0a", "10.3", False),
        ("10.0f", "10.3", True),
    ],
)
def test_a_cubin_runs_on_its_major_version_from_its_minor_one(cubin: str, gpu: str, runs: bool) -> None:
    assert Architecture.parse(cubin).runs_on(Architecture.parse(gpu)) is runs


@pytest.mark.parametrize(
    ("architecture", "first", "before"),
    [
        ("8.9", "11.8", "11.7"),
        ("9.0a", "12.0", "11.8"),
        ("10.0", "12.8", "12.6"),
        ("12.0", "12.8", "12.4"),
        ("12.1", "12.9", "12.8"),
        ("10.0f", "12.9", "12.8"),
        ("11.0", "13.0", "12.9"),
    ],
)
def test_an_architecture_needs_the_first_cuda_that_knows_it(
    architecture: str, first: str, before: str
) -> None:
    assert why_not_compilable(Architecture.parse(architecture), first) == ""
    assert f"needs CUDA {first} or newer, and this is {before}" in why_not_compilable(
        Architecture.parse(architecture), before
    )


@pytest.mark.parametrize("architecture", ["5.0", "6.1", "7.0", "7.2", "10.1"])
def test_what_cuda_13_dropped_is_refused_from_there(architecture: str) -> None:
    assert why_not_compilable(Architecture.parse(architecture), "12.9") == ""
    assert "CUDA 13.0 dropped" in why_not_compilable(Architecture.parse(architecture), "13.1")


def test_cuda_13_keeps_turing() -> None:
    assert why_not_compilable(Architecture(7, 5), "13.0") == ""


def test_unknown_capabilities_and_impossible_suffixes_are_refused() -> None:
    assert "no CUDA version is known" in why_not_compilable(Architecture(9, 5), "13.0")
    assert "has no architecture 8.9a" in why_not_compilable(Architecture(8, 9, "a"), "13.0")
    assert "has no architecture 9.0f" in why_not_compilable(Architecture(9, 0, "f"), "13.0")


def test_a_compiler_that_lacks_an_architecture_stops_the_build_with_a_way_out() -> None:
    with pytest.raises(ArchitectureError) as caught:
        refuse_uncompilable(TARGET, "12.4")
    assert "12.0 needs CUDA 12.8 or newer, and this is 12.4" in caught.value.message
    assert '--arch "8.0;8.6;8.9;9.0a"' in caught.value.remedy
    refuse_uncompilable(TARGET, "12.8")
