"""A bill of materials is read as it was written, whatever the order, and compared with a wheel's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.libraries import INFO, pack_wheel

from builder.wheel import sbom
from builder.wheel.label import WheelError
from builder.wheel.sbom import Component
from builder.wheel.wheelfile import Wheel

SUBJECT = Component("wheel", "x", "1", license="MIT", properties={"target": "cp312-cu130"})
SOURCE = Component(
    "source", "X", "2.2.0", "0" * 64, "pkg:github/x/x@v2.2.0", "MIT", "https://x", {"verified": "true"}
)
COMPONENTS = [
    SOURCE,
    Component("extension", "a.so", sha256="1" * 64),
    Component("library", "libb.so.1", sha256="2" * 64, properties={"path": "x.libs/libb-1.so.1"}),
    Component("build-tool", "nvcc", "13", "3" * 64),
]


def serialize(components: list[Component], subject: Component = SUBJECT, epoch: int = 0) -> bytes:
    return sbom.serialize(subject, components, made_by=Component("build-tool", "me"), epoch=epoch)


def test_what_is_written_is_read() -> None:
    read = sbom.parse(serialize(COMPONENTS))
    assert read.subject == SUBJECT
    assert sorted(read.components, key=repr) == sorted(COMPONENTS, key=repr)
    assert read.source == SOURCE
    assert read.verified
    assert (read.tool_version("nvcc"), read.tool_version("g++")) == ("13", "")
    assert not sbom.parse(serialize([])).verified


def test_equal_content_gives_equal_bytes() -> None:
    assert serialize(COMPONENTS) == serialize(COMPONENTS[::-1])
    different = [
        serialize(COMPONENTS),
        serialize(COMPONENTS[:2]),
        serialize(COMPONENTS, epoch=1),
        serialize(COMPONENTS, Component("wheel", "x", "2")),
    ]
    serials = [data.split(b'"serialNumber": ')[1].split(b"\n")[0] for data in different]
    assert len(set(serials)) == 4


def test_an_sbom_against_the_files() -> None:
    read = sbom.parse(serialize(COMPONENTS))
    unlisted = {f"{INFO}/RECORD": "9" * 64, f"{INFO}/sboms/{sbom.SBOM_NAME}": "9" * 64}
    assert sbom.problems(read, {"a.so": "1" * 64, "x.libs/libb-1.so.1": "2" * 64, **unlisted}) == []
    assert sbom.problems(read, {"a.so": "4" * 64, "new.so": "5" * 64}) == [
        "a.so has a different SHA-256 in the SBOM",
        "new.so is in the wheel and not in the SBOM",
        "x.libs/libb-1.so.1 is in the SBOM and not in the wheel",
    ]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"bomFormat":"CycloneDX","components":5}'])
def test_what_is_no_sbom(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        sbom.parse(data)
    with Wheel(pack_wheel(tmp_path / "without", {})) as wheel:
        assert sbom.read(wheel) is None
    with (
        Wheel(pack_wheel(tmp_path, {f"{INFO}/sboms/{sbom.SBOM_NAME}": data})) as wheel,
        pytest.raises(WheelError, match="its SBOM can't be read"),
    ):
        sbom.read(wheel)
