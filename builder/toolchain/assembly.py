"""The CUDA compiler: a `CUDA_HOME` put together from packages and archives, or one that the user has.

NVIDIA's packages hold the compiler in pieces that don't make a `CUDA_HOME`: there is no `lib64`, no
unversioned `libcudart.so`, and for CUDA 12 each library is a folder of its own, and the compiler's driver
is not in a package at all but in NVIDIA's redistributable archives. So the pieces are put together once, in
the cache, in a folder named for their content. They are hard links, which cost no space and outlive the
environment that they came from; and since every environment with the same pieces shares one folder, its
path is the same in all of them, which the compiler cache profits from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from builder.target.architectures import parse_cuda_version
from builder.target.options import BuildOptions
from builder.target.pins import Archive
from builder.target.targets import Target
from builder.toolchain.components import (
    Component,
    Installed,
    InstalledFile,
    content_sha256,
    installed_packages,
)
from builder.toolchain.host_compiler import HostCompiler, c_compiler, find_host_compiler, host_sha256
from builder.util.archive import unpack
from builder.util.digest import file_sha256
from builder.util.download import download
from builder.util.errors import DownloadError, HostCompilerError, ToolchainError
from builder.util.log import say

_SYSTEM_PATH = ("/usr/bin", "/bin")
# Raised when what `_assemble` makes of the same pieces changes.
_LAYOUT = 1
_MANIFEST = "toolchain.json"
_STALE_SECONDS = 24 * 3600

# What a compile and a link need; a home without one of them is not used.
_NEEDED = (
    "bin/nvcc",
    "bin/nvcc.profile",
    "bin/cudafe++",
    "bin/fatbinary",
    "bin/ptxas",
    "nvvm/bin/cicc",
    "nvvm/libdevice/libdevice.10.bc",
    "include/cuda_runtime.h",
    "include/crt/host_config.h",
    "lib64/libcudart.so",
    "lib64/stubs/libcuda.so",
)
# The programs and data that decide what a compile makes of the same headers.
_COMPILING = ("bin/nvcc", "bin/nvcc.profile", "bin/cudafe++", "bin/fatbinary", "bin/ptxas", "nvvm/bin/cicc")
_LIBDEVICE = "nvvm/libdevice/libdevice.10.bc"

# The CUDA toolkit's parts among `nvidia/<part>` of the -cu12 packages; NCCL, cuDNN and the like are not.
_CU12_PARTS = (
    "cuda_nvcc",
    "cuda_runtime",
    "cuda_cccl",
    "cuda_cupti",
    "cuda_nvrtc",
    "cublas",
    "cufft",
    "cufile",
    "curand",
    "cusolver",
    "cusparse",
    "nvjitlink",
    "nvtx",
)
_LINKED_LIBRARIES = ("libcudart", "libcudadevrt", "libcudart_static", "stubs/")
# Headers that torch's own include for CUDA, and the part of the -cu12 packages that each is in.
_TORCHS_HEADERS = {"cusparse.h": "cusparse", "cublas_v2.h": "cublas", "cusolverDn.h": "cusolver"}

# What the user's environment may pass on to the build. All else stays out: a NVCC_APPEND_FLAGS, CPATH or
# LIBRARY_PATH that nobody remembers would change the wheel without a trace.
_PASSED_ON = (
    "HOME",
    "USER",
    "LOGNAME",
    "TERM",
    "COLUMNS",
    "NO_COLOR",
    "TMPDIR",
    "TMP",
    "TEMP",
    "CI",
    "GITHUB_ACTIONS",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
)

# cuTensorMapEncodeTiled is what the unpatched sources take from the driver; the rest of its functions need
# not be here, since a shared library may have undefined symbols. 999 is CUDA_ERROR_UNKNOWN.
_DRIVER_STUB = "int cuTensorMapEncodeTiled(void) { return 999; }\n"

_TRIAL = """\
#include <cuda_fp16.h>
__global__ void trial(__half* x) { x[threadIdx.x] = __float2half(1.0f); }
void run(__half* x) { trial<<<1, 32>>>(x); }
"""


@dataclass(frozen=True)
class Toolchain:
    """A CUDA compiler and its host compiler, tried out.

    Attributes:
        cuda_home: What `CUDA_HOME` has to be.
        cuda_version: `13.0`.
        nvcc_version: `13.0.88`.
        origin: `packages`, `packages+archives` or `cuda-home`.
        components: What it consists of.
        host: The g++.
        identity: A digest that changes with anything that can change what a compile makes.
        host_bin: A folder whose `gcc`, `g++`, `cc` and `c++` are the host compiler; nvcc runs `gcc`.
        include_dirs: Folders with headers of torch's that a user's CUDA toolkit lacks.
    """

    cuda_home: Path
    cuda_version: str
    nvcc_version: str
    origin: str
    components: tuple[Component, ...]
    host: HostCompiler
    identity: str = ""
    host_bin: Path | None = None
    include_dirs: tuple[Path, ...] = ()

    @property
    def nvcc(self) -> Path:
        """The compiler driver."""
        return self.cuda_home / "bin" / "nvcc"


def resolve(
    target: Target,
    options: BuildOptions,
    site_packages: Path,
    cache_dir: Path,
    environ: Mapping[str, str] | None = None,
) -> Toolchain:
    """Have a CUDA compiler for a target: the user's with `--cuda-home`, else one put together in the cache.

    Args:
        target: What is built.
        options: `cuda_home`, `cuda_home_from` and `allow_cuda_minor` count.
        site_packages: The folder with torch and the target's toolchain packages.
        cache_dir: The cache's root: `toolchains/`, `downloads/` and `host/` are in it.
        environ: Where `PATH` and `CXX` are looked up, for g++; None takes this process's environment.

    Raises:
        ToolchainError: There is no usable compiler, or it is of the wrong version.
        HostCompilerError: g++ is missing or of a version that this nvcc does not take.
        DownloadError: An archive of the target can't be had.
    """
    if options.cuda_home is not None:
        return _from_cuda_home(target, options, site_packages, cache_dir, environ)
    packages = [package for package in installed_packages(site_packages) if _pieces([package], target.cuda)]
    recipe = _Recipe(target, site_packages, cache_dir, _pieces(packages, target.cuda))
    if _is_whole(recipe.home, recipe.key):
        version = nvcc_version(recipe.home / "bin" / "nvcc")
        host = find_host_compiler(version, environ)
    else:
        host = find_host_compiler(target.cuda, environ)
        version = _assemble(recipe, host)
    archives = target.toolchain_archives
    return Toolchain(
        cuda_home=recipe.home,
        cuda_version=target.cuda,
        nvcc_version=version,
        origin="packages+archives" if archives else "packages",
        components=(*(package.component() for package in packages), *map(_archive_component, archives)),
        host=host,
        identity=_digest([recipe.key, host_sha256(host)]),
        host_bin=_host_bin(host, cache_dir),
    )


def build_environment(
    toolchain: Toolchain, base_env: Mapping[str, str], python_bin: Path | None = None
) -> dict[str, str]:
    """The environment that a build with a toolchain runs in.

    `PATH` is the compiler's folder, the environment's and the system's, so that no other nvcc is found; of
    the user's variables only those pass that can't change what is built.

    Args:
        toolchain: What `resolve` returned.
        base_env: The user's environment.
        python_bin: The folder of the environment's programs; None takes that of this Python.
    """
    env = {name: base_env[name] for name in _PASSED_ON if name in base_env}
    scripts = python_bin or Path(sys.executable).parent
    folders = [*([toolchain.host_bin] if toolchain.host_bin else []), toolchain.cuda_home / "bin", scripts]
    # A compiler outside the system's folders may need the assembler and linker that lie beside it.
    beside = toolchain.host.path.parent
    if str(beside) not in _SYSTEM_PATH:
        folders.append(beside)
    env["PATH"] = os.pathsep.join(dict.fromkeys([*map(str, folders), *_SYSTEM_PATH]))
    env["LC_ALL"] = "C.UTF-8"
    env["CUDA_HOME"] = str(toolchain.cuda_home)
    env["CXX"] = str(toolchain.host.path)
    env["CC"] = str(c_compiler(toolchain.host))
    env["LIBRARY_PATH"] = str(toolchain.cuda_home / "lib64" / "stubs")
    if toolchain.include_dirs:
        env["CPATH"] = os.pathsep.join(map(str, toolchain.include_dirs))
    return env


def nvcc_version(nvcc: Path) -> str:
    """Ask an nvcc for its version.

    Returns:
        `13.0.88`.

    Raises:
        ToolchainError: It does not run, or says nothing that looks like a version.
    """
    try:
        text = _run([str(nvcc), "--version"], {"PATH": os.pathsep.join(_SYSTEM_PATH)}).stdout
    except OSError as error:
        raise ToolchainError(
            f"{nvcc} does not run: {error.strerror}.", "Is it for another machine?"
        ) from None
    match = re.search(r"^Cuda compilation tools, release (\d+\.\d+), V(\d+\.\d+\.\d+)$", text, re.MULTILINE)
    if match is None:
        raise ToolchainError(f"{nvcc} does not say its version: {text.strip()[-200:]!r}.")
    return match[2]


def why_not_usable(version: str, wanted: str, allow_minor: bool) -> str:
    """Why a CUDA toolkit of one version can't be used for a target of another.

    Args:
        version: The toolkit's version, `12.4` or `12.4.131`.
        wanted: The target's, `12.8`.
        allow_minor: Whether another minor version will do.

    Returns:
        The reason; empty where it can be used.
    """
    has, needs = parse_cuda_version(version), parse_cuda_version(wanted)
    if has == needs:
        return ""
    name = ".".join(map(str, has))
    if has[0] != needs[0]:
        return f"it is CUDA {name}, and the target is CUDA {wanted}: another major version never fits"
    if allow_minor:
        return ""
    return f"it is CUDA {name}, and the target is CUDA {wanted}"


def home_key(pieces: Mapping[str, Piece], archives: Iterable[Archive]) -> str:
    """A digest of all that goes into a home, by which it is found again.

    Args:
        pieces: The packages' files, by their place in the home.
        archives: What is unpacked over them.
    """
    listed = content_sha256(InstalledFile(place, piece.sha256) for place, piece in pieces.items())
    return _digest([str(_LAYOUT), listed, *(archive.sha256 for archive in archives)])


@dataclass(frozen=True)
class Piece:
    """A file for a home.

    Attributes:
        path: Relative to site-packages.
        sha256: Its digest.
    """

    path: str
    sha256: str


def _pieces(packages: Iterable[Installed], cuda: str) -> dict[str, Piece]:
    """The files of installed packages that belong into a home, by their place in it."""
    major = parse_cuda_version(cuda)[0]
    roots = [f"nvidia/cu{major}"] if major >= 13 else [f"nvidia/{part}" for part in _CU12_PARTS]
    found: dict[str, Piece] = {}
    for package in packages:
        for file in package.files:
            root = next((root for root in roots if file.path.startswith(f"{root}/")), None)
            place = place_in_home(file.path[len(root) + 1 :]) if root else None
            if place and place not in found:
                found[place] = Piece(file.path, file.sha256)
    return found


def place_in_home(path: str) -> str | None:
    """Where a file of a package or an archive goes in a `CUDA_HOME`.

    Args:
        path: Relative to the folder that holds `bin`, `include` and so on.

    Returns:
        Its place, or None where a compile does not need it.
    """
    top, _, rest = path.partition("/")
    if not rest or rest.endswith((".py", ".pyc")):
        return None
    if top in ("bin", "include", "nvvm"):
        return path
    if top in ("lib", "lib64") and rest.startswith(_LINKED_LIBRARIES):
        return f"lib64/{rest}"
    return None


@dataclass(frozen=True)
class _Recipe:
    """What a home is made of, and where."""

    target: Target
    site_packages: Path
    cache_dir: Path
    pieces: Mapping[str, Piece]

    @cached_property
    def key(self) -> str:
        return home_key(self.pieces, self.target.toolchain_archives)

    @property
    def home(self) -> Path:
        return self.cache_dir / "toolchains" / f"cuda-{self.target.cuda}-{self.key[:16]}"


def _is_whole(home: Path, key: str) -> bool:
    try:
        manifest = json.loads((home / _MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return isinstance(manifest, dict) and manifest.get("key") == key and not _missing(home)


def _missing(home: Path) -> list[str]:
    return [name for name in _NEEDED if not (home / name).is_file()]


def _assemble(recipe: _Recipe, host: HostCompiler) -> str:
    """Put a home together beside its place, try it, and only then name it; returns nvcc's version."""
    target, folder = recipe.target, recipe.home.parent
    if not target.toolchain_archives and "bin/nvcc" not in recipe.pieces:
        raise ToolchainError(
            f"The environment has no CUDA {target.cuda} compiler.",
            f"Install {' '.join(target.toolchain_packages)} into it.",
        )
    try:
        archives = [
            download(archive.url, archive.sha256, archive.size_bytes, recipe.cache_dir / "downloads")
            for archive in target.toolchain_archives
        ]
    except DownloadError as error:
        or_else = f"Or give a CUDA {target.cuda} toolkit with --cuda-home DIR."
        raise DownloadError(error.message, f"{error.remedy} {or_else}".strip()) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        made = partial / "home"
        for number, archive in enumerate(archives):
            unpack(archive, partial / str(number))
            _take(made, _files(partial / str(number)))
        _take(made, ((place, recipe.site_packages / piece.path) for place, piece in recipe.pieces.items()))
        _complete(made, host)
        missing = _missing(made)
        if missing:
            raise ToolchainError(
                f"The pieces of CUDA {target.cuda} don't make a compiler; missing: {', '.join(missing)}.",
                f"They come from {', '.join(target.toolchain_packages)} and the target's archives: "
                "remove the environment and build again.",
            )
        version = nvcc_version(made / "bin" / "nvcc")
        if parse_cuda_version(version) != parse_cuda_version(target.cuda):
            raise ToolchainError(
                f"The target is CUDA {target.cuda}, and its packages hold nvcc {version}.",
                "Its toolchain packages or archives are of another release: put them right.",
            )
        host_bin = _host_bin(host, recipe.cache_dir)
        trial = Toolchain(made, target.cuda, version, "packages", (), host, host_bin=host_bin)
        try_out(trial, target.architectures[0].gencode)
        (made / _MANIFEST).write_text(json.dumps({"key": recipe.key, "nvcc": version}) + "\n")
        _rename(made, recipe.home, recipe.key)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"  CUDA_HOME for CUDA {target.cuda}: {recipe.home}")
    return version


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or path.is_file():
            place = place_in_home(path.relative_to(root).as_posix())
            if place:
                yield place, path


