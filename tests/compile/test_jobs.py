"""Jobs from cores and memory, read from trees as the kernel shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.compile.jobs import GIB, JOB_BYTES, available_memory_bytes, cores, plan_jobs


class Machine:
    """A made-up /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroup = root / "cgroup"
        self.write(self.proc / "meminfo", f"MemTotal: {32 << 20} kB\nMemAvailable: {20 << 20} kB\n")

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def group(self, name: str = "/user/build") -> Path:
        """The process is in that group; returns the group's folder."""
        self.write(self.proc / "self" / "cgroup", f"0::{name}")
        self.write(self.cgroup / "cgroup.controllers", "cpu memory")
        folder = self.cgroup / name.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def cores(self, affinity: int = 8) -> int:
        return cores(self.proc, self.cgroup, affinity)

    def memory_gib(self) -> float:
        return available_memory_bytes(self.proc, self.cgroup) / GIB


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_cgroups_the_affinity_and_the_kernels_figure_count(machine: Machine) -> None:
    assert machine.cores(6) == 6
    assert machine.memory_gib() == 20


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("max 100000", 8),
        ("6400000 100000", 8),
    ],
)
def test_cpu_quota(machine: Machine, quota: str, expected: int) -> None:
    machine.write(machine.group() / "cpu.max", quota)
    assert machine.cores() == expected


def test_an_outer_groups_limits_count(machine: Machine) -> None:
    inner = machine.group("/pod/container")
    machine.write(inner / "cpu.max", "max 100000")
    machine.write(inner.parent / "cpu.max", "300000 100000")
    machine.write(inner / "memory.max", "max")
    machine.write(inner / "memory.current", GIB)
    machine.write(inner.parent / "memory.max", 6 * GIB)
    machine.write(inner.parent / "memory.current", 2 * GIB)
    assert machine.cores() == 3
    assert machine.memory_gib() == 4


def test_file_cache_counts_as_free(machine: Machine) -> None:
    group = machine.group()
    machine.write(group / "memory.max", 4 * GIB)
    machine.write(group / "memory.current", 3 * GIB)
    assert machine.memory_gib() == 1
    machine.write(
        group / "memory.stat",
        f"anon {GIB}\nactive_file {GIB // 2}\ninactive_file {GIB}\nslab_reclaimable {GIB // 2}\nshmem {GIB}",
    )
    assert machine.memory_gib() == 3


def test_the_lower_of_high_and_max_counts(machine: Machine) -> None:
    group = machine.group()
    machine.write(group / "memory.max", 8 * GIB)
    machine.write(group / "memory.high", 6 * GIB)
    machine.write(group / "memory.current", GIB)
    assert machine.memory_gib() == 5


def test_a_group_over_its_limit_leaves_nothing(machine: Machine) -> None:
    group = machine.group()
    machine.write(group / "memory.max", GIB)
    machine.write(group / "memory.current", 2 * GIB)
    assert machine.memory_gib() == 0


def test_in_a_container_the_mounts_root_is_the_group(machine: Machine) -> None:
    """Without a cgroup namespace the name is the host's, which isn't there below the mount."""
    machine.group("/")
    machine.write(machine.proc / "self" / "cgroup", "0::/../docker/0123")
    machine.write(machine.cgroup / "cpu.max", "200000 100000")
    machine.write(machine.cgroup / "memory.max", 4 * GIB)
    machine.write(machine.cgroup / "memory.current", GIB)
    assert machine.cores() == 2
    assert machine.memory_gib() == 3


def test_a_limit_above_the_machines_memory_changes_nothing(machine: Machine) -> None:
    group = machine.group()
    machine.write(group / "memory.max", 900 * GIB)
    machine.write(group / "memory.current", GIB)
    assert machine.memory_gib() == 20


def test_an_old_kernel_without_memavailable(machine: Machine) -> None:
    kib = GIB // 1024
    machine.write(machine.proc / "meminfo", f"MemFree: {kib} kB\nBuffers: {kib} kB\nCached: {2 * kib} kB")
    assert machine.memory_gib() == 4


def test_no_proc_at_all_still_gives_a_figure(tmp_path: Path) -> None:
    assert available_memory_bytes(tmp_path, tmp_path) > 0


def test_the_real_machine_has_something() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert available_memory_bytes() > 0


def test_cores_limit_the_jobs() -> None:
    plan = plan_jobs(2, int(21.3 * GIB), None)
    assert plan.jobs == 2
    assert plan.reason == "2 jobs: 2 cores, 21.3 GiB free at 0.7 GiB a compiler process"


def test_memory_limits_the_jobs_and_leaves_a_reserve() -> None:
    plan = plan_jobs(32, int(3.6 * GIB), None)
    assert plan.jobs == 4
    assert plan.jobs * JOB_BYTES + GIB // 2 <= 3.6 * GIB
    assert plan.reason == "4 jobs: 32 cores, 3.6 GiB free at 0.7 GiB a compiler process"


@pytest.mark.parametrize("memory_gib", [0.0, 0.5, 1.0, 1.2, 2.0, 3.5, 4.0, 24.0, 512.0])
@pytest.mark.parametrize("core_count", [1, 2, 128])
def test_a_plan_is_at_least_one_job_and_stays_inside(memory_gib: float, core_count: int) -> None:
    memory_bytes = int(memory_gib * GIB)
    plan = plan_jobs(core_count, memory_bytes, None)
    assert 1 <= plan.jobs <= core_count
    stays_inside = plan.jobs * JOB_BYTES < memory_bytes
    assert stays_inside or (plan.jobs == 1 and "it may run out of memory" in plan.reason)


def test_one_core_is_written_as_one() -> None:
    assert plan_jobs(1, 8 * GIB, None).reason.startswith("1 job: 1 core, 8.0 GiB free")


def test_what_was_asked_for_overrides_and_warns() -> None:
    assert plan_jobs(2, 8 * GIB, 4).jobs == 4
    assert plan_jobs(2, 8 * GIB, 4).reason == "4 jobs: as asked for"
    plan = plan_jobs(2, GIB, 4)
    assert plan.jobs == 4
    assert "is enough for 1: it may run out of memory" in plan.reason
