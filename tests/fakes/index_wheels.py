"""Small wheels, named and described like the project's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes.libraries import EPOCH

from builder.util.files import file_sha256
from builder.wheel.label import WheelLabel
from builder.wheel.sbom import Component, serialize
from builder.wheel.wheelfile import write_wheel

NATIVE = "sageattention-2.2.0+cu130.torch2.11.2-cp312-cp312-manylinux_2_34_x86_64.whl"
NATIVE_BASIC = "sageattention-2.2.0+cu130.torch2.11.2-cp312-cp312-linux_x86_64.whl"
UNIVERSAL = "sageattention-2.2.0+cu130.universal.2-py3-none-manylinux_2_28_x86_64.whl"
UNIVERSAL_BASIC = "sageattention-2.2.0+cu130.universal.2-py3-none-linux_x86_64.whl"
UNIVERSAL_ARM = UNIVERSAL.replace("x86_64", "aarch64")
OLDER_CUDA = "sageattention-2.2.0+cu128.torch2.10.2-cp311-cp311-manylinux_2_34_x86_64.whl"
INCOMPLETE = "sageattention-2.2.0+cu130.torch2.11.2.sm89-cp312-cp312-manylinux_2_34_x86_64.whl"


def make_wheel(
    folder: Path,
    filename: str,
    headers: Sequence[str] = (),
    code: str = "",
    sbom: bytes = b"",
) -> Path:
    """Make a wheel that pip and uv install: one module, METADATA, RECORD, perhaps an SBOM."""
    label = WheelLabel.parse(filename)
    info = f"{label.distribution}-{label.version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {label.distribution}", f"Version: {label.version}", *headers]
    files = {
        f"{label.distribution}/__init__.py": code.encode(),
        f"{info}/METADATA": "\n".join([*metadata, ""]).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {label.tag}\n".encode(),
    }
    if sbom:
        files[f"{info}/sboms/sageattention.cdx.json"] = sbom
    folder.mkdir(parents=True, exist_ok=True)
    return write_wheel(folder / filename, files, epoch=EPOCH)


def make_ours(
    folder: Path, *filenames: str, code: str = "", verified: bool = True, summary: str = "1 replacement"
) -> list[Path]:
    """Make wheels of this project, each with an SBOM, and a record beside it."""
    url = "https://github.com/thu-ml/SageAttention/archive/refs/tags/v2.2.0.tar.gz" if verified else ""
    source = {"source": "release" if verified else "directory", "verified": str(verified).lower()}
    components = [
        Component("source", "SageAttention", "2.2.0", "d" * 64, url=url, properties=source),
        Component("patch", "x.dist-info/patches/0001-build.toml", properties={"summary": summary}),
        Component("build-tool", "torch", "2.11.0"),
        Component("build-tool", "nvidia-cuda-nvcc", "13.0.88"),
        Component("build-tool", "g++", "14.2.1"),
    ]
    wheels = []
    for filename in filenames:
        label = WheelLabel.parse(filename)
        torch = f"torch=={label.torch}.*" if label.torch else "torch>2.8.9999"
        python = ">=3.10" if label.universal else f"==3.{label.python[3:]}.*"
        architectures = "8.9" if label.architectures else "8.0 8.6 8.9 9.0a 12.0"
        properties = {"target": "cp312-cu130", "torch": torch, "architectures": architectures}
        subject = Component("wheel", "sageattention", label.version, properties=properties)
        sbom = serialize(subject, components, made_by=Component("build-tool", "fake"), epoch=0)
        headers = [f"Requires-Dist: {torch}", f"Requires-Python: {python}"]
        wheels.append(make_wheel(folder, filename, headers, code, sbom))
        (folder / f"{filename}.json").write_text("{}\n")
    return wheels


def write_report(wheel: Path, **changes: Any) -> Path:
    """Write the report of a smoke test beside a wheel."""
    report = {
        "wheel": {"filename": wheel.name, "sha256": file_sha256(wheel)},
        "mode": "default",
        "exit_code": 0,
        "headline": "passed (120 pass)",
        "environment": {"gpu": "NVIDIA H100", "torch": "2.11.0+cu130"},
        **changes,
    }
    path = wheel.with_name(f"{wheel.name}.smoketest.json")
    path.write_text(json.dumps(report) + "\n")
    return path