def _take(home: Path, files: Iterable[tuple[str, Path]]) -> None:
    """Put files into a home that are not there yet: as hard links, or copies on another file system."""
    for place, source in files:
        there = home / place
        if there.exists() or there.is_symlink():
            continue
        if not source.exists() and not source.is_symlink():
            raise ToolchainError(
                f"{source} is not there, though its package is installed.",
                "The environment is damaged: remove it and build again.",
            )
        there.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink() and _stays_beside(source):
            there.symlink_to(source.readlink())
            continue
        try:
            os.link(source.resolve(), there)
        except OSError:
            shutil.copy2(source, there)


def _stays_beside(link: Path) -> bool:
    return len(PurePosixPath(link.readlink()).parts) == 1


def _complete(home: Path, host: HostCompiler) -> None:
    """Add what neither packages nor archives have."""
    libraries = home / "lib64"
    stub = libraries / "stubs" / "libcuda.so"
    stub.parent.mkdir(parents=True, exist_ok=True)
    if not (home / "lib").exists():
        (home / "lib").symlink_to("lib64")
    runtime = libraries / "libcudart.so"
    if not runtime.exists():
        versions = sorted(path.name for path in libraries.glob("libcudart.so.*"))
        if versions:
            runtime.symlink_to(versions[0])
    if not stub.exists():
        source = stub.with_suffix(".c")
        source.write_text(_DRIVER_STUB)
        flags = ["-x", "c", "-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1"]
        done = _run([str(host.path), *flags, "-o", str(stub), str(source)], {"PATH": _path_of(host)})
        source.unlink()
        if done.returncode != 0:
            raise HostCompilerError(
                f"{host.path} can't link a shared library: {done.stderr.strip()[-500:]}",
                "Install a whole g++: `apt install g++` (Debian, Ubuntu) or "
                "`dnf install gcc-c++` (Fedora, RHEL).",
            )


