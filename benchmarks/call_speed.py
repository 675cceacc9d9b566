"""Time `sageattn()` against torch's attention over a grid of the calls that models make.

    python -m pip install --no-deps --target ours OURS.whl
    python -m benchmarks.call_speed --ours ours [--other other] [--json FILE] [--svg FILE]

Run it in the root of the repository, with the Python of an environment that has torch. Each copy has its own
process. The contenders take turns on each row, each alone for --seconds at a time, since the card is bound by
its power: what ran just before decides a short timing. GPU time is that of calls which wait in a queue, so no
launch shows in it; host time is the caller's, to queue one call. Memory is what a call allocates at its
highest, its output included, in units of Q. The clock is the SM clock while the calls run.

Exit status: 0 all rows were timed, 2 wrong usage, 3 a call failed or its output is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.grid_picture import picture

LARGEST_ERROR = 0.1  # against torch's output in the same type; the smoke test has the tight bounds


@dataclass(frozen=True)
class Row:
    """One call: bf16 tensors; `mask` is "", "bool", "float" or "padding" (`[batch, 1, 1, keys]`)."""

    group: str
    batch: int
    heads: int
    q_tokens: int
    kv_tokens: int
    head_dim: int
    kv_heads: int = 0
    causal: bool = False
    mask: str = ""
    layout: str = "HND"

    @property
    def label(self) -> str:
        """Batch x heads x tokens x head dim, and what is special."""
        heads = f"{self.heads}/{self.kv_heads}" if self.kv_heads else str(self.heads)
        tokens = f"{self.q_tokens:,}"
        tokens += f"-{self.kv_tokens:,}" if self.kv_tokens != self.q_tokens else ""
        words = [f"{self.batch}x{heads}x{tokens}x{self.head_dim}"]
        words += ["causal"] if self.causal else []
        words += [f"{self.mask} mask"] if self.mask else []
        return " ".join(words + (["NHD"] if self.layout == "NHD" else []))


def grid() -> list[Row]:
    """Return the rows: self- and cross-attention, decode, grouped heads, masks, layouts, batches."""
    lengths = (256, 512, 1024, 2048, 4096, 8192, 16384)
    shapes = [(2, 10, tokens, 64) for tokens in lengths] + [(1, 24, tokens, 128) for tokens in lengths]
    shapes += [(1, 24, 4608, 128), (1, 40, 32760, 128)]
    rows = [Row("self", b, h, n, n, d, causal=causal) for causal in (False, True) for b, h, n, d in shapes]
    rows += [Row("head dim", 1, 16, 4096, 4096, d) for d in (40, 72, 80, 96, 160, 192, 256)]
    cross = [
        (2, 10, 4096, 77, 64),
        (1, 40, 32760, 512, 128),
        (1, 40, 32760, 257, 128),
        (1, 24, 4608, 256, 128),
    ]
    rows += [Row("cross", b, h, q, k, d) for b, h, q, k, d in cross]
    rows += [Row("decode", b, 32, 1, keys, 128, kv_heads=8) for b in (1, 8) for keys in (4096, 32768)]
    rows += [Row("grouped", 1, 32, n, n, 128, kv_heads=8, causal=True) for n in (4096, 16384)]
    rows += [Row("mask", 2, 24, 4096, 4096, 128, mask=mask) for mask in ("bool", "float", "padding")]
    rows += [
        Row("layout", 2, 24, 4608, 4608, 128, layout="NHD"),
        Row("layout", 1, 24, 1024, 1024, 128, layout="NHD"),
    ]
    rows += [Row("batch", 8, 16, n, n, 64) for n in (512, 1024, 4096)]
    return rows


def ask(worker: subprocess.Popen[str], row: Row, name: str, seconds: float) -> dict[str, Any]:
    """Have a process time one contender."""
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(json.dumps({"row": asdict(row), "name": name, "seconds": seconds}) + "\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("A process ended. Its error stands above.")
    reply: dict[str, Any] = json.loads(line)
    return reply


def report(row: Row, replies: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return one row's figures: medians over the rounds, and torch's time over each copy's."""
    figures: dict[str, Any] = {"label": row.label, **asdict(row)}
    for name, rounds in replies.items():
        figures[name] = {
            key: statistics.median(values) if isinstance(values[0], float) else values[0]
            for key in rounds[0]
            if (values := [reply[key] for reply in rounds if reply.get(key) is not None])
        }
        if name != "torch" and all("gpu_us" in reply for reply in (*rounds, *replies["torch"])):
            pairs = zip(replies["torch"], rounds, strict=True)
            figures[name]["ratio"] = statistics.median(t["gpu_us"] / s["gpu_us"] for t, s in pairs)
    return figures


