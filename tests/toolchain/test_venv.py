"""Environments hold what was asked for; with the real uv, made-up packages and a local package index."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fakes.static_server import StaticServer
from fakes.tools import site_packages_of, wheel_of_package

from builder.toolchain.torch_env import installed_packages
from builder.toolchain.venv import install_wheel, make_clean_venv, why_not_index
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


def test_an_index_is_one_that_lists_such_a_torch(default_index: StaticServer) -> None:
    assert why_not_index(default_index.url) == ""
    assert why_not_index(default_index.url, "2.11.0") == ""
    assert why_not_index(default_index.url, "2.11") == "its page of torch lists no torch 2.11"
    assert why_not_index(f"{default_index.url}/none/") == "the server answered 404 File not found"
    assert "refused" in why_not_index("http://127.0.0.1:9")
    (default_index.folder / "torch" / "index.html").write_text("<h1>Please log in</h1>")
    assert why_not_index(default_index.url) == "its page of torch lists no torch"
