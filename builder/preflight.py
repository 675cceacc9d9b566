"""Checks what is cheap to check before a build installs gigabytes: compilers, folders and room on disks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.target.architectures import refuse_uncompilable
from builder.target.options import BuildOptions
from builder.target.selection import Selection
from builder.target.targets import Target
from builder.toolchain import torch_env
from builder.toolchain.cuda_home import check_cuda_home
from builder.toolchain.emulator import find_emulator
from builder.toolchain.gxx import Gxx, find_gxx
from builder.toolchain.venv import cache_folder
from builder.util import limits
from builder.util.errors import UsageError


@dataclass(frozen=True)
class Compilers:
    """What will compile: the CUDA compiler's version, and the g++."""

    cuda_version: str
    host: Gxx


@dataclass(frozen=True)
class Need:
    """Room that something takes in a folder, which need not be there yet."""

    what: str
    folder: Path
    size_bytes: int

    def __str__(self) -> str:
        return f"{self.what} {_size(self.size_bytes)}"


def check_compilers(
    target: Target, selection: Selection, options: BuildOptions, environ: Mapping[str, str]
) -> Compilers:
    """Return what will compile, checked as far as it is here before anything is installed.

    Raises:
        UsageError: `--no-patches` is for this machine's targets alone.
        ToolchainError: `--cuda-home` or `--machine-root` can't be used.
        ArchitectureError: The CUDA compiler lacks an architecture.
        HostCompilerError: There is no g++ that it accepts.
    """
    if options.no_patches and not target.machine.is_here:
        raise UsageError(
            f"--no-patches can't build for {target.machine.name} here: upstream's setup.py imports torch.",
            f"Build on a machine of {target.machine.name}.",
        )
    find_emulator(target, options)
    version = check_cuda_home(options.cuda_home, target, options) if options.cuda_home else target.cuda
    refuse_uncompilable(selection.architectures, version)
    return Compilers(version, find_gxx(version, environ, target.machine))


def check_folders(options: BuildOptions, work: Path) -> None:
    """Check that a build can write where it has to.

    Args:
        options: `wheelhouse` and `cache_dir` count.
        work: The folder for scratch trees and logs.

    Raises:
        UsageError: A folder can't be written; the message names it.
    """
    refuse_unwritable(work, "Builds work there: let it be written.")
    refuse_unwritable(options.wheelhouse, "Choose another one with --wheelhouse DIR.")
    refuse_unwritable(options.cache_dir, "Choose another one with --cache-dir DIR.")


def refuse_unwritable(folder: Path, remedy: str) -> None:
    """Stop where a folder, which need not be there yet, can't be written.

    Args:
        folder: The folder.
        remedy: What to do, in a sentence.

    Raises:
        UsageError: It can't be written.
    """
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as trial:
            trial.write(b"x" * 4096)
            trial.flush()
    except OSError as error:
        raise UsageError(f"{folder} can't be written: {error.strerror}.", remedy) from None


def needs(target: Target, options: BuildOptions, work: Path) -> list[Need]:
    """Return the room that a build takes, folder by folder.

    uv links what it installs from its cache, so that it takes no room of its own on the same disk.

    Args:
        target: What is built.
        options: `wheelhouse`, `cache_dir` and `cuda_home` count.
        work: The folder for scratch trees and logs.
    """
    found = [
        Need("the build", work, limits.BUILD_ROOM_BYTES),
        Need("the wheels", options.wheelhouse, limits.WHEELHOUSE_ROOM_BYTES),
    ]
    downloads = options.cache_dir / "downloads"
    for archive in () if options.cuda_home else target.toolchain_archives:
        if not list(downloads.glob(f"{archive.sha256[:16]}-*")):
            found.append(Need(archive.name, downloads, archive.size_bytes))
    if torch_env.is_installed(target):
        return found
    what, size_bytes = f"torch {target.torch} and the CUDA compiler", _environment_bytes(target, options)
    places = {_disk(folder): folder for folder in (torch_env.PACKAGES, cache_folder())}
    return [*found, *(Need(what, folder, size_bytes) for folder in places.values())]


def check_room(
    found: Iterable[Need], free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free
) -> None:
    """Check that the disks have the room that a build takes.

    Args:
        found: What `needs` returned.
        free_bytes: Returns how much is free on the disk of a folder.

    Raises:
        UsageError: A disk has less; the message says what takes how much of it.
    """
    disks: dict[int, list[Need]] = {}
    for need in found:
        disks.setdefault(_disk(need.folder), []).append(need)
    for wanted in disks.values():
        folder = max(wanted, key=lambda need: need.size_bytes).folder
        total, free = sum(need.size_bytes for need in wanted), free_bytes(_existing(folder))
        if free < total:
            parts = ", ".join(map(str, wanted))
            raise UsageError(
                f"The disk of {folder} has {_size(free)} free, and a build needs {_size(total)} "
                f"there: {parts}.",
                "Free some, or use another disk: --wheelhouse DIR and --cache-dir DIR name folders of the "
                "build, UV_CACHE_DIR names uv's.",
            )


def _environment_bytes(target: Target, options: BuildOptions) -> int:
    if not target.machine.is_here:
        # To import a wheel takes a whole torch.
        return limits.CROSS_ENVIRONMENT_BYTES + (limits.ENVIRONMENT_BYTES if options.machine_root else 0)
    return limits.CUDA_12_ENVIRONMENT_BYTES if target.cuda.startswith("12.") else limits.ENVIRONMENT_BYTES


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 10**9 else f"{size_bytes / 1e6:.0f} MB"


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    for path in (folder, *folder.absolute().parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
            return path
    return Path("/")


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev
