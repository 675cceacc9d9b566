"""Plans how many compiler processes this machine can run at once.

Containers limit cores and memory by control groups, which neither `os.cpu_count` nor `/proc/meminfo`
shows; both versions of them are read here (kernel documentation, admin-guide/cgroup-v2 and cgroup-v1).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.util.limits import BUILD_RESERVE_BYTES, GIB

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class JobPlan:
    """How many compiler processes run at once, and why."""

    jobs: int
    reason: str


def plan_jobs(cores: int, memory_bytes: int, per_job_bytes: int, requested: int | None) -> JobPlan:
    """Return how many compiler processes to run at once.

    Args:
        cores: What `cores` returned.
        memory_bytes: What `available_memory_bytes` returned.
        per_job_bytes: The most memory that one compiler process uses.
        requested: `--jobs`, which overrides the plan; None if it isn't given.

    Returns:
        At least one job, and no more than there are cores, or than fit into the memory beside
        `BUILD_RESERVE_BYTES`, unless so many were asked for.
    """
    have = f"{_gib(memory_bytes)} free"
    need = f"{_gib(per_job_bytes)} a compiler process"
    fitting = max(0, memory_bytes - BUILD_RESERVE_BYTES) // per_job_bytes
    if requested is not None:
        reason = f"{_jobs(requested)}: as asked for"
        if requested > max(1, fitting):
            reason += f", though {have} at {need} is enough for {max(1, fitting)}: it may run out of memory"
        return JobPlan(requested, reason)
    jobs = max(1, min(cores, fitting))
    reason = f"{_jobs(jobs)}: {cores} core{'s' if cores != 1 else ''}, {have} at {need}"
    if fitting < 1:
        reason += ", which is less than one needs: it may run out of memory"
    return JobPlan(jobs, reason)


def cores(proc: Path = _PROC, cgroup: Path = _CGROUP, affinity: int | None = None) -> int:
    """Return how many cores this process may use: its CPU affinity, or less if a cgroup's quota is less.

    A quota of one and a half cores counts as two: two processes share it without waste.

    Args:
        proc: Where procfs is mounted.
        cgroup: Where the cgroup file systems are mounted.
        affinity: Cores by affinity; None asks the kernel.
    """
    count = len(os.sched_getaffinity(0)) if affinity is None else affinity
    quotas = [*_cpu_quotas_v2(proc, cgroup), *_cpu_quotas_v1(proc, cgroup)]
    return max(1, min([count, *(math.ceil(quota) for quota in quotas)]))


def available_memory_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return how much memory this process can still use without swapping, in bytes.

    It is the least of the kernel's `MemAvailable` and what is left of the limit of each enclosing cgroup.
    File cache counts as free, since the kernel gives it up before it kills.

    Args:
        proc: Where procfs is mounted.
        cgroup: Where the cgroup file systems are mounted.
    """
    left = [*_memory_left_v2(proc, cgroup), *_memory_left_v1(proc, cgroup)]
    return max(0, min([_free_of_machine(proc), *left]))


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def _free_of_machine(proc: Path) -> int:
    try:
        fields = _fields((proc / "meminfo").read_text())
    except OSError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if "MemAvailable" in fields:
        return fields["MemAvailable"] * 1024
    # Some sandboxes have no MemAvailable.
    return sum(fields.get(name, 0) for name in ("MemFree", "Buffers", "Cached")) * 1024


def _fields(text: str) -> dict[str, int]:
    """Lines of a name and a number, as in `meminfo` and `memory.stat`."""
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdigit()}


def _read_number(path: Path) -> int | None:
    """The number in a cgroup file; None if the file is missing, or says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _own_cgroups(proc: Path) -> dict[str, str]:
    """The process's cgroup for each controller of version 1; version 2's is that of ""."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        parts = line.split(":", 2)
        if len(parts) == 3:
            for controller in parts[1].split(","):
                found[controller] = parts[2]
    return found


def _levels(mount: Path, name: str) -> Iterator[Path]:
    """A cgroup's folder and those of its ancestors up to the mount.

    In a container the name can be the host's, of which the mount shows only the container's own part
    as its root. So the root counts as well, and folders that don't exist are left out.
    """
    parts = [part for part in name.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:depth])
        if folder.is_dir():
            yield folder


def _levels_v2(proc: Path, cgroup: Path) -> Iterator[Path]:
    name = _own_cgroups(proc).get("", "/")
    for mount in (cgroup, cgroup / "unified"):
        if (mount / "cgroup.controllers").exists():
            yield from _levels(mount, name)


def _levels_v1(proc: Path, cgroup: Path, controller: str) -> Iterator[Path]:
    name = _own_cgroups(proc).get(controller, "/")
    mounts = {"cpu": ("cpu,cpuacct", "cpu"), "memory": ("memory",)}[controller]
    for mount in mounts:
        yield from _levels(cgroup / mount, name)


def _cpu_quotas_v2(proc: Path, cgroup: Path) -> Iterator[float]:
    for folder in _levels_v2(proc, cgroup):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def _cpu_quotas_v1(proc: Path, cgroup: Path) -> Iterator[float]:
    for folder in _levels_v1(proc, cgroup, "cpu"):
        quota = _read_number(folder / "cpu.cfs_quota_us")
        period = _read_number(folder / "cpu.cfs_period_us")
        if quota and period:  # a quota of -1 is none, and reads as None
            yield quota / period


def _memory_left_v2(proc: Path, cgroup: Path) -> Iterator[int]:
    for folder in _levels_v2(proc, cgroup):
        limits = [_read_number(folder / name) for name in ("memory.max", "memory.high")]
        used = _read_number(folder / "memory.current")
        known = [limit for limit in limits if limit is not None]
        if known and used is not None:
            cache = _file_cache(folder, ("active_file", "inactive_file", "slab_reclaimable"))
            yield min(known) - max(0, used - cache)


def _memory_left_v1(proc: Path, cgroup: Path) -> Iterator[int]:
    for folder in _levels_v1(proc, cgroup, "memory"):
        limit = _read_number(folder / "memory.limit_in_bytes")  # no limit is a number near 2^63
        used = _read_number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            cache = _file_cache(folder, ("total_active_file", "total_inactive_file"))
            yield limit - max(0, used - cache)


def _file_cache(folder: Path, names: tuple[str, ...]) -> int:
    try:
        fields = _fields((folder / "memory.stat").read_text())
    except OSError:
        return 0
    return sum(fields.get(name, 0) for name in names)
