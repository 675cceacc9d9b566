"""Targets: what can be built, as the files in `targets/` describe it.

Each TOML file is a target, with its own nox sessions; adding `cp313-cu130.toml` needs no Python. Every
key is checked here, so that a wrong file is refused by name and key before anything runs.

The compiler of a CUDA version is the same for each Python, torch and ABI, and its pins and hashes are
the longest part. So they are in one place, `targets/toolchains/<cuda tag>.toml`, which a target's `cuda`
names. A target that needs a different compiler has a `[toolchain]` table, which replaces that file.

This module needs nothing but the standard library, `packaging`, and `tomli` before Python 3.11, since
nox reads the targets with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from builder.target.architectures import Architecture, join, major_minor, why_not_compilable
from builder.target.machines import MACHINES, X86_64, Machine, machine_of
from builder.target.pins import Archive, Pins, read_pins
from builder.target.selection import Selection
from builder.target.upstream import PATCHES_DIR, Release, load_release, read_architectures
from builder.util import toml
from builder.util.errors import TargetError, UsageError
from builder.util.paths import ROOT

TARGETS_DIR = ROOT / "targets"
TOOLCHAINS = "toolchains"

# The patched sources are compiled with torch's stable headers (torch/csrc/stable) as 2.10 and newer have
# them, and call only functions that torch's libraries have from 2.7 on.
OLDEST_HEADERS = (2, 10)
OLDEST_TORCH = (2, 7)
OLDEST_PYTHON = (3, 10)
# A stable wheel's compiled code uses nothing of CPython; its Python modules need this version.
STABLE_PYTHON_TAG = "cp310"

_PYTHON = r"3\.\d{1,2}"
_CUDA = r"\d{2}\.\d{1,2}"
_TORCH = r"\d+\.\d+\.\d+"
_TORCH_MINIMUM = r"\d+\.\d+"
_PLATFORM_TAG = rf"manylinux_2_\d{{1,2}}_({'|'.join(machine.name for machine in MACHINES)})"

_REQUIRED = ("python", "cuda", "torch", "torch_index", "abi", "architectures", "platform_tag", "upstream")
_OPTIONAL = ("torch_minimum", "toolchain")


@dataclass(frozen=True)
class Target:
    """What can be built: one wheel, in its basic and its PEP 600 form.

    Attributes:
        name: `cp312-cu130`, `abi3-cu130`, or `abi3-cu130-aarch64`; the file's name and the session's.
        python: The Python that builds, and with `abi` native the one that the wheel is for: `3.12`.
        cuda: `13.0`.
        torch: The torch that it is built with: `2.11.0`.
        torch_index: Address of the package index that torch comes from.
        architectures: Sorted.
        platform_tag: Machine, and floor of the PEP 600 tag: a wheel that needs a newer glibc is refused.
        abi: `native` (one Python, one torch minor version) or `stable` (every newer one).
        torch_minimum: The oldest torch that a stable wheel runs with, `2.7`; None with `native`.
        toolchain_packages: Pinned requirements that hold the CUDA compiler.
        toolchain_archives: What the packages lack.
        toolchain_runtime: Pinned requirements that hold the CUDA runtime of another machine, to build for it.
        upstream: The folder of `patches/` that describes the release: `v2.2.0`.
    """

    name: str
    python: str
    cuda: str
    torch: str
    torch_index: str
    architectures: tuple[Architecture, ...]
    platform_tag: str
    abi: str
    torch_minimum: str | None
    toolchain_packages: tuple[str, ...]
    toolchain_archives: tuple[Archive, ...]
    toolchain_runtime: tuple[str, ...]
    upstream: str

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
        return cuda_tag(self.cuda)

    @property
    def python_tag(self) -> str:
        """The wheel's Python tag: `cp312`; with its ABI tag where the ABI is stable: `cp310-abi3`."""
        return f"{STABLE_PYTHON_TAG}-abi3" if self.stable else _interpreter_tag(self.python)

    @property
    def torch_series(self) -> str:
        """Major and minor version of the torch that it is built with: `2.11`."""
        return ".".join(self.torch.split(".")[:2])

    @property
    def torch_requirement(self) -> str:
        """What the wheel requires: `torch==2.11.*`, or `torch>=2.7` where the ABI is stable."""
        return f"torch>={self.torch_minimum}" if self.stable else f"torch=={self.torch_series}.*"

    def wheel_tag(self, platform: str) -> str:
        """Return the whole compatibility tag for a platform: `cp312-cp312-linux_x86_64`."""
        tag = self.python_tag if self.stable else f"{self.python_tag}-{self.python_tag}"
        return f"{tag}-{platform}"

    def describe(self) -> str:
        """Return what its wheels are for, in one line: Python, CUDA, torch, and the machine if not x86_64."""
        if self.stable:
            python, torch = "Python 3.10 and newer", f"torch {self.torch_minimum} and newer"
        else:
            python, torch = f"Python {self.python}", f"torch {self.torch_series}"
        machine = "" if self.machine == X86_64 else f", {self.machine.name}"
        return f"{python}, CUDA {self.cuda}, {torch}{machine}"


