"""Targets: what can be built, as the files in `targets/` describe it, and the release that each one builds.

Each TOML file is a target, with its own nox sessions; adding `cp313-cu130.toml` needs no Python. The compiler
of a CUDA version is the same for each Python, torch and ABI, so its pins and hashes are in one place,
`targets/toolchains/<cuda tag>.toml`. The release is described beside its patches, in `patches/<tag>/`:
`upstream.toml`, and `upstream.sha256`, which lists each file that a build reads, as `sha256sum` prints it. A
source whose files are these is the release, wherever it comes from.

This module needs nothing but the standard library, and `tomli` before Python 3.11, since nox reads the
targets with it.
"""

from __future__ import annotations

import ast
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.target.architectures import Architecture, Selection, join, major_minor
from builder.util import toml
from builder.util.errors import TargetError, UsageError
from builder.util.files import ROOT

TARGETS_DIR = ROOT / "targets"
TOOLCHAINS = "toolchains"
PATCHES_DIR = ROOT / "patches"
FILE_NAME, SUMS_NAME = "upstream.toml", "upstream.sha256"  # of a release, in its folder of patches


@dataclass(frozen=True)
class Machine:
    """A machine that wheels are for, by the name in `uname -m` and platform tags, and by pyelftools'."""

    name: str
    elf: str

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.name == platform.machine()


X86_64 = Machine("x86_64", "x64")
MACHINES = (X86_64, Machine("aarch64", "AArch64"))


def machine_of(tag: str) -> Machine | None:
    """Return the machine of a platform tag, such as `linux_aarch64`; None where it isn't one of these."""
    return next((machine for machine in MACHINES if tag.endswith(f"_{machine.name}")), None)


def this_machine() -> Machine:
    """Return this machine; x86_64 where it isn't one of these."""
    return machine_of(f"_{platform.machine()}") or X86_64


@dataclass(frozen=True)
class Release:
    """A release of SageAttention.

    Attributes:
        version: As upstream's `setup.py` has it.
        revision: Of the patches beside this file: raised when what a wheel does changes.
        commit: The commit that `tag` names.
        url: Address of the source archive, and `sha256` its digest.
        mirrors: Further addresses of it, or with `{sha256}` in it, of each of its files.
        source_date_epoch: The commit's time in seconds since 1970, for reproducible archives.
        license: SPDX expression.
        architectures: What the source, with the patches beside this file, compiles for.
        files: SHA-256 of each file that a build reads, by its path.
    """

    version: str
    revision: int
    tag: str
    commit: str
    url: str
    sha256: str
    source_date_epoch: int
    license: str
    architectures: tuple[Architecture, ...]
    files: Mapping[str, str]
    mirrors: tuple[str, ...] = ()


@lru_cache
def load_release(patches_dir: Path) -> Release:
    """Return the release that a folder of patches, such as `patches/v2.2.0`, is for."""
    path = patches_dir / FILE_NAME
    values = toml.load(path, TargetError)
    lines = (patches_dir / SUMS_NAME).read_text(encoding="utf-8").splitlines()
    files = {line[66:]: line[:64] for line in lines}
    return toml.convert(Release, values, path, TargetError, files=files)


