"""Shows that wheels are for every Python, torch and GPU that they claim, without a GPU.

Each result is of a clean environment with one Python, one torch and the wheel. There every extension is
loaded, the operators must have the same schemas as in the first environment, and what can be called without
a GPU is called (`compatibility_probe`). With each Triton that these torches bring, every Triton kernel is
compiled for each GPU (`triton_limits`). For a Python that is not on this machine, pip and uv say whether they
would install the wheel. What could not be tested is listed, and never counts as a pass.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import groupby, product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.specifiers import SpecifierSet
from packaging.tags import compatible_tags, cpython_tags, platform_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from builder.check.pythons import find_python, minor_of, minor_version
from builder.target.targets import machine_of
from builder.toolchain.torch_env import install_wheel, make_clean_venv
from builder.util import files, http
from builder.util.arguments import Parser
from builder.util.errors import BuilderError, DownloadError, UsageError
from builder.util.log import say, step
from builder.util.process import Finished, run
from builder.wheel.label import WheelLabel, torch_requirement
from builder.wheel.wheelfile import Wheel

NOTHING_TESTED = 40
_FOLDER = files.ROOT / "build" / "compatibility"
_UV = (sys.executable, "-m", "uv")
_PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15")
_PROBE_SECONDS = 900
_TRITON_SECONDS = 3600  # some 700 compilations of a second each, on as many cores as there are

TorchVersions = Mapping[str, set[Version]]
"""Minor version of Python -> the releases of torch for it."""


class Status(str, Enum):
    """The result with one Python and one torch."""

    OK = "ok"
    RESOLVED = "resolved, not imported"
    FAILED = "FAILED"
    NO_TORCH = "no such torch"
    NO_PYTHON = "no such Python"
    NOT_CLAIMED = "not claimed"
    NOT_TESTED = "not tested"


@dataclass
class Result:
    """A wheel's result with one Python and one torch: `2.12.1`, or `2.12` for the newest of them."""

    torch: str
    python: str
    status: Status = Status.NOT_TESTED
    reason: str = ""  # why it is not ok
    installed: str = ""  # the torch, with its local version
    python_version: str = ""
    cuda: str = ""  # of this torch
    seconds: float = 0.0
    cudart: list[str] = field(default_factory=list)  # two for a PEP 600 wheel, which brings its own
    operators: dict[str, str] = field(default_factory=dict)  # name -> schema


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
        self.triton: list[dict[str, Any]] = []

    def why_not(self, torch: str, python: str) -> str:
        """Return why the wheel does not claim to be for a pair; empty where it does."""
        number = python.rstrip("t")
        version = tuple(map(int, number.split(".")))
        fitting = {*cpython_tags(version, [f"cp{python.replace('.', '')}"]), *compatible_tags(version)}
        if not fitting & self.label.tags:
            return f"the wheel's tag, {self.label.python}-{self.label.abi}, is not for Python {python}"
        if not self.python.contains(number) and not self.python.contains(f"{number}.99"):
            return f"the wheel requires Python {self.python}"
        if not self.torch.contains(torch) and not self.torch.contains(f"{torch}.99"):
            return f"the wheel requires torch{self.torch}"
        return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Try wheels with every torch and Python asked for, and print the tables.

    Returns:
        0 where all that exists and is claimed was tested and is ok, 1 where something failed, 40 where
        nothing failed and one or all could not be tested.

    Raises:
        UsageError: A wheel does not exist, or a version can't be read.
    """
    options = _parser().parse_args(argv)
    wheels = _wheels(options)
    if not wheels:
        say("No universal wheel for this machine: nothing was tested. Build one, or give --wheel PATH.")
        return NOTHING_TESTED
    pythons, absent = _find_pythons(options.python)
    say("Pythons: " + (", ".join(f"{version} ({path})" for version, path in pythons.items()) or "none"))
    if absent:
        say(f"not on this machine, so nothing is imported: Python {', '.join(absent)}")
    # Wheels for one CUDA version take turns in an environment.
    for torch_index, group in groupby(wheels, lambda wheel: wheel.label.torch_index):
        together = list(group)
        index, versions = _torch_versions(options.torch_index or torch_index)
        # A Python that was not asked for by name, is not here and has no torch has no column.
        more = [python for python in absent if options.python or python in versions]
        columns = sorted([*pythons, *more], key=lambda each: (Version(each.rstrip("t")), each))
        every = sorted({version for python in columns for version in versions.get(python, ())})
        claimed = [version for version in every if any(wheel.torch.contains(version) for wheel in together)]
        newest = {minor_of(str(version)): str(version) for version in claimed}  # of each minor version
        for torch, python in product(options.torch or newest.values(), columns):
            pairs = [(wheel, Result(torch, python)) for wheel in together]
            for wheel, result in pairs:
                wheel.results.append(result)
                if reason := wheel.why_not(torch, python):
                    result.status, result.reason = Status.NOT_CLAIMED, reason
            claims = [(wheel, result) for wheel, result in pairs if result.status != Status.NOT_CLAIMED]
            if claims:
                _try(claims, pythons.get(python), index, versions, keep=options.keep)
    for wheel in wheels:
        agree(wheel.results)
        say("\n".join(["", wheel.path.name, *table(wheel.results)]))
        for kernels in wheel.triton:
            say(f"Triton {kernels['triton']}: {kernels['compiled']} variants compiled")
            problems = kernels["problems"]
            say("\n".join(f"  FAILED: {problem}" for problem in problems[:5]) or "  all fit")
            if len(problems) > 5:
                say(f"  and {len(problems) - 5} more: --json has them")
    if options.json:
        reports = [_as_json(wheel, absent) for wheel in wheels]
        files.write(Path(options.json), json.dumps({"format": 1, "wheels": reports}, indent=1) + "\n")
    if any(kernels["problems"] for wheel in wheels for kernels in wheel.triton):
        return 1
    codes = [worst(wheel.results) for wheel in wheels]
    return 1 if 1 in codes else max(codes)


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s compatibility --",
        description="Load a wheel with every torch and Python that it claims, in clean environments.",
        allow_abbrev=False,
    )
    torches = "torch versions; each minor version there is by default"
    pythons = "versions or paths; those here"
    add = parser.add_argument
    add("--wheel", action="append", default=[], metavar="PATH", help="this wheel (repeatable)")
    add("--wheelhouse", default=files.ROOT / "wheelhouse", metavar="DIR", help="its universal wheels")
    add("--torch", type=_versions, metavar="A,B", help=torches)
    add("--python", type=_pythons, metavar="A,B", help=pythons)
    add("--torch-index", metavar="URL", help="package index to take torch from")
    add("--keep", action="store_true", help="keep the environments in build/compatibility")
    add("--json", metavar="FILE", help="write all findings there")
    return parser


def _pythons(text: str) -> list[str]:
    return _versions(text, r"\d+\.\d+(\.\d+)?t?|.*/.*")


def _versions(text: str, pattern: str = r"\d+(\.\d+)*") -> list[str]:
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if wrong := [part for part in parts if not re.fullmatch(pattern, part)]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not a version")
    if not parts:
        raise argparse.ArgumentTypeError("the value is empty")
    return parts


def _wheels(options: argparse.Namespace) -> list[WheelResults]:
    paths = [Path(path).resolve() for path in options.wheel]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise UsageError(f"No such wheel: {', '.join(missing)}.", "Give the path of a wheel to --wheel.")
    in_wheelhouse = sorted(Path(options.wheelhouse).resolve().glob("*.whl"))
    wheels = []
    for path in paths or [path for path in in_wheelhouse if WheelLabel.parse(path.name).universal]:
        if reason := why_not_here(WheelLabel.parse(path.name)):
            say(f"{path.name} {reason}: not tested")
        else:
            wheels.append(WheelResults(path))
    return wheels


def why_not_here(label: WheelLabel) -> str:
    """Return why a wheel can't be installed on this machine; empty if it can."""
    machine = machine_of(label.platform)
    if machine and not machine.is_here:
        return f"is for {machine.name}, and this machine is {platform.machine()}"
    if label.platform == "any" or set(label.platform.split(".")) & set(platform_tags()):
        return ""
    return f"is for {label.platform}"


