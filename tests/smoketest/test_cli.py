"""Whole runs: options in, table, report, picture and exit code out."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.smoketest.report.outcome import ExitCode
from builder.util.files import ROOT

Done = subprocess.CompletedProcess[str]
Isolated = Callable[[Path, dict[str, str], list[str]], Done]
FAKE_TORCH = "import types; __version__, version = '2', types.SimpleNamespace(cuda='13')"
NEEDS_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def smoketest(fault: str, *arguments: str) -> Done:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).with_name("standin"))])
    return subprocess.run(
        [sys.executable, "-m", "builder.smoketest", "--device", "cpu", "--no-speed", *arguments],
        env={**os.environ, "PYTHONPATH": path, "STANDIN_FAULT": fault, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@NEEDS_TORCH
def test_a_whole_run_on_a_stand_in_is_no_pass(tmp_path: Path) -> None:
    json_path, html_path = tmp_path / "r.json", tmp_path / "r.html"
    options = ["--quick", "--kernels", "varlen", "--json", str(json_path)]
    done = smoketest("", *options, "--html", str(html_path))
    assert done.returncode == ExitCode.STAND_IN, done.stdout + done.stderr
    assert "stand-in device: no wheel was tested" in done.stdout
    assert '"outcome": "stand-in"' in json_path.read_text()
    assert "<svg" in html_path.read_text()


@NEEDS_TORCH
def test_a_kernel_that_aborts_the_process_is_a_failed_row_and_the_rest_runs() -> None:
    kernels = "cuda-fp8/fp32/per_warp,varlen"
    done = smoketest("abort", "--quick", "--kernels", kernels, "--groups", "accuracy")
    assert done.returncode == ExitCode.FAILURES
    table, _, _ = done.stdout.partition("rows did not pass")
    accuracy_rows = [line for line in table.splitlines() if line[9:17] == "accuracy" and "|" not in line]
    results = [
        (line[:7].strip(), line[21:].split()[0]) for line in accuracy_rows if line[:4] in ("pass", "FAIL")
    ]
    assert results == [
        ("pass", "cuda-fp8/fp32/per_warp"),
        ("FAIL", "cuda-fp8/fp32/per_warp"),
        ("pass", "varlen"),
    ], done.stdout + done.stderr
    assert "the process was ended by SIGABRT" in done.stdout


def test_unknown_kernels_are_refused(tmp_path: Path, isolated: Isolated) -> None:
    done = isolated(tmp_path, {}, ["--kernels", "sm91"])
    assert done.returncode == ExitCode.USAGE
    assert "no such kernel: sm91" in done.stderr


def test_unknown_groups_are_refused(tmp_path: Path, isolated: Isolated) -> None:
    done = isolated(tmp_path, {}, ["--groups", "speed,nonsense"])
    assert done.returncode == ExitCode.USAGE
    assert "no such group: nonsense; there are accuracy, arguments, range, shapes, gradient, " in done.stderr


def test_listing_needs_neither_torch_nor_a_gpu(tmp_path: Path, isolated: Isolated) -> None:
    done = isolated(tmp_path, {}, ["--list", "--quick"])
    assert done.returncode == 0
    assert "sageattn_qk_int8_pv_fp8_cuda_sm90" in done.stdout


@pytest.mark.parametrize("command", [["builder/smoketest"], ["-m", "builder.smoketest"]])
def test_it_runs_from_a_copy_without_the_rest_of_the_project(tmp_path: Path, command: list[str]) -> None:
    shutil.copytree(ROOT / "builder" / "smoketest", tmp_path / "builder" / "smoketest")
    done = subprocess.run(
        [sys.executable, "-S", *command, "--list", "--quick"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sageattn_varlen" in done.stdout


def test_a_copys_worker_finds_the_copy(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "builder" / "smoketest", tmp_path / "builder" / "smoketest")
    done = subprocess.run(
        [sys.executable, "-S", str(tmp_path / "builder" / "smoketest"), "--import-only"],
        cwd="/",
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (ExitCode.TORCH_NOT_IMPORTABLE, ExitCode.SAGEATTENTION_NOT_IMPORTABLE)
    assert "import      torch " in done.stdout, done.stdout + done.stderr


def test_a_folder_named_sageattention_where_the_user_is_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "torch.py").write_text(FAKE_TORCH)
    (tmp_path / "sageattention").mkdir()
    (tmp_path / "sageattention" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "builder" / "smoketest"), "--import-only"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "packages")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "No module named 'sageattention'" in done.stdout
