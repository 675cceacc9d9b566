"""Shows that wheels are for every Python, torch and GPU that they claim, without a GPU.

Each result is of a clean environment with one Python, one torch and the wheel. There every extension is
loaded, the operators must have the same schemas as in the first environment, and what can be called without
a GPU is called (`probe`). With each Triton that these torches bring, every Triton kernel is compiled for each
GPU (`triton_limits`). For a Python that is not on this machine, pip says whether it would install the wheel.
What could not be tested is listed, and never counts as a pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, platform_tags
from packaging.version import Version

from builder.check import probe
from builder.toolchain.torch_env import install_wheel, make_clean_venv
from builder.util import files, http
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, DownloadError, UsageError
from builder.util.log import say, step
from builder.util.process import output_of, run
from builder.wheel.label import WheelLabel, torch_requirement
from builder.wheel.wheelfile import Wheel

NOTHING_TESTED = 40
# Of a wheel with one Python and one torch.
OK, FAILED, NOT_TESTED, NOT_CLAIMED = "ok", "FAILED", "not tested", "not claimed"
RESOLVED, NO_TORCH = "resolved, not imported", "no such torch"
_FOLDER = files.ROOT / "build" / "compatibility"
_UV = (sys.executable, "-m", "uv")
_PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15")
_PRINT_MINOR = "import sys; print('%d.%d' % sys.version_info[:2] + 't' * ('t' in sys.abiflags))"
_TRITON_SECONDS = 3600  # some 700 compilations of a second each, on as many cores as there are


@dataclass
class Result:
    """A wheel's result with one Python and one torch: `2.12.1`, or `2.12` for the newest of them."""

    torch: str
    python: str
    status: str = NOT_TESTED
    reason: str = ""  # why it is not ok
    found: dict[str, Any] = field(default_factory=dict)  # by the probe


class WheelResults:
    """A wheel, what it claims to be for, its results, and those of its Triton kernels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = WheelLabel.parse(path.name)
        with Wheel(path) as wheel:
            required = torch_requirement(wheel.metadata.get("requires_dist"))
            self.torch = required.specifier if required else SpecifierSet()
            self.python = SpecifierSet(wheel.metadata.get("requires_python", ""))
        self.results: list[Result] = []
        self.triton: dict[str, dict[str, Any]] = {}  # version -> what `triton_limits` found

    def why_not(self, torch: str, python: str) -> str:
        """Return why the wheel does not claim to be for a pair; empty where it does."""
        number = python.rstrip("t")
        version = tuple(map(int, number.split(".")))
        fitting = {*cpython_tags(version, [f"cp{python.replace('.', '')}"]), *compatible_tags(version)}
        if not fitting & self.label.tags:
            return f"the wheel's tag, {self.label.python}-{self.label.abi}, is not for Python {python}"
        if f"{number}.99" not in self.python:
            return f"the wheel requires Python {self.python}"
        if torch not in self.torch and f"{torch}.99" not in self.torch:
            return f"the wheel requires torch{self.torch}"
        return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Try wheels with every torch and Python asked for, and print the tables.

    Returns 0 where all that exists and is claimed was tested and is ok, 1 where something failed, 40 where
    nothing failed and one or all could not be tested; UsageError for a wheel or version that is none.
    """
    options = _parser().parse_args(argv)
    wheels = []
    for path in wheels_of(options):
        label = WheelLabel.parse(path.name)
        if reason := why_not_here(label):
            say(f"{path.name} {reason}: not tested")
        elif label.universal or options.wheel:
            wheels.append(WheelResults(path))
    if not wheels:
        say("No universal wheel for this machine: nothing was tested. Build one, or give --wheel PATH.")
        return NOTHING_TESTED
    pythons, absent = _find_pythons(options.python or _PYTHONS)
    say("Pythons: " + (", ".join(f"{version} ({path})" for version, path in pythons.items()) or "none"))
    if absent:
        say(f"not on this machine, so nothing is imported: Python {', '.join(absent)}")
    for wheel in wheels:
        index = options.torch_index or wheel.label.torch_index
        torches = _torches(index)
        if index and not torches:
            index, torches = None, _torches(None)
        # A Python that was not asked for by name, is not here and has no torch has no column.
        columns = [*pythons, *(python for python in absent if options.python or python in torches)]
        columns.sort(key=lambda python: (Version(python.rstrip("t")), python))
        releases = {torch for python in columns for torch in torches.get(python, ())}
        newest = {minor_of(str(torch)): str(torch) for torch in sorted(wheel.torch.filter(releases))}
        for torch, python in product(options.torch or newest.values(), columns):
            result = Result(torch, python)
            interpreter = pythons.get(python)
            result.status, result.reason = _try(wheel, result, interpreter, torches, index, keep=options.keep)
            wheel.results.append(result)
    reports = []
    for wheel in wheels:
        agree(wheel.results)
        say("\n".join(["", wheel.path.name, *table(wheel.results)]))
        cells = [asdict(result) for result in wheel.results]
        reports.append({"wheel": wheel.path.name, "cells": cells, "triton": wheel.triton})
    if options.json:
        files.write(Path(options.json), json.dumps({"format": 2, "wheels": reports}, indent=1) + "\n")
    codes = [exit_code(wheel.results) for wheel in wheels]
    return 1 if 1 in codes else max(codes)


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s compatibility --",
        description="Load a wheel with every torch and Python that it claims, in clean environments.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--wheel", action="append", default=[], metavar="PATH", help="this wheel (repeatable)")
    add("--wheelhouse", default=files.ROOT / "wheelhouse", metavar="DIR", help="its universal wheels")
    add("--torch", type=version_list, metavar="A,B", help="versions; each minor version there is by default")
    add("--python", type=lambda text: text.split(","), metavar="A,B", help="versions or paths; those here")
    add("--torch-index", metavar="URL", help="package index to take torch from")
    add("--keep", action="store_true", help="keep the environments in build/compatibility")
    add("--json", metavar="FILE", help="write all findings there")
    return parser