@lru_cache
def build_constants(patches_dir: Path) -> Mapping[str, Any]:
    """Return the constants of `build_extensions.py`, which decides what is compiled, and how.

    `ARCHITECTURES` has the lowest CUDA version that compiles each architecture, `WITH_PTX` those whose PTX
    goes along. The file is only read: what it imports is there in a build alone.
    """
    constants = {}
    for node in ast.parse((patches_dir / "files" / "build_extensions.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError):  # not a literal
                constants[node.targets[0].id] = ast.literal_eval(node.value)
    return constants


@dataclass(frozen=True)
class Archive:
    """An archive that is downloaded for a toolchain; `name` is what it holds, in short: `cuda_nvcc`."""

    name: str
    url: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Target:
    """What can be built: one wheel, in its basic and its PEP 600 form.

    Attributes:
        name: `universal-cu130-aarch64`; the file's name and the session's.
        python: The Python that builds, and with `abi` native the one that the wheel is for: `3.12`.
        torch: The torch that it is built with: `2.11.0`.
        torch_index: Address of the package index that torch comes from.
        architectures: Sorted.
        platform_tag: Machine, and floor of the PEP 600 tag: a wheel that needs a newer glibc is refused.
        abi: `native` (one Python, one torch minor version) or `stable` (every newer one).
        upstream: The folder of `patches/` that describes the release: `v2.2.0`.
        revision: Of the patches in that folder.
        toolchain_packages: Pinned requirements that hold the CUDA compiler.
        toolchain_archives: What these packages lack.
        toolchain_runtime: Pinned requirements that hold the CUDA runtime of another machine.
        torch_minimum: The oldest torch that a stable wheel runs with, `2.7`; empty with `native`.
    """

    name: str
    python: str
    cuda: str
    torch: str
    torch_index: str
    architectures: tuple[Architecture, ...]
    platform_tag: str
    abi: str
    upstream: str
    revision: int
    toolchain_packages: tuple[str, ...]
    toolchain_archives: tuple[Archive, ...] = ()
    toolchain_runtime: tuple[str, ...] = ()
    torch_minimum: str = ""

    @property
    def stable(self) -> bool:
        """Whether the wheel uses only the stable ABIs of CPython and torch."""
        return self.abi == "stable"

    @property
    def machine(self) -> Machine:
        """The machine that the wheel is for."""
        return machine_of(self.platform_tag) or X86_64

    @property
    def cuda_tag(self) -> str:
        """The CUDA version as PyTorch writes it: `cu130`."""
        return "cu" + self.cuda.replace(".", "")

    @property
    def torch_series(self) -> str:
        """Major and minor version of the torch that it is built with: `2.11`."""
        return ".".join(self.torch.split(".")[:2])

    @property
    def torch_requirement(self) -> str:
        """What the wheel requires: `torch==2.11.*`, or with a stable ABI `torch>2.8.9999`: 2.9 and newer.

        NVIDIA's containers hold torch 2.9.0a0, which sorts before 2.9: `torch>=2.9` would replace it, and
        `torch>=2.9.0a0` would take pre-releases from an index.
        """
        if not self.torch_minimum:
            return f"torch=={self.torch_series}.*"
        major, minor = major_minor(self.torch_minimum)
        return f"torch>{major}.{minor - 1}.9999"

    def wheel_tag(self, platform: str) -> str:
        """Return the whole tag: `cp312-cp312-linux_x86_64`, or `py3-none-linux_x86_64` with a stable ABI."""
        python = f"cp{self.python.replace('.', '')}"
        return f"py3-none-{platform}" if self.stable else f"{python}-{python}-{platform}"

    def describe(self) -> str:
        """Return what its wheels are for, in one line: Python, CUDA, torch, and the machine if not x86_64."""
        if self.stable:
            python, torch = "Python 3.10 and newer", f"torch {self.torch_minimum} and newer"
        else:
            python, torch = f"Python {self.python}", f"torch {self.torch_series}"
        machine = "" if self.machine == X86_64 else f", {self.machine.name}"
        return f"{python}, CUDA {self.cuda}, {torch}{machine}"


def local_version(target: Target, selection: Selection) -> str:
    """Return the wheel's local version label (PEP 440), which says what it is for.

    `cu130.torch2.11.2`, or `cu130.universal.2` with a stable ABI, which sorts after `torch…` so that pip
    prefers it. The number at the end is the revision of the patches. A wheel that lacks some of the target's
    architectures names those that it has (`cu130.torch2.11.2.sm89`), so that it is not published by mistake.
    """
    torch = "universal" if target.stable else f"torch{target.torch_series}"
    label = f"{target.cuda_tag}.{torch}.{target.revision}"
    if selection.complete:
        return label
    return ".".join([label, *(f"sm{architecture.number}" for architecture in selection.architectures)])


def load_targets(directory: Path = TARGETS_DIR, patches_root: Path = PATCHES_DIR) -> dict[str, Target]:
    """Return every target of a folder, by name, sorted; hidden files are none."""
    paths = sorted(directory.glob("[!.]*.toml"), key=lambda path: path.stem)
    return {path.stem: load_target(path, patches_root) for path in paths}


def find_target(name: str) -> Target:
    """Return one target by its name."""
    targets = load_targets()
    if name not in targets:
        raise UsageError(f"No target {name!r}.", f"Targets: {', '.join(targets)}.")
    return targets[name]


def load_target(path: Path, patches_root: Path = PATCHES_DIR) -> Target:
    """Read and check one target's file; `toolchains/` is looked for beside it."""
    values = toml.load(path, TargetError)
    pins = path.parent / TOOLCHAINS / f"cu{str(values.get('cuda')).replace('.', '')}.toml"
    values |= {f"toolchain_{key}": value for key, value in toml.load(pins, TargetError).items()}
    target = toml.convert(Target, values, path, TargetError, name=path.stem, revision=0)
    if (target.abi, bool(target.torch_minimum)) not in {("native", False), ("stable", True)}:
        raise TargetError(f"{path}: abi: it must be native, or stable with a torch_minimum.")
    if machine_of(target.platform_tag) is None:
        raise TargetError(f"{path}: platform_tag: {target.platform_tag!r} is for an unknown machine.")
    release = load_release(patches_root / target.upstream)
    if unknown := set(target.architectures) - set(release.architectures):
        raise TargetError(
            f"{path}: architectures: SageAttention {release.version} does not have {join(sorted(unknown))}.",
            f"It has {join(release.architectures)}.",
        )
    architectures = tuple(sorted(target.architectures))
    return replace(target, architectures=architectures, revision=release.revision)