def try_out(toolchain: Toolchain, gencode: str) -> None:
    """Compile a small kernel with a toolchain and nothing else on `PATH`.

    Args:
        toolchain: What to try.
        gencode: The architecture, as nvcc's `-gencode` takes it.

    Raises:
        ToolchainError: It failed.
        HostCompilerError: It failed because of g++.
    """
    with tempfile.TemporaryDirectory(prefix="cuda-trial-") as folder:
        source = Path(folder) / "trial.cu"
        source.write_text(_TRIAL)
        env = {**build_environment(toolchain, {}), "TMPDIR": folder, "HOME": folder}
        command = [str(toolchain.nvcc), "-c", "-gencode", gencode, "-o", f"{folder}/trial.o", str(source)]
        done = _run(command, env)
    if done.returncode == 0:
        return
    end = (done.stderr + done.stdout).strip()[-1500:]
    if "unsupported GNU version" in end or "cc1plus" in end:
        raise HostCompilerError(
            f"nvcc {toolchain.nvcc_version} does not compile with g++ {toolchain.host.version}:\n{end}",
            "Install a whole g++ that it takes: `apt install g++` (Debian, Ubuntu) or "
            "`dnf install gcc-c++` (Fedora, RHEL), or name one with CXX.",
        )
    raise ToolchainError(
        f"The CUDA compiler {toolchain.nvcc} does not compile a small kernel:\n{end}",
        "Give another one with --cuda-home DIR."
        if toolchain.origin == "cuda-home"
        else "Remove the folder `toolchains` of the cache and build again.",
    )


