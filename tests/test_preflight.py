"""What can't succeed ends before anything is installed, and --check goes no further."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import made_up_tools
import pytest

from builder import pipeline
from builder.preflight import Need, check_compilers, check_folders, check_room, needs, refuse_unwritable
from builder.target.architectures import Architecture
from builder.target.machines import MACHINES
from builder.target.options import BuildOptions
from builder.target.pins import Archive
from builder.target.selection import Selection
from builder.target.targets import load_targets
from builder.util.errors import (
    ArchitectureError,
    BuilderError,
    HostCompilerError,
    PatchError,
    ToolchainError,
    UsageError,
)
from builder.util.paths import ROOT

TARGET = made_up_tools.target()
SELECTION = Selection((Architecture(9, 0, "a"),), "asked for", complete=False)
GB = 10**9


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """Options of a build on a machine where nothing is installed or cached."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    return BuildOptions(cache_dir=tmp_path / "cache", wheelhouse=tmp_path / "house")


def test_g_plus_plus_and_architectures_are_checked(tmp_path: Path, options: BuildOptions) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    with pytest.raises(HostCompilerError, match=r"No g\+\+ was found"):
        check_compilers(TARGET, SELECTION, options, environ)
    made_up_tools.gxx(tmp_path / "bin" / "g++", "12.2.0")
    found = check_compilers(TARGET, SELECTION, options, environ)
    assert (found.cuda_version, found.host.version) == ("13.0", "12.2.0")
    old = Selection((Architecture(7, 0),), "asked for", complete=False)
    with pytest.raises(ArchitectureError, match=r"CUDA 13\.0 dropped 7\.0"):
        check_compilers(TARGET, old, options, environ)


def test_a_toolkit_of_the_users_is_checked(tmp_path: Path, options: BuildOptions) -> None:
    environ = {"PATH": str(tmp_path / "bin")}
    made_up_tools.gxx(tmp_path / "bin" / "g++", "12.2.0")
    own = replace(options, cuda_home=tmp_path / "cuda", cuda_home_from="--cuda-home")
    with pytest.raises(ToolchainError, match="there is no such folder"):
        check_compilers(TARGET, SELECTION, own, environ)
    made_up_tools.write_tree(tmp_path / "cuda", made_up_tools.toolkit("13.0.48"))
    assert check_compilers(TARGET, SELECTION, own, environ).cuda_version == "13.0.48"


def test_a_build_for_another_machine_takes_its_cross_compiler_and_less_room(
    tmp_path: Path, options: BuildOptions
) -> None:
    machine = next(one for one in MACHINES if not one.is_here)
    target = replace(TARGET, platform_tag=f"manylinux_2_34_{machine.name}")
    environ = {"PATH": str(tmp_path / "bin")}
    made_up_tools.gxx(tmp_path / "bin" / "g++", "12.2.0")
    with pytest.raises(HostCompilerError, match=f"No {machine.name}-linux-gnu-g"):
        check_compilers(target, SELECTION, options, environ)
    made_up_tools.gxx(tmp_path / "bin" / machine.gxx, "12.2.0")
    assert check_compilers(target, SELECTION, options, environ).host.path.name == machine.gxx
    with pytest.raises(UsageError, match=f"can't build for {machine.name} here"):
        check_compilers(target, SELECTION, replace(options, no_patches=True), environ)
    with pytest.raises(ToolchainError, match=r"which --machine-root needs|runs on"):
        check_compilers(target, SELECTION, replace(options, machine_root=tmp_path), environ)
    room = [need.size_bytes for need in needs(target, options, tmp_path, tmp_path / "site")]
    own = [need.size_bytes for need in needs(TARGET, options, tmp_path, tmp_path / "site")]
    assert sum(room) < sum(own)


def test_folders_that_can_t_be_written_are_named(tmp_path: Path, options: BuildOptions) -> None:
    check_folders(options, tmp_path / "build")
    assert [path.name for path in tmp_path.iterdir() if path.name != "uv"] == [], "nothing is made"
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "below"
    for asked, work, said in (
        (replace(options, wheelhouse=below), tmp_path / "build", "--wheelhouse"),
        (replace(options, cache_dir=below), tmp_path / "build", "--cache-dir"),
        (options, below, "Builds work there"),
    ):
        with pytest.raises(UsageError, match=r"file/below can't be written: ") as caught:
            check_folders(asked, work)
        assert said in caught.value.remedy
    (tmp_path / "link").symlink_to("nowhere")
    for folder in (tmp_path / "file", tmp_path / "link", Path("/proc/self/x"), tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match="can't be written"):
            refuse_unwritable(folder, "")


