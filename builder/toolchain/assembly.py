"""Puts a `CUDA_HOME` together in the cache, from the target's packages and archives.

NVIDIA's packages hold the compiler in pieces that don't make a `CUDA_HOME`: there is no `lib64`, no
unversioned `libcudart.so`, and for CUDA 12 each library has a folder of its own, and the compiler's driver
is not in a package at all but in NVIDIA's redistributable archives. So the pieces are put together once, in
the cache, in a folder named for their content. They are hard links, which cost no space and outlive the
environment that they came from. All environments with the same pieces share one folder, so its path is the
same in all of them, which the compiler cache profits from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from builder.target.architectures import major_minor
from builder.target.pins import Archive
from builder.target.targets import Target
from builder.toolchain.compilers import SYSTEM_PATH, Toolchain
from builder.toolchain.host_compiler import HostCompiler, host_folder, host_sha256
from builder.toolchain.materials import Installed, Material, content_sha256, installed_packages
from builder.toolchain.trial import nvcc_version, try_out
from builder.util import files, process
from builder.util.archive import unpack
from builder.util.digest import file_sha256
from builder.util.downloads.download import download
from builder.util.errors import DownloadError, HostCompilerError, ToolchainError
from builder.util.log import say

# Raised when something else is made of the same pieces.
_LAYOUT = 1
_MANIFEST = "toolchain.json"

# What a compile and a link need; a home without one of them is not used.
_NEEDED = (
    *("bin/nvcc", "bin/nvcc.profile", "bin/cudafe++", "bin/fatbinary", "bin/ptxas"),
    *("nvvm/bin/cicc", "nvvm/libdevice/libdevice.10.bc"),
    *("include/cuda_runtime.h", "include/crt/host_config.h"),
    *("lib64/libcudart.so", "lib64/stubs/libcuda.so"),
)
# The CUDA toolkit's parts among `nvidia/<part>` of the -cu12 packages; NCCL, cuDNN and the like are not.
_CU12_PARTS = (
    *("cuda_nvcc", "cuda_runtime", "cuda_cccl", "cuda_cupti", "cuda_nvrtc", "cublas", "cufft", "cufile"),
    *("curand", "cusolver", "cusparse", "nvjitlink", "nvtx"),
)
_LINKED_LIBRARIES = ("libcudart", "libcudadevrt", "libcudart_static", "stubs/")

# cuTensorMapEncodeTiled is what the unpatched sources take from the driver; the rest of its functions need
# not be here, since a shared library may have undefined symbols. 999 is CUDA_ERROR_UNKNOWN.
_DRIVER_STUB = "int cuTensorMapEncodeTiled(void) { return 999; }\n"


class _Piece(NamedTuple):
    """A file for a home."""

    path: Path
    sha256: str


def assemble(target: Target, sites: Sequence[Path], cache_dir: Path, host: HostCompiler) -> Toolchain:
    """Return a target's CUDA compiler, and put it together in the cache if it isn't there yet.

    Args:
        target: What is built.
        sites: The folders with torch and the target's toolchain packages. What the first one has counts.
        cache_dir: The cache's root; `toolchains/`, `downloads/` and `host/` are in it.
        host: The g++.

    Raises:
        ToolchainError: The pieces make no compiler, or one of a different version.
        HostCompilerError: The g++ can't link, or nvcc does not accept it.
        DownloadError: An archive of the target can't be downloaded.
        OSError: The cache can't be written.
    """
    archives = target.toolchain_archives
    packages: dict[str, Installed] = {}
    pieces: dict[str, _Piece] = {}
    for site in sites:
        for package in installed_packages(site):
            if package.name not in packages and (own := _pieces(site, package, target.cuda)):
                packages[package.name] = package
                pieces = {**own, **pieces}
    listed = content_sha256({place: piece.sha256 for place, piece in pieces.items()})
    key = digest([str(_LAYOUT), listed, *(archive.sha256 for archive in archives)])
    home = cache_dir / "toolchains" / f"cuda-{target.cuda}-{key[:16]}"

    def described(cuda_home: Path) -> Toolchain:
        return Toolchain(
            cuda_home=cuda_home,
            nvcc_version=nvcc_version(cuda_home / "bin" / "nvcc"),
            origin="packages+archives" if archives else "packages",
            components=(
                *(package.material() for package in packages.values()),
                *map(_archive_material, archives),
            ),
            host=host,
            host_bin=host_folder(host, cache_dir),
            identity=digest([key, host_sha256(host)]),
        )

    lock = files.locked(cache_dir / f".{home.name}.lock", lambda: say("  waiting for another build"))
    whole = _is_whole(home, key)
    with nullcontext() if whole else lock:
        # Another build may have made it while this one waited.
        if not whole and not _is_whole(home, key):
            if home.exists():
                say(f"  {home} is not as it was made: making it again")
            archived = _download(target, pieces, cache_dir / "downloads")
            with files.beside(home) as new:
                for archive in archived:
                    unpack(archive, unpacked := new.with_name(archive.name))
                    _take(new, _files(unpacked))
                _take(new, ((place, path, sha256) for place, (path, sha256) in pieces.items()))
                _complete(new, host)
                _check(new, target)
                try_out(described(new), target.architectures[0].gencode)
                (new / _MANIFEST).write_text(json.dumps({"key": key, "files": _contents(new)}) + "\n")
            say(f"  CUDA_HOME for CUDA {target.cuda}: {home}")
    return described(home)


def place_in_home(path: str) -> str | None:
    """Return where a file of a package or an archive goes in a `CUDA_HOME`; None if no compile needs it.

    Args:
        path: Relative to the folder that holds `bin`, `include` and so on.
    """
    top, _, rest = path.partition("/")
    if not rest or rest.endswith((".py", ".pyc")):
        return None
    if top in ("bin", "include", "nvvm"):
        return path
    if top in ("lib", "lib64") and rest.startswith(_LINKED_LIBRARIES):
        return f"lib64/{rest}"
    return None


def digest(parts: Sequence[str]) -> str:
    """Return one SHA-256 for some texts, lower-case hexadecimal."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _pieces(site: Path, package: Installed, cuda: str) -> dict[str, _Piece]:
    """The files of an installed package that belong into a home, by their place in it."""
    major = major_minor(cuda)[0]
    roots = [f"nvidia/cu{major}"] if major >= 13 else [f"nvidia/{part}" for part in _CU12_PARTS]
    found: dict[str, _Piece] = {}
    for path, sha256 in package.files.items():
        root = next((root for root in roots if path.startswith(f"{root}/")), None)
        place = place_in_home(path[len(root) + 1 :]) if root else None
        if place:
            found.setdefault(place, _Piece(site / path, sha256))
    return found


