"""Installs with uv: torch and the compiler's packages in folders of their own, and environments for checks.

`uv pip install --target` fills a folder once for the same inputs; then no network is needed. A marker in it,
written last, says what it was made from: without it, or with another one, the folder is made anew as a whole.

torch comes from the index of `--torch-index`, or else from the target's, or from the default index if that
one does not deliver it. Its `torch.version.cuda` has to equal the target's.

An installed package no longer knows the digest of its wheel, but its RECORD has that of each file (PyPA
specification "Recording installed projects"): the digest of that list stands in the wheel's place.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from packaging.utils import canonicalize_name

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.util import files, process
from builder.util.errors import TorchEnvironmentError
from builder.util.log import public_address, say, warn
from builder.wheel.sbom import Component

PACKAGES = Path(sys.prefix) / "packages"
_UV = (sys.executable, "-m", "uv")
_MARKER = ".made-from"
_LOCK = files.ROOT / "builder" / "requirements.txt"
_INSTALLERS_OWN = ("INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_")


def is_made(folder: Path, inputs: str) -> bool:
    """Return whether a folder was made, wholly, from what a text says."""
    marker = folder / _MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == inputs


def make_folder(folder: Path, inputs: str, fill: Callable[[Path], None]) -> bool:
    """Make a folder, unless it was made from the same inputs; returns whether it was made now.

    `fill` makes it elsewhere on this disk, and may use the folder that is around it. Where that fails, the
    folder is as it was; what a killed process left is removed by the next one.
    """
    with files.locked(folder.with_name(f".{folder.name}.lock"), lambda: say("  waiting for another build")):
        if is_made(folder, inputs):
            return False
        for left in folder.parent.glob(f".{folder.name}.*.part"):
            shutil.rmtree(left, ignore_errors=True)
        with files.beside(folder) as new:
            fill(new)
            (new / _MARKER).write_text(inputs, encoding="utf-8")
        return True


@dataclass(frozen=True)
class _Folder:
    """A folder of packages: the arguments of each `uv pip install`, and another machine's Python (`3.12`)."""

    path: Path
    steps: Sequence[Sequence[str]]
    python: str = ""


def sites(target: Target, root: Path = PACKAGES) -> tuple[Path, ...]:
    """Return the folders that `install` fills, that with torch first."""
    torch = root / target.machine.name
    return (torch,) if target.machine.is_here else (torch, root / "compiler")


def install(target: Target, options: BuildOptions, root: Path = PACKAGES) -> str:
    """Install torch, and the CUDA compiler unless there is a `--cuda-home`; return torch's own version.

    For another machine, that machine's torch and CUDA runtime are unpacked beside the compiler: nothing of
    them runs here, but a build compiles with their headers and links with their libraries.
    """
    for folder in _folders(target, options, root):
        _fill(folder, target, options)
    return _check_torch(sites(target, root)[0], target)


def _folders(target: Target, options: BuildOptions, root: Path) -> list[_Folder]:
    """Return the folders that a build needs."""
    torch = f"torch=={target.torch}"
    compiler = [] if options.cuda_home else [*target.toolchain_packages]
    if target.machine.is_here:
        return [_Folder(sites(target, root)[0], [[torch, *compiler]])]
    theirs, ours = sites(target, root)
    steps = [[*target.toolchain_runtime], ["--no-deps", torch]]
    return [_Folder(ours, [compiler]), _Folder(theirs, steps, target.python)]


def install_to_import(target: Target, options: BuildOptions, python: str, root: Path = PACKAGES) -> Path:
    """Install another machine's torch with all that it imports, for its Python `3.11`; returns the folder."""
    site = root / f"{target.machine.name}-to-import"
    _fill(_Folder(site, [[f"torch=={target.torch}"]], python), target, options)
    return site


def is_installed(target: Target, options: BuildOptions, root: Path = PACKAGES) -> bool:
    """Return whether `install` will find all that it needs, without a network."""
    return all(
        is_made(folder.path, _inputs(folder, target, options)) for folder in _folders(target, options, root)
    )


def _inputs(folder: _Folder, target: Target, options: BuildOptions) -> str:
    """Return what a folder's marker says when it holds what is wanted."""
    inputs = {
        "steps": folder.steps,
        "for": [folder.python or platform.python_version(), target.platform_tag],
        "torch_index": public_address(options.torch_index or target.torch_index),
        "lock_sha256": files.file_sha256(_LOCK),
    }
    return json.dumps(inputs, indent=1) + "\n"


def _fill(folder: _Folder, target: Target, options: BuildOptions) -> None:
    """Fill a folder with packages, unless it is so already."""
    fill = partial(_install, folder, target, options)
    if not make_folder(folder.path, _inputs(folder, target, options), fill):
        say(f"  {folder.path}: already installed")