def test_room_is_counted_disk_by_disk(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    wanted = [
        Need("torch", tmp_path / "a", 5 * GB),
        Need("wheels", tmp_path / "b", GB),
        Need("cache", other, GB),
    ]
    check_room(wanted, lambda folder: 6 * GB)
    check_room(wanted, lambda folder: GB if folder == other else 6 * GB)
    with pytest.raises(UsageError) as caught:
        check_room(wanted, lambda folder: 9 * GB if folder == other else 6 * GB - 1)
    assert f"The disk of {tmp_path}/a has 6.0 GB free, and a build needs 6.0 GB there" in caught.value.message
    assert caught.value.message.endswith(": torch 5.0 GB, wheels 1.0 GB.")
    assert "--cache-dir DIR" in caught.value.remedy
    with pytest.raises(UsageError, match="needs 1000000000"):
        check_room([Need("all", tmp_path, 10**18)])


def test_what_is_there_takes_no_room(tmp_path: Path, options: BuildOptions) -> None:
    archive = Archive("cuda_nvcc", "https://example.org/nvcc.tar.xz", "a" * 64, 70_000_000)
    target = replace(TARGET, toolchain_packages=("nvcc==13.0.88",), toolchain_archives=(archive,))

    def found() -> set[tuple[str, str]]:
        return {(need.what, need.folder.name) for need in needs(target, options, tmp_path, tmp_path / "site")}

    always = {("the build", tmp_path.name), ("the wheels", "house")}
    torch, nvcc = (f"torch {target.torch} and the CUDA compiler", "uv"), ("cuda_nvcc", "downloads")
    assert found() == {*always, torch, nvcc}
    made_up_tools.write_tree(options.cache_dir / "downloads", {f"{'a' * 16}-nvcc.tar.xz": ""})
    assert found() == {*always, torch}
    version = f"__version__ = '{target.torch}'\ncuda = '{target.cuda}'\n"
    made_up_tools.install_package(tmp_path / "site", "torch", target.torch, {"torch/version.py": version})
    assert found() == {*always, torch}, "the compiler's package is missing"
    made_up_tools.install_package(tmp_path / "site", "nvcc", "13.0.88")
    assert found() == always


SOURCE = str(ROOT / "tests" / "e2e" / "minisage")


def check(options: BuildOptions, tmp_path: Path, **changes: object) -> None:
    """Run `--check` for a real target."""
    asked = replace(options, check=True, arch="9.0", source=SOURCE, **changes)  # type: ignore[arg-type]
    target = load_targets()["cp312-cu130"]
    assert pipeline.build(target, asked, work_root=tmp_path / "build") == []


def test_check_prints_the_plan_and_leaves_nothing(
    tmp_path: Path, options: BuildOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    check(options, tmp_path, no_patches=True, jobs=3)
    assert time.monotonic() - start < 20
    said = capsys.readouterr().out
    for line in (
        "architectures: as asked for: 9.0a",
        "g++ ",
        "torch 2.11.0: to be installed",
        "3 jobs: as asked for",
    ):
        assert f"\n  {line}" in said
    assert f"\n  {options.wheelhouse}: gets two wheels\n" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file() and "uv" not in path.parts] == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, PatchError),  # the stand-in is not what the patches are for
        ({"source": "/nowhere"}, BuilderError),
        ({"wheelhouse": Path("/proc/self/x")}, UsageError),
    ],
)
def test_what_can_t_succeed_ends_before_anything_is_installed(
    tmp_path: Path, options: BuildOptions, changes: dict[str, object], error: type[BuilderError]
) -> None:
    start = time.monotonic()
    asked = replace(options, arch="9.0", **{"source": SOURCE, **changes})  # type: ignore[arg-type]
    with pytest.raises(error):
        pipeline.build(load_targets()["cp312-cu130"], asked, work_root=tmp_path / "build")
    assert time.monotonic() - start < 20


def test_no_g_plus_plus_ends_a_build_before_its_source_is_read(
    tmp_path: Path, options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(HostCompilerError):
        check(options, tmp_path)
    assert not (tmp_path / "build").exists()
