"""Fills the cells of the matrix: makes an environment, loads each wheel in it, and judges what was found."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.check.combinations import Claim, newest_torch
from builder.check.matrix import Cell, CellStatus
from builder.toolchain.venv import install_wheel, make_clean_venv
from builder.util.errors import BuilderError
from builder.util.limits import COMPATIBILITY_ROOM_BYTES, PROBE_SECONDS
from builder.util.log import say, step
from builder.util.paths import ROOT
from builder.util.process import Finished, run

PROBE = Path(__file__).with_name("compatibility_probe.py")


@dataclass(frozen=True)
class Bench:
    """The wheels, and what they are tried with.

    Attributes:
        wheels: Wheels for one CUDA version, which take turns in an environment.
        pythons: Interpreters by minor version.
        index: Package index for torch; None takes the default one.
        keep: Keep the environments.
    """

    wheels: Mapping[Path, Claim]
    pythons: Mapping[str, Path]
    index: str | None
    keep: bool


def try_all(torch: str, python: str, bench: Bench) -> dict[Path, Cell]:
    """Try all wheels with one torch and one Python; returns a cell for each wheel."""
    cells = {wheel: Cell(torch, python) for wheel in bench.wheels}
    claimed = {}
    for wheel, cell in cells.items():
        cell.reason = bench.wheels[wheel].why_not(torch, python)
        if cell.reason:
            cell.status = CellStatus.NOT_CLAIMED
        elif python not in bench.pythons:
            cell.status, cell.reason = CellStatus.NO_PYTHON, f"Python {python} is not on this machine"
        else:
            claimed[wheel] = cell
    if claimed:
        with step(f"torch {torch}, Python {python}"):
            _try(claimed, torch, python, bench)
            for wheel, cell in claimed.items():
                say(f"  {cell.status.value}: {cell.reason or wheel.name}")
    return cells


def _try(cells: Mapping[Path, Cell], torch: str, python: str, bench: Bench) -> None:
    """Make an environment with torch, and load one wheel after the other in it."""
    scratch = ROOT / "build" / "compatibility"
    scratch.mkdir(parents=True, exist_ok=True)
    venv = scratch / f"torch{torch}-py{python}-{os.getpid()}"
    inside, status = None, CellStatus.NOT_TESTED
    try:
        try:
            exact = f"=={torch}" if torch.count(".") > 1 else f"=={torch}.*"
            newest = newest_torch(exact, python, bench.index)
            status = CellStatus.NO_TORCH if newest.missing else status
            reason = newest.reason or _why_no_room(scratch)
            if not reason:
                requirement = f"torch=={newest.version}"
                inside = make_clean_venv(venv, bench.pythons[python], [requirement], bench.index)
        except BuilderError as error:
            reason = error.message
        for wheel, cell in cells.items():
            if inside is None:
                cell.status, cell.reason = status, reason
            else:
                _try_wheel(cell, wheel, bench.wheels[wheel], inside)
    finally:
        if not bench.keep:
            shutil.rmtree(venv, ignore_errors=True)


def _why_no_room(folder: Path) -> str:
    # torch takes up to 7 GB, and as much in the installer's cache.
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes >= COMPATIBILITY_ROOM_BYTES:
        return ""
    free, needed = (f"{size / 1e9:.0f} GB" for size in (free_bytes, COMPATIBILITY_ROOM_BYTES))
    return f"{free} are free on the disk, and {needed} are needed"


def _try_wheel(cell: Cell, wheel: Path, claim: Claim, python: Path) -> None:
    start = time.monotonic()
    try:
        install_wheel(python, wheel)
        judge(cell, _run_probe(python), claim)
    except BuilderError as error:
        cell.status, cell.reason = CellStatus.FAILED, short_paths(error.message, python)
    cell.seconds = round(time.monotonic() - start, 1)


def _run_probe(python: Path) -> dict[str, Any]:
    """Run the probe with an environment's Python.

    Raises:
        CommandError: It can't be started, or does not end in time.
    """
    # No GPU, so that the result is the same wherever there is one. Isolated: neither this file's folder nor
    # a PYTHONPATH stands in for what is installed.
    done = run(
        [python, "-I", PROBE],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        cwd=python.parent,
        timeout_seconds=PROBE_SECONDS,
        check=False,
    )
    output, errors = (short_paths(text, python) for text in (done.output, done.errors))
    return read_probe(Finished(done.status, output, errors))


def short_paths(text: str, python: Path) -> str:
    """Return text without the part of its paths that only says where the environment lies."""
    return re.sub(rf"{re.escape(str(python.parent.parent))}/(lib/python[\d.]+/site-packages/)?", "", text)


def read_probe(done: Finished) -> dict[str, Any]:
    """Return the probe's answer, the last line that it printed, or how it ended without one."""
    try:
        answer: dict[str, Any] = json.loads(done.output.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        said = done.lines[-1] if done.lines else "it said nothing"
        return {"problems": [f"the interpreter ended with {done.ending}: {said}"]}
    if done.status != 0:
        answer["problems"] = [*answer["problems"], f"the interpreter ended with {done.ending} afterwards"]
    return answer


def judge(cell: Cell, found: Mapping[str, Any], claim: Claim) -> None:
    """Fill in a cell from what the probe found; whether the schemas agree is seen later."""
    torch = found.get("torch") or {}
    cell.installed, cell.cuda = str(torch.get("version", "")), str(torch.get("cuda") or "")
    cell.python_version = str(found.get("python", ""))
    cell.operators = dict(found.get("operators", {}))
    cell.cudart = [path for path in found.get("libraries", ()) if "libcudart" in path]
    problems = faults(found)
    wanted = claim.label.cuda.split(".")[0]
    if cell.installed and wanted and cell.cuda.split(".")[0] != wanted:
        # A wheel is for one CUDA version; a torch for another can't show anything.
        says = f"; with it: {problems[0]}" if problems else "; it loads, which shows nothing"
        built = f"for CUDA {cell.cuda}" if cell.cuda else "without CUDA"
        cell.status = CellStatus.NOT_TESTED
        cell.reason = f"the index's torch is built {built}, the wheel for CUDA {wanted}{says}"
        return
    cell.status = CellStatus.FAILED if problems else CellStatus.OK
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    cell.reason = f"{problems[0]}{more}" if problems else ""


def faults(found: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in what the probe found, one line each."""
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
