"""Installs torch for the target's CUDA version, and the compiler's packages, in folders of their own.

`uv pip install --target` fills a folder once for the same inputs; then nothing is installed, and no network
is needed. With others the folder is made anew, which takes seconds where uv's cache has the files.

torch comes from the target's package index, or from the default index if that one can't be reached. An index
that `--torch-index` names is the one that is used. Either way the torch that was installed decides: its
`torch.version.cuda` has to equal the target's.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain import folders
from builder.toolchain.venv import pip_install, why_not_index
from builder.util.errors import ToolchainError, TorchEnvironmentError
from builder.util.files import ROOT, file_sha256
from builder.util.http import public_address
from builder.util.log import say, warn

PACKAGES = Path(sys.prefix) / "packages"
_LOCK = ROOT / "builder" / "requirements.txt"


@dataclass(frozen=True)
class _Folder:
    """A folder of packages: what is installed into it, step by step, and for which other machine's Python."""

    path: Path
    steps: Sequence[Sequence[str]]
    python: str = ""  # `3.12`; empty for this Python


def sites(target: Target, root: Path = PACKAGES) -> tuple[Path, ...]:
    """Return the folders that `install` fills: the one with torch first, then that of the compiler."""
    torch = root / target.machine.name
    return (torch,) if target.machine.is_here else (torch, root / "compiler")


def install(target: Target, options: BuildOptions, root: Path = PACKAGES) -> str:
    """Install the target's torch, and the packages of its CUDA compiler unless there is a `--cuda-home`.

    For another machine, that machine's torch and CUDA runtime are unpacked beside the compiler: nothing of
    them runs here, but a build compiles with their headers and links with their libraries.

    Returns:
        torch's own version: `2.11.0+cu130`.
    """
    if not target.machine.is_here and not target.toolchain_runtime:
        raise ToolchainError(
            f"The toolchain of CUDA {target.cuda} can't build for another machine: it has no `runtime`.",
            f"Build on a machine of {target.machine.name}.",
        )
    for folder in _folders(target, options, root):
        _fill(folder, target, options)
    return _check_torch(sites(target, root)[0], target)


def install_to_import(target: Target, options: BuildOptions, python: str, root: Path = PACKAGES) -> Path:
    """Install another machine's torch with all that it imports, for its Python `3.11`; returns the folder."""
    site = root / f"{target.machine.name}-to-import"
    _fill(_Folder(site, [[f"torch=={target.torch}"]], python), target, options)
    return site


def is_installed(target: Target, options: BuildOptions, root: Path = PACKAGES) -> bool:
    """Return whether `install` will find all that it needs, without a network."""
    return all(
        folders.is_made(folder.path, _inputs(folder, target, options))
        for folder in _folders(target, options, root)
    )


def _folders(target: Target, options: BuildOptions, root: Path) -> list[_Folder]:
    torch = f"torch=={target.torch}"
    compiler = [] if options.cuda_home else [*target.toolchain_packages]
    if target.machine.is_here:
        return [_Folder(sites(target, root)[0], [[torch, *compiler]])]
    theirs, ours = sites(target, root)
    steps = [[*target.toolchain_runtime], ["--no-deps", torch]]
    return [_Folder(ours, [compiler]), _Folder(theirs, steps, target.python)]


def _inputs(folder: _Folder, target: Target, options: BuildOptions) -> str:
    """Return what a folder's marker says when it holds what is wanted."""
    inputs = {
        "steps": folder.steps,
        "for": [folder.python or platform.python_version(), target.platform_tag],
        "torch_index": public_address(options.torch_index or target.torch_index),
        "lock_sha256": file_sha256(_LOCK),
    }
    return json.dumps(inputs, indent=1) + "\n"


def _fill(folder: _Folder, target: Target, options: BuildOptions) -> None:
    """Fill a folder with packages, unless it is so already."""
    has_torch = any(f"torch=={target.torch}" in step for step in folder.steps)

    def fill(new: Path) -> None:
        _install(new, folder, target, options, has_torch=has_torch)
        if has_torch:
            _check_torch(new, target)

    if not folders.make(folder.path, _inputs(folder, target, options), fill):
        say(f"  {folder.path}: already installed")


def _install(site: Path, folder: _Folder, target: Target, options: BuildOptions, *, has_torch: bool) -> None:
    into: list[str | Path] = ["--target", site]
    if folder.python:
        # `manylinux_2_34_aarch64` is uv's `aarch64-manylinux_2_34`
        machine = target.machine.name
        floor = target.platform_tag.removesuffix(f"_{machine}")
        into += ["--python-platform", f"{machine}-{floor}", "--python-version", folder.python]
        into += ["--only-binary", ":all:"]
    steps, index = folder.steps, options.torch_index or target.torch_index
    if index and (reason := why_not_index(index, target.torch)):
        if options.torch_index:
            raise TorchEnvironmentError(
                f"torch can't be installed from {index}: {reason}.",
                f"Correct --torch-index, or omit it to use {target.torch_index}.",
            )
        warn(f"{index} can't be used ({reason}); installing torch from the default index")
        index = ""
    if options.torch_index and has_torch:
        # First, and with no other index: the best version of all indexes could be another one's.
        steps = [["--no-deps", "--default-index", options.torch_index, f"torch=={target.torch}"], *steps]
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as constraints:
        # The versions of the build's lock, without the hashes: an index may have rebuilt what it mirrors.
        constraints.write(re.sub(r" \\\n +--hash=\S+", "", _LOCK.read_text(encoding="utf-8")))
        constraints.flush()
        for step in steps:
            command = [*into, "--constraint", constraints.name, *step]
            if pip_install(Path(sys.executable), command, index) == 0:
                continue
            # Its pages can be reached and its files can't: they may be on a different host.
            if index and not options.torch_index:
                warn(f"{index} does not deliver torch {target.torch}; installing it from the default index")
                if pip_install(Path(sys.executable), command) == 0:
                    continue
            raise TorchEnvironmentError(
                f"{' '.join(step)} could not be installed; see above.",
                "Check that a package index can be reached, and that the disk has room (up to 7 GB).",
            )


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
        f"The torch that was installed does not fit: it is torch {version or 'of no known version'}, built "
        f"{is_for}, and the target is torch {target.torch} for CUDA {target.cuda}.",
        f"Name an index of builds for CUDA {target.cuda} with --torch-index URL (the target's is "
        f"{target.torch_index}).",
    )
