"""Smoke-tests wheels: each in a new virtual environment with the torch that it requires.

The test itself is `builder.smoketest`, which the environment's Python runs with nothing but torch and the
wheel. Its report goes beside the wheel.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.check.compatibility import find_python, wheels_of, why_not_here
from builder.smoketest.report import ExitCode
from builder.target.architectures import local_gpus
from builder.target.targets import Target, find_target, load_targets
from builder.toolchain.torch_env import make_clean_venv
from builder.util import files
from builder.util.arguments import Parser
from builder.util.errors import BuilderError
from builder.util.log import say, step
from builder.util.process import show
from builder.wheel.label import WheelLabel, torch_requirement
from builder.wheel.wheelfile import Wheel


@dataclass(frozen=True)
class Ending:
    """The result for a wheel: an exit code and one line; and whether the test ran at all."""

    wheel: Path
    exit_code: int
    line: str
    ran: bool = True


def main(argv: Sequence[str] | None = None) -> int:
    """Test wheels of the wheelhouse, of one target, or the ones given; return the worst exit code."""
    options = _parse(argv)
    target = find_target(options.target) if options.target else None
    wheels = wheels_of(options)
    if target is not None:
        wheels = [wheel for wheel in wheels if belongs_to(WheelLabel.parse(wheel.name), target)]
    if not wheels:
        what = f"of {target.name} " if target else ""
        say(f"No wheel {what}in {options.wheelhouse}: nothing was tested. Build one, or give --wheel PATH.")
        return ExitCode.NO_WHEEL
    if not options.import_only and not local_gpus():
        say("No NVIDIA GPU answers here: no wheel was tested. --import-only checks the imports alone.")
        return ExitCode.NO_GPU
    endings = [_test(wheel, options) for wheel in wheels]
    passed = sum(ending.ran and ending.exit_code == ExitCode.PASS for ending in endings)
    not_run = sum(not ending.ran for ending in endings)
    good = "only imported (nothing was computed)" if options.import_only else "passed"
    say("\n".join(["", *(f"{ending.wheel.name}  {ending.line}" for ending in endings)]))
    say(f"wheels: {passed} {good}, {len(endings) - passed - not_run} failed, {not_run} not run")
    # Failed rows first. A wheel that was named and did not run is no pass.
    codes = [ending.exit_code for ending in endings if ending.ran or options.wheel or target]
    if not codes:
        return ExitCode.NO_WHEEL
    if ExitCode.FAILURES in codes:
        return ExitCode.FAILURES
    return next((code for code in codes if code != ExitCode.PASS), ExitCode.PASS)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="nox -s smoketest --",
        description="Test wheels on this machine's GPU, each in a new environment.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("target", nargs="?", help="test this target's wheels only")
    add("--wheel", action="append", default=[], metavar="PATH", help="test this wheel")
    add("--wheelhouse", default=str(files.ROOT / "wheelhouse"), metavar="DIR")
    add("--python", metavar="VERSION", help="Python for wheels that take several")
    add("--torch", metavar="REQUIREMENT", help="a different torch than the wheel's: torch==2.12.*")
    add("--torch-index", metavar="URL", help="package index to take torch from")
    add("--keep-venv", action="store_true", help="keep the environments in build/smoketest")
    test = parser.add_argument_group("of the test itself")
    modes = test.add_mutually_exclusive_group()
    modes.add_argument("--quick", action="store_true", help="about a minute on an H100")
    modes.add_argument("--long", action="store_true", help="with 200,000 and 270,000 tokens")
    modes.add_argument("--import-only", action="store_true", help="check the imports; needs no GPU")
    test.add_argument("--kernels", metavar="A,B", help="only these")
    test.add_argument("--groups", metavar="A,B", help="only these groups of rows")
    test.add_argument("--seed", type=int, metavar="N", help="of the random inputs")
    test.add_argument("--no-speed", action="store_true", help="omit the timings")
    return parser.parse_args(argv)


def belongs_to(label: WheelLabel, target: Target) -> bool:
    """Return whether a wheel is one of a target's, by its file name."""
    return (
        label.tag.startswith(target.wheel_tag(""))
        and label.machine == target.machine.name
        and label.local_version.split(".")[0] == target.cuda_tag
    )


