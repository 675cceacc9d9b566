"""What is installed from where, with the real uv, made-up packages and local package indexes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.static_server import StaticServer, serving
from fakes.tools import site_packages_of, target, torch_wheel, wait_for, wheel_of_package

from builder.target.options import BuildOptions
from builder.target.targets import MACHINES
from builder.toolchain import torch_env
from builder.toolchain.torch_env import (
    install_wheel,
    installed_packages,
    is_made,
    make_clean_venv,
    make_folder,
)
from builder.util.errors import TorchEnvironmentError
from builder.util.files import ROOT


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


@pytest.fixture
def installing(tmp_path: Path, default_index: StaticServer) -> Callable[..., str]:
    """`install` for a target with that index of its own."""

    def call(index: str = "http://127.0.0.1:9/whl", **options: object) -> str:
        asked = BuildOptions(cache_dir=tmp_path, **options)  # type: ignore[arg-type]
        return torch_env.install(target(torch_index=index), asked, tmp_path / "packages")

    return call


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where torch goes."""
    return torch_env.sites(target(), tmp_path / "packages")[0]


def versions(site: Path) -> dict[str, str]:
    return {package.name: package.version for package in installed_packages(site)}


def test_torch_comes_from_the_targets_index_and_the_compiler_from_the_default_one(
    installing: Callable[..., str],
    site: Path,
    default_index: StaticServer,
    torch_index: StaticServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert installing(torch_index.url) == "2.11.0+cu130"
    assert versions(site) == {
        "cuda-toolkit": "13.0.2",
        "nvidia-cuda-nvcc": "13.0.88",
        "torch": "2.11.0+cu130",
    }
    assert "warning" not in capfd.readouterr().err
    requests = len(default_index.requests) + len(torch_index.requests)
    assert installing(torch_index.url) == "2.11.0+cu130"
    assert len(default_index.requests) + len(torch_index.requests) == requests


def test_what_torch_needs_is_installed_as_it_is_locked(
    installing: Callable[..., str], site: Path, torch_index: StaticServer
) -> None:
    """By version alone: an index may have rebuilt what it mirrors."""
    lock = (ROOT / "builder" / "requirements.txt").read_text()
    locked = re.search(r"^jinja2==(\S+)", lock, re.MULTILINE)
    assert locked
    torch_wheel(torch_index.folder, "2.11.0+cu130", "13.0", "jinja2")
    for version in (locked[1], "99.0"):
        wheel_of_package(torch_index.folder / "jinja2", "jinja2", version)
    installing(torch_index.url)
    assert versions(site)["jinja2"] == locked[1]


def test_an_interrupted_install_and_other_inputs_make_the_folder_anew(
    installing: Callable[..., str], site: Path, torch_index: StaticServer
) -> None:
    installing(torch_index.url)
    (site / ".made-from").unlink()
    shutil.rmtree(site / "torch")
    installing(torch_index.url)
    assert (site / "torch" / "version.py").is_file()
    assert installing(torch_index.url, cuda_home=Path("/opt/cuda")) == "2.11.0+cu130"
    assert versions(site) == {"torch": "2.11.0+cu130"}


@pytest.mark.parametrize("index", ["nowhere", "empty", "files elsewhere"])
def test_the_default_index_serves_where_the_targets_does_not_deliver(
    installing: Callable[..., str], torch_index: StaticServer, capfd: pytest.CaptureFixture[str], index: str
) -> None:
    address = "http://127.0.0.1:9/whl" if index == "nowhere" else torch_index.url
    if index == "empty":
        shutil.rmtree(torch_index.folder / "torch")
    elif index == "files elsewhere":  # as PyTorch's own index names some on another host
        name = "torch-2.11.0+cu130-py3-none-any.whl"
        page = f'<a href="http://127.0.0.1:9/{name.replace("+", "%2B")}">{name}</a>'
        (torch_index.folder / "torch" / "index.html").write_text(page)
    assert installing(address) == "2.11.0"
    assert (f"warning: {address} can't be reached" in capfd.readouterr().err) is (index != "empty")


def test_an_index_that_is_named_is_the_one_that_is_used(
    installing: Callable[..., str], tmp_path: Path, site: Path, torch_index: StaticServer
) -> None:
    """Even where torch is installed already, and where the default index has a newer build of it."""
    assert installing(torch_index.url) == "2.11.0+cu130"
    with serving(tmp_path / "mirror") as mirror:
        torch_wheel(mirror.folder, "2.11.0", "13.0.1")
        assert installing(torch_index.url, torch_index=mirror.url) == "2.11.0"
    assert "13.0.1" in (site / "torch" / "version.py").read_text()
    assert versions(site)["nvidia-cuda-nvcc"] == "13.0.88"


def test_an_index_that_is_named_and_is_none_is_an_error(
    installing: Callable[..., str], tmp_path: Path, site: Path, torch_index: StaticServer
) -> None:
    installing(torch_index.url)
    with serving(tmp_path / "login") as portal:
        (portal.folder / "torch").mkdir()
        (portal.folder / "torch" / "index.html").write_text("<form>Please log in</form>")
        for address in ("http://127.0.0.1:9/other", portal.url):
            with pytest.raises(TorchEnvironmentError, match=f"{address} .* could not be installed"):
                installing(torch_index.url, torch_index=address)
    assert versions(site)["torch"] == "2.11.0+cu130"


@pytest.mark.parametrize(("cuda", "message"), [("12.8", "built for CUDA 12.8"), (None, "built without CUDA")])
def test_torch_for_another_cuda_stops_the_build_and_is_not_kept(
    installing: Callable[..., str],
    default_index: StaticServer,
    torch_index: StaticServer,
    cuda: str | None,
    message: str,
) -> None:
    torch_wheel(default_index.folder, "2.11.0", cuda)
    with pytest.raises(TorchEnvironmentError, match=message) as caught:
        installing()
    assert "--torch-index" in caught.value.remedy
    assert installing(torch_index.url) == "2.11.0+cu130"


def test_what_no_index_has_is_an_error(tmp_path: Path, default_index: StaticServer) -> None:
    missing = target(toolchain_packages=("cuda-toolkit[nvcc]==99.0",))
    with pytest.raises(TorchEnvironmentError, match=r"cuda-toolkit\[nvcc\]==99\.0 could not be installed"):
        torch_env.install(missing, BuildOptions(cache_dir=tmp_path), tmp_path / "packages")


def test_another_machines_torch_lies_beside_the_compiler(
    tmp_path: Path, torch_index: StaticServer, default_index: StaticServer
) -> None:
    machine = next(machine.name for machine in MACHINES if not machine.is_here)
    wheel_of_package(default_index.folder / "cudart", "cudart", "13.0")
    torch_wheel(torch_index.folder, "2.11.0+cu130", "13.0", "not-needed-to-link")
    wanted = target(
        torch_index=torch_index.url,
        platform_tag=f"manylinux_2_34_{machine}",
        toolchain_runtime=("cudart==13.0",),
    )
    root, options = tmp_path / "packages", BuildOptions(cache_dir=tmp_path)
    assert not torch_env.is_installed(wanted, options, root)
    assert torch_env.install(wanted, options, root) == "2.11.0+cu130"
    assert torch_env.is_installed(wanted, options, root)
    assert not torch_env.is_installed(replace(wanted, toolchain_packages=("another==1",)), options, root)
    theirs, ours = torch_env.sites(wanted, root)
    assert theirs.name == machine
    assert set(versions(theirs)) == {"cudart", "torch"}
    assert set(versions(ours)) == {"cuda-toolkit", "nvidia-cuda-nvcc"}


def test_a_clean_venv_holds_what_was_asked_for(tmp_path: Path, default_index: StaticServer) -> None:
    python = make_clean_venv(tmp_path / "clean", sys.executable, ["torch==2.11.*"], "http://127.0.0.1:9/whl")
    assert set(versions(site_packages_of(python))) == {"torch"}
    for number in ("1", "2"):
        files = {"ours/__init__.py": f"NUMBER = {number}\n"}
        install_wheel(python, wheel_of_package(tmp_path / number, "ours", "1.0", files))
        assert (site_packages_of(python) / "ours" / "__init__.py").read_text() == f"NUMBER = {number}\n"
    again = make_clean_venv(tmp_path / "clean", sys.executable, [])
    assert versions(site_packages_of(again)) == {}
    wheel = wheel_of_package(tmp_path / "wheel", "ours", "1.0", requires=("nowhere==1",))
    with pytest.raises(TorchEnvironmentError, match=r"ours-1\.0-py3-none-any\.whl can't be installed"):
        install_wheel(again, wheel)
    with pytest.raises(TorchEnvironmentError, match="No virtual environment"):
        make_clean_venv(tmp_path / "clean", tmp_path / "no" / "python", [])


def fill(new: Path) -> None:
    new.mkdir()
    (new / "a").write_text("whole")


def test_a_folder_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    assert [make_folder(folder, inputs, fill) for inputs in "1122"] == [True, False, True, False]
    assert is_made(folder, "2")
    (folder / ".made-from").unlink()
    (folder / "b").touch()
    assert make_folder(folder, "2", fill)
    assert not (folder / "b").exists()


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        fill(new)
        raise OSError("disk full")

    make_folder(tmp_path / "folder", "1", fill)
    with pytest.raises(OSError, match="disk full"):
        make_folder(tmp_path / "folder", "2", fail)
    assert is_made(tmp_path / "folder", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".folder.lock"}


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from builder.toolchain.torch_env import make_folder\n"
        "def fill(new): new.mkdir(); (new / 'b').touch(); time.sleep(300)\n"
        "make_folder(Path(sys.argv[1]), '1', fill)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "folder")], cwd=ROOT) as process:
        assert wait_for(lambda: any(tmp_path.glob(".folder.*.part/folder/b")))
        process.kill()
    assert make_folder(tmp_path / "folder", "1", fill)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", ".folder.lock"}
    assert not (tmp_path / "folder" / "b").exists()