def _from_cuda_home(
    target: Target,
    options: BuildOptions,
    site_packages: Path,
    cache_dir: Path,
    environ: Mapping[str, str] | None,
) -> Toolchain:
    assert options.cuda_home is not None
    given = options.cuda_home
    where = f"{options.cuda_home_from or '--cuda-home'} is {given}"
    from_environment = options.cuda_home_from == "CUDA_HOME"
    without = "unset CUDA_HOME" if from_environment else "leave --cuda-home away"
    instead = f"{without[0].upper()}{without[1:]} to build with the target's own CUDA {target.cuda} packages"
    if not os.access(given / "bin" / "nvcc", os.X_OK) or not (given / "bin" / "nvcc").is_file():
        what = "there is no bin/nvcc in it" if given.is_dir() else "there is no such folder"
        raise ToolchainError(f"{where}, and {what}.", f"{instead}, or give a CUDA {target.cuda} toolkit.")
    home = given.resolve()
    version = nvcc_version(home / "bin" / "nvcc")
    reason = why_not_usable(version, target.cuda, options.allow_cuda_minor)
    if reason:
        same_major = parse_cuda_version(version)[0] == parse_cuda_version(target.cuda)[0]
        allow = ", or take it all the same with --allow-cuda-minor" if same_major else ""
        raise ToolchainError(
            f"{where}, which can't be used: {reason}.",
            f"{instead}, or give a CUDA {target.cuda} toolkit{allow}.",
        )
    host = find_host_compiler(version, environ)
    digests = [file_sha256(home / name) for name in (*_COMPILING, _LIBDEVICE) if (home / name).is_file()]
    cuda = ".".join(map(str, parse_cuda_version(version)))
    toolchain = Toolchain(
        cuda_home=home,
        cuda_version=cuda,
        nvcc_version=version,
        origin="cuda-home",
        components=(Component("nvcc", version, file_sha256(home / "bin" / "nvcc"), None, "program"),),
        host=host,
        identity=_digest([version, *digests, host_sha256(host)]),
        host_bin=_host_bin(host, cache_dir),
        include_dirs=_torchs_includes(home, site_packages),
    )
    try_out(toolchain, target.architectures[0].gencode)
    say(f"  CUDA {cuda} of {given}" + (f" for a target of CUDA {target.cuda}" if cuda != target.cuda else ""))
    return toolchain


