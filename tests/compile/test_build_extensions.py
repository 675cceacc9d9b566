"""The source's build file: what it is told, and what it has ninja run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from setuptools import Distribution, Extension  # type: ignore[import-untyped]


def test_version_and_requirements_come_from_the_settings(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGEATTENTION_BUILD", raising=False)
    with pytest.raises(build.BuildError, match="must name a file"):
        build.version("2.2.0")
    settings = {"local_version": "cu130.torch2.11", "requirement": "torch==2.11.*"}
    (tmp_path / "build.json").write_text(json.dumps(settings))
    monkeypatch.setenv("SAGEATTENTION_BUILD", str(tmp_path / "build.json"))
    assert (build.version("2.2.0"), build.requirements()) == ("2.2.0+cu130.torch2.11", ["torch==2.11.*"])


def test_ninja_runs_commands_as_they_are_and_stops_at_a_failure(build: ModuleType, tmp_path: Path) -> None:
    odd = 'it\'s $HOME "of" a:b'
    steps = [
        ("a.cu:entry", "out/a.o", ["a $x.cu"], ["sh", "-c", 'echo "$1" > out/a.o', "sh", odd]),
        ("bad", "bad.o", ["a $x.cu"], ["sh", "-c", "echo the reason; kill -9 $$"]),
        ("lib", "lib.so", ["out/a.o", "bad.o"], ["touch", "lib.so"]),
    ]
    (tmp_path / "a $x.cu").touch()
    (tmp_path / "build.ninja").write_text(build.ninja_file(steps))
    command = [str(Path(sys.executable).with_name("ninja")), "-j", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "[1/3] a.cu:entry\n" in done.stdout
    assert "FAILED: [code=137] bad.o" in done.stdout
    assert "the reason" in done.stdout
    assert (tmp_path / "out" / "a.o").read_text() == f"{odd}\n"
    assert not (tmp_path / "lib.so").exists()


@pytest.mark.parametrize(("abi", "tag"), [("stable", "py3-none"), ("native", f"cp{sys.version_info[0]}")])
def test_a_wheel_of_the_stable_abi_is_for_any_python(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abi: str, tag: str
) -> None:
    (tmp_path / "build.json").write_text(json.dumps({"abi": abi}))
    monkeypatch.setenv("SAGEATTENTION_BUILD", str(tmp_path / "build.json"))
    extension = Extension("sageattention.lib._fused", ["a.cpp"])
    command = build.Wheel(Distribution({"name": "x", "version": "1", "ext_modules": [extension]}))
    command.ensure_finalized()
    assert "-".join(command.get_tag()).startswith(tag)
