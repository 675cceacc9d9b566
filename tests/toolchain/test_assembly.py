"""How a CUDA_HOME comes about; the compilers are scripts, the archives small, their host a local server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tools import change_installed, gxx, install_package, make_archive, target, toolkit
from static_server import StaticServer, serving

from builder.target.machines import MACHINES
from builder.target.options import BuildOptions
from builder.target.pins import Archive
from builder.target.targets import Target
from builder.toolchain.assembly import place_in_home
from builder.toolchain.choice import resolve
from builder.toolchain.compilers import Toolchain
from builder.util.digest import file_sha256
from builder.util.errors import BuilderError, DownloadError, HostCompilerError, ToolchainError

HEADER = "nvidia/cu13/include/cuda_runtime.h"


def leftovers(tmp_path: Path) -> list[Path]:
    """What is in the cache's folder of toolchains."""
    return sorted((tmp_path / "cache" / "toolchains").glob("*"))


def test_packages_make_a_home(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    made = have()
    home = made.cuda_home
    assert (made.cuda_version, made.nvcc_version, made.origin) == ("13.0", "13.0.88", "packages")
    assert (home / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"
    assert (home / "lib").resolve() == (home / "lib64").resolve()
    assert (home / "lib64" / "stubs" / "libcuda.so").is_file()
    assert not (home / "lib64" / "libcublas.so.13").exists()
    assert [part.name for part in made.components] == ["nvidia-cuda-nvcc", "nvidia-cuda-runtime"]
    assert made.components[0].purl == "pkg:pypi/nvidia-cuda-nvcc@13.0.88"
    assert leftovers(tmp_path) == [home]


def test_a_home_is_made_once_and_outlives_its_environment(
    have: Callable[..., Toolchain], site_packages: Path
) -> None:
    home = have().cuda_home
    before = (home / "toolchain.json").stat().st_ino
    written = home.parent.parent.stat().st_mtime_ns
    assert have().cuda_home == home
    assert home.parent.parent.stat().st_mtime_ns == written, "no lock is needed for a home that is there"
    assert (home / "toolchain.json").stat().st_ino == before
    shutil.rmtree(site_packages / "nvidia")
    version = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True)
    assert "V13.0.88" in version.stdout


@pytest.mark.parametrize("broken", ["bin/ptxas", "lib64/libcudart.so.13", "toolchain.json"])
def test_a_damaged_home_is_made_again(have: Callable[..., Toolchain], broken: str) -> None:
    home = have().cuda_home
    (home / broken).unlink()
    assert have().cuda_home == home
    assert (home / broken).exists()


def add(path: Path, text: str = "evil") -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda home: add(home / "lib64" / "libcudart.so.13", "ELG"),
        lambda home: add(home / "include" / "cuda_runtime.h"),
        lambda home: add(home / "include" / "more.h"),
        lambda home: (home / "bin" / "ptxas").chmod(0o644),
        lambda home: (home / "lib64" / "libcudart.so").unlink(),
        lambda home: ((home / "lib").unlink(), (home / "lib").symlink_to("/usr/lib")),
        lambda home: add(home / "toolchain.json", "\udcff"),
        lambda home: add(home / "toolchain.json", "[" * 100_000),
        lambda home: add(home / "toolchain.json", "[]"),
    ],
    ids=range(9),
)
def test_a_home_with_other_bytes_is_made_again(
    have: Callable[..., Toolchain], harm: Callable[[Path], object], capsys: pytest.CaptureFixture[str]
) -> None:
    home = have().cuda_home

    def contents() -> dict[Path, str]:
        return {path: path.read_text() for path in home.rglob("*") if path.is_file()}

    before = contents()
    harm(home)
    assert have().cuda_home == home
    assert contents() == before
    assert os.access(home / "bin" / "ptxas", os.X_OK)
    assert "is not as it was made: making it again" in capsys.readouterr().out


def test_a_home_shares_no_file_with_its_environment(
    have: Callable[..., Toolchain], site_packages: Path
) -> None:
    runtime = have().cuda_home / "lib64" / "libcudart.so.13"
    (site_packages / "nvidia/cu13/lib/libcudart.so.13").write_text("ELG")
    assert runtime.read_text() == "ELF"
    shutil.rmtree(runtime.parent.parent)
    with pytest.raises(ToolchainError, match=r"libcudart\.so\.13 has a different SHA-256") as caught:
        have()
    assert "uv cache clean" in caught.value.remedy


def test_other_content_is_another_home_and_another_identity(
    have: Callable[..., Toolchain], site_packages: Path
) -> None:
    first = have()
    changed = {"nvidia/cu13/include/cuda_runtime.h": "#pragma once // changed\n"}
    shutil.rmtree(site_packages / "nvidia_cuda_runtime-13.0.96.dist-info")
    install_package(
        site_packages, "nvidia-cuda-runtime", "13.0.96", {**changed, "nvidia/cu13/lib/libcudart.so.13": "ELF"}
    )
    second = have()
    assert second.cuda_home != first.cuda_home
    assert second.identity != first.identity
    assert (first.cuda_home / "include" / "cuda_runtime.h").exists()