def _find_pythons(entries: Sequence[str] | None) -> tuple[dict[str, Path], list[str]]:
    """The Pythons by minor version, and the minor versions that are not here."""
    pythons: dict[str, Path] = {}
    absent = []
    for entry in entries or _PYTHONS:
        python = Path(entry).absolute() if "/" in entry else find_python(entry)
        if "/" not in entry and python is None:
            absent.append(minor_of(entry))
        elif python is not None and (minor := minor_version(python)):
            pythons[minor] = python
        else:
            raise UsageError(f"{entry} is not a Python that runs.", "Give a version, or a Python's path.")
    return pythons, absent


def _default_index() -> str:
    """Return the package index that uv asks, by its variables and settings."""
    command = [*_UV, "pip", "compile", "--quiet", "--no-header", "--emit-index-url", "-"]
    return run(command, check=False).output.partition("--index-url ")[2].strip()


def _torch_versions(index: str | None) -> tuple[str | None, TorchVersions]:
    """The package index that torch comes from, None for the default one, and what it has for this machine."""
    versions: dict[str, set[Version]] = {}
    for name in (index, None):
        address = name or _default_index()
        try:
            page = http.get(f"{address.rstrip('/')}/torch/").decode("utf-8", "replace") if address else ""
        except DownloadError as error:
            say(f"torch can't come from {address}: {error.message}")
            continue
        for wheel in set(re.findall(r"torch-[\w.+%!-]+?\.whl", page)):
            try:
                _, version, _, tags = parse_wheel_filename(unquote(wheel))
            except (InvalidWheelFilename, InvalidVersion):
                continue
            for tag in tags:
                exact = re.fullmatch(r"cp3(\d+t?)", tag.abi)
                here = "linux" in tag.platform and tag.platform.endswith(platform.machine())
                if exact and here and not version.is_prerelease:
                    versions.setdefault(f"3.{exact[1]}", set()).add(Version(version.public))
        if versions:
            return name, versions
    return None, {}


