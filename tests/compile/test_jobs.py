"""Jobs from cores and memory, read from folders as the kernel shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compile.jobs import GIB, JOB_BYTES, available_memory_bytes, cores, plan_jobs

KIB = GIB // 1024
BUILD = "cgroup/pod/build"


def limits(tmp_path: Path, files: dict[str, object]) -> tuple[int, float]:
    """Return cores and GiB of a process in /pod/build, on a machine of 8 cores with 20 GiB free."""
    machine = {
        "proc/meminfo": f"MemTotal: {32 * KIB} kB\nMemAvailable: {20 * KIB} kB",
        "proc/self/cgroup": "0::/pod/build",
        "cgroup/cgroup.controllers": "cpu memory",
    }
    for name, text in {**machine, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    return cores(proc, cgroup, 8), available_memory_bytes(proc, cgroup) / GIB


def test_without_limits_the_affinity_and_the_kernels_figure_count(tmp_path: Path) -> None:
    assert limits(tmp_path, {}) == (8, 20)
    unlimited = {"cpu.max": "max 100000", "memory.max": "max", "memory.current": GIB}
    assert limits(tmp_path, {f"{BUILD}/{name}": text for name, text in unlimited.items()}) == (8, 20)
    sandbox = f"MemFree: {KIB} kB\nBuffers: {KIB} kB\nCached: {2 * KIB} kB"
    assert limits(tmp_path, {"proc/meminfo": sandbox}) == (8, 4)


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("150000", 2), ("10000", 1), ("6400000", 8)])
def test_a_quota_limits_the_cores(tmp_path: Path, quota: str, expected: int) -> None:
    assert limits(tmp_path, {f"{BUILD}/cpu.max": f"{quota} 100000"})[0] == expected


# In a container the name can be the host's, which isn't there below the mount.
@pytest.mark.parametrize("group", ["pod/build", "pod", ""])
def test_the_limits_of_a_group_and_of_those_around_it_count(tmp_path: Path, group: str) -> None:
    files = {
        "cpu.max": "300000 100000",
        "memory.high": 6 * GIB,
        "memory.max": 8 * GIB,
        "memory.current": 2 * GIB,
    }
    assert limits(tmp_path, {f"cgroup/{group}/{name}": text for name, text in files.items()}) == (3, 4)


def test_file_cache_counts_as_free(tmp_path: Path) -> None:
    files: dict[str, object] = {f"{BUILD}/memory.max": 4 * GIB, f"{BUILD}/memory.current": 5 * GIB}
    assert limits(tmp_path, files)[1] == 0
    half = GIB // 2
    stat = f"anon {GIB}\nactive_file {half}\ninactive_file {GIB}\nslab_reclaimable {half}\nshmem {GIB}"
    assert limits(tmp_path, {**files, f"{BUILD}/memory.stat": stat})[1] == 1


@pytest.mark.parametrize("memory_gib", [0.0, 0.5, 3.5, 512.0])
def test_a_plan_is_at_least_one_job_and_stays_inside(memory_gib: float) -> None:
    memory_bytes = int(memory_gib * GIB)
    plan = plan_jobs(2, memory_bytes, None)
    assert 1 <= plan.jobs <= 2
    stays_inside = plan.jobs * JOB_BYTES + GIB // 2 <= memory_bytes
    assert stays_inside is ("it may run out of memory" not in plan.reason)


def test_a_plan_gives_its_reason() -> None:
    assert plan_jobs(1, 8 * GIB, None).reason.startswith("1 job: 1 core, 8.0 GiB free")
    reason = "4 jobs: 32 cores, 3.6 GiB free at 0.7 GiB a compiler process"
    assert plan_jobs(32, int(3.6 * GIB), None).reason == reason
    assert plan_jobs(2, 8 * GIB, 4).reason.startswith("4 jobs: as asked for, 8.0 GiB free at 0.7 GiB")
    assert "enough for 0: it may run out of memory" in plan_jobs(2, GIB, 4).reason