def cuda_tag(cuda: str) -> str:
    """Return a CUDA version as PyTorch writes it: `13.0` is `cu130`."""
    return "cu" + cuda.replace(".", "")


def local_version(target: Target, selection: Selection) -> str:
    """Return the wheel's local version label (PEP 440), which says what it is for.

    `cu130.torch2.11`, or `cu130.universal` with a stable ABI, which sorts after `torch…` so that pip
    prefers it. A wheel that lacks some of the target's architectures names those that it has
    (`cu130.torch2.11.sm89`), so that it is not published by mistake.
    """
    label = (
        f"{target.cuda_tag}.universal" if target.stable else f"{target.cuda_tag}.torch{target.torch_series}"
    )
    if selection.complete:
        return label
    return ".".join([label, *(f"sm{architecture.number}" for architecture in selection.architectures)])


def load_targets(directory: Path = TARGETS_DIR, patches_root: Path = PATCHES_DIR) -> dict[str, Target]:
    """Return every target of a folder, by name, sorted; hidden files are none.

    Raises:
        TargetError: There is none, or one is wrong.
    """
    paths = sorted(directory.glob("[!.]*.toml"), key=lambda path: path.stem)
    targets = [load_target(path, patches_root) for path in paths]
    if not targets:
        raise TargetError(f"{directory}: no target file (*.toml) found.")
    return {target.name: target for target in targets}


def find_target(name: str, directory: Path = TARGETS_DIR) -> Target:
    """Return one target by its name.

    Raises:
        UsageError: There is no target of that name.
        TargetError: A target's file is wrong.
    """
    targets = load_targets(directory)
    if name not in targets:
        raise UsageError(f"No target {name!r}.", f"Targets: {', '.join(targets)}.")
    return targets[name]