def _torchs_includes(home: Path, site_packages: Path) -> tuple[Path, ...]:
    """Where the headers lie that torch's include and a toolkit without its libraries lacks."""
    lacking = [part for header, part in _TORCHS_HEADERS.items() if not (home / "include" / header).is_file()]
    folders = (site_packages / "nvidia" / part / "include" for part in lacking)
    return tuple(folder for folder in folders if folder.is_dir())


def _host_bin(host: HostCompiler, cache_dir: Path) -> Path:
    """A folder in which every usual name is the chosen host compiler.

    nvcc runs whatever `gcc` is on `PATH`, which need not be of the version of the g++ that was checked;
    its NVCC_CCBIN is not known before CUDA 12.5, and `-ccbin` is the source's to pass.
    """
    programs = {"gcc": c_compiler(host), "g++": host.path}
    programs.update({"cc": programs["gcc"], "c++": programs["g++"]})
    scripts = {name: f'#!/bin/sh\nexec {_quoted(path)} "$@"\n' for name, path in programs.items()}
    folder = cache_dir / "host" / _digest([f"{name}\n{text}" for name, text in scripts.items()])[:16]
    try:
        for name, text in scripts.items():
            script = folder / name
            if script.is_file() and script.read_text() == text and os.access(script, os.X_OK):
                continue
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f".{name}.{os.getpid()}"
            part.write_text(text)
            part.chmod(0o755)
            part.replace(script)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _rename(made: Path, home: Path, key: str) -> None:
    """Give a finished home its name, unless another build was faster."""
    if home.exists():
        if _is_whole(home, key):
            return
        shutil.rmtree(home)
    try:
        made.rename(home)
    except OSError:
        if not _is_whole(home, key):
            raise


def _remove_stale(folder: Path) -> None:
    """Remove what an interrupted build left, once it can't be one that still runs."""
    for partial in folder.glob(".partial-*"):
        if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _archive_component(archive: Archive) -> Component:
    match = re.search(r"-(\d+(?:\.\d+)+)", archive.url.rpartition("/")[2])
    version = match[1] if match else ""
    qualifiers = f"checksum=sha256:{archive.sha256}&download_url={quote(archive.url, safe='')}"
    purl = f"pkg:generic/{archive.name}@{version}?{qualifiers}" if version else None
    return Component(archive.name, version, archive.sha256, purl, "archive")


def _path_of(host: HostCompiler) -> str:
    return os.pathsep.join(dict.fromkeys([str(host.path.parent), *_SYSTEM_PATH]))


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "'\\''") + "'"


def _unwritable(folder: Path, error: OSError) -> ToolchainError:
    return ToolchainError(
        f"The cache {folder} can't be written to: {error.strerror or error}.",
        "Put it elsewhere with --cache-dir DIR.",
    )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _run(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        errors="replace",
    )
