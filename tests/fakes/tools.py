"""Small stand-ins for compilers and packages: shell scripts that answer as the real programs do."""

from __future__ import annotations

import base64
import hashlib
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from builder.target.architectures import Architecture
from builder.target.targets import Target

GXX = """#!/bin/sh
case $1 in
  --version) echo "g++ ({about}) {version}" ;;
  -dumpfullversion) echo "{version}" ;;
  -print-prog-name=cc1plus) echo cc1plus ;;
  -dumpmachine) echo "{machine}" ;;
esac
"""


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something holds; returns whether it does in time."""
    end = time.monotonic() + seconds
    while not what() and time.monotonic() < end:
        time.sleep(0.02)
    return what()


def program(path: Path, text: str) -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def gxx(path: Path, version: str, about: str = "Made up", machine: str = "") -> Path:
    """A made-up g++."""
    return program(path, GXX.format(version=version, about=about, machine=machine))


def toolkit(version: str) -> dict[str, str]:
    """The files of a CUDA compiler, by their place in a CUDA_HOME."""
    release = ".".join(version.split(".")[:2])
    programs = ("bin/cudafe++", "bin/fatbinary", "bin/ptxas", "nvvm/bin/cicc")
    return {
        **dict.fromkeys(programs, "#!/bin/sh\n"),
        "bin/nvcc": f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{version}'\n",
        "bin/nvcc.profile": "TOP = $(_HERE_)/..\n",
        "nvvm/libdevice/libdevice.10.bc": "BC",
        "include/cuda_runtime.h": "#pragma once\n",
        "include/crt/host_config.h": "#pragma once\n",
        "lib/libcudart.so.13": "ELF",
        "lib/libcublas.so.13": "not needed to compile",
    }


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write files below a folder; those of a `bin` folder, and scripts, are executable."""
    for name, text in files.items():
        if text.startswith("#!"):
            program(root / name, text)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
    return root


def package_files(
    name: str,
    version: str,
    files: Mapping[str, str],
    requires: tuple[str, ...] = (),
    extras: tuple[str, ...] = (),
) -> dict[str, str]:
    """The files of a package: its own, and METADATA, WHEEL and RECORD."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [*(f"Provides-Extra: {extra}" for extra in extras)]
    metadata += [*(f"Requires-Dist: {requirement}" for requirement in requires)]
    wheel = "Wheel-Version: 1.0\nGenerator: made-up\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    contents = {**files, f"{info}/METADATA": "\n".join(metadata) + "\n", f"{info}/WHEEL": wheel}
    lines = [f"{path},sha256={_urlsafe_sha256(text)},{len(text)}" for path, text in contents.items()]
    return {**contents, f"{info}/RECORD": "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"}


def install_package(site_packages: Path, name: str, version: str, files: Mapping[str, str]) -> None:
    """Put a package into a folder as an installer does."""
    write_tree(site_packages, package_files(name, version, files))


def change_installed(site_packages: Path, path: str, text: str) -> None:
    """Replace a file of an installed package, and its line in RECORD, as a different wheel would."""
    write_tree(site_packages, {path: text})
    for record in site_packages.glob("*.dist-info/RECORD"):
        lines = record.read_text().splitlines()
        line = f"{path},sha256={_urlsafe_sha256(text)},{len(text)}"
        record.write_text("\n".join(line if old.startswith(f"{path},") else old for old in lines) + "\n")


def wheel_of_package(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str] | None = None,
    requires: tuple[str, ...] = (),
    extras: tuple[str, ...] = (),
) -> Path:
    """Make a package's wheel, for any Python."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in package_files(name, version, files or {}, requires, extras).items():
            archive.writestr(place, text)
    return path


def torch_wheel(index: Path, version: str, cuda: str | None, *requires: str) -> None:
    """Put a made-up torch into an index's folder."""
    code = f"__version__ = {version!r}\ncuda = {cuda!r}\n"
    wheel_of_package(index / "torch", "torch", version, {"torch/version.py": code}, requires)


def site_packages_of(python: Path) -> Path:
    """The folder that a virtual environment's packages are in."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def make_archive(path: Path, top: str, files: Mapping[str, str]) -> Path:
    """A .tar.xz with one top folder, as NVIDIA's archives are."""
    tree = write_tree(path.parent / "tree" / top, files)
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree, arcname=top)
    return path


def target(cuda: str = "13.0", torch: str = "2.11.0", **changes: object) -> Target:
    """A target, without a file."""
    fields: dict[str, object] = {
        "name": "cp312-cu" + cuda.replace(".", ""),
        "python": "3.12",
        "cuda": cuda,
        "torch": torch,
        "torch_index": "http://127.0.0.1:9/whl",
        "architectures": (Architecture(8, 0), Architecture(9, 0, "a")),
        "platform_tag": "manylinux_2_34_x86_64",
        "abi": "native",
        "toolchain_packages": ("cuda-toolkit[nvcc]==13.0.2",),
        "toolchain_archives": (),
        "toolchain_runtime": ("cuda-toolkit[cudart]==13.0.2",),
        "upstream": "v2.2.0",
        "revision": 2,
    }
    return Target(**{**fields, **changes})  # type: ignore[arg-type]


def _urlsafe_sha256(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
