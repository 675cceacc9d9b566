"""Compares two installed copies of SageAttention on one GPU: how long each kernel takes, or every bit of it.

    pip install --no-deps --target first FIRST.whl; pip install --no-deps --target second SECOND.whl
    python -m benchmarks.kernel_speed --first first --second second --json speed.json
    python -m benchmarks.kernel_speed --first first --second second --equal --json equal.json

Run it in the root of the repository, with the Python of an environment that has torch and Triton. Each copy
has a process of its own, and they take turns row by row, so that both see the same clocks. A row is a
function that users call, or a compiled module's function alone with its inputs ready. `gpu` is the GPU's own
time: the calls wait for it in a queue. `call` is the time of calls into an empty queue, with the launch.

Exit status: 0 nothing is slower (or every result that was right is the same), 1 something is, 2 wrong usage,
3 nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.kernel_figures import (
    IDENTICAL,
    LIMIT,
    SLOWER,
    UNCLEAR,
    Timings,
    equality,
    speed_table,
    summary,
    trouble,
    verdict,
)
from benchmarks.kernel_process import Worker
from benchmarks.kernel_rows import (
    ATTENTION,
    FUNCTION,
    HEAD_DIMS,
    QUANTISATION,
    TOKENS,
    Row,
    equality_rows,
    speed_rows,
)
from builder.util.files import write
from builder.util.log import say

WORKER = (sys.executable, "-m", "benchmarks.kernel_worker")
START_TIMEOUT_S = 180.0


def measure(
    rows: Sequence[Row],
    first: Worker,
    second: Worker,
    budget_s: float,
    now: Callable[[], float] = time.monotonic,
) -> tuple[list[Timings], int]:
    """Time all rows in rounds until the time is spent; at least one whole round.

    Returns:
        The timings, and the number of whole rounds.
    """
    end = now() + budget_s
    all_timings = [Timings(row) for row in rows]
    # Both at once: this is where Triton compiles, and nothing is timed.
    with ThreadPoolExecutor(2) as pool:
        checks = pool.map(
            lambda worker: [worker.ask({"do": "check", "row": row.values}) for row in rows], (first, second)
        )
        for timings, one, other in zip(all_timings, *checks, strict=True):
            timings.trouble = trouble(one, other)
            timings.same = None if timings.trouble else one["digest"] == other["digest"]
    say(f"checked {len(rows)} rows with {max(0.0, end - now()):.0f} s left for timing")
    rounds = 0
    longest = 0.0
    while rounds == 0 or now() + longest <= end:
        start = now()
        for timings in all_timings:
            if timings.trouble:
                continue
            request = {"do": "time", "row": timings.row.values}
            order = (first, second) if rounds % 2 == 0 else (second, first)
            replies = {worker.name: worker.ask(request) for worker in order}
            timings.trouble = trouble(replies[first.name], replies[second.name])
            if not timings.trouble:
                timings.add(replies[first.name], replies[second.name])
        rounds += 1
        longest = max(longest, now() - start)
        say(f"round {rounds} took {now() - start:.0f} s")
        if all(timings.trouble for timings in all_timings):
            break
    return all_timings, rounds


def compare_speed(
    rows: Sequence[Row], first: Worker, second: Worker, options: argparse.Namespace
) -> tuple[int, Any]:
    """Time the rows and print the table.

    Returns:
        Exit status, and the figures for JSON.
    """
    all_timings, rounds = measure(rows, first, second, options.budget)
    for line in (*speed_table(all_timings, options.limit), "", *summary(all_timings, options.limit)):
        say(line)
    doubtful = [one for one in all_timings if verdict(one.ratio("gpu"), options.limit) in (SLOWER, UNCLEAR)]
    if doubtful:
        say("\nof these:")
        for line in speed_table(doubtful, options.limit)[1:]:
            say(line)
    compared = [timings for timings in all_timings if not timings.trouble]
    slower = sum(verdict(timings.ratio("gpu"), options.limit) == SLOWER for timings in compared)
    say()
    say(f"{rounds} rounds; {slower} of {len(compared)} compared rows take over {options.limit} times as long")
    figures = [
        {
            **timings.row.values,
            "trouble": timings.trouble,
            "same_bits": timings.same,
            **{
                what: {
                    "first_s": ours,
                    "second_s": theirs,
                    "ratio": vars(found) if (found := timings.ratio(what)) else None,
                    "verdict": verdict(timings.ratio(what), options.limit),
                }
                for what, (ours, theirs) in timings.seconds.items()
            },
        }
        for timings in all_timings
    ]
    status = 3 if not compared else int(slower > 0)
    return status, {"rounds": rounds, "limit": options.limit, "rows": figures}


def compare_bits(rows: Sequence[Row], first: Worker, second: Worker) -> tuple[int, Any]:
    """Let the second copy compare its results with the first one's, and print what differs.

    Returns:
        Exit status, and the findings for JSON.
    """
    findings = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "results.pt"
        for row in rows:
            one = first.ask({"do": "save", "row": row.values, "path": str(path)})
            other = second.ask(
                {"do": "check", "row": row.values}
                if "error" in one
                else {"do": "compare", "row": row.values, "path": str(path)}
            )
            finding, fault = equality(one, other)
            findings.append({**row.values, "finding": finding, "fault": fault})
            path.unlink(missing_ok=True)
            if finding != IDENTICAL:
                say(f"{row.kind:13}{row.name:80}{row.case:30}{finding}")
    say()
    for kind, name in dict.fromkeys((row.kind, row.name) for row in rows):
        mine = [one for one in findings if (one["kind"], one["name"]) == (kind, name)]
        same = sum(one["finding"] == IDENTICAL for one in mine)
        faults = sum(bool(one["fault"]) for one in mine)
        rest = len(mine) - same - faults
        say(
            f"{kind:13}{name:80}{same:3} of {len(mine)} identical"
            + (f", {faults} DIFFER" if faults else "")
            + (f", {rest} not compared (the first is not right there)" if rest else "")
        )
    same = sum(one["finding"] == IDENTICAL for one in findings)
    faults = sum(bool(one["fault"]) for one in findings)
    say(f"\n{same} of {len(findings)} rows identical, {faults} that the first copy has right differ")
    return (3 if same + faults == 0 else int(faults > 0)), {"rows": findings}


def same_place(location: str, folder: Path) -> bool:
    """Return whether a package was imported from a folder."""
    return Path(location).resolve().parent == folder.resolve()


def main(argv: Sequence[str] | None = None) -> int:
    """Compare two copies.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--first", type=Path, required=True, metavar="DIR", help="folder that holds a sageattention"
    )
    parser.add_argument(
        "--second", type=Path, required=True, metavar="DIR", help="the one that is held against it"
    )
    parser.add_argument("--equal", action="store_true", help="compare the bits of the results, not the speed")
    parser.add_argument("--budget", type=float, default=200, metavar="SECONDS", help="for the timing (200)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="highest ratio that is no slower (1.02)")
    parser.add_argument("--tokens", type=_numbers, default=TOKENS, metavar="A,B")
    parser.add_argument("--head-dims", type=_numbers, default=HEAD_DIMS, metavar="A,B")
    parser.add_argument("--kinds", default=f"{FUNCTION},{ATTENTION},{QUANTISATION}", metavar="A,B")
    parser.add_argument(
        "--kernels", default="", metavar="A,B", help="only these public functions; * is allowed"
    )
    parser.add_argument("--device", default="cuda:0", help="cpu takes a stand-in, to try this script")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    folders = (options.first, options.second)
    for folder in folders:
        if not (folder / "sageattention" / "__init__.py").is_file():
            parser.error(f"{folder} holds no sageattention: pip install --no-deps --target {folder} WHEEL")
    kinds = tuple(options.kinds.split(","))
    if unknown := set(kinds) - {FUNCTION, ATTENTION, QUANTISATION}:
        parser.error(f"--kinds knows function, attention and quantisation, not {', '.join(sorted(unknown))}")
    patterns = tuple(filter(None, options.kernels.split(",")))
    names = ("first", "second")
    workers = [
        Worker((*WORKER, "--copy", str(folder), "--device", options.device), name)
        for folder, name in zip(folders, names, strict=True)
    ]
    try:
        with ThreadPoolExecutor(2) as pool:
            hellos = list(pool.map(lambda worker: worker.ask({"do": "hello"}, START_TIMEOUT_S), workers))
        for name, folder, hello in zip(names, folders, hellos, strict=True):
            say(f"{name:7} {folder}: {json.dumps({k: v for k, v in hello.items() if v})}")
            if "error" in hello or not same_place(hello["location"], folder):
                say("Nothing can be compared: " + hello.get("error", f"{hello.get('location')} was imported"))
                return 3
        capability = (int(hellos[0]["capability"][0]), int(hellos[0]["capability"][1]))
        if options.equal:
            rows = equality_rows(capability, kinds, patterns)
            status, found = compare_bits(rows, workers[0], workers[1])
        else:
            rows = speed_rows(capability, options.tokens, options.head_dims, kinds, patterns)
            status, found = compare_speed(rows, workers[0], workers[1], options)
    finally:
        for worker in workers:
            worker.end()
            worker.errors.close()
    if options.json:
        report = {"first": hellos[0], "second": hellos[1], "exit_status": status, **found}
        write(options.json, json.dumps(report, indent=1) + "\n")
    return status


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
