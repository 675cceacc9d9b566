"""How architectures are written, what runs on what, and what a CUDA version can compile."""

from __future__ import annotations

import pytest

from builder.target.architectures import Architecture, join, refuse_uncompilable
from builder.target.upstream import PATCHES_DIR, build_constants
from builder.util.errors import ArchitectureError

TARGET = tuple(Architecture.parse(text) for text in ("8.0", "8.6", "8.9", "9.0a", "12.0"))


@pytest.mark.parametrize("text", ["9.0a", "sm_90a", "sm90a", "compute_90a", " 9.0a "])
def test_every_way_to_write_an_architecture_is_read(text: str) -> None:
    architecture = Architecture.parse(text)
    assert architecture == Architecture(9, 0, "a")
    assert (str(architecture), architecture.capability, architecture.number) == ("9.0a", "9.0", "90a")
    assert architecture.gencode == "arch=compute_90a,code=sm_90a"


@pytest.mark.parametrize("text", ["", "9", "90", "9.0b", "9.00", "9.0+PTX", "8,9", "-8.0", "hopper"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(ArchitectureError, match="is not a CUDA architecture"):
        Architecture.parse(text)


def test_architectures_sort_by_number() -> None:
    texts = ["sm_120", "9.0a", "9.0", "8.9", "10.0"]
    assert join(sorted(map(Architecture.parse, texts)), " ") == "8.9 9.0 9.0a 10.0 12.0"


@pytest.mark.parametrize(
    ("cubin", "gpu", "runs"),
    [
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


def test_a_compiler_that_lacks_an_architecture_stops_the_build_with_a_way_out() -> None:
    lowest_cuda = build_constants(PATCHES_DIR / "v2.2.0")["ARCHITECTURES"]
    with pytest.raises(ArchitectureError) as caught:
        refuse_uncompilable(TARGET, "12.4", lowest_cuda)
    assert "12.0 needs CUDA 12.8" in caught.value.message
    assert '--arch "8.0;8.6;8.9;9.0a"' in caught.value.remedy
    refuse_uncompilable(TARGET, "12.8", lowest_cuda)
