"""The record of a build: what went in, what it cost, and what it teaches the next one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_libraries import pack_wheel
from made_up_provenance import NAME, SOURCE, TARGET, TOLD

from builder.check.audit import audit_wheel
from builder.compile.compiler_cache import Stats
from builder.compile.frontend import Compiled
from builder.compile.progress import FileCost
from builder.finish.finalize import finalize
from builder.finish.record import disagreements, for_wheel, learnt_costs, make_record
from builder.finish.sbom import own_sbom
from builder.finish.wheelhouse import record_path
from builder.source.patches import Applied
from builder.target.architectures import Architecture
from builder.target.selection import Selection
from builder.toolchain.compilers import Toolchain
from builder.toolchain.host_compiler import HostCompiler
from builder.toolchain.materials import Material
from builder.util.digest import file_sha256
from builder.wheel.wheelfile import Wheel


def _record(**files: FileCost) -> dict[str, Any]:
    parts = (
        Material("build-tool", "nvidia-cuda-nvcc", "13.0.88", "a" * 64, "pkg:pypi/nvidia-cuda-nvcc@13.0.88"),
        Material("build-tool", "bare", "1"),
    )
    host = HostCompiler(Path("/usr/bin/g++"), "14.2.0")
    record = make_record(
        target=TARGET,
        selection=Selection((Architecture(8, 9),), "asked for", complete=False),
        source=SOURCE,
        applied=[Applied("0001-build.toml", "b" * 64, "3 hunks")],
        toolchain=Toolchain(Path("/cuda"), "13.0.88", "packages", parts, host, Path("/host"), "id"),
        torch_version="2.11.0+cu130",
        compiled=Compiled(Path("a.whl"), Path("log"), 61.23, 120.04, 700_000_000, files),
        jobs=2,
        cache=Stats(1, 2, 1, ("compile_failed",), 1, "redis://cache.example"),
        fingerprint="f" * 64,
        durations_seconds={"compile": 61.23},
    )
    assert json.loads(json.dumps(record))["target"] == TARGET.name
    return record


def test_a_record_names_what_went_in_and_what_it_cost() -> None:
    record = _record(b=FileCost(1.234, 2.345, 6), a=FileCost(60.0, 0.0, 0))
    assert record["architectures"] == ["8.9"]
    assert record["complete"] is False
    assert record["torch"] == {"built_with": "2.11.0+cu130", "requirement": "torch==2.11.*"}
    assert record["source"]["sha256"] == SOURCE.sha256
    assert record["source"]["verified"] is True
    assert (record["source"]["tag"], record["source"]["commit"]) == ("v2.2.0", SOURCE.commit)
    assert record["source"]["obtained_from"] == "checkout"
    assert record["patches"] == [{"name": "0001-build.toml", "sha256": "b" * 64, "summary": "3 hunks"}]
    assert record["toolchain"]["nvcc"] == "13.0.88"
    assert record["toolchain"]["host_compiler"] == "14.2.0"
    known, bare = record["toolchain"]["components"]
    assert known["purl"] == "pkg:pypi/nvidia-cuda-nvcc@13.0.88"
    assert bare == {"name": "bare", "version": "1", "sha256": None, "purl": None}
    assert record["cost"]["cpu_seconds"] == 120.0
    assert record["cost"]["compiler_cache"] == {
        "hits": 1,
        "misses": 2,
        "uncached": 1,
        "reasons": ("compile_failed",),
        "remote_hits": 1,
        "remote": "redis://cache.example",
    }
    assert list(record["cost"]["files"]) == ["a", "b"]
    assert record["cost"]["files"]["b"] == {"seconds": 1.23, "cpu_seconds": 2.35, "peak_memory_bytes": 6}
    assert record["durations_seconds"] == {"compile": 61.2}


def test_each_wheel_gets_its_own_digest_and_checks(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"wheel")
    record = _record()
    bundled = [{"name": "a.libs/b.so", "sha256": "1" * 64}]
    done = for_wheel(record, wheel, bundled=bundled, checks=("audit", "import"), wheels_of_build=2)
    assert done["wheel"] == {
        "name": "a.whl",
        "sha256": file_sha256(wheel),
        "size_bytes": 5,
        "bundled": bundled,
        "checks": ["audit", "import"],
    }
    assert done["wheels_of_build"] == 2
    assert {**record, "wheel": done["wheel"], "wheels_of_build": 2} == done


def test_costs_are_learnt_from_builds_without_cache_hits() -> None:
    def built(hits: int, **seconds: float) -> dict[str, Any]:
        files = {name: {"seconds": value} for name, value in seconds.items()}
        return {"cost": {"compiler_cache": {"hits": hits}, "files": files}}

    records = [built(0, a=5, b=1), built(0, a=3, c=2), built(1, a=99), {}, {"cost": {"files": {"d": {}}}}]
    assert learnt_costs(records) == {"a": 5, "b": 1, "c": 2, "d": 0}


def finished(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A finished wheel, and its record."""
    built = pack_wheel(
        tmp_path / "in", NAME, {"sageattention/core.py": b""}, ["Requires-Dist: torch==2.11.*"]
    )
    tools = (*TOLD.tools, Material("build-tool", "bare", "1"))
    told = replace(TOLD, architectures=(Architecture(8, 9),), tools=tools)
    wheel = finalize(built, told, tmp_path / "out")
    (patch,) = (patch for patch in TOLD.patches if patch.summary)
    record = {**_record(), "patches": [{"name": patch.name, "sha256": patch.sha256}]}
    return wheel, for_wheel(record, wheel, bundled=[], checks=[], wheels_of_build=1)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (["source", "verified"], False, "source.verified is False, and its SBOM says True"),
        (["source", "sha256"], "0" * 64, "source.sha256 is "),
        (["source", "kind"], "directory", "source.kind is 'directory', and its SBOM says 'release'"),
        (["source"], None, "source.kind is None"),
        (["source"], [[]], "source.kind is None"),
        (["architectures"], ["8.9", "9.0a"], "architectures is ['8.9', '9.0a'], and its SBOM says ['8.9']"),
        (
            ["torch", "requirement"],
            "torch",
            "torch.requirement is 'torch', and its SBOM says 'torch==2.11.*'",
        ),
        (["patches"], [], "patches is [], and its SBOM says [('"),
        (["patches"], [{"name": 1}], "patches is [('1',)], and its SBOM says [('0001-build.toml',)]"),
        (["patches"], 7, "patches is 7, "),
        (["wheel", "sha256"], "0" * 64, "wheel.sha256 is "),
        (["wheel", "bundled"], [{"name": "a", "sha256": "b"}], "wheel.bundled is [('a', 'b')], "),
        (["toolchain", "components"], 1, "toolchain.components is 1, "),
        (
            ["toolchain", "components"],
            [{"name": "bare", "version": "2"}],
            "toolchain.components is [('bare', '2', 'None')], and its SBOM says []",
        ),
        (["target"], "x" * 500, f"target is '{'x' * 119}..., and"),
    ],
)
def test_a_record_that_disagrees_with_the_sbom(
    tmp_path: Path, keys: list[str], value: object, said: str
) -> None:
    path, record = finished(tmp_path)
    with Wheel(path) as wheel:
        assert (sbom := own_sbom(wheel))
        assert disagreements(record, wheel, sbom) == []
        part = record
        for key in keys[:-1]:
            part = part[key]
        part[keys[-1]] = value
        assert disagreements(record, wheel, sbom)[0].startswith(said)


def test_the_audit_compares_the_record_beside_a_wheel(tmp_path: Path) -> None:
    path, record = finished(tmp_path)
    told = record_path(path)

    def said() -> list[str]:
        return [each.message for each in audit_wheel(path).findings if each.check == "build_record"]

    assert said() == []
    told.write_text(json.dumps(record))
    assert said() == []
    record["source"]["verified"] = False
    told.write_text(json.dumps(record))
    assert said() == [f"in {told.name}, source.verified is False, and its SBOM says True"]
    for broken in ("", '{"wheel": 1}', "[" * 9999):
        told.write_text(broken)
        assert said() == [f"{told.name} is not the record of a build"]
