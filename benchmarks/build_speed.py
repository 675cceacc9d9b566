"""Time whole builds, and upstream's own `setup.py` beside them, on one machine. `nox -s benchmark` runs it.

The figures of a build are those of its record: what the operating system counted for its finished processes.
The row `upstream` compiles the unpatched tree of --source by upstream's own command, with the CUDA toolkit of
--cuda-home and the torch that the builds before it installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TARGET = "cp312-cu130"
BUILDS = {"one": ("--arch", "9.0"), "all": ("--arch", "all"), "warm": ("--arch", "all")}
TITLES = {
    "one": "this build, 9.0, empty cache",
    "all": "this build, five architectures, empty cache",
    "warm": "this build, five architectures, again",
    "upstream": "upstream's setup.py, 9.0",
}
HEAD = ("build", "wall s", "CPU s", "peak MB", "wheel MB", "cache hits")


def build(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """Build one row into a wheelhouse of its own, and return its cells."""
    wheelhouse, cache = folder / name, folder / "cache" / ("all" if name == "warm" else name)
    command = [sys.executable, "-m", "builder", "build", TARGET, *BUILDS[name], "--force"]
    command += ["--wheelhouse", str(wheelhouse), "--cache-dir", str(cache)]
    command += ["--source", options.source] if options.source else []
    command += ["--jobs", str(options.jobs)] if options.jobs else []
    subprocess.run(command, check=True)
    basic = min(wheelhouse.glob("*.whl"), key=lambda wheel: wheel.stat().st_size)
    cost = json.loads(Path(f"{basic}.json").read_text())["cost"]
    cache_use = cost["compiler_cache"]
    return [
        f"{cost['seconds']:.0f}",
        f"{cost['cpu_seconds']:.0f}",
        f"{cost['peak_process_memory_bytes'] / 1e6:.0f}",
        f"{basic.stat().st_size / 1e6:.1f}",
        f"{cache_use['hits']} of {cache_use['hits'] + cache_use['misses']}",
    ]


def build_upstream(options: argparse.Namespace, folder: Path) -> list[str]:
    """Build the unpatched tree with pip, as upstream's README says, and return the row's cells."""
    tree = Path(shutil.copytree(options.source, folder / "upstream"))
    jobs = str(options.jobs or os.cpu_count())
    env = {**os.environ, "CUDA_HOME": str(options.cuda_home), "TORCH_CUDA_ARCH_LIST": "9.0"}
    env |= {"MAX_JOBS": jobs, "EXT_PARALLEL": "1", "NVCC_APPEND_FLAGS": "--threads 1"}
    command = ["uv", "build", "--wheel", "--no-build-isolation", "--python", sys.executable]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([*command, "--out-dir", str(folder / "upstream-wheel"), str(tree)], env=env, check=True)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (wheel,) = (folder / "upstream-wheel").glob("*.whl")
    # The peak is the largest of all children so far, and no build of ours comes near upstream's.
    return [
        f"{wall:.0f}",
        f"{cpu:.0f}",
        f"{after.ru_maxrss / 1e3:.0f}",
        f"{wheel.stat().st_size / 1e6:.1f}",
        "-",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Build the rows, print the table after each, and return 0."""
    parser = argparse.ArgumentParser(prog="nox -s benchmark --", description="Time builds on this machine.")
    parser.add_argument("--source", help="source tree or archive, if the release can't be downloaded")
    parser.add_argument("--rows", default="one,all,warm", help=f"of {', '.join(TITLES)}")
    parser.add_argument("--jobs", type=int, help="compiler processes at once, the same for every row")
    parser.add_argument("--cuda-home", type=Path, help="CUDA toolkit for the row `upstream`")
    options = parser.parse_args(argv)
    names = options.rows.split(",")
    if not set(names) <= set(TITLES):
        parser.error(f"--rows {options.rows}: choose of {', '.join(TITLES)}")
    if "upstream" in names and not (options.cuda_home and options.source and Path(options.source).is_dir()):
        parser.error("the row upstream needs --cuda-home, and --source with a folder")
    lines = [" | ".join(HEAD), " | ".join(["---"] + ["---:"] * (len(HEAD) - 1))]
    with tempfile.TemporaryDirectory(prefix="build-speed-") as folder:
        for name in names:
            run = build_upstream(options, Path(folder)) if name == "upstream" else None
            cells = run or build(name, options, Path(folder))
            lines.append(" | ".join([TITLES[name], *cells]))
            print("\n" + "\n".join(f"| {line} |" for line in lines) + "\n", flush=True)
    print(f"{os.cpu_count()} cores, {platform.platform()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