def _try(
    claims: Sequence[tuple[WheelResults, Result]],
    interpreter: Path | None,
    index: str | None,
    versions: TorchVersions,
    *,
    keep: bool,
) -> None:
    """Try wheels with one torch and one Python that they claim to be for."""
    torch, python = claims[0][1].torch, claims[0][1].python
    fitting = [each for each in versions.get(python, ()) if torch in (str(each), minor_of(str(each)))]
    status, reason = Status.NOT_TESTED, ""
    if interpreter is None and not fitting:
        status, reason = Status.NO_PYTHON, f"Python {python} is not on this machine"
    elif not versions:
        reason = "no index says which torches there are"
    elif not fitting:
        status, reason = Status.NO_TORCH, f"the index has no torch {torch} for Python {python}"
    for _, result in claims:
        result.status, result.reason = status, reason
    if reason:
        return
    requirement = f"torch=={max(fitting)}"
    if interpreter is None:
        for wheel, result in claims:
            _resolve(wheel.path, result, requirement, index)
        return
    venv = _FOLDER / f"torch{torch}-py{python}-{os.getpid()}"
    try:
        with step(f"torch {torch}, Python {python}"):
            inside = make_clean_venv(venv, interpreter, [requirement], index)
            for wheel, result in claims:
                _try_wheel(wheel, result, inside)
                say(f"  {result.status.value}: {result.reason or wheel.path.name}")
    except BuilderError as error:
        for _, result in claims:
            result.reason = result.reason or error.message
    finally:
        if not keep:
            shutil.rmtree(venv, ignore_errors=True)


def _resolve(wheel: Path, result: Result, torch: str, index: str | None) -> None:
    """Ask pip and uv whether they would install a wheel for a Python that is not here.

    pip is asked for the wheel alone, since it downloads a torch to resolve it; uv can't be asked for a
    free-threaded Python.
    """
    number, abi = result.python.rstrip("t"), f"cp{result.python.replace('.', '')}"
    options = ["--dry-run", "--only-binary=:all:", f"--target={_FOLDER / 'nothing'}", "--no-deps"]
    options += [f"--python-version={number}", str(wheel)]
    platforms = (f"--platform={tag}" for tag in platform_tags())
    commands = {"pip": [*_UV, "tool", "run", "pip", "install", *options, f"--abi={abi}", *platforms]}
    if number == result.python:
        more = [f"--index={index}", "--index-strategy=unsafe-best-match"] if index else []
        commands["uv"] = [*_UV, "pip", "install", *options, *more, torch]
    try:
        for command in commands.values():
            run(command)
    except BuilderError as error:
        result.status, result.reason = Status.FAILED, error.message
        return
    tools = " and ".join(commands)
    result.status = Status.RESOLVED
    result.reason = f"Python {result.python} is not on this machine: {tools} would install the wheel"


def _try_wheel(wheel: WheelResults, result: Result, python: Path) -> None:
    start = time.monotonic()
    # No GPU, so that the result is the same wherever there is one. Isolated: neither this file's folder nor
    # a PYTHONPATH stands in for what is installed.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command: list[str | Path] = [python, "-I", Path(__file__).with_name("compatibility_probe.py")]
    try:
        install_wheel(python, wheel.path)
        done = run(command, env=env, cwd=python.parent, timeout_seconds=_PROBE_SECONDS, check=False)
        judge(result, answer := read_probe(done, python), wheel.label)
    except BuilderError as error:
        result.status, result.reason = Status.FAILED, _short_paths(error.message, python)
        return
    finally:
        result.seconds = round(time.monotonic() - start, 1)
    triton = answer.get("triton")
    if triton and all(kernels["triton"] != triton for kernels in wheel.triton):
        with step(f"Compiling the kernels with Triton {triton}"):
            command[-1] = Path(__file__).with_name("triton_limits.py")
            done = run(command, timeout_seconds=_TRITON_SECONDS, check=False)
        try:
            kernels = json.loads(done.output)
        except json.JSONDecodeError:
            kernels = {"compiled": 0, "problems": [f"ended with {done.ending}:{done.last_lines()}"]}
        wheel.triton.append({**kernels, "triton": triton, "torch": result.installed})


