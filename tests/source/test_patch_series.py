"""The series itself: complete, consistent, and its build file's decisions. Needs no upstream source."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from builder.source.series import Rewrite, load_series
from builder.target.architectures import Architecture
from builder.target.upstream import load_release

PATCHES = Path(__file__).resolve().parents[2] / "patches"
VERSIONS = sorted(path.parent for path in PATCHES.glob("*/series"))
FOLDER = PATCHES / "v2.2.0"
FILES = FOLDER / "files"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The build file that goes into upstream's tree, imported from where it lies."""
    sys.dont_write_bytecode = True  # nothing is to lie beside the file
    spec = importlib.util.spec_from_file_location("build_extensions", FILES / "build_extensions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_every_entry_is_in_the_series(folder: Path) -> None:
    entries = {path.name for path in folder.iterdir() if re.match(r"\d{4}-", path.name)}
    assert entries == {entry.name for entry in load_series(folder)}
    assert [entry.name for entry in load_series(folder)] == sorted(entries)


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_every_file_of_ours_is_added_by_an_entry(folder: Path) -> None:
    added = {
        addition.file
        for entry in load_series(folder)
        if isinstance(entry, Rewrite)
        for addition in entry.additions
    }
    there = {
        path.relative_to(folder / "files").as_posix()
        for path in (folder / "files").rglob("*")
        if path.is_file()
    }
    assert {name for name in there if "__pycache__" not in name} == added


@pytest.mark.parametrize("folder", VERSIONS, ids=lambda path: path.name)
def test_every_header_names_a_test(folder: Path) -> None:
    for entry in load_series(folder):
        named = re.findall(r"tests/[\w/]+\.py", entry.header.test)
        assert named or re.search(r"Smoke test|Audit|By hand", entry.header.test), entry.name
        for name in named:
            assert (PATCHES.parent / name).is_file(), f"{entry.name}: {name}"


def added_files(suffix: str) -> list[Any]:
    files = sorted(path for path in FILES.rglob(f"*{suffix}") if "__pycache__" not in path.parts)
    return [pytest.param(path, id=path.relative_to(FILES).as_posix()) for path in files]


@pytest.mark.parametrize("path", added_files(".py"))
def test_added_python_compiles(path: Path) -> None:
    compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize("path", [*added_files(".py"), *added_files(".cpp"), *added_files(".h")])
def test_added_files_say_their_licence_and_fit_the_page(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "SPDX-License-Identifier: Apache-2.0" in text[:600]
    assert [line for line in text.splitlines() if len(line) > 120] == []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


LIBRARIES = {
    "_qattn_sm80": ("csrc/qattn/register_sm80.cpp", "sageattention"),
    "_qattn_sm89": ("csrc/qattn/register_sm89.cpp", "sageattention_sm89"),
    "_qattn_sm90": ("csrc/qattn/register_sm90.cpp", "sageattention_sm90"),
    "_fused": ("csrc/fused/register.cpp", "sageattention_fused"),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_operators_are_defined_implemented_and_named_in_python(name: str) -> None:
    source, namespace = LIBRARIES[name]
    text = (FILES / source).read_text(encoding="utf-8")
    schemas = dict(re.findall(r'm\.def\(\s*"([\w.]+)\(((?:"\s*"|[^"])*)"\)', text))
    assert schemas
    assert set(schemas) == set(re.findall(r'm\.impl\("([\w.]+)"', text))
    assert set(re.findall(r"STABLE_TORCH_LIBRARY\w*\((\w+)", text)) == {namespace}
    for operator, schema in schemas.items():
        makes_its_outputs = operator in {"attention", "prepare", "no_backward"}
        marked = "(a!) output" in schema
        assert marked != makes_its_outputs, f"{operator}: what it writes to is not marked"
    module = (FILES / "sageattention" / f"{name}.py").read_text(encoding="utf-8")
    assert f'operators("{name}", "{namespace}")' in module


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("8.0;8.6;8.9;9.0a;12.0", ["8.0", "8.6", "8.9", "9.0a", "12.0"]),
        ("12.0 9.0a,8.9;8.6;8.0;8.0", ["8.0", "8.6", "8.9", "9.0a", "12.0"]),
        ("9.0", ["9.0a"]),
        ("sm_90a;sm120;compute_86", ["8.6", "9.0a", "12.0"]),
        ("12.1", ["12.1"]),
    ],
)
def test_architectures_have_one_order(build: ModuleType, asked: str, expected: list[str]) -> None:
    assert build.asked_architectures(asked, (13, 0)) == expected


@pytest.mark.parametrize("asked", ["7.5", "10.0", "10.3", "8.7", "9.0+PTX", "Hopper", "sm_100a", "12.0a"])
def test_an_unknown_architecture_ends_the_build(build: ModuleType, asked: str) -> None:
    with pytest.raises(build.BuildError, match="is not an architecture that SageAttention has kernels for"):
        build.asked_architectures(f"8.9;{asked}", (13, 0))


def test_no_architecture_ends_the_build(build: ModuleType) -> None:
    with pytest.raises(build.BuildError, match="Set TORCH_CUDA_ARCH_LIST"):
        build.asked_architectures(" ; ", (13, 0))


def test_an_architecture_of_a_later_cuda_ends_the_build(build: ModuleType) -> None:
    assert build.asked_architectures("9.0a", (12, 4)) == ["9.0a"]
    with pytest.raises(build.BuildError, match=r"12\.0 needs CUDA 12\.8; this is 12\.4"):
        build.asked_architectures("9.0a;12.0", (12, 4))


def test_each_extension_has_the_architectures_that_it_can_have(build: ModuleType) -> None:
    asked = build.asked_architectures("8.0;8.6;8.9;9.0a;12.0", (13, 0))
    assert {library.name: library.architectures(asked) for library in build.LIBRARIES} == {
        "_qattn_sm80": ["8.0", "8.6", "8.9", "9.0a", "12.0"],
        "_qattn_sm89": ["8.9", "9.0a", "12.0"],
        "_qattn_sm90": ["9.0a"],
        "_fused": ["8.0", "8.6", "8.9", "9.0a", "12.0"],
    }
    ampere = [library.name for library in build.LIBRARIES if library.architectures(["8.0"])]
    assert ampere == ["_qattn_sm80", "_fused"]


def test_the_release_lists_what_the_build_file_takes(build: ModuleType) -> None:
    release = load_release(FOLDER)
    assert [str(arch) for arch in release.architectures] == list(build.ARCHITECTURES)
    assert all(isinstance(arch, Architecture) for arch in release.architectures)


def test_what_shares_ptx_names_its_lowest_architecture(build: ModuleType) -> None:
    everything = build.asked_architectures("8.0;8.6;8.9;9.0a;12.0", (13, 0))
    units = {unit.name.split(":")[-1]: unit for library in build.LIBRARIES for unit in library.units}
    assert build._groups(units["qk_int8_sv_f16_accum_f32_attn"], everything) == [
        ["8.0", "8.6", "8.9", "9.0a"],
        ["12.0"],
    ]
    assert build._groups(units["csrc/fused/fused.cu"], everything) == [
        ["8.0", "8.6"],
        ["8.9"],
        ["9.0a"],
        ["12.0"],
    ]
    assert build._groups(units["csrc/fused/fused.cu"], ["9.0a"]) == [["9.0a"]]
    for unit in units.values():
        groups = build._groups(unit, everything)
        assert sorted(arch for group in groups for arch in group) == sorted(everything)
        assert all(group == sorted(group, key=build._order) for group in groups)


def test_no_two_objects_have_one_name(build: ModuleType) -> None:
    units = {unit for library in build.LIBRARIES for unit in library.units} | {build.COMMON}
    assert len({unit.object for unit in units}) == len({unit.name for unit in units}) == len(units)


def test_an_object_of_two_libraries_is_for_the_architectures_of_both(build: ModuleType) -> None:
    everything = list(build.ARCHITECTURES)
    for one, other in itertools.combinations(build.LIBRARIES, 2):
        if set(one.units) & set(other.units):
            assert one.architectures(everything) == other.architectures(everything)


def test_version_and_requirements_come_from_the_environment(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAGEATTENTION_LOCAL_VERSION", raising=False)
    monkeypatch.delenv("SAGEATTENTION_TORCH_REQUIREMENT", raising=False)
    assert (build.version("2.2.0"), build.requirements()) == ("2.2.0", ["torch>=2.8"])
    monkeypatch.setenv("SAGEATTENTION_LOCAL_VERSION", "cu130.torch2.11")
    monkeypatch.setenv("SAGEATTENTION_TORCH_REQUIREMENT", "torch==2.11.*")
    assert (build.version("2.2.0"), build.requirements()) == ("2.2.0+cu130.torch2.11", ["torch==2.11.*"])


class Runs:
    """A pool whose commands are small Python programs."""

    def __init__(self, build: ModuleType, root: Path, jobs: int = 2) -> None:
        self.root = root
        self.pool = build.Pool(jobs, [], str(root / "events"))

    def __call__(self, **programs: str) -> None:
        self.pool.run(
            (name, [sys.executable, "-c", program], self.root / name) for name, program in programs.items()
        )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "events").read_text().splitlines()]