def load_target(path: Path, patches_root: Path = PATCHES_DIR) -> Target:
    """Read and check one target's file, and return the target.

    Args:
        path: The file; `toolchains/` is looked for beside it.
        patches_root: The folder that holds a folder of patches for each upstream release.

    Raises:
        TargetError: Names the file, the key, and what is expected there.
    """
    table = toml.read(path, TargetError)
    table.keys(_REQUIRED, _OPTIONAL)
    abi = table.one_of("abi", ("native", "stable"))
    python = table.text("python", _PYTHON, "a Python version such as 3.12")
    table.check("python", major_minor(python) >= OLDEST_PYTHON, f"{python} is older than 3.10")
    cuda = table.text("cuda", _CUDA, "a CUDA version such as 13.0")
    torch = table.text("torch", _TORCH, "a torch release such as 2.11.0")
    _check_torch(table, "torch", torch, OLDEST_HEADERS, "stable headers")
    upstream = table.text("upstream", r"[A-Za-z0-9][\w.+-]{0,99}", "a folder of patches/, such as v2.2.0")
    try:
        release = _release(patches_root / upstream)
    except TargetError as error:
        raise TargetError(f"{path}: upstream: {error.message}", error.remedy) from None
    shared = path.parent / TOOLCHAINS / f"{cuda_tag(cuda)}.toml"
    pins = _read_toolchain(table, shared, cuda)
    target = Target(
        name=path.stem,
        python=python,
        cuda=cuda,
        torch=torch,
        torch_index=_read_index(table, cuda),
        architectures=_read_architectures(table, cuda, release),
        platform_tag=table.text("platform_tag", _PLATFORM_TAG, "a PEP 600 tag such as manylinux_2_34_x86_64"),
        abi=abi,
        torch_minimum=_read_torch_minimum(table, abi, torch),
        toolchain_packages=pins.packages,
        toolchain_archives=pins.archives,
        toolchain_runtime=pins.runtime,
        upstream=upstream,
    )
    # NVIDIA's archives hold programs of the machine that compiles.
    elsewhere = target.machine != X86_64 and pins.archives
    table.check("platform_tag", not elsewhere, f"CUDA {cuda} has a compiler for x86_64 only, in archives")
    name = f"{'abi3' if target.stable else _interpreter_tag(python)}-{target.cuda_tag}"
    name += "" if target.machine == X86_64 else f"-{target.machine.name}"
    if path.name != f"{name}.toml":
        raise TargetError(
            f"{path}: the file's name disagrees with its keys: abi {abi}, python {python}, cuda {cuda}, "
            f"platform_tag {target.platform_tag}.",
            f"Rename it to {name}.toml, or correct the keys.",
        )
    return target


def _interpreter_tag(python: str) -> str:
    return "cp" + python.replace(".", "")


@lru_cache
def _release(directory: Path) -> Release:
    return load_release(directory)


def _check_torch(table: toml.Table, key: str, version: str, oldest: tuple[int, int], what: str) -> None:
    table.check(
        key,
        major_minor(version) >= oldest,
        f"torch {version} is older than {oldest[0]}.{oldest[1]}, the first with the {what} that are used",
    )


def _read_torch_minimum(table: toml.Table, abi: str, torch: str) -> str | None:
    key = "torch_minimum"
    if abi == "native":
        table.check(
            key, key not in table.values, "only for abi stable: a native wheel runs with one torch only"
        )
        return None
    table.check(
        key, key in table.values, "missing, and abi stable needs it", 'Such as torch_minimum = "2.7".'
    )
    minimum = table.text(key, _TORCH_MINIMUM, "a torch version such as 2.7")
    _check_torch(table, key, minimum, OLDEST_TORCH, "C functions")
    table.check(
        key,
        major_minor(minimum) <= major_minor(torch),
        f"{minimum} is newer than the torch that it is built with, {torch}",
    )
    return minimum


def _read_index(table: toml.Table, cuda: str) -> str:
    url = table.address("torch_index").rstrip("/")
    last = url.rpartition("/")[2]
    # A mirror may have other folders, but one that is named for a CUDA version must be the right one.
    table.check(
        "torch_index",
        re.fullmatch(r"cu\d+", last) is None or last == cuda_tag(cuda),
        f"{url} is the index of {last}, and cuda is {cuda} ({cuda_tag(cuda)})",
    )
    return url


def _read_architectures(table: toml.Table, cuda: str, release: Release) -> tuple[Architecture, ...]:
    key = "architectures"
    found = read_architectures(table)
    for architecture in found:
        why = why_not_compilable(architecture, cuda)
        table.check(key, not why, why)
        table.check(
            key,
            architecture in release.architectures,
            f"{architecture} is not in the source of SageAttention {release.version}",
            f"It has {join(release.architectures)}.",
        )
    return found


def _read_toolchain(table: toml.Table, shared: Path, cuda: str) -> Pins:
    if "toolchain" in table.values:
        return read_pins(table.table("toolchain"))
    if not shared.is_file():
        there = ", ".join(sorted(path.name for path in shared.parent.glob("*.toml"))) or "none"
        raise table.fail(
            "cuda",
            f"no toolchain for CUDA {cuda}: {shared} not found (there: {there})",
            "Add that file, or a [toolchain] table to this one.",
        )
    return read_pins(toml.read(shared, TargetError))