def version_list(text: str) -> list[str]:
    """Return the versions in an argument; ValueError, which argparse reports, if one is none."""
    return [str(Version(version)) for version in text.split(",")]


def wheels_of(options: argparse.Namespace) -> list[Path]:
    """Return the wheels that `--wheel` names, or all of the wheelhouse; UsageError if one is missing."""
    named = [Path(path).resolve() for path in options.wheel]
    if missing := [str(path) for path in named if not path.is_file()]:
        raise UsageError(f"No such wheel: {', '.join(missing)}.", "Give the path of a wheel to --wheel.")
    return named or sorted(Path(options.wheelhouse).resolve().glob("*.whl"))


def why_not_here(label: WheelLabel) -> str:
    """Return why a wheel can't be installed on this machine; empty if it can."""
    here = {"any", *platform_tags()} & set(label.platform.split("."))
    return "" if here else f"is for {label.platform}, and this machine is {platform.machine()}"


def minor_of(version: str) -> str:
    """Return the minor version: `3.12` of `3.12.1`, `3.14t` of a free-threaded `3.14.2t`."""
    return ".".join(version.rstrip("t").split(".")[:2]) + "t" * version.endswith("t")


def find_python(version: str) -> Path | None:
    """Return a Python of a minor version that is on this machine; None where there is none."""
    if found := output_of([*_UV, "python", "find", "--no-python-downloads", version]):
        return Path(found)
    # pyenv's shims stand in the path, uv stops at the first, and all but one of them don't run.
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    number, end = minor_of(version).rstrip("t"), "t" * version.endswith("t")
    return max(root.glob(f"versions/{number}.*[0-9]{end}/bin/python"), default=None)


