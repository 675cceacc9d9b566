"""The record of a build: what went in, what it cost, and what it teaches the next one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from made_up_provenance import SOURCE, TARGET

from builder.compile.compiler_cache import Stats
from builder.compile.frontend import Compiled
from builder.compile.progress import FileCost
from builder.finish.record import for_wheel, learnt_costs, make_record
from builder.source.patches import Applied
from builder.target.architectures import Architecture
from builder.target.selection import Selection
from builder.toolchain.compilers import Toolchain
from builder.toolchain.host_compiler import HostCompiler
from builder.toolchain.materials import Material
from builder.util.digest import file_sha256


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
        cache=Stats(1, 2, 1, ("compile_failed",)),
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
