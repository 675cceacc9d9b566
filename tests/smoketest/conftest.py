"""Runs of the smoke test without torch, or with fakes in its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Done = subprocess.CompletedProcess[str]
Isolated = Callable[[Path, dict[str, str], list[str]], Done]


@pytest.fixture
def isolated() -> Isolated:
    """Run the smoke test with these packages, and nothing else."""

    def run(folder: Path, packages: dict[str, str], arguments: list[str]) -> Done:
        for name, code in packages.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code)
        # -S: without site-packages, so without any real torch; the worker is started the same way.
        launch = (
            "import runpy, sys; "
            "sys.argv[0] = 'smoketest'; "
            "sys.executable = sys.argv.pop(1); "
            "runpy.run_module('builder.smoketest', run_name='__main__')"
        )
        wrapper = folder / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        wrapper.chmod(0o755)
        return subprocess.run(
            [str(wrapper), "-c", launch, str(wrapper), *arguments],
            env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
