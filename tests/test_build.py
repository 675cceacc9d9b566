"""What can't succeed ends before anything is installed, and --check goes no further."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.series import write_series

from builder import build
from builder.finish.store import locked
from builder.target.options import BuildOptions
from builder.target.targets import find_target
from builder.toolchain import torch_env
from builder.util.errors import (
    ArchitectureError,
    BuilderError,
    PatchError,
    SourceError,
    ToolchainError,
    UsageError,
)
from builder.util.files import ROOT

TARGET = find_target("cp312-cu130")
SOURCE = ROOT / "tests" / "e2e" / "minisage"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildOptions:
    """Options of a build on a machine where nothing is installed or cached."""
    monkeypatch.setattr(torch_env, "is_installed", lambda target, options: False)
    return BuildOptions(
        cache_dir=tmp_path / "cache", wheelhouse=tmp_path / "house", source=str(SOURCE), arch="9.0"
    )


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    """A folder of patches for the stand-in."""
    write_series(tmp_path / "patches" / TARGET.upstream)
    return tmp_path / "patches"


def test_check_prints_the_plan_and_leaves_nothing(
    tmp_path: Path, options: BuildOptions, patches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    start = time.monotonic()
    asked = replace(options, check=True, jobs=3)
    assert build.build(TARGET, asked, patches_root=patches, work_root=tmp_path / "build") == []
    assert time.monotonic() - start < 20
    said = capsys.readouterr().out
    for line in (
        "architectures: as asked for: 9.0a",
        "g++ ",
        "torch 2.11.0: to be installed",
        "3 jobs: as asked for",
        f"{options.wheelhouse}: gets two wheels",
    ):
        assert f"\n  {line}" in said
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in after - before} <= {".lock"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, PatchError, "0001-build"),  # the stand-in is not what the project's patches are for
        ({"source": "/nowhere"}, SourceError, "/nowhere"),
        ({"arch": "7.0"}, ArchitectureError, "7.0"),
        ({"cuda_home": Path("/nowhere")}, ToolchainError, "no such folder"),
        ({"machine_root": Path("/nowhere")}, ToolchainError, "--machine-root"),
        ({"wheelhouse": Path("/proc/self/x")}, UsageError, "/proc/self/x can't be written"),
        ({"cache_dir": Path(__file__) / "below"}, UsageError, "below can't be written"),
    ],
)
def test_what_can_t_succeed_ends_before_anything_is_installed(
    tmp_path: Path,
    options: BuildOptions,
    changes: dict[str, object],
    error: type[BuilderError],
    message: str,
) -> None:
    asked = replace(options, **changes)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        build.build(TARGET, asked, work_root=tmp_path / "build")
    assert not (tmp_path / "build" / TARGET.name / "scratch").exists()


def test_too_little_room(tmp_path: Path, options: BuildOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed already takes no more room."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**12, 0, 6 * 10**9))
    with pytest.raises(UsageError, match=r"less than 6\.4 GB free at .*build/cp312-cu130"):
        build.build(TARGET, options, work_root=tmp_path / "build")
    monkeypatch.setattr(torch_env, "is_installed", lambda target, options: True)
    with pytest.raises(PatchError):
        build.build(TARGET, options, work_root=tmp_path / "build")


def test_two_builds_at_once(tmp_path: Path, options: BuildOptions) -> None:
    with (
        locked(tmp_path / "build" / TARGET.name),
        pytest.raises(UsageError, match="Another build is running"),
    ):
        build.build(TARGET, options, work_root=tmp_path / "build")


def test_what_a_killed_build_left_is_removed(tmp_path: Path, options: BuildOptions, patches: Path) -> None:
    scratch = tmp_path / "build" / TARGET.name / "scratch"
    (scratch / "source").mkdir(parents=True)
    (scratch / "source" / "left.cu").write_text("")
    asked = replace(options, check=True, keep_build=True)
    build.build(TARGET, asked, patches_root=patches, work_root=tmp_path / "build")
    assert (scratch / "source" / "setup.py").is_file()
    assert not (scratch / "source" / "left.cu").exists()
