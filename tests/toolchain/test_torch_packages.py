"""Which torch is installed from where, with the real uv, made-up packages and local package indexes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_tools import install_package, site_packages_of, target, torch_wheel, wheel_of_package
from static_server import StaticServer, serving

from builder.target.options import BuildOptions
from builder.toolchain.materials import installed_packages
from builder.toolchain.torch_packages import (
    InstalledTorch,
    install,
    installed_torch,
    unmet,
    why_not_torch,
)
from builder.util.errors import TorchEnvironmentError
from builder.util.paths import ROOT

TARGET = target(toolchain_packages=("cuda-toolkit[nvcc]==13.0.2",))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "import typing\n__version__ = '2.11.0+cu130'\ncuda: Optional[str] = '13.0'\nhip = None\n",
            InstalledTorch("2.11.0+cu130", "13.0"),
        ),
        ("__version__ = '2.11.0+cpu'\ncuda: Optional[str] = None\n", InstalledTorch("2.11.0+cpu", None)),
        ("__version__ = '2.11.0'\n", InstalledTorch("2.11.0", None)),
        ("debug = False\n", None),
        ("not Python", None),
        ("__version__ = '2.11.0\0'\n", None),
        ("__version__ = 'newest'\n", None),
        ("__version__ = " + "(" * 10_000, None),
        (None, None),
    ],
)
def test_torchs_versions_are_read_without_importing_it(
    tmp_path: Path, text: str | None, found: InstalledTorch | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    if text is not None:
        (tmp_path / "torch" / "version.py").write_text(text)
    assert installed_torch(tmp_path) == found


@pytest.mark.parametrize(
    ("torch", "reason"),
    [
        (InstalledTorch("2.11.0+cu130", "13.0"), ""),
        (InstalledTorch("2.11.0", "13.0"), ""),
        (InstalledTorch("2.11.0+cu128", "12.8"), "built for CUDA 12.8, and the target is CUDA 13.0"),
        (InstalledTorch("2.11.0+cpu", None), "without CUDA"),
        (InstalledTorch("2.11.1+cu130", "13.0"), "the target is torch 2.11.0"),
        (InstalledTorch("2.10.0+cu130", "13.0"), "the target is torch 2.11.0"),
    ],
)
def test_which_torch_fits(torch: InstalledTorch, reason: str) -> None:
    said = why_not_torch(torch, TARGET)
    assert reason in said
    assert bool(said) is bool(reason)


def test_unmet_requirements_with_extras(tmp_path: Path) -> None:
    wanted = ["cuda-toolkit[cccl,nvcc]==13.0.2", "torch==2.11.0"]
    assert unmet(tmp_path, wanted) == wanted
    install_package(tmp_path, "torch", "2.11.0")
    install_package(
        tmp_path,
        "cuda-toolkit",
        "13.0.2",
        requires=(
            "nvidia-cuda-nvcc==13.0.88.*; extra == 'nvcc'",
            "nvidia-cuda-cccl==13.0.85.*; extra == 'cccl'",
            "nvidia-cublas==13.1.*; extra == 'cublas'",
        ),
        extras=("nvcc", "cccl", "cublas"),
    )
    install_package(tmp_path, "nvidia_cuda.nvcc", "13.0.88")
    install_package(tmp_path, "nvidia-cuda-cccl", "13.1.0")
    assert [text.partition(";")[0] for text in unmet(tmp_path, wanted)] == ["nvidia-cuda-cccl==13.0.85.*"]
    assert unmet(tmp_path, ["cuda-toolkit[nvcc]==13.0.2", "torch==2.11.0"]) == []
    assert unmet(tmp_path, ["torch==2.12.0"]) == ["torch==2.12.0"]


@pytest.fixture
def installing(tmp_path: Path, python: Path) -> Callable[..., str]:
    """`install` into that environment."""

    def call(index: str = "http://127.0.0.1:9/whl", **options: object) -> str:
        asked = BuildOptions(cache_dir=tmp_path, **options)  # type: ignore[arg-type]
        return install(target(torch_index=index), asked, python)

    return call


def test_torch_comes_from_the_targets_index(
    installing: Callable[..., str], python: Path, torch_index: StaticServer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert installing(torch_index.url) == "2.11.0+cu130"
    parts = {part.name: part for part in installed_packages(site_packages_of(python))}
    assert parts["cuda-toolkit"].version == "13.0.2"
    assert parts["nvidia-cuda-nvcc"].version == "13.0.88"
    assert "warning" not in capfd.readouterr().err


def test_what_torch_needs_is_installed_as_it_is_locked(
    installing: Callable[..., str], python: Path, torch_index: StaticServer
) -> None:
    """By version alone: an index may have rebuilt what it mirrors."""
    lock = (ROOT / "builder" / "requirements.txt").read_text()
    locked = re.search(r"^jinja2==(\S+)", lock, re.MULTILINE)
    assert locked
    torch_wheel(torch_index.folder, "2.11.0+cu130", "13.0", "jinja2")
    for version in (locked[1], "99.0"):
        wheel_of_package(torch_index.folder / "jinja2", "jinja2", version)
    installing(torch_index.url)
    assert (site_packages_of(python) / f"jinja2-{locked[1]}.dist-info").is_dir()


def test_what_is_there_is_left_alone(
    installing: Callable[..., str], default_index: StaticServer, torch_index: StaticServer
) -> None:
    installing(torch_index.url)
    asked = len(default_index.requests) + len(torch_index.requests)
    assert installing(torch_index.url) == "2.11.0+cu130"
    assert len(default_index.requests) + len(torch_index.requests) == asked


def test_the_default_index_serves_where_the_targets_cannot_be_reached(
    installing: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert installing() == "2.11.0"
    assert (
        "can't be reached (no connection); installing torch from the default index" in capfd.readouterr().err
    )


def test_the_default_index_serves_where_the_targets_does_not_deliver(
    installing: Callable[..., str], torch_index: StaticServer, capfd: pytest.CaptureFixture[str]
) -> None:
    # As PyTorch's own index does, this one names files on another host.
    page = '<a href="http://127.0.0.1:9/torch-2.11.0%2Bcu130-py3-none-any.whl">torch-2.11.0+cu130-py3-none-any.whl</a>'
    (torch_index.folder / "torch" / "index.html").write_text(page)
    assert installing(torch_index.url) == "2.11.0"
    assert "does not deliver torch 2.11.0" in capfd.readouterr().err


def test_a_torch_index_that_was_asked_for_is_not_replaced(
    installing: Callable[..., str], python: Path
) -> None:
    with pytest.raises(TorchEnvironmentError) as caught:
        installing(torch_index="http://127.0.0.1:9/other")
    assert "http://127.0.0.1:9/other can't be reached" in caught.value.message
    assert installed_torch(site_packages_of(python)) is None


def test_an_index_without_torch_is_not_taken(
    installing: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path / "empty") as index:
        assert installing(index.url) == "2.11.0"
    assert "it answers 404" in capfd.readouterr().err


@pytest.mark.parametrize(("cuda", "message"), [("12.8", "built for CUDA 12.8"), (None, "without CUDA")])
def test_torch_for_another_cuda_stops_the_build(
    installing: Callable[..., str], default_index: StaticServer, cuda: str | None, message: str
) -> None:
    torch_wheel(default_index.folder, "2.11.0", cuda)
    with pytest.raises(TorchEnvironmentError, match=message) as caught:
        installing()
    assert "--torch-index" in caught.value.remedy


def test_torch_for_another_cuda_is_replaced(
    installing: Callable[..., str], default_index: StaticServer, torch_index: StaticServer
) -> None:
    torch_wheel(default_index.folder, "2.11.0", None)
    with pytest.raises(TorchEnvironmentError):
        installing()
    assert installing(torch_index.url) == "2.11.0+cu130"


def test_a_toolkit_of_the_users_saves_the_compilers_packages(
    installing: Callable[..., str], python: Path
) -> None:
    installing(cuda_home=Path("/opt/cuda"), cuda_home_from="--cuda-home")
    names = [part.name for part in installed_packages(site_packages_of(python))]
    assert names == ["torch"]


def test_what_no_index_has_is_an_error(tmp_path: Path, python: Path) -> None:
    missing = target(toolchain_packages=("cuda-toolkit[nvcc]==99.0",))
    with pytest.raises(TorchEnvironmentError, match=r"cuda-toolkit\[nvcc\]==99\.0 could not be installed"):
        install(missing, BuildOptions(cache_dir=tmp_path), python)
