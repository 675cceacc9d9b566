"""Small wheels, named and described like the project's own, and sites that the index's command writes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes.libraries import pack_wheel

from builder.publish import index
from builder.util.files import file_sha256
from builder.wheel.label import WheelLabel
from builder.wheel.sbom import Component, serialize

NATIVE = "sageattention-2.2.0+cu130.torch2.11.2-cp312-cp312-manylinux_2_34_x86_64.whl"
NATIVE_BASIC = "sageattention-2.2.0+cu130.torch2.11.2-cp312-cp312-linux_x86_64.whl"
UNIVERSAL = "sageattention-2.2.0+cu130.universal.2-py3-none-manylinux_2_28_x86_64.whl"
UNIVERSAL_BASIC = "sageattention-2.2.0+cu130.universal.2-py3-none-linux_x86_64.whl"
UNIVERSAL_ARM = UNIVERSAL.replace("x86_64", "aarch64")
OLDER_CUDA = "sageattention-2.2.0+cu128.torch2.10.2-cp311-cp311-manylinux_2_34_x86_64.whl"
WHEELS_URL = "https://github.com/someone/wheels/releases/download/v1/"
INCOMPLETE = "sageattention-2.2.0+cu130.torch2.11.2.sm89-cp312-cp312-manylinux_2_34_x86_64.whl"


def make_wheel(
    folder: Path, filename: str, headers: Sequence[str] = (), code: str = "", sbom: bytes = b""
) -> Path:
    """Make a wheel that pip and uv install: one module, METADATA, RECORD, perhaps an SBOM."""
    label = WheelLabel.parse(filename)
    files = {f"{label.distribution}/__init__.py": code.encode()}
    if sbom:
        files[f"{label.distribution}-{label.version}.dist-info/sboms/sageattention.cdx.json"] = sbom
    return pack_wheel(folder, files, headers, name=filename)


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


def links(folder: Path) -> dict[str, dict[str, str]]:
    """Return the links of a folder's page, by their texts: the attributes of each."""
    page = (folder / "index.html").read_text(encoding="utf-8")
    return {
        text: {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
        for attributes, text in re.findall(r"<a ([^>]*)>([^<]*)</a>", page)
    }


def write_site(wheelhouse: Path, out: Path, *arguments: str) -> Path:
    assert index.main(["--wheelhouse", str(wheelhouse), "--out", str(out), *arguments]) == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
