"""Which CUDA compiler is taken; the compilers are scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_tools import install_package, target, toolkit, write_tree

from builder.target.options import BuildOptions
from builder.toolchain.choice import resolve, why_not_usable
from builder.toolchain.compilers import Toolchain, build_environment
from builder.util.digest import file_sha256
from builder.util.errors import ToolchainError


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
    assert made.components[0].sha256 == file_sha256(home / "bin" / "nvcc")
    env = build_environment(made, {})
    assert env["CUDA_HOME"] == str(home)
    assert env["CPATH"] == str(site_packages / "nvidia" / "cusparse" / "include")
    assert not (tmp_path / "cache" / "toolchains").exists()


@pytest.mark.parametrize(
    ("version", "given_by", "message", "remedies"),
    [
        ("12.4.131", "--cuda-home", "it is CUDA 12.4", ("Omit --cuda-home", "--allow-cuda-minor")),
        ("12.4.131", "CUDA_HOME", "it is CUDA 12.4", ("Unset CUDA_HOME", "--allow-cuda-minor")),
        ("13.0.88", "CUDA_HOME", "a different major version never fits", ("Unset CUDA_HOME",)),
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


@pytest.mark.parametrize("odd", [":", '"', "$", "`"])
def test_a_folder_that_nvcc_cannot_run_from_is_refused(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / f"o{odd}dd"
    for option, asked in (
        ("cache_dir", BuildOptions(cache_dir=folder)),
        ("cuda_home", BuildOptions(cache_dir=tmp_path / "cache", cuda_home=folder)),
    ):
        with pytest.raises(ToolchainError, match=f"its path has {re.escape(odd)} in it") as caught:
            resolve(target(), asked, [tmp_path], {})
        assert f"--{option.replace('_', '-')} DIR" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []
