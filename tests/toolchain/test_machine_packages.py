"""The packages of another machine: unpacked beside the environment, with the real uv and a local index."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tools import target, wheel_of_package
from static_server import StaticServer

from builder.target.machines import MACHINES
from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain.machine_packages import is_unpacked, machine_site, unpack
from builder.util.errors import ToolchainError, TorchEnvironmentError

OTHER = next(machine.name for machine in MACHINES if not machine.is_here)


@pytest.fixture
def other(default_index: StaticServer, torch_index: StaticServer) -> Target:
    """A target for another machine, whose torch and runtime the default index has beside this machine's."""
    for machine, torch in ((OTHER, "2.11.0"), ("other", "2.11.1")):
        code = f"__version__ = {torch!r}\ncuda = '13.0'\n"
        for name, version, files in (
            ("torch", torch, {"torch/version.py": code, "torch/machine": machine}),
            ("cudart", "13.0.96", {"nvidia/cu13/lib/libcudart.so.13": machine}),
        ):
            made = wheel_of_package(
                default_index.folder / name, name, version, files, ("not-there",) * (name == "torch")
            )
            tag = f"py3-none-manylinux_2_28_{machine}" if machine == OTHER else "py3-none-any"
            _tag(made, tag)
    return target(
        torch_index="http://127.0.0.1:9/whl",
        platform_tag=f"manylinux_2_34_{OTHER}",
        toolchain_runtime=("cudart==13.0.96",),
    )


def _tag(wheel: Path, tag: str) -> None:
    """Give a wheel another tag."""
    with zipfile.ZipFile(wheel) as archive:
        files = {
            name: archive.read(name).replace(b"py3-none-any", tag.encode()) for name in archive.namelist()
        }
    wheel.unlink()
    with zipfile.ZipFile(wheel.with_name(wheel.name.replace("py3-none-any", tag)), "w") as archive:
        for name, data in files.items():
            if not name.endswith("/RECORD"):
                archive.writestr(name, data)
        record = next(name for name in files if name.endswith("/RECORD"))
        lines = files[record].decode().splitlines()
        kept = [line for line in lines if "/WHEEL," not in line]
        archive.writestr(record, "\n".join([*kept, f"{record[:-6]}WHEEL,,"]) + "\n")


@pytest.fixture
def unpacking(tmp_path: Path, other: Target) -> Callable[..., str]:
    """`unpack` into a cache."""

    def call(**changes: object) -> str:
        asked = replace(other, **changes)  # type: ignore[arg-type]
        return unpack(asked, BuildOptions(cache_dir=tmp_path / "cache"))

    return call


def test_the_machines_own_torch_and_runtime_are_unpacked_once(
    unpacking: Callable[..., str], other: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BuildOptions(cache_dir=tmp_path / "cache")
    assert not is_unpacked(other, options)
    assert unpacking() == "2.11.0"
    site = machine_site(other, options.cache_dir)
    assert (site / "torch" / "machine").read_text() == OTHER
    assert (site / "nvidia" / "cu13" / "lib" / "libcudart.so.13").read_text() == OTHER
    assert is_unpacked(other, options)
    unpacking()
    assert f"torch for {OTHER}: already unpacked" in capsys.readouterr().out


def test_what_is_damaged_is_unpacked_again(
    unpacking: Callable[..., str], other: Target, tmp_path: Path
) -> None:
    unpacking()
    site = machine_site(other, tmp_path / "cache")
    (site / "torch" / "machine").unlink()
    unpacking()
    assert (site / "torch" / "machine").read_text() == OTHER


def test_what_can_not_be_unpacked_is_said(unpacking: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="can't build for another machine"):
        unpacking(toolchain_runtime=())
    with pytest.raises(TorchEnvironmentError, match=r"torch==2\.12\.0 could not be installed"):
        unpacking(torch="2.12.0")
    assert not list((tmp_path / "cache").rglob("site-packages"))
