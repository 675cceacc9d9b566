"""Wheels of this project as the audit should pass them, of real libraries, with changes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from fakes.libraries import NAME, compile_library, container, entry, pack_wheel
from fakes.provenance import PROVENANCE

from builder.check.audit import AuditReport
from builder.finish.embed import embed
from builder.target.targets import load_targets

NATIVE, STABLE = load_targets()["cp312-cu130"], load_targets()["universal-cu130"]
STABLE_NAME = f"sageattention-2.2.0+cu130.universal.2-{STABLE.wheel_tag('linux_x86_64')}.whl"
_FOLDER = tempfile.TemporaryDirectory()
ALL = ("80", "86", "89", "90a", "120")
TORCH = ("aoti_torch_get_sizes", "aoti_torch_library_impl")


def fatbin(*architectures: str, ptx: str = "") -> bytes:
    """A section with one container that has a cubin for each architecture, and a PTX."""
    return container(*map(entry, architectures), *([entry(ptx, "ptx")] if ptx else []))


@lru_cache
def _needed(name: str) -> Path:
    """A library that defines nothing which another uses."""
    return compile_library(Path(_FOLDER.name, name))


@dataclass(frozen=True)
class Library:
    """A shared library: what it needs, what it uses of others, its GPU code, and the linker's flags."""

    needed: tuple[str, ...] = ("libtorch_cpu.so", "libcudart.so.13", "libc.so.6")
    undefined: tuple[str, ...] = TORCH
    fatbin: bytes = b""
    flags: tuple[str, ...] = ()
    code: str = ""
    machine: int = 62  # e_machine of x86_64

    @lru_cache  # noqa: B019 - for all tests
    def build(self) -> bytes:
        """Return its bytes."""
        calls = "".join(f"extern void {name}(void);\n" for name in self.undefined)
        calls += f"void call(void) {{ {' '.join(f'{name}();' for name in self.undefined)} }}\n"
        flags: list[str | Path] = ["-Wl,--no-as-needed", *map(_needed, self.needed), *self.flags]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "library.so")
            data = compile_library(path, self.code + calls, *flags, fatbin=self.fatbin).read_bytes()
        return data[:18] + self.machine.to_bytes(2, "little") + data[20:]


GOOD = {
    "_fused": Library(fatbin=fatbin(*ALL, ptx="80")),
    "_qattn_sm80": Library(fatbin=fatbin(*ALL, ptx="80")),
    "_qattn_sm89": Library(fatbin=fatbin("89", "90a", "120", ptx="89")),
    "_qattn_sm90": Library(fatbin=fatbin("90a")),
}
METADATA = ("Requires-Dist: torch==2.11.*", "Requires-Python: ==3.12.*")


def changed(**changes: object) -> Library:
    """The library `_fused`, with changes."""
    return replace(GOOD["_fused"], **changes)  # type: ignore[arg-type]


def raw_wheel(
    folder: Path,
    libraries: Mapping[str, Library] = GOOD,
    metadata: Sequence[str] = METADATA,
    files: Mapping[str, bytes] | None = None,
    *,
    name: str = NAME,
) -> Path:
    """A wheel as a build makes it."""
    content = {f"sageattention/lib/{stem}.so": library.build() for stem, library in libraries.items()}
    content |= {"sageattention/core.py": b"x = 1\n", **(files or {})}
    return pack_wheel(folder / "built", content, metadata, name=name)


def ours(folder: Path, files: Mapping[str, bytes] | None = None, **libraries: Library) -> Path:
    """A wheel of this project, with other libraries or more files."""
    return embed(raw_wheel(folder, {**GOOD, **libraries}, files=files), PROVENANCE, folder / "ours")


def universal(folder: Path, metadata: Sequence[str] = (), **libraries: Library) -> Path:
    """A universal wheel of this project, with changes to its libraries or its METADATA."""
    lines = metadata or [f"Requires-Dist: {STABLE.torch_requirement}", "Requires-Python: >=3.10"]
    wheel = raw_wheel(folder, {**GOOD, **libraries}, lines, name=STABLE_NAME)
    provenance = replace(PROVENANCE, target=STABLE, architectures=STABLE.architectures)
    return embed(wheel, provenance, folder / "ours")


def findings(report: AuditReport, level: str) -> list[str]:
    """What an audit found of a level, as text."""
    return [f"{finding.check}: {finding.message}" for finding in report.findings if finding.level == level]
