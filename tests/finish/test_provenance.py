"""What a wheel says of how it was made, and the check of that against its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_libraries import Elf, fatbin, make_elf, pack_wheel

from builder.finish.provenance import (
    PatchFile,
    Provenance,
    describe,
    edit_metadata,
    finalize,
    license_expression,
    provenance_of,
    public_location,
    read_patch_files,
    runtime_license_text,
)
from builder.finish.repair import BundledLibrary
from builder.finish.sbom import make_sbom, read_sbom, sbom_problems, without_build_paths
from builder.source.obtain import Source
from builder.target.architectures import Architecture
from builder.target.project import Project
from builder.target.targets import load_targets
from builder.toolchain.materials import Material
from builder.util.errors import RepairError
from builder.wheel.rewrite import rewrite
from builder.wheel.wheelfile import Wheel, record_problems

TARGET = load_targets()["cp312-cu130"]
NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
PEP_600 = NAME.replace("linux_x86_64", "manylinux_2_34_x86_64")
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
FUSED = make_elf(Elf(fatbin=fatbin("80", "86", "89", "90a", "120")))
RUNTIME = make_elf(Elf(soname="libcudart-12345678.so.13"))
RUNTIME_NAME = "sageattention.libs/libcudart-12345678.so.13"
BUNDLED = BundledLibrary(RUNTIME_NAME, "libcudart.so.13", "e" * 64, "nvidia-cuda-runtime", "13.0.96")
SOURCE = Source(
    kind="release",
    version="2.2.0",
    location="https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz",
    sha256="d" * 64,
    license="Apache-2.0",
    tree=Path(),
    commit="c" * 40,
    tag="v2.2.0",
)
TOLD = Provenance(
    target=TARGET,
    architectures=TARGET.architectures,
    source=SOURCE,
    patches=(
        PatchFile("0001-build.toml", b"what = 'one'\n", "one"),
        PatchFile("files/build_extensions.py", b"import os\n"),
        PatchFile("series", b"0001-build.toml\n"),
    ),
    patch_count=1,
    tools=(
        Material("build-tool", "nvidia-cuda-nvcc", "13.0.88", "a" * 64, "pkg:pypi/nvidia-cuda-nvcc@13.0.88"),
        Material("build-tool", "g++", "12.2.0"),
    ),
    project=Project("sageattention-wheels", "https://example.org/wheels", "f" * 40),
    epoch=1761613216,
)
UNVERIFIED = replace(
    SOURCE,
    kind="directory",
    version="2.3.0",
    location="/home/someone/fork",
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
        assert provenance_of(wheel)["target"] == "cp312-cu130"


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
    found = {(part.kind, part.name): part for part in read_sbom(data)}
    assert found["source", "SageAttention"].sha256 == "d" * 64
    assert found["source", "SageAttention"].properties["verified"] == "true"
    assert found["build-tool", "nvidia-cuda-nvcc"].sha256 == "a" * 64
    assert found["build-tool", "g++"].version == "12.2.0"
    assert found["patch", f"{INFO}/patches/0001-build.toml"].properties["summary"] == "one"
    assert (
        found["patch-file", f"{INFO}/patches/series"].sha256
        == hashlib.sha256(b"0001-build.toml\n").hexdigest()
    )
    extension = found["extension", "sageattention/lib/_fused.so"]
    assert extension.sha256 == hashlib.sha256(FUSED).hexdigest()
    assert extension.properties["architectures"] == "8.0 8.6 8.9 9.0a 12.0"


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
            for part in read_sbom(opened.read(f"{INFO}/sboms/sageattention.cdx.json"))
            if part.kind == "library"
        )
    assert (library.name, library.version) == ("libcudart.so.13", "13.0.96")
    assert library.sha256 == hashlib.sha256(RUNTIME).hexdigest()
    assert library.properties["path"] == RUNTIME_NAME
    assert library.properties["original-sha256"] == "e" * 64


def test_an_unverified_source_is_said_and_names_no_folder(tmp_path: Path) -> None:
    told = replace(TOLD, source=UNVERIFIED, patches=(), patch_count=0)
    with Wheel(finalize(build(tmp_path), told, tmp_path / "out")) as wheel:
        text = wheel.read(f"{INFO}/METADATA").decode()
        sbom = wheel.read(f"{INFO}/sboms/sageattention.cdx.json").decode()
    assert "from an unverified source: directory fork, sha256 bbbb" in text
    assert "no patches" in text
    assert "/home/someone" not in text + sbom
    source = next(part for part in read_sbom(sbom.encode()) if part.kind == "source")
    assert source.properties["verified"] == "false"
    assert source.properties["location"] == "fork"


@pytest.mark.parametrize(
    ("kind", "location", "public"),
    [
        ("release", "https://example.org/a.tar.gz", "https://example.org/a.tar.gz"),
        ("url", "https://me:secret@example.org/a.zip?token=1#x", "https://example.org/a.zip"),
        ("archive", "/tmp/x/a.tar.gz", "a.tar.gz"),
        ("directory", ".", "directory"),
    ],
)
def test_public_locations(kind: str, location: str, public: str) -> None:
    assert public_location(replace(SOURCE, kind=kind, location=location)) == public


def test_a_stable_target_says_so() -> None:
    stable = load_targets()["abi3-cu130"]
    assert "torch 2.10 and newer" in describe(replace(TOLD, target=stable))[0]
    without = replace(TOLD, project=Project("wheels", "", ""))
    assert describe(without)[1].startswith("> Made by wheels;")


def test_licence_expressions() -> None:
    assert license_expression("Apache-2.0", runtime=False) == "Apache-2.0"
    assert license_expression("apache-2.0", runtime=True) == "Apache-2.0 AND LicenseRef-NVIDIA-Proprietary"
    assert license_expression("MIT OR Apache-2.0", runtime=True) == (
        "(MIT OR Apache-2.0) AND LicenseRef-NVIDIA-Proprietary"
    )


def test_metadata_keeps_what_it_does_not_know() -> None:
    old = (
        "Metadata-Version: 2.5\r\nName: a\r\nLicense: one\r\n        two\r\nAuthor: Jörg\r\n"
        "Description-Content-Type: text/x-rst\r\nX-Odd: first\r\n  second\r\n\r\nBody: here\r\n"
    )
    new = edit_metadata(old.encode(), "MIT", ["LICENSE"], ("> **About this wheel.** 1", "> 2"), "").decode()
    assert new == (
        "Metadata-Version: 2.5\nName: a\nAuthor: Jörg\nX-Odd: first\n  second\nLicense-Expression: MIT\n"
        "License-File: LICENSE\nDescription-Content-Type: text/x-rst\n\n"
        "> **About this wheel.** 1\n> 2\n\nBody: here\n"
    )


def test_metadata_without_a_body() -> None:
    new = edit_metadata(b"Metadata-Version: 2.1\nName: a", "MIT", [], ("1", "2"), "").decode()
    assert new.endswith("Description-Content-Type: text/markdown\n\n1\n2\n\n")


def test_patch_files_and_licence_texts_are_found(tmp_path: Path) -> None:
    (tmp_path / "p" / "files" / "__pycache__").mkdir(parents=True)
    (tmp_path / "p" / "files" / "__pycache__" / "a.pyc").write_bytes(b"")
    (tmp_path / "p" / "files" / "a.py").write_text("a")
    (tmp_path / "p" / "0001-a.patch").write_text("b")
    assert read_patch_files(tmp_path / "p", {"0001-a.patch": "why"}) == (
        PatchFile("0001-a.patch", b"b", "why"),
        PatchFile("files/a.py", b"a"),
    )
    assert runtime_license_text(tmp_path) is None
    folder = tmp_path / "nvidia_cuda_runtime_cu12-12.8.90.dist-info"
    folder.mkdir()
    (folder / "License.txt").write_text("terms")
    assert runtime_license_text(tmp_path) == b"terms"


MATERIALS = [
    Material("extension", "a.so", sha256="1" * 64),
    Material("library", "libb.so.1", sha256="2" * 64, properties=(("path", "x.libs/libb-1.so.1"),)),
    Material("build-tool", "nvcc", "13", "3" * 64),
]


def sbom(materials: list[Material]) -> bytes:
    return make_sbom(Material("wheel", "x", "1"), materials, made_by=Material("build-tool", "me"), epoch=0)


def test_an_sbom_does_not_depend_on_the_order() -> None:
    assert sbom(MATERIALS) == sbom(MATERIALS[::-1])
    assert sbom(MATERIALS) != sbom(MATERIALS[:2])


def test_sbom_against_content() -> None:
    materials = read_sbom(sbom(MATERIALS))
    files = {"a.so": "1" * 64, "x.libs/libb-1.so.1": "2" * 64, "core.py": "9" * 64}
    assert sbom_problems(materials, files, must_list=["a.so", "x.libs/libb-1.so.1"]) == []
    changed = {"a.so": "4" * 64, "new.so": "5" * 64}
    assert sbom_problems(materials, changed, must_list=changed) == [
        "a.so has a different SHA-256 in the SBOM",
        "x.libs/libb-1.so.1 is in the SBOM and not in the wheel",
        "new.so is in the wheel and not in the SBOM",
    ]


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"bomFormat": "SPDX"}', b"\xff", b'{"bomFormat":"CycloneDX","components":{}}'],
)
def test_no_sbom(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|no list"):
        read_sbom(data)


def test_auditwheels_sbom_without_build_paths() -> None:
    def own(path: str) -> bytes:
        refs = [
            f"pkg:deb/debian/liba@1#{hashlib.sha256((path + name).encode()).hexdigest()}" for name in "xy"
        ]
        parts = [{"bom-ref": "pkg:pypi/w@1"}, *({"bom-ref": ref, "name": "liba"} for ref in refs)]
        depends = [{"ref": "pkg:pypi/w@1", "dependsOn": refs}, *({"ref": ref} for ref in refs)]
        return json.dumps({"components": parts, "dependencies": depends}).encode()

    clean = without_build_paths(own("/root/a"))
    assert clean == without_build_paths(own("/home/b"))
    document = json.loads(clean)
    refs = [part["bom-ref"] for part in document["components"]]
    assert len(set(refs)) == 3
    assert document["dependencies"][0]["dependsOn"] == refs[1:]


def test_a_wheel_without_provenance_has_none(tmp_path: Path) -> None:
    with Wheel(rewrite(build(tmp_path), tmp_path / "out", epoch=0)) as wheel:
        assert provenance_of(wheel) == {}


def test_architectures_of_a_part(tmp_path: Path) -> None:
    told = replace(TOLD, architectures=(Architecture(8, 9),))
    with Wheel(finalize(build(tmp_path), told, tmp_path / "out")) as wheel:
        assert provenance_of(wheel)["architectures"] == "8.9"
