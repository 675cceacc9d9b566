"""Smoke-tests wheels: each in a new virtual environment with the torch that it requires.

The test itself is `builder.smoketest`, which the environment's Python runs with nothing but torch and the
wheel. Its report goes beside the wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.tags import platform_tags

from builder.check.pythons import find_python
from builder.check.smoketest_choice import belongs_to, choose
from builder.finish.wheelhouse import wheels_in
from builder.smoketest.report import ENDINGS, ExitCode
from builder.target.targets import find_target, load_targets
from builder.toolchain.venv import make_clean_venv
from builder.util import files
from builder.util.arguments import Parser
from builder.util.digest import file_sha256
from builder.util.errors import BuilderError, UsageError
from builder.util.log import say, step, warn
from builder.util.paths import ROOT
from builder.util.process import CommandError, run, show
from builder.wheel.wheelfile import Wheel, WheelName


@dataclass(frozen=True)
class Ending:
    """The result for a wheel: an exit code and one line."""

    wheel: Path
    exit_code: int
    line: str
    ran: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Test wheels of the wheelhouse, of one target, or the ones given.

    Returns:
        The worst exit code of the wheels that ran (see `builder.smoketest.report.ExitCode`).

    Raises:
        UsageError: A wheel does not exist.
        TargetError: There is no such target.
    """
    options = _parser().parse_args(argv)
    target = find_target(options.target) if options.target else None
    asked = [Path(path).resolve() for path in options.wheel]
    wheels = asked or wheels_in(Path(options.wheelhouse).resolve())
    missing = [str(path) for path in asked if not path.is_file()]
    if missing:
        raise UsageError(f"No such wheel: {', '.join(missing)}.", "Give the path of a wheel to --wheel.")
    if target is not None:
        wheels = [wheel for wheel in wheels if belongs_to(WheelName.parse(wheel.name), target)]
    if not wheels:
        what = f"of {target.name} " if target else ""
        say(f"No wheel {what}in {options.wheelhouse}: nothing was tested. Build one, or give --wheel PATH.")
        return ExitCode.NO_WHEEL
    if not options.import_only and not gpu_is_here():
        say("No NVIDIA GPU on this machine: no wheel was tested. --import-only checks the imports alone.")
        return ExitCode.NO_GPU
    endings = [_test(wheel, options) for wheel in wheels]
    say()
    for line in summary(endings, import_only=options.import_only):
        say(line)
    return worst(endings, asked_for=bool(asked or target))


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s smoketest --",
        description="Test wheels on this machine's GPU, each in a new environment.",
        allow_abbrev=False,
    )
    parser.add_argument("target", nargs="?", help="test this target's wheels only")
    parser.add_argument("--wheel", action="append", default=[], metavar="PATH", help="test this wheel")
    parser.add_argument("--wheelhouse", default=str(ROOT / "wheelhouse"), metavar="DIR")
    parser.add_argument("--python", metavar="VERSION", help="Python for wheels that take several")
    parser.add_argument(
        "--torch", metavar="REQUIREMENT", help="a different torch than the wheel's: torch==2.12.*"
    )
    parser.add_argument("--torch-index", metavar="URL", help="package index to take torch from")
    parser.add_argument("--keep-venv", action="store_true", help="keep the environments in build/smoketest")
    test = parser.add_argument_group("of the test itself")
    modes = test.add_mutually_exclusive_group()
    modes.add_argument("--quick", action="store_true", help="under half a minute on an H100")
    modes.add_argument("--long", action="store_true", help="with 200,000 and 270,000 tokens")
    modes.add_argument("--import-only", action="store_true", help="check the imports; needs no GPU")
    test.add_argument("--kernels", metavar="A,B", help="only these")
    test.add_argument("--groups", metavar="A,B", help="only these groups of rows")
    test.add_argument("--seed", type=int, metavar="N", help="of the random inputs")
    test.add_argument("--no-speed", action="store_true", help="omit the timings")
    return parser


def passed_on(options: argparse.Namespace) -> list[str]:
    """Return the options that go to the test itself."""
    flags = [name for name in ("quick", "long", "import_only", "no_speed") if getattr(options, name)]
    values = [name for name in ("kernels", "groups", "seed") if getattr(options, name) is not None]
    given = [f"--{name.replace('_', '-')}" for name in flags]
    return given + [f"--{name}={getattr(options, name)}" for name in values]