def cells(figures: dict[str, Any], copies: Sequence[str]) -> list[str]:
    """Return one row of the table."""
    torch_figures = figures["torch"]
    row = [figures["label"]]
    row += [f"{torch_figures.get('gpu_us', 0):,.0f}", f"{torch_figures.get('host_us', 0):.0f}"]
    for name in copies:
        own = figures[name]
        row.append(own.get("failed") or f"{own['gpu_us']:,.0f}")
        row += [f"{own[key]:.2f}" if key in own else "-" for key in ("ratio",)]
        row += [f"{own.get(key, 0):.{digits}f}" for key, digits in (("host_us", 0), ("peak_inputs", 1))]
        row += [f"{own['clock_mhz']:.0f}" if own.get("clock_mhz") else "-", own.get("kernel", "-")]
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Time the grid and print it, a line as soon as its row is done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", type=Path, required=True, metavar="DIR", help="folder with a sageattention")
    parser.add_argument("--other", type=Path, metavar="DIR", help="a second one, such as an earlier wheel's")
    parser.add_argument(
        "--rows", default="", metavar="A,B", help="only rows whose group or label has one of these"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    words = [word for word in options.rows.split(",") if word]
    rows = [row for row in grid() if not words or any(word in f"{row.group} {row.label}" for word in words)]
    folders = {"ours": options.ours} | ({"other": options.other} if options.other else {})
    for folder in folders.values():
        if not (folder / "sageattention" / "__init__.py").is_file():
            parser.error(f"{folder} holds no sageattention: pip install --no-deps --target {folder} WHEEL")
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.call_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(folder.resolve()), str(Path.cwd())))},
        )
        for name, folder in folders.items()
    }
    head = ["call", "torch us", "host us"]
    head += [
        f"{name} {what}"
        for name in folders
        for what in ("us", "x torch", "host us", "memory", "MHz", "kernel")
    ]
    print(f"| {' | '.join(head)} |\n| --- |{' ---: |' * (len(head) - 1)}")
    table = []
    for row in rows:
        replies: dict[str, list[dict[str, Any]]] = {"torch": [], **{name: [] for name in folders}}
        for _ in range(options.rounds):
            for name, rounds in replies.items():
                worker = workers.get(name, workers["ours"])
                function = "sageattn" if name in folders else "torch"
                rounds.append(ask(worker, row, function, options.seconds))
        table.append(report(row, replies))
        print(f"| {' | '.join(cells(table[-1], list(folders)))} |", flush=True)
    for worker in workers.values():
        assert worker.stdin
        worker.stdin.close()
        worker.wait()
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")
    timed = [figures for figures in table if "ratio" in figures["ours"]]
    if options.svg and timed:
        conditions = f"{timed[0]['ours']['device']}, torch {timed[0]['ours']['torch']}, bf16"
        bars = [(one["label"], one["ours"].get("kernel", ""), one["ours"]["ratio"]) for one in timed]
        options.svg.write_text(picture(bars, conditions))
    wrong = [one["label"] for one in timed if one["ours"]["error"] > LARGEST_ERROR]
    for label in wrong:
        print(f"{label}: the output is wrong")
    slower = [one["label"] for one in timed if one["ours"]["ratio"] < 0.97]
    print(f"{len(timed)} of {len(table)} rows timed, {len(slower)} below 0.97 of torch's speed")
    return 3 if wrong or len(timed) < len(table) else 0


if __name__ == "__main__":
    sys.exit(main())
