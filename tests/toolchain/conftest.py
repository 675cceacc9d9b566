"""A made-up CUDA compiler in packages, and made-up package indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.static_server import StaticServer, serving
from fakes.tools import gxx, install_package, target, toolkit, torch_wheel, wheel_of_package

from builder.target.options import BuildOptions
from builder.target.targets import Target
from builder.toolchain.cuda_home import Toolchain, resolve
from builder.toolchain.gxx import find_gxx


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
        wanted = wanted or target()
        return resolve(wanted, asked, [site_packages], find_gxx(wanted.cuda, {"PATH": str(path)}))

    return call


@pytest.fixture
def default_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StaticServer]:
    """The default index, with torch for CUDA 13.0 and a compiler package."""
    with serving(tmp_path / "default") as index:
        for name in ("UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS", "UV_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
        monkeypatch.setenv("UV_NO_CONFIG", "1")
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        torch_wheel(index.folder, "2.11.0", "13.0")
        needs = ("nvidia-cuda-nvcc==13.0.88.*; extra == 'nvcc'",)
        wheel_of_package(
            index.folder / "cuda-toolkit", "cuda-toolkit", "13.0.2", requires=needs, extras=("nvcc",)
        )
        wheel_of_package(index.folder / "nvidia-cuda-nvcc", "nvidia-cuda-nvcc", "13.0.88")
        yield index


@pytest.fixture
def torch_index(tmp_path: Path) -> Iterator[StaticServer]:
    """An index as PyTorch's: its torch has a local version, and it mirrors a compiler package, too old."""
    with serving(tmp_path / "pytorch") as index:
        torch_wheel(index.folder, "2.11.0+cu130", "13.0")
        wheel_of_package(index.folder / "cuda-toolkit", "cuda-toolkit", "12.0.0")
        yield index