def _find_pythons(entries: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """Return the Pythons by minor version, and the minor versions that are not here."""
    pythons: dict[str, Path] = {}
    absent = []
    for entry in entries:
        python = Path(entry).absolute() if "/" in entry else find_python(entry)
        if python and (minor := output_of([python, "-I", "-c", _PRINT_MINOR])):
            pythons[minor] = python
        elif re.fullmatch(r"\d+\.\d+(\.\d+)?t?", entry):
            absent.append(minor_of(entry))
        else:
            raise UsageError(f"{entry} is not a Python that runs.", "Give a version, or a Python's path.")
    return pythons, absent


def _torches(index: str | None) -> dict[str, set[Version]]:
    """Return the releases of torch that an index has for this machine, by Python's minor version.

    Without an index: those of uv's default one, which it knows by its variables and settings.
    """
    if index is None:
        command = [*_UV, "pip", "compile", "--quiet", "--no-header", "--emit-index-url", "-"]
        index = run(command, check=False).output.partition("--index-url ")[2].strip()
    try:
        page = http.get(f"{index.rstrip('/')}/torch/").decode("utf-8", "replace")
    except DownloadError as error:
        say(f"torch can't come from {index}: {error.message}")
        return {}
    name = r"\btorch-([\d.]+)(?:(?:\+|%2B)[\w.]+)?-cp\d+-cp3(\d+t?)-[\w.]*linux[\w.]*"
    torches: dict[str, set[Version]] = {}
    for version, minor in re.findall(rf"{name}{platform.machine()}\.whl", page):
        torches.setdefault(f"3.{minor}", set()).add(Version(version))
    return torches


def _try(
    wheel: WheelResults,
    result: Result,
    python: Path | None,
    torches: Mapping[str, set[Version]],
    index: str | None,
    *,
    keep: bool,
) -> tuple[str, str]:
    """Try a wheel with one torch and one Python, which may not be here; return a status, and its reason."""
    if reason := wheel.why_not(result.torch, result.python):
        return NOT_CLAIMED, reason
    if not torches:
        return NOT_TESTED, "no index says which torches there are"
    releases = torches.get(result.python, ())
    fitting = [each for each in releases if result.torch in (str(each), minor_of(str(each)))]
    if not fitting:
        return NO_TORCH, f"the index has no torch {result.torch} for Python {result.python}"
    if python is None:
        return _resolve(wheel.path, result.python)
    venv = _FOLDER / f"torch{result.torch}-py{result.python}-{os.getpid()}"
    failure = NOT_TESTED  # until torch is installed
    try:
        with step(f"{wheel.path.name} with torch {result.torch}, Python {result.python}"):
            inside = make_clean_venv(venv, python, [f"torch=={max(fitting)}"], index)
            failure = FAILED
            install_wheel(inside, wheel.path)
            result.found = probe.run([inside], options=["--operators"])
            if triton := result.found.get("triton"):
                result.found["problems"] += _triton_problems(wheel, triton, inside)
            status, reason = judge(result.found, wheel.label)
    except BuilderError as error:
        status, reason = failure, error.message
    finally:
        if not keep:
            shutil.rmtree(venv, ignore_errors=True)
    # Equal reasons of several environments are one note below the table.
    reason = re.sub(rf"{re.escape(str(venv))}/(lib/python[\d.]+t?/site-packages/)?", "", reason)
    say(f"  {status}: {reason or wheel.path.name}")
    return status, reason


def _resolve(wheel: Path, python: str) -> tuple[str, str]:
    """Ask pip whether it would install a wheel for a Python that is not here."""
    number, abi = python.rstrip("t"), f"cp{python.replace('.', '')}"
    command = [*_UV, "tool", "run", "pip", "install", "--dry-run", "--only-binary=:all:", "--no-deps"]
    command += [f"--target={_FOLDER / 'nothing'}", f"--python-version={number}", f"--abi={abi}"]
    command += [str(wheel), *(f"--platform={tag}" for tag in platform_tags())]
    try:
        run(command)
    except BuilderError as error:
        return FAILED, error.message
    return RESOLVED, f"Python {python} is not on this machine: pip would install the wheel"


def _triton_problems(wheel: WheelResults, triton: str, python: Path) -> list[str]:
    """Compile the wheel's kernels with an environment's Triton, unless that version was tried before."""
    if triton not in wheel.triton:
        script = Path(__file__).with_name("triton_limits.py")
        with step(f"Compiling the kernels with Triton {triton}"):
            done = run([python, "-I", script], timeout_seconds=_TRITON_SECONDS, check=False)
        try:
            wheel.triton[triton] = json.loads(done.output)
        except json.JSONDecodeError:
            wheel.triton[triton] = {"problems": [f"ended with {done.ending}: {' | '.join(done.lines[-3:])}"]}
    return [f"Triton {triton}: {problem}" for problem in wheel.triton[triton]["problems"]]


def judge(found: Mapping[str, Any], label: WheelLabel) -> tuple[str, str]:
    """Return what the probe's findings mean for a wheel; whether the schemas agree is seen later."""
    problems = found["problems"]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    reason = f"{problems[0]}{more}" if problems else ""
    wanted = label.cuda.split(".")[0]
    if found.get("torch") and wanted and found["cuda"].split(".")[0] != wanted:
        # A wheel is for one CUDA version; a torch for another can't show anything.
        built = f"for CUDA {found['cuda']}" if found["cuda"] else "without CUDA"
        seen = f"with it: {reason}" if problems else "it loads, which shows nothing"
        return NOT_TESTED, f"the index's torch is built {built}, the wheel for CUDA {wanted}; {seen}"
    return (FAILED if problems else OK), reason


def agree(results: Sequence[Result]) -> None:
    """Compare each result's schemas with those of the first that is ok; one that differs has failed."""
    passed = [result for result in results if result.status == OK]
    for result in passed[1:]:
        here, there = result.found["operators"], passed[0].found["operators"]
        if names := sorted(name for name in here | there if here.get(name) != there.get(name)):
            schemas = [operators.get(names[0], f"no {names[0]}") for operators in (here, there)]
            where = f"torch {passed[0].torch}, Python {passed[0].python}"
            result.reason = f"{schemas[0]} here, {schemas[1]} there ({where})"
            result.status = FAILED


def table(results: Sequence[Result]) -> list[str]:
    """Return the table: rows of torch, columns of Python, then the notes by number and the counts."""
    notes: dict[str, int] = {}
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        note = f" [{notes.setdefault(result.reason, len(notes) + 1)}]" if result.reason else ""
        rows.setdefault(result.torch, {})[result.python] = f"{result.status}{note}"
    pythons = list(dict.fromkeys(result.python for result in results))
    header = ["torch", *(f"Python {python}" for python in pythons)]
    lines = [header, *([torch, *(row.get(python, "") for python in pythons)] for torch, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    counts = Counter(result.status for result in results)
    return [
        *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
        *(f"[{number}] {reason}" for reason, number in notes.items()),
        ", ".join(f"{count} {status}" for status, count in counts.items()),
    ]


def exit_code(results: Sequence[Result]) -> int:
    """Return 1 for a failure, 40 where something was not tested or nothing was ok, else 0."""
    statuses = {result.status for result in results}
    if FAILED in statuses:
        return 1
    return NOTHING_TESTED if NOT_TESTED in statuses or OK not in statuses else 0
