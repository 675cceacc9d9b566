"""Options, and runs from a copy of the smoke test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.smoketest.report import ExitCode

ROOT = Path(__file__).resolve().parents[2]
Isolated = Callable[[Path, dict[str, str], list[str]], subprocess.CompletedProcess[str]]

FAKE_TORCH = "import types; __version__, version = '2', types.SimpleNamespace(cuda='13')"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kernels", "sm91"], "no such kernel: sm91"),
        (["--groups", "speed,nonsense"], "no such group: nonsense; there are accuracy, arguments, range, "),
    ],
)
def test_unknown_kernels_and_groups_are_refused(
    tmp_path: Path, isolated: Isolated, arguments: list[str], message: str
) -> None:
    done = isolated(tmp_path, {}, arguments)
    assert done.returncode == ExitCode.USAGE
    assert message in done.stderr


def run(command: list[str], folder: Path | str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", *command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("command", [["builder/smoketest"], ["-m", "builder.smoketest"]])
def test_it_lists_its_rows_without_torch_and_without_the_rest_of_the_project(
    tmp_path: Path, command: list[str]
) -> None:
    shutil.copytree(ROOT / "builder" / "smoketest", tmp_path / "builder" / "smoketest")
    done = run([*command, "--list", "--quick"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sageattn_varlen" in done.stdout
    done = run([str(tmp_path / "builder" / "smoketest"), "--import-only"], "/")
    assert done.returncode in (ExitCode.TORCH_NOT_IMPORTABLE, ExitCode.SAGEATTENTION_NOT_IMPORTABLE)
    assert "import       torch " in done.stdout, done.stdout + done.stderr


def test_a_folder_named_sageattention_where_the_user_is_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "torch.py").write_text(FAKE_TORCH)
    (tmp_path / "sageattention").mkdir()
    (tmp_path / "sageattention" / "__init__.py").touch()
    command = [str(ROOT / "builder" / "smoketest"), "--import-only"]
    done = run(command, tmp_path, PYTHONPATH=str(tmp_path / "packages"))
    assert "No module named 'sageattention'" in done.stdout
