"""Compares two installed copies of SageAttention on one GPU: how long each kernel takes, or every bit of it.

    pip install --no-deps --target first FIRST.whl; pip install --no-deps --target second SECOND.whl
    python benchmarks/kernel_speed.py --first first --second second --json speed.json
    python benchmarks/kernel_speed.py --first first --second second --equal --json equal.json

Runs under the Python of an environment with torch and Triton. Each copy has a process of its own, and they
take turns row by row, so that both see the same clocks. A row is a function that users call, or a compiled
module's function alone on inputs that are ready; `gpu` is the GPU's own time (the calls wait for it in a
queue), `call` is the time of calls into an empty queue, launch included.

Exit status: 0 nothing is slower (or every result that was right is the same), 1 something is, 2 wrong usage,
3 nothing could be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.kernel_rows import (  # noqa: E402
    ATTENTION,
    FUNCTION,
    HEAD_DIMS,
    QUANTISATION,
    TOKENS,
    Row,
    equality_rows,
    speed_rows,
)

WORKER = (sys.executable, str(Path(__file__).with_name("kernel_worker.py")))
LIMIT = 1.02
START_TIMEOUT_S = 180.0
ROW_TIMEOUT_S = 120.0
MOST_CRASHES = 2
"""A row's name that has ended its process so often is not tried again."""
SLOWER, UNCLEAR, OK = "SLOWER", "unclear", "ok"
IDENTICAL = "identical"


class Worker:
    """A process that has one copy loaded. A crash or a hang ends it; the next question starts another."""

    def __init__(self, command: Sequence[str], name: str) -> None:
        self.command = command
        self.name = name
        self.process: subprocess.Popen[str] | None = None
        self.lines: queue.Queue[str] = queue.Queue()
        self.crashes: Counter[str] = Counter()
        self.errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def ask(self, request: Mapping[str, Any], timeout_s: float = ROW_TIMEOUT_S) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Returns:
            The answer; with `error` where the copy raised, or its process ended or hung.
        """
        name = request.get("row", {}).get("name", "")
        if self.crashes[name] >= MOST_CRASHES:
            return {"error": f"not tried: it ended the process {MOST_CRASHES} times before"}
        process = self.process or self._start()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self.lines.get(timeout=timeout_s)
        except queue.Empty:
            self.crashes[name] += 1
            self.end()
            return {"error": f"no answer within {timeout_s:g} s"}
        except OSError:
            line = ""
        if not line:
            status = process.wait()
            words = self._last_words()
            self.crashes[name] += 1
            self.end()
            return {"error": f"its process ended with status {status}: {words}"}
        reply: dict[str, Any] = json.loads(line)
        if "lost" in reply:
            self.crashes[name] += 1
            self.end()
        return reply

    def _start(self) -> subprocess.Popen[str]:
        self.errors.seek(0)
        self.errors.truncate()
        self.lines = queue.Queue()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()
        return self.process

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def _last_words(self) -> str:
        self.errors.seek(0)
        words = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        return words[-1][:200] if words else "it said nothing"

    def end(self) -> None:
        """End the process, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


@dataclass
class Timings:
    """A row's figures: one median a round and copy, in seconds.

    Attributes:
        trouble: Why the row can't be compared; empty where it can.
        same: Whether both copies' results have the same bits.
    """

    row: Row
    trouble: str = ""
    same: bool | None = None
    seconds: dict[str, tuple[list[float], list[float]]] = field(
        default_factory=lambda: {what: ([], []) for what in ("gpu", "call", "host")}
    )

    def add(self, first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]]) -> None:
        """Take in one round of both copies."""
        for what, (ours, theirs) in self.seconds.items():
            if first.get(what) and second.get(what):
                ours.append(statistics.median(first[what]))
                theirs.append(statistics.median(second[what]))

    def ratio(self, what: str) -> Ratio | None:
        """Second over first."""
        return ratio(*self.seconds[what])


@dataclass(frozen=True)
class Ratio:
    """Second over first: the median over the rounds, and the lowest and highest round."""

    median: float
    lowest: float
    highest: float
    first_s: float
    second_s: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.lowest:.3f} {self.highest:.3f}]"


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Compare two copies' times, round by round; None without any."""
    if not first or len(first) != len(second):
        return None
    each = [b / a for a, b in zip(first, second, strict=True)]
    return Ratio(
        statistics.median(each),
        min(each),
        max(each),
        statistics.median(first),
        statistics.median(second),
        len(each),
    )


