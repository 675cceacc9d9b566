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

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class JobPlan:
    """How many compiler processes run at once, and why."""

    jobs: int
    reason: str


def plan_jobs(cores: int, memory_bytes: int, requested: int | None) -> JobPlan:
    """Return how many compiler processes to run at once.

    At least one, and no more than there are cores, or than fit into the memory beside `RESERVE_BYTES`,
    unless so many are `requested` with `--jobs`.
    """
    have = f"{_gib(memory_bytes)} free"
    need = f"{_gib(JOB_BYTES)} a compiler process"
    fitting = max(0, memory_bytes - RESERVE_BYTES) // JOB_BYTES
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
    if "MemAvailable" in fields:
        free = fields["MemAvailable"] * 1024
    elif fields:  # some sandboxes have no MemAvailable
        free = sum(fields.get(name, 0) for name in ("MemFree", "Buffers", "Cached")) * 1024
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _cgroups(proc, cgroup):
        stat = _fields(folder / "memory.stat")
        cache = sum(stat.get(name, 0) for name in ("active_file", "inactive_file", "slab_reclaimable"))
        for name in ("memory.max", "memory.high"):
            with suppress(OSError, ValueError):  # `max` is no limit
                used = int((folder / "memory.current").read_text())
                free = min(free, int((folder / name).read_text()) - max(0, used - cache))
    return max(0, free)


def _jobs(count: int) -> str:
    return f"{count} job{'s' if count != 1 else ''}"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number, as in `meminfo` and `memory.stat`; none if there is no such file."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    words = (line.replace(":", " ").split() for line in text.splitlines())
    return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdigit()}


def _cgroups(proc: Path, cgroup: Path) -> Iterator[Path]:
    """The folders of the process's cgroup and of its ancestors up to the mount.

    In a container the name can be the host's, of which the mount shows only the container's own part
    as its root. So the root counts as well, and folders that don't exist are left out.
    """
    try:
        text = (proc / "self" / "cgroup").read_text()
    except OSError:
        text = ""
    match = re.search(r"^0::(.*)$", text, re.MULTILINE)
    parts = [part for part in (match[1] if match else "").split("/") if part not in ("", "..")]
    if (cgroup / "cgroup.controllers").exists():
        folders = (cgroup.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
        yield from filter(Path.is_dir, folders)