@pytest.fixture
def runs(build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(build, "ROOT", tmp_path)  # the pool's working folder, and where it puts its logs
    return Runs(build, tmp_path)


def test_the_pool_measures_what_it_runs(runs: Runs) -> None:
    runs(a="data = b'x' * 600_000_000", b="pass", c="pass")
    done = {event["file"]: event for event in runs.events() if event["event"] == "done"}
    assert set(done) == {"a", "b", "c"}
    assert all(event["ok"] for event in done.values())
    assert done["a"]["peak_memory_bytes"] > done["b"]["peak_memory_bytes"] + 50_000_000
    assert done["a"]["cpu_seconds"] > 0


def test_a_failure_stops_the_others_and_shows_the_output(build: ModuleType, runs: Runs) -> None:
    with pytest.raises(build.BuildError, match=r"(?s)bad: exit status 3.*the reason"):
        runs(
            slow="import time; open('started', 'w').close(); time.sleep(600)",
            bad="import os, time\n"
            "while not os.path.exists('started'): time.sleep(0.01)\n"
            "print('the reason'); raise SystemExit(3)",
            never="pass",
        )
    assert {event["file"] for event in runs.events() if event["event"] == "start"} == {"slow", "bad"}
    assert [event["ok"] for event in runs.events() if event["event"] == "done"] == [False, False]


def test_terminated_it_takes_the_compilers_with_it(tmp_path: Path) -> None:
    compiler = (
        f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(FILES)!r}); sys.dont_write_bytecode = True\n"
        f"import build_extensions as b, pathlib\n"
        f"b.ROOT = pathlib.Path({str(tmp_path)!r})\n"
        f"b.Pool(1, [], '').run([('a', [sys.executable, '-c', {compiler!r}], b.ROOT / 'a')])\n"
    )
    build = subprocess.Popen([sys.executable, "-c", program])
    pid = tmp_path / "pid"
    for _ in range(2000):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.05)
    build.terminate()
    assert build.wait(timeout=60) == 128 + signal.SIGTERM
    for _ in range(2000):
        if not Path("/proc", pid.read_text()).exists():
            break
        time.sleep(0.05)
    assert not Path("/proc", pid.read_text()).exists()


