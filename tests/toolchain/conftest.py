"""A made-up CUDA compiler in packages, and what the builder chooses of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_tools import gxx, install_package, target, toolkit

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain.choice import resolve
from builder.toolchain.compilers import Toolchain


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """An environment with a CUDA 13 compiler in packages, spread over two of them."""
    folder = tmp_path / "venv" / "site-packages"
    parts = {f"nvidia/cu13/{name}": text for name, text in toolkit("13.0.88").items()}
    runtime = {name: text for name, text in parts.items() if "/include/cuda_" in name or "/lib/" in name}
    rest = {name: text for name, text in parts.items() if name not in runtime}
    install_package(folder, "nvidia-cuda-nvcc", "13.0.88", rest)
    install_package(folder, "nvidia-cuda-runtime", "13.0.96", runtime)
    install_package(folder, "torch", "2.11.0", {"torch/version.py": "__version__ = '2.11.0'\n"})
    return folder


@pytest.fixture
def have(tmp_path: Path, site_packages: Path) -> Callable[..., Toolchain]:
    """`resolve` with a made-up g++ on PATH."""
    bin_folder = tmp_path / "hostbin"
    gxx(bin_folder / "g++", "12.2.0")

    def call(wanted: Target | None = None, path: Path = bin_folder, **options: object) -> Toolchain:
        asked = BuildOptions(cache_dir=tmp_path / "cache", **options)  # type: ignore[arg-type]
        return resolve(wanted or target(), asked, site_packages, {"PATH": str(path)})

    return call
