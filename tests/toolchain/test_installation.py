"""What an interrupted installation leaves is found by RECORD, and put right by the next installation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_up_tools import install_package, site_packages_of, target, wheel_of_package
from static_server import StaticServer

from builder.target.options import BuildOptions
from builder.toolchain.installation import damaged_packages, forget
from builder.toolchain.torch_packages import install
from builder.util.errors import TorchEnvironmentError

INFO = "torch-2.11.0.dist-info"
HEADER = "torch/include/torch/a.h"


@pytest.fixture
def torch(tmp_path: Path) -> Path:
    install_package(tmp_path, "torch", "2.11.0", {"torch/version.py": "x = 1\n", HEADER: "int a;\n"})
    return tmp_path


def test_a_whole_package_is_not_damaged(torch: Path) -> None:
    (torch / "torch" / "version.pyc").write_text("")
    (torch / INFO / "RECORD").write_text(
        (torch / INFO / "RECORD").read_text() + "torch/version.pyc,sha256=eA,9\n\n"
    )
    (torch / "stray-1.dist-info").write_text("a file")
    assert damaged_packages(torch) == {}


@pytest.mark.parametrize(
    ("path", "text", "damage"),
    [
        ("torch/version.py", None, "torch/version.py is missing"),
        ("torch/version.py", "x", "torch/version.py is 1 bytes long, and not 6"),
        ("torch/version.py", "x = 2\n", "torch/version.py has a different SHA-256"),
        (HEADER, "int b;\n", f"{HEADER} has a different SHA-256"),
        (f"{INFO}/METADATA", None, f"{INFO}/METADATA is missing"),
        (f"{INFO}/RECORD", None, "it has no RECORD"),
        (f"{INFO}/RECORD", "", f"its RECORD does not list {INFO}/METADATA"),
        (
            f"{INFO}/RECORD",
            f"{INFO}/RECORD,,\n{INFO}/METADATA,sha256=0,x\n",
            "its METADATA or RECORD can't be read: ",
        ),
        (
            f"{INFO}/RECORD",
            f"{INFO}/RECORD,,\n{INFO}/METADATA,sha2",
            "its METADATA or RECORD can't be read: ",
        ),
        (f"{INFO}/RECORD", "\udcff", "its METADATA or RECORD can't be read: "),
    ],
)
def test_a_damaged_package_is_found(torch: Path, path: str, text: str | None, damage: str) -> None:
    (torch / path).unlink()
    if text is not None:
        (torch / path).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert list(damaged_packages(torch)) == [INFO]
    assert damaged_packages(torch)[INFO].startswith(damage)
    forget(torch, INFO)
    assert damaged_packages(torch) == {}


@pytest.mark.parametrize(
    ("metadata", "record"),
    [
        ("Name: torch\nVersion: newest\n", ""),
        ("Name: torch\n", ""),
        ("Name: torch\nVersion: 2.11.0\nRequires-Dist: a @@ b\n", ""),
        ("\udcff", ""),
        ("Name: torch\nVersion: 2.11.0\n", "other.pyc,sha256=a,1\n"),
        ("Name: torch\nVersion: 2.11.0\n", "a" * 200_000 + ",,\n"),
    ],
)
def test_what_later_steps_cannot_read_is_damage(torch: Path, metadata: str, record: str) -> None:
    (torch / INFO / "METADATA").write_bytes(metadata.encode("utf-8", "surrogateescape"))
    (torch / INFO / "RECORD").write_text(f"{INFO}/METADATA,,\n{INFO}/RECORD,,\n{record}")
    assert damaged_packages(torch)[INFO].startswith("its METADATA or RECORD can't be read: ")


@pytest.fixture
def installing(tmp_path: Path, python: Path, default_index: StaticServer) -> Callable[[], str]:
    """Install torch with a header, and what it requires."""
    code = {"torch/version.py": "__version__ = '2.11.0'\ncuda = '13.0'\n", HEADER: "int a;\n"}
    wheel_of_package(default_index.folder / "torch", "torch", "2.11.0", code, ("nvidia-cublas==13.1.0.3",))
    headers = {"nvidia/cu13/include/cublas.h": "int c;\n"}
    wheel_of_package(default_index.folder / "nvidia-cublas", "nvidia-cublas", "13.1.0.3", headers)
    return lambda: install(target(), BuildOptions(cache_dir=tmp_path), python)


@pytest.mark.parametrize(
    "missing",
    [
        ["torch/version.py"],
        [HEADER],
        [f"{INFO}/RECORD", HEADER],
        [f"{INFO}/METADATA", "torch/version.py"],
        [f"{INFO}/RECORD", f"{INFO}/METADATA", "torch/version.py"],
        ["nvidia/cu13/include/cublas.h"],
        [f"nvidia_cublas-13.1.0.3.dist-info/{name}" for name in ("RECORD", "METADATA", "WHEEL", "INSTALLER")],
    ],
)
def test_an_interrupted_installation_is_completed(
    installing: Callable[[], str], python: Path, missing: list[str]
) -> None:
    installing()
    site_packages = site_packages_of(python)
    before = {path: path.read_bytes() for path in site_packages.rglob("*") if path.is_file()}
    for name in missing:
        (site_packages / name).unlink()
    assert installing() == "2.11.0"
    after = {path: path.read_bytes() for path in before if path.exists()}
    assert after.keys() == before.keys()
    assert after[site_packages / HEADER] == b"int a;\n"
    assert damaged_packages(site_packages) == {}


def test_a_requirement_that_was_not_installed_yet(installing: Callable[[], str], python: Path) -> None:
    installing()
    site_packages = site_packages_of(python)
    header = site_packages / "nvidia/cu13/include/cublas.h"
    header.unlink()
    forget(site_packages, "nvidia_cublas-13.1.0.3.dist-info")
    installing()
    assert header.read_text() == "int c;\n"


def test_a_damaged_copy_of_the_installers_is_named(
    installing: Callable[[], str], python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_LINK_MODE", "hardlink")
    installing()
    (site_packages_of(python) / HEADER).write_text("int z;\n")  # into the file that uv's cache shares
    with pytest.raises(TorchEnvironmentError, match="torch is not whole after its installation") as caught:
        installing()
    assert "uv cache clean torch" in caught.value.remedy
