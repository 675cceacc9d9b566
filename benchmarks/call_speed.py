"""Times whole calls of one or two installed copies of SageAttention, and of torch's own attention.

    pip install --no-deps --target ours OURS.whl; pip install --no-deps --target other OTHER.whl
    python -m benchmarks.call_speed --ours ours --other other --json calls.json --svg calls.svg

Run it in the root of the repository, with the Python of an environment that has torch and Triton. Each copy
has a process of its own, and the contenders take turns in each round, row by row, so that all see the same
clocks. GPU time is that of calls which wait in a queue: no launch shows. Host time is the caller's, to queue
a call. Memory is what a call allocates at its highest, its output included, in units of one input. Import
and first call are those of fresh processes, after torch and CUDA are up.

Exit status: 0 a call of --ours was timed, 2 wrong usage, 3 none was.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.call_picture import picture
from benchmarks.kernel_process import Worker
from benchmarks.kernel_rows import FUNCTION, SDPA, Row
from benchmarks.kernel_speed import START_TIMEOUT_S, WORKER, same_place
from builder.util.files import write
from builder.util.log import say

OURS, OTHER = "ours", "other"
SAGEATTN = "sageattn"
GOALS = {
    (2, 10, 1024, 64): 0.75,
    (1, 24, 1024, 128): 0.70,
    (2, 10, 4096, 64): 0.90,
    (1, 24, 4608, 128): 1.00,
    (1, 32, 8192, 128): 1.17,
    (1, 40, 32760, 128): 1.40,
}
"""Batch, heads, tokens and head dimension, and how many times as fast as torch `sageattn()` has to be on an
H100: two sizes that show the cost of a call, SDXL's, Flux's, one that is common, and Wan's."""
FUNCTIONS = ("cuda-fp16/fp32/per_thread", "cuda-fp8/fp32+fp16/per_thread", "cuda-fp8/fp32+fp32/per_thread")
"""What `sageattn()` calls on other GPUs, timed at two of the sizes."""
FUNCTION_SIZES = ((2, 10, 4096, 64), (1, 24, 4608, 128))
CURVE_TOKENS = (1024, 2048, 4096, 8192, 16384, 32768)
START_ROUNDS = 3
START = """
import json, sys, time
import torch
q = torch.ones(1, 4, 256, 64, dtype=torch.float16, device=sys.argv[1])
times = [time.perf_counter()]
import sageattention
times.append(time.perf_counter())
sageattention.sageattn(q, q, q)
float(q.sum())
times.append(time.perf_counter())
print(json.dumps({"import_s": times[1] - times[0], "first_call_s": times[2] - times[1]}))
"""


@dataclass
class Measured:
    """A row's figures, by contender: one median a round in seconds, memory in units of an input."""

    row: Row
    gpu: dict[str, list[float]] = field(default_factory=dict)
    host: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)

    def times_sdpa(self, name: str) -> float | None:
        """How many times as fast as torch's attention, as the median over the rounds."""
        pairs = zip(self.gpu.get(SDPA, []), self.gpu.get(name, []), strict=False)
        ratios = [torch_s / own_s for torch_s, own_s in pairs]
        return statistics.median(ratios) if ratios else None

    @property
    def values(self) -> dict[str, Any]:
        """The figures for JSON."""
        named = {
            "gpu_s": self.gpu,
            "host_s": self.host,
            "memory_inputs": self.memory,
            "trouble": self.trouble,
        }
        return {**self.row.values, **named, "times_sdpa": {name: self.times_sdpa(name) for name in self.gpu}}


def rows(functions: Sequence[str] = FUNCTIONS, curve: Sequence[int] = CURVE_TOKENS) -> list[Row]:
    """Return what is timed; rows of one shape follow each other."""
    sizes = [*GOALS, *((1, 24, tokens, 128) for tokens in curve if (1, 24, tokens, 128) not in GOALS)]
    return [
        Row(FUNCTION, name, (tokens, tokens), dim, heads, dtype="bf16", batch=batch)
        for batch, heads, tokens, dim in sizes
        for name in (SAGEATTN, *(functions if (batch, heads, tokens, dim) in FUNCTION_SIZES else ()))
    ]


def measure(asked: Sequence[Row], workers: dict[str, Worker], rounds: int) -> list[Measured]:
    """Check each row once, then time all in rounds."""
    found = [Measured(row) for row in asked]
    contenders = {**workers, SDPA: workers[OURS]}
    for one in found:
        for name, worker in contenders.items():
            values = _values(one.row, name)
            reply = worker.ask({"do": "check", "row": values})
            one.trouble[name] = reply.get("error") or reply.get("wrong", "")
            if not one.trouble[name]:
                used = worker.ask({"do": "memory", "row": values})
                one.memory[name] = used.get("bytes", 0) / used.get("input_bytes", 1)
    say(f"checked {len(found)} rows")
    for turn in range(rounds):
        for one in found:
            order = list(contenders)[turn % len(contenders) :] + list(contenders)[: turn % len(contenders)]
            for name in order:
                if one.trouble[name]:
                    continue
                reply = contenders[name].ask({"do": "time", "row": _values(one.row, name)})
                one.trouble[name] = reply.get("error", "")
                for figures, what in ((one.gpu, "gpu"), (one.host, "host")):
                    if reply.get(what):
                        figures.setdefault(name, []).append(statistics.median(reply[what]))
        say(f"round {turn + 1} of {rounds}")
    return found


def _values(row: Row, name: str) -> dict[str, Any]:
    return (replace(row, name=SDPA) if name == SDPA else row).values