def test_the_host_compiler_is_part_of_the_identity(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    gxx(tmp_path / "newer" / "g++", "13.1.0")
    first, second = have(), have(path=tmp_path / "newer")
    assert first.cuda_home == second.cuda_home
    assert first.identity != second.identity


def test_packages_of_another_release_are_refused(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    change_installed(site_packages, "nvidia/cu13/bin/nvcc", toolkit("13.1.5")["bin/nvcc"])
    with pytest.raises(ToolchainError, match=r"target is CUDA 13\.0, and its packages hold nvcc 13\.1\.5"):
        have()
    assert leftovers(tmp_path) == []


def test_an_environment_without_compiler_is_refused(
    have: Callable[..., Toolchain], site_packages: Path
) -> None:
    shutil.rmtree(site_packages / "nvidia_cuda_nvcc-13.0.88.dist-info")
    with pytest.raises(ToolchainError) as caught:
        have()
    assert "cuda-toolkit[nvcc]==13.0.2" in caught.value.remedy


def test_a_missing_piece_is_named_and_nothing_stays(
    have: Callable[..., Toolchain], site_packages: Path, tmp_path: Path
) -> None:
    shutil.rmtree(site_packages / "nvidia_cuda_runtime-13.0.96.dist-info")
    with pytest.raises(ToolchainError, match=r"missing: include/cuda_runtime\.h, lib64/libcudart\.so"):
        have()
    assert leftovers(tmp_path) == []


def test_a_file_that_is_installed_but_gone_is_named(
    have: Callable[..., Toolchain], site_packages: Path
) -> None:
    (site_packages / "nvidia/cu13/bin/ptxas").unlink()
    with pytest.raises(ToolchainError, match=r"bin/ptxas is missing, though its package is installed"):
        have()


def test_only_old_leftovers_of_killed_builds_are_removed(
    have: Callable[..., Toolchain], tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "toolchains"
    for name in (".cuda-12.8-a.x.part", ".cuda-12.8-b.x.part"):
        (folder / name).mkdir(parents=True)
    os.utime(folder / ".cuda-12.8-a.x.part", (0, 0))
    home = have().cuda_home
    assert leftovers(tmp_path) == [folder / ".cuda-12.8-b.x.part", home]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ptxas fatal: made-up trouble", ToolchainError),
        ("#error -- unsupported GNU version! gcc versions later than 15", HostCompilerError),
    ],
)
def test_a_compiler_that_does_not_compile_gets_no_name(
    have: Callable[..., Toolchain], site_packages: Path, tmp_path: Path, said: str, kind: type[BuilderError]
) -> None:
    change_installed(site_packages, "nvidia/cu13/bin/nvcc", toolkit("13.0.88", error=said)["bin/nvcc"])
    with pytest.raises(ToolchainError) as caught:
        have()
    assert type(caught.value) is kind
    assert said in caught.value.message
    assert leftovers(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_an_error(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toolchains").write_text("a file where a folder belongs")
    with pytest.raises(ToolchainError) as caught:
        have()
    assert "--cache-dir" in caught.value.remedy


# CUDA 12: the driver and the programs that it calls come from archives.


@pytest.fixture
def static_server(tmp_path: Path) -> Iterator[StaticServer]:
    """A server that stands for NVIDIA's."""
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def cu128(tmp_path: Path, site_packages: Path, static_server: StaticServer) -> Target:
    """A target whose compiler is in two archives on a local server, and whose headers are in packages."""
    files = toolkit("12.8.93")
    shutil.rmtree(site_packages)
    site_packages.mkdir()
    install_package(
        site_packages,
        "nvidia-cuda-runtime-cu12",
        "12.8.90",
        {
            "nvidia/cuda_runtime/include/cuda_runtime.h": "of the package",
            "nvidia/cuda_runtime/lib/libcudart.so.12": "ELF",
            "nvidia/cuda_runtime/__init__.py": "",
        },
    )
    install_package(
        site_packages, "nvidia-cusparse-cu12", "12.5.8", {"nvidia/cusparse/include/cusparse.h": "sparse"}
    )
    install_package(
        site_packages, "nvidia-nccl-cu12", "2.27.5", {"nvidia/nccl/include/nccl.h": "no part of CUDA"}
    )
    compiler = {name: text for name, text in files.items() if name.startswith(("bin/", "nvvm/"))}
    parts = {
        "cuda_nvcc-linux-x86_64-12.8.93-archive": {
            **compiler,
            "include/crt/host_config.h": "",
            "LICENSE": "made up",
        },
        "cuda_cudart-linux-x86_64-12.8.90-archive": {
            "include/cuda_runtime.h": "of the archive",
            "lib/libcudart_static.a": "A",
            "lib/stubs/libcuda.so": "NVIDIA's own stub",
        },
    }
    archives = []
    for top, contents in parts.items():
        path = make_archive(static_server.folder / f"{top}.tar.xz", top, contents)
        archives.append(
            Archive(
                top.split("-")[0], f"{static_server.url}/{path.name}", file_sha256(path), path.stat().st_size
            )
        )
    return target("12.8", "2.10.0", toolchain_archives=tuple(archives))


def test_archives_and_packages_make_a_home(have: Callable[..., Toolchain], cu128: Target) -> None:
    made = have(cu128)
    home = made.cuda_home
    assert (made.origin, made.nvcc_version) == ("packages+archives", "12.8.93")
    assert (home / "include" / "cuda_runtime.h").read_text() == "of the archive"
    assert (home / "include" / "cusparse.h").read_text() == "sparse"
    assert (home / "lib64" / "stubs" / "libcuda.so").read_text() == "NVIDIA's own stub"
    assert (home / "lib64" / "libcudart.so").resolve().name == "libcudart.so.12"
    assert not (home / "include" / "nccl.h").exists()
    parts = {part.name: part for part in made.components}
    assert set(parts) == {"nvidia-cuda-runtime-cu12", "nvidia-cusparse-cu12", "cuda_nvcc", "cuda_cudart"}
    assert parts["cuda_nvcc"].version == "12.8.93"
    assert parts["cuda_nvcc"].sha256 == cu128.toolchain_archives[0].sha256
    assert parts["cuda_nvcc"].purl.startswith("pkg:generic/cuda_nvcc@12.8.93?checksum=sha256:")


def test_archives_are_fetched_once(
    have: Callable[..., Toolchain], cu128: Target, static_server: StaticServer
) -> None:
    home = have(cu128).cuda_home
    asked = len(static_server.requests)
    assert asked == 2
    assert have(cu128).cuda_home == home
    shutil.rmtree(home)
    assert have(cu128).cuda_home == home
    assert len(static_server.requests) == asked


def test_an_archive_with_another_hash_leaves_nothing(
    have: Callable[..., Toolchain], cu128: Target, tmp_path: Path
) -> None:
    wrong = replace(cu128.toolchain_archives[0], sha256="0" * 64)
    with pytest.raises(DownloadError) as caught:
        have(replace(cu128, toolchain_archives=(wrong, cu128.toolchain_archives[1])))
    assert "--cuda-home" in caught.value.remedy
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("bin/nvcc", "bin/nvcc"),
        ("nvvm/bin/cicc", "nvvm/bin/cicc"),
        ("include/cccl/cuda/std/cstdint", "include/cccl/cuda/std/cstdint"),
        ("lib/libcudart.so.13", "lib64/libcudart.so.13"),
        ("lib64/libcudadevrt.a", "lib64/libcudadevrt.a"),
        ("lib/stubs/libcuda.so", "lib64/stubs/libcuda.so"),
        ("lib/libcublasLt.so.13", None),
        ("lib/cmake/x.cmake", None),
        ("include/__init__.py", None),
        ("LICENSE", None),
    ],
)
def test_places(path: str, place: str | None) -> None:
    assert place_in_home(path) == place


def test_the_runtime_of_another_machine_takes_the_place_of_this_ones(
    tmp_path: Path, site_packages: Path
) -> None:
    machine = next(one for one in MACHINES if not one.is_here)
    other = tmp_path / "other" / "site-packages"
    install_package(
        other, "nvidia-cuda-runtime", "13.0.96", {"nvidia/cu13/lib/libcudart.so.13": machine.name, HEADER: ""}
    )
    gxx(tmp_path / "bin" / machine.gxx, "12.2.0")
    wanted = target(platform_tag=f"manylinux_2_34_{machine.name}")
    options = BuildOptions(cache_dir=tmp_path / "cache")
    made = resolve(wanted, options, [other, site_packages], {"PATH": str(tmp_path / "bin")})
    assert (made.cuda_home / "lib64" / "libcudart.so").read_text() == machine.name
    assert made.host.path.name == machine.gxx
    assert [part.name for part in made.components] == ["nvidia-cuda-runtime", "nvidia-cuda-nvcc"]
    own = BuildOptions(cache_dir=tmp_path, cuda_home=made.cuda_home, cuda_home_from="CUDA_HOME")
    with pytest.raises(ToolchainError, match=f"can't be used to build for {machine.name}"):
        resolve(wanted, own, [other, site_packages], {"PATH": str(tmp_path / "bin")})
