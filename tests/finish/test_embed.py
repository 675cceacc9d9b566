"""What a finished wheel holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path

import pytest
from fakes.libraries import INFO, NAME, compile_library, container, entry, pack_wheel
from fakes.provenance import PROVENANCE, SOURCE

from builder.finish.embed import embed, runtime_license_text
from builder.target.architectures import Architecture
from builder.target.project import Project
from builder.target.targets import load_targets
from builder.util.errors import RepairError
from builder.wheel import sbom
from builder.wheel.libraries import RUNTIME_LICENSE
from builder.wheel.sbom import Component
from builder.wheel.wheelfile import Wheel, record_problems

RUNTIME_NAME = "sageattention.libs/libcudart-12345678.so.13"
RUNTIME_SHA256 = hashlib.sha256(b"\x7fELF runtime").hexdigest()
PROPERTIES = {"original-sha256": "e" * 64, "path": RUNTIME_NAME}
BUNDLED = Component(
    "library", "libcudart.so.13", sha256=RUNTIME_SHA256, license=RUNTIME_LICENSE, properties=PROPERTIES
)


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    code = container(entry("80"), entry("90a"))
    return compile_library(tmp_path_factory.mktemp("lib") / "_fused.so", fatbin=code).read_bytes()


@pytest.fixture
def built(tmp_path: Path, extension: bytes) -> Path:
    """What setuptools makes."""
    lines = ["License: Apache 2.0", "Classifier: License :: OSI Approved", "Classifier: A :: B"]
    lines += ["Author: Jörg", "X-Odd: first\n  second", "Requires-Dist: torch==2.11.*"]
    return pack_wheel(tmp_path / "built", {"sageattention/lib/_fused.so": extension}, lines)


def read_sbom(path: Path) -> sbom.Sbom:
    with Wheel(path) as wheel:
        bill = sbom.read(wheel)
        assert bill is not None
        return bill


def test_a_finished_wheel(built: Path, tmp_path: Path) -> None:
    with Wheel(embed(built, PROVENANCE, tmp_path / "out")) as wheel:
        assert wheel.path.name == NAME
        assert record_problems(wheel) == []
        message = message_from_bytes(wheel.read(f"{INFO}/METADATA"))
        assert wheel.read(f"{INFO}/licenses/LICENSE") == b"the licence\n"
        assert wheel.read(f"{INFO}/patches/files/build_extensions.py") == b"import os\n"
        assert wheel.metadata["author"] == "Jörg"
    del message["Author"]
    assert message.items() == [
        ("Metadata-Version", "2.4"),
        ("Name", "sageattention"),
        ("Version", "2.2.0+cu130.torch2.11.2"),
        ("Classifier", "A :: B"),
        ("X-Odd", "first\n  second"),
        ("Requires-Dist", "torch==2.11.*"),
        ("License-Expression", "Apache-2.0"),
        ("License-File", "LICENSE"),
        ("Project-URL", "Wheel build, https://example.org/wheels"),
        ("Description-Content-Type", "text/markdown"),
    ]
    assert str(message.get_payload()) == (
        "> **About this wheel.** An unofficial build of SageAttention 2.2.0 (release v2.2.0, verified by "
        "SHA-256, 1 patch) for CUDA 13.0, torch 2.11, and compute capabilities 8.0, 8.6, 8.9, 9.0a, 12.0.\n"
        f"> Made by [sageattention-wheels](https://example.org/wheels) at {'f' * 40}; all that went in: "
        "`sboms` and `patches` in its `.dist-info`.\n\n# Read me\n"
    )


def test_the_sbom_lists_all_that_went_in(built: Path, tmp_path: Path, extension: bytes) -> None:
    path = embed(built, PROVENANCE, tmp_path / "out")
    with Wheel(path) as wheel:
        document = json.loads(wheel.read(f"{INFO}/sboms/{sbom.SBOM_NAME}"))
        files = {name: hashlib.sha256(wheel.read(name)).hexdigest() for name in wheel.names}
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "2025-10-28T01:00:16+00:00"
    assert document["metadata"]["tools"]["components"][0]["version"] == "f" * 40
    pedigree = document["metadata"]["component"]["pedigree"]
    assert pedigree["ancestors"][0]["purl"] == "pkg:github/thu-ml/sageattention@v2.2.0"
    assert [each["diff"]["url"] for each in pedigree["patches"]] == [f"{INFO}/patches/0001-build.toml"]
    bill = read_sbom(path)
    assert sbom.problems(bill, files) == []
    assert bill.subject.properties == {
        "abi": "native",
        "architectures": "8.0 8.6 8.9 9.0a 12.0",
        "cuda": "13.0",
        "target": "cp312-cu130",
        "torch": "torch==2.11.*",
    }
    assert (bill.source.sha256, bill.verified) == (SOURCE.sha256, True)
    assert (bill.tool_version("g++"), bill.tool_version("nvidia-cuda-nvcc")) == ("12.2.0", "13.0.88")
    [patch] = bill.of_kind("patch")
    assert patch.properties == {"summary": "one"}
    assert {part.name for part in bill.of_kind("patch-file")} == {
        f"{INFO}/patches/files/build_extensions.py",
        f"{INFO}/patches/series",
    }
    [library] = bill.of_kind("extension")
    assert library.sha256 == hashlib.sha256(extension).hexdigest()
    assert library.properties == {"architectures": "8.0 9.0a"}
    assert {part.name for part in bill.of_kind("file")} == {
        f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "licenses/LICENSE")
    }


def test_equal_builds_give_equal_bytes_in_any_folder(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "another, longer" / NAME
    other.parent.mkdir()
    other.write_bytes(built.read_bytes())
    one, two = embed(built, PROVENANCE, tmp_path / "a"), embed(other, PROVENANCE, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()


def test_a_bundled_runtime(tmp_path: Path) -> None:
    name = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
    files = {RUNTIME_NAME: b"\x7fELF runtime", f"{INFO}/sboms/auditwheel.cdx.json": b"{}"}
    wheel = pack_wheel(tmp_path / "repaired", files, name=name)
    path = embed(wheel, PROVENANCE, tmp_path / "out", bundled=[BUNDLED], runtime_license=b"terms\n")
    with Wheel(path) as opened:
        assert opened.metadata["license_expression"] == "Apache-2.0 AND LicenseRef-NVIDIA-Proprietary"
        assert opened.metadata["license_files"] == ["LICENSE", "nvidia-cuda-runtime/License.txt"]
        assert opened.read(f"{INFO}/licenses/nvidia-cuda-runtime/License.txt") == b"terms\n"
        assert "brings the CUDA runtime along" in opened.metadata["description"]
        assert f"{INFO}/sboms/auditwheel.cdx.json" not in opened.names
        files_of_wheel = {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.names}
    bill = read_sbom(path)
    assert bill.of_kind("library") == [BUNDLED]
    assert sbom.problems(bill, files_of_wheel) == []


def test_another_source_is_said(built: Path, tmp_path: Path) -> None:
    source = replace(
        SOURCE, kind="directory", version="2.3.0", location="fork", sha256="b" * 64, commit="", tag=""
    )
    provenance = replace(PROVENANCE, source=source, architectures=(Architecture(8, 9),))
    path = embed(built, provenance, tmp_path / "out")
    with Wheel(path) as wheel:
        description = wheel.metadata["description"]
    assert "from an unverified source: directory fork, sha256 bbbb" in description
    bill = read_sbom(path)
    assert not bill.verified
    assert bill.source.properties["location"] == "fork"
    assert bill.subject.properties["architectures"] == "8.9"


def test_a_universal_wheel_of_a_project_without_an_address(built: Path, tmp_path: Path) -> None:
    stable = load_targets()["universal-cu130"]
    provenance = replace(PROVENANCE, target=stable, project=Project("wheels", "", ""))
    with Wheel(embed(built, provenance, tmp_path / "out")) as wheel:
        description = wheel.metadata["description"]
        assert "project_urls" not in wheel.metadata
    assert f"CUDA 13.0, torch {stable.torch_minimum} and newer, and compute" in description
    assert "> Made by wheels; all" in description


def test_nvidias_terms(tmp_path: Path) -> None:
    with pytest.raises(RepairError, match="NVIDIA's terms for the CUDA runtime"):
        runtime_license_text(tmp_path)
    folder = tmp_path / "nvidia_cuda_runtime-13.0.96.dist-info" / "licenses"
    folder.mkdir(parents=True)
    (folder / "License.txt").write_text("terms")
    assert runtime_license_text(tmp_path) == b"terms"
