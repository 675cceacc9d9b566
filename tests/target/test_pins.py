"""What a CUDA compiler is made of: pinned, and refused where it is not."""

from __future__ import annotations

import pytest

from builder.target.pins import Archive, Pins, read_pins
from builder.util.errors import TargetError
from builder.util.toml import parse

PACKAGES = 'packages = ["nvidia-cuda-nvcc==13.0.88"]\n'
ARCHIVE = """\
[[archives]]
name = "cuda_nvcc"
url = "https://example.org/cuda_nvcc.tar.xz"
sha256 = "9961b3484b6b71314063709a4f9529654f96782ad39e72bf1e00f070db8210d3"
size_bytes = 79015464
"""
SHA256 = "9961b3484b6b71314063709a4f9529654f96782ad39e72bf1e00f070db8210d3"


def test_packages_and_archives_are_read() -> None:
    runtime = 'runtime = ["nvidia-cuda-runtime==13.0.96"]\n'
    assert read_pins(parse("cu130.toml", PACKAGES + runtime + ARCHIVE, TargetError)) == Pins(
        ("nvidia-cuda-nvcc==13.0.88",),
        (Archive("cuda_nvcc", "https://example.org/cuda_nvcc.tar.xz", SHA256, 79015464),),
        ("nvidia-cuda-runtime==13.0.96",),
    )
    assert read_pins(parse("cu130.toml", PACKAGES, TargetError))[1:] == ((), ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "packages: missing"),
        (PACKAGES + 'runtime = ["cudart>=13"]', "runtime: 'cudart>=13' is not pinned"),
        ("packages = []", "packages: [] is not a list of strings"),
        ('packages = ["nvcc>=13"]', "packages: 'nvcc>=13' is not pinned"),
        ('packages = ["nvcc==13.*"]', "packages: 'nvcc==13.*' is not pinned"),
        ('packages = ["nvcc"]', "packages: 'nvcc' is not pinned"),
        ('packages = ["nvcc @ file:///x"]', "packages: 'nvcc @ file:///x' is not pinned"),
        ('packages = ["nvcc ="]', "packages: 'nvcc =' is not a requirement"),
        (PACKAGES + ARCHIVE.replace("9961b", "9961B"), "archives 1: sha256: '9961B"),
        (PACKAGES + ARCHIVE.replace('d3"', '"'), "archives 1: sha256: '9961b"),
        (PACKAGES + ARCHIVE.replace("https:", "ftp:"), "archives 1: url: 'ftp:"),
        (PACKAGES + ARCHIVE.replace("79015464", "0"), "archives 1: size_bytes: 0 is not a size in bytes"),
        (PACKAGES + ARCHIVE.replace("79015464", "true"), "archives 1: size_bytes: True is not a size"),
        (PACKAGES + ARCHIVE.replace("size_bytes", "size"), "archives 1: size: unknown key"),
        (PACKAGES + ARCHIVE + ARCHIVE, "archives: 'cuda_nvcc' is listed twice"),
    ],
)
def test_what_is_wrong_is_refused_by_key(text: str, said: str) -> None:
    with pytest.raises(TargetError) as caught:
        read_pins(parse("cu130.toml", text, TargetError))
    assert caught.value.message.startswith(f"cu130.toml: {said}")