def python_for(label: WheelLabel, version: str | None) -> str:
    """Return the Python that a wheel is tested with: its only one, or the one asked for, or this one."""
    if (tagged := re.fullmatch(r"cp3(\d+)", label.python)) and label.abi not in ("abi3", "none"):
        return f"3.{tagged[1]}"
    return version or f"{sys.version_info.major}.{sys.version_info.minor}"


def torch_for(wheel: Path) -> tuple[str, str | None]:
    """Return the torch that a wheel is tested with, as a requirement, and its package index.

    A wheel of this project gets its target's torch: the newest that it allows may be built for another CUDA
    version. Others get what their metadata or their local version names.
    """
    label = WheelLabel.parse(wheel.name)
    target = next((target for target in load_targets().values() if belongs_to(label, target)), None)
    if target is not None:
        return f"torch=={target.torch}", target.torch_index
    with Wheel(wheel) as opened:
        required = torch_requirement(opened.metadata.get("requires_dist"))
    if required and required.specifier:
        return f"torch{required.specifier}", label.torch_index
    return f"torch=={label.torch}.*" if label.torch else "torch", label.torch_index


def _test(wheel: Path, options: argparse.Namespace) -> Ending:
    """Test one wheel; if its environment can't be made, that is its result."""
    venv = files.ROOT / "build" / "smoketest" / wheel.stem
    try:
        label = WheelLabel.parse(wheel.name)
        if reason := why_not_here(label):
            return Ending(wheel, ExitCode.NO_WHEEL, f"not run: {reason}", ran=False)
        version = python_for(label, options.python)
        python = find_python(version)
        if python is None:
            reason = f"not run: Python {version} is not on this machine"
            return Ending(wheel, ExitCode.WHEEL_FOR_ANOTHER_PYTHON, reason, ran=False)
        requirement, torch_index = torch_for(wheel)
        requirement = options.torch or requirement
        with step(f"Installing {wheel.name} with {requirement} for Python {version}"):
            packages = [requirement, str(wheel)]
            inside = make_clean_venv(venv, python, packages, options.torch_index or torch_index)
        with step(f"Testing {wheel.name}"):
            return _run(wheel, inside, options)
    except BuilderError as error:
        return Ending(wheel, error.exit_code, f"FAILED: {error.message}")
    finally:
        if not options.keep_venv:
            shutil.rmtree(venv, ignore_errors=True)


def _run(wheel: Path, python: Path, options: argparse.Namespace) -> Ending:
    """Run the test in its environment, and add the wheel's name and digest to its report."""
    path = wheel.with_name(f"{wheel.name}.smoketest.json")
    if options.import_only:  # which must not replace the report of a real test
        path = python.with_name("imports.json")
    path.unlink(missing_ok=True)
    # By its path, and not with -m: a folder named sageattention where the user is would be imported.
    command: list[str | Path] = [python, files.ROOT / "builder" / "smoketest", "--json", path]
    for name in ("quick", "long", "import_only", "no_speed"):
        command += [f"--{name.replace('_', '-')}"] * bool(getattr(options, name))
    for name in ("kernels", "groups", "seed"):
        if (value := getattr(options, name)) is not None:
            command.append(f"--{name}={value}")
    code = show(command)
    if not path.exists():
        line = f"FAILED: the test ended with exit code {code} and no report"
        return Ending(wheel, code or ExitCode.FAILURES, line)
    report = json.loads(path.read_text())
    report["wheel"] = {"filename": wheel.name, "sha256": files.file_sha256(wheel)}
    files.write(path, json.dumps(report, indent=1) + "\n")
    return Ending(wheel, code, str(report["headline"]).splitlines()[0])
