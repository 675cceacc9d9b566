"""``python -m builder.smoketest``: prints the table, and writes the report."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from builder.smoketest.attention.kernels import ALL, unmatched
from builder.smoketest.plan import FIRST_CALL, GROUPS, Options, plan
from builder.smoketest.report import (
    ExitCode,
    headline,
    judge,
    table_heading,
    table_line,
    table_summary,
    to_json,
)
from builder.smoketest.run import worker
from builder.smoketest.run.supervisor import supervise


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    codes = "\n".join(f"  {code.value:3}  {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    new = argparse.ArgumentParser(
        prog="python -m builder.smoketest",
        description="Test the installed sageattention on this machine's GPU.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    modes = new.add_mutually_exclusive_group()
    for mode, text in (
        ("quick", "about a minute on an H100"),
        ("long", "all rows, with whole models and 64 heads x 270,000 tokens x 128 (48 GiB of GPU memory)"),
    ):
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode, help=text)
    modes.add_argument(
        "--import-only", action="store_true", help="import only; needs no GPU, computes nothing"
    )
    new.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    new.add_argument("--kernels", default="", metavar="A,B", help="only these (see --list; * matches)")
    new.add_argument(
        "--groups", default="", metavar="A,B", help=f"only these groups of rows: {','.join(GROUPS)}"
    )
    new.add_argument("--seed", type=int, default=0, help="seed of the random inputs")
    new.add_argument("--no-speed", action="store_true", help="omit the timings")
    new.add_argument("--list", action="store_true", help="list the kernels and rows; run nothing")
    new.add_argument(
        "--device",
        default="cuda:0",
        help="a GPU; 'cpu' tries the test itself on a fake package, and tests no wheel",
    )
    new.add_argument("--worker", metavar="ORDER", help=argparse.SUPPRESS)
    return new


def main(argv: list[str] | None = None) -> int:
    """Run the smoke test.

    Returns:
        An `ExitCode`.
    """
    arguments = parser().parse_args(argv)
    if arguments.worker:
        return worker.main(json.loads(arguments.worker))
    patterns = tuple(part for part in arguments.kernels.split(",") if part)
    if unknown := unmatched(patterns):
        print(f"no such kernel: {', '.join(unknown)}; --list shows them", file=sys.stderr)
        return ExitCode.USAGE
    groups = tuple(part for part in arguments.groups.split(",") if part)
    if unknown := [group for group in groups if group not in (FIRST_CALL, *GROUPS)]:
        print(f"no such group: {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return ExitCode.USAGE
    options = Options(
        mode=arguments.mode or "default",
        patterns=patterns,
        seed=arguments.seed,
        speed=not arguments.no_speed,
        import_only=arguments.import_only,
        device=arguments.device,
        groups=groups,
    )
    if arguments.list:
        print("kernels:")
        for kernel in ALL:
            print(f"  {kernel.key:34} {kernel.function}  {dict(kernel.arguments) or ''}")
        specs = plan(options, (9, 0))  # a Hopper GPU runs all kernels
        print(f"\nrows of --{options.mode} on compute capability 9.0: {len(specs)}")
        print("\n".join(f"  {spec.id}" for spec in specs))
        return ExitCode.PASS
    report = run(options)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.json.with_name(f".{arguments.json.name}.{os.getpid()}")
        partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        partial.replace(arguments.json)
    return int(report["exit_code"])


def run(options: Options) -> dict[str, Any]:
    """Run the rows, print each as it ends, and return the report."""
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    start = time.monotonic()
    print(table_heading(), flush=True)
    done = supervise(options, lambda row: print(table_line(row), flush=True))
    rows, code = done.all_rows, done.ending
    if code is None:
        code = judge(rows, import_only=options.import_only, stand_in=options.device == "cpu")
    line = headline(rows, code, import_only=options.import_only)
    line += f"\n{done.line}" if done.line else ""
    mode = "import-only" if options.import_only else options.mode
    seconds = time.monotonic() - start
    print(table_summary(rows, done.environment))
    print(f"smoke test ({mode}, {seconds:.0f} s): {line}", flush=True)
    return to_json(
        rows,
        code,
        line,
        mode=mode,
        started=started,
        seconds=round(seconds, 3),
        options={**asdict(options), "processes": done.workers},
        environment=done.environment,
    )
