"""Plans how many compiler processes this machine can run at once.

Containers limit cores and memory by control groups, which neither `os.cpu_count` nor `/proc/meminfo`
shows (kernel documentation, admin-guide/cgroup-v2).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
# Largest resident set of one compiler process, measured.
JOB_BYTES = 800 * 10**6
RESERVE_BYTES = GIB // 2  # beside the compilers: the build backend, the compiler cache, nox
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class JobPlan:
    """How many compiler processes run at once, and why."""

    jobs: int
    reason: str


def plan_jobs(cores: int, memory_bytes: int, requested: int | None) -> JobPlan:
    """Return as many as there are cores, and as fit into memory beside `RESERVE_BYTES`, but at least one.

    As many as are `requested` with `--jobs` are run in any case.
    """
    memory = f"{memory_bytes / GIB:.1f} GiB free at {JOB_BYTES / GIB:.1f} GiB a compiler process"
    fitting = max(0, memory_bytes - RESERVE_BYTES) // JOB_BYTES
    jobs = max(1, min(cores, fitting)) if requested is None else requested
    why = f"{cores} core{'s' * (cores != 1)}" if requested is None else "as asked for"
    reason = f"{jobs} job{'s' * (jobs != 1)}: {why}, {memory}"
    if jobs > fitting:
        reason += f", enough for {fitting}: it may run out of memory"
    return JobPlan(jobs, reason)


def cores(proc: Path = _PROC, cgroup: Path = _CGROUP, affinity: int | None = None) -> int:
    """Return how many cores this process may use: its CPU affinity, or less if a cgroup's quota is less.

    A quota of one and a half cores counts as two: two processes share it without waste.
    """
    count = len(os.sched_getaffinity(0)) if affinity is None else affinity
    for folder in _cgroups(proc, cgroup):
        with suppress(OSError, ValueError):  # `max 100000` is no limit
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            count = min(count, math.ceil(quota / period))
    return max(1, count)


def available_memory_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return how much memory this process can still use without swapping, in bytes.

    It is the least of the kernel's `MemAvailable` and what is left of the limit of each enclosing cgroup.
    File cache counts as free, since the kernel gives it up before it kills.
    """
    fields = _fields(proc / "meminfo")
    kinds = ["MemAvailable"] if "MemAvailable" in fields else ["MemFree", "Buffers", "Cached"]  # a sandbox
    free = sum(fields.get(name, 0) for name in kinds) * 1024
    for folder in _cgroups(proc, cgroup):
        stat = _fields(folder / "memory.stat")
        cache = sum(stat.get(name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable"))
        for name in ("memory.max", "memory.high"):
            with suppress(OSError, ValueError):  # `max` is no limit
                used = int((folder / "memory.current").read_text())
                free = min(free, int((folder / name).read_text()) - max(0, used - cache))
    return max(0, free)


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as in `meminfo` and `memory.stat`; none if there is no such file."""
    text = path.read_text() if path.is_file() else ""
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdigit()}


def _cgroups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """The folders of the process's cgroup and of its ancestors up to the mount.

    In a container the name can be the host's, of which the mount shows only the container's own part
    as its root. So the root counts as well, and folders that don't exist are left out.
    """
    own = proc / "self" / "cgroup"
    match = re.search(r"^0::(.*)$", own.read_text(), re.MULTILINE) if own.is_file() else None
    if (cgroup / "cgroup.controllers").exists():
        group = cgroup / (match[1] if match else "").replace("..", "").lstrip("/")
        folders = (group, *group.parents)
        yield from (folder for folder in folders if folder.is_relative_to(cgroup) and folder.is_dir())