def test_a_killed_compiler_is_reported_as_killed(build: ModuleType, runs: Runs) -> None:
    with pytest.raises(build.BuildError, match="victim: killed by signal 9"):
        runs(victim="import os; os.kill(os.getpid(), 9)")


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (1, "error: no such thing", "exit status 1"),
        (-9, "", "killed by signal 9"),
        (137, "", "killed by signal 9"),
        (1, "nvcc error   : 'cicc' died due to signal 9 (Kill signal)", "killed by signal 9"),
        (1, "g++: fatal error: Killed signal terminated program cc1plus", "killed by signal 9"),
    ],
)
def test_how_a_compiler_ended(build: ModuleType, code: int, output: str, expected: str) -> None:
    assert build._how_it_ended(code, output) == expected


def test_costs_of_an_earlier_build_set_the_order(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unit = build.Unit("csrc/a.cu", 30)
    assert build._cost(unit, ["8.0", "8.6"], {}) == 60
    (tmp_path / "costs.json").write_text('{"csrc/a.cu": 7}')
    monkeypatch.setenv("SAGEATTENTION_COSTS", str(tmp_path / "costs.json"))
    assert build._cost(unit, ["8.0", "8.6"], build._costs()) == 7
    (tmp_path / "costs.json").write_text("[1]")
    assert build._costs() == {}
    assert "SAGEATTENTION_COSTS is not used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "flags"), [((13, 0), ["--compress-mode=size"]), ((12, 8), ["-Xfatbin=-compress-all"])]
)
def test_compression_follows_the_drivers_that_can_read_it(
    build: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    flags: list[str],
) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {version[0]}.{version[1]}, V'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    toolkit = build.Toolkit()
    assert (toolkit.version, toolkit.fatbin_flags()) == (version, flags)


def test_a_missing_toolkit_is_named(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(build.BuildError, match=str(tmp_path)):
        build.Toolkit()
