"""The CUDA compiler of a build: the user's with `--cuda-home`, else one made of the target's packages.

NVIDIA's packages hold the compiler in pieces that don't make a `CUDA_HOME`: there is no `lib64` and no
unversioned `libcudart.so`, and for CUDA 12 each library has a folder of its own, and nvcc is in NVIDIA's
archives alone. So the pieces are copied together once (215 MB for CUDA 13.0), to a folder of the cache.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from builder.target.architectures import major_minor
from builder.target.options import BuildOptions
from builder.target.targets import Archive, Target
from builder.toolchain.gxx import Gxx
from builder.toolchain.torch_env import Installed, installed_packages, make_folder
from builder.util import http, process
from builder.util.errors import ToolchainError
from builder.util.files import file_sha256
from builder.util.log import say
from builder.wheel.sbom import Component

_LAYOUT = "2"  # raised when something else is made of the same pieces
# The programs and data that decide what a compile makes of the same headers.
_COMPILING = (
    *("bin/nvcc", "bin/nvcc.profile", "bin/cudafe++", "bin/fatbinary", "bin/ptxas"),
    *("nvvm/bin/cicc", "nvvm/libdevice/libdevice.10.bc"),
)
# What a compile and a link need besides.
_NEEDED = (*_COMPILING, "include/cuda_runtime.h", "include/crt/host_config.h", "lib64/libcudart.so")
_LINKED_LIBRARIES = ("libcudart", "libcudadevrt")
# The folders of the packages that hold the compiler: all of CUDA 13's, or those of CUDA 12's parts.
_PACKAGES_PART = re.compile(r"^nvidia/(?:cu\d\d|cuda_nvcc|cuda_runtime|cuda_cccl)/")


@dataclass(frozen=True)
class Toolchain:
    """The compilers of a build."""

    cuda_home: Path
    nvcc_version: str  # `13.0.88`
    components: tuple[Component, ...]  # of the toolkit, beside installed packages
    gxx: Gxx
    identity: str  # changes with anything that can change what a compile makes

    def path(self) -> str:
        """Return a `PATH` on which no nvcc is found, nor a Python but this one."""
        # A g++ outside the system's folders may need the assembler and linker that lie beside it.
        folders = (Path(sys.executable).parent, self.gxx.path.parent)
        return os.pathsep.join(dict.fromkeys([*map(str, folders), "/usr/bin", "/bin"]))


def resolve(target: Target, options: BuildOptions, sites: Sequence[Path], gxx: Gxx) -> Toolchain:
    """Return the compilers for a target; make its `CUDA_HOME` in the cache if it isn't there yet.

    `sites` are the folders of packages, of which the first that has one counts.
    """
    if options.cuda_home:
        version = check_cuda_home(options.cuda_home, target, options)
        home = options.cuda_home.resolve()
        digests = [file_sha256(home / name) for name in _COMPILING if (home / name).is_file()]
        nvcc = Component("build-tool", "nvcc", version, file_sha256(home / "bin" / "nvcc"))
        say(f"  CUDA {version} of {options.cuda_home}, for a target of CUDA {target.cuda}")
        identity = _digest([version, *digests, gxx.digest()])
        return Toolchain(home, version, (nvcc,), gxx, identity)
    packages: dict[str, tuple[Path, Installed]] = {}
    for site in sites:
        for package in installed_packages(site):
            if any(_place(path) for path in package.files):
                packages.setdefault(package.name, (site, package))
    archives = target.toolchain_archives
    pieces = [f"{package.name} {package.sha256}" for _, package in packages.values()]
    pieces += [archive.sha256 for archive in archives]
    key = _digest([_LAYOUT, target.cuda, target.machine.name, *pieces])
    home = options.cache_dir / "toolchains" / f"cuda-{target.cuda}-{key[:16]}"
    if _missing(home):
        shutil.rmtree(home, ignore_errors=True)
    fill = partial(_fill, target, list(packages.values()), options.cache_dir / "downloads")
    if make_folder(home, key, fill):
        say(f"  CUDA_HOME for CUDA {target.cuda}: {home}")
    version, identity = nvcc_version(home / "bin" / "nvcc"), _digest([key, gxx.digest()])
    return Toolchain(home, version, tuple(map(_component, archives)), gxx, identity)


def check_cuda_home(home: Path, target: Target, options: BuildOptions) -> str:
    """Return the version of a user's CUDA toolkit, `13.0.88`, checked to be one that the target can use."""
    if not target.machine.is_here:
        reason = f"it can't build for {target.machine.name}"
    elif not os.access(home / "bin" / "nvcc", os.X_OK):
        reason = "there is no bin/nvcc in it" if home.is_dir() else "there is no such folder"
    else:
        version = nvcc_version(home.resolve() / "bin" / "nvcc")
        own, wanted = major_minor(version), major_minor(target.cuda)
        if own == wanted or (own[0] == wanted[0] and options.allow_cuda_minor):
            return version
        reason = f"it is CUDA {own[0]}.{own[1]}, and the target is CUDA {target.cuda}: "
        minor = own[0] == wanted[0]
        reason += "--allow-cuda-minor accepts it" if minor else "a different major version never fits"
    raise ToolchainError(
        f"The CUDA toolkit of --cuda-home or CUDA_HOME, {home}, can't be used: {reason}.",
        f"Name none to build with the target's packages, or name one of CUDA {target.cuda}.",
    )


