"""A stand-in with SageAttention's shape goes the whole way: packages' nvcc, torch, auditwheel, a clean venv.

No GPU and no CUDA toolkit is needed; the default package index is. The stand-in is compiled by the code
that compiles SageAttention (`build_extensions.py` and `csrc/stable/` of the series), over its own kernels.
"""

from __future__ import annotations

import http.server
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from email.parser import Parser
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from fakes.series import E2E, write_series
from fakes.static_server import serving

from builder import build, reproduce
from builder.finish.store import read_record
from builder.target.options import BuildOptions
from builder.target.targets import Target, load_targets
from builder.util.errors import ArchitectureError, CompileError, PatchError
from builder.util.files import ROOT, file_sha256
from builder.wheel.elf import read_elf
from builder.wheel.fatbin import cubin_architectures, read_fatbin
from builder.wheel.sbom import read
from builder.wheel.wheelfile import Wheel

pytestmark = pytest.mark.e2e

ARCHITECTURES = "8.0;9.0a"


@pytest.fixture(scope="session")
def patches_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of patches for the stand-in, under the name of the release that the targets build."""
    root = tmp_path_factory.mktemp("patches")
    write_series(root / "v2.2.0")
    return root


@pytest.fixture(scope="session")
def target() -> Target:
    return load_targets()["cp312-cu130"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class _BreakingServer(http.server.BaseHTTPRequestHandler):
    """Serves one archive; the first answer breaks off in the middle."""

    content: ClassVar[bytes] = b""
    answers: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        answer = self.content if self.answers else self.content[: len(self.content) // 2]
        self.answers.append(len(answer))
        self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        pass


@pytest.fixture(scope="session")
def archive_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    archive = tmp_path_factory.mktemp("archive") / "minisage-2.2.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(E2E / "minisage", "minisage-2.2.0")
    _BreakingServer.content = archive.read_bytes()
    _BreakingServer.answers = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BreakingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/minisage-2.2.0.tar.gz"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def decoy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with an nvcc that tells on whoever runs it."""
    folder = tmp_path_factory.mktemp("decoy")
    for name in ("nvcc", "cicc", "ptxas"):
        program = folder / name
        program.write_text(f"#!/bin/sh\ntouch {folder}/was-run\nexit 1\n")
        program.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory, cache: Path, archive_url: str) -> BuildOptions:
    return BuildOptions(
        source=archive_url,
        arch=ARCHITECTURES,
        cache_dir=cache,
        wheelhouse=tmp_path_factory.mktemp("wheelhouse"),
    )