def _install(folder: _Folder, target: Target, options: BuildOptions, site: Path) -> None:
    into: list[str | Path] = ["--target", site]
    if folder.python:
        # `manylinux_2_34_aarch64` is uv's `aarch64-manylinux_2_34`
        machine = target.machine.name
        floor = target.platform_tag.removesuffix(f"_{machine}")
        into += ["--python-platform", f"{machine}-{floor}", "--python-version", folder.python]
        into += ["--only-binary", ":all:"]
    steps, torch = folder.steps, f"torch=={target.torch}"
    has_torch = any(torch in step for step in steps)
    if options.torch_index and has_torch:
        # First, and with no other index: the best version of all indexes could be another one's.
        steps = [["--no-deps", "--default-index", options.torch_index, torch], *steps]
    # The versions of the build's lock, without the hashes: an index may have rebuilt what it mirrors.
    constraints = site.with_name("constraints.txt")
    constraints.write_text(re.sub(r" \\\n +--hash=\S+", "", _LOCK.read_text(encoding="utf-8")))
    for step in steps:
        index = "" if "--default-index" in step else options.torch_index or target.torch_index
        if not _pip_install(sys.executable, [*into, "--constraint", constraints, *step], index):
            raise TorchEnvironmentError(
                f"{' '.join(part for part in step if part[:2] != '--')} could not be installed; see above.",
                "Check that the package index can be reached (or name another one with --torch-index), "
                "and that the disk has room (up to 7 GB).",
            )
    if has_torch:
        _check_torch(site, target)


def make_clean_venv(
    path: Path, python: str | Path, requirements: Sequence[str], torch_index: str | None = None
) -> Path:
    """Make a virtual environment in a folder, in place of an older one, and return its Python.

    `python` is a version or a path; `torch_index` is used besides the default one.
    """
    if process.show([*_UV, "venv", "--quiet", "--clear", "--python", python, path]) != 0:
        raise TorchEnvironmentError(
            f"No virtual environment with Python {python} could be made in {path}.",
            f"Install Python {python}.",
        )
    executable = path / "bin" / "python"
    if requirements and not _pip_install(executable, requirements, torch_index):
        raise TorchEnvironmentError(
            f"{' '.join(requirements)} could not be installed for Python {python}; see above.",
            "Check that the package index can be reached, and has such a version for this Python.",
        )
    return executable


def install_wheel(python: Path, wheel: Path) -> None:
    """Install a wheel into an environment, in place of an older one."""
    if not _pip_install(python, ["--reinstall-package", wheel.name.split("-")[0], wheel]):
        raise TorchEnvironmentError(
            f"{wheel.name} can't be installed; see above.", "Check that it is for this Python."
        )


def _pip_install(python: str | Path, arguments: Sequence[str | Path], index: str | None = None) -> bool:
    """Run `uv pip install`, with an index besides the default one if that works; return whether it did."""
    command = [*_UV, "pip", "install", "--python", python, *arguments]
    if index:
        # The best version of all indexes, as pip does: the other index may mirror a few versions only.
        if process.show([*command, "--index", index, "--index-strategy", "unsafe-best-match"]) == 0:
            return True
        warn(f"{index} can't be reached or does not deliver; installing from the default index")
    return process.show(command) == 0


def _check_torch(site: Path, target: Target) -> str:
    """Return the version of the torch in a folder, checked to be the target's, without importing it."""
    file = site / "torch" / "version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    pattern = r"^(__version__|cuda)\b[^=\n]*= *'([^'\n]*)'"
    values: dict[str, str] = dict(re.findall(pattern, text, re.MULTILINE))
    version, cuda = values.get("__version__", ""), values.get("cuda", "")
    if version.partition("+")[0] == target.torch and cuda.split(".")[:2] == target.cuda.split(".")[:2]:
        return version
    is_for = f"for CUDA {cuda}" if cuda else "without CUDA"
    raise TorchEnvironmentError(
        f"torch {version or 'of no known version'}, built {is_for}, was installed, and the target is torch "
        f"{target.torch} for CUDA {target.cuda}.",
        f"Name an index of such builds with --torch-index URL (the target's is {target.torch_index}).",
    )


@dataclass(frozen=True)
class Installed:
    """An installed package; its name is normalised: `nvidia-cuda-nvcc`."""

    name: str
    version: str
    files: Mapping[str, str]  # of its wheel: path in site-packages -> SHA-256, sorted

    @property
    def sha256(self) -> str:
        """In place of its wheel's digest: that of the lines `<sha256>  <path>`; empty without files."""
        lines = "".join(f"{sha256}  {path}\n" for path, sha256 in self.files.items())
        return hashlib.sha256(lines.encode()).hexdigest() if lines else ""

    def component(self) -> Component:
        """Return the package as a build tool."""
        purl = f"pkg:pypi/{self.name}@{self.version}"
        return Component("build-tool", self.name, self.version, self.sha256, purl)


def installed_packages(site_packages: Path) -> tuple[Installed, ...]:
    """Return every package installed in a folder, sorted by name."""
    found = importlib.metadata.distributions(path=[str(site_packages)])
    packages = (Installed(canonicalize_name(one.metadata["Name"]), one.version, _files(one)) for one in found)
    return tuple(sorted(packages, key=lambda package: package.name))


def _files(distribution: importlib.metadata.Distribution) -> dict[str, str]:
    """Return the files that a wheel brought; notes, scripts and byte code are installers' own."""
    digests = {}
    for path in distribution.files or ():
        own = path.parent.name.endswith(".dist-info") and path.name.startswith(_INSTALLERS_OWN)
        if path.hash and path.hash.mode == "sha256" and path.parts[0] not in ("..", "/", "bin") and not own:
            digest = path.hash.value + "=" * (-len(path.hash.value) % 4)
            digests[str(path)] = base64.urlsafe_b64decode(digest).hex()
    return dict(sorted(digests.items()))
