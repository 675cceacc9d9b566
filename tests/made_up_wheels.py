"""Small wheels for tests, named and described like the project's own, and a record beside each."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.finish.sbom import make_sbom
from builder.toolchain.materials import Material

from builder.wheel.wheelfile import record_digest

NATIVE = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-manylinux_2_34_x86_64.whl"
NATIVE_BASIC = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
UNIVERSAL = "sageattention-2.2.0+cu130.universal-cp310-abi3-manylinux_2_34_x86_64.whl"
UNIVERSAL_BASIC = "sageattention-2.2.0+cu130.universal-cp310-abi3-linux_x86_64.whl"
UNIVERSAL_ARM = UNIVERSAL.replace("x86_64", "aarch64")
OLDER_CUDA = "sageattention-2.2.0+cu128.torch2.10-cp311-cp311-manylinux_2_34_x86_64.whl"
INCOMPLETE = "sageattention-2.2.0+cu130.torch2.11.sm89-cp312-cp312-manylinux_2_34_x86_64.whl"

UNVERIFIED = {
    "kind": "directory",
    "location": "fork",
    "version": "2.2.0",
    "sha256": "e" * 64,
    "verified": False,
}

REQUIREMENTS = {
    NATIVE: ("torch==2.11.*", "==3.12.*"),
    NATIVE_BASIC: ("torch==2.11.*", "==3.12.*"),
    UNIVERSAL: ("torch>=2.10", ">=3.10"),
    UNIVERSAL_ARM: ("torch>=2.10", ">=3.10"),
    UNIVERSAL_BASIC: ("torch>=2.10", ">=3.10"),
    OLDER_CUDA: ("torch==2.10.*", "==3.11.*"),
    INCOMPLETE: ("torch==2.11.*", "==3.12.*"),
}


def make_wheel(
    folder: Path,
    filename: str,
    requires: Sequence[str] = (),
    requires_python: str = "",
    code: str = "",
    sbom: bytes = b"",
) -> Path:
    """Make a wheel that pip and uv install: one module, METADATA, RECORD, perhaps an SBOM."""
    name, version, python, abi, platform = filename.removesuffix(".whl").split("-")
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: A made-up {name}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    metadata += [f"Requires-Python: {requires_python}"] if requires_python else []
    texts = {
        f"{name}/__init__.py": code or f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: made-up\nRoot-Is-Purelib: false\n"
        f"Tag: {python}-{abi}-{platform}\n",
    }
    files = {path: text.encode() for path, text in texts.items()}
    if sbom:
        files[f"{info}/sboms/sageattention.cdx.json"] = sbom
    lines = [f"{path},{record_digest(data)},{len(data)}\n" for path, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / filename
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2025, 10, 28, 0, 0, 0)), data)
    return wheel


def make_ours(folder: Path, *filenames: str, code: str = "", **record: Any) -> list[Path]:
    """Make wheels of the project's names, with SBOMs and records; `record` replaces fields of these."""
    made = []
    for filename in filenames:
        torch, python = REQUIREMENTS[filename]
        sbom = _sbom({**_record(filename), **record})
        wheel = make_wheel(folder, filename, [torch], python, code, sbom)
        write_record(wheel, **record)
        made.append(wheel)
    return made


def write_record(wheel: Path, /, **changes: Any) -> Path:
    """Write the JSON record beside a wheel, in the shape that a build writes it."""
    record = {
        **_record(wheel.name),
        "wheel": {
            "name": wheel.name,
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "size_bytes": wheel.stat().st_size,
            "bundled": [],
        },
        **changes,
    }
    path = wheel.with_name(wheel.name + ".json")
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path


def _record(filename: str) -> dict[str, Any]:
    torch, _ = REQUIREMENTS.get(filename, ("", ""))
    return {
        "schema": 1,
        "target": "cp312-cu130",
        "abi": "native",
        "cuda": "13.0",
        "torch": {"built_with": "2.11.0+cu130", "requirement": torch},
        "architectures": ["8.0", "8.6", "8.9", "9.0a", "12.0"],
        "complete": True,
        "source": {
            "kind": "release",
            "location": "https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz",
            "version": "2.2.0",
            "sha256": "d" * 64,
            "verified": True,
        },
        "patches": [
            {
                "name": "0001-hopper.patch",
                "sha256": "a" * 64,
                "summary": "Call the Hopper kernel, not its fake",
            },
            {"name": "0002-stream.patch", "sha256": "b" * 64, "summary": "Launch on torch's current stream"},
        ],
        "toolchain": {
            "origin": "packages",
            "nvcc": "13.0.88",
            "host_compiler": "14.2.1",
            "components": [],
        },
    }


def _sbom(record: dict[str, Any]) -> bytes:
    """Return an SBOM that says what a record says."""
    source = record["source"]
    facts = {name: record[name] for name in ("abi", "target")}
    facts |= {"architectures": " ".join(record["architectures"]), "torch": record["torch"]["requirement"]}
    verified = (("source", source["kind"]), ("verified", "true" if source["verified"] else "false"))
    return make_sbom(
        Material("wheel", "sageattention", properties=tuple(sorted(facts.items()))),
        [
            Material("source", "SageAttention", source["version"], source["sha256"], properties=verified),
            *(Material("patch", f"patches/{patch['name']}") for patch in record["patches"]),
        ],
        made_by=Material("build-tool", "made-up"),
        epoch=0,
    )


def write_report(wheel: Path, /, **changes: Any) -> Path:
    """Write the report of a smoke test beside a wheel."""
    report = {
        "format": 1,
        "wheel": {"filename": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()},
        "mode": "default",
        "exit_code": 0,
        "outcome": "pass",
        "headline": "passed (120 pass)",
        "environment": {"gpu": "NVIDIA H100", "torch": "2.11.0+cu130"},
        "counts": {"pass": 120, "FAIL": 0, "n/a": 3, "not run": 0},
        "rows": [],
        **changes,
    }
    path = wheel.with_name(wheel.name + ".smoketest.json")
    path.write_text(json.dumps(report) + "\n")
    return path