def starts(folders: dict[str, Path], device: str, rounds: int = START_ROUNDS) -> dict[str, dict[str, Any]]:
    """Time import and first call in fresh processes, in turns; once with an empty Triton cache."""
    found: dict[str, dict[str, Any]] = {name: {} for name in folders}
    for turn in range(rounds + 1):
        for name, folder in folders.items():
            with tempfile.TemporaryDirectory() as empty:
                # The first turn warms the file system's cache and Triton's, and is for the empty one.
                cold = {"TRITON_CACHE_DIR": empty} if turn == 1 else {}
                done = subprocess.run(
                    [sys.executable, "-W", "ignore", "-c", START, device],
                    env={**os.environ, "PYTHONPATH": str(folder.resolve()), **cold},
                    capture_output=True,
                    text=True,
                    check=False,
                )
            if done.returncode:
                found[name]["trouble"] = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            elif turn:
                reply = json.loads(done.stdout.strip().splitlines()[-1])
                found[name].setdefault("import_s", []).append(reply["import_s"])
                key = "first_call_empty_cache_s" if cold else "first_call_s"
                found[name].setdefault(key, []).append(reply["first_call_s"])
    return found


def table(found: Sequence[Measured], names: Sequence[str]) -> list[str]:
    """Return the figures as a table in Markdown: microseconds, times as fast as torch, and memory."""
    head = ["batch x heads x tokens x dim", "function", "SDPA", *names]
    head += [f"{name} x SDPA" for name in names] + ["goal"]
    head += [f"host {name}" for name in (SDPA, *names)] + [f"memory {name}" for name in (SDPA, *names)]
    lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' ---: |' * (len(head) - 2)}"]
    for one in found:
        row = one.row
        size = (row.batch, row.heads, row.lengths[0], row.head_dim)
        goal = GOALS.get(size) if row.name == SAGEATTN else None
        ratios = [one.times_sdpa(name) for name in names]
        cells = [f"{row.batch}x{row.heads}x{row.lengths[0]:,}x{row.head_dim}", row.name]
        cells += [_microseconds(one.gpu.get(name)) for name in (SDPA, *names)]
        cells += ["-" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        cells += [f"{goal:.2f}" if goal else ""]
        cells += [_microseconds(one.host.get(name)) for name in (SDPA, *names)]
        cells += [f"{one.memory[name]:.1f}" if name in one.memory else "-" for name in (SDPA, *names)]
        lines.append(f"| {' | '.join(cells)} |")
    for one in found:
        lines += [f"{one.row.name} {one.row.case}: {name}: {why}" for name, why in one.trouble.items() if why]
    return lines


def start_table(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return import and first call as a table in Markdown, in seconds."""
    lines = ["| | import, s | first call, s | first call with an empty Triton cache, s |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, times in found.items():
        keys = ("import_s", "first_call_s", "first_call_empty_cache_s")
        cells = [f"{statistics.median(times[key]):.2f}" if times.get(key) else "-" for key in keys]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        lines += [f"{name}: {times['trouble']}"] if times.get("trouble") else []
    return lines


def _microseconds(seconds: Sequence[float] | None) -> str:
    return f"{statistics.median(seconds) * 1e6:,.0f}" if seconds else "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Time the calls, and print the tables.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", type=Path, required=True, metavar="DIR", help="folder with a sageattention")
    parser.add_argument("--other", type=Path, metavar="DIR", help="a second one, such as the release's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--functions", default=",".join(FUNCTIONS), metavar="A,B", help="besides sageattn")
    parser.add_argument("--no-curve", action="store_true", help="only the sizes of the table")
    parser.add_argument("--no-start", action="store_true", help="omit import and first call")
    parser.add_argument("--device", default="cuda:0", help="cpu takes a stand-in, to try this script")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="speed against length, as a picture")
    options = parser.parse_args(argv)
    folders = {OURS: options.ours} | ({OTHER: options.other} if options.other else {})
    for folder in folders.values():
        if not (folder / "sageattention" / "__init__.py").is_file():
            parser.error(f"{folder} holds no sageattention: pip install --no-deps --target {folder} WHEEL")
    workers = {
        name: Worker((*WORKER, "--copy", str(folder), "--device", options.device), name)
        for name, folder in folders.items()
    }
    started = {} if options.no_start else starts(folders, options.device)
    asked = rows(tuple(filter(None, options.functions.split(","))), () if options.no_curve else CURVE_TOKENS)
    hellos = {}
    try:
        for name, worker in workers.items():
            hellos[name] = hello = worker.ask({"do": "hello"}, START_TIMEOUT_S)
            say(f"{name}: {json.dumps({key: value for key, value in hello.items() if value})}")
            if "error" in hello or not same_place(hello["location"], folders[name]):
                say("Nothing can be timed: " + hello.get("error", f"{hello.get('location')} was imported"))
                return 3
        found = measure(asked, workers, options.rounds)
    finally:
        for worker in workers.values():
            worker.end()
            worker.errors.close()
    for line in (*table(found, tuple(folders)), "", *start_table(started)):
        say(line)
    if options.json:
        report = {**hellos, "rounds": options.rounds, "rows": [one.values for one in found], "start": started}
        write(options.json, json.dumps(report, indent=1) + "\n")
    if options.svg:
        drawn = [
            one for one in found if (one.row.name, one.row.heads, one.row.head_dim) == (SAGEATTN, 24, 128)
        ]
        lines = {
            name: {
                one.row.lengths[0]: (one.row.heads, statistics.median(one.gpu[name]))
                for one in drawn
                if one.gpu.get(name)
            }
            for name in (SDPA, *folders)
        }
        write(
            options.svg, picture(lines, 128, f"{hellos[OURS]['device']}, torch {hellos[OURS]['torch']}, bf16")
        )
    return 0 if any(one.gpu.get(OURS) for one in found) else 3


if __name__ == "__main__":
    sys.exit(main())