def _short_paths(text: str, python: Path) -> str:
    """Return text without the part of its paths that only says where the environment lies."""
    return re.sub(rf"{re.escape(str(python.parent.parent))}/(lib/python[\d.]+t?/site-packages/)?", "", text)


def read_probe(done: Finished, python: Path) -> dict[str, Any]:
    """Return the probe's answer, the last line that it printed, or how it ended without one."""
    output, errors = (_short_paths(text, python).strip() for text in (done.output, done.errors))
    try:
        answer: dict[str, Any] = json.loads(output.rpartition("\n")[2])
    except json.JSONDecodeError:
        last_line = (errors or output or "it printed nothing").rpartition("\n")[2]
        return {"problems": [f"the interpreter ended with {done.ending}: {last_line}"]}
    # Only findings are worth an exit status of 1.
    if done.status != 0 and not (done.status == 1 and answer["problems"]):
        answer["problems"] = [*answer["problems"], f"the interpreter ended with {done.ending} afterwards"]
    return answer


def judge(result: Result, answer: Mapping[str, Any], label: WheelLabel) -> None:
    """Fill in a result from what the probe found; whether the schemas agree is seen later."""
    torch = answer.get("torch") or {}
    result.installed, result.cuda = str(torch.get("version", "")), str(torch.get("cuda") or "")
    result.python_version = str(answer.get("python", ""))
    result.operators = dict(answer.get("operators", {}))
    result.cudart = [path for path in answer.get("libraries", ()) if "libcudart" in path]
    problems = [text.splitlines()[0] for text in answer["problems"]]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    result.status = Status.FAILED if problems else Status.OK
    result.reason = f"{problems[0]}{more}" if problems else ""
    wanted = label.cuda.split(".")[0]
    if result.installed and wanted and result.cuda.split(".")[0] != wanted:
        # A wheel is for one CUDA version; a torch for another can't show anything.
        built = f"for CUDA {result.cuda}" if result.cuda else "without CUDA"
        seen = f"with it: {result.reason}" if problems else "it loads, which shows nothing"
        result.status = Status.NOT_TESTED
        result.reason = f"the index's torch is built {built}, the wheel for CUDA {wanted}; {seen}"


def agree(results: Sequence[Result]) -> None:
    """Compare each result's schemas with those of the first that is ok; one that differs has failed."""
    passed = [result for result in results if result.status is Status.OK]
    for result in passed[1:]:
        here, there = result.operators, passed[0].operators
        if names := sorted(name for name in here | there if here.get(name) != there.get(name)):
            schemas = [operators.get(names[0], f"no {names[0]}") for operators in (here, there)]
            where = f"torch {passed[0].torch}, Python {passed[0].python}"
            result.reason = f"{schemas[0]} here, {schemas[1]} there ({where})"
            result.status = Status.FAILED


def table(results: Sequence[Result]) -> list[str]:
    """Return the table: rows of torch, columns of Python, then the notes by number and the counts."""
    reasons = dict.fromkeys(result.reason for result in results if result.reason)
    numbers = {reason: number for number, reason in enumerate(reasons, start=1)}
    pythons = list(dict.fromkeys(result.python for result in results))
    rows: dict[str, dict[str, str]] = {}
    for result in results:
        note = f" [{numbers[result.reason]}]" if result.reason in numbers else ""
        rows.setdefault(result.torch, {})[result.python] = f"{result.status.value}{note}"
    header = ["torch", *(f"Python {python}" for python in pythons)]
    lines = [header, *([torch, *(row.get(python, "") for python in pythons)] for torch, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    counts = Counter(result.status for result in results)
    return [
        *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
        *(f"[{number}] {reason}" for reason, number in numbers.items()),
        ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status]),
    ]


def worst(results: Iterable[Result]) -> int:
    """Return the exit code: 1 for a failure, 40 where something was not tested or nothing was ok, else 0."""
    statuses = {result.status for result in results}
    if Status.FAILED in statuses:
        return 1
    return NOTHING_TESTED if Status.NOT_TESTED in statuses or Status.OK not in statuses else 0


def _as_json(wheel: WheelResults, absent: Sequence[str]) -> dict[str, Any]:
    first = next((result for result in wheel.results if result.status is Status.OK), None)
    counts = Counter(result.status for result in wheel.results)
    cells = [{**asdict(result), "status": result.status.value} for result in wheel.results]
    for cell in cells:
        if cell["status"] == Status.OK.value:
            cell["operators"] = len(cell["operators"])
    return {
        "wheel": wheel.path.name,
        "sha256": files.file_sha256(wheel.path),
        "schemas": first.operators if first else {},
        "schemas_of": f"torch {first.torch}, Python {first.python}" if first else "",
        "pythons_not_here": list(absent),
        "counts": {status.value: counts[status] for status in Status},
        "cells": cells,
        "triton": wheel.triton,
    }