@pytest.fixture(scope="session")
def built(
    target: Target,
    options: BuildOptions,
    patches_root: Path,
    decoy: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """Both wheels, built with a decoy nvcc first on PATH and no CUDA_HOME."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PATH", f"{decoy}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("CUDA_HOME", raising=False)
        return build.build(
            target, options, patches_root=patches_root, work_root=tmp_path_factory.mktemp("work")
        )


def test_two_wheels_with_their_records(built: list[Path], options: BuildOptions) -> None:
    assert [wheel.name for wheel in built] == [
        "sageattention-2.2.0+cu130.torch2.11.2.sm80.sm90a-cp312-cp312-linux_x86_64.whl",
        "sageattention-2.2.0+cu130.torch2.11.2.sm80.sm90a-cp312-cp312-manylinux_2_34_x86_64.whl",
    ]
    assert sorted(path.name for path in options.wheelhouse.iterdir()) == sorted(
        name for wheel in built for name in (wheel.name, wheel.name + ".json")
    )
    record = read_record(built[0])
    assert record["obtained_from"] == options.source
    assert record["cost"]["cpu_seconds"] > 1
    assert 50e6 < record["cost"]["peak_process_memory_bytes"] < 800e6
    with Wheel(built[0]) as wheel:
        sbom = read(wheel)
    assert sbom is not None
    assert sbom.verified
    assert sbom.of_kind("patch")[0].name.endswith("/0001-build.toml")
    assert sbom.tool_version("nvidia-cuda-nvcc").startswith("13.0.")


def test_a_folder_with_the_same_files_makes_the_same_wheels(
    built: list[Path], target: Target, options: BuildOptions, patches_root: Path, tmp_path: Path
) -> None:
    tree = _tree(tmp_path)
    (tree / "setup.py").chmod(0o755)
    (tree / "bench").mkdir()
    (tree / "bench" / "bench.py").write_text("no build reads this\n")
    asked = replace(options, source=str(tree), wheelhouse=tmp_path / "wheelhouse")
    wheels = build.build(target, asked, patches_root=patches_root, work_root=tmp_path / "work")
    assert [file_sha256(wheel) for wheel in wheels] == [file_sha256(wheel) for wheel in built]


def test_a_broken_download_is_retried(built: list[Path]) -> None:
    half, whole = len(_BreakingServer.content) // 2, len(_BreakingServer.content)
    assert _BreakingServer.answers[:2] == [half, whole]


def test_nothing_on_path_was_picked_up(built: list[Path], decoy: Path) -> None:
    assert not (decoy / "was-run").exists()


def test_metadata_requires_the_torch_series(built: list[Path]) -> None:
    for wheel in built:
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            metadata = Parser().parsestr(archive.read(name).decode())
        assert metadata["Version"] == "2.2.0+cu130.torch2.11.2.sm80.sm90a"
        assert metadata.get_all("Requires-Dist") == ["torch==2.11.*"]


def test_only_the_pep_600_wheel_brings_the_cuda_runtime(built: list[Path]) -> None:
    basic, repaired = (zipfile.ZipFile(wheel).namelist() for wheel in built)
    assert not [name for name in basic if "libcudart" in name]
    assert [name for name in repaired if "libcudart" in name]
    assert not [name for name in (*basic, *repaired) if "libtorch" in name or "libc10" in name]


def test_each_extension_has_its_architectures(built: list[Path], tmp_path: Path) -> None:
    found = {}
    with zipfile.ZipFile(built[0]) as archive:
        for name in archive.namelist():
            if name.endswith(".so"):
                library = Path(archive.extract(name, tmp_path))
                codes = read_fatbin(read_elf(library.read_bytes(), name).fatbin)
                found[library.name] = {str(architecture) for architecture in cubin_architectures(codes)}
    assert found == {
        "_qattn_sm80.so": {"8.0", "9.0a"},
        "_qattn_sm89.so": {"9.0a"},
        "_qattn_sm90.so": {"9.0a"},
        "_fused.so": {"8.0", "9.0a"},
    }


def test_second_run_is_up_to_date_without_compiling(
    built: list[Path],
    target: Target,
    options: BuildOptions,
    patches_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = [wheel.stat().st_mtime_ns for wheel in built]
    assert build.build(target, options, patches_root=patches_root, work_root=tmp_path) == built
    assert "Up to date" in capsys.readouterr().out
    assert [wheel.stat().st_mtime_ns for wheel in built] == before


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _tree(tmp_path: Path) -> Path:
    return Path(shutil.copytree(E2E / "minisage", tmp_path / "minisage"))


def test_failed_compile_leaves_the_wheelhouse_as_it_was(
    built: list[Path], target: Target, options: BuildOptions, patches_root: Path, tmp_path: Path
) -> None:
    tree = _tree(tmp_path)
    broken = tree / "csrc" / "fused" / "fused.cu"
    broken.write_text(broken.read_text() + "\nthis is no C++\n")
    before = _snapshot(options.wheelhouse)
    with pytest.raises(CompileError, match="this is no C") as caught:
        build.build(
            target, replace(options, source=str(tree)), patches_root=patches_root, work_root=tmp_path / "work"
        )
    assert "log" in str(caught.value)
    assert _snapshot(options.wheelhouse) == before


def test_patch_that_does_not_apply_names_itself(
    built: list[Path], target: Target, options: BuildOptions, patches_root: Path, tmp_path: Path
) -> None:
    tree = _tree(tmp_path)
    (tree / "README.md").write_text("Something else.\n")
    with pytest.raises(PatchError, match=r"0003-readme\.toml: replace 1 .* matches 0 times in README\.md"):
        build.build(
            target, replace(options, source=str(tree)), patches_root=patches_root, work_root=tmp_path / "work"
        )


def test_architecture_that_the_compiler_lacks_stops_the_build(
    target: Target, options: BuildOptions, patches_root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArchitectureError, match=r"7\.5"):
        build.build(target, replace(options, arch="7.5"), patches_root=patches_root, work_root=tmp_path)


def test_interrupted_build_leaves_nothing(
    built: list[Path], target: Target, options: BuildOptions, patches_root: Path, tmp_path: Path
) -> None:
    before = _snapshot(options.wheelhouse)
    code = (
        "import sys, threading, os, signal, time; from pathlib import Path; from dataclasses import replace\n"
        "import pickle; from builder import build\n"
        # A shell's background job starts with the signal ignored, and so does all that it runs.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "target, options, root, work = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "def interrupt():\n"
        "    while not list(work.glob('*/scratch/source/build/objects')): time.sleep(0.05)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=interrupt, daemon=True).start()\n"
        "build.build(target, options, patches_root=root, work_root=work)\n"
    )
    import pickle  # noqa: PLC0415 - only here

    force = replace(options, source=str(E2E / "minisage"), force=True, cache=False)
    argument = pickle.dumps((target, force, patches_root, tmp_path / "work")).hex()
    run = subprocess.run(
        [sys.executable, "-c", code, argument], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "KeyboardInterrupt" in run.stderr
    assert _snapshot(options.wheelhouse) == before
    assert not list((tmp_path / "work").glob("*/scratch"))


def test_a_build_is_equal_to_a_wheel_at_an_address(
    built: list[Path],
    patches_root: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    archive_url: str,
) -> None:
    monkeypatch.setattr(reproduce, "build", partial(build.build, patches_root=patches_root))
    with serving(built[1].parent) as server:
        arguments = ["--against", f"{server.url}/{built[1].name}", "--source", archive_url]
        assert reproduce.main(["cp312-cu130", *arguments, "--cache-dir", str(cache)]) == 0
    said = capsys.readouterr().out
    assert f"equal: {built[1].name}" in said
    assert "architectures: as asked for: 8.0, 9.0a" in said


def test_two_builds_under_different_conditions_are_equal(
    patches_root: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reproduce, "build", partial(build.build, patches_root=patches_root))
    source = str(E2E / "minisage")
    arguments = ["--source", source, "--arch", ARCHITECTURES, "--cache-dir", str(cache), "--jobs", "2"]
    assert reproduce.main(["cp312-cu130", *arguments]) == 0
    said = capsys.readouterr().out
    assert said.count("equal: sageattention-2.2.0+cu130.torch2.11.2.sm80.sm90a-cp312-cp312-") == 2
    assert "compiler cache" not in said
