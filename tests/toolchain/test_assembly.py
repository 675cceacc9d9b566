"""How a CUDA_HOME comes about; the compilers are scripts, the archives small, their host a local server."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tools import gxx, install_package, make_archive, program, target, toolkit, write_tree
from static_server import StaticServer, serving

from builder.target.options import BuildOptions
from builder.target.pins import Archive
from builder.target.targets import Target
from builder.toolchain.assembly import Toolchain, build_environment, place_in_home, resolve, why_not_usable
from builder.toolchain.components import parse_record
from builder.util.errors import BuilderError, DownloadError, HostCompilerError, ToolchainError


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
        return resolve(wanted or target(), asked, site_packages, tmp_path / "cache", {"PATH": str(path)})

    return call


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
    assert have().cuda_home == home
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
    write_tree(site_packages, {"nvidia/cu13/bin/nvcc": toolkit("13.1.5")["bin/nvcc"]})
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
    with pytest.raises(ToolchainError, match=r"bin/ptxas is not there, though its package is installed"):
        have()


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
    files = {"nvidia/cu13/bin/nvcc": toolkit("13.0.88", error=said)["bin/nvcc"]}
    write_tree(site_packages, files)
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
            Archive(top.split("-")[0], f"{static_server.url}/{path.name}", _sha256(path), path.stat().st_size)
        )
    return target("12.8", "2.10.0", toolchain_archives=tuple(archives))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    assert (parts["cuda_nvcc"].purl or "").startswith("pkg:generic/cuda_nvcc@12.8.93?checksum=sha256:")


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


# A toolkit of the user's.


@pytest.mark.parametrize(
    ("version", "wanted", "allow_minor", "usable"),
    [
        ("13.0.88", "13.0", False, True),
        ("12.4.131", "12.8", False, False),
        ("12.4.131", "12.8", True, True),
        ("13.1.5", "13.0", True, True),
        ("12.8.93", "13.0", True, False),
        ("13.0.88", "12.8", True, False),
    ],
)
def test_which_versions_are_usable(version: str, wanted: str, allow_minor: bool, usable: bool) -> None:
    assert (why_not_usable(version, wanted, allow_minor) == "") is usable


def test_a_toolkit_of_the_users_is_used(
    have: Callable[..., Toolchain], tmp_path: Path, site_packages: Path
) -> None:
    home = write_tree(tmp_path / "cuda", toolkit("12.4.131"))
    headers = {
        f"nvidia/{part}/include/{name}": "" for part, name in (("cusparse", "cusparse.h"), ("nccl", "nccl.h"))
    }
    install_package(site_packages, "nvidia-cusparse-cu12", "12.5", headers)
    made = have(target("12.8"), cuda_home=home, cuda_home_from="--cuda-home", allow_cuda_minor=True)
    assert (made.cuda_home, made.cuda_version, made.origin) == (home, "12.4", "cuda-home")
    assert made.components[0].sha256 == _sha256(home / "bin" / "nvcc")
    env = build_environment(made, {})
    assert env["CUDA_HOME"] == str(home)
    assert env["CPATH"] == str(site_packages / "nvidia" / "cusparse" / "include")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("version", "given_by", "message", "remedies"),
    [
        ("12.4.131", "--cuda-home", "it is CUDA 12.4", ("Leave --cuda-home away", "--allow-cuda-minor")),
        ("12.4.131", "CUDA_HOME", "it is CUDA 12.4", ("Unset CUDA_HOME", "--allow-cuda-minor")),
        ("13.0.88", "CUDA_HOME", "another major version never fits", ("Unset CUDA_HOME",)),
        (None, "CUDA_HOME", "no bin/nvcc in it", ("Unset CUDA_HOME",)),
    ],
)
def test_a_toolkit_that_does_not_fit_is_an_error(
    have: Callable[..., Toolchain],
    tmp_path: Path,
    version: str | None,
    given_by: str,
    message: str,
    remedies: tuple[str, ...],
) -> None:
    home = tmp_path / "cuda"
    write_tree(home, toolkit(version) if version else {"include/cuda.h": ""})
    with pytest.raises(ToolchainError) as caught:
        have(target("12.8"), cuda_home=home, cuda_home_from=given_by)
    assert str(home) in caught.value.message
    assert message in caught.value.message
    assert all(remedy in caught.value.remedy for remedy in remedies)
    assert ("--allow-cuda-minor" in caught.value.remedy) is ("--allow-cuda-minor" in remedies)


def test_another_minor_version_is_tried_out_too(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    home = write_tree(tmp_path / "cuda", toolkit("12.4.131", error="made-up trouble"))
    with pytest.raises(ToolchainError, match="made-up trouble"):
        have(target("12.8"), cuda_home=home, allow_cuda_minor=True)


# The environment of a build.


def test_a_nvcc_on_path_is_not_picked_up(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    decoy = program(tmp_path / "decoy" / "nvcc", "#!/bin/sh\necho decoy\n")
    program(tmp_path / "decoy" / "gcc", "#!/bin/sh\necho decoy\n")
    made = have()
    env = build_environment(made, {"PATH": f"{decoy.parent}:/usr/bin:/bin"}, tmp_path / "venv" / "bin")
    assert str(decoy.parent) not in env["PATH"].split(":")
    where = "command -v nvcc; command -v gcc; gcc -dumpfullversion"
    found = subprocess.run(["/bin/sh", "-c", where], env=env, capture_output=True, text=True, check=True)
    nvcc, gcc, version = found.stdout.split()
    assert Path(nvcc) == made.nvcc
    assert made.host_bin is not None
    assert Path(gcc) == made.host_bin / "gcc"
    assert version == "12.2.0"


def test_a_decoy_beside_the_host_compiler_is_not_picked_up(
    have: Callable[..., Toolchain], tmp_path: Path
) -> None:
    program(tmp_path / "hostbin" / "nvcc", "#!/bin/sh\necho decoy\n")
    made = have()
    env = build_environment(made, {})
    found = subprocess.run(
        ["/bin/sh", "-c", "command -v nvcc"], env=env, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()) == made.nvcc


def test_the_users_compiler_variables_stay_out(have: Callable[..., Toolchain]) -> None:
    theirs = {
        "NVCC_APPEND_FLAGS": "-G",
        "NVCC_PREPEND_FLAGS": "-O0",
        "NVCC_CCBIN": "/their/g++",
        "CPATH": "/their/include",
        "CPLUS_INCLUDE_PATH": "/their/include",
        "LIBRARY_PATH": "/their/lib",
        "LD_LIBRARY_PATH": "/their/lib",
        "LD_PRELOAD": "/their/lib.so",
        "CFLAGS": "-O0",
        "CXXFLAGS": "-O0",
        "LDFLAGS": "-lm",
        "MAKEFLAGS": "-j",
        "PYTHONPATH": "/their/python",
        "CCACHE_DIR": "/their/cache",
        "TORCH_CUDA_ARCH_LIST": "5.0",
        "CUDA_PATH": "/their/cuda",
        "GCC_EXEC_PREFIX": "/their",
        "HOME": "/home/them",
        "TMPDIR": "/their/tmp",
    }
    env = build_environment(have(), theirs)
    assert {name: value for name, value in env.items() if "their" in value} == {"TMPDIR": "/their/tmp"}
    assert env["HOME"] == "/home/them"
    assert not {"NVCC_APPEND_FLAGS", "CFLAGS", "TORCH_CUDA_ARCH_LIST"} & set(env)


def test_the_host_compilers_folder_takes_any_path(have: Callable[..., Toolchain], tmp_path: Path) -> None:
    odd = tmp_path / "it's $HOME"
    gxx(odd / "g++", "13.2.0")
    made = have(path=odd)
    assert made.host_bin is not None
    done = subprocess.run(
        [made.host_bin / "gcc", "-dumpfullversion"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "13.2.0"


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


def test_a_record_reads_the_same_whoever_installed() -> None:
    nvcc = "nvidia/cu13/bin/nvcc,sha256=Fk39liSW5g2E2PvHzaNsWJcQFrbTye07XNxjqunO_zg,11032"
    meta = "x-1.dist-info/METADATA,sha256=AH7kkgoOlOzuCr4b4CLzmtNWjGs-gdisQbO8yHHnX0o,1788"
    digest = "sha256=5hhM4Q4mYTT9z6QB6PGpUAW81PGNFrYrdXMj4oM_6ak,2"
    by_uv = [meta, nvcc, f"x-1.dist-info/INSTALLER,{digest}", "x-1.dist-info/RECORD,,"]
    by_pip = [
        nvcc,
        f"../../../bin/x,{digest}",
        "nvidia/__pycache__/x.pyc,,",
        f"x-1.dist-info/direct_url.json,{digest}",
        meta,
        f"x-1.dist-info/REQUESTED,{digest}",
    ]
    assert parse_record("\n".join(by_uv)) == parse_record("\n".join(by_pip))
    assert [file.path for file in parse_record("\n".join(by_uv))] == [
        "nvidia/cu13/bin/nvcc",
        "x-1.dist-info/METADATA",
    ]