def nvcc_version(nvcc: Path) -> str:
    """Return an nvcc's version, such as `13.0.88`."""
    output = process.output_of([nvcc, "--version"])
    match = re.search(r"^Cuda compilation tools, release .*, V(\d+\.\d+\.\d+)$", output or "", re.MULTILINE)
    if match is None:
        raise ToolchainError(f"{nvcc} does not print its version: {output!r}.", "Is it for this machine?")
    return match[1]


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _fill(target: Target, packages: Sequence[tuple[Path, Installed]], downloads: Path, home: Path) -> None:
    """Copy a home together."""
    for archive in target.toolchain_archives:
        path = downloads / f"{archive.sha256[:16]}-{archive.url.rpartition('/')[2]}"
        http.download(archive.url, path, archive.sha256)
        unpacked = home / ".unpacked"
        http.unpack(path, unpacked)
        for source in sorted(path for path in unpacked.rglob("*") if not path.is_dir()):
            _copy(source, home, _place(source.relative_to(unpacked).as_posix()))
        shutil.rmtree(unpacked)
    for site, package in packages:
        for name in package.files:
            _copy(site / name, home, _place(name))
    libraries = home / "lib64"
    libraries.mkdir(parents=True, exist_ok=True)
    (home / "lib").symlink_to("lib64")
    versions = sorted(path.name for path in libraries.glob("libcudart.so.*"))
    if versions and not (libraries / "libcudart.so").exists():
        (libraries / "libcudart.so").symlink_to(versions[0])
    if missing := _missing(home):
        raise ToolchainError(
            f"The pieces of CUDA {target.cuda} don't make a compiler; missing: {', '.join(missing)}.",
            "Correct its packages and archives in targets/toolchains/.",
        )


def _place(path: str) -> str | None:
    """Return where a file of a package or an archive goes: of `nvidia/cu13/bin/nvcc`, `bin/nvcc`.

    None if no compile needs it.
    """
    place = _PACKAGES_PART.sub("", path)
    top, _, rest = place.partition("/")
    if not rest or rest.endswith((".py", ".pyc")):
        return None
    if top in ("bin", "include", "nvvm"):
        return place
    return f"lib64/{rest}" if top in ("lib", "lib64") and rest.startswith(_LINKED_LIBRARIES) else None


def _copy(source: Path, home: Path, place: str | None) -> None:
    """Copy a file into a home, unless it is there already."""
    if place is None or (home / place).is_symlink() or (home / place).exists():
        return
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    beside = source.is_symlink() and len(source.readlink().parts) == 1
    shutil.copy2(source, home / place, follow_symlinks=not beside)


def _missing(home: Path) -> list[str]:
    return [name for name in _NEEDED if not (home / name).is_file()]


def _component(archive: Archive) -> Component:
    version = re.findall(r"-(\d+(?:\.\d+)+)", archive.url)[-1]
    qualifiers = f"checksum=sha256:{archive.sha256}&download_url={quote(archive.url, safe='')}"
    purl = f"pkg:generic/{archive.name}@{version}?{qualifiers}"
    return Component("build-tool", archive.name, version, archive.sha256, purl)