def verdict(found: Ratio | None, limit: float = LIMIT) -> str:
    """`ok`, `SLOWER` (in every round of several), or `unclear` (in most of them); empty without figures."""
    if found is None:
        return ""
    if found.median <= limit:
        return OK
    return SLOWER if found.lowest > limit and found.rounds > 1 else UNCLEAR


def trouble(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Why two copies can't be compared at a row, out of their first answers; empty where they can."""
    parts = []
    for name, reply in (("first", first), ("second", second)):
        if "error" in reply:
            parts.append(f"{name} fails: {reply['error']}")
        elif reply.get("wrong"):
            parts.append(f"{name} is wrong: {reply['wrong']}")
    return "; ".join(parts)


def equality(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, bool]:
    """What came of comparing a row's bits.

    Returns:
        The finding, and whether it is a fault: what the first copy did right, the second does not do alike.
    """
    if "error" in first or first.get("wrong"):
        after = "the second is too" if second.get("wrong") or "error" in second else "the second is not"
        return f"not compared: {trouble(first, {})}; {after}", False
    if "error" in second:
        return trouble(first, second), True
    results = second["results"]
    if not any(one["unequal"] for one in results):
        return IDENTICAL, False
    parts = [
        f"{'result ' + str(index) + ': ' if len(results) > 1 else ''}{one['unequal']} of {one['elements']} "
        f"elements, by {one['largest']:.3g} at most"
        for index, one in enumerate(results)
        if one["unequal"]
    ]
    wrong = f"; second is wrong: {second['wrong']}" if second.get("wrong") else ""
    return f"differs: {', '.join(parts)}{wrong}", True


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


def speed_table(all_timings: Iterable[Timings], limit: float = LIMIT) -> list[str]:
    """The timings as lines of text."""
    head = f"{'kind':13}{'kernel':80}{'case':22}{'first':>11}{'second':>11}"
    lines = [f"{head}  {'gpu ratio':24}{'call ratio':24}{'bits':8}verdict"]
    for timings in all_timings:
        row = timings.row
        head = f"{row.kind:13}{row.name:80}{row.case:22}"
        gpu, call = timings.ratio("gpu"), timings.ratio("call")
        if timings.trouble or gpu is None:
            lines.append(f"{head}  not compared: {timings.trouble or 'no figures'}")
            continue
        same = {True: "same", False: "differ", None: ""}[timings.same]
        slow_call = f", call {verdict(call, limit)}" if verdict(call, limit) not in ("", OK) else ""
        lines.append(
            f"{head}{gpu.first_s * 1e6:8.1f} us{gpu.second_s * 1e6:8.1f} us  {gpu!s:24}{call or '-'!s:24}"
            f"{same:8}{verdict(gpu, limit)}{slow_call}"
        )
    return lines


def summary(all_timings: Sequence[Timings], limit: float = LIMIT) -> list[str]:
    """Counts by kind, and the geometric mean and worst of the ratios."""
    lines = []
    for kind in dict.fromkeys(timings.row.kind for timings in all_timings):
        mine = [timings for timings in all_timings if timings.row.kind == kind]
        for what in ("gpu", "call", "host"):
            found = [one for one in (timings.ratio(what) for timings in mine if not timings.trouble) if one]
            if not found:
                continue
            counts = {
                name: sum(verdict(one, limit) == name for one in found) for name in (OK, UNCLEAR, SLOWER)
            }
            mean = statistics.geometric_mean([one.median for one in found])
            lines.append(
                f"{kind:13}{what:5} {len(found)} rows: mean ratio {mean:.4f}, "
                f"{min(one.median for one in found):.3f} to {max(one.median for one in found):.3f}; "
                + ", ".join(f"{count} {name}" for name, count in counts.items())
            )
        untold = sum(bool(timings.trouble) for timings in mine)
        if untold:
            lines.append(f"{kind:13}      {untold} rows not compared")
    return lines


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
    """Have the second copy compare its results with the first one's, and print what differs.

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
    """Whether a package was imported from the folder that was asked for."""
    return Path(location).resolve().parent == folder.resolve()


def say(line: str = "") -> None:
    """Print a line at once."""
    print(line, flush=True)


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
        partial = options.json.with_name(options.json.name + ".part")
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        partial.replace(options.json)
    return status


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
