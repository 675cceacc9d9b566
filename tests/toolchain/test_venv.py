"""Environments hold what was asked for; with the real uv, made-up packages and a local package index."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from made_up_tools import site_packages_of, wheel_of_package
from static_server import StaticServer

from builder.toolchain.materials import installed_packages
from builder.toolchain.venv import (
    cache_folder,
    install_wheel,
    is_cached,
    make_clean_venv,
    pip_install,
    pip_uninstall,
    why_unreachable,
)
from builder.util.errors import TorchEnvironmentError


def test_a_clean_venv_holds_what_was_asked_for(tmp_path: Path, default_index: StaticServer) -> None:
    python = make_clean_venv(tmp_path / "clean", sys.executable, ["torch==2.11.*"], "http://127.0.0.1:9/whl")
    names = [part.name for part in installed_packages(site_packages_of(python))]
    assert names == ["torch"]
    again = make_clean_venv(tmp_path / "clean", sys.executable, [])
    assert installed_packages(site_packages_of(again)) == ()


def test_a_clean_venv_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TorchEnvironmentError, match="No virtual environment"):
        make_clean_venv(tmp_path / "clean", tmp_path / "no" / "python", [])


def test_a_wheel_takes_the_place_of_one_of_its_name(tmp_path: Path, python: Path) -> None:
    for number in ("1", "2"):
        wheel = wheel_of_package(
            tmp_path / number, "ours", "1.0", {"ours/__init__.py": f"NUMBER = {number}\n"}
        )
        install_wheel(python, wheel)
        assert (site_packages_of(python) / "ours" / "__init__.py").read_text() == f"NUMBER = {number}\n"


def test_a_wheel_whose_requirements_are_nowhere_is_an_error(tmp_path: Path, python: Path) -> None:
    wheel = wheel_of_package(tmp_path / "wheel", "ours", "1.0", requires=("nowhere==1",))
    with pytest.raises(TorchEnvironmentError, match=r"ours-1\.0-py3-none-any\.whl can't be installed"):
        install_wheel(python, wheel)


def test_a_package_is_removed(tmp_path: Path, python: Path) -> None:
    install_wheel(python, wheel_of_package(tmp_path / "wheel", "ours", "1.0"))
    assert pip_uninstall(python, "ours") == 0
    assert installed_packages(site_packages_of(python)) == ()


def test_what_uv_has_in_its_cache_needs_no_download(python: Path, default_index: StaticServer) -> None:
    assert not is_cached(python, ["torch==2.11.0"])
    assert pip_install(python, ["torch==2.11.0"]) == 0
    assert pip_uninstall(python, "torch") == 0
    assert is_cached(python, ["torch==2.11.0"])
    assert not is_cached(python, ["torch==2.11.0", "cuda-toolkit==13.0.2"])
    assert [path.name for path in cache_folder().glob("CACHEDIR.TAG")] == ["CACHEDIR.TAG"]


def test_why_an_index_can_or_cannot_be_reached(default_index: StaticServer) -> None:
    assert why_unreachable(default_index.url) == ""
    assert why_unreachable(f"{default_index.url}/none/") == "it answers 404 File not found"
    assert why_unreachable("http://127.0.0.1:9") == "no connection"
    assert why_unreachable("http://[") == "InvalidURL"
