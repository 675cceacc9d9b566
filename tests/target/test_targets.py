"""Target files: what they say, and how a wrong one is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packaging.tags import parse_tag
from packaging.version import Version

from builder.target.architectures import join, select
from builder.target.targets import (
    TARGETS_DIR,
    Target,
    find_target,
    load_target,
    load_targets,
    local_version,
)
from builder.util.errors import TargetError, UsageError

NATIVE = """\
abi = "native"
python = "3.13"
cuda = "13.0"
torch = "2.12.0"
torch_index = "https://download.pytorch.org/whl/cu130"
architectures = ["9.0a", "8.9"]
platform_tag = "manylinux_2_34_x86_64"
upstream = "v2.2.0"
"""
STABLE = NATIVE.replace('"native"', '"stable"\ntorch_minimum = "2.10"')


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    """A folder with the shipped toolchains and no target."""
    folder = tmp_path / "targets"
    shutil.copytree(TARGETS_DIR / "toolchains", folder / "toolchains")
    return folder


def write(targets: Path, text: str, name: str = "cp313-cu130") -> Path:
    path = targets / f"{name}.toml"
    path.write_text(text)
    return path


def test_the_shipped_targets_become_the_right_wheels() -> None:
    targets = load_targets()
    assert {
        name: (target.python, target.torch, target.torch_requirement, target.wheel_tag(target.platform_tag))
        for name, target in targets.items()
    } == {
        "universal-cu128": ("3.11", "2.10.0", "torch>2.6.9999", "py3-none-manylinux_2_28_x86_64"),
        "universal-cu130": ("3.12", "2.11.0", "torch>2.8.9999", "py3-none-manylinux_2_28_x86_64"),
        "universal-cu130-aarch64": ("3.12", "2.11.0", "torch>2.8.9999", "py3-none-manylinux_2_28_aarch64"),
        "cp311-cu128": ("3.11", "2.10.0", "torch==2.10.*", "cp311-cp311-manylinux_2_34_x86_64"),
        "cp312-cu130": ("3.12", "2.11.0", "torch==2.11.*", "cp312-cp312-manylinux_2_34_x86_64"),
    }
    for target in targets.values():
        assert len(parse_tag(target.wheel_tag(target.platform_tag))) == 1
        # A GPU of 8.6 runs the code of 8.0.
        middle = "" if target.machine.name == "aarch64" else "8.6, "
        assert join(target.architectures) == f"8.0, {middle}8.9, 9.0a, 12.0"
    sizes = {archive.name: archive.size_bytes for archive in targets["cp311-cu128"].toolchain_archives}
    assert sizes["cuda_nvcc"] == 79015464
    assert targets["cp312-cu130"].toolchain_archives == ()


def test_one_small_file_is_a_new_target(targets: Path) -> None:
    write(targets, NATIVE)
    (targets / ".x.toml").write_text("an editor's")
    (target,) = load_targets(targets).values()
    assert target.describe() == "Python 3.13, CUDA 13.0, torch 2.12"
    assert target.torch_requirement == "torch==2.12.*"
    assert join(target.architectures) == "8.9, 9.0a"
    assert target.toolchain_packages == load_targets()["cp312-cu130"].toolchain_packages


def _local_version(target: Target, arch: str | None) -> str:
    return local_version(target, select(arch, target.architectures, (), ()))


def test_local_versions_say_what_the_wheel_is_for() -> None:
    native, stable = load_targets()["cp312-cu130"], load_targets()["universal-cu130"]
    assert _local_version(native, None) == "cu130.torch2.11.2"
    assert _local_version(stable, "all") == "cu130.universal.2"
    assert _local_version(native, "9.0;8.9") == "cu130.torch2.11.2.sm89.sm90a"
    assert _local_version(stable, "12.0") == "cu130.universal.2.sm120"
    # pip prefers the universal one, and a later revision, also the tenth.
    versions = ["torch2.11.2", "universal", "universal.2", "universal.10"]
    assert versions == sorted(versions, key=lambda label: Version(f"2.2.0+cu130.{label}"))


def change(key: str, value: str) -> str:
    changed, times = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", NATIVE)
    assert times == 1
    return changed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NATIVE + 'pyton = "3.12"\n', "pyton: unknown key"),
        (NATIVE.replace('python = "3.13"\n', ""), "python: missing"),
        (change("python", "3.13"), "python: 3.13 is not of the type str"),
        (change("abi", '"limited"'), "abi: it must be native, or stable with"),
        (NATIVE + 'torch_minimum = "2.10"\n', "abi: it must be native, or stable with"),
        (change("architectures", '"8.9"'), "architectures: '8.9' is not of the type tuple"),
        (change("architectures", '["7.5"]'), "architectures: SageAttention 2.2.0 does not have 7.5"),
        (change("platform_tag", '"manylinux_2_34_riscv64"'), "platform_tag: 'manylinux_2_34_riscv64' is"),
        (NATIVE + "[toolchain\n", "can't be read: "),
        (NATIVE.replace("13.0", "13.2"), "cu132.toml: can't be read"),
        (change("upstream", '"v9.9"'), "v9.9/upstream.toml: can't be read"),
    ],
)
def test_a_wrong_file_is_refused_by_name_and_key(targets: Path, text: str, message: str) -> None:
    with pytest.raises(TargetError) as caught:
        load_target(write(targets, text))
    assert message in str(caught.value)
    assert str(targets.parent) in str(caught.value) or "v9.9" in message


def test_a_target_is_found_by_name_or_the_names_are_said() -> None:
    assert find_target("cp312-cu130").name == "cp312-cu130"
    with pytest.raises(UsageError, match="Targets: cp311-cu128, cp312-cu130, universal-cu128, "):
        find_target("cp399-cu130")


def test_targets_load_without_anything_heavy_and_fast() -> None:
    """`nox -l` must be fast, and not need what only the build's environment has."""
    code = "import sys, builder.target.targets as t; t.load_targets(); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], cwd=TARGETS_DIR.parent, check=True, capture_output=True, text=True
    ).stdout.split()
    assert "builder.target.targets" in modules
    assert not {"requests", "urllib3", "elftools", "packaging", "torch", "cyclonedx"} & set(modules)
    start = time.perf_counter()
    load_targets()
    assert time.perf_counter() - start < 0.1
