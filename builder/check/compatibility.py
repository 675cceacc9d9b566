"""Shows that one wheel is for every Python and torch that it claims: installs it with each, and loads it.

Each cell of the matrix is a clean environment with one Python, one torch and the wheel. There every extension
is loaded, the operators have to have the schemas that the first environment showed, and what can be called
without a GPU is called (`compatibility_probe`). What could not be tested is said, and is never a pass. The
kernels themselves are the smoke test's matter.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from builder.check.smoketest_wheels import PYTORCH_INDEX, find_python
from builder.toolchain.venv import install_wheel, make_clean_venv, why_unreachable
from builder.util.arguments import Parser
from builder.util.digest import file_sha256
from builder.util.errors import BuilderError, TorchEnvironmentError, UsageError
from builder.util.log import say, step
from builder.util.paths import ROOT
from builder.wheel.wheelfile import Wheel

PROBE = Path(__file__).with_name("compatibility_probe.py")
OLDEST_PYTHON, NEWEST_PYTHON = 10, 15
NOTHING_TESTED = 40
ROOM_BYTES = 15 * 10**9
"""Free disk space below which no environment is made: torch takes up to 7 GB, and as much in the cache."""
_PROBE_SECONDS = 900
_CUDA_LABEL = re.compile(r"cu\d{3}")


class Status(str, Enum):
    """What came of one cell."""

    OK = "ok"
    FAILED = "FAILED"
    NO_TORCH = "no such torch"
    NO_PYTHON = "no such Python"
    NOT_CLAIMED = "not claimed"
    NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Claim:
    """What a wheel says that it is for.

    Attributes:
        torch: Versions that its metadata allows.
        python: Versions that its metadata allows.
        only: The one Python minor version of its tag, `3.12`; empty for the stable ABI.
        lowest: The lowest Python minor version of its tag, for the stable ABI: `3.10`.
        cuda_tag: `cu130`; empty where its name does not say.
    """

    torch: SpecifierSet
    python: SpecifierSet
    only: str
    lowest: str
    cuda_tag: str

    @property
    def cuda_major(self) -> str:
        """The major CUDA version: `13`."""
        return self.cuda_tag[2:4]

    def why_not(self, torch: str, python: str) -> str:
        """Why a pair is none that the wheel claims to be for; empty where it is."""
        if self.only and python != self.only:
            return f"the wheel's tag is for Python {self.only}"
        if self.lowest and Version(python) < Version(self.lowest):
            return f"the wheel's tag is for Python {self.lowest} and later"
        if not self.python.contains(python) and not self.python.contains(f"{python}.99"):
            return f"the wheel requires Python {self.python}"
        if not self.torch.contains(torch) and not self.torch.contains(f"{torch}.99"):
            return f"the wheel requires torch{self.torch}"
        return ""


@dataclass
class Cell:
    """One Python and one torch, and what came of the wheel with them.

    Attributes:
        torch: As it was asked for: `2.12.1`, or `2.12` for the newest of them.
        python: Minor version: `3.12`.
        reason: Why it is not ok: one line; empty where it is.
        installed: The torch that was installed, with its local version; empty before.
        cuda: The CUDA version that this torch is built for.
        seconds: How long installing and loading the wheel took.
        cudart: Where the CUDA runtime libraries of the process lie: one, or two for a PEP 600 wheel, which
            brings its own.
        operators: Schemas by operator.
    """

    torch: str
    python: str
    status: Status = Status.NOT_TESTED
    reason: str = ""
    installed: str = ""
    python_version: str = ""
    cuda: str = ""
    seconds: float = 0.0
    cudart: list[str] = field(default_factory=list)
    operators: dict[str, str] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Try wheels with every torch and Python asked for, and print the tables.

    Returns:
        0 where every cell that exists and is claimed was tested and is ok, 1 where one failed, 40 where none
        failed and one or all could not be tested.

    Raises:
        UsageError: There is no such wheel, or a version can't be read.
    """
    options = _parser().parse_args(list(sys.argv[1:] if argv is None else argv))
    wheels = [Path(path).resolve() for path in options.wheel]
    missing = [str(path) for path in wheels if not path.is_file()]
    if missing:
        raise UsageError(f"No such wheel: {', '.join(missing)}.", "Give the path of a wheel to --wheel.")
    wheels = wheels or sorted(Path(options.wheelhouse).resolve().glob("*-abi3-*.whl"))
    if not wheels:
        say(f"No abi3 wheel in {options.wheelhouse}: nothing was tested. Build one, or give --wheel PATH.")
        return NOTHING_TESTED
    pythons, absent = _pythons(options.python)
    say("Pythons: " + (", ".join(f"{version} ({path})" for version, path in pythons.items()) or "none"))
    if absent:
        say(f"not on this machine, so not tested: Python {', '.join(absent)}")
    claims = {wheel: read_claim(wheel) for wheel in wheels}
    # A Python that was not asked for by name and is not here has no column.
    columns = sorted([*pythons, *(absent if options.python else ())], key=Version)
    reports = []
    for tag in dict.fromkeys(claim.cuda_tag for claim in claims.values()):
        together = {wheel: claim for wheel, claim in claims.items() if claim.cuda_tag == tag}
        index = options.torch_index or _index(tag)
        bench = Bench(together, pythons, index, options.keep)
        torches = options.torch or _minors(together.values(), pythons, index)
        found = [try_all(torch, python, bench) for torch in torches for python in columns]
        for wheel in together:
            cells = [each[wheel] for each in found]
            agree(cells)
            say(f"\n{wheel.name}")
            for line in (*table(cells), *notes(cells), count_line(cells)):
                say(line)
            reports.append(_report(wheel, cells, absent))
    if options.json:
        write_json(Path(options.json), {"format": 1, "wheels": reports})
    return max((worst(report["cells"]) for report in reports), key=lambda status: (status == 1, status))