def _archive_material(archive: Archive) -> Material:
    match = re.search(r"-(\d+(?:\.\d+)+)", archive.url.rpartition("/")[2])
    version = match[1] if match else ""
    qualifiers = f"checksum=sha256:{archive.sha256}&download_url={quote(archive.url, safe='')}"
    purl = f"pkg:generic/{archive.name}@{version}?{qualifiers}" if version else ""
    return Material("build-tool", archive.name, version, archive.sha256, purl)


def _is_whole(home: Path, key: str) -> bool:
    """Whether a home has the very files that it was made with."""
    try:
        manifest = json.loads((home / _MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return bool(manifest == {"key": key, "files": _contents(home)})


def _contents(home: Path) -> dict[str, str]:
    """The SHA-256 of each file of a home with an `x` if it is executable, and where each link leads."""
    found = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and name != _MANIFEST:
            found[name] = file_sha256(path) + "x" * os.access(path, os.X_OK)
    return found


def _missing(home: Path) -> list[str]:
    return [name for name in _NEEDED if not (home / name).is_file()]


def _download(target: Target, pieces: Mapping[str, _Piece], downloads: Path) -> list[Path]:
    if not target.toolchain_archives and "bin/nvcc" not in pieces:
        raise ToolchainError(
            f"The environment has no CUDA {target.cuda} compiler.",
            f"Install {' '.join(target.toolchain_packages)} into it.",
        )
    try:
        return [
            download(archive.url, archive.sha256, archive.size_bytes, downloads)
            for archive in target.toolchain_archives
        ]
    except DownloadError as error:
        instead = f"Or give a CUDA {target.cuda} toolkit with --cuda-home DIR."
        raise DownloadError(error.message, f"{error.remedy} {instead}".strip()) from None


def _files(root: Path) -> Iterator[tuple[str, Path, str]]:
    """What an unpacked archive, which was verified as a whole, has for a home."""
    for path in sorted(root.rglob("*")):
        place = place_in_home(path.relative_to(root).as_posix())
        if place and (path.is_symlink() or path.is_file()):
            yield place, path, ""


def _take(home: Path, pieces: Iterable[tuple[str, Path, str]]) -> None:
    """Copy files into a home that are not there yet: place, file, and its SHA-256 or an empty text."""
    for place, source, sha256 in pieces:
        there = home / place
        if there.exists() or there.is_symlink():
            continue
        if not source.exists() and not source.is_symlink():
            raise _damaged(source, "is missing, though its package is installed")
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and len(source.readlink().parts) == 1:
            there.symlink_to(source.readlink())
            continue
        shutil.copy2(source, there)
        if sha256 and file_sha256(there) != sha256:
            raise _damaged(source, "has a different SHA-256 than its package's RECORD says")


def _damaged(piece: Path, how: str) -> ToolchainError:
    return ToolchainError(
        f"{piece} {how}.",
        "The environment is damaged, and perhaps the installer's cache with it: run `uv cache clean`, remove "
        "the environment and build again.",
    )


def _complete(home: Path, host: HostCompiler) -> None:
    """Add what neither packages nor archives have."""
    libraries = home / "lib64"
    stub = libraries / "stubs" / "libcuda.so"
    stub.parent.mkdir(parents=True, exist_ok=True)
    if not (home / "lib").exists():
        (home / "lib").symlink_to("lib64")
    runtime = libraries / "libcudart.so"
    versions = sorted(path.name for path in libraries.glob("libcudart.so.*"))
    if not runtime.exists() and versions:
        runtime.symlink_to(versions[0])
    if not stub.exists():
        source = stub.with_suffix(".c")
        source.write_text(_DRIVER_STUB)
        flags = ["-x", "c", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1"]
        path = os.pathsep.join(dict.fromkeys([str(host.path.parent), *SYSTEM_PATH]))
        try:
            process.run([host.path, *flags, "-o", stub, source], env={"PATH": path})
        except process.CommandError as error:
            raise HostCompilerError(
                f"{host.path} can't link a shared library: {error.message}",
                "Install a whole g++: `apt install g++` (Debian, Ubuntu) or "
                "`dnf install gcc-c++` (Fedora, RHEL).",
            ) from None
        source.unlink()


def _check(home: Path, target: Target) -> None:
    if missing := _missing(home):
        raise ToolchainError(
            f"The pieces of CUDA {target.cuda} don't make a compiler; missing: {', '.join(missing)}.",
            f"They come from {', '.join(target.toolchain_packages)} and the target's archives: "
            "remove the environment and build again.",
        )
    version = nvcc_version(home / "bin" / "nvcc")
    if major_minor(version) != major_minor(target.cuda):
        raise ToolchainError(
            f"The target is CUDA {target.cuda}, and its packages hold nvcc {version}.",
            "Correct its toolchain packages or archives: they are of a different release.",
        )
