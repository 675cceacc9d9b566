"""Wheels of this project as the audit should pass them, with changes; and what an audit found, as text."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from builder.finish.finalize import finalize
from builder.finish.provenance import Provenance
from made_up_libraries import Elf, fatbin, make_elf, pack_wheel
from made_up_provenance import TOLD

from builder.check.audit_report import AuditReport
from builder.finish.repair import BundledLibrary
from builder.target.targets import load_targets

TARGETS = load_targets()
NATIVE, STABLE = TARGETS["cp312-cu130"], TARGETS["abi3-cu130"]
NAME = "sageattention-2.2.0+cu130.torch2.11-cp312-cp312-linux_x86_64.whl"
INFO = "sageattention-2.2.0+cu130.torch2.11.dist-info"
STABLE_NAME = "sageattention-2.2.0+cu130.universal-cp310-abi3-linux_x86_64.whl"
ALL = ("80", "86", "89", "90a", "120")
NEEDED = ("libtorch_cpu.so", "libcudart.so.13", "libc.so.6")
SHIM = ("aoti_torch_get_sizes", "aoti_torch_library_impl")
EXTENSIONS = {
    "_fused": Elf(NEEDED, fatbin=fatbin(*ALL, ptx="80"), undefined=SHIM),
    "_qattn_sm80": Elf(NEEDED, fatbin=fatbin(*ALL, ptx="80"), undefined=SHIM),
    "_qattn_sm89": Elf(NEEDED, fatbin=fatbin("89", "90a", "120", ptx="89"), undefined=SHIM),
    "_qattn_sm90": Elf(NEEDED, fatbin=fatbin("90a"), undefined=SHIM),
}
RUNTIME = "sageattention.libs/libcudart-12345678.so.13"
BUNDLED = BundledLibrary(RUNTIME, "libcudart.so.13", "e" * 64, "nvidia-cuda-runtime", "13.0.96")


def told(stable: bool = False) -> Provenance:
    target = STABLE if stable else NATIVE
    return replace(TOLD, target=target, architectures=target.architectures)


def raw_wheel(
    folder: Path,
    name: str = NAME,
    extensions: Mapping[str, Elf] = EXTENSIONS,
    metadata: Sequence[str] = ("Requires-Dist: torch==2.11.*", "Requires-Python: ==3.12.*"),
    files: Mapping[str, bytes] | None = None,
) -> Path:
    content = {f"sageattention/lib/{stem}.so": make_elf(elf) for stem, elf in extensions.items()}
    return pack_wheel(
        folder / "built", name, {"sageattention/core.py": b"x = 1\n", **content, **(files or {})}, metadata
    )


def ours(folder: Path, **changes: Elf) -> Path:
    """A wheel of this project, with changes to some extensions."""
    return finalize(raw_wheel(folder, extensions={**EXTENSIONS, **changes}), told(), folder / "ours")


def stable(folder: Path, metadata: Sequence[str] | None = None, **changes: Elf) -> Path:
    """A stable wheel of this project, with changes to some extensions."""
    lines = metadata if metadata is not None else ["Requires-Dist: torch>=2.9", "Requires-Python: >=3.10"]
    wheel = raw_wheel(folder, STABLE_NAME, {**EXTENSIONS, **changes}, lines)
    return finalize(wheel, told(stable=True), folder / "ours")


def found(report: AuditReport, level: str = "error") -> list[str]:
    return [f"{finding.check}: {finding.message}" for finding in report.findings if finding.level == level]


def only_error(report: AuditReport) -> str:
    errors = found(report)
    assert len(errors) == 1, errors
    assert not report.passed
    return errors[0]


def tamper(wheel: Path, name: str, data: bytes) -> Path:
    """Replace one member and nothing else, as someone might who doesn't know of RECORD."""
    with zipfile.ZipFile(wheel) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    members[next(member for member in members if member.endswith(name))] = data
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return wheel
