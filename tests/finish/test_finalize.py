"""What a finished wheel holds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_libraries import Elf, fatbin, make_elf, pack_wheel
from made_up_provenance import INFO, NAME, SOURCE, TOLD

from builder.finish.finalize import finalize, runtime_license_text
from builder.finish.repair import BundledLibrary
from builder.finish.sbom import own_sbom, read_sbom
from builder.target.architectures import Architecture
from builder.util.errors import RepairError
from builder.wheel.rewrite import rewrite
from builder.wheel.wheelfile import Wheel, record_problems

PEP_600 = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
FUSED = make_elf(Elf(fatbin=fatbin("80", "86", "89", "90a", "120")))
RUNTIME = make_elf(Elf(soname="libcudart-12345678.so.13"))
RUNTIME_NAME = "sageattention.libs/libcudart-12345678.so.13"
BUNDLED = BundledLibrary(RUNTIME_NAME, "libcudart.so.13", "e" * 64, "nvidia-cuda-runtime", "13.0.96")
UNVERIFIED = replace(
    SOURCE,
    kind="directory",
    version="2.3.0",
    location="fork",
    sha256="b" * 64,
    commit="",
    tag="",
)


def build(tmp_path: Path, name: str = NAME, **files: bytes) -> Path:
    lines = ["License: Apache 2.0 License", "Classifier: License :: OSI Approved", "Classifier: A :: B"]
    content = {"sageattention/lib/_fused.so": FUSED, **files}
    return pack_wheel(tmp_path / "built", name, content, [*lines, "Requires-Dist: torch==2.11.*"])


def test_a_finished_wheel(tmp_path: Path) -> None:
    made = finalize(build(tmp_path), TOLD, tmp_path / "out")
    with Wheel(made) as wheel:
        assert record_problems(wheel) == []
        metadata = wheel.metadata
        assert metadata["Metadata-Version"] == "2.4"
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata.get_all("License-File") == ["LICENSE"]
        assert metadata["License"] is None
        assert metadata.get_all("Classifier") == ["A :: B"]
        assert metadata.get_all("Requires-Dist") == ["torch==2.11.*"]
        assert metadata["Project-URL"] == "Wheel build, https://example.org/wheels"
        assert wheel.read(f"{INFO}/licenses/LICENSE") == b"the licence\n"
        assert f"{INFO}/LICENSE" not in wheel.names
        assert wheel.read(f"{INFO}/patches/files/build_extensions.py") == b"import os\n"
        first, second, *rest = str(metadata.get_payload()).split("\n")
        assert (
            "unofficial build of SageAttention 2.2.0 (release v2.2.0, verified by SHA-256, 1 patch)" in first
        )
        assert "for CUDA 13.0, torch 2.11, and compute capabilities 8.0, 8.6, 8.9, 9.0a, 12.0." in first
        assert f"[sageattention-wheels](https://example.org/wheels) at {'f' * 40}" in second
        assert rest == ["", "# Read me", ""]
        assert (bill := own_sbom(wheel))
        assert bill.subject.fact("target") == "cp312-cu130"


def test_the_sbom_lists_all_that_went_in(tmp_path: Path) -> None:
    with Wheel(finalize(build(tmp_path), TOLD, tmp_path / "out")) as wheel:
        data = wheel.read(f"{INFO}/sboms/sageattention.cdx.json")
    document = json.loads(data)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "2025-10-28T01:00:16+00:00"
    assert document["metadata"]["tools"]["components"][0]["version"] == "f" * 40
    subject = document["metadata"]["component"]
    assert subject["pedigree"]["ancestors"][0]["purl"] == "pkg:github/thu-ml/sageattention@v2.2.0"
    assert [each["diff"]["url"] for each in subject["pedigree"]["patches"]] == [
        f"{INFO}/patches/0001-build.toml"
    ]
    found = {(part.kind, part.name): part for part in read_sbom(data).materials}
    assert found["source", "SageAttention"].sha256 == SOURCE.sha256
    assert found["source", "SageAttention"].fact("verified") == "true"
    assert found["build-tool", "nvidia-cuda-nvcc"].sha256 == "a" * 64
    assert found["build-tool", "g++"].version == "12.2.0"
    assert found["patch", f"{INFO}/patches/0001-build.toml"].fact("summary") == "one"
    assert (
        found["patch-file", f"{INFO}/patches/series"].sha256
        == hashlib.sha256(b"0001-build.toml\n").hexdigest()
    )
    extension = found["extension", "sageattention/lib/_fused.so"]
    assert extension.sha256 == hashlib.sha256(FUSED).hexdigest()
    assert extension.fact("architectures") == "8.0 8.6 8.9 9.0a 12.0"


def test_equal_builds_give_equal_bytes_in_any_folder(tmp_path: Path) -> None:
    one = finalize(build(tmp_path / "one"), TOLD, tmp_path / "a")
    two = finalize(build(tmp_path / "another, longer"), TOLD, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()
    assert finalize(one, TOLD, tmp_path / "c").read_bytes() == one.read_bytes()


def test_a_bundled_runtime(tmp_path: Path) -> None:
    wheel = build(tmp_path, PEP_600, **{RUNTIME_NAME: RUNTIME, f"{INFO}/sboms/auditwheel.cdx.json": b"{}"})
    with pytest.raises(RepairError, match="NVIDIA's terms for it were not found"):
        finalize(wheel, TOLD, tmp_path / "out", bundled=[BUNDLED])
    made = finalize(wheel, TOLD, tmp_path / "out", bundled=[BUNDLED], runtime_license=b"terms\n")
    with Wheel(made) as opened:
        assert opened.metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-NVIDIA-Proprietary"
        assert opened.metadata.get_all("License-File") == ["LICENSE", "nvidia-cuda-runtime/License.txt"]
        assert opened.read(f"{INFO}/licenses/nvidia-cuda-runtime/License.txt") == b"terms\n"
        assert "brings the CUDA runtime along" in str(opened.metadata.get_payload())
        assert f"{INFO}/sboms/auditwheel.cdx.json" in opened.names
        library = next(
            part
            for part in read_sbom(opened.read(f"{INFO}/sboms/sageattention.cdx.json")).materials
            if part.kind == "library"
        )
    assert (library.name, library.version) == ("libcudart.so.13", "13.0.96")
    assert library.sha256 == hashlib.sha256(RUNTIME).hexdigest()
    assert library.fact("path") == RUNTIME_NAME
    assert library.fact("original-sha256") == "e" * 64


def test_an_unverified_source_is_said(tmp_path: Path) -> None:
    told = replace(TOLD, source=UNVERIFIED, patches=())
    with Wheel(finalize(build(tmp_path), told, tmp_path / "out")) as wheel:
        text = wheel.read(f"{INFO}/METADATA").decode()
        sbom = wheel.read(f"{INFO}/sboms/sageattention.cdx.json").decode()
    assert "from an unverified source: directory fork, sha256 bbbb" in text
    assert "no patches" in text
    source = next(part for part in read_sbom(sbom.encode()).materials if part.kind == "source")
    assert source.fact("verified") == "false"
    assert source.fact("location") == "fork"


def test_nvidias_terms_are_found(tmp_path: Path) -> None:
    assert runtime_license_text(tmp_path) is None
    folder = tmp_path / "nvidia_cuda_runtime_cu12-12.8.90.dist-info"
    folder.mkdir()
    (folder / "License.txt").write_text("terms")
    assert runtime_license_text(tmp_path) == b"terms"


def test_a_wheel_without_provenance_has_none(tmp_path: Path) -> None:
    with Wheel(rewrite(build(tmp_path), tmp_path / "out", epoch=0)) as wheel:
        assert own_sbom(wheel) is None


def test_the_sbom_names_the_architectures_that_were_built(tmp_path: Path) -> None:
    told = replace(TOLD, architectures=(Architecture(8, 9),))
    with Wheel(finalize(build(tmp_path), told, tmp_path / "out")) as wheel:
        assert (bill := own_sbom(wheel))
        assert bill.subject.fact("architectures") == "8.9"
