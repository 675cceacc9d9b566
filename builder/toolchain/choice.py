"""Chooses the CUDA compiler of a build: the user's with `--cuda-home`, else that of the target's packages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.target.architectures import major_minor
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain.assembly import assemble, digest
from builder.toolchain.compilers import Toolchain
from builder.toolchain.host_compiler import find_host_compiler, host_folder, host_sha256
from builder.toolchain.materials import Material
from builder.toolchain.trial import nvcc_version, try_out
from builder.util.digest import file_sha256
from builder.util.errors import ToolchainError
from builder.util.log import say

# The programs and data that decide what a compile makes of the same headers.
_COMPILING = (
    *("bin/nvcc", "bin/nvcc.profile", "bin/cudafe++", "bin/fatbinary", "bin/ptxas"),
    *("nvvm/bin/cicc", "nvvm/libdevice/libdevice.10.bc"),
)
# In the path of its folder, nvcc's shell and PATH take these for something else.
_ODD = frozenset(':"$`')
# Headers that torch's own include for CUDA, and the part of the -cu12 packages that each is in.
_TORCHS_HEADERS = {"cusparse.h": "cusparse", "cublas_v2.h": "cublas", "cusolverDn.h": "cusolver"}


def resolve(
    target: Target, options: BuildOptions, sites: Sequence[Path], environ: Mapping[str, str] | None = None
) -> Toolchain:
    """Return the compilers for a target, tried out.

    Args:
        target: What is built.
        options: `cuda_home`, `cuda_home_from`, `allow_cuda_minor` and `cache_dir` count.
        sites: The folders with torch and the target's toolchain packages; torch is in the first.
        environ: Where `PATH` and `CXX` are looked up, for g++; None is this process's environment.

    Raises:
        ToolchainError: There is no usable CUDA compiler, or the cache can't be written.
        HostCompilerError: g++ is missing, or of a version that this nvcc does not accept.
        DownloadError: An archive of the target can't be downloaded.
    """
    for option, folder in (("--cache-dir", options.cache_dir), ("--cuda-home", options.cuda_home)):
        if folder and (odd := sorted(set(str(folder.resolve())) & _ODD)):
            raise ToolchainError(
                f"nvcc does not run from {folder}: its path has {' and '.join(odd)} in it.",
                f"Choose another folder with {option} DIR.",
            )
    try:
        if options.cuda_home is not None:
            return _from_cuda_home(options.cuda_home, target, options, sites[0], environ)
        host = find_host_compiler(target.cuda, environ, target.machine)
        return assemble(target, sites, options.cache_dir, host)
    except OSError as error:
        raise ToolchainError(
            f"The cache {options.cache_dir} can't be written: {error}.",
            "Choose another folder with --cache-dir DIR.",
        ) from error


def why_not_usable(version: str, wanted: str, allow_minor: bool) -> str:
    """Return why a CUDA toolkit of one version can't be used for a target of another; empty if it can.

    Args:
        version: The toolkit's version, `12.4` or `12.4.131`.
        wanted: The target's, `12.8`.
        allow_minor: Whether a different minor version will do.
    """
    has, needs = major_minor(version), major_minor(wanted)
    if has == needs or (has[0] == needs[0] and allow_minor):
        return ""
    reason = f"it is CUDA {has[0]}.{has[1]}, and the target is CUDA {wanted}"
    return reason if has[0] == needs[0] else f"{reason}: a different major version never fits"


def check_cuda_home(given: Path, target: Target, options: BuildOptions) -> str:
    """Return the version of a user's CUDA toolkit, `13.0.88`, checked to be one that the target can use.

    Args:
        given: The toolkit's folder.
        target: What is built.
        options: `cuda_home_from` and `allow_cuda_minor` count.

    Raises:
        ToolchainError: It is not a toolkit, or its version does not fit.
    """
    where = f"{options.cuda_home_from or '--cuda-home'} is {given}"
    without = "Unset CUDA_HOME" if options.cuda_home_from == "CUDA_HOME" else "Omit --cuda-home"
    instead = f"{without} to build with the target's own CUDA {target.cuda} packages"
    if not target.machine.is_here:
        raise ToolchainError(
            f"{where}, which can't be used to build for {target.machine.name}.", f"{instead}."
        )
    nvcc = given / "bin" / "nvcc"
    if not nvcc.is_file() or not os.access(nvcc, os.X_OK):
        what = "there is no bin/nvcc in it" if given.is_dir() else "there is no such folder"
        raise ToolchainError(f"{where}, and {what}.", f"{instead}, or give a CUDA {target.cuda} toolkit.")
    version = nvcc_version(given.resolve() / "bin" / "nvcc")
    reason = why_not_usable(version, target.cuda, options.allow_cuda_minor)
    if reason:
        same_major = major_minor(version)[0] == major_minor(target.cuda)[0]
        allow = ", or use it nevertheless with --allow-cuda-minor" if same_major else ""
        raise ToolchainError(
            f"{where}, which can't be used: {reason}.",
            f"{instead}, or give a CUDA {target.cuda} toolkit{allow}.",
        )
    return version


def _from_cuda_home(
    given: Path,
    target: Target,
    options: BuildOptions,
    site_packages: Path,
    environ: Mapping[str, str] | None,
) -> Toolchain:
    home, version = given.resolve(), check_cuda_home(given, target, options)
    host = find_host_compiler(version, environ)
    digests = [file_sha256(home / name) for name in _COMPILING if (home / name).is_file()]
    toolchain = Toolchain(
        cuda_home=home,
        nvcc_version=version,
        origin="cuda-home",
        components=(Material("build-tool", "nvcc", version, file_sha256(home / "bin" / "nvcc")),),
        host=host,
        host_bin=host_folder(host, options.cache_dir),
        identity=digest([version, *digests, host_sha256(host)]),
        include_dirs=_torchs_includes(home, site_packages),
    )
    try_out(toolchain, target.architectures[0].gencode)
    cuda = toolchain.cuda_version
    say(f"  CUDA {cuda} of {given}" + (f" for a target of CUDA {target.cuda}" if cuda != target.cuda else ""))
    return toolchain


def _torchs_includes(home: Path, site_packages: Path) -> tuple[Path, ...]:
    """Where the headers lie that torch's include and a toolkit without its libraries lacks."""
    lacking = [part for header, part in _TORCHS_HEADERS.items() if not (home / "include" / header).is_file()]
    folders = (site_packages / "nvidia" / part / "include" for part in lacking)
    return tuple(folder for folder in folders if folder.is_dir())
