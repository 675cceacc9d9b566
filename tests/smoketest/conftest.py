"""Stand-ins for sageattention and torch, for tests that have no GPU, or no torch either."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.util.files import ROOT

if TYPE_CHECKING:
    from builder.smoketest.attention.subject import Subject

Done = subprocess.CompletedProcess[str]
Isolated = Callable[[Path, dict[str, str], list[str]], Done]
STANDIN = Path(__file__).with_name("standin")


@pytest.fixture
def standin() -> Subject:
    """The stand-in as a `Subject` on the CPU; its fault is the environment's STANDIN_FAULT."""
    pytest.importorskip("torch")
    from builder.smoketest.attention.subject import Subject  # noqa: PLC0415 - needs torch

    spec = importlib.util.spec_from_file_location("standin", STANDIN / "sageattention" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Subject(module, "cpu", (9, 0))


@pytest.fixture
def isolated() -> Isolated:
    """Run the smoke test with stand-ins for torch and sageattention, and nothing else."""

    def go(folder: Path, packages: dict[str, str], arguments: list[str]) -> Done:
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

    return go
