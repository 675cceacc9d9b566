"""Jobs from cores and memory, read from folders as the kernel shows them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.compile.jobs import GIB, JOB_BYTES, available_memory_bytes, cores, plan_jobs


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, object], None]:
    """Write files below procfs and the cgroups' mount; the process is in the group /pod/build."""

    def call(name: str, text: object) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")

    call("proc/meminfo", f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB")
    call("proc/self/cgroup", "0::/pod/build")
    call("cgroup/cgroup.controllers", "cpu memory")
    return call


def read(tmp_path: Path) -> tuple[int, float]:
    """Cores, and GiB of memory."""
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    return cores(proc, cgroup, 8), available_memory_bytes(proc, cgroup) / GIB


def test_without_limits_the_affinity_and_the_kernels_figure_count(
    tmp_path: Path, write: Callable[[str, object], None]
) -> None:
    assert read(tmp_path) == (8, 20)
    write("cgroup/pod/build/cpu.max", "max 100000")
    write("cgroup/pod/build/memory.max", "max")
    write("cgroup/pod/build/memory.current", GIB)
    assert read(tmp_path) == (8, 20)
    kib = GIB // 1024
    write("proc/meminfo", f"MemFree: {kib} kB\nBuffers: {kib} kB\nCached: {2 * kib} kB")  # a sandbox
    assert read(tmp_path) == (8, 4)


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("150000", 2), ("10000", 1), ("6400000", 8)])
def test_a_quota_limits_the_cores(
    tmp_path: Path, write: Callable[[str, object], None], quota: str, expected: int
) -> None:
    write("cgroup/pod/build/cpu.max", f"{quota} 100000")
    assert read(tmp_path)[0] == expected


# In a container the name can be the host's, which isn't there below the mount.
@pytest.mark.parametrize("group", ["pod/build", "pod", ""])
def test_the_limits_of_a_group_and_of_those_around_it_count(
    tmp_path: Path, write: Callable[[str, object], None], group: str
) -> None:
    write(f"cgroup/{group}/cpu.max", "300000 100000")
    write(f"cgroup/{group}/memory.high", 6 * GIB)
    write(f"cgroup/{group}/memory.max", 8 * GIB)
    write(f"cgroup/{group}/memory.current", 2 * GIB)
    assert read(tmp_path) == (3, 4)


def test_file_cache_counts_as_free(tmp_path: Path, write: Callable[[str, object], None]) -> None:
    write("cgroup/pod/build/memory.max", 4 * GIB)
    write("cgroup/pod/build/memory.current", 5 * GIB)
    assert read(tmp_path)[1] == 0
    stat = (
        f"anon {GIB}\nactive_file {GIB // 2}\ninactive_file {GIB}\nslab_reclaimable {GIB // 2}\nshmem {GIB}"
    )
    write("cgroup/pod/build/memory.stat", stat)
    assert read(tmp_path)[1] == 1


def test_the_real_machine_has_something() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert available_memory_bytes() > 0


@pytest.mark.parametrize("memory_gib", [0.0, 0.5, 1.2, 3.5, 24.0, 512.0])
@pytest.mark.parametrize("core_count", [1, 2, 128])
def test_a_plan_is_at_least_one_job_and_stays_inside(memory_gib: float, core_count: int) -> None:
    memory_bytes = int(memory_gib * GIB)
    plan = plan_jobs(core_count, memory_bytes, None)
    assert 1 <= plan.jobs <= core_count
    stays_inside = plan.jobs * JOB_BYTES + GIB // 2 <= memory_bytes
    assert stays_inside or (plan.jobs == 1 and "it may run out of memory" in plan.reason)


def test_a_plan_gives_its_reason() -> None:
    assert plan_jobs(1, 8 * GIB, None).reason.startswith("1 job: 1 core, 8.0 GiB free")
    reason = "4 jobs: 32 cores, 3.6 GiB free at 0.7 GiB a compiler process"
    assert plan_jobs(32, int(3.6 * GIB), None).reason == reason
    assert plan_jobs(2, 8 * GIB, 4).reason == "4 jobs: as asked for"
    assert "is enough for 1: it may run out of memory" in plan_jobs(2, GIB, 4).reason
    assert plan_jobs(2, GIB, 4).jobs == 4
