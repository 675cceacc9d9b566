"""Unpacks packages of the machine that a wheel is for, where that is another one.

A cross build compiles with the headers and links with the libraries of that machine's torch and CUDA
runtime. uv unpacks them into a folder of the cache, as that platform's. They are never installed into the
build's own environment: nothing of them runs here, unless an emulator runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain import torch_packages
from builder.toolchain.installation import damaged_packages
from builder.toolchain.torch_packages import check_torch, installed_torch, unmet, why_not_torch
from builder.util import files
from builder.util.errors import ToolchainError
from builder.util.log import say


def machine_site(target: Target, cache_dir: Path) -> Path:
    """Return the folder that holds the packages of a target's machine, as `site-packages` does."""
    return (
        cache_dir
        / "machines"
        / f"{target.machine.name}-torch{target.torch}-{target.cuda_tag}"
        / "site-packages"
    )


def is_unpacked(target: Target, options: BuildOptions) -> bool:
    """Return whether all that `unpack` would unpack is there, as far as a quick look tells."""
    site = machine_site(target, options.cache_dir)
    torch = installed_torch(site)
    return (
        torch is not None and not why_not_torch(torch, target) and not unmet(site, target.toolchain_runtime)
    )


def unpack(target: Target, options: BuildOptions) -> str:
    """Unpack torch and the CUDA runtime of a target's machine, if they are not there whole.

    Args:
        target: What will be built.
        options: `torch_index` and `cache_dir` count.

    Returns:
        torch's own version: `2.11.0+cu130`.

    Raises:
        ToolchainError: The target's toolchain names no CUDA runtime for other machines.
        TorchEnvironmentError: They can't be obtained, or torch is built for a different CUDA version.
        OSError: The cache can't be written.
    """
    if not target.toolchain_runtime:
        raise ToolchainError(
            f"The toolchain of CUDA {target.cuda} can't build for another machine: it has no `runtime`.",
            f"Build on a machine of {target.machine.name}.",
        )
    site, machine = machine_site(target, options.cache_dir), target.machine.name
    folder = site.parent
    lock = files.locked(folder.with_name(f".{folder.name}.lock"), lambda: say("  waiting for another build"))
    with lock:
        if is_unpacked(target, options) and not damaged_packages(site):
            say(f"  torch for {machine}: already unpacked")
            return check_torch(site, target).version
        index = torch_packages.choose_index(target, options)
        with files.beside(folder) as new:
            into = for_machine(target, new / site.name, target.python)
            for wanted in (target.toolchain_runtime, ["--no-deps", f"torch=={target.torch}"]):
                torch_packages.install_from(index, target, options, Path(sys.executable), [*into, *wanted])
    return check_torch(site, target).version


def for_machine(target: Target, site: Path, python: str) -> Sequence[str | Path]:
    """Return the options of `uv pip install` that unpack a target's machine's packages into a folder.

    Args:
        target: Its platform tag says for which machine and glibc.
        site: The folder.
        python: The Python that they are for: `3.12`.
    """
    floor, machine = target.platform_tag.removesuffix(f"_{target.machine.name}"), target.machine.name
    platform = ["--python-platform", f"{machine}-{floor}", "--python-version", python]
    return ["--target", site, *platform, "--only-binary", ":all:"]
