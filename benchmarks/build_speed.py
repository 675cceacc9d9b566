"""Times this build against upstream's own `setup.py`, side by side on one machine, and prints the table.

Run it with `nox -s benchmark` (about 40 minutes on 2 cores). Each row is a whole build by the builder, into a
wheelhouse of its own. The figures come from the records: they are what the operating system counted for the
finished processes. Upstream's row is the unpatched source (`--no-patches`) for compute capability 9.0.

    python -m benchmarks.build_speed [--source DIR] [--rows upstream,one,all,warm] [--jobs N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TARGET = "cp312-cu130"
ROWS: dict[str, tuple[str, ...]] = {
    "upstream": ("--no-patches", "--arch", "9.0", "--no-cache"),
    "one": ("--arch", "9.0"),
    "all": ("--arch", "all"),
    "warm": ("--arch", "all"),
}
TITLES = {
    "upstream": "upstream's setup.py, unpatched, 9.0",
    "one": "this build, 9.0, empty cache",
    "all": "this build, five architectures, empty cache",
    "warm": "this build, five architectures, again",
}
# Rows whose compiler cache must start empty; "warm" goes on with that of "all".
COLD = {"upstream", "one", "all"}


@dataclass(frozen=True)
class BuildRow:
    """One build's figures.

    Attributes:
        title: What was built.
        jobs: Compiler processes at once.
        wall_seconds: Of the PEP 517 build.
        cpu_seconds: User and system time of all its processes.
        peak_memory_bytes: Largest resident set of one process.
        longest_step_seconds: The longest single compile or link step; 0 if it is not known.
        wheel_bytes: Size of the basic wheel.
        cache_hits: Compiler steps that the cache answered.
        cache_misses: Compiler steps that it did not.
    """

    title: str
    jobs: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int
    longest_step_seconds: float
    wheel_bytes: int
    cache_hits: int
    cache_misses: int

    @property
    def wall_bound_seconds(self) -> float:
        """The least wall time that this work could take: CPU time over jobs, or the longest step."""
        return max(self.cpu_seconds / self.jobs, self.longest_step_seconds)


def read_row(title: str, records: Sequence[dict[str, Any]]) -> BuildRow:
    """Return the figures of one build, from the records of its wheels: the smallest one is basic."""
    record = min(records, key=lambda item: int(item["wheel"]["size_bytes"]))
    cost = record["cost"]
    steps = [float(figures["seconds"]) for figures in cost["files"].values()]
    return BuildRow(
        title=title,
        jobs=int(cost["jobs"]),
        wall_seconds=float(cost["seconds"]),
        cpu_seconds=float(cost["cpu_seconds"]),
        peak_memory_bytes=int(cost["peak_process_memory_bytes"]),
        longest_step_seconds=max(steps, default=0.0),
        wheel_bytes=int(record["wheel"]["size_bytes"]),
        cache_hits=int(cost["compiler_cache"].get("hits", 0)),
        cache_misses=int(cost["compiler_cache"].get("misses", 0)),
    )


def table(rows: dict[str, BuildRow]) -> str:
    """Return the table in Markdown, with each row's CPU time over upstream's if that was built."""
    upstream = rows.get("upstream")
    lines = [
        "| build | wall s | CPU s | CPU / upstream | wall / bound | peak MB | wheel MB | cache hits |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows.values():
        ratio = f"{row.cpu_seconds / upstream.cpu_seconds:.2f}" if upstream else "-"
        bound = row.wall_seconds / row.wall_bound_seconds if row.wall_bound_seconds else 0.0
        lines.append(
            f"| {row.title} | {row.wall_seconds:.0f} | {row.cpu_seconds:.0f} | {ratio} | {bound:.2f} "
            f"| {row.peak_memory_bytes / 1e6:.0f} | {row.wheel_bytes / 1e6:.1f} "
            f"| {row.cache_hits} of {row.cache_hits + row.cache_misses} |"
        )
    return "\n".join(lines)


def run(name: str, options: argparse.Namespace, folder: Path, cache: Path) -> BuildRow:
    """Build one row.

    Raises:
        subprocess.CalledProcessError: The build failed; it has said why.
    """
    wheelhouse = folder / name
    command = [sys.executable, "-m", "builder", "build", TARGET, *ROWS[name], "--force"]
    command += ["--wheelhouse", str(wheelhouse), "--cache-dir", str(cache)]
    if options.source:
        command += ["--source", options.source]
    if options.jobs:
        command += ["--jobs", str(options.jobs)]
    subprocess.run(command, check=True)
    records = [json.loads(path.read_text()) for path in sorted(wheelhouse.glob("*.whl.json"))]
    return read_row(TITLES[name], records)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the rows, print the table, and return 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", help="source tree or archive, if the release can't be downloaded")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--jobs", type=int, help="compiler processes at once, the same for every row")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args(argv)
    names = [name for name in options.rows.split(",") if name]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    rows: dict[str, BuildRow] = {}
    with tempfile.TemporaryDirectory(prefix="build-speed-") as folder:
        for name in names:
            # A cache folder of its own, so that the compiler cache starts empty.
            cache = Path(folder) / "cache" / ("all" if name not in COLD else name)
            rows[name] = run(name, options, Path(folder), cache)
            print(f"\n{table(rows)}\n", flush=True)
    print(f"{os.cpu_count()} cores, {platform.platform()}")
    if options.json:
        options.json.write_text(
            json.dumps({name: asdict(row) for name, row in rows.items()}, indent=2) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
