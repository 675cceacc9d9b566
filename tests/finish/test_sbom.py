"""A bill of materials does not depend on order or folder, and is compared with the content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from builder.finish.sbom import make_sbom, read_sbom, sbom_problems, without_build_paths
from builder.toolchain.materials import Material

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
    materials = read_sbom(sbom(MATERIALS)).materials
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

    clean = without_build_paths(own(str(Path("/root", "a"))))
    assert clean == without_build_paths(own("/home/b"))
    document = json.loads(clean)
    refs = [part["bom-ref"] for part in document["components"]]
    assert len(set(refs)) == 3
    assert document["dependencies"][0]["dependsOn"] == refs[1:]
