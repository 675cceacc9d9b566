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

from builder.util.log import counted

GIB = 1 << 30
# Largest resident set of one compiler process, measured.
JOB_BYTES = 800 * 10**6
RESERVE_BYTES = GIB // 2  # beside the compilers: the build backend, the compiler cache, nox

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class JobPlan:
    """How many compiler processes run at once, and why."""

    jobs: int
    reason: str


def plan_jobs(cores: int, memory_bytes: int, requested: int | None) -> JobPlan:
    """Return as many as there are cores and memory for, but at least one, or what `--jobs` requests."""
    fitting = max(0, memory_bytes - RESERVE_BYTES) // JOB_BYTES
    jobs = requested or max(1, min(cores, fitting))
    why = "as asked for" if requested else counted(cores, "core")
    reason = f"{counted(jobs, 'job')}: {why}, {memory_bytes / GIB:.1f} GiB free"
    reason += f" at {JOB_BYTES / GIB:.1f} GiB a compiler process"
    if jobs > fitting:
        reason += f", which is enough for {fitting}: it may run out of memory"
    return JobPlan(jobs, reason)


def cores(proc: Path = _PROC, cgroup: Path = _CGROUP, affinity: int | None = None) -> int:
    """Return how many cores this process may use, by its CPU affinity and its cgroups' quotas."""
    count = len(os.sched_getaffinity(0)) if affinity is None else affinity
    for folder in _cgroups(proc, cgroup):
        with suppress(OSError, ValueError):  # `max 100000` is no limit
            quota, period = map(int, (folder / "cpu.max").read_text().split())
            count = min(count, math.ceil(quota / period))
    return max(1, count)


def available_memory_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Return how much memory this process can still use without swapping, in bytes.

    File cache counts as free, since the kernel gives it up before it kills.
    """
    fields = _fields(proc / "meminfo")
    # some sandboxes have no MemAvailable
    without = sum(fields.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    free = fields.get("MemAvailable", without) * 1024
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
    return {name: int(number) for name, number in re.findall(r"^(\S+?):?\s+(\d+)", text, re.MULTILINE)}


def _cgroups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """The folders of the process's cgroup and its ancestors, as far as a container sees them."""
    own = proc / "self" / "cgroup"
    text = own.read_text() if own.is_file() else ""
    match = re.search(r"^0::(.*)$", text, re.MULTILINE)
    parts = [part for part in (match[1] if match else "").split("/") if part not in ("", "..")]
    if (cgroup / "cgroup.controllers").exists():
        folders = (cgroup.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
        yield from filter(Path.is_dir, folders)
