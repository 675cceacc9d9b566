"""Shows that wheels are for every Python and torch that they claim: installs them with each, and loads them.

Each cell of the matrix is a clean environment with one Python, one torch and the wheel. There every extension
is loaded, the operators must have the same schemas as in the first environment, and what can be called
without a GPU is called (`compatibility_probe`). What could not be tested is listed, and never counts as a
pass. The smoke test tests the kernels themselves.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from packaging.tags import platform_tags
from packaging.version import InvalidVersion, Version

from builder.check.cells import Bench, try_all
from builder.check.combinations import claimed_torches, read_claim
from builder.check.matrix import NOTHING_TESTED, agree, as_json, table, worst
from builder.check.pythons import find_pythons
from builder.check.smoketest_choice import why_not_here
from builder.toolchain.venv import why_not_index
from builder.util import files
from builder.util.arguments import Parser
from builder.util.errors import UsageError
from builder.util.log import say
from builder.util.paths import ROOT
from builder.wheel.wheelfile import WheelName


def main(argv: Sequence[str] | None = None) -> int:
    """Try wheels with every torch and Python asked for, and print the tables.

    Returns:
        0 where every cell that exists and is claimed was tested and is ok, 1 where one failed, 40 where none
        failed and one or all could not be tested.

    Raises:
        UsageError: A wheel does not exist, or a version can't be read.
    """
    options = _parser().parse_args(argv)
    wheels = [Path(path).resolve() for path in options.wheel]
    missing = [str(path) for path in wheels if not path.is_file()]
    if missing:
        raise UsageError(f"No such wheel: {', '.join(missing)}.", "Give the path of a wheel to --wheel.")
    wheels = wheels or sorted(Path(options.wheelhouse).resolve().glob("*-abi3-*.whl"))
    here = []
    for wheel in wheels:
        if reason := why_not_here(WheelName.parse(wheel.name), platform_tags()):
            say(f"{wheel.name} {reason}: not tested")
        else:
            here.append(wheel)
    wheels = here
    if not wheels:
        say("There is no abi3 wheel for this machine: nothing was tested. Build one, or give --wheel PATH.")
        return NOTHING_TESTED
    pythons, absent = find_pythons(options.python or ())
    say("Pythons: " + (", ".join(f"{version} ({path})" for version, path in pythons.items()) or "none"))
    if absent:
        say(f"not on this machine, so not tested: Python {', '.join(absent)}")
    claims = {wheel: read_claim(wheel) for wheel in wheels}
    # A Python that was not asked for by name and is not here has no column.
    columns = sorted([*pythons, *(absent if options.python else ())], key=Version)
    reports, codes = [], []
    for label_index in dict.fromkeys(claim.label.torch_index for claim in claims.values()):
        together = {wheel: claim for wheel, claim in claims.items() if claim.label.torch_index == label_index}
        index = options.torch_index or _reachable(label_index)
        bench = Bench(together, pythons, index, options.keep)
        torches = options.torch or claimed_torches(together.values(), pythons, index)
        found = [try_all(torch, python, bench) for torch in torches for python in columns]
        for wheel in together:
            cells = [each[wheel] for each in found]
            agree(cells)
            say("\n".join(["", wheel.name, *table(cells)]))
            reports.append(as_json(wheel, cells, absent))
            codes.append(worst(cells))
    if options.json:
        files.write(Path(options.json), json.dumps({"format": 1, "wheels": reports}, indent=1) + "\n")
    return 1 if 1 in codes else max(codes)


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
    parser.add_argument("--keep", action="store_true", help="keep the environments in build/compatibility")
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


def _reachable(index: str | None) -> str | None:
    """The package index for torch: the wheels' own, where it can be reached."""
    reason = why_not_index(index) if index else ""
    if reason:
        say(f"{index} can't be reached ({reason}): torch comes from the default index")
    return None if reason else index