def _parser() -> Parser:
    parser = Parser(
        prog="nox -s compatibility --",
        description="Load a wheel with every torch and Python that it claims, in clean environments.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--wheel", action="append", default=[], metavar="PATH", help="this wheel (repeatable)"
    )
    parser.add_argument(
        "--wheelhouse", default=str(ROOT / "wheelhouse"), metavar="DIR", help="its abi3 wheels"
    )
    parser.add_argument(
        "--torch",
        type=_versions,
        metavar="A,B",
        help="torch versions; each minor version there is by default",
    )
    parser.add_argument(
        "--python",
        type=_versions_or_paths,
        metavar="A,B",
        help="versions or paths; those that are here by default",
    )
    parser.add_argument("--torch-index", metavar="URL", help="package index to take torch from")
    parser.add_argument("--keep", action="store_true", help="leave the environments in build/compatibility")
    parser.add_argument("--json", metavar="FILE", help="write all findings there")
    return parser


def _versions(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    for part in parts:
        try:
            Version(part)
        except InvalidVersion:
            raise argparse.ArgumentTypeError(f"{part!r} is not a version") from None
    if not parts:
        raise argparse.ArgumentTypeError("the value is empty")
    return list(dict.fromkeys(parts))


def _versions_or_paths(text: str) -> list[str]:
    paths = [part.strip() for part in text.split(",") if "/" in part]
    rest = ",".join(part for part in text.split(",") if "/" not in part)
    return [*(_versions(rest) if rest or not paths else []), *paths]


def read_claim(wheel: Path) -> Claim:
    """Read from a wheel's name and metadata what it claims to be for.

    Raises:
        WheelError: It is no wheel.
    """
    with Wheel(wheel) as opened:
        name, metadata = opened.name, opened.metadata
        requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    torch = next((one.specifier for one in requirements if one.name == "torch"), SpecifierSet())
    tagged = re.fullmatch(r"cp3(\d+)", name.python)
    minor = f"3.{tagged[1]}" if tagged else ""
    label = _CUDA_LABEL.search(name.local_version)
    return Claim(
        torch=torch,
        python=SpecifierSet(str(metadata["Requires-Python"] or "")),
        only="" if name.abi in ("abi3", "none") else minor,
        lowest=minor if name.abi == "abi3" else "",
        cuda_tag=label[0] if label else "",
    )


def _pythons(asked: Sequence[str] | None) -> tuple[dict[str, Path], list[str]]:
    """The Pythons to test with, by minor version, and the versions that are not here."""
    found: dict[str, Path] = {}
    absent = []
    for one in asked or [f"3.{minor}" for minor in range(OLDEST_PYTHON, NEWEST_PYTHON + 1)]:
        if "/" in one:
            version = _python_version(Path(one))
            if not version:
                raise UsageError(f"{one} is not a Python that runs.", "Give a version, or a Python's path.")
            found[minor_of(version)] = Path(one).resolve()
            continue
        candidates = [find_python(one), *_pyenv(one)]
        usable = [path for path in candidates if path and minor_of(_python_version(path)) == minor_of(one)]
        if usable:
            found[minor_of(one)] = usable[0]
        else:
            absent.append(minor_of(one))
    return dict(sorted(found.items(), key=lambda item: Version(item[0]))), absent


def _pyenv(version: str) -> list[Path]:
    """Pythons of a version that pyenv has installed: its shims stand in the path and run but one of them."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return sorted(root.glob(f"versions/{minor_of(version)}.*/bin/python"), reverse=True)


def _python_version(python: Path) -> str:
    """The full version of a Python; empty if it does not run."""
    code = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def minor_of(version: str) -> str:
    """`3.12` of `3.12.1`."""
    return ".".join(version.split(".")[:2])


def _index(cuda_tag: str) -> str | None:
    """The package index for torch: PyTorch's for the wheels' CUDA version, where it can be reached."""
    if not cuda_tag:
        return None
    index = f"{PYTORCH_INDEX}/{cuda_tag}"
    reason = why_unreachable(index)
    if reason:
        say(f"{index} can't be reached ({reason}): torch comes from the default index")
    return None if reason else index


def _minors(claims: Iterable[Claim], pythons: Iterable[str], index: str | None) -> list[str]:
    """The newest torch of each minor version that the wheels allow and there is for one of the Pythons."""
    minors: dict[str, str] = {}
    for allowed, python in product({str(claim.torch) for claim in claims}, pythons):
        for version in each_minor(allowed, lambda text: newest_torch(text, python, index)[0]):  # noqa: B023
            known = minors.get(minor_of(version), version)
            minors[minor_of(version)] = max(known, version, key=Version)
    return sorted(minors.values(), key=Version)


def each_minor(allowed: str, newest: Callable[[str], str]) -> list[str]:
    """The newest version of each minor version, oldest first.

    Args:
        allowed: Specifier of the versions to look among.
        newest: Tells the newest version that meets a specifier; empty where there is none.
    """
    versions: list[str] = []
    below = ""
    while len(versions) < 40:  # far more than there are; an index that answers the same again ends it
        version = newest(",".join(filter(None, (allowed, below))))
        if not version or version in versions:
            break
        versions.append(version)
        below = f"<{minor_of(version)}.0.dev0"
    return versions[::-1]


def newest_torch(specifier: str, python: str, index: str | None = None) -> tuple[str, str]:
    """Ask the package index for the newest torch that meets a specifier.

    Args:
        specifier: `>=2.10`, `==2.12.*`.
        python: The Python that it is for, `3.12`.
        index: An index that is asked before the default one.

    Returns:
        The version and nothing, or nothing and why: `no such torch` where the index has none.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate"]
    command += ["--quiet", "--python-version", python, "--only-binary", "torch"]
    command += ["--index", index, "--index-strategy", "unsafe-best-match"] if index else []
    done = subprocess.run(command, input=f"torch{specifier}\n", capture_output=True, text=True, check=False)
    return read_resolution(done.returncode, done.stdout, done.stderr)


def read_resolution(status: int, output: str, errors: str) -> tuple[str, str]:
    """Read the resolver's answer: a version, or why there is none."""
    match = re.search(r"^torch==(\S+)", output, re.MULTILINE)
    if status == 0 and match:
        return match[1], ""
    said = " ".join(errors.split())
    if "No solution found" in said:
        because = re.search(r"Because (.*?)(?: and you require .*|,? we can conclude.*|$)", said)
        return "", f"{Status.NO_TORCH.value}: {because[1] if because else said}"
    return "", said or "the resolver said nothing"


@dataclass(frozen=True)
class Bench:
    """What is tried, and with what.

    Attributes:
        wheels: Wheels for one CUDA version, which take turns in an environment.
        pythons: Interpreters by minor version.
        index: Package index for torch; None takes the default one.
        keep: Leave the environments for a look.
    """

    wheels: Mapping[Path, Claim]
    pythons: Mapping[str, Path]
    index: str | None
    keep: bool


def try_all(torch: str, python: str, bench: Bench) -> dict[Path, Cell]:
    """Try all wheels with one torch and one Python.

    Returns:
        A cell a wheel.
    """
    cells = {wheel: Cell(torch, python) for wheel in bench.wheels}
    claimed = {}
    for wheel, cell in cells.items():
        cell.reason = bench.wheels[wheel].why_not(torch, python)
        if cell.reason:
            cell.status = Status.NOT_CLAIMED
        elif python not in bench.pythons:
            cell.status, cell.reason = Status.NO_PYTHON, f"Python {python} is not on this machine"
        else:
            claimed[wheel] = cell
    if claimed:
        with step(f"torch {torch}, Python {python}"):
            _try(claimed, torch, python, bench)
            for wheel, cell in claimed.items():
                say(f"  {cell.status.value}: {cell.reason or wheel.name}")
    return cells


def _try(cells: Mapping[Path, Cell], torch: str, python: str, bench: Bench) -> None:
    """Make an environment with torch, and have it look at one wheel after the other."""
    exact = f"=={torch}" if torch.count(".") > 1 else f"=={torch}.*"
    version, reason = newest_torch(exact, python, bench.index)
    status = Status.NOT_TESTED
    if reason.startswith(Status.NO_TORCH.value):
        status, reason = Status.NO_TORCH, reason.removeprefix(f"{Status.NO_TORCH.value}: ")
    scratch = ROOT / "build" / "compatibility"
    scratch.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(scratch).free
    if version and free_bytes < ROOM_BYTES:
        free, needed = (f"{size / 1e9:.0f} GB" for size in (free_bytes, ROOM_BYTES))
        reason = f"{free} are free on the disk, and {needed} are needed"
    venv = scratch / f"torch{version}-py{python}-{os.getpid()}"
    try:
        if not reason:
            try:
                inside = make_clean_venv(venv, bench.pythons[python], [f"torch=={version}"], bench.index)
            except TorchEnvironmentError as error:
                reason = error.message
        for wheel, cell in cells.items():
            if reason:
                cell.status, cell.reason = status, reason
            else:
                _try_wheel(cell, wheel, bench.wheels[wheel], inside)
    finally:
        if not bench.keep:
            shutil.rmtree(venv, ignore_errors=True)


def _try_wheel(cell: Cell, wheel: Path, claim: Claim, python: Path) -> None:
    start = time.monotonic()
    try:
        install_wheel(python, wheel)
    except BuilderError as error:
        cell.status, cell.reason = Status.FAILED, error.message
    else:
        judge(cell, _run_probe(python), claim)
    cell.seconds = round(time.monotonic() - start, 1)


def _run_probe(python: Path) -> dict[str, Any]:
    """Have an environment's Python look at the wheel; what ended it is a problem among others."""
    # No GPU, so that the result is the same wherever there is one. Isolated: neither this file's folder nor
    # a PYTHONPATH stands in for what is installed.
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [str(python), "-I", str(PROBE)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_SECONDS,
            env=environ,
            cwd=python.parent,
        )
    except subprocess.TimeoutExpired:
        return {"problems": [f"no end after {_PROBE_SECONDS} s"]}
    return read_probe(done.returncode, *(short_paths(text, python) for text in (done.stdout, done.stderr)))


def short_paths(text: str, python: Path) -> str:
    """Text without the part of its paths that only says where the environment lies."""
    return re.sub(rf"{re.escape(str(python.parent.parent))}/(lib/python[\d.]+/site-packages/)?", "", text)


def read_probe(status: int, output: str, errors: str) -> dict[str, Any]:
    """Read the probe's answer, the last line that it printed."""
    try:
        answer: dict[str, Any] = json.loads(output.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        lines = (errors or output).strip().splitlines()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return {
            "problems": [f"the interpreter ended with {how}: {lines[-1] if lines else 'it said nothing'}"]
        }
    if status != 0:
        answer["problems"] = [*answer["problems"], f"the interpreter ended with status {status} afterwards"]
    return answer


def judge(cell: Cell, found: Mapping[str, Any], claim: Claim) -> None:
    """Fill in a cell from what the probe found, all but the agreement of the schemas."""
    torch = found.get("torch") or {}
    cell.installed, cell.cuda = str(torch.get("version", "")), str(torch.get("cuda") or "")
    cell.python_version = str(found.get("python", ""))
    cell.operators = dict(found.get("operators", {}))
    cell.cudart = [path for path in found.get("libraries", ()) if "libcudart" in path]
    problems = faults(found)
    if cell.installed and claim.cuda_major and cell.cuda.split(".")[0] != claim.cuda_major:
        # A wheel is for one CUDA version; a torch for another is none that can show anything.
        says = f"; with it: {problems[0]}" if problems else "; it loads, which shows nothing"
        built = f"for CUDA {cell.cuda}" if cell.cuda else "without CUDA"
        cell.status = Status.NOT_TESTED
        cell.reason = f"the index's torch is built {built}, the wheel for CUDA {claim.cuda_major}{says}"
        return
    cell.status = Status.FAILED if problems else Status.OK
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    cell.reason = f"{problems[0]}{more}" if problems else ""


def faults(found: Mapping[str, Any]) -> list[str]:
    """What is wrong by itself in what the probe found, one line each."""
    problems = [text.splitlines()[0] for text in found.get("problems", ())]
    if problems:
        return problems
    if not found.get("operators"):
        return ["no operator is registered"]
    problems += [
        f"{name}: loaded in part only"
        for name, extension in found["extensions"].items()
        if extension["library"] and not extension["loaded"]
    ]
    for name in found["operators"]:
        if not found["kernels"].get(name):
            problems.append(f"{name}: no code for CUDA is registered")
        for what, says in (("fake", "its fake implementation: "), ("host", "its host code: ")):
            if found[what].get(name, "it was not called"):
                problems.append(f"{name}: {says}{found[what].get(name, 'it was not called')}")
    if found["trace"]:
        problems.append(f"tracing the whole path: {found['trace']}")
    return problems


def agree(cells: Sequence[Cell]) -> None:
    """Hold each cell's schemas against those of the first that is ok; one that differs has failed."""
    reference = next((cell for cell in cells if cell.status is Status.OK), None)
    if reference is None:
        return
    for cell in cells:
        if cell.status is not Status.OK:
            continue
        different = difference(reference.operators, cell.operators)
        if different:
            cell.status = Status.FAILED
            cell.reason = f"{different} (torch {reference.torch}, Python {reference.python})"


def difference(reference: Mapping[str, str], operators: Mapping[str, str]) -> str:
    """What is different between two environments' operators, in one line; empty where nothing is."""
    missing = sorted(set(reference) - set(operators))
    added = sorted(set(operators) - set(reference))
    changed = sorted(name for name in reference if name in operators and reference[name] != operators[name])
    if missing:
        return f"{missing[0]} is missing here, and was there"
    if added:
        return f"{added[0]} is here, and was not there"
    if changed:
        return f"{operators[changed[0]]} here, {reference[changed[0]]} there"
    return ""


def table(cells: Sequence[Cell]) -> list[str]:
    """Rows of torch, columns of Python; what is not ok has the number of its note."""
    numbers = _numbers(cells)
    pythons = list(dict.fromkeys(cell.python for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        note = f" [{numbers[cell.reason]}]" if cell.reason in numbers else ""
        rows.setdefault(cell.torch, {})[cell.python] = f"{cell.status.value}{note}"
    header = ["torch", *(f"Python {python}" for python in pythons)]
    lines = [[torch, *(columns.get(python, "") for python in pythons)] for torch, columns in rows.items()]
    widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in (header, *lines)
    ]


def notes(cells: Sequence[Cell]) -> list[str]:
    """The reasons that the table's numbers stand for."""
    return [f"[{number}] {reason}" for reason, number in _numbers(cells).items()]


def _numbers(cells: Iterable[Cell]) -> dict[str, int]:
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def count_line(cells: Iterable[Cell]) -> str:
    """How many cells came out how."""
    counts = Counter(cell.status for cell in cells)
    return ", ".join(f"{counts[status]} {status.value}" for status in Status if counts[status])


def worst(cells: Iterable[Cell | Mapping[str, Any]]) -> int:
    """The exit status: 1 for a failure, 40 where something was not tested or nothing was ok, else 0."""
    statuses = [Status(cell.status if isinstance(cell, Cell) else cell["status"]) for cell in cells]
    if Status.FAILED in statuses:
        return 1
    return NOTHING_TESTED if Status.NOT_TESTED in statuses or Status.OK not in statuses else 0


def _report(wheel: Path, cells: Sequence[Cell], absent: Sequence[str]) -> dict[str, Any]:
    """A wheel's findings for JSON; the schemas once."""
    reference = next((cell for cell in cells if cell.status is Status.OK), None)
    values = [{**asdict(cell), "status": cell.status.value} for cell in cells]
    for cell, value in zip(cells, values, strict=True):
        if cell.status is Status.OK:
            value["operators"] = len(cell.operators)
    return {
        "wheel": wheel.name,
        "sha256": file_sha256(wheel),
        "schemas": reference.operators if reference else {},
        "schemas_of": f"torch {reference.torch}, Python {reference.python}" if reference else "",
        "pythons_not_here": list(absent),
        "counts": {status.value: sum(cell.status is status for cell in cells) for status in Status},
        "cells": values,
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