def _test(wheel: Path, options: argparse.Namespace) -> Ending:
    """Test one wheel; if its environment can't be made, that is its result."""
    try:
        with Wheel(wheel) as opened:
            requirements = opened.metadata.get_all("Requires-Dist") or []
        trial = choose(
            wheel, requirements, load_targets().values(), platforms=platform_tags(), python=options.python
        )
    except BuilderError as error:
        return Ending(wheel, error.exit_code, str(error))
    if isinstance(trial, str):
        return Ending(wheel, ExitCode.NO_WHEEL, f"not run: {trial}", ran=False)
    python = find_python(trial.python)
    if python is None:
        code = ExitCode.WHEEL_FOR_ANOTHER_PYTHON
        return Ending(wheel, code, f"not run: Python {trial.python} is not on this machine", ran=False)
    requirement = options.torch or trial.requirement
    if requirement == "torch":
        warn(f"{wheel.name} names no torch version: testing with the newest; choose another with --torch")
    venv = ROOT / "build" / "smoketest" / wheel.stem
    try:
        with step(f"Installing {wheel.name} with {requirement} for Python {trial.python}"):
            inside = make_clean_venv(
                venv, python, [requirement, str(wheel)], options.torch_index or trial.torch_index
            )
        with step(f"Testing {wheel.name}"):
            return _run(wheel, inside, passed_on(options), report=not options.import_only)
    except BuilderError as error:
        return Ending(wheel, error.exit_code, f"FAILED: {error.message}")
    finally:
        if not options.keep_venv:
            shutil.rmtree(venv, ignore_errors=True)


def _run(wheel: Path, python: Path, arguments: Sequence[str], *, report: bool) -> Ending:
    """Run the test in an environment.

    Args:
        report: Write a report beside the wheel. Not for imports alone: it would replace that of a real test.
    """
    report_path = wheel.with_name(f"{wheel.name}.smoketest.json")
    outputs = ["--json", str(report_path)] if report else []
    if report:
        report_path.unlink(missing_ok=True)
    # By its path, and not with -m: a folder named sageattention where the user is would be imported.
    command: list[str | Path] = [python, ROOT / "builder" / "smoketest", *arguments, *outputs]
    status = show(command, env=clean_environment(os.environ))
    return conclude(wheel, status, report_path if report else None)


def conclude(wheel: Path, exit_code: int, report_path: Path | None) -> Ending:
    """Return a wheel's result, and add the wheel's name and digest to its report.

    Args:
        exit_code: The test's.
        report_path: Where the test writes its report, if it gets that far; None for imports alone.
    """
    if report_path is None and exit_code == ExitCode.PASS:
        return Ending(wheel, exit_code, "imports only: nothing was computed")
    try:
        report: dict[str, Any] = json.loads(report_path.read_text()) if report_path else {}
    except (OSError, json.JSONDecodeError):
        report = {}
    if report_path is None or not report:
        known = [code for code in ExitCode if code == exit_code != ExitCode.PASS]
        line = ENDINGS[known[0]] if known else f"FAILED: the test ended with exit code {exit_code}"
        return Ending(wheel, exit_code or ExitCode.FAILURES, line)
    report["wheel"] = {"filename": wheel.name, "sha256": file_sha256(wheel)}
    files.write(report_path, json.dumps(report, indent=1) + "\n")
    return Ending(wheel, exit_code, str(report["headline"]).splitlines()[0])


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return this environment without what could bring other packages than the venv's into a test."""
    left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")
    return {
        **{name: value for name, value in environ.items() if name not in left_out},
        "PYTHONNOUSERSITE": "1",
    }


def summary(endings: Sequence[Ending], *, import_only: bool) -> list[str]:
    """Return a line for each wheel, and one with the counts; imports alone are not called a pass."""
    width = max(len(ending.wheel.name) for ending in endings)
    lines = [f"{ending.wheel.name:{width}}  {ending.line}" for ending in endings]
    passed = sum(ending.ran and ending.exit_code == ExitCode.PASS for ending in endings)
    not_run = sum(not ending.ran for ending in endings)
    failed = len(endings) - passed - not_run
    good = "only imported (nothing was computed)" if import_only else "passed"
    return [*lines, f"wheels: {passed} {good}, {failed} failed, {not_run} not run"]


def worst(endings: Sequence[Ending], *, asked_for: bool) -> int:
    """Return the exit code for all wheels: that of failed rows first, then any other, then a pass.

    Args:
        asked_for: The wheels were named, so one that did not run is not a pass.
    """
    codes = [ending.exit_code for ending in endings if ending.ran or asked_for]
    if not codes:
        return ExitCode.NO_WHEEL
    if ExitCode.FAILURES in codes:
        return ExitCode.FAILURES
    return next((code for code in codes if code != ExitCode.PASS), ExitCode.PASS)


def gpu_is_here() -> bool:
    """Return whether the machine has an NVIDIA GPU with a driver, as far as can be seen without torch."""
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists():
        return True
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        return "GPU 0" in run(["nvidia-smi", "-L"]).output
    except CommandError as error:
        warn(error.message)
        return False
