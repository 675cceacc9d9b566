"""How a CUDA_HOME comes about; the compilers are scripts, the archives small, their host a local server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.static_server import serving
from fakes.tools import change_installed, gxx, install_package, make_archive, target, toolkit, write_tree

from builder.target.options import BuildOptions
from builder.target.targets import MACHINES, Archive, Target
from builder.toolchain.cuda_home import Toolchain, check_cuda_home, resolve
from builder.toolchain.gxx import find_gxx
from builder.util.errors import DownloadError, ToolchainError
from builder.util.files import file_sha256


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """An environment with a CUDA 13 compiler in packages, spread over two of them."""
    folder = tmp_path / "venv" / "site-packages"
    parts = {f"nvidia/cu13/{name}": text for name, text in toolkit("13.0.88").items()}
    runtime = {name: text for name, text in parts.items() if "/include/cuda_" in name or "/lib/" in name}
    rest = {name: text for name, text in parts.items() if name not in runtime}
    install_package(folder, "nvidia-cuda-nvcc", "13.0.88", rest)
    install_package(folder, "nvidia-cuda-runtime", "13.0.96", runtime)
    install_package(folder, "torch", "2.11.0", {"torch/version.py": "__version__ = '2.11.0'\n"})
    return folder


@pytest.fixture
def have(tmp_path: Path, site_packages: Path) -> Callable[..., Toolchain]:
    """`resolve` with a made-up g++ on PATH."""
    bin_folder = tmp_path / "hostbin"
    gxx(bin_folder / "g++", "12.2.0")

    def call(wanted: Target | None = None, path: Path = bin_folder, **options: object) -> Toolchain:
        asked = BuildOptions(cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]
        wanted = wanted or target()
        return resolve(wanted, asked, [site_packages], find_gxx(wanted.cuda, {"PATH": str(path)}))

    return call


def homes(tmp_path: Path) -> list[Path]:
    """What is in the cache's folder of toolchains."""
    return sorted((tmp_path / "cache" / "toolchains").glob("[!.]*"))


def test_packages_make_a_home_once_which_outlives_them(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    made = have()
    home = made.cuda_home
    assert made.nvcc_version == "13.0.88"
    assert (home / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"
    assert (home / "lib").resolve() == (home / "lib64").resolve()
    assert not (home / "lib64" / "libcublas.so.13").exists()
    inode = home.stat().st_ino
    assert have().cuda_home.stat().st_ino == inode
    assert homes(tmp_path) == [home]
    shutil.rmtree(site_packages / "nvidia")
    version = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True)
    assert "V13.0.88" in version.stdout


@pytest.mark.parametrize("lost", ["bin/ptxas", "include/cuda_runtime.h", ".made-from"])
def test_a_home_that_is_not_whole_is_made_anew(have: Callable[..., Toolchain], lost: str) -> None:
    home = have().cuda_home
    (home / lost).unlink()
    assert have().cuda_home == home
    assert (home / lost).exists()


def test_other_content_is_another_home_and_another_identity(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    first = have()
    gxx(tmp_path / "newer" / "g++", "13.1.0")
    second = have(path=tmp_path / "newer")
    assert second.cuda_home == first.cuda_home
    change_installed(site_packages, "nvidia/cu13/include/cuda_runtime.h", "#pragma once // changed\n")
    third = have()
    assert third.cuda_home != first.cuda_home
    assert len({first.identity, second.identity, third.identity}) == 3


def test_packages_that_make_no_such_compiler_are_refused(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    shutil.rmtree(site_packages / "nvidia_cuda_nvcc-13.0.88.dist-info")
    with pytest.raises(ToolchainError, match=r"don't make a compiler; missing: bin/nvcc, "):
        have()
    assert homes(tmp_path) == []


def test_what_the_packages_of_cuda_12_lack_comes_from_an_archive(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    files = toolkit("12.8.93")
    shutil.rmtree(site_packages)
    part = {f"nvidia/cuda_nvcc/{name}": text for name, text in files.items() if name != "bin/nvcc"}
    install_package(site_packages, "nvidia-cuda-nvcc-cu12", "12.8.93", part)
    path = make_archive(tmp_path / "www" / "cuda_nvcc-12.8.93-archive.tar.xz", "cuda_nvcc", files)
    with serving(tmp_path / "www") as server:
        url, sha256 = f"{server.url}/{path.name}", file_sha256(path)
        wanted = target("12.8", toolchain_archives=(Archive("cuda_nvcc", url, sha256, path.stat().st_size),))
        made = have(wanted)
        assert have(wanted) == made
        assert [request for request in server.requests if request.endswith(".xz")] == [f"/{path.name}"]
        assert made.nvcc_version == "12.8.93"
        assert [(part.name, part.version, part.sha256) for part in made.components] == [
            ("cuda_nvcc", "12.8.93", sha256)
        ]
        wrong = target("12.8", toolchain_archives=(Archive("cuda_nvcc", url, "0" * 64, 1),))
        with pytest.raises(DownloadError, match="different SHA-256"):
            have(wrong)


def test_another_machines_runtime_comes_first(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    machine = next(machine for machine in MACHINES if not machine.is_here)
    gxx(tmp_path / "hostbin" / f"{machine.name}-linux-gnu-g++", "12.2.0")
    theirs = tmp_path / "theirs"
    header = {"nvidia/cu13/include/cuda_runtime.h": "#pragma once"}
    runtime = {"nvidia/cu13/lib/libcudart.so.13": "theirs", **header}
    install_package(theirs, "nvidia-cuda-runtime", "13.0.96", runtime)
    options = BuildOptions(cache_dir=tmp_path / "cache")
    wanted = target(platform_tag=f"manylinux_2_34_{machine.name}")
    cross = find_gxx("13.0", {"PATH": str(tmp_path / "hostbin")}, machine)
    made = resolve(wanted, options, [theirs, site_packages], cross)
    assert (made.cuda_home / "lib64" / "libcudart.so").read_text() == "theirs"
    assert made.cuda_home != have().cuda_home


@pytest.fixture
def users(tmp_path: Path) -> Path:
    """The user's own toolkit of CUDA 13.0."""
    return write_tree(tmp_path / "users cuda", toolkit("13.0.48"))


def test_a_users_toolkit_is_used_as_it_is(
    have: Callable[..., Toolchain], tmp_path: Path, users: Path
) -> None:
    made = have(cuda_home=users)
    assert (made.cuda_home, made.nvcc_version) == (users, "13.0.48")
    assert [part.name for part in made.components] == ["nvcc"]
    assert homes(tmp_path) == []
    (users / "bin" / "ptxas").write_text("#!/bin/sh\n# another\n")
    assert have(cuda_home=users).identity != made.identity


def test_a_users_toolkit_that_does_not_fit_is_refused(tmp_path: Path, users: Path) -> None:
    def refusal(home: Path, cuda: str, **options: object) -> str:
        asked = BuildOptions(cache_dir=tmp_path, **options)  # type: ignore[arg-type]
        with pytest.raises(ToolchainError) as caught:
            check_cuda_home(home, target(cuda), asked)
        return str(caught.value)

    assert "there is no bin/nvcc in it" in refusal(tmp_path, "13.0")
    assert "there is no such folder" in refusal(tmp_path / "none", "13.0")
    assert "it is CUDA 13.0, and the target is CUDA 13.1" in refusal(users, "13.1")
    assert "--allow-cuda-minor" in refusal(users, "13.1")
    assert "a different major version never fits" in refusal(users, "12.8", allow_cuda_minor=True)
    minor = BuildOptions(cache_dir=tmp_path, allow_cuda_minor=True)
    assert check_cuda_home(users, target("13.1"), minor) == "13.0.48"
    (users / "bin" / "nvcc").write_text("#!/bin/sh\necho what\n")
    assert "does not print its version: 'what'" in refusal(users, "13.0")
